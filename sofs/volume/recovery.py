"""Making and opening what a volume stands on: its log's replicas with the records beside each, and its key space.

A replica is a directory on a disk of its own:

    lock       held while a node has the replica open
    boot       when it was last known to be whole (sofs/volume/memory.py)
    log/       segments (sofs/log/replica.py)
    records/   the last checkpoint (sofs/volume/checkpoint.py)

The configuration, kept by the coordination store, says which replicas count. Each opening takes a new version of it before it
changes anything, so that two nodes cannot both believe to own the volume, and so that what
an opening cuts off the log's end can never be mistaken for a part of it later.

The volume's incarnation is what clients compare to learn that something acknowledged, but not stable, may be lost
(the NFS write verifier). It stays the same when the process died and the host went on: the page cache has everything; and when another
replica with unbroken memory takes over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import msgspec
import structlog

from sofs.encoding import decode, encode
from sofs.errors import ConfigError, Damaged, DiskFailed, Fenced, NotFound, ReadOnly, SofsError, Unavailable
from sofs.log.configuration import BEGINNING, Configuration, LogSettings, Mark
from sofs.log.recovery import newest_version, recover
from sofs.log.replica import LocalReplica
from sofs.log.replicated import ReplicatedLog
from sofs.runtime.ports import Clock, File, Files, Random, Records
from sofs.volume.batch import Apply, Batch
from sofs.volume.checkpoint import CHECKPOINT, Checkpoints, CheckpointSettings, decode_mark, encode_mark
from sofs.volume.duties import begin
from sofs.volume.keys import meta
from sofs.volume.keyspace import KeySpace
from sofs.volume.memory import BROKEN, INCOMPLETE, note_whole, noted_boot

INCARNATION = meta(b"incarnation")

Change = Callable[[Configuration], Awaitable[None]]
"""Records a configuration in the coordination store if its version follows the one that is in force, or raises `Fenced` or `Unavailable`."""


class Place(NamedTuple):
    """Where a replica lies. Each belongs on a disk of its own."""

    id: int
    """Random, of this incarnation of the replica: one that was made anew is another one."""
    path: str


class StoreSettings(NamedTuple):
    log: LogSettings = LogSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    records_size: int = 64 << 30
    """Bytes that the records beside each replica may grow to (an address range, not space taken)."""


class Incarnation(msgspec.Struct, frozen=True, array_like=True):
    """The record under `M incarnation`."""

    verifier: bytes
    """Eight random bytes; new whenever acknowledged changes may have been lost."""
    boot: bytes
    """The boot of the host under which the volume was opened last."""
    clean: bool
    """The volume was closed with everything stable."""

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Raises `Damaged`."""
        return decode(value, cls, "the incarnation record", Damaged)

    def encode(self) -> bytes:
        return encode(self)


class Opened(NamedTuple):
    """A place that has been opened."""

    place: Place
    lock: File
    replica: LocalReplica
    records: Records
    mark: Mark
    """Where its checkpoint stands."""
    noted: bytes | None = None
    """The boot under which it was last known to be whole."""


@dataclass
class Store:
    """An open volume's foundation."""

    keyspace: KeySpace
    log: ReplicatedLog
    checkpoints: Checkpoints
    incarnation: Incarnation
    replayed: int
    """Records that recovery read behind the checkpoint."""
    opened: list[Opened]
    files: Files
    clock: Clock
    log_id: int
    settings: StoreSettings
    lost: bool = False
    """What was acknowledged and not stable may have been lost at this opening: the incarnation is a new one."""
    _service: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to make checkpoints as they become due."""
        self._service = begin(self.checkpoints.run(), "checkpoints")

    async def abandon(self) -> None:
        """Lets go of everything without writing: another coordinator may be at work, or is about to be."""
        if self._service is not None:
            self._service.cancel()
            await asyncio.gather(self._service, return_exceptions=True)
        self.log.abandon(Unavailable("the volume is served elsewhere"))
        try:
            await self.log.close()
        finally:
            for opened in self.opened:
                let_go(opened)

    async def close(self) -> None:
        """Leaves everything stable and in a checkpoint, so that the next start has nothing to replay; as far as other nodes let it, for some seconds.

        After a failure of the log it only lets go of files. Raises what went wrong, having let go all the same.
        """
        if self._service is not None:
            self._service.cancel()
            await asyncio.gather(self._service, return_exceptions=True)
        try:
            if self.log.serving() and await self.log.becomes_stable():
                await self.checkpoints.run_once()
                write_incarnation(self.keyspace, self.log, msgspec.structs.replace(self.incarnation, clean=True))
                if await self.log.becomes_stable():
                    await self.checkpoints.run_once()
        finally:
            try:
                await self.log.close()
            finally:
                for opened in self.opened:
                    let_go(opened)


async def make_store(files: Files, places: Sequence[Place], log_id: int, settings: StoreSettings) -> None:
    """Makes an empty volume's replicas in these directories, which must not hold one. Raises `ConfigError`, `NoSpace`, `DiskFailed`.

    They count only once the caller has recorded a configuration that names them.
    """
    for place in places:
        if files.exists(f"{place.path}/log"):
            raise ConfigError(f"{place.path} already holds a volume's log; choose another directory, or remove it")
    for place in places:
        files.make_directory(f"{place.path}/log")
        replica = LocalReplica(files, f"{place.path}/log", log_id, place.id, settings.log.segment_size)
        replica.prepare(0)
        await replica.sync()
        replica.close()
        records = files.records(f"{place.path}/records", settings.records_size)
        await records.commit([(CHECKPOINT, encode_mark(BEGINNING))])
        records.close()
        files.sync_directory(place.path)


async def open_store(
    files: Files,
    clock: Clock,
    random: Random,
    places: Sequence[Place],
    configuration: Configuration,
    change: Change,
    *,
    log_id: int,
    boot: bytes,
    appliers: Mapping[int, Apply],
    settings: StoreSettings,
) -> Store:
    """Opens a volume's replicas and brings them, and the key space, to the newest state.

    `places` are the replicas whose disks are there; those that the configuration does not name are left alone. One that cannot be opened is
    left out of the configuration, as long as another is there. `boot` identifies this boot of the host. Raises `Damaged`,
    `DiskRefused`, `Unavailable` (another process has it, or the store does not answer), `Fenced` (also when the store is older than the log).
    """
    opened = _open_places(files, places, configuration, log_id, settings)
    try:
        return await _open(files, clock, random, opened, configuration, change, log_id, boot, appliers, settings)
    except BaseException:
        for each in opened:
            let_go(each)
        raise


async def _open(
    files: Files,
    clock: Clock,
    random: Random,
    opened: list[Opened],
    configuration: Configuration,
    change: Change,
    log_id: int,
    boot: bytes,
    appliers: Mapping[int, Apply],
    settings: StoreSettings,
) -> Store:
    # Before a version is taken: it might be the one that the newest records carry.
    refuse_older_store(max(newest_version(each.replica, each.mark) for each in opened), configuration.version)
    ids = tuple(each.place.id for each in opened)
    configuration = configuration._replace(version=configuration.version + 1, replicas=ids)
    await change(configuration)
    # Replayed is from the oldest checkpoint on, into an overlay over that one: the next checkpoint then brings all up to date.
    oldest = min(opened, key=lambda each: each.mark.lsn)
    keyspace = KeySpace(oldest.records, appliers)

    def unbroken() -> bool:
        # One that has everything is enough: what the others lack they are given.
        return not configuration.memory_broken and any(is_unbroken(each.noted, boot, keyspace) for each in opened)

    recovered = recover([each.replica for each in opened], oldest.mark, configuration.version, unbroken, keyspace.apply)
    survivors = [each for each in opened if each.replica in recovered.replicas and _has_room(each, recovered.end)]
    if not survivors:
        raise Unavailable("the volume cannot be opened: no copy of its log can be written to")
    if len(survivors) < len(opened):
        ids = tuple(each.place.id for each in survivors)
        configuration = configuration._replace(version=configuration.version + 1, replicas=ids)
        await change(configuration)
    if oldest not in survivors:
        keyspace.overlay.records = survivors[0].records
    replicas = [each.replica for each in survivors]
    log = ReplicatedLog(clock, keyspace, replicas, configuration, change, recovered.end, oldest.mark.lsn, settings.log)
    keyspace.attach(log)
    records = {each.place.id: each.records for each in survivors}
    checkpoints = Checkpoints(clock, keyspace, log, records, oldest.mark, settings.checkpoint)
    log.on_lost = checkpoints.lost
    former = stored_incarnation(keyspace)
    incarnation = next_incarnation(former, boot, unbroken(), random)
    lost = former is not None and former.verifier != incarnation.verifier
    write_incarnation(keyspace, log, incarnation)
    await log.sync()
    if configuration.memory_broken:
        await log.change(configuration._replace(version=log.version + 1, replicas=log.replica_ids, memory_broken=False))
    for each in survivors:
        note(files, each.place, boot)
    structlog.get_logger(component="volume").info(
        "log_recovered", place=opened[0].place.path, records=recovered.records, mended=recovered.repaired, version=log.version
    )
    return Store(keyspace, log, checkpoints, incarnation, recovered.records, opened, files, clock, log_id, settings, lost)


def _open_places(files: Files, places: Sequence[Place], configuration: Configuration, log_id: int, settings: StoreSettings) -> list[Opened]:
    opened: list[Opened] = []
    complaints = []
    for place in places:
        if place.id not in configuration.replicas:
            continue
        try:
            opened.append(open_place(files, place, log_id, settings))
        except (DiskFailed, NotFound, Damaged, ReadOnly) as error:
            complaints.append(f"{place.path}: {error}")
        except BaseException:
            for each in opened:
                let_go(each)
            raise
    if not opened:
        reason = "; ".join(complaints) or "none of the disks that hold a copy of its log is present"
        raise Unavailable(f"the volume cannot be opened: {reason}")
    logger = structlog.get_logger(component="volume")
    for complaint in complaints:
        logger.error("replica_lost", error=complaint)
    return opened


def open_place(files: Files, place: Place, log_id: int, settings: StoreSettings, complete: bool = True) -> Opened:
    """Raises `NotFound`, `Damaged`, `DiskFailed`, `ReadOnly`: this replica cannot be used; `Unavailable`: another process has it."""
    if not files.exists(f"{place.path}/log"):
        raise NotFound(f"{place.path} holds no log; is its disk mounted?")
    noted = noted_boot(files, place.path)
    if complete and noted == INCOMPLETE:
        raise Damaged(f"{place.path} was never completed: it is made anew")
    lock = files.lock(f"{place.path}/lock")
    try:
        replica = LocalReplica(files, f"{place.path}/log", log_id, place.id, settings.log.segment_size)
        try:
            records = files.records(f"{place.path}/records", settings.records_size)
            value = records.get(CHECKPOINT)
            if value is None:
                records.close()
                raise Damaged(f"{place.path}/records holds no checkpoint")
            return Opened(place, lock, replica, records, decode_mark(value), noted)
        except BaseException:
            replica.close()
            raise
    except BaseException:
        lock.close()
        raise


def _has_room(opened: Opened, end: Mark) -> bool:
    """Whether the segment that the log ends in is there; normally it is."""
    try:
        opened.replica.prepare((end.lsn - 1) // opened.replica.segment_size)
    except SofsError as error:
        structlog.get_logger(component="volume").error("replica_lost", at=opened.place.path, error=str(error))
        return False
    return True


def note(files: Files, place: Place, boot: bytes) -> None:
    """Notes that a replica is whole, if its disk takes the note. Without it the replica passes for less than it is, never for more."""
    try:
        note_whole(files, place.path, boot)
    except SofsError as error:
        structlog.get_logger(component="volume").warning("boot_not_noted", at=place.path, error=str(error))


def let_go(opened: Opened) -> None:
    """Closes a replica's files."""
    opened.records.close()
    opened.replica.close()
    opened.lock.close()


def stored_incarnation(keyspace: KeySpace) -> Incarnation | None:
    value = keyspace.get(INCARNATION)
    return None if value is None else Incarnation.decode(value)


def write_incarnation(keyspace: KeySpace, log: ReplicatedLog, incarnation: Incarnation) -> None:
    batch = Batch()
    batch.put(INCARNATION, incarnation.encode())
    keyspace.commit_cleaning(batch)


def next_incarnation(former: Incarnation | None, boot: bytes, unbroken: bool, random: Random) -> Incarnation:
    """What is recorded at an opening: with a verifier of its own if something that was acknowledged may be lost."""
    if former is not None and (former.clean or unbroken):
        return Incarnation(former.verifier, boot, clean=False)
    return Incarnation(random.bytes(8), boot, clean=False)


def is_unbroken(note: bytes | None, boot: bytes, keyspace: KeySpace) -> bool:
    """Whether a replica with this note, and this state, has everything that was ever written to it.

    It has if it was whole under this boot; or if it has the record of an opening under this boot: what was written before came before that, and what
    was written since is in the page cache.
    """
    if note == boot:
        return True
    former = stored_incarnation(keyspace)
    return note != BROKEN and former is not None and former.boot == boot


def refuse_older_store(newest: int, version: int) -> None:
    """Raises `Fenced` if a log was written under a newer configuration (`newest`) than the coordination store's newest."""
    if newest > version:
        raise Fenced(
            f"the volume was last written under configuration {newest}, and the coordination store knows {version} as its "
            "newest: the store is older than the volume (brought back from a backup?); bring the newer one back"
        )
