"""Re-protection: extents that have lost a copy, or were written when too few disks were there, are written again.

The pool knows which disks can be relied on; the volume knows its extents. Of those that lack something (a disk failed, was lost with its node, has been
missing for too long, or is being emptied) the ones with the fewest copies left come first. Where the new copies go is the pool's choice, weighted
by free space: so the copies of a lost disk, which lay anywhere, are made from anywhere to anywhere.

All extents are looked through only when something about the pool's disks has changed, and now and then while some are left that could not be helped.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import structlog

from sofs.errors import NoSpace, SofsError
from sofs.pool import Pool
from sofs.runtime.ports import Clock
from sofs.volume.extents import Extents
from sofs.volume.moving import Mover
from sofs.volume.settings import MIB, DataSettings

_AT_ONCE = 16 * MIB
"""Bytes of extents written anew in one step, or a single extent."""
_LISTED = 4096
"""Extents noted in one look through all."""
_AGAIN_S = 600.0
"""After so long those that could not be helped are tried again, whatever has changed."""


class Protector:
    """Keeps one volume's extents as safe as its policy says."""

    def __init__(
        self, clock: Clock, pool: Pool, extents: Extents, mover: Mover, settings: DataSettings, pause: Callable[[], Awaitable[None]]
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._extents = extents
        self._mover = mover
        self._policy = settings.policy
        self._pause = pause
        self._listed: list[tuple[int, int]] = []
        """Copies left and number, the fewest last."""
        self._standing: object = None
        """Of the pool's disks, when all extents were looked through."""
        self._hope = (0, 0)
        """How many copies an extent could get then, and what else may change for those that could not be helped."""
        self._complete = True
        """Whether that found all that lack something."""
        self._looked = 0.0
        self._helpless: set[int] = set()
        """Those that could not be helped since."""
        self.moved = 0
        """Bytes written anew."""
        self._logger = structlog.get_logger(component="protect")

    async def run_once(self) -> int:
        """Deals with some of the extents that need it; gives how many, 0 when no more can be done now."""
        dealt_with = 0
        while not dealt_with and (self._listed or await self._look()):
            dealt_with = await self._step()
        return dealt_with

    async def _step(self) -> int:
        """Works off some of the list."""
        dealt_with = 0
        end = self.moved + _AT_ONCE
        while self._listed and self.moved < end:
            number = self._listed.pop()[1]
            if not self._promising(number):
                continue
            try:
                self.moved += await self._mover.move(number)
            except NoSpace as error:
                self._logger.warning("extents not re-protected", reason=str(error))
                self._helpless.add(number)
                # Nor will there be room for the others.
                self._listed.clear()
                self._complete = True
                return dealt_with
            except SofsError as error:
                self._helpless.add(number)
                self._logger.error("extent not re-protected", extent=number, reason=str(error))
            dealt_with += 1
        return dealt_with

    def _promising(self, number: int) -> bool:
        """Whether an extent still lacks something, and can have more than it has."""
        found = self._mover.recorded(number)
        if found is None:
            return False
        copies = self._pool.relied_on(found[0])
        if copies is None:
            return False
        if not copies.readable or copies.sure >= self._pool.attainable(self._policy):
            self._helpless.add(number)
            return False
        return True

    async def _look(self) -> bool:
        """Lists the extents that lack something; whether there are any that may be helped."""
        standing, now = self._pool.standing, self._clock.monotonic()
        # Those that could not be helped may be now, if there are more disks or one has come back.
        hope = self._pool.attainable(self._policy), self._pool.in_doubt
        same = standing == self._standing and (not self._helpless or hope == self._hope)
        if same and self._complete and (not self._helpless or now - self._looked < _AGAIN_S):
            return False
        if not same or now - self._looked >= _AGAIN_S:
            if self._helpless:
                self._logger.info("extents that lack copies are tried again", count=len(self._helpless))
            self._helpless.clear()
        listed = []
        async with aclosing(self._extents.all(self._pause)) as extents:
            async for number, placement, _ in extents:
                copies = self._pool.relied_on(placement)
                if copies is not None and number not in self._helpless:
                    listed.append((copies.readable, number))
        listed.sort(reverse=True)
        self._complete = len(listed) <= _LISTED
        self._listed = listed[-_LISTED:]
        self._standing, self._hope, self._looked = standing, hope, now
        return bool(self._listed)
