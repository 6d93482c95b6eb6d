"""Which disks an operator may have forgotten: none that may come back with what only it has, unless he says so."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sofs.admin import api
from sofs.errors import InvalidArgument
from sofs.operations.disks import Disks
from sofs.records import DiskRecord
from tests.simulation.cluster.cluster import DATA, Cluster, Node, small
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.world import World, run


def three(test: Callable[[Cluster, str], Awaitable[None]]) -> None:
    """A cluster of three without volumes; `test` is given the id of the last one's disk."""

    async def main(world: World) -> None:
        cluster = Cluster(world, 3)
        await cluster.begin(0, 1, "mirror(2)")
        assert cluster.machines[2].node is not None
        await asyncio.sleep(3)  # until all have heard of it
        (own,) = cluster.machines[2].node.host.pools["p"].members.own
        await test(cluster, f"{own.spec.id:016x}")

    small()
    run(1, main)


async def remove(machine: Machine[Node], disk: str, force: bool = False) -> None:
    await machine.ask(lambda node: Disks(node.assembly).remove(api.RemoveDisk(disk, force)))


async def recorded(cluster: Cluster) -> set[str]:
    assert cluster.machines[0].node is not None
    records: list[DiskRecord] = await cluster.machines[0].node.assembly.registry.disks()
    return {f"{record.id:016x}" for record in records}


@pytest.mark.parametrize("reaped", [False, True])
def test_a_disk_whose_node_is_down_is_forgotten_only_by_force(reaped: bool) -> None:
    async def test(cluster: Cluster, disk: str) -> None:
        one, _, other = cluster.machines
        other.kill()
        if reaped:  # which tells that the process has ended, and nothing of the data
            await cluster.reaped(other)
        await asyncio.sleep(3)
        with pytest.raises(InvalidArgument, match=r"node n2 does not answer.*cluster evict.*--force"):
            await remove(one, disk)
        assert disk in await recorded(cluster)
        await remove(one, disk, force=True)
        assert disk not in await recorded(cluster)

    three(test)


def test_a_disk_whose_node_was_down_is_in_use_again() -> None:
    async def test(cluster: Cluster, disk: str) -> None:
        one, _, other = cluster.machines
        other.kill()
        await asyncio.sleep(3)
        other.start()
        await other.until_ready()
        with pytest.raises(InvalidArgument, match="drain it first"):
            await remove(one, disk)

    three(test)


def test_a_disk_that_is_gone_from_a_node_that_says_so_is_forgotten() -> None:
    async def test(cluster: Cluster, disk: str) -> None:
        one, _, other = cluster.machines
        other.files.rename(f"{DATA}/disk0", f"{DATA}/pulled")
        await asyncio.sleep(20)
        await remove(one, disk)
        assert disk not in await recorded(cluster)

    three(test)


@pytest.mark.parametrize("own", [False, True])
def test_a_disk_that_was_drained_stays_so_though_its_node_dies_at_once(own: bool) -> None:
    async def test(cluster: Cluster, disk: str) -> None:
        one, _, other = cluster.machines
        await (other if own else one).ask(lambda node: Disks(node.assembly).drain(api.DrainDisk(disk)))
        other.kill()
        other.start()
        await other.until_ready()
        (found,) = [each for each in await other.ask(lambda node: Disks(node.assembly).all()) if each.id == disk]
        assert found.state == "retired", "there was nothing on it"

    three(test)
