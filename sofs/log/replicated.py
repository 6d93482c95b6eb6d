"""The log over its replicas: group commit, over this node's disks and other nodes.

`append` only encodes a record and applies it. At the end of the loop's tick all records of that tick go to each replica in one
gathered write, or one message; what every copy has in memory is committed. One sync at a time runs on all replicas at once; what all have on their
disks is stable. However many asked for it, and however late an answer comes: both positions are the least over all copies that count.

With copies on other nodes nothing is answered but while all of them have promised not to take over (the lease). What has been reached while
that had run out waits until it is renewed.

Which copies count, and how that changes, is `copies`; what they hold is read in `contents`.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec

from crc32c import crc32c

from sofs.errors import NoSpace, SofsError, Unavailable
from sofs.log import Machine
from sofs.log.configuration import Configuration, LogSettings, Mark
from sofs.log.contents import Contents
from sofs.log.gates import Gates
from sofs.log.record import ALIGNMENT, HEADER, MAXIMUM, encode, page_sums
from sofs.log.remote import RemoteReplica
from sofs.log.remotes import Hold
from sofs.log.replica import FIRST, LocalReplica, Replica
from sofs.log.stretch import origin
from sofs.log.syncing import GroupSync
from sofs.runtime.ports import Buffer, Clock
from sofs.types import PAGE, Level, Lsn

_LARGEST = 15 << 20
"""Bytes of one record at most: it is sent in one message."""

P = ParamSpec("P")


def _own_work(work: "Callable[Concatenate[ReplicatedLog, P], None]") -> "Callable[Concatenate[ReplicatedLog, P], None]":
    """What the log does by itself: if that fails it is our own bug, and nothing may be acknowledged any more."""

    @wraps(work)
    def guarded(log: "ReplicatedLog", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            work(log, *args, **kwargs)
        except Exception as error:
            log._fail(Unavailable(f"the log's own work failed: {error!r}"))
            raise

    return guarded


class ReplicatedLog(Contents):
    """`sofs.log.Log` over replicas that all hold the same records up to `end` (see `sofs.log.recovery`), and over copies on
    other nodes, which are brought to that state.
    """

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
        remotes: Sequence[RemoteReplica] = (),
    ) -> None:
        """`change` records a new configuration if the one before it is still in force (recording it twice is no error), or raises.

        Records from `stable` on have yet to be synced. With `remotes`, `establish` is to be called before anything else.
        """
        super().__init__(clock, replicas, remotes, configuration, change, settings)
        self._machine = machine
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
        self._gates = (Gates(), Gates())
        self._wait_committed, self._wait_stable = (gates.waiting for gates in self._gates)
        self._sync_due = False
        self._syncs = GroupSync(stable, self._lose, self._synced)
        self._timer_set = False
        self._awaited: set[asyncio.Future[None]] = set()
        self.end = self.committed = end.lsn
        self.stable = self._asked = stable
        """`_asked` is how far the copies elsewhere have been asked to be on their disks."""
        self.start = self._first_kept()
        self.capacity = max(settings.capacity, self._least())
        self.written = end
        """Kept up to date only for copies on other nodes."""
        for remote in remotes:
            self._follow(remote, counts=True)

    def _first_kept(self) -> Lsn:
        """The start of the unbroken row of segments that the end lies in."""
        index = (self.end - 1) // self._size
        kept = set.intersection(*(set(replica.segments()) for replica in self._replicas))
        while index - 1 in kept:
            index -= 1
        return Lsn(index * self._size + FIRST)

    @property
    def room(self) -> int:
        # One segment is kept in hand, see `_next_segment`.
        last = self.start // self._size + self.capacity // self._size - 1
        return last * self._size - self.end

    @property
    def largest(self) -> int:
        return min(self._size - FIRST - HEADER - 2 * ALIGNMENT, _LARGEST)

    @property
    def mark(self) -> Mark:
        """The end, for a checkpoint to note."""
        return Mark(self.end, self._checksum, self._last_version)

    # Appending

    def append(self, operations: bytes, payload: Sequence[Buffer] = (), reserved: bool = False, sums: bytes | None = None) -> Lsn:
        self._check_appending()
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

    def _apply(self, lsn: Lsn, operations: bytes, address: int) -> None:
        try:
            self._machine.apply(lsn, operations, address)
        except BaseException as error:
            # The machine has changed by half, and would do so again at every recovery: the record must not be written.
            self._fail(Unavailable(f"the record at {lsn} could not be applied: {error}"))
            raise

    def _next_segment(self, size: int, reserved: bool) -> Lsn:
        """The first position of a new segment. Raises `NoSpace`."""
        largest = min(self._size - FIRST, _LARGEST + HEADER + 2 * ALIGNMENT)
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

    @_own_work
    def _flush(self) -> None:
        """Writes what the tick appended, and commits it."""
        self._flush_due = False
        self._write()
        if not self._frozen:
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
            if self.remotes.counted or self.remotes.learning or self.remotes.leaving:
                self._send(runs)

    def _send(self, runs: list[tuple[Lsn, list[Buffer]]]) -> None:
        """Sends what has just been written to the copies on other nodes."""
        before, self.written = self.written, self.mark
        pieces = runs[0][1] if len(runs) == 1 else [piece for _, run in runs for piece in run]
        size = sum(map(len, pieces))
        # Where somebody waits for the disks, they all begin at once.
        if self._syncs.quiet and self._wait_stable:
            self._syncs.hurry()
        sync = not self._syncs.under_way and self._awaited_unsynced()
        if sync:
            self._asked = self._written
            self._want_sync()
        for remote in tuple(self.remotes):
            remote.send(pieces, before, self.written, size, sync)

    def _commit(self) -> None:
        if self.failure is not None:
            return
        self._advance()
        if self._wait_stable:
            if self._awaited_unsynced():
                self._want_sync()
        elif not self._timer_set and self.stable < self._written:
            self._timer_set = True
            self._clock.call_later(self._settings.sync_interval_s, self._sync_in_time)

    def _advance(self) -> None:
        """Acknowledges what all copies have, if the lease is valid."""
        if self._frozen or self.failure is not None:
            return
        remotes = self.remotes
        if self._syncs.quiet and remotes.synced(self._syncs.upto) == self._syncs.upto:
            self._syncs.hurry()
        committed, synced, allowed = self._written, self._syncs.synced, None
        if remotes.lease_until != math.inf:
            committed, synced, allowed = remotes.committed(committed), remotes.synced(synced), self.serving
        if committed > self.committed:
            self.committed = committed
        if self._wait_committed:
            self._gates[0].open(self.committed, allowed)
        synced = min(synced, self.committed)
        if synced > self.stable:
            self.stable = synced
            if not self._timer_set and (synced < self._written or self._last >= self._noted):
                self._timer_set = True
                self._clock.call_later(self._settings.sync_interval_s, self._sync_in_time)
        if self._wait_stable:
            self._gates[1].open(self.stable, allowed)

    # Copies on other nodes (sofs.log.remote.Coordinator)

    def _follow(self, remote: RemoteReplica, counts: bool) -> None:
        remote.attach(self, counts)

    def moved(self, remote: RemoteReplica) -> None:
        self.remotes.renew()
        if remote.synced < self._asked:
            remote.sync(self._asked)
        self._advance()

    async def hold(self) -> tuple[Hold, Mark]:
        """Keeps everything that the log has now, for a learner that is to be made; and the mark that its log is to begin at.

        To be released once that has joined. Raises `Damaged`, `DiskFailed`, `Unavailable`.
        """
        self._check_alive()
        self._write()
        replica = self._replicas[0]
        assert isinstance(replica, LocalReplica)
        hold = Hold(self.remotes.holds, self.start)
        try:
            return hold, await origin(replica, self.start, self.mark)
        except BaseException:
            hold.release()
            raise

    async def establish(self) -> None:
        """Completes when all copies that count have this log and nothing else, and have promised to take nothing over: from now on this log serves.

        The first record of this configuration does it: it follows no record that another copy has and this one has not, nor can any such record
        follow it. A copy that does not answer is left out, as ever. Raises `Unavailable` when the log fails first.
        """
        with self.overdraft():
            first = self.append(b"", reserved=True)
        await self.reach(first)

    # Waiting

    def when(self, lsn: Lsn, level: Level, then: Callable[[], None]) -> None:
        reached = self.stable if level else self.committed
        if lsn < reached and (self.remotes.lease_until == math.inf or self.serving()):
            then()
            return
        self._gates[level].wait(lsn, then)
        if level and self._syncs.upto <= lsn < self._written:
            self._want_sync()

    def serving(self) -> bool:
        if self.failure is not None:
            return False
        until = self.remotes.lease_until
        return until == math.inf or self._clock.boottime() < until

    def sync(self) -> Awaitable[None]:
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
            self._want_sync()

    def note_stable(self) -> None:
        """Appends a record that does nothing but say how far the log is stable."""
        try:
            self.append(b"", reserved=True)
        except SofsError:
            pass  # It is a precaution; the log's own failure is told elsewhere.

    def _awaited_unsynced(self) -> bool:
        """Somebody waits for what no sync is about yet."""
        waiting = self._wait_stable
        return bool(waiting) and waiting[-1][0] >= self._syncs.upto

    def _want_sync(self) -> None:
        """Begins a sync at the end of the tick, or behind the one that is under way."""
        if not self._sync_due:
            self._sync_due = True
            if not self._syncs.under_way:
                self._clock.call_soon(self._begin_sync)
        if self._syncs.quiet:
            self._syncs.hurry()

    @_own_work
    def _begin_sync(self) -> None:
        if self._syncs.under_way or not self._sync_due:
            return
        self._sync_due = False
        if self._frozen or self.failure is not None:
            return  # who has waited is seen to when this is over
        target, remotes = self._written, self.remotes
        if target > self._asked:
            self._asked = target
        for remote in remotes:
            remote.sync(target)
        if self._syncs.synced < target:
            # As a rule the others' answers take longer: they are what this node is woken up for, not its own disk as well.
            self._syncs.begin(self._written_to, target, quietly=remotes.synced(target) < target)

    @_own_work
    def _synced(self) -> None:
        self._clock.hold()
        try:
            self._advance()
            if self._sync_due or self._awaited_unsynced():
                self._sync_due = True
                self._clock.call_soon(self._begin_sync)
        finally:
            self._clock.settle()  # the replies leave now, not in the loop's next round

    # Joining

    def join(self, replica: Replica | RemoteReplica) -> Lsn:
        """From now on `replica` is written to and synced with the others; gives the position from which on it has everything.

        It counts once `promote` has succeeded. Before that, everything kept below that position must have been copied to it and synced; a copy on
        another node gets that by itself (`hold` keeps what it needs until this call). Raises `NoSpace`, `DiskFailed`, `Unavailable`.
        """
        self._check_alive()
        self._write()
        if isinstance(replica, RemoteReplica):
            self.written = self.mark
            self.remotes.learning.append(replica)
            self._follow(replica, counts=False)
            return self.end
        for index in self._replicas[0].segments():
            if index >= self.start // self._size:
                replica.prepare(index)
        self._joining.append(replica)
        return self.end

    # Space

    def trim(self, below: Lsn) -> None:
        if self.remotes.counted or self.remotes.learning or self.remotes.leaving or self.remotes.holds:
            below, greedy = self.remotes.keep(below, self.capacity // 2)
            for remote in greedy:
                self.lost(remote, NoSpace(f"{remote.place} has held up the log's space for too long"))
        index = below // self._size
        if index * self._size <= self.start:
            return
        for replica in self._written_to:
            try:
                replica.trim(index)
            except SofsError as error:
                self._lose(replica, error)
        self.start = Lsn(index * self._size + FIRST)
        self.capacity = max(self._settings.capacity, min(self.capacity, self._least()))

    def _least(self) -> int:
        """A standby trims at its own pace. When it takes over, its log may be longer than a log is to be, and yet must take what makes it shorter."""
        return (self.end // self._size + 3) * self._size - self.start // self._size * self._size

    @contextmanager
    def overdraft(self) -> Iterator[None]:
        """Within, appends may take one segment beyond the capacity: a full log must still be opened and closed."""
        self.capacity += self._size
        try:
            yield
        finally:
            self.capacity -= self._size

    def _give_up(self, error: SofsError) -> None:
        self._wait_committed.clear()
        self._wait_stable.clear()
        for done in tuple(self._awaited):
            if not done.done():
                done.set_exception(Unavailable(f"the volume's log has failed: {error}"))

    async def close(self) -> None:
        """Makes everything stable, notes that, and ends. The replicas' files stay open for their owner to close.

        With copies on other nodes it gives up after L: they, or the coordination store, may be out of reach for long.
        """
        if self.failure is None and self.end > FIRST:
            try:
                async with asyncio.timeout(self._settings.lease.promise_s if self.remotes.counted or self.remotes.leaving else None):
                    await self._sync_and_note()
            except TimeoutError:
                self._logger.warning("log_closed_unstable", stable=self.stable, end=self.end)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.failure = self.failure or Unavailable("the volume has been closed")
        self._silence()

    async def _sync_and_note(self) -> None:
        await self.sync()
        self.note_stable()
        await self.sync()
