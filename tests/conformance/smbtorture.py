"""smbtorture's `smb2.*` suites, from Debian's package samba-testsuite.

Each suite runs in a process of its own, with a time limit. After a time-out or a crash the rest of the suite goes on in a new one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.conformance import process
from tests.conformance.node import ConformanceNode
from tests.conformance.results import CRASH, NOT_RUN, TIMEOUT, Results, tally

BINARY = "smbtorture"
LEFT_OUT = re.compile(r"smb2\.(bench|hold-.*)")
"""Benchmarks, and tests that only hold a file open for somebody else."""
SHORT_S = 10.0
WAITS_FOR_NOTHING = ("smb2.aio_delay", "smb2.change_notify_disabled")
"""Suites for a server that is set up to delay, or to refuse notifications: elsewhere they wait until they are ended."""
RESUMED = 12
"""How often a suite goes on after a time-out or a crash."""

_STARTED = re.compile(r"^test: (.+)$")
# A result's line carries its reason in brackets, which may go on for lines.
_RESULT = re.compile(r"^(success|failure|error|skip|xfail): (.+?)(?: \[)?$")


def collapse(name: str) -> str:
    """`smb2.read.eof.eof`, as a listing has it, as `smb2.read.eof`, as a run has it."""
    parts = name.split(".")
    if len(parts) > 1 and parts[-1] == parts[-2]:
        parts.pop()
    return ".".join(parts)


class Read(NamedTuple):
    outcomes: dict[str, str]
    flying: str | None
    """The test that had begun and not ended."""


def read(text: str) -> Read:
    """What a run printed."""
    outcomes: dict[str, str] = {}
    flying: str | None = None
    for line in text.splitlines():
        if (started := _STARTED.match(line)) is not None:
            flying = started[1]
        elif (result := _RESULT.match(line)) is not None:
            flying = None
            outcomes[result[2]] = result[1]
    return Read(outcomes, flying)


def _settings(node: ConformanceNode, suite: str, logs: Path) -> list[str]:
    """What a suite has to be told of the server."""
    if suite == "smb2.set-sparse-ioctl":
        return ["torture:filename=sparse.dat"]
    if suite == "smb2.zero-data-ioctl":
        (logs / "empty").touch()
        _smbclient(node, f"lcd {logs}; put empty zeroed.dat")
        return ["torture:filename=zeroed.dat", "torture:offset=0", "torture:beyond_final_zero=4096"]
    if suite == "smb2.scan":
        # It sends a CANCEL with message id 0, and dies of not being able to sign that with GMAC.
        return ["client smb3 signing algorithms=AES-128-CMAC"]
    if suite == "smb2.twrp":
        # A file with a stream, and a snapshot that has both.
        size = 1000
        (logs / "previous").write_bytes(b"x" * size)
        _smbclient(node, f"lcd {logs}; put previous previous.dat; put previous previous.dat:stream")
        told = ("file=previous.dat", f"snapshot={node.snapshot()}", "stream=stream", f"stream_size={size}")
        return [f"torture:twrp_{setting}" for setting in told]
    return []


def _smbclient(node: ConformanceNode, commands: str) -> None:
    share, user = f"//{node.host}/{node.share}", f"{node.user}%{node.password}"
    subprocess.run(["smbclient", share, "-p", str(node.smb_port), "-U", user, "-c", commands], check=True, capture_output=True)


class Smbtorture:
    name = "smbtorture"
    blocks = True
    lease_s = 90.0
    """Some tests measure that 35 s are waited for the answer to a break."""

    def __init__(self, limit_s: float = 120.0, options: tuple[str, ...] = (), without: frozenset[str] = frozenset()) -> None:
        """`limit_s` is for each process; `options` force a variant, such as `--client-protection=encrypt`; tests in `without` are left out."""
        self._limit_s = limit_s
        self._options = options
        self._without = without

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, if it cannot."""
        return None if shutil.which(BINARY) else "there is no smbtorture (Debian: samba-testsuite)"

    def run(
        self, node: ConformanceNode, wanted: re.Pattern[str] | None, logs: Path, say: Callable[[str], None], tests: frozenset[str] | None = None
    ) -> Results:
        """Runs the suites whose whole name `wanted` matches; of these only `tests`, if given. Says a line for each."""
        where = [f"//{node.host}/{node.share}", f"--basedir={logs}"]
        command = [BINARY, *where, "-p", str(node.smb_port), "-U", f"{node.user}%{node.password}", *self._options]
        suites = [
            suite for suite in self._lines(command, "--list-suites")
            if suite.startswith("smb2.") and not LEFT_OUT.fullmatch(suite) and (wanted is None or wanted.fullmatch(suite))
        ]  # fmt: skip
        results: Results = {}
        say(f"{'suite':30} {'pass':>5} {'fail':>5} {'skip':>5} {'of':>5} {'seconds':>7}")
        for suite in suites:
            listed = [collapse(line) for line in self._lines(command, "--list", suite) if line == suite or line.startswith(suite + ".")]
            chosen = [test for test in listed if test not in self._without and (tests is None or test in tests)]
            if not chosen:
                continue
            began = time.monotonic()
            settings = [f"--option={setting}" for setting in _settings(node, suite, logs)]
            results[suite] = self._suite([*command, *settings], suite, chosen, len(chosen) < len(listed), logs)
            node.check()
            counts = tally({suite: results[suite]})
            say(f"{suite:30} {counts.passed:5} {counts.failed:5} {counts.skipped:5} {counts.total:5} {time.monotonic() - began:7.1f}")
        return results

    @staticmethod
    def _lines(command: list[str], *more: str) -> list[str]:
        listed = subprocess.run([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return [line.strip() for line in listed.stdout.splitlines()]

    def _suite(self, command: list[str], suite: str, chosen: list[str], partly: bool, logs: Path) -> dict[str, str]:
        log, todo = logs / f"{suite}.log", logs / f"{suite}.list"
        outcomes: dict[str, str] = {}
        missing = chosen
        for go in range(RESUMED + 1):
            options = ["--fullname"]
            if go or partly:
                todo.write_text("".join(test + "\n" for test in missing))
                options.append(f"--load-list={todo}")
            limit = SHORT_S if suite in WAITS_FOR_NOTHING else self._limit_s
            ended = process.run([*command, *options, suite], log, limit)
            got, flying = read(ended.text)
            outcomes.update(got)
            finished = not ended.timed_out and ended.status >= 0 and flying is None
            last = finished or go == RESUMED or not (got or flying)
            # A test that was late only because others took the time before it gets another go.
            if flying is not None and not (ended.timed_out and got and not last):
                outcomes[flying] = TIMEOUT if ended.timed_out else CRASH
            missing = [test for test in chosen if test not in outcomes]
            if last or not missing:
                break
        for test in chosen:
            outcomes.setdefault(test, NOT_RUN)
        return outcomes

    @staticmethod
    def summary(results: Results) -> str:
        counts = tally(results)
        return f"smbtorture: {counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped of {counts.total}"
