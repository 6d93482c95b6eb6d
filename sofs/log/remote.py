"""The coordinator's side of a copy on another node.

Records are sent as they are appended, several messages on their way at once; the answers say how far the follower has them
in memory and on its disk. Nothing waits here: `ReplicatedLog` is told by `Coordinator.moved`.

Whatever goes wrong on the way (a broken connection, an answer that does not come, a follower that was restarted) ends the stream. Then the
follower is asked what it has, over and over, and the stream begins anew from there, out of the local copy until it has caught up
with what is appended. A learner is the same thing that does not count yet, its catching up at a lower priority.

A follower that has not answered for `silence_s` is given up, which is measured in steps so that a pause of this process counts for
nothing. The promise in an answer counts from before its question was sent.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import structlog

from sofs.cluster import Outcome, Peer, Priority
from sofs.encoding import encode
from sofs.errors import Damaged, DiskFailed, ExtentGone, NoSpace, PeerError, SofsError, Unavailable
from sofs.log.configuration import LogSettings, Mark
from sofs.log.messages import SERVICE, Ack, Append, Read, Result, Rewrite, Sync, decode_ack
from sofs.log.reading import next_segment
from sofs.log.stretch import Stretch
from sofs.runtime.ports import Buffer, Clock, Timer
from sofs.types import Lsn

_WINDOW = 8 << 20
"""Bytes on their way at once; what comes on top is sent later, from the disk."""
_PIECE = 256 << 10
"""Bytes read at a time to catch up."""
_NEAR = 4 << 20
"""A learner that is so close is sent the rest as fast as all others."""
_SYNC_EVERY = 16 << 20
"""Bytes sent to catch up between two syncs: more at once would hold up those that clients wait for."""
_SYNC_S = 10.0
"""A sync that takes longer is as good as failed."""


class Coordinator(Protocol):
    """The log, as its remote replicas see it."""

    version: int
    start: Lsn
    committed: Lsn
    stable: Lsn

    @property
    def written(self) -> Mark:
        """Up to where the local copies have everything."""

    def stretch(self, after: Mark, length: int) -> "asyncio.Future[Stretch]":
        """Records behind a mark of this log, out of a local copy. Raises `Damaged`, `ExtentGone`, `DiskFailed`."""

    def has(self, mark: Mark) -> "asyncio.Future[bool]":
        """Whether a mark is certainly a place in this log."""

    def moved(self, remote: "RemoteReplica") -> None:
        """It has acknowledged more, or promised for longer."""

    def fenced(self, remote: "RemoteReplica", version: int) -> None:
        """It obeys a newer configuration."""

    def lost(self, remote: "RemoteReplica", error: SofsError) -> None:
        """It is to count no longer."""


class RemoteReplica:
    """One copy on another node. `ReplicatedLog` drives it from `attach` to `detach`."""

    def __init__(self, peer: Peer, clock: Clock, id: int, place: str, settings: LogSettings) -> None:
        self.id = id
        self.place = place
        self.acknowledged = Lsn(0)
        """It has everything below in memory."""
        self.synced = Lsn(0)
        """And below this on its disk."""
        self.checkpointed = Lsn(0)
        """Its own records have all below this."""
        self.promised_until = 0.0
        """By this node's CLOCK_BOOTTIME: until then it does not take over."""
        self.needs = Lsn(0)
        """It may yet have to be sent anything from here on."""
        self.counts = True
        """False for a learner."""
        self.uncovered = False
        """It lacks what the log no longer has: it has to be made anew."""
        self.reason = "it has not answered yet"
        """Why it is not in step; empty when it is."""
        self._peer = peer
        self._clock = clock
        self._settings = settings
        self._log: Coordinator | None = None
        self._sent = Mark(Lsn(0), 0, 0)
        self._live = False
        """Everything up to `_sent` is on its way, in order: what is appended may follow."""
        self._epoch = 0
        """Of the stream; answers to an earlier one say nothing."""
        self._asking = False
        self._catching_up = False
        """From the disk, and in the midst of it."""
        self._priority = Priority.REPLICATION
        """Of the stream."""
        self._on_way = self._messages = 0
        self._wanted = Lsn(0)
        """Up to here it has been asked to sync."""
        self._last_sent = self._last_tick = self._silent = 0.0
        self._timers: dict[str, Timer] = {}
        self._unwatch: Callable[[], None] = lambda: None
        self._pumping: asyncio.Task[None] | None = None
        self._logger = structlog.get_logger(component="log", replica=f"{id:x}", at=place)

    def attach(self, log: Coordinator, counts: bool) -> None:
        """Begins. A learner (`counts` false) is caught up and then sent everything, but nobody waits for it."""
        self._log = log
        self.counts = counts
        self.needs = log.start
        self._last_tick = self._clock.boottime()
        self._silent = 0.0
        self._unwatch = self._peer.on_change(self._connection)
        self._tick()
        self._ask()

    @property
    def stream(self) -> int:
        """A number that is another one once the stream has broken."""
        return self._epoch

    @property
    def connected(self) -> bool:
        """Whether there is a connection to its node."""
        return self._peer.connected

    def detach(self) -> None:
        """Ends: nothing more is sent, or heard."""
        self._log = None
        self._unwatch()
        self._stop("it is no longer a part of the volume")
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # Sending

    def send(self, pieces: Sequence[Buffer], before: Mark, after: Mark, size: int, sync: bool) -> None:
        """Records that have just been written here, from one mark to another. With `sync` they are asked to be synced at once."""
        if not self._live or self._sent != before:
            return
        if self._on_way + size > _WINDOW:
            self._live = False
            self.reason = "it is slower than what is written"
            self._pump()
            return
        # Who does not count is not waited for: its buffers may be used anew before they are on their way.
        self._post(pieces if self.counts else [b"".join(pieces)], after, size, sync)

    def sync(self, upto: Lsn) -> None:
        """Asks it to have everything up to here on its disk."""
        if self._live and upto > self._wanted:
            self._sync(upto)

    def _sync(self, upto: Lsn) -> None:
        assert self._log is not None
        self._wanted = upto
        self._call(encode(Sync(self.id, self._log.version, upto)), (), 0, self._log.stable, _SYNC_S)

    def _post(self, pieces: Sequence[Buffer], end: Mark, size: int, sync: bool) -> None:
        log = self._log
        assert log is not None
        body = encode(Append(self.id, log.version, self._sent, log.stable, log.committed, log.start, sync))
        self._sent = end
        if sync:
            self._wanted = end.lsn
        self._call(body, pieces, size, log.stable, self._settings.lease.promise_s if self.counts and not sync else _SYNC_S)

    def _call(self, body: bytes, pieces: Sequence[Buffer], size: int, stable: Lsn, deadline_s: float) -> None:
        at = self._last_sent = self._clock.boottime()
        self._on_way += size
        self._messages += 1
        then = partial(self._answered, self._epoch, at, size, stable)
        self._peer.ask(SERVICE, body, pieces, then, priority=self._priority, deadline_s=deadline_s)

    def _answered(self, epoch: int, at: float, size: int, stable: Lsn, answer: Outcome) -> None:
        if epoch != self._epoch or self._log is None:
            return
        self._on_way -= size
        self._messages -= 1
        if isinstance(answer, SofsError):
            self._break(answer)
            return
        try:
            ack = decode_ack(answer.body)
        except PeerError as bad:
            self._break(Unavailable(str(bad)))
            return
        if ack.outcome == Result.DONE and ack.version == self._log.version:
            self._heard(ack, at, stable)
        else:
            self._turned_down(ack)

    def _heard(self, ack: Ack, at: float, stable: Lsn) -> None:
        assert self._log is not None
        self._silent = 0.0
        self.promised_until = max(self.promised_until, at + self._settings.lease.counted_s)
        self.acknowledged = max(self.acknowledged, ack.common)
        self.synced = max(self.synced, ack.synced)
        self.checkpointed = max(self.checkpointed, ack.checkpointed)
        # It knows what was stable then, and can be sent everything anew from there on.
        self.needs = max(self.needs, min(self.acknowledged, stable))
        if self._asking:
            self._begin(self._sent)
        self._log.moved(self)

    def _turned_down(self, ack: Ack) -> None:
        log = self._log
        assert log is not None
        if ack.outcome == Result.ELSEWHERE and ack.version == log.version and ack.stable is not None and ack.end is not None:
            self._silent = 0.0
            self._start_over(ack.stable, ack.end)
        elif ack.version > log.version:
            self._break(Unavailable(f"it obeys configuration {ack.version}"))
            log.fenced(self, ack.version)
        else:
            self._break(Unavailable(f"it obeys configuration {ack.version}, and is to learn of {log.version}"))

    # Beginning a stream

    def _break(self, error: SofsError) -> None:
        """The stream has ended; it is begun anew soon."""
        log = self._log
        self._stop(str(error))
        if log is None:
            return
        if isinstance(error, DiskFailed | NoSpace):
            log.lost(self, error)
        else:
            self._timer("ask", self._settings.lease.retry_s, self._ask)

    def _stop(self, reason: str) -> None:
        self.reason = reason
        self._epoch += 1
        self._live = self._asking = self._catching_up = False
        self._on_way = self._messages = 0
        # Whoever answers next may have lost what the one before had.
        self.acknowledged = self.synced = self._wanted = Lsn(0)
        if self._pumping is not None:
            self._pumping.cancel()
            self._pumping = None

    def _ask(self) -> None:
        """Asks whether it has what is here; it says what it has if not."""
        if self._log is None or self._asking or self._live or self._pumping is not None:
            return
        self._asking = True
        self._priority = Priority.REPLICATION
        self._sent = self._log.written
        self._post((), self._sent, 0, False)

    def _start_over(self, stable: Mark, end: Mark) -> None:
        """It has everything up to `stable` as all have it, and something up to `end`."""
        log = self._log
        assert log is not None
        self._stop("it lacks some of the log")
        self._pump(stable, end)

    def _begin(self, sent: Mark) -> None:
        self._asking = False
        self._sent = sent
        self._pump()

    def _connection(self, there: bool) -> None:
        if there:
            self._ask()

    # Catching up

    def _pump(self, *theirs: Mark) -> None:
        """Sends from the disk until nothing is missing: from where it stands, or, given how far that copy is stable and has anything, from there."""
        log = self._log
        assert log is not None
        if not theirs and self._sent == log.written:
            self._live, self.reason = True, ""
            return
        if self._pumping is None:
            self._pumping = asyncio.ensure_future(self._catch_up(self._epoch, theirs))
            self._pumping.add_done_callback(self._pumped)

    def _pumped(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if task is not self._pumping or error is None:
            return
        self._pumping = None
        self.uncovered |= isinstance(error, (Damaged, ExtentGone))
        if self._log is not None and isinstance(error, SofsError):
            self._logger.warning("replica_not_caught_up", reason=str(error))
            self._log.lost(self, error)
        else:
            raise error

    async def _catch_up(self, epoch: int, theirs: Sequence[Mark]) -> None:
        log = self._log
        assert log is not None
        if theirs:
            self._sent = await self._common(*theirs)
            self.needs = min(self.needs, self._sent.lsn)
        self._priority = Priority.REPLICATION if self.counts else Priority.REBUILD
        self._catching_up = True
        begun = asked = self._sent.lsn
        while epoch == self._epoch:
            behind = log.written.lsn - self._sent.lsn
            self.reason = f"it lacks {behind} bytes of the log" if behind else ""
            if self._priority is Priority.REBUILD and behind <= _NEAR:
                # Two streams have no order between them: the one is to have ended before the other begins.
                while self._messages and epoch == self._epoch:
                    await self._clock.sleep(self._settings.lease.retry_s / 10)
                if epoch == self._epoch:
                    self._priority = Priority.REPLICATION
            elif self._sent == log.written:
                self._pumping, self._live, self._catching_up = None, True, False
                return
            elif self._on_way > _WINDOW // 2 or self._sent.lsn - max(self.synced, begun) > 2 * _SYNC_EVERY:
                await self._clock.sleep(self._settings.lease.retry_s / 20)
            else:
                piece = await log.stretch(self._sent, _PIECE)
                if epoch == self._epoch:
                    self._post((piece.data,), piece.end, len(piece.data), False)
                    if piece.end.lsn - asked >= _SYNC_EVERY:
                        asked = piece.end.lsn
                        self._sync(asked)

    async def _common(self, stable: Mark, end: Mark) -> Mark:
        """Up to where that copy is certainly the same as this log: its end, or else what it knows to be stable, for that is the same in all copies.

        Raises `ExtentGone` if this log begins behind that.
        """
        log = self._log
        assert log is not None
        if await log.has(end):
            return end
        # What the log begins with may follow a place at the very end of what was trimmed.
        if stable.lsn <= log.written.lsn and log.start <= next_segment(stable.lsn, self._settings.segment_size):
            return stable
        self.uncovered = True
        raise ExtentGone(f"{self.place} has the log up to {stable.lsn}, and here it begins at {log.start}")

    # Time

    def _tick(self) -> None:
        log, lease = self._log, self._settings.lease
        if log is None:
            return
        now, step = self._clock.boottime(), lease.silence_s / 4
        if self._messages or not self._live:
            # After a pause of this process much time has passed in which nothing could be heard.
            self._silent += min(now - self._last_tick, 2 * step)
        else:
            self._silent = 0.0
        self._last_tick = now
        self._timer("tick", step, self._tick)
        # Nobody waits for a learner, and its records may queue behind much else that is rebuilt.
        patience = lease.silence_s if self.counts else _SYNC_S
        if self._silent >= patience:
            log.lost(self, Unavailable(f"{self.place} has not answered for {patience} s: {self.reason or 'no answer'}"))
        elif (self._live or self._catching_up) and now - self._last_sent >= lease.beacon_s - step / 2:
            self._post((), self._sent, 0, False)

    def _timer(self, name: str, delay: float, call: "partial[None] | object") -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        self._timers[name] = self._clock.call_later(delay, call)  # type: ignore[arg-type]

    # Reading

    def read(self, address: int, into: memoryview) -> "asyncio.Future[None]":
        """Bytes as this copy has them. Raises `ExtentGone`, `DiskFailed`, `Unavailable`."""
        return asyncio.ensure_future(self._read(address, into))

    async def _read(self, address: int, into: memoryview) -> None:
        question = encode(Read(self.id, address, len(into)))
        answer = await self._peer.call(SERVICE, question, priority=Priority.FOREGROUND, deadline_s=_SYNC_S)
        data = b"".join(answer.payload)
        if len(data) != len(into):
            raise Unavailable(f"{self.place} answers {len(data)} bytes where {len(into)} were asked for")
        into[:] = data

    def rewrite(self, address: int, data: Buffer) -> None:
        """Mends its bytes; if that fails, whoever reads them next finds out."""
        if self._log is not None:
            self._peer.notify(SERVICE, encode(Rewrite(self.id, self._log.version, address)), (data,), priority=Priority.REPLICATION)
