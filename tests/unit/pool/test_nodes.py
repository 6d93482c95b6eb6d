"""A pool over the disks of several nodes, which go away and come back."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sofs.errors import ExtentGone, Fenced, InvalidArgument, NoSpace, Unavailable
from sofs.pool import parse_policy
from sofs.pool.neighbours import Neighbours
from sofs.pool.remote_disk import RemoteDisk
from sofs.pool.states import Event, State
from sofs.runtime.simulated_loop import SimulatedLoop, SimulatedRandom, simulate
from sofs.types import PAGE, VolumeId
from tests.unit.pool.nodes import ACROSS, Node, Nodes
from tests.unit.pool.rig import MIB, VOLUME, content, eid, healthy

SIMPLE = parse_policy("simple")


def nodes(test: Callable[[Nodes], Awaitable[None]], count: int = 3, disks: int = 1, seed: int = 1, grace_s: float = 600.0) -> None:
    async def main(loop: SimulatedLoop) -> None:
        cluster = Nodes(loop, SimulatedRandom(seed), count, disks, grace_s=grace_s)
        await cluster.start_all()
        await test(cluster)

    simulate(main)


def homes(cluster: Nodes, at: object) -> list[Node]:
    return [cluster.owner(fragment.disk) for fragment in at.fragments]  # type: ignore[attr-defined]


def test_every_node_writes_to_and_reads_from_the_disks_of_all() -> None:
    async def test(cluster: Nodes) -> None:
        used = set()
        for number in range(12):
            at = await cluster.write(cluster[1 + number % 3], number, (1 + number % 3) * MIB)
            assert len({node.host for node in homes(cluster, at)}) == 2
            used |= {node.id for node in homes(cluster, at)}
            for node in cluster.all:
                assert await cluster.read(node, at) == content(number, at.length)
                assert healthy(node.pool, at)
            assert await cluster.run(cluster[1], cluster[1].pool.check(at)) == []
        assert used == {1, 2, 3}
        assert cluster.used().keys() == {spec.id for spec in cluster.specs}

    nodes(test)


def test_a_local_copy_is_read_without_asking_anybody() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1)
        here, there = homes(cluster, at)
        for node in (here, there):
            for other in cluster.all:
                if other is not node:
                    cluster.cut(node, other)
            assert await cluster.read(node, at) == content(1, MIB)
            for other in cluster.all:
                if other is not node:
                    cluster.heal(node, other)

    nodes(test)


def test_a_page_that_rots_on_another_node_is_served_from_the_other_copy_and_mended() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1)
        third = next(node for node in cluster.all if node not in homes(cluster, at))
        for page, (disk, slot) in enumerate(at.fragments, 9):
            owner = cluster.owner(disk)
            owner.files.flip("/disks/d0/arenas/000000", slot % 16 * (MIB + 8192) + 8192 + page * PAGE + 17)
            cluster.disk(disk)._recent.clear()
            for _ in range(2):
                assert await cluster.read(third, at) == content(1, MIB)
        # Of two copies one is read at first; the other's rot is found by its own node's scrubbing.
        await asyncio.sleep(45)
        assert await cluster.run(third, third.pool.check(at)) == []
        mended = [fields["disk"] for node in cluster.all for name, fields in node.events if name == "mended"]
        assert len(mended) == 2

    nodes(test)


def test_a_node_that_dies_has_its_disks_missing_and_they_return_with_it() -> None:
    async def test(cluster: Nodes) -> None:
        placements = [await cluster.write(cluster[1], number) for number in range(8)]
        cluster.kill(cluster[3])
        await asyncio.sleep(6)
        gone = cluster.specs[2].id
        for node in (cluster[1], cluster[2]):
            assert cluster.state(node, gone) is State.MISSING
            for number, at in enumerate(placements):
                assert await cluster.read(node, at) == content(number, MIB)
                assert healthy(node.pool, at) == (gone not in [fragment.disk for fragment in at.fragments])
                assert node.pool.relied_on(at) is None, "nothing is written off because of a short absence"
        later = [await cluster.write(cluster[1], 100 + number) for number in range(4)]
        assert all(cluster[3] not in homes(cluster, at) and len(at.fragments) == 2 for at in later)
        await cluster.start(cluster[3])
        await asyncio.sleep(5)
        assert cluster.state(cluster[1], gone) is cluster.state(cluster[3], gone) is State.HEALTHY
        for number, at in enumerate(placements):
            assert await cluster.read(cluster[3], at) == content(number, MIB)
            assert healthy(cluster[1].pool, at)

    nodes(test)


def test_a_node_that_stays_away_is_not_relied_on_any_more() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1, policy=parse_policy("mirror(3) across host"))
        cluster.kill(cluster[3], power=True)
        await asyncio.sleep(30)
        assert cluster[1].pool.relied_on(at) is None
        await asyncio.sleep(40)
        assert cluster[1].pool.relied_on(at) == (2, 2)
        assert cluster[1].pool.attainable(parse_policy("mirror(3) across host")) == 2

    nodes(test, grace_s=60)


def test_a_disk_that_was_being_drained_or_had_failed_is_not_relied_on_when_its_node_goes_away() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1, policy=parse_policy("mirror(3) across host"))
        await cluster.run(cluster[1], cluster[1].pool.drain(cluster.specs[2].id))
        failed = cluster[2].pool.members
        failed.happened(failed.get(cluster.specs[1].id), Event.WRITE_ERROR, "worn out")
        await asyncio.sleep(3)
        assert cluster[1].pool.relied_on(at) == (2, 1)
        cluster.kill(cluster[2])
        cluster.kill(cluster[3])
        await asyncio.sleep(6)
        assert cluster[1].pool.relied_on(at) == (1, 1)

    nodes(test)


def test_an_evicted_nodes_disks_are_lost_at_once() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1, policy=parse_policy("mirror(3) across host"))
        specs = [spec._replace(lost=spec.node == 3) for spec in cluster.specs]
        await cluster.run(cluster[1], cluster[1].pool.update(specs))
        assert cluster.state(cluster[1], cluster.specs[2].id) is State.FAILED
        assert cluster[1].pool.relied_on(at) == (2, 2)
        await asyncio.sleep(10)
        assert cluster.state(cluster[1], cluster.specs[2].id) is State.FAILED, "that it still answers changes nothing"
        await cluster.run(cluster[1], cluster[1].pool.update(cluster.specs[:2]))
        assert cluster.state(cluster[1], cluster.specs[2].id) is None

    nodes(test)


def test_a_new_nodes_disks_join_with_their_records() -> None:
    async def test(cluster: Nodes) -> None:
        for node in cluster.all:
            await cluster.run(node, node.pool.update([spec for spec in cluster.specs if spec.node in (1, 2, node.id)]))
        at = await cluster.write(cluster[1], 1)
        assert cluster[3] not in homes(cluster, at)
        for node in cluster.all:
            await cluster.run(node, node.pool.update(cluster.specs))
            await cluster.run(node, node.pool.hear())
        placements = [await cluster.write(cluster[1], 10 + number) for number in range(8)]
        assert any(cluster[3] in homes(cluster, at) for at in placements)

    nodes(test)


def test_when_records_change_only_nodes_with_new_disks_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    hear = Neighbours.hear

    async def noted(self: Neighbours, node: int) -> None:
        asked.append(node)
        await hear(self, node)

    async def test(cluster: Nodes) -> None:
        one = cluster[1]
        await cluster.run(one, one.pool.update(cluster.specs[:2]))
        monkeypatch.setattr(Neighbours, "hear", noted)
        await cluster.run(one, one.pool.update(cluster.specs[:2]))
        await asyncio.sleep(0.1)
        assert asked == []
        await cluster.run(one, one.pool.update(cluster.specs))
        await asyncio.sleep(0.1)
        assert asked == [cluster[3].id] and cluster.state(one, cluster.specs[2].id) is State.HEALTHY

    nodes(test)


def test_a_disk_that_holds_nothing_any_more_goes_with_its_record() -> None:
    async def test(cluster: Nodes) -> None:
        leaving = cluster.specs[2]
        for _ in range(2):
            for node in cluster.all:
                await cluster.run(node, node.pool.update(cluster.specs[:2]))
            assert [cluster.state(node, leaving.id) for node in cluster.all] == [None, None, State.HEALTHY], "it may hold something"
            await cluster.run(cluster[1], cluster[1].pool.update(cluster.specs))
            await cluster.run(cluster[1], cluster[1].pool.hear())
        assert await cluster.run(cluster[1], cluster[1].pool.drain(leaving.id)) is State.RETIRED
        for node in cluster.all:
            await cluster.run(node, node.pool.update(cluster.specs[:2]))
            assert cluster.state(node, leaving.id) is None
        lock = cluster[3].files.lock("/disks/d0/lock")
        lock.close()

    nodes(test)


def test_who_has_the_only_copy_is_waited_for() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1, policy=SIMPLE)
        owner = homes(cluster, at)[0]
        reader = next(node for node in cluster.all if node is not owner)
        cluster.kill(owner)
        await asyncio.sleep(3)
        reading = asyncio.ensure_future(cluster.read(reader, at))
        await asyncio.sleep(10)
        assert not reading.done()
        await cluster.start(owner)
        assert await reading == content(1, MIB)
        cluster.kill(owner)
        await asyncio.sleep(3)
        with pytest.raises(Unavailable, match="is missing"):
            await cluster.read(reader, at)

    nodes(test)


def test_a_paused_node_holds_nobody_up_for_long() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1)
        third = next(node for node in cluster.all if node not in homes(cluster, at))
        for owner in homes(cluster, at):
            assert owner.process is not None
            owner.process.pause()
            for number in range(5):
                before = cluster.clock.monotonic()
                assert await cluster.read(third, at) == content(1, MIB)
                assert cluster.clock.monotonic() - before < (4 if number == 0 else 1)
            written = await cluster.write(third, 10 + owner.id)
            assert owner not in homes(cluster, written)
            owner.process.resume(cluster.loop)
            await asyncio.sleep(35)
            assert cluster.state(third, at.fragments[homes(cluster, at).index(owner)].disk) is State.HEALTHY

    nodes(test)


def test_a_slow_answer_makes_a_disk_the_last_to_be_asked_and_writes_nothing_off() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1)
        third = next(node for node in cluster.all if node not in homes(cluster, at))
        slow = at.fragments[1].disk  # the one that is asked first of this extent
        disk = third.pool.members.get(slow).disk
        assert isinstance(disk, RemoteDisk)
        # What a disk that hangs does: its node answers, it does not.
        cluster.owner(slow).files.latency = type(cluster.owner(slow).files.latency)(read=100.0, sync=500e-6)
        cluster.owner(slow).files.miss = 1.0
        cluster.disk(slow)._recent.clear()
        assert await cluster.read(third, at) == content(1, MIB)
        await asyncio.sleep(5)
        assert cluster.state(third, slow) is State.SUSPECT
        assert third.pool.relied_on(at) is None
        before = cluster.clock.monotonic()
        assert await cluster.read(third, at) == content(1, MIB)
        assert cluster.clock.monotonic() - before < 1
        cluster.owner(slow).files.latency = type(cluster.owner(slow).files.latency)()
        await asyncio.sleep(40)
        assert cluster.state(third, slow) is State.HEALTHY

    nodes(test)


def test_a_disk_that_was_away_hears_first_what_was_revoked() -> None:
    async def test(cluster: Nodes) -> None:
        gone = cluster.specs[2].id
        for other in (cluster[1], cluster[2]):
            cluster.cut(cluster[3], other)
        await asyncio.sleep(6)
        await cluster.run(cluster[1], cluster[1].pool.revoke(VOLUME, range(1, 100)))
        # A coordinator that was deposed writes on, on the side that was cut off.
        stray = await cluster.write(cluster[3], 50, policy=SIMPLE)
        assert stray.fragments[0].disk == gone
        for other in (cluster[1], cluster[2]):
            cluster.heal(cluster[3], other)
        doubt = cluster[1].pool.in_doubt
        await asyncio.sleep(10)
        assert cluster.state(cluster[1], gone) is State.HEALTHY and cluster[1].pool.in_doubt > doubt
        for policy in (SIMPLE, ACROSS):
            with pytest.raises(Fenced):
                await cluster.write(cluster[3], 51, policy=policy)
        orphans = await cluster.run(cluster[1], cluster[1].pool.orphans(VOLUME, range(1, 100), lambda number: ()))
        assert orphans == [stray]
        await cluster.run(cluster[1], cluster[1].pool.delete(stray))
        assert not any(cluster.used().values())

    nodes(test)


def test_to_revoke_nothing_is_no_nonsense_and_breaks_no_connection() -> None:
    async def test(cluster: Nodes) -> None:
        await cluster.run(cluster[1], cluster[1].pool.revoke(VOLUME, range(1, 1)))
        assert await cluster.run(cluster[1], cluster[1].pool.orphans(VOLUME, range(1, 1), lambda number: ())) == []
        assert all(cluster.state(cluster[1], spec.id) is State.HEALTHY for spec in cluster.specs)
        disk = cluster[1].pool.members.get(cluster.specs[1].id).disk
        assert isinstance(disk, RemoteDisk) and disk.peer.connected
        await cluster.run(cluster[1], disk.revoke(VOLUME, range(1, 1)))
        assert disk.peer.connected

    nodes(test)


def test_a_disk_that_returns_hears_of_any_number_of_revoked_ranges() -> None:
    async def test(cluster: Nodes) -> None:
        cluster.kill(cluster[2])
        for number in range(50_000):
            cluster[1].pool.members.revoked.add(VolumeId((1 << 62) + number), range(1 << 30, (1 << 30) + 5))
        cluster.network.power_up(cluster[2].address)
        await cluster.start(cluster[2])
        await asyncio.sleep(5)
        assert cluster.state(cluster[1], cluster.specs[1].id) is State.HEALTHY
        assert len(list(cluster.disk(cluster.specs[1].id).revoked)) == 50_000

    nodes(test)


def test_a_fragment_whose_writing_was_not_heard_of_is_a_stray_beside_its_extent() -> None:
    async def test(cluster: Nodes) -> None:
        strays = 0
        for number in range(1, 30):
            writing = asyncio.ensure_future(cluster.write(cluster[1], number))
            await asyncio.sleep(0.0004 * number / 10)
            cluster.network.lose(cluster[1].address, cluster[2].address)
            at = await writing
            assert await cluster.read(cluster[1], at) == content(number, MIB)
            await asyncio.sleep(3)
            there = {(disk, slot) for disk, entries in cluster.used().items() for slot, entry in entries.items() if entry.id == eid(number)}
            strays += len(there - set(at.fragments))
            assert there >= set(at.fragments)
            found = await cluster.run(cluster[1], cluster[1].pool.orphans(VOLUME, range(1, 100), lambda n: at.fragments if n == number else ()))  # noqa: B023
            assert {fragment for orphan in found for fragment in orphan.fragments} == there - set(at.fragments)
            for orphan in [*found, at]:
                await cluster.run(cluster[1], cluster[1].pool.delete(orphan))
            assert not any(cluster.used().values())
        assert strays > 2, "no writing was ever cut off"

    nodes(test)


def test_a_late_deletion_or_mending_touches_no_other_extent() -> None:
    async def test(cluster: Nodes) -> None:
        at = await cluster.write(cluster[1], 1)
        await cluster.run(cluster[1], cluster[1].pool.delete(at))
        new = await cluster.write(cluster[2], 2)
        while not set(new.fragments) & set(at.fragments):
            new = await cluster.write(cluster[2], new.id.number + 1)
        number = new.id.number
        await cluster.run(cluster[1], cluster[1].pool.delete(at))
        for fragment in at.fragments:
            disk = cluster[1].pool.members.get(fragment.disk).disk
            assert disk is not None
            for change in (disk.mend(fragment.slot, at.id, 0, bytes(PAGE)), disk.mend(fragment.slot, at.id, 1, content(1, MIB)[PAGE : 2 * PAGE])):
                with pytest.raises(ExtentGone):
                    await cluster.run(cluster[1], change)
        assert await cluster.read(cluster[3], new) == content(number, MIB)
        assert await cluster.run(cluster[3], cluster[3].pool.check(new)) == []

    nodes(test)


def test_a_disk_of_another_node_is_drained_and_retires_when_it_is_empty() -> None:
    async def test(cluster: Nodes) -> None:
        placements = [await cluster.write(cluster[1], number) for number in range(6)]
        leaving = cluster.specs[1].id
        assert await cluster.run(cluster[1], cluster[1].pool.drain(leaving)) is State.DRAINING
        await asyncio.sleep(3)
        for node in cluster.all:
            assert cluster.state(node, leaving) is State.DRAINING
        for number, at in enumerate(placements):
            on_it = leaving in [fragment.disk for fragment in at.fragments]
            assert (cluster[3].pool.relied_on(at) == (2, 1)) == on_it
            if on_it:
                new = await cluster.run(cluster[3], cluster[3].pool.reprotect(at, eid(100 + number), ACROSS))
                assert leaving not in [fragment.disk for fragment in new.fragments] and healthy(cluster[3].pool, new)
                await cluster.run(cluster[3], cluster[3].pool.delete(at))
                assert await cluster.read(cluster[2], new) == content(number, MIB)
        await asyncio.sleep(3)
        for node in cluster.all:
            assert cluster.state(node, leaving) is State.RETIRED
        with pytest.raises(InvalidArgument):
            await cluster.run(cluster[2], cluster[2].pool.members.reopen(cluster.specs[0].id))
        assert await cluster.run(cluster[3], cluster[3].pool.drain(leaving, False)) is State.HEALTHY

    nodes(test)


def test_a_disk_that_is_drained_takes_nothing_from_who_has_not_heard_of_it_yet() -> None:
    async def test(cluster: Nodes) -> None:
        leaving = cluster.specs[1].id
        await cluster.run(cluster[2], cluster[2].pool.drain(leaving))
        assert cluster.state(cluster[2], leaving) is State.RETIRED, "nothing lies on it"
        assert cluster.state(cluster[1], leaving) is State.HEALTHY
        for number in range(4):
            at = await cluster.write(cluster[1], number)
            assert leaving not in [fragment.disk for fragment in at.fragments]
        assert cluster.disk(leaving).empty, "it may be pulled out"
        assert cluster.state(cluster[2], leaving) is State.RETIRED

    nodes(test)


def test_a_disk_that_is_drained_while_it_is_being_written_to_is_not_retired_with_what_is_written() -> None:
    async def test(cluster: Nodes) -> None:
        leaving = cluster.specs[1].id
        pool = cluster[2].pool
        for number in range(40):
            writing = [asyncio.ensure_future(cluster.write(cluster[1 + each], 2 * number + each)) for each in range(2)]
            await asyncio.sleep(0.0001 * number)
            await cluster.run(cluster[2], pool.drain(leaving))
            placements = await asyncio.gather(*writing)
            await asyncio.sleep(3)
            holds = any(fragment.disk == leaving for at in placements for fragment in at.fragments)
            assert (pool.members.state(leaving) is State.RETIRED) == (not holds)
            for at in placements:
                await cluster.run(cluster[1], cluster[1].pool.delete(at))
            await asyncio.sleep(1)
            assert await cluster.run(cluster[2], pool.drain(leaving, False)) is State.HEALTHY
            await asyncio.sleep(3)

    nodes(test)


def test_what_volumes_of_other_nodes_have_claimed_is_not_free() -> None:
    async def test(cluster: Nodes) -> None:
        pools = [node.pool for node in cluster.all]
        free = pools[0].room(ACROSS, VOLUME).free
        pools[1].claim(VOLUME + 1, 20 * MIB)  # type: ignore[arg-type]
        pools[2].claim(VOLUME + 2, 4 * MIB)  # type: ignore[arg-type]
        pools[0].claim(VOLUME, 100 * MIB)
        await asyncio.sleep(3)
        assert pools[0].room(ACROSS, VOLUME).free == free - 12 * MIB
        assert pools[1].room(ACROSS, VOLUME + 1).free == free - 52 * MIB  # type: ignore[arg-type]
        pools[1].claim(VOLUME + 1, 0)  # type: ignore[arg-type]
        await asyncio.sleep(3)
        assert pools[0].room(ACROSS, VOLUME).free == free - 2 * MIB

    nodes(test)


def test_a_fuller_disk_is_crowded_only_if_the_others_can_do_without_it() -> None:
    async def test(cluster: Nodes) -> None:
        pool = cluster[1].pool
        assert pool.crowded(ACROSS) == {}
        here = frozenset({cluster.specs[0].id, cluster.specs[1].id})
        for number in range(20):
            await cluster.write(cluster[1], number, policy=SIMPLE)
        others = frozenset(spec.id for spec in cluster.specs if spec.node != 1)
        for number in range(100, 110):
            at = await cluster.run(cluster[1], pool.write(eid(number), [content(number, MIB)], SIMPLE))
            await cluster.run(cluster[1], pool.reprotect(at, eid(1000 + number), SIMPLE, others))
        await asyncio.sleep(3)
        assert pool.crowded(ACROSS).keys() & here and not pool.crowded(ACROSS).keys() & others
        three = parse_policy("mirror(3) across host")
        for spec in cluster.specs[1:2]:
            await cluster.run(cluster[1], pool.drain(spec.id))
        assert pool.crowded(three) == {}, "every extent has to have a copy here"
        with pytest.raises(NoSpace):
            await cluster.run(cluster[1], pool.reprotect(at, eid(5000), ACROSS, [spec.id for spec in cluster.specs]))

    nodes(test, disks=2)
