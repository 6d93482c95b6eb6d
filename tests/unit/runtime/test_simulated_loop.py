"""Virtual time, and how a simulated run ends."""

import asyncio
import time

import pytest

from sofs.runtime.simulated_loop import Deadlock, SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_process import Crash
from sofs.types import Time


def test_a_day_passes_in_no_time() -> None:
    started = time.monotonic()

    async def main(loop: SimulatedLoop) -> float:
        clock = SimulatedClock(loop)
        before = clock.monotonic()
        for _ in range(24):
            await clock.sleep(3600)
        return clock.monotonic() - before

    assert simulate(main) == 24 * 3600
    assert time.monotonic() - started < 60


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[tuple[float, int]]:
        async def main(loop: SimulatedLoop) -> list[tuple[float, int]]:
            random, seen = SimulatedRandom(seed), []

            async def worker(number: int) -> None:
                for _ in range(20):
                    await asyncio.sleep(random.fraction())
                    seen.append((loop.time(), number))

            await asyncio.gather(*(worker(number) for number in range(5)))
            return seen

        return simulate(main)

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_waiting_for_what_never_comes_is_a_deadlock() -> None:
    async def main(loop: SimulatedLoop) -> None:
        await loop.create_future()

    with pytest.raises(Deadlock):
        simulate(main)


def test_a_crash_stops_everything_at_once_even_from_a_callback() -> None:
    steps: list[str] = []

    async def main(loop: SimulatedLoop) -> None:
        async def other() -> None:
            try:
                await asyncio.sleep(2)
                steps.append("other went on")
            finally:
                await asyncio.sleep(1)
                steps.append("other cleaned up")

        task = asyncio.create_task(other())

        def crash() -> None:
            raise Crash("now")

        loop.call_later(1, crash)
        await task

    with pytest.raises(Crash):
        simulate(main)
    assert steps == []


def test_a_crash_in_a_task_is_not_kept_in_the_task() -> None:
    async def main(loop: SimulatedLoop) -> None:
        async def crash() -> None:
            raise Crash("now")

        task = asyncio.create_task(crash())
        await asyncio.sleep(10)
        assert task.done()

    with pytest.raises(Crash):
        simulate(main)


def test_an_exception_nobody_handles_fails_the_run() -> None:
    async def main(loop: SimulatedLoop) -> None:
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    with pytest.raises(ZeroDivisionError):
        simulate(main)


def test_tasks_left_behind_are_cancelled() -> None:
    ended: list[str] = []

    async def main(loop: SimulatedLoop) -> None:
        async def forever() -> None:
            try:
                await asyncio.sleep(1e9)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        task = asyncio.create_task(forever())
        await asyncio.sleep(1)
        assert not task.done()

    simulate(main)
    assert ended == ["cancelled"]


def test_threads_are_refused() -> None:
    async def main(loop: SimulatedLoop) -> None:
        await asyncio.to_thread(time.time)

    with pytest.raises(AssertionError, match="no threads"):
        simulate(main)


def test_a_drifting_clock_runs_ahead_of_the_others_and_wall_time_jumps() -> None:
    async def main(loop: SimulatedLoop) -> None:
        true, fast = SimulatedClock(loop), SimulatedClock(loop, drift=0.01)
        start, fast_start, wall = true.boottime(), fast.boottime(), true.now()
        await true.sleep(100)
        assert true.boottime() - start == pytest.approx(100)
        assert fast.boottime() - fast_start == pytest.approx(101)
        await fast.sleep(101)
        assert true.boottime() - start == pytest.approx(200)
        assert true.now() - wall == pytest.approx(200 * 10_000_000, abs=10)
        true.jump(-300)
        assert true.now() < wall
        assert isinstance(true.now(), type(Time(0)))

    simulate(main)
