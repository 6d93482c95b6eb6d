"""Several nodes with disks of one pool, each a process of its own, over the simulated network."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.pool import Placement, Policy, parse_policy
from sofs.pool.fragment import SLOT_SIZE
from sofs.pool.local_disk import LocalDisk
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec
from sofs.pool.opening import make_disk
from sofs.pool.service import DiskService
from sofs.pool.states import State
from sofs.pool.table import Entry
from sofs.pool.upkeep import Upkeep
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_network import SimulatedNetwork
from sofs.runtime.simulated_process import SimulatedProcess
from sofs.types import DiskId, VolumeId
from tests.unit.pool.rig import ARENA_SLOTS, MIB, VOLUME, content, eid

__all__ = ["ACROSS", "Node", "Nodes"]

T = TypeVar("T")
ACROSS = parse_policy("mirror(2) across host")
PORT = 7000


@dataclass
class Node:
    """A node's machine, and its process while it runs."""

    id: NodeId
    files: SimulatedFiles
    starts: int = 0
    process: SimulatedProcess | None = None
    interconnect: NetworkInterconnect | None = None
    own_pool: LocalPool | None = None
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"10.0.0.{self.id}"

    @property
    def host(self) -> str:
        return f"h{self.id}"

    @property
    def pool(self) -> LocalPool:
        assert self.own_pool is not None, "the node does not run"
        return self.own_pool

    def report(self, event: str, /, **fields: object) -> None:
        self.events.append((event, fields))


class Nodes:
    """All of them; `run` has coroutines run as a node's process."""

    def __init__(
        self, loop: SimulatedLoop, random: SimulatedRandom, count: int = 3, disks: int = 1, *, arenas: int = 3, grace_s: float = 600.0,
        upkeep: bool = True, latency: Latency | None = None, miss: float = 0.2,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.random = random
        self.clock = SimulatedClock(loop)
        self.network = SimulatedNetwork(random)
        self.grace_s = grace_s
        self.upkeep = upkeep
        self.all: list[Node] = []
        self.specs: list[DiskSpec] = []
        for number in range(1, count + 1):
            files = SimulatedFiles(random, latency=latency or Latency(), miss=miss)
            node = Node(NodeId(number), files)
            self.all.append(node)
            for disk in range(disks):
                path = f"/disks/d{disk}"
                label = make_disk(
                    files, random, path, pool="p", tier="ssd", host=node.host, capacity=arenas * ARENA_SLOTS * SLOT_SIZE, arena_slots=ARENA_SLOTS
                )
                self.specs.append(DiskSpec(path, label.id, "ssd", node.host, node=node.id))

    def __getitem__(self, number: int) -> Node:
        """The node with this id, from 1 on."""
        return self.all[number - 1]

    async def start_all(self) -> None:
        for node in self.all:
            await self.start(node)
        for node in self.all:
            await self.run(node, node.pool.hear())

    async def start(self, node: Node) -> None:
        """Starts a node's process; it has opened its disks and heard the others then, as far as they answer."""
        assert node.process is None or node.process.ended
        node.starts += 1
        node.process = SimulatedProcess(f"node {node.id}")
        await self.run(node, self._begin(node))

    async def _begin(self, node: Node) -> None:
        me = node.id, Incarnation(node.id * 1000 + node.starts)
        addresses = {other.id: [(other.address, PORT)] for other in self.all}
        node.interconnect = NetworkInterconnect(self.clock, self.random, self.network.host(node.address), me, lambda id: addresses.get(id, ()))
        pools: dict[str, LocalPool] = {}
        DiskService(node.interconnect, pools)
        node.own_pool = pools["p"] = LocalPool(
            "p", node.files, self.random, node.report, clock=self.clock, interconnect=node.interconnect, grace_s=self.grace_s
        )
        node.own_pool.open(self.specs)
        await node.interconnect.listen(node.address, PORT)
        if self.upkeep:
            Upkeep(node.own_pool, self.clock, probe_interval_s=10, scrub_interval_s=20, scrub_bytes=8 * MIB).start()
        await node.own_pool.hear()

    async def run(self, node: Node, work: Coroutine[Any, Any, T]) -> T:
        """As the node's process. Raises what `work` raises; never returns if the process ends meanwhile."""
        assert node.process is not None
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def carry() -> None:
            try:
                value = await work
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(value)

        node.process.start(self.loop, carry())
        return await done

    def kill(self, node: Node, power: bool = False) -> None:
        """The process ends; with `power`, the machine loses what was not synced, too."""
        assert node.process is not None
        node.process.end()
        node.own_pool = node.interconnect = None
        if power:
            self.network.power_loss(node.address)
            node.files = node.files.after_power_loss()
        else:
            self.network.crash(node.address)
            node.files = node.files.after_process_death()

    def cut(self, one: Node, other: Node) -> None:
        self.network.partition(one.address, other.address)

    def heal(self, one: Node, other: Node) -> None:
        self.network.heal(one.address, other.address)

    # Extents

    async def write(self, node: Node, number: int, length: int = MIB, policy: Policy = ACROSS, volume: VolumeId = VOLUME) -> Placement:
        id = eid(number)._replace(volume=volume)
        return await self.run(node, node.pool.write(id, [content(number, length)], policy))

    async def read(self, node: Node, at: Placement, offset: int = 0, length: int | None = None, sums: Sequence[int] | None = None) -> bytes:
        into = memoryview(bytearray(at.length - offset if length is None else length))

        async def read() -> None:
            waiting = node.pool.read(at, offset, into, sums)
            if waiting is not None:
                await waiting

        await self.run(node, read())
        return bytes(into)

    def disk(self, id: DiskId) -> LocalDisk:
        """The disk, at its own node."""
        disk = self.owner(id).pool.members.get(id).disk
        assert isinstance(disk, LocalDisk)
        return disk

    def owner(self, id: DiskId) -> Node:
        return self[next(spec.node for spec in self.specs if spec.id == id)]

    def used(self) -> dict[DiskId, dict[int, Entry]]:
        """The fragments on every disk of a node that runs, by slot."""
        disks = [disk for node in self.all if node.own_pool is not None for disk in node.pool.members.own_readable()]
        return {disk.id: dict(disk.entries(0, disk.slots)) for disk in disks}

    def state(self, node: Node, id: DiskId) -> State | None:
        return node.pool.members.state(id)
