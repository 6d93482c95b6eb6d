"""What a suite's tests came to, and how it compares with the peer's results and with the misses that are known."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent

Results = dict[str, dict[str, str]]
"""{group: {test: outcome}}; a group is what the suite itself calls a suite or a module."""

SUCCESS, FAILURE, ERROR, SKIP = "success", "failure", "error", "skip"
TIMEOUT = "timeout"
"""The test was running when the time limit struck."""
CRASH = "crash"
"""The test was running when the tester itself died."""
NOT_RUN = "notrun"
"""Asked for, but never started."""
WARN, UNSUPPORTED = "warn", "unsupported"
"""pynfs: passed, but there was a better way; the server says that it lacks the feature."""

FAILED = (FAILURE, ERROR, TIMEOUT, CRASH, NOT_RUN)


def load(path: Path) -> Results:
    """A file of results; an absent one has none."""
    if not path.exists():
        return {}
    results: Results = json.loads(path.read_text())
    return results


def save(results: Results, path: Path) -> None:
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def baseline(name: str) -> Results:
    """The peer's results of the suite `name`; empty where none are known."""
    return load(HERE / "baselines" / f"{name}.json")


def misses(name: str) -> dict[str, dict[str, str]]:
    """The tests of the suite that are known to fail: {group: {test: reason}}."""
    path = HERE / "misses" / f"{name}.toml"
    return tomllib.loads(path.read_text()) if path.exists() else {}


@dataclass(frozen=True)
class Tally:
    """How many tests came to what."""

    passed: int = 0
    failed: int = 0
    warned: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.warned + self.skipped


def tally(results: Results) -> Tally:
    counts: Counter[str] = Counter()
    for tests in results.values():
        for outcome in tests.values():
            kind = "failed" if outcome in FAILED else "skipped" if outcome == SKIP else "passed" if outcome == SUCCESS else "warned"
            counts[kind] += 1
    return Tally(**counts)


def unexpected(results: Results, known: dict[str, dict[str, str]]) -> Results:
    """What failed without being a known miss."""
    found: Results = {}
    for group, tests in results.items():
        for test, outcome in tests.items():
            if outcome in FAILED and test not in known.get(group, {}):
                found.setdefault(group, {})[test] = outcome
    return found


def recovered(results: Results, known: dict[str, dict[str, str]]) -> list[str]:
    """Known misses that passed: their lines can go."""
    return [test for group, tests in known.items() for test in tests if results.get(group, {}).get(test) == SUCCESS]


@dataclass
class Comparison:
    """Ours beside the peer's. A test that only one of them names does not pass at the other."""

    both: int = 0
    neither: int = 0
    lacking: list[tuple[str, str, str]] = field(default_factory=list)
    """The peer passes, we do not: test, our outcome, the peer's."""
    ahead: list[tuple[str, str, str]] = field(default_factory=list)

    def summary(self) -> str:
        lacking, ahead = len(self.lacking), len(self.ahead)
        total = self.both + self.neither + lacking + ahead
        return (
            f"conformance: we pass {self.both + ahead}, peer {self.both + lacking}; both {self.both}, only peer {lacking},"
            f" only we {ahead}, neither {self.neither} of {total}"
        )


def compare(ours: Results, peer: Results) -> Comparison:
    """Test by test, of the groups that we have run. Where pynfs could not tell the group, "(notrun)", tests are left out: absent comes to the same."""
    made = Comparison()
    for group in sorted(ours.keys() - {"(notrun)"}):
        left, right = ours[group], peer.get(group, {})
        for test in sorted(left.keys() | right.keys()):
            mine, theirs = left.get(test, "absent"), right.get(test, "absent")
            if mine == theirs == SUCCESS:
                made.both += 1
            elif theirs == SUCCESS:
                made.lacking.append((test, mine, theirs))
            elif mine == SUCCESS:
                made.ahead.append((test, mine, theirs))
            else:
                made.neither += 1
    return made
