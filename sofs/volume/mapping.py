"""What becomes of a file's map when a batch is applied: the data operations and their pure `apply` functions.

    WRITE     pages get new data, which is the batch's payload: they are named by its position in the log
    MAP       pages get new data that lies in an extent already; PUTs of the extent and its windows go before it in the batch
    PUNCH     pages become holes, or reserved
    ALLOCATE  holes become reserved
    TRUNCATE  sets the size; pages behind the new end become holes
    CLONE     pages name what another range's pages name
    DROP      all of a file's pages become holes; its inode, about to be removed, stays as it is
    FREE      an extent whose live pages have all been moved elsewhere is freed

What follows from an operation is not logged but done here: the inode's size, pages and times, the counts of live and
reserved pages, references, and the freeing of an extent whose last live page goes. Nothing here reads anything but the records, so each
replica and each replay comes to the same. The coordinator has checked everything before; what does not fit is a violated invariant.

A page whose name is log-born and not below `destaged` lies in the log, at that address. Any other lies where its window says
(`windows.py`).
"""

import struct
from collections.abc import Mapping

from sofs.types import PAGE, Inode, Lsn, Time
from sofs.volume import leaves
from sofs.volume.batch import Apply, Mutator, Operation
from sofs.volume.inode import CLONED, SHARES_PAGES, TAIL_SIZE, apply_patch
from sofs.volume.keys import EXTENT_BORN, HOLE, INODE, LEAF, LEAF_PAGES, LOG_PAGES, RESERVED, RESERVED_PAGES
from sofs.volume.losses import Dropped, destaged_below, free_extent, settle, unname
from sofs.volume.maps import NOTHING, Way, visible
from sofs.volume.owning import Owner, owner_of, share

KEEP_MODIFIED = 1
"""The file's `modified` stays (FILETIME -1, MS-FSCC 2.4.7)."""
RESERVE = 2
"""Punched pages stay reserved."""
UNSEEN = 4
"""Nobody can see the change, so no time changes: trimming of what has been deleted."""
MAPPED = 8
"""The number of the file's map ends the body of a WRITE: it is not that of its inode."""

# Bodies. Each begins with the inode, big-endian as in the keys, so that keys are made from it by concatenation.

_WRITE = struct.Struct("<8sQIIQQB")
"""Inode, first page, pages, where in the payload the data begins, size, time, flags; then the pages' checksums (u32); then, with MAPPED, the file's map."""
_MAP = struct.Struct("<8sQIQQQB")
"""Inode, first page, pages, the first page's name, size, time, flags; then the pages' checksums (u32)."""
_RANGE = struct.Struct("<8sQQQQB")
"""Inode, first page, page behind the last, size, time, flags: PUNCH, ALLOCATE, TRUNCATE."""
_CLONE = struct.Struct("<8s8sQQQQQB")
"""Target inode, source inode, source's first page, target's first page, pages, target's size, time, flags."""

FOREVER = 1 << 52
"""A page behind every file's last."""


def write(inode: Inode, first: int, sums: bytes, at: int, size: int, now: Time, flags: int = 0, map_: bytes = b"") -> bytes:
    """The body of WRITE: `sums` are the packed checksums of the pages, the file's size becomes `size`. `map_` is the file's
    map, as in keys, for a file that is CLONED: destaging asks its leaves, whatever becomes of the file."""
    if map_:
        flags |= MAPPED
    return _WRITE.pack(inode.to_bytes(8), first, len(sums) >> 2, at, size, now, flags) + sums + map_


def written(body: bytes) -> tuple[bytes, int, int, int, tuple[int, ...]]:
    """What destaging needs of a WRITE: (map as in keys, first page, pages, where in the payload, checksums)."""
    number, first, count, at, _, _, flags = _WRITE.unpack_from(body)
    if flags & MAPPED:
        number = body[-8:]
    return number, first, count, at, struct.unpack_from(f"<{count}I", body, _WRITE.size)


def map_pages(inode: Inode, first: int, sums: bytes, name: int, size: int, now: Time, flags: int = 0) -> bytes:
    """The body of MAP: the pages are named from `name` on."""
    return _MAP.pack(inode.to_bytes(8), first, len(sums) >> 2, name, size, now, flags) + sums


def punch(inode: Inode, first: int, last: int, now: Time, flags: int = 0) -> bytes:
    """The body of PUNCH of the pages from `first` up to, not including, `last`."""
    return _RANGE.pack(inode.to_bytes(8), first, last, 0, now, flags)


def allocate(inode: Inode, first: int, last: int, size: int, now: Time, flags: int = 0) -> bytes:
    return _RANGE.pack(inode.to_bytes(8), first, last, size, now, flags)


def truncate(inode: Inode, size: int, now: Time, flags: int = 0) -> bytes:
    """The body of TRUNCATE. What stays of a last page that the new end cuts must have been zeroed behind it by a WRITE."""
    return _RANGE.pack(inode.to_bytes(8), -(-size // PAGE), FOREVER, size, now, flags)


def clone(source: Inode, source_first: int, target: Inode, first: int, count: int, size: int, now: Time, flags: int = 0) -> bytes:
    return _CLONE.pack(target.to_bytes(8), source.to_bytes(8), source_first, first, count, size, now, flags)


def drop(inode: Inode) -> bytes:
    """The body of DROP."""
    return inode.to_bytes(8)


def free(extent: int) -> bytes:
    """The body of FREE."""
    return extent.to_bytes(8)


_FIELDS = struct.Struct("<20sQQ16sQQQ")
"""An inode's record up to the fields that change here (`inode.py` has the layout): size, pages; modified, changed, change.

Unpacked and packed as a whole: 0.5 us, where patching a bytearray costs 1.4.
"""
_MARKS_AT = 1
_PAGES = slice(28, 36)


def stamp(
    records: Mutator, key: bytes, value: bytes, size: int | None, more: int, now: int, flags: int, marks: int = 0, owner: Owner | None = None
) -> None:
    """Sets size, pages, times and change of an inode; and where its leaves are, if `owner` is given and it is CLONED."""
    head, old_size, pages, middle, modified, changed, change = _FIELDS.unpack_from(value)
    if not flags & UNSEEN:
        changed = now
        change += 1
        if not flags & KEEP_MODIFIED:
            modified = now
    if marks:
        head = head[:_MARKS_AT] + bytes((head[_MARKS_AT] | marks,)) + head[_MARKS_AT + 1 :]
    size = old_size if size is None else size
    rest = value[_FIELDS.size :]
    if owner is not None and head[_MARKS_AT] & CLONED:
        owner.settle(records)
        more += owner.more
        rest = (rest[:-TAIL_SIZE] if value[_MARKS_AT] & CLONED else rest) + owner.tail()
    records.put(key, _FIELDS.pack(head, size, pages + more, middle, modified, changed, change) + rest)


def _inode(records: Mutator, number: bytes) -> tuple[bytes, bytes]:
    key = INODE + number
    value = records.get(key)
    assert value is not None, f"no inode {int.from_bytes(number)}"
    return key, value


def _replace(records: Mutator, dropped: Dropped, owner: Owner, first: int, places: bytes, sums: bytes, holes: int = 0) -> int:
    """Makes the file's pages from `first` on name others, `holes` of them nothing; gives how many more of them are no holes."""
    count = len(sums) >> 2
    more = count - holes
    done = 0
    while done < count:
        index, slot = divmod(first + done, LEAF_PAGES)
        fits = min(LEAF_PAGES - slot, count - done)
        leaf = owner.leaf(records, index, slot, fits)
        old = leaves.addresses(leaf, slot, fits)
        more -= fits - old.count(HOLE)
        leaf = leaves.patch(leaf, slot, fits, places[done * 8 : (done + fits) * 8], sums[done * 4 : (done + fits) * 4])
        owner.store(records, index, leaf)
        unname(records, dropped, old, owner.shared)
        done += fits
    return more


def _apply_write(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, first, count, at, size, now, flags = _WRITE.unpack_from(body)
    base = address + at
    key, inode = _inode(records, number)
    slot = first & (LEAF_PAGES - 1)
    if count == 1 and not inode[_MARKS_AT] & CLONED:
        # Most writes of a virtual machine or a database: one page, often rewritten while still in the log.
        leaf_key = LEAF + number + (first // LEAF_PAGES).to_bytes(8)
        leaf = records.get(leaf_key) or leaves.EMPTY
        old = int.from_bytes(leaf[slot * 8 : slot * 8 + 8], "little")
        records.put(leaf_key, leaves.patch(leaf, slot, 1, base.to_bytes(8, "little"), body[_WRITE.size :]))
        more = 1 if old == HOLE else 0
        if more:
            records.add(LOG_PAGES, 1)
        else:
            destaged = destaged_below(records)
            shared = inode[_MARKS_AT] & SHARES_PAGES
            if shared or not max(destaged, records.history.horizon) <= old < EXTENT_BORN or old == RESERVED:
                dropped = Dropped(destaged)
                unname(records, dropped, (old,), bool(shared))
                settle(records, dropped, lsn, 1, 0)
            # Else a page in the log has taken the place of one in the log, which no snapshot holds.
        stamp(records, key, inode, size, more, now, flags)
        return
    owner = owner_of(number, inode)
    dropped = Dropped(destaged_below(records))
    names = struct.pack(f"<{count}Q", *range(base, base + count * PAGE, PAGE))
    sums = body[_WRITE.size : _WRITE.size + count * 4]
    more = _replace(records, dropped, owner, first, names, sums)
    settle(records, dropped, lsn, count, owner.reserved)
    stamp(records, key, inode, size, more, now, flags, 0, owner)


def _apply_map(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, first, count, name, size, now, flags = _MAP.unpack_from(body)
    key, inode = _inode(records, number)
    owner = owner_of(number, inode)
    dropped = Dropped(destaged_below(records))
    names = struct.pack(f"<{count}Q", *range(name, name + count * PAGE, PAGE))
    more = _replace(records, dropped, owner, first, names, body[_MAP.size :])
    settle(records, dropped, lsn, 0, owner.reserved)
    stamp(records, key, inode, size, more, now, flags, 0, owner)


def _apply_free(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    free_extent(records, int.from_bytes(body), lsn)


def clear(records: Mutator, dropped: Dropped, owner: Owner, first: int, last: int, keep: bool = False) -> int:
    """Makes pages of the owner's leaves holes, or, with `keep`, those that are none reserved; gives how many it dealt with.

    What is seen through the origin there is made the owner's first.
    """
    touched = 0
    if first >= last:
        return 0
    low, high = first // LEAF_PAGES, (last - 1) // LEAF_PAGES + 1
    found = visible(records, Way(owner.map, owner.origin, owner.limit), low, high)
    for index, leaf, own in found if owner.origin == NOTHING else list(found):
        base = index * LEAF_PAGES
        slot = max(first - base, 0)
        count = min(last - base, LEAF_PAGES) - slot
        if not own:
            # With `keep` the pages that go have to be seen, to be reserved; else they need not even come.
            leaf = owner.leaf(records, index, 0 if keep else slot, 0 if keep else count)
        old = leaves.addresses(leaf, slot, count)
        if keep:
            new = leaves.ADDRESSES[count].pack(*(RESERVED if page != HOLE else HOLE for page in old))
        else:
            new = bytes(count * 8)
        owner.store(records, index, leaves.patch(leaf, slot, count, new, bytes(count * 4)))
        touched += count - old.count(HOLE)
        unname(records, dropped, old, owner.shared)
    return touched


def _apply_punch(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, first, last, _, now, flags = _RANGE.unpack(body)
    key, inode = _inode(records, number)
    owner = owner_of(number, inode)
    dropped = Dropped(destaged_below(records))
    keep = flags & RESERVE != 0
    touched = clear(records, dropped, owner, first, last, keep)
    settle(records, dropped, lsn, 0, owner.reserved + (touched if keep else 0))
    stamp(records, key, inode, None, 0 if keep else -touched, now, flags, 0, owner)


def _apply_truncate(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, first, last, size, now, flags = _RANGE.unpack(body)
    key, inode = _inode(records, number)
    owner = owner_of(number, inode)
    dropped = Dropped(destaged_below(records))
    _lower(records, owner, -(-first // LEAF_PAGES))
    touched = clear(records, dropped, owner, first, last)
    settle(records, dropped, lsn, 0, owner.reserved)
    stamp(records, key, inode, size, -touched, now, flags, 0, owner)


def _lower(records: Mutator, owner: Owner, limit: int) -> None:
    """From leaf `limit` on nothing is seen through the origin any more."""
    if owner.origin == NOTHING or limit >= owner.limit:
        return
    if limit:
        way = Way(owner.map, owner.origin, owner.limit)
        for _, leaf, own in visible(records, way, limit, owner.limit):
            if not own:
                owner.inherited -= LEAF_PAGES - leaves.addresses(leaf, 0, LEAF_PAGES).count(HOLE)
    else:
        owner.inherited = 0  # however large the origin is
    owner.limit = limit
    owner.settle(records)


def _apply_drop(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    _, inode = _inode(records, body)
    owner = owner_of(body, inode)
    dropped = Dropped(destaged_below(records))
    _lower(records, owner, 0)
    if inode[_MARKS_AT] & CLONED or not _drop_first(records, dropped, owner, int.from_bytes(inode[_PAGES], "little")):
        clear(records, dropped, owner, 0, FOREVER)
    settle(records, dropped, lsn, 0, 0)


def _drop_first(records: Mutator, dropped: Dropped, owner: Owner, pages: int) -> bool:
    """Drops the first leaf of a file that has so many pages if these are all, as in most files: without a scan, 6 us less."""
    key = LEAF + owner.map + bytes(8)
    leaf = records.get(key)
    held = () if leaf is None else leaves.addresses(leaf, 0, LEAF_PAGES)
    if len(held) - held.count(HOLE) != pages:
        return False
    if held:
        records.delete(key)
        unname(records, dropped, held, owner.shared)
    return True


def _apply_allocate(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, first, last, size, now, flags = _RANGE.unpack(body)
    key, inode = _inode(records, number)
    owner = owner_of(number, inode)
    more = 0
    for index in range(first // LEAF_PAGES, -(-last // LEAF_PAGES)):
        base = index * LEAF_PAGES
        slot, stop = max(first - base, 0), min(last - base, LEAF_PAGES)
        leaf = owner.leaf(records, index, 0, 0)
        old = leaves.addresses(leaf, slot, stop - slot)
        holes = old.count(HOLE)
        if holes:
            new = leaves.ADDRESSES[len(old)].pack(*(page or RESERVED for page in old))
            checks = leaves.SUMS[len(old)].pack(*leaves.sums(leaf, slot, len(old)))
            leaf = leaves.patch(leaf, slot, len(old), new, checks)
            more += holes
        owner.store(records, index, leaf)
    if more + owner.reserved:
        records.add(RESERVED_PAGES, more + owner.reserved)
    stamp(records, key, inode, size, more, now, flags, 0, owner)


def _apply_clone(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, source, source_first, first, count, size, now, flags = _CLONE.unpack(body)
    source_key, source_inode = _inode(records, source)
    # All of the source is read before anything is changed: the ranges may overlap in one file.
    pages, sums = _named(records, owner_of(source, source_inode), source_first, count)
    # References come before anything is dropped: what is overwritten may be what is shared.
    share(records, pages)
    stamp(records, source_key, source_inode, None, 0, 0, UNSEEN, SHARES_PAGES)
    key, inode = _inode(records, number)
    owner = owner_of(number, inode)
    dropped = Dropped(destaged_below(records))
    more = _replace(records, dropped, owner, first, struct.pack(f"<{count}Q", *pages), struct.pack(f"<{count}I", *sums), pages.count(HOLE))
    settle(records, dropped, lsn, 0, owner.reserved)
    stamp(records, key, inode, size, more, now, flags, SHARES_PAGES, owner)


def _named(records: Mutator, owner: Owner, first: int, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Addresses and checksums of the pages that the owner sees; those that are reserved count as holes."""
    pages, sums = [HOLE] * count, [0] * count
    low, high = first // LEAF_PAGES, (first + count - 1) // LEAF_PAGES + 1
    for index, leaf, _ in visible(records, Way(owner.map, owner.origin, owner.limit), low, high):
        base = index * LEAF_PAGES
        slot = max(first - base, 0)
        length = min(first + count - base, LEAF_PAGES) - slot
        at = base + slot - first
        pages[at : at + length] = (page if page >= leaves.PLACED else HOLE for page in leaves.addresses(leaf, slot, length))
        sums[at : at + length] = leaves.sums(leaf, slot, length)
    return tuple(pages), tuple(sums)


APPLIERS: Mapping[int, Apply] = {
    Operation.WRITE: _apply_write,
    Operation.MAP: _apply_map,
    Operation.PUNCH: _apply_punch,
    Operation.TRUNCATE: _apply_truncate,
    Operation.CLONE: _apply_clone,
    Operation.ALLOCATE: _apply_allocate,
    Operation.DROP: _apply_drop,
    Operation.FREE: _apply_free,
    Operation.ATTRIBUTES: apply_patch,
}
"""For `KeySpace`."""
