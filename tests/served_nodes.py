"""Gateways of several nodes in the test's own event loop, over one real volume and one system volume on real files.

Each node has both gateways, its own incarnation, its own membership in a cluster with a shared coordination store, and the real interconnect over loopback
sockets. A node more, which has no gateways, coordinates the volumes: to all gateways they are elsewhere. It can die; then another takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateways.exports import Share, Shares, SmbOptions
from gateways.identity import Identities, domain_sid
from gateways.nfs.gateway import NfsGateway
from gateways.smb.gateway import SmbGateway
from gateways.smb.service import SmbSettings
from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.cluster.membership import Membership
from sofs.cluster.records import DeadRecord, MemberRecord
from sofs.coordination import Delete, Put, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.homes import Homes
from sofs.neighbours import Neighbours
from sofs.processes import Processes
from sofs.records import Registry
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_network import SystemNetwork
from sofs.types import VolumeId
from sofs.volume.remote.routes import RoutedVolumes
from sofs.volume.remote.watchman import Watchman
from sofs.volume.volume import LocalVolume
from sofs.volume.where import Coordinator, Whereabouts
from tests.served import VOLUME, volume_on
from tests.served_both import SHARES, Node
from tests.served_smb import USERS

SYSTEM = VolumeId(0x5151)
COORDINATOR = 90
WIDE = Share("wide", 7, VOLUME, smb=SmbOptions(continuously_available=True, scaleout=True))


@dataclass
class GatewayNode:
    """One node's gateways. Reads like `tests.served_both.Node` for clients."""

    number: NodeId
    incarnation: Incarnation
    interconnect: NetworkInterconnect
    membership: Membership
    homes: Homes
    routes: RoutedVolumes
    whereabouts: list[Whereabouts]
    nfs_gateway: NfsGateway
    smb_gateway: SmbGateway
    nfs: int = 0
    smb: int = 0

    @property
    def place(self) -> Node:
        """Where clients find it."""
        return Node(self.smb, self.nfs, self.smb_gateway)

    @property
    def group(self) -> int:
        """The number of its own group."""
        return self.homes.group_at("127.0.0.1")

    def has(self, group: int) -> bool:
        return group in self.nfs_gateway.groups.here

    async def home_of(self, group: int) -> None:
        """Until it is that."""
        async with asyncio.timeout(20):
            while not self.has(group):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@dataclass
class Nodes:
    """All of them, and what they share. Node `n` is `nodes[n - 1]`."""

    served: Served
    store: EmbeddedStore
    path: Path
    nodes: list[GatewayNode] = field(default_factory=list)
    lease_s: float = 90
    hidden: set[int] = field(default_factory=set)
    """Nodes that no gateway reaches."""
    is_elsewhere: Callable[[int], bool] = lambda id: False
    """Whether a group's address is at another node than the one that asks."""
    fenced: list[int] = field(default_factory=list)
    """Nodes that were told that they are shut out."""

    @property
    def volume(self) -> LocalVolume:
        return self.served.volumes[VOLUME]

    @property
    def system(self) -> LocalVolume:
        return self.served.volumes[SYSTEM]

    async def fail_over(self) -> None:
        """The process that serves the volumes is killed, and another one takes over. The gateways know of it once it has happened."""
        await self.served.kill()
        for node in self.nodes:
            for where in node.whereabouts:
                where.moved(self.served.at)

    async def start(self, number: int, incarnation: int = 0) -> GatewayNode:
        loop, clock, random = asyncio.get_running_loop(), SystemClock(), SystemRandom()
        me = NodeId(number), Incarnation(incarnation or 1000 + number)

        self.hidden.discard(number)
        membership, interconnect = await _member(self.store, me, hidden=self.hidden)
        processes = Processes(membership, interconnect)
        homes = Homes(Registry(self.store, random), processes, interconnect, clock)
        homes.is_elsewhere = self.is_elsewhere
        routes = RoutedVolumes(interconnect, clock)
        whereabouts = [Whereabouts(volume.id, volume.name) for volume in (self.volume, self.system)]
        for where in whereabouts:
            routes.add(where)
            where.moved(self.served.at)
        shares = Shares(routes.get)
        shares.replace([*SHARES, WIDE])
        users = Identities(domain_sid(b"tests of sofs"), USERS)
        neighbours = Neighbours(processes, interconnect, clock)
        settings = SmbSettings(guid=bytes([number]) * 16)
        smb = SmbGateway(
            settings, shares, users, clock, random, me[1], loop, neighbours=neighbours, on_fenced=lambda: self.fenced.append(number)
        )  # fmt: skip
        neighbours.serve(smb)
        nfs = NfsGateway(
            shares, key=bytes(range(32)), incarnation=me[1], groups=lambda uid: (), loop=loop, clock=clock, random=random, users=users,
            system=lambda: routes.get(SYSTEM), lease_s=self.lease_s, homes=homes,
        )  # fmt: skip
        nfs.groups.on_fenced = lambda: self.fenced.append(number)
        node = GatewayNode(me[0], me[1], interconnect, membership, homes, routes, whereabouts, nfs, smb)
        await homes.start(nfs)
        await node.home_of(node.group)
        node.nfs, node.smb = nfs.listen("127.0.0.1", 0), smb.listen("127.0.0.1", 0)
        self.nodes.append(node)
        return node

    async def cut_off(self, node: GatewayNode) -> None:
        """The other gateways lose sight of the node, which goes on for its clients and knows nothing of it: as after a pause, or behind a broken cable. Only
        the volumes still hear it."""
        self.hidden.add(node.number)
        await node.homes.stop()
        node.membership.on_fenced = lambda reason: None
        for task in node.membership._tasks:
            task.cancel()
        await self.store.transact([], [Delete(keys.node(node.number))])

    async def finds_out(self, node: GatewayNode) -> None:
        """Until its gateways know that they are shut out."""
        async with asyncio.timeout(10):
            while node.number not in self.fenced:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def kill(self, node: GatewayNode) -> None:
        """The node's process ends without a word, and its supervisor says so."""
        await self.cut_off(node)
        record = DeadRecord(incarnation=node.incarnation, by="the test")
        await self.store.transact([], [Put(keys.dead(node.number), record.encode())])
        await node.interconnect.close()
        # Its sessions must not be ended in an orderly way: their connections just break.
        await node.nfs_gateway.groups.stop()
        for gateway in (node.nfs_gateway, node.smb_gateway):
            for connection in list(gateway.server.connections):
                connection.close("killed")
        self.nodes.remove(node)
        async with asyncio.timeout(20):  # the volume ends what it had, or lets it wait for its owners
            while any(each.connected and each.mandatory and each.by.gateway == node.incarnation for each in self.volume.core.opens.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def stop(self, node: GatewayNode) -> None:
        """In an orderly way."""
        await node.homes.hand_over_all(ends=True)
        await self.end(node)
        self.nodes.remove(node)

    async def end(self, node: GatewayNode) -> None:
        await node.smb_gateway.stop()
        await node.nfs_gateway.stop()
        await node.homes.stop()
        await node.membership.close()
        await node.interconnect.close()


async def _member(
    store: EmbeddedStore, me: tuple[NodeId, Incarnation], state: str = "active", hidden: Collection[int] = ()
) -> tuple[Membership, NetworkInterconnect]:
    """A process's part in the cluster; it does not see those that are `hidden`."""
    number, clock, random = me[0], SystemClock(), SystemRandom()
    member = MemberRecord(id=number, name=f"n{number}", host=f"h{number}", addresses=(), state=state)
    await store.transact([], [Put(keys.member(number), member.encode())])
    membership = Membership(store, clock, *me, "boot")
    await membership.load()

    def addresses(node: NodeId) -> list[tuple[str, int]]:
        return [] if node in hidden else membership.addresses(node)

    interconnect = NetworkInterconnect(clock, random, SystemNetwork(), me, addresses, admit=membership.admit)
    port = await interconnect.listen("127.0.0.1", 0)
    former = membership.running.get(me[0])
    ended = None if former is None else Incarnation(former.incarnation)
    await membership.start(f"n{number}", f"h{number}", [f"127.0.0.1:{port}"], former=ended)
    return membership, interconnect


class Served:
    """The process that serves the volumes: a member of the cluster without gateways, which can die."""

    def __init__(self, path: Path, store: EmbeddedStore, lease_s: float) -> None:
        self._path, self._store, self._lease_s = path, store, lease_s
        self.at = Coordinator(NodeId(COORDINATOR), Incarnation(1000 + COORDINATOR), 1)
        self.volumes: dict[int, LocalVolume] = {}
        self._stack = AsyncExitStack()
        self._killed = False

    async def begin(self) -> None:
        stack, clock = self._stack, SystemClock()
        membership, interconnect = await _member(self._store, (self.at.node, self.at.incarnation), "draining")
        routes = RoutedVolumes(interconnect, clock)
        for id, name in ((VOLUME, "volume"), (SYSTEM, "system")):
            opening = volume_on(
                self._path / name, self._lease_s, id=id, gateway=self.at.incarnation, crashes=lambda: self._killed,
                ended=lambda gateway: gateway in membership.dead.values(),
            )  # fmt: skip
            volume = self.volumes[id] = await stack.enter_async_context(opening)
            where = Whereabouts(volume.id, volume.name)
            routes.add(where)
            where.served(volume)
            stack.callback(where.served, None)
        stack.push_async_callback(membership.close)
        stack.push_async_callback(interconnect.close)
        stack.push_async_callback(Watchman(membership, interconnect, clock, routes).close)

    async def end(self) -> None:
        await self._stack.aclose()

    async def kill(self) -> None:
        """Nothing more is written or answered; another process takes over what it left."""
        self._killed = True
        await self.end()
        self._killed, self._stack = False, AsyncExitStack()
        self.at = Coordinator(NodeId(self.at.node + 1), Incarnation(self.at.incarnation + 1), self.at.version + 1)
        await self.begin()


@asynccontextmanager
async def nodes_on(path: Path, count: int = 2, lease_s: float = 90) -> AsyncIterator[Nodes]:
    """So many nodes over the volumes in `path`."""
    files = SystemFiles(2)
    path.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        stack.callback(files.close)
        store = EmbeddedStore.open(files, SystemClock(), SystemRandom(), str(path / "store"))
        stack.push_async_callback(store.close)
        served = Served(path, store, lease_s)
        await served.begin()
        stack.push_async_callback(served.end)
        nodes = Nodes(served, store, path, lease_s=lease_s)
        try:
            for number in range(1, count + 1):
                await nodes.start(number)
            yield nodes
        finally:
            for node in nodes.nodes:
                await nodes.end(node)


def run(path: Path, scenario: Callable[[Nodes], Awaitable[None]], count: int = 2, lease_s: float = 90) -> None:
    async def whole() -> None:
        async with nodes_on(path / "nodes", count, lease_s) as nodes:
            await scenario(nodes)

    asyncio.run(whole())
