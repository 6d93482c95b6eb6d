"""Extents, as the volume knows them: their records, their numbers, and how they come and go.

An extent's record holds its placement and the windows that name its pages; how many of those are live is a record of its own, since it
changes often. When the last live page goes, `apply` moves the record to the freed ones (`F`). A freed
extent is deleted from the pool once the batch that freed it is covered by a checkpoint on every replica: until then a recovery could still need it.

**Numbers** are granted in ranges (`Q`) by batches that are stable before the first number is used, and are never used twice: not even when the
extent was never recorded because the node died between writing it and naming it. What such a death leaves is an
orphan. Orphans are collected below the lowest number that may still be in use: the pool is told to refuse writes of these numbers from now on,
lists what its disks hold, and what no record knows is deleted. The same is done when a disk of another node has come back, or when it is not known what
has become of a fragment there: what its extent's record does not name is deleted, even if the extent itself is in use.
"""

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from sofs.errors import Damaged, ExtentGone
from sofs.pool import ExtentId, Fragment, Placement, Policy, Pool
from sofs.runtime.ports import Buffer
from sofs.types import DiskId, Lsn, VolumeId
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.keyspace import KeySpace

WINDOW_LIMIT = 256
"""Windows that may name pages of one extent: the record stays under 3 KiB, as records should."""

EXTENT_LIMIT = 8 << 20
"""Bytes of data in an extent, at most: names of extent-born pages have 23 bits for the offset."""

_SLICE = 200

GRANT = 1024
"""Numbers in a range."""

NEXT = keys.meta(b"next extent")
"""The lowest number that was never granted, u64; 1 at first."""

_HEAD = struct.Struct("<IBBH")  # length, bytes of scheme, fragments, windows
_FRAGMENT = struct.Struct("<QQ")
_GRANTED = struct.Struct("<I")


def encode_extent(placement: Placement, windows: Sequence[int]) -> bytes:
    """The value of an `E` record."""
    scheme = placement.scheme.encode()
    return b"".join(
        (
            _HEAD.pack(placement.length, len(scheme), len(placement.fragments), len(windows)),
            scheme,
            *(_FRAGMENT.pack(*fragment) for fragment in placement.fragments),
            struct.pack(f"<{len(windows)}Q", *windows),
        )
    )


def decode_extent(volume: VolumeId, number: int, value: bytes) -> tuple[Placement, tuple[int, ...]]:
    """Placement and windows from an `E` record. Raises `Damaged`."""
    try:
        length, scheme_size, count, window_count = _HEAD.unpack_from(value)
        at = _HEAD.size + scheme_size
        end = at + count * _FRAGMENT.size
        if len(value) != end + window_count * 8:
            raise Damaged(f"the record of extent {number} has {len(value)} bytes instead of {end + window_count * 8}")
        scheme = value[_HEAD.size : at].decode()
        fragments = tuple(Fragment(DiskId(disk), slot) for disk, slot in _FRAGMENT.iter_unpack(value[at:end]))
        windows = struct.unpack(f"<{window_count}Q", value[end:])
    except (struct.error, UnicodeDecodeError) as error:
        raise Damaged(f"the record of extent {number} cannot be read: {error}") from error
    return Placement(ExtentId(volume, number), length, scheme, fragments), windows


def decode_freed(volume: VolumeId, number: int, value: bytes) -> tuple[Lsn, Placement]:
    """Position of the batch that freed the extent, and its placement, from an `F` record. Raises `Damaged`."""
    if len(value) < 8:
        raise Damaged(f"the record of freed extent {number} is cut off")
    return Lsn(int.from_bytes(value[:8], "little")), decode_extent(volume, number, value[8:])[0]


def live(value: bytes) -> int:
    """The count in an extent's record of live pages."""
    return int.from_bytes(value, "little")


class Extents:
    """One volume's extents: numbers, placements, deletion of the freed, collection of orphans."""

    def __init__(self, volume: VolumeId, keyspace: KeySpace, pool: Pool) -> None:
        self.volume = volume
        self._keyspace = keyspace
        self._pool = pool
        self._free_numbers: list[range] = []
        self._fences = 0
        self._in_use: set[int] = set()
        """Numbers taken and not yet recorded or given up, and the first of each range whose grant is not stable yet."""
        self._placements: dict[int, Placement] = {}
        self._in_doubt = 0
        """As the pool had it when orphans were collected last."""

    # Reading

    def placement(self, number: int) -> Placement:
        """Where an extent lies. Remembered: a number's placement never changes. Raises `ExtentGone`."""
        known = self._placements.get(number)
        if known is None:
            value = self._keyspace.get(keys.bucket(keys.EXTENT, number))
            if value is None:
                raise ExtentGone(f"extent {number} has been freed")
            known, _ = decode_extent(self.volume, number, value)
            if len(self._placements) >= 65536:
                self._placements.clear()
            self._placements[number] = known
        return known

    async def all(self, pause: Callable[[], Awaitable[None]]) -> AsyncGenerator[tuple[int, Placement, tuple[int, ...]], None]:
        """Every recorded extent with the windows that may name its pages, in slices between which others have their turn.

        Those that are recorded or freed meanwhile may or may not be among them.
        """
        start = keys.EXTENT
        while start:
            found: list[tuple[int, bytes]] = []
            following = b""
            for key, value in self._keyspace.walk(keys.EXTENT, start):
                if len(key) == keys.BUCKET:
                    if len(found) == _SLICE:
                        following = key
                        break
                    found.append((int.from_bytes(key[1:]), value))
            for number, value in found:
                yield number, *decode_extent(self.volume, number, value)
            start = following
            await pause()

    # Writing

    async def take(self) -> int:
        """A number that was never used; `done` must be called with it. Raises `Unavailable`."""
        while not self._free_numbers:
            await self._grant()
        numbers = self._free_numbers[0]
        if len(numbers) == 1:
            self._free_numbers.pop(0)
        else:
            self._free_numbers[0] = numbers[1:]
        number = numbers[0]
        self._in_use.add(number)
        return number

    async def _grant(self) -> None:
        """Gets a further range. Two that come here at once get one each, which does no harm."""
        keyspace = self._keyspace
        value = keyspace.get(NEXT)
        first = 1 if value is None else int.from_bytes(value, "little")
        batch = Batch()
        batch.put(keys.bucket(keys.GRANTED, first), _GRANTED.pack(GRANT))
        batch.put(NEXT, (first + GRANT).to_bytes(8, "little"))
        lsn = keyspace.commit_cleaning(batch)
        fences = self._fences
        # A collection of orphans that comes along meanwhile must leave the range alone.
        self._in_use.add(first)
        try:
            await keyspace.log.reach(lsn)
            if fences == self._fences:
                self._free_numbers.append(range(first, first + GRANT))
        finally:
            self._in_use.discard(first)

    def fence(self) -> tuple[int, tuple[int, ...]]:
        """Draws a line for a snapshot: the lowest number that is taken from now on, and the lower ones whose extents are still to be recorded.

        Numbers that were granted and not taken yet are given up.
        """
        self._fences += 1
        self._free_numbers.clear()
        value = self._keyspace.get(NEXT)
        first = 1 if value is None else int.from_bytes(value, "little")
        return first, tuple(sorted(number for number in self._in_use if number < first))

    def done(self, number: int) -> None:
        """The number's extent has been recorded, or never will be."""
        self._in_use.discard(number)

    async def write(self, number: int, data: Sequence[Buffer], policy: Policy, names: Sequence[int], sums: Sequence[int] | None = None) -> Placement:
        """Writes an extent, durable on return; `sums` are its pages' CRC32Cs. Raises `NoSpace`, `DiskFailed`."""
        packed = struct.pack(f"<{len(names)}Q", *names)
        return await self._pool.write(ExtentId(self.volume, number), data, policy, packed, sums)

    async def abandon(self, placement: Placement) -> None:
        """Deletes an extent that was written and will not be recorded."""
        await self._pool.delete(placement)

    def record(self, batch: Batch, placement: Placement, windows: Sequence[int], pages: int) -> None:
        """Adds the records of a new extent with so many live pages to a batch."""
        number = placement.id.number
        assert len(windows) <= WINDOW_LIMIT
        batch.put(keys.bucket(keys.EXTENT, number), encode_extent(placement, windows))
        batch.put(keys.live_pages(number), pages.to_bytes(4, "little"))

    # Giving back

    async def delete_freed(self) -> int:
        """Deletes freed extents whose freeing no recovery can undo; gives how many."""
        ready: list[Placement] = []
        for key, value in self._keyspace.walk(keys.FREED):
            lsn, placement = decode_freed(self.volume, int.from_bytes(key[1:9]), value)
            if lsn < self._keyspace.checkpointed:
                ready.append(placement)
                if len(ready) == 64:
                    break
        for placement in ready:
            await self._pool.delete(placement)
            self._placements.pop(placement.id.number, None)
        if ready:
            batch = Batch()
            for placement in ready:
                batch.delete(keys.bucket(keys.FREED, placement.id.number))
            self._keyspace.commit_cleaning(batch)
        return len(ready)

    async def collect_orphans(self) -> int:
        """Deletes extents, and fragments of extents, that no record knows, below the lowest number that may still be in use; gives how many."""
        value = self._keyspace.get(NEXT)
        if value is None:
            return 0
        limit = min((int.from_bytes(value, "little"), *self._in_use, *(numbers[0] for numbers in self._free_numbers)))
        closed = self._closed(limit)
        in_doubt = self._pool.in_doubt
        if limit == 1 or (not closed and in_doubt == self._in_doubt):
            return 0
        await self._keyspace.log.sync()
        ids = range(1, limit)
        await self._pool.revoke(self.volume, ids)
        orphans = await self._pool.orphans(self.volume, ids, self._recorded)
        for placement in orphans:
            await self._pool.delete(placement)
        self._in_doubt = in_doubt
        if closed:
            batch = Batch()
            for key in closed:
                batch.delete(key)
            self._keyspace.commit(batch, reserved=True)
        return len(orphans)

    @property
    def doubtful(self) -> bool:
        """Whether there may be orphans of which no granted range tells."""
        return self._pool.in_doubt != self._in_doubt

    def _recorded(self, number: int) -> tuple[Fragment, ...]:
        """Where an extent lies by its record, whether it is still used or freed and not deleted yet; nothing if there is none."""
        value = self._keyspace.get(keys.bucket(keys.EXTENT, number))
        if value is not None:
            return decode_extent(self.volume, number, value)[0].fragments
        value = self._keyspace.get(keys.bucket(keys.FREED, number))
        return () if value is None else decode_freed(self.volume, number, value)[1].fragments

    def _closed(self, limit: int) -> list[bytes]:
        """Granted ranges that lie below `limit` as a whole: all their extents are recorded, or orphans."""
        return [key for key, value in self._keyspace.walk(keys.GRANTED) if int.from_bytes(key[1:9]) + _GRANTED.unpack(value)[0] <= limit]
