"""Verifying writers: each changes the files of one directory over one protocol, keeps a ledger, and stands still when it is told to."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.failover.retrying import Directory, Forgotten, Trouble
from tests.interop.ledger import Change, Create, Ledger, Remove, Rename, Truncate, Write

HELD = "held"
"""A file that a writer keeps open and locked all the time, in a directory of its own so that the ledger does not see it."""
TOLD_S = 1.5
"""Of a change that took so long, what its client did is kept."""
REST_S = 0.02
"""Between two changes: a writer is to be caught in the act, not to fill the machine."""


class Taken(NamedTuple):
    """A change that was carried out, or not."""

    began: float
    took: float
    told: str
    """Of a long one, what it was, and what its client sent and was answered."""


@dataclass
class Writer:
    protocol: str
    name: str
    open: Callable[[], Directory]
    ledger: Ledger
    directory: Directory | None = None
    errors: list[str] = field(default_factory=list)
    changes: list[Taken] = field(default_factory=list)
    forgotten: int = 0
    """Changes that were given up since a loss of power had taken what was open for them."""
    idle: bool = False
    under_way: float | None = None
    """Since when a change is."""

    async def run(self, go: asyncio.Event, stop: asyncio.Event) -> None:
        """Changes files whenever `go` is set."""
        assert self.directory is not None
        while not stop.is_set():
            self.idle = True
            await go.wait()
            self.idle = False
            if stop.is_set():
                return
            change = self.ledger.draw()
            if isinstance(change, Rename) and change.old == change.new:
                continue
            await self._carry_out(change)
            await asyncio.sleep(REST_S)

    async def _carry_out(self, change: Change) -> None:
        self.ledger.pending = change
        self.under_way = began = time.monotonic()
        trouble: Trouble | None = None
        self.directory.diary.begin()  # type: ignore[union-attr]
        try:
            await perform(change, self.directory)  # type: ignore[arg-type]
        except Trouble as met:
            trouble = met
        finally:
            took = time.monotonic() - began
            told = f"{self.name} {_brief(change)} at {began:.2f}: {self.directory.diary}" if took >= TOLD_S else ""  # type: ignore[union-attr]
            self.changes.append(Taken(began, took, told))
            self.under_way = None
        if trouble is not None:
            # What has become of it is seen when the directory is compared: it stays pending.
            taken = time.monotonic() - began
            if isinstance(trouble, Forgotten) and self.directory.cautious:  # type: ignore[union-attr]
                self.forgotten += 1
            else:
                self.errors.append(f"{self.protocol} {self.name}: {_brief(change)}, {taken:.1f} s after it began: {trouble}")
            await self._begin_anew()
            return
        self.ledger.files = change.after(self.ledger.files)
        self.ledger.pending = None
        self.ledger.acknowledged += 1

    async def _begin_anew(self) -> None:
        """With another client; and the ledger waits for the comparison, since one change may have happened or not."""
        assert self.directory is not None
        cautious = self.directory.cautious
        await self.directory.leave()
        self.directory = self.open()
        self.directory.cautious = cautious
        await self.directory.open()
        while self.ledger.pending is not None:  # noqa: ASYNC110  # the comparison settles it, some seconds later
            await asyncio.sleep(0.05)

    async def be_cautious(self, cautious: bool) -> None:
        """Between two rounds."""
        assert self.directory is not None
        if cautious and not self.directory.cautious:
            await self.directory.settle(self.ledger.files)
        self.directory.cautious = cautious

    @property
    def resent(self) -> int:
        return self.directory.resent if self.directory is not None else 0

    @property
    def rewritten(self) -> int:
        return self.directory.rewritten if self.directory is not None else 0

    def has_gone_on(self, since: float) -> bool:
        """Whether a change that began after this moment is over, or none begins before the comparison."""
        waits = self.under_way is None and self.ledger.pending is not None
        return waits or any(change.began >= since for change in self.changes[-1:])

    def longest(self, since: float) -> Taken:
        """The longest change that ended after this moment."""
        return max((each for each in self.changes if each.began + each.took >= since), key=lambda each: each.took, default=Taken(since, 0.0, ""))


async def perform(change: Change, at: Directory) -> None:
    match change:
        case Create(name):
            await at.create(name)
        case Write(name, offset, data):
            await at.write(name, offset, data)
        case Truncate(name, size):
            await at.truncate(name, size)
        case Rename(old, new):
            await at.rename(old, new)
        case Remove(name):
            await at.remove(name)


def _brief(change: Change) -> str:
    return f"Write({change.name}, {change.offset}, {len(change.data)} bytes)" if isinstance(change, Write) else repr(change)


def ledger(chance: random.Random) -> Ledger:
    return Ledger(random.Random(chance.getrandbits(64)))
