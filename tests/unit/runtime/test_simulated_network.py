"""Faults of simulated wires."""

import asyncio

import pytest

from sofs.errors import Unavailable
from sofs.runtime.simulated_loop import SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_network import SimulatedNetwork
from tests.contracts.test_network import Recorder, Server


def test_a_partition_holds_bytes_back_until_it_heals() -> None:
    async def main(loop: SimulatedLoop) -> None:
        network, server, client = SimulatedNetwork(SimulatedRandom(1)), Server(), Recorder()
        await network.host("b").listen("b", 9, server.accept)
        connection = await network.host("a").connect("b", 9, client)
        network.partition("a", "b")
        for n in range(50):
            connection.send([bytes([n]) * 10])
        await asyncio.sleep(60)
        far = server.recorders[0]
        assert not far.data and not far.ends
        with pytest.raises(Unavailable, match="does not answer"):
            await network.host("a").connect("b", 9, Recorder())
        network.heal("b", "a")
        await far.until(500)
        assert far.data == b"".join(bytes([n]) * 10 for n in range(50))

    simulate(main)


def test_a_lost_connection_is_told_to_both_ends() -> None:
    async def main(loop: SimulatedLoop) -> None:
        network, server, client = SimulatedNetwork(SimulatedRandom(1)), Server(), Recorder()
        await network.host("b").listen("b", 9, server.accept)
        connection = await network.host("a").connect("b", 9, client)
        connection.send([b"under way"])
        network.lose("a", "b")
        connection.send([b"too late"])
        await asyncio.sleep(1)
        assert client.ends == ["the connection was lost"] == server.recorders[0].ends
        assert not server.recorders[0].data

    simulate(main)


def test_a_crashed_host_hears_nothing_and_its_peers_do() -> None:
    async def main(loop: SimulatedLoop) -> None:
        network, server, client = SimulatedNetwork(SimulatedRandom(1)), Server(), Recorder()
        await network.host("b").listen("b", 9, server.accept)
        await network.host("a").connect("b", 9, client)
        network.crash("b")
        await asyncio.sleep(1)
        assert client.ends and not server.recorders[0].ends
        with pytest.raises(Unavailable):
            await network.host("a").connect("b", 9, Recorder())
        await network.host("b").listen("b", 9, server.accept)
        await network.host("a").connect("b", 9, Recorder())

    simulate(main)
