"""Several processes on one simulated loop, each of which can be stopped and killed by itself.

A process is a context (contextvars): tasks, timers and callbacks belong to the process whose code scheduled them, because asyncio
hands the context on with each. The loop asks before it runs anything whose it is:

- of a paused process nothing runs until it is resumed; what became due meanwhile runs then, in order, as after SIGSTOP and SIGCONT;
- of a process that has ended nothing ever runs again, and its tasks are thrown away where they stand.

What the kernel does for a process, such as having a sync reach the disk, waits with it. What comes to it from others must be scheduled in its
context (`SimulatedProcess.context`): the network and the store's channel do so.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

CURRENT: "ContextVar[SimulatedProcess | None]" = ContextVar("process", default=None)
"""Whose code is running; None for the simulation's own."""


class Crash(SystemExit):
    """The simulated host or process stops at this very moment.

    A `SystemExit`, because that is what asyncio lets out of tasks and callbacks at once instead of storing it.
    """


class SimulatedProcess:
    """One process: what runs on its behalf."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = True
        """Neither paused nor ended."""
        self.ended = False
        self.held: deque[asyncio.Handle] = deque()
        """What became due while it was paused."""
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.on_end: Callable[[], None] | None = None
        """Called once when it has ended, however that came: the simulation's, in no process's context."""
        self.context = Context()
        self.context.run(CURRENT.set, self)

    def start(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Begins `work` as this process's."""
        return loop.create_task(work, context=self.context.copy())

    def pause(self) -> None:
        if not self.ended:
            self.running = False

    def resume(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.ended or self.running:
            return
        self.running = True
        while self.held:
            loop._ready.append(self.held.popleft())  # type: ignore[attr-defined]

    def end(self) -> None:
        """Kills it. Not to be called from its own code: that raises `Crash`."""
        if self.ended:
            return
        assert CURRENT.get() is not self, "a process that ends itself raises Crash"
        self.running, self.ended = False, True
        self.held.clear()
        for task in sorted(self.tasks, key=hash):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            try:
                self.context.run(task.get_coro().close)
            except BaseException:
                # Its `finally` blocks may try to wait or to write; neither has any effect any more.
                pass
        self.tasks.clear()
        if self.on_end is not None:
            self.on_end()


def context_of(process: SimulatedProcess | None) -> Context:
    """A context in which what is scheduled belongs to `process` (None: to the simulation)."""
    return Context() if process is None else process.context.copy()
