"""What this node asks of others about volumes (`messages`), each question with its deadline."""

from __future__ import annotations

import asyncio

from sofs.cluster import Answer, NodeId, Priority
from sofs.encoding import encode
from sofs.errors import SofsError, Unavailable
from sofs.hosting.hosted import Hosted
from sofs.hosting.messages import SERVICE, Checkpoint, Message
from sofs.hosting.site import Site
from sofs.runtime.ports import Buffer
from sofs.types import Lsn
from sofs.volume.recovery import Store

CHECKPOINT_S = 60.0


async def ask(
    site: Site, node: int, message: Message, payload: list[Buffer] | None = None, *, priority: Priority = Priority.FOREGROUND, deadline_s: float = 5.0
) -> Answer:
    """Raises `Unavailable`, and what the other node raises."""
    if site.interconnect is None:
        raise Unavailable("this node is not part of a cluster")
    peer = site.interconnect.peer(NodeId(node))
    return await peer.call(SERVICE, encode(message), payload or (), priority=priority, deadline_s=deadline_s)


def node_of(site: Site, hosted: Hosted, replica: int) -> int | None:
    """The node on whose disk a replica lies, if there are records that say so."""
    disk = next((each.disk for each in hosted.record.replicas if each.id == replica), None)
    found = None if disk is None else site.view.disks.get(disk)
    return None if found is None else found.node or site.node


async def ask_checkpoints(site: Site, hosted: Hosted, store: Store, lsn: Lsn) -> None:
    """Completes when the checkpoints of the copies on other nodes have come to a position. One that does not answer is no reason to fail: what it
    may still need is kept, and if it is gone the log leaves it out.
    """
    questions = [
        ask(
            site,
            node_of(site, hosted, remote.id) or 0,
            Checkpoint(hosted.record.id, remote.id, lsn),
            priority=Priority.REBUILD,
            deadline_s=CHECKPOINT_S,
        )
        for remote in store.log.remotes
        if remote.checkpointed < lsn
    ]
    for outcome in await asyncio.gather(*questions, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, SofsError):
            raise outcome
    # What they said comes with their next answer to the log, half a second later if nothing else happens.
    for _ in range(20):
        if all(remote.checkpointed >= lsn for remote in store.log.remotes.counted):
            return
        await site.clock.sleep(0.05)
