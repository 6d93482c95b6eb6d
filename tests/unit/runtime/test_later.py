"""Answers that are told in the moment they come."""

import asyncio

import pytest

from sofs.errors import SofsError, Unavailable
from sofs.runtime.later import Later, together


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


def test_several_together_are_told_of_once_with_the_first_error() -> None:
    heard: list[SofsError | None] = []
    together([]).then(heard.append)
    assert heard == [None]
    parts: list[Later[None]] = [Later() for _ in range(3)]
    parts[1].tell(None)
    together(parts).then(heard.append)
    wrong = Unavailable("gone")
    parts[2].tell(wrong)
    assert heard == [None], "one is not there yet"
    parts[0].tell(Unavailable("gone as well"))
    assert heard == [None, wrong]


def test_all_who_wait_are_told_in_their_order() -> None:
    heard: list[str] = []
    later: Later[int] = Later()
    later.then(lambda outcome: heard.append("first"))
    later.then(lambda outcome: heard.append("second"))
    later.tell(1)
    assert heard == ["first", "second"]
