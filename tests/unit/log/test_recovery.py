"""What recovery makes of torn, missing and damaged records."""

import random

import pytest

from sofs.errors import ConfigError, Damaged, DiskFailed, DiskRefused
from sofs.log.configuration import LogSettings
from sofs.log.replica import FIRST, LocalReplica
from sofs.runtime.simulated_loop import SimulatedLoop, simulate
from tests.unit.log.support import SEGMENT, Bench, run

COUNT = 20


async def fill(bench: Bench) -> None:
    """Records 0 to 19 with a payload of 500 bytes, each of them stable when the next is appended."""
    for number in range(COUNT):
        bench.log.append(b"%d" % number, [b"p" * 500])
        await bench.log.sync()


def expect(bench: Bench, count: int) -> None:
    async def check(bench: Bench) -> None:
        assert bench.machine.operations == [b"%d" % number for number in range(count)]

    run(bench, check)


def address(bench: Bench, number: int) -> int:
    return bench.machine.applied[number][0]


def flip(bench: Bench, replica: int, position: int) -> None:
    index, offset = divmod(position, SEGMENT)
    bench.files.flip(bench.segment(replica, index), offset, 3)


def test_the_last_record_torn_anywhere_is_cut_off() -> None:
    for keep in range(0, 560, 13):
        bench = Bench()
        run(bench, fill)
        last = address(bench, COUNT - 1)
        file = bench.files.open(bench.segment(0, last // SEGMENT))
        file.write(last % SEGMENT + keep, [bytes(600 - keep)])
        file.close()
        expect(bench, COUNT - 1 if keep < 556 else COUNT)


def test_damage_below_what_is_stable_is_refused_by_name_with_a_remedy() -> None:
    chance = random.Random(5)
    for number in range(COUNT - 2):
        bench = Bench()
        run(bench, fill)
        position = address(bench, number) + chance.randrange(48)
        flip(bench, 0, position)
        with pytest.raises(Damaged, match=rf"/0/0{{16}}, offset {address(bench, number)}: the log is damaged .*bring back another disk"):
            run(bench, fill)


def test_another_copy_mends_every_damaged_record() -> None:
    bench = Bench(replicas=2)
    run(bench, fill)
    for number in range(COUNT):
        flip(bench, number % 2, address(bench, number) + 30)

    async def check(bench: Bench) -> None:
        assert bench.machine.operations == [b"%d" % number for number in range(COUNT)]
        assert bench.recovered.repaired == COUNT

    run(bench, check)

    async def clean(bench: Bench) -> None:
        assert bench.recovered.repaired == 0, "the repair lasted"

    run(bench, clean)


def test_a_record_damaged_on_both_copies_is_refused() -> None:
    bench = Bench(replicas=2)
    run(bench, fill)
    for replica in range(2):
        flip(bench, replica, address(bench, 7) + 30)
    with pytest.raises(Damaged):
        run(bench, fill)


def test_the_longest_copy_wins_and_the_other_is_brought_to_it() -> None:
    bench = Bench(replicas=2)
    run(bench, fill)
    cut = address(bench, 11)
    for index in range(cut // SEGMENT, 3):
        path = bench.segment(1, index)
        if bench.files.exists(path):
            file = bench.files.open(path)
            start = cut % SEGMENT if index == cut // SEGMENT else 0
            file.write(start, [bytes(SEGMENT - start)])
            file.close()

    async def check(bench: Bench) -> None:
        assert bench.recovered.repaired == COUNT - 11
        assert len(bench.machine.applied) == COUNT

    run(bench, check)


def test_a_hole_in_memory_that_survived_is_damage_even_if_nothing_was_stable() -> None:
    async def fill_unsynced(bench: Bench) -> None:
        for number in range(COUNT):
            bench.log.append(b"%d" % number, [bytes(100)])
        await bench.clock.sleep(0)

    async def nothing(bench: Bench) -> None:
        assert len(bench.machine.applied) == 5

    bench = Bench()
    run(bench, fill_unsynced)
    flip(bench, 0, address(bench, 5))
    with pytest.raises(Damaged, match="what follows was written"):
        run(bench, nothing, unbroken=True)
    # The same bytes after a loss of power are an ordinary torn tail.
    run(bench, nothing, unbroken=False)


def test_what_was_cut_off_never_comes_back() -> None:
    bench = Bench()

    async def fill_unsynced(bench: Bench) -> None:
        for _ in range(COUNT):
            bench.log.append(b"same", [bytes(100)])
        await bench.clock.sleep(0)

    run(bench, fill_unsynced)
    positions = [lsn for lsn, _, _ in bench.machine.applied]
    flip(bench, 0, positions[5])

    async def append_the_same(bench: Bench) -> None:
        assert len(bench.machine.applied) == 5
        # Byte for byte what stood there, as far as the caller is concerned; behind it the old records are intact.
        assert bench.log.append(b"same", [bytes(100)]) == positions[5]
        await bench.log.sync()

    run(bench, append_the_same)

    async def check(bench: Bench) -> None:
        assert len(bench.machine.applied) == 6

    run(bench, check, unbroken=True)


def test_the_note_of_an_idle_log_guards_its_last_record() -> None:
    async def one_then_idle(bench: Bench) -> None:
        bench.log.append(b"only")
        await bench.clock.sleep(10)

    bench = Bench()
    run(bench, one_then_idle)
    flip(bench, 0, FIRST + 20)
    with pytest.raises(Damaged):
        run(bench, one_then_idle)


def test_a_copy_that_cannot_be_read_is_left_out() -> None:
    bench = Bench(replicas=2)
    run(bench, fill)
    bench.files.fail("read", "/0", after=2)

    async def check(bench: Bench) -> None:
        assert [replica.id for replica in bench.recovered.replicas] == [1]
        assert len(bench.machine.applied) == COUNT

    run(bench, check)
    bench.files.faults.clear()
    bench.files.fail("read", "/", after=4)
    with pytest.raises(DiskFailed, match="no copy of the log can be read"):
        run(bench, check)


def test_segments_of_another_log_are_refused() -> None:
    bench = Bench()
    run(bench, fill)
    with pytest.raises(DiskRefused, match="put the right disk back"):
        LocalReplica(bench.files, "/0", 78, 0, SEGMENT)
    with pytest.raises(DiskRefused):
        LocalReplica(bench.files, "/0", 77, 1, SEGMENT)
    with pytest.raises(ConfigError):
        LocalReplica(bench.files, "/0", 77, 0, 2 * SEGMENT)


def test_random_damage_of_a_log_never_does_anything_but_raise() -> None:
    chance = random.Random(11)
    pristine = Bench()
    run(pristine, fill)
    contents = {}
    for index in range(2):
        file = pristine.files.open(pristine.segment(0, index))
        data = bytearray(file.size)
        file.read_now(0, [memoryview(data)])
        contents[index] = bytes(data)
    outcomes = set()
    for _ in range(150):
        bench = Bench()
        for index, content in contents.items():
            data = bytearray(content)
            for _ in range(chance.randrange(1, 4)):
                at, length = chance.randrange(len(data)), chance.choice((1, 2, 4, 64, 1000))
                data[at : at + length] = chance.randbytes(len(data[at : at + length]))
            file = bench.files.open(bench.segment(0, index), create=True)
            file.write(0, [data])
            file.close()

        async def check(bench: Bench) -> None:
            found = bench.machine.operations
            assert found == [b"%d" % number for number in range(len(found))]

        try:
            run(bench, check, unbroken=chance.random() < 0.5)
            outcomes.add("recovered")
        except Damaged:
            outcomes.add("damaged")
    assert outcomes == {"recovered", "damaged"}


def test_records_of_the_largest_size_fill_a_segment_exactly() -> None:
    bench = Bench()

    async def live(loop: SimulatedLoop) -> None:
        for generation in range(4):
            bench.start(loop, LogSettings(SEGMENT, 64 * SEGMENT))
            assert len(bench.machine.applied) == 3 * generation
            for _ in range(3):
                # Header and operations take 56 bytes.
                lsn = bench.log.append(b"full", [bytes(SEGMENT - FIRST - 56)])
                assert (bench.log.end % SEGMENT, lsn % SEGMENT) == (0, FIRST)
            await bench.log.sync()
            for task in bench.log._tasks:
                task.cancel()

    simulate(live)
