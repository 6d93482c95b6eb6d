"""A hot standby: a replica of this node that follows a log which another node coordinates.

What it appends it applies at once, to a key space of its own, and it makes checkpoints of its own of what is stable. So a takeover begins with
everything in memory; and what was never committed is thrown away by replaying from the own checkpoint (`sofs.log.follower`). A replica that the
configuration does not name (a learner) follows in the same way, and is told when it counts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from sofs.errors import DiskFailed, SofsError
from sofs.log.configuration import Configuration, Mark
from sofs.log.follower import Follower
from sofs.log.recovery import recover_in_slices
from sofs.runtime.ports import Clock, Files
from sofs.types import Lsn
from sofs.volume.batch import Apply
from sofs.volume.checkpoint import Checkpoints
from sofs.volume.duties import begin
from sofs.volume.keyspace import KeySpace
from sofs.volume.memory import BROKEN, INCOMPLETE, note_whole
from sofs.volume.recovery import Opened, Place, StoreSettings, is_unbroken, let_go, note, open_place, refuse_older_store, stored_incarnation

_QUIET_S = 0.005
_ANY_VERSION = (1 << 32) - 1


class Standby:
    """One replica that follows; made by `open_standby`."""

    def __init__(
        self, files: Files, clock: Clock, opened: Opened, keyspace: KeySpace, follower: Follower, boot: bytes, settings: StoreSettings
    ) -> None:
        self.opened = opened
        self.keyspace = keyspace
        self.follower = follower
        self.replayed = 0
        """Records that were read behind the checkpoint at the start."""
        self.on_failure: Callable[[SofsError], None] | None = None
        self._files = files
        self._clock = clock
        self._boot = boot
        self._service: asyncio.Task[None] | None = None
        records = {opened.place.id: opened.records}
        self.checkpoints = Checkpoints(clock, keyspace, _Followed(follower), records, opened.mark, settings.checkpoint)
        self.checkpoints.quiet = self._quiet
        self.checkpoints.on_done = self._checkpointed
        follower.on_whole = self._whole
        follower.on_failure = self._failed
        if follower.whole:
            self._whole()

    @property
    def id(self) -> int:
        return self.opened.place.id

    @property
    def clean(self) -> bool:
        """The newest that this replica knows of the volume is that it was closed in order: then nothing can have been lost."""
        incarnation = stored_incarnation(self.keyspace)
        return incarnation is not None and incarnation.clean

    def start(self) -> None:
        """Begins to make checkpoints as they become due."""
        self._service = begin(self.checkpoints.run(), "checkpoints of a standby")

    async def stop(self) -> None:
        """Makes no checkpoints any more."""
        service, self._service = self._service, None
        if service is not None:
            service.cancel()
            await asyncio.gather(service, return_exceptions=True)

    async def close(self) -> None:
        """Follows no more, and lets go of the files. Nothing is written."""
        self.follower.close()
        await self.stop()
        let_go(self.opened)

    def _checkpointed(self, mark: Mark) -> None:
        self.follower.checkpoint = mark

    def _quiet(self) -> Awaitable[None] | None:
        """A log that was cut is being applied again from the old checkpoint on: what the records show must not move on under that."""
        follower = self.follower
        return self._clock.sleep(_QUIET_S) if follower.failure is None and not follower.settled else None

    def _whole(self) -> None:
        try:
            note_whole(self._files, self.opened.place.path, self._boot)
        except SofsError as error:
            if self.opened.noted != INCOMPLETE:
                return  # without the note it passes for less than it is
            # The next start would throw it away, so it must not count.
            self.follower.close()
            self._failed(error)

    def _failed(self, error: SofsError) -> None:
        if isinstance(error, DiskFailed):
            # After a failed sync the page cache claims to have what the disk has not.
            note(self._files, self.opened.place, BROKEN)
        if self.on_failure is not None:
            self.on_failure(error)


class _Followed:
    """A followed log, as checkpoints see it."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self.failure: SofsError | None = None

    @property
    def end(self) -> Lsn:
        return self._follower.mark.lsn

    @property
    def mark(self) -> Mark:
        return self._follower.mark

    @property
    def replica_ids(self) -> tuple[int, ...]:
        return (self._follower.id,)

    def reach(self, lsn: Lsn) -> Awaitable[None]:
        return self._follower.reach(lsn)

    def lose(self, id: int, error: SofsError) -> None:
        raise AssertionError("the only replica's failure is raised, not told")


async def open_standby(
    files: Files,
    clock: Clock,
    place: Place,
    configuration: Configuration,
    read_configuration: Callable[[], Awaitable[Configuration]],
    *,
    log_id: int,
    boot: bytes,
    appliers: Mapping[int, Apply],
    settings: StoreSettings,
    promised: bool = True,
    origin: Mark | None = None,
) -> Standby:
    """Opens a replica, brings its key space to the end of its log, and has it follow. `configuration` is what the coordination store says now.

    `promised` as for `Follower`. `origin`: the replica has been given a checkpoint, and its log, empty now, is to begin here. Raises `Damaged` (it must
    be made anew), `NotFound`, `DiskFailed`, `ReadOnly`, `Unavailable` (another process has it), `Fenced` (the store is older than the log).
    """
    opened = open_place(files, place, log_id, settings, complete=origin is None)
    try:
        keyspace = KeySpace(opened.records, appliers)

        def unbroken() -> bool:
            return is_unbroken(opened.noted, boot, keyspace)

        if origin is None:
            recovered = await recover_in_slices(opened.replica, opened.mark, _ANY_VERSION, unbroken, keyspace.apply, lambda: clock.sleep(0))
            refuse_older_store(recovered.end.version, configuration.version)
            end, stable, tail, replayed = recovered.end, recovered.stable, recovered.tail, recovered.records
        else:
            end, stable, tail, replayed = origin, origin, (), 0
        whole = origin is None and place.id in configuration.replicas and not configuration.memory_broken and unbroken()
        follower = Follower(
            clock,
            opened.replica,
            keyspace,
            configuration=configuration,
            end=end,
            stable=stable,
            tail=tail,
            checkpoint=opened.mark,
            whole=whole,
            settings=settings.log,
            read_configuration=read_configuration,
            promised=promised,
        )
    except BaseException:
        let_go(opened)
        raise
    standby = Standby(files, clock, opened, keyspace, follower, boot, settings)
    standby.replayed = replayed
    structlog.get_logger(component="volume").info(
        "standby_opened", place=place.path, end=end.lsn, whole=whole, version=configuration.version, replayed=replayed
    )
    return standby
