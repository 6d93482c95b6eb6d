"""Long cleaning beside writers: re-protection and compaction give way, and what cannot be read does not hold up the rest."""

import asyncio

from sofs.pool.fragment import META_PER_SLOT, SLOT_SIZE
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.types import PAGE, Inode
from sofs.volume import keys
from tests.unit.volume.rig import MIB, NOW, Rig, done
from tests.unit.volume.test_data import pattern, run

EXTENTS = 20


async def many_extents(rig: Rig) -> list[int]:
    """A file of so many extents; gives their numbers."""
    file = rig.make_file(2)
    for number in range(EXTENTS):
        await rig.write(file, number * MIB // 4, pattern(MIB // 4, number))
    await rig.settle()
    return numbers(rig)


def numbers(rig: Rig) -> list[int]:
    return [int.from_bytes(key[1:9]) for key, _ in rig.store.keyspace.walk(keys.EXTENT) if len(key) == keys.BUCKET]


def test_others_get_their_turn_while_many_extents_are_re_protected() -> None:
    async def scenario(rig: Rig) -> None:
        disk = rig.data.extents.placement((await many_extents(rig))[0]).fragments[0].disk
        rig.pool.members.drain(disk)
        protecting = asyncio.ensure_future(rig.data.cleaner.protect())
        await asyncio.sleep(0)
        await rig.data.cleaner.room(MIB // 4)
        assert not protecting.done()
        await protecting
        assert all(rig.pool.healthy(rig.data.extents.placement(number)) for number in numbers(rig))
        await rig.clean()

    run(scenario, disks=3, direct_threshold=MIB, extent_size=MIB // 4)


def test_others_get_their_turn_while_many_extents_are_compacted() -> None:
    async def scenario(rig: Rig) -> None:
        await many_extents(rig)
        for number in range(EXTENTS):
            await done(rig.data.punch(Inode(2), number * MIB // 4, MIB // 4 - 8 * PAGE, NOW))
        compacting = asyncio.ensure_future(rig.data.cleaner.compact())
        await asyncio.sleep(0)
        await rig.data.cleaner.room(MIB // 4)
        assert not compacting.done()
        assert await compacting == EXTENTS
        await rig.clean()

    run(scenario, direct_threshold=MIB, extent_size=MIB // 4)


def test_an_extent_that_no_disk_can_read_does_not_keep_the_others_from_being_re_protected() -> None:
    async def scenario(rig: Rig) -> None:
        first, *others = await many_extents(rig)
        assert isinstance(rig.files, SimulatedFiles)
        placement = rig.data.extents.placement(first)
        for disk, slot in placement.fragments:
            path = next(spec.path for spec in rig.specs if spec.id == disk)
            rig.files.flip(f"{path}/arenas/{slot // 15:06d}", slot % 15 * SLOT_SIZE + META_PER_SLOT + 77)
        rig.pool.members.drain(placement.fragments[0].disk)
        await rig.data.cleaner.protect()
        for number in numbers(rig):
            assert number == first or rig.pool.healthy(rig.data.extents.placement(number))
        assert first in numbers(rig) and not set(others) <= set(numbers(rig))

    run(scenario, disks=3, direct_threshold=MIB, extent_size=MIB // 4)


