"""A volume's data when something is short: a log that fills faster than it is emptied, a pool that is nearly full, very large requests."""

import asyncio
import dataclasses
from itertools import pairwise

import pytest

from sofs.errors import NoSpace
from sofs.log.configuration import LogSettings
from sofs.types import PAGE, ROOT, VolumeId
from sofs.volume import keys, windows
from sofs.volume.api import Changes, Close, Remove, Rename, SetAttributes, SetDisposition, Stateless
from sofs.volume.batch import Batch
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.keys import WINDOW_SHIFT
from sofs.volume.recovery import StoreSettings
from sofs.volume.space import Space
from tests.unit.volume.rig import MIB, Rig
from tests.unit.volume.test_data import pattern, run
from tests.unit.volume.volume_rig import SUPER, VolumeRig
from tests.unit.volume.volume_rig import run as run_volume
from tests.volatile import volatile_keyspace

SHORT_LOG = StoreSettings(LogSettings(MIB, 3 * MIB, 0.01), CheckpointSettings(1e9, 1 << 60, 1 << 60), 1 << 28)
"""Three segments, of which one is kept for what gives space back."""


@pytest.mark.parametrize("skew", [0, 3])
@pytest.mark.parametrize("size", [PAGE, MIB // 16, MIB * 3 // 4])
def test_who_writes_faster_than_the_log_is_emptied_waits_and_is_not_refused(skew: int, size: int) -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        count = 6 * MIB // size
        for number in range(count):
            await rig.write(file, number % 8 * size + skew, pattern(size, number))
        for number in range(count - 8, count):
            assert await rig.read(file, number % 8 * size + skew, size) == pattern(size, number)
        await rig.clean()

    run(scenario, settings=SHORT_LOG, direct_threshold=MIB)


def test_no_more_is_admitted_than_the_smaller_disk_of_a_mirror_can_take() -> None:
    async def scenario(rig: Rig) -> None:
        small = rig.pool.members.get(rig.specs[1].id).disk
        assert small is not None
        while small.usage().free > 12 * MIB:
            small._slots.take(1)  # as if the disk were smaller
        file = rig.make_file(2)
        with pytest.raises(NoSpace):
            for number in range(64):
                await rig.write(file, number * MIB // 4, pattern(MIB // 4, number))
        assert rig.data.usage().free < MIB
        await rig.settle()
        assert rig.store.keyspace.get(keys.LOG_PAGES) == bytes(8)
        await rig.clean()

    run(scenario)


def test_volumes_of_one_pool_know_what_the_others_have_promised() -> None:
    async def scenario(rig: Rig) -> None:
        other = volatile_keyspace({})
        neighbour = Space(other, rig.pool, dataclasses.replace(rig.data.settings, volume=VolumeId(2)))
        free = rig.data.usage().free
        batch = Batch()
        batch.add(keys.LOG_PAGES, 20 * MIB // PAGE)
        other.commit(batch)
        neighbour.admit(1)
        left = rig.data.usage().free
        assert left <= free - 20 * MIB
        batch = Batch()
        batch.add(keys.LOG_PAGES, -20 * MIB // PAGE)
        other.commit(batch)
        neighbour.forget()
        assert rig.data.usage().free == free

    run(scenario)


def fill(rig: Rig) -> None:
    """Takes all of the log, also what is kept for giving space back."""
    with pytest.raises(NoSpace):
        while True:
            batch = Batch()
            batch.put(keys.meta(b"a deletion, as it were"), bytes(100))
            rig.store.keyspace.commit(batch, reserved=True)


def test_a_log_that_deletions_have_filled_to_the_end_can_still_be_emptied() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(MIB // 4))
        fill(rig)
        await rig.settle()
        assert rig.store.log.end - rig.store.log.start < MIB
        await rig.write(file, MIB // 8, pattern(MIB // 4, 2))
        assert await rig.read(file, 0, MIB) == pattern(MIB // 4)[: MIB // 8] + pattern(MIB // 4, 2)
        await rig.clean()

    run(scenario, settings=SHORT_LOG)


def test_many_writers_at_a_full_log_all_get_through() -> None:
    async def scenario(rig: Rig) -> None:
        files = [rig.make_file(2 + number) for number in range(8)]
        await asyncio.gather(*(rig.write(file, MIB // 4 * at, pattern(MIB // 4, file + at)) for at in range(8) for file in files))
        for file in files:
            for at in range(8):
                assert await rig.read(file, MIB // 4 * at, MIB // 4) == pattern(MIB // 4, file + at)
        await rig.clean()

    run(scenario, settings=SHORT_LOG)


def test_a_record_larger_than_an_extent_is_destaged_into_several() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        data = pattern(MIB * 3 // 4 + 70_000)
        await rig.write(file, 0, data)
        await rig.settle()
        assert rig.store.keyspace.get(keys.LOG_PAGES) == bytes(8)
        assert await rig.read(file, 0, len(data)) == data
        await rig.clean()

    run(scenario, direct_threshold=MIB, extent_size=MIB // 2)


def test_a_run_of_any_length_is_cut_at_every_window() -> None:
    # The names of consecutive extents of 8 MiB follow one another: a clone meets runs of as many pages as it has.
    pieces = windows.pieces((5 << WINDOW_SHIFT) + 8, 100_000)
    assert sum(count for _, _, count in pieces) == 100_000
    assert pieces[0] == (5, 8, 64)
    for (window, offset, count), (next_window, next_offset, _) in pairwise(pieces):
        assert (window << WINDOW_SHIFT) + offset + count * PAGE == (next_window << WINDOW_SHIFT) + next_offset


def test_space_taken_by_others_is_noticed_after_a_few_writes() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(PAGE))
        # Another volume of the pool, or another owner of its disks, takes nearly everything.
        left = rig.pool.usage().free // 2 - 3 * MIB
        rig.data.space.begin(left // PAGE)
        with pytest.raises(NoSpace):
            for number in range(32):
                await rig.write(file, number * MIB, pattern(MIB // 4))

    run(scenario, disk_mib=256)


@pytest.mark.parametrize("how", ["remove", "close", "truncate", "rename"])
def test_deletions_at_a_full_log_wait_for_room(how: str) -> None:
    async def scenario(rig: VolumeRig) -> None:
        names = [b"%d" % number for number in range(6)]
        for name in names:
            file = rig.make_name(name)
            await rig.put(Stateless(file, SUPER), 0, pattern(PAGE))
        opened = rig.open_name(names[1])
        fill(rig)
        if how == "remove":
            for name in names:
                await rig.later(Remove(SUPER, ROOT, name, None))
            rig.close_open(opened)
        elif how == "rename":
            for name in names[2:]:
                await rig.later(Rename(SUPER, ROOT, name, True, ROOT, names[0]))
                names[0] = name
        elif how == "truncate":
            await rig.later(SetAttributes(Stateless(file, SUPER), Changes(size=0)))
        else:
            await rig.later(SetDisposition(opened.open, True))
            fill(rig)
            await rig.later(Close(opened.open))
            assert names[1] not in rig.names()
        assert rig.store.log.room > 0, "it has been emptied meanwhile"

    run_volume(scenario, settings=SHORT_LOG)


def test_a_deletion_takes_what_is_left_when_nothing_can_be_moved() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"f")
        await rig.put(Stateless(file, SUPER), 0, pattern(PAGE))
        log = rig.store.log
        while log.room + log.largest > 20_000:
            batch = Batch()
            batch.put(keys.meta(b"a deletion, as it were"), bytes(4000))
            rig.store.keyspace.commit(batch, reserved=True)
        write = rig.pool.write

        async def full(*args: object, **named: object) -> None:
            raise NoSpace("no disk has room")

        rig.pool.write = full  # type: ignore[method-assign, assignment]
        end = log.end
        await rig.later(Remove(SUPER, ROOT, b"f", None))
        assert log.end > end
        rig.pool.write = write  # type: ignore[method-assign]

    run_volume(scenario, settings=SHORT_LOG)
