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
        """Has a disk emptied, or no longer, also after the next start. Raises `NotFound`, `InvalidArgument` (not in this state), `Unavailable` (its
        node is away, or that cannot be recorded)."""
        pool, status = self._named(request.disk)
        await pool.drain(status.id, request.on)
        if status.own:
            await self._host.disks.note_wanted()
        return self._shown(self._named(request.disk)[1], pool.name)

    async def remove(self, request: api.RemoveDisk) -> None:
        """Forgets a disk that is retired, failed or missing. Raises `NotFound`, `InvalidArgument`, `Busy` (a log lies there).

        A disk that is missing because its node does not answer comes back with that node, and may have what no other has: that its process has ended
        says nothing about its data. Only an eviction, or `force`, says that they are lost.
        """
        name = request.disk
        pool, status = self._named(name)
        if status.state is State.MISSING:
            await pool.hear()
            status = self._named(name)[1]
        if status.state not in GONE:
            raise InvalidArgument(f"disk {name} is {status.state}: drain it first, with: sofs disk drain {name}")
        if status.state is State.MISSING and not (status.own or pool.hears(status.node) or request.force):
            node = self._shown(status, pool.name).node
            raise InvalidArgument(
                f"disk {name} is missing because node {node} does not answer, and comes back with it: start the node, or evict it if it is lost for good, "
                f"with: sofs cluster evict {node}; --force gives up what only this disk has"
            )
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
