"""Directories: entries by name and by cookie, in one index.

An entry's key is `(directory, hash48(upcase(name)), number15)`; the last 63 bits are its cookie. Names whose hashes are equal (case
variants, and by rare chance others) have the numbers 0, 1, 2, ... without gaps, so that a look-up is a few gets that end at the first
absent key, and never has to put a growing directory in order. Therefore an entry that goes while higher numbers of its hash remain
leaves a *vacant* entry (inode 0) behind, which the next such name takes over; vacant entries at the end go with the last real one.
Every other cookie is untouched, so a listing resumes anywhere.

Named streams are kept in the same way, under another tag: nothing here knows which it is. An *index* is a bucket: tag and owner.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sofs.errors import NoSpace
from sofs.types import Inode
from sofs.volume.batch import Batch
from sofs.volume.keys import BUCKET
from sofs.volume.keyspace import KeySpace
from sofs.volume.names import MAX_NUMBER, upcase

_HEAD = struct.Struct("<QB")
_NAME = _HEAD.size
_VACANT = _HEAD.pack(0, 0)

_MOST_NUMBERS = 1 << 10
"""Entries of one hash, which are variants of one name in practice. Each look-up may have to pass all of them, and a client could make all
that the numbers have room for."""

Get = Callable[[bytes], bytes | None]
Place = bytes
"""The key under which an entry stands or could stand."""


class Slot(NamedTuple):
    """An entry and where it stands."""

    place: Place
    inode: Inode
    kind: int
    name: bytes

    @property
    def cookie(self) -> int:
        return int.from_bytes(self.place[BUCKET:])


def find(get: Get, index: bytes, first: int, name: bytes, fold: bool) -> Slot | None:
    """The entry of this name: the exact one first, then (with `fold`) the lowest-numbered of those that differ in case only.

    `first` is the cookie that `NameHash.first` gives the name.
    """
    place = index + first.to_bytes(8)
    value = get(place)
    if value is None:
        return None
    if value[_NAME:] == name:
        inode, kind = _HEAD.unpack_from(value)
        return Slot(place, inode, kind, name)
    return _probe(get, index, first, name, fold)[0]


def look(get: Get, index: bytes, first: int, name: bytes, fold: bool) -> tuple[Slot | None, Place]:
    """The same, with the place that a new entry of this name would take. Raises `NoSpace` when there is none."""
    slot, place = _probe(get, index, first, name, fold)
    if place is None:
        raise NoSpace(f"the directory holds {_MOST_NUMBERS} names that differ in case only")
    return slot, place


def _probe(get: Get, index: bytes, first: int, name: bytes, fold: bool) -> tuple[Slot | None, Place | None]:
    folded = upcase(name) if fold else b""
    candidate = None
    vacant = None
    for cookie in range(first, first + _MOST_NUMBERS):
        place = index + cookie.to_bytes(8)
        value = get(place)
        if value is None:
            return candidate, vacant or place
        inode, kind = _HEAD.unpack_from(value)
        stored = value[_NAME:]
        if inode == 0:
            vacant = vacant or place
        elif stored == name:
            return Slot(place, inode, kind, stored), place
        elif fold and candidate is None and upcase(stored) == folded:
            candidate = Slot(place, inode, kind, stored)
    return candidate, vacant


def put(batch: Batch, place: Place, inode: Inode, kind: int, name: bytes) -> None:
    """Writes an entry at `place`: a free one that `look` gave, or one whose entry is replaced."""
    batch.put(place, _HEAD.pack(inode, kind) + name)


def remove(batch: Batch, get: Get, slot: Slot) -> None:
    """Takes an entry away, so that the numbers of its hash stay without gaps. Not twice for one hash in one batch."""
    index, cookie = slot.place[:BUCKET], slot.cookie
    number = cookie & MAX_NUMBER
    if number < MAX_NUMBER and get(index + (cookie + 1).to_bytes(8)) is not None:
        batch.put(slot.place, _VACANT)
        return
    batch.delete(slot.place)
    while number > 0:
        number -= 1
        cookie -= 1
        place = index + cookie.to_bytes(8)
        value = get(place)
        assert value is not None, "numbers of one hash have a gap"
        if value != _VACANT:
            break
        batch.delete(place)


def listing(keys: KeySpace, index: bytes, after: int) -> Iterator[tuple[int, Inode, int, bytes]]:
    """As `slots`, but cookie, inode, kind and name as plain tuples: 0.6 us less for each entry of a long listing."""
    unpack = _HEAD.unpack_from
    from_bytes = int.from_bytes
    for place, value in keys.scan(index, index + (after + 1).to_bytes(8)):
        inode, kind = unpack(value)
        if inode:
            yield from_bytes(place[BUCKET:]), inode, kind, value[_NAME:]


def slots(keys: KeySpace, index: bytes, after: int = 0) -> Iterator[Slot]:
    """All entries behind the cookie `after`, in the order of their cookies."""
    unpack = _HEAD.unpack_from
    for place, value in keys.scan(index, index + (after + 1).to_bytes(8)):
        inode, kind = unpack(value)
        if inode:
            yield Slot(place, inode, kind, value[_NAME:])
