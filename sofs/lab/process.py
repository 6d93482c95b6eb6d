"""Children of the lab: started in a session of their own, noticed the moment they end, and gone when the lab is, however that ends.

The kernel kills a child when the lab dies (PR_SET_PDEATHSIG, which `setpriv` sets: it stays set over nsenter and exec). The end of a child is seen through
its pidfd, in the loop, so nothing lies between it and what the lab does about it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sofs.errors import Unavailable

KEEP_OF_LOG = 40
"""Lines of a log that an error shows."""


class Child:
    """One process at a time, which can be started again."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        on_end: Callable[[int], None] = lambda status: None,
    ) -> None:
        self.name = name
        self._command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] | None = None
        self.paused = False

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        """0: it does not run."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Raises `Unavailable`."""
        assert self._process is None, f"{self.name} runs already"
        loop = asyncio.get_running_loop()
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
                    start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise Unavailable(f"{self._command[0]} cannot be run: {error.strerror}") from None
        self._ended = loop.create_future()
        descriptor = os.pidfd_open(self._process.pid)
        loop.add_reader(descriptor, self._reap, descriptor)

    def _reap(self, descriptor: int) -> None:
        assert self._process and self._ended
        status = self._process.wait()  # it has ended, so this does not wait
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        ended, self._process, self._ended, self.paused = self._ended, None, None, False
        self._on_end(status)
        ended.set_result(status)

    def signal(self, number: signal.Signals) -> None:
        """Raises `Unavailable` when it does not run."""
        if self._process is None:
            raise Unavailable(f"{self.name} does not run; start it with `sofs lab restart {self.name}`")
        self._process.send_signal(number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        self.signal(signal.SIGCONT)
        self.paused = False

    async def kill(self) -> None:
        """As a crash: no chance to write anything. Raises `Unavailable` when it does not run."""
        self.signal(signal.SIGKILL)
        assert self._ended
        await asyncio.shield(self._ended)

    async def stop(self, patience_s: float) -> None:
        """Asks it to end; one that has not within its time is killed. Nothing to do for one that does not run."""
        if self._process is None or self._ended is None:
            return
        ended = self._ended
        self.signal(signal.SIGTERM)
        if self.paused:
            self.resume()
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.shield(ended)
        except TimeoutError:
            if self.running:
                await self.kill()

    async def ended(self) -> int:
        """Waits for its end; the status."""
        assert self._ended
        return await asyncio.shield(self._ended)

    def tail(self) -> str:
        """The end of its log."""
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-KEEP_OF_LOG:])
        except OSError:
            return ""
