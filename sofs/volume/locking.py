"""Byte-range locks: Lock, Unlock, TestLock, FreeState; and Downgrade, which is about NFSv4 state, too. The rules are the lock engine's.

All locks of one NFSv4 lock owner on a file are one state with a number and a sequence, which each request about it raises (RFC 8881 9.1.4).
Each element of an SMB request says its LockSequence; one that has been carried out is not carried out again.
"""

import asyncio
from collections.abc import Awaitable

from sofs.errors import AccessDenied, InvalidArgument, LockConflict, LocksHeld, NotFound, SofsError
from sofs.locks import ByteLock
from sofs.types import Inode, Kind, OpenId
from sofs.volume.api import Access, AnyToken, Blocker, Downgrade, FreeState, Lock, Reply, State, TestLock, Unlock
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.openfile import LockState, OpenFile
from sofs.volume.opening import check_grace

MAX_LOCKS = 8192
"""Byte ranges of one file: each request passes all of them, some 0.2 us each."""

_DATA = int(Access.READ_DATA | Access.WRITE_DATA | Access.APPEND_DATA | Access.EXECUTE)
_READS = int(Access.READ_DATA | Access.EXECUTE)
_WRITES = int(Access.WRITE_DATA | Access.APPEND_DATA)


def lock(core: Core, request: Lock, token: AnyToken | None) -> Reply | Awaitable[Reply]:
    opened = core.open_of(request.open)
    if opened.kind != Kind.FILE:
        raise InvalidArgument("only files have bytes to lock")
    if not opened.access & _DATA:
        raise AccessDenied("locks take the right to read or write")
    if core.grace or request.reclaim:
        check_grace(core, request)
    if request.number and _is_done(core, opened, request):
        return Reply(core.gate)
    before = core.locks.state(opened.inode).ranges
    if len(before) >= MAX_LOCKS:
        raise LockConflict(f"{MAX_LOCKS} ranges of the file are locked")
    waiting = core.locks.lock(
        opened.inode, opened.id, request.offset, request.length, request.exclusive, owner=request.owner, wait=opened.mandatory, queue=request.wait
    )
    if waiting is not None:
        return _locked(core, request, opened, token, waiting)
    return _note_lock(core, request, opened, token, before)


async def _locked(core: Core, request: Lock, opened: OpenFile, token: AnyToken | None, waiting: Awaitable[None]) -> Reply:
    future = asyncio.ensure_future(waiting)
    try:
        await future
    except asyncio.CancelledError:
        # The client took the request back; if the lock came first, it goes again.
        if future.done() and not future.cancelled() and future.exception() is None and opened.id in core.opens:
            core.locks.unlock(opened.inode, opened.id, request.offset, request.length, owner=request.owner)
        raise
    return _note_lock(core, request, opened, token)


def _note_lock(core: Core, request: Lock, opened: OpenFile, token: AnyToken | None, before: tuple[ByteLock, ...] | None = None) -> Reply:
    """The lock has been taken: records it where that is called for. `before` is given if nothing has happened since the file's ranges were these."""
    try:
        return _answer(core, request, opened, token)
    except SofsError:
        _forget(opened, request)
        if request.owner and before is not None:
            core.locks.give_back(opened.inode, request.owner, before)
        else:
            core.locks.unlock(opened.inode, opened.id, request.offset, request.length, owner=request.owner)
        raise


def _answer(core: Core, request: Lock | Unlock, opened: OpenFile, token: AnyToken | None) -> Reply:
    """Raises the sequence of what has changed, and answers."""
    reply: Reply
    if request.owner:
        state = core.register.lock_state(opened.inode, request.owner)
        if state is None:
            state = LockState(core.new_open(), opened.inode, request.owner, opened.id)
            core.register.add_locks(state)
        state.open, state.sequence = opened.id, state.sequence + 1
        reply = State(core.gate, state.id, state.sequence, state.open)
    else:
        reply = Reply(core.gate)
        if request.number:
            if isinstance(request, Unlock) and request.undoes:
                _forget(opened, request)
            else:
                opened.numbers[request.number[:-1]] = request.number[-1:] + (request.element + 1).to_bytes(2)
            core.kept.touch(opened)
    if opened.recorded:
        core.kept.mark(opened.inode)
        core.note_down(Batch(), reply, token, reserved=isinstance(request, Unlock))
    return reply


def _is_done(core: Core, opened: OpenFile, request: Lock | Unlock) -> bool:
    """Whether this element of this LockSequence comes once more, and has been carried out."""
    if isinstance(request, Unlock) and request.undoes:
        return False
    done = _done(opened, request) > request.element
    if done:
        core.repeated["lock_sequence"] += 1
    return done


def _done(opened: OpenFile, request: Lock | Unlock) -> int:
    """How many elements of this LockSequence have been carried out."""
    known = opened.numbers.get(request.number[:-1])
    return int.from_bytes(known[1:]) if known is not None and known[:1] == request.number[-1:] else 0


def _forget(opened: OpenFile, request: Lock | Unlock) -> None:
    """The element has not been carried out, or not for good: when it is asked for again, it is to be."""
    if request.number and _done(opened, request) > request.element:
        opened.numbers[request.number[:-1]] = request.number[-1:] + request.element.to_bytes(2)


def unlock(core: Core, request: Unlock, token: AnyToken | None) -> Reply:
    opened = core.open_of(request.open)
    if request.number and _is_done(core, opened, request):
        return Reply(core.gate)
    if request.owner and core.register.lock_state(opened.inode, request.owner) is None:
        raise NotFound("the owner has never locked anything in this file")
    core.locks.unlock(opened.inode, opened.id, request.offset, request.length, owner=request.owner)
    return _answer(core, request, opened, token)


def test_lock(core: Core, request: TestLock, token: AnyToken | None) -> Blocker:
    record = core.record(request.inode)
    if record.kind != Kind.FILE:
        raise InvalidArgument("only files have bytes to lock")
    owner = request.owner or b"\0"  # nobody's
    held = core.locks.conflict(Inode(request.inode), OpenId(0), request.offset, request.length, request.exclusive, owner)
    if held is None:
        return Blocker(core.gate, False)
    return Blocker(core.gate, True, held.start, held.end - held.start, held.exclusive, held.owner)


def free_state(core: Core, request: FreeState, token: AnyToken | None) -> Reply:
    if request.id in core.opens:
        raise LocksHeld("an open or delegation is given back, not forgotten")
    state = core.register.locks.get(request.id)
    if state is None:
        raise NotFound(f"there is no state {request.id}")
    if any(held.owner == state.owner for held in core.locks.state(state.inode).ranges):
        raise LocksHeld("the owner holds locks in the file")
    core.register.remove_locks(state)
    core.kept.mark(state.inode)
    return core.note_down(Batch(), Reply(core.gate), token, reserved=True)


def downgrade(core: Core, request: Downgrade, token: AnyToken | None) -> State:
    """Only what OPENs of the owner have asked for together can be left (RFC 8881 18.18.3)."""
    opened = core.open_of(request.open)
    wanted = _use(request.access), 7 & ~request.share
    left = [(access, share) for access, share in opened.combinations if not _use(access) & ~wanted[0] and not 7 & ~share & ~wanted[1]]
    together = 0, 0
    for access, share in left:
        together = together[0] | _use(access), together[1] | 7 & ~share
    if together != wanted or not wanted[0]:
        raise InvalidArgument("nobody has opened the file like that")
    access = opened.access & ~(_READS | _WRITES) | request.access & opened.access
    core.locks.change_open(opened.inode, opened.id, access, request.share)
    opened.access, opened.share, opened.sequence, opened.combinations = access, request.share, opened.sequence + 1, tuple(left)
    core.kept.touch(opened)
    return core.note_down(Batch(), State(core.gate, opened.id, opened.sequence), token, reserved=True)


def _use(access: int) -> int:
    """Reading, writing or both: what OPEN4_SHARE_ACCESS says of an open's rights."""
    return (1 if access & _READS else 0) | (2 if access & _WRITES else 0)
