"""A standby's side of a log: one local replica that follows its coordinator.

The follower compares what it is sent with what it has. Records that it has already are skipped; the first that differs cuts its log off there, and
the rest is appended. So a coordinator may begin anywhere at or below the follower's end, messages may come late or twice, and nothing that both have
is ever taken away, not even for a moment. All of a message is verified, itself and its place in the chain, before any of it is written.

Three positions say how far it is: `end`, what it has; `common`, up to where that is known to be what the coordinator of the
adopted configuration has (only this is acknowledged); `stable`, up to where every copy has the same, for ever. What lies between `stable` and
`end` is remembered record by record, so that comparing needs no disk.

Each message that is taken is a beacon: from its arrival on, the follower takes nothing over for L. `stand` ends that: once it has answered True
nothing is promised or taken until the caller knows what became of its compare-and-set.

The machine is given every record at once when it is appended. A cut makes it forget what its checkpoint does not hold;
then it is given the log from there on again, in slices, while records go on being written.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import structlog

from sofs.errors import Damaged, Fenced, NoSpace, SofsError, Unavailable
from sofs.log import Machine
from sofs.log.configuration import Configuration, LogSettings, Mark
from sofs.log.messages import Ack, Append, Result, Rewrite, Status, Sync
from sofs.log.reading import Found, SegmentReader, next_segment, parse
from sofs.log.record import Header
from sofs.log.replica import FIRST, LocalReplica
from sofs.log.syncing import Syncing
from sofs.runtime.later import Later
from sofs.runtime.ports import Buffer, Clock
from sofs.types import Lsn

_AHEAD = 1 << 20
_SLICE = 200
"""Records applied at a time when the machine catches up."""


class Lead(NamedTuple):
    """What a follower leaves to the log that it becomes."""

    replica: LocalReplica
    end: Mark
    stable: Lsn


class Follower:
    """One replica of one log on this node while another node coordinates."""

    def __init__(
        self,
        clock: Clock,
        replica: LocalReplica,
        machine: Machine,
        *,
        configuration: Configuration,
        end: Mark,
        stable: Mark,
        tail: Sequence[Header],
        checkpoint: Mark,
        whole: bool,
        settings: LogSettings,
        read_configuration: Callable[[], Awaitable[Configuration]],
        promised: bool = True,
    ) -> None:
        """`end`, `stable` and `tail` are as recovery gives them; the machine has been given everything up to the end, or up to its `checkpoint`
        where that is further (a learner is given a checkpoint first and the log from its beginning on then).

        `configuration` is what the coordination store says now, `read_configuration` what it says then. `promised`: this process, or one before it, may have
        promised something that it has forgotten, so it waits for L; false only for a node that the configuration names as the coordinator.
        """
        self.id = replica.id
        self.replica = replica
        self.configuration = configuration
        self.version = configuration.version
        self.end = end
        self.checkpoint = checkpoint
        """Where the machine's own checkpoint stands: a cut replays from here, and nothing behind it is trimmed. The owner sets it."""
        self.whole = whole
        """It has everything that was acknowledged in its name; what was lost with a host's memory has been caught up."""
        self.failure: SofsError | None = None
        self.promised_until = clock.boottime() + (settings.lease.promise_s if promised else 0.0)
        """By CLOCK_BOOTTIME: not to be taken over before."""
        self.heard_at = 0.0
        """When a coordinator's message was last taken."""
        self.on_failure: Callable[[SofsError], None] | None = None
        self.on_adopted: Callable[[Configuration], None] | None = None
        self.on_whole: Callable[[], None] | None = None
        self.standing = False
        self._clock = clock
        self._machine = machine
        self._settings = settings
        self._size = replica.segment_size
        self._read_configuration = read_configuration
        self._base = stable
        self._tail = deque((header.lsn, Mark(header.end, header.checksum, header.version)) for header in tail)
        self._common = stable.lsn
        self._applied = end if end.lsn > checkpoint.lsn else checkpoint
        # The checkpoint says only what this disk has. What records say is stable, copies had that counted then.
        self._syncing = Syncing(clock, replica, min(stable.lsn, checkpoint.lsn), self._fail)
        self._replaying: asyncio.Task[None] | None = None
        self._adopting: asyncio.Task[None] | None = None
        self._waiting: list[tuple[Lsn, asyncio.Future[None]]] = []
        self._syncing_stable = False
        """A sync is under way for those who wait."""
        self._retired = False
        self._logger = structlog.get_logger(component="follower", place=replica.place)
        assert not tail or self._tail[-1][1] == end, "the tail ends where the log does"

    @property
    def stable(self) -> Lsn:
        """Everything below is the same in every copy, for ever."""
        return self._base.lsn

    @property
    def common(self) -> Lsn:
        return self._common

    @property
    def mark(self) -> Mark:
        """Up to where the machine has been given the log."""
        return self._applied

    @property
    def status(self) -> Status:
        segments = self.replica.segments()
        start = Lsn(segments[0] * self._size + FIRST) if segments else self.end.lsn
        return Status(self.version, start, self._base, self.end, self._syncing.synced, self.whole, self.standing)

    # What the coordinator sends

    def append(self, message: Append, payload: memoryview) -> Ack | Later[Ack]:
        """Raises `Damaged` (nothing was written), `NoSpace`, `DiskFailed`."""
        arrived = self._clock.boottime()
        refusal = self._refusal(message.version)
        if refusal is not None:
            return refusal
        records = parse(payload, message.after, self._size) if payload else []
        if message.after == self.end:
            fresh = 0
        else:
            index = self._compare(message.after, records)
            if index is None:
                return self._ack(Result.ELSEWHERE)
            fresh = index
        if fresh < len(records):
            self._take(payload, records[fresh:])
        self._common = max(self._common, records[-1].mark.lsn if records else message.after.lsn)
        self._settle(message)
        self._promise(arrived)
        return self._sync_to(self._common) if message.sync else self._ack(Result.DONE)

    def sync(self, message: Sync) -> Ack | Later[Ack]:
        """Raises `DiskFailed`."""
        refusal = self._refusal(message.version)
        if refusal is not None:
            return refusal
        self._promise(self._clock.boottime())
        return self._sync_to(min(message.upto, self.end.lsn))

    def rewrite(self, message: Rewrite, payload: memoryview) -> Ack:
        """Mends what stands in this copy, where all have the same."""
        refusal = self._refusal(message.version)
        if refusal is not None:
            return refusal
        if message.address + len(payload) <= self._common and message.address // self._size in self.replica.segments():
            self._logger.warning("log_repaired", at=self.replica.where(message.address), length=len(payload))
            self._write([(message.address, [payload])])
        self._promise(self._clock.boottime())
        return self._ack(Result.DONE)

    def _promise(self, arrived: float) -> None:
        self.promised_until = max(self.promised_until, arrived + self._settings.lease.promise_s)
        self.heard_at = arrived

    def _refusal(self, version: int) -> Ack | None:
        """The answer to a message that is not to be taken. Raises what ended this follower."""
        if self.failure is not None:
            raise self.failure
        if self.standing:
            return self._ack(Result.BEHIND)
        if version == self.version:
            return None
        if version < self.version:
            return self._ack(Result.FENCED)
        if self._adopting is None:
            self._adopting = asyncio.ensure_future(self._learn())
        return self._ack(Result.BEHIND)

    def _ack(self, outcome: int) -> Ack:
        synced = min(self._syncing.synced, self._common)
        if outcome == Result.DONE:
            return Ack(outcome, self.version, self._common, synced, self.checkpoint.lsn)
        return Ack(outcome, self.version, self._common, synced, self.checkpoint.lsn, self._base, self.end)

    # Comparing, cutting, appending

    def _compare(self, after: Mark, records: Sequence[Found]) -> int | None:
        """How many of the records are here already; the rest is to be appended at what is the end then. None: these do not begin at a place known here."""
        index = 0
        if after.lsn < self._base.lsn:
            # Below the stable position all copies are the same; what matters is that the records lead to it.
            while index < len(records) and after.lsn < self._base.lsn:
                after = records[index].mark
                index += 1
            if after.lsn < self._base.lsn:
                return index
            if after != self._base:
                raise Damaged(f"{self.replica.place}: what was sent differs below {self._base.lsn}, which is stable")
        at = self._place(after)
        if at is None:
            return None
        own = list(self._tail)[at:]
        for lsn, mark in own:
            if index == len(records):
                return index
            if records[index].mark != mark or records[index].header.lsn != lsn:
                self._cut(after)
                return index
            after = mark
            index += 1
        return index

    def _place(self, after: Mark) -> int | None:
        """How many records of the tail lie before this mark; None if it is not one of them."""
        if after == self._base:
            return 0
        for at, (_, mark) in enumerate(self._tail):
            if mark == after:
                return at + 1
        return None

    def _cut(self, to: Mark) -> None:
        """Takes everything behind a mark away: the coordinator's log has something else there."""
        if to.lsn < self._common:
            raise Damaged(f"{self.replica.place}: what was sent differs at {to.lsn}, up to {self._common} it was the same")
        self._logger.warning("log_cut", at=self.replica.where(to.lsn), length=self.end.lsn - to.lsn, version=self.version)
        while self._tail and self._tail[-1][1].lsn > to.lsn:
            self._tail.pop()
        self.end = to
        self._syncing.cut(to.lsn)
        while self._waiting and self._waiting[-1][0] >= to.lsn:
            lsn, done = self._waiting.pop()
            if not done.done():
                done.set_exception(Unavailable(f"what was at {lsn} was never committed"))
        if self._applied.lsn > max(to.lsn, self.checkpoint.lsn):
            self._machine.truncate(to.lsn)
            self._applied = self.checkpoint
            self._replay()

    def _take(self, payload: memoryview, records: Sequence[Found]) -> None:
        """Writes records behind the end, and gives them to the machine."""
        runs: list[tuple[int, list[Buffer]]] = []
        first = records[0]
        for before, record in pairwise(records):
            if record.header.lsn != before.mark.lsn:
                runs.append((first.header.lsn, [payload[first.start : before.end]]))
                first = record
        runs.append((first.header.lsn, [payload[first.start : records[-1].end]]))
        self._check_checkpoint(records)
        for lsn, _ in runs:
            self._prepare(lsn // self._size)
        self._write(runs)
        for record in records:
            self._tail.append((record.header.lsn, record.mark))
            if self._replaying is None and record.mark.lsn > self._applied.lsn:
                self._apply(record.header, record.operations)
                self._applied = record.mark
        self.end = records[-1].mark
        if self._size - self.end.lsn % self._size < self._size // 2:
            try:
                self._prepare(self.end.lsn // self._size + 1)
            except NoSpace:
                pass  # Who needs it is told.

    def _prepare(self, index: int) -> None:
        try:
            self.replica.prepare(index)
        except NoSpace:
            raise  # nothing was written, and there may be space again
        except SofsError as error:
            raise self._fail(error) from None

    def _check_checkpoint(self, records: Sequence[Found]) -> None:
        """A learner's log must lead to the checkpoint that it was given. Raises `Damaged`."""
        if self.end.lsn < self.checkpoint.lsn <= records[-1].mark.lsn and all(record.mark != self.checkpoint for record in records):
            raise self._fail(Damaged(f"{self.replica.place}: the log does not lead to the checkpoint at {self.checkpoint.lsn}"))

    def _write(self, runs: Sequence[tuple[int, list[Buffer]]]) -> None:
        try:
            for lsn, pieces in runs:
                self.replica.write(lsn, pieces)
        except SofsError as error:
            raise self._fail(error) from None

    def _apply(self, header: Header, operations: bytes) -> None:
        if operations:
            try:
                self._machine.apply(header.lsn, operations, header.address)
            except Exception as error:
                # The machine has changed by half: it must not become a coordinator's.
                self._fail(Unavailable(f"the record at {header.lsn} could not be applied: {error!r}"))
                raise

    def _settle(self, message: Append) -> None:
        """What else a message says: how far all is stable, what has been committed, what is no longer needed."""
        stable = min(message.stable, self._common)
        while self._tail and self._tail[0][1].lsn <= stable:
            self._base = self._tail.popleft()[1]
        if self._waiting:
            self._tell_stable()
        if not self.whole and self._common >= message.committed and self.end.lsn >= self.checkpoint.lsn:
            self.whole = True
            if self.on_whole is not None:
                self.on_whole()
        unneeded = min(message.start, self.checkpoint.lsn, self._base.lsn) // self._size
        if unneeded:
            try:
                self.replica.trim(unneeded)
            except SofsError as error:
                raise self._fail(error) from None

    # The machine catches up

    def _replay(self) -> None:
        if self._replaying is None:
            self._replaying = asyncio.ensure_future(self._apply_again())
            self._replaying.add_done_callback(self._replayed)

    async def _apply_again(self) -> None:
        reader = SegmentReader(self.replica, _AHEAD)
        while self._applied.lsn < self.end.lsn:
            # What has been read ahead may have been cut off and written anew since.
            reader.forget()
            for _ in range(_SLICE):
                if self._applied.lsn >= self.end.lsn:
                    break
                header, operations = self._next(reader)
                self._apply(header, operations)
                self._applied = Mark(header.end, header.checksum, header.version)
            await self._clock.sleep(0)
        self._replaying = None  # in the same moment: what is appended from now on is applied at once

    def _next(self, reader: SegmentReader) -> tuple[Header, bytes]:
        after = self._applied
        for lsn in (after.lsn, next_segment(after.lsn, self._size)):
            try:
                header, operations = reader.header(lsn)
            except Damaged:
                continue
            if header.previous == after.checksum and header.version >= after.version:
                return header, operations
        raise self._fail(Damaged(f"{self.replica.where(after.lsn)}: the log is damaged here"))

    def _replayed(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self.failure is None:
            self._fail(error if isinstance(error, SofsError) else Unavailable(f"the log could not be applied again: {error!r}"))

    # Syncing

    def _sync_to(self, upto: Lsn) -> Ack | Later[Ack]:
        if self._syncing.synced >= upto:
            return self._ack(Result.DONE)
        version = self.version
        later: Later[Ack] = Later()

        def answer(error: SofsError | None) -> None:
            if error is not None:
                later.tell(error)
            else:
                later.tell(self._ack(Result.DONE if version == self.version and not self.standing else Result.BEHIND))

        self._syncing.reach(upto, self.end.lsn, answer)
        return later

    def sync_all(self) -> Awaitable[None]:
        """Completes when all that is here now is stable. Raises `Unavailable` when some of it is cut off, or the follower ends."""
        return self.reach(Lsn(self.end.lsn - 1))

    def reach(self, lsn: Lsn) -> Awaitable[None]:
        """Completes when the record at `lsn` is stable, on this disk too. Raises `Unavailable` when it is cut off, or the follower ends."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody has to wait for it
        if self.failure is not None:
            done.set_exception(Unavailable(f"this copy is no longer followed: {self.failure}"))
        else:
            self._waiting.append((lsn, done))
            self._waiting.sort(key=lambda waited: waited[0])
            self._tell_stable()
        return done

    def _tell_stable(self) -> None:
        """Whoever waits for what is stable is told once it is so here: nobody waits for the syncs of a copy that does not count, or ask for them."""
        safe = min(self._base.lsn, self._syncing.synced)
        while self._waiting and self._waiting[0][0] < safe:
            done = self._waiting.pop(0)[1]
            if not done.done():
                done.set_result(None)
        if self._waiting and self._waiting[0][0] < self._base.lsn and not self._syncing_stable and self.failure is None:
            self._syncing_stable = True
            self._syncing.reach(self._base.lsn, self.end.lsn, self._synced_stable)

    def _synced_stable(self, error: SofsError | None) -> None:
        self._syncing_stable = False
        if error is None:
            self._tell_stable()

    # Configurations and taking over

    async def _learn(self) -> None:
        """Reads who is in force, and obeys from then on."""
        try:
            configuration = await self._read_configuration()
        except SofsError as error:
            self._logger.warning("configuration_unknown", reason=str(error))
            return
        finally:
            self._adopting = None
        if not self.standing:
            self.adopt(configuration)

    def adopt(self, configuration: Configuration) -> None:
        """From now on every message of an older configuration is refused; for whoever has read a newer one in the store."""
        if configuration.version <= self.version:
            return
        self.configuration = configuration
        self.version = configuration.version
        # What the former coordinator had is not known to be what the new one has.
        self._common = self._base.lsn
        if self.on_adopted is not None:
            self.on_adopted(configuration)

    @property
    def settled(self) -> bool:
        """The machine has all there is, and there is no hole."""
        return self._replaying is None and self._applied == self.end and self.failure is None

    def stand(self, proof: bool = False, broken: bool = False) -> bool:
        """Stops following, if this replica may take over now: nothing is taken or promised until `resume` or `retire`. To be asked before the
        compare-and-set.

        It may when its promise has run out, or with `proof` that the coordinator has ended or has laid down its office; when its memory is
        unbroken, or with `broken`: no replica with an unbroken one answers; and when its machine has everything.
        """
        if self.standing or self._retired or not self.settled or not (self.whole or broken):
            return False
        if not proof and self._clock.boottime() < self.promised_until:
            return False
        self.standing = True
        return True

    def resume(self, configuration: Configuration) -> None:
        """Follows again: somebody else was faster, or the compare-and-set has certainly failed. `configuration` is what the store says now."""
        self.standing = False
        self.adopt(configuration)

    def retire(self) -> Lead:
        """Ends following, having won: what is here now is the truth."""
        assert self.standing, "stand first"
        self._retired = True
        self._end(Fenced(f"{self.replica.place} has taken over"))
        return Lead(self.replica, self.end, self._base.lsn)

    def close(self) -> None:
        """Follows no more. The replica's files stay open for their owner to close."""
        if self.failure is None:
            self.failure = Unavailable(f"{self.replica.place} is not followed any more")
        self._end(self.failure)

    def _fail(self, error: SofsError) -> SofsError:
        """This copy is not to be trusted any more."""
        if self.failure is None:
            self.failure = error
            self._logger.error("follower_failed", error=str(error))
            self._end(error)
            if self.on_failure is not None:
                self.on_failure(error)
        return self.failure

    def _end(self, error: SofsError) -> None:
        self.failure = self.failure or error
        self._syncing.fail(error)
        for _, done in self._waiting:
            if not done.done():
                done.set_exception(Unavailable(f"this copy is no longer followed: {error}"))
        self._waiting.clear()
        for task in (self._replaying, self._adopting):
            if task is not None:
                task.cancel()
