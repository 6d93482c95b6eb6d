"""Giving an open volume one more replica, in the place of one that was lost.

The new one is written to from a moment on, like the others, but does not count. What lies before that moment is copied at
leisure: the log's segments, then the records. When it lacks nothing and all of it is durable, the
configuration is changed to name it. A crash on the way leaves a directory that nothing names.
"""

from collections.abc import Callable

from sofs.errors import ExtentGone, Unavailable
from sofs.log.replica import FIRST, LocalReplica
from sofs.log.replicated import ReplicatedLog
from sofs.runtime.ports import Clock, Files
from sofs.types import Lsn
from sofs.volume.memory import INCOMPLETE, note_whole
from sofs.volume.recovery import Opened, Place, Store

SENDING = "sending"
"""A copy of the records beside a replica, while it travels to another node."""

_PIECE = 256 << 10
_SYNC_EVERY = 16 << 20
"""Bytes copied between two syncs: more at once would hold up the syncs that clients wait for."""


async def add_replica(store: Store, place: Place, boot: bytes, stopping: Callable[[], bool] = lambda: False) -> None:
    """Makes a replica at `place`, an empty or absent directory, and has it count. The volume goes on meanwhile.

    Raises `NoSpace`, `DiskFailed`, `Unavailable` (also once `stopping` says so); then the volume is as it was before. One at a time, and
    never to be cancelled: who counts must not stay open. `boot` identifies this boot of the host.
    """
    files, log, checkpoints = store.files, store.log, store.checkpoints
    files.make_directory(f"{place.path}/log")
    note_whole(files, place.path, INCOMPLETE)
    lock = files.lock(f"{place.path}/lock")
    replica = LocalReplica(files, f"{place.path}/log", store.log_id, place.id, store.settings.log.segment_size)
    try:
        before = log.join(replica)
        await _copy_log(store.clock, log, replica, before, stopping)
        # No checkpoint while the records are copied: a copied checkpoint must not be overtaken before the copy gets those to come.
        async with checkpoints.still():
            await next(iter(checkpoints.records.values())).copy(f"{place.path}/records")
            files.sync_directory(place.path)
            files.sync_directory(place.path.rpartition("/")[0] or "/")
            records = files.records(f"{place.path}/records", store.settings.records_size)
            try:
                await replica.sync()
                # It lacks nothing, and must not pass for incomplete once it counts.
                note_whole(files, place.path, boot)
                await log.promote(replica)
            except BaseException:
                records.close()
                raise
            checkpoints.records[place.id] = records
            store.opened.append(Opened(place, lock, replica, records, checkpoints.done))
    except BaseException:
        log.leave(replica)
        replica.close()
        lock.close()
        raise


def remove_replica(files: Files, place: Place) -> None:
    """Removes what is left of a replica that no configuration names. Raises `Unavailable` while somebody has it open, `DiskFailed`."""
    lock = files.lock(f"{place.path}/lock")
    for part in ("log", "records", SENDING):
        if files.exists(f"{place.path}/{part}"):
            for name in files.list(f"{place.path}/{part}"):
                files.remove(f"{place.path}/{part}/{name}")
            files.remove(f"{place.path}/{part}")
    for name in files.list(place.path):
        if name != "lock":
            files.remove(f"{place.path}/{name}")
    files.remove(f"{place.path}/lock")
    files.remove(place.path)
    lock.close()


async def _copy_log(clock: Clock, log: ReplicatedLog, replica: LocalReplica, before: Lsn, stopping: Callable[[], bool]) -> None:
    """Copies what is kept of the log before a position."""
    size = replica.segment_size
    buffer = memoryview(bytearray(_PIECE))
    unsynced = 0
    for index in range(log.start // size, -(-before // size)):
        at = index * size + FIRST
        end = min((index + 1) * size, before)
        while at < end and at >= log.start:
            if stopping():
                raise Unavailable("the volume is being closed")
            piece = buffer[: min(_PIECE, end - at)]
            try:
                waiting = log.read(at, piece)
                if waiting is not None:
                    await waiting
            except ExtentGone:
                break
            if at < log.start:
                break  # trimmed meanwhile
            replica.write(at, [piece])
            at += len(piece)
            unsynced += len(piece)
            if unsynced >= _SYNC_EVERY:
                await replica.sync()
                unsynced = 0
            await clock.sleep(0)
