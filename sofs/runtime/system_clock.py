"""The host's own clock and random numbers."""

import asyncio
import os
import time
from collections.abc import Callable

from sofs.runtime.ports import Timer
from sofs.types import Time, from_unix_ns

_ROUNDS = 3


class SystemClock:
    """`Clock` on the running event loop. Scheduling works only from within a loop's thread."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        """Whose tick these belong to."""
        self._settling = False
        self._held = 0

    def now(self) -> Time:
        return from_unix_ns(time.time_ns())

    def monotonic(self) -> float:
        return time.monotonic()

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, call)

    def call_soon(self, call: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._soon, self._loop = [], loop
        if not (self._soon or self._settling or self._held):
            loop.call_soon(self.settle)
        self._soon.append(call)

    def hold(self) -> None:
        self._held += 1

    def settle(self) -> None:
        if self._held:
            self._held -= 1
        if self._held or self._settling or not self._soon:
            return
        self._settling = True
        # What these calls put off themselves is done, too, but not for ever.
        for _ in range(_ROUNDS):
            calls, self._soon = self._soon, []
            for call in calls:
                try:
                    call()
                except Exception as error:
                    asyncio.get_running_loop().call_exception_handler({"message": "a call at the end of a tick failed", "exception": error})
            if not self._soon:
                break
        self._settling = False
        if self._soon:
            asyncio.get_running_loop().call_soon(self.settle)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


class SystemRandom:
    """`Random` from the kernel's generator, fit for keys and identifiers."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def number(self, bits: int) -> int:
        return int.from_bytes(os.urandom((bits + 7) // 8), "little") & ((1 << bits) - 1)
