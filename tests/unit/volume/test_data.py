"""Data of files over a real log, key space and pool on simulated disks."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import cache

import pytest

from sofs.errors import Damaged, InvalidArgument, NoSpace
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.types import PAGE, Inode
from sofs.volume import keys
from sofs.volume.writer import APPEND
from tests.unit.volume.rig import MIB, NOW, Rig, done


def run(scenario: Callable[[Rig], Awaitable[None]], **options: object) -> None:
    """Runs a scenario against a new volume on a host of its own."""
    loop = SimulatedLoop()
    random = SimulatedRandom(1)
    rig = Rig(SimulatedFiles(random), SimulatedClock(loop), random, **options)  # type: ignore[arg-type]

    async def main() -> None:
        await rig.make()
        await scenario(rig)
        await rig.close()

    loop.run(main())


@cache
def _period(seed: int) -> bytes:
    return bytes((seed * 31 + at * 7 + at // 256) & 0xFF for at in range(65536))


def pattern(length: int, seed: int = 1) -> bytes:
    """Bytes that differ from page to page, and from seed to seed."""
    return (_period(seed & 0xFF) * (length // 65536 + 1))[:length]


def test_what_was_written_is_read_whatever_the_alignment() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        model = bytearray()
        for offset, length in ((0, 10), (5, 5000), (4096, 4096), (8190, 4), (20000, 1), (12288, 8192), (100, 40000)):
            data = pattern(length, offset)
            await rig.write(file, offset, data)
            model.extend(bytes(max(0, offset + length - len(model))))
            model[offset : offset + length] = data
            assert await rig.read(file, 0, len(model) + 10) == bytes(model)
        assert rig.record(file).size == len(model)
        for offset in (0, 1, 4095, 4096, 39999, len(model) - 1):
            for length in (1, 4096, 5000, 70000):
                assert await rig.read(file, offset, length) == bytes(model[offset : offset + length])
        await rig.clean()
        await rig.settle()
        assert rig.store.keyspace.get(keys.LOG_PAGES) == bytes(8)
        assert await rig.read(file, 0, len(model)) == bytes(model)
        report = await rig.clean()
        assert report.extents == 1

    run(scenario)


def test_appending_goes_to_the_end_and_holes_read_as_zeros() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        for part in (b"one", b"two", pattern(9000)):
            await rig.write(file, APPEND, part)
        await rig.write(file, 3 * MIB, b"far")
        assert await rig.read(file, 0, 20) == (b"onetwo" + pattern(9000))[:20]
        assert await rig.read(file, 2 * MIB, 5000) == bytes(5000)
        assert rig.record(file).pages == 4
        ranges, all_of_them = rig.data.ranges(file, 0, 1 << 40, 10)
        assert ranges == [(0, 3 * PAGE), (3 * MIB, 3)]
        assert all_of_them
        assert rig.data.ranges(file, 0, 1 << 40, 1) == ([(0, 3 * PAGE)], False)
        await rig.clean()

    run(scenario)


def test_large_writes_become_extents_and_only_names_are_logged() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        data = pattern(3 * MIB)
        await rig.write(file, 100, data)
        assert await rig.read(file, 100, len(data)) == data
        report = await rig.clean()
        assert report.extents == 1
        assert rig.data.space.counter(keys.LOG_PAGES) == 129  # what is no whole half MiB, the edges among it
        await rig.write(file, 100, pattern(3 * MIB, 5))
        assert await rig.read(file, 100, len(data)) == pattern(3 * MIB, 5)
        assert (await rig.clean()).extents == 1  # the first is freed
        await rig.settle()
        assert (await rig.clean()).extents == 2
        assert not list(rig.store.keyspace.walk(keys.FREED))

    run(scenario)


def test_a_burst_of_large_writes_goes_into_the_log_while_that_is_empty_enough() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        for number in range(8):
            await rig.write(file, number * MIB, pattern(MIB // 2, number))
        assert 0 < rig.data.space.counter(keys.LOG_PAGES) < 8 * 128
        assert (await rig.clean()).extents > 0

    run(scenario, direct_fill=0.3)


def test_what_is_larger_than_a_record_can_be_is_appended_whole_in_any_order() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        await rig.write(file, 0, b"head")
        parts = [pattern(MIB + 1000 * number, number) for number in (1, 2, 3)]
        await asyncio.gather(*(rig.write(file, APPEND, part) for part in parts))
        content = await rig.read(file, 0, 8 * MIB)
        orders = (b"head" + b"".join(order) for order in itertools.permutations(parts))
        assert content in orders
        await rig.clean()
        await rig.settle()
        assert not (await rig.clean()).orphans

    run(scenario, direct_fill=1.0)


def test_truncating_zeroes_the_rest_of_the_last_page() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(10000))
        await done(rig.data.truncate(file, 5000, NOW))
        assert rig.record(file).pages == 2
        await done(rig.data.truncate(file, 9000, NOW))
        assert await rig.read(file, 0, 10000) == pattern(5000) + bytes(4000)
        await rig.clean()
        await done(rig.data.truncate(file, 0, NOW))
        assert rig.record(file).pages == 0
        await rig.clean()

    run(scenario)


def test_punching_gives_space_back_or_keeps_it_reserved() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        model = bytearray(pattern(10 * PAGE + 77))
        await rig.write(file, 0, bytes(model))
        await done(rig.data.punch(file, 100, 3 * PAGE, NOW))
        model[100 : 100 + 3 * PAGE] = bytes(3 * PAGE)
        assert await rig.read(file, 0, len(model)) == bytes(model)
        assert rig.record(file).pages == 9
        await done(rig.data.punch(file, 5 * PAGE, 2 * PAGE + 5, NOW, deallocate=False))
        model[5 * PAGE : 7 * PAGE + 5] = bytes(2 * PAGE + 5)
        assert await rig.read(file, 0, len(model)) == bytes(model)
        assert rig.record(file).pages == 9
        assert rig.data.space.counter(keys.RESERVED_PAGES) == 2
        await done(rig.data.punch(file, 10 * PAGE + 10, 1 << 30, NOW))
        model[10 * PAGE + 10 :] = bytes(67)
        assert await rig.read(file, 0, len(model)) == bytes(model)
        await rig.clean()
        await rig.write(file, 5 * PAGE, pattern(PAGE))
        assert rig.data.space.counter(keys.RESERVED_PAGES) == 1
        await rig.clean()

    run(scenario)


def test_reserved_space_is_held_for_its_file() -> None:
    async def scenario(rig: Rig) -> None:
        file, other = rig.make_file(2), rig.make_file(3)
        free = rig.data.usage().free
        await done(rig.data.allocate(file, 10, 20 * MIB, NOW, extend=True))
        assert rig.record(file).size == 20 * MIB + 10
        assert rig.data.usage().free == free - 20 * MIB - PAGE
        assert await rig.read(file, 19 * MIB, 100) == bytes(100)
        assert rig.data.ranges(file, 0, 1 << 40, 9)[0] == [(0, 20 * MIB + 10)]
        with pytest.raises(NoSpace):
            await done(rig.data.allocate(other, 0, 100 * MIB, NOW, extend=False))
        await done(rig.data.allocate(file, 0, 20 * MIB, NOW, extend=False))
        assert rig.data.usage().free == free - 20 * MIB - PAGE
        await rig.clean()
        await rig.delete_file(file)
        assert rig.data.usage().free == free
        await rig.clean()

    run(scenario)


def test_clones_share_pages_until_one_side_changes() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(100 * PAGE + 50)
        await rig.write(source, 0, data)
        await done(rig.data.punch(source, 10 * PAGE, 2 * PAGE, NOW))
        data = data[: 10 * PAGE] + bytes(2 * PAGE) + data[12 * PAGE :]
        before = rig.data.space.counter(keys.LOG_PAGES)
        await done(rig.data.clone(source, 0, target, 0, len(data), NOW))
        assert rig.data.space.counter(keys.LOG_PAGES) == before
        assert await rig.read(target, 0, len(data)) == data
        await rig.clean()
        await rig.settle()
        await rig.write(source, 5 * PAGE, pattern(PAGE, 9))
        await rig.write(target, 7 * PAGE + 5, b"x")
        assert await rig.read(target, 0, 7 * PAGE) == data[: 7 * PAGE]
        assert await rig.read(source, 6 * PAGE, 3 * PAGE) == data[6 * PAGE : 9 * PAGE]
        await rig.clean()
        await rig.delete_file(source)
        await rig.settle()
        model = bytearray(data)
        model[7 * PAGE + 5] = ord("x")
        assert await rig.read(target, 0, len(data)) == bytes(model)
        await rig.clean()
        await rig.delete_file(target)
        await rig.settle()
        assert (await rig.clean()).extents == 0

    run(scenario)


def test_destaging_moves_pages_that_only_a_clone_still_names() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(10 * PAGE)
        await rig.write(source, 0, data)
        await done(rig.data.clone(source, 0, target, 5 * PAGE, len(data), NOW))
        await rig.write(source, PAGE, pattern(3 * PAGE, 4))
        await rig.delete_file(source)
        await rig.settle()
        assert await rig.read(target, 5 * PAGE, len(data)) == data
        await rig.clean()

    run(scenario)


def test_a_record_larger_than_an_extent_is_destaged_into_several() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        data = pattern(220 * PAGE)
        await rig.write(file, 0, data)
        await rig.settle()
        report = await rig.clean()
        assert report.extents == 4
        assert await rig.read(file, 0, len(data)) == data

    run(scenario, direct_threshold=2 * MIB, extent_size=MIB // 4)


def test_overlapping_clones_in_one_file_take_what_was_there_before() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        model = bytearray(pattern(200 * PAGE))
        await rig.write(file, 0, bytes(model))
        for start, to, pages in ((0, 3, 100), (50, 10, 100), (20, 20, 50)):
            await done(rig.data.clone(file, start * PAGE, file, to * PAGE, pages * PAGE, NOW))
            model[to * PAGE : (to + pages) * PAGE] = model[start * PAGE : (start + pages) * PAGE]
            assert await rig.read(file, 0, len(model)) == bytes(model)
            await rig.clean()
        await rig.settle()
        assert await rig.read(file, 0, len(model)) == bytes(model)
        await rig.delete_file(file)
        await rig.settle()
        assert (await rig.clean()).extents == 0

    run(scenario)


@pytest.mark.parametrize("same", [False, True])
def test_a_clone_of_a_huge_hole_is_quick_and_right(same: bool) -> None:
    async def scenario(rig: Rig) -> None:
        source = rig.make_file(2)
        target = source if same else rig.make_file(3)
        huge, data = 1 << 60, pattern(3 * PAGE)
        places = (0, 5 * MIB, 300 * MIB, huge - 3 * PAGE)
        for at in places:
            await rig.write(source, at, data)
        to = huge if same else 70 * MIB
        if not same:
            await rig.write(target, to + 1000 * MIB, data)
        await done(rig.data.truncate(target, to + huge, NOW))
        before = rig.store.log.end
        await done(rig.data.clone(source, 0, target, to, huge, NOW))
        assert rig.store.log.end - before < 4096
        assert rig.record(target).size == to + huge
        for at in places:
            assert await rig.read(target, to + at, len(data)) == data
        assert await rig.read(target, to + 1000 * MIB, len(data)) == bytes(len(data))
        assert rig.data.ranges(target, to, huge, 99)[0] == [(to + at, len(data)) for at in places]
        await rig.clean()

    run(scenario)


def test_a_clone_ends_at_a_page_or_at_the_sources_end() -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        await rig.write(source, 0, pattern(3 * PAGE + 10))
        await rig.write(target, 0, pattern(8 * PAGE, 3))
        for start, to, length in ((1, 0, PAGE), (0, 1, PAGE), (0, 0, 10), (0, 0, 4 * PAGE)):
            with pytest.raises(InvalidArgument):
                await done(rig.data.clone(source, start, target, to, length, NOW))
        # The source's last page goes into the middle of the target's fifth.
        await done(rig.data.clone(source, PAGE, target, 2 * PAGE, 2 * PAGE + 10, NOW))
        model = bytearray(pattern(8 * PAGE, 3))
        model[2 * PAGE : 4 * PAGE + 10] = pattern(3 * PAGE + 10)[PAGE:]
        assert await rig.read(target, 0, 8 * PAGE) == bytes(model)
        await rig.clean()

    run(scenario)


@pytest.mark.parametrize(("start", "to", "length"), [(0, 0, 30000), (10, 10 + PAGE, 30000), (5, 900, 20000), (4000, 96, 200), (0, 7, 0)])
def test_copies_share_what_lies_equally_and_copy_the_rest(start: int, to: int, length: int) -> None:
    async def scenario(rig: Rig) -> None:
        source, target = rig.make_file(2), rig.make_file(3)
        data = pattern(40000)
        await rig.write(source, 0, data)
        result = await rig.data.copy(source, start, target, to, length, NOW)
        assert result.length == length
        if length:
            assert await rig.read(target, 0, 99999) == bytes(to) + data[start : start + length]
        assert (await rig.data.copy(source, 39000, target, 0, 5000, NOW)).length == 1000
        await rig.clean()

    run(scenario)


def test_a_full_pool_refuses_writes_before_anything_is_changed_and_deleting_makes_room() -> None:
    async def scenario(rig: Rig) -> None:
        files = [rig.make_file(2 + number) for number in range(4)]
        written = 0
        with pytest.raises(NoSpace):
            for number in range(10_000):
                await rig.write(files[number % 4], number // 4 * 100 * 1024, pattern(100 * 1024, number & 7))
                written += 1
        assert written > 100
        assert rig.data.usage().free < 200 * 1024
        await rig.clean()
        await rig.settle()
        await rig.clean()
        for file in files[:3]:
            await rig.delete_file(file)
        await rig.settle()
        await rig.clean()
        await rig.write(files[3], 0, pattern(MIB // 2))
        await rig.delete_file(files[3])
        await rig.settle()
        assert (await rig.clean()).extents == 0
        assert rig.data.usage().free > 20 * MIB

    run(scenario, disk_mib=32, extent_size=2 * MIB)


def test_writers_wait_while_a_full_log_is_destaged() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        for number in range(400):  # 25 MiB through a log of 8
            await rig.write(file, number % 100 * 65536, pattern(65536, number))
        for number in range(300, 400):
            assert await rig.read(file, number % 100 * 65536, 65536) == pattern(65536, number)
        await rig.clean()

    run(scenario)


def test_compaction_gives_back_what_has_died_in_extents() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        model = bytearray(pattern(8 * MIB))
        await rig.write(file, 0, bytes(model))
        assert (await rig.clean()).extents == 1
        for page in range(0, 2048, 3):
            await rig.write(file, page * PAGE, pattern(PAGE, page))
            model[page * PAGE : (page + 1) * PAGE] = pattern(PAGE, page)
        await rig.settle()
        await done(rig.data.punch(file, MIB, 6 * MIB, NOW))
        model[MIB : 7 * MIB] = bytes(6 * MIB)
        free = rig.data.usage().free
        assert await rig.data.cleaner.compact() == 2
        assert await rig.read(file, 0, len(model)) == bytes(model)
        report = await rig.clean()
        assert report.extents == 1
        await rig.settle()
        assert rig.data.usage().free > free + 4 * MIB
        await rig.clean()

    run(scenario)


def test_extents_on_a_disk_that_is_being_emptied_are_written_elsewhere() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(MIB))
        await rig.write(file, 2 * MIB, pattern(50 * PAGE))
        await rig.settle()
        await done(rig.data.punch(file, 4 * PAGE, 3 * PAGE, NOW))
        content = await rig.read(file, 0, 4 * MIB)
        disk = rig.data.extents.placement(1).fragments[0].disk
        rig.pool.members.drain(disk)
        assert await rig.data.cleaner.protect() > 0
        assert await rig.read(file, 0, 4 * MIB) == content
        report = await rig.clean()
        assert report.extents == 2
        for key, _ in rig.store.keyspace.walk(keys.EXTENT):
            fragments = rig.data.extents.placement(int.from_bytes(key[1:9])).fragments
            assert disk not in [fragment.disk for fragment in fragments]
            assert len(fragments) == 2
        assert await rig.data.cleaner.protect() == 0
        await rig.settle()
        await rig.clean()

    run(scenario, disks=3)


def test_without_disks_to_spare_nothing_is_written_again_and_again() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(MIB))
        rig.pool.members.drain(rig.data.extents.placement(1).fragments[0].disk)
        free = rig.pool.usage().free
        for _ in range(3):
            assert await rig.data.cleaner.protect() == 0
        assert rig.pool.usage().free == free
        await rig.clean()

    run(scenario)


def flip_log(rig: Rig, disk: int, text: bytes) -> int:
    """Flips a bit wherever `text` stands in the log on one disk; gives how often."""
    assert isinstance(rig.files, SimulatedFiles)
    count = 0
    directory = f"{rig.places[disk].path}/log"
    for name in rig.files.list(directory):
        file = rig.files.open(f"{directory}/{name}")
        content = bytearray(file.size)
        file.read_now(0, [memoryview(content)])
        file.close()
        at = content.find(text)
        while at >= 0:
            rig.files.flip(f"{directory}/{name}", at)
            count += 1
            at = content.find(text, at + 1)
    return count


def test_a_damaged_page_in_the_log_is_read_from_the_other_copy_and_mended() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        data = b"precious" + pattern(3 * PAGE)
        await rig.write(file, 0, data)
        await rig.store.log.sync()
        assert flip_log(rig, 0, b"precious") == 1
        assert any("copy 0 of the log" in str(finding) for finding in (await rig.check()).findings)
        assert await rig.read(file, 0, len(data)) == data
        await rig.clean()

    run(scenario)


@pytest.mark.parametrize("before", [1, 2, 4])
def test_damage_is_found_in_what_has_been_read_in_large_pieces_before(before: int) -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        data = pattern(70 * PAGE) + b"precious" + pattern(30 * PAGE - 8)
        await rig.write(file, 0, data)
        await rig.store.log.sync()
        for _ in range(before):
            assert await rig.read(file, 0, len(data)) == data
        assert flip_log(rig, 0, b"precious") == 1
        assert await rig.read(file, 0, len(data)) == data
        await rig.clean()
        for disk in range(2):
            assert flip_log(rig, disk, b"precious") == 1
        with pytest.raises(Damaged, match="no copy of the log has the page"):
            await rig.read(file, 0, len(data))

    run(scenario)


def test_damage_without_a_good_copy_names_file_and_offset_and_spreads_no_further() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(PAGE) + b"precious" + pattern(PAGE - 8) + pattern(PAGE))
        await rig.store.log.sync()
        for disk in range(2):
            assert flip_log(rig, disk, b"precious") == 1
        for settled in range(2):
            with pytest.raises(Damaged, match=f"inode 2, offset {PAGE}"):
                await rig.read(file, PAGE, 10)
            assert await rig.read(file, 0, PAGE) == pattern(PAGE)
            assert await rig.read(file, 2 * PAGE, PAGE) == pattern(PAGE)
            findings = (await rig.check()).findings
            assert [finding.where for finding in findings] == [f"inode 2, offset {PAGE}"]
            if not settled:
                await rig.settle()
        await rig.write(file, PAGE, pattern(PAGE))
        await rig.settle()
        await rig.clean()

    run(scenario)


def test_a_file_that_is_gone_is_stale() -> None:
    from sofs.errors import Stale

    async def scenario(rig: Rig) -> None:
        for attempt in (lambda: rig.read(Inode(9), 0, 10), lambda: rig.write(Inode(9), 0, b"x"), lambda: rig.write(Inode(9), 0, bytes(2 * MIB))):
            with pytest.raises(Stale):
                await attempt()
        await rig.clean()

    run(scenario)
