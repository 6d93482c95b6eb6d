"""Verifying pages of the log by their checksums, and in large pieces once they have been read before.

A page's checksum is in its file's leaf, and there is no other for what lies in the log. Verifying a MiB page by page takes 65 us, in four pieces 31. So the
checksum of a run of pages that keeps being read is remembered, computed from bytes that have matched page by page. A position of the log never
gets other bytes, and what is remembered is found by the position and all of the pages' checksums: whoever reads with others is verified by those.
"""

from collections.abc import Sequence

from crc32c import crc32c

from sofs.types import PAGE

_RUN = 64
"""Pages of a run at most: 256 KiB, as much as a leaf."""
_FROM = 16
"""Pages from which on a run is worth it."""
_KEPT = 1024
"""Runs that are remembered at least, twice as many at most: 2.5 KiB each."""
_ONCE = -1
"""In place of a checksum: the run has been read once. What is never read again shall not pay for it."""

_Key = tuple[int, tuple[int, ...]]
"""A position of the log, and the pages' checksums."""


class Verifier:
    """Verifies what has been read from one log."""

    def __init__(self) -> None:
        self._recent: dict[_Key, int] = {}
        self._older: dict[_Key, int] = {}

    def mismatch(self, at: int, view: memoryview, sums: Sequence[int]) -> int | None:
        """The first page of `view`, read from position `at`, that does not match its checksum; None if all do."""
        if len(sums) < _FROM:
            return mismatch(view, sums)
        for first in range(0, len(sums), _RUN):
            key = at + first * PAGE, tuple(sums[first : first + _RUN])
            run = view[first * PAGE : (first + _RUN) * PAGE]
            known = self._recent.get(key) or self._older.get(key)
            # The lock is kept: giving it up for 8 us of work may cost the loop a whole switch interval.
            if known is not None and crc32c(run, 0, 0) == known:
                continue
            bad = mismatch(run, key[1])
            if bad is not None:
                return first + bad
            self._remember(key, _ONCE if known is None else crc32c(run, 0, 0))
        return None

    def _remember(self, key: _Key, value: int) -> None:
        if len(self._recent) >= _KEPT:
            self._older, self._recent = self._recent, {}
        self._recent[key] = value


def mismatch(view: memoryview, sums: Sequence[int]) -> int | None:
    """The first page that does not match its checksum."""
    for index, expected in enumerate(sums):
        if crc32c(view[index * PAGE : (index + 1) * PAGE]) != expected:
            return index
    return None
