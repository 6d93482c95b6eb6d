"""Clones of whole files, as operations: the apply functions by which maps are frozen, read through, taken over and trimmed.

    CLONE_FILE  the target becomes what the source is; the source's map is frozen if it has leaves, and both read through it
    FLATTEN     leaves that are seen through an origin become the map's own
    THAW        the only reader of a frozen map, which has no leaves of its own, takes it as its own map
    TRIM        a frozen map without readers loses leaves, with the last of them everything

`maps.py` tells what a map, an origin and a frozen map are. As in `mapping.py`, what follows from an operation is done here, and nothing but
the records is read.
"""

import struct
from collections.abc import Mapping

from sofs.types import Inode, Lsn, Time
from sofs.volume import leaves, losses, mapping
from sofs.volume.batch import Apply, Mutator, Operation
from sofs.volume.inode import CLONED, SHARES_PAGES
from sofs.volume.keys import INODE, LEAF, LEAF_PAGES, MAP_BORN
from sofs.volume.maps import NO_LIMIT, NOTHING, Frozen, Way, decode_frozen, encode_frozen, frozen_key, idle_key, reader_key, visible
from sofs.volume.owning import Owner, leave, owner_of

_CLONE_FILE = struct.Struct("<8s8sQQB")
"""Target inode, source inode, size, time, flags."""
_LEAVES = struct.Struct("<8s8sQQ")
"""Inode (0 for a frozen map), map, first leaf, leaf behind the last: FLATTEN, TRIM."""


def clone_file(source: Inode, target: Inode, size: int, now: Time, flags: int = 0) -> bytes:
    """The body of CLONE_FILE, of which a batch may hold one. The target's own leaves go; they must be few."""
    return _CLONE_FILE.pack(target.to_bytes(8), source.to_bytes(8), size, now, flags)


def flatten(inode: Inode, map_: bytes, low: int, high: int) -> bytes:
    """The body of FLATTEN of the leaves from `low` up to, not including, `high`; `inode` is 0 for a frozen map."""
    return _LEAVES.pack(inode.to_bytes(8), map_, low, high)


def thaw(inode: Inode) -> bytes:
    """The body of THAW."""
    return inode.to_bytes(8)


def trim(map_: bytes, low: int, high: int) -> bytes:
    """The body of TRIM of a frozen map's leaves."""
    return _LEAVES.pack(NOTHING, map_, low, high)


def _inode(records: Mutator, number: bytes) -> tuple[bytes, bytes]:
    key = INODE + number
    value = records.get(key)
    assert value is not None, f"no inode {int.from_bytes(number)}"
    return key, value


def _pages(inode: bytes) -> int:
    return int.from_bytes(inode[28:36], "little")


def _frozen(records: Mutator, map_: bytes) -> Frozen:
    value = records.get(frozen_key(map_))
    assert value is not None, f"no frozen map {int.from_bytes(map_):x}"
    return decode_frozen(value)


def _has_leaves(records: Mutator, map_: bytes) -> bool:
    return next(records.scan(LEAF + map_), None) is not None


def _join(records: Mutator, origin: bytes, reader: bytes, inode: bytes) -> None:
    """A frozen map has a reader more."""
    frozen = _frozen(records, origin)
    records.put(frozen_key(origin), encode_frozen(frozen._replace(readers=frozen.readers + 1)))
    records.put(reader_key(origin, reader), inode)


def _apply_clone_file(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, source, size, now, flags = _CLONE_FILE.unpack(body)
    assert number != source
    key, inode = _inode(records, number)
    target = _emptied(records, number, inode, lsn)
    source_key, source_inode = _inode(records, source)
    given = owner_of(source, source_inode)
    pages = _pages(source_inode)
    seen = pages + given.inherited
    if seen:
        if _has_leaves(records, given.map):
            _freeze(records, given, source, pages, lsn)
            mapping.stamp(records, source_key, source_inode, None, -pages, 0, mapping.UNSEEN, SHARES_PAGES | CLONED, given)
        target.origin, target.limit, target.inherited = given.origin, given.limit, seen
        _join(records, given.origin, target.map, number)
    mapping.stamp(records, key, inode, size, -_pages(inode), now, flags, SHARES_PAGES | CLONED, target)


def _emptied(records: Mutator, number: bytes, inode: bytes, lsn: Lsn) -> Owner:
    """The file without its leaves and its origin."""
    owner = owner_of(number, inode)
    dropped = losses.Dropped(losses.destaged_below(records))
    if owner.origin != NOTHING:
        owner.inherited = 0
        owner.settle(records)
    mapping.clear(records, dropped, owner, 0, mapping.FOREVER)
    owner.bare = True
    losses.settle(records, dropped, lsn, 0, 0)
    return owner


def _freeze(records: Mutator, owner: Owner, number: bytes, pages: int, lsn: Lsn) -> None:
    """The file's map, with so many pages, is frozen; it gets a new one, which is empty and has the old one behind it."""
    frozen = Frozen(owner.origin, owner.limit, owner.inherited, pages, 0)
    records.put(frozen_key(owner.map), encode_frozen(frozen))
    if owner.origin != NOTHING:
        # What read through the origin was the file; from now on it is its frozen map.
        records.put(reader_key(owner.origin, owner.map), NOTHING)
    owner.origin, owner.limit, owner.inherited = owner.map, NO_LIMIT, owner.inherited + pages
    owner.map = (MAP_BORN | lsn).to_bytes(8)
    owner.bare = True
    _join(records, owner.origin, owner.map, number)


def _apply_flatten(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, map_, low, high = _LEAVES.unpack(body)
    if number != NOTHING:
        key, inode = _inode(records, number)
        owner = owner_of(number, inode)
        _lift(records, owner, low, high, lsn)
        mapping.stamp(records, key, inode, None, 0, 0, mapping.UNSEEN, 0, owner)
        return
    frozen = _frozen(records, map_)
    owner = Owner(map_, True, frozen.origin, frozen.limit, frozen.inherited)
    _lift(records, owner, low, high, lsn)
    owner.settle(records)
    records.put(frozen_key(map_), encode_frozen(Frozen(owner.origin, owner.limit, owner.inherited, frozen.pages + owner.more, frozen.readers)))


def _lift(records: Mutator, owner: Owner, low: int, high: int, lsn: Lsn) -> None:
    """Makes the leaves in this range that are seen through the origin the map's own."""
    for index, leaf, own in list(visible(records, Way(owner.map, owner.origin, owner.limit), low, high)):
        # A leaf of holes goes on hiding what is behind it where it is.
        if not own and leaf != leaves.EMPTY:
            records.put(LEAF + owner.map + index.to_bytes(8), owner.lift(records, leaf, 0, 0))
    losses.settle(records, losses.Dropped(0), lsn, 0, owner.reserved)


def _apply_thaw(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    key, inode = _inode(records, body)
    owner = owner_of(body, inode)
    frozen = _frozen(records, owner.origin)
    assert frozen.readers == 1 and owner.limit == NO_LIMIT, "others read through it, or not all of it is seen"
    assert not _has_leaves(records, owner.map), "the file has leaves of its own"
    records.delete(reader_key(owner.origin, owner.map))
    records.delete(frozen_key(owner.origin))
    records.delete(idle_key(owner.origin))
    if frozen.origin != NOTHING:
        records.put(reader_key(frozen.origin, owner.origin), body)
    owner.map, owner.origin, owner.limit, owner.inherited = owner.origin, *frozen[:3]
    owner.bare = False
    mapping.stamp(records, key, inode, None, frozen.pages, 0, mapping.UNSEEN, 0, owner)


def _apply_trim(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    _, map_, low, high = _LEAVES.unpack(body)
    frozen = _frozen(records, map_)
    assert frozen.readers == 0, "somebody reads through it"
    if frozen.origin != NOTHING:
        leave(records, frozen.origin, map_)
    dropped = losses.Dropped(losses.destaged_below(records))
    gone = mapping.clear(records, dropped, Owner(map_, True), low * LEAF_PAGES, high * LEAF_PAGES)
    losses.settle(records, dropped, lsn, 0, 0)
    # Looked for only at the end: every leaf that is gone already is passed by again.
    if gone < frozen.pages or _has_leaves(records, map_):
        records.put(frozen_key(map_), encode_frozen(Frozen(NOTHING, 0, 0, frozen.pages - gone, 0)))
        return
    records.delete(frozen_key(map_))
    records.delete(idle_key(map_))


APPLIERS: Mapping[int, Apply] = {
    Operation.CLONE_FILE: _apply_clone_file,
    Operation.FLATTEN: _apply_flatten,
    Operation.TRIM: _apply_trim,
    Operation.THAW: _apply_thaw,
}
