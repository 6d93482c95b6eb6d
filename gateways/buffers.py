"""The memory that messages are received into and answered from: buffers that are used again, and how much large messages may take together."""

import asyncio
import sys
from typing import Protocol

CHUNK = 64 << 10
"""Bytes asked for in one read, unless a larger message is under way."""
SLACK = 4096
"""What buffers have beyond a power of two, so that 1 MiB of payload with its header fits the 1 MiB class."""
POOLED = 96 << 20
"""Bytes of buffers kept for use again, over all connections."""
PATIENCE_S = 30.0
"""What a large message may take to arrive when others wait for its room."""


class Receiver(Protocol):
    """A connection that is receiving a large message."""

    @property
    def held_up(self) -> bool:
        """It was asked not to read: what is missing of a message is not the peer's fault."""

    def proceed(self, need: int) -> None:
        """There is room for the message of `need` bytes that waited."""

    def end(self, reason: str, level: str) -> None:
        """Disconnects the peer."""


class Buffers:
    """Large buffers, used again once nobody holds a view of them (fresh ones cost a page fault per 4 KiB)."""

    def __init__(self) -> None:
        self._pooled = 0
        self._classes: dict[int, list[bytearray]] = {}

    def take(self, size: int) -> bytearray:
        """A buffer of at least `size` bytes with arbitrary content."""
        capacity = (1 << max(size - SLACK - 1, CHUNK - 1).bit_length()) + SLACK
        known = self._classes.setdefault(capacity, [])
        for buffer in known:
            if sys.getrefcount(buffer) == 3:  # the list's, the loop variable's and the argument's
                return buffer
        buffer = bytearray(capacity)
        if self._pooled + capacity <= POOLED:
            self._pooled += capacity
            known.append(buffer)
        return buffer


class Budget:
    """Room for the large messages that are being received; first come, first served.

    Who holds room and does not use it in `PATIENCE_S` while others wait is disconnected: strangers must not stop everybody.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self.taken = 0
        """Bytes of the messages that are being received now."""
        self._holding: dict[Receiver, tuple[int, float]] = {}
        self._waiting: dict[Receiver, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, connection: Receiver, size: int) -> bool:
        """Whether there is room now; if not, `connection.proceed` is called when there is."""
        if self._waiting or not self._fits(size):
            self._waiting[connection] = size
            self._watch()
            return False
        self._hold(connection, size)
        return True

    def give(self, connection: Receiver) -> None:
        """The connection's message has arrived, or is no longer wanted."""
        self._waiting.pop(connection, None)
        self.taken -= self._holding.pop(connection, (0, 0.0))[0]
        while self._waiting:
            first = next(iter(self._waiting))
            if not self._fits(self._waiting[first]):
                break
            size = self._waiting.pop(first)
            self._hold(first, size)
            self._loop.call_soon(first.proceed, size)

    def _fits(self, size: int) -> bool:
        return self.taken + size <= self._limit or not self.taken

    def _hold(self, connection: Receiver, size: int) -> None:
        assert connection not in self._holding, "one message at a time"
        self.taken += size
        self._holding[connection] = (size, self._loop.time())

    def _watch(self) -> None:
        if self._timer is None and self._holding:
            oldest = next(iter(self._holding.values()))[1]
            self._timer = self._loop.call_at(oldest + PATIENCE_S, self._clear)

    def _clear(self) -> None:
        self._timer = None
        if self._waiting:
            since = self._loop.time() - PATIENCE_S
            for connection, (size, start) in tuple(self._holding.items()):
                if start > since:
                    break
                if connection.held_up:
                    del self._holding[connection]
                    self._holding[connection] = (size, self._loop.time())
                else:
                    connection.end(f"a large message took over {PATIENCE_S:.0f} s to arrive, and others waited", "warning")
            if self._waiting:
                self._watch()
