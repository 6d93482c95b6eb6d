"""Writing an extent anew: the same pages at the same places within it, under a new number, on other disks.

As with compaction, the windows switch in one batch, no map changes, and a step that is cut off leaves an orphan.
"""

from collections.abc import Collection

from sofs.errors import ExtentGone
from sofs.pool import ExtentId, Placement, Policy, Pool
from sofs.types import DiskId
from sofs.volume import keys, mapping, windows
from sofs.volume.batch import Batch, Operation
from sofs.volume.extents import Extents, decode_extent, live
from sofs.volume.keyspace import KeySpace


class Mover:
    """Moves extents of one volume."""

    def __init__(self, keyspace: KeySpace, pool: Pool, extents: Extents, policy: Policy) -> None:
        self._keyspace = keyspace
        self._pool = pool
        self._extents = extents
        self._policy = policy

    def recorded(self, number: int) -> tuple[Placement, tuple[int, ...]] | None:
        """Where an extent lies and which windows may name it; `None` if it has been freed."""
        value = self._keyspace.get(keys.bucket(keys.EXTENT, number))
        return None if value is None else decode_extent(self._extents.volume, number, value)

    async def move(self, number: int, avoid: Collection[DiskId] = ()) -> int:
        """Writes one extent anew, not on the disks to `avoid`; gives the bytes of it, 0 if it was freed meanwhile, or would not lie better then.

        Raises as `Pool.reprotect`.
        """
        found = self.recorded(number)
        if found is None:
            return 0
        old, named = found
        new = await self._extents.take()
        try:
            try:
                placement = await self._pool.reprotect(old, ExtentId(self._extents.volume, new), self._policy, avoid)
            except ExtentGone:
                if self.recorded(number) is None:
                    return 0
                raise
            better = self._better(old, placement, avoid)
            if not better or not self._switch(number, named, placement):
                await self._extents.abandon(placement)
                return 0
            return old.length
        finally:
            self._extents.done(new)

    def _better(self, old: Placement, new: Placement, avoid: Collection[DiskId]) -> bool:
        """Whether the new place is worth the move: it lacks nothing, or less."""
        before, after = self._pool.relied_on(old), self._pool.relied_on(new)
        if after is None:
            return bool(avoid) or before is not None
        return before is not None and after.sure > before.sure

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
                    key, windows.encode_places(place._replace(extent=placement.id.number) if place.extent == number else place for place in places)
                )
        self._extents.record(batch, placement, named, live(count))
        batch.raw(Operation.FREE, mapping.free(number))
        self._keyspace.commit(batch, reserved=True)
        return True
