"""The host's own clock and random numbers."""

import asyncio
import os
import time
from collections.abc import Callable

from sofs.runtime.ports import Timer
from sofs.types import Time, from_unix_ns

__all__ = ["SystemClock", "SystemRandom"]


class SystemClock:
    """`Clock` on the running event loop. Scheduling works only from within a loop's thread."""

    def now(self) -> Time:
        return from_unix_ns(time.time_ns())

    def monotonic(self) -> float:
        return time.monotonic()

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, call)

    def call_soon(self, call: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_soon(call)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


class SystemRandom:
    """`Random` from the kernel's generator, fit for keys and identifiers."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def number(self, bits: int) -> int:
        return int.from_bytes(os.urandom((bits + 7) // 8), "little") & ((1 << bits) - 1)
