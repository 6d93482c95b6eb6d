"""A cluster of whole nodes, as far below the gateways as production code goes: hosting, pools, volumes, their logs.

`Node` is what one process makes of its machine's ports, `Cluster` the machines with what is checked all the time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import sofs.hosting.opening
from sofs.assembly import Assembly
from sofs.assembly import Ports as NodePorts
from sofs.cluster.own import OwnIdentity, save
from sofs.cluster.records import ClusterRecord, DeadRecord, MemberRecord
from sofs.cluster.running import ended
from sofs.config import Config
from sofs.coordination import Put, keys
from sofs.errors import Exists, InvalidArgument, NotFound, NotSupported, SofsError, Unavailable
from sofs.hosting import Hosted
from sofs.operations.check import check_volumes
from sofs.runtime.simulated_files import Latency
from sofs.types import Level, VolumeId
from sofs.volume.api import Binding, FencedOff, FenceGateway, Upcall
from sofs.volume.remote.routed import RoutedVolume
from tests.simulation.cluster.answers import done, sent
from tests.simulation.cluster.machine import DATA, Gone, Machine, Ports
from tests.simulation.cluster.members import keep_drained
from tests.simulation.cluster.replicas import Replicas
from tests.simulation.cluster.world import World

if TYPE_CHECKING:
    from tests.simulation.cluster.client import Client

__all__ = ["DATA", "Cluster", "Node", "small"]

KIB, MIB = 1 << 10, 1 << 20
DISK_MIB = 96
LEASE_S = 5.0
PORT = 4700
CLUSTER = "00c1"


def small() -> None:
    """Has everything that takes gigabytes elsewhere take little: segments are filled, trimmed and used again all the time."""
    sofs.hosting.opening.SEGMENT = 512 * KIB


def _configuration(ports: Ports) -> Config:
    config = Config()
    config.node.data_dir = DATA
    config.cluster.addresses = [f"{ports.address}:{PORT}"]
    config.volume.checkpoint_interval_s = 1.0
    config.volume.log_limit_mib = 5
    config.nfs.lease_s = LEASE_S
    return config


def _id(number: int) -> int:
    """The id of the node on a machine."""
    return 0x1000 + number


class Node:
    """A node's process below its gateways, and what the simulation's clients have of gateways: a binding, and volumes."""

    def __init__(self, ports: Ports, assembly: Assembly) -> None:
        self.ports = ports
        self.assembly = assembly
        self.host = assembly.host
        self.incarnation = int(assembly.incarnation)
        self.binding = Binding(self.incarnation, 1)
        self._subscribed: dict[int, RoutedVolume] = {}
        self.draining: asyncio.Future[None] | None = None

    def _hear(self, volume: VolumeId, upcall: Upcall) -> None:
        """As a gateway that has been shut out, which ends its process. Clients here hold no grants and watch nothing."""
        if isinstance(upcall, FencedOff) and upcall.gateway == self.incarnation:
            self.ports.exit("shut out")

    def hosted(self, name: str) -> Hosted:
        return self.host.named(name)

    def volume(self, name: str) -> RoutedVolume:
        """The volume as gateways have it. Raises `Unavailable`."""
        try:
            volume = self.assembly.volume(self.host.named(name).where.id)
        except NotFound as error:
            raise Unavailable(str(error)) from None
        if volume is None:
            raise Unavailable(f"{name} is not served")
        if volume.id not in self._subscribed:
            self._subscribed[volume.id] = volume
            volume.subscribe(self._hear)
        return volume

    def serves(self, name: str) -> bool:
        """Whether it would answer a request to this volume itself at this moment."""
        try:
            hosted = self.host.named(name)
        except SofsError:
            return False
        return hosted.where.local is not None and hosted.store is not None and hosted.store.log.serving()


async def _start(ports: Ports, single: bool) -> Node:
    assembly = await Assembly.open(
        _configuration(ports),
        ports.address,
        NodePorts(ports.files, ports.clock, ports.random, ports.boot, None if single else ports.network),
        ports.store,
    )
    assembly.on_fenced = ports.exit
    node = Node(ports, assembly)
    assembly.routes.lost = lambda volume: ports.hang_up()
    if not single:
        node.draining = asyncio.ensure_future(keep_drained(node))
    return node


class Cluster:
    """All machines, and what the simulation knows of them."""

    def __init__(self, world: World, nodes: int) -> None:
        self.world = world
        self.single = nodes == 1
        self.machines: list[Machine[Node]] = [world.add(partial(_start, single=self.single)) for _ in range(nodes)]
        self.volumes: list[str] = []
        self.disks = 1
        """Of each machine."""
        self.lost = 0
        """Acknowledged and not stable, and gone with the memory of all replicas."""
        self.memory_lost = False
        """Something that was not stable may have gone: whatever is told as committed may not be there any more."""
        self.memory_broken = False
        """Some replica may lack what it had not synced."""
        self.verifiers: dict[str, int] = {}
        """Of each volume, as clients were told last."""
        self.answers = 0
        self.disks_lost = 0
        self.replicas = Replicas(self.machines)
        self.fenced: dict[int, None] = {}
        """Gateway incarnations that have been shut out of all volumes."""

    async def begin(self, volumes: int, disks: int, policy: str) -> None:
        """Starts all machines, and makes disks and volumes."""
        self.disks = disks
        if not self.single:
            await self.world.store.transact([], [Put(keys.CLUSTER, ClusterRecord(id=CLUSTER).encode())])
        for machine in self.machines:
            await self._install(machine)
        for machine in self.machines:
            await self._add_disks(machine)
        for number in range(volumes):
            name = f"v{number}"
            machine = self.machines[self.world.random.below(len(self.machines))]
            await self._insist(machine, lambda node, name=name: node.host.create_volume(name, "p", policy, False))  # type: ignore[misc]
            self.volumes.append(name)
        await self.made_up()

    async def _install(self, machine: Machine[Node]) -> None:
        machine.files.make_directory(DATA)
        machine.files.sync_directory("/")
        if not self.single:
            save(machine.files, DATA, OwnIdentity(_id(machine.number), CLUSTER))
            await self.make_member(machine)
        machine.start()

    async def _add_disks(self, machine: Machine[Node]) -> None:
        await machine.until_ready()
        for disk in range(self.disks):
            await self._insist(machine, lambda node, path=f"{DATA}/disk{disk}": node.host.add_disk(path, "ssd", "p", DISK_MIB * MIB, False))  # type: ignore[misc]

    async def grow(self) -> None:
        """A new machine joins."""
        machine: Machine[Node] = self.world.add(partial(_start, single=False))
        self.machines.append(machine)
        await self._install(machine)
        for _ in range(100):
            try:
                await self._add_disks(machine)
                return
            except (Gone, SofsError):
                await asyncio.sleep(0.5)

    def remove(self, machine: Machine[Node]) -> None:
        """The machine is no part of it any more, and never comes back."""
        self.machines.remove(machine)

    def id_of(self, machine: Machine[Node]) -> int:
        return _id(machine.number)

    async def _insist(self, machine: Machine[Node], work: Callable[[Node], Awaitable[object]]) -> None:
        """What an operator does as soon as the node knows of what the others have done before."""
        for _ in range(20):
            try:
                await machine.ask(work)
            except (InvalidArgument, Exists):
                await asyncio.sleep(0.1)
            else:
                return
        await machine.ask(work)

    async def make_member(self, machine: Machine[Node]) -> None:
        """What joining puts in the store."""
        record = MemberRecord(id=_id(machine.number), name=machine.name, host=machine.name, addresses=(f"{machine.name}:{PORT}",))
        await self.world.store.transact([], [Put(keys.member(record.id), record.encode())])

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
        if self.single or machine.up:
            return
        ran = ended(machine.files, DATA)
        if ran is not None:
            machine.note("reaped", f"{ran.incarnation:x}")
            record = DeadRecord(incarnation=ran.incarnation, by="its supervisor")
            await self.world.store.transact([], [Put(keys.dead(ran.node), record.encode())])

    async def move(self, volume: str, asked: Machine[Node], target: Machine[Node]) -> None:
        """An operator at one node has another one coordinate the volume. Raises `SofsError`, `Gone`."""
        if self.single:
            raise NotSupported("there is one node only")
        await asked.ask(lambda node: node.host.move(volume, target.name))

    async def shut_out(self, gateway: int, client: "Client") -> None:
        """A client has given up on a gateway that may still be at work for it, or finds its open there: nothing that it still does may take effect.

        Raises `Gone`, `SofsError` when that cannot be made sure of through the gateway where the client is now.
        """
        if gateway in self.fenced:
            return
        for volume in self.volumes:
            async with asyncio.timeout(client.patience):
                await client.machine.ask(partial(_fence, volume=volume, gateway=gateway))
        self.fenced[gateway] = None

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
            machine.files.faults.clear()
            machine.files.latency = Latency(100e-6, 1e-3)
            for other in self.machines:
                self.world.network.heal(machine.name, other.name)
                self.world.network.slow(machine.name, other.name, 1.0)
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
        until = self.world.loop.time() + 300
        while lacking := self.lacking():
            await asyncio.sleep(0.2)
            assert self.world.loop.time() < until, f"with all faults over: {'; '.join(lacking)}"

    def lacking(self) -> list[str]:
        """What is not yet as it was: replicas, and disks that nodes do not see."""
        lacking = [f"{name} has not all its replicas" for name in self.volumes if not self.whole(name)]
        for machine in self.machines:
            for pool in machine.node.host.pools.values() if machine.node else []:
                away = [disk for disk in pool.disks() if disk.state not in ("healthy", "failed")]
                lacking += [f"{machine.name}: disk {disk.path} of {disk.host} is {disk.state}" for disk in away]
        return lacking

    def check_logs(self) -> None:
        """All replicas that count have the same, as far as it is stable."""
        for name in self.volumes:
            for machine in self.machines:
                if machine.node is not None and machine.node.serves(name):
                    hosted = machine.node.hosted(name)
                    assert hosted.store is not None
                    log = hosted.store.log
                    self.replicas.converged(hosted.record.id, log.replica_ids, log.start, log.stable)

    async def check_volumes(self) -> None:
        """`sofs check`, reading all data, of every volume at whoever serves it."""
        for name in self.volumes:
            problems = await self._check_volume(name)
            assert not problems, f"{name}:\n" + "\n".join(problems[:20])

    async def _check_volume(self, name: str) -> list[str]:
        """What is wrong with it. A process may yet end (a client has had it shut out): then it is looked again, for it was not calm."""
        while True:
            starts = sum(machine.starts for machine in self.machines)
            serving = [machine for machine in self.machines if machine.node is not None and machine.node.serves(name)]
            problems = ["nobody serves it"]
            if serving:
                try:
                    problems = await serving[0].ask(partial(_check, name=name))
                except (Gone, SofsError) as error:
                    problems = [repr(error)]
            if not problems or (starts == sum(machine.starts for machine in self.machines) and all(machine.up for machine in self.machines)):
                return problems
            await self.recovered()


async def _fence(node: Node, volume: str, gateway: int) -> None:
    routed = node.volume(volume)
    reply = await done(routed.call(FenceGateway(gateway), None, node.binding))
    await sent(routed, reply.gate, Level.STABLE)


async def _check(node: Node, name: str) -> list[str]:
    problems: list[str] = []
    data = node.hosted(name).data
    assert data is not None
    # What is not as safe as it should be is made so now, instead of when it is due.
    await data.cleaner.protect()
    async for progress in check_volumes(node.host, [node.hosted(name)], data=True):
        problems += progress.problems
    return problems
