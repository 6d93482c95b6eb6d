"""What operators do to a cluster's nodes while clients work: nodes join, are drained and taken back, are stopped in order, leave, and are evicted.

Each is done as the commands do it (`sofs.operations`, `sofs.cluster.founding`), by way of any node that answers. What does not come about because
something else fails meanwhile is taken back, as an operator would.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sofs.admin import api
from sofs.cluster import NodeId
from sofs.cluster.founding import evict as bar
from sofs.cluster.founding import leave as take_away
from sofs.cluster.membership import DRAINING
from sofs.coordination import keys
from sofs.errors import SofsError, Unavailable
from sofs.operations.disks import Disks
from sofs.operations.nodes import Nodes
from sofs.records import ConfigurationRecord, DiskRecord
from tests.simulation.cluster.machine import Gone, Machine

if TYPE_CHECKING:
    from tests.simulation.cluster.cluster import Node
    from tests.simulation.cluster.faults import Faults

__all__ = ["drain", "evict", "join", "keep_drained", "leave", "stop"]

_FEWEST = 3
_MOST = 6
_EMPTIED_S = 60.0


async def keep_drained(node: "Node") -> None:
    """What `sofsd` does by itself when its node is being drained."""
    membership = node.assembly.membership
    assert membership is not None
    changed = asyncio.Event()
    membership.on_change(changed.set)
    while True:
        changed.clear()
        member = membership.members.get(membership.node)
        if member is not None and member.state == DRAINING and await node.host.hand_over_all():
            await asyncio.sleep(1)
        else:
            await changed.wait()


async def join(faults: "Faults") -> None:
    """A new node, with a disk of its own."""
    cluster = faults.cluster
    if faults.enrolling.locked() or len(cluster.machines) >= _MOST:
        return
    async with faults.enrolling:
        await cluster.grow()


async def drain(faults: "Faults") -> None:
    """A node is drained, stays so for a while, perhaps stopped and started again, and is taken back."""
    if faults.enrolling.locked():
        return
    async with faults.enrolling:
        machine = faults.important()
        try:
            await _asked(faults, lambda node: Nodes(node.assembly).drain(machine.name))
            if faults.random.chance(0.5):
                await _stop(machine)
                await faults.restart(machine, 2.0)
            await faults.some_time(3.0)
        except (SofsError, Gone, TimeoutError) as error:
            faults.world.note("fault", "not drained", type(error).__name__, str(error)[:80])
        finally:
            await _taken_back(faults, machine)


async def stop(faults: "Faults") -> None:
    """A node is stopped in order, and started again."""
    machine = faults.important()
    try:
        await _stop(machine)
    except (SofsError, Gone, TimeoutError) as error:
        faults.world.note("fault", "not stopped", type(error).__name__, str(error)[:80])
    await faults.restart(machine, 2.0)


async def leave(faults: "Faults") -> None:
    """A node is drained, its disks are emptied and taken out, it is stopped, and leaves."""
    cluster = faults.cluster
    if faults.enrolling.locked() or len(cluster.machines) <= _FEWEST:
        return
    async with faults.enrolling:
        machine = faults.important()
        try:
            await _asked(faults, lambda node: Nodes(node.assembly).drain(machine.name))
            async with asyncio.timeout(_EMPTIED_S):
                await _take_disks_out(faults, machine)
            await _stop(machine)
        except (SofsError, Gone, TimeoutError) as error:
            faults.world.note("fault", "did not leave", type(error).__name__, str(error)[:80])
            await _taken_back(faults, machine)
            return
        cluster.remove(machine)
        await take_away(cluster.world.store, NodeId(cluster.id_of(machine)), [])
        faults.world.note("fault", "left", machine.name)


async def evict(faults: "Faults") -> None:
    """A node is lost for good, and an operator says so; only one on which no log lies alone."""
    cluster, store = faults.cluster, faults.world.store
    if faults.enrolling.locked() or len(cluster.machines) <= _FEWEST:
        return
    async with faults.enrolling:
        machine = faults.important()
        if machine.up:
            machine.kill()
        cluster.remove(machine)
        await faults.some_time(4.0)
        id = cluster.id_of(machine)
        entries = [entry for entry in (await store.range(keys.VOLUMES)).entries if entry.key.endswith(keys.CONFIGURATION)]
        named = [record.incarnation for entry in entries if (record := ConfigurationRecord.decode(entry.value)).coordinator == id]
        await bar(store, NodeId(id), "an operator", force=True, incarnations=named)
        faults.world.note("fault", "evicted", machine.name)


async def _asked(faults: "Faults", work: "Callable[[Node], Awaitable[object]]") -> None:
    """Asks any node that runs. Raises what it answers, `Gone`, `TimeoutError`."""
    running = [machine for machine in faults.cluster.machines if machine.node is not None and not machine.paused]
    if not running:
        raise Unavailable("no node runs")
    async with asyncio.timeout(2 * _EMPTIED_S):
        await running[faults.random.below(len(running))].ask(work)


async def _stop(machine: "Machine[Node]") -> None:
    """As SIGTERM does it."""

    async def close(node: "Node") -> None:
        await node.assembly.stopping()
        await node.assembly.close()

    async with asyncio.timeout(_EMPTIED_S):
        await machine.ask(close)
    machine.note("stopped")
    if machine.up:
        machine.kill()


async def _take_disks_out(faults: "Faults", machine: "Machine[Node]") -> None:
    store, id = faults.world.store, faults.cluster.id_of(machine)
    disks = [DiskRecord.decode(entry.value) for entry in (await store.range(keys.DISKS)).entries]
    names = [f"{disk.id:016x}" for disk in disks if disk.node == id]
    for name in names:
        await _asked(faults, lambda node, name=name: Disks(node.assembly).drain(api.DrainDisk(name)))  # type: ignore[misc]
    for name in names:
        while True:
            try:
                await _asked(faults, lambda node, name=name: Disks(node.assembly).remove(api.RemoveDisk(name)))  # type: ignore[misc]
                break
            except SofsError:
                await asyncio.sleep(0.5)


async def _taken_back(faults: "Faults", machine: "Machine[Node]") -> None:
    """Until it is so: the operator does not give up."""
    store, id = faults.world.store, faults.cluster.id_of(machine)
    for _ in range(100):
        try:
            await _asked(faults, lambda node: Nodes(node.assembly).undrain(machine.name))
            disks = [DiskRecord.decode(entry.value) for entry in (await store.range(keys.DISKS)).entries]
            for disk in disks:
                if disk.node == id and disk.state in ("draining", "retired"):
                    await _asked(faults, lambda node, name=f"{disk.id:016x}": Disks(node.assembly).drain(api.DrainDisk(name, on=False)))  # type: ignore[misc]
            return
        except (SofsError, Gone, TimeoutError):
            await asyncio.sleep(0.5)
