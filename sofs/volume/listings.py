"""Directories that are listed in several answers, kept in memory between them.

An answer takes the entries from the index, behind a cookie; merging the overlay with the records costs most of a microsecond for each. Who
lists a directory asks again for what follows, and often the same again a little later. So when a directory is read for the second time and has not changed
in between, all of its entries are kept, and answers are cut out of them until it changes. Large directories are read as they come.
"""

from bisect import bisect_right

from sofs.errors import Damaged
from sofs.types import Inode, Lsn
from sofs.volume.directory import listing
from sofs.volume.keys import INODE
from sofs.volume.keyspace import KeySpace

Row = tuple[int, Inode, int, bytes]
"""Cookie, inode, kind, name."""
Full = tuple[int, bytes, Inode, bytes]
"""Cookie, name, inode, the inode's record."""

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
        self._full: tuple[bytes, Lsn, list[Full]] = (b"", Lsn(0), [])
        """Of the directory that was listed last: index, the log's end then, entries with their records."""

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

    def full(self, index: bytes, size: int, after: int, limit: int) -> tuple[list[Full], bool]:
        """The same with the inodes' records. As long as the volume does not change at all, these are kept, too. Raises `Damaged`."""
        known, end, kept = self._full
        now = self._keys.log.end
        if known == index and end == now:
            start = bisect_right(kept, after, key=_cookie)
            return kept[start : start + limit], start + limit >= len(kept)
        seen = self._kept.get(index)
        if size <= _LARGEST and seen is not None and seen[0] == self._keys.state(index):
            rows, _ = self.rows(index, size, 0, size + 1)
            self._full = index, now, self._with_records(rows)
            return self.full(index, size, after, limit)
        rows, complete = self.rows(index, size, after, limit)
        return self._with_records(rows), complete

    def _with_records(self, rows: list[Row]) -> list[Full]:
        get = self._keys.get
        found: list[Full] = []
        for cookie, inode, _, name in rows:
            record = get(INODE + inode.to_bytes(8))
            if record is None:
                raise Damaged(f"{name!r} names inode {inode}, which does not exist; run `sofs check`")
            found.append((cookie, name, inode, record))
        return found

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


def _cookie(row: Row | Full) -> int:
    return row[0]
