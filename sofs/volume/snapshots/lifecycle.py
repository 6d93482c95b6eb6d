"""Snapshots of a volume, at its coordinator: taking, listing, deleting and restoring them.

Taking one is one small batch. Deleting marks the snapshot, which nobody sees from then on; the background then deals with all that stands in its
index, slice by slice, and removes it at last. What comes to the index meanwhile is dealt with in a further round. A restoration is under way from
the batch that says so to the one that ends it, also over a restart: in between the volume answers nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import NamedTuple

from sofs.errors import Delayed, Exists, InvalidName, NotFound
from sofs.types import Lsn, Time
from sofs.volume.api import SnapshotInfo
from sofs.volume.batch import Batch
from sofs.volume.extents import Extents
from sofs.volume.keys import BUCKET, DEAD, DEAD_COUNT, MAP_BORN, REBORN, RESTORING, VERSIONED
from sofs.volume.keyspace import KeySpace
from sofs.volume.snapshots import deadlists, operations
from sofs.volume.snapshots.history import DELETING, Snapshot, is_ready
from sofs.volume.snapshots.operations import NEXT_SNAPSHOT, index_bucket
from sofs.volume.snapshots.saving import base_of

SECOND = 10_000_000
"""In units of `Time`."""

_SLICE = 200
"""About two milliseconds."""
_LONGEST = 255
"""Bytes of a name: it is a directory's over NFS."""


class Restoration(NamedTuple):
    """A restoration that is under way."""

    snapshot: Snapshot
    before: int
    """The number of the snapshot of the state before."""


class Snapshots:
    """One volume's snapshots."""

    def __init__(
        self, keyspace: KeySpace, extents: Extents, pause: Callable[[], Awaitable[None]], exhausted: Callable[[], Awaitable[None] | None]
    ) -> None:
        """`exhausted` gives something to wait for when the log cannot even take what gives space back."""
        self._keyspace = keyspace
        self._history = keyspace.overlay.history
        self._extents = extents
        self.pause = pause
        self.slice = _SLICE
        """Records dealt with in one batch."""
        self._exhausted = exhausted
        self.restored: Callable[[], None] = lambda: None
        """Called when all records have been put back, and before that is recorded: perhaps again, after a crash."""
        self.restoring = self.restoration is not None
        """Nothing is answered until it is over."""
        self._deleted: list[int] = [snapshot.number for snapshot in self._history.snapshots if not self._ready(snapshot)]
        """What is still to be removed."""
        self._turn = asyncio.Lock()
        """Of what goes in slices: one thing at a time."""

    # What there is

    def all(self) -> list[Snapshot]:
        """Those that can be seen, oldest first."""
        return [snapshot for snapshot in self._history.snapshots if self._ready(snapshot)]

    def get(self, number: int) -> Snapshot:
        """Raises `NotFound`."""
        if number not in self._history or not self._ready(self._history[number]):
            raise NotFound(f"there is no snapshot {number}")
        return self._history[number]

    def info(self, snapshot: Snapshot) -> SnapshotInfo:
        number = snapshot.number.to_bytes(8)
        pages = deadlists.held(self._keyspace.get(DEAD_COUNT + number + number))
        return SnapshotInfo(snapshot.number, snapshot.name.decode(), snapshot.taken, pages << 12)

    def _ready(self, snapshot: Snapshot) -> bool:
        return is_ready(self._keyspace.get(snapshot.key))

    # Taking

    def add(self, batch: Batch, name: str, inodes: int, now: Time) -> int:
        """Adds the taking of a snapshot to an empty batch; gives its number. Inodes from `inodes` on must not be in use.

        Raises `Exists`, `InvalidName`.
        """
        encoded = _checked(name)
        for snapshot in self._history.snapshots:
            if snapshot.name == encoded and self._ready(snapshot):
                raise Exists(f"there is a snapshot {name!r} already")
        value = self._keyspace.get(NEXT_SNAPSHOT)
        number = 1 if value is None else int.from_bytes(value, "little")
        newest = self._history.newest
        taken = now // SECOND * SECOND
        if newest is not None:
            # The names by which SMB's clients know them are in whole seconds, and each has to be another.
            taken = max(taken, newest.taken + SECOND)
        extents, under_way = self._extents.fence()
        operations.take(batch, number, extents, under_way, inodes, Time(taken), encoded)
        return number

    # Deleting

    def delete(self, number: int) -> Lsn:
        """Nobody sees the snapshot any more; `run_once` does the rest. Raises `NotFound`."""
        snapshot = self.get(number)
        batch = Batch()
        batch.put(snapshot.key, snapshot._replace(state=DELETING).encode())
        lsn = self._keyspace.commit(batch, reserved=True)
        self._deleted.append(number)
        return lsn

    async def run_once(self) -> int:
        """Removes what is being deleted; gives how many."""
        async with self._turn:
            return await self._remove()

    async def _remove(self) -> int:
        removed = 0
        while self._deleted:
            # The oldest first: what it passes on goes to one that stays.
            number = min(self._deleted)
            while await self._sweep(number):
                pass
            if self._only(number) and await self._forget_lives():
                continue
            if next(self._keyspace.scan(index_bucket(number)), None) is not None:
                continue  # something has come to it meanwhile
            batch = Batch()
            operations.finish(batch, number)
            self._keyspace.commit(batch, reserved=True)
            self._deleted.remove(number)
            removed += 1
        return removed

    async def _sweep(self, number: int) -> int:
        """One round over a snapshot's index; gives how many records it dealt with."""
        bucket = index_bucket(number)
        start = bucket
        total = 0
        while True:
            if (waiting := self._exhausted()) is not None:
                await waiting
            places = [key[BUCKET:] for key, _ in islice(self._keyspace.scan(bucket, start), self.slice)]
            if not places:
                return total
            batch = Batch()
            operations.forget(batch, number, places[0], places[-1])
            self._keyspace.commit(batch, reserved=True)
            total += len(places)
            start = bucket + places[-1] + b"\0"
            await self.pause()

    def _only(self, number: int) -> bool:
        return len(self._history.snapshots) == 1 and number in self._history

    async def _forget_lives(self) -> int:
        """Without snapshots nobody asks any more since when a page that was restored lives."""
        records = [key for key, _ in self._keyspace.walk(REBORN)]
        for at in range(0, len(records), self.slice):
            batch = Batch()
            for key in records[at : at + self.slice]:
                batch.delete(key)
            self._keyspace.commit(batch, reserved=True)
            await self.pause()
        return len(records)

    # Restoring

    def begin_restoration(self, number: int, inodes: int, now: Time, told: Batch | None = None) -> Lsn:
        """Takes a snapshot of the present, and says in the same batch that the other one is being restored, and what is `told`. Raises `NotFound`."""
        snapshot = self.get(number)
        batch = Batch()
        before = self.add(batch, self._name_before(snapshot), inodes, now)
        batch.put(RESTORING, number.to_bytes(8, "little") + before.to_bytes(8, "little"))
        if told is not None:
            batch.extend(told)
        lsn = self._keyspace.commit(batch)
        self._bar()
        return lsn

    def _bar(self) -> None:
        """Nothing else is changed meanwhile: also not by a request that began before."""
        self.restoring = True
        self._keyspace.barred = Delayed("the volume is being brought back to a snapshot")

    def _name_before(self, snapshot: Snapshot) -> str:
        names = {other.name for other in self.all()}
        number = 1
        while (name := f"before-restore-{number}").encode() in names:
            number += 1
        return name

    @property
    def restoration(self) -> Restoration | None:
        """What is being restored now."""
        value = self._keyspace.get(RESTORING)
        if value is None:
            return None
        number, before = int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")
        return Restoration(self._history[number], before)

    async def restore(self, now: Time) -> Lsn:
        """Brings the restoration that is under way, if there is one, to its end; gives the position of the last batch."""
        async with self._turn:
            restoration = self.restoration
            return Lsn(self._keyspace.log.end - 1) if restoration is None else await self._restore(*restoration, now)

    async def _restore(self, snapshot: Snapshot, before: int, now: Time) -> Lsn:
        self._bar()
        for number in [snapshot.number, *self._history.younger(snapshot.number)]:
            if number < before:
                await self._restore_all(snapshot, now, lambda start, number=number: self._changed(number, start))  # type: ignore[misc]
        for tag in VERSIONED:
            await self._restore_all(snapshot, now, lambda start, tag=tag: self._younger(snapshot, tag, start))  # type: ignore[misc]
        self._keyspace.barred = None
        self._keyspace.restorations += 1
        self.restored()
        batch = Batch()
        batch.delete(RESTORING)
        lsn = self._keyspace.commit_cleaning(batch)
        self.restoring = False
        return lsn

    async def _restore_all(self, snapshot: Snapshot, now: Time, keys: Callable[[bytes], Iterator[tuple[bytes, bytes]]]) -> None:
        """`keys` gives what is to be restored behind a mark: the mark of each, and its key."""
        mark = b""
        while True:
            if (waiting := self._exhausted()) is not None:
                await waiting
            found = list(islice(keys(mark), self.slice))
            if not found:
                return
            mark = found[-1][0]
            batch = Batch()
            operations.restore(batch, snapshot.number, now, [key for _, key in found])
            self._keyspace.commit_cleaning(batch)
            await self.pause()

    def _changed(self, number: int, mark: bytes) -> Iterator[tuple[bytes, bytes]]:
        """What was saved for a snapshot, by its place."""
        bucket = index_bucket(number)
        for key, _ in self._keyspace.scan(bucket, bucket + mark + b"\0" if mark else b""):
            place = key[BUCKET:]
            if place[:1] != DEAD:
                yield place, base_of(place)

    def _younger(self, snapshot: Snapshot, tag: bytes, mark: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The records of inodes and maps that were not there yet: by nothing but themselves, since they go."""
        for first in (snapshot.inodes, MAP_BORN | snapshot.lsn):
            for key, _ in self._keyspace.walk(tag, max(tag + first.to_bytes(8), mark + b"\0")):
                if not snapshot.lacks(int.from_bytes(key[1:BUCKET])):
                    break  # a map, of the older ones
                yield key, key


def _checked(name: str) -> bytes:
    """The name as it is stored. Raises `InvalidName`."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise InvalidName("a snapshot's name is text") from None
    if not encoded or len(encoded) > _LONGEST or name in (".", "..") or "/" in name or any(ord(letter) < 32 for letter in name):
        raise InvalidName(f"{name!r} cannot be a snapshot's name: 1 to {_LONGEST} bytes without / and control characters")
    return encoded
