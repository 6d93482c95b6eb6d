"""`make conformance`: runs the suites and says how we stand beside the peers.

usage: python -m tests.conformance [SUITE ...] [--only REGEX] [--out FOLDER] [--forwarded]

SUITE: smbtorture, pike, pynfs41; all that can run here without any. REGEX chooses among a suite's groups. FOLDER gets each suite's results
as JSON and the testers' own logs. With --forwarded the node is one of a cluster, and another one coordinates the volume. Exit status: 0 if
nothing failed but known misses, 1 if something did, 2 for bad usage.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tests.conformance import forwarded, node
from tests.conformance import results as outcomes
from tests.conformance.node import ConformanceNode, ServerBroke
from tests.conformance.pike import Pike
from tests.conformance.pynfs import Pynfs
from tests.conformance.results import Results
from tests.conformance.smbtorture import Smbtorture


class Runner(Protocol):
    name: str
    blocks: bool
    """It asks its server to act as if a connection were cut off (`unacknowledged`)."""
    lease_s: float
    """Of the node's NFS leases; the time to answer a break is not longer than one."""

    def missing(self) -> str | None: ...

    def run(
        self, node: ConformanceNode, wanted: re.Pattern[str] | None, logs: Path, say: Callable[[str], None], tests: frozenset[str] | None = None
    ) -> Results: ...

    def summary(self, results: Results) -> str: ...


RUNNERS: tuple[Runner, ...] = (Smbtorture(), Pike(), Pynfs("4.1"))


def say(line: str) -> None:
    print(line, flush=True)


Serving = Callable[[Path, bool, float], AbstractContextManager[ConformanceNode]]


def conform(
    runner: Runner, wanted: re.Pattern[str] | None, folder: Path, tests: frozenset[str] | None = None, serving: Serving = node.serving
) -> Results:
    """Runs a suite against a fresh node. What fails unexpectedly gets a second go at another fresh node, as some tests measure time. Gives what still
    fails."""
    logs = folder / runner.name
    logs.mkdir(parents=True, exist_ok=True)
    known = outcomes.misses(runner.name)
    for group, more in forwarded.MISSES.items() if serving is forwarded.serving else ():
        known[group] = known.get(group, {}) | more
    with serving(logs, runner.blocks, runner.lease_s) as fresh:
        found = runner.run(fresh, wanted, logs, say, tests)
    failed = outcomes.unexpected(found, known)
    if failed:
        again = frozenset(test for group in failed.values() for test in group)
        say(f"a second go for {len(again)}:")
        groups = re.compile("|".join(map(re.escape, failed)))
        with serving(logs, runner.blocks, runner.lease_s) as fresh:
            for group, tests_again in runner.run(fresh, groups, logs, say, again).items():
                found[group].update(tests_again)
        failed = outcomes.unexpected(found, known)
    outcomes.save(found, folder / f"{runner.name}.json")
    _report(runner, found, failed, known)
    return failed


def _report(runner: Runner, found: Results, failed: Results, known: dict[str, dict[str, str]]) -> None:
    peer = outcomes.baseline(runner.name)
    if peer:
        compared = outcomes.compare(found, peer)
        say(f"the peer passes, we do not: {len(compared.lacking)}")
        for test, mine, theirs in compared.lacking:
            say(f"  {test:60} ours {mine:10} peer {theirs}")
        say(compared.summary())
    for test in outcomes.recovered(found, known):
        say(f"passes, and is no known miss any more: {test}")
    for group in failed.values():
        for test, outcome in group.items():
            say(f"fails, and is no known miss: {test} ({outcome})")
    say(runner.summary(found))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="conformance", description="Conformance suites against a node of its own.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", choices=[[], *(runner.name for runner in RUNNERS)])
    parser.add_argument("--only", metavar="REGEX", type=re.compile, help="groups of tests whose whole name matches")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="keeps results and logs")
    parser.add_argument("--forwarded", action="store_true", help="at a node of a cluster that does not coordinate the volume")
    chosen = parser.parse_args(arguments)
    serving = forwarded.serving if chosen.forwarded else node.serving
    worst = 0
    with tempfile.TemporaryDirectory(prefix="conformance-") as temporary:
        folder = chosen.out or Path(temporary)
        for runner in RUNNERS:
            if chosen.suites and runner.name not in chosen.suites:
                continue
            if (reason := runner.missing()) is not None:
                say(f"{runner.name}: left out, {reason}")
                continue
            try:
                if conform(runner, chosen.only, folder, serving=serving):
                    worst = 1
            except ServerBroke as broke:
                say(f"{runner.name}: {broke}")
                worst = 1
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
