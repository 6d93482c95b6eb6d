"""Long cleaning beside writers: re-protection and compaction give way, and what cannot be read does not hold up the rest."""

import asyncio

import pytest

from sofs.pool import Placement
from sofs.pool.fragment import META_PER_SLOT, SLOT_SIZE
from sofs.pool.states import Event, State
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.types import PAGE, Inode
from sofs.volume import keys
from tests.unit.pool.rig import healthy
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
        assert all(healthy(rig.pool, rig.data.extents.placement(number)) for number in numbers(rig))
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
            assert number == first or healthy(rig.pool, rig.data.extents.placement(number))
        assert first in numbers(rig) and not set(others) <= set(numbers(rig))

    run(scenario, disks=3, direct_threshold=MIB, extent_size=MIB // 4)


def lose(rig: Rig, disk: int) -> None:
    """A disk fails for good."""
    members = rig.pool.members
    members.happened(members.get(rig.specs[disk].id), Event.WRITE_ERROR, "lost")


def moves(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[Placement]:
    """The extents that are written anew from now on, in order."""
    seen: list[Placement] = []
    reprotect = rig.pool.reprotect

    async def noted(at: Placement, *rest: object) -> Placement:
        seen.append(at)
        return await reprotect(at, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.pool, "reprotect", noted)
    return seen


def test_extents_with_the_fewest_copies_left_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        await many_extents(rig)
        moved = moves(rig, monkeypatch)
        lost = {rig.specs[1].id, rig.specs[2].id}
        lose(rig, 1)
        lose(rig, 2)
        rig.pool.members.drain(rig.specs[3].id)
        await rig.data.cleaner.protect()
        lefts = [sum(fragment.disk not in lost for fragment in at.fragments) for at in moved]
        assert lefts == sorted(lefts) and {1, 2} <= set(lefts)
        assert all(healthy(rig.pool, rig.data.extents.placement(number)) for number in numbers(rig))
        await rig.clean()

    run(scenario, disks=7, policy="mirror(3)", direct_threshold=MIB, extent_size=MIB // 4, log_disks=1)


def test_a_missing_disk_has_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        first = (await many_extents(rig))[0]
        moved = moves(rig, monkeypatch)
        gone = rig.data.extents.placement(first).fragments[0].disk
        member = rig.pool.members.get(gone)
        rig.pool.members.happened(member, Event.ABSENT, "pulled")
        assert await rig.data.cleaner.protect() == 0
        await asyncio.sleep(500)
        assert await rig.data.cleaner.protect() == 0 and moved == []
        await asyncio.sleep(101)
        assert await rig.data.cleaner.protect() > 0
        assert {gone} <= {fragment.disk for at in moved for fragment in at.fragments}
        assert all(healthy(rig.pool, rig.data.extents.placement(number)) for number in numbers(rig))
        assert member.state is State.MISSING
        await rig.clean()

    run(scenario, disks=4, direct_threshold=MIB, extent_size=MIB // 4, log_disks=1)


def test_what_is_written_anew_is_bounded_in_time() -> None:
    async def scenario(rig: Rig) -> None:
        await many_extents(rig)
        object.__setattr__(rig.data.settings, "moving_rate", MIB)
        lose(rig, 1)
        before = rig.clock.monotonic()
        count = await rig.data.cleaner.protect()
        size = count * MIB // 4
        assert size > 0 and rig.clock.monotonic() - before > (size - 17 * MIB) / MIB
        await rig.clean()

    run(scenario, disks=3, direct_threshold=MIB, extent_size=MIB // 4, log_disks=1)


def test_all_extents_are_looked_through_only_when_a_disk_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        await many_extents(rig)
        looks = 0
        every = rig.data.extents.all

        def counted(*args: object) -> object:
            nonlocal looks
            looks += 1
            return every(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(rig.data.extents, "all", counted)
        for _ in range(3):
            assert await rig.data.cleaner.protect() == 0
        assert looks == 1
        lose(rig, 1)
        await rig.data.cleaner.protect()
        assert looks == 2
        await rig.data.cleaner.protect()
        assert looks == 2
        # A disk that is away for a moment is no reason to look.
        member = rig.pool.members.get(rig.specs[2].id)
        for event in (Event.ABSENT, Event.OPENED):
            rig.pool.members.happened(member, event, "")
            await rig.data.cleaner.protect()
        assert looks == 2
        await rig.clean()

    run(scenario, disks=3, direct_threshold=MIB, extent_size=MIB // 4, log_disks=1)


def test_extents_move_off_a_crowded_disk_until_it_is_no_more() -> None:
    async def scenario(rig: Rig) -> None:
        for disk in (2, 3):
            rig.pool.members.drain(rig.specs[disk].id)
        await many_extents(rig)
        assert rig.pool.crowded(rig.data.settings.policy) == {}
        for disk in (2, 3):
            # Emptied they are retired; then they are as good as new.
            rig.pool.members.drain(rig.specs[disk].id, False)
        assert rig.pool.crowded(rig.data.settings.policy).keys() == {rig.specs[0].id, rig.specs[1].id}
        moved = await rig.data.cleaner.balance()
        assert moved == EXTENTS // 2
        await rig.settle()
        await rig.store.keyspace.checkpoint()
        await rig.data.cleaner.give_back()
        assert rig.pool.crowded(rig.data.settings.policy) == {}
        assert await rig.data.cleaner.balance() == 0
        for number in numbers(rig):
            assert healthy(rig.pool, rig.data.extents.placement(number))
        await rig.clean()

    run(scenario, disks=4, direct_threshold=MIB, extent_size=MIB // 4, log_disks=1)


def test_what_was_written_with_too_few_disks_is_completed_when_one_returns() -> None:
    async def scenario(rig: Rig) -> None:
        member = rig.pool.members.get(rig.specs[1].id)
        rig.pool.members.happened(member, Event.ABSENT, "pulled")
        await many_extents(rig)
        assert all(len(rig.data.extents.placement(number).fragments) == 1 for number in numbers(rig))
        for _ in range(2):
            await rig.data.cleaner.protect()
        assert all(len(rig.data.extents.placement(number).fragments) == 1 for number in numbers(rig))
        rig.pool.members.happened(member, Event.OPENED, "")
        assert await rig.data.cleaner.protect() == EXTENTS
        assert all(healthy(rig.pool, rig.data.extents.placement(number)) for number in numbers(rig))
        await rig.clean()

    run(scenario, disks=2, direct_threshold=MIB, extent_size=MIB // 4, log_disks=1)
