"""Coroutines that become tasks only when they wait."""

import asyncio

import pytest

from gateways.eager import begin


async def quick(value: int) -> int:
    return value + 1


async def fails() -> int:
    raise KeyError("now")


def test_what_does_not_wait_is_answered_without_a_task() -> None:
    assert begin(quick(1)) == 2
    with pytest.raises(KeyError):
        begin(fails())


def test_what_waits_goes_on_as_a_task_and_passes_on_errors_and_cancellation() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[object] = []

        async def waits(*futures: "asyncio.Future[int]") -> list[int]:
            got = []
            for future in futures:
                try:
                    got.append(await future)
                except KeyError:
                    got.append(-1)
                await asyncio.sleep(0)
                assert asyncio.current_task() is not None
            return got

        first, second, third = (loop.create_future() for _ in range(3))
        second.set_result(2)
        task = begin(waits(first, second, third))
        assert isinstance(task, asyncio.Task)
        loop.call_later(0.01, first.set_result, 1)
        loop.call_later(0.02, third.set_exception, KeyError())
        assert await task == [1, 2, -1]

        async def cleans(future: "asyncio.Future[int]") -> None:
            try:
                await future
            finally:
                seen.append("clean")

        task2 = begin(cleans(loop.create_future()))
        assert isinstance(task2, asyncio.Task)
        await asyncio.sleep(0)
        task2.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task2
        assert seen == ["clean"]

    asyncio.run(main())


def test_a_task_cancelled_before_its_first_step_still_ends_what_it_was_waiting_for() -> None:
    ended = []

    async def waits() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main() -> None:
        task = begin(waits())
        assert isinstance(task, asyncio.Task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == ["cancelled"]
