"""An answer that is not there yet, for the hot path: whoever waits is called in the moment it comes, where a future tells in the loop's next round."""

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from sofs.errors import SofsError

__all__ = ["Later"]

T = TypeVar("T")


class Later(Generic[T]):
    """Told once, and waited for once: by `then`, or with `await`."""

    __slots__ = ("_told", "_waiting")

    def __init__(self) -> None:
        self._told: list[T | SofsError] = []
        self._waiting: Callable[[T | SofsError], object] | None = None

    def tell(self, outcome: T | SofsError) -> None:
        assert not self._told, "it is told once"
        self._told.append(outcome)
        if self._waiting is not None:
            self._waiting(outcome)

    def then(self, call: Callable[[T | SofsError], object]) -> None:
        """Calls with what was told, at once if it has been."""
        assert self._waiting is None, "one waits"
        self._waiting = call
        if self._told:
            call(self._told[0])

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
