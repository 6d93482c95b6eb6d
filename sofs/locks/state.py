"""All that restrains one file's users, as a value, and the rules between them.

Every function takes a `FileState` and gives a `Step`. A step with `wait` set has not done what was asked: it only made
the recalls that must be answered first, and is to be tried again whenever the state has changed. What cannot be done is raised and
leaves the state as it was.

The rules between the protocols (ARCHITECTURE.md, "One file, two protocols"): SMB's share modes and byte ranges bind NFS; NFS
ranges bind SMB's I/O and not NFS's; a grant in the way is recalled, and the other waits or is told `Delayed`; so it is with a disconnected
persistent handle, while another disconnected handle gives way at once. Reading attributes restrains nobody and asks nothing here.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from sofs.errors import Closed, Delayed, DeletePending, InvalidArgument, LockConflict, SharingViolation
from sofs.locks import grants, ranges, sharing
from sofs.locks.grants import HANDLE, READ, WRITE, Grant, GrantKind
from sofs.locks.ranges import ByteLock, Ranges
from sofs.locks.sharing import SHARE_ALL, SHARE_DELETE, SHARE_READ, SHARE_WRITE, USES, WRITES, Opening
from sofs.types import OpenId

__all__ = ["FREE", "STATELESS", "Dropped", "FileState", "Recall", "Revoked", "Step", "Upcall"]

STATELESS = OpenId(0)
"""Access without an open: NFSv3, and NFSv4's special stateids."""
_QUIET = 0x80 | 0x100 | 0x100000
"""An open with no other rights than these (attributes, SYNCHRONIZE) disturbs no grant (MS-FSA 2.1.5.1.2.2)."""


class FileState(msgspec.Struct, frozen=True, array_like=True):
    """Who uses one file, and how. Files nobody uses have none."""

    opens: tuple[Opening, ...] = ()
    ranges: Ranges = ()
    grants: tuple[Grant, ...] = ()
    delete_pending: bool = False

    def opening(self, id: OpenId) -> Opening:
        """Raises `Closed`."""
        for held in self.opens:
            if held.id == id:
                return held
        raise Closed(f"there is no open {id}")

    def grant(self, key: bytes) -> Grant | None:
        return next((held for held in self.grants if held.key == key), None)


FREE = FileState()


class Recall(NamedTuple):
    """To a grant's holder: `keep` is all that may be kept from now on."""

    key: bytes
    kind: GrantKind
    opens: tuple[OpenId, ...]
    """The opens that share the grant; none for a delegation that outlived them."""
    keep: int
    acknowledge: bool
    """Whether an answer is awaited."""
    epoch: int


class Revoked(NamedTuple):
    """The holder did not answer in time: its grant is gone."""

    key: bytes
    kind: GrantKind
    opens: tuple[OpenId, ...]


class Dropped(NamedTuple):
    """A disconnected handle stood in the way and is closed; it can no longer be reconnected."""

    open: OpenId
    delete: bool
    """It was the last one of a file that is to be deleted."""


Upcall = Recall | Revoked | Dropped


class Step(NamedTuple):
    state: FileState
    upcalls: tuple[Upcall, ...] = ()
    wait: bool = False


# Opens


def open_file(state: FileState, wanted: Opening, overwrite: bool = False) -> Step:
    """One more open; with `overwrite` its disposition replaces the data. Raises `DeletePending`, `SharingViolation`, `Delayed`."""
    if state.delete_pending:
        raise DeletePending("the file is to be deleted")
    assert all(held.id != wanted.id for held in state.opens), f"open {wanted.id} exists"
    step = _make_way(state, wanted.key, lambda held: sharing.clashes(held, wanted.access, wanted.share))
    if not step.wait:
        step = _recall_all(step, wanted.key, lambda held: _taken_by_open(held, wanted.access, wanted.share, overwrite))
    if step.wait:
        return step
    opened = msgspec.structs.replace(step.state, opens=(*step.state.opens, wanted))
    return step._replace(state=opened)


def change_open(state: FileState, id: OpenId, access: int, share: int) -> Step:
    """Other rights and share mode for an open (NFSv4 OPEN of the same owner, OPEN_DOWNGRADE). Raises like `open_file`, unless it asks for less."""
    held = state.opening(id)
    if not access & ~held.access and not held.share & ~share:
        return Step(_replace_open(state, msgspec.structs.replace(held, access=access, share=share)))
    rest = msgspec.structs.replace(state, opens=tuple(other for other in state.opens if other.id != id))
    changed = msgspec.structs.replace(held, access=access, share=share)
    step = open_file(rest, changed)
    if step.wait:
        # It stays as it was until then.
        return step._replace(state=msgspec.structs.replace(step.state, opens=(*step.state.opens, held)))
    return step


def close_file(state: FileState, id: OpenId) -> tuple[FileState, bool]:
    """Without this open, its ranges, and its grant if no other open shares it. Also says whether the file is now to be deleted."""
    closing = state.opening(id)
    opens = tuple(held for held in state.opens if held.id != id)
    keys = {held.key for held in opens}
    pending = state.delete_pending or closing.delete_on_close
    left = FileState(
        opens,
        tuple(held for held in state.ranges if held.open != id),
        tuple(
            held for held in state.grants
            if held.kind is GrantKind.DELEGATION or held.key in keys or held.key != closing.key
        ),
        pending and bool(opens),
    )
    return left, pending and not opens


def abandon_open(state: FileState, id: OpenId) -> FileState:
    """Without this open, as if it had never been: a close that deletes nothing."""
    harmless = msgspec.structs.replace(state.opening(id), delete_on_close=False)
    return close_file(_replace_open(state, harmless), id)[0]


def disconnect(state: FileState, id: OpenId) -> FileState:
    """The open's connection is gone; its owner may come back."""
    return _replace_open(state, msgspec.structs.replace(state.opening(id), connected=False))


def reconnect(state: FileState, id: OpenId) -> FileState:
    return _replace_open(state, msgspec.structs.replace(state.opening(id), connected=True))


def mark_delete(state: FileState, id: OpenId, pending: bool) -> Step:
    """Marks the file for deletion at its last close, or takes the mark away (MS-FSA 2.1.5.15.3)."""
    opening = state.opening(id)
    step = Step(state)
    if pending:
        step = _recall_all(step, opening.key, _taken_by_removal)
        if step.wait:
            return step
    return step._replace(state=msgspec.structs.replace(step.state, delete_pending=pending))


def check_remove(state: FileState, by: OpenId = STATELESS) -> Step:
    """Whether a name of the file may be removed, renamed or replaced now. Raises `SharingViolation`, `Delayed`.

    `by` is the open through which it is renamed, if there is one. Opens without FILE_SHARE_DELETE are in the way (NFS opens never are).
    """
    key = state.opening(by).key if by else b""
    step = _make_way(state, key, lambda held: held.id != by and bool(sharing.denied(held) & SHARE_DELETE))
    return step if step.wait else _recall_all(step, key, _taken_by_removal)


# Data and byte ranges


def check_io(state: FileState, by: OpenId, start: int, end: int, write: bool) -> Step:
    """Whether these bytes may be read or written now. Raises `SharingViolation` (stateless access), `LockConflict`, `Delayed`."""
    step, key, mandatory = Step(state), b"", False
    if by:
        opening = state.opening(by)
        key, mandatory = opening.key, opening.mandatory
    else:
        needs = SHARE_WRITE if write else SHARE_READ
        step = _make_way(state, key, lambda held: bool(sharing.denied(held) & needs))
        if step.wait:
            return step
    step = _pass_ranges(step, lambda held: ranges.io_blocker(held, start, end, write, by, mandatory))
    return _recall_all(step, key, _taken_by_write if write else _taken_by_read)


def lock(state: FileState, wanted: ByteLock) -> Step:
    """One more byte-range lock. Raises `LockConflict`, `Delayed`, `Closed`."""
    key = state.opening(wanted.open).key if wanted.open else b""
    step = _pass_ranges(Step(state), lambda held: ranges.blocker(held, wanted))
    step = _recall_all(step, key, _taken_by_write)
    if step.wait:
        return step
    return step._replace(
        state=msgspec.structs.replace(step.state, ranges=ranges.acquire(step.state.ranges, wanted))
    )


def unlock(state: FileState, start: int, end: int, open: OpenId, owner: bytes) -> FileState:
    """Raises `LockNotHeld` (SMB only)."""
    return msgspec.structs.replace(state, ranges=ranges.release(state.ranges, start, end, open, owner))


def conflict(state: FileState, wanted: ByteLock) -> ByteLock | None:
    """The lock that `wanted` would run into (NFSv4 LOCKT, NLM TEST)."""
    return ranges.blocker(state.ranges, wanted)


# Grants


def request(state: FileState, key: bytes, kind: GrantKind, wanted: int) -> tuple[FileState, int]:
    """Gives the holder `key`, whose open (if any) is there already, as much of `wanted` as others leave room for.

    Never less than it has. A grant that is being recalled is not changed. Gives the state and the rights held now.
    """
    held = state.grant(key)
    if held is not None and (held.recalling or held.kind is not kind):
        return state, held.rights
    rights = _room(state, key, kind, wanted)
    if held is None:
        if not rights:
            return state, 0
        new = Grant(key, kind, rights, rights, rights)
        return msgspec.structs.replace(state, grants=(*state.grants, new)), rights
    if rights == held.rights or rights & held.rights != held.rights:
        return state, held.rights
    more = msgspec.structs.replace(held, rights=rights, target=rights, told=rights, epoch=held.epoch + 1)
    return _replace_grant(state, key, more), rights


def acknowledge(state: FileState, key: bytes, kept: int) -> Step:
    """The holder's answer to a recall. Raises `InvalidArgument` if it answers what was not asked."""
    held = _held(state, key)
    left, tell = grants.acknowledge(held, kept)
    step = Step(_replace_grant(state, key, left))
    if tell is None:
        return step
    return step._replace(upcalls=(_recall_upcall(state, held, left, tell),))


def give_back(state: FileState, key: bytes) -> FileState:
    """The holder wants its grant no more, asked or not (DELEGRETURN)."""
    _held(state, key)
    return _replace_grant(state, key, None)


def expire(state: FileState, key: bytes) -> Step:
    """The time for the holder's answer is over."""
    held = _held(state, key)
    if not held.recalling:
        return Step(state)
    return Step(_replace_grant(state, key, None), (Revoked(key, held.kind, _sharers(state, key)),))


# How requests and grants go together


def _taken_by_read(held: Grant) -> int:
    return WRITE


def _taken_by_write(held: Grant) -> int:
    return READ | WRITE | HANDLE


def _taken_by_removal(held: Grant) -> int:
    return READ | WRITE if held.kind is GrantKind.DELEGATION else HANDLE


def _taken_by_open(held: Grant, access: int, share: int, overwrite: bool) -> int:
    if overwrite:
        return READ | WRITE | HANDLE
    if not access & ~_QUIET:
        return 0
    # A reader may not stay ignorant of writers to come, or of being shut out (RFC 8881 10.4.1).
    if held.kind is GrantKind.DELEGATION and (access & WRITES or not share & SHARE_READ):
        return READ | WRITE
    return WRITE


def _room(state: FileState, key: bytes, kind: GrantKind, wanted: int) -> int:
    """How much of `wanted` can be granted beside the other users (MS-FSA 2.1.5.18)."""
    if not wanted & READ:
        return 0
    others = [held for held in state.opens if held.key != key and held.access & ~_QUIET]
    foreign = [held for held in state.grants if held.key != key]
    mine = {held.id for held in state.opens if held.key == key}
    if any(held.open not in mine for held in state.ranges) or any(held.rights & WRITE for held in foreign):
        return 0
    if kind is GrantKind.DELEGATION:
        if wanted & WRITE:
            return 0 if others or foreign else READ | WRITE
        return 0 if any(held.access & WRITES for held in others) else READ
    rights = wanted
    if others or any(held.kind is GrantKind.DELEGATION for held in foreign):
        rights = READ if kind is GrantKind.OPLOCK else rights & ~WRITE
    return rights


def _recall_all(step: Step, key: bytes, take: Callable[[Grant], int]) -> Step:
    """Recalls from every other holder what `take` says, and waits where that is needed."""
    if not step.state.grants:
        return step
    state, upcalls, wait = step
    for held in step.state.grants:
        if key and held.key == key:
            continue
        rights = take(held)
        left, tell = grants.recall(held, rights)
        if tell is not None:
            upcalls = (*upcalls, _recall_upcall(state, held, left, tell))
        if left is not held:
            state = _replace_grant(state, held.key, left)
        if left is not None and grants.must_wait(left, rights):
            wait = True
    return Step(state, upcalls, wait)


def _make_way(state: FileState, key: bytes, in_way: Callable[[Opening], bool]) -> Step:
    """Clears opens that are in the way, as far as they can be: cached handles are recalled, disconnected ones dropped.

    Raises `SharingViolation` if one is there to stay, `Delayed` if one may yet go.
    """
    blocking = [held for held in state.opens if in_way(held)]
    if not blocking:
        return Step(state)
    step = Step(state)
    step = _drop_disconnected(step, blocking)
    live = [held for held in blocking if held.connected]
    # A handle may be held only by the client's cache: then the application has closed it, and the recall will.
    cached = {held.key for held in step.state.grants if held.rights & HANDLE and held.key != key}
    for held in live:
        if held.key not in cached:
            raise SharingViolation("another open does not share that access")
    keys = {held.key for held in live}
    return _recall_all(step, key, lambda held: WRITE | HANDLE if held.key in keys else 0)


def _pass_ranges(step: Step, find: Callable[[Ranges], ByteLock | None]) -> Step:
    """Raises `LockConflict` if a lock is in the way, unless its open is a disconnected one."""
    while (blocker := find(step.state.ranges)) is not None:
        owners = [held for held in step.state.opens if held.id == blocker.open and not held.connected]
        if not owners:
            kind = "exclusive" if blocker.exclusive else "shared"
            raise LockConflict(f"bytes {blocker.start} to {blocker.end} are under {kind} lock")
        step = _drop_disconnected(step, owners)
    return step


def _drop_disconnected(step: Step, openings: Iterable[Opening]) -> Step:
    for held in openings:
        if held.connected:
            continue
        if held.persistent:
            raise Delayed("a persistent handle whose client is away is in the way")
        state, delete = close_file(step.state, held.id)
        step = step._replace(state=state, upcalls=(*step.upcalls, Dropped(held.id, delete)))
    return step


def _recall_upcall(state: FileState, held: Grant, left: Grant | None, keep: int) -> Recall:
    epoch = left.epoch if left is not None else held.epoch + 1
    return Recall(held.key, held.kind, _sharers(state, held.key), keep, left is not None, epoch)


def _sharers(state: FileState, key: bytes) -> tuple[OpenId, ...]:
    return tuple(held.id for held in state.opens if held.key == key)


def _held(state: FileState, key: bytes) -> Grant:
    held = state.grant(key)
    if held is None:
        raise InvalidArgument("there is no such grant")
    return held


def _replace_grant(state: FileState, key: bytes, new: Grant | None) -> FileState:
    kept = tuple(
        replaced for held in state.grants if (replaced := new if held.key == key else held) is not None
    )
    return msgspec.structs.replace(state, grants=kept)


def _replace_open(state: FileState, new: Opening) -> FileState:
    return msgspec.structs.replace(state, opens=tuple(new if held.id == new.id else held for held in state.opens))


assert USES & SHARE_ALL  # rights and share modes are different words: never compare one with the other
