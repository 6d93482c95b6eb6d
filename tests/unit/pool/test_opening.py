"""Making disks and opening pools: what is refused, with which words, and what opens degraded."""

import re

import pytest

from sofs.errors import DiskFailed, DiskRefused, InvalidArgument, NoSpace, NotFound, NotSupported, ReadOnly, Unavailable
from sofs.pool.fragment import SLOT_SIZE
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec
from sofs.pool.opening import make_disk
from sofs.pool.states import State
from sofs.pool.table import ENTRY_SIZE
from sofs.runtime.ports import Files
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedRandom
from tests.unit.pool.conftest import Host
from tests.unit.pool.rig import MIB, SIMPLE, Rig, clock, eid, healthy, make, make_rig


def put(files: Files, path: str, data: bytes) -> None:
    file = files.open(path, create=True)
    file.truncate(0)
    file.write(0, [data])
    file.close()


def copy_disk(files: Files, source: str, target: str) -> None:
    """A copy of a disk, as an operator makes it with `cp -a`."""
    files.make_directory(f"{target}/arenas")
    for name in ("label", "table", "revoked"):
        file = files.open(f"{source}/{name}")
        data = bytearray(file.size)
        file.read_now(0, [memoryview(data)])
        file.close()
        put(files, f"{target}/{name}", bytes(data))


def test_extents_survive_a_restart(host: Host) -> None:
    async def first() -> Rig:
        rig = make_rig(host.files, host.random, host.root)
        rig.at = await rig.write(1)  # type: ignore[attr-defined]
        await rig.pool.close()
        return rig

    async def second(old: Rig) -> None:
        rig = Rig(host.files, host.random, old.specs)
        at = old.at  # type: ignore[attr-defined]
        assert await rig.read(at) == b"".join(b"%016x%016x" % (1, page) * 128 for page in range(256))
        assert healthy(rig.pool, at) and await rig.pool.check(at) == [] and rig.events == []
        await rig.pool.close()

    host.run(second(host.run(first())))


def test_a_directory_with_other_data_is_refused_and_left_as_it_was(host: Host) -> None:
    path = f"{host.root}/d"
    host.files.make_directory(path)
    put(host.files, f"{path}/holiday.jpg", b"picture")
    with pytest.raises(DiskRefused, match=r"holds other data \(holiday.jpg\).*--force"):
        make(host.files, host.random, path)
    assert host.files.list(path) == ["holiday.jpg"]
    make_disk(host.files, host.random, path, pool="p", tier="ssd", host="h", capacity=16 * SLOT_SIZE, arena_slots=16, force=True)
    assert "holiday.jpg" in host.files.list(path)


def test_a_volume_s_log_without_a_label_is_other_data(host: Host) -> None:
    host.files.make_directory(f"{host.root}/d/logs/5")
    with pytest.raises(DiskRefused, match=r"holds other data \(logs\)"):
        make(host.files, host.random, f"{host.root}/d")


def test_another_pool_s_disk_is_refused_unless_forced(host: Host) -> None:
    path = f"{host.root}/d"
    old = make(host.files, host.random, path, pool="theirs")
    with pytest.raises(DiskRefused, match=f"is disk {old.id:016x} of pool theirs.*--force"):
        make(host.files, host.random, path)

    async def main() -> None:
        pool = LocalPool("p", host.files, host.random, lambda event, **fields: None, clock=clock())
        with pytest.raises(DiskRefused, match="of pool theirs, not of p"):
            pool.members.add(path)
        new = make_disk(host.files, host.random, path, pool="p", tier="hdd", host="h", capacity=16 * SLOT_SIZE, arena_slots=16, force=True)
        assert new.id != old.id
        assert pool.members.add(path) == DiskSpec(path, new.id, "hdd", "h")
        await pool.close()

    host.run(main())


def test_a_copied_disk_cannot_join_its_original(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        copy_disk(host.files, f"{host.root}/d0", f"{host.root}/copy")
        with pytest.raises(DiskRefused, match=f"{host.root}/d0 already: a copy cannot join"):
            rig.pool.members.add(f"{host.root}/copy")
        await rig.pool.close()
        twice = [*rig.specs, rig.specs[0]._replace(path=f"{host.root}/copy")]
        with pytest.raises(DiskRefused, match="remove one"):
            Rig(host.files, host.random, twice)
        # A pool that does not open lets go of the disks that it had opened.
        await Rig(host.files, host.random, rig.specs).pool.close()

    host.run(main())


def test_swapped_disks_are_noticed_and_not_used(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        await rig.pool.close()
        one, two = rig.specs
        again = Rig(host.files, host.random, [one._replace(path=two.path), two._replace(path=one.path)])
        assert [status.state for status in again.pool.disks()] == [State.MISSING, State.MISSING]
        assert f"expected was {one.id:016x}; mount the right disk there" in again.pool.disks()[0].reason
        await again.pool.close()

    host.run(main())


def test_two_processes_cannot_have_one_disk(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        with pytest.raises(Unavailable, match="in use by another process"):
            Rig(host.files, host.random, rig.specs)
        with pytest.raises(Unavailable, match="in use by another process"):
            make_disk(host.files, host.random, f"{host.root}/d0", pool="p", tier="ssd", host="h", force=True)
        await rig.pool.close()
        again = Rig(host.files, host.random, rig.specs)
        await again.pool.close()

    host.run(main())


def test_a_missing_disk_leaves_the_pool_degraded_and_can_come_back(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1)
        await rig.pool.close()
        host.files.rename(f"{host.root}/d0", f"{host.root}/unplugged")
        again = Rig(host.files, host.random, rig.specs)
        assert [status.state for status in again.pool.disks()] == [State.MISSING, State.HEALTHY]
        assert "is the disk mounted there?" in again.pool.disks()[0].reason
        assert ("disk state", State.MISSING) in [(name, fields.get("new")) for name, fields in again.events]
        assert len(await again.read(at)) == MIB and not healthy(again.pool, at)
        assert any("is missing" in line for line in await again.pool.check(at))
        degraded = await again.write(2)
        assert len(degraded.fragments) == 1 and not healthy(again.pool, degraded)
        host.files.rename(f"{host.root}/unplugged", f"{host.root}/d0")
        assert await again.pool.members.reopen(rig.specs[0].id) is State.HEALTHY
        assert healthy(again.pool, at)
        await again.pool.close()

    host.run(main())


def test_reading_what_lay_only_on_a_missing_disk_names_the_disk(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        at = await rig.write(1, policy=SIMPLE)
        await rig.pool.close()
        host.files.rename(f"{host.root}/d0", f"{host.root}/unplugged")
        again = Rig(host.files, host.random, rig.specs)
        with pytest.raises(DiskFailed, match=re.escape(f"disk {host.root}/d0 is missing")):
            await again.read(at)
        with pytest.raises(NoSpace, match="bring them back or add one"):
            await again.write(2)
        await again.pool.close()

    host.run(main())


def test_a_mount_point_without_its_disk_never_becomes_one(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        host.files.rename(f"{host.root}/d0", f"{host.root}/unmounted")
        host.files.make_directory(f"{host.root}/d0")
        at = await rig.write(1)
        assert [each.disk for each in at.fragments] == [rig.specs[1].id]
        assert rig.pool.disks()[0].state is State.FAILED and "is the disk mounted there?" in rig.pool.disks()[0].reason
        assert host.files.list(f"{host.root}/d0") == []
        await rig.pool.close()

    host.run(main())


def test_revocations_reach_a_disk_that_was_away(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        await rig.pool.close()
        host.files.rename(f"{host.root}/d0", f"{host.root}/unplugged")
        again = Rig(host.files, host.random, rig.specs)
        await again.pool.revoke(eid(0).volume, range(10, 20))
        await again.pool.close()
        host.files.rename(f"{host.root}/unplugged", f"{host.root}/d0")
        third = Rig(host.files, host.random, rig.specs)
        assert [disk.revoked.covers(eid(0).volume, 15) for disk in third.pool.members.all_readable()] == [True, True]
        await third.pool.close()
        alone = Rig(host.files, host.random, rig.specs[:1])
        assert alone.disk(rig.specs[0].id).revoked.covers(eid(0).volume, 19)
        await alone.pool.close()

    host.run(main())


@pytest.mark.parametrize("part", ["label", "table", "revoked"])
@pytest.mark.parametrize("damage", ["gone", "empty", "garbage"])
def test_a_damaged_part_is_refused_or_told_but_never_fatal(host: Host, part: str, damage: str) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1)
        await rig.pool.close()
        path = f"{host.root}/d0/{part}"
        if damage == "gone":
            host.files.remove(path)
        else:
            put(host.files, path, b"" if damage == "empty" else b"\x5a" * 77)
        again = Rig(host.files, host.random, rig.specs)
        state = again.pool.disks()[0].state
        assert state is (State.HEALTHY if part == "revoked" else State.MISSING)
        if part == "revoked" and damage != "gone":
            assert "revoked ids lost" in again.names()
        assert len(await again.read(at)) == MIB
        await again.pool.close()

    host.run(main())


def test_a_table_that_rotted_is_put_right_by_the_fragments_headers(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        placements = [await rig.write(number, length, SIMPLE) for number, length in [(1, MIB), (2, 3 * MIB), (3, MIB), (4, 8 * MIB)]]
        before = rig.used()
        await rig.pool.close()
        # Every entry of the disk, used and free.
        slots = 2 * 16
        put(host.files, f"{host.root}/d0/table", bytes(slots * ENTRY_SIZE))
        again = Rig(host.files, host.random, rig.specs)
        assert again.used() == before
        assert again.names().count("table entry restored") == slots
        for at in placements:
            assert await again.pool.check(at) == []
        await again.pool.close()
        third = Rig(host.files, host.random, rig.specs)
        assert third.events == [] and third.used() == before
        await third.pool.close()

    host.run(main())


def test_a_slot_of_which_nothing_is_known_is_left_alone(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        at = await rig.write(1, policy=SIMPLE)
        kept = await rig.write(2, policy=SIMPLE)
        path, offset = rig.fragment_at(at, 0)
        rig.spoil(path, offset + 70)
        rig.spoil(f"{host.root}/d0/table", at.fragments[0].slot * ENTRY_SIZE)
        await rig.pool.close()
        again = Rig(host.files, host.random, rig.specs)
        assert again.names() == ["table entry lost"]
        assert again.pool.usage().total == (32 - 8) * MIB
        taken = {(await again.write(number, policy=SIMPLE)).fragments[0].slot for number in range(3, 3 + 24)}
        assert taken == set(range(8, 32))
        assert await again.pool.check(kept) == []
        await again.pool.close()

    host.run(main())


def test_two_entries_for_one_slot_are_told_and_the_slots_not_used_again(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        at = await rig.write(1, 2 * MIB, SIMPLE)
        disk = rig.disk(rig.specs[0].id)
        entry = disk.entries(0, 32)[0][1]
        # What no order of our own writes leads to: a second fragment inside the first.
        disk._put(1, entry._replace(id=eid(9), slots=1, pages=256))
        await rig.pool.close()
        again = Rig(host.files, host.random, rig.specs)
        assert again.names() == ["slots claimed twice"]
        await again.pool.delete(at)
        slots = {(await again.write(number, policy=SIMPLE)).fragments[0].slot for number in range(20, 20 + 31)}
        assert 1 not in slots
        await again.pool.close()

    host.run(main())


def test_what_a_crash_left_of_making_a_disk_can_be_made_again() -> None:
    """Crashes at every step of `make_disk`; then it works without force, and before that the disk is there whole or not at all."""
    files = SimulatedFiles(SimulatedRandom(1))
    make(files, SimulatedRandom(2), "/d")
    steps = files.steps
    assert steps > 10
    for step in range(1, steps + 1):
        for seed in range(3):
            files = SimulatedFiles(SimulatedRandom(seed))
            files.crash_at = step
            with pytest.raises(SystemExit):
                make(files, SimulatedRandom(2), "/d")
            after = files.after_power_loss(seed)
            try:
                spec = make(after, SimulatedRandom(3), "/d")
            except DiskRefused as refusal:
                # The label had reached the disk: then all of it had.
                spec = DiskSpec("/d", int(str(refusal).split()[3], 16), "ssd", "h")  # type: ignore[arg-type]
            rig = Rig(after, SimulatedRandom(4), [spec])
            assert rig.events == [] and rig.pool.disks()[0].state is State.HEALTHY


def test_devices_small_disks_and_wrong_tiers_are_refused_with_the_remedy(host: Host) -> None:
    with pytest.raises(NotSupported, match="raw devices are not offered yet; make a file system"):
        make(host.files, host.random, "/dev/sdb")
    with pytest.raises(NoSpace, match="too small for a disk; give at least"):
        make_disk(host.files, host.random, f"{host.root}/d", pool="p", tier="ssd", host="h", capacity=8 * MIB)
    with pytest.raises(InvalidArgument, match="tiers are ssd and hdd"):
        make_disk(host.files, host.random, f"{host.root}/e", pool="p", tier="tape", host="h")


@pytest.mark.parametrize(("capacity", "arena_slots"), [(9 * MIB, 8), (200 * MIB, 12), (1 << 30, 63), (100 << 30, 1016)])
def test_small_disks_have_small_arenas(host: Host, capacity: int, arena_slots: int) -> None:
    if isinstance(host.files, SimulatedFiles):
        host.files.mount("/data", 1 << 40)
    elif host.files.space(host.root).total < capacity:
        pytest.skip("the file system of the temporary directory is smaller than the disk")
    label = make_disk(host.files, host.random, f"{host.root}/d", pool="p", tier="ssd", host="h", capacity=capacity)
    assert label.arena_slots == arena_slots
    assert capacity * 0.85 < label.slots * SLOT_SIZE <= capacity


def test_a_read_only_disk_is_failed_with_the_reason() -> None:
    async def main() -> None:
        files = SimulatedFiles(SimulatedRandom(1))
        rig = make_rig(files, SimulatedRandom(2), "/data")
        await rig.pool.close()
        files.fail("open", "/data/d0/lock", ReadOnly)
        again = Rig(files, SimulatedRandom(2), rig.specs)
        status = again.pool.disks()[0]
        assert status.state is State.FAILED and "/data/d0" in status.reason
        await again.pool.close()

    import asyncio

    asyncio.run(main())


def test_opening_again_what_is_not_there_stays_missing_and_an_unknown_disk_is_not_found(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        with pytest.raises(NotFound, match="has no disk"):
            await rig.pool.members.reopen(rig.specs[0]._replace(id=5).id)  # type: ignore[arg-type]
        host.files.rename(f"{host.root}/d0/label", f"{host.root}/d0/label.gone")
        assert await rig.pool.members.reopen(rig.specs[0].id) is State.MISSING
        await rig.pool.members.forget(rig.specs[0].id)
        assert rig.pool.disks() == []
        await rig.pool.close()

    host.run(main())
