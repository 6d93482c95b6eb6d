"""What opens, reads, writes and byte-range locks do to a file's state, and what keeps them from it."""

import msgspec

from sofs.errors import DeletePending
from sofs.locks import ranges, sharing
from sofs.locks.grants import READ, GrantKind
from sofs.locks.ranges import ByteLock
from sofs.locks.recalls import (
    await_leases,
    entries_rule,
    make_way,
    open_rule,
    pass_ranges,
    read_rule,
    recall_all,
    recall_upcall,
    removal_rule,
    remove,
    write_rule,
)
from sofs.locks.sharing import SHARE_DELETE, SHARE_READ, SHARE_WRITE, Opening
from sofs.locks.state import FREE, STATELESS, FileState, Step, replace_grant, replace_open
from sofs.types import OpenId

# Opens


def open_file(state: FileState, wanted: Opening, overwrite: bool = False, again: bool = False) -> Step:
    """One more open; with `overwrite` its disposition replaces the data; `again` says that it has waited already.

    Raises `DeletePending`, `SharingViolation`, `Delayed`.
    """
    if state is FREE:
        return Step(FileState((wanted,)))
    if state.delete_pending:
        raise DeletePending("the file is to be deleted")
    assert all(held.id != wanted.id for held in state.opens), f"open {wanted.id} exists"
    step = make_way(state, wanted.key, lambda held: sharing.clashes(held, wanted.access, wanted.share))
    if not step.wait:
        rule = open_rule(wanted.access, wanted.share, overwrite, wanted.delete_on_close)
        step = recall_all(step, wanted.key, rule)
        step = await_leases(step, wanted.key, rule, again)
    if step.wait:
        return step
    opened = msgspec.structs.replace(step.state, opens=(*step.state.opens, wanted))
    return step._replace(state=opened)


def change_open(state: FileState, id: OpenId, access: int, share: int, overwrite: bool = False) -> Step:
    """Other rights and share mode for an open (NFSv4 OPEN of the same owner, OPEN_DOWNGRADE). Raises like `open_file`, unless it asks for less."""
    held = state.opening(id)
    if not access & ~held.access and not held.share & ~share and not overwrite:
        return Step(replace_open(state, msgspec.structs.replace(held, access=access, share=share)))
    rest = msgspec.structs.replace(state, opens=tuple(other for other in state.opens if other.id != id))
    changed = msgspec.structs.replace(held, access=access, share=share)
    step = open_file(rest, changed, overwrite)
    if step.wait:
        # It stays as it was until then.
        return step._replace(state=msgspec.structs.replace(step.state, opens=(*step.state.opens, held)))
    return step


def close_file(state: FileState, id: OpenId) -> tuple[Step, bool]:
    """Without this open, its ranges, and its grant if no other open shares it. Also says whether the file is now to be deleted.

    If it is to be deleted once the others have closed it, they are asked to close the handles that they only cache.
    """
    closing = state.opening(id)
    left, delete = remove(state, id)
    step = Step(left)
    if closing.delete_on_close and left.delete_pending:
        step = recall_all(step, closing.key, removal_rule)._replace(wait=False)
    return step, delete


def abandon_open(state: FileState, id: OpenId) -> FileState:
    """Without this open, as if it had never been: a close that deletes nothing."""
    harmless = msgspec.structs.replace(state.opening(id), delete_on_close=False)
    return remove(replace_open(state, harmless), id)[0]


def disconnect(state: FileState, id: OpenId) -> FileState:
    """The open's connection is gone; its owner may come back."""
    return replace_open(state, msgspec.structs.replace(state.opening(id), connected=False))


def reconnect(state: FileState, id: OpenId) -> FileState:
    return replace_open(state, msgspec.structs.replace(state.opening(id), connected=True))


def mark_delete(state: FileState, id: OpenId, pending: bool) -> Step:
    """Marks the file for deletion at its last close, or takes the mark away (MS-FSA 2.1.5.15.3)."""
    opening = state.opening(id)
    step = Step(state)
    if pending:
        step = recall_all(step, opening.key, removal_rule)
        if step.wait:
            return step
    return step._replace(state=msgspec.structs.replace(step.state, delete_pending=pending))


def check_remove(state: FileState, by: OpenId = STATELESS, key: bytes = b"") -> Step:
    """Whether a name of the file may be removed, renamed or replaced now. Raises `SharingViolation`, `Delayed`.

    `by` is the open through which it is renamed, if there is one; else `key` is the caller's, whose own grants are in nobody's way. Opens without
    FILE_SHARE_DELETE are in the way (NFS opens never are).
    """
    key = state.opening(by).key if by else key
    step = make_way(state, key, lambda held: held.id != by and bool(sharing.denied(held) & SHARE_DELETE))
    return step if step.wait else recall_all(step, key, removal_rule)


def change_entries(state: FileState, key: bytes) -> Step:
    """A directory's entries change, by the holder of the directory grant `key` or somebody else: others must read them again."""
    return recall_all(Step(state), key, entries_rule)._replace(wait=False)


# Data and byte ranges


def check_io(state: FileState, by: OpenId, start: int, end: int, write: bool) -> Step:
    """Whether these bytes may be read or written now. Raises `SharingViolation` (stateless access), `LockConflict`, `Delayed`."""
    step, key, mandatory = Step(state), b"", False
    if by:
        opening = state.opening(by)
        key, mandatory = opening.key, opening.mandatory
    else:
        needs = SHARE_WRITE if write else SHARE_READ
        step = make_way(state, key, lambda held: bool(sharing.denied(held) & needs))
        if step.wait:
            return step
    step = pass_ranges(step, lambda held: ranges.io_blocker(held, start, end, write, by, mandatory))
    step = recall_all(step, key, write_rule if write else read_rule)
    return _lose_level_two(step, key) if write and not step.wait else step


def lock(state: FileState, wanted: ByteLock) -> Step:
    """One more byte-range lock. Raises `LockConflict`, `Delayed`, `Closed`."""
    key = state.opening(wanted.open).key if wanted.open else b""
    step = pass_ranges(Step(state), lambda held: ranges.blocker(held, wanted))
    step = recall_all(step, key, write_rule)
    if step.wait:
        return step
    step = _lose_level_two(step, key)
    return step._replace(state=msgspec.structs.replace(step.state, ranges=ranges.acquire(step.state.ranges, wanted)))


def unlock(state: FileState, start: int, end: int, open: OpenId, owner: bytes) -> FileState:
    """Raises `LockNotHeld` (SMB only)."""
    return msgspec.structs.replace(state, ranges=ranges.release(state.ranges, start, end, open, owner))


def conflict(state: FileState, wanted: ByteLock) -> ByteLock | None:
    """The lock that `wanted` would run into (NFSv4 LOCKT, NLM TEST)."""
    return ranges.blocker(state.ranges, wanted)


def _lose_level_two(step: Step, key: bytes) -> Step:
    """An open's own write or lock ends its level II oplock, too: nobody holds more than that, so nobody is told of the data (MS-FSA 2.1.4.12)."""
    held = step.state.grant(key) if key else None
    if held is None or held.kind is not GrantKind.OPLOCK or held.rights != READ:
        return step
    told = recall_upcall(step.state, held, None, 0)
    return step._replace(state=replace_grant(step.state, key, None), upcalls=(*step.upcalls, told))
