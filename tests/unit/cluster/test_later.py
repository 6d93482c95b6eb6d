"""Answers that are told in the moment they come."""

import asyncio

import pytest

from sofs.cluster.later import Later
from sofs.errors import SofsError, Unavailable


def test_whoever_waits_is_called_in_the_same_moment_whichever_comes_first() -> None:
    heard: list[int | SofsError] = []
    early: Later[int] = Later()
    early.then(heard.append)
    assert not heard
    early.tell(1)
    assert heard == [1]

    late: Later[int] = Later()
    late.tell(2)
    late.then(heard.append)
    assert heard == [1, 2]


def test_it_can_be_awaited_and_an_error_is_raised() -> None:
    async def main() -> None:
        answer: Later[int] = Later()
        asyncio.get_running_loop().call_soon(answer.tell, 3)
        assert await answer == 3
        failed: Later[int] = Later()
        failed.tell(Unavailable("gone"))
        with pytest.raises(Unavailable):
            await failed

    asyncio.run(main())


def test_who_has_given_up_waiting_is_told_nothing() -> None:
    async def main() -> None:
        answer: Later[int] = Later()

        async def wait() -> int:
            return await answer

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        answer.tell(4)

    asyncio.run(main())
