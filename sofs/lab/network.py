"""A network in namespaces of the lab's own: two bridges in the lab's namespace, and a namespace with a leg on each for every node.

    lan       clients and virtual addresses: 10.77.0.0/24, the lab itself is .1
    cluster   nodes among themselves and to etcd: 10.77.1.0/24, the lab itself is .1

The lab moves into a namespace of its own, and nothing has a name outside it: namespaces, bridges and addresses are gone when the lab and its
children are, also when it is killed. Clients come in with `nsenter --net=/proc/PID/ns/net`.

A node that is cut off loses both legs at once, or one. With `lan` alone its clients lose it but its peers do not; with `cluster` alone it is the other way
round, which is the harder fault: a coordinator that has been deposed, and cannot be told, still has its clients.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from sofs.errors import ConfigError, Unavailable

CLONE_NEWNET = 0x40000000
LEGS = ("lan", "cluster")
PREFIX = 24


class Network:
    """The lab's. Made in the main thread before any other thread is: only this thread moves, and later ones follow it."""

    def __init__(self, addresses: dict[str, str]) -> None:
        """`addresses`: the lab's own, by bridge. Raises `ConfigError`, `Unavailable`."""
        if os.geteuid() != 0:
            raise ConfigError("--netns needs root: it makes network namespaces")
        if shutil.which("ip") is None or shutil.which("nsenter") is None:
            raise ConfigError("--netns needs `ip` and `nsenter`: apt-get install iproute2 util-linux")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._spaces: dict[str, int] = {}
        self._call("unshare", CLONE_NEWNET)
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        lines = ["link set lo up"]
        for bridge, address in addresses.items():
            lines += [
                # Without a group membership query nothing needs multicast, and a port forwards at once.
                f"link add {bridge} type bridge mcast_snooping 0 forward_delay 0",
                f"addr add {address}/{PREFIX} dev {bridge}",
                f"link set {bridge} up",
            ]
        _ip(lines)

    def add(self, name: str, addresses: dict[str, str]) -> None:
        """A namespace for this node with a leg, named as its bridge, at each of these addresses."""
        self._call("unshare", CLONE_NEWNET)
        try:
            space = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            self._call("setns", self._own, CLONE_NEWNET)
        self._spaces[name] = space
        outside: list[str] = []
        inside = ["link set lo up"]
        for bridge, address in addresses.items():
            outside += [
                f"link add {bridge}-{name} type veth peer name {bridge} netns {self._path(space)}",
                f"link set {bridge}-{name} master {bridge} up",
            ]
            inside += [f"addr add {address}/{PREFIX} dev {bridge}", f"link set {bridge} up"]
        _ip(outside)
        _ip(inside, self.prefix(name))

    def prefix(self, name: str) -> list[str]:
        """Puts a command into the node's namespace."""
        return ["nsenter", f"--net={self._path(self._spaces[name])}", "--"]

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Puts this thread into the node's namespace for what it does meanwhile, which must not wait."""
        self._call("setns", self._spaces[name], CLONE_NEWNET)
        try:
            yield
        finally:
            self._call("setns", self._own, CLONE_NEWNET)

    def cut(self, name: str, legs: Sequence[str] = LEGS) -> None:
        _ip([f"link set {leg}-{name} down" for leg in legs])

    def heal(self, name: str, legs: Sequence[str] = LEGS) -> None:
        _ip([f"link set {leg}-{name} up" for leg in legs])

    @staticmethod
    def _path(space: int) -> str:
        return f"/proc/{os.getpid()}/fd/{space}"

    def _call(self, name: str, *arguments: int) -> None:
        if getattr(self._libc, name)(*arguments):
            error = ctypes.get_errno()
            raise Unavailable(f"no network namespace can be made ({os.strerror(error)}); this host does not allow it")


def _ip(lines: Sequence[str], prefix: Sequence[str] = ()) -> None:
    """Raises `Unavailable`."""
    outcome = subprocess.run([*prefix, "ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True)
    if outcome.returncode:
        raise Unavailable(f"ip: {outcome.stderr.strip()}")
