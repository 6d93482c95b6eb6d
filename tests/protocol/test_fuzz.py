"""The fuzzers' driver notices what it is there for; and a few inputs of every target, as `make fuzz` gives them by the million."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tests.protocol import fuzz
from tests.protocol.fuzz import Target, covered, mutated, run


def test_what_a_target_lets_out_is_a_crash(capsys: pytest.CaptureFixture[str]) -> None:
    def one(chance: random.Random) -> None:
        if chance.random() < 0.5:
            raise IndexError("a bug")

    crashes = run(Target("bad", one, ()), 1, range(100))
    assert 30 < crashes < 70
    assert run(Target("bad", one, ()), 1, range(100)) == crashes, "a seed repeats its inputs"
    assert "a bug" in capsys.readouterr().out


def test_an_input_that_hangs_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "HANG_S", 0.2)

    def one(chance: random.Random) -> None:
        while True:
            pass

    assert run(Target("endless", one, ()), 1, range(2)) == 2


def test_coverage_counts_the_branches_that_were_taken() -> None:
    from gateways.nfs.v3 import data

    def one(chance: random.Random) -> None:
        try:
            data.read_arguments(memoryview(chance.randbytes(8)), 0)
        except data.XdrError:
            pass

    _, (words,) = covered(Target("some", one, ("gateways.nfs.xdr",)), 1, range(50))
    name, counts = words.split()
    taken, there = map(int, counts.split("/"))
    assert name == "nfs.xdr"
    assert 0 < taken < there


def test_mutations_change_most_inputs_and_keep_their_size_in_bounds() -> None:
    chance = random.Random(1)
    original = bytes(range(100))
    changed = [mutated(original, chance) for _ in range(500)]
    assert sum(each != original for each in changed) > 300
    assert max(map(len, changed)) < 1000


def test_no_target_crashes() -> None:
    command = [sys.executable, "-m", "tests.protocol.fuzz", "--inputs", "200", "--jobs", "2"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stdout.splitlines()[-1].endswith("inputs, 0 crashes")
