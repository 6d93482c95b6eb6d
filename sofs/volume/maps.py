"""Which leaves a file sees: those of its own map, and behind it those of the frozen maps that it was cloned from.

Leaves belong to a map. Cloning a whole file *freezes* the map that it has: nobody writes to that any more, and both the file and its clone get a new, empty
one whose *origin* is the frozen one. A leaf that a map does not have is looked for in its origin, up to the origin's *limit*; a stored leaf of holes
hides the one behind it. The first change within a leaf makes the whole leaf the file's own, and its pages shared from then on.

    file        own map -> frozen map -> frozen map ...
    clone       own map ----^

A file that never took part in such a clone has nothing but a map with the number of its inode. One that did carries the mark CLONED, and its record ends with

    map         8 bytes, as in keys
    origin      8 bytes, as in keys; 0: nothing is behind the map
    limit       u64: leaves from this number on are not looked for in the origin; with `BARE` the map has no leaf of its own yet
    inherited   u64: pages, no holes, that the file sees in leaves that are not its own

A frozen map has a record (`B`) of its own with origin, limit and inherited, the pages of its own leaves and the number of its readers: files and
frozen maps whose origin it is. The readers are listed beside it.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from sofs.errors import Damaged, Delayed
from sofs.volume.inode import CLONED, TAIL_SIZE
from sofs.volume.keys import FROZEN, IDLE, LEAF, RESTORING

TAIL = struct.Struct("<8s8sQQ")
assert TAIL.size == TAIL_SIZE
_FROZEN = struct.Struct("<8sQQQI")

NOTHING = bytes(8)
"""The origin of a map that has nothing behind it."""
NO_LIMIT = 1 << 52
"""A leaf behind every file's last."""

BARE = 1 << 63
"""In the limit of a file: looking for a leaf that is not there would take a sixth of a read."""

Get = Callable[[bytes], bytes | None]


class Scanner(Protocol):
    """Records that can be read one by one and in order."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, bucket: bytes, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...


class Way(NamedTuple):
    """How the leaves of a file are found."""

    map: bytes
    """As in keys; so is the origin."""
    origin: bytes = NOTHING
    limit: int = 0


class Frozen(NamedTuple):
    """The record of a frozen map."""

    origin: bytes
    limit: int
    inherited: int
    pages: int
    """In its own leaves, no holes."""
    readers: int


def frozen_key(map_: bytes) -> bytes:
    return FROZEN + map_


def reader_key(origin: bytes, reader: bytes) -> bytes:
    """The key under which a frozen map lists a reader."""
    return FROZEN + origin + reader


def idle_key(map_: bytes) -> bytes:
    return IDLE + map_


def encode_frozen(frozen: Frozen) -> bytes:
    return _FROZEN.pack(*frozen)


def decode_frozen(value: bytes) -> Frozen:
    """Raises `Damaged`."""
    if len(value) != _FROZEN.size:
        raise Damaged(f"the record of a frozen map has {len(value)} bytes")
    return Frozen._make(_FROZEN.unpack(value))


def map_of(number: bytes, record: bytes) -> bytes:
    """The file's own map; `number` is its inode's, as in keys."""
    return record[-TAIL_SIZE : 8 - TAIL_SIZE] if record[1] & CLONED else number


def way(number: bytes, record: bytes) -> Way:
    """How the leaves of a file are found, from its inode's record."""
    if not record[1] & CLONED:
        return Way(number)
    map_, origin, limit, _ = TAIL.unpack_from(record, len(record) - TAIL_SIZE)
    return Way(map_, origin, limit & ~BARE)


def find(get: Get, way: Way, index: int) -> bytes | None:
    """The leaf that is seen at this index, or None if there are only holes."""
    map_, origin, limit = way
    suffix = index.to_bytes(8)
    leaf = get(LEAF + map_ + suffix)
    while leaf is None and origin != NOTHING and index < limit:
        leaf = get(LEAF + origin + suffix)
        if leaf is None:
            _, origin, limit = _behind(get, origin)
    return leaf


def find_cloned(get: Get, record: bytes, index: int) -> bytes | None:
    """The same for the record of a file that is CLONED, as reading a page does it: 1 us less."""
    suffix = index.to_bytes(8)
    limit = int.from_bytes(record[-16:-8], "little")
    leaf = None if limit & BARE else get(LEAF + record[-32:-24] + suffix)
    if leaf is None:
        origin = record[-24:-16]
        if origin != NOTHING and index < limit & ~BARE:
            leaf = get(LEAF + origin + suffix)
            if leaf is None:
                leaf = find(get, _behind(get, origin), index)
    return leaf


def _behind(get: Get, map_: bytes) -> Way:
    value = get(FROZEN + map_)
    if value is None:
        if get(RESTORING) is not None:
            # Records are of two times now; this is a request that waited for something when the restoration began.
            raise Delayed("the volume is being brought back to a snapshot")
        raise AssertionError(f"no frozen map {int.from_bytes(map_):x}")
    frozen = decode_frozen(value)
    return Way(map_, frozen.origin, frozen.limit)


def depth(get: Get, way: Way) -> int:
    """How many maps are behind a file's own."""
    count = 0
    while way.origin != NOTHING:
        count += 1
        way = _behind(get, way.origin)
    return count


def visible(records: Scanner, way: Way, low: int, high: int) -> Iterator[tuple[int, bytes, bool]]:
    """The leaves from `low` up to, not including, `high` that a file sees, in order: (index, leaf, whether it is its own)."""
    for index, leaf, level in _merged(records, way, low, high, 0):
        yield index, leaf, level == 0


def first(records: Scanner, way: Way, low: int, high: int) -> int | None:
    """The index of the first leaf that a file sees there."""
    found = next(_merged(records, way, low, high, 0), None)
    return None if found is None else found[0]


def _merged(records: Scanner, way: Way, low: int, high: int, level: int) -> Iterator[tuple[int, bytes, int]]:
    """The same with how far behind each leaf was found."""
    map_, origin, limit = way
    bucket = LEAF + map_
    own = ((int.from_bytes(key[9:]), leaf, level) for key, leaf in records.scan(bucket, bucket + low.to_bytes(8), bucket + high.to_bytes(8)))
    limit = min(limit, high)
    if origin == NOTHING or low >= limit:
        yield from own
        return
    mine = next(own, None)
    for theirs in _merged(records, _behind(records.get, origin), low, limit, level + 1):
        while mine is not None and mine[0] < theirs[0]:
            yield mine
            mine = next(own, None)
        if mine is not None and mine[0] == theirs[0]:
            continue  # it hides the one behind it; it is given when its successor is met
        yield theirs
    while mine is not None:
        yield mine
        mine = next(own, None)
