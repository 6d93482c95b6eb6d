"""Nodes that do not reach the coordination store, or hear from it what has become of them: nothing stops for long that could have gone on."""

import asyncio
from contextlib import suppress

import pytest

from sofs.coordination import keys
from sofs.errors import SofsError, Unavailable
from sofs.hosting.recruiting import recruit
from sofs.records import ConfigurationRecord, ReplicaRecord, VolumeRecord
from sofs.types import VolumeId
from tests.simulation.cluster.world import World
from tests.simulation.hosts import HostNode, Hosts
from tests.simulation.test_hosts import cluster


def test_a_copy_that_comes_back_while_the_coordinator_is_cut_off_from_the_store_holds_nothing_up() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        other.pause()
        while len(hosts.holders()) == 2:  # noqa: ASYNC110 - the simulation has no event for it
            await asyncio.sleep(0.1)
        one.line.up = False
        other.resume()
        for _ in range(20):
            await hosts.write(within=2.0)
            await asyncio.sleep(1)
        one.line.up = True
        await hosts.in_sync(2)
        await hosts.verify()

    cluster(2, main)


def test_a_volume_is_not_handed_over_while_its_coordinator_is_cut_off_from_the_store() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        one.line.up = False
        with pytest.raises(Unavailable):
            async with asyncio.timeout(20):
                await one.ask(lambda node: node.host.move("v", other.name))
        await hosts.write(within=1.0)
        one.line.up = True
        await one.ask(lambda node: node.host.move("v", other.name))
        await hosts.served(by=other)
        await hosts.verify()

    cluster(2, main)


def test_who_learns_from_the_store_that_it_was_deposed_says_so_to_whoever_waits() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        assert one.node is not None
        hosted = one.node.host.named("v")
        volume, log = hosted.where.local, hosted.opened_store().log
        assert volume is not None
        seen: list[bool] = []
        hosted.where.on_change(lambda: seen.append(volume.failed) if hosted.where.local is None else None)
        world.network.partition(one.name, other.name)
        one.line.up = False  # so that it cannot leave the other out
        waiting = one.ask(lambda node: log.reach(log.append(b"", reserved=True)))
        ended = asyncio.ensure_future(waiting)
        await hosts.served(by=other)
        one.line.up = True
        with pytest.raises(SofsError):
            async with asyncio.timeout(5):
                await ended
        assert hosted.where.local is None and seen and all(seen), "not as after a planned move, of which everything has been answered"

    cluster(2, main)


def test_a_coordinator_that_stood_still_while_the_store_is_away_goes_on() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, _ = hosts.machines
        await hosts.in_sync(2)
        await asyncio.sleep(2)  # the standby has read that it counts
        for machine in hosts.machines:
            machine.line.up = False
        one.pause()
        await asyncio.sleep(6)
        one.resume()
        for _ in range(10):
            await hosts.write(within=6.0)
            await asyncio.sleep(1)
        await hosts.verify()

    cluster(2, main)


def test_a_node_that_is_alone_without_the_store_stops_all_the_same() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        for machine in hosts.machines:
            machine.line.up = False
        other.kill()
        assert one.node is not None
        log = one.node.host.named("v").opened_store().log
        log.append(b"", reserved=True)
        async with asyncio.timeout(30):
            with suppress(SofsError):
                await one.ask(lambda node: node.host.close())
        one.kill()

    cluster(2, main)


def test_a_move_that_cannot_be_prepared_is_given_up() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        assert one.node is not None
        registry, store = one.node.host.registry, one.node.host.named("v").opened_store()
        read = registry.configuration

        async def once(volume: int) -> ConfigurationRecord:
            found = await read(volume)
            registry.configuration = read  # type: ignore[method-assign]
            one.line.up = False
            return found

        registry.configuration = once  # type: ignore[method-assign]
        other.kill()
        store.log.append(b"", reserved=True)
        with pytest.raises(Unavailable, match="stays where it is"):
            async with asyncio.timeout(60):
                await one.ask(lambda node: node.host.move("v", other.name))
        one.line.up = True
        await hosts.write(within=3.0)
        assert one.node.host.named("v").opened_store() is store
        await hosts.verify()

    cluster(2, main)


def test_a_move_that_fails_in_its_pause_leaves_the_volume_where_it_is() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        assert one.node is not None
        hosted = one.node.host.named("v")
        store, where = hosted.opened_store(), hosted.where

        def pausing() -> None:
            if where.local is None:
                one.line.up = False

        where.on_change(pausing)
        with pytest.raises(Unavailable):
            await one.ask(lambda node: node.host.move("v", other.name))
        for _ in range(5):
            await hosts.write(within=1.0)
        assert hosted.opened_store() is store, "while the store is away nothing could be opened anew"
        await hosts.verify()

    cluster(2, main)


def test_who_has_been_deposed_without_knowing_it_takes_no_copy_out_of_the_records() -> None:
    """Its successor's own copy would else be in no record, and not be found after the next start."""

    async def main(world: World, hosts: Hosts) -> None:
        one, other, third = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        (second,) = [machine for machine in (other, third) if machine.number in hosts.holders()]
        id = next(id for id, part in one.node.host.parts.items() if part.hosted.record.name == "v") if one.node is not None else 0
        for machine in hosts.machines:
            machine.line.up = False
        world.network.partition(one.name, second.name)
        await asyncio.sleep(15)  # the other copy has been left out here, though not in the store, and is to be replaced
        second.line.up = True
        await hosts.served(by=second)
        (other_host,) = [machine.number for machine in (other, third) if machine is not second]
        one.line.up = True
        one.line.lag = 60.0

        async def replace(node: HostNode) -> None:
            part = node.host.parts[VolumeId(id)]
            (disk,) = [disk for disk in node.host.pools["p"].disks() if disk.host == f"h{other_host}"]
            replica = ReplicaRecord(id=1, disk=disk.id)
            await recruit(node.host.site, part, part.hosted.opened_store(), replica, disk, (), lambda: False)

        with pytest.raises(SofsError):
            await one.ask(replace)
        entry, named = await world.store.get(keys.volume(id)), await world.store.get(keys.configuration(id))
        assert entry is not None and named is not None
        places = {replica.id for replica in VolumeRecord.decode(entry.value).replicas}
        assert set(ConfigurationRecord.decode(named.value).replicas) <= places

    cluster(3, main)
