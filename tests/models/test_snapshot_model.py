"""Snapshots of files as plain byte arrays: the data model's operations with snapshots taken, deleted and restored among them.

After each operation every snapshot reads as the files did when it was taken; the check, which recounts what only snapshots hold, is clean after every
move; and when all snapshots are gone, all space is back.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from sofs.types import PAGE, Inode, Time
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.reader import Reader
from sofs.volume.snapshots.lifecycle import Snapshots
from sofs.volume.snapshots.past_keys import PastKeys
from tests.models.test_data_model import DataModel
from tests.unit.volume.rig import NOW, done

CHOICE = st.integers(0, 1 << 10)


class SnapshotModel(DataModel):
    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[int, tuple[dict[Inode, bytes], dict[Inode, Inode]]] = {}
        """By snapshot's number: contents, and where the files are."""
        self.names = 0

    @property
    def snapshots(self) -> Snapshots:
        return self.rig.data.snapshots

    @property
    def next_inode(self) -> int:
        return self.number + 1

    def remember(self, number: int) -> None:
        self.taken[number] = {inode: bytes(data) for inode, data in self.files.items()}, dict(self.at)

    @rule()
    @precondition(lambda self: len(self.taken) < 6)
    def take(self) -> None:
        self.names += 1

        async def main() -> int:
            batch = Batch()
            number = self.snapshots.add(batch, f"s{self.names}", self.next_inode, NOW)
            self.rig.store.keyspace.commit(batch)
            return number

        self.remember(self.do(main))

    @rule(choice=CHOICE, at_once=st.booleans())
    @precondition(lambda self: self.taken)
    def forget(self, choice: int, at_once: bool) -> None:
        number = sorted(self.taken)[choice % len(self.taken)]
        del self.taken[number]

        async def main() -> None:
            if not at_once:
                self.snapshots.delete(number)
                return
            await self.snapshots.run_once()
            held, before = self.snapshots.info(self.snapshots.get(number)).held, self.kept_pages()
            self.snapshots.delete(number)
            await self.snapshots.run_once()
            assert before - self.kept_pages() == held // PAGE, "what was freed is what the snapshot alone was said to hold"

        self.do(main)

    def kept_pages(self) -> int:
        """Pages in the log and in extents that something holds."""
        keyspace = self.rig.store.keyspace
        extents = (int.from_bytes(value, "little") for key, value in keyspace.walk(keys.EXTENT) if len(key) > keys.BUCKET)
        return self.rig.data.space.counter(keys.LOG_PAGES) + sum(extents)

    @rule()
    def forget_in_background(self) -> None:
        self.do(self.snapshots.run_once)
        self.verify_all()

    @rule(choice=CHOICE)
    @precondition(lambda self: self.taken and len(self.taken) < 6)
    def restore(self, choice: int) -> None:
        number = sorted(self.taken)[choice % len(self.taken)]

        async def main() -> int:
            self.snapshots.begin_restoration(number, self.next_inode, NOW)
            assert self.snapshots.restoration is not None
            before = self.snapshots.restoration.before
            await self.snapshots.restore(Time(NOW + 1))
            return before

        self.remember(self.do(main))
        newest = max(self.taken)
        assert newest not in (number,)
        files, at = self.taken[number]
        self.files = {inode: bytearray(data) for inode, data in files.items()}
        self.restored_at(at)
        self.verify_all()

    def restored_at(self, at: dict[Inode, Inode]) -> None:
        self.at = dict(at)

    def verify(self, inode: Inode) -> None:
        super().verify(inode)
        self.verify_snapshots()

    def verify_snapshots(self) -> None:
        keyspace, data = self.rig.store.keyspace, self.rig.data
        assert [snapshot.number for snapshot in self.snapshots.all()] == sorted(self.taken)
        for number, (files, at) in self.taken.items():
            past = PastKeys(keyspace, self.snapshots.get(number))
            reader = Reader(past, self.rig.store.log, self.rig.pool, data.extents)
            for inode, content in files.items():
                buffer = bytearray(len(content))
                got = self.do(lambda: done(reader.read(at[inode], 0, memoryview(buffer))))  # noqa: B023
                assert got.length == len(content) and buffer == content, f"snapshot {number}, file {inode}"
                if content:
                    behind = self.do(lambda: done(reader.read(at[inode], len(content), memoryview(bytearray(1)))))  # noqa: B023
                    assert behind.length == 0

    def teardown(self) -> None:
        async def main() -> None:
            for number in list(self.taken):
                self.snapshots.delete(number)
            await self.snapshots.run_once()

        self.do(main)
        self.taken.clear()
        keyspace = self.rig.store.keyspace
        for tag in (keys.SNAPSHOT, keys.SAVED_INDEX, keys.DEAD, keys.DEAD_COUNT, keys.REBORN, *(tag.lower() for tag in keys.VERSIONED)):
            assert next(keyspace.walk(tag), None) is None, tag
        super().teardown()


SnapshotModel.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
TestSnapshotModel = SnapshotModel.TestCase
