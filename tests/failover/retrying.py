"""What the clients have in common: somewhere to go, and patience."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from tests.failover import GIVE_UP_S
from tests.interop.ledger import Files

LOST = (ConnectionError, EOFError, OSError, TimeoutError, asyncio.IncompleteReadError)
"""What a broken connection, or one that is silent, is met as."""


DIARY = 24


class Trouble(Exception):
    """An answer that no client expects: what counts as an error."""


class Forgotten(Trouble):
    """The server knows nothing of an open or a lock of the client's. A loss of power may do that to what was not stable yet; nothing else may."""


class Diary:
    """What a client sent and was answered last, for whoever has to explain an error or a pause: seconds since the change began."""

    def __init__(self) -> None:
        self._lines: deque[list[object]] = deque(maxlen=DIARY)
        self._began = time.monotonic()

    def begin(self) -> None:
        self._lines.clear()
        self._began = time.monotonic()

    def asks(self, what: str) -> None:
        """Something is done now; `told` says what came of it."""
        self._lines.append([time.monotonic() - self._began, what, "no answer"])

    def told(self, outcome: str) -> None:
        if self._lines:
            self._lines[-1][2] = f"{outcome} at {time.monotonic() - self._began:.2f}"

    def __str__(self) -> str:
        return "; ".join(f"{at:.2f} {what}: {outcome}" for at, what, outcome in self._lines)


class Directory(Protocol):
    """A client's directory. Each change is carried out, however often it has to be sent, or raises `Trouble`."""

    diary: Diary
    resent: int
    """Requests that were sent again since they had no answer."""
    cautious: bool
    """A change counts as done only when the server says that no loss of power can undo it."""
    rewritten: int
    """Writes that were written again since the server's verifier had changed before they were stable."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def leave(self) -> None:
        """Closes for good: the server need not wait for this client in a grace."""

    async def create(self, name: str) -> None: ...

    async def write(self, name: str, offset: int, data: bytes) -> None: ...

    async def truncate(self, name: str, size: int) -> None: ...

    async def rename(self, old: str, new: str) -> None: ...

    async def remove(self, name: str) -> None: ...

    async def read_all(self) -> Files: ...

    async def settle(self, names: Iterable[str]) -> None:
        """Makes stable what was done to these files before it was `cautious`."""

    async def hold(self, name: str) -> None:
        """Opens a file of its own and locks it from now on, where the protocol has locks."""

    async def touch(self) -> None:
        """Shows the server that the client is still there, and takes up what is held if the connection was lost."""


class Turns:
    """Addresses in turn, and how long one has tried in vain."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)
        self._next = 0

    @property
    def address(self) -> str:
        return self._addresses[self._next % len(self._addresses)]

    def turn(self) -> None:
        self._next += 1


class Patience:
    """For one request."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._until = time.monotonic() + GIVE_UP_S

    async def wait(self, delay: float, why: object) -> None:
        """Before the next attempt. Raises `Trouble` when there have been enough."""
        if time.monotonic() > self._until:
            raise Trouble(f"{self._what} was not done within {GIVE_UP_S:.0f} s: {why!r}")
        await asyncio.sleep(delay)
