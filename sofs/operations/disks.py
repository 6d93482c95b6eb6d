"""What is asked about disks: all of them, a new one of this node, and emptying or removing one of any node."""

from __future__ import annotations

import re

from sofs.admin import api
from sofs.assembly import Assembly
from sofs.cluster import NodeId
from sofs.coordination import keys
from sofs.errors import Busy, InvalidArgument, NotFound
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskStatus
from sofs.pool.states import State
from sofs.types import DiskId

GONE = (State.RETIRED, State.FAILED, State.MISSING)
"""Disks on which nothing can be, or nothing that can be read."""


class Disks:
    """A node's, and through it all others'."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._host = assembly.host

    async def all(self) -> list[api.Disk]:
        return [self._shown(status, pool.name) for pool in self._host.pools.values() for status in pool.disks()]

    async def add(self, request: api.NewDisk) -> api.Disk:
        """Takes in a disk of this node. Raises as `Pools.add_disk`."""
        added = await self._host.add_disk(request.path, request.tier, request.pool, request.size, request.force)
        return self._shown(added, request.pool)

    async def drain(self, request: api.DrainDisk) -> api.Disk:
        """Has a disk emptied, or no longer. Raises `NotFound`, `InvalidArgument` (not in this state), `Unavailable` (its node is away)."""
        pool, status = self._named(request.disk)
        await pool.drain(status.id, request.on)
        return self._shown(self._named(request.disk)[1], pool.name)

    async def remove(self, name: str) -> None:
        """Forgets a disk that is retired, failed or missing. Raises `NotFound`, `InvalidArgument`, `Busy` (a log lies there)."""
        _, status = self._named(name)
        if status.state not in GONE:
            raise InvalidArgument(f"disk {name} is {status.state}: drain it first, with: sofs disk drain {name}")
        for hosted in self._host.volumes.values():
            if any(replica.disk == status.id for replica in hosted.record.replicas):
                raise Busy(f"disk {name} has a copy of the log of volume {hosted.record.name}, which has not been made elsewhere yet")
        await self._host.registry.delete(keys.disk(status.id), f"disk {name}")

    def _named(self, name: str) -> tuple[LocalPool, DiskStatus]:
        if re.fullmatch("[0-9a-f]{1,16}", name) is None:
            raise InvalidArgument(f"{name} is no disk's id; `sofs disk list` shows them")
        id = DiskId(int(name, 16))
        for pool in self._host.pools.values():
            for status in pool.disks():
                if status.id == id:
                    return pool, status
        raise NotFound(f"there is no disk {name}; `sofs disk list` shows all")

    def _shown(self, status: DiskStatus, pool: str) -> api.Disk:
        membership = self._assembly.membership
        member = None if membership is None else membership.members.get(NodeId(status.node))
        return api.Disk(
            id=f"{status.id:016x}",
            path=status.path,
            tier=status.tier,
            pool=pool,
            state=str(status.state),
            total=status.usage.total,
            free=status.usage.free,
            node=self._host.name if status.own else f"{status.node:016x}" if member is None else member.name,
            reason=status.reason,
        )
