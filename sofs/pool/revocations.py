"""Which extent ids may no longer be written, as sorted ranges for each volume.

A volume revokes a range of ids before it looks for orphans among them: a writer that was paused since yesterday must
not add one behind its back. Volumes grant and revoke ids in rising order, so the ranges of a volume melt into few.

The file `revoked` of a disk holds all of them: "SOFSREVK", u32 count, then for each range u64 volume, u64 start, u64 stop
(in order), and a crc32c over all of it, begun with that of the disk's id. It is replaced whole: written beside, synced,
renamed. A disk that lost it has lost nothing that was stored; at worst a late writer adds an orphan, which the next
collection finds.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator

from crc32c import crc32c

from sofs.errors import Damaged
from sofs.types import VolumeId

_MAGIC = b"SOFSREVK"
_HEAD = struct.Struct("<8sI")
_RANGE = struct.Struct("<QQQ")
_CRC = struct.Struct("<I")


class Revocations:
    """A set of extent ids, kept as ranges."""

    def __init__(self) -> None:
        self._ranges: dict[VolumeId, list[tuple[int, int]]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Revocations) and self._ranges == other._ranges

    __hash__ = None  # type: ignore[assignment]

    def covers(self, volume: VolumeId, number: int) -> bool:
        ranges = self._ranges.get(volume)
        if not ranges:
            return False
        at = bisect_right(ranges, (number, 1 << 64)) - 1
        return at >= 0 and number < ranges[at][1]

    def add(self, volume: VolumeId, ids: range) -> bool:
        """Adds a range; says whether that changed anything."""
        assert ids.step == 1 and ids.start >= 0
        if not ids:
            return False
        start, stop = ids.start, ids.stop
        kept = []
        for other in self._ranges.get(volume, ()):
            if other[1] < start or other[0] > stop:
                kept.append(other)
            else:
                if other[0] <= start and stop <= other[1]:
                    return False
                start, stop = min(start, other[0]), max(stop, other[1])
        self._ranges[volume] = sorted([*kept, (start, stop)])
        return True

    def merge(self, other: "Revocations") -> bool:
        """Adds all of `other`; says whether that changed anything."""
        changed = False
        for volume, start, stop in other:
            changed |= self.add(volume, range(start, stop))
        return changed

    def __iter__(self) -> Iterator[tuple[VolumeId, int, int]]:
        for volume, ranges in sorted(self._ranges.items()):
            for start, stop in ranges:
                yield volume, start, stop

    def encode(self, seed: int) -> bytes:
        ranges = list(self)
        body = _HEAD.pack(_MAGIC, len(ranges)) + b"".join(_RANGE.pack(*each) for each in ranges)
        return body + _CRC.pack(crc32c(body, seed))

    @classmethod
    def decode(cls, data: bytes, seed: int) -> "Revocations":
        """Reads what `encode` wrote. Raises `Damaged`, with any bytes."""
        end = len(data) - _CRC.size
        if end < _HEAD.size or (end - _HEAD.size) % _RANGE.size:
            raise Damaged("the list of revoked ids is cut short")
        magic, count = _HEAD.unpack_from(data)
        if magic != _MAGIC or count != (end - _HEAD.size) // _RANGE.size:
            raise Damaged("the list of revoked ids is damaged")
        if crc32c(data[:end], seed) != _CRC.unpack_from(data, end)[0]:
            raise Damaged("the list of revoked ids has a wrong checksum")
        revoked = cls()
        for volume, start, stop in _RANGE.iter_unpack(data[_HEAD.size : end]):
            revoked.add(VolumeId(volume), range(start, stop))
        return revoked
