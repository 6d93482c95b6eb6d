"""One copy of the log by itself."""

import asyncio

from sofs.log.replica import FIRST, LocalReplica
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedLoop, SimulatedRandom, simulate
from tests.unit.log.support import SEGMENT


def test_a_sync_answers_only_when_an_earlier_one_is_done_too() -> None:
    files = SimulatedFiles(SimulatedRandom(1), latency=Latency(1e-4, 1e-2))
    files.make_directory("/log")

    async def main(loop: SimulatedLoop) -> None:
        replica = LocalReplica(files, "/log", 77, 1, SEGMENT)
        replica.prepare(0)
        replica.write(FIRST, [b"x" * 100])
        order: list[str] = []

        async def first() -> None:
            await replica.sync()
            order.append("first")

        async def second() -> None:
            await replica.sync()
            order.append("second")

        started = asyncio.ensure_future(first())
        await asyncio.sleep(0.001)
        # Nothing has been written since, and yet nothing is durable.
        await second()
        await started
        assert order == ["first", "second"]

    simulate(main)


def test_a_segment_that_is_renamed_for_its_next_use_reads_as_what_it_is_now() -> None:
    files = SimulatedFiles(SimulatedRandom(1))
    files.make_directory("/log")

    async def main(loop: SimulatedLoop) -> None:
        replica = LocalReplica(files, "/log", 77, 1, SEGMENT)
        for index in range(3):
            replica.prepare(index)
        replica.write(FIRST, [b"old"])
        replica.trim(1)
        replica.prepare(3)
        assert files.list("/log") == [f"{index:016x}" for index in (1, 2, 3)]
        assert replica.segments() == [1, 2, 3]
        await replica.sync()
        replica.close()
        assert LocalReplica(files, "/log", 77, 1, SEGMENT).segments() == [1, 2, 3]

    simulate(main)
