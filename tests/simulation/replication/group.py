"""Three machines with one log, its clients, and one seed's life of them.

`Group` is to faults what a `Cluster` is to those of whole clusters.
"""

import asyncio
from typing import Any, NamedTuple

import msgspec

import sofs.log.remote
from sofs.coordination.store import Condition, Put
from sofs.errors import NoSpace, SofsError, Unavailable
from sofs.log.configuration import BEGINNING, Configuration
from sofs.log.replica import LocalReplica
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.types import Level
from tests.simulation.cluster.machine import Gone, Machine, Ports
from tests.simulation.cluster.world import World, run
from tests.simulation.replication.faults import GroupFaults
from tests.simulation.replication.judge import LOG_ID, SEGMENT, Judge, chain
from tests.simulation.replication.machine import store_checkpoint
from tests.simulation.replication.member import CONFIGURATION, DEAD, Member, decode_configuration

__all__ = ["Group", "Lived", "live"]

_WELL_S = 120.0
"""Virtual seconds within which everything is in order again when all faults are over."""


class Lived(NamedTuple):
    """What a run came to."""

    told: int
    lost: int
    leads: int
    broken: int
    faults: dict[str, int]
    virtual: float
    digest: int


class Group:
    """All machines."""

    def __init__(self, world: World, count: int) -> None:
        self.world = world
        self.judge = Judge()
        self.volumes = ["log"]
        self.memory_lost = False
        self.machines: list[Machine[Any]] = [world.add(self._start) for _ in range(count)]
        self.judge.machines = self.machines
        for machine in self.machines:
            machine.ended = self._look
        self.written = 0

    async def _start(self, ports: Ports) -> Member:
        member = Member(ports, self.judge, len(self.machines))
        await member.open()
        return member

    def _look(self, machine: Machine[Any]) -> None:
        self.judge.look(machine.files)

    async def begin(self, replicas: int) -> None:
        """Makes the log on the first machines, and starts all."""
        ids = tuple(1000 * (number + 1) for number in range(replicas))
        first = Configuration(1, ids)
        await self.world.store.transact([Condition(CONFIGURATION, 0)], [Put(CONFIGURATION, msgspec.msgpack.encode(first))])
        for machine, id in zip(self.machines, (*ids, *[0] * len(self.machines)), strict=False):
            machine.files.make_directory("/data")
            if id:
                await _make_replica(machine.files, id, machine.boot)
            machine.files.sync_directory("/")
            machine.start()
        for machine in self.machines:
            await machine.until_ready()

    async def configuration(self) -> Configuration:
        entry = await self.world.store.get(CONFIGURATION)
        assert entry is not None
        return decode_configuration(entry.value)

    # What faults ask for

    async def reaped(self, machine: Machine[Any]) -> None:
        """A supervisor finds out that a process has ended, and says so."""
        configuration = await self.configuration()
        if configuration.coordinator == machine.number + 1 and not machine.up and not configuration_alive(machine, configuration):
            await self.world.store.transact([], [Put(f"{DEAD}{machine.number + 1}", b"%d" % configuration.incarnation)])

    async def made_up(self) -> None:
        """Completes when every machine's replica counts again."""
        while not self.judge.gone and not await self._well():  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    async def move(self, volume: str, asked: Machine[Any], target: Machine[Any]) -> None:
        await asked.ask(lambda member: member.hand_over(target.number + 1))

    async def _well(self) -> bool:
        configuration = await self.configuration()
        leader = [machine.node for machine in self.machines if machine.node is not None and machine.node.ready and machine.node.serves()]
        return (
            len(configuration.replicas) == len(self.machines) and len(leader) == 1 and set(leader[0].log.replica_ids) == set(configuration.replicas)
        )

    # Clients

    async def client(self) -> None:
        """Writes and reads, wherever it is answered, until it is cancelled."""
        random = self.world.random
        pace = (0.004, 0.02, 0.1)[random.below(3)]
        while True:
            await asyncio.sleep(random.fraction() * 2 * pace)
            machine = self.serving() or self.machines[random.below(len(self.machines))]
            level = Level.STABLE if random.chance(0.3) else Level.COMMITTED
            try:
                if random.chance(0.15):
                    asked = dict(self.judge.committed)
                    async with asyncio.timeout(5.0):
                        await machine.ask(lambda member, asked=asked: member.show(asked))  # type: ignore[misc]
                    continue
                works = [asyncio.ensure_future(self._write(machine, level)) for _ in range(1 + random.below(8) * random.below(2))]
                await asyncio.wait(works, timeout=5.0)
                for work in works:
                    work.cancel()
            except (SofsError, Gone, TimeoutError):
                await asyncio.sleep(0.05)

    async def _write(self, machine: Machine[Any], level: Level) -> None:
        random = self.world.random
        await asyncio.sleep(random.fraction() * 0.002)
        self.written += 1
        number, payload = self.written, random.bytes(random.below((20, 300, 5000)[random.below(3)]))
        try:
            await machine.ask(lambda member: member.write(number, payload, level))
        except (SofsError, Gone):
            await asyncio.sleep(0.05)

    def serving(self) -> Machine[Any] | None:
        return next((machine for machine in self.machines if machine.node is not None and machine.node.serves()), None)

    async def watch(self) -> None:
        """Looks at who serves, at every moment as it were."""
        while self.judge.wrong is None:
            self.check_one_serves()
            configuration = await self.configuration()
            member: Member | None = self.machines[max(configuration.coordinator - 1, 0)].node
            if member is not None and member.log is not None and (member.ready or not member.broken):
                in_force = member.incarnation == configuration.incarnation and member.log.version == configuration.version
                for lsn in self.judge.recent if in_force else ():
                    self.judge.all_have(lsn, Level.COMMITTED, configuration.replicas)
            await asyncio.sleep(0.01)
        raise self.judge.wrong

    def check_one_serves(self) -> None:
        serving = [machine for machine in self.machines if machine.node is not None and machine.node.serves()]
        self.judge.serve([machine.name for machine in serving])

    # The end

    def stretch_wires(self) -> None:
        """Some copies are nearer than others: when a coordinator dies, what they have differs."""
        for number, one in enumerate(self.machines):
            for other in self.machines[:number]:
                self.world.network.slow(one.name, other.name, (1.0, 20.0, 200.0)[self.world.random.below(3)])

    def settle(self) -> None:
        for machine in self.machines:
            machine.line.up, machine.line.trouble, machine.line.restarts, machine.line.delay = True, 0.0, 0.0, 1e-3
            machine.files.crash_at = None
            machine.files.faults.clear()
            machine.resume()
            if not machine.up:
                machine.start()
            machine.files.latency = Latency(100e-6, 1e-3)
            for other in self.machines:
                self.world.network.heal(machine.name, other.name)
                self.world.network.slow(machine.name, other.name, 1.0)

    async def check_end(self) -> None:
        """All is well again: every replica counts and holds the same, and nothing that was promised is missing."""
        async with asyncio.timeout(_WELL_S):
            await self.made_up()
        async with asyncio.timeout(_WELL_S):
            while not await self._checked():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            await self.made_up()
        machine = self.serving()
        assert machine is not None and machine.node is not None
        leader: Member = machine.node
        assert leader.log is not None
        # What is stable is known everywhere with the next beacon.
        await asyncio.sleep(2.0)
        stable, start = leader.log.stable, leader.log.start
        expected = {key: value for key, value in self._records(leader).items() if start <= key < stable}
        for other in self.machines:
            member = other.node
            assert isinstance(member, Member) and member.own is not None and leader.own is not None
            self.judge.look(other.files)
            found = {key: value for key, value in self._records(member).items() if start <= key < stable}
            assert found == expected or min(found) > start, f"{other.name} holds other records than {machine.name}"
            assert all(expected[key] == value for key, value in found.items())
            assert member.own.machine.entries == leader.own.machine.entries, f"the machine of {other.name} differs from that of {machine.name}"

    async def _checked(self) -> bool:
        """Whether whoever serves could write once more, and read everything in every copy. Raises what is wrong with that."""
        machine = self.serving()
        if machine is None:
            return False
        self.written += 1
        try:
            await machine.ask(lambda member: member.write(self.written, b"last", Level.STABLE))
            await machine.ask(lambda member: member.show(dict(self.judge.committed)))
            await machine.ask(lambda member: member.check_copies())
        except (NoSpace, Unavailable):
            # Until the next checkpoint, or until a connection that broke is there again.
            return False
        return True

    def _records(self, member: Member) -> dict[int, int]:
        """By position, the checksum of the record of the newest version there."""
        assert member.own is not None
        rows = chain(member.ports.files, f"/data/{member.own.id}/log")
        return {lsn: checksum for (_, lsn), checksum in sorted(rows.items())}


def configuration_alive(machine: Machine[Any], configuration: Configuration) -> bool:
    return machine.node is not None and machine.node.incarnation == configuration.incarnation


async def _make_replica(files: SimulatedFiles, id: int, boot: bytes) -> None:
    path = f"/data/{id}"
    files.make_directory(f"{path}/log")
    replica = LocalReplica(files, f"{path}/log", LOG_ID, id, SEGMENT)
    replica.prepare(0)
    await replica.sync()
    replica.close()
    records = files.records(f"{path}/records", 1 << 30)
    await store_checkpoint(records, BEGINNING, [])
    records.close()
    file = files.open(f"{path}/note", create=True)
    file.write(0, [boot])
    file.sync_now()
    file.close()
    files.sync_directory(path)
    files.sync_directory("/data")


async def _live(world: World, duration: float) -> Lived:
    random = world.random
    count = 3 if random.chance(0.8) else 2
    group = Group(world, count)
    await group.begin(count if random.chance(0.8) else count - 1)
    if random.chance(0.6):
        group.stretch_wires()
    working = [asyncio.ensure_future(group.client()) for _ in range(1 + random.below(3))]
    watching = asyncio.ensure_future(group.watch())
    faults = GroupFaults(group)
    striking = asyncio.ensure_future(faults.strike())
    done, _ = await asyncio.wait([*working, watching, striking], timeout=duration * (0.5 + random.fraction()), return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    striking.cancel()
    await asyncio.wait([striking])
    faults.stop()
    world.note("world", "settling")
    await asyncio.sleep(0)
    group.settle()
    for task in working:
        task.cancel()
    await asyncio.wait(working)
    if not group.judge.gone:
        ending = asyncio.ensure_future(group.check_end())
        done, _ = await asyncio.wait([ending, watching], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    watching.cancel()
    judge = group.judge
    return Lived(len(judge.committed), judge.lost, judge.leads, judge.broken_leads, faults.counts, world.loop.time(), world.digest)


def live(seed: int, loud: bool = False, duration: float = 5.0) -> Lived:
    """Runs a seed. Raises AssertionError, or whatever escaped, with the last events as a note."""
    sofs.log.remote._PIECE = 4096  # so that catching up takes many messages, as it does where logs are large
    return run(seed, lambda world: _live(world, duration), loud)
