"""The coordination store as one node of a simulated cluster reaches it: the embedded store behind a channel that may fail.

All nodes share one `EmbeddedStore`, which runs in the simulation's own context and never fails itself. What the channel may do to a call:

- nobody answers (an outage, or this node is cut off): `Unavailable`; if that begins while a change is under way, `OutcomeUnknown`;
- a change gets lost, or is made and its answer lost, or is made only after the caller was told that its outcome is unknown;
- it takes long;
- a lease's keeping does not get through, and the lease ends;
- a watch lags, and begins anew with a complete listing.

Reads take effect at one moment between call and answer, as do transactions: the store stays linearizable.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

from sofs.coordination.embedded import EmbeddedLease, EmbeddedStore
from sofs.coordination.store import Change, Condition, Entry, Listing, OutcomeUnknown, Seen, Transacted
from sofs.errors import Unavailable
from sofs.runtime.simulated_loop import SimulatedRandom

__all__ = ["Channel", "Line"]

T = TypeVar("T")


@dataclass
class Line:
    """How well one node reaches the store. Faults change it."""

    up: bool = True
    delay: float = 1e-3
    """Seconds each way, on average."""
    trouble: float = 0.0
    """How probably a change gets lost, is answered late, or made late."""
    lag: float = 2e-3
    """Seconds until a watch tells, on average."""
    restarts: float = 0.0
    """How probably a watch begins anew instead of telling of a change."""
    timeout: float = 3.0
    """Seconds after which a call without an answer ends."""


class Channel:
    """`Store` of one node."""

    def __init__(self, store: EmbeddedStore, line: Line, random: SimulatedRandom, note: Callable[..., None] = lambda what, *fields: None) -> None:
        self.store = store
        self.line = line
        self.random = random
        self.note = note
        self._watches: dict[int, ChannelWatch] = {}
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        return await self._read(lambda: self.store.get(key))

    async def range(self, prefix: str) -> Listing:
        return await self._read(lambda: self.store.range(prefix))

    async def transact(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> Transacted:
        done = await self.change(lambda: self.store.transact(conditions, changes), *(change.key for change in changes))
        self.note("store", done.done, done.revision, *(change.key for change in changes))
        return done

    async def lease(self, duration: float) -> "ChannelLease":
        try:
            return ChannelLease(self, await self.change(lambda: self.store.lease(duration), "lease"))
        except OutcomeUnknown as error:
            # A lease that nobody knows of ends by itself.
            raise Unavailable(str(error)) from error

    def watch(self, prefix: str, after: int = 0) -> "ChannelWatch":
        watch = ChannelWatch(self, prefix, after)
        self._watches[id(watch)] = watch
        return watch

    def forget(self, watch: "ChannelWatch") -> None:
        self._watches.pop(id(watch), None)

    async def close(self) -> None:
        self._closed = True
        for watch in list(self._watches.values()):
            await watch.close()

    # What the wires do

    def pause(self) -> float:
        return self.line.delay * (0.5 + self.random.fraction())

    async def _read(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self._reach()
        answer = await _apart(work())
        await asyncio.sleep(self.pause())
        if not self.line.up:
            await self._time_out()
            raise Unavailable("the coordination store does not answer")
        return answer

    async def change(self, work: Callable[[], Coroutine[Any, Any, T]], *what: str) -> T:
        await self._reach()
        if self.random.chance(self.line.trouble):
            await self._trouble(work, what)
        answer = await _apart(work())
        await asyncio.sleep(self.pause())
        if not self.line.up:
            await self._time_out()
            raise OutcomeUnknown("the coordination store did not answer")
        return answer

    async def _reach(self) -> None:
        if self._closed:
            raise Unavailable("the coordination store is closed")
        await asyncio.sleep(self.pause())
        if not self.line.up:
            await self._time_out()
            raise Unavailable("the coordination store cannot be reached")

    async def _time_out(self) -> None:
        await asyncio.sleep(self.line.timeout * self.random.fraction())

    async def _trouble(self, work: Callable[[], Coroutine[Any, Any, Any]], what: tuple[str, ...]) -> None:
        """Loses the change, or its answer, or makes it late."""
        kind = self.random.below(3)
        self.note("store trouble", ("lost", "made", "late")[kind], *what)
        if kind == 1:
            await _apart(work())
        elif kind == 2:
            _spawn(_late(self.random.fraction() * 2 * self.line.timeout, work))
        await self._time_out()
        raise OutcomeUnknown("the coordination store's answer was lost")


class ChannelLease:
    """`Lease` through the channel."""

    def __init__(self, channel: Channel, lease: EmbeddedLease) -> None:
        self.id = lease.id
        self.duration = lease.duration
        self._channel = channel
        self._lease = lease

    async def keep(self) -> bool:
        try:
            return await self._channel.change(self._lease.keep, "keep")
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error

    async def revoke(self) -> None:
        await self._channel.change(self._lease.revoke, "revoke")


class ChannelWatch:
    """`Watch` through the channel. What it has heard and not yet told survives the cancelling of whoever asked."""

    def __init__(self, channel: Channel, prefix: str, after: int) -> None:
        self._channel = channel
        self._prefix = prefix
        self._watch = channel.store.watch(prefix, after)
        self._heard: Seen | None = None
        self._closed = False

    def __aiter__(self) -> "ChannelWatch":
        return self

    async def __anext__(self) -> Seen:
        line, random = self._channel.line, self._channel.random
        if self._heard is None:
            self._heard = await self._watch.__anext__()
        await asyncio.sleep(line.lag * (0.5 + random.fraction()))
        while not line.up and not self._closed:  # noqa: ASYNC110 - seldom enough
            await asyncio.sleep(0.1 + 0.1 * random.fraction())
        if not self._heard.complete and random.chance(line.restarts):
            await self._watch.close()
            self._watch = self._channel.store.watch(self._prefix)
            self._heard = await self._watch.__anext__()
        if self._closed:
            raise StopAsyncIteration
        seen, self._heard = self._heard, None
        return seen

    async def close(self) -> None:
        self._closed = True
        self._channel.forget(self)
        await self._watch.close()


def _spawn(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Starts what goes on whatever becomes of the node that asked for it."""
    task = asyncio.get_running_loop().create_task(work, context=Context())
    # The caller may be dead when it ends, and nobody left to look at how.
    task.add_done_callback(_seen, context=Context())
    return task


def _seen(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()


def _apart(work: Coroutine[Any, Any, T]) -> Awaitable[T]:
    return asyncio.shield(_spawn(work))


async def _late(delay: float, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    await asyncio.sleep(delay)
    await work()
