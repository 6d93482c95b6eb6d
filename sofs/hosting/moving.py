"""Planned moves: a volume is handed over to a standby that has everything, and goes on there.

The pause is short because nothing is left to do when it begins: the checkpoint is fresh (so the former coordinator follows again at once), and the
standby's key space is as far as the log. Whoever was answered finds everything at the next coordinator: what was open is recorded first, and all
that was acknowledged becomes stable before the configuration changes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

import structlog

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.records import named
from sofs.errors import Fenced, InvalidArgument, SofsError, Unavailable
from sofs.hosting.asking import ask
from sofs.hosting.messages import Leave
from sofs.hosting.part import Part
from sofs.hosting.site import Site
from sofs.log.configuration import Configuration
from sofs.volume.recovery import Store
from sofs.volume.where import Coordinator

log = structlog.get_logger("node")

CHECKPOINT_S = 10.0
"""The checkpoint before a move is given so long, while the volume is still served."""
STEP_BACK_S = 2.0
"""A node that stops spends at most so long on each question to others."""


def targets(site: Site, part: Part) -> dict[int, int]:
    """Nodes that could take a volume on which is served here, with the replica that each has: in step, connected, not being drained."""
    store = part.hosted.store
    found: dict[int, int] = {}
    if store is None or not part.serving or site.interconnect is None:
        return found
    for remote in store.log.remotes.counted:
        node = part.node_of(remote.id)
        member = site.view.members.get(node or 0)
        running = site.view.running.get(node or 0)
        active = member is not None and member.state == "active" and (running is None or running.state == "running")
        if node and node != site.node and active and remote.acknowledged >= store.log.stable:
            found[node] = remote.id
    return found


async def hand_over(site: Site, part: Part, node: int) -> None:
    """Has another node coordinate the volume. Raises `InvalidArgument` (it has no copy that is in step), `Unavailable`; then it is served here as
    before, unless it was lost in the middle of it.
    """
    hosted, store = part.hosted, part.hosted.store
    if store is None or not part.serving:
        raise Unavailable(f"volume {hosted.record.name} is not served by this node")
    replica = targets(site, part).get(node)
    if replica is None:
        raise InvalidArgument(f"node {node:016x} has no copy of volume {hosted.record.name} that is in step, or is not active")
    began = site.clock.monotonic()
    # Once it has begun it waits for the store, and so do all clients: not if that is away already.
    await site.registry.configuration(hosted.record.id)
    await _checkpoint(site, part, store)
    assert site.interconnect is not None
    incarnation = site.interconnect.peer(NodeId(node)).incarnation
    if not incarnation:
        raise Unavailable(f"node {node:016x} is not connected")
    # The log notes version and replicas itself; this says who is next, and which copy must count. It is not to be cancelled, whoever asked for it.
    await asyncio.shield(asyncio.ensure_future(_change_places(site, part, store, Configuration(0, (replica,), False, node, incarnation))))
    log.info("volume.handed_over", volume=hosted.record.name, to=f"{node:016x}", took_s=round(site.clock.monotonic() - began, 3))


async def _checkpoint(site: Site, part: Part, store: Store) -> None:
    """Makes a fresh one, so that little is left to be read when this node follows. Raises `Unavailable` if it takes long: it waits for all copies, and
    for the coordination store if one of them is lost.
    """
    making = asyncio.ensure_future(store.checkpoints.run_once())
    try:
        async with asyncio.timeout(CHECKPOINT_S):
            await asyncio.shield(making)
    except TimeoutError:
        raise Unavailable(f"not all copies of the log of volume {part.hosted.record.name} are in step: it stays where it is") from None


async def _change_places(site: Site, part: Part, store: Store, next: Configuration) -> None:
    """The pause: from the last request that is answered here until another node is named."""
    hosted = part.hosted
    async with part.turn:
        # While the store is away, or this node is cut off from it, the volume could not be handed over, only be stopped.
        await site.registry.configuration(hosted.record.id)
        volume = hosted.volume
        if volume is None or hosted.store is not store or not part.serving:
            raise Unavailable(f"volume {hosted.record.name} is not served by this node any more")
        paused = site.clock.monotonic()
        hosted.where.served(None)
        try:
            volume.keep_all()
            await site.clock.sleep(0)
            await store.log.hand_over(next)
        except Exception as error:
            if not volume.failed:
                volume.go_on()
                hosted.where.served(volume)
                raise
            # What was not acknowledged yet never is.
            site.failed(volume)
            await part.leave(store.log.failure or Unavailable(str(error)))
            raise Unavailable(f"volume {hosted.record.name} was lost while it was handed over: {error}") from None
        hosted.where.moved(Coordinator(NodeId(next.coordinator), Incarnation(next.incarnation), store.log.version))
        log.info("volume.changes_places", volume=hosted.record.name, paused_s=round(site.clock.monotonic() - paused, 3))
        await part.leave(Fenced("handed over"))


async def hand_over_all(site: Site, parts: Iterable[Part]) -> list[str]:
    """Hands every volume over that can be, spread over the nodes; gives the names of those that stay."""
    load = coordinators(site)
    stay: list[str] = []

    async def one(part: Part) -> None:
        options = targets(site, part)
        if not options:
            stay.append(part.hosted.record.name)
            return
        node = min(options, key=lambda node: (load[node], node))
        load[node] += 1
        try:
            await hand_over(site, part, node)
        except SofsError as error:
            log.warning("volume.not_handed_over", volume=part.hosted.record.name, reason=str(error))
            stay.append(part.hosted.record.name)

    await asyncio.gather(*[one(part) for part in parts if part.serving])
    return stay


async def step_back(site: Site, part: Part) -> None:
    """Before this node stops: has the coordinators of what it follows leave its copies out, so that nobody waits for them."""
    deadline = site.clock.monotonic() + STEP_BACK_S
    while not _followed(part):
        # It has just been handed over: the next coordinator should have a second copy until it serves.
        if site.clock.monotonic() >= deadline or part.serving:
            break
        await site.clock.sleep(0.02)
    configuration = part.configuration
    if configuration is None or part.serving:
        return
    for id in tuple(part.standbys):
        if id in configuration.replicas and configuration.coordinator not in (0, site.node):
            try:
                await ask(site, configuration.coordinator, Leave(part.hosted.record.id, id), deadline_s=STEP_BACK_S)
            except SofsError as error:
                log.info("replica.not_left_out", volume=part.hosted.record.name, reason=str(error))


def _followed(part: Part) -> bool:
    """Whether all copies here that can have been heard of by their coordinator."""
    heard = [standby.follower.heard_at > 0 for standby in part.standbys.values()]
    return all(heard) and len(heard) + len(part.problems) >= len(part.mine)


def coordinators(site: Site) -> Counter[int]:
    """How many volumes each active member coordinates, as far as is known here."""
    counts = Counter({id: 0 for id, member in site.view.members.items() if member.state == "active"})
    for volume, configuration in site.view.configurations.items():
        if volume in site.view.volumes:
            counts[configuration.coordinator] += 1
    return counts


def imbalance(site: Site, parts: Mapping[int, Part]) -> tuple[Part, int] | None:
    """A volume that another node should rather coordinate, and which: one with at least two fewer. None: all is well."""
    counts = coordinators(site)
    best: tuple[int, int, Part, int] | None = None
    for id in sorted(parts):
        part = parts[id]
        for node in targets(site, part):
            if counts[node] + 2 <= counts[site.node] and (best is None or (counts[node], node) < best[:2]):
                best = counts[node], node, part, node
    return None if best is None else (best[2], best[3])


def find_node(site: Site, name: str) -> int:
    """The member with this name, or id in hexadecimal. Raises `NotFound`, `Busy` (a name that two have)."""
    return named(site.view.members.values(), name).id
