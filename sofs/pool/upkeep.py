"""The pool's background duties, each a small service with `run_once`: timers, tests and an operator's "now" all call the same method.

Only `Upkeep`, which runs them, knows time: it decides how often, and so how much of the disks' bandwidth they take.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import structlog

from sofs.errors import DiskRefused, ExtentGone, NotFound, SofsError, Unavailable
from sofs.pool.extent import Fragment
from sofs.pool.local_disk import LocalDisk
from sofs.pool.local_pool import LocalPool
from sofs.pool.states import READABLE, Event, State
from sofs.pool.table import Entry
from sofs.runtime.ports import Clock
from sofs.types import PAGE, DiskId

log = structlog.get_logger("pool")

_STEP = 512  # slots looked up at a time: whole pages of the table


class Probe:
    """Finds out whether suspect disks of this node can be trusted again, and whether the others are still there, or there again."""

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool

    async def run_once(self) -> None:
        members = self._pool.members
        for member in list(members):
            if not members.owns(member.spec):
                continue
            if member.state is State.MISSING:
                try:
                    await members.reopen(member.spec.id)
                except Unavailable as error:
                    # Another process has it, or writes of its former opening are on their way: the next round tries again.
                    members.happened(member, Event.ABSENT, str(error))
            elif member.state in READABLE and isinstance(member.disk, LocalDisk):
                try:
                    if member.state is State.SUSPECT:
                        await member.disk.probe()
                    else:
                        member.disk.look()
                except (NotFound, DiskRefused) as error:
                    members.happened(member, Event.ABSENT, str(error))
                except SofsError as error:
                    members.happened(member, Event.PROBE_FAILED, str(error))
                else:
                    members.happened(member, Event.PROBE_PASSED, "")


class ScrubReport(NamedTuple):
    """What one round of scrubbing did."""

    fragments: int
    bytes: int
    bad: int
    """Fragments that had something wrong."""
    mended: int
    complete: bool
    """Whether this round came to the end of the disks; the next one begins anew."""


class Scrub:
    """Reads every fragment of every disk of this node in turn, and mends what is bad from other copies.

    It works from the slot tables, so that orphans and fragments on disks that returned are read too. It reads past the page cache, which would
    hide rot of what is in use and be filled with what is not.
    """

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool
        # Where the next round goes on: every disk below this id is done, and on it every slot below this one.
        self._disk = DiskId(0)
        self._slot = 0

    async def run_once(self, limit: int = 1 << 60) -> ScrubReport:
        """Goes on from where the last round ended, over at most `limit` bytes (and the rest of one fragment)."""
        report = ScrubReport(0, 0, 0, 0, False)
        for disk in sorted(self._pool.members.own_readable(), key=lambda disk: disk.id):
            if disk.id < self._disk:
                continue
            if disk.id > self._disk:
                self._disk, self._slot = disk.id, 0
            while self._slot < disk.slots:
                start = self._slot // _STEP * _STEP
                for slot, entry in disk.entries(start, start + _STEP):
                    if slot < self._slot:
                        continue
                    if report.bytes >= limit:
                        return report
                    self._slot = slot + 1
                    report = await self._scrub(disk, slot, entry, report)
                self._slot = start + _STEP
        self._disk, self._slot = DiskId(0), 0
        return report._replace(complete=True)

    async def _scrub(self, disk: LocalDisk, slot: int, entry: Entry, report: ScrubReport) -> ScrubReport:
        length = entry.scheme.fragment_length(entry.pages * PAGE)
        report = report._replace(fragments=report.fragments + 1, bytes=report.bytes + length)
        if not await disk.check(slot, entry.id, length):
            return report
        try:
            good = await self._pool.mend(entry.id, Fragment(disk.id, slot))
        except ExtentGone:
            return report
        return report._replace(bad=report.bad + 1, mended=report.mended + good)


HEAR_S = 2.0
"""So often other nodes are asked how their disks are."""


class Upkeep:
    """Runs a pool's duties as long as the node serves."""

    def __init__(
        self, pool: LocalPool, clock: Clock, *, probe_interval_s: float = 10.0, scrub_interval_s: float = 60.0,
        scrub_bytes: int = 64 << 20,
    ) -> None:  # fmt: skip
        """Every `scrub_interval_s` seconds `scrub_bytes` are scrubbed: by default a MiB a second, 90 GB a day."""
        self.scrub = Scrub(pool)
        self.probe = Probe(pool)
        self._pool = pool
        self._clock = clock
        self._every = ((probe_interval_s, self.probe.run_once), (scrub_interval_s, partial(self.scrub.run_once, scrub_bytes)), (HEAR_S, pool.hear))
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins; what earlier deletions left unpunched is given back first."""
        self._tasks = [asyncio.create_task(self._pool.give_back())]
        self._tasks += [asyncio.create_task(self._repeat(interval, duty)) for interval, duty in self._every]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, interval: float, duty: Callable[[], Awaitable[object]]) -> None:
        while True:
            await self._clock.sleep(interval)
            try:
                await duty()
            except SofsError as error:
                log.warning("duty_failed", pool=self._pool.name, reason=str(error))
            except Exception:
                # A bug met on one fragment or disk must not end the care for all others.
                log.exception("duty_failed", pool=self._pool.name)
