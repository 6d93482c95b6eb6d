"""An asyncio event loop under virtual time.

Instead of waiting for the next timer the loop moves its clock there, so that hours pass in milliseconds. It
has no sockets, threads or signals: whatever runs in it is driven by its own timers alone, and the same seed gives
the same run. (One thing the loop cannot pin down is the order of Python sets of strings: run with a fixed
PYTHONHASHSEED to replay a seed in another process, or do not iterate over such sets.)

When nothing is scheduled and the main task has not finished, the run can never end: that is `Deadlock`.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sofs.runtime.ports import Timer
from sofs.types import Time

__all__ = ["Crash", "Deadlock", "SimulatedClock", "SimulatedLoop", "SimulatedRandom", "simulate"]

T = TypeVar("T")
_START = Time(133_500_000_000_000_000)  # in January 2024


class Deadlock(Exception):
    """Nothing is scheduled, but the main task still waits."""


class Crash(SystemExit):
    """The simulated host or process stops at this very moment.

    A `SystemExit`, because that is what asyncio lets out of tasks and callbacks at once instead of storing it.
    """


class _Selector:
    """Where a real loop would sleep until a socket or a timer is ready."""

    def __init__(self, loop: "SimulatedLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is scheduled")
        if timeout > 0:
            self._loop.advance_to_next_timer()
        return []

    def close(self) -> None: ...


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop. Use `simulate` unless a test has to step over several runs on one clock."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = _Selector(self)
        self.failures: list[BaseException] = []
        """Exceptions that nobody handled: raised in callbacks, or left in tasks and futures."""
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        return self._now

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs `main` to its end, and raises what it or any unattended callback raised.

        What is still running afterwards is ended: cancelled as `asyncio.run` does, or, after a `Crash` or a
        `Deadlock`, thrown away without another step.
        """
        task = self.create_task(main)
        try:
            value = self.run_until_complete(task)
            self._cancel_all()
        except (Crash, Deadlock):
            self._abandon_all()
            raise
        except BaseException:
            self._cancel_all()
            raise
        if self.failures:
            raise self.failures[0]
        return value

    def advance_to_next_timer(self) -> None:
        self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a simulation has no threads: the code must use its ports")

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None: ...

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or AssertionError(context["message"]))

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())

    def _abandon_all(self) -> None:
        """Drops every task where it stands, as the end of a process does."""
        self.set_exception_handler(lambda loop, context: None)
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            try:
                task.get_coro().close()
            except BaseException:
                # Its `finally` blocks may try to wait or to write; neither has any effect any more.
                pass
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]


def simulate(main: Callable[[SimulatedLoop], Coroutine[Any, Any, T]]) -> T:
    """Runs `main(loop)` on a loop of its own and closes that."""
    loop = SimulatedLoop()
    try:
        return loop.run(main(loop))
    finally:
        loop.close()


class SimulatedClock:
    """`Clock` of one simulated host: its own wall time, boot time and drift over the loop's virtual time."""

    def __init__(
        self, loop: SimulatedLoop, start: Time = _START, drift: float = 0.0, uptime: float = 1000.0
    ) -> None:
        """`drift` 0.01 means that this host's clocks run 1% fast; `uptime` is boot time at virtual time 0."""
        self._loop = loop
        self._start = start
        self._rate = 1.0 + drift
        self._uptime = uptime

    def now(self) -> Time:
        return Time(self._start + int(self._loop.time() * self._rate * 10_000_000))

    def monotonic(self) -> float:
        return self._uptime + self._loop.time() * self._rate

    def boottime(self) -> float:
        return self.monotonic()

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        return self._loop.call_later(delay / self._rate, call)

    def call_soon(self, call: Callable[[], object]) -> None:
        self._loop.call_soon(call)

    def settle(self) -> None:
        """Nothing is hurried: a round of this loop costs no time."""

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay / self._rate)

    def jump(self, seconds: float) -> None:
        """Sets the wall clock forward or back."""
        self._start = Time(self._start + int(seconds * 10_000_000))


class SimulatedRandom:
    """`Random` from a seed, with what tests need besides."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def number(self, bits: int) -> int:
        return self._random.getrandbits(bits)

    def below(self, bound: int) -> int:
        """A uniform integer from 0 up to, not including, `bound`."""
        return self._random.randrange(bound)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def fraction(self) -> float:
        """A uniform number from 0 up to, not including, 1."""
        return self._random.random()
