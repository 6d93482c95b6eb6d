"""A volume's snapshots, as `apply` sees them: which there are, and which of them holds a page.

A snapshot is one record, made by one small operation; nothing is copied. It says at which position of the log it was taken, and which numbers were
in use then. From that follows for every page name whether the page was there already: a log-born name is a position, and an extent-born one
begins with a number that was taken before or after. A few extents were being written at that moment and were named later; these are listed.

    N  0  number u64    lsn, first number not taken of extents and of inodes, time taken (u64 each), state u8, extents under way u16, length of the
                        name u16, numbers of those extents (u64 each), name

`History` is that list in memory. It follows from the records alone, so it is the same on every replica and at every replay.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple, Self

from sofs.errors import Damaged
from sofs.types import Lsn, Time
from sofs.volume.keys import EXTENT_BORN, EXTENT_SHIFT, MAP_BORN, SNAPSHOT

SNAPSHOTS = SNAPSHOT + bytes(8)
"""The bucket of all of them."""

READY, DELETING = 0, 1
"""States. One that is being deleted is seen by nobody any more, and still holds what has not been dealt with."""

_FIXED = struct.Struct("<QQQQBHH")
_STATE_AT = 32


def is_ready(value: bytes | None) -> bool:
    """Whether the record is that of a snapshot which can be seen."""
    return value is not None and value[_STATE_AT] == READY


class Snapshot(NamedTuple):
    number: int
    """From 1 on, never used twice, below 2**56."""
    lsn: Lsn
    """The position of the batch that took it: what is named by a lower one was there."""
    extents: int
    """Extents from this number on were not written yet."""
    inodes: int
    """Inodes from this number on were not there, nor anything kept for them."""
    taken: Time
    state: int
    under_way: tuple[int, ...]
    """Lower-numbered extents that were named only afterwards."""
    name: bytes

    @property
    def key(self) -> bytes:
        return SNAPSHOTS + self.number.to_bytes(8)

    def lacks(self, owner: int) -> bool:
        """Whether this inode, or map, was not there yet, nor anything kept for it."""
        return owner - MAP_BORN >= self.lsn if owner >= MAP_BORN else owner >= self.inodes

    def encode(self) -> bytes:
        fixed = _FIXED.pack(self.lsn, self.extents, self.inodes, self.taken, self.state, len(self.under_way), len(self.name))
        return fixed + struct.pack(f"<{len(self.under_way)}Q", *self.under_way) + self.name

    @classmethod
    def decode(cls, key: bytes, value: bytes) -> Self:
        """Raises `Damaged`."""
        try:
            lsn, extents, inodes, taken, state, count, length = _FIXED.unpack_from(value)
            under_way = struct.unpack_from(f"<{count}Q", value, _FIXED.size)
        except struct.error as error:
            raise Damaged(f"the record of snapshot {int.from_bytes(key[9:])} has {len(value)} bytes") from error
        name = value[_FIXED.size + 8 * count :]
        if len(name) != length:
            raise Damaged(f"the record of snapshot {int.from_bytes(key[9:])} has {len(value)} bytes")
        return cls(int.from_bytes(key[9:]), Lsn(lsn), extents, inodes, Time(taken), state, under_way, name)


class History:
    """The snapshots of a volume, oldest first, those that are being deleted among them."""

    __slots__ = ("_by_number", "_extents", "_lsns", "_numbers", "horizon", "newest", "saved", "snapshots")

    def __init__(self, records: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """`records` are those of the bucket `SNAPSHOTS`."""
        self.load(records)

    def load(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        self.snapshots = [Snapshot.decode(key, value) for key, value in records]
        self._index()

    def add(self, snapshot: Snapshot) -> None:
        assert not self.snapshots or self.snapshots[-1].number < snapshot.number
        self.snapshots.append(snapshot)
        self._index()

    def remove(self, number: int) -> None:
        self.snapshots = [snapshot for snapshot in self.snapshots if snapshot.number != number]
        self._index()

    def __getitem__(self, number: int) -> Snapshot:
        """Raises `KeyError`."""
        return self._by_number[number]

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def _index(self) -> None:
        self.saved: set[bytes] = set()
        """Keys of which is known that their values have been saved for the newest snapshot, or need not be: it spares looking."""
        self._by_number = {snapshot.number: snapshot for snapshot in self.snapshots}
        self._numbers = [snapshot.number for snapshot in self.snapshots]
        self._lsns = [snapshot.lsn for snapshot in self.snapshots]
        self._extents = [snapshot.extents for snapshot in self.snapshots]
        self.newest = self.snapshots[-1] if self.snapshots else None
        self.horizon = self._lsns[-1] if self.snapshots else 0
        """Log-born names below this are held by the newest snapshot; 0 says that there is none."""

    def oldest(self, name: int) -> int:
        """The number of the oldest snapshot that was taken when the page of this name was there already; 0 if there is none.

        All younger ones hold it too, as long as it lives.
        """
        if name < EXTENT_BORN:
            return self.after(name)
        extent = (name - EXTENT_BORN) >> EXTENT_SHIFT
        at = bisect_right(self._extents, extent)
        while at < len(self.snapshots) and extent in self.snapshots[at].under_way:
            at += 1
        return self._numbers[at] if at < len(self._numbers) else 0

    def after(self, lsn: int) -> int:
        """The number of the first snapshot behind this position; 0 if there is none."""
        at = bisect_right(self._lsns, lsn)
        return self._numbers[at] if at < len(self._numbers) else 0

    def neighbours(self, number: int) -> tuple[int, int]:
        """The next older and the next younger snapshot's numbers; 0 for none."""
        at = bisect_left(self._numbers, number)
        older = self._numbers[at - 1] if at else 0
        return older, self._numbers[at + 1] if at + 1 < len(self._numbers) else 0

    def younger(self, number: int) -> list[int]:
        return self._numbers[bisect_right(self._numbers, number) :]
