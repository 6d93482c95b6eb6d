"""Clones of whole files: what they cost, what they keep, and what becomes of the maps behind them."""

from collections.abc import Awaitable, Callable

import pytest

from sofs.types import PAGE, Inode
from sofs.volume import keys
from sofs.volume.batch import Operation, decode
from sofs.volume.keys import LEAF_PAGES
from sofs.volume.maps import Way, depth, find, way
from tests.unit.volume.rig import NOW, Rig, done
from tests.unit.volume.test_data import pattern, run

LEAF = LEAF_PAGES * PAGE
Scenario = Callable[[Rig], Awaitable[None]]


def whole(scenario: Scenario) -> None:
    run(scenario, whole_from=1)


async def clone(rig: Rig, source: Inode, target: Inode) -> None:
    await done(rig.data.clone(source, 0, target, 0, rig.record(source).size, NOW))


async def look_after(rig: Rig) -> None:
    while await rig.data.maps.run_once():
        pass


def own_leaves(rig: Rig, inode: Inode) -> int:
    return sum(1 for _ in rig.store.keyspace.scan(keys.LEAF + way_of(rig, inode).map))


def way_of(rig: Rig, inode: Inode) -> Way:
    record = rig.store.keyspace.get(keys.inode(inode))
    assert record is not None
    return way(inode.to_bytes(8), record)


def frozen(rig: Rig) -> int:
    return sum(1 for key, _ in rig.store.keyspace.walk(keys.FROZEN) if len(key) == keys.BUCKET)


def held(rig: Rig) -> int:
    """Pages that are live, in the log and in extents."""
    live = (int.from_bytes(value, "little") for key, value in rig.store.keyspace.walk(keys.EXTENT) if len(key) > keys.BUCKET)
    return sum(live) + rig.data.space.counter(keys.LOG_PAGES)


def test_a_clone_of_a_whole_file_is_one_small_batch_and_takes_no_space() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(40 * LEAF + 17)
        await rig.write(source, 0, data)
        await rig.settle()
        before, at = rig.pool.usage().free, rig.store.log.end
        await clone(rig, source, target)
        await rig.store.log.sync()
        codes = [code for record in rig.store.log.scan(at, rig.store.log.stable) for code, _ in decode(record.operations)]
        assert codes.count(Operation.CLONE_FILE) == 1 and Operation.CLONE not in codes
        assert own_leaves(rig, target) == own_leaves(rig, source) == 0
        assert await rig.read(target, 0, len(data) + 1) == data == await rig.read(source, 0, len(data))
        assert rig.record(target).allocated == rig.record(source).allocated == 40 * LEAF + PAGE
        await rig.settle()
        assert rig.pool.usage().free == before
        await rig.clean()

    whole(scenario)


def test_small_files_are_cloned_leaf_by_leaf() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        await rig.write(source, 0, pattern(3 * LEAF))
        await clone(rig, source, target)
        assert frozen(rig) == 0 and own_leaves(rig, target) == 3
        await rig.clean()

    run(scenario)


def test_many_clones_of_a_file_that_does_not_change_stand_side_by_side() -> None:
    async def scenario(rig: Rig) -> None:
        source = rig.make_file(2)
        data = pattern(3 * LEAF)
        await rig.write(source, 0, data)
        for number in range(3, 53):
            await clone(rig, source, rig.make_file(number))
        assert frozen(rig) == 1
        assert depth(rig.store.keyspace.get, way_of(rig, Inode(52))) == 1
        await clone(rig, Inode(52), rig.make_file(53))
        assert frozen(rig) == 1, "a clone of an unchanged clone reads through the same map"
        assert await rig.read(Inode(53), 0, len(data)) == data
        await rig.clean()

    whole(scenario)


def test_a_change_takes_its_leaf_over_and_is_seen_nowhere_else() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(4 * LEAF)
        await rig.write(source, 0, data)
        await clone(rig, source, target)
        await rig.write(target, LEAF + 100, b"changed")
        changed = data[: LEAF + 100] + b"changed" + data[LEAF + 107 :]
        assert own_leaves(rig, target) == 1 and own_leaves(rig, source) == 0
        assert await rig.read(target, 0, len(data)) == changed
        assert await rig.read(source, 0, len(data)) == data
        await rig.write(source, 3 * LEAF, b"mine")
        assert await rig.read(target, 0, len(data)) == changed
        await rig.clean()
        await rig.settle()
        assert await rig.read(target, 0, len(data)) == changed
        await rig.clean()

    whole(scenario)


@pytest.mark.parametrize("deallocate", [True, False])
def test_what_is_punched_or_cut_off_does_not_show_the_origin_again(deallocate: bool) -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(6 * LEAF)
        await rig.write(source, 0, data)
        await clone(rig, source, target)
        await done(rig.data.punch(target, LEAF + 5, 2 * LEAF, NOW, deallocate=deallocate))
        expected = data[: LEAF + 5] + bytes(2 * LEAF) + data[3 * LEAF + 5 :]
        assert await rig.read(target, 0, len(data)) == expected
        await done(rig.data.truncate(target, 4 * LEAF + 100, NOW))
        await done(rig.data.truncate(target, 6 * LEAF, NOW))
        expected = expected[: 4 * LEAF + 100] + bytes(2 * LEAF - 100)
        assert await rig.read(target, 0, len(data)) == expected
        ranges, _ = rig.data.ranges(target, 0, 6 * LEAF, 100)
        holes = [(0, LEAF + PAGE), (3 * LEAF, LEAF + PAGE)]
        assert ranges == (holes if deallocate else [(0, 4 * LEAF + PAGE)])
        assert await rig.read(source, 0, len(data)) == data
        await rig.clean()
        await done(rig.data.truncate(target, 0, NOW))
        assert rig.record(target).allocated == 0
        await look_after(rig)
        assert frozen(rig) == 0, "the source, the only reader, has its map back"
        assert await rig.read(source, 0, len(data)) == data
        await rig.clean()

    whole(scenario)


def test_deleting_gives_back_what_nothing_else_holds() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(8 * LEAF)
        await rig.write(source, 0, data)
        await clone(rig, source, target)
        await rig.write(source, 0, pattern(LEAF, 2))
        await rig.delete_file(source)
        await look_after(rig)
        assert frozen(rig) == 0
        assert held(rig) == 8 * LEAF_PAGES
        assert await rig.read(target, 0, len(data)) == data
        await rig.clean()
        await rig.delete_file(target)
        await look_after(rig)
        await rig.settle()
        usage = rig.pool.usage()
        assert usage.free == usage.total
        await rig.clean()

    whole(scenario)


def test_what_the_last_reader_has_changed_is_dropped_and_the_rest_becomes_its_own() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(8 * LEAF)
        await rig.write(source, 0, data)
        await clone(rig, source, target)
        await rig.write(source, 0, pattern(LEAF, 2))
        assert held(rig) == 9 * LEAF_PAGES
        await rig.delete_file(target)
        await look_after(rig)
        assert frozen(rig) == 0 and own_leaves(rig, source) == 8
        assert held(rig) == 8 * LEAF_PAGES
        assert rig.record(source).allocated == 8 * LEAF
        await rig.clean()

    whole(scenario)


def test_a_file_that_is_changed_and_cloned_again_and_again_does_not_get_ever_slower() -> None:
    async def scenario(rig: Rig) -> None:
        source = rig.make_file(2)
        model = bytearray(pattern(20 * LEAF))
        await rig.write(source, 0, bytes(model))
        kept: dict[Inode, bytes] = {}
        for number in range(3, 33):
            target = rig.make_file(number)
            await clone(rig, source, target)
            kept[target] = bytes(model)
            at = number % 20 * LEAF + number
            await rig.write(source, at, b"%d" % number)
            model[at : at + len(b"%d" % number)] = b"%d" % number
            assert depth(rig.store.keyspace.get, way_of(rig, source)) <= 8
        for target, content in kept.items():
            assert await rig.read(target, 0, len(content)) == content
        await rig.clean()
        for target in kept:
            await rig.delete_file(target)
        await look_after(rig)
        assert frozen(rig) == 0
        assert await rig.read(source, 0, len(model)) == bytes(model)
        assert held(rig) == 20 * LEAF_PAGES
        await rig.clean()

    whole(scenario)


def test_reserved_pages_stay_reserved_in_both() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        await rig.write(source, 0, pattern(LEAF))
        await done(rig.data.allocate(source, LEAF, 2 * LEAF, NOW, True))
        await clone(rig, source, target)
        assert rig.record(target).allocated == 3 * LEAF
        await rig.write(target, 2 * LEAF, b"x")
        await rig.write(source, 2 * LEAF, b"y")
        assert rig.record(target).allocated == 3 * LEAF
        await rig.clean()
        await done(rig.data.allocate(target, 0, 4 * LEAF, NOW, True))
        assert rig.record(target).allocated == 4 * LEAF
        await rig.clean()

    whole(scenario)


def test_a_clone_replaces_a_smaller_file_and_reading_goes_on_over_its_own_clone() -> None:
    async def scenario(rig: Rig) -> None:
        source, target, third = rig.make_file(2), rig.make_file(3), rig.make_file(4)
        data = pattern(5 * LEAF + 99)
        await rig.write(source, 0, data)
        await rig.write(target, 0, pattern(2 * LEAF, 7))
        await clone(rig, source, target)
        await clone(rig, source, target)
        await clone(rig, target, third)
        await rig.write(third, 10, b"third")
        await clone(rig, third, source)
        expected = data[:10] + b"third" + data[15:]
        assert await rig.read(source, 0, len(data)) == expected == await rig.read(third, 0, len(data))
        assert await rig.read(target, 0, len(data)) == data
        await rig.clean()
        await look_after(rig)
        await rig.clean()
        assert await rig.read(target, 0, len(data)) == data

    whole(scenario)


def test_ranges_are_cloned_and_copied_out_of_and_into_clones() -> None:
    async def scenario(rig: Rig) -> None:
        source, target, other = rig.make_file(2), rig.make_file(3), rig.make_file(4)
        data = pattern(5 * LEAF)
        await rig.write(source, 0, data)
        await clone(rig, source, target)
        await done(rig.data.clone(target, LEAF, other, 0, 2 * LEAF, NOW))
        assert await rig.read(other, 0, 3 * LEAF) == data[LEAF : 3 * LEAF]
        await done(rig.data.clone(other, PAGE, target, 3 * PAGE, 5 * PAGE, NOW))
        expected = data[: 3 * PAGE] + data[LEAF + PAGE : LEAF + 6 * PAGE] + data[8 * PAGE :]
        assert await rig.read(target, 0, len(data)) == expected
        await rig.data.copy(target, 1, other, 2, LEAF, NOW)
        assert await rig.read(other, 0, LEAF) == data[LEAF : LEAF + 2] + expected[1 : LEAF - 1]
        assert await rig.read(source, 0, len(data)) == data
        await rig.clean()

    whole(scenario)


def test_a_copy_of_a_whole_file_shares_all_of_it() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(5 * LEAF + 1)
        await rig.write(source, 0, data)
        result = await rig.data.copy(source, 0, target, 0, 1 << 40, NOW)
        assert result.length == len(data) and own_leaves(rig, target) == 0
        assert await rig.read(target, 0, len(data)) == data
        await rig.clean()

    whole(scenario)


def test_pages_in_the_log_outlive_the_file_that_wrote_them() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(3 * LEAF)
        await rig.write(source, 0, data)
        await clone(rig, source, target)
        await rig.write(target, 0, b"own")
        await rig.write(target, 2 * LEAF, pattern(LEAF, 3))
        await rig.delete_file(source)
        expected = b"own" + data[3 : 2 * LEAF] + pattern(LEAF, 3)
        await rig.settle()
        assert await rig.read(target, 0, len(data)) == expected
        await rig.clean()
        await look_after(rig)
        await rig.settle()
        assert await rig.read(target, 0, len(data)) == expected
        await rig.clean()

    whole(scenario)


def test_what_is_wrong_with_frozen_maps_is_found() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        await rig.write(source, 0, pattern(3 * LEAF))
        await clone(rig, source, target)
        overlay = rig.store.keyspace.overlay
        for key, value in [*rig.store.keyspace.walk(keys.FROZEN), (keys.inode(target), overlay.get(keys.inode(target)))]:
            assert value is not None
            last = value[-4] ^ 1
            if key.startswith(keys.INODE):
                wrong = value[:-8] + (5).to_bytes(8, "little")
            else:
                wrong = value[:-4] + bytes((last,)) + value[-3:]
            overlay.put(key, wrong)
            assert (await rig.check()).findings, key
            overlay.put(key, value)
        await rig.clean()
        frozen_map = keys.FROZEN + way_of(rig, source).origin
        known = overlay.get(frozen_map)
        assert known is not None
        overlay.put(frozen_map, known[:-1])
        assert any("bytes" in finding.what for finding in (await rig.check()).findings)
        overlay.put(frozen_map, known)
        overlay.delete(keys.LEAF + way_of(rig, source).origin + (1).to_bytes(8))
        assert (await rig.check()).findings
        assert find(rig.store.keyspace.get, way_of(rig, target), 1) is None

    whole(scenario)
