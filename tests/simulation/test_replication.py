"""One log on three machines under every fault; and broken variants of its replication, each of which has to be found out.

More, and a replay of one: `python -m tests.simulation.replication.soak`.
"""

import subprocess
import sys

import pytest

FOUND_OUT = {
    "acknowledge-before-the-last-replica": 3,
    "acknowledge-on-this-disk-alone": 1,
    "acknowledge-syncs-before-they-are-done": 2,
    "forget-a-promise-at-a-restart": 108,
    "go-on-while-a-lost-copy-still-counts": 2,
    "keep-what-differs": 1,
    "promote-what-lacks-something": 19,
    "promote-without-a-last-look": 37,
    "serve-after-the-promise": 1,
    "serve-without-establishing": 1,
    "take-over-without-memory": 27,
    "truncate-what-is-common": 32,
}
"""The first seed, from 1 on, that shows what is wrong with a variant; where the code has changed since, some seed soon after it does."""


def soak(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # A process of its own, so that a failure can be replayed: see there.
    command = [sys.executable, "-m", "tests.simulation.replication.soak", "--jobs", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


def test_no_fault_breaks_a_promise() -> None:
    run = soak("--seeds", "16", "--seconds", "30")
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 violations" in run.stdout


@pytest.mark.parametrize("mutation", sorted(FOUND_OUT))
def test_a_broken_variant_is_found_out(mutation: str) -> None:
    run = soak("--mutation", mutation, "--seed", str(FOUND_OUT[mutation]), "--seeds", "60", "--seconds", "90")
    assert run.returncode == 1 and f"--mutation {mutation}" in run.stdout, run.stdout + run.stderr
