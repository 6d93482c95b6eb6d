"""Volumes over several simulated nodes: whatever ends, what was acknowledged is there, and somebody serves it soon."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.simulation.cluster.world import World, run
from tests.simulation.hosts import Hosts


def cluster(count: int, main: Callable[[World, Hosts], Awaitable[Any]], seed: int = 1, policy: str = "mirror(2) across host") -> None:
    async def whole(world: World) -> None:
        hosts = Hosts(world, count)
        await hosts.begin(policy)
        await main(world, hosts)

    run(seed, whole)


def test_a_new_volume_gets_its_second_copy_on_another_node() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        await hosts.in_sync(2)
        for _ in range(20):
            await hosts.write()
        await hosts.verify()

    cluster(2, main)


def test_a_standby_takes_over_at_once_when_the_coordinator_is_known_to_be_dead() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        for _ in range(20):
            await hosts.write()
        assert one.node is not None
        incarnation = one.node.incarnation
        one.kill()
        await hosts.reap(one, incarnation)
        assert await hosts.served(by=other) < 1.0
        await hosts.verify()
        await hosts.write()
        await asyncio.sleep(2)
        one.start()
        await hosts.in_sync(2)
        await hosts.write()
        await hosts.verify()

    cluster(2, main)
