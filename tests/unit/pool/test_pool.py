"""Extents: written, read, mended, freed; and disks that fail meanwhile."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.errors import Damaged, DiskFailed, ExtentGone, Fenced, InvalidArgument, NoSpace
from sofs.pool import NAMES_PER_MIB, parse_policy
from sofs.pool.disk import BadPages, Part
from sofs.pool.fragment import META_PER_SLOT, SLOT_SIZE, checksum
from sofs.pool.states import State
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedLoop, SimulatedRandom, simulate
from sofs.types import PAGE
from tests.unit.pool.conftest import Host
from tests.unit.pool.rig import MIB, MIRROR, SIMPLE, VOLUME, Rig, content, eid, healthy, make, make_rig

LENGTHS = [PAGE, 16 * PAGE, 17 * PAGE, MIB - PAGE, MIB, MIB + PAGE, 5 * MIB, 8 * MIB]


def forget_checksums(rig: Rig) -> None:
    """Has every disk read its checksums anew."""
    for disk in rig.pool.members.all_readable():
        disk._recent.clear()
        disk._older.clear()


@pytest.mark.parametrize("policy", ["simple", "mirror(2)", "mirror(3)"])
def test_extents_of_every_length_read_back_from_any_page(host: Host, policy: str) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 3, arenas=3)
        for number, length in enumerate(LENGTHS):
            at = await rig.write(number, length, parse_policy(policy), b"names of %d" % number)
            assert at.length == length and len(at.fragments) == parse_policy(policy).scheme.width
            whole = content(number, length)
            for offset in {0, length // 2 // PAGE * PAGE, length - PAGE}:
                for size in {PAGE, min(65536, length - offset), length - offset}:
                    assert await rig.read(at, offset, size) == whole[offset : offset + size]
            assert await rig.pool.check(at) == []
        assert rig.events == []
        await rig.pool.close()

    host.run(main())


def test_data_comes_in_pieces_of_any_size(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        data = memoryview(content(1, 8 * MIB))
        for number, piece in enumerate([100, 4096, 3000, 100_000]):
            pieces = [data[at : at + piece] for at in range(0, 300 * PAGE, piece)]
            pieces[-1] = pieces[-1][: 300 * PAGE - piece * (len(pieces) - 1)]
            at = await rig.pool.write(eid(number), pieces, MIRROR)
            assert await rig.read(at) == data[: 300 * PAGE]
        await rig.pool.close()

    host.run(main())


def test_impossible_extents_are_refused(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        for data in ([], [bytes(100)], [bytes(8 * MIB), bytes(PAGE)]):
            with pytest.raises(InvalidArgument, match="from one page to 8 MiB"):
                await rig.pool.write(eid(1), data, MIRROR)
        with pytest.raises(InvalidArgument, match="bytes of names"):
            await rig.pool.write(eid(1), [bytes(PAGE)], MIRROR, bytes(NAMES_PER_MIB + 1))
        at = await rig.pool.write(eid(1), [bytes(PAGE)], MIRROR, b"n" * NAMES_PER_MIB)
        assert (await rig.disk(at.fragments[0].disk).describe(at.fragments[0].slot, at.id))[2] == b"n" * NAMES_PER_MIB
        await rig.pool.close()

    host.run(main())


def test_a_deleted_extent_is_gone_and_deleting_twice_is_no_error(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        free = rig.pool.usage().free
        at = await rig.write(1, 3 * MIB)
        assert rig.pool.usage().free == free - 6 * MIB
        await rig.read(at)
        await rig.pool.delete(at)
        await asyncio.gather(rig.pool.delete(at), rig.pool.delete(at))
        assert rig.pool.usage().free == free
        with pytest.raises(ExtentGone):
            await rig.read(at)
        other = await rig.write(2, 3 * MIB)
        with pytest.raises(ExtentGone):
            await rig.read(at)
        assert await rig.read(other) == content(2, 3 * MIB)
        assert len(await rig.pool.check(at)) == 2
        await rig.pool.close()

    host.run(main())


def test_the_space_of_deleted_extents_goes_back_to_the_file_system(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        disk = rig.disk(rig.specs[0].id)
        placements = [await rig.write(number, MIB, SIMPLE) for number in range(8)]
        before = host.files.space(host.root).free
        for at in placements[:6]:
            await rig.pool.delete(at)
        # Taken again before it was punched: what is there now must not be punched.
        again = await rig.write(20, 2 * MIB, SIMPLE)
        while disk.give_back(2):
            pass
        if isinstance(host.files, SimulatedFiles):
            assert host.files.space(host.root).free >= before + 4 * MIB
        assert await rig.pool.check(again) == [] and await rig.pool.check(placements[7]) == []
        path, offset = rig.fragment_at(placements[4], 0)
        file = host.files.open(path)
        data = bytearray(PAGE)
        file.read_now(offset, [memoryview(data)])
        file.close()
        assert not any(data)
        await rig.pool.close()

    host.run(main())


# Bad bytes


@pytest.mark.parametrize("page", [0, 100, 255])
def test_a_flipped_bit_is_served_from_the_other_copy_and_mended(host: Host, page: int) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1)
        for nth in range(2):
            rig.spoil(*rig.page_at(at, nth, page) if nth == 0 else rig.page_at(at, nth, (page + 7) % 256))
        assert len(await rig.pool.check(at)) == 2
        assert await rig.read(at) == content(1, MIB)
        assert rig.names() == ["bad pages", "mended"]
        assert rig.events[0][1]["pages"] == (page,)
        assert await rig.read(at, (page + 7) % 256 * PAGE, PAGE) == content(1, MIB)[(page + 7) % 256 * PAGE :][:PAGE]
        assert len(await rig.pool.check(at)) == 1, "the other copy's bad page was not read"
        await rig.pool.close()

    host.run(main())


def test_copies_that_are_bad_in_different_places_make_one_good_extent(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 3, arenas=1)
        at = await rig.write(1, 2 * MIB, parse_policy("mirror(3)"))
        for page in range(200):
            rig.spoil(*rig.page_at(at, page % 2, page))
        for page in range(100, 400, 3):
            rig.spoil(*rig.page_at(at, 1, page))
        assert await rig.read(at) == content(1, 2 * MIB)
        assert await rig.pool.check(at) != [], "pages of the second copy that nobody needed are still bad"
        for page in range(512):
            # As the scrubber does: from the bad copy first.
            swapped = at._replace(fragments=(at.fragments[1], at.fragments[2], at.fragments[0]))
            assert await rig.read(swapped, page * PAGE, PAGE) == content(1, 2 * MIB)[page * PAGE :][:PAGE]
        assert await rig.pool.check(at) == []
        await rig.pool.close()

    host.run(main())


def test_a_damaged_header_is_written_again_from_the_other_copy(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1, 3 * MIB, names=b"precious names")
        path, offset = rig.fragment_at(at, 0)
        rig.spoil(path, offset, bytes(2 * META_PER_SLOT))
        forget_checksums(rig)
        assert await rig.read(at, 5 * PAGE, PAGE) == content(1, MIB)[5 * PAGE : 6 * PAGE]
        assert rig.names() == ["bad pages", "mended"]
        assert await rig.pool.check(at) == []
        disk, slot = at.fragments[0]
        assert (await rig.disk(disk).describe(slot, at.id))[2] == b"precious names"
        await rig.pool.close()

    host.run(main())


@pytest.mark.parametrize("first", [0, 1])
def test_a_copy_without_a_header_still_gives_the_page_that_the_other_lost(host: Host, first: int) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1)
        path, offset = rig.fragment_at(at, 0)
        rig.spoil(path, offset + 30)
        rig.spoil(*rig.page_at(at, 1, 85))
        forget_checksums(rig)
        turned = at._replace(fragments=at.fragments[::-1] if first else at.fragments)
        assert await rig.read(turned) == content(1, MIB)
        forget_checksums(rig)
        assert await rig.read(turned._replace(fragments=turned.fragments[::-1])) == content(1, MIB)
        assert await rig.pool.check(at) == []
        await rig.pool.close()

    host.run(main())


def test_damage_without_a_good_copy_names_disk_extent_and_page(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        at = await rig.write(77, policy=SIMPLE)
        rig.spoil(*rig.page_at(at, 0, 9))
        with pytest.raises(Damaged, match=rf"disk {host.root}/d0 slot 0, extent 77 of volume 5eed: page 9 does not match"):
            await rig.read(at)
        assert await rig.read(at, 0, 9 * PAGE) == content(77, 9 * PAGE)
        assert rig.pool.counters["damaged_reads"] == 1
        await rig.pool.close()

    host.run(main())


def test_an_extent_that_is_half_deleted_is_gone_and_not_damaged(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1)
        rig.spoil(*rig.page_at(at, 0, 3))
        forget_checksums(rig)
        await rig.disk(at.fragments[1].disk).delete(at.fragments[1].slot, at.id)
        with pytest.raises(ExtentGone):
            await rig.read(at, 0, 16 * PAGE)
        await rig.pool.close()

    host.run(main())


def test_a_fragment_of_another_extent_never_passes(host: Host) -> None:
    """What another disk or slot held, whole and sealed, copied over a fragment: a misdirected write."""

    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at, other = await rig.write(1), await rig.write(2)
        source, target = rig.fragment_at(other, 0), rig.fragment_at(at, 0)
        data = bytearray(SLOT_SIZE)
        file = host.files.open(source[0])
        file.read_now(source[1], [memoryview(data)])
        file.close()
        rig.spoil(*target, bytes(data))
        forget_checksums(rig)
        assert await rig.read(at) == content(1, MIB)
        forget_checksums(rig)
        assert await rig.read(at) == content(1, MIB)
        assert await rig.pool.check(at) == []
        await rig.pool.close()

    host.run(main())


def test_the_callers_own_checksums_decide(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1)
        sums = list(checksum([content(1, MIB)]).pages)
        assert await rig.read(at, 4 * PAGE, 3 * PAGE, sums[4:7]) == content(1, MIB)[4 * PAGE : 7 * PAGE]
        rig.spoil(*rig.page_at(at, 0, 5))
        assert await rig.read(at, 4 * PAGE, 3 * PAGE, sums[4:7]) == content(1, MIB)[4 * PAGE : 7 * PAGE]
        assert rig.names() == ["bad pages", "mended"] and await rig.pool.check(at) == []
        with pytest.raises(Damaged, match="page 6 does not match"):
            await rig.read(at, 4 * PAGE, 3 * PAGE, [*sums[4:6], 0])
        await rig.pool.close()

    host.run(main())


def test_the_callers_checksums_suffice_where_a_headers_are_damaged(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        at = await rig.write(1, policy=SIMPLE)
        sums = list(checksum([content(1, MIB)]).pages)
        path, offset = rig.fragment_at(at, 0)
        rig.spoil(path, offset + 30)
        assert await rig.read(at, sums=sums) == content(1, MIB)
        with pytest.raises(Damaged, match="header"):
            await rig.read(at)
        await rig.pool.close()

    host.run(main())


@given(first=st.integers(0, 200), pages=st.integers(1, 56), wrong=st.sets(st.integers(0, 255), max_size=3), lie=st.booleans())
@settings(max_examples=60)
def test_a_page_is_bad_exactly_when_it_differs_from_what_the_caller_expects(first: int, pages: int, wrong: set[int], lie: bool) -> None:
    """`wrong` pages are spoilt on the disk; or, if `lie`, the caller expects something else there."""

    async def main(loop: SimulatedLoop) -> None:
        files = SimulatedFiles(SimulatedRandom(1), miss=0.3)
        rig = make_rig(files, files.random, "/data", 1)
        at = await rig.write(1, policy=SIMPLE)
        sums = list(checksum([content(1, MIB)]).pages)
        for page in wrong:
            if lie:
                sums[page] ^= 1
            else:
                rig.spoil(*rig.page_at(at, 0, page))
        disk, into = rig.disk(at.fragments[0].disk), memoryview(bytearray(pages * PAGE))
        found: list[int] = []
        try:
            waiting = disk.read(at.fragments[0].slot, at.id, first * PAGE, into, sums[first : first + pages])
            if waiting is not None:
                await waiting
        except BadPages as error:
            found = error.pages
        assert found == sorted(wrong & set(range(first, first + pages)))
        await rig.pool.close()

    simulate(main)


# Failing disks


def simulated(main: Any) -> None:
    """Runs `main(files)` under virtual time; half of all reads wait for the disk."""

    async def run(loop: SimulatedLoop) -> None:
        await main(SimulatedFiles(SimulatedRandom(7), miss=0.5))

    simulate(run)


def test_a_disk_that_is_pulled_is_missed_at_the_next_write(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1)
        host.files.rename(f"{host.root}/d0", f"{host.root}/pulled")
        degraded = await rig.write(2)
        assert [each.disk for each in degraded.fragments] == [rig.specs[1].id]
        assert [status.state for status in rig.pool.disks()] == [State.MISSING, State.HEALTHY]
        assert rig.pool.usage().total == 32 * MIB
        assert await rig.read(at) == content(1, MIB)
        host.files.rename(f"{host.root}/pulled", f"{host.root}/d0")
        assert await rig.pool.members.reopen(rig.specs[0].id) is State.HEALTHY
        assert len((await rig.write(3)).fragments) == 2
        await rig.pool.close()

    host.run(main())


def test_a_read_error_makes_a_disk_suspect_and_the_other_copy_answers() -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data")
        at = await rig.write(1)
        first = at.fragments[0].disk
        path = rig.fragment_at(at, 0)[0]
        files.fail("read", path)
        assert await rig.read(at) == content(1, MIB)
        assert rig.pool.members.state(first) is State.SUSPECT
        assert rig.events[0][0] == "disk state" and "simulated failure of read" in str(rig.events[0][1]["reason"])
        assert not healthy(rig.pool, at)
        files.faults.clear()
        rig.events.clear()
        assert await rig.read(at) == content(1, MIB)
        assert rig.events == [], "a suspect disk is asked last"
        await rig.pool.close()

    simulated(main)


def test_a_missing_first_copy_costs_no_wait_when_the_second_is_in_memory() -> None:
    async def main(files: SimulatedFiles) -> None:
        files.miss = 0
        rig = make_rig(files, files.random, "/data")
        at = await rig.write(1)
        files.fail("sync", rig.fragment_at(at, 0)[0].replace("arenas/000000", "table"))
        await rig.pool.delete(await rig.write(2))
        assert rig.pool.members.state(at.fragments[0].disk) is State.FAILED
        into = memoryview(bytearray(MIB))
        assert rig.pool.read(at, 0, into) is None and into == content(1, MIB)
        await rig.pool.close()

    simulated(main)


def test_a_sector_that_cannot_be_read_is_written_again() -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data")
        at = await rig.write(1)
        # One failed call for the whole range, then one for a single page.
        rig.spoil(*rig.page_at(at, 0, 3))
        files.fail("read", rig.fragment_at(at, 0)[0], times=1)
        assert await rig.read(at) == content(1, MIB)
        assert "mended" in rig.names()
        assert await rig.pool.check(at) == []
        await rig.pool.close()

    simulated(main)


def test_a_simple_extent_on_a_disk_that_cannot_be_read_says_which() -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data", 1)
        at = await rig.write(1, policy=SIMPLE)
        files.fail("read", "/data/d0/arenas")
        with pytest.raises(DiskFailed, match="/data/d0/arenas/000000"):
            await rig.read(at)
        assert rig.pool.disks()[0].state is State.SUSPECT
        files.faults.clear()
        assert await rig.read(at) == content(1, MIB)
        await rig.pool.close()

    simulated(main)


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("part", ["arenas", "table"])
def test_a_disk_that_cannot_be_written_is_failed_and_others_take_its_place(operation: str, part: str) -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data", 3)
        files.fail(operation, f"/data/d0/{part}")
        bad = rig.specs[0].id
        for number in range(6):
            at = await rig.write(number)
            assert len({each.disk for each in at.fragments} - {bad}) == 2
            assert await rig.read(at) == content(number, MIB)
        assert rig.pool.members.state(bad) is State.FAILED
        found = {at.id.number: at for at in await rig.orphans(range(100))}
        assert sorted(found) == list(range(6)) and all(len(at.fragments) == 2 for at in found.values())
        files.faults.clear()
        assert await rig.pool.members.reopen(bad) is State.HEALTHY
        await rig.pool.close()

    simulated(main)


def test_when_the_only_disk_fails_the_write_says_why_and_leaves_nothing_named() -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data", 1)
        files.fail("sync", "/data/d0/arenas", times=1)
        with pytest.raises(DiskFailed, match="simulated failure of sync"):
            await rig.write(1, policy=SIMPLE)
        with pytest.raises(NoSpace, match="bring them back"):
            await rig.write(2, policy=SIMPLE)
        assert await rig.pool.members.reopen(rig.specs[0].id) is State.HEALTHY
        at = await rig.write(3, policy=SIMPLE)
        assert await rig.read(at) == content(3, MIB)
        await rig.pool.close()

    simulated(main)


def test_entries_of_a_failed_sync_are_on_the_disk_after_it_was_opened_again() -> None:
    """The page cache holds what a failed sync did not write, and later syncs say nothing about it."""

    async def before(files: SimulatedFiles) -> Rig:
        rig = make_rig(files, files.random, "/data", 1)
        first = await rig.write(1, PAGE, SIMPLE)
        second = await rig.write(2, MIB + PAGE, SIMPLE)
        await rig.pool.delete(first)
        files.fail("sync", "/data/d0/table", times=1)
        await rig.pool.delete(second)
        assert rig.pool.disks()[0].state is State.FAILED
        await rig.pool.members.reopen(rig.specs[0].id)
        # Over the slots of both, so that the entry of the second, which the disk may still have, lies inside.
        third = await rig.write(3, 2 * MIB + PAGE, SIMPLE)
        assert third.fragments[0].slot == 0
        await rig.pool.close()
        return rig

    for seed in range(20):
        files = SimulatedFiles(SimulatedRandom(seed))
        rig = simulate(lambda loop, files=files: before(files))  # type: ignore[misc]
        again = Rig(files.after_power_loss(seed), SimulatedRandom(seed), rig.specs)
        assert again.events == []
        assert {entry.id.number for entry in again.used()[rig.specs[0].id].values()} == {3}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("part", "after"), [("table", 2), ("arenas", 12)])
def test_after_a_failed_sync_a_disk_accepts_nothing_more(part: str, after: int, seed: int) -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = SimulatedFiles(SimulatedRandom(seed), latency=Latency(1e-4, 2e-3))
        rig = make_rig(files, files.random, "/data", 1)
        disk = rig.disk(rig.specs[0].id)
        files.fail("sync", f"/data/d0/{part}", after=after, times=1)
        outcomes: list[bool] = []

        async def write(number: int) -> None:
            await asyncio.sleep(files.random.fraction() * 0.01)
            data = content(number, PAGE)
            try:
                await disk.write(Part(eid(number), SIMPLE.scheme, 0, 1, [data], checksum([data]), b""))
            except DiskFailed:
                outcomes.append(False)
            else:
                outcomes.append(True)

        await asyncio.gather(*[write(number) for number in range(20)])
        assert outcomes[0] and not outcomes[-1]
        assert outcomes == sorted(outcomes, reverse=True), "a write was accepted after the failure"
        await rig.pool.close()

    simulate(main)


def test_a_full_disk_is_avoided_and_a_full_pool_says_what_to_do(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 2, arenas=1)
        placements = [await rig.write(number, 4 * MIB) for number in range(4)]
        with pytest.raises(NoSpace, match=r"mirror\(2\): the pool's disks are full \(0 MiB free.*add a disk"):
            await rig.write(4)
        assert rig.pool.usage().free == 0
        await rig.pool.delete(placements[1])
        assert (await rig.write(5, 4 * MIB)).fragments[0].slot == placements[1].fragments[0].slot
        assert all(status.state is State.HEALTHY for status in rig.pool.disks())
        await rig.pool.close()

    host.run(main())


def test_a_full_file_system_is_no_failure_of_the_disk() -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data", 1)
        fault = files.fail("write", "/data/d0/arenas", NoSpace, times=1)
        with pytest.raises(NoSpace):
            await rig.write(1, policy=SIMPLE)
        files.faults.remove(fault)
        assert rig.pool.disks()[0].state is State.HEALTHY
        at = await rig.write(2, policy=SIMPLE)
        assert at.fragments[0].slot == 0, "the slot of the failed write was given back"
        assert await rig.read(at) == content(2, MIB)
        await rig.pool.close()

    simulated(main)


def test_a_list_of_revoked_ids_that_finds_no_room_fails_no_disk() -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data")
        files.fail("write", "/data/d0/revoked.next", NoSpace)
        await rig.pool.revoke(VOLUME, range(5))
        assert [status.state for status in rig.pool.disks()] == [State.HEALTHY, State.HEALTHY]
        files.fail("write", "/data/d1/revoked.next", NoSpace)
        with pytest.raises(NoSpace):
            await rig.pool.revoke(VOLUME, range(5, 10))
        with pytest.raises(Fenced):
            await rig.write(3)
        files.faults.clear()
        await rig.pool.revoke(VOLUME, range(5, 10))
        await rig.pool.close()
        for spec in rig.specs:
            again = Rig(files, files.random, [spec])
            assert again.disk(spec.id).revoked.covers(VOLUME, 9)
            await again.pool.close()

    simulated(main)


@pytest.mark.parametrize("seed", range(8))
def test_many_revocations_at_once_share_their_syncs_and_all_last(seed: int) -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data", 1)
        random = SimulatedRandom(seed)
        disk = rig.disk(rig.specs[0].id)
        done: list[int] = []

        async def revoke(number: int) -> None:
            await asyncio.sleep(0.004 * random.fraction())
            if number % 10 == 3:
                disk.save_revoked()  # as when another disk is opened again meanwhile
            await disk.revoke(VOLUME, range(number * 10, number * 10 + 5))
            done.append(number)

        start = files.steps
        tasks = [asyncio.ensure_future(revoke(number)) for number in range(50)]
        if seed % 2:
            await asyncio.gather(*tasks)
            assert files.steps - start < 50 * 5 // 2
        else:
            await asyncio.sleep(0.002)
        told = list(done)
        after = Rig(files.after_power_loss(seed), files.random, rig.specs)
        kept = after.disk(rig.specs[0].id).revoked
        assert all(kept.covers(VOLUME, number * 10) for number in told) and told
        assert not kept.covers(VOLUME, 7)
        for task in tasks:
            task.cancel()

    simulate(lambda loop: main(SimulatedFiles(SimulatedRandom(seed), latency=Latency(sync=300e-6))))


def test_extents_leave_room_for_the_logs_on_their_file_system() -> None:
    async def main(files: SimulatedFiles) -> None:
        files.mount("/data", 100 * MIB)
        rig = make_rig(files, files.random, "/data", 1, arenas=5)
        number = 0
        with pytest.raises(NoSpace):
            while True:
                number += 1
                await rig.write(number, policy=SIMPLE)
        assert files.space("/data").free >= 2 * MIB
        assert rig.pool.disks()[0].state is State.HEALTHY
        await rig.pool.close()

    simulated(main)


# Ids


def test_revoked_ids_are_refused_across_restarts_and_others_are_not(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        kept = await rig.write(10)
        await rig.pool.revoke(VOLUME, range(100))
        with pytest.raises(Fenced, match="extent 11 of volume 5eed was revoked"):
            await rig.write(11)
        assert await rig.read(kept) == content(10, MIB)
        assert await rig.orphans(range(100), [10]) == []
        await rig.pool.close()
        again = Rig(host.files, host.random, rig.specs)
        with pytest.raises(Fenced):
            await again.write(99)
        await again.write(100)
        assert [at.id.number for at in await again.orphans(range(1000))] == [10, 100]
        await again.pool.close()

    host.run(main())


@pytest.mark.parametrize("seed", range(10))
def test_a_write_under_way_is_seen_by_orphans_or_refused(seed: int) -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = SimulatedFiles(SimulatedRandom(seed), latency=Latency(100e-6, 2e-3))
        rig = make_rig(files, files.random, "/data")
        writes = [asyncio.create_task(rig.write(number)) for number in range(10)]
        await asyncio.sleep(files.random.fraction() * 0.01)
        await rig.pool.revoke(VOLUME, range(10))
        orphans = {at.id.number: at for at in await rig.orphans(range(10))}
        results = await asyncio.gather(*writes, return_exceptions=True)
        for number, result in enumerate(results):
            if isinstance(result, BaseException):
                assert isinstance(result, Fenced)
            else:
                assert orphans[number] == result
        for at in orphans.values():
            await rig.pool.delete(at)
        assert rig.pool.usage().free == rig.pool.usage().total
        await rig.pool.close()

    simulate(main)


def test_orphans_are_found_with_whatever_fragments_there_are(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        placements = [await rig.write(number) for number in range(5)]
        disk, slot = placements[3].fragments[1]
        await rig.disk(disk).delete(slot, eid(3))
        found = await rig.orphans(range(1, 5), {2})
        assert found == [placements[1], placements[3]._replace(fragments=placements[3].fragments[:1]), placements[4]]
        assert await rig.pool.orphans(eid(0)._replace(volume=1).volume, range(100), lambda number: ()) == []  # type: ignore[arg-type]
        await rig.pool.close()

    host.run(main())


# Moving


def test_reprotecting_writes_the_same_data_and_names_under_a_new_id(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 3)
        at = await rig.write(1, 3 * MIB, SIMPLE, b"names")
        moved = await rig.pool.reprotect(at, eid(2), parse_policy("mirror(3)"))
        assert moved.scheme == "mirror(3)" and moved.length == at.length
        rig.spoil(*rig.page_at(moved, 0, 700))
        again = await rig.pool.reprotect(moved, eid(3), MIRROR)
        assert await rig.read(again) == content(1, 3 * MIB)
        assert await rig.pool.check(moved) == [], "reading it mended it"
        disk, slot = again.fragments[1]
        assert (await rig.disk(disk).describe(slot, again.id))[2] == b"names"
        await rig.pool.close()

    host.run(main())


def test_a_drained_disk_takes_nothing_new_and_retires_when_empty(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 3)
        placements = [await rig.write(number) for number in range(6)]
        leaving = placements[0].fragments[0].disk
        assert rig.pool.members.drain(leaving) is State.DRAINING
        for number, at in enumerate(placements):
            assert await rig.read(at) == content(number, MIB)
            on_it = leaving in [fragment.disk for fragment in at.fragments]
            assert healthy(rig.pool, at) != on_it
            if on_it:
                moved = await rig.pool.reprotect(at, eid(100 + number), MIRROR)
                assert leaving not in [fragment.disk for fragment in moved.fragments]
                await rig.pool.delete(at)
        assert rig.pool.members.state(leaving) is State.RETIRED
        await rig.pool.members.forget(leaving)
        assert len(rig.pool.disks()) == 2
        with pytest.raises(InvalidArgument, match="drain it first"):
            await rig.pool.members.forget(rig.pool.disks()[0].id)
        await rig.pool.close()

    host.run(main())


@pytest.mark.parametrize("pulled", [False, True])
def test_a_retired_disk_that_is_wanted_again_after_a_restart_is_opened_first(host: Host, pulled: bool) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 2)
        wanted = rig.specs[0]
        assert rig.pool.members.drain(wanted.id) is State.RETIRED
        await rig.pool.close()
        if pulled:
            host.files.rename(wanted.path, f"{host.root}/pulled")
        again = Rig(host.files, host.random, [wanted._replace(state=State.RETIRED), rig.specs[1]])
        assert again.pool.members.drain(wanted.id, False) is (State.MISSING if pulled else State.HEALTHY)
        if pulled:
            host.files.rename(f"{host.root}/pulled", wanted.path)
            assert await again.pool.members.reopen(wanted.id) is State.HEALTHY
        assert healthy(again.pool, await again.write(1))
        await again.pool.close()

    host.run(main())


def test_a_disk_that_was_away_is_still_to_be_drained(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 3)
        at = await rig.write(1)
        leaving = at.fragments[0].disk
        path = next(spec.path for spec in rig.specs if spec.id == leaving)
        rig.pool.members.drain(leaving)
        host.files.rename(path, f"{host.root}/pulled")
        assert await rig.pool.members.reopen(leaving) is State.MISSING
        host.files.rename(f"{host.root}/pulled", path)
        assert await rig.pool.members.reopen(leaving) is State.DRAINING
        assert rig.pool.members.drain(leaving, False) is State.HEALTHY
        await rig.pool.close()

    host.run(main())


def test_tiers_are_separate_and_counted_apart(host: Host) -> None:
    async def main() -> None:
        specs = [make(host.files, host.random, f"{host.root}/{tier}", tier=tier) for tier in ("ssd", "hdd")]
        rig = Rig(host.files, host.random, specs)
        at = await rig.write(1, policy=parse_policy("simple on hdd"))
        assert at.fragments[0].disk == specs[1].id
        assert rig.pool.usage("ssd").free == 32 * MIB and rig.pool.usage("hdd").free == 31 * MIB
        assert rig.pool.usage().total == 64 * MIB
        with pytest.raises(InvalidArgument, match="of tier ssd, there are 1"):
            rig.pool.validate(parse_policy("mirror(2) on ssd"))
        await rig.pool.close()

    host.run(main())


# Races


@pytest.mark.parametrize("seed", range(15))
def test_readers_never_see_another_extents_bytes_while_slots_are_reused(seed: int) -> None:
    """Writers, deleters and readers at random on a pool that is nearly full; reads wait for the disk all the time."""

    async def main(loop: SimulatedLoop) -> None:
        random = SimulatedRandom(seed)
        files = SimulatedFiles(random, miss=0.8, latency=Latency(2e-3, 1e-3))
        rig = make_rig(files, random, "/data", 2, arenas=1)
        live: dict[int, Any] = {}
        numbers = iter(range(1, 10_000))
        seen = {"gone": 0, "read": 0, "churning": 2}

        async def churn() -> None:
            for _ in range(60):
                if len(live) > 3 and random.chance(0.5):
                    await rig.pool.delete(live.pop(random.below(max(live) + 1), None) or live.pop(next(iter(live))))
                    rig.disk(rig.specs[0].id).give_back(3)
                else:
                    number = next(numbers)
                    try:
                        live[number] = await rig.write(number, random.below(4) * MIB + PAGE)
                    except NoSpace:
                        pass
            seen["churning"] -= 1

        async def reader() -> None:
            while seen["churning"]:
                await asyncio.sleep(random.fraction() * 0.003)
                if not live:
                    continue
                number = list(live)[random.below(len(live))]
                at = live[number]
                page = random.below(at.length // PAGE)
                length = min(at.length - page * PAGE, PAGE << random.below(9))
                if random.chance(0.2):
                    forget_checksums(rig)
                try:
                    data = await rig.read(at, page * PAGE, length)
                except ExtentGone:
                    seen["gone"] += 1
                else:
                    seen["read"] += 1
                    assert data == content(number, at.length)[page * PAGE : page * PAGE + length]

        await asyncio.gather(churn(), churn(), reader(), reader(), reader())
        assert seen["read"] > 50 and rig.events == []
        for at in live.values():
            assert await rig.pool.check(at) == []
        await rig.pool.close()

    simulate(main)


@pytest.mark.parametrize("known", ["fresh", "read before", "by the caller's checksums"])
def test_a_read_that_waited_while_its_slot_was_reused_finds_the_extent_gone(known: str) -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data", 1)
        disk = rig.disk(rig.specs[0].id)
        files.miss = 0
        at = await rig.write(1, policy=SIMPLE)
        if known == "read before":
            await rig.read(at)
        files.miss, files.latency = 1, Latency(1.0, 1e-3)
        sums = checksum([content(1, MIB)]).pages if known == "by the caller's checksums" else None
        into = memoryview(bytearray(MIB))
        waiting = disk.read(at.fragments[0].slot, at.id, 0, into, sums)
        assert waiting is not None
        reading = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        await rig.pool.delete(at)
        other = await rig.write(2, policy=SIMPLE)
        assert other.fragments == at.fragments
        with pytest.raises(ExtentGone):
            await reading
        assert await rig.pool.check(other) == []
        await rig.pool.close()

    simulated(main)


@pytest.mark.parametrize("seed", range(6))
def test_opening_a_disk_again_waits_for_the_writes_on_their_way_to_it(seed: int) -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = SimulatedFiles(SimulatedRandom(seed), latency=Latency(1e-3, 1e-2))
        rig = make_rig(files, files.random, "/data", 1, arenas=1)
        id = rig.specs[0].id
        early = [asyncio.create_task(rig.write(number, policy=SIMPLE)) for number in range(4)]
        await asyncio.sleep(files.random.fraction() * 0.02)
        assert await rig.pool.members.reopen(id) is State.HEALTHY
        late = [asyncio.create_task(rig.write(number, policy=SIMPLE)) for number in range(10, 14)]
        results = await asyncio.gather(*early, *late, return_exceptions=True)
        written = [at for at in results if not isinstance(at, BaseException)]
        assert not any(isinstance(at, BaseException) for at in results[4:])
        assert all(isinstance(each, DiskFailed) for each in results if isinstance(each, BaseException))
        assert rig.pool.members.state(id) is State.HEALTHY
        for at in written:
            assert await rig.pool.check(at) == []
        await rig.pool.close()

    simulate(main)


def test_a_cancelled_write_leaves_an_orphan_and_no_slot_in_doubt() -> None:
    async def main(files: SimulatedFiles) -> None:
        rig = make_rig(files, files.random, "/data")
        for number in range(20):
            task = asyncio.create_task(rig.write(number))
            await asyncio.sleep(files.random.fraction() * 0.003)
            task.cancel()
        await rig.pool.close()
        again = Rig(files, files.random, rig.specs)
        orphans = await again.orphans(range(20))
        assert len(orphans) > 10
        for at in orphans:
            assert await again.pool.check(at) == []
        await again.pool.close()

    simulated(main)


def test_checksums_in_memory_are_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sofs.pool.fragments._CACHED", 3)

    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        placements = [await rig.write(number, PAGE, SIMPLE) for number in range(20)]
        disk = rig.disk(rig.specs[0].id)
        for _ in range(3):
            for number, at in enumerate(placements):
                assert await rig.read(at) == content(number, PAGE)
                assert len(disk._recent) <= 3 and len(disk._older) <= 3
        await rig.pool.close()

    host.run(main())
