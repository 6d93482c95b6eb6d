"""Balancing: extents move from disks that are much fuller than the others, gently.

After a disk or a node was added, new data goes where there is room, and what is there already stays. Where that leaves disks crowded (the pool
says which, and what share of what they hold should go), each volume moves that share of what it has there. What was moved is deleted only later,
so that the pool is asked again after a while and not at once.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing

import structlog

from sofs.errors import NoSpace, SofsError
from sofs.pool import Pool
from sofs.types import DiskId
from sofs.volume.extents import Extents
from sofs.volume.moving import Mover
from sofs.volume.settings import MIB, DataSettings

_AT_ONCE = 16 * MIB
_LISTED = 4096
"""Extents of one disk that are moved in one round, at most."""


class Balancer:
    """Moves one volume's extents off crowded disks."""

    def __init__(self, pool: Pool, extents: Extents, mover: Mover, settings: DataSettings, pause: Callable[[], Awaitable[None]]) -> None:
        self._pool = pool
        self._extents = extents
        self._mover = mover
        self._policy = settings.policy
        self._pause = pause
        self._crowded: Mapping[DiskId, float] = {}
        self._listed: list[int] = []
        self._begun = False
        self.moved = 0
        """Bytes moved."""
        self._logger = structlog.get_logger(component="balance")

    async def run_once(self) -> int:
        """Goes on with a round, or begins one; gives how many extents it has moved, 0 when the round is over."""
        if not self._begun:
            await self._begin()
        count = 0
        end = self.moved + _AT_ONCE
        while self._listed and self.moved < end:
            try:
                moved = await self._mover.move(self._listed.pop(), self._crowded)
            except NoSpace:
                self._listed.clear()
            except SofsError as error:
                self._logger.info("extent not moved", reason=str(error))
            else:
                self.moved += moved
                count += bool(moved)
        if not count and not self._listed:
            self._begun = False
        return count

    async def _begin(self) -> None:
        """Lists what is to go: of each crowded disk its share of what this volume has there."""
        self._crowded = self._pool.crowded(self._policy)
        self._begun = True
        if not self._crowded:
            return
        there: dict[DiskId, list[tuple[int, int]]] = {disk: [] for disk in self._crowded}
        sizes = dict.fromkeys(self._crowded, 0)
        async with aclosing(self._extents.all(self._pause)) as extents:
            async for number, placement, _ in extents:
                for fragment in placement.fragments:
                    if fragment.disk in sizes:
                        sizes[fragment.disk] += placement.length
                        if len(there[fragment.disk]) < _LISTED:
                            there[fragment.disk].append((number, placement.length))
        chosen: dict[int, None] = {}
        for disk, share in self._crowded.items():
            size = sizes[disk] * share
            for number, length in there[disk]:
                if size < length:
                    break
                # Whether it was chosen for another disk or for this one: it leaves both.
                size -= length
                chosen[number] = None
        self._listed = list(chosen)
