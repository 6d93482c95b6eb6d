"""A node as a process of its own, started and stopped as a user would."""

from __future__ import annotations

import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from sofs.admin.client import AdminClient

SOFS = str(Path(sys.executable).with_name("sofs"))
USER, PASSWORD, SHARE = "tester", "Correct-Horse-9", "share"
READY_S = 60.0
STOP_S = 60.0


@dataclass(frozen=True)
class Endpoint:
    host: str
    port: int
    share: str


class RunningNode:
    """`sofs quickstart` on `data`. Ports are any free ones unless said otherwise. Use as a context manager."""

    def __init__(self, data: Path, *, smb_port: int = 0, nfs_port: int = 0, options: Sequence[str] = (), prefix: Sequence[str] = ()) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        self._command = [
            *prefix,
            *(SOFS, "quickstart", "--data", str(data)),
            *("--smb-port", str(smb_port), "--nfs-port", str(nfs_port)),
            *("--user", f"{USER}:{PASSWORD}", "--share", SHARE, *options),
        ]
        self._process: subprocess.Popen[str] | None = None
        self.smb = self.nfs = Endpoint("", 0, "")
        self.seconds_to_ready = 0.0

    def __enter__(self) -> RunningNode:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            status = self.stop()
            assert kind is not None or status == 0, f"the node ended with status {status}:\n{self.tail()}"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def admin(self) -> AdminClient:
        return AdminClient(data=self.data, timeout=120)

    def start(self) -> None:
        assert self._process is None
        began = time.monotonic()
        with self.log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self._ready_line()
        self.seconds_to_ready = time.monotonic() - began
        found = re.fullmatch(r"ready: smb://([^ ]+):(\d+)/(\S+) nfs://([^ ]+):(\d+)/(\S+)\n", line)
        assert found, f"not a ready line: {line!r}\n{self.tail()}"
        self.smb = Endpoint(found[1], int(found[2]), found[3])
        self.nfs = Endpoint(found[4], int(found[5]), found[6])

    def _ready_line(self) -> str:
        assert self._process and self._process.stdout
        readable, _, _ = select.select([self._process.stdout], [], [], READY_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            self.kill()
            raise AssertionError(f"the node did not become ready:\n{self.tail()}")
        return line

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it cleanly; the exit status."""
        assert self._process
        self._process.send_signal(number)
        try:
            return self._wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the node did not stop:\n{self.tail()}") from None

    def kill(self) -> None:
        """As a crash of the process: no chance to write anything."""
        assert self._process
        self._process.kill()
        self._wait(STOP_S)

    def _wait(self, timeout: float) -> int:
        assert self._process and self._process.stdout
        status = self._process.wait(timeout)
        self._process.stdout.close()
        self._process = None
        return status

    def tail(self, lines: int = 60) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def nfs_url(self, path: str = "") -> str:
        """For libnfs' tools, ports included, as root."""
        options = f"nfsport={self.nfs.port}&mountport={self.nfs.port}&version=3"
        return f"nfs://{self.nfs.host}/{self.nfs.share}/{path}?{options}"
