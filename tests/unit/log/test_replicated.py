"""The log on one and two disks: order, group commit, space, failures."""

from itertools import pairwise

import pytest

from sofs.errors import DiskFailed, ExtentGone, NoSpace, Unavailable
from sofs.log.replica import FIRST, LocalReplica
from sofs.runtime.ports import Buffer
from sofs.runtime.simulated_loop import SimulatedLoop, simulate
from sofs.types import Level, Lsn
from tests.unit.log.support import SEGMENT, SETTINGS, Bench, run


def test_a_record_is_applied_at_once_and_committed_at_the_end_of_the_tick() -> None:
    async def main(bench: Bench) -> None:
        log = bench.log
        first = log.append(b"first")
        assert bench.machine.operations == [b"first"]
        assert first == FIRST and log.committed == first
        heard: list[str] = []
        log.when(first, Level.COMMITTED, lambda: heard.append("first"))
        second = log.append(b"second")
        log.when(second, Level.COMMITTED, lambda: heard.append("second"))
        log.when(first, Level.COMMITTED, lambda: heard.append("first again"))
        assert heard == []
        await bench.clock.sleep(0)
        assert heard == ["first", "first again", "second"], "in order of position"
        assert log.committed == log.end
        log.when(second, Level.COMMITTED, lambda: heard.append("late"))
        assert heard[-1] == "late"

    run(Bench(), main)


def test_records_of_one_tick_are_one_write_and_one_sync() -> None:
    bench = Bench()
    steps: list[str] = []

    async def main(bench: Bench) -> None:
        await bench.log.sync()
        bench.files.on_step = lambda operation, path: steps.append(operation)
        lsns = [bench.log.append(b"x", [b"y" * 20]) for _ in range(50)]
        heard: list[Lsn] = []
        for lsn in lsns:
            bench.log.when(lsn, Level.STABLE, lambda lsn=lsn: heard.append(lsn))  # type: ignore[misc]
        while len(heard) < 50:
            await bench.clock.sleep(1e-4)
        assert heard == lsns

    run(bench, main)
    assert steps.count("write") == 1
    assert steps.count("synced") == 1


def test_what_is_appended_during_a_sync_waits_for_the_next() -> None:
    async def main(bench: Bench) -> None:
        log = bench.log
        first = log.append(b"first")
        log.when(first, Level.STABLE, lambda: None)
        await bench.clock.sleep(0.0005)
        second = log.append(b"second")
        await bench.reach(first, Level.STABLE)
        assert log.stable == second
        await bench.reach(second, Level.STABLE)

    run(Bench(), main)


def test_everything_is_stable_after_a_while_although_nobody_asked() -> None:
    async def main(bench: Bench) -> None:
        lsn = bench.log.append(b"x")
        await bench.clock.sleep(0.5)
        assert bench.log.stable <= lsn
        await bench.clock.sleep(1)
        assert bench.log.stable > lsn
        await bench.clock.sleep(5)
        end = bench.log.end
        await bench.clock.sleep(50)
        assert bench.log.end == end, "an idle log does not grow"

    run(Bench(), main)


def test_payload_can_be_read_before_it_is_written_and_after() -> None:
    async def main(bench: Bench) -> None:
        parts: list[Buffer] = [b"a" * 100, memoryview(b"b" * 4096), bytearray(b"c" * 5)]
        bench.log.append(b"x", parts)
        address = bench.machine.applied[0][2]
        for _ in range(2):
            data = bytearray(4201)
            waiting = bench.log.read(address, memoryview(data))
            if waiting is not None:
                await waiting
            assert data == b"a" * 100 + b"b" * 4096 + b"c" * 5
            await bench.clock.sleep(0)

    run(Bench(), main)


def test_a_record_never_crosses_a_segment_and_scan_finds_all() -> None:
    async def main(bench: Bench) -> None:
        lsns = [bench.log.append(b"%d" % number, [bytes(number * 10)]) for number in range(100)]
        await bench.log.sync()
        found = list(bench.log.scan(FIRST, bench.log.committed))
        assert [record.lsn for record in found] == lsns
        assert [record.operations for record in found] == [b"%d" % number for number in range(100)]
        for record in found:
            assert record.lsn // SEGMENT == (record.next - 1) // SEGMENT
            assert record.length == int(record.operations) * 10
        assert [record.lsn for record in bench.log.scan(lsns[40], lsns[50])] == lsns[40:50]
        # Some records begin in the second segment only because they did not fit into the first.
        assert any(first.next < second.lsn for first, second in pairwise(found))

    run(Bench(), main, unbroken=False)


def test_a_full_log_takes_what_gives_space_back() -> None:
    async def main(bench: Bench) -> None:
        log = bench.log
        with pytest.raises(NoSpace):
            for _ in range(1000):
                log.append(b"x", [bytes(1000)])
        applied, end = len(bench.machine.applied), log.end
        with pytest.raises(NoSpace):
            log.append(b"x", [bytes(1000)])
        assert (len(bench.machine.applied), log.end) == (applied, end), "nothing was appended"
        for _ in range(10):
            log.append(b"delete", [bytes(1000)], reserved=True)
        await log.sync()
        log.trim(log.end)
        for _ in range(30):
            log.append(b"x", [bytes(1000)])
        await log.sync()

    run(Bench(), main)


def test_a_newcomers_full_disk_drops_the_newcomer_only() -> None:
    async def main(bench: Bench) -> None:
        newcomer = LocalReplica(bench.files, "/9", 77, 9, SEGMENT)
        bench.log.join(newcomer)
        bench.files.fail("open", "/9", NoSpace)
        for number in range(40):
            bench.log.append(b"%d" % number, [bytes(1000)])
        await bench.log.sync()
        assert bench.log.serving() and bench.log.replica_ids == (0,)
        with pytest.raises(Unavailable, match="/9 has failed"):
            await bench.log.promote(newcomer)

    bench = Bench()
    bench.files.make_directory("/9")
    run(bench, main)


def test_a_full_disk_is_told_before_anything_is_appended() -> None:
    async def main(bench: Bench) -> None:
        with pytest.raises(NoSpace, match="no space for another segment"):
            for _ in range(1000):
                bench.log.append(b"x", [bytes(1000)])
        assert len(bench.machine.applied) == sum(1 for _ in bench.log.scan(FIRST, bench.log.end)) or bench.log.committed < bench.log.end
        await bench.log.sync()
        assert bench.log.serving()

    run(Bench(capacity=4 * SEGMENT), main)


def test_trimmed_segments_are_used_again() -> None:
    bench = Bench()

    async def main(bench: Bench) -> None:
        log = bench.log
        addresses = []
        for _ in range(200):
            log.append(b"x", [bytes(1000)])
            addresses.append(bench.machine.applied[-1][2])
            await log.sync()
            log.trim(log.end)
        assert log.start > 10 * SEGMENT
        assert len(bench.files.list("/0")) <= 5
        with pytest.raises(ExtentGone):
            log.read(addresses[0], memoryview(bytearray(10)))

    run(bench, main)


def test_a_failed_sync_ends_that_replica_and_the_log_goes_on() -> None:
    bench = Bench(replicas=2)
    bench.files.fail("sync", "/1", after=4, times=1)

    async def main(bench: Bench) -> None:
        for number in range(20):
            lsn = bench.log.append(b"%d" % number)
            await bench.reach(lsn, Level.STABLE)
        assert bench.log.replicas == 1
        assert bench.configuration.replicas == (0,)
        assert bench.log.version == bench.configuration.version

    run(bench, main)


def test_nothing_is_acknowledged_until_the_loss_of_a_replica_is_recorded() -> None:
    bench = Bench(replicas=2)

    async def main(bench: Bench) -> None:
        await bench.log.sync()
        bench.files.fail("write", "/0", times=1)
        heard: list[int] = []
        lsn = bench.log.append(b"x")
        bench.log.when(lsn, Level.COMMITTED, lambda: heard.append(bench.configuration.version))
        before = bench.configuration.version
        await bench.clock.sleep(0.005)
        assert heard == []
        await bench.clock.sleep(0.01)
        assert heard == [before + 1]
        assert bench.configuration.replicas == (1,)

    run(bench, main)


def test_a_log_that_has_been_superseded_acknowledges_nothing() -> None:
    bench = Bench(replicas=2)

    async def main(bench: Bench) -> None:
        await bench.log.sync()
        bench.refuse = True
        bench.files.fail("sync", "/0", times=1)
        heard: list[int] = []
        lsn = bench.log.append(b"x")
        bench.log.when(lsn, Level.STABLE, lambda: heard.append(1))
        await bench.clock.sleep(5)
        assert heard == [] and not bench.log.serving()
        with pytest.raises(Unavailable):
            bench.log.append(b"y")
        with pytest.raises(Unavailable):
            await bench.log.sync()

    run(bench, main)


def test_a_store_that_is_away_holds_acknowledgements_up_and_loses_none() -> None:
    bench = Bench(replicas=2)

    async def main(bench: Bench) -> None:
        await bench.log.sync()
        bench.away = True
        bench.files.fail("write", "/0", times=1)
        heard: list[int] = []
        for number in range(10):
            lsn = bench.log.append(b"%d" % number)
            bench.log.when(lsn, Level.STABLE, lambda number=number: heard.append(number))  # type: ignore[misc]
            await bench.clock.sleep(1)
        assert heard == [] and bench.log.serving()
        bench.away = False
        await bench.clock.sleep(1)
        assert heard == list(range(10))
        assert bench.configuration.replicas == (1,)

    run(bench, main)


def test_when_the_last_replica_fails_the_log_fails_and_says_that_memory_may_lie() -> None:
    bench = Bench()

    async def main(bench: Bench) -> None:
        await bench.log.sync()
        failures: list[Exception] = []
        bench.log.on_failure = failures.append
        bench.files.fail("sync", "/0", times=1)
        lsn = bench.log.append(b"x")
        waiting = bench.log.sync()
        bench.log.when(lsn, Level.STABLE, lambda: pytest.fail("acknowledged after a failed sync"))
        with pytest.raises(Unavailable):
            await waiting
        await bench.clock.sleep(1)
        assert isinstance(failures[0], DiskFailed) and len(failures) == 1
        assert bench.configuration.memory_broken

    run(bench, main)


def test_what_a_failed_log_never_wrote_is_unavailable_and_not_damaged() -> None:
    bench = Bench()

    async def main(bench: Bench) -> None:
        bench.log.append(b"x", [b"before"])
        await bench.log.sync()
        bench.files.fail("write", "/0", times=1)
        bench.log.append(b"y", [b"behind"])
        before, behind = (address for _, _, address in bench.machine.applied)
        data = bytearray(6)
        for _ in range(2):
            with pytest.raises(Unavailable, match="never written"):
                bench.log.read(behind, memoryview(data))
            await bench.clock.sleep(0.1)
        waiting = bench.log.read(before, memoryview(data))
        if waiting is not None:
            await waiting
        assert data == b"before"

    run(bench, main)


def test_a_batch_that_cannot_be_applied_is_not_written() -> None:
    bench = Bench()

    async def main(bench: Bench) -> None:
        bench.log.append(b"fine")
        with pytest.raises(AssertionError, match="a bug"):
            bench.log.append(b"impossible")
        with pytest.raises(Unavailable):
            bench.log.append(b"more")
        await bench.clock.sleep(1)

    run(bench, main)

    async def check(bench: Bench) -> None:
        assert bench.machine.operations == [b"fine"]

    run(bench, check)


def test_a_log_may_be_closed_and_opened_again_and_again() -> None:
    bench = Bench(replicas=2)

    async def live(loop: SimulatedLoop) -> None:
        for generation in range(5):
            bench.start(loop, SETTINGS)
            assert bench.machine.operations == [b"%d" % number for number in range(generation)]
            bench.log.append(b"%d" % generation)
            await bench.log.close()
            assert bench.log.stable == bench.log.end
            with pytest.raises(Unavailable):
                bench.log.append(b"late")

    simulate(live)


def test_a_log_that_has_ended_writes_nothing_more_also_not_to_mend_what_was_found_wrong_before() -> None:
    async def main(bench: Bench) -> None:
        log = bench.log
        lsn = log.append(b"x", [b"payload!" * 100])
        await bench.reach(lsn, Level.STABLE)
        log.abandon(Unavailable("deposed"))
        steps: list[str] = []
        bench.files.on_step = lambda operation, path: steps.append(operation)
        log.rewrite(lsn, b"what another copy has", 0)
        assert steps == []

    run(Bench(), main)
