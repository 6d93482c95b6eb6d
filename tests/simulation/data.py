"""Crashes under a volume's data: writers, destaging, compaction, checkpoints and deletion at once, until an I/O step that never returns.

Fault model: that of `SimulatedFiles`; each life of the host ends in power loss or in the death of the process, at a random step. Checked after each start:

- What is there is the state after the first P batches, in the order of the log, whole; P counts at least all that were acknowledged as stable.
- The check finds nothing, with every page of every file read on every copy.

Bit rot: bits of one of two disks are flipped at random; what is read is right all the same.

In the end everything is deleted, and every byte of the pool is free again. A seed replays a run:
`python -m tests.simulation.data --seed S --points N`.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from sofs.errors import NoSpace, SofsError
from sofs.log.configuration import LogSettings
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_process import Crash
from sofs.types import PAGE, Inode, Level, Lsn
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.data import Data
from sofs.volume.pages import Done
from sofs.volume.recovery import StoreSettings
from tests.unit.volume.rig import MIB, NOW, Rig, done

__all__ = ["Run", "run_seed"]

APPLIED = keys.counter(b"applied")
FILES = (Inode(2), Inode(3), Inode(4))
KIB = 1024
NOTHING = Lsn(0)


class Change(NamedTuple):
    """One operation, as the model and the volume both can do it."""

    kind: str
    file: Inode
    offset: int
    length: int
    word: bytes = b""
    source: Inode = Inode(0)
    start: int = 0

    def data(self) -> bytes:
        return (self.word * (self.length // len(self.word) + 1))[: self.length]

    def model(self, files: dict[Inode, bytearray]) -> None:
        content = files[self.file]
        offset, end = self.offset, self.offset + self.length
        if self.kind == "write":
            content.extend(bytes(max(0, end - len(content))))
            content[offset:end] = self.data()
        elif self.kind == "truncate":
            del content[offset:]
            content.extend(bytes(offset - len(content)))
        elif self.kind == "punch":
            end = min(end, len(content))
            if offset < end:
                content[offset:end] = bytes(end - offset)
        else:
            shared = bytes(files[self.source][self.start : self.start + self.length])
            assert len(shared) == self.length, "the volume should have refused it"
            content.extend(bytes(max(0, end - len(content))))
            content[offset:end] = shared

    def submit(self, data: Data, batch: Batch) -> Done | Awaitable[Done]:
        if self.kind == "write":
            return data.write(self.file, self.offset, memoryview(self.data()), NOW, batch)
        if self.kind == "truncate":
            return data.truncate(self.file, self.offset, NOW, batch)
        if self.kind == "punch":
            return data.punch(self.file, self.offset, self.length, NOW, batch)
        return data.clone(self.source, self.start, self.file, self.offset, self.length, NOW, batch)


@dataclass
class History:
    """What the clients know: batches that were appended, by position, and those whose fate the crash hid."""

    applied: int = 0
    """Changes that earlier lives left behind, all of them in `files`."""
    files: dict[Inode, bytearray] = field(default_factory=lambda: {file: bytearray() for file in FILES})
    appended: list[tuple[Lsn, Change]] = field(default_factory=list)
    uncertain: set[Change] = field(default_factory=set)
    stable: Lsn = NOTHING

    def settle(self, applied: int) -> list[dict[Inode, bytearray]]:
        """The states that a volume which says that so many changes were applied may have; fails if it lost something stable."""
        count = applied - self.applied
        self.appended.sort(key=lambda entry: entry[0])
        promised = sum(1 for lsn, _ in self.appended if lsn <= self.stable)
        assert count >= promised, f"{promised} changes were stable, {count} are there"
        assert count <= len(self.appended) + len(self.uncertain), f"{count} changes are there"
        for _, change in self.appended[:count]:
            change.model(self.files)
        if count <= len(self.appended):
            return [self.files]
        states = []
        for change in self.uncertain:
            state = {file: bytearray(content) for file, content in self.files.items()}
            try:
                change.model(state)
            except AssertionError:
                continue
            states.append(state)
        return states

    def adopt(self, state: dict[Inode, bytearray], applied: int) -> None:
        self.files, self.applied = state, applied
        self.appended, self.uncertain, self.stable = [], set(), NOTHING


def choose(random: SimulatedRandom, word: int) -> Change:
    file = FILES[random.below(3)]
    page = random.below(60)
    offset = page * PAGE + (random.below(PAGE) if random.below(2) else 0)
    length = (1 + random.below(12)) * PAGE if random.below(2) else 1 + random.below(3 * PAGE)
    pick = random.below(20)
    if pick < 13:
        if random.below(6) == 0:
            length = (40 + random.below(60)) * PAGE + random.below(2) * random.below(PAGE)
        return Change("write", file, offset, length, word.to_bytes(3, "little") + b"/")
    if pick < 15:
        return Change("truncate", file, offset, 0)
    if pick < 17:
        return Change("punch", file, offset, length * 4)
    source = FILES[random.below(3)]
    if random.below(2):
        return Change("whole", file, 0, 0, b"", source, 0)
    return Change("clone", file, page * PAGE, (1 + random.below(40)) * PAGE, b"", source, random.below(40) * PAGE)


@dataclass
class Run:
    """One seed's host, over several lives."""

    seed: int
    history: History = field(default_factory=History)
    words: int = 0
    patience: int = 4
    """One change in so many is waited for until it is stable."""
    crashes: int = 0
    _stopping: bool = False

    def __post_init__(self) -> None:
        random = self.random = SimulatedRandom(self.seed)
        files = SimulatedFiles(random, latency=Latency(100e-6, 1e-3), miss=random.fraction() * 0.3)
        segment = (512 * KIB, MIB)[random.below(2)]
        self.patience = (4, 100)[random.below(2)]
        self.rig = Rig(
            files,
            SimulatedClock(SimulatedLoop()),
            random,
            policy=("simple", "mirror(2)")[random.below(2)],
            disk_mib=64,
            settings=StoreSettings(
                LogSettings(segment, 8 * segment, (0.02, 0.3)[random.below(2)]), CheckpointSettings(1e9, 1 << 60, 1 << 60), 1 << 28
            ),
            direct_threshold=40 * PAGE,
            direct_fill=random.below(2) * 0.3,
            extent_size=MIB,
            log_disks=1 + random.below(2),
            whole_from=(1, 20)[random.below(2)],
        )

    @property
    def files(self) -> SimulatedFiles:
        assert isinstance(self.rig.files, SimulatedFiles)
        return self.rig.files

    def on_loop(self, main: Callable[[], Awaitable[None]]) -> bool:
        """Runs one life; True if it ended by a crash."""
        loop = SimulatedLoop()
        self.rig.clock = SimulatedClock(loop)

        async def live() -> None:
            await main()

        try:
            loop.run(live())
            return False
        except Crash:
            self.crashes += 1
            return True
        finally:
            loop.close()

    def run(self, lives: int) -> None:
        assert not self.on_loop(self._make)
        for life in range(lives):
            self.files.crash_at = self.files.steps + 1 + self.random.below(400 if life % 2 else 1500)
            self.on_loop(self._live)
            power = bool(self.random.below(2))
            self.rig.files = self.files.after_power_loss() if power else self.files.after_process_death()
            if power:
                self.rig.boot += b"'"
            assert not self.on_loop(self._verify)
        assert not self.on_loop(self._end)

    # Bit rot

    def run_with_flips(self, flips: int) -> None:
        """One life without a crash, bits of one disk of two flipped in the middle of it: nobody who reads may notice."""
        self.rig.policy, self.rig.log_disks = "mirror(2)", 2
        self.files.miss = 0.2
        assert not self.on_loop(self._make)

        async def main() -> None:
            await self._live(0.4)
            disk = self.random.below(2)
            for _ in range(flips):
                self._flip(disk)
            await self._live_on(0.2)
            applied = self.rig.data.space.counter(APPLIED)
            (state,) = self.history.settle(applied)
            assert await self._matches(state)
            await self.rig.settle()
            assert await self._matches(state)
            await self.rig.close()

        assert not self.on_loop(main)

    def _flip(self, disk: int) -> None:
        """Flips a bit of a disk, somewhere in the log or in an arena."""
        places = [
            f"{directory}/{name}"
            for directory in (f"/disk{disk}/arenas", f"{self.rig.places[disk].path}/log")
            if self.files.exists(directory)
            for name in self.files.list(directory)
        ]
        place = places[self.random.below(len(places))]
        file = self.files.open(place)
        size = file.size
        file.close()
        if size:
            self.files.flip(place, self.random.below(size), self.random.below(8))

    async def _make(self) -> None:
        await self.rig.make()
        for file in FILES:
            self.rig.make_file(file)
        await self.rig.close()

    async def _live(self, seconds: float = 20.0) -> None:
        await self.rig.open()
        await self.rig.data.cleaner.collect_orphans()
        await self._live_on(seconds)

    async def _live_on(self, seconds: float) -> None:
        tasks = [asyncio.ensure_future(self._client()) for _ in range(3)]
        tasks += [asyncio.ensure_future(self._clean())]
        done_, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done_:
            task.result()
        self._stopping = True
        await asyncio.gather(*tasks)
        self._stopping = False

    async def _client(self) -> None:
        random, history = self.random, self.history
        while not self._stopping:
            self.words += 1
            change = self._sized(choose(random, self.words))
            batch = Batch()
            batch.add(APPLIED, 1)
            history.uncertain.add(change)
            try:
                result = await done(change.submit(self.rig.data, batch))
            except SofsError as error:
                if not isinstance(error, NoSpace) and change.kind != "clone":
                    raise
                history.uncertain.discard(change)
                await self.rig.clock.sleep(0.001)
                continue
            history.uncertain.discard(change)
            history.appended.append((result.lsn, change))
            if random.below(self.patience) == 0:
                self._when_stable(result.lsn)
            if random.below(3) == 0:
                await self.rig.clock.sleep(random.fraction() * 0.004)
            if random.below(12) == 0:
                await self._read(FILES[random.below(3)])

    def _sized(self, change: Change) -> Change:
        """A clone of a whole file is as long as that is now."""
        if change.kind != "whole":
            return change
        return change._replace(kind="clone", length=self.rig.record(change.source).size)

    def _when_stable(self, lsn: Lsn) -> None:
        history = self.history

        def acknowledged() -> None:
            history.stable = max(history.stable, lsn)

        self.rig.store.log.when(lsn, Level.STABLE, acknowledged)

    async def _read(self, file: Inode) -> None:
        """A read that nothing overtakes must give what the model has."""
        before = self.rig.store.log.end
        size = self.rig.record(file).size
        content = await self.rig.read(file, 0, size)
        if self.rig.store.log.end == before:
            state = {name: bytearray(data) for name, data in self.history.files.items()}
            for _, change in sorted(self.history.appended, key=lambda entry: entry[0]):
                change.model(state)
            assert content == bytes(state[file]), f"inode {file} reads wrong before any crash"

    async def _clean(self) -> None:
        cleaner, random = self.rig.data.cleaner, self.random
        while not self._stopping:
            await self.rig.clock.sleep(random.fraction() * 0.01)
            pick = random.below(9)
            if pick == 8:
                await self.rig.data.maps.run_once()
            elif pick < 3:
                await cleaner.destage(random.fraction() * 0.3)
            elif pick < 5:
                await cleaner.compact()
            elif pick < 7:
                await cleaner.give_back()
            else:
                await self.rig.store.keyspace.checkpoint()
                cleaner.trim()

    async def _verify(self) -> None:
        await self.rig.open()
        await self.rig.clean()
        applied = self.rig.data.space.counter(APPLIED)
        for state in self.history.settle(applied):
            if await self._matches(state):
                self.history.adopt(state, applied)
                break
        else:
            raise AssertionError(f"the files are not as after any {applied} changes")
        await self.rig.data.cleaner.collect_orphans()
        report = await self.rig.clean()
        assert not report.orphans
        await self.rig.close()

    async def _matches(self, state: dict[Inode, bytearray]) -> bool:
        for file, content in state.items():
            if self.rig.record(file).size != len(content):
                return False
            if await self.rig.read(file, 0, len(content)) != bytes(content):
                return False
        return True

    async def _end(self) -> None:
        await self.rig.open()
        for file in FILES:
            await self.rig.delete_file(file)
        while await self.rig.data.maps.run_once():
            pass
        await self.rig.data.cleaner.collect_orphans()
        await self.rig.settle()
        await self.rig.clean()
        usage = self.rig.pool.usage()
        assert usage.free == usage.total, f"{usage.total - usage.free} bytes are lost"
        await self.rig.close()


def run_seed(seed: int, lives: int = 3) -> int:
    """Runs one seed; gives how many crashes it had. Raises what went wrong."""
    run = Run(seed)
    run.run(lives)
    return run.crashes


def main() -> int:
    parser = argparse.ArgumentParser(description="crash a volume's data at random I/O steps, and verify what is left")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, default=100)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    crashes, seed = 0, arguments.seed
    while crashes < arguments.points:
        try:
            crashes += run_seed(seed)
        except BaseException:
            print(f"seed {seed} fails; replay: python -m tests.simulation.data --seed {seed} --points 1", file=sys.stderr)
            raise
        seed += 1
    print(f"data crash points: {crashes}, 0 wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
