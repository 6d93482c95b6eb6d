"""The lock engine against models simple enough to be right by inspection.

The model of byte ranges keeps, for each byte, who has locked it and how; that of share modes compares every two opens.
"""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.errors import DeletePending, LockConflict, LockNotHeld, SharingViolation
from sofs.locks import ranges, sharing, transitions
from sofs.locks.ranges import ByteLock
from sofs.locks.sharing import Opening
from sofs.locks.state import FREE, FileState
from sofs.types import OpenId

SIZE = 16
SMB = (OpenId(1), OpenId(2))
NFS = (OpenId(3), OpenId(4), OpenId(5))
OWNERS = {OpenId(3): b"alice", OpenId(4): b"bob", OpenId(5): b"alice"}  # alice locks through two opens
ALL = 0x1F01FF


class Bytes:
    """Locks by byte. An SMB lock is kept whole, an NFS owner has one mode per byte."""

    def __init__(self) -> None:
        self.smb: Counter[tuple[OpenId, int, int, bool]] = Counter()
        self.nfs: dict[tuple[bytes, int], bool] = {}

    def in_way(self, open: OpenId, start: int, end: int, exclusive: bool) -> bool:
        owner = OWNERS.get(open, b"")
        for other, held_start, held_end, held_exclusive in self.smb:
            if not touch(start, end, held_start, held_end) or not (exclusive or held_exclusive):
                continue
            if other != open or not (held_exclusive and not exclusive):
                return True
        return any(held != owner and (exclusive or mode) for held, mode in self.nfs_at(start, end))

    def nfs_at(self, start: int, end: int) -> set[tuple[bytes, bool]]:
        """Who has locked any of these bytes, or, of an empty range, the bytes on both sides of it in one piece."""
        if start < end:
            return {(owner, mode) for (owner, byte), mode in self.nfs.items() if start <= byte < end}
        sides = [{(o, mode) for (o, byte), mode in self.nfs.items() if byte == at} for at in (start - 1, start)]
        return sides[0] & sides[1]

    def io_in_way(self, open: OpenId, start: int, end: int, write: bool) -> bool:
        for other, held_start, held_end, exclusive in self.smb:
            if touch(start, end, held_start, held_end) and (write or exclusive) and not (other == open and exclusive):
                return True
        if open in OWNERS:
            return False
        return any(write or mode for _, mode in self.nfs_at(start, end))


def touch(start: int, end: int, other_start: int, other_end: int) -> bool:
    """Whether two ranges touch: they share a byte, or one is empty and lies strictly within the other."""
    if start == end or other_start == other_end:
        return start < other_end and other_start < end
    return bool(set(range(start, end)) & set(range(other_start, other_end)))


opens = st.sampled_from([*SMB, *NFS])
steps = st.lists(
    st.tuples(
        st.sampled_from(["lock", "lock", "lock", "unlock", "unlock", "io", "close"]),
        opens,
        st.integers(0, SIZE - 1),
        st.integers(0, 6),
        st.booleans(),
    ),
    max_size=40,
)


def everybody() -> FileState:
    held = FREE
    for id in (*SMB, *NFS):
        held = transitions.open_file(held, Opening(id, ALL, sharing.SHARE_ALL, id in SMB)).state
    return held


@settings(max_examples=400)
@given(steps)
def test_byte_ranges_agree_with_a_model_that_knows_every_byte(given_steps: list[Any]) -> None:
    held, model = everybody(), Bytes()
    for operation, open, start, length, flag in given_steps:
        owner = OWNERS.get(open, b"")
        if owner and length == 0:
            continue
        end = start + length
        if operation == "lock":
            try:
                held = transitions.lock(held, ByteLock(start, end, flag, open, owner)).state
            except LockConflict:
                assert model.in_way(open, start, end, flag)
                continue
            assert not model.in_way(open, start, end, flag)
            if owner:
                model.nfs.update({(owner, byte): flag for byte in range(start, end)})
            else:
                model.smb[open, start, end, flag] += 1
        elif operation == "unlock":
            try:
                held = transitions.unlock(held, start, end, open, owner)
            except LockNotHeld:
                assert not owner and not any(model.smb[open, start, end, mode] for mode in (True, False))
                continue
            for byte in range(start, end):
                model.nfs.pop((owner, byte), None)
            if not owner:
                mode = model.smb[open, start, end, True] > 0
                model.smb[open, start, end, mode] -= 1
                model.smb += Counter()  # drops zeros
        elif operation == "io":
            try:
                transitions.check_io(held, open, start, end, flag)
            except LockConflict:
                assert model.io_in_way(open, start, end, flag)
            else:
                assert not model.io_in_way(open, start, end, flag)
        elif open in SMB:
            held = transitions.close_file(held, open)[0].state
            held = transitions.open_file(held, Opening(open, ALL, sharing.SHARE_ALL, True)).state
            model.smb = Counter({lock: n for lock, n in model.smb.items() if lock[0] != open})
        agree(held, model)


def agree(held: FileState, model: Bytes) -> None:
    assert list(held.ranges) == sorted(held.ranges)
    assert Counter({(lock.open, lock.start, lock.end, lock.exclusive): 0 for lock in held.ranges if not lock.owner}).keys() == model.smb.keys()
    assert sum(not lock.owner for lock in held.ranges) == model.smb.total()
    by_byte: dict[tuple[bytes, int], bool] = {}
    for lock in held.ranges:
        for byte in range(lock.start, lock.end) if lock.owner else ():
            assert (lock.owner, byte) not in by_byte, "an owner has one lock on a byte"
            by_byte[lock.owner, byte] = lock.exclusive
    assert by_byte == model.nfs
    # Merged: no two locks of one owner and mode touch each other.
    for one in held.ranges:
        for other in held.ranges:
            if one.owner and one is not other and one.owner == other.owner and one.exclusive == other.exclusive:
                assert one.end != other.start


RIGHTS = (0x1, 0x2, 0x4, 0x20, 0x80, 0x10000, 0x3, 0x10001, 0x100080)
share_steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "open", "open", "close", "change", "delete"]),
        st.integers(0, 5),
        st.sampled_from(RIGHTS),
        st.integers(0, 7),
        st.booleans(),
    ),
    max_size=30,
)


def compatible(access: int, share: int, other_access: int, other_share: int) -> bool:
    """MS-FSA 2.1.5.1.2.2, as a table: each kind of right of either must be shared by the other."""
    uses = 0x1 | 0x2 | 0x4 | 0x20 | 0x10000
    if not access & uses or not other_access & uses:
        return True
    kinds = ((0x1 | 0x20, 1), (0x2 | 0x4, 2), (0x10000, 4))
    return all((not access & rights or other_share & mode) and (not other_access & rights or share & mode) for rights, mode in kinds)


@settings(max_examples=400)
@given(share_steps)
def test_opens_agree_with_a_model_that_compares_every_two(given_steps: list[Any]) -> None:
    held, number = FREE, 0
    model: dict[OpenId, tuple[int, int, bool]] = {}
    pending = False
    for operation, which, access, share, flag in given_steps:
        chosen = list(model)[which % len(model)] if model else None
        if operation == "open" or chosen is None:
            number += 1
            id = OpenId(number)
            fits = all(compatible(access, share, other[0], other[1]) for other in model.values())
            try:
                held = transitions.open_file(held, Opening(id, access, share, True, delete_on_close=flag)).state
            except DeletePending:
                assert pending
            except SharingViolation:
                assert not fits and not pending
            else:
                assert fits and not pending
                model[id] = (access, share, flag)
        elif operation == "close":
            step, delete = transitions.close_file(held, chosen)
            held = step.state
            closing = model.pop(chosen)
            pending = pending or closing[2]
            assert delete == (pending and not model)
            pending = pending and bool(model)
        elif operation == "change":
            others = [other for id, other in model.items() if id != chosen]
            fits = all(compatible(access, share, other[0], other[1]) for other in others)
            try:
                held = transitions.change_open(held, chosen, access, share).state
            except DeletePending:
                assert pending and (access & ~model[chosen][0] or model[chosen][1] & ~share)
            except SharingViolation:
                assert not fits and not pending
            else:
                assert fits
                model[chosen] = (access, share, model[chosen][2])
        else:
            held = transitions.mark_delete(held, chosen, flag).state
            pending = flag
        assert held.delete_pending == pending
        assert {open.id: (open.access, open.share, open.delete_on_close) for open in held.opens} == model
        assert (held == FREE) == (not model)


def test_a_range_to_the_end_covers_the_last_byte_there_can_be() -> None:
    assert ranges.span(10, ranges.TO_END, b"owner") == (10, ranges.END)
    assert ranges.span(ranges.TO_END, 1, b"") == (ranges.TO_END, ranges.END)
