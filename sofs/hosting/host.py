"""All that one node hosts: its pools, and every volume of the cluster as this node has it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from sofs.cluster import Interconnect
from sofs.config import Config
from sofs.coordination import keys
from sofs.errors import InvalidArgument, NotFound, SofsError
from sofs.hosting.asking import ask
from sofs.hosting.describing import describe
from sofs.hosting.hosted import SYSTEM, Hosted
from sofs.hosting.making import make_volume_here
from sofs.hosting.messages import Described, Move
from sofs.hosting.moving import find_node, hand_over, hand_over_all, step_back
from sofs.hosting.part import Part
from sofs.hosting.pools import Pools
from sofs.hosting.redundancy import Redundancy
from sofs.hosting.services import HostingService
from sofs.hosting.site import Site
from sofs.hosting.view import View
from sofs.log.service import LogService
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskStatus
from sofs.records import Registry, VolumeRecord
from sofs.runtime.ports import Clock, Files, Random
from sofs.types import VolumeId
from sofs.volume.api import Volume
from sofs.volume.duties import begin
from sofs.volume.recovery import Place
from sofs.volume.security import Identities
from sofs.volume.volume import LocalVolume
from sofs.volume.where import Whereabouts

log = structlog.get_logger("node")

KNOWN_TRIES, KNOWN_AGAIN_S = 20, 0.1
"""How long the other nodes are given to hear of a new volume, before they are asked for replicas in the course of things."""
MOVE_S = 30.0
"""For so long whoever asks another node to hand a volume over waits."""


@dataclass
class Host:
    """All of them. `name` is this host's, the fault domain of its disks. Made on a running loop.

    With an `interconnect` it is a node of a cluster; without one it is alone, and every replica of its volumes lies here.
    """

    name: str
    data_dir: Path
    config: Config
    registry: Registry
    files: Files
    clock: Clock
    random: Random
    identities: Identities
    boot: bytes
    """Identifies this boot of the host: what was written under it, and not synced, is still in the page cache."""
    interconnect: Interconnect | None = None
    view: View = field(init=False)
    disks: Pools = field(init=False)
    site: Site = field(init=False)
    redundancy: Redundancy = field(init=False)
    parts: dict[int, Part] = field(default_factory=dict)
    """By the volume's id, whatever this node is for it."""
    on_failure: Callable[[LocalVolume], None] | None = None
    """Called once for a volume of a single node that fails: requests that it was asked may never be answered."""
    on_volume: Callable[[Whereabouts], None] | None = None
    """Called for each volume that there is, once it is known."""

    routes: Callable[[VolumeId], Volume | None] | None = None
    """Finds a volume wherever it is served; without it only those that are served here."""

    def __post_init__(self) -> None:
        self.view = View(self.registry)
        self.disks = Pools(
            self.name,
            self.data_dir,
            self.registry,
            self.view,
            self.files,
            self.clock,
            self.random,
            self.interconnect,
            self.config.volume.missing_grace_s,
        )
        logs = None if self.interconnect is None else LogService(self.interconnect)
        self.site = Site(
            self.name,
            self.config,
            self.registry,
            self.view,
            self.disks,
            self.files,
            self.clock,
            self.random,
            self.identities,
            self.boot,
            self.interconnect,
            logs,
            self._failed,
        )
        self._service = None if self.interconnect is None else HostingService(self.site, self)
        self.redundancy = Redundancy(self)
        if self.interconnect is not None:  # alone, nothing comes back so soon
            self.site.lacking = self.redundancy.wake
        self._system: Whereabouts | None = None
        self._pools_changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @property
    def pools(self) -> dict[str, LocalPool]:
        return self.disks.all

    @property
    def volumes(self) -> dict[int, Hosted]:
        return {id: part.hosted for id, part in self.parts.items()}

    # Start and end

    async def open(self) -> None:
        """Open every pool and volume in the records. Raises `Unavailable` when another process has a disk, or the store does not answer."""
        await self.view.open()
        await self.disks.open()
        for record in sorted(self.view.volumes.values(), key=lambda volume: volume.name):
            part = self._add(Part(self.site, Hosted.of(record)))
            if self.interconnect is not None:
                continue  # a takeover may have to wait for others, or for the store: this node does not
            await part.step()
            if part.reason:
                log.error("volume.failed", volume=record.name, reason=part.reason)
        await self.note_states()
        self.view.on_change(self._changed)
        if self.interconnect is not None:
            self._following = begin(self._follow_pools(), "following disks")
            for part in self.parts.values():
                part.start()
            self._changed(keys.VOLUMES, tuple(self.view.volumes))  # what came while they were opened
        self.redundancy.start()

    async def close(self) -> None:
        """Hand volumes over that others can take, close the others, then pools; each even if others fail. The first failure is raised at the end."""
        closing: list[Callable[[], Awaitable[object]]] = [self.redundancy.close]
        if self.interconnect is not None:
            closing += [self.hand_over_all, self._step_back]
        closing.append(self.view.close)
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        closing += [part.close for part in self.parts.values()]
        closing += [upkeep.close for upkeep in self.disks.upkeep]
        closing.append(self.disks.close)
        closing += [pool.close for pool in self.pools.values()]
        failures: list[Exception] = []
        for close in closing:
            try:
                await close()
            except Exception as error:
                log.error(
                    "host.close_failed",
                    part=type(getattr(close, "__self__", self)).__name__,
                    reason=str(error),
                    exc_info=not isinstance(error, SofsError),
                )
                failures.append(error)
        if self._service is not None:
            self._service.close()
        if failures:
            raise failures[0]

    def _add(self, part: Part) -> Part:
        id = VolumeId(part.hosted.record.id)
        self.parts[id] = part
        if part.hosted.is_system:
            self._system = part.hosted.where
        part.hosted.find = lambda: (self.routes or self.volume)(id)
        if self.on_volume is not None:
            self.on_volume(part.hosted.where)
        return part

    def _failed(self, volume: LocalVolume) -> None:
        if self.on_failure is not None:
            self.on_failure(volume)

    def _changed(self, prefix: str, ids: Collection[int]) -> None:
        """The coordination store says something new."""
        if prefix == keys.VOLUMES:
            self._take_records(ids)
        if prefix in (keys.POOLS, keys.DISKS, keys.MEMBERS):
            self._pools_changed.set()
            self.site.lacking()
        if prefix == keys.DEAD and (ended := self.view.ended(ids)):
            for part in self.parts.values():
                part.ended(ended)
        for part in self._concerned(prefix, ids):
            part.wake()

    def _concerned(self, prefix: str, ids: Collection[int]) -> list[Part]:
        """The volumes for which a change may be news: there may be thousands."""
        if prefix == keys.VOLUMES:
            return [self.parts[id] for id in ids if id in self.parts]
        if prefix == keys.DEAD:
            led = {id for id, configuration in self.view.configurations.items() if configuration.coordinator in ids}
            return [part for id, part in self.parts.items() if id in led]
        return [] if prefix == keys.NODES else list(self.parts.values())

    def _take_records(self, ids: Collection[int]) -> None:
        for id in ids:
            record, part = self.view.volumes.get(id), self.parts.get(id)
            if record is None:
                continue
            if part is not None:
                part.hosted.record = record
            elif self.interconnect is not None and id in self.view.configurations and id not in self.site.making:
                self._add(Part(self.site, Hosted.of(record))).start()

    async def _follow_pools(self) -> None:
        while True:
            await self._pools_changed.wait()
            self._pools_changed.clear()
            try:
                await self.disks.update()
            except SofsError as error:
                log.warning("pools.not_updated", reason=str(error))
            for part in self.parts.values():
                part.wake()

    # Volumes

    def where(self, volume: VolumeId) -> Whereabouts | None:
        """Where a volume is served; None if there is no such volume."""
        part = self.parts.get(volume)
        return None if part is None else part.hosted.where

    def volume(self, id: VolumeId) -> LocalVolume | None:
        """The volume, if it is served here."""
        part = self.parts.get(id)
        return part.hosted.volume if part else None

    def named(self, name: str) -> Hosted:
        """A volume that shares can be made of. Raises `NotFound`."""
        for part in self.parts.values():
            if part.hosted.record.name == name and not part.hosted.is_system:
                return part.hosted
        raise NotFound(f"there is no volume {name}; `sofs volume list` shows all")

    @property
    def system_where(self) -> Whereabouts | None:
        """Where the system volume is served, once there is one."""
        return self._system

    def system(self) -> LocalVolume | None:
        """The system volume, if it is served here."""
        where = self.system_where
        return None if where is None else where.local

    async def create_volume(self, name: str, pool_name: str, policy_text: str, force: bool) -> Hosted:
        """Make, record and open a volume. Raises `Exists`, `NotFound` (the pool), `InvalidArgument` (the policy)."""
        if name == SYSTEM:
            raise InvalidArgument(f"the name {SYSTEM} is the node's own volume's")
        return await self._create(name, pool_name, policy_text, force)

    async def _create(self, name: str, pool_name: str, policy_text: str, force: bool) -> Hosted:
        part = await make_volume_here(self.site, name, pool_name, policy_text, force)
        self._add(part)
        self.site.making.discard(part.hosted.record.id)
        if self.interconnect is not None:
            part.start()
            for _ in range(KNOWN_TRIES):
                await self.redundancy.provide(part)  # the replicas that belong on other nodes
                if not self.redundancy.lacks(part):
                    break
                await self.clock.sleep(KNOWN_AGAIN_S)  # they may not have heard of the volume yet
        return part.hosted

    async def ensure_system(self) -> None:
        """Make the system volume if there is none, as safe as the safest of the others. Without any there is nothing to keep records for."""
        others = [part.hosted for part in self.parts.values() if part.hosted.volume is not None]
        if not others or any(part.hosted.is_system for part in self.parts.values()):
            return
        model = max(others, key=lambda hosted: hosted.policy.tolerates).record
        try:
            await self._create(SYSTEM, model.pool, model.policy, force=True)
        except SofsError as error:
            log.warning("system_volume.not_made", reason=str(error))

    def describe(self, volume: int) -> Described:
        """How a volume is, as its coordinator sees it. Raises `Unavailable` if that is not this node."""
        return describe(self.site, self.parts.get(volume))

    # Moving

    async def hand_over(self, volume: int, node: int) -> None:
        """Have another node coordinate a volume that is served here."""
        part = self.parts.get(volume)
        if part is None:
            raise NotFound(f"there is no volume {volume:016x}")
        await hand_over(self.site, part, node)

    async def move(self, name: str, node_name: str) -> None:
        """Have the node of this name coordinate the volume of this name, whoever does now. Raises `NotFound`, `InvalidArgument`, `Unavailable`."""
        hosted, node = self.named(name), find_node(self.site, node_name)
        coordinator = hosted.where.coordinator.node
        if coordinator == node:
            return
        if coordinator == self.site.node:
            await self.hand_over(hosted.record.id, node)
        else:
            await ask(self.site, coordinator, Move(hosted.record.id, node), deadline_s=MOVE_S)

    async def hand_over_all(self) -> list[str]:
        """Before this node stops, or is drained: others take what they can. Gives the names of volumes that stay."""
        return await hand_over_all(self.site, tuple(self.parts.values()))

    async def _step_back(self) -> None:
        await asyncio.gather(*[step_back(self.site, part) for part in self.parts.values() if not part.serving])

    # Disks and pools

    async def create_pool(self, name: str) -> LocalPool:
        return await self.disks.create(name)

    async def add_disk(self, path: str, tier: str, pool_name: str, size: int, force: bool) -> DiskStatus:
        """As `Pools.add_disk`."""
        return await self.disks.add_disk(path, tier, pool_name, size, force)

    async def note_states(self) -> None:
        await self.disks.note_states()

    def places(self, record: VolumeRecord) -> list[Place]:
        return self.disks.places(record)
