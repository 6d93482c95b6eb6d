"""Volumes over several simulated nodes: whatever ends, what was acknowledged is there, and somebody serves it soon."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sofs.errors import DiskFailed, NotFound, Unavailable
from sofs.hosting import moving, services
from sofs.hosting.recovering import known_in_logs
from sofs.log.record import HEADER
from sofs.log.replica import FIRST
from sofs.runtime.ports import Clock, Files
from sofs.types import Level
from sofs.volume import takeover
from sofs.volume.keyspace import KeySpace
from sofs.volume.recovery import Incarnation, Place, stored_incarnation
from sofs.volume.standby import Standby, open_standby
from tests.simulation.cluster.world import World, run
from tests.simulation.hosts import Hosts


def cluster(count: int, main: Callable[[World, Hosts], Awaitable[Any]], seed: int = 1, policy: str = "mirror(2) across host") -> None:
    async def whole(world: World) -> None:
        hosts = Hosts(world, count)
        await hosts.begin(policy)
        await main(world, hosts)

    run(seed, whole)


async def busy(hosts: Hosts, world: World, seconds: float = 5.0) -> float:
    """Writes for some time; gives the longest that one write took."""
    longest, end = 0.0, world.loop.time() + seconds
    while world.loop.time() < end:
        began = world.loop.time()
        await hosts.write()
        longest = max(longest, world.loop.time() - began)
        await asyncio.sleep(0.01)
    return longest


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


def test_without_word_of_its_death_a_standby_waits_for_its_promise_to_run_out() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        one.lose_power()
        assert 1.5 < await hosts.served(by=other) < 5.0
        await hosts.verify()

    cluster(2, main)


def test_a_coordinator_that_is_killed_and_starts_again_goes_on_by_itself() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, _ = hosts.machines
        await hosts.in_sync(2)
        verifier = hosts.verifier()
        for _ in range(10):
            await hosts.write()
        one.kill()
        one.start()
        assert await hosts.served(by=one) < 3.0
        await hosts.in_sync(2)
        await hosts.verify()
        assert hosts.verifier() == verifier

    cluster(2, main)


def test_a_volume_moves_by_hand_with_a_short_pause() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        verifier = hosts.verifier()
        given_up: list[object] = []
        for machine in hosts.machines:
            assert machine.node is not None
            machine.node.host.on_failure = given_up.append
        for target in (other, one, other):
            for _ in range(10):
                await hosts.write()
            asked = hosts.coordinator()
            assert asked is not None
            began = world.loop.time()
            await asked.ask(lambda node, target=target: node.host.move("v", target.name))  # type: ignore[misc]
            await hosts.served(by=target)
            assert world.loop.time() - began < 1.0
            await hosts.in_sync(2, within=1.5)
            await hosts.verify()
        assert hosts.verifier() == verifier
        assert not given_up, "no connection is closed for a planned move"

    cluster(2, main)


def test_all_lose_power_at_once_and_everything_stable_is_there() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        await hosts.in_sync(3)
        verifier = hosts.verifier()
        for _ in range(10):
            await hosts.write(Level.STABLE)
        for machine in hosts.machines:
            machine.lose_power()
        await asyncio.sleep(1)
        for machine in reversed(hosts.machines):
            machine.start()
            await asyncio.sleep(1)
        await hosts.served(within=60)
        await hosts.in_sync(3)
        await hosts.verify()
        assert hosts.verifier() != verifier, "unstable writes may have been lost"

    cluster(3, main, policy="mirror(3) across host")


def test_a_node_alone_after_a_power_loss_waits_for_the_others_and_then_serves_what_was_stable() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        for _ in range(10):
            await hosts.write(Level.STABLE)
        one.lose_power()
        other.lose_power()
        other.start()
        assert 10 < await hosts.served(within=60, by=other) < 30
        await hosts.verify()

    cluster(2, main)


def test_a_volume_gets_a_third_copy_where_it_is_when_a_node_stays_away() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        await hosts.in_sync(2)
        for _ in range(30):
            await hosts.write()
        (away,) = [machine for machine in hosts.machines if machine.number in hosts.holders() and machine is not hosts.coordinator()]
        away.kill()
        await asyncio.sleep(1)
        await hosts.write()
        await hosts.in_sync(2, within=60)
        first = hosts.coordinator()
        assert first is not None
        first.kill()
        await hosts.served(within=20)
        await hosts.verify()
        away.start()
        first.start()
        await hosts.in_sync(2)
        await hosts.verify()

    cluster(3, main)


def test_the_copy_of_a_node_that_is_away_is_kept_until_another_counts_since_it_may_have_what_is_damaged_here() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        await hosts.in_sync(2)
        for _ in range(30):
            await hosts.write()
        away = hosts.coordinator()
        (left,) = [machine for machine in hosts.machines if machine.number in hosts.holders() and machine is not away]
        assert away is not None and away.node is not None
        volume = away.node.host.named("v").record.id
        (log,) = [path for path in left.written("/data/disk/logs") if f"/{volume:016x}-" in path and path.endswith(f"/log/{0:016x}")]
        away.kill()
        left.files.flip(log, FIRST + HEADER + 4)
        await hosts.served(by=left)
        await hosts.write()
        await asyncio.sleep(40)
        assert hosts.holders() == {left.number}, "nobody else can be sent what is damaged here"
        away.start()
        await hosts.in_sync(2)
        await hosts.verify()

    cluster(3, main)


def test_a_node_that_stops_in_order_hands_its_volumes_over_first() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        writing = asyncio.create_task(busy(hosts, world))
        await one.ask(lambda node: node.host.close())
        assert hosts.coordinator() is other
        assert await hosts.served(by=other) < 0.1
        one.kill()
        assert await writing < 0.7
        await hosts.write()
        await hosts.verify()

    cluster(2, main)


def test_a_node_whose_copy_stops_following_while_it_is_being_left_out_stops_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = moving.ask

    async def main(world: World, hosts: Hosts) -> None:
        _, other = hosts.machines
        await hosts.in_sync(2)
        part = next(iter((await other.until_ready()).host.parts.values()))
        await asyncio.sleep(1)
        assert part.configuration is not None and set(part.standbys) < set(part.configuration.replicas)

        async def ask(*arguments: Any, **options: Any) -> Any:
            left = await real(*arguments, **options)
            for id in list(part.standbys):
                await part._drop(id)
            return left

        monkeypatch.setattr(moving, "ask", ask)
        await other.ask(lambda node: node.host.close())

    cluster(2, main)


def test_the_store_may_be_away_and_a_failover_then_waits_for_it() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await asyncio.sleep(2)  # the standby has read that it counts
        for machine in hosts.machines:
            machine.line.up = False
        began = world.loop.time()
        while world.loop.time() - began < 60:
            await hosts.write(within=1.0)
            await asyncio.sleep(1)
        one.kill()
        await asyncio.sleep(20)
        assert hosts.coordinator() is None
        other.line.up = True
        assert await hosts.served(by=other) < 5
        await hosts.verify()

    cluster(2, main)


def test_the_logs_know_who_counts_when_the_store_is_lost_for_good() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        await hosts.in_sync(2)
        await hosts.write()
        await asyncio.sleep(3)
        assert hosts.machines[0].node is not None
        view = hosts.machines[0].node.host.view
        for machine in hosts.machines:
            machine.kill()
        for machine in hosts.machines:
            known = known_in_logs(machine.files, [(1, "/data/disk")])
            assert {id: each.configuration for id, each in known.items()} == view.configurations
            assert {id: each.volume for id, each in known.items()} == view.volumes

    cluster(2, main)


def test_a_volume_made_on_one_node_gets_its_copies_when_others_join_and_they_move_when_one_leaves() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, *others = hosts.machines
        await hosts.write()
        for machine in others:
            await hosts.join(machine)
        await hosts.in_sync(2)
        await hosts.write()
        holders = hosts.holders()
        (leaving,) = [machine for machine in others if machine.number in holders]
        await hosts.evict(leaving)
        await asyncio.sleep(2)
        await hosts.in_sync(2, within=6)
        assert leaving.number not in hosts.holders()
        one.kill()
        await hosts.served(by=next(machine for machine in others if machine is not leaving))
        await hosts.verify()

    async def whole(world: World) -> None:
        hosts = Hosts(world, 3)
        await hosts.join(hosts.machines[0])
        await hosts.machines[0].ask(lambda node: node.host.create_volume("v", "p", "mirror(2) across host", True))
        await main(world, hosts)

    run(1, whole)


def test_draining_the_disks_of_a_node_moves_what_it_coordinates_and_its_copies() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        await hosts.in_sync(2)
        await hosts.write()
        first = hosts.coordinator()
        assert first is not None and first.node is not None
        (disk,) = [disk.id for disk in first.node.host.pools["p"].disks() if disk.own]
        await first.ask(lambda node: node.host.pools["p"].drain(disk))
        writing = asyncio.create_task(busy(hosts, world, 60))
        await asyncio.sleep(65)
        assert first.number not in hosts.holders() and len(hosts.holders()) == 2
        assert await writing < 1.0
        await hosts.verify()

    cluster(3, main)


def test_volumes_spread_over_the_nodes_that_can_coordinate_them() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        for number in range(3):
            await one.ask(lambda node, name=f"w{number}": node.host.create_volume(name, "p", "mirror(2) across host", False))  # type: ignore[misc]
        await asyncio.sleep(5 * 60)
        for machine in (one, other):
            assert machine.node is not None
            assert sum(part.serving for part in machine.node.host.parts.values()) == 2

    cluster(2, main)


@pytest.mark.parametrize("seed", range(1, 7))
def test_two_standbys_whose_promises_run_out_together_do_not_depose_one_another(seed: int) -> None:
    async def main(world: World, hosts: Hosts) -> None:
        await hosts.in_sync(3)
        await hosts.write()
        first = hosts.coordinator()
        assert first is not None
        before = hosts.version()
        first.lose_power()
        await hosts.served(within=6)
        await asyncio.sleep(3)
        assert len(hosts.holders()) == 2, "the other standby stays"
        assert hosts.version() == before + 1, "one takeover"
        await hosts.verify()

    cluster(3, main, seed, policy="mirror(3) across host")


def test_a_coordinator_whose_disk_is_gone_leaves_the_volume_to_the_others_at_once() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        for operation in ("write", "sync", "open", "read", "name", "allocate"):
            one.files.fail(operation, "/data/disk", NotFound)
        writing = asyncio.create_task(hosts.write())
        assert await hosts.served(by=other) < 1.0
        await writing
        await hosts.verify()

    cluster(2, main)


def test_a_node_that_starts_without_its_disk_leaves_what_it_coordinated_to_the_others() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        one.kill()
        one.files.fail("open", "/data/disk", NotFound)
        one.start()
        assert await hosts.served(by=other) < 2.0
        await hosts.verify()

    cluster(2, main)


def test_nothing_is_moved_while_the_store_is_away_and_a_node_stops_all_the_same() -> None:
    async def main(world: World, hosts: Hosts) -> None:
        one, other = hosts.machines
        await hosts.in_sync(2)
        await asyncio.sleep(2)
        for machine in hosts.machines:
            machine.line.up = False
        with pytest.raises(Unavailable):
            await one.ask(lambda node: node.host.move("v", "n1"))
        await hosts.write(within=1)
        began = world.loop.time()
        await one.ask(lambda node: node.host.close())
        assert world.loop.time() - began < 20
        one.kill()
        for machine in hosts.machines:
            machine.line.up = True
        await hosts.served(by=other, within=10)
        await hosts.verify()

    cluster(2, main)


def test_a_copy_whose_making_failed_at_the_last_step_is_not_taken_for_one_that_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[Place] = []

    async def fails_once(files: Files, clock: Clock, place: Place, *rest: Any, **more: Any) -> Standby:
        if not failed:
            failed.append(place)
            raise DiskFailed("the disk does not answer")
        return await open_standby(files, clock, place, *rest, **more)

    monkeypatch.setattr(services, "open_standby", fails_once)

    async def main(world: World, hosts: Hosts) -> None:
        _, other = hosts.machines
        await hosts.in_sync(2)
        assert other.node is not None
        part = next(part for part in other.node.host.parts.values() if part.hosted.record.name == "v")
        assert failed and not part.making
        await asyncio.sleep(70)
        assert not other.files.exists(failed[0].path), "what is left of it is removed"

    cluster(2, main)


def test_a_takeover_that_fails_on_its_own_disk_holds_on_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log half made would have the others promise to it for ever, and keep the replica from being opened again."""
    failed: list[bool] = []

    def fails_once(keyspace: KeySpace) -> Incarnation | None:
        if not failed:
            failed.append(True)
            raise DiskFailed("the disk does not answer")
        return stored_incarnation(keyspace)

    async def main(world: World, hosts: Hosts) -> None:
        first, _ = hosts.machines
        await hosts.in_sync(2)
        await hosts.write()
        monkeypatch.setattr(takeover, "stored_incarnation", fails_once)
        first.lose_power()
        await hosts.served(within=15)
        assert failed
        await hosts.verify()

    cluster(2, main)
