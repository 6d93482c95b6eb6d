"""Coroutines that start at once, and become tasks only when they really wait.

Most requests are answered without waiting for anything, and a task for each of them would cost more than the request. So a
handler may be written as a coroutine, and is run like a function until it first waits; only then is the rest of it made a task.
"""

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@coroutine
def _rest(started: Coroutine[Any, Any, T], waiting: Any) -> Generator[Any, Any, T]:
    """Goes on with a coroutine that has handed out `waiting`."""
    while True:
        raised: BaseException | None = None
        value: Any = None
        try:
            value = yield waiting
        except BaseException as error:
            raised = error
        try:
            waiting = started.send(value) if raised is None else started.throw(raised)
        except StopIteration as done:
            result: T = done.value
            return result


async def _as_task(started: Coroutine[Any, Any, T], waiting: Any) -> T:
    return await _rest(started, waiting)


def begin(started: Coroutine[Any, Any, T]) -> "T | asyncio.Task[T]":
    """Runs `started` until it waits. Gives its result, or the task that goes on with it; raises what it raises."""
    try:
        waiting = started.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    return asyncio.get_running_loop().create_task(_as_task(started, waiting))
