"""What the locks workload takes for a violation, and what not, when an SMB client's CLOSE is not answered."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sofs.types import Level
from sofs.volume.api import Close
from tests.simulation.cluster.client import Client
from tests.simulation.cluster.cluster import Cluster, Node, small
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.workloads.locks import Locks
from tests.simulation.cluster.world import World, run


def locks(test: Callable[[Locks, Client, Machine[Node]], Awaitable[None]]) -> None:
    """A cluster of two with an SMB client, open through the node that does not coordinate the volume; `test` is given that node."""

    async def main(world: World) -> None:
        cluster = Cluster(world, 2)
        await cluster.begin(1, 1, "mirror(2)")
        workload = Locks(cluster, 0, "v0")
        await workload.begin()
        client = workload.clients[0]
        locker = workload.lockers[client.name]
        locker.smb, client.reattach = True, lambda: workload._reconnect(locker)
        gateway = client.machine = next(machine for machine in cluster.machines if machine.node is not None and not machine.node.serves("v0"))
        await workload._open(locker)
        await test(workload, client, gateway)

    small()
    run(1, main)


def remembered(workload: Locks, client: Client) -> bool:
    """Whether the coordinator has the client's open."""
    serving = next(machine.node for machine in workload.cluster.machines if machine.node is not None and machine.node.serves("v0"))
    local = serving.hosted("v0").volume
    assert local is not None
    return workload.lockers[client.name].open in local.core.opens


def test_an_open_whose_close_was_carried_out_and_not_answered_is_closed() -> None:
    async def test(workload: Locks, client: Client, gateway: Machine[Node]) -> None:
        locker = workload.lockers[client.name]
        closing = asyncio.ensure_future(workload._close(locker))
        while remembered(workload, client):  # noqa: ASYNC110 - nothing says so
            await asyncio.sleep(1e-5)
        assert not closing.done()
        gateway.kill()
        await closing
        assert locker.open is None
        await workload.turn(client)  # opens again

    locks(test)


def test_an_open_that_vanished_before_its_close_was_sent_is_a_violation() -> None:
    async def test(workload: Locks, client: Client, gateway: Machine[Node]) -> None:
        locker = workload.lockers[client.name]
        assert locker.open is not None
        await client.call(Close(locker.open), client.token(), Level.STABLE)
        gateway.kill()
        with pytest.raises(AssertionError, match=r"is gone .* and the verifier is the same"):
            await workload._close(locker)

    locks(test)
