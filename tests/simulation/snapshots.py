"""Crashes under snapshots: the data simulation's writers and cleaning, with snapshots taken, read, deleted and restored beside them.

Checked besides what `tests.simulation.data` checks, after each start:

- A snapshot whose taking was stable is there, one whose deletion was stable is not, and no other is.
- Each reads as it did when it was first read, which was what the model said; whatever was written, moved or deleted since.
- A restoration that had begun is brought to its end, and the files are those of its snapshot.
- The check finds nothing: also in the middle of a deletion.

In the end, with all snapshots gone, every byte of the pool is free again.
"""

import asyncio
from dataclasses import dataclass, field

from sofs.errors import NoSpace, Stale
from sofs.types import Inode, Level, Lsn, Time
from sofs.volume.batch import Batch
from sofs.volume.reader import Reader
from sofs.volume.snapshots.history import Snapshot
from sofs.volume.snapshots.lifecycle import Snapshots
from sofs.volume.snapshots.operations import NEXT_SNAPSHOT
from sofs.volume.snapshots.past_keys import PastKeys
from tests.simulation.data import APPLIED, FILES, Run
from tests.unit.volume.rig import NOW, done

__all__ = ["SnapshotRun", "run_seed"]

Content = dict[Inode, bytes]
MOST = 6


@dataclass
class Known:
    """What the clients know of one snapshot."""

    content: Content | None = None
    """None: it was never read as a whole."""
    taken: bool = False
    """Its taking is stable."""
    given_up: bool = False
    """Its deletion was asked for."""
    gone: bool = False
    """Its deletion is stable."""


@dataclass
class SnapshotRun(Run):
    known: dict[int, Known] = field(default_factory=dict)
    names: int = 0
    opened: bool = False
    restored: tuple[int, int] | None = None
    """The restoration that this life began: the snapshot, and the number that the one before must have got."""

    def __post_init__(self) -> None:
        super().__post_init__()
        open_ = self.rig.open

        async def open_with_small_slices() -> None:
            await open_()
            self.opened = True
            self.snapshots.slice = 2
            self.snapshots.pause = lambda: self.rig.clock.sleep(0.0003)

        self.rig.open = open_with_small_slices  # type: ignore[method-assign]

    @property
    def snapshots(self) -> Snapshots:
        return self.rig.data.snapshots

    async def _live(self, seconds: float = 20.0) -> None:
        self.restored = None
        self.opened = False
        restores = self.random.below(3) == 0
        if restores:
            self.files.crash_at = 1 << 60  # within the restoration
        taking = asyncio.ensure_future(self._take_and_give_up())
        await super()._live(0.002 + self.random.fraction() * 0.04 if restores else seconds)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        if not taking.cancelled() and (error := taking.exception()) is not None:
            raise error
        if restores:
            await self._restore()

    async def _take_and_give_up(self) -> None:
        random = self.random
        await self.rig.clock.sleep(0.001)
        while True:
            await self.rig.clock.sleep(random.fraction() * 0.03)
            if not self.opened:
                continue
            pick, ready = random.below(8), self.snapshots.all()
            try:
                if pick < 4 and len(ready) < MOST:
                    await self._take()
                elif pick < 6 and ready:
                    self._give_up(ready[random.below(len(ready))].number)
                elif pick == 6:
                    await self.snapshots.run_once()
                elif ready:
                    await self._compare(ready[random.below(len(ready))])
            except NoSpace:
                pass  # the log is full just now

    async def _take(self) -> None:
        batch = Batch()
        self.names += 1
        number = self.snapshots.add(batch, f"s{self.names}", FILES[-1] + 1, NOW)
        known = self.known[number] = Known()
        try:
            lsn = self.rig.store.keyspace.commit(batch)
        except NoSpace:
            del self.known[number]
            raise
        modelled = self._model(lsn) if not self.history.uncertain else None

        def stable() -> None:
            known.taken = True

        self.rig.store.log.when(lsn, Level.STABLE, stable)
        if self.random.below(4):
            content = await self._read_past(self.snapshots.get(number))
            assert modelled is None or content == modelled, f"snapshot {number} is not what the files were"
            known.content = content

    def _model(self, lsn: Lsn) -> Content:
        state = {name: bytearray(data) for name, data in self.history.files.items()}
        for at, change in sorted(self.history.appended, key=lambda entry: entry[0]):
            if at < lsn:
                change.model(state)
        return {name: bytes(data) for name, data in state.items()}

    def _give_up(self, number: int) -> None:
        known = self.known[number]
        lsn = self.snapshots.delete(number)
        known.given_up = True

        def stable() -> None:
            known.gone = True

        self.rig.store.log.when(lsn, Level.STABLE, stable)

    async def _compare(self, snapshot: Snapshot) -> None:
        try:
            content = await self._read_past(snapshot)
        except Stale:
            return  # it was given up meanwhile
        known = self.known[snapshot.number]
        if known.content is None:
            known.content = content
        assert content == known.content, f"snapshot {snapshot.number} has changed"

    async def _read_past(self, snapshot: Snapshot) -> Content:
        past = PastKeys(self.rig.store.keyspace, snapshot)
        data = self.rig.data
        reader = Reader(past, self.rig.store.log, self.rig.pool, data.extents)
        data.reader.followers.add(reader)
        content: Content = {}
        for file in FILES:
            record = past.get(b"I" + file.to_bytes(8))
            assert record is not None
            buffer = bytearray(int.from_bytes(record[20:28], "little"))
            got = await done(reader.read(file, 0, memoryview(buffer)))
            assert got.length == len(buffer)
            content[file] = bytes(buffer)
        return content

    async def _restore(self) -> None:
        ready = [snapshot for snapshot in self.snapshots.all() if self.known[snapshot.number].content is not None]
        if not ready:
            return
        number = ready[self.random.below(len(ready))].number
        before = int.from_bytes(self.rig.store.keyspace.get(NEXT_SNAPSHOT) or b"", "little")
        self.known[before] = Known()
        self.restored = number, before
        try:
            self.snapshots.begin_restoration(number, FILES[-1] + 1, NOW)
        except NoSpace:
            self.restored = None
            del self.known[before]
            return
        self.files.crash_at = self.files.steps + 1 + self.random.below(60)
        await self.snapshots.restore(Time(NOW + 1))

    async def _verify(self) -> None:
        await self.rig.open()
        if self.snapshots.restoring:
            await self.snapshots.restore(Time(NOW + 1))
        there = {snapshot.number: snapshot for snapshot in self.snapshots.all()}
        restored = self.restored is not None and self.restored[1] in there
        applied = self.rig.data.space.counter(APPLIED)
        states = self.history.settle(applied)
        if restored:
            assert self.restored is not None
            content = self.known[self.restored[0]].content
            assert content is not None
            states = [{name: bytearray(data) for name, data in content.items()}]
        await self.rig.clean()
        for state in states:
            if await self._matches(state):
                self.history.adopt(state, applied)
                break
        else:
            raise AssertionError(f"the files are not as after any {applied} changes, restored: {restored}")
        self._compare_list(there)
        for snapshot in there.values():
            await self._compare(snapshot)
        await self.rig.data.cleaner.collect_orphans()
        report = await self.rig.clean()
        assert not report.orphans
        await self.rig.close()

    def _compare_list(self, there: dict[int, Snapshot]) -> None:
        for number, known in list(self.known.items()):
            if number in there:
                assert not known.gone, f"snapshot {number} has come back"
                known.taken, known.given_up = True, False
            else:
                assert known.given_up or not known.taken, f"snapshot {number} is lost"
                del self.known[number]
        assert self.known.keys() == there.keys(), "a snapshot that nobody took"

    async def _end(self) -> None:
        await self.rig.open()
        for snapshot in self.snapshots.all():
            self.snapshots.delete(snapshot.number)
        await self.snapshots.run_once()
        await self.rig.clean()
        await self.rig.close()
        await super()._end()


def run_seed(seed: int, lives: int = 5) -> int:
    """Runs one seed; gives how many crashes it had. Raises what went wrong."""
    run = SnapshotRun(seed)
    run.run(lives)
    return run.crashes
