"""The load: workers that each have one request in flight, over a few connections, in one thread.

A worker is a generator: it yields a request and is resumed with the reply. An operation, the thing that is counted and timed,
ends when the worker yields `DONE`.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol

__all__ = ["DONE", "Channel", "Figures", "Worker", "drive"]


class Done:
    """The end of one operation."""


DONE = Done()
Worker = Generator[Any, Any, None]
"""Yields requests (whatever the channel takes) and `DONE`; is sent replies, and None for `DONE`."""


class Channel(Protocol):
    """One connection's client side."""

    sock: socket.socket

    def encode(self, request: Any) -> tuple[int, Sequence[bytes | bytearray | memoryview]]:
        """The request's number and bytes."""

    def receive(self) -> list[tuple[int, Any]]:
        """Reads once from the socket; the numbers and contents of the replies that are complete."""


class Figures(NamedTuple):
    """What the client saw."""

    operations: int
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        return self.operations / self.seconds


class _Load:
    def __init__(self, channels: Sequence[Channel], end: float) -> None:
        self.end = end
        self.waiting: list[dict[int, Worker]] = [{} for _ in channels]
        self.began: dict[int, float] = {}
        self.times: list[float] = []
        self.outgoing: list[list[bytes | bytearray | memoryview]] = [[] for _ in channels]
        self.channels = channels

    def resume(self, index: int, worker: Worker, reply: Any) -> None:
        """Lets the worker go on to its next request, which is queued, or to its end."""
        try:
            request = worker.send(reply)
            while request is DONE:
                now = time.perf_counter()
                self.times.append(now - self.began[id(worker)])
                if now >= self.end:
                    return
                self.began[id(worker)] = now
                request = worker.send(None)
        except StopIteration:
            return
        number, buffers = self.channels[index].encode(request)
        self.waiting[index][number] = worker
        self.outgoing[index].extend(buffers)

    def flush(self, index: int) -> None:
        buffers = self.outgoing[index]
        if not buffers:
            return
        sock = self.channels[index].sock
        sent = sock.sendmsg(buffers)
        total = sum(len(buffer) for buffer in buffers)
        if sent < total:  # the kernel took a part: blocking for the rest keeps the order
            whole = memoryview(b"".join(buffers))
            sock.sendall(whole[sent:])
        buffers.clear()


def drive(channels: Sequence[Channel], workers: Sequence[tuple[int, Worker]], seconds: float) -> Figures:
    """Runs workers, each on the channel of its index, until they end or `seconds` are over; waits for the last replies."""
    load = _Load(channels, time.perf_counter() + seconds)
    selector = selectors.DefaultSelector()
    for index, channel in enumerate(channels):
        selector.register(channel.sock, selectors.EVENT_READ, index)
    start = time.perf_counter()
    for index, worker in workers:
        load.began[id(worker)] = time.perf_counter()
        load.resume(index, worker, None)
    for index in range(len(channels)):
        load.flush(index)
    while any(load.waiting):
        ready = selector.select(30)
        if not ready:
            raise TimeoutError("no reply for 30 s")
        for key, _ in ready:
            index = key.data
            waiting = load.waiting[index]
            for number, reply in channels[index].receive():
                load.resume(index, waiting.pop(number), reply)
            load.flush(index)
    elapsed = time.perf_counter() - start
    selector.close()
    for _, worker in workers:
        worker.close()
    return _figures(load.times, elapsed)


def _figures(times: list[float], elapsed: float) -> Figures:
    times.sort()
    if not times:
        raise RuntimeError("not one operation was completed")
    return Figures(len(times), elapsed, times[len(times) // 2] * 1e6, times[min(len(times) - 1, len(times) * 99 // 100)] * 1e6)
