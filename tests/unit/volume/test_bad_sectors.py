"""A log that cannot be read in places: the other copy serves, for reading and for destaging."""

import pytest

from sofs.errors import Damaged, DiskFailed
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.types import PAGE
from sofs.volume import keys, leaves
from tests.unit.volume.rig import MIB, Rig, done
from tests.unit.volume.test_data import pattern, run


def fail_log(rig: Rig, disk: int) -> None:
    assert isinstance(rig.files, SimulatedFiles)
    directory = f"/disk{disk}/logs/v/log"
    for name in rig.files.list(directory):
        rig.files.fail("read", f"{directory}/{name}")


@pytest.mark.parametrize("miss", [0.0, 1.0])
@pytest.mark.parametrize("length", [PAGE, 10 * PAGE, 5000])
def test_what_one_copy_of_the_log_cannot_read_the_other_gives(length: int, miss: float) -> None:
    async def scenario(rig: Rig) -> None:
        assert isinstance(rig.files, SimulatedFiles)
        rig.files.miss = miss
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(length))
        await rig.store.log.sync()
        fail_log(rig, 0)
        assert await rig.read(file, 0, length) == pattern(length)
        await rig.write(file, 1, b"unaligned")
        assert await rig.read(file, 0, 100) == (pattern(1) + b"unaligned" + pattern(length)[10:])[:100]
        await rig.settle()
        assert rig.store.keyspace.get(keys.LOG_PAGES) == bytes(8)
        rig.files.faults.clear()
        await rig.clean()

    run(scenario)


def test_what_no_copy_can_read_stays_in_the_log_and_the_reader_is_told() -> None:
    async def scenario(rig: Rig) -> None:
        assert isinstance(rig.files, SimulatedFiles)
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(MIB // 8))
        await rig.store.log.sync()
        for disk in range(2):
            fail_log(rig, disk)
        with pytest.raises(DiskFailed):
            await rig.read(file, 0, PAGE)
        with pytest.raises((DiskFailed, Damaged)):
            await rig.data.cleaner.destage()
        rig.files.faults.clear()
        assert await rig.read(file, 0, MIB // 8) == pattern(MIB // 8)
        await rig.settle()
        await rig.clean()

    run(scenario)


def test_a_page_that_no_copy_of_the_log_has_right_is_moved_and_only_its_reader_is_told() -> None:
    async def scenario(rig: Rig) -> None:
        file = rig.make_file(2)
        await rig.write(file, 0, pattern(8 * PAGE))
        await rig.store.log.sync()
        leaf = rig.store.keyspace.get(keys.LEAF + file.to_bytes(8) + bytes(8))
        assert leaf is not None
        bad = leaves.addresses(leaf, 3, 1)[0]
        for replica in range(2):
            rig.store.log.rewrite(bad, b"rot", replica)
        await rig.settle()
        assert rig.store.keyspace.get(keys.LOG_PAGES) == bytes(8)
        with pytest.raises(Damaged):
            await rig.read(file, 3 * PAGE, PAGE)
        assert await rig.read(file, 0, 3 * PAGE) == pattern(3 * PAGE)
        assert await rig.read(file, 4 * PAGE, 4 * PAGE) == pattern(8 * PAGE)[4 * PAGE :]
        # As far as the pool goes the extent is whole: it can be copied when a disk is lost.
        whole = memoryview(bytearray(8 * PAGE))
        await done(rig.pool.read(rig.data.extents.placement(1), 0, whole))
        assert bytes(whole[3 * PAGE :][:3]) == b"rot"

    run(scenario)
