"""One run of a tester: a process group with a time limit, its output in a log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    text: str
    """What this run has printed."""
    timed_out: bool
    status: int
    """Negative: the signal that ended it."""


def run(command: Sequence[str], log: Path, limit_s: float, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Ended:
    """Runs the command, its output appended to `log`; ends the whole group after `limit_s`."""
    with log.open("ab") as out:
        start = out.tell()
        tester = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            cwd=folder,
        )
        timed_out = False
        try:
            tester.wait(limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _end(tester)
    with log.open("rb") as printed:
        printed.seek(start)
        return Ended(printed.read().decode("utf-8", "replace"), timed_out, tester.returncode)


def _end(tester: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if tester.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(tester.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            tester.wait(5)
