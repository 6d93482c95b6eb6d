"""Re-protection: extents that have lost a copy, or were written when too few disks were there, are written again.

The pool knows which disks can be trusted; the volume knows its extents. An extent whose placement is no longer healthy (a disk failed, is missing
or being emptied) gets a new one under a new number, with the same pages at the same places within it. As with compaction, the windows
switch in one batch, no map changes, and a step that is cut off leaves an orphan.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import structlog

from sofs.errors import NoSpace, SofsError
from sofs.pool import ExtentId, Placement, Pool
from sofs.volume import keys, mapping, windows
from sofs.volume.batch import Batch, Operation
from sofs.volume.extents import Extents, live
from sofs.volume.keyspace import KeySpace
from sofs.volume.settings import DataSettings

__all__ = ["Protector"]

_AT_ONCE = 8
"""Extents in one step."""


class Protector:
    """Keeps one volume's extents as safe as its policy says."""

    def __init__(
        self,
        keyspace: KeySpace,
        pool: Pool,
        extents: Extents,
        settings: DataSettings,
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        self._keyspace = keyspace
        self._pool = pool
        self._extents = extents
        self._settings = settings
        self._pause = pause
        self._left_out: set[int] = set()
        self._logger = structlog.get_logger(component="protect")

    async def run_once(self) -> int:
        """Deals with some of the extents that need it; gives how many, 0 when no more can be done now.

        One that cannot be read is left out until all others have had their turn.
        """
        weak = await self._weak()
        if not weak:
            self._left_out.clear()
        for dealt_with, (number, placement, named) in enumerate(weak):
            try:
                await self._renew(number, placement, named)
            except NoSpace as error:
                self._logger.warning("extents not re-protected", reason=str(error))
                return dealt_with
        return len(weak)

    async def _weak(self) -> list[tuple[int, Placement, tuple[int, ...]]]:
        weak = []
        async with aclosing(self._extents.all(self._pause)) as extents:
            async for number, placement, named in extents:
                if number not in self._left_out and not self._pool.healthy(placement):
                    weak.append((number, placement, named))
                    if len(weak) == _AT_ONCE:
                        break
        return weak

    async def _renew(self, number: int, old: Placement, named: tuple[int, ...]) -> None:
        """Writes one extent anew. Raises `NoSpace` when the disks that are there do not allow it."""
        new = await self._extents.take()
        try:
            id = ExtentId(self._extents.volume, new)
            try:
                placement = await self._pool.reprotect(old, id, self._settings.policy)
            except NoSpace:
                raise
            except SofsError as error:
                if self._keyspace.get(keys.bucket(keys.EXTENT, number)) is not None:  # else it was freed meanwhile
                    self._left_out.add(number)
                    self._logger.error("extent not re-protected", extent=number, reason=str(error))
                return
            helps = self._pool.healthy(placement)
            if not helps or not self._switch(number, named, placement):
                await self._extents.abandon(placement)
            if not helps:
                raise NoSpace("too few disks can be written for the volume's policy; add one, or bring one back")
        finally:
            self._extents.done(new)

    def _switch(self, number: int, named: tuple[int, ...], placement: Placement) -> bool:
        """Makes the windows name the new extent; False if the old one has been freed meanwhile."""
        count = self._keyspace.get(keys.live_pages(number))
        if count is None:
            return False
        batch = Batch()
        for window in named:
            key = keys.bucket(keys.PLACES, window)
            value = self._keyspace.get(key)
            if value is None:
                continue
            places = windows.places(value)
            if any(place.extent == number for place in places):
                batch.put(
                    key,
                    windows.encode_places(
                        place._replace(extent=placement.id.number) if place.extent == number else place
                        for place in places
                    ),
                )
        self._extents.record(batch, placement, named, live(count))
        batch.raw(Operation.FREE, mapping.free(number))
        self._keyspace.commit(batch, reserved=True)
        return True
