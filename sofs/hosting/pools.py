"""The disks and pools, as this node has them: its own disks opened from their records, those of other nodes reached there; new ones made on
request, states recorded for the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from sofs.cluster import Interconnect
from sofs.coordination import keys
from sofs.errors import DiskRefused, InvalidArgument, SofsError, Unavailable
from sofs.hosting.view import View
from sofs.pool.label import Label
from sofs.pool.local_pool import GRACE_S, LocalPool
from sofs.pool.members import DiskSpec, DiskStatus
from sofs.pool.opening import label_at, make_disk, open_disk
from sofs.pool.service import DiskService
from sofs.pool.states import State
from sofs.pool.upkeep import Upkeep
from sofs.records import DiskRecord, PoolRecord, Registry, VolumeRecord
from sofs.runtime.ports import Clock, Files, Random
from sofs.types import DiskId
from sofs.volume.duties import begin
from sofs.volume.recovery import Place

log = structlog.get_logger("node")

_TROUBLE = (State.SUSPECT, State.MISSING, State.FAILED)
NOTE_S = 1.0
"""After a change of a disk's state, so that several are recorded at once."""


@dataclass
class Pools:
    """All of them. `host` is the fault domain of this node's disks."""

    host: str
    data_dir: Path
    registry: Registry
    view: View
    files: Files
    clock: Clock
    random: Random
    interconnect: Interconnect | None = None
    grace_s: float = GRACE_S
    """How long a disk may be missing before what lies on it is copied elsewhere."""
    all: dict[str, LocalPool] = field(default_factory=dict)
    upkeep: list[Upkeep] = field(default_factory=list)
    _noting: asyncio.Task[None] | None = None
    _closed: bool = False

    async def open(self) -> None:
        """Opens every pool that the view has. Raises `Unavailable` when another process has a disk."""
        if self.interconnect is not None:
            DiskService(self.interconnect, self.all, self.note_wanted)
        for name in self.view.pools:
            self._open(name)
        for pool in tuple(self.all.values()):
            await pool.hear()

    async def update(self) -> None:
        """Follows the view: pools that are new, disks that came or went, members that were evicted."""
        for name in self.view.pools:
            pool = self.all.get(name)
            if pool is None:
                self._open(name)
            else:
                await pool.update(self._specs(name))

    def _open(self, name: str) -> LocalPool:
        pool = self._pool(name)
        pool.open(self._specs(name))
        self._keep_up(pool)
        return pool

    def _pool(self, name: str) -> LocalPool:
        pool = self.all[name] = LocalPool(
            name, self.files, self.random, self._report, clock=self.clock, interconnect=self.interconnect, grace_s=self.grace_s
        )
        return pool

    def _report(self, event: str, /, **fields: object) -> None:
        """What pools tell of their disks; a new state of one is recorded in a moment."""
        log.log(logging.WARNING if fields.get("new") in _TROUBLE else logging.INFO, event, **fields)
        record = self.view.disks.get(int(str(fields["disk"]), 16)) if event == "disk state" else None
        if record is not None and self._own(record) and not self._closed and (self._noting is None or self._noting.done()):
            self._noting = begin(self._note_soon(), "noting disks")

    async def _note_soon(self) -> None:
        await self.clock.sleep(NOTE_S)
        try:
            await self.note_states()
        except SofsError as error:
            log.info("disks.not_noted", reason=str(error))  # the next change, or the next start, tries again

    async def close(self) -> None:
        """Ends what this does by itself; pools and upkeep are closed by whoever closes the rest."""
        self._closed = True
        if self._noting is not None:
            self._noting.cancel()
            await asyncio.gather(self._noting, return_exceptions=True)

    def _specs(self, pool: str) -> list[DiskSpec]:
        return [self._spec(disk) for disk in self.view.disks.values() if disk.pool == pool]

    def _spec(self, record: DiskRecord) -> DiskSpec:
        member = self.view.members.get(record.node)
        evicted = member is not None and member.state == "evicted"
        path = str(self.data_dir / record.path) if self._own(record) else record.path
        return DiskSpec(path, DiskId(record.id), record.tier, record.host, State(record.state), record.node, evicted)

    def _own(self, record: DiskRecord) -> bool:
        return self.interconnect is None or record.node in (0, self.interconnect.node)

    def _stored(self, path: str) -> str:
        inside = Path(path).is_relative_to(self.data_dir)
        return os.path.relpath(path, self.data_dir) if inside else path

    async def create(self, name: str) -> LocalPool:
        record = PoolRecord(name=name)
        await self.registry.put(keys.pool(name), record.encode(), what=f"pool {name}")
        self.view.pools[name] = record
        return self.all.get(name) or self._open(name)

    def _keep_up(self, pool: LocalPool) -> None:
        """Begins the pool's background duties: probing, scrubbing, giving space back."""
        upkeep = Upkeep(pool, self.clock)
        upkeep.start()
        self.upkeep.append(upkeep)

    async def add_disk(self, path: str, tier: str, pool_name: str, size: int, force: bool) -> DiskStatus:
        """Makes the directory a disk and takes it in; its pool is made if it is the first. Raises `DiskRefused`, ..."""
        if not os.path.isabs(path):
            raise InvalidArgument(f"{path}: name the disk by its absolute path")
        path = os.path.normpath(path)
        await self._refuse_known(path)
        pool = self.all.get(pool_name) or await self.create(pool_name)
        label = (None if force else await self._left_behind(path, tier, pool_name)) or make_disk(
            self.files, self.random, path, pool=pool_name, tier=tier, host=self.host, capacity=size or None, force=force
        )
        node = 0 if self.interconnect is None else self.interconnect.node
        record = DiskRecord(id=label.id, path=self._stored(path), tier=tier, pool=pool_name, host=self.host, node=node)
        await self.registry.put(keys.disk(label.id), record.encode(), what=f"disk {label.id:016x}")
        self.view.disks[label.id] = record
        if not any(status.id == label.id for status in pool.disks()):  # the watch may have been faster
            pool.members.add(path)
        return next(status for status in pool.disks() if status.id == label.id)

    async def _refuse_known(self, path: str) -> None:
        """Raises `DiskRefused` for a disk that the cluster has: whoever made it anew would lose what is on it."""
        id = label_at(self.files, path)
        record = next((record for record in await self.registry.disks() if record.id == id), None)
        if record is None:
            return
        member = self.view.members.get(record.node)
        at = str(self.data_dir / record.path) if self._own(record) else f"{record.path} of node {member.name if member else f'{record.node:016x}'}"
        raise DiskRefused(
            f"{path} is disk {record.id:016x}, which belongs at {at}: bring it back there, or give up what is on it first: sofs disk remove {record.id:016x}"
        )

    async def _left_behind(self, path: str, tier: str, pool: str) -> Label | None:
        """The label of a disk in our data directory that was made before, just as asked, when the node ended before it was recorded."""
        if not (Path(path).is_relative_to(self.data_dir) and self.files.exists(f"{path}/label")):
            return None
        try:
            disk = open_disk(self.files, path, pool=pool, note=lambda event, slot: None)
        except SofsError:
            return None  # whatever it is, it is refused as any other directory that holds something
        try:
            label = disk.label
            known = {record.id for record in await self.registry.disks()}
            ours = disk.empty and label.id not in known and (label.tier, label.host) == (tier, self.host)
            return label if ours else None
        finally:
            disk.release()

    async def note_states(self) -> None:
        """Records the states of disks as they are now, for the next start."""
        for record in await self.registry.disks():
            pool = self.all.get(record.pool)
            for status in pool.disks() if pool else []:
                # What the operator wanted outlasts trouble with the disk.
                wanted = record.state in (State.DRAINING, State.RETIRED) and status.state in (State.MISSING, State.FAILED)
                if status.own and status.id == record.id and status.state != record.state and not wanted:
                    await self.registry.note_disk_state(record.id, str(status.state))

    async def note_wanted(self) -> None:
        """Records what an operator wants of a disk, who is answered then. Raises `Unavailable`."""
        try:
            await self.note_states()
        except Unavailable as error:
            raise Unavailable(f"it is done, but will be forgotten if the node ends before it can be recorded: {error}") from None

    def places(self, record: VolumeRecord) -> list[Place]:
        """Where the replicas of a volume's log lie on this node's disks: beside their arenas."""
        pool = self.all.get(record.pool)
        if pool is None:
            return []
        own = [replica for replica in record.replicas if pool.members.is_own(DiskId(replica.disk))]
        return [Place(each.id, f"{pool.members.get(DiskId(each.disk)).spec.path}/logs/{record.id:016x}-{each.id:016x}") for each in own]
