"""Interconnects of several nodes for tests: over a simulated network, or over the loopback's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.errors import Unavailable
from sofs.runtime.ports import Connection, Listener, Network, Receiver
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_network import SimulatedNetwork
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_network import SystemNetwork

PORT = 4700


class SimulatedCluster:
    """Nodes 1 to `count`, each with `cables` addresses: 10.C.0.N for cable C and node N. Faults are made through `network`."""

    def __init__(self, loop: SimulatedLoop, count: int, *, seed: int = 1, cables: int = 1) -> None:
        self.loop = loop
        self.random = SimulatedRandom(seed)
        self.network = SimulatedNetwork(self.random)
        self.cables = cables
        self.nodes: dict[int, NetworkInterconnect] = {}
        self.hosts: dict[int, _Cables] = {}
        self.starts = 0
        self.members = {NodeId(number) for number in range(1, count + 1)}

    @classmethod
    async def start(cls, loop: SimulatedLoop, count: int, *, seed: int = 1, cables: int = 1) -> SimulatedCluster:
        cluster = cls(loop, count, seed=seed, cables=cables)
        for number in range(1, count + 1):
            await cluster.open(number)
        return cluster

    def __getitem__(self, number: int) -> NetworkInterconnect:
        return self.nodes[number]

    def addresses(self, node: NodeId) -> list[tuple[str, int]]:
        if node not in self.members:
            return []
        return [(self.address(node, cable), PORT) for cable in range(self.cables)]

    def address(self, number: int, cable: int = 0) -> str:
        return f"10.{cable}.0.{number}"

    async def open(self, number: int, *, features: int = 1) -> NetworkInterconnect:
        """Starts a node's process, with a new incarnation."""
        self.starts += 1
        clock = SimulatedClock(self.loop)
        me = NodeId(number), Incarnation(1000 * number + self.starts)
        self.hosts[number] = _Cables(self, number)
        node = NetworkInterconnect(clock, self.random, self.hosts[number], me, self.addresses, features=features)
        for cable in range(self.cables):
            await node.listen(self.address(number, cable), PORT)
        self.nodes[number] = node
        return node

    def crash(self, number: int) -> None:
        """The host is gone without a word. Its object is thrown away; what it still has scheduled reaches nobody."""
        for cable in range(self.cables):
            self.network.crash(self.address(number, cable))
        self.nodes.pop(number)
        self.hosts[number].up = False

    def part(self, one: int, other: int, cable: int = 0) -> None:
        self.network.partition(self.address(one, cable), self.address(other, cable))

    def heal(self, one: int, other: int, cable: int = 0) -> None:
        self.network.heal(self.address(one, cable), self.address(other, cable))

    def lose(self, one: int, other: int, cable: int = 0) -> None:
        """Every connection between the two breaks."""
        self.network.lose(self.address(one, cable), self.address(other, cable))

    async def close(self) -> None:
        for node in self.nodes.values():
            await node.close()


class _Cables:
    """`Network` of one node that has an address on each cable: whom it connects to decides which one is its own."""

    def __init__(self, cluster: SimulatedCluster, number: int) -> None:
        self.up = True
        """Its process lives: one that is gone must not go on connecting from the address that its successor has."""
        self._hosts = [cluster.network.host(cluster.address(number, cable)) for cable in range(cluster.cables)]

    def listen(self, address: str, port: int, accept: Callable[[Connection], Receiver]) -> Awaitable[Listener]:
        self._check()
        return self._hosts[_cable(address)].listen(address, port, accept)

    def connect(self, address: str, port: int, receiver: Receiver) -> Awaitable[Connection]:
        self._check()
        return self._hosts[_cable(address)].connect(address, port, receiver)

    def _check(self) -> None:
        if not self.up:
            raise Unavailable("the process is gone")


def _cable(address: str) -> int:
    return int(address.split(".")[1])


async def on_loopback(count: int, networks: Sequence[Network] = (), **options: Any) -> list[NetworkInterconnect]:
    """Interconnects of nodes 1 to `count` in this process, over real sockets, each through its own of `networks` if there are any."""
    ports: dict[int, int] = {}

    def addresses(node: NodeId) -> list[tuple[str, int]]:
        return [("127.0.0.1", ports[node])] if node in ports else []

    nodes = []
    for number in range(1, count + 1):
        me = NodeId(number), Incarnation(1000 + number)
        network = networks[number - 1] if networks else SystemNetwork()
        node = NetworkInterconnect(SystemClock(), SystemRandom(), network, me, addresses, **options)
        ports[number] = await node.listen("127.0.0.1", 0)
        nodes.append(node)
    return nodes
