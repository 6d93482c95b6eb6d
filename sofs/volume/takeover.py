"""A standby becomes the coordinator's foundation: its key space and log go on where they are, and the other replicas are brought to it.

The configuration that names this node is in force already, and the follower stands aside (`sofs.log.follower.Follower.stand` came before the
compare-and-set). From here on this replica's log is the truth. The volume's incarnation, with the verifier that clients see, changes
only if its memory was broken: then something that was acknowledged, and not stable, may be missing.
"""

import asyncio
from collections.abc import Sequence

import structlog

from sofs.log.configuration import Configuration
from sofs.log.follower import Lead
from sofs.log.remote import RemoteReplica
from sofs.log.replicated import ReplicatedLog
from sofs.runtime.ports import Clock, Files, Random
from sofs.volume.checkpoint import Checkpoints
from sofs.volume.recovery import Change, Store, StoreSettings, let_go, next_incarnation, note, stored_incarnation, write_incarnation
from sofs.volume.standby import Standby


async def take_over(
    files: Files,
    clock: Clock,
    random: Random,
    standby: Standby,
    remotes: Sequence[RemoteReplica],
    configuration: Configuration,
    change: Change,
    *,
    log_id: int,
    boot: bytes,
    unbroken: bool,
    settings: StoreSettings,
) -> Store:
    """Gives the volume's foundation when every replica that still counts has this log, and has promised; all of it is stable then.

    Raises `Fenced` (another configuration is in force), `DiskFailed`, `Unavailable`; then everything has been let go of.
    """
    store: Store | None = None
    try:
        lead = standby.follower.retire()
        await standby.stop()
        store = _founded(
            files, clock, random, standby, lead, remotes, configuration, change, log_id=log_id, boot=boot, unbroken=unbroken, settings=settings
        )
        log = store.log
        await log.establish()
        write_incarnation(store.keyspace, log, store.incarnation)
        await log.sync()
        note(files, standby.opened.place, boot)
    except (Exception, asyncio.CancelledError):
        if store is not None:
            await store.abandon()
        else:
            let_go(standby.opened)
        raise
    structlog.get_logger(component="volume").info(
        "taken_over", place=standby.opened.place.path, version=log.version, replicas=log.replicas, lost=store.lost
    )
    return store


def _founded(
    files: Files,
    clock: Clock,
    random: Random,
    standby: Standby,
    lead: Lead,
    remotes: Sequence[RemoteReplica],
    configuration: Configuration,
    change: Change,
    *,
    log_id: int,
    boot: bytes,
    unbroken: bool,
    settings: StoreSettings,
) -> Store:
    keyspace, opened = standby.keyspace, standby.opened
    former = stored_incarnation(keyspace)
    incarnation = next_incarnation(former, boot, unbroken, random)
    lost = former is not None and former.verifier != incarnation.verifier
    log = ReplicatedLog(clock, keyspace, [lead.replica], configuration, change, lead.end, lead.stable, settings.log, remotes=remotes)
    keyspace.attach(log)
    checkpoints = Checkpoints(clock, keyspace, log, {opened.place.id: opened.records}, standby.checkpoints.done, settings.checkpoint)
    log.on_lost = checkpoints.lost
    return Store(keyspace, log, checkpoints, incarnation, standby.replayed, [opened], files, clock, log_id, settings, lost)
