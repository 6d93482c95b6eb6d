"""Two protocols on one file: what each sees of the other's opens, share modes, ranges and grants."""

from collections.abc import Callable

import pytest

from sofs.errors import (
    Closed,
    Delayed,
    DeletePending,
    InvalidArgument,
    LockConflict,
    SharingViolation,
    SofsError,
)
from sofs.locks import state
from sofs.locks.grants import HANDLE, READ, WRITE, GrantKind
from sofs.locks.ranges import END, ByteLock
from sofs.locks.sharing import SHARE_ALL, SHARE_DELETE, SHARE_READ, SHARE_WRITE, Opening
from sofs.locks.state import FREE, STATELESS, Dropped, FileState, Recall, Revoked, Step
from sofs.types import OpenId

READ_DATA, WRITE_DATA, EXECUTE, READ_ATTRIBUTES, DELETE = 0x1, 0x2, 0x20, 0x80, 0x10000
RW = READ_DATA | WRITE_DATA
RWH, RH = READ | WRITE | HANDLE, READ | HANDLE
FIRST, SECOND, THIRD = OpenId(1), OpenId(2), OpenId(3)


def smb(id: OpenId, access: int = RW, share: int = SHARE_ALL, key: bytes = b"", **more: bool) -> Opening:
    return Opening(id, access, share, True, key, **more)


def nfs(id: OpenId, access: int = RW, deny: int = 0, key: bytes = b"") -> Opening:
    return Opening(id, access, SHARE_ALL & ~deny, False, key)


def opened(*openings: Opening) -> FileState:
    held = FREE
    for opening in openings:
        held = state.open_file(held, opening).state
    return held


def granted(opening: Opening, rights: int, kind: GrantKind = GrantKind.LEASE, held: FileState = FREE) -> FileState:
    held = state.open_file(held, opening).state
    held, got = state.request(held, opening.key, kind, rights)
    assert got == rights
    return held


def result(call: Callable[[], object]) -> object:
    """The class of the error, or `wait`, or `done`."""
    try:
        step = call()
    except SofsError as error:
        return type(error)
    return "wait" if isinstance(step, Step) and step.wait else "done"


# {share modes, locks, rename/remove} x {live, disconnected, disconnected persistent} x both directions. Each cell was written from the
# protocol decisions before the code: what NFS meets that SMB set up, and the other way round.

DENIES_READ = SHARE_WRITE | SHARE_DELETE
DENIES_WRITE = SHARE_READ | SHARE_DELETE
DENIES_DELETE = SHARE_READ | SHARE_WRITE

SMB_FIRST = [
    # share mode, what NFS does, live, disconnected (gives way), disconnected and persistent (waits)
    (DENIES_READ, "v4 open read", SharingViolation, "done", Delayed),
    (DENIES_READ, "v4 open write", "done", "done", "done"),
    (DENIES_READ, "v3 read", SharingViolation, "done", Delayed),
    (DENIES_READ, "v3 write", "done", "done", "done"),
    (DENIES_READ, "remove", "done", "done", "done"),
    (DENIES_WRITE, "v4 open write", SharingViolation, "done", Delayed),
    (DENIES_WRITE, "v3 write", SharingViolation, "done", Delayed),
    (DENIES_WRITE, "v3 read", "done", "done", "done"),
    (DENIES_DELETE, "remove", SharingViolation, "done", Delayed),
    (DENIES_DELETE, "v4 open write", "done", "done", "done"),
    (DENIES_DELETE, "v3 write", "done", "done", "done"),
    (SHARE_ALL, "remove", "done", "done", "done"),
    (SHARE_ALL, "v4 open write", "done", "done", "done"),
]

NFS_ACTIONS: dict[str, Callable[[FileState], Step]] = {
    "v4 open read": lambda held: state.open_file(held, nfs(SECOND, READ_DATA)),
    "v4 open write": lambda held: state.open_file(held, nfs(SECOND, WRITE_DATA)),
    "v3 read": lambda held: state.check_io(held, STATELESS, 0, 10, False),
    "v3 write": lambda held: state.check_io(held, STATELESS, 0, 10, True),
    "remove": state.check_remove,
}


@pytest.mark.parametrize(("share", "action", "live", "gone", "persistent"), SMB_FIRST)
def test_share_modes_of_smb_bind_nfs(share: int, action: str, live: object, gone: object, persistent: object) -> None:
    act = NFS_ACTIONS[action]
    # The right that the sharing rules are about; deny modes of an open that only writes do not hinder a reader's own share mode.
    held = opened(smb(FIRST, RW, share))
    assert result(lambda: act(held)) == live
    assert result(lambda: act(state.disconnect(held, FIRST))) == gone
    kept = state.disconnect(opened(smb(FIRST, RW, share, persistent=True)), FIRST)
    assert result(lambda: act(kept)) == persistent
    assert result(lambda: act(state.reconnect(kept, FIRST))) == live


@pytest.mark.parametrize(
    ("deny", "access", "expected"),
    [
        (SHARE_READ, READ_DATA, SharingViolation),
        (SHARE_READ, EXECUTE, SharingViolation),
        (SHARE_READ, WRITE_DATA, "done"),
        (SHARE_WRITE, WRITE_DATA, SharingViolation),
        (SHARE_WRITE, READ_DATA, "done"),
        (SHARE_READ | SHARE_WRITE, READ_ATTRIBUTES, "done"),
        (SHARE_READ | SHARE_WRITE, DELETE, "done"),
    ],
)
def test_denials_of_nfs_bind_smb(deny: int, access: int, expected: object) -> None:
    held = opened(nfs(FIRST, READ_DATA, deny))
    assert result(lambda: state.open_file(held, smb(SECOND, access))) == expected


def test_a_disconnected_handle_that_gives_way_is_reported_and_deletes_what_it_was_to_delete() -> None:
    held = state.disconnect(opened(smb(FIRST, RW, 0, delete_on_close=True)), FIRST)
    step = state.check_io(held, STATELESS, 0, 1, True)
    assert step == Step(FREE, (Dropped(FIRST, True),))


RANGES = [
    # the lock that is held, what the other does, live, disconnected, persistent
    ("smb exclusive", "nfs read", LockConflict, "done", Delayed),
    ("smb exclusive", "nfs write", LockConflict, "done", Delayed),
    ("smb exclusive", "v3 read", LockConflict, "done", Delayed),
    ("smb exclusive", "nfs lock", LockConflict, "done", Delayed),
    ("smb exclusive", "smb read", LockConflict, "done", Delayed),
    ("smb shared", "nfs read", "done", "done", "done"),
    ("smb shared", "nfs write", LockConflict, "done", Delayed),
    ("smb shared", "v3 write", LockConflict, "done", Delayed),
    ("smb shared", "nfs lock", LockConflict, "done", Delayed),
    ("smb shared", "nfs shared lock", "done", "done", "done"),
    ("nfs exclusive", "smb read", LockConflict, None, None),
    ("nfs exclusive", "smb write", LockConflict, None, None),
    ("nfs exclusive", "smb lock", LockConflict, None, None),
    ("nfs exclusive", "nfs read", "done", None, None),
    ("nfs exclusive", "nfs write", "done", None, None),
    ("nfs exclusive", "v3 write", "done", None, None),
    ("nfs exclusive", "nfs lock", LockConflict, None, None),
    ("nfs shared", "smb read", "done", None, None),
    ("nfs shared", "smb write", LockConflict, None, None),
    ("nfs shared", "smb lock", LockConflict, None, None),
    ("nfs shared", "nfs shared lock", "done", None, None),
]

RANGE_ACTIONS: dict[str, Callable[[FileState], Step]] = {
    "smb read": lambda held: state.check_io(held, SECOND, 5, 6, False),
    "smb write": lambda held: state.check_io(held, SECOND, 5, 6, True),
    "nfs read": lambda held: state.check_io(held, THIRD, 5, 6, False),
    "nfs write": lambda held: state.check_io(held, THIRD, 5, 6, True),
    "v3 read": lambda held: state.check_io(held, STATELESS, 5, 6, False),
    "v3 write": lambda held: state.check_io(held, STATELESS, 5, 6, True),
    "smb lock": lambda held: state.lock(held, ByteLock(0, 6, True, SECOND)),
    "nfs lock": lambda held: state.lock(held, ByteLock(5, END, True, THIRD, b"other")),
    "nfs shared lock": lambda held: state.lock(held, ByteLock(5, 6, False, THIRD, b"other")),
}


@pytest.mark.parametrize(("lock", "action", "live", "gone", "persistent"), RANGES)
def test_ranges_of_one_protocol_bind_the_other(lock: str, action: str, live: object, gone: object, persistent: object) -> None:
    act = RANGE_ACTIONS[action]
    protocol, _, mode = lock.partition(" ")

    def held(persistent: bool = False) -> FileState:
        first = smb(FIRST, persistent=persistent) if protocol == "smb" else nfs(FIRST)
        owner = b"" if protocol == "smb" else b"owner"
        both = opened(first, smb(SECOND), nfs(THIRD))
        return state.lock(both, ByteLock(4, 8, mode == "exclusive", FIRST, owner)).state

    assert result(lambda: act(held())) == live
    assert result(lambda: state.check_io(held(), SECOND, 8, 9, True)) == "done", "beside the lock"
    if protocol == "smb":
        assert result(lambda: act(state.disconnect(held(), FIRST))) == gone
        assert result(lambda: act(state.disconnect(held(persistent=True), FIRST))) == persistent


def test_an_smb_open_is_bound_by_its_own_shared_lock_only_when_it_writes() -> None:
    held = opened(smb(FIRST))
    held = state.lock(held, ByteLock(0, 10, False, FIRST)).state
    state.check_io(held, FIRST, 0, 10, False)
    with pytest.raises(LockConflict):
        state.check_io(held, FIRST, 0, 10, True)
    held = state.lock(opened(smb(FIRST)), ByteLock(0, 10, True, FIRST)).state
    state.check_io(held, FIRST, 0, 10, True)
    held = state.lock(held, ByteLock(0, 10, False, FIRST)).state
    with pytest.raises(LockConflict):
        state.lock(held, ByteLock(0, 10, True, FIRST))
    held = state.unlock(held, 0, 10, FIRST, b"")
    assert [lock.exclusive for lock in held.ranges] == [False], "the exclusive one goes first"


# Delete

def test_a_file_goes_with_its_last_open_and_is_not_opened_meanwhile() -> None:
    held = opened(smb(FIRST, DELETE | RW), smb(SECOND), nfs(THIRD))
    held = state.mark_delete(held, FIRST, True).state
    for wanted in (smb(OpenId(9)), nfs(OpenId(9))):
        with pytest.raises(DeletePending):
            state.open_file(held, wanted)
    assert result(lambda: state.check_remove(held)) == "done", "an NFS client may still remove the name"
    held, delete = state.close_file(held, FIRST)
    assert not delete and held.delete_pending
    held, delete = state.close_file(held, THIRD)
    assert not delete
    assert state.close_file(held, SECOND) == (FREE, True)


def test_delete_on_close_takes_effect_when_its_own_open_closes_and_can_be_taken_back_by_others() -> None:
    held = opened(smb(FIRST, DELETE, delete_on_close=True), smb(SECOND, DELETE))
    state.open_file(held, smb(THIRD, READ_ATTRIBUTES))
    held, delete = state.close_file(held, FIRST)
    assert held.delete_pending and not delete
    held = state.mark_delete(held, SECOND, False).state
    assert state.close_file(held, SECOND) == (FREE, False)


def test_an_open_that_came_to_nothing_deletes_nothing() -> None:
    held = opened(smb(FIRST), smb(SECOND, DELETE, delete_on_close=True))
    assert state.abandon_open(held, SECOND) == opened(smb(FIRST))
    assert state.abandon_open(opened(smb(FIRST, DELETE, delete_on_close=True)), FIRST) == FREE


def test_what_is_closed_is_closed() -> None:
    for call in (
        lambda: state.close_file(FREE, FIRST),
        lambda: state.check_io(FREE, FIRST, 0, 1, False),
        lambda: state.lock(FREE, ByteLock(0, 1, True, FIRST)),
        lambda: state.mark_delete(FREE, FIRST, True),
    ):
        with pytest.raises(Closed):
            call()


# Grants against requests of others: what is recalled, and who waits.

GRANTS = [
    # rights held, kind, what another does, recalled to (None: nothing recalled), outcome
    (RWH, GrantKind.LEASE, "read attributes", None, "done"),
    (RWH, GrantKind.LEASE, "open read", RH, "wait"),
    (RWH, GrantKind.LEASE, "open overwrite", 0, "wait"),
    (RWH, GrantKind.LEASE, "v3 read", RH, "wait"),
    (RWH, GrantKind.LEASE, "v3 write", 0, "wait"),
    (RWH, GrantKind.LEASE, "remove", READ | WRITE, "wait"),
    (RH, GrantKind.LEASE, "open read", None, "done"),
    (RH, GrantKind.LEASE, "open write", None, "done"),
    (RH, GrantKind.LEASE, "v3 read", None, "done"),
    (RH, GrantKind.LEASE, "v3 write", 0, "wait"),
    (RH, GrantKind.LEASE, "remove", READ, "wait"),
    (READ, GrantKind.LEASE, "v3 write", 0, "done"),
    (READ, GrantKind.LEASE, "remove", None, "done"),
    (READ, GrantKind.OPLOCK, "v3 write", 0, "done"),
    (RWH, GrantKind.OPLOCK, "open read", READ, "wait"),
    (READ | WRITE, GrantKind.OPLOCK, "open overwrite", 0, "wait"),
    (READ, GrantKind.DELEGATION, "open read", None, "done"),
    (READ, GrantKind.DELEGATION, "open write", 0, "wait"),
    (READ, GrantKind.DELEGATION, "v3 read", None, "done"),
    (READ, GrantKind.DELEGATION, "v3 write", 0, "wait"),
    (READ, GrantKind.DELEGATION, "remove", 0, "wait"),
    (READ | WRITE, GrantKind.DELEGATION, "open read", 0, "wait"),
    (READ | WRITE, GrantKind.DELEGATION, "v3 read", 0, "wait"),
    (READ | WRITE, GrantKind.DELEGATION, "read attributes", None, "done"),
]

OTHERS: dict[str, Callable[[FileState], Step]] = {
    "read attributes": lambda held: state.open_file(held, smb(SECOND, READ_ATTRIBUTES, key=b"other")),
    "open read": lambda held: state.open_file(held, smb(SECOND, READ_DATA, key=b"other")),
    "open write": lambda held: state.open_file(held, nfs(SECOND, WRITE_DATA)),
    "open overwrite": lambda held: state.open_file(held, smb(SECOND, WRITE_DATA), overwrite=True),
    "v3 read": lambda held: state.check_io(held, STATELESS, 0, 1, False),
    "v3 write": lambda held: state.check_io(held, STATELESS, 0, 1, True),
    "remove": state.check_remove,
}


@pytest.mark.parametrize(("rights", "kind", "action", "keep", "outcome"), GRANTS)
def test_a_grant_in_the_way_is_recalled(rights: int, kind: GrantKind, action: str, keep: int | None, outcome: str) -> None:
    access = READ_DATA if kind is GrantKind.DELEGATION and rights == READ else RW
    held = granted(smb(FIRST, access, key=b"k"), rights, kind)
    step = OTHERS[action](held)
    assert ("wait" if step.wait else "done") == outcome
    if keep is None:
        assert not step.upcalls and step.state.grant(b"k") == held.grant(b"k")
        return
    (told,) = step.upcalls
    assert isinstance(told, Recall)
    assert (told.key, told.kind, told.opens, told.keep, told.acknowledge) == (b"k", kind, (FIRST,), keep, step.wait)
    if step.wait:
        again = OTHERS[action](step.state)
        assert again.wait and not again.upcalls, "it is told once"
        answered = state.acknowledge(step.state, b"k", keep).state
        assert not OTHERS[action](answered).wait
        expired = state.expire(step.state, b"k")
        assert expired.upcalls == (Revoked(b"k", kind, (FIRST,)),) and not OTHERS[action](expired.state).wait


def test_those_who_share_a_key_do_not_disturb_each_other() -> None:
    held = granted(smb(FIRST, key=b"k"), RWH)
    step = state.open_file(held, smb(SECOND, key=b"k"))
    assert not step.wait and not step.upcalls
    step = state.check_io(step.state, SECOND, 0, 10, True)
    assert not step.wait and not step.upcalls
    left, _ = state.close_file(step.state, FIRST)
    assert left.grant(b"k") is not None
    left, _ = state.close_file(left, SECOND)
    assert left == FREE


def test_a_cached_handle_is_asked_to_close_before_sharing_is_violated() -> None:
    held = granted(smb(FIRST, RW, share=0, key=b"k"), RWH)
    step = state.open_file(held, smb(SECOND, READ_DATA))
    assert step.wait and [told.keep for told in step.upcalls if isinstance(told, Recall)] == [READ]
    closed, _ = state.close_file(step.state, FIRST)
    assert not state.open_file(closed, smb(SECOND, READ_DATA)).wait
    answered = state.acknowledge(step.state, b"k", READ).state
    with pytest.raises(SharingViolation):
        state.open_file(answered, smb(SECOND, READ_DATA))
    with pytest.raises(SharingViolation):
        state.open_file(granted(smb(FIRST, RW, share=0, key=b"k"), READ | WRITE), smb(SECOND, READ_DATA))


ROOM = [
    # others' opens, kind, wanted, granted
    ((), GrantKind.LEASE, RWH, RWH),
    ((), GrantKind.LEASE, WRITE | HANDLE, 0),
    ((smb(SECOND, READ_DATA),), GrantKind.LEASE, RWH, RH),
    ((smb(SECOND, READ_ATTRIBUTES),), GrantKind.LEASE, RWH, RWH),
    ((smb(SECOND, READ_DATA),), GrantKind.OPLOCK, RWH, READ),
    ((nfs(SECOND, WRITE_DATA),), GrantKind.LEASE, RH, RH),
    ((nfs(SECOND, READ_DATA),), GrantKind.DELEGATION, READ, READ),
    ((nfs(SECOND, WRITE_DATA),), GrantKind.DELEGATION, READ, 0),
    ((nfs(SECOND, READ_DATA),), GrantKind.DELEGATION, READ | WRITE, 0),
    ((), GrantKind.DELEGATION, READ | WRITE, READ | WRITE),
]


@pytest.mark.parametrize(("others", "kind", "wanted", "expected"), ROOM)
def test_as_much_is_granted_as_others_leave_room_for(
    others: tuple[Opening, ...], kind: GrantKind, wanted: int, expected: int
) -> None:
    held = opened(*others, smb(FIRST, key=b"k"))
    held, got = state.request(held, b"k", kind, wanted)
    assert got == expected
    assert (held.grant(b"k") is not None) == bool(expected)


def test_a_grant_grows_and_is_never_lessened_by_asking() -> None:
    held = granted(smb(FIRST, key=b"k"), READ)
    assert state.request(held, b"k", GrantKind.LEASE, RWH)[1] == RWH
    held, _ = state.request(held, b"k", GrantKind.LEASE, RH)
    assert state.request(held, b"k", GrantKind.LEASE, READ)[1] == RH
    assert state.request(held, b"k", GrantKind.LEASE, READ | WRITE)[1] == RH
    recalled = state.check_io(held, STATELESS, 0, 1, True).state
    assert state.request(recalled, b"k", GrantKind.LEASE, RWH) == (recalled, RH)


def test_a_foreign_range_leaves_no_room_for_a_grant() -> None:
    held = state.lock(opened(nfs(SECOND)), ByteLock(0, 1, False, SECOND, b"owner")).state
    held = state.open_file(held, smb(FIRST, key=b"k")).state
    assert state.request(held, b"k", GrantKind.LEASE, RWH)[1] == 0


def test_a_delegation_outlives_its_open_and_is_given_back() -> None:
    held = granted(nfs(FIRST, READ_DATA, key=b"k"), READ, GrantKind.DELEGATION)
    held, _ = state.close_file(held, FIRST)
    step = state.check_io(held, STATELESS, 0, 1, True)
    assert step.wait and step.upcalls == (Recall(b"k", GrantKind.DELEGATION, (), 0, True, 2),)
    assert state.give_back(step.state, b"k") == FREE
    with pytest.raises(InvalidArgument):
        state.give_back(FREE, b"k")


def test_asking_for_less_is_always_allowed() -> None:
    held = opened(nfs(FIRST, RW, SHARE_WRITE), nfs(SECOND, READ_DATA))
    assert state.change_open(held, FIRST, READ_DATA, SHARE_ALL).state.opening(FIRST).access == READ_DATA
    with pytest.raises(SharingViolation):
        state.change_open(held, SECOND, RW, SHARE_ALL)
    assert state.change_open(held, FIRST, READ_DATA, SHARE_ALL & ~SHARE_DELETE).state.opening(FIRST).share == 3
