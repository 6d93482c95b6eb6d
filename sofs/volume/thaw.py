"""Frozen maps that have lost readers: without any they are trimmed, by the last one they are taken over.

A frozen map keeps pages that none of its files shows any more, once each has changed them. That is the price of a clone that takes no time; with the last but
one reader it ends, since what only one file reads becomes its own and the rest is dropped. Each step is a batch that leaves everything as it was to readers, so
whoever is cut off goes on later: the records under `keys.IDLE` say which maps are to be looked after.
"""

from collections.abc import Awaitable, Callable

from sofs.errors import Delayed
from sofs.types import Inode
from sofs.volume import origins
from sofs.volume.batch import Batch, Operation
from sofs.volume.keys import BUCKET, FROZEN, IDLE, INODE, LEAF, RESTORING
from sofs.volume.keyspace import KeySpace
from sofs.volume.maps import NO_LIMIT, NOTHING, Frozen, Way, decode_frozen, frozen_key, idle_key, visible, way

_LEAVES = 64
"""Leaves that one batch may change: some five milliseconds."""


class Maps:
    """Looks after one volume's frozen maps."""

    def __init__(self, keyspace: KeySpace, exhausted: Callable[[], Awaitable[None] | None], pause: Callable[[], Awaitable[None]]) -> None:
        self._keyspace = keyspace
        self._get = keyspace.get
        self._exhausted = exhausted
        self._pause = pause

    async def run_once(self) -> int:
        """Does what there is to do; gives how many maps were dealt with. Raises `NoSpace` when the log is full to the end."""
        maps = [key[BUCKET:] for key, _ in self._keyspace.scan(IDLE)]
        for map_ in maps:
            await self._look_after(map_)
        return len(maps)

    def _frozen(self, map_: bytes) -> Frozen | None:
        """The map's record; None if it has been dealt with, and while a snapshot is being restored: what its records say then belongs to two times."""
        value = self._get(frozen_key(map_))
        return None if value is None or self._get(RESTORING) is not None else decode_frozen(value)

    async def _look_after(self, map_: bytes) -> None:
        frozen = self._frozen(map_)
        if frozen is None:
            return
        if frozen.readers == 0:
            await self._trim(map_)
        elif frozen.readers == 1:
            await self._take_over(map_)
        else:
            batch = Batch()
            batch.delete(idle_key(map_))
            self._keyspace.commit(batch, reserved=True)

    async def _trim(self, map_: bytes) -> None:
        low = 0
        while low < NO_LIMIT:
            await self._room()
            frozen = self._frozen(map_)
            if frozen is None or frozen.readers:
                return  # dealt with, or brought back by the restoration of a snapshot
            bucket = LEAF + map_
            high = NO_LIMIT
            for count, (key, _) in enumerate(self._keyspace.scan(bucket, bucket + low.to_bytes(8))):
                if count == _LEAVES:
                    high = int.from_bytes(key[BUCKET:])
                    break
            self._commit(Operation.TRIM, origins.trim(map_, low, high))
            low = high
            await self._pause()

    async def _take_over(self, map_: bytes) -> None:
        await self._room()
        if not self._is_single(map_):
            return
        bucket = FROZEN + map_
        reader, inode = next((key[BUCKET:], value) for key, value in self._keyspace.scan(bucket) if len(key) > BUCKET)
        if inode == NOTHING:
            await self._flatten(Inode(0), reader)
            return
        number = Inode(int.from_bytes(inode))
        where = self._way(number)
        if where.limit == NO_LIMIT and next(self._keyspace.scan(LEAF + reader), None) is None:
            self._commit(Operation.THAW, origins.thaw(number))
            return
        await self._flatten(number, reader)

    def _is_single(self, map_: bytes) -> bool:
        frozen = self._frozen(map_)
        return frozen is not None and frozen.readers == 1

    def _way(self, inode: Inode) -> Way:
        value = self._get(INODE + inode.to_bytes(8))
        return Way(NOTHING) if value is None else way(inode.to_bytes(8), value)

    async def flatten(self, inode: Inode) -> None:
        """Makes all leaves that the file sees its own, as far as it does not change meanwhile."""
        await self._flatten(inode, self._way(inode).map)

    async def _flatten(self, inode: Inode, map_: bytes) -> None:
        """The same of a frozen map, where `inode` is 0."""
        low = 0
        while True:
            await self._room()
            where = self._way(inode) if inode else self._frozen_way(map_)
            if self._get(RESTORING) is not None:
                raise Delayed("the volume is being brought back to a snapshot")
            if where.map != map_ or where.origin == NOTHING:
                return
            high, found = NO_LIMIT, 0
            for index, _, own in visible(self._keyspace, where, low, min(where.limit, NO_LIMIT)):
                found += not own
                if found > _LEAVES:
                    high = index
                    break
            if found:
                self._commit(Operation.FLATTEN, origins.flatten(inode, map_, low, high))
            if high == NO_LIMIT:
                return
            low = high
            await self._pause()

    def _frozen_way(self, map_: bytes) -> Way:
        value = self._get(frozen_key(map_))
        if value is None:
            return Way(NOTHING)
        frozen = decode_frozen(value)
        return Way(map_, frozen.origin, frozen.limit)

    def _commit(self, code: Operation, body: bytes) -> None:
        batch = Batch()
        batch.raw(code, body)
        self._keyspace.commit(batch, reserved=True)

    async def _room(self) -> None:
        """Waits if the log cannot even take what gives space back."""
        if (full := self._exhausted()) is not None:
            await full
