"""A cluster of whole nodes, as far below the gateways as production code goes: hosting, pools, volumes, their logs.

`Node` is what one process makes of its machine's ports, `Cluster` the machines with what is checked all the time.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sofs.hosting.opening
from gateways.identity import Identities, domain_sid
from sofs.config import Config
from sofs.errors import NotSupported, SofsError, Unavailable
from sofs.hosting import Host, Hosted
from sofs.operations.check import check_volumes
from sofs.records import Registry
from sofs.volume.api import Binding, Volume
from tests.simulation.cluster.machine import Machine, Ports
from tests.simulation.cluster.world import World

if TYPE_CHECKING:
    from tests.simulation.cluster.client import Client

__all__ = ["DATA", "Cluster", "Node", "small"]

KIB, MIB = 1 << 10, 1 << 20
DATA = "/data"
DISK_MIB = 96
LEASE_S = 5.0


def small() -> None:
    """Has everything that takes gigabytes elsewhere take little: segments are filled, trimmed and used again all the time."""
    sofs.hosting.opening.SEGMENT = 512 * KIB


def configuration() -> Config:
    config = Config()
    config.volume.checkpoint_interval_s = 1.0
    config.volume.log_limit_mib = 5
    config.nfs.lease_s = LEASE_S
    return config


class Node:
    """A node's process below its gateways."""

    disks = 2

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.incarnation = ports.random.number(62)
        self.binding = Binding(self.incarnation, 1)
        registry = Registry(ports.store, ports.random)
        identities = Identities(domain_sid(bytes(12)), [])
        self.host = Host(
            f"h{ports.number}", Path(DATA), configuration(), registry, ports.files, ports.clock, ports.random, identities, ports.boot
        )

    async def open(self) -> None:
        await self.host.open()

    def hosted(self, name: str) -> Hosted:
        return self.host.named(name)

    def volume(self, name: str) -> Volume:
        """The volume as its gateways have it. Raises `Unavailable`."""
        hosted = self.host.named(name)
        if hosted.volume is None:
            raise Unavailable(hosted.reason)
        return hosted.volume

    def serves(self, name: str) -> bool:
        """Whether it would answer a request to this volume itself at this moment."""
        try:
            hosted = self.host.named(name)
        except SofsError:
            return False
        return hosted.store is not None and hosted.store.log.serving()


async def start(ports: Ports) -> Node:
    ports.files.make_directory(DATA)
    node = Node(ports)
    await node.open()
    return node


class Cluster:
    """All machines, and what the simulation knows of them."""

    def __init__(self, world: World, nodes: int) -> None:
        self.world = world
        self.machines: list[Machine[Node]] = [world.add(start) for _ in range(nodes)]
        self.volumes: list[str] = []
        self.lost = 0
        """Acknowledged and not stable, and gone with the memory of all replicas."""
        self.memory_lost = False
        """Something that was not stable may have gone: whatever is told as committed may not be there any more."""
        self.memory_broken = False
        """Some replica may lack what it had not synced."""
        self.verifiers: dict[str, int] = {}
        """Of each volume, as clients were told last."""
        self.answers = 0

    async def begin(self, volumes: int, disks: int, policy: str) -> None:
        """Starts all machines, and makes disks and volumes."""
        for machine in self.machines:
            machine.files.make_directory(DATA)
            machine.files.sync_directory("/")
            machine.start()
        for machine in self.machines:
            await machine.until_ready()
            for disk in range(disks):
                await machine.ask(lambda node, path=f"{DATA}/disk{disk}": node.host.add_disk(path, "ssd", "p", DISK_MIB * MIB, False))  # type: ignore[misc]
        for number in range(volumes):
            name = f"v{number}"
            machine = self.machines[self.world.random.below(len(self.machines))]
            await machine.ask(lambda node, name=name: node.host.create_volume(name, "p", policy, False))  # type: ignore[misc]
            self.volumes.append(name)

    # What clients ask for

    def answered(self, node: Node, volume: str) -> None:
        """Called when an answer leaves a gateway."""
        self.answers += 1
        self.check_one_serves(volume)
        verifier = node.volume(volume).verifier
        known = self.verifiers.setdefault(volume, verifier)
        if verifier != known:
            assert self.memory_broken, f"{volume}'s verifier changed from {known:x} to {verifier:x}, and no memory was ever lost"
            self.verifiers[volume] = verifier

    def verifier(self, volume: str) -> int:
        """The volume's, as whoever serves it has it; 0 if nobody does."""
        for machine in self.machines:
            if machine.node is not None and machine.node.serves(volume):
                return machine.node.volume(volume).verifier
        return 0

    async def reaped(self, machine: Machine[Node]) -> None:
        """A supervisor has seen the machine's process end, and says so."""

    async def move(self, volume: str, asked: Machine[Node], target: Machine[Node]) -> None:
        """An operator at one node has another one coordinate the volume. Raises `SofsError`, `Gone`."""
        raise NotSupported("there is one node only")

    async def shut_out(self, left: Machine[Node], through: Machine[Node]) -> None:
        """A client has given up on a gateway, which may still be at work for it."""

    async def shut_out_gateway(self, gateway: int, client: "Client") -> None:
        """A client finds its open at a gateway incarnation that it does not use any more."""

    async def made_up(self) -> None:
        """Waits until what was lost has been made up for, if that comes in reasonable time."""
        for _ in range(300):
            if all(self.whole(name) for name in self.volumes):
                return
            await asyncio.sleep(0.2)

    def whole(self, volume: str) -> bool:
        """Whether it is served by somebody with all the replicas that it is to have."""
        for machine in self.machines:
            if machine.node is not None and machine.node.serves(volume):
                return machine.node.hosted(volume).state[0] == "serving"
        return False

    # What must hold at every moment

    def check_one_serves(self, volume: str) -> None:
        serving = [machine.name for machine in self.machines if machine.node is not None and machine.node.serves(volume)]
        assert len(serving) <= 1, f"{volume} is served by {' and '.join(serving)} at once"

    # The end

    async def settle(self) -> None:
        """Takes back all faults and waits until everything is well again."""
        for machine in self.machines:
            machine.line.up, machine.line.trouble, machine.line.restarts, machine.line.delay = True, 0.0, 0.0, 1e-3
            machine.files.crash_at = None
            machine.resume()
            if not machine.up:
                machine.start()
        for machine in self.machines:
            await machine.until_ready()

    async def recovered(self) -> None:
        """Waits until every volume is served. Raises AssertionError if that never comes."""
        until = self.world.loop.time() + 300
        while unserved := [name for name in self.volumes if not any(machine.node and machine.node.serves(name) for machine in self.machines)]:
            await asyncio.sleep(0.1)
            assert self.world.loop.time() < until, f"with all faults over, nobody serves {unserved[0]}"

    async def check_volumes(self) -> None:
        """`sofs check`, reading all data, of every volume at whoever serves it."""
        for name in self.volumes:
            serving = [machine for machine in self.machines if machine.node is not None and machine.node.serves(name)]
            assert serving, f"nobody serves {name}"
            problems = await serving[0].ask(partial(_check, name=name))
            assert not problems, f"{name}:\n" + "\n".join(problems[:20])


async def _check(node: Node, name: str) -> list[str]:
    problems: list[str] = []
    async for progress in check_volumes(node.host, [node.hosted(name)], data=True):
        problems += progress.problems
    return problems
