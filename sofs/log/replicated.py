"""The log over its replicas: group commit, in one process.

`append` only encodes a record and applies it. At the end of the loop's tick all records of that tick go to each replica in one
gathered write, and are committed. One sync at a time runs on all replicas at once; what was committed when it
began is stable when it ends, however many asked for it.

A replica that fails, be it a write or a sync, is never tried again: after a failed sync a disk may lose what it says it has.
It is left out of the configuration, and until that is recorded by compare-and-set nothing is acknowledged:
were this process superseded meanwhile, the new coordinator could be missing it. When the last replica
fails the log has failed: it takes nothing more and never calls whoever still waits.
"""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from crc32c import crc32c

from sofs.errors import Damaged, DiskFailed, NoSpace, SofsError, Unavailable
from sofs.log import Machine, Record
from sofs.log.configuration import BEGINNING, Configuration, LogSettings, Mark
from sofs.log.reading import SegmentReader, next_segment
from sofs.log.record import ALIGNMENT, HEADER, MAXIMUM, encode, page_sums
from sofs.log.replica import FIRST, Replica
from sofs.runtime.ports import Buffer, Clock
from sofs.types import PAGE, Level, Lsn

__all__ = ["BEGINNING", "Configuration", "LogSettings", "Mark", "ReplicatedLog"]

_SCAN = 256 << 10
"""Bytes that `scan` reads at a time."""

_RETRY_S = 0.5
"""Between two attempts at a coordination store that does not answer."""

Waiter = tuple[Lsn, int, Callable[[], None]]


class ReplicatedLog:
    """`sofs.log.Log` over replicas that all hold the same records up to `end` (see `sofs.log.recovery`)."""

    def __init__(
        self,
        clock: Clock,
        machine: Machine,
        replicas: Sequence[Replica],
        configuration: Configuration,
        change: Callable[[Configuration], Awaitable[None]],
        end: Mark,
        stable: Lsn,
        settings: LogSettings,
    ) -> None:
        """`change` records a new configuration if the one before it is still in force (recording it twice is no error), or raises.

        Records from `stable` on have yet to be synced.
        """
        self._clock = clock
        self._machine = machine
        self._replicas = list(replicas)
        self._joining: list[Replica] = []
        """Written and synced like the others, but not counted: see `join`."""
        self._change = change
        self._settings = settings
        self._size = settings.segment_size
        self._checksum = end.checksum
        self._last_version = end.version
        self._segment_end = ((end.lsn - 1) // self._size + 1) * self._size
        self._runs: list[tuple[Lsn, list[Buffer]]] = []
        self._written = end.lsn
        self._last = Lsn(0)
        """The newest record with operations."""
        self._noted = Lsn(1)
        """How far the newest record says that the log is stable."""
        self._flush_due = False
        self._changing = False
        self._waiting: tuple[deque[Waiter], deque[Waiter]] = (deque(), deque())
        self._waited = 0
        self._sync_due = asyncio.Event()
        self._timer_set = False
        self._awaited: set[asyncio.Future[None]] = set()
        self._logger = structlog.get_logger(component="log", place=replicas[0].place)
        self.version = configuration.version
        self.capacity = settings.capacity
        self.end = self.committed = end.lsn
        self.stable = stable
        self.start = self._first_kept()
        self.failure: SofsError | None = None
        self.on_failure: Callable[[SofsError], None] | None = None
        """Called once, when the log has failed for good."""
        self.on_lost: Callable[[int], None] | None = None
        """Called with its id when a replica has been given up."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._start(self._sync_when_due())

    def _first_kept(self) -> Lsn:
        """The start of the unbroken row of segments that the end lies in."""
        index = (self.end - 1) // self._size
        kept = set.intersection(*(set(replica.segments()) for replica in self._replicas))
        while index - 1 in kept:
            index -= 1
        return Lsn(index * self._size + FIRST)

    @property
    def replicas(self) -> int:
        return len(self._replicas)

    @property
    def room(self) -> int:
        # One segment is kept in hand, see `_next_segment`.
        last = self.start // self._size + self.capacity // self._size - 1
        return last * self._size - self.end

    @property
    def largest(self) -> int:
        return self._size - FIRST - HEADER - 2 * ALIGNMENT

    @property
    def replica_ids(self) -> tuple[int, ...]:
        return tuple(replica.id for replica in self._replicas)

    @property
    def _written_to(self) -> tuple[Replica, ...]:
        return (*self._replicas, *self._joining)

    @property
    def mark(self) -> Mark:
        """The end, for a checkpoint to note."""
        return Mark(self.end, self._checksum, self._last_version)

    # Appending

    def append(self, operations: bytes, payload: Sequence[Buffer] = (), reserved: bool = False, sums: bytes | None = None) -> Lsn:
        self._check_alive()
        length = payload_crc = 0
        if payload:
            for part in payload:
                length += len(part)
            assert sums is None or len(sums) * PAGE == length * 4, f"{len(sums)} bytes of checksums for {length} of payload"
            payload_crc = crc32c(page_sums(payload) if sums is None else sums)
        head = HEADER + len(operations) + 7 & -ALIGNMENT
        size = head + (length + 7 & -ALIGNMENT)
        lsn = self.end
        if lsn + size > self._segment_end:
            lsn = self._next_segment(size, reserved)
        checksum, record = encode(lsn, self.stable, self.version, self._checksum, operations, length, payload_crc)
        if operations:
            self._last = lsn
            self._apply(lsn, operations, lsn + head)
        runs = self._runs
        if runs and lsn == self.end:
            pieces = runs[-1][1]
            pieces.append(record)
        else:
            pieces = [record]
            runs.append((lsn, pieces))
        if payload:
            pieces += payload
            if length & 7:
                pieces.append(bytes(-length & 7))
        self._checksum = checksum
        self._last_version = self.version
        self._noted = self.stable
        self.end = Lsn(lsn + size)
        if not self._flush_due:
            self._flush_due = True
            self._clock.call_soon(self._flush)
        return lsn

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise Unavailable(f"the volume's log has failed: {self.failure}")

    def _apply(self, lsn: Lsn, operations: bytes, address: int) -> None:
        try:
            self._machine.apply(lsn, operations, address)
        except BaseException as error:
            # The machine has changed by half, and would do so again at every recovery: the record must not be written.
            self._fail(Unavailable(f"the record at {lsn} could not be applied: {error}"))
            raise

    def _next_segment(self, size: int, reserved: bool) -> Lsn:
        """The first position of a new segment. Raises `NoSpace`."""
        largest = self._size - FIRST
        assert size <= min(largest, MAXIMUM), f"a record of {size} bytes, where a segment takes {largest}"
        index = self._segment_end // self._size
        # What gives space back writes records itself, so one more segment must be in hand than others may use.
        for ahead in range(index, index + (1 if reserved else 2)):
            self._prepare(ahead)
        self._segment_end = Lsn((index + 1) * self._size)
        return Lsn(index * self._size + FIRST)

    def _prepare(self, index: int) -> None:
        if (index + 1) * self._size - self.start // self._size * self._size > self.capacity:
            raise NoSpace(f"the volume's log has reached its {self.capacity >> 20} MiB; moving data to the pool does not keep up")
        for replica in self._written_to:
            try:
                replica.prepare(index)
            except NoSpace as error:
                # A disk that is too full for a newcomer is no reason to stop those that count.
                if replica not in self._joining:
                    raise
                self._lose(replica, error)
            except SofsError as error:
                self._lose(replica, error)
        self._check_alive()

    def _flush(self) -> None:
        """Writes what the tick appended, and commits it."""
        self._flush_due = False
        try:
            self._write()
        except Exception as error:
            # Our own bug: nothing may be acknowledged any more.
            self._fail(Unavailable(f"the log's own work failed: {error!r}"))
            raise
        if not self._changing:
            self._commit()
        if self._segment_end - self.end < self._size // 2:
            try:
                self._prepare(self._segment_end // self._size)
            except SofsError:
                pass  # Whoever needs it is told.

    def _write(self) -> None:
        runs, self._runs = self._runs, []
        if not runs:
            return
        for replica in self._written_to:
            try:
                for lsn, pieces in runs:
                    replica.write(lsn, pieces)
            except SofsError as error:
                self._lose(replica, error)
        if self.failure is None:
            self._written = self.end

    def _commit(self) -> None:
        if self.failure is not None:
            return
        self.committed = self._written
        self._call(Level.COMMITTED, self.committed)
        if self._waiting[Level.STABLE]:
            self._sync_due.set()
        elif not self._timer_set and self.stable < self.committed:
            self._timer_set = True
            self._clock.call_later(self._settings.sync_interval_s, self._sync_in_time)

    # Waiting

    def when(self, lsn: Lsn, level: Level, then: Callable[[], None]) -> None:
        reached = self.stable if level else self.committed
        if lsn < reached:
            then()
            return
        waiting = self._waiting[level]
        self._waited += 1
        waiter = (lsn, self._waited, then)
        if not waiting or waiting[-1][0] <= lsn:
            waiting.append(waiter)
        else:
            insort(waiting, waiter)
        if level and lsn < self.committed:
            self._sync_due.set()

    def _call(self, level: Level, reached: Lsn) -> None:
        waiting = self._waiting[level]
        while waiting and waiting[0][0] < reached:
            then = waiting.popleft()[2]
            try:
                then()
            except Exception as error:
                # Those behind it must not suffer.
                asyncio.get_running_loop().call_exception_handler({"message": "a waiter of the log failed", "exception": error})

    def serving(self) -> bool:
        return self.failure is None

    def sync(self) -> Awaitable[None]:
        """Completes when all appended so far is stable. Raises `Unavailable` when the log fails first."""
        # A record at `end - 1` would be the last one that is waited for.
        return self.reach(Lsn(self.end - 1))

    def reach(self, lsn: Lsn) -> Awaitable[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            done.set_exception(Unavailable(f"the volume's log has failed: {self.failure}"))
            return done
        self._awaited.add(done)
        done.add_done_callback(self._awaited.discard)
        self.when(lsn, Level.STABLE, lambda: None if done.done() else done.set_result(None))
        return done

    # Syncing

    def _sync_in_time(self) -> None:
        self._timer_set = False
        if self.failure is not None:
            return
        if self._last >= self._noted and self.stable > self._last:
            # The newest record is stable and nothing on the disk says so yet. Without this note a recovery would take
            # it for torn, should it be damaged.
            self.note_stable()
        elif self.stable < self.committed:
            self._sync_due.set()

    def note_stable(self) -> None:
        """Appends a record that does nothing but say how far the log is stable."""
        try:
            self.append(b"", reserved=True)
        except SofsError:
            pass  # It is a precaution; the log's own failure is told elsewhere.

    async def _sync_when_due(self) -> None:
        while True:
            await self._sync_due.wait()
            self._sync_due.clear()
            if self._blocked() or self.stable >= self.committed:
                continue
            target = self.committed
            await self._sync_replicas()
            if not self._blocked():
                self._stabilize(target)
            if self._waiting[Level.STABLE] and self._waiting[Level.STABLE][0][0] < self.committed:
                self._sync_due.set()

    def _blocked(self) -> bool:
        """Nothing may be acknowledged now."""
        return self._changing or self.failure is not None

    async def _sync_replicas(self) -> None:
        under_way: list[tuple[Replica, Awaitable[None]]] = []
        for replica in self._written_to:
            try:
                under_way.append((replica, asyncio.ensure_future(replica.sync())))
            except SofsError as error:
                self._lose(replica, error)
        for replica, sync in under_way:
            try:
                await sync
            except SofsError as error:
                self._lose(replica, error)

    def _stabilize(self, target: Lsn) -> None:
        self.stable = target
        self._call(Level.STABLE, target)
        self._clock.settle()  # the replies leave now, not in the loop's next round
        if not self._timer_set and (self.stable < self.committed or self._last >= self._noted):
            self._timer_set = True
            self._clock.call_later(self._settings.sync_interval_s, self._sync_in_time)

    # Failing

    def lose(self, id: int, error: SofsError) -> None:
        """Gives up a replica for a reason found elsewhere (its records cannot be written)."""
        for replica in tuple(self._replicas):
            if replica.id == id:
                self._lose(replica, error)

    def _lose(self, replica: Replica, error: SofsError) -> None:
        if replica not in self._written_to:
            return
        self._logger.error("replica_lost", replica=f"{replica.id:x}", at=replica.place, error=str(error))
        if replica in self._joining:
            self._joining.remove(replica)
            return
        if len(self._replicas) == 1:
            self._fail(error)
        else:
            self._replicas.remove(replica)
            if self.on_lost is not None:
                self.on_lost(replica.id)
        if not self._changing:
            self._changing = True
            self._start(self._reconfigure())

    async def _reconfigure(self) -> None:
        """Records which replicas still count, until these are all that have not failed meanwhile; then goes on."""
        recorded: Configuration | None = None
        while recorded is None or recorded[1:] != self._wanted()[1:]:
            recorded = self._wanted()
            try:
                await self._record(recorded)
            except SofsError as error:
                self._fail(error)
                return
            if recorded.memory_broken:
                return
        self._settled()

    async def _record(self, configuration: Configuration) -> None:
        """Records a configuration, however long the coordination store is away. Raises `Fenced`, ..."""
        while True:
            try:
                await self._change(configuration)
            except Unavailable as error:
                # It may have been recorded all the same; to record it twice does no harm.
                self._logger.warning("configuration_waits", version=configuration.version, reason=str(error))
                await self._clock.sleep(_RETRY_S)
            else:
                self.version = configuration.version
                return

    def _settled(self) -> None:
        """The configuration in force is known: acknowledges again."""
        self._logger.warning("configuration_changed", version=self.version, replicas=self.replicas)
        self._changing = False
        self._write()
        if not self._changing:
            self._commit()

    def _wanted(self) -> Configuration:
        return Configuration(self.version + 1, self.replica_ids, memory_broken=self.failure is not None)

    def _fail(self, error: SofsError) -> None:
        if self.failure is not None:
            return
        self._logger.error("log_failed", error=str(error))
        self.failure = error
        for waiting in self._waiting:
            waiting.clear()
        for done in tuple(self._awaited):
            if not done.done():
                done.set_exception(Unavailable(f"the volume's log has failed: {error}"))
        if self.on_failure is not None:
            self.on_failure(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Our own bug: nothing may be acknowledged any more.
            self._fail(Unavailable(f"the log's own work failed: {error!r}"))
            asyncio.get_running_loop().call_exception_handler({"message": "the log's own work failed", "exception": error})

    # Joining

    def join(self, replica: Replica) -> Lsn:
        """From now on `replica` is written to and synced with the others; gives the position from which on it has everything.

        It counts once `promote` has succeeded, before which everything kept below that position must have been copied to it and synced.
        Raises `NoSpace`, `DiskFailed`.
        """
        self._write()
        for index in self._replicas[0].segments():
            if index >= self.start // self._size:
                replica.prepare(index)
        self._joining.append(replica)
        return self.end

    def leave(self, replica: Replica) -> None:
        """Takes a `join` back, if it has not been promoted."""
        if replica in self._joining:
            self._joining.remove(replica)

    async def promote(self, replica: Replica) -> None:
        """Has a replica that has joined, and lacks nothing, count. Raises `Unavailable` if it, or the log, has failed meanwhile."""
        while self._changing and self.failure is None:
            await self._clock.sleep(0.01)
        self._check_alive()
        if replica not in self._joining:
            raise Unavailable(f"{replica.place} has failed while it was brought up to date")
        # Nothing is acknowledged until it is known which configuration is in force.
        self._changing = True
        wanted = Configuration(self.version + 1, (*self.replica_ids, replica.id))
        try:
            await self._record(wanted)
        except SofsError as error:
            self._fail(error)
            raise
        if replica in self._joining:
            self._joining.remove(replica)
            self._replicas.append(replica)
        if wanted[1:] == self._wanted()[1:]:
            self._settled()
        else:
            await self._reconfigure()

    # Reading

    def read(self, address: int, into: memoryview, replica: int = 0) -> Awaitable[None] | None:
        if address >= self._written:
            self._write()
            if address >= self._written:
                raise Unavailable(f"position {address} was never written: the volume's log has failed: {self.failure}")
        return self._replicas[replica].read(address, into)

    def rewrite(self, address: int, data: Buffer, replica: int) -> None:
        if address < self.start or replica >= len(self._replicas):
            return  # trimmed, or that copy lost, while the good bytes were being fetched
        where = self._replicas[replica]
        self._logger.warning("log_repaired", at=where.where(address), length=len(data))
        try:
            where.write(address, [data])
        except SofsError as error:
            self._lose(where, error)

    def scan(self, start: Lsn, end: Lsn) -> Iterator[Record]:
        """Committed records from `start` (where one begins) up to `end`. Raises `Damaged`, naming file and offset."""
        readers = [SegmentReader(replica, _SCAN) for replica in self._replicas]
        at = start
        end = min(end, self.committed)
        while at < end:
            record = _first_intact(readers, at)
            if record is None and (following := next_segment(at, self._size)) < end:
                record = _first_intact(readers, following)
            if record is None:
                raise Damaged(f"{self._replicas[0].where(at)}: no copy of the log has an intact record here")
            yield record
            at = record.next

    # Space

    def trim(self, below: Lsn) -> None:
        index = below // self._size
        if index * self._size <= self.start:
            return
        for replica in self._written_to:
            try:
                replica.trim(index)
            except SofsError as error:
                self._lose(replica, error)
        self.start = Lsn(index * self._size + FIRST)

    @contextmanager
    def overdraft(self) -> Iterator[None]:
        """Within, appends may take one segment beyond the capacity: a full log must still be opened and closed."""
        self.capacity += self._size
        try:
            yield
        finally:
            self.capacity -= self._size

    async def change(self, configuration: Configuration) -> None:
        """Records a configuration that differs in more than the lost replicas."""
        await self._record(configuration)

    async def close(self) -> None:
        """Makes everything stable, notes that, and ends. The replicas' files stay open for their owner to close."""
        if self.failure is None and self.end > FIRST:
            await self.sync()
            self.note_stable()
            await self.sync()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.failure = self.failure or Unavailable("the volume has been closed")


def _first_intact(readers: list[SegmentReader], lsn: int) -> Record | None:
    """The record at `lsn` from the first copy that has it intact (apart from the payload, which is not read)."""
    for reader in readers:
        try:
            header, operations = reader.header(lsn)
        except (Damaged, DiskFailed):
            continue
        return Record(header.lsn, header.end, operations, header.address, header.length)
    return None
