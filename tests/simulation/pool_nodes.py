"""The disks of three nodes under every fault at once, used by a volume whose coordinator changes.

The volume is a model: its records survive everything and change at once, but only for the coordinator of the present tenure, as a replicated log sees to. A
coordinator that was deposed does not know it before a change of its is refused: until then, and with whatever it has begun, it goes on writing, deleting,
mending and collecting orphans. Everything below is the production code: pools, services, disks, the interconnect.

Faults: processes are killed (with what was in memory, or with the power), paused and resumed; links are cut and healed; connections break; bits rot,
never the same page of both copies; a disk is pulled out and put back, or drained and taken back; one node is lost for good with its disk, evicted, and
replaced.

What must hold: nobody ever reads anything but an extent's bytes, and nothing is damaged beyond mending; a disk that is retired is empty; no node sends what
another takes for nonsense; in the end, when all nodes are back, every recorded
extent has all its copies, each page of them good, and the disks hold nothing else. A seed replays a run:

    .venv/bin/python -m tests.simulation.pool_nodes SEED [SECONDS]
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from sofs.errors import Damaged, ExtentGone, SofsError
from sofs.pool import Copies, Fragment, Placement
from sofs.pool.fragment import META_PER_SLOT, SLOT_SIZE
from sofs.pool.local_disk import LocalDisk
from sofs.pool.members import DiskSpec
from sofs.pool.opening import make_disk
from sofs.pool.policy import Policy
from sofs.pool.states import State
from sofs.runtime.simulated_files import Latency
from sofs.runtime.simulated_loop import SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_process import Crash
from sofs.types import PAGE, DiskId
from tests.unit.pool.nodes import ACROSS, Node, Nodes
from tests.unit.pool.rig import ARENA_SLOTS, MIB, VOLUME, content, eid

__all__ = ["Broken", "run"]

GRANT = 16
GRACE_S = 40.0


class Broken(AssertionError):
    """An invariant does not hold."""


class Deposed(Exception):
    """Another coordinator serves the volume."""


@dataclass
class Extent:
    at: Placement
    origin: int
    """Whose content it has: the number under which it was written at first."""


@dataclass
class Volume:
    """Records, and whose turn it is to change them."""

    tenure: int = 0
    next: int = 1
    recorded: dict[int, Extent] = field(default_factory=dict)
    freed: dict[int, Placement] = field(default_factory=dict)
    ever: set[int] = field(default_factory=set)
    """Numbers that were recorded at any time."""

    def check(self, tenure: int) -> None:
        """As the log does with whatever is appended."""
        if tenure != self.tenure:
            raise Deposed

    def known(self, number: int) -> tuple[Fragment, ...]:
        if number in self.recorded:
            return self.recorded[number].at.fragments
        return self.freed[number].fragments if number in self.freed else ()


class Coordinator:
    """One tenure, at one node. What it does is what `sofs.volume.extents` and its users do."""

    def __init__(self, world: "World", node: Node, tenure: int) -> None:
        self.world = world
        self.volume = world.volume
        self.node = node
        self.pool = node.pool
        self.tenure = tenure
        self.numbers: list[int] = []
        self.in_use: set[int] = set()
        self.in_doubt = 0

    def start(self) -> None:
        for duty in (self.clean(), self.client(), self.client(), self.client()):
            self.world.begin(self.node, duty)

    async def client(self) -> None:
        random = self.world.random
        while not self.world.quiet:
            await asyncio.sleep(random.fraction() * 0.4)
            try:
                chance = random.fraction()
                if chance < 0.45 and len(self.volume.recorded) < 24:
                    await self.write()
                elif chance < 0.65 and self.volume.recorded:
                    await self.delete(self.pick())
                elif self.volume.recorded:
                    await self.read(self.pick())
            except Deposed:
                return
            except SofsError as error:
                self.world.met[type(error).__name__] += 1

    def pick(self) -> int:
        return list(self.volume.recorded)[self.world.random.below(len(self.volume.recorded))]

    def take(self) -> int:
        if not self.numbers:
            self.volume.check(self.tenure)
            self.numbers = list(range(self.volume.next, self.volume.next + GRANT))
            self.volume.next += GRANT
        number = self.numbers.pop(0)
        self.in_use.add(number)
        return number

    async def write(self) -> None:
        length = (PAGE, 20 * PAGE, MIB, MIB + PAGE)[self.world.random.below(4)]
        number = self.take()
        try:
            at = await self.pool.write(eid(number), [content(number, length)], self.world.policy)
            self.volume.check(self.tenure)
            self.volume.recorded[number] = Extent(at, number)
            self.volume.ever.add(number)
            self.world.met["written"] += 1
        finally:
            self.in_use.discard(number)

    async def delete(self, number: int) -> None:
        self.volume.check(self.tenure)
        extent = self.volume.recorded.pop(number)
        self.volume.freed[number] = extent.at
        await self.really_delete(number)

    async def really_delete(self, number: int) -> None:
        # From here on the deletion is stable: a deposed coordinator carries it out, too, and so does its successor.
        at = self.volume.freed.get(number)
        if at is not None:
            await self.pool.delete(at)
            self.volume.check(self.tenure)
            self.volume.freed.pop(number, None)
            self.world.met["deleted"] += 1

    async def read(self, number: int) -> None:
        extent = self.volume.recorded[number]
        offset = self.world.random.below(extent.at.length // PAGE) * PAGE
        length = min(extent.at.length - offset, (PAGE, 300 * PAGE)[self.world.random.below(2)])
        await self.world.read(self.node, extent, number, offset, length)

    async def clean(self) -> None:
        """Finishes what predecessors have begun, collects orphans, re-protects."""
        done = 0
        while True:
            try:
                for number in list(self.volume.freed):
                    await self.really_delete(number)
                if not done or self.pool.in_doubt != self.in_doubt:
                    await self.collect()
                done += 1
                await self.protect()
            except Deposed:
                return
            except SofsError as error:
                self.world.met[type(error).__name__] += 1
            await asyncio.sleep(2 * self.world.random.fraction())

    async def collect(self) -> None:
        self.volume.check(self.tenure)
        in_doubt = self.pool.in_doubt
        ids = range(1, min((self.volume.next, *self.in_use, *self.numbers)))
        whole = self.all_there()
        await self.pool.revoke(VOLUME, ids)
        found = await self.pool.orphans(VOLUME, ids, self.volume.known)
        if self.world.random.chance(0.2):
            await asyncio.sleep(10 * self.world.random.fraction())  # long enough to be deposed in between
        for at in found:
            await self.pool.delete(at)
            self.world.met["orphans"] += 1
        self.in_doubt = in_doubt
        self.volume.check(self.tenure)
        if whole and self.all_there() and self.pool.in_doubt == in_doubt:
            self.world.closed = max(self.world.closed, ids.stop)

    def all_there(self) -> bool:
        return all(status.state is State.HEALTHY for status in self.pool.disks())

    async def protect(self) -> None:
        for number in list(self.volume.recorded):
            extent = self.volume.recorded.get(number)
            copies = None if extent is None else self.pool.relied_on(extent.at)
            if extent is None or copies is None or copies.sure >= self.pool.attainable(self.world.policy):
                continue
            new = self.take()
            try:
                at = await self.pool.reprotect(extent.at, eid(new), self.world.policy)
                self.volume.check(self.tenure)
                if self.volume.recorded.get(number) is not extent:
                    await self.pool.delete(at)
                    continue
                self.volume.recorded[new] = Extent(at, extent.origin)
                self.volume.ever.add(new)
                self.volume.freed[number] = self.volume.recorded.pop(number).at
                self.world.met["re-protected"] += 1
            finally:
                self.in_use.discard(new)
            await self.really_delete(number)


class World:
    """The nodes, the volume, and what happens to them."""

    def __init__(self, loop: SimulatedLoop, seed: int, policy: Policy = ACROSS) -> None:
        self.random = SimulatedRandom(seed)
        self.policy = policy
        self.nodes = Nodes(loop, SimulatedRandom(seed + 1), 3, arenas=4, grace_s=GRACE_S, latency=Latency(300e-6, 2e-3), miss=0.3)
        self.volume = Volume()
        self.met: Counter[str] = Counter()
        self.broken: list[str] = []
        self.pulled: dict[int, str] = {}
        self.draining: set[DiskId] = set()
        self.quiet = False
        self.closed = 0
        """A collection over all disks was made below this number: what was never recorded will never be on a disk again."""
        self.coordinator: Coordinator | None = None

    async def visit(self, node: Node) -> None:
        """Somebody reads who is not the coordinator."""
        if not self.volume.recorded:
            return
        number = list(self.volume.recorded)[self.random.below(len(self.volume.recorded))]
        extent = self.volume.recorded[number]
        try:
            await self.read(node, extent, number, 0, extent.at.length)
        except SofsError as error:
            self.met[type(error).__name__] += 1

    async def watch(self) -> None:
        """Looks for writes that were made after they were revoked, and collected; and has others read."""
        while not self.broken:
            closed = self.closed
            await asyncio.sleep(0.5)
            for node in self.running():
                self.begin(node, self.visit(node))
            for node in self.running():
                for member in node.pool.members:
                    if isinstance(member.disk, LocalDisk) and member.state is State.RETIRED and not member.disk.empty:
                        self.broken.append(f"disk {member.spec.id:x} is retired with {member.disk.entries(0, member.disk.slots)}")
            for disk, entries in self.nodes.used().items():
                for slot, entry in entries.items():
                    if entry.id.number < closed and entry.id.number not in self.volume.ever:
                        self.broken.append(f"extent {entry.id.number} appeared in slot {slot} of disk {disk:x} after its number was revoked")

    def begin(self, node: Node, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coordinator's duty in its node's process; what it must never raise breaks the run."""

        async def carry() -> None:
            try:
                await work
            except (asyncio.CancelledError, Crash, GeneratorExit):
                raise
            except BaseException as error:
                self.broken.append(f"a duty ended with {error!r}")

        assert node.process is not None
        node.process.start(self.nodes.loop, carry())

    async def read(self, node: Node, extent: Extent, number: int, offset: int, length: int) -> None:
        into = memoryview(bytearray(length))
        try:
            waiting = node.pool.read(extent.at, offset, into)
            if waiting is not None:
                await waiting
        except Damaged as error:
            states = [f"{node.pool.members.describe(fragment.disk)}" for fragment in extent.at.fragments]
            self.broken.append(f"extent {number} (content {extent.origin}) is damaged: {error}; {states}")
            raise
        except ExtentGone:
            if number in self.volume.recorded and self.volume.recorded[number] is extent:
                self.broken.append(f"extent {number} is recorded and gone")
            raise
        if bytes(into) != content(extent.origin, extent.at.length)[offset : offset + length]:
            self.broken.append(f"extent {number} reads as something else at {offset}")
        self.met["read"] += 1

    # Faults

    def running(self) -> list[Node]:
        return [node for node in self.nodes.all if node.process is not None and node.process.running]

    async def all_running(self) -> None:
        """Whoever is paused or being started again will run in a while."""
        for _ in range(60):
            if len(self.running()) == 3:
                return
            await asyncio.sleep(1)
        raise Broken("not all nodes came back")

    def rot(self) -> None:
        """A bit flips in some recorded extent, in one page or in all that may of one copy.

        Which may depends on the node, so that there is always a good copy of each.
        """
        if not self.volume.recorded:
            return
        extent = list(self.volume.recorded.values())[self.random.below(len(self.volume.recorded))]
        if len(extent.at.fragments) < self.policy.scheme.width:
            return
        disk, slot = extent.at.fragments[self.random.below(len(extent.at.fragments))]
        owner = self.nodes.owner(disk)
        if owner.id in self.pulled:
            return
        pages = [page for page in range(extent.at.length // PAGE) if page % 3 == owner.id % 3]
        arena, base = f"/disks/d0/arenas/{slot // ARENA_SLOTS:06d}", slot % ARENA_SLOTS * SLOT_SIZE
        meta = META_PER_SLOT * -(-extent.at.length // MIB)
        if pages and owner.files.exists(arena):
            for page in {0: pages, 1: [pages[self.random.below(len(pages))]]}[self.random.below(2)]:
                owner.files.flip(arena, base + meta + page * PAGE + self.random.below(PAGE), self.random.below(8))
            self.met["rot"] += 1

    async def trouble(self, limit: float) -> None:
        """One fault after the other until the time is over; each heals after a while."""
        nodes, random = self.nodes, self.random
        end = nodes.clock.monotonic() + limit
        while nodes.clock.monotonic() < end:
            await asyncio.sleep(4 * random.fraction())
            if self.broken:
                raise Broken(self.broken[0])
            node = nodes[1 + random.below(3)]
            other = nodes[1 + (node.id + random.below(2)) % 3]
            chance = random.fraction()
            if chance < 0.2:
                nodes.network.lose(node.address, other.address)
            elif chance < 0.35:
                nodes.cut(node, other)
                nodes.loop.call_later(15 * random.fraction(), nodes.heal, node, other)
            elif chance < 0.5:
                if node.process is not None and node.process.running:
                    node.process.pause()
                    nodes.loop.call_later(12 * random.fraction(), node.process.resume, nodes.loop)
            elif chance < 0.65 and len(self.running()) == 3 and not self.pulled:
                nodes.kill(node, random.chance(0.5))
                await asyncio.sleep(12 * random.fraction())
                nodes.network.power_up(node.address)
                await nodes.start(node)
                self.met["restarts"] += 1
            elif chance < 0.72 and node.id not in self.pulled:
                # Its process keeps what it has open; whoever looks finds no label.
                node.files.rename("/disks/d0/label", "/disks/d0/label.pulled")
                node.files.sync_directory("/disks/d0")
                self.pulled[node.id] = "label"
                nodes.loop.call_later(10 + 20 * random.fraction(), self.put_back, node)
            elif chance < 0.8:
                self.depose()
            elif chance < 0.86:
                self.drain(other)
            else:
                self.rot()

    def put_back(self, node: Node) -> None:
        if self.pulled.pop(node.id, None):
            node.files.rename("/disks/d0/label.pulled", "/disks/d0/label")
            node.files.sync_directory("/disks/d0")
            self.met["put back"] += 1

    def drain(self, asked: Node) -> None:
        """An operator has a disk emptied, by way of any node, and takes it back into service some time later."""
        disks = [spec.id for spec in self.nodes.specs if not spec.lost]
        disk = disks[self.random.below(len(disks))]
        if self.draining or asked not in self.running():
            return

        async def drain() -> None:
            try:
                await asked.pool.drain(disk)
            except SofsError as error:
                self.met[type(error).__name__] += 1
                return
            self.draining.add(disk)
            self.met["drained"] += 1

        self.begin(asked, drain())
        self.nodes.loop.call_later(5 + 30 * self.random.fraction(), self.undrain)

    def undrain(self) -> None:
        there = {spec.id for spec in self.nodes.specs if not spec.lost}
        for disk in list(self.draining):
            owner = self.nodes.owner(disk) if disk in there else None
            if owner is not None and owner not in self.running():
                continue
            if owner is not None:
                state = owner.pool.members.state(disk)
                if state is State.MISSING:
                    continue  # pulled out: it is drained still when it is back
                if state in (State.DRAINING, State.RETIRED):
                    owner.pool.members.drain(disk, False)
                self.met[f"undrained {state}"] += 1
            self.draining.discard(disk)

    def depose(self) -> None:
        """Somebody who runs takes over; the former coordinator hears nothing of it."""
        candidates = self.running()
        if candidates:
            self.volume.tenure += 1
            self.coordinator = Coordinator(self, candidates[self.random.below(len(candidates))], self.volume.tenure)
            self.coordinator.start()
            self.met["tenures"] += 1

    async def lose_a_node(self) -> None:
        """A node is lost with its disk, evicted, and replaced by one with an empty disk."""
        nodes = self.nodes
        node = nodes[1 + self.random.below(3)]
        spec = next(spec for spec in nodes.specs if spec.node == node.id and not spec.lost)
        nodes.kill(node, power=True)
        nodes.specs = [each._replace(lost=True) if each is spec else each for each in nodes.specs]
        for each in self.running():
            await nodes.run(each, each.pool.update(nodes.specs))
        self.depose()
        await self.settled(2)
        node.files = type(node.files)(self.random, latency=node.files.latency, miss=node.files.miss)
        label = make_disk(
            node.files, self.random, spec.path, pool="p", tier="ssd", host=node.host, capacity=4 * ARENA_SLOTS * SLOT_SIZE, arena_slots=ARENA_SLOTS
        )
        nodes.specs = [each for each in nodes.specs if each.id != spec.id]
        nodes.specs.append(DiskSpec(spec.path, label.id, "ssd", node.host, node=node.id))
        nodes.network.power_up(node.address)
        await nodes.start(node)
        for each in self.running():
            if each is not node:
                await nodes.run(each, each.pool.update(nodes.specs))
        self.met["replaced"] += 1

    # The end

    async def settled(self, copies: int) -> None:
        """Waits until no extent lacks what it can have now."""
        lacking: list[Copies | None] = []
        for _ in range(300):
            await asyncio.sleep(1)
            if self.broken:
                raise Broken(self.broken[0])
            pool = self.running()[0].pool
            lacking = [pool.relied_on(extent.at) for extent in self.volume.recorded.values()]
            if all(each is None or each.sure >= copies for each in lacking):
                return
        raise Broken(f"extents still lack copies: {[each for each in lacking if each]}")

    async def end(self) -> None:
        """Everything is well again: what is there?"""
        nodes = self.nodes
        for node in nodes.all:
            self.put_back(node)
            for other in nodes.all:
                if other is not node:
                    nodes.heal(node, other)
            assert node.process is not None
            node.process.resume(nodes.loop)
        for _ in range(200):
            await asyncio.sleep(1)
            self.undrain()
            if all(nodes.state(node, spec.id) is State.HEALTHY for node in nodes.all for spec in nodes.specs):
                break
            for node in nodes.all:
                # What a failed sync leaves is opened anew by an operator; there is none here, and none is needed.
                assert all(status.state is not State.FAILED for status in node.pool.disks() if status.own), node.pool.disks()
        else:
            raise Broken(
                f"disks do not recover: {[(node.id, [str(each.state) + ': ' + each.reason for each in node.pool.disks()]) for node in nodes.all]}"
            )
        assert self.coordinator is not None
        if self.coordinator.node.own_pool is not self.coordinator.pool:
            self.depose()  # its process is no more
        await self.settled(self.policy.scheme.width)
        self.quiet = True
        await asyncio.sleep(60)
        await self.verify()

    async def verify(self) -> None:
        nodes, volume = self.nodes, self.volume
        if self.broken:
            raise Broken(self.broken[0])
        there = {(Fragment(disk, slot), entry.id.number) for disk, entries in nodes.used().items() for slot, entry in entries.items()}
        wanted = {(fragment, number) for number, extent in volume.recorded.items() for fragment in extent.at.fragments}
        if there != wanted:
            raise Broken(f"leaked: {sorted(there - wanted)}; lost: {sorted(wanted - there)}")
        for number, extent in volume.recorded.items():
            if len(extent.at.fragments) != self.policy.scheme.width:
                raise Broken(f"extent {number} has {len(extent.at.fragments)} copies")
            for node in nodes.all:
                await nodes.run(node, self.read(node, extent, number, 0, extent.at.length))
        # Rot that nobody has read yet is found by scrubbing.
        problems: list[str] = []
        for _ in range(40):
            await asyncio.sleep(20)
            problems = [line for extent in volume.recorded.values() for line in await nodes.run(nodes[1], nodes[1].pool.check(extent.at))]
            if not problems:
                break
        else:
            raise Broken(f"never mended: {problems[:3]}")
        if self.broken:
            raise Broken(self.broken[0])


def run(seed: int, troubled_s: float = 60.0) -> Counter[str]:
    """One run; gives what was met. Raises `Broken`."""

    async def main(loop: SimulatedLoop) -> Counter[str]:
        world = World(loop, seed)
        await world.nodes.start_all()
        world.depose()
        watching = asyncio.ensure_future(world.watch())
        await asyncio.sleep(5)
        await world.trouble(troubled_s)
        if world.random.chance(0.3):
            await world.all_running()
            for node in world.nodes.all:
                for other in world.nodes.all:
                    if other is not node:
                        world.nodes.heal(node, other)
            await asyncio.sleep(GRACE_S)
            world.depose()
            await world.settled(world.policy.scheme.width)
            await world.lose_a_node()
            await world.trouble(troubled_s / 3)
        await world.all_running()
        await world.end()
        watching.cancel()
        return world.met

    with structlog.testing.capture_logs() as events:
        met = simulate(main)
    if nonsense := [event for event in events if event["event"] in ("cluster.peer_error", "cluster.handler_failed", "cluster.connection_failed")]:
        raise Broken(f"a node sends nonsense: {nonsense[0]}")
    return met


if __name__ == "__main__":
    print(dict(run(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 60.0)))
