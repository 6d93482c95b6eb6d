"""What becomes of the records when a snapshot is taken, deleted or restored: operations and their pure `apply` functions.

    SNAPSHOT  takes a snapshot at this batch's position: number, extents, inodes, time (u64 each), count of extents under way u16, length of the name u16,
              those extents (u64 each), name
    FORGET    deals with a part of what a snapshot that is being deleted has in the index: number u64, first and last place (length u16 and bytes each)
    FINISH    removes a snapshot that has nothing left in the index: number u64
    RESTORE   makes records what they were at a snapshot: number, time (u64 each), keys (length u16 and bytes each)

Deleting and restoring go in slices, each a batch that leaves records which agree with each other.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping

from sofs.errors import Damaged
from sofs.types import Kind, Lsn, Time
from sofs.volume import leaves, windows
from sofs.volume.batch import Apply, Batch, Mutator, Operation
from sofs.volume.inode import SHARES_PAGES, InodeRecord
from sofs.volume.keys import BUCKET, DEAD, EXTENT_BORN, FILES, INODE, LEAF, LEAF_PAGES, REFERENCES, RESERVED, SAVED_INDEX, WINDOW_SHIFT, meta
from sofs.volume.losses import Dropped, bereave, destaged_below, settle, unname
from sofs.volume.snapshots import deadlists
from sofs.volume.snapshots.history import READY, Snapshot
from sofs.volume.snapshots.past_keys import past_value
from sofs.volume.snapshots.saving import index_key

NEXT_SNAPSHOT = meta(b"next snapshot")
"""The lowest number that no snapshot ever had, u64; 1 at first."""

_TAKE = struct.Struct("<QQQQHH")
_NUMBER = struct.Struct("<Q")
_RESTORE = struct.Struct("<QQ")
_LENGTH = struct.Struct("<H")

_RESTORED_CHANGE = 1 << 32
"""How far a restored file's change attribute jumps: no client may take an old state of it for the present one."""


def take(batch: Batch, number: int, extents: int, under_way: tuple[int, ...], inodes: int, taken: Time, name: bytes) -> None:
    """Adds SNAPSHOT to the batch."""
    body = _TAKE.pack(number, extents, inodes, taken, len(under_way), len(name))
    batch.raw(Operation.SNAPSHOT, body + struct.pack(f"<{len(under_way)}Q", *under_way) + name)


def forget(batch: Batch, number: int, first: bytes, last: bytes) -> None:
    """Adds FORGET to the batch: from the place `first` to `last`, both included."""
    batch.raw(Operation.FORGET, _NUMBER.pack(number) + _strings((first, last)))


def finish(batch: Batch, number: int) -> None:
    """Adds FINISH to the batch."""
    batch.raw(Operation.FINISH, _NUMBER.pack(number))


def restore(batch: Batch, number: int, now: Time, keys: Iterable[bytes]) -> None:
    """Adds RESTORE to the batch."""
    batch.raw(Operation.RESTORE, _RESTORE.pack(number, now) + _strings(keys))


def index_bucket(number: int) -> bytes:
    """The bucket of a snapshot's index: its keys go on with the places."""
    return SAVED_INDEX + number.to_bytes(8)


def _strings(parts: Iterable[bytes]) -> bytes:
    return b"".join([_LENGTH.pack(len(part)) + part for part in parts])


def _split(body: bytes, at: int) -> Iterator[bytes]:
    while at < len(body):
        end = at + 2 + int.from_bytes(body[at : at + 2], "little")
        if end > len(body):
            raise Damaged(f"an operation of {len(body)} bytes ends within a key")
        yield body[at + 2 : end]
        at = end


def _apply_snapshot(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, extents, inodes, taken, count, length = _TAKE.unpack_from(body)
    under_way = struct.unpack_from(f"<{count}Q", body, _TAKE.size)
    name = body[_TAKE.size + 8 * count :]
    if len(name) != length:
        raise Damaged(f"SNAPSHOT of {len(body)} bytes")
    snapshot = Snapshot(number, lsn, extents, inodes, Time(taken), READY, under_way, name)
    records.put(snapshot.key, snapshot.encode())
    records.put(NEXT_SNAPSHOT, (number + 1).to_bytes(8, "little"))
    records.history.add(snapshot)


def _apply_forget(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    (number,) = _NUMBER.unpack_from(body)
    first, last = _split(body, _NUMBER.size)
    older, _ = records.history.neighbours(number)
    bucket = index_bucket(number)
    dropped = Dropped(destaged_below(records))
    for key, _ in list(records.scan(bucket, bucket + first, bucket + last + b"\0")):
        place = key[BUCKET:]
        if place[:1] == DEAD:
            window = int.from_bytes(place[1:])
            for offset, pages in deadlists.pass_on(records, window, number):
                bereave(records, dropped, (window << WINDOW_SHIFT) + offset, pages)
        else:
            _forget_saved(records, place, number, older)
    settle(records, dropped, lsn, 0, 0)


def _forget_saved(records: Mutator, place: bytes, number: int, older: int) -> None:
    """The next older snapshot takes a saved value over if it has none of its own and what it belongs to was there already."""
    saved = place + number.to_bytes(8)
    if older:
        kept = place + older.to_bytes(8)
        snapshot = records.history[older]
        if not snapshot.lacks(int.from_bytes(place[1:BUCKET])) and records.get(kept) is None:
            value = records.get(saved)
            assert value is not None, "the index names a saved value that is not there"
            records.put(kept, value)
            records.put(index_key(older, place), b"")
    records.delete(saved)
    records.delete(index_key(number, place))


def _apply_finish(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    (number,) = _NUMBER.unpack(body)
    history = records.history
    _, younger = history.neighbours(number)
    deadlists.merge_counts(records, number, younger)
    records.delete(history[number].key)
    history.remove(number)


# Restoring


def _apply_restore(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    number, now = _RESTORE.unpack_from(body)
    snapshot = records.history[number]
    dropped = Dropped(destaged_below(records))
    reserved = 0
    for key in _split(body, _RESTORE.size):
        old, new = records.get(key), past_value(records, snapshot, key)
        if key[:1] == LEAF:
            reserved += _restore_leaf(records, dropped, key, old, new, lsn)
        elif key[:1] == INODE:
            _restore_inode(records, key, old, new, now)
        elif new is None:
            records.delete(key)
        elif new != old:
            records.put(key, new)
    settle(records, dropped, lsn, 0, reserved)


def _restore_inode(records: Mutator, key: bytes, old: bytes | None, new: bytes | None, now: int) -> None:
    if new is None:
        if old is not None:
            records.delete(key)
            records.add(FILES, -1)
        return
    if old is None:
        records.add(FILES, 1)
    record = InodeRecord.decode(new)
    change = max(record.change, 0 if old is None else InodeRecord.decode(old).change) + _RESTORED_CHANGE
    # Its pages may have more than one reference from now on.
    marks = record.marks | SHARES_PAGES if record.kind == Kind.FILE else record.marks
    records.put(key, record._replace(marks=marks, changed=now, change=change).encode())


def _restore_leaf(records: Mutator, dropped: Dropped, key: bytes, old: bytes | None, new: bytes | None, lsn: Lsn) -> int:
    """Puts the leaf back; gives how many reserved pages that brings."""
    if old == new:
        return 0
    before = leaves.addresses(old or leaves.EMPTY, 0, LEAF_PAGES)
    after = leaves.addresses(new or leaves.EMPTY, 0, LEAF_PAGES)
    same = tuple(a == b for a, b in zip(before, after, strict=True))
    coming = tuple(0 if equal else page for page, equal in zip(after, same, strict=True))
    going = tuple(0 if equal else page for page, equal in zip(before, same, strict=True))
    for _, name, count in leaves.runs(coming):
        if name >= leaves.PLACED:
            for window, offset, pages in windows.pieces(name, count):
                _reference(records, window, deadlists.bring_back(records, window, offset, pages, lsn))
                if dropped.destaged <= name < EXTENT_BORN:
                    _list(records, window, offset, pages)
    if new is None:
        records.delete(key)
    else:
        records.put(key, new)
    unname(records, dropped, going, True)
    return coming.count(RESERVED)


def _list(records: Mutator, window: int, offset: int, pages: int) -> None:
    """Lists pages of the log, with the references that they have: the leaf that they were written for may not be among those that name them."""
    key = REFERENCES + window.to_bytes(8)
    records.put(key, windows.listed(records.get(key), offset, pages))


def _reference(records: Mutator, window: int, runs: list[tuple[int, int]]) -> None:
    """One more reference for pages that live."""
    key = REFERENCES + window.to_bytes(8)
    value = records.get(key)
    for offset, pages in runs:
        value = windows.share(value, offset, pages)
    if runs:
        assert value is not None
        records.put(key, value)


APPLIERS: Mapping[int, Apply] = {
    Operation.SNAPSHOT: _apply_snapshot,
    Operation.FORGET: _apply_forget,
    Operation.FINISH: _apply_finish,
    Operation.RESTORE: _apply_restore,
}
"""For `KeySpace`."""
