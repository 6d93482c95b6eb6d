"""One more replica for a volume that is served here: one that comes back, or a new one, on a disk of this node or of another.

A new replica on another node is made there: an empty log, and a copy of this node's checkpoint, which travels in slices when nothing else wants the
way. Then it follows, from the oldest position that the log has kept meanwhile, and counts once it lacks nothing (`sofs.log`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import structlog

from sofs.cluster import NodeId, Priority
from sofs.encoding import encode
from sofs.errors import SofsError, Unavailable
from sofs.hosting.asking import ask
from sofs.hosting.messages import Follow, MakeReplica, PutRecords
from sofs.hosting.part import Part
from sofs.hosting.site import Site
from sofs.log.configuration import Mark
from sofs.pool.members import DiskStatus
from sofs.records import ReplicaRecord
from sofs.runtime.ports import Records
from sofs.volume.rebuild import SENDING, add_replica
from sofs.volume.recovery import Store

log = structlog.get_logger("redundancy")

SLICE = 128 << 10
"""Bytes of records that travel at once."""
COPY_S = 30.0
"""For so long one step of making a replica may take over there."""

Stopping = Callable[[], bool]


async def readmit(site: Site, part: Part, store: Store, replica: int, stopping: Stopping) -> None:
    """Has a replica count again that follows on its node: it gets what it lacks. Raises `NotFound` (it is not there), `Unavailable`."""
    assert site.logs is not None
    node = part.node_of(replica)
    await site.logs.status(NodeId(node or 0), replica)
    remote = part.remote(replica, store.settings.log)
    log.info("redundancy.returning", volume=part.hosted.record.name, node=f"{node:016x}")
    store.log.join(remote)
    try:
        await store.log.promote(remote)
    except BaseException:
        store.log.leave(remote)
        raise
    log.info("redundancy.returned", volume=part.hosted.record.name, node=f"{node:016x}", replicas=store.log.replicas)


async def recruit(
    site: Site, part: Part, store: Store, replica: ReplicaRecord, disk: DiskStatus, awaited: Collection[int], stopping: Stopping
) -> None:
    """Makes a replica on a disk, and has it count. Of others that do not count the volume's record keeps those that are `awaited`.

    Raises `NoSpace`, `DiskFailed`, `Unavailable`; then all is as before, but for leftovers.
    """
    hosted = part.hosted
    stay = {*store.log.replica_ids, *awaited}
    # Recorded before it is made: a replica that counts must be found by the next start. One that the configuration does not name is left alone.
    hosted.record = await site.registry.change_replicas(
        hosted.record.id,
        (site.node, site.incarnation),
        lambda replicas, named: (*(each for each in replicas if each.id in stay or each.id in named), replica),
    )
    site.view.volumes[hosted.record.id] = hosted.record
    where = disk.path if disk.own else f"node {disk.host}"
    log.info("redundancy.adding", volume=hosted.record.name, at=where)
    if disk.own:
        place = part.mine.get(replica.id)
        if place is None:
            raise Unavailable(f"disk {disk.path} has gone meanwhile")
        await add_replica(store, place, site.boot, stopping)
    else:
        await _recruit_elsewhere(site, part, store, replica, stopping)
    log.info("redundancy.added", volume=hosted.record.name, at=where, replicas=store.log.replicas)


async def _recruit_elsewhere(site: Site, part: Part, store: Store, replica: ReplicaRecord, stopping: Stopping) -> None:
    volume, node = part.hosted.record.id, part.node_of(replica.id)
    if node is None:
        raise Unavailable(f"no record says which node has disk {replica.disk:016x}")
    await ask(site, node, MakeReplica(volume, replica.id, replica.disk), priority=Priority.REBUILD, deadline_s=COPY_S)
    hold, origin = await store.log.hold()
    try:
        await _send_records(site, store, node, volume, replica.id, stopping)
        follow = Follow(volume, replica.id, Mark(*origin))
        await ask(site, node, follow, priority=Priority.REBUILD, deadline_s=COPY_S)
        if hold.broken:
            raise Unavailable("the log could not keep for so long what the new replica needs")
        remote = part.remote(replica.id, store.settings.log)
        store.log.join(remote)
    finally:
        hold.release()
    try:
        await store.log.promote(remote)
    except BaseException:
        store.log.leave(remote)
        raise


async def _send_records(site: Site, store: Store, node: int, volume: int, replica: int, stopping: Stopping) -> None:
    """Sends a checkpoint: a copy of it, since the next ones go on being made meanwhile."""
    id, source = next(iter(store.checkpoints.records.items()))
    place = next(opened.place for opened in store.opened if opened.place.id == id)
    path = f"{place.path}/{SENDING}"
    _remove(site, path)
    async with store.checkpoints.still():
        await source.copy(path)
    try:
        records = site.files.records(path, store.settings.records_size)
        try:
            for slice in _slices(records):
                if stopping() or store.log.failure is not None:
                    raise Unavailable("the volume is being closed")
                question = PutRecords(volume, replica)
                await ask(site, node, question, [encode(slice)], priority=Priority.REBUILD, deadline_s=COPY_S)
        finally:
            records.close()
    finally:
        _remove(site, path)


def _slices(records: Records) -> Iterator[list[tuple[bytes, bytes]]]:
    slice: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in records.scan(b"\0", b"\xff" * 511):
        slice.append((key, value))
        size += len(key) + len(value) + 8
        if size >= SLICE:
            yield slice
            slice, size = [], 0
    if slice:
        yield slice


def _remove(site: Site, path: str) -> None:
    try:
        if site.files.exists(path):
            for name in site.files.list(path):
                site.files.remove(f"{path}/{name}")
            site.files.remove(path)
    except SofsError as error:
        log.warning("redundancy.not_removed", at=path, reason=str(error))
