"""Coroutines that start at once, and become tasks only when they really wait.

Most requests are answered without waiting for anything, and a task for each of them would cost more than the request. So a
handler may be written as a coroutine, and is run like a function until it first waits; only then is the rest of it made a task.
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class _Rest(Coroutine[Any, Any, T]):
    """A coroutine that has handed out `waiting` already, as one for a task.

    Not a coroutine function: cancelled before its first step, such a one would never get to tell `started` that it was given up.
    """

    __slots__ = ("_started", "_waiting")

    def __init__(self, started: Coroutine[Any, Any, T], waiting: Any) -> None:
        self._started = started
        self._waiting = waiting

    def send(self, value: Any) -> Any:
        waiting = self._waiting
        if waiting is not None:
            self._waiting = None
            return waiting
        return self._started.send(value)

    def throw(self, *raised: Any) -> Any:
        self._waiting = None
        return self._started.throw(*raised)

    def close(self) -> None:
        self._started.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise AssertionError("a task runs it")


def begin(started: Coroutine[Any, Any, T]) -> "T | asyncio.Task[T]":
    """Runs `started` until it waits. Gives its result, or the task that goes on with it; raises what it raises."""
    try:
        waiting = started.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    return asyncio.get_running_loop().create_task(_Rest(started, waiting))


def is_here(volume: object) -> bool:
    """Whether a volume is served by this node, so that most of what it is asked is answered at once. Only a routed volume knows; any other is."""
    return getattr(volume, "local", volume) is not None
