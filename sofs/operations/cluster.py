"""How the cluster is, as one of its nodes knows it: etcd, members, and who coordinates what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sofs.admin import api
from sofs.assembly import Assembly
from sofs.cluster import NodeId
from sofs.cluster.membership import Membership
from sofs.cluster.records import MemberRecord
from sofs.coordination import Health
from sofs.errors import NotSupported


class ClusterOperations:
    """One node's view."""

    def __init__(self, assembly: Assembly, volumes: Callable[[], Awaitable[list[api.Volume]]]) -> None:
        self._assembly = assembly
        self._volumes = volumes

    async def cluster(self) -> api.Cluster:
        membership = self._membership
        health, volumes = await asyncio.gather(self._store_health(), self._volumes())
        coordinated: dict[str, int] = {}
        for volume in volumes:
            coordinated[volume.coordinator] = coordinated.get(volume.coordinator, 0) + 1
        return api.Cluster(
            id=self._assembly.own.cluster,
            node=self._assembly.name,
            level=membership.level,
            quorum=2 * sum(each.well for each in health) > len(health),
            store=[api.StoreMember(each.endpoint, each.state, each.size) for each in health],
            members=self._members(coordinated),
            volumes=volumes,
        )

    async def members(self) -> list[api.ClusterMember]:
        """Without asking anybody."""
        return self._members({})

    @property
    def _membership(self) -> Membership:
        membership = self._assembly.membership
        if membership is None:
            raise NotSupported("this is a single node; `sofs cluster init` makes it the first of a cluster")
        return membership

    async def _store_health(self) -> list[Health]:
        ask_store: Callable[[], Awaitable[list[Health]]] | None = getattr(self._assembly.store, "health", None)
        return [] if ask_store is None else await ask_store()  # an embedded one has no members

    def _members(self, coordinated: dict[str, int]) -> list[api.ClusterMember]:
        members = sorted(self._membership.members.values(), key=lambda member: member.name)
        return [self._member(member, coordinated.get(member.name, 0)) for member in members]

    def _member(self, member: MemberRecord, coordinates: int) -> api.ClusterMember:
        membership, interconnect = self._membership, self._assembly.interconnect
        assert interconnect is not None
        node = NodeId(member.id)
        running = membership.running.get(node)
        if running is None:
            process = "not running" if node in membership.dead else "not heard of"
        else:
            process = running.state
        return api.ClusterMember(
            id=f"{member.id:016x}",
            name=member.name,
            host=member.host,
            state=f"{member.state}, {process}",
            incarnation="" if running is None else f"{running.incarnation:016x}",
            addresses=list(member.addresses),
            connected=interconnect.peer(node).connected,
            features=member.features,
            coordinates=coordinates,
        )
