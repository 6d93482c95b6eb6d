"""Two protocols on one file: what each sees of the other's opens, share modes, ranges and grants."""

from collections.abc import Callable

import pytest

from sofs.errors import Closed, Delayed, DeletePending, LockConflict, SharingViolation, SofsError
from sofs.locks import holding, transitions
from sofs.locks.grants import HANDLE, READ, WRITE, GrantKind
from sofs.locks.ranges import END, ByteLock
from sofs.locks.sharing import SHARE_ALL, SHARE_DELETE, SHARE_READ, SHARE_WRITE, Opening
from sofs.locks.state import FREE, STATELESS, Dropped, FileState, Recall, Revoked, Step
from sofs.types import OpenId

READ_DATA, WRITE_DATA, EXECUTE, READ_ATTRIBUTES, DELETE = 0x1, 0x2, 0x20, 0x80, 0x10000
RW = READ_DATA | WRITE_DATA
RWH, RH = READ | WRITE | HANDLE, READ | HANDLE
FIRST, SECOND, THIRD, DELEGATION = OpenId(1), OpenId(2), OpenId(3), OpenId(4)


def smb(id: OpenId, access: int = RW, share: int = SHARE_ALL, key: bytes = b"", **more: bool) -> Opening:
    return Opening(id, access, share, True, key, **more)


def nfs(id: OpenId, access: int = RW, deny: int = 0, key: bytes = b"") -> Opening:
    return Opening(id, access, SHARE_ALL & ~deny, False, key)


def opened(*openings: Opening) -> FileState:
    held = FREE
    for opening in openings:
        held = transitions.open_file(held, opening).state
    return held


def granted(opening: Opening, rights: int, kind: GrantKind = GrantKind.LEASE, held: FileState = FREE) -> FileState:
    held = transitions.open_file(held, opening).state
    delegation = DELEGATION if kind is GrantKind.DELEGATION else OpenId(0)
    if delegation:
        held = transitions.open_file(held, Opening(delegation, 0, SHARE_ALL, False, opening.key)).state
    held = holding.request(held, opening.key, kind, rights, delegation=delegation)
    assert rights_of(held, opening.key) == rights
    return held


def rights_of(held: FileState, key: bytes) -> int:
    grant = held.grant(key)
    return 0 if grant is None else grant.rights


def ask(held: FileState, key: bytes, kind: GrantKind, wanted: int) -> tuple[FileState, int]:
    held = holding.request(held, key, kind, wanted)
    return held, rights_of(held, key)


def close(held: FileState, id: OpenId) -> tuple[FileState, bool]:
    step, delete = transitions.close_file(held, id)
    assert not step.upcalls and not step.wait
    return step.state, delete


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
    "v4 open read": lambda held: transitions.open_file(held, nfs(SECOND, READ_DATA)),
    "v4 open write": lambda held: transitions.open_file(held, nfs(SECOND, WRITE_DATA)),
    "v3 read": lambda held: transitions.check_io(held, STATELESS, 0, 10, False),
    "v3 write": lambda held: transitions.check_io(held, STATELESS, 0, 10, True),
    "remove": transitions.check_remove,
}


@pytest.mark.parametrize(("share", "action", "live", "gone", "persistent"), SMB_FIRST)
def test_share_modes_of_smb_bind_nfs(share: int, action: str, live: object, gone: object, persistent: object) -> None:
    act = NFS_ACTIONS[action]
    # The right that the sharing rules are about; deny modes of an open that only writes do not hinder a reader's own share mode.
    held = opened(smb(FIRST, RW, share))
    assert result(lambda: act(held)) == live
    assert result(lambda: act(transitions.disconnect(held, FIRST))) == gone
    kept = transitions.disconnect(opened(smb(FIRST, RW, share, persistent=True)), FIRST)
    assert result(lambda: act(kept)) == persistent
    assert result(lambda: act(transitions.reconnect(kept, FIRST))) == live


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
    assert result(lambda: transitions.open_file(held, smb(SECOND, access))) == expected


def test_a_disconnected_handle_that_gives_way_is_reported_and_deletes_what_it_was_to_delete() -> None:
    held = transitions.disconnect(opened(smb(FIRST, RW, 0, delete_on_close=True)), FIRST)
    step = transitions.check_io(held, STATELESS, 0, 1, True)
    # Its name goes first: whoever asks is to look again.
    assert step == Step(FREE, (Dropped(FIRST, True),), wait=True)


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
    "smb read": lambda held: transitions.check_io(held, SECOND, 5, 6, False),
    "smb write": lambda held: transitions.check_io(held, SECOND, 5, 6, True),
    "nfs read": lambda held: transitions.check_io(held, THIRD, 5, 6, False),
    "nfs write": lambda held: transitions.check_io(held, THIRD, 5, 6, True),
    "v3 read": lambda held: transitions.check_io(held, STATELESS, 5, 6, False),
    "v3 write": lambda held: transitions.check_io(held, STATELESS, 5, 6, True),
    "smb lock": lambda held: transitions.lock(held, ByteLock(0, 6, True, SECOND)),
    "nfs lock": lambda held: transitions.lock(held, ByteLock(5, END, True, THIRD, b"other")),
    "nfs shared lock": lambda held: transitions.lock(held, ByteLock(5, 6, False, THIRD, b"other")),
}


@pytest.mark.parametrize(("lock", "action", "live", "gone", "persistent"), RANGES)
def test_ranges_of_one_protocol_bind_the_other(lock: str, action: str, live: object, gone: object, persistent: object) -> None:
    act = RANGE_ACTIONS[action]
    protocol, _, mode = lock.partition(" ")

    def held(persistent: bool = False) -> FileState:
        first = smb(FIRST, persistent=persistent) if protocol == "smb" else nfs(FIRST)
        owner = b"" if protocol == "smb" else b"owner"
        both = opened(first, smb(SECOND), nfs(THIRD))
        return transitions.lock(both, ByteLock(4, 8, mode == "exclusive", FIRST, owner)).state

    assert result(lambda: act(held())) == live
    assert result(lambda: transitions.check_io(held(), SECOND, 8, 9, True)) == "done", "beside the lock"
    if protocol == "smb":
        assert result(lambda: act(transitions.disconnect(held(), FIRST))) == gone
        assert result(lambda: act(transitions.disconnect(held(persistent=True), FIRST))) == persistent


def test_an_smb_open_is_bound_by_its_own_shared_lock_only_when_it_writes() -> None:
    held = opened(smb(FIRST))
    held = transitions.lock(held, ByteLock(0, 10, False, FIRST)).state
    transitions.check_io(held, FIRST, 0, 10, False)
    with pytest.raises(LockConflict):
        transitions.check_io(held, FIRST, 0, 10, True)
    held = transitions.lock(opened(smb(FIRST)), ByteLock(0, 10, True, FIRST)).state
    transitions.check_io(held, FIRST, 0, 10, True)
    held = transitions.lock(held, ByteLock(0, 10, False, FIRST)).state
    with pytest.raises(LockConflict):
        transitions.lock(held, ByteLock(0, 10, True, FIRST))
    held = transitions.unlock(held, 0, 10, FIRST, b"")
    assert [lock.exclusive for lock in held.ranges] == [False], "the exclusive one goes first"


# Delete


def test_a_file_goes_with_its_last_open_and_is_not_opened_meanwhile() -> None:
    held = opened(smb(FIRST, DELETE | RW), smb(SECOND), nfs(THIRD))
    held = transitions.mark_delete(held, FIRST, True).state
    for wanted in (smb(OpenId(9)), nfs(OpenId(9))):
        with pytest.raises(DeletePending):
            transitions.open_file(held, wanted)
    assert result(lambda: transitions.check_remove(held)) == "done", "an NFS client may still remove the name"
    held, delete = close(held, FIRST)
    assert not delete and held.delete_pending
    held, delete = close(held, THIRD)
    assert not delete
    assert close(held, SECOND) == (FREE, True)


def test_delete_on_close_takes_effect_when_its_own_open_closes_and_can_be_taken_back_by_others() -> None:
    held = opened(smb(FIRST, DELETE, delete_on_close=True), smb(SECOND, DELETE))
    transitions.open_file(held, smb(THIRD, READ_ATTRIBUTES))
    held, delete = close(held, FIRST)
    assert held.delete_pending and not delete
    held = transitions.mark_delete(held, SECOND, False).state
    assert close(held, SECOND) == (FREE, False)


def test_an_open_that_came_to_nothing_deletes_nothing() -> None:
    held = opened(smb(FIRST), smb(SECOND, DELETE, delete_on_close=True))
    assert transitions.abandon_open(held, SECOND) == opened(smb(FIRST))
    assert transitions.abandon_open(opened(smb(FIRST, DELETE, delete_on_close=True)), FIRST) == FREE


def test_what_is_closed_is_closed() -> None:
    for call in (
        lambda: transitions.close_file(FREE, FIRST),
        lambda: transitions.check_io(FREE, FIRST, 0, 1, False),
        lambda: transitions.lock(FREE, ByteLock(0, 1, True, FIRST)),
        lambda: transitions.mark_delete(FREE, FIRST, True),
    ):
        with pytest.raises(Closed):
            call()


# Grants against requests of others: what is recalled, and who waits.

GRANTS = [
    # rights held, kind, what another does, recalled to (None: nothing recalled), outcome ("asked": done, and an acknowledgement is awaited)
    (RWH, GrantKind.LEASE, "read attributes", None, "done"),
    (RWH, GrantKind.LEASE, "open read", RH, "wait"),
    (RWH, GrantKind.LEASE, "open overwrite", 0, "wait"),
    (RWH, GrantKind.LEASE, "v3 read", RH, "wait"),
    (RWH, GrantKind.LEASE, "v3 write", 0, "wait"),
    (RWH, GrantKind.LEASE, "remove", READ | WRITE, "wait"),
    (RH, GrantKind.LEASE, "open read", None, "done"),
    (RH, GrantKind.LEASE, "open write", None, "done"),
    (RH, GrantKind.LEASE, "v3 read", None, "done"),
    # Nobody waits until a holder of handles has forgotten what it read (MS-FSA 2.1.4.12; smbtorture smb2.lease.breaking4).
    (RH, GrantKind.LEASE, "v3 write", 0, "asked"),
    (RH, GrantKind.LEASE, "open overwrite", 0, "asked"),
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
    "read attributes": lambda held: transitions.open_file(held, smb(SECOND, READ_ATTRIBUTES, key=b"other")),
    "open read": lambda held: transitions.open_file(held, smb(SECOND, READ_DATA, key=b"other")),
    "open write": lambda held: transitions.open_file(held, nfs(SECOND, WRITE_DATA)),
    "open overwrite": lambda held: transitions.open_file(held, smb(SECOND, WRITE_DATA), overwrite=True),
    "v3 read": lambda held: transitions.check_io(held, STATELESS, 0, 1, False),
    "v3 write": lambda held: transitions.check_io(held, STATELESS, 0, 1, True),
    "remove": transitions.check_remove,
}


@pytest.mark.parametrize(("rights", "kind", "action", "keep", "outcome"), GRANTS)
def test_a_grant_in_the_way_is_recalled(rights: int, kind: GrantKind, action: str, keep: int | None, outcome: str) -> None:
    access = READ_DATA if kind is GrantKind.DELEGATION and rights == READ else RW
    held = granted(smb(FIRST, access, key=b"k"), rights, kind)
    step = OTHERS[action](held)
    assert step.wait == (outcome == "wait")
    if keep is None:
        assert not step.upcalls and step.state.grant(b"k") == held.grant(b"k")
        return
    (told,) = step.upcalls
    assert isinstance(told, Recall)
    opens = (FIRST, DELEGATION) if kind is GrantKind.DELEGATION else (FIRST,)
    assert (told.key, told.kind, told.opens, told.held, told.keep) == (b"k", kind, opens, rights, keep)
    assert told.acknowledge == (outcome != "done")
    if step.wait:
        again = OTHERS[action](step.state)
        assert again.wait and not again.upcalls, "it is told once"
        answered = holding.acknowledge(step.state, b"k", keep).state
        assert not OTHERS[action](answered).wait
        expired = holding.expire(step.state, b"k")
        dropped = (Dropped(DELEGATION, False),) if told.delegation else ()
        assert expired.upcalls == (Revoked(b"k", kind, opens, told.delegation), *dropped) and not OTHERS[action](expired.state).wait
        assert all(held.id != DELEGATION for held in expired.state.opens)


def test_those_who_share_a_key_do_not_disturb_each_other() -> None:
    held = granted(smb(FIRST, key=b"k"), RWH)
    step = transitions.open_file(held, smb(SECOND, key=b"k"))
    assert not step.wait and not step.upcalls
    step = transitions.check_io(step.state, SECOND, 0, 10, True)
    assert not step.wait and not step.upcalls
    left, _ = close(step.state, FIRST)
    assert left.grant(b"k") is not None
    left, _ = close(left, SECOND)
    assert left == FREE


def test_a_cached_handle_is_asked_to_close_before_sharing_is_violated() -> None:
    held = granted(smb(FIRST, RW, share=0, key=b"k"), RWH)
    step = transitions.open_file(held, smb(SECOND, READ_DATA))
    # Only the handles go: if they were the application's, the open fails and the writes may stay cached (smb2.lease.break_twice).
    assert step.wait and [told.keep for told in step.upcalls if isinstance(told, Recall)] == [READ | WRITE]
    closed, _ = close(step.state, FIRST)
    assert not transitions.open_file(closed, smb(SECOND, READ_DATA)).wait
    answered = holding.acknowledge(step.state, b"k", READ | WRITE).state
    with pytest.raises(SharingViolation):
        transitions.open_file(answered, smb(SECOND, READ_DATA))
    with pytest.raises(SharingViolation):
        transitions.open_file(granted(smb(FIRST, RW, share=0, key=b"k"), READ | WRITE), smb(SECOND, READ_DATA))


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
def test_as_much_is_granted_as_others_leave_room_for(others: tuple[Opening, ...], kind: GrantKind, wanted: int, expected: int) -> None:
    held = opened(*others, smb(FIRST, key=b"k"))
    held, got = ask(held, b"k", kind, wanted)
    assert got == expected
    assert (held.grant(b"k") is not None) == (bool(expected) or kind is GrantKind.LEASE)


def test_a_grant_grows_and_is_never_lessened_by_asking() -> None:
    held = granted(smb(FIRST, key=b"k"), READ)
    assert ask(held, b"k", GrantKind.LEASE, RWH)[1] == RWH
    held, _ = ask(held, b"k", GrantKind.LEASE, RH)
    assert ask(held, b"k", GrantKind.LEASE, READ)[1] == RH
    assert ask(held, b"k", GrantKind.LEASE, READ | WRITE)[1] == RH
    recalled = transitions.check_io(held, STATELESS, 0, 1, True).state
    assert ask(recalled, b"k", GrantKind.LEASE, RWH) == (recalled, RH)


def test_a_foreign_range_leaves_no_room_for_a_grant() -> None:
    held = transitions.lock(opened(nfs(SECOND)), ByteLock(0, 1, False, SECOND, b"owner")).state
    held = transitions.open_file(held, smb(FIRST, key=b"k")).state
    assert ask(held, b"k", GrantKind.LEASE, RWH)[1] == 0


def test_a_delegation_outlives_its_open_and_is_given_back() -> None:
    held = granted(nfs(FIRST, READ_DATA, key=b"k"), READ, GrantKind.DELEGATION)
    held, _ = close(held, FIRST)
    step = transitions.check_io(held, STATELESS, 0, 1, True)
    assert step.wait and step.upcalls == (Recall(b"k", GrantKind.DELEGATION, (DELEGATION,), READ, 0, True, 2, 2, DELEGATION),)
    assert close(step.state, DELEGATION) == (FREE, False)


def test_a_write_delegation_reserves_nothing() -> None:
    held = granted(nfs(FIRST, RW, key=b"k"), READ | WRITE, GrantKind.DELEGATION)
    held, _ = close(held, FIRST)
    step = transitions.open_file(held, smb(SECOND, RW, 0))
    assert step.wait, "it is recalled, and violates nothing"
    assert not transitions.open_file(close(step.state, DELEGATION)[0], smb(SECOND, RW, 0)).wait


OPLOCKS_AND_LEASES = [
    # held, by whom, asked for, by whom, given (smbtorture smb2.lease.oplock)
    (RH, GrantKind.LEASE, READ, GrantKind.OPLOCK, 0),
    (RH, GrantKind.LEASE, RWH, GrantKind.OPLOCK, 0),
    (READ, GrantKind.LEASE, RWH, GrantKind.OPLOCK, READ),
    (READ, GrantKind.OPLOCK, RH, GrantKind.LEASE, READ),
    (READ, GrantKind.OPLOCK, RWH, GrantKind.LEASE, READ),
    (READ, GrantKind.LEASE, RWH, GrantKind.LEASE, RH),
]


@pytest.mark.parametrize(("there", "kind", "wanted", "wanted_kind", "given"), OPLOCKS_AND_LEASES)
def test_oplocks_and_leases_beside_each_other(there: int, kind: GrantKind, wanted: int, wanted_kind: GrantKind, given: int) -> None:
    held = granted(smb(FIRST, key=b"a"), there, kind)
    held = transitions.open_file(held, smb(SECOND, key=b"b")).state
    assert ask(held, b"b", wanted_kind, wanted)[1] == given


@pytest.mark.parametrize(("there", "wanted", "given"), [(READ, RH, RH), (READ, RWH, READ), (RH, RWH, RH), (READ, READ | WRITE, READ)])
def test_a_lease_is_raised_beside_another_only_to_all_that_was_asked_for(there: int, wanted: int, given: int) -> None:
    held = granted(smb(FIRST, key=b"a"), there)
    held = granted(smb(SECOND, key=b"b"), READ, GrantKind.LEASE, held)
    assert ask(held, b"a", GrantKind.LEASE, wanted)[1] == given


def test_a_lease_that_was_broken_to_nothing_goes_on_with_its_epoch() -> None:
    held = transitions.open_file(FREE, smb(FIRST, key=b"a")).state
    held = holding.request(held, b"a", GrantKind.LEASE, READ, epoch=0x4711)
    assert held.grants[0].epoch == 0x4712
    step = transitions.check_io(held, STATELESS, 0, 1, True)
    assert step.upcalls == (Recall(b"a", GrantKind.LEASE, (FIRST,), READ, 0, False, 0x4713, 2),)
    held, rights = ask(step.state, b"a", GrantKind.LEASE, RWH)
    assert rights == RWH and held.grants[0].epoch == 0x4714


def test_its_own_write_or_lock_ends_an_opens_level_two_oplock() -> None:
    held = granted(smb(FIRST, key=b"a"), READ, GrantKind.OPLOCK)
    told = (Recall(b"a", GrantKind.OPLOCK, (FIRST,), READ, 0, False, 2),)
    assert transitions.check_io(held, FIRST, 0, 1, False) == Step(held)
    assert transitions.check_io(held, FIRST, 0, 1, True).upcalls == told
    assert transitions.lock(held, ByteLock(0, 1, False, FIRST)).upcalls == told
    batch = granted(smb(FIRST, key=b"a"), RWH, GrantKind.OPLOCK)
    assert transitions.check_io(batch, FIRST, 0, 1, True) == Step(batch)


def test_a_second_recall_follows_the_first_ones_answer_step_by_step() -> None:
    # smbtorture smb2.lease.breaking3: an open, then one that overwrites; the holder answers each recall.
    held = granted(smb(FIRST, key=b"a"), RWH)
    held = transitions.open_file(held, smb(SECOND)).state
    step = transitions.open_file(held, smb(THIRD), overwrite=True)
    assert step.wait and not step.upcalls
    told = []
    for kept in (RH, READ):
        assert transitions.open_file(step.state, smb(THIRD), again=True).wait, "who waits, waits for all of it"
        step = holding.acknowledge(step.state, b"a", kept)
        told += [(recall.held, recall.keep, recall.acknowledge, recall.epoch) for recall in step.upcalls if isinstance(recall, Recall)]
    assert told == [(RH, READ, True, 2), (READ, 0, False, 2)]
    assert not transitions.open_file(step.state, smb(THIRD), overwrite=True).wait


def test_an_open_does_not_come_between_the_steps_in_which_a_lease_goes() -> None:
    held = granted(smb(FIRST, key=b"a"), RH)
    step = transitions.open_file(held, smb(SECOND), overwrite=True)
    assert not step.wait, "its own recall is not waited for"
    assert not transitions.open_file(step.state, smb(THIRD), overwrite=True).wait
    assert transitions.open_file(step.state, smb(THIRD)).wait
    assert not transitions.open_file(step.state, smb(THIRD, READ_ATTRIBUTES)).wait
    assert not transitions.open_file(step.state, smb(THIRD, key=b"a")).wait


def test_changed_entries_are_told_to_all_who_cache_them_but_the_one_who_changed_them() -> None:
    held = granted(smb(FIRST, key=b"a"), RH)
    held = granted(smb(SECOND, key=b"b"), READ, GrantKind.LEASE, held)
    step = transitions.change_entries(held, b"a")
    assert not step.wait and [told.key for told in step.upcalls if isinstance(told, Recall)] == [b"b"]
    step = transitions.change_entries(held, b"")
    assert not step.wait and [(told.keep, told.acknowledge) for told in step.upcalls if isinstance(told, Recall)] == [(0, True), (0, False)]


def test_a_close_that_dooms_the_file_asks_others_to_close_what_they_cache() -> None:
    held = granted(smb(FIRST, key=b"a"), RH)
    held = transitions.open_file(held, smb(SECOND, DELETE, delete_on_close=True)).state
    step, delete = transitions.close_file(held, SECOND)
    assert not delete and not step.wait and step.state.delete_pending
    assert [(told.key, told.keep) for told in step.upcalls if isinstance(told, Recall)] == [(b"a", READ)]


GONE = [
    # rights of those who are away, what another does, a durable handle's outcome, a persistent one's
    (RWH, "open read", "gone", Delayed),
    (RWH, "v3 write", "gone", Delayed),
    (RH, "open read", "stays", "stays"),
    (RH, "v3 write", "gone", "loses"),
    (RH, "remove", "gone", Delayed),
]


@pytest.mark.parametrize(("rights", "action", "durable", "persistent"), GONE)
def test_of_those_who_are_away_nobody_is_asked(rights: int, action: str, durable: object, persistent: object) -> None:
    for expected, kept in ((durable, False), (persistent, True)):
        held = granted(smb(FIRST, key=b"a", persistent=kept), rights)
        held = transitions.disconnect(held, FIRST)
        if expected is Delayed:
            with pytest.raises(Delayed):
                OTHERS[action](held)
            continue
        step = OTHERS[action](held)
        assert not step.wait
        gone = all(other.id != FIRST for other in step.state.opens)
        assert gone == (expected == "gone") and step.upcalls == ((Dropped(FIRST, False),) if gone else ())
        if not gone:
            assert rights_of(step.state, b"a") == (0 if expected == "loses" else rights)


def test_asking_for_less_is_always_allowed() -> None:
    held = opened(nfs(FIRST, RW, SHARE_WRITE), nfs(SECOND, READ_DATA))
    assert transitions.change_open(held, FIRST, READ_DATA, SHARE_ALL).state.opening(FIRST).access == READ_DATA
    with pytest.raises(SharingViolation):
        transitions.change_open(held, SECOND, RW, SHARE_ALL)
    assert transitions.change_open(held, FIRST, READ_DATA, SHARE_ALL & ~SHARE_DELETE).state.opening(FIRST).share == 3
