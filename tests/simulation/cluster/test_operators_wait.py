"""What an operator asks of a volume that is lost before the answer is on its disks: it is told so when that is known, and not after two minutes."""

import asyncio

import pytest

from sofs.errors import Unavailable
from sofs.operations.asking import ask_stable
from sofs.types import ROOT, Kind
from sofs.volume.api import Changes, Found, Make
from tests.simulation.cluster.client import SUPER
from tests.simulation.cluster.cluster import Cluster, Node, small
from tests.simulation.cluster.world import World, run


def test_who_waits_for_a_volume_that_is_lost_is_told_soon() -> None:
    async def main(world: World) -> None:
        cluster = Cluster(world, 2)
        await cluster.begin(1, 1, "mirror(2) across host")
        one, other = cluster.machines if cluster.machines[0].node.serves("v0") else cluster.machines[::-1]  # type: ignore[union-attr]

        async def make(node: Node) -> None:
            await ask_stable(node.hosted("v0"), Make(SUPER, ROOT, b"file", Kind.FILE, Changes(mode=0o644)), Found, node.binding)

        assert one.process is not None and one.node is not None
        # Cut off before the record leaves: the other takes over without it.
        one.line.up = False
        world.network.block(one.name, other.name)
        world.network.block(other.name, one.name)
        asked = one.process.start(world.loop, make(one.node))
        while not (other.node is not None and other.node.serves("v0")):  # noqa: ASYNC110 - nothing says so
            await asyncio.sleep(0.1)
        assert not asked.done()
        one.line.up = True
        world.network.heal(one.name, other.name)
        world.network.heal(other.name, one.name)
        with pytest.raises(Unavailable, match="may have been carried out"):
            async with asyncio.timeout(10):
                await asyncio.shield(asked)

    small()
    run(1, main)
