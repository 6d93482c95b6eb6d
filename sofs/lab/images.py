"""File systems of the lab's own, which can lose power: each node's data, its disk, and each etcd member's data lie in an image each, XFS on a loop device.

They are mounted in a mount namespace of the lab's own: nothing outside sees them but through `/proc/PID/root`, and all of them are gone when the lab and its
children are, also when it is killed; the images stay.

The loss of power is what xfstests uses for it: the file system goes down at once without writing anything more, not even its own log
(XFS_IOC_GOINGDOWN). From then on every access to it fails with EIO, also through what is held open; mounted again it has what was synced before, and whatever
else happened to be written. A host that had no power was started anew, and nodes know that by its boot id: the lab's processes see one of the lab's own,
bound over the kernel's, which changes with each loss of power.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from sofs.errors import ConfigError, Unavailable

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
XFS_IOC_GOINGDOWN = 0x8004587D
NO_LOG_FLUSH = 2
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SIZE = 16 << 30
"""Of each: only what is written takes space."""
BUSY_S = 20.0
"""For a file system that is to be unmounted, until its last file is closed."""


class Images:
    """The lab's. Made in the main thread before any other thread is: only this thread moves, and later ones follow it."""

    def __init__(self, directory: Path) -> None:
        """Raises `ConfigError`, `Unavailable`."""
        if os.geteuid() != 0:
            raise ConfigError("--images needs root: it mounts file systems")
        if shutil.which("mkfs.xfs") is None:
            raise ConfigError("--images needs mkfs.xfs: apt-get install xfsprogs")
        self._directory = directory
        self._directory.mkdir(exist_ok=True)
        self._boot = directory / "boot_id"
        self._libc = ctypes.CDLL(None, use_errno=True)
        if self._libc.unshare(CLONE_NEWNS):
            raise Unavailable(f"no mount namespace can be made ({os.strerror(ctypes.get_errno())}); this host does not allow it")
        self._mount(b"none", b"/", MS_REC | MS_PRIVATE)
        self.start_anew()
        self._mount(os.fsencode(self._boot), BOOT_ID.encode(), MS_BIND)

    def _mount(self, source: bytes, target: bytes, flags: int) -> None:
        if self._libc.mount(source, target, None, flags, None):
            raise Unavailable(f"{os.fsdecode(target)} cannot be mounted ({os.strerror(ctypes.get_errno())}); this host does not allow it")

    def start_anew(self) -> None:
        """From now on the hosts have been started anew."""
        self._boot.write_text(f"{uuid.uuid4()}\n")

    def mount(self, name: str, at: Path) -> None:
        """At the first time an empty file system. Raises `Unavailable`."""
        image = self._directory / f"{name}.img"
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(SIZE)
            _run(["mkfs.xfs", "-q", str(image)])
        at.mkdir(parents=True, exist_ok=True)
        _run(["mount", "-o", "loop", str(image), str(at)])

    def go_down(self, at: Path) -> None:
        """Power is lost, or the disk is. Raises `Unavailable`."""
        try:
            descriptor = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(descriptor, XFS_IOC_GOINGDOWN, struct.pack("=I", NO_LOG_FLUSH))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Unavailable(f"{at} cannot be taken down: {error.strerror}; it may be down already") from None

    def unmount(self, at: Path) -> None:
        """Waits a while for whoever has files open there. Raises `Unavailable`."""
        until = time.monotonic() + BUSY_S
        while self._libc.umount2(os.fsencode(at), 0):
            error = ctypes.get_errno()
            if time.monotonic() > until:
                raise Unavailable(f"{at} cannot be unmounted: {os.strerror(error)}; somebody has files open there")
            time.sleep(0.05)


def _run(command: Sequence[str]) -> None:
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode:
        raise Unavailable(f"{command[0]}: {outcome.stderr.strip()}")
