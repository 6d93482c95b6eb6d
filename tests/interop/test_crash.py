"""A slice of `make crash`, and that its ledger sees what it is there to see."""

from __future__ import annotations

import random
from pathlib import Path

from tests.interop.crash import crash
from tests.interop.ledger import Ledger, Rename, Write


def test_a_killed_node_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    score = crash(tmp_path / "data", kills=4, seed=7)
    assert (score.lost, score.wrong) == (0, 0), "\n".join(score.messages)
    assert score.acknowledged > 0


def ledger(**files: bytes) -> Ledger:
    return Ledger(random.Random(1), dict(files))


def test_a_missing_file_is_lost() -> None:
    verdict = ledger(a=b"1", b=b"2").verify({"a": b"1"})
    assert verdict.lost == ["b"] and verdict.wrong == []


def test_a_shorter_file_is_lost_and_another_content_is_wrong() -> None:
    verdict = ledger(a=b"11", b=b"22").verify({"a": b"1", b"b".decode(): b"23"})
    assert verdict.lost == ["a"] and verdict.wrong == ["b"]


def test_a_file_nobody_made_is_wrong() -> None:
    assert ledger(a=b"1").verify({"a": b"1", "x": b""}).wrong == ["x"]


def test_the_change_under_way_may_have_happened_or_not_but_not_by_half() -> None:
    write = Write("a", 0, b"xx")
    for found, wrong in ((b"11", []), (b"xx", []), (b"x1", ["a"])):
        known = ledger(a=b"11")
        known.pending = write
        assert known.verify({"a": found}).wrong == wrong


def test_half_a_rename_is_seen() -> None:
    known = ledger(a=b"1")
    known.pending = Rename("a", "b")
    verdict = known.verify({"a": b"1", "b": b"1"})
    assert verdict.wrong or verdict.lost
