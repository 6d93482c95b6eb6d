"""Cleaning: the background work that keeps the log short and gives dead space back.

    destage            when the log is fuller than `log_high`, or when nobody writes, down to `log_low`; the rest when nobody has written for long
    trim               the log, below what is both destaged and in a checkpoint
    delete freed       extents whose freeing no recovery can undo
    maps               frozen maps of clones that have lost readers
    compact            extents that are mostly dead
    protect            extents that have lost a copy
    collect orphans    at the start, then every hour

Each is a `run_once` of its own part; `run` calls them as they become due, one after another. Work is done in slices of about a millisecond between which the
loop serves others. A writer who finds the log full waits in `room`, which does the cleaning itself if nobody else is doing it.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from sofs.errors import NoSpace, SofsError
from sofs.log import Log
from sofs.runtime.ports import Clock
from sofs.types import Lsn
from sofs.volume.balance import Balancer
from sofs.volume.compact import Compactor
from sofs.volume.destage import Destager
from sofs.volume.extents import Extents
from sofs.volume.keyspace import KeySpace
from sofs.volume.pages import full
from sofs.volume.protect import Protector
from sofs.volume.settings import DataSettings
from sofs.volume.space import Space
from sofs.volume.thaw import Maps

_SLICE_S = 0.001
_TICK_S = 0.25
_ORPHANS_S = 3600.0
_DOUBTS_S = 60.0
"""Orphans are collected so soon after the last time when the pool has a reason to expect some."""
_COMPACT_S = 30.0
_PROTECT_S = 10.0
_BALANCE_S = 120.0
_STRETCH_S = 5.0
_NEARLY_ALL_LIVE = 0.95
"""When space is short, whatever saves a MiB is worth compacting."""


class Pace:
    """Gives way to others after each millisecond of work, and now and then whatever the clock says."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._calls = 0

    async def __call__(self) -> None:
        self._calls += 1
        if self._calls % 32 and self._clock.monotonic() - self._since < _SLICE_S:
            return
        await self._clock.sleep(0)
        self._since = self._clock.monotonic()


class Cleaner:
    """The service of one volume."""

    def __init__(
        self,
        clock: Clock,
        keyspace: KeySpace,
        log: Log,
        destager: Destager,
        compactor: Compactor,
        protector: Protector,
        balancer: Balancer,
        extents: Extents,
        space: Space,
        settings: DataSettings,
    ) -> None:
        self.maps: Maps | None = None
        """Set when there is one: what it needs to wait for room needs this."""
        self._clock = clock
        self._keyspace = keyspace
        self._log = log
        self._destager = destager
        self._compactor = compactor
        self._protector = protector
        self._balancer = balancer
        self._extents = extents
        self._space = space
        self._settings = settings
        self._turn = asyncio.Lock()
        """One cleaning at a time: two destagings would move the same pages."""
        self._barren = Lsn(0)
        """The log's end when there was no dead space to be given back."""
        self._logger = structlog.get_logger(component="cleaning")

    @property
    def fill(self) -> float:
        """The share of the log's capacity that is in use."""
        return (self._log.end - self._log.start) / self._log.capacity

    async def room(self, size: int) -> None:
        """Waits until the log has been emptied to its high-water mark, and further if a writer of `size` bytes needs that.

        Raises `NoSpace` when the pool cannot take what is in it.
        """
        async with self._turn:
            while full(self._log, size) or self.fill > self._settings.log_high:
                start, destaged = self._log.start, self._destager.destaged
                await self._log.sync()
                await self._destage_once()
                await self._shorten(urgent=True)
                if self._log.start == start and self._destager.destaged == destaged:
                    raise NoSpace("the log is full and nothing in it can be moved: enlarge the log's limit")

    async def reclaim(self, shortage: NoSpace) -> None:
        """Gives some dead space back to the pool; raises `shortage` if there is none to be had."""
        async with self._turn:
            await self._reclaim(shortage)

    async def _reclaim(self, shortage: NoSpace) -> None:
        # A write that is refused appends nothing: nobody has to look again before anything has changed.
        if self._log.end == self._barren:
            raise shortage
        await self._keyspace.checkpoint()
        if await self._extents.delete_freed():
            return
        try:
            compacted = await self._compactor.run_once(_NEARLY_ALL_LIVE)
        except NoSpace:
            compacted = 0
        if not compacted:
            self._barren = self._log.end
            raise shortage
        await self._keyspace.checkpoint()
        await self._extents.delete_freed()

    async def _destage_once(self, keep: float = 0.0) -> int:
        """A step of destaging, for which space is reclaimed if need be. The newest part of the log, `keep` of its capacity, stays."""
        newest = int(keep * self._log.capacity)
        try:
            return await self._destager.run_once(newest)
        except NoSpace as shortage:
            await self._reclaim(shortage)
            return await self._destager.run_once(newest)
        finally:
            # Extents take whole MiB: what was admitted has to be reckoned anew.
            self._space.forget()

    async def _shorten(self, urgent: bool = False) -> None:
        """Trims the log as far as destaging has come, with a checkpoint if one is needed for it."""
        destaged = self._destager.destaged
        if self._keyspace.checkpointed < destaged and (urgent or self.fill > self._settings.log_low):
            await self._keyspace.checkpoint()
        if urgent:
            await self._log.sync()
        self.trim()

    def trim(self) -> None:
        """Gives back the log's segments that nothing needs any more."""
        below = min(self._destager.stable, self._keyspace.checkpointed)
        if below > self._log.start:
            self._log.trim(Lsn(below))

    async def destage(self, fill: float = 0.0) -> None:
        """Destages and trims until the log is no fuller than this, as far as it is stable and what is left is worth a step."""
        async with self._turn:
            while self.fill > fill and self._waiting(fill, self._step(fill)) and await self._destage_once(fill):
                await self._shorten()

    async def settle(self) -> None:
        """Destages all that has been written until now, makes it the checkpoint's, and gives back what became free: what a volume does by itself when
        nothing is written for `log_rest_s`.

        Raises `NoSpace`, `DiskFailed`, `Unavailable`.
        """
        end = self._log.end
        await self._log.sync()
        while self._destager.destaged < end:
            # Writers who wait for room have their turn between two steps.
            async with self._turn:
                if not await self._destage_once():
                    break
        async with self._turn:
            await self._shorten(urgent=True)
        await self.give_back()

    async def compact(self) -> int:
        """Compacts until nothing is worth it, or the log wants to be emptied; gives how many extents were freed."""
        return await self._by_turns(lambda: self._compactor.run_once(self._settings.compact_below))

    async def protect(self) -> int:
        """Writes extents that have lost a copy again, until none is left or the log wants to be emptied; gives how many were dealt with."""
        return await self._gently(self._protector)

    async def balance(self) -> int:
        """Moves extents off crowded disks, as far as that helps; gives how many."""
        return await self._gently(self._balancer)

    async def _gently(self, work: Protector | Balancer, limit: float = float("inf")) -> int:
        """Repeats what writes extents anew, at a bounded rate, for about `limit` seconds."""
        start = self._clock.monotonic()
        begun, total = work.moved, 0
        while True:
            async with self._turn:
                count = await work.run_once()
            total += count
            now = self._clock.monotonic()
            if not count or self.fill > self._settings.log_high or now - start > limit:
                return total
            ahead = (work.moved - begun) / self._settings.moving_rate - (now - start)
            if ahead > 0:
                await self._clock.sleep(ahead)

    async def _by_turns(self, step: Callable[[], Awaitable[int]]) -> int:
        """Repeats what may take hours. Between two steps others have their turn: writers wait for theirs at a full log."""
        total = 0
        while True:
            async with self._turn:
                count = await step()
            total += count
            if not count or self.fill > self._settings.log_high:
                return total

    async def give_back(self) -> int:
        """Deletes freed extents; gives how many. Without a checkpoint since they were freed they stay a while."""
        async with self._turn:
            deleted = 0
            while count := await self._extents.delete_freed():
                deleted += count
            return deleted

    async def collect_orphans(self) -> int:
        async with self._turn:
            return await self._extents.collect_orphans()

    async def run(self) -> None:
        """The service; runs until it is cancelled."""
        orphans = compaction = protection = balancing = self._clock.monotonic() - 2 * _ORPHANS_S
        end = self._log.end
        written = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            try:
                idle = self._log.end - end < self._settings.extent_size // 64
                if not idle:
                    written = now
                if self.fill > self._settings.log_high:
                    await self.destage(self._settings.log_low)
                elif idle and self._waiting(keep := self._kept(now - written), self._settings.extent_size):
                    async with self._turn:
                        await self._destage_once(keep)
                end = self._log.end
                async with self._turn:
                    await self._shorten()
                await self.give_back()
                if self.maps is not None:
                    self._note("maps of clones looked after", await self.maps.run_once())
                if now - orphans >= (_DOUBTS_S if self._extents.doubtful else _ORPHANS_S):
                    orphans = now
                    self._note("orphans collected", await self.collect_orphans())
                if now - compaction >= _COMPACT_S:
                    self._note("extents compacted", await self.compact())
                    if self.fill <= self._settings.log_high:
                        compaction = now  # else it has not been finished, perhaps
                # These may take hours; what is not done in a few seconds is gone on with after everybody else's turn.
                if now - protection >= _PROTECT_S:
                    count = await self._gently(self._protector, _STRETCH_S)
                    self._note("extents re-protected", count)
                    if not count:
                        protection = now
                elif now - balancing >= _BALANCE_S:
                    count = await self._gently(self._balancer, _STRETCH_S)
                    self._note("extents moved off crowded disks", count)
                    if not count:
                        balancing = now
            except SofsError as error:
                self._logger.warning("cleaning failed", reason=str(error), kind=type(error).__name__)
                await self._clock.sleep(1.0)
            await self._clock.sleep(_TICK_S)

    def _kept(self, idle_s: float) -> float:
        """The share of the log that stays in it while nobody writes: it may soon be written again."""
        return self._settings.log_low if idle_s < self._settings.log_rest_s else 0.0

    def _step(self, keep: float) -> int:
        """The bytes of log that are worth a step of destaging beside what is kept: a few pages take as much of the pool as an extent of a MiB."""
        spare = int((self._settings.log_high - keep) * self._log.capacity) // 2
        return min(self._settings.extent_size, spare) if keep else 1

    def _waiting(self, keep: float, least: int) -> bool:
        """Whether there is so much to be destaged beside what is kept."""
        return self._log.stable - self._destager.destaged - int(keep * self._log.capacity) >= least

    def _note(self, event: str, count: int) -> None:
        if count:
            self._logger.info(event, count=count)
