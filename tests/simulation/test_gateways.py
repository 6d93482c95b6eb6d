"""Gateways of whole simulated nodes that end, stop or are cut off: what becomes of what they had open, and that they have no effect afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sofs.errors import Fenced, SharingViolation
from sofs.locks import HANDLE, READ, GrantKind
from sofs.types import ROOT, Kind, Level
from sofs.volume.api import (
    Binding,
    Changes,
    Disposition,
    FenceGateway,
    Found,
    GetAttributes,
    Keep,
    Make,
    Open,
    Opened,
    ReadDirectory,
    Stateless,
    Wish,
)
from tests.simulation.cluster.answers import done, sent
from tests.simulation.cluster.client import SUPER
from tests.simulation.cluster.cluster import Cluster, Node, small
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.world import World, run


def cluster(main: Callable[[World, Cluster], Awaitable[None]], nodes: int = 3, seed: int = 1) -> None:
    async def whole(world: World) -> None:
        cluster = Cluster(world, nodes)
        await cluster.begin(1, 1, "mirror(2) across host")
        await main(world, cluster)

    small()
    run(seed, whole)


def coordinator(cluster: Cluster) -> Machine[Node]:
    (found,) = [machine for machine in cluster.machines if machine.node is not None and machine.node.serves("v0")]
    return found


async def ask(machine: Machine[Node], request: Any) -> Any:
    async def asked(node: Node) -> Any:
        volume = node.volume("v0")
        reply = await done(volume.call(request, None, node.binding))
        await sent(volume, reply.gate, Level.COMMITTED)
        return reply

    return await machine.ask(asked)


def opening(name: bytes, share: int = 0, **options: Any) -> Open:
    return Open(SUPER, ROOT, (name,), 3, share, Disposition.OPEN_IF, **options)


async def freed(machine: Machine[Node], name: bytes, within: float) -> float:
    """How long it takes until somebody else can open the file."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            await ask(machine, opening(name))
            return loop.time() - began
        except SharingViolation:
            assert loop.time() - began < within
            await asyncio.sleep(0.1)


async def served(cluster: Cluster) -> None:
    async with asyncio.timeout(30):
        while not any(machine.node is not None and machine.node.serves("v0") for machine in cluster.machines):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def other_than(cluster: Cluster, *machines: Machine[Node]) -> Machine[Node]:
    return next(machine for machine in cluster.machines if machine not in machines)


def test_what_a_dead_gateway_had_open_is_free_as_soon_as_its_supervisor_has_said_so() -> None:
    async def main(world: World, cluster: Cluster) -> None:
        serving = coordinator(cluster)
        dying = other_than(cluster, serving)
        await ask(dying, opening(b"f"))
        with pytest.raises(SharingViolation):
            await ask(serving, opening(b"f"))
        dying.kill()
        await asyncio.sleep(1)
        with pytest.raises(SharingViolation):
            await ask(serving, opening(b"f"))
        await cluster.reaped(dying)
        assert await freed(serving, b"f", 5) < 1.0

    cluster(main)


def test_without_word_of_its_death_it_is_free_when_nobody_can_be_waiting_for_it_any_more() -> None:
    async def main(world: World, cluster: Cluster) -> None:
        serving = coordinator(cluster)
        dying = other_than(cluster, serving)
        await ask(dying, opening(b"f"))
        dying.lose_power()
        assert 20 < await freed(serving, b"f", 90) < 80

    cluster(main)


def test_a_gateway_that_starts_again_has_nothing_of_its_predecessors() -> None:
    async def main(world: World, cluster: Cluster) -> None:
        serving = coordinator(cluster)
        dying = other_than(cluster, serving)
        await ask(dying, opening(b"f"))
        dying.kill()
        dying.start()
        await dying.until_ready()
        assert await freed(serving, b"f", 20) < 5.0

    cluster(main)


def test_the_coordinators_own_opens_end_with_it_and_those_of_the_others_go_on() -> None:
    async def main(world: World, cluster: Cluster) -> None:
        serving = coordinator(cluster)
        living = other_than(cluster, serving)
        await ask(serving, opening(b"own"))
        lease = Wish(b"client and key", GrantKind.LEASE, READ | HANDLE)
        durable: Opened = await ask(serving, opening(b"durable", 7, client=b"client", keep=Keep(60_000), wish=lease))
        held: Opened = await ask(living, opening(b"held"))
        serving.kill()
        await cluster.reaped(serving)
        await served(cluster)
        found: Found = await ask(living, GetAttributes(held.open))
        assert found.attributes.inode == held.attributes.inode
        assert await freed(living, b"own", 5) < 1.0
        now = coordinator(cluster).node
        assert now is not None
        local = now.volume("v0").local
        assert local is not None
        assert not local.core.opens[durable.open].connected and local.core.opens[held.open].connected

    cluster(main)


def test_a_paused_gateway_that_was_shut_out_has_no_effect_when_it_goes_on() -> None:
    async def main(world: World, cluster: Cluster) -> None:
        serving = coordinator(cluster)
        paused = other_than(cluster, serving)
        await ask(paused, opening(b"f"))
        assert paused.node is not None
        incarnation = paused.node.incarnation
        late = asyncio.ensure_future(ask(paused, Make(SUPER, ROOT, b"late", Kind.FILE, Changes())))
        paused.pause()
        assert 20 < await freed(serving, b"f", 90) < 80
        assert incarnation in _local(cluster).core.gateways.fenced
        paused.resume()
        await asyncio.wait([late], timeout=20)  # the process may end before it is told anything
        assert not late.done() or late.exception() is not None
        late.cancel()
        listed = await ask(serving, ReadDirectory(SUPER, ROOT, 0, 100))
        assert b"late" not in [entry.name for entry in listed.entries]

    cluster(main)


def test_a_fence_holds_after_a_change_of_coordinator() -> None:
    async def main(world: World, cluster: Cluster) -> None:
        serving = coordinator(cluster)
        binding = Binding(12345, 1)  # of a process that ended long ago: one that lives would take its replica along
        await ask(serving, FenceGateway(binding.gateway))
        serving.kill()
        await cluster.reaped(serving)
        await served(cluster)
        assert binding.gateway in _local(cluster).core.gateways.fenced
        with pytest.raises(Fenced):
            await done(_local(cluster).call(GetAttributes(Stateless(ROOT, SUPER)), None, binding))

    cluster(main)


def _local(cluster: Cluster) -> Any:
    node = coordinator(cluster).node
    assert node is not None
    local = node.volume("v0").local
    assert local is not None
    return local
