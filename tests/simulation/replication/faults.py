"""What goes wrong with one log's machines: the faults of whole clusters, and those of disks in a form of their own."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sofs.errors import DiskFailed
from tests.simulation.cluster import faults as whole

if TYPE_CHECKING:
    from tests.simulation.replication.group import Group

__all__ = ["NAMES", "GroupFaults"]


class GroupFaults(whole.Faults):
    """The faults of one run. What costs a replica or its memory comes alone, and waits until that has been made up for."""

    def __init__(self, group: "Group") -> None:
        super().__init__(group, NAMES)  # type: ignore[arg-type]
        if "kill-coordinator" not in self.names and self.random.chance(0.5):
            self.names.append("kill-coordinator")
        self.pace = (0.15, 0.4, 1.0)[self.random.below(3)]
        self.group = group

    def some_time(self, average: float) -> Awaitable[None]:
        # Promises are shorter here than in whole clusters, and so is everything else.
        return super().some_time(average * 0.35)

    async def _one(self, name: str) -> None:
        fault = OWN.get(name) or whole.FAULTS[name]
        if name not in COSTLY:
            self._note(name)
            await fault(self)
        elif not self.costly.locked():
            async with self.costly:
                self._note(name)
                await fault(self)
                await self.group.made_up()


async def disk_hiccup(faults: whole.Faults) -> None:
    """One operation of a disk fails, unless it has become the only one."""
    assert isinstance(faults, GroupFaults)
    machine = faults.important()
    operation = ("sync", "sync", "write", "commit", "allocate", "read")[faults.random.below(6)]
    machine.files.fail(operation, "/data", DiskFailed, after=faults.random.below(60), times=1)
    for _ in range(40):
        await faults.some_time(0.1)
        if len((await faults.group.configuration()).replicas) == 1:
            break
    machine.files.faults.clear()


async def kill_coordinator(faults: whole.Faults) -> None:
    """While it has much on its way, if it does; its supervisor may say so."""
    assert isinstance(faults, GroupFaults)
    machine = faults.group.serving()
    if machine is not None:
        machine.kill()
        if faults.random.chance(0.5):
            await faults.group.reaped(machine)
        await faults.restart(machine, 1.0)


async def cut_from_one(faults: whole.Faults) -> None:
    """The coordinator reaches one of the others, but neither the other nor the store: it goes on sending, and cannot leave anybody out."""
    assert isinstance(faults, GroupFaults)
    one = faults.group.serving() or faults.important()
    others = [machine for machine in faults.group.machines if machine is not one]
    other = others[faults.random.below(len(others))]
    faults.world.network.partition(one.name, other.name)
    one.line.up = False
    await faults.some_time(10.0)
    faults.world.network.heal(one.name, other.name)
    one.line.up = True


OWN: dict[str, Callable[[whole.Faults], Awaitable[None]]] = {
    "disk-hiccup": disk_hiccup,
    "kill-coordinator": kill_coordinator,
    "cut-from-one": cut_from_one,
}
COSTLY = {"disk-hiccup", "power-loss", "power-loss-of-all"}
NAMES = (
    "cut-from-one",
    "cut-off",
    "cut-pair",
    "disk-hiccup",
    "disk-slow",
    "flapping",
    "kill",
    "kill-all",
    "kill-at-step",
    "kill-coordinator",
    "lose-connections",
    "move",
    "one-way",
    "pause",
    "power-loss",
    "power-loss-of-all",
    "slow-wire",
    "store-outage",
    "store-trouble",
)
