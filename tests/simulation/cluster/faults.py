"""What goes wrong: each fault is a function that does its harm for a while and takes it back, unless a later one overtakes it.

Which of them may come at once is decided here, too: what a volume's policy does not tolerate is no failure of ours. Processes may be killed, paused and
cut off in any number; memory and disks are lost one at a time, each after the cluster has had time to make up for the one before, except that the power of all
nodes may go at once.
"""

import asyncio
from collections.abc import Awaitable, Callable

from tests.simulation.cluster.cluster import Cluster, Node
from tests.simulation.cluster.machine import Machine

__all__ = ["FAULTS", "Faults"]


class Faults:
    """The faults of one run."""

    def __init__(self, cluster: Cluster, names: tuple[str, ...]) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.random = cluster.world.random
        # Some seeds have many kinds, others one over and over.
        some = [name for name in names if self.random.chance(0.5)]
        self.names = some or list(names)
        self.counts: dict[str, int] = {}
        self.pace = (0.3, 1.0, 4.0)[self.random.below(3)]
        self._under_way: dict[asyncio.Future[None], None] = {}

    async def strike(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self.random.fraction() * 2 * self.pace)
            name = self.names[self.random.below(len(self.names))]
            self.counts[name] = self.counts.get(name, 0) + 1
            self.world.note("fault", name)
            task = asyncio.ensure_future(FAULTS[name](self))
            self._under_way[task] = None
            task.add_done_callback(self._over)

    def _over(self, task: "asyncio.Future[None]") -> None:
        self._under_way.pop(task, None)
        if not task.cancelled():
            task.result()

    def stop(self) -> None:
        """No more harm; what has been done is for `Cluster.settle` to take back."""
        for task in list(self._under_way):
            task.cancel()

    def any(self) -> Machine[Node]:
        return self.cluster.machines[self.random.below(len(self.cluster.machines))]

    def some_time(self, average: float) -> Awaitable[None]:
        short = self.random.chance(0.5)
        return asyncio.sleep(self.random.fraction() * 2 * average * (0.2 if short else 1.0))

    async def restart(self, machine: Machine[Node], after: float) -> None:
        await self.some_time(after)
        if not machine.up:
            machine.start()


async def kill(faults: Faults) -> None:
    machine = faults.any()
    if machine.up:
        machine.kill()
        await faults.restart(machine, 2.0)


async def kill_at_step(faults: Faults) -> None:
    machine = faults.any()
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


async def power_loss_of_all(faults: Faults) -> None:
    for machine in faults.cluster.machines:
        machine.lose_power()
    for machine in faults.cluster.machines:
        await faults.restart(machine, 1.0)


async def pause(faults: Faults) -> None:
    machine = faults.any()
    machine.pause()
    await faults.some_time(4.0)
    machine.resume()


async def store_outage(faults: Faults) -> None:
    """Nobody reaches the store, or one node does not."""
    machines = faults.cluster.machines if faults.random.chance(0.5) else [faults.any()]
    for machine in machines:
        machine.line.up = False
    await faults.some_time(10.0)
    for machine in machines:
        machine.line.up = True


async def store_trouble(faults: Faults) -> None:
    """Changes get lost, are made late, or nobody hears of them; watches begin anew."""
    machine = faults.any()
    machine.line.trouble, machine.line.restarts, machine.line.delay = 0.5, 0.5, 0.2
    await faults.some_time(10.0)
    machine.line.trouble, machine.line.restarts, machine.line.delay = 0.0, 0.0, 1e-3


FAULTS: dict[str, Callable[[Faults], Awaitable[None]]] = {
    "kill": kill,
    "kill-all": kill_all,
    "kill-at-step": kill_at_step,
    "pause": pause,
    "power-loss-of-all": power_loss_of_all,
    "store-outage": store_outage,
    "store-trouble": store_trouble,
}
