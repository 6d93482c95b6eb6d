"""Who waits for a position to be reached, in order of position."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable

from sofs.types import Lsn

Waiter = tuple[Lsn, int, Callable[[], None]]


class Gates:
    """Those that wait at one level."""

    def __init__(self) -> None:
        self.waiting: deque[Waiter] = deque()
        self._number = 0

    def wait(self, lsn: Lsn, then: Callable[[], None]) -> None:
        waiting = self.waiting
        self._number += 1
        waiter = (lsn, self._number, then)
        if not waiting or waiting[-1][0] <= lsn:
            waiting.append(waiter)
        else:
            insort(waiting, waiter)

    def open(self, reached: Lsn, allowed: Callable[[], bool] | None) -> None:
        """Calls those that wait for less than what is reached, as long as that is allowed: each is asked for, since what it is to send may be new."""
        waiting = self.waiting
        while waiting and waiting[0][0] < reached:
            if allowed is not None and not allowed():
                return
            then = waiting.popleft()[2]
            try:
                then()
            except Exception as error:
                # Those behind it must not suffer.
                asyncio.get_running_loop().call_exception_handler({"message": "a waiter of the log failed", "exception": error})
