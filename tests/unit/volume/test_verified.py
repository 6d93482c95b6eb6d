"""Pages of the log that are read again and again in large pieces: verified faster, and no less."""

import random

import pytest
from crc32c import crc32c

from sofs.types import PAGE
from sofs.volume import verified
from sofs.volume.verified import Verifier

PAGES = 150
AT = 4096 + 136


def pages(seed: int = 1) -> tuple[memoryview, list[int]]:
    data = memoryview(bytearray(random.Random(seed).randbytes(PAGES * PAGE)))
    return data, [crc32c(data[at : at + PAGE]) for at in range(0, len(data), PAGE)]


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("bad", [0, 63, 64, 128, PAGES - 1])
def test_a_page_that_does_not_match_is_found_however_often_it_did(before: int, bad: int) -> None:
    data, sums = pages()
    verifier = Verifier()
    for _ in range(before):
        assert verifier.mismatch(AT, data, sums) is None
    data[bad * PAGE + 77] ^= 4
    for _ in range(3):
        assert verifier.mismatch(AT, data, sums) == bad
    data[bad * PAGE + 77] ^= 4
    assert verifier.mismatch(AT, data, sums) is None


@pytest.mark.parametrize("before", range(4))
def test_who_expects_other_pages_is_not_told_that_they_are_there(before: int) -> None:
    data, sums = pages()
    verifier = Verifier()
    for _ in range(before):
        assert verifier.mismatch(AT, data, sums) is None
    assert verifier.mismatch(AT, data, [*sums[:100], sums[100] ^ 1, *sums[101:]]) == 100
    other, others = pages(2)
    assert verifier.mismatch(AT, other, sums) == 0
    assert verifier.mismatch(AT, other, others) is None


def test_what_is_read_for_the_third_time_is_verified_in_large_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data, sums = pages()
    verifier = Verifier()
    lengths: list[int] = []

    def count(data: memoryview, *rest: int) -> int:
        lengths.append(len(data))
        return crc32c(data, *rest)

    monkeypatch.setattr(verified, "crc32c", count)
    for expected in ([PAGE] * PAGES, None, [64 * PAGE, 64 * PAGE, 22 * PAGE]):
        lengths.clear()
        assert verifier.mismatch(AT, data, sums) is None
        assert expected is None or lengths == expected


def test_what_is_remembered_is_bounded_and_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "_KEPT", 8)
    data, sums = pages()
    verifier = Verifier()
    for turn in range(100):
        assert verifier.mismatch(turn << 20, data[: 16 * PAGE], sums[:16]) is None
        assert len(verifier._recent) + len(verifier._older) <= 16
    assert (99 << 20, tuple(sums[:16])) in verifier._recent
