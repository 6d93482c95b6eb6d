"""The coordination store within this process, kept in one file: for a single node, and for simulations.

The state lives in memory and holds only what is durable: a transaction is decided, written to the journal and synced before it is applied
and anybody sees it, one after another. If the disk fails under the journal, the transaction under way is `OutcomeUnknown` and the store
answers `Unavailable` until it is opened again.

Leases are counted anew when the store is opened, as etcd does after an election.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import msgspec

from sofs.coordination.journal import Journal
from sofs.coordination.store import Change, Condition, Delete, Entry, Listing, OutcomeUnknown, Put, Seen, Transacted
from sofs.encoding import UNREADABLE
from sofs.errors import Damaged, NotFound, SofsError, Unavailable
from sofs.runtime.ports import Clock, File, Files, Random

T = TypeVar("T")

_HISTORY = 1000
"""Revisions kept in memory for watches that resume."""
_COMPACT_AT = 4 << 20
"""Bytes of journal at which it is begun anew, unless the state itself is a quarter of that."""


class _State(msgspec.Struct, array_like=True):
    """All there is: the journal's first record."""

    revision: int
    entries: list[Entry]
    leases: list[tuple[int, float]]


class _Changes(msgspec.Struct, array_like=True):
    """One transaction: every later record."""

    revision: int
    puts: list[tuple[str, bytes, int]] = []
    deletes: list[str] = []
    granted: list[tuple[int, float]] = []
    ended: list[int] = []


class EmbeddedStore:
    """`Store` in a file; made by `open`."""

    def __init__(self, clock: Clock, random: Random, journal: Journal, lock: File) -> None:
        self.clock = clock
        self._random = random
        self._journal = journal
        self._file_lock = lock
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._revision = 0
        self._entries: dict[str, Entry] = {}
        self._leases: dict[int, EmbeddedLease] = {}
        self._history: deque[_Changes] = deque()
        self._forgotten = 0
        """Up to here the history is gone."""
        self._watches: list[EmbeddedWatch] = []
        self._failure: SofsError | None = None
        self._compact_at = _COMPACT_AT

    @classmethod
    def open(cls, files: Files, clock: Clock, random: Random, path: str) -> "EmbeddedStore":
        """Opens the file, or makes it; on a running loop. Raises `Unavailable` (another process has it), `Damaged`, `DiskFailed`, `NoSpace`."""
        lock = files.lock(path + ".lock")
        try:
            if files.exists(path):
                journal, records = Journal.open(files, path)
            else:
                records = [msgspec.msgpack.encode(_State(0, [], []))]
                journal = Journal.create(files, path, records[0])
            store = cls(clock, random, journal, lock)
            store._load(path, records)
        except BaseException:
            lock.close()
            raise
        return store

    def _load(self, path: str, records: list[bytes]) -> None:
        try:
            state = msgspec.msgpack.decode(records[0], type=_State)
            transactions = [msgspec.msgpack.decode(record, type=_Changes) for record in records[1:]]
        except UNREADABLE as error:
            raise Damaged(f"{path} has records that this program does not understand: {error}") from error
        self._revision = self._forgotten = state.revision
        self._entries = {entry.key: entry for entry in state.entries}
        self._leases = {id: EmbeddedLease(self, id, duration) for id, duration in state.leases}
        for changes in transactions:
            if not self._leases.keys() | {id for id, _ in changes.granted} >= set(changes.ended):
                raise Damaged(f"{path} has a record that ends a lease that nobody has; restore it from a backup")
            self._apply(changes)

    # The port

    async def get(self, key: str) -> Entry | None:
        self._check()
        return self._entries.get(key)

    async def range(self, prefix: str) -> Listing:
        self._check()
        return Listing(self._revision, self._below(prefix))

    async def transact(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> Transacted:
        assert len({change.key for change in changes}) == len(changes), "each key is changed at most once"
        return await self._in_turn(lambda: self._transact(conditions, changes))

    async def lease(self, duration: float) -> "EmbeddedLease":
        return await self._in_turn(lambda: self._grant(duration))

    def watch(self, prefix: str, after: int = 0) -> "EmbeddedWatch":
        watch = EmbeddedWatch(self, prefix, after)
        self._watches.append(watch)
        return watch

    async def close(self) -> None:
        """Finishes what is under way and ends watches."""
        async with self._turn:
            self._failure = self._failure or Unavailable("the coordination store is closed")
        for lease in self._leases.values():
            lease.stop()
        for watch in list(self._watches):
            await watch.close()
        self._journal.close()
        self._file_lock.close()

    # For leases, watches and tests

    def compact_history(self) -> None:
        """Forgets past changes: a watch that would need them gets a listing instead."""
        self._history.clear()
        self._forgotten = self._revision

    async def end_lease(self, id: int) -> None:
        """Removes a lease with its keys, if it has not ended yet."""
        await self._in_turn(lambda: self._end_lease(id))

    def has_lease(self, id: int) -> bool:
        self._check()
        return id in self._leases

    def expire_lease(self, id: int) -> None:
        """Ends a lease whose time is over, in the background."""

        async def end_if_due() -> None:
            if id in self._leases and self._leases[id].due:
                await self._end_lease(id)

        async def expire() -> None:
            try:
                await self._in_turn(end_if_due)
            except SofsError:
                # The disk is full or failed. Until it can be recorded the keys stay, which is the safe side.
                if id in self._leases:
                    self._leases[id].start()

        self._start(expire())

    def seen(self, prefix: str, after: int | None) -> tuple[Seen | None, int]:
        """What a watch that knows everything up to `after` (None: nothing) sees next, and up to where it knows everything then."""
        if after is None or after < self._forgotten:
            return Seen(self._revision, self._below(prefix), complete=True), self._revision
        # From the newest back: most watches know nearly everything.
        unseen = list(takewhile(lambda changes: changes.revision > after, reversed(self._history)))
        for changes in reversed(unseen):
            puts = tuple(Entry(k, v, changes.revision, lease) for k, v, lease in changes.puts if k.startswith(prefix))
            removed = tuple(key for key in changes.deletes if key.startswith(prefix))
            if puts or removed:
                return Seen(changes.revision, puts, removed), changes.revision
        return None, max(after, self._revision)

    def forget(self, watch: "EmbeddedWatch") -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    # Transactions

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Does `work` alone, and to its end even if the caller is cancelled."""

        async def alone() -> T:
            async with self._turn:
                self._check()
                return await work()

        return await asyncio.shield(self._start(alone()))

    def _start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _transact(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> Transacted:
        for condition in conditions:
            held = self._entries.get(condition.key)
            if (held.revision if held is not None else 0) != condition.revision:
                return Transacted(False, self._revision)
        puts = [change for change in changes if isinstance(change, Put)]
        for put in puts:
            if put.lease and put.lease not in self._leases:
                raise NotFound(f"lease {put.lease} has ended")
        deletes = [change.key for change in changes if isinstance(change, Delete) and change.key in self._entries]
        if puts or deletes:
            made = _Changes(self._revision + 1, [(put.key, put.value, put.lease) for put in puts], deletes)
            await self._commit(made)
        return Transacted(True, self._revision)

    async def _grant(self, duration: float) -> "EmbeddedLease":
        id = self._random.number(62) + 1
        await self._commit(_Changes(self._revision, granted=[(id, duration)]))
        return self._leases[id]

    async def _end_lease(self, id: int) -> None:
        if id in self._leases:
            keys = sorted(key for key, entry in self._entries.items() if entry.lease == id)
            lease = self._leases[id]
            lease.ending = True
            try:
                await self._commit(_Changes(self._revision + bool(keys), deletes=keys, ended=[id]))
            finally:
                lease.ending = False

    async def _commit(self, changes: _Changes) -> None:
        record = msgspec.msgpack.encode(changes)
        self._journal.reserve(len(record))
        try:
            await self._journal.append(record)
        except SofsError as error:
            self._failure = Unavailable(f"the coordination store has stopped: {error}; restart the node when the disk is well")
            raise OutcomeUnknown(str(error)) from error
        self._apply(changes)
        if self._journal.end > self._compact_at:
            self._compact()

    def _apply(self, changes: _Changes) -> None:
        for key, value, lease in changes.puts:
            self._entries[key] = Entry(key, value, changes.revision, lease)
        for key in changes.deletes:
            self._entries.pop(key, None)
        for id, duration in changes.granted:
            self._leases[id] = EmbeddedLease(self, id, duration)
        for id in changes.ended:
            self._leases.pop(id).stop()
        self._revision = changes.revision
        if changes.puts or changes.deletes:
            self._history.append(changes)
            if len(self._history) > _HISTORY:
                self._forgotten = self._history.popleft().revision
        for watch in self._watches:
            watch.changed.set()

    def _compact(self) -> None:
        leases = [(lease.id, lease.duration) for lease in self._leases.values()]
        state = msgspec.msgpack.encode(_State(self._revision, list(self._entries.values()), leases))
        try:
            self._journal = self._journal.compact(state)
        except SofsError:
            # It goes on as it is: compaction only saves space.
            self._compact_at = 2 * self._journal.end
        else:
            self._compact_at = max(_COMPACT_AT, 4 * self._journal.end)

    def _below(self, prefix: str) -> tuple[Entry, ...]:
        return tuple(self._entries[key] for key in sorted(self._entries) if key.startswith(prefix))

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class EmbeddedLease:
    """`Lease`, by a timer."""

    def __init__(self, store: EmbeddedStore, id: int, duration: float) -> None:
        self.id = id
        self.duration = duration
        self._store = store
        self.ending = False
        """It is being removed: too late to keep it."""
        self.start()

    def start(self) -> None:
        self.due = False
        """Its time is over."""
        self._timer = self._store.clock.call_later(self.duration, self._run_out)

    def _run_out(self) -> None:
        self.due = True
        self._store.expire_lease(self.id)

    def stop(self) -> None:
        self._timer.cancel()

    async def keep(self) -> bool:
        if not self._store.has_lease(self.id) or self.ending:
            return False
        self.stop()
        self.start()
        return True

    async def revoke(self) -> None:
        await self._store.end_lease(self.id)


class EmbeddedWatch:
    """`Watch`, over the store's history."""

    def __init__(self, store: EmbeddedStore, prefix: str, after: int) -> None:
        self._store = store
        self._prefix = prefix
        self._known = after or None
        self._closed = False
        self.changed = asyncio.Event()

    def __aiter__(self) -> "EmbeddedWatch":
        return self

    async def __anext__(self) -> Seen:
        while not self._closed:
            self.changed.clear()
            seen, self._known = self._store.seen(self._prefix, self._known)
            if seen is not None:
                return seen
            await self.changed.wait()
        raise StopAsyncIteration

    async def close(self) -> None:
        self._closed = True
        self._store.forget(self)
        self.changed.set()
