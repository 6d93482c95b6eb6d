"""SMB gateways of other nodes: how long they are waited for, and what is done when they do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateways.smb.neighbours import Held
from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.cluster.membership import Membership
from sofs.cluster.records import MemberRecord
from sofs.coordination import Put, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.neighbours import PATIENCE_S, Neighbours
from sofs.processes import Processes
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_network import SimulatedNetwork
from sofs.types import Lsn
from sofs.volume.api import Binding, Bound, FenceGateway, Reply, Volume

THERE = 102
"""The incarnation of node 2's process."""
SESSION = THERE << 32 | 7


class Fences:
    """A volume, as far as gateways are shut out of it."""

    name = "v"

    def __init__(self) -> None:
        self.fenced: list[int] = []
        self.silent = False

    def call(self, request: Any, token: None, by: Binding) -> Reply | Awaitable[Reply]:
        assert isinstance(request, FenceGateway)
        if self.silent:
            return asyncio.get_running_loop().create_future()
        self.fenced.append(request.gateway)
        return Reply(Lsn(0))


class Gateway:
    """Node 2's, which has one session."""

    def __init__(self) -> None:
        self.asked = 0

    def end_session(self, number: int, user: str) -> bool:
        self.asked += 1
        return number == SESSION


class Rig:
    """Node 1, which asks, and node 2, which may be silent."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.clock, self.random = SimulatedClock(loop), SimulatedRandom(1)
        files = SimulatedFiles(self.random)
        files.make_directory("/data")
        self.store = EmbeddedStore.open(files, self.clock, self.random, "/data/store")
        self.network = SimulatedNetwork(self.random)
        self.gateway, self.volume = Gateway(), Fences()

    async def begin(self) -> None:
        one, two = [await self._node(number) for number in (1, 2)]
        two.serve(self.gateway)
        self.neighbours = one
        await asyncio.sleep(1)

    async def _node(self, number: int) -> Neighbours:
        me, address = (NodeId(number), Incarnation(100 + number)), f"10.0.0.{number}"
        member = MemberRecord(id=number, name=f"n{number}", host=f"h{number}", addresses=(f"{address}:1",))
        await self.store.transact([], [Put(keys.member(number), member.encode())])
        membership = Membership(self.store, self.clock, *me, "boot")
        await membership.load()
        interconnect = NetworkInterconnect(self.clock, self.random, self.network.host(address), me, membership.addresses)
        await interconnect.listen(address, 1)
        await membership.start(f"n{number}", f"h{number}", [f"{address}:1"])
        return Neighbours(Processes(membership, interconnect), interconnect, self.clock)

    def silence(self) -> None:
        self.network.partition("10.0.0.1", "10.0.0.2")

    async def end(self) -> float:
        """Node 2's session, for a client that has logged on at node 1. How long that has to wait."""
        began = self.clock.monotonic()
        await self.neighbours.end_session(SESSION, "alice", [self.volume], Binding(101, 1))  # type: ignore[list-item]
        return self.clock.monotonic() - began

    async def has(self) -> Held:
        volume: Volume = self.volume  # type: ignore[assignment]
        return await self.neighbours.has(Bound(Lsn(0), THERE, SESSION), volume, Binding(101, 1))


def on_nodes(main: Callable[[Rig], Awaitable[None]]) -> None:
    async def run(loop: SimulatedLoop) -> None:
        rig = Rig(loop)
        await rig.begin()
        await main(rig)

    simulate(run)


def test_a_gateway_that_lives_is_asked_and_never_fenced() -> None:
    async def main(rig: Rig) -> None:
        assert await rig.end() < 0.1
        await asyncio.sleep(60)
        assert await rig.has() is Held.IN_USE
        assert rig.gateway.asked == 2 and rig.volume.fenced == []

    on_nodes(main)


def test_a_gateway_that_falls_silent_is_waited_for_once_for_all_its_clients() -> None:
    async def main(rig: Rig) -> None:
        await rig.end()
        began = rig.clock.monotonic()
        rig.silence()
        waits = [asyncio.ensure_future(rig.end())]
        await asyncio.sleep(1)
        waits += [asyncio.ensure_future(rig.end()), asyncio.ensure_future(rig.end())]
        await asyncio.gather(*waits)
        assert PATIENCE_S - 1.5 < rig.clock.monotonic() - began < PATIENCE_S + 0.2
        assert rig.volume.fenced == [THERE] * 3
        for _ in range(3):
            assert await rig.end() == 0
        assert await rig.has() is Held.FENCED

    on_nodes(main)


def test_a_gateway_that_has_been_silent_for_long_enough_is_hardly_waited_for() -> None:
    async def main(rig: Rig) -> None:
        await rig.end()
        rig.silence()
        await asyncio.sleep(PATIENCE_S + 0.5)  # its connection is still there
        assert await rig.end() <= 0.6
        await asyncio.sleep(20)
        assert await rig.end() <= 0.6
        assert rig.volume.fenced == [THERE] * 2

    on_nodes(main)


def test_a_break_of_the_connection_is_no_reason_to_fence() -> None:
    async def main(rig: Rig) -> None:
        await rig.end()
        await asyncio.sleep(10)
        rig.network.lose("10.0.0.1", "10.0.0.2")
        assert await rig.end() < 0.5
        rig.silence()
        waiting = asyncio.ensure_future(rig.end())
        await asyncio.sleep(1)
        rig.network.heal("10.0.0.1", "10.0.0.2")
        await waiting
        assert rig.volume.fenced == []

    on_nodes(main)


def test_nobody_is_given_what_a_silent_gateway_has_before_it_is_shut_out() -> None:
    async def main(rig: Rig) -> None:
        await rig.end()
        rig.silence()
        rig.volume.silent = True
        await asyncio.sleep(10)
        assert await rig.end() < 2, "a logon does not wait for a volume that nobody serves"
        waiting = asyncio.ensure_future(rig.has())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.shield(waiting)
        waiting.cancel()

    on_nodes(main)
