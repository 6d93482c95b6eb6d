"""What others must give up so that a request can go on: grants are recalled, cached handles closed, disconnected opens dropped.

A rule says for a held grant what is taken of it, and which rights the request cannot go on beside, as MS-FSA 2.1.4.12 says of oplocks
for each operation, and RFC 8881 10.4 of delegations.
"""

from collections.abc import Callable, Iterable

from sofs.errors import Delayed, LockConflict, SharingViolation
from sofs.locks import grants
from sofs.locks.grants import HANDLE, READ, WRITE, Grant, GrantKind
from sofs.locks.ranges import ByteLock, Ranges
from sofs.locks.sharing import SHARE_READ, WRITES, Opening
from sofs.locks.state import FREE, Dropped, FileState, Recall, Step, replace_grant
from sofs.types import OpenId

QUIET = 0x80 | 0x100 | 0x100000
"""An open with no other rights than these (attributes, SYNCHRONIZE) disturbs no grant (MS-FSA 2.1.5.1.2.2)."""
_QUIET_FOR_LEASES = QUIET | 0x20000
"""READ_CONTROL disturbs no lease either (smbtorture smb2.lease.statopen4)."""
_ALL = READ | WRITE | HANDLE

Rule = Callable[[Grant], tuple[int, int]]
"""For a held grant: the rights that are taken, and those that the request must not go on beside."""
ByteRule = Callable[[Ranges], ByteLock | None]


def read_rule(held: Grant) -> tuple[int, int]:
    return WRITE, WRITE


def write_rule(held: Grant) -> tuple[int, int]:
    """A write, a byte-range lock, a change of size."""
    return _ALL, READ | WRITE if held.kind is GrantKind.DELEGATION else WRITE


def removal_rule(held: Grant) -> tuple[int, int]:
    """A removal, renaming or replacement of a name."""
    taken = READ | WRITE if held.kind is GrantKind.DELEGATION else HANDLE
    return taken, taken


def entries_rule(held: Grant) -> tuple[int, int]:
    """A change of a directory's entries: those who cache them are told, nobody waits."""
    return (READ, 0) if held.kind is GrantKind.LEASE else (0, 0)


def open_rule(access: int, share: int, overwrite: bool, delete: bool) -> Rule:
    """An open with these rights and this share mode; `delete`: it deletes the file at its close."""

    def rule(held: Grant) -> tuple[int, int]:
        if overwrite:
            return write_rule(held)
        if not access & ~(_QUIET_FOR_LEASES if held.kind is GrantKind.LEASE else QUIET):
            return 0, 0
        # A reader may not stay ignorant of writers to come, or of being shut out (RFC 8881 10.4.1).
        if held.kind is GrantKind.DELEGATION and (access & WRITES or delete or not share & SHARE_READ):
            return READ | WRITE, READ | WRITE
        return WRITE, WRITE

    return rule


def recall_all(step: Step, key: bytes, rule: Rule) -> Step:
    """Recalls from every other holder what the rule takes, and waits where that is needed. Raises `Delayed`."""
    if not step.state.grants:
        return step
    for held in step.state.grants:
        if key and held.key == key:
            continue
        take, need = rule(held)
        if held.rights & (take | need):
            step = _recall_one(step, held, take, need)
    return step


def await_leases(step: Step, key: bytes, rule: Rule, again: bool) -> Step:
    """An open does not come between the steps in which a lease goes: one that has nothing to take from a lease that is being recalled waits for the end
    of that, and so does one that has waited before (as Windows does: smbtorture smb2.lease.breaking3 and breaking4)."""
    if step.wait:
        return step
    for held in step.state.grants:
        if held.kind is not GrantKind.LEASE or not held.recalling or (key and held.key == key):
            continue
        take, _ = rule(held)
        if take and (again or not held.rights & take):
            return step._replace(wait=True)
    return step


def _recall_one(step: Step, held: Grant, take: int, need: int) -> Step:
    left, tell = grants.recall(held, take)
    unchanged = left is held
    wait = left is not None and grants.must_wait(left, need)
    if unchanged and not wait:
        return step
    sharers = step.state.sharers(held.key)
    if sharers and not any(sharer.connected for sharer in sharers):
        return _take_from_absent(step, held, sharers, take, need)
    state, upcalls = step.state, step.upcalls
    if tell is not None:
        upcalls = (*upcalls, recall_upcall(state, held, left, tell))
    if not unchanged:
        state = replace_grant(state, held.key, left)
    return Step(state, upcalls, step.wait or wait)


def _take_from_absent(step: Step, held: Grant, sharers: tuple[Opening, ...], take: int, need: int) -> Step:
    """Nobody is there to be asked: durable handles give way. A persistent one stays, and hears at its reconnection what it has lost meanwhile."""
    if held.rights & need or not all(sharer.persistent for sharer in sharers):
        return _drop_disconnected(step, sharers)
    left = grants.settle(held, grants.target_of(held, take))
    return step._replace(state=replace_grant(step.state, held.key, left))


def make_way(state: FileState, key: bytes, in_way: Callable[[Opening], bool]) -> Step:
    """Clears opens that are in the way, as far as they can be: cached handles are recalled, disconnected ones dropped.

    Raises `SharingViolation` if one is there to stay, `Delayed` if one may yet go.
    """
    blocking = [held for held in state.opens if in_way(held)]
    step = Step(state)
    if not blocking:
        return step
    step = _drop_disconnected(step, blocking)
    live = [held for held in blocking if held.connected]
    # A handle may be held only by the client's cache: then the application has closed it, and the recall will.
    cached = {held.key for held in step.state.grants if held.rights & HANDLE and held.key != key}
    for held in live:
        if held.key not in cached:
            raise SharingViolation("another open does not share that access")
    keys = {held.key for held in live}
    return recall_all(step, key, lambda held: (HANDLE, HANDLE) if held.key in keys else (0, 0))


def pass_ranges(step: Step, find: ByteRule) -> Step:
    """Raises `LockConflict` if a lock is in the way, unless its open is a disconnected one."""
    while (blocker := find(step.state.ranges)) is not None:
        owners = [held for held in step.state.opens if held.id == blocker.open and not held.connected]
        if not owners:
            kind = "exclusive" if blocker.exclusive else "shared"
            raise LockConflict(f"bytes {blocker.start} to {blocker.end} are under {kind} lock")
        step = _drop_disconnected(step, owners)
    return step


def _drop_disconnected(step: Step, openings: Iterable[Opening]) -> Step:
    """Closes those that are disconnected. A file that goes with its last open is waited for: the request finds its name gone then."""
    for held in openings:
        if held.connected:
            continue
        if held.persistent:
            raise Delayed("a persistent handle whose client is away is in the way")
        state, delete = remove(step.state, held.id)
        step = Step(state, (*step.upcalls, Dropped(held.id, delete)), step.wait or delete)
    return step


def remove(state: FileState, id: OpenId) -> tuple[FileState, bool]:
    """Without this open, its ranges, and its grant if no other open shares it. Also says whether the file is now to be deleted."""
    closing = state.opening(id)
    if len(state.opens) == 1 and (not state.ranges or all(held.open == id for held in state.ranges)):
        return FREE, state.delete_pending or closing.delete_on_close
    opens = tuple(held for held in state.opens if held.id != id)
    keys = {held.key for held in opens}
    pending = state.delete_pending or closing.delete_on_close
    left = FileState(
        opens,
        tuple(held for held in state.ranges if held.open != id),
        tuple(held for held in state.grants if _outlives(held, closing, keys)),
        pending and bool(opens),
    )
    return left, pending and not opens


def _outlives(grant: Grant, closing: Opening, keys: set[bytes]) -> bool:
    if grant.kind is GrantKind.DELEGATION:
        return grant.delegation != closing.id
    return grant.key in keys or grant.key != closing.key


def recall_upcall(state: FileState, held: Grant, left: Grant | None, keep: int) -> Recall:
    """What the holder of `held` is told, of which `left` is left."""
    opens = tuple(sharer.id for sharer in state.sharers(held.key))
    epoch = left.epoch if left is not None else held.epoch + 1
    asked = left is not None and left.recalling
    return Recall(held.key, held.kind, opens, held.rights, keep, asked, epoch, held.version, held.delegation)
