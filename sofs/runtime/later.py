"""An answer that is not there yet, for the hot path: whoever waits is called in the moment it comes, where a future tells in the loop's next round."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from sofs.errors import SofsError

T = TypeVar("T")


class Later(Generic[T]):
    """Told once; waited for by `then`, or with `await`."""

    __slots__ = ("_told", "_waiting")

    def __init__(self) -> None:
        self._told: list[T | SofsError] = []
        self._waiting: list[Callable[[T | SofsError], object]] = []

    def tell(self, outcome: T | SofsError) -> None:
        assert not self._told, "it is told once"
        self._told.append(outcome)
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call(outcome)

    def then(self, call: Callable[[T | SofsError], object]) -> None:
        """Calls with what was told, at once if it has been; in the order in which they wait."""
        if self._told:
            call(self._told[0])
        else:
            self._waiting.append(call)

    def __await__(self) -> Generator[Any, None, T]:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.then(partial(_settle, done))
        return done.__await__()


def _settle(done: "asyncio.Future[T]", outcome: T | SofsError) -> None:
    if done.done():
        return  # cancelled
    if isinstance(outcome, SofsError):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)


def together(laters: Sequence[Later[None]]) -> Later[None]:
    """Told once all of them are; with the first error, if there is one."""
    if len(laters) == 1:
        return laters[0]
    done: Later[None] = Later()
    left = len(laters)
    failure: SofsError | None = None

    def told(outcome: SofsError | None) -> None:
        nonlocal left, failure
        left -= 1
        failure = failure or outcome
        if not left:
            done.tell(failure)

    if not laters:
        done.tell(None)
    for later in laters:
        later.then(told)
    return done
