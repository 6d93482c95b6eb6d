"""What is asked about the cluster's nodes and its virtual addresses: draining, taking back into service, adding and removing addresses."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

from sofs.admin import api
from sofs.assembly import Assembly
from sofs.cluster import NodeId
from sofs.cluster.membership import ACTIVE, DRAINING, Membership
from sofs.cluster.records import MemberRecord, named
from sofs.cluster.vips import HolderRecord, VipRecord, Vips
from sofs.coordination import keys
from sofs.errors import InvalidArgument, NotSupported, Unavailable
from sofs.records import GroupRecord

DRAIN_S = 60.0
"""Until a node has handed over what it has."""
LOOK_EVERY_S = 0.05


class Nodes:
    """Drain and undrain, by whichever node is asked: the node itself sees its new state, and acts on it."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly

    async def drain(self, node: str) -> api.Drained:
        """Answers when nothing is left there. Raises `Unavailable` after a while, naming what is; the node stays draining."""
        member = self._named(node)
        await self._membership.set_state(NodeId(member.id), DRAINING)
        left = await self._left(member.id)
        until = self._assembly.ports.clock.monotonic() + DRAIN_S
        while left:
            if self._assembly.ports.clock.monotonic() > until:
                raise Unavailable(f"node {member.name} still has {', '.join(left)}; it goes on handing over")
            await asyncio.sleep(LOOK_EVERY_S)
            left = await self._left(member.id)
        return api.Drained(member.name)

    async def undrain(self, node: str) -> api.Drained:
        member = self._named(node)
        await self._membership.set_state(NodeId(member.id), ACTIVE)
        return api.Drained(member.name)

    @property
    def _membership(self) -> Membership:
        if self._assembly.membership is None:
            raise NotSupported("this node is alone, and has nobody to hand anything over to")
        return self._assembly.membership

    def _named(self, name: str) -> MemberRecord:
        return named(self._membership.members.values(), name)

    async def _left(self, node: int) -> list[str]:
        """What the node still has, as the store says: volumes that it coordinates, groups of NFS clients, addresses."""
        registry, view = self._assembly.registry, self._assembly.host.view
        names = {id: record.name for id, record in view.volumes.items()}
        left = [f"volume {names[id]}" for id in names if (await registry.configuration(id)).coordinator == node]
        for entry in (await registry.store.range(keys.GROUPS)).entries:
            if GroupRecord.decode(entry.value).node == node:
                left.append(f"the NFS clients of group {keys.id_of(entry.key):016x}")
        for entry in (await registry.store.range(keys.VIPS)).entries:
            if entry.key.endswith(keys.HOLDER) and HolderRecord.decode(entry.value).node == node:
                left.append(f"address {keys.name_of(entry.key)}")
        return left


class Addresses:
    """Virtual addresses."""

    def __init__(self, assembly: Assembly, vips: Callable[[], Vips | None]) -> None:
        self._assembly = assembly
        self._vips = vips

    def _manager(self) -> Vips:
        vips = self._vips()
        if vips is None:
            raise NotSupported("this node is alone: its addresses are those in [smb] and [nfs]")
        return vips

    async def all(self) -> list[api.Vip]:
        vips = self._manager()
        return [self._shown(record, vips) for _, record in sorted(vips.records.items())]

    async def add(self, request: api.Vip) -> api.Vip:
        vips = self._manager()
        try:
            address = str(ipaddress.ip_address(request.address))
        except ValueError:
            raise InvalidArgument(f"{request.address} is no IP address") from None
        if request.group and request.volume:
            raise InvalidArgument("an address belongs to a node's NFS clients or follows a volume, not both")
        record = VipRecord(
            address=address,
            interface=request.interface,
            group=self._member(request.group) if request.group else 0,
            volume=self._assembly.host.named(request.volume).record.id if request.volume else 0,
        )
        await self._assembly.registry.put(keys.vip(address), record.encode(), what=f"address {address}")
        return self._shown(record, vips)

    async def remove(self, address: str) -> None:
        self._manager()
        await self._assembly.registry.delete(keys.vip(address), f"virtual address {address}")

    def _member(self, name: str) -> int:
        assert self._assembly.membership is not None
        return named(self._assembly.membership.members.values(), name).id

    def _shown(self, record: VipRecord, vips: Vips) -> api.Vip:
        membership = self._assembly.membership
        assert membership is not None

        def name(id: int) -> str:
            member = membership.members.get(NodeId(id))
            return member.name if member else f"{id:016x}"

        holder = vips.holder(record.address)
        volumes = self._assembly.host.view.volumes
        return api.Vip(
            address=record.address,
            interface=record.interface,
            group=name(record.group) if record.group else "",
            volume=volumes[record.volume].name if record.volume in volumes else f"{record.volume:016x}" if record.volume else "",
            holder=name(holder.node) if holder is not None else "",
        )
