"""An asyncio event loop under virtual time.

Instead of waiting for the next timer the loop moves its clock there, so that hours pass in milliseconds. It
has no sockets, threads or signals: whatever runs in it is driven by its own timers alone, and the same seed gives
the same run. Futures and tasks are numbered, and sets of them iterate in an order that depends on the numbers alone. (One thing the loop cannot
pin down is the order of Python sets of strings, or of objects that hash by their address: run with a fixed PYTHONHASHSEED to replay a seed
in another process, and do not iterate over sets of the latter.)

What runs may belong to processes (`simulated_process`), which can be paused and killed one by one. A `Crash` in a process ends that one; outside
of any it ends the run.

When nothing is scheduled and the main task has not finished, the run can never end: that is `Deadlock`.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeVar, cast

from sofs.runtime.ports import Timer
from sofs.runtime.simulated_process import CURRENT, Crash, SimulatedProcess
from sofs.types import Time

T = TypeVar("T")
_START = Time(133_500_000_000_000_000)  # in January 2024
_CANCELLED = 200
"""Cancelled timers that may lie about before they are swept out."""


_ROUNDS = 200_000
"""In one moment: whoever needs more goes round in circles."""


class Deadlock(Exception):
    """Nothing is scheduled, but the main task still waits; or what is scheduled lets no time pass."""


class _Handle(asyncio.TimerHandle):
    """What is to be run, and when: asyncio's own, without what its debugging needs."""

    __slots__ = ()
    _loop: "SimulatedLoop"

    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...], loop: "SimulatedLoop", context: Context | None) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._loop.cancelled += 1
            # It may lie about for long, and would keep alive what these refer to.
            self._callback = self._args = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self._callback!r} at {self._when:.6f}"


class _Future(asyncio.Future[Any]):
    """A future with its process, and a number by which it hashes."""

    number = 0
    process: SimulatedProcess | None = None

    def __hash__(self) -> int:
        if not self.number:
            self.number = next(cast(SimulatedLoop, self.get_loop()).numbers)
        return self.number


class _Task(asyncio.Task[Any]):
    """The same for tasks."""

    # asyncio notes a task, which hashes it, while it is being made.
    number = 0

    def __init__(self, loop: "SimulatedLoop", work: Coroutine[Any, Any, Any], context: Context | None) -> None:
        self.number = next(loop.numbers)
        self.process = CURRENT.get() if context is None else context.get(CURRENT)
        super().__init__(work, loop=loop, context=context)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop. Use `simulate` unless a test has to step over several runs on one clock."""

    _ready: "deque[_Handle]"

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, _Handle]] = []
        self._rounds = 0
        """Since time last moved on."""
        self.cancelled = 0
        """Handles, since timers were last swept out."""
        self.numbers = count(1)
        self.callbacks = 0
        """How many have been run: what two runs of one seed must have in common."""
        self.running: SimulatedProcess | None = None
        """Whose callback is being run."""
        self.failures: list[BaseException] = []
        """Exceptions that nobody handled: raised in callbacks, or left in tasks and futures."""
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        return self._now

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs `main` to its end, and raises what it or any unattended callback raised.

        What is still running afterwards is ended: cancelled as `asyncio.run` does, or, if `main` has failed, thrown away without another step (some
        of it may belong to a process that is paused, and would never end).
        """
        task = self.create_task(main)
        try:
            value = self.run_until_complete(task)
            self._cancel_all()
        except BaseException as error:
            first = next(iter(self.failures), error)
            self._abandon_all()
            if first is not error and not isinstance(error, Crash | Deadlock):
                raise first from error  # whatever followed from it
            raise
        if self.failures:
            raise self.failures[0]
        return value

    def create_future(self) -> "asyncio.Future[Any]":
        future = _Future(loop=self)
        future.process = CURRENT.get()
        return future

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> "asyncio.Task[T]":
        self._check_closed()  # type: ignore[attr-defined]
        task = _Task(self, coro, context)
        if name is not None:
            task.set_name(name)
        if task.process is not None:
            task.process.tasks.add(task)
        return task

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = _Handle(self._now, callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        timer = _Handle(when, callback, args, self, context)
        # Numbered, so that timers of one moment go off in the order in which they were set.
        heapq.heappush(self._timers, (when, next(self.numbers), timer))
        if self.cancelled > max(_CANCELLED, len(self._timers) // 2):
            self._timers = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self.cancelled = 0
        return timer

    def _run_once(self) -> None:
        """One round: what is ready, after the clock has been moved on to the next timer if nothing is."""
        ready, timers = self._ready, self._timers
        self._rounds += 1
        if self._rounds > _ROUNDS:
            raise Deadlock(f"time stands still, while {ready[0] if ready else timers[0][2]} runs over and over")
        if not ready:
            if self._stopping:  # type: ignore[attr-defined]
                return
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise Deadlock("nothing is scheduled")
            if timers[0][0] > self._now:
                self._now = timers[0][0]
                self._rounds = 0
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(CURRENT)
            self.callbacks += 1
            if process is None:
                self._run_handle(handle)
            elif process.running:
                self.running = process
                try:
                    self._run_handle(handle)
                except Crash:
                    process.end()
                finally:
                    self.running = None
            elif not process.ended:
                process.held.append(handle)

    def _run_handle(self, handle: _Handle) -> None:
        try:
            handle._context.run(handle._callback, *handle._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.call_exception_handler({"message": f"exception in {handle}", "exception": error, "handle": handle})

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a simulation has no threads: the code must use its ports")

    def _write_to_self(self) -> None: ...

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        process = getattr(context.get("future") or context.get("task"), "process", None) or self.running
        if isinstance(error, Crash) or (process is not None and process.ended):
            return  # the dead fail no more
        self.failures.append(error or AssertionError(context["message"]))

    def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks(self) if not _is_dead(task)]
        for task in sorted(tasks, key=hash):
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
        self._ready.clear()
        self._timers.clear()


def _is_dead(task: "asyncio.Task[Any]") -> bool:
    process = getattr(task, "process", None)
    return process is not None and process.ended


def simulate(main: Callable[[SimulatedLoop], Coroutine[Any, Any, T]]) -> T:
    """Runs `main(loop)` on a loop of its own and closes that."""
    loop = SimulatedLoop()
    try:
        return loop.run(main(loop))
    finally:
        loop.close()


class SimulatedClock:
    """`Clock` of one simulated host: its own wall time, boot time and drift over the loop's virtual time."""

    def __init__(self, loop: SimulatedLoop, start: Time = _START, drift: float = 0.0, uptime: float = 1000.0) -> None:
        """`drift` 0.01 means that this host's clocks run 1% fast; `uptime` is boot time at virtual time 0."""
        self._loop = loop
        self._start = start
        self._rate = 1.0 + drift
        # As a real timer, one must not go off before this clock says that its time has come, whatever floating-point numbers make of the rate.
        self._late = 1e-9 if drift else 0.0
        self._uptime = uptime

    def now(self) -> Time:
        return Time(self._start + int(self._loop.time() * self._rate * 10_000_000))

    def monotonic(self) -> float:
        return self._uptime + self._loop.time() * self._rate

    def boottime(self) -> float:
        return self.monotonic()

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        return self._loop.call_later(delay / self._rate + self._late, call)

    def call_soon(self, call: Callable[[], object]) -> None:
        self._loop.call_soon(call)

    def hold(self) -> None:
        """The loop is told all the same."""

    def settle(self) -> None:
        """Nothing is hurried: a round of this loop costs no time."""

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay / self._rate + self._late if delay > 0 else 0)

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
