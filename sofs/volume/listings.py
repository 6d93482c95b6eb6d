"""Directories that are listed in several answers, kept in memory between them.

An answer takes the entries from the index, behind a cookie; merging the overlay with the records costs most of a microsecond for each. Who
lists a directory asks again for what follows, and often the same again a little later. So when a directory is read for the second time and has not changed
in between, all of its entries are kept, and answers are cut out of them until it changes. Large directories are read as they come.
"""

from bisect import bisect_right

from sofs.types import Inode
from sofs.volume.directory import listing
from sofs.volume.keyspace import KeySpace

__all__ = ["Listings", "Row"]

Row = tuple[int, Inode, int, bytes]
"""Cookie, inode, kind, name."""

_LARGEST = 1 << 14
"""Entries of a directory that is kept: a few megabytes, and 15 ms to gather."""
_DIRECTORIES = 16
"""Kept at once; the one that was not asked for the longest goes."""


class Listings:
    """The entries of one key space's directories."""

    def __init__(self, keyspace: KeySpace) -> None:
        self._keys = keyspace
        self._kept: dict[bytes, tuple[object, list[Row] | None]] = {}
        """By index, in the order of use: the state in which it was last seen, and its entries, if they were gathered."""

    def rows(self, index: bytes, size: int, after: int, limit: int) -> tuple[list[Row], bool]:
        """At most `limit` entries behind the cookie `after` of a directory that holds `size` of them, and whether none lies behind these."""
        rows = self._all(index) if size <= _LARGEST else None
        if rows is not None:
            start = bisect_right(rows, after, key=_cookie)
            return rows[start : start + limit], start + limit >= len(rows)
        found: list[Row] = []
        for row in listing(self._keys, index, after):
            if len(found) == limit:
                return found, False
            found.append(row)
        return found, True

    def _all(self, index: bytes) -> list[Row] | None:
        """All entries, if they are kept or are worth it now."""
        state = self._keys.state(index)
        seen, rows = self._kept.pop(index, (None, None))
        if seen != state:
            rows = None
        elif rows is None:
            rows = list(listing(self._keys, index, 0))
        if len(self._kept) >= _DIRECTORIES:
            self._kept.pop(next(iter(self._kept)))
        self._kept[index] = state, rows
        return rows


def _cookie(row: Row) -> int:
    return row[0]
