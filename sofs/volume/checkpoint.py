"""Checkpoints: carrying the overlay into the records on the disks.

A checkpoint freezes the overlay at a position of the log, waits until that is stable, and writes the frozen changes
with the position in one transaction, into the records beside every replica. Then reading moves on to the new state and the
frozen changes are forgotten. So records never hold anything that is not stable, and a recovery is the checkpoint and the log after it.

Beside the keys of the volume the records hold one more, which sorts before all of them:

    0x00 checkpoint   lsn u64, checksum of the record before u32, its version u32, CRC32C of the foregoing u32
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

import structlog
from crc32c import crc32c

from sofs.errors import Damaged, SofsError
from sofs.log.configuration import Mark
from sofs.runtime.ports import Clock, Records
from sofs.types import Lsn
from sofs.volume.keyspace import KeySpace

CHECKPOINT = b"\0checkpoint"

_MARK = struct.Struct("<QII")
_SUM = struct.Struct("<I")
_FREED_AT_ONCE = 4000


def encode_mark(mark: Mark) -> bytes:
    data = _MARK.pack(*mark)
    return data + _SUM.pack(crc32c(data))


def decode_mark(value: bytes) -> Mark:
    """Raises `Damaged`."""
    if len(value) != _MARK.size + _SUM.size or _SUM.unpack_from(value, _MARK.size)[0] != crc32c(value[: _MARK.size]):
        raise Damaged(f"a checkpoint's mark of {len(value)} bytes does not match its checksum")
    lsn, checksum, version = _MARK.unpack_from(value)
    return Mark(Lsn(lsn), checksum, version)


class CheckpointSettings(NamedTuple):
    """When a checkpoint is due: whatever comes first."""

    interval_s: float = 5.0
    keys: int = 20_000
    """Changed keys in memory; 10,000 take LMDB 30 to 60 ms of a thread."""
    log_bytes: int = 256 << 20
    """Log that a recovery would have to read."""


class Checkpointed(Protocol):
    """The log, as checkpoints of what it has made stable see it: a coordinator's, or one that is followed."""

    failure: SofsError | None

    @property
    def end(self) -> Lsn: ...

    @property
    def mark(self) -> Mark:
        """The end, up to which everything has been applied."""

    @property
    def replica_ids(self) -> tuple[int, ...]:
        """The replicas that count, here or elsewhere."""

    def reach(self, lsn: Lsn) -> Awaitable[None]:
        """Completes when the record at `lsn` is stable. Raises `Unavailable` when that will never be."""

    def lose(self, id: int, error: SofsError) -> None: ...


class Checkpoints:
    """The service. `records` has the records beside each replica of this node, by the replica's id; standbys elsewhere make checkpoints of
    their own, and a coordinator gives no space back that one of these may still need (`others`).
    """

    def __init__(
        self, clock: Clock, keyspace: KeySpace, log: Checkpointed, records: Mapping[int, Records], done: Mark, settings: CheckpointSettings
    ) -> None:
        """`done` is where the last checkpoint stands."""
        self.records = dict(records)
        self._clock = clock
        self._keyspace = keyspace
        self._log = log
        self.done = done
        self._settings = settings
        self._one_at_a_time = asyncio.Lock()
        self._logger = structlog.get_logger(component="checkpoint")
        self.others: Callable[[], Iterable[Lsn]] = tuple
        """How far the checkpoints of the other replicas that count, or are about to, have come."""
        self.ask_others: Callable[[Lsn], Awaitable[None]] | None = None
        """Completes when these cover a position. Raises `Unavailable`."""
        self.quiet: Callable[[], Awaitable[None] | None] = lambda: None
        """When nothing is being applied again: what the records show must not change in the middle of that. None: now."""
        self.on_done: Callable[[Mark], None] = lambda mark: None
        """Called after each checkpoint, at once when reading has moved on to it."""
        keyspace.checkpointed = done.lsn
        keyspace.checkpoint = self.run_everywhere

    @property
    def current(self) -> bool:
        """Whether the last checkpoint holds everything."""
        return self._log.end <= self.done.lsn

    def due(self, since: float) -> bool:
        """`since` is when the last checkpoint last held everything, by the monotonic clock."""
        settings = self._settings
        return (
            self._clock.monotonic() - since >= settings.interval_s
            or len(self._keyspace.overlay) >= settings.keys
            or self._log.end - self.done.lsn >= settings.log_bytes
        )

    async def run(self) -> None:
        """Makes checkpoints as they become due, until cancelled."""
        last = self._clock.monotonic()
        pause = min(0.25, self._settings.interval_s / 4)
        while self._log.failure is None:
            await self._clock.sleep(pause)
            self._note_covered()
            if not self.current and self.due(last):
                try:
                    await self.run_once()
                except SofsError as error:
                    # Nothing is lost: the log keeps what it has. It fills up, though, and then says so.
                    self._logger.error("checkpoint_failed", error=str(error))
                last = self._clock.monotonic()
            elif self.current:
                last = self._clock.monotonic()

    async def run_everywhere(self) -> None:
        """As `run_once`, on the other nodes with replicas, too."""
        await self.run_once()
        if self.ask_others is not None:
            await self.ask_others(self.done.lsn)
            self._note_covered()

    def _note_covered(self) -> None:
        covered = min(self.done.lsn, *self.others(), self.done.lsn)
        self._keyspace.checkpointed = max(covered, self._keyspace.checkpointed)

    async def run_once(self) -> None:
        """Completes when all that was appended before the call is in the records of every replica of this node.

        Raises `NoSpace` (the records' configured size is reached, or every disk with them is full), `DiskFailed`, `Unavailable`;
        then nothing has changed.
        """
        async with self._one_at_a_time:
            if not self.current:
                await self._checkpoint()

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Within, no checkpoint is made: records stay as they are, on every disk."""
        async with self._one_at_a_time:
            yield

    async def _checkpoint(self) -> None:
        log, overlay = self._log, self._keyspace.overlay
        mark = log.mark
        overlay.freeze()
        generation = overlay.generation
        try:
            await log.reach(Lsn(mark.lsn - 1))
            changes: list[tuple[bytes, bytes | None]] = [(CHECKPOINT, encode_mark(mark))]
            for piece in overlay.frozen():
                changes += piece
                await self._clock.sleep(0)
            await self._commit(changes)
        except BaseException:
            # A standby's log that was truncated meanwhile has taken the freeze back itself, by throwing all of it away.
            if overlay.generation == generation:
                overlay.unfreeze()
            raise
        while (waiting := self.quiet()) is not None:
            await waiting
        for records in self.records.values():
            records.refresh()
        if overlay.generation == generation:
            overlay.thaw()
        self.done = mark
        self.on_done(mark)
        self._note_covered()
        # The list has the last references to all of it: freed at once, 20,000 keys would hold the loop up for 3 ms.
        while changes:
            del changes[-_FREED_AT_ONCE:]
            await self._clock.sleep(0)

    async def _commit(self, changes: list[tuple[bytes, bytes | None]]) -> None:
        """Commits to the records of every replica that still counts; a disk that fails, or is full, takes its replica with it, unless all are."""
        commits = {id: records.commit(changes) for id, records in self.records.items() if id in self._log.replica_ids}
        outcomes = await asyncio.gather(*commits.values(), return_exceptions=True)
        failed = {id: outcome for id, outcome in zip(commits, outcomes, strict=True) if outcome is not None}
        for error in failed.values():
            if not isinstance(error, SofsError) or len(failed) == len(commits):
                raise error
        for id, error in failed.items():
            assert isinstance(error, SofsError)
            self._log.lose(id, error)

    def lost(self, id: int) -> None:
        """A replica no longer counts: reads move to another's records."""
        gone = self.records.pop(id, None)
        if gone is not None and self._keyspace.overlay.records is gone and self.records:
            remaining = next(iter(self.records.values()))
            # It may hold a newer checkpoint than the one that was read from: the overlay covers the difference.
            remaining.refresh()
            self._keyspace.overlay.records = remaining
