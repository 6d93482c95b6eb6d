"""Whole hosts of a simulated cluster, without gateways: what a process is made of, and files that are written and verified."""

import asyncio
from pathlib import Path

import sofs.hosting.opening
from gateways.identity import Identities, domain_sid
from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.cluster.records import DeadRecord, MemberRecord
from sofs.config import Config
from sofs.coordination import Condition, Put, keys
from sofs.errors import SofsError, Unavailable
from sofs.hosting import Host
from sofs.records import Registry
from sofs.types import ROOT, Inode, Kind, Level
from sofs.volume.api import Binding, Caller, Changes, Found, Make, Read, Stateless, Token, Written
from sofs.volume.volume import LocalVolume
from tests.simulation.cluster.machine import Gone, Machine, Ports
from tests.simulation.cluster.world import World

PORT = 4700
ROOT_USER = Caller(0, 0)


class HostNode:
    """One process of a node."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.node = NodeId(ports.number + 1)
        self.incarnation = Incarnation(ports.random.number(62) + 1)
        self.interconnect = NetworkInterconnect(
            ports.clock, ports.random, ports.network, (self.node, self.incarnation), lambda node: [(f"n{node - 1}", PORT)]
        )
        config = Config()
        config.volume.checkpoint_interval_s = 1.0
        config.volume.log_limit_mib = 8
        registry = Registry(ports.store, ports.random)
        identities = Identities(domain_sid(bytes(12)), [])
        self.host = Host(
            f"h{ports.number}", Path("/data"), config, registry, ports.files, ports.clock, ports.random, identities, ports.boot,
            self.interconnect,
        )  # fmt: skip

    async def open(self) -> None:
        await self.interconnect.listen(self.ports.address, PORT)
        await self.host.open()

    def volume(self, name: str = "v") -> LocalVolume | None:
        try:
            hosted = self.host.named(name)
        except SofsError:
            return None
        return hosted.where.local


async def start(ports: Ports) -> HostNode:
    ports.files.make_directory("/data")
    node = HostNode(ports)
    await node.open()
    return node


class Hosts:
    """All of them, over one store."""

    def __init__(self, world: World, count: int) -> None:
        sofs.hosting.opening.SEGMENT = 512 << 10
        self.world = world
        self.machines: list[Machine[HostNode]] = [world.add(start) for _ in range(count)]
        self.written: dict[bytes, Inode] = {}
        self.number = 0

    async def begin(self, policy: str = "mirror(2) across host") -> None:
        """Starts all, each with a disk, and makes the volume `v` at the first."""
        for machine in self.machines:
            await self.join(machine)
        await asyncio.sleep(3)
        await self.machines[0].ask(lambda node: node.host.create_volume("v", "p", policy, False))

    async def join(self, machine: Machine[HostNode]) -> None:
        """Makes it a member, and starts it with a disk."""
        await self._member(machine, "active")
        machine.files.make_directory("/data")
        machine.files.sync_directory("/")
        machine.start()
        await machine.until_ready()
        await machine.ask(lambda node: node.host.add_disk("/data/disk", "ssd", "p", 128 << 20, False))

    async def evict(self, machine: Machine[HostNode]) -> None:
        """An operator says that it will not come back."""
        machine.kill()
        await self._member(machine, "evicted")

    async def _member(self, machine: Machine[HostNode], state: str) -> None:
        record = MemberRecord(id=machine.number + 1, name=machine.name, host=f"h{machine.number}", addresses=(), state=state)
        key = keys.member(record.id)
        entry = await self.world.store.get(key)
        await self.world.store.transact([Condition(key, entry.revision if entry else 0)], [Put(key, record.encode())])

    async def reap(self, machine: Machine[HostNode], incarnation: int) -> None:
        """What its supervisor does when the process has ended."""
        key = keys.dead(machine.number + 1)
        entry = await self.world.store.get(key)
        record = DeadRecord(incarnation=incarnation, by="supervisor")
        await self.world.store.transact([Condition(key, entry.revision if entry else 0)], [Put(key, record.encode())])

    def coordinator(self, name: str = "v") -> Machine[HostNode] | None:
        """Who says that it serves the volume, and may answer now."""
        found = None
        for machine in self.machines:
            if machine.up and machine.node is not None and not machine.paused:
                hosted = next((each for each in machine.node.host.volumes.values() if each.record.name == name), None)
                if hosted is not None and hosted.where.local is not None and hosted.store is not None and hosted.store.log.serving():
                    assert found is None, f"{found.name} and {machine.name} both serve {name}"
                    found = machine
        return found

    async def served(self, within: float = 30.0, by: Machine[HostNode] | None = None) -> float:
        """Waits until the volume is served (by this machine), and gives how long that took."""
        began = self.world.loop.time()
        while True:
            found = self.coordinator()
            if found is not None and by in (None, found):
                return self.world.loop.time() - began
            assert self.world.loop.time() - began < within, self.why()
            await asyncio.sleep(0.01)

    def why(self) -> str:
        return "; ".join(
            f"{machine.name}: {[(part.role.value, part.reason, part.hosted.reason, part.problems) for part in machine.node.host.parts.values()]}"
            for machine in self.machines
            if machine.node is not None
        )

    async def in_sync(self, count: int, within: float = 40.0) -> None:
        """Waits until the log has so many copies that count."""
        began = self.world.loop.time()
        while True:
            found = self.coordinator()
            if found is not None and found.node is not None:
                store = found.node.host.named("v").store
                if store is not None and len(store.log.replica_ids) >= count:
                    return
            assert self.world.loop.time() - began < within, self.why()
            await asyncio.sleep(0.05)

    def verifier(self) -> int:
        machine = self.coordinator()
        assert machine is not None and machine.node is not None, self.why()
        volume = machine.node.volume()
        assert volume is not None
        return volume.verifier

    def version(self) -> int:
        """Of the volume's configuration."""
        machine = self.coordinator()
        assert machine is not None and machine.node is not None, self.why()
        return machine.node.host.named("v").opened_store().log.version

    def holders(self) -> set[int]:
        """Numbers of the machines with a copy of the log that counts."""
        machine = self.coordinator()
        assert machine is not None and machine.node is not None, self.why()
        part = next(part for part in machine.node.host.parts.values() if part.hosted.record.name == "v")
        assert part.hosted.store is not None
        return {(part.node_of(id) or 0) - 1 for id in part.hosted.store.log.replica_ids}

    async def write(self, level: Level = Level.COMMITTED, within: float = 30.0) -> bytes:
        """Makes one more file with known contents, again and again with one token until somebody has acknowledged it."""
        self.number += 1
        name = b"f%d" % self.number
        began = self.world.loop.time()
        while True:
            machine = self.coordinator()
            if machine is not None:
                try:
                    async with asyncio.timeout(2.0):
                        self.written[name] = await machine.ask(lambda node: _write(node, name, level))
                    return name
                except (Gone, SofsError, TimeoutError):
                    pass
            assert self.world.loop.time() - began < within, self.why()
            await asyncio.sleep(0.02)

    async def verify(self) -> None:
        """Everything that was acknowledged is there, as it was written."""
        machine = self.coordinator()
        assert machine is not None, self.why()
        for name, inode in self.written.items():
            got = await machine.ask(lambda node, inode=inode: _read(node, inode))  # type: ignore[misc]
            assert got == contents(name), f"{name!r} reads {got[:20]!r}"


def contents(name: bytes) -> bytes:
    return (name + b".") * (4096 // (len(name) + 1) + 1)


async def _write(node: HostNode, name: bytes, level: Level) -> Inode:
    volume = node.volume()
    if volume is None:
        raise Unavailable("it is not served here")
    by = Binding(node.incarnation, 1)
    made = volume.call(Make(ROOT_USER, ROOT, name, Kind.FILE, Changes(mode=0o644)), Token(name), by)
    if not isinstance(made, Found):
        made = await made  # type: ignore[misc]
    assert isinstance(made, Found)
    inode = made.attributes.inode
    written = volume.write(Stateless(inode, ROOT_USER), 0, memoryview(contents(name)), None, level, by)
    if not isinstance(written, Written):
        written = await written
    done = asyncio.get_running_loop().create_future()
    volume.when(max(made.gate, written.gate), level, lambda: done.done() or done.set_result(None))  # type: ignore[func-returns-value]
    await done
    return inode


async def _read(node: HostNode, inode: Inode) -> bytes:
    volume = node.volume()
    assert volume is not None
    buffer = bytearray(8192)
    got = volume.read(Stateless(inode, ROOT_USER), 0, memoryview(buffer), Binding(node.incarnation, 1))
    if not isinstance(got, Read):
        got = await got
    return bytes(buffer[: got.count])
