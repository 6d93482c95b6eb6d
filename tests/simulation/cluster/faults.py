"""What goes wrong: each fault is a function that does its harm for a while and takes it back, unless a later one overtakes it.

Which of them may come at once is decided here, too: what a volume's policy does not tolerate is no failure of ours. Processes may be killed, paused and
cut off, and the store be away, in any number and at any time. What costs a replica for good, or its memory (a disk, a host's power), comes alone, after the
cluster has had time to make up for the one before; except that the power of all nodes may go at once: then what is stable stays.
"""

import asyncio
from collections.abc import Awaitable, Callable

from sofs.errors import DiskFailed, NoSpace, SofsError
from sofs.runtime.simulated_files import Latency
from tests.simulation.cluster.cluster import Cluster, Node
from tests.simulation.cluster.machine import DATA, Gone, Machine
from tests.simulation.cluster.members import drain, evict, join, leave, stop

__all__ = ["FAULTS", "TOGETHER", "Faults"]


class Faults:
    """The faults of one run."""

    def __init__(self, cluster: Cluster, names: tuple[str, ...]) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.random = cluster.world.random
        # Some seeds have many kinds, others one over and over.
        some = [name for name in names if self.random.chance(0.4)]
        self.names = some or list(names)
        self.counts: dict[str, int] = {}
        self.pace = (0.3, 1.0, 4.0)[self.random.below(3)]
        self._under_way: dict[asyncio.Future[None], str] = {}
        self.costly = asyncio.Lock()
        """Held by whatever costs a replica or its memory."""
        self.deposing = asyncio.Lock()
        """Held while somebody is being deposed."""
        self.enrolling = asyncio.Lock()
        """Held while an operator sees to the nodes."""

    async def strike(self) -> None:
        """Until it is cancelled."""
        while self.names:
            await asyncio.sleep(self.random.fraction() * 2 * self.pace)
            name = self.names[self.random.below(len(self.names))]
            task = asyncio.ensure_future(self._one(name))
            self._under_way[task] = name
            task.add_done_callback(self._over)

    async def _one(self, name: str) -> None:
        if name in COSTLY:
            if self.costly.locked() or (name in DISKS and not self._spare_disk()):
                return
            async with self.costly:
                self._note(name)
                self.cluster.memory_broken |= name not in HARMLESS
                await FAULTS[name](self)
                await self.cluster.made_up()
        else:
            self._note(name)
            await FAULTS[name](self)

    def _spare_disk(self) -> bool:
        """One more host may do without its disk: a failed one stays so until somebody replaces it. No log lies on that disk alone."""
        if not self.cluster.single and not (self._all_run() and all(self.cluster.whole(name) for name in self.cluster.volumes)):
            return False
        self.cluster.disks_lost += 1
        return self.cluster.single or self.cluster.disks_lost <= len(self.cluster.machines) - 2

    def _all_run(self) -> bool:
        return all(machine.node is not None and not machine.paused for machine in self.cluster.machines)

    def _note(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        self.world.note("fault", name)

    def _over(self, task: "asyncio.Future[None]") -> None:
        self._under_way.pop(task, None)
        if not task.cancelled():
            task.result()

    def stop(self) -> None:
        """No more harm; what has been done is for `Cluster.settle` to take back. Operators finish what they have begun: see `finish`."""
        for task, name in list(self._under_way.items()):
            if name not in OPERATORS:
                task.cancel()

    async def finish(self) -> None:
        """Waits for the operators, who have nothing in their way any more."""
        async with asyncio.timeout(600):
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def any(self) -> Machine[Node]:
        return self.cluster.machines[self.random.below(len(self.cluster.machines))]

    def important(self) -> Machine[Node]:
        """Whoever serves a volume, more often than not."""
        volume = self.cluster.volumes[self.random.below(len(self.cluster.volumes))]
        serving = [machine for machine in self.cluster.machines if machine.node is not None and machine.node.serves(volume)]
        return serving[0] if serving and self.random.chance(0.6) else self.any()

    def pair(self) -> tuple[Machine[Node], Machine[Node]]:
        one = self.important()
        others = [machine for machine in self.cluster.machines if machine is not one]
        return one, others[self.random.below(len(others))] if others else one

    def some_time(self, average: float) -> Awaitable[None]:
        short = self.random.chance(0.5)
        return asyncio.sleep(self.random.fraction() * 2 * average * (0.2 if short else 1.0))

    async def restart(self, machine: Machine[Node], after: float) -> None:
        await self.some_time(after)
        if not machine.up and machine in self.cluster.machines:
            machine.start()


# Processes


async def kill(faults: Faults) -> None:
    machine = faults.important()
    if machine.up:
        machine.kill()
        if faults.random.chance(0.5):
            await faults.cluster.reaped(machine)
        await faults.restart(machine, 3.0)


async def kill_at_step(faults: Faults) -> None:
    machine = faults.important()
    if machine.up:
        machine.crash_at_step(1 + faults.random.below(200), "kill")
        await faults.some_time(3.0)
        machine.files.crash_at = None
        await faults.restart(machine, 1.0)


async def kill_all(faults: Faults) -> None:
    for machine in faults.cluster.machines:
        if machine.up:
            machine.kill()
    for machine in faults.cluster.machines:
        await faults.restart(machine, 0.5)


async def pause(faults: Faults) -> None:
    """SIGSTOP; sometimes the host sleeps."""
    machine = faults.important()
    machine.pause()
    await faults.some_time(5.0)
    machine.resume()


async def deposed(faults: Faults) -> None:
    """Whoever serves is stopped until another one has taken over; then it hears of that late, and not from everybody.

    Half of the time that is long enough for a third to be taken in, and to be handed the volume: then whoever took over stands by again.
    """
    if faults.deposing.locked():
        return
    async with faults.deposing:
        machine = faults.important()
        others = [other for other in faults.cluster.machines if other is not machine]
        unheard = [other for other in others if faults.random.chance(0.3)]
        machine.line.lag = 2.0
        machine.pause()
        await asyncio.sleep(3.5 + 4 * faults.random.fraction())
        if faults.random.chance(0.5) and others:
            await faults.cluster.made_up()
            await _move(faults, others[faults.random.below(len(others))], others[faults.random.below(len(others))])
        for other in unheard:
            faults.world.network.partition(machine.name, other.name)
        machine.resume()
        await faults.some_time(3.0)
        for other in unheard:
            faults.world.network.heal(machine.name, other.name)
        machine.line.lag = 2e-3


# Hosts


async def power_loss(faults: Faults) -> None:
    machine = faults.important()
    machine.lose_power()
    await faults.restart(machine, 4.0)


async def power_loss_of_all(faults: Faults) -> None:
    faults.cluster.memory_lost = True
    for machine in faults.cluster.machines:
        machine.lose_power()
    for machine in faults.cluster.machines:
        await faults.restart(machine, 1.0)


async def forgetful(faults: Faults) -> None:
    """A host loses power and is back while whoever serves has been killed and is away for a moment: that one has everything, and is waited for."""
    server, other = faults.pair()
    if server.up and other.up and server is not other:
        server.kill()
        other.lose_power()
        await faults.cluster.reaped(server)
        other.start()
        await faults.restart(server, 4.0)


async def blackout(faults: Faults) -> None:
    """The power of all goes while the disks of most are slow, and the one whose is not comes back so late that the others go on without it: what was
    stable is at every one that counted.
    """
    late, faults.cluster.memory_lost = faults.important(), True
    for machine in faults.cluster.machines:
        if machine is not late:
            machine.files.latency = Latency(100e-6, 0.5)
    await faults.some_time(1.0)
    for machine in faults.cluster.machines:
        machine.files.latency = Latency(100e-6, 1e-3)
        machine.lose_power()
    for machine in faults.cluster.machines:
        if machine is not late:
            await faults.restart(machine, 0.5)
    await asyncio.sleep(15.0 + 10.0 * faults.random.fraction())
    if not late.up:
        late.start()


# Disks


async def disk_loss(faults: Faults) -> None:
    """Nothing of one disk can be read or written any more, for a while."""
    machine = faults.important()
    path = f"{DATA}/disk{faults.random.below(faults.cluster.disks)}"
    for operation in ("read", "write", "sync", "allocate", "open", "name", "commit"):
        machine.files.fail(operation, path, DiskFailed)
    await faults.some_time(8.0)
    machine.files.faults.clear()


async def disk_hiccup(faults: Faults) -> None:
    """One operation fails."""
    machine = faults.important()
    operation = ("sync", "write", "commit", "allocate", "read")[faults.random.below(5)]
    path = f"{DATA}/disk{faults.random.below(faults.cluster.disks)}"
    machine.files.fail(operation, path, DiskFailed, after=faults.random.below(50), times=1)
    await faults.some_time(5.0)
    machine.files.faults.clear()


async def disk_full(faults: Faults) -> None:
    machine = faults.important()
    for operation in ("allocate", "commit"):
        machine.files.fail(operation, DATA, NoSpace)
    await faults.some_time(4.0)
    machine.files.faults.clear()


async def disk_slow(faults: Faults) -> None:
    machine = faults.important()
    machine.files.latency = Latency(20e-3, (0.02, 0.3, 2.0)[faults.random.below(3)])
    await faults.some_time(5.0)
    machine.files.latency = Latency(100e-6, 1e-3)


async def rot(faults: Faults) -> None:
    """A bit flips somewhere on one machine."""
    machine = faults.any()
    paths = [path for path in machine.written(DATA) if "/log/" in path or "/arenas/" in path]
    if paths:
        path = paths[faults.random.below(len(paths))]
        pages = machine.files.written(path)
        if pages:
            machine.note("rot", path)
            machine.files.flip(path, pages[faults.random.below(len(pages))] * 4096 + faults.random.below(4096), faults.random.below(8))
    await faults.some_time(2.0)


# Wires


async def cut_pair(faults: Faults) -> None:
    one, other = faults.pair()
    faults.world.network.partition(one.name, other.name)
    await faults.some_time(6.0)
    faults.world.network.heal(one.name, other.name)


async def cut_off(faults: Faults) -> None:
    """One machine reaches no other, and perhaps not the store."""
    one = faults.important()
    others = [machine for machine in faults.cluster.machines if machine is not one]
    with_store = faults.random.chance(0.6)
    for other in others:
        faults.world.network.partition(one.name, other.name)
    if with_store:
        one.line.up = False
    await faults.some_time(8.0)
    for other in others:
        faults.world.network.heal(one.name, other.name)
    one.line.up = True


async def one_way(faults: Faults) -> None:
    one, other = faults.pair()
    source, target = (one, other) if faults.random.chance(0.5) else (other, one)
    faults.world.network.block(source.name, target.name)
    await faults.some_time(6.0)
    faults.world.network.heal(source.name, target.name)


async def flapping(faults: Faults) -> None:
    one, other = faults.pair()
    for _ in range(4 + faults.random.below(10)):
        faults.world.network.partition(one.name, other.name)
        await faults.some_time(0.6)
        faults.world.network.heal(one.name, other.name)
        await faults.some_time(0.3)


async def lose_connections(faults: Faults) -> None:
    one, other = faults.pair()
    faults.world.network.lose(one.name, other.name)


async def slow_wire(faults: Faults) -> None:
    one, other = faults.pair()
    faults.world.network.slow(one.name, other.name, (20.0, 500.0, 5000.0)[faults.random.below(3)])
    await faults.some_time(5.0)
    faults.world.network.slow(one.name, other.name, 1.0)


# The store


async def store_outage(faults: Faults) -> None:
    """Nobody reaches the store, or one node does not."""
    machines = faults.cluster.machines if faults.random.chance(0.5) else [faults.important()]
    for machine in machines:
        machine.line.up = False
    await faults.some_time(10.0)
    for machine in machines:
        machine.line.up = True


async def store_trouble(faults: Faults) -> None:
    """Changes get lost, are made late, or nobody hears of them; watches begin anew."""
    machine = faults.important()
    machine.line.trouble, machine.line.restarts, machine.line.delay, machine.line.lag = 0.5, 0.5, 0.2, 1.0
    await faults.some_time(10.0)
    machine.line.trouble, machine.line.restarts, machine.line.delay, machine.line.lag = 0.0, 0.0, 1e-3, 2e-3


async def late_watch(faults: Faults) -> None:
    """Some nodes hear late of what has changed."""
    machines = [machine for machine in faults.cluster.machines if faults.random.chance(0.5)]
    for machine in machines:
        machine.line.lag = 2.0
    await faults.some_time(10.0)
    for machine in machines:
        machine.line.lag = 2e-3


# What operators do


async def move(faults: Faults) -> None:
    """A volume is to be coordinated by another node."""
    await _move(faults, faults.any(), faults.any())


async def _move(faults: Faults, asked: Machine[Node], target: Machine[Node]) -> None:
    volume = faults.cluster.volumes[faults.random.below(len(faults.cluster.volumes))]
    try:
        await faults.cluster.move(volume, asked, target)
    except (SofsError, Gone) as error:
        faults.world.note("fault", "not moved", type(error).__name__, str(error)[:80])


FAULTS: dict[str, Callable[[Faults], Awaitable[None]]] = {
    "blackout": blackout,
    "cut-off": cut_off,
    "cut-pair": cut_pair,
    "deposed": deposed,
    "drain": drain,
    "disk-full": disk_full,
    "disk-hiccup": disk_hiccup,
    "disk-loss": disk_loss,
    "disk-slow": disk_slow,
    "evict": evict,
    "flapping": flapping,
    "forgetful": forgetful,
    "join": join,
    "kill": kill,
    "kill-all": kill_all,
    "kill-at-step": kill_at_step,
    "late-watch": late_watch,
    "leave": leave,
    "lose-connections": lose_connections,
    "move": move,
    "one-way": one_way,
    "pause": pause,
    "power-loss": power_loss,
    "power-loss-of-all": power_loss_of_all,
    "rot": rot,
    "slow-wire": slow_wire,
    "stop": stop,
    "store-outage": store_outage,
    "store-trouble": store_trouble,
}
DISKS = {"disk-hiccup", "disk-loss", "evict", "rot"}
COSTLY = {"blackout", "disk-hiccup", "disk-loss", "evict", "forgetful", "power-loss", "power-loss-of-all", "rot"}
HARMLESS = {"forgetful"}
"""Of those: what was committed is still there, so a volume's verifier does not change; unless others keep whoever has it away for longer."""
OPERATORS = {"drain", "evict", "join", "leave", "stop"}
"""For clusters of three nodes and more."""
TOGETHER = tuple(sorted(FAULTS.keys() - HARMLESS - OPERATORS))
"""What may come in any mixture."""
