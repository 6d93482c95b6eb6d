"""Files as plain byte arrays against the data half of a volume: random operations, moves and restarts.

After every operation the file that was touched reads as the model says; after every move or restart all do, and the check
is clean. In the end everything is deleted, and all space is back.
"""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_process import Crash
from sofs.types import PAGE, Inode
from sofs.volume import keys
from tests.unit.volume.rig import MIB, NOW, Rig, done

FILES = st.integers(2, 4).map(Inode)
NEAR = st.integers(0, 40 * PAGE)
OFFSETS = st.one_of(NEAR, st.integers(0, 70).map(lambda page: page * PAGE), st.just(5 * MIB // 2))
LENGTHS = st.one_of(st.integers(1, 3 * PAGE), st.integers(1, 40).map(lambda pages: pages * PAGE), st.just(150 * PAGE + 17))


class DataModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulatedLoop()
        random = SimulatedRandom(7)
        self.rig = Rig(
            SimulatedFiles(random), SimulatedClock(self.loop), random, direct_threshold=100 * PAGE, extent_size=MIB, disk_mib=256, whole_from=1
        )
        self.do(self.rig.make)
        self.files: dict[Inode, bytearray] = {}
        self.number = 1
        self.at: dict[Inode, Inode] = {}
        """The numbers that the files have by now: those of deleted ones are not used again."""
        for inode in (2, 3, 4):
            self.make(Inode(inode))
        self.stamp = 0

    def make(self, inode: Inode) -> None:
        self.number += 1
        self.at[inode] = self.do(lambda: self.rig.make_file(self.number))
        self.files[inode] = bytearray()

    def do(self, action: Callable[[], Any]) -> Any:
        """Runs something on the loop, on which background tasks stay alive in between."""

        async def main() -> Any:
            return await done(action())

        result = self.loop.run_until_complete(main())
        assert not self.loop.failures, self.loop.failures
        return result

    def data(self, length: int) -> bytes:
        """Bytes that differ from any written before."""
        self.stamp += 1
        word = self.stamp.to_bytes(3, "little") + b"#"
        return (word * (length // 4 + 1))[:length]

    def verify(self, inode: Inode) -> None:
        model = self.files[inode]
        got = self.do(lambda: self.rig.read(self.at[inode], 0, len(model) + 1))
        assert got == bytes(model)
        assert self.rig.record(self.at[inode]).size == len(model)

    def verify_all(self) -> None:
        for inode in self.files:
            self.verify(inode)
        self.do(self.rig.clean)

    def kill(self) -> None:
        """The end of the process: nothing that runs takes another step."""

        async def end() -> None:
            raise Crash

        with pytest.raises(Crash):
            self.loop.run(end())
        self.loop.close()
        self.loop = SimulatedLoop()
        self.rig.clock = SimulatedClock(self.loop)

    # What clients do

    @rule(inode=FILES, offset=OFFSETS, length=LENGTHS)
    def write(self, inode: Inode, offset: int, length: int) -> None:
        data = self.data(length)
        self.do(lambda: self.rig.write(self.at[inode], offset, data))
        model = self.files[inode]
        model.extend(bytes(max(0, offset + length - len(model))))
        model[offset : offset + length] = data
        self.verify(inode)

    @rule(inode=FILES, size=OFFSETS)
    def truncate(self, inode: Inode, size: int) -> None:
        self.do(lambda: self.rig.data.truncate(self.at[inode], size, NOW))
        model = self.files[inode]
        del model[size:]
        model.extend(bytes(size - len(model)))
        self.verify(inode)

    @rule(inode=FILES, offset=OFFSETS, length=LENGTHS, deallocate=st.booleans())
    def punch(self, inode: Inode, offset: int, length: int, deallocate: bool) -> None:
        self.do(lambda: self.rig.data.punch(self.at[inode], offset, length, NOW, deallocate=deallocate))
        model = self.files[inode]
        end = min(offset + length, len(model))
        if offset < end:
            model[offset:end] = bytes(end - offset)
        self.verify(inode)

    @rule(inode=FILES, offset=OFFSETS, length=LENGTHS, extend=st.booleans())
    def allocate(self, inode: Inode, offset: int, length: int, extend: bool) -> None:
        self.do(lambda: self.rig.data.allocate(self.at[inode], offset, length, NOW, extend))
        model = self.files[inode]
        if extend:
            model.extend(bytes(max(0, offset + length - len(model))))
        self.verify(inode)

    @rule(
        source=FILES,
        onto=FILES,
        start=st.integers(0, 40).map(lambda page: page * PAGE),
        to=st.integers(0, 60).map(lambda page: page * PAGE),
        pages=st.integers(1, 80),
        tail=st.booleans(),
    )
    def clone(self, source: Inode, onto: Inode, start: int, to: int, pages: int, tail: bool) -> None:
        size = len(self.files[source])
        length = min(pages * PAGE, size - start)
        if not tail:
            length -= length % PAGE
        if length <= 0 or (length % PAGE and start + length != size):
            return
        shared = bytes(self.files[source][start : start + length])
        self.do(lambda: self.rig.data.clone(self.at[source], start, self.at[onto], to, length, NOW))
        self.put(onto, to, shared)
        self.verify(onto)
        self.verify(source)

    @rule(source=FILES, onto=FILES, start=OFFSETS, to=OFFSETS, length=LENGTHS)
    def copy(self, source: Inode, onto: Inode, start: int, to: int, length: int) -> None:
        copied = bytes(self.files[source][start : start + length])
        if source == onto and abs(start - to) < length:
            return  # chunks of an overlapping copy are not of one moment
        result = self.do(lambda: self.rig.data.copy(self.at[source], start, self.at[onto], to, length, NOW))
        assert result.length == len(copied)
        if copied:
            self.put(onto, to, copied)
        self.verify(onto)

    @rule(source=FILES, onto=FILES)
    def clone_whole(self, source: Inode, onto: Inode) -> None:
        size = len(self.files[source])
        if source == onto or size < len(self.files[onto]):
            return
        self.do(lambda: self.rig.data.clone(self.at[source], 0, self.at[onto], 0, size, NOW))
        self.files[onto] = bytearray(self.files[source])
        self.verify(onto)
        self.verify(source)

    @rule(source=FILES, onto=FILES)
    def replace_by_clone(self, source: Inode, onto: Inode) -> None:
        """What `cp --reflink` does."""
        if source == onto:
            return
        self.truncate(onto, 0)
        self.clone_whole(source, onto)

    def put(self, inode: Inode, offset: int, data: bytes) -> None:
        model = self.files[inode]
        model.extend(bytes(max(0, offset + len(data) - len(model))))
        model[offset : offset + len(data)] = data

    @rule(inode=FILES)
    def delete(self, inode: Inode) -> None:
        self.do(lambda: self.rig.delete_file(self.at[inode]))
        self.make(inode)
        self.verify(inode)

    @rule(inode=FILES)
    def ranges_cover_all_that_is_not_zero(self, inode: Inode) -> None:
        model = self.files[inode]
        ranges, complete = self.rig.data.ranges(self.at[inode], 0, len(model) + 1, 1 << 20)
        assert complete
        rest = bytearray(model)
        for offset, length in ranges:
            assert offset + length <= len(model)
            rest[offset : offset + length] = bytes(length)
        assert not any(rest)

    # What happens behind their backs

    @rule()
    def destage(self) -> None:
        async def main() -> None:
            await self.rig.store.log.sync()
            await self.rig.data.cleaner.destage()

        self.do(main)
        self.verify_all()

    @rule()
    def compact(self) -> None:
        self.do(self.rig.data.cleaner.compact)
        self.verify_all()

    @rule()
    def maps(self) -> None:
        self.do(self.look_after_maps)
        self.verify_all()

    async def look_after_maps(self) -> None:
        """Until nothing is left to be done."""
        while await self.rig.data.maps.run_once():
            pass

    @rule()
    def checkpoint(self) -> None:
        async def main() -> None:
            await self.rig.store.keyspace.checkpoint()
            self.rig.data.cleaner.trim()
            await self.rig.data.cleaner.give_back()

        self.do(main)
        self.verify_all()

    @rule()
    def close_and_open(self) -> None:
        async def main() -> None:
            await self.rig.close()
            await self.rig.open()
            assert await self.rig.data.cleaner.collect_orphans() == 0

        self.do(main)
        self.verify_all()

    @rule()
    def lose_power_with_everything_stable(self) -> None:
        async def main() -> None:
            await self.rig.store.log.sync()

        self.do(main)
        files = self.rig.files
        assert isinstance(files, SimulatedFiles)
        self.kill()
        self.rig.files = files.after_power_loss()
        self.rig.boot += b"'"

        async def again() -> None:
            await self.rig.open()
            await self.rig.data.cleaner.collect_orphans()

        self.do(again)
        self.verify_all()

    @invariant()
    @precondition(lambda self: self.rig.data.space.counter(keys.LOG_PAGES) < 0)
    def the_log_has_no_fewer_than_no_pages(self) -> None:
        raise AssertionError("negative count of pages in the log")

    def teardown(self) -> None:
        async def main() -> None:
            for inode in self.files:
                await self.rig.delete_file(self.at[inode])
            await self.look_after_maps()
            assert next(self.rig.store.keyspace.walk(keys.FROZEN), None) is None
            await self.rig.settle()
            report = await self.rig.clean()
            assert report.extents == 0
            usage = self.rig.pool.usage()
            assert usage.free == usage.total
            await self.rig.close()

        self.do(main)


DataModel.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
TestDataModel = DataModel.TestCase
