"""The pool's background duties."""

import asyncio
from typing import Any

import pytest

from sofs.errors import NotSupported
from sofs.pool.states import State
from sofs.pool.upkeep import Probe, Scrub, Upkeep
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.types import PAGE
from tests.unit.pool.conftest import Host
from tests.unit.pool.rig import MIB, SIMPLE, Rig, content, healthy, make_rig


def test_scrubbing_finds_and_mends_what_nobody_read(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        placements = [await rig.write(number, (1 + number % 3) * MIB) for number in range(6)]
        for number, at in enumerate(placements):
            rig.spoil(*rig.page_at(at, number % 2, 17 * number))
        # Both copies, in different pages: each is mended from the other.
        rig.spoil(*rig.page_at(placements[0], 1, 99))
        path, offset = rig.fragment_at(placements[5], 0)
        rig.spoil(path, offset + 30)
        report = await Scrub(rig.pool).run_once()
        # Mending one copy of the last extent may mend the other on the way, before its turn comes.
        assert (report.fragments, report.complete) == (12, True) and report.bad == report.mended in (7, 8)
        assert report.bytes == 2 * sum(at.length for at in placements)
        for at in placements:
            assert await rig.pool.check(at) == []
        again = await Scrub(rig.pool).run_once()
        assert (again.fragments, again.bad) == (12, 0)
        await rig.pool.close()

    host.run(main())


def test_scrubbing_tells_of_damage_that_has_no_remedy_and_goes_on(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        placements = [await rig.write(number, 2 * MIB, SIMPLE) for number in range(3)]
        rig.spoil(*rig.page_at(placements[1], 0, 300))
        report = await Scrub(rig.pool).run_once()
        assert (report.fragments, report.bad, report.mended, report.complete) == (3, 1, 0, True)
        told = [fields for name, fields in rig.events if name == "damaged extent"]
        assert [(fields["extent"], fields["offset"]) for fields in told] == [(1, MIB)]
        await rig.pool.close()

    host.run(main())


def test_scrubbing_in_small_rounds_reads_everything_once(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 3)
        for number in range(9):
            await rig.write(number)
        scrub = Scrub(rig.pool)
        reports = [await scrub.run_once(2 * MIB)]
        while not reports[-1].complete:
            reports.append(await scrub.run_once(2 * MIB))
        assert sum(report.fragments for report in reports) == 18
        assert all(report.fragments <= 2 for report in reports) and len(reports) > 8
        assert (await scrub.run_once()).fragments == 18, "the next round begins anew"
        await rig.pool.close()

    host.run(main())


@pytest.mark.parametrize("seed", range(5))
def test_scrubbing_under_writes_and_deletes_calls_nothing_bad(seed: int) -> None:
    async def main(loop: SimulatedLoop) -> None:
        random = SimulatedRandom(seed)
        files = SimulatedFiles(random, miss=0.7)
        rig = make_rig(files, random, "/data")
        live = [await rig.write(number) for number in range(8)]
        scrub = Scrub(rig.pool)

        async def churn() -> None:
            for number in range(100, 140):
                await rig.pool.delete(live.pop(random.below(len(live))))
                live.append(await rig.write(number, (1 + random.below(2)) * MIB))

        work = asyncio.create_task(churn())
        rounds = 0
        while not work.done():
            report = await scrub.run_once()
            rounds += 1
            assert report.bad == 0
        await work
        assert rounds > 1 and rig.events == []
        await rig.pool.close()

    simulate(main)


def test_space_is_given_back_after_a_restart_too(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root, 1)
        placements = [await rig.write(number, 4 * MIB, SIMPLE) for number in range(4)]
        for at in placements[:3]:
            # Behind the pool's back, so that nothing is punched.
            await rig.disk(at.fragments[0].disk).delete(at.fragments[0].slot, at.id)
        await rig.pool.close()
        again = Rig(host.files, host.random, rig.specs)
        await again.pool.give_back()
        assert await again.pool.check(placements[3]) == []
        if isinstance(host.files, SimulatedFiles):
            assert host.files.space("/").total - host.files.space("/").free < 5 * MIB
        path, offset = rig.fragment_at(placements[1], 0)
        file = host.files.open(path)
        data = bytearray(8 * MIB)
        file.read_now(offset, [memoryview(data)[: 4 * MIB]])
        file.close()
        assert not any(data)
        await again.pool.close()

    host.run(main())


def test_a_probe_clears_a_suspect_and_condemns_one_that_cannot_be_written() -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = SimulatedFiles(SimulatedRandom(1), miss=0)
        rig = make_rig(files, files.random, "/data")
        at = await rig.write(1)
        first = at.fragments[0].disk
        for outcome in (State.HEALTHY, State.FAILED):
            fault = files.fail("read", rig.fragment_at(at, 0)[0])
            assert await rig.read(at) == content(1, MIB)
            assert rig.pool.members.state(first) is State.SUSPECT
            files.faults.remove(fault)
            path = rig.fragment_at(at, 0)[0].split("/arenas")[0]
            fault = files.fail("sync", path + "/table")
            if outcome is State.HEALTHY:
                files.faults.remove(fault)
            await Probe(rig.pool).run_once()
            assert rig.pool.members.state(first) is outcome
        await Probe(rig.pool).run_once()
        assert rig.pool.members.state(first) is State.FAILED, "only opening it again brings it back"
        files.faults.clear()
        assert await rig.pool.members.reopen(first) is State.HEALTHY
        assert await rig.pool.check(at) == []
        await rig.pool.close()

    simulate(main)


def test_a_probe_brings_back_a_disk_that_was_plugged_in_and_misses_one_that_was_pulled(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1)
        host.files.rename(f"{host.root}/d0", f"{host.root}/pulled")
        await Probe(rig.pool).run_once()
        pulled = rig.specs[0].id
        assert rig.pool.members.state(pulled) is State.MISSING
        assert await rig.read(at, 0, PAGE) == content(1, PAGE)
        host.files.rename(f"{host.root}/pulled", f"{host.root}/d0")
        await Probe(rig.pool).run_once()
        assert rig.pool.members.state(pulled) is State.HEALTHY and healthy(rig.pool, at)
        await rig.pool.close()

    host.run(main())


def test_a_disk_that_another_process_holds_when_it_returns_is_tried_again_and_keeps_no_other_away(host: Host) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        await rig.pool.close()
        for name in ("d0", "d1"):
            host.files.rename(f"{host.root}/{name}", f"{host.root}/{name}.pulled")
        again = Rig(host.files, host.random, rig.specs)
        for name in ("d0", "d1"):
            host.files.rename(f"{host.root}/{name}.pulled", f"{host.root}/{name}")
        lock = host.files.lock(f"{host.root}/d0/lock")
        await Probe(again.pool).run_once()
        states = [again.pool.members.state(spec.id) for spec in rig.specs]
        assert states == [State.MISSING, State.HEALTHY]
        assert "in use" in again.pool.disks()[0].reason
        lock.close()
        await Probe(again.pool).run_once()
        assert again.pool.members.state(rig.specs[0].id) is State.HEALTHY
        await again.pool.close()

    host.run(main())


def test_upkeep_runs_the_duties_in_time_and_stops_when_told() -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = SimulatedFiles(SimulatedRandom(1), miss=0)
        rig = make_rig(files, files.random, "/data")
        at = await rig.write(1)
        upkeep = Upkeep(rig.pool, SimulatedClock(loop), probe_interval_s=10, scrub_interval_s=60)
        upkeep.start()
        fault = files.fail("read", rig.fragment_at(at, 0)[0])
        assert await rig.read(at) == content(1, MIB)
        files.faults.remove(fault)
        rig.spoil(*rig.page_at(at, 1, 5))
        assert not healthy(rig.pool, at)
        await asyncio.sleep(11)
        assert healthy(rig.pool, at)
        await asyncio.sleep(60)
        assert await rig.pool.check(at) == []
        await upkeep.close()
        await rig.pool.close()

    simulate(main)


def test_scrubbing_finds_rot_that_the_page_cache_hides(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rig = make_rig(host.files, host.random, host.root)
        at = await rig.write(1, 2 * MIB)
        path, rotten = rig.page_at(at, 1, 300)
        disk = rig.disk(at.fragments[1].disk)
        file = disk._find_place(at.fragments[1].slot, at.id).file
        kind = type(file)
        read_stored, write, cached, mended = kind.read_stored, kind.write, True, False

        async def stored(self: Any, offset: int, into: memoryview) -> int:
            count = await read_stored(self, offset, into)
            if self is file and not mended and offset <= rotten < offset + count:
                into[rotten - offset] ^= 1
            return count

        def forgets(self: Any, offset: int, length: int) -> None:
            nonlocal cached
            if self is file and offset <= rotten < offset + length:
                cached = False
                rig.spoil(path, rotten)  # what a read finds from now on

        def writes(self: Any, offset: int, data: Any) -> None:
            nonlocal mended
            write(self, offset, data)
            mended = mended or (self is file and offset <= rotten < offset + sum(map(len, data)))

        monkeypatch.setattr(kind, "read_stored", stored)
        monkeypatch.setattr(kind, "forget", forgets)
        monkeypatch.setattr(kind, "write", writes)
        assert await rig.read(at) == content(1, 2 * MIB)
        report = await Scrub(rig.pool).run_once()
        assert (report.bad, report.mended, cached, mended) == (1, 1, False, True)
        assert await rig.pool.check(at) == []
        await rig.pool.close()

    host.run(main())


@pytest.mark.parametrize("error", [NotSupported("parity"), ZeroDivisionError("ours")], ids=["outcome", "bug"])
def test_a_duty_that_fails_is_done_again_the_next_time(error: Exception) -> None:
    async def main(loop: SimulatedLoop) -> None:
        random = SimulatedRandom(1)
        rig = make_rig(SimulatedFiles(random), random, "/disks")
        upkeep = Upkeep(rig.pool, SimulatedClock(loop), probe_interval_s=1)
        done = []

        async def failing() -> None:
            done.append(loop.time())
            raise error

        upkeep._every = ((1.0, failing),)
        upkeep.start()
        await asyncio.sleep(3.5)
        await upkeep.close()
        assert len(done) == 3
        await rig.pool.close()

    simulate(main)
