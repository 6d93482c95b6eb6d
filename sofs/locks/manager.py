"""The states of a volume's files, and those who wait for them to change.

Requests are tried at once. One that must wait is queued with its file and tried again, in order of arrival, whenever the
file's state has changed; it ends when it succeeds, fails for good, or its awaitable is cancelled. Recalls that are not answered
within `recall_timeout` seconds end in revocation. Everything runs on the loop; the files that nobody restrains cost one look-up.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import msgspec

from sofs.errors import Delayed, LockConflict, SofsError, Unavailable
from sofs.locks import holding, ranges, transitions
from sofs.locks.grants import READ, Grant, GrantKind
from sofs.locks.ranges import ByteLock
from sofs.locks.sharing import Opening
from sofs.locks.state import FREE, STATELESS, Dropped, FileState, Step, Upcall
from sofs.runtime.ports import Clock, Timer
from sofs.types import Inode, OpenId

_Transition = Callable[[FileState, bool], Step]
"""What is tried: with the state, and whether it has been tried before."""


MOST_QUEUED, MOST_WAITING = 128, 512
"""Requests that wait at one file when one more is to wait for locks, and when one is to wait for a grant: whenever the file's state changes, each is
tried again, which takes as long as there are locks and opens. What is beyond is answered as if it had not wanted to wait."""


class _Waiter(NamedTuple):
    transition: _Transition
    future: "asyncio.Future[None]"
    for_lock: bool
    """It also waits for byte-range locks to go."""


class LockManager:
    """Opens, byte ranges and grants of one volume.

    Methods that may wait return None when they succeeded at once. With `wait` they return an awaitable otherwise: cancel that (it is a future) to
    take the request back; if it is done by then, the request has taken effect and must be undone by closing or unlocking. Without `wait` they raise
    `Delayed` after the recalls have been sent.
    """

    def __init__(self, clock: Clock, upcall: Callable[[Inode, Upcall], None], recall_timeout: float = 35.0, delegation_timeout: float = 90.0) -> None:
        """`upcall` is told what to send to clients, when the state has changed already. It must not call back into this object about the same file
        before the call it happens in has returned. SMB's holders have the first time-out to answer (MS-SMB2 3.3.2.1), NFS's the second: a lease period."""
        self._clock = clock
        self._upcall = upcall
        self._recall_timeout = recall_timeout
        self._delegation_timeout = delegation_timeout
        self.changed: Callable[[Inode], None] = lambda inode: None
        """Called when the state of a file in `followed` has changed."""
        self.followed: set[Inode] = set()
        self._files: dict[Inode, FileState] = {}
        self._contended: set[Inode] = set()  # where an open's own reads and writes can run into anything at all
        self._queues: dict[Inode, deque[_Waiter]] = {}
        self._timers: dict[tuple[Inode, bytes], Timer] = {}
        self._stopped = False

    # Opens

    def open(self, inode: Inode, opening: Opening, *, overwrite: bool = False, wait: bool = False) -> Awaitable[None] | None:
        """Adds an open. Raises `DeletePending`, `SharingViolation`, `Delayed`."""
        return self._attempt(inode, lambda state, again: transitions.open_file(state, opening, overwrite, again), wait)

    def change_open(self, inode: Inode, id: OpenId, access: int, share: int, *, overwrite: bool = False) -> Awaitable[None] | None:
        """Gives an open other rights and another share mode. Raises as `open` does, and `Closed`."""
        return self._attempt(inode, lambda state, again: transitions.change_open(state, id, access, share, overwrite), False)

    def close(self, inode: Inode, id: OpenId) -> bool:
        """Ends an open with its ranges; says whether the file is to be deleted now. Raises `Closed`."""
        step, delete = transitions.close_file(self.state(inode), id)
        self._become(inode, step)
        return delete

    def abandon(self, inode: Inode, id: OpenId) -> None:
        """Takes back an open that came to nothing: as a close, but its delete-on-close has no effect. Raises `Closed`."""
        self._become(inode, Step(transitions.abandon_open(self.state(inode), id)))

    def mark_delete(self, inode: Inode, id: OpenId, pending: bool, *, wait: bool = False) -> Awaitable[None] | None:
        """Marks the file for deletion at its last close, or takes the mark away. Raises `Closed`, `Delayed`."""
        return self._attempt(inode, lambda state, again: transitions.mark_delete(state, id, pending), wait)

    def check_remove(self, inode: Inode, by: OpenId = STATELESS, *, key: bytes = b"", wait: bool = False) -> Awaitable[None] | None:
        """Passes when a name of the file may be removed, renamed or replaced, through the open `by` or by the holder of `key`. Raises `SharingViolation`,
        `Delayed`."""
        if inode not in self._files:
            return None
        return self._attempt(inode, lambda state, again: transitions.check_remove(state, by, key), wait)

    def change_entries(self, inode: Inode, key: bytes) -> None:
        """The entries of a directory change, by the holder of the directory grant `key` or, if that is empty, by somebody without one."""
        if self.state(inode).grants:
            self._become(inode, transitions.change_entries(self.state(inode), key))

    def disconnect(self, inode: Inode, id: OpenId) -> None:
        """The open's connection is gone and its owner may come back. Raises `Closed`."""
        self._become(inode, Step(transitions.disconnect(self.state(inode), id)))

    def reconnect(self, inode: Inode, id: OpenId) -> None:
        """Its owner is back. Raises `Closed`."""
        self._become(inode, Step(transitions.reconnect(self.state(inode), id)))

    # Data and byte ranges

    def may_read(self, inode: Inode, by: OpenId, offset: int, length: int, *, wait: bool = False) -> Awaitable[None] | None:
        """Passes when these bytes may be read through the open `by` (0: without one).

        Raises `LockConflict`, `SharingViolation` (only without an open), `Delayed`, `Closed`.
        """
        if inode not in (self._contended if by else self._files):
            return None
        return self._attempt(inode, lambda state, again: transitions.check_io(state, by, offset, offset + length, False), wait)

    def may_write(self, inode: Inode, by: OpenId, offset: int, length: int, *, wait: bool = False) -> Awaitable[None] | None:
        """The same for a write; a change of size is a write of the bytes between the two sizes."""
        if inode not in (self._contended if by else self._files):
            return None
        return self._attempt(inode, lambda state, again: transitions.check_io(state, by, offset, offset + length, True), wait)

    def lock(
        self, inode: Inode, open: OpenId, offset: int, length: int, exclusive: bool, *, owner: bytes = b"", wait: bool = False, queue: bool = False
    ) -> Awaitable[None] | None:
        """Takes a byte-range lock, for the open (SMB) or for an NFS lock `owner`.

        `wait` is about grants, as everywhere; `queue` waits for other locks to go as well. Raises `LockConflict`, `Delayed`, `InvalidArgument`, `Closed`.
        """
        start, end = ranges.span(offset, length, owner)
        wanted = ByteLock(start, end, exclusive, open, owner)
        return self._attempt(inode, lambda state, again: transitions.lock(state, wanted), wait or queue, queue)

    def unlock(self, inode: Inode, open: OpenId, offset: int, length: int, *, owner: bytes = b"") -> None:
        """Releases exactly that lock (SMB), or whatever the owner has locked there (NFS). Raises `LockNotHeld`, `InvalidArgument`."""
        start, end = ranges.span(offset, length, owner)
        self._become(inode, Step(transitions.unlock(self.state(inode), start, end, open, owner)))

    def give_back(self, inode: Inode, owner: bytes, before: ranges.Ranges) -> None:
        """Takes a request of an NFS lock owner back: it has what it had of the ranges `before`. (A lock may have taken the place of others.)"""
        state = self.state(inode)
        kept = (held for held in state.ranges if held.owner != owner)
        had = (held for held in before if held.owner == owner)
        self._become(inode, Step(msgspec.structs.replace(state, ranges=tuple(sorted((*kept, *had))))))

    def conflict(self, inode: Inode, open: OpenId, offset: int, length: int, exclusive: bool, owner: bytes) -> ByteLock | None:
        """The lock that such a request would run into now."""
        start, end = ranges.span(offset, length, owner)
        return transitions.conflict(self.state(inode), ByteLock(start, end, exclusive, open, owner))

    # Grants

    def request(
        self, inode: Inode, key: bytes, kind: GrantKind, wanted: int, *, epoch: int = 0, version: int = 2, delegation: OpenId = STATELESS
    ) -> Grant | None:
        """Asks for rights to cache; gives the grant held now, if there is one. The holder's open comes first."""
        state = holding.request(self.state(inode), key, kind, wanted, epoch=epoch, version=version, delegation=delegation)
        self._become(inode, Step(state))
        return state.grant(key)

    def acknowledge(self, inode: Inode, key: bytes, kept: int) -> Grant | None:
        """The holder's answer to a recall; gives what is left. Raises `NotFound`, `NotRecalled`, `InvalidArgument`."""
        step = holding.acknowledge(self.state(inode), key, kept)
        self._become(inode, step)
        return step.state.grant(key)

    def remind(self, inode: Inode, key: bytes) -> None:
        """Tells a grant's holder once more what is being recalled, if anything is."""
        self._become(inode, holding.remind(self.state(inode), key))

    # States

    def state(self, inode: Inode) -> FileState:
        return self._files.get(inode, FREE)

    def files(self) -> Iterator[tuple[Inode, FileState]]:
        """Every file in use."""
        return iter(list(self._files.items()))

    def restore(self, inode: Inode, state: FileState) -> None:
        """Puts a file's recorded state in place, after a restart or takeover; recalls start over when somebody is in their way again."""
        assert inode not in self._files
        self._become(inode, Step(state))

    def stop(self) -> None:
        """Ends all waiting with `Unavailable`, without effect, and all timers. Nobody waits here any more."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            for waiter in queue:
                if not waiter.future.done():
                    _refuse(waiter.future, Unavailable("the volume is being closed"))

    def go_on(self) -> None:
        """Takes `stop` back, but for who waited. Recalls have their time once more."""
        self._stopped = False
        for inode, state in self._files.items():
            self._watch(inode, state)

    # Waiting

    def _attempt(self, inode: Inode, transition: _Transition, wait: bool, for_lock: bool = False) -> Awaitable[None] | None:
        try:
            step = transition(self.state(inode), False)
        except LockConflict:
            if not for_lock or self._crowded(inode, MOST_QUEUED):
                raise
        else:
            self._become(inode, step)
            if not step.wait:
                return None
            if not wait or self._crowded(inode, MOST_WAITING):
                raise Delayed("a client has been asked to give back what it caches")
            if any(isinstance(upcall, Dropped) for upcall in step.upcalls):
                self._clock.call_soon(lambda: self._retry(inode))  # it waits for nobody's answer
        if self._stopped:
            raise Unavailable("the volume is being closed")
        waiter = _Waiter(transition, asyncio.get_running_loop().create_future(), for_lock)
        self._queues.setdefault(inode, deque()).append(waiter)
        return waiter.future

    def _crowded(self, inode: Inode, most: int) -> bool:
        """Whether so many wait for the file already. Those who have given up make room."""
        queue = self._queues.get(inode)
        if queue is None or len(queue) < most:
            return False
        left = self._queues[inode] = deque(waiter for waiter in queue if not waiter.future.done())
        return len(left) >= most

    def _retry(self, inode: Inode) -> None:
        """Tries everybody who waits for this file once more."""
        queue = self._queues.pop(inode, None)
        if queue is None:
            return
        left: deque[_Waiter] = deque()
        for waiter in queue:
            if waiter.future.done() or self._settle(inode, waiter):
                continue
            left.append(waiter)
        if left:
            # Those who came meanwhile stand behind.
            left.extend(self._queues.pop(inode, ()))
            self._queues[inode] = left

    def _settle(self, inode: Inode, waiter: _Waiter) -> bool:
        """Tries a request; whether it has come to its end."""
        try:
            step = waiter.transition(self.state(inode), True)
        except LockConflict as error:
            if waiter.for_lock:
                return False
            _refuse(waiter.future, error)
        except SofsError as error:
            _refuse(waiter.future, error)
        else:
            self._become(inode, step)
            if step.wait:
                return False
            waiter.future.set_result(None)
        return True

    def _become(self, inode: Inode, step: Step) -> None:
        state, old = step.state, self._files.get(inode, FREE)
        if state != old:
            if state == FREE:
                self._files.pop(inode, None)
            else:
                self._files[inode] = state
            if state.ranges or (state.grants and _contended(state)):
                self._contended.add(inode)
            else:
                self._contended.discard(inode)
            if inode in self.followed:
                self.changed(inode)
            if state.grants or old.grants:
                self._watch(inode, state)
            if inode in self._queues:
                self._clock.call_soon(lambda: self._retry(inode))
        for upcall in step.upcalls:
            self._upcall(inode, upcall)

    def _watch(self, inode: Inode, state: FileState) -> None:
        """Sets a timer for each recall that has begun, and stops those that have ended."""
        recalling = {held.key for held in state.grants if held.recalling}
        for key in recalling:
            if (inode, key) not in self._timers:
                held = state.grant(key)
                asked = self._delegation_timeout if held is not None and held.delegation else self._recall_timeout
                self._timers[inode, key] = self._clock.call_later(asked, lambda key=key: self._expire(inode, key))  # type: ignore[misc]
        for place in [place for place in self._timers if place[0] == inode and place[1] not in recalling]:
            self._timers.pop(place).cancel()

    def _expire(self, inode: Inode, key: bytes) -> None:
        del self._timers[inode, key]
        self._become(inode, holding.expire(self.state(inode), key))


def _contended(state: FileState) -> bool:
    """Whether an open's reads or writes may have to recall something: another's grant, or its own level II oplock."""
    return any(
        held.rights and (held.key != opening.key or (held.kind is GrantKind.OPLOCK and held.rights == READ))
        for held in state.grants
        for opening in state.opens
    )


def _refuse(future: "asyncio.Future[None]", error: SofsError) -> None:
    """Whoever waits may have been cancelled meanwhile: then nobody hears of it, which is no fault."""
    future.set_exception(error)
    future.exception()
