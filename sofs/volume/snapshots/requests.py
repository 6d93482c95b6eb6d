"""Requests about snapshots: MakeSnapshot, ListSnapshots, DeleteSnapshot, RestoreSnapshot."""

from collections.abc import Awaitable

from sofs.errors import Busy
from sofs.types import Lsn
from sofs.volume.api import AnyToken, DeleteSnapshot, ListSnapshots, MakeSnapshot, Reply, RestoreSnapshot, SnapshotList
from sofs.volume.batch import Batch
from sofs.volume.closing import end_open
from sofs.volume.core import Core


def make_snapshot(core: Core, request: MakeSnapshot, token: AnyToken | None) -> SnapshotList:
    snapshots = core.data.snapshots
    batch = Batch()
    now = core.clock.now()
    number = snapshots.add(batch, request.name, core.next_number, now)
    core.writable()
    gate = core.keys.commit(batch)
    reply = SnapshotList(gate, [snapshots.info(snapshots.get(number))])
    if token is not None:
        # In a batch of its own: a retry that comes between the two is told that there is such a snapshot already.
        told = Batch()
        core.tokens.store(told, token, reply)
        reply.gate = core.keys.commit(told)
    return reply


def list_snapshots(core: Core, request: ListSnapshots, token: AnyToken | None) -> SnapshotList:
    snapshots = core.data.snapshots
    log = core.keys.log
    gate = core.gate if log.stable >= log.end else Lsn(log.end - 1)
    return SnapshotList(gate, [snapshots.info(snapshot) for snapshot in snapshots.all()])


def delete_snapshot(core: Core, request: DeleteSnapshot, token: AnyToken | None) -> Reply:
    core.writable()
    core.await_room()
    gate = core.data.snapshots.delete(request.number)
    core.forget_past(request.number)
    core.orphaned()
    return Reply(gate)


def restore_snapshot(core: Core, request: RestoreSnapshot, token: AnyToken | None) -> Reply | Awaitable[Reply]:
    snapshots = core.data.snapshots
    snapshots.get(request.number)
    core.writable()
    if core.opens and not request.force:
        raise Busy(f"{len(core.opens)} files are open; close them, or restore with force, which ends their opens")
    core.await_room()
    for opened in list(core.opens.values()):
        if opened.id in core.opens:
            end_open(core, opened)
            core.ended(opened.id)
    told = Batch()
    if token is not None:
        core.tokens.store(told, token, Reply(Lsn(0)))
    snapshots.begin_restoration(request.number, core.next_number, core.clock.now(), told)
    core.orphaned()
    return restored(core)


async def restored(core: Core) -> Reply:
    """The answer to who has begun a restoration, or asks for it again. Whoever goes away leaves the rest to the background."""
    return Reply(await core.data.snapshots.restore(core.clock.now()))
