"""Snapshots of volumes with whole-file clones and quotas: each shows what was there, and what is restored is counted."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from sofs.errors import Delayed, SofsError
from sofs.types import PAGE, Inode
from sofs.volume import ranges
from sofs.volume.api import Clone, DeleteSnapshot, GetQuota, ListSnapshots, MakeSnapshot, Quota, QuotaKind, RestoreSnapshot, SetQuota, Stateless
from sofs.volume.keys import LEAF_PAGES
from tests.unit.volume.rig import done
from tests.unit.volume.test_data import pattern
from tests.unit.volume.volume_rig import BY, SUPER, VolumeRig, run

LEAF = LEAF_PAGES * PAGE


def target(inode: Inode) -> Stateless:
    return Stateless(inode, SUPER)


async def snapshot(rig: VolumeRig, name: str) -> int:
    made = await rig.later(MakeSnapshot(name))
    number: int = made.snapshots[0].number
    await rig.clock.sleep(2)  # no two are of one second
    return number


async def as_of(rig: VolumeRig, number: int, inode: Inode, length: int) -> bytes:
    buffer = bytearray(length)
    got = await done(rig.volume.at(number).read(target(inode), 0, memoryview(buffer), BY))
    return bytes(buffer[: got.count])


async def restore(rig: VolumeRig, number: int) -> None:
    waiting = asyncio.ensure_future(rig.later(RestoreSnapshot(number, True)))
    while not waiting.done():
        await asyncio.sleep(0)
        await rig.volume.run_once()
    await waiting
    await rig.clock.sleep(2)


async def clone(rig: VolumeRig, source: Inode, onto: Inode) -> None:
    await rig.later(Clone(target(source), 0, target(onto), 0, rig.stat(source).size))


async def settle(rig: VolumeRig) -> None:
    while await rig.data.maps.run_once():
        pass
    await rig.volume.run_once()
    await rig.settle()


def test_a_snapshot_shows_a_file_and_its_clone_whatever_becomes_of_the_maps_behind_them() -> None:
    async def scenario(rig: VolumeRig) -> None:
        source, other = rig.make_name(b"a"), rig.make_name(b"b")
        data = pattern(6 * LEAF)
        await rig.put(target(source), 0, data)
        await clone(rig, source, other)
        await rig.put(target(other), LEAF, b"other")
        changed = data[:LEAF] + b"other" + data[LEAF + 5 :]
        first = await snapshot(rig, "first")
        await rig.put(target(source), 0, pattern(2 * LEAF, 2))
        await clone(rig, other, rig.make_name(b"c"))
        await rig.put(target(other), 3 * LEAF, b"later")
        second = await snapshot(rig, "second")
        rig.remove(b"a")
        await settle(rig)
        rig.remove(b"c")
        await settle(rig)
        for number in (first, second):
            assert await as_of(rig, number, source, len(data)) == (data if number == first else pattern(2 * LEAF, 2) + data[2 * LEAF :])
        assert await as_of(rig, first, other, len(data)) == changed
        later = changed[: 3 * LEAF] + b"later" + changed[3 * LEAF + 5 :]
        assert await as_of(rig, second, other, len(data)) == later
        await rig.clean()
        await restore(rig, first)
        await rig.clean()
        assert await rig.content(target(source), 0, len(data)) == data
        assert await rig.content(target(other), 0, len(data)) == changed
        await rig.put(target(source), 5 * LEAF, b"again")
        await rig.clean()
        for info in rig.call(ListSnapshots()).snapshots:
            rig.call(DeleteSnapshot(info.number))
        await settle(rig)
        await rig.clean()
        for name in rig.names():
            rig.remove(name)
        await settle(rig)
        await settle(rig)
        usage = rig.pool.usage()
        assert usage.free == usage.total

    run(scenario, whole_from=1)


def test_what_a_restored_snapshot_brings_back_is_counted() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top = rig.mkdir(b"top")
        file = rig.make_name(b"a", at=top)
        await rig.put(target(file), 0, pattern(3 * PAGE))
        rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, top, 0, 1 << 30)))
        await rig.volume.run_once()
        first = await snapshot(rig, "first")
        await rig.put(target(file), 0, pattern(9 * PAGE))
        rig.make_name(b"b", at=top)
        await restore(rig, first)
        used = rig.call(GetQuota(QuotaKind.DIRECTORY, top)).quotas[0]
        assert (used.used_bytes, used.used_files) == (3 * PAGE, 2)
        await rig.clean()

    run(scenario)


def test_a_restored_snapshot_of_before_the_quota_is_counted_and_walked() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top = rig.mkdir(b"top")
        rig.make_name(b"a", at=top)
        first = await snapshot(rig, "first")
        rig.make_name(b"b", at=top)
        rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, top, 0, 1 << 30)))
        await rig.volume.run_once()
        await restore(rig, first)
        await rig.volume.run_once()
        used = rig.call(GetQuota(QuotaKind.DIRECTORY, top)).quotas[0]
        assert used.used_files == 2
        await rig.clean()

    run(scenario)


def test_a_tree_that_was_being_walked_when_a_snapshot_was_restored_is_walked_anew() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top, other = rig.mkdir(b"top"), rig.mkdir(b"other")
        rig.make_name(b"a", at=rig.mkdir(b"below", top))
        rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, other, 0, 1 << 30)))
        await rig.volume.run_once()
        first = await snapshot(rig, "first")
        rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, top, 0, 1 << 30)))
        rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, other)))
        walking = asyncio.ensure_future(rig.volume.run_once())
        for _ in range(3):
            await asyncio.sleep(0)  # the walk is under way, but not at its end
        await rig.later(RestoreSnapshot(first, True))
        with suppress(SofsError):
            await walking
        await rig.volume.run_once()
        assert rig.call(GetQuota(QuotaKind.DIRECTORY, top)).quotas[0].used_files == 3
        assert rig.record(other).tree == 0
        await rig.clean()

    run(scenario)


def test_a_quota_that_is_gone_does_not_come_back_with_a_snapshot() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top, other = rig.mkdir(b"top"), rig.mkdir(b"other")
        below = rig.mkdir(b"below", top)
        rig.make_name(b"a", at=below)
        rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, top, 0, 1 << 30)))
        await rig.volume.run_once()
        first = await snapshot(rig, "first")
        rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, top)))
        await rig.volume.run_once()
        await restore(rig, first)
        await rig.volume.run_once()
        assert rig.record(top).tree == rig.record(below).tree == 0
        rig.rename(b"below", b"below", at=top, to=other)
        await rig.clean()

    run(scenario)


def test_a_page_that_came_back_to_a_clone_only_is_moved_out_of_the_log_when_the_snapshots_are_gone() -> None:
    async def scenario(rig: VolumeRig) -> None:
        source, other = rig.make_name(b"a"), rig.make_name(b"b")
        await rig.put(target(source), 0, pattern(2 * PAGE))
        await clone(rig, source, other)
        await rig.put(target(source), 0, bytes(2 * PAGE))
        number = await snapshot(rig, "s")
        await rig.put(target(other), 0, bytes(2 * PAGE))
        await restore(rig, number)
        for known in rig.call(ListSnapshots()).snapshots:
            rig.call(DeleteSnapshot(known.number))
        await rig.volume.run_once()
        await rig.clean()
        await settle(rig)
        assert await rig.content(target(other), 0, 2 * PAGE) == pattern(2 * PAGE)
        await rig.put(target(other), 0, b"x")
        rig.remove(b"b")
        await settle(rig)
        await rig.clean()

    run(scenario)


def test_a_quota_that_was_being_taken_away_at_a_snapshot_is_taken_away_when_that_is_restored() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top, other = rig.mkdir(b"top"), rig.mkdir(b"other")
        below = rig.mkdir(b"below", top)
        for each in (top, other):
            rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, each, 0, 1 << 30)))
        await rig.volume.run_once()
        rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, top)))
        first = await snapshot(rig, "first")
        assert rig.record(below).tree == top
        await rig.volume.run_once()
        assert rig.record(below).tree == 0
        await restore(rig, first)
        await rig.volume.run_once()
        assert rig.record(below).tree == 0
        await rig.clean()

    run(scenario)


def test_a_request_that_goes_on_while_a_snapshot_is_being_restored_is_delayed() -> None:
    async def scenario(rig: VolumeRig) -> None:
        source = rig.make_name(b"a")
        await rig.put(target(source), 0, pattern(6 * LEAF))
        number = await snapshot(rig, "s")
        other = rig.make_name(b"b")
        await clone(rig, source, other)
        rig.call(SetQuota(Quota(QuotaKind.VOLUME, 0, 0, 1 << 40)))
        snapshots = rig.data.snapshots
        snapshots.slice, snapshots.pause = 1, lambda: asyncio.sleep(0)
        waiting = asyncio.ensure_future(rig.later(RestoreSnapshot(number, True)))
        await asyncio.sleep(0)
        told = []
        while snapshots.restoring:
            # What requests do that waited for something else, below what answers new ones.
            for file in (source, other):
                try:
                    await done(rig.data.write(file, LEAF + 1, memoryview(b"x"), rig.clock.now()))
                except SofsError as error:
                    told.append(type(error))
            await asyncio.sleep(0)
        await waiting
        assert Delayed in told
        assert await rig.content(target(source), 0, 6 * LEAF) == pattern(6 * LEAF)

    run(scenario, whole_from=LEAF_PAGES)


def test_maps_are_left_alone_while_their_records_are_of_two_times() -> None:
    async def scenario(rig: VolumeRig) -> None:
        source, other = rig.make_name(b"a"), rig.make_name(b"b")
        await rig.put(target(source), 0, pattern(6 * LEAF))
        await clone(rig, source, other)
        number = await snapshot(rig, "s")
        rig.remove(b"a")  # whoever looks after maps would have the other take over what both read
        rig.data.snapshots.begin_restoration(number, rig.volume.core.next_number, rig.clock.now())
        await rig.reopen()
        assert rig.data.snapshots.restoring
        end = rig.store.log.end
        await rig.data.maps.run_once()
        assert rig.store.log.end == end
        await rig.volume.run_once()
        await settle(rig)
        for file in (source, other):
            assert await rig.content(target(file), 0, 6 * LEAF) == pattern(6 * LEAF)

    run(scenario, whole_from=LEAF_PAGES)


LARGE = 80 * LEAF


async def between(rig: VolumeRig, doing: Awaitable[object], event: Callable[[], Awaitable[object]], turns: int) -> None:
    """Lets the event happen after the work has had so many turns."""
    task = asyncio.ensure_future(doing)
    for _ in range(turns):
        await asyncio.sleep(0)
    assert not task.done()
    await event()
    with suppress(SofsError):
        await task


def test_a_file_that_comes_back_while_it_is_removed_in_slices_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SLICE", LEAF_PAGES)

    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"f")
        for at in range(0, LARGE, LARGE // 4):
            await rig.put(target(file), at, pattern(LARGE // 4, at))
        number = await snapshot(rig, "s")
        for turns in (2, 3):
            rig.remove(b"f")
            await between(rig, rig.volume.reaper.run_once(), lambda: rig.later(RestoreSnapshot(number, True)), turns)
            for at in range(0, LARGE, LARGE // 4):
                assert await rig.content(target(file), at, LARGE // 4) == pattern(LARGE // 4, at)
            await settle(rig)

    run(scenario, disk_mib=256)


def test_a_file_can_be_removed_while_it_is_emptied_to_become_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SLICE", LEAF_PAGES)

    async def scenario(rig: VolumeRig) -> None:
        source, other = rig.make_name(b"a"), rig.make_name(b"b")
        await rig.put(target(source), 0, pattern(20 * LEAF))
        for at in range(0, LARGE, LARGE // 4):
            await rig.put(target(source), at, pattern(LARGE // 4, at))
            await rig.put(target(other), at, pattern(LARGE // 4, at))

        async def gone() -> None:
            rig.remove(b"b")
            await rig.volume.reaper.run_once()

        await between(rig, clone(rig, source, other), gone, 2)
        assert rig.names() == {b"a"}
        rig.make_name(b"c")

    run(scenario, disk_mib=256)


def test_a_large_file_that_somebody_else_removes_meanwhile_holds_up_no_other_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SLICE", LEAF_PAGES)

    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"f")
        for at in range(0, LARGE, LARGE // 4):
            await rig.put(target(file), at, pattern(LARGE // 4, at))
        rig.remove(b"f")
        reaped = await asyncio.gather(rig.volume.reaper.run_once(), rig.volume.reaper.run_once())
        assert sum(each.files for each in reaped) == 1

    run(scenario, disk_mib=256)
