"""Threads that wait for disks on behalf of the event loop.

A job is a plain function that spends its time in C with the interpreter lock released (preadv, fdatasync, an LMDB
commit). Its outcome comes back as a future of the loop that asked. Unlike an executor's, a job once
accepted always runs to its end, whatever happens to the future: its buffers and descriptors are
in use until then, and its owner may count on being told (`finally` within the job).
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Threads:
    """`count` threads that take jobs in order. One thread means that its jobs run in order, too."""

    def __init__(self, name: str, count: int) -> None:
        # With CPython's default of 5 ms a thread that needs the interpreter lock for a moment keeps the loop
        # from it for as long; 0.1 ms bounds that at 0.2 ms, and costs nothing measurable.
        sys.setswitchinterval(0.0001)
        self._name = name
        self._count = count
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, job: Callable[[], T]) -> "asyncio.Future[T]":
        """Runs `job` in a thread; the future carries its value or exception."""
        if len(self._threads) < self._count:
            # Started one by one as jobs come, so that an idle node has few.
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Waits for every accepted job, then ends the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, future = item
            try:
                value, error = job(), None
            except BaseException as raised:
                value, error = None, raised
            loop = future.get_loop()
            try:
                loop.call_soon_threadsafe(_settle, future, value, error)
            except RuntimeError:
                # The loop has been closed: nobody is left to be told.
                assert loop.is_closed()
            # Held on to, these would keep buffers alive until the next job comes.
            del item, job, future, loop, value, error


def _settle(future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if future.done():
        return  # cancelled
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
