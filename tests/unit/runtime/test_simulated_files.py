"""The fault model of simulated disks, each sentence of it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.errors import DiskFailed, NoSpace, NotFound, ReadOnly
from sofs.runtime.simulated_files import SimulatedFile, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_process import Crash

SECTOR = 512


def run(main: Coroutine[Any, Any, Any]) -> Any:
    async def wrapped(_: SimulatedLoop) -> Any:
        return await main

    return simulate(wrapped)


def new_files(seed: int = 1, **options: Any) -> SimulatedFiles:
    files = SimulatedFiles(SimulatedRandom(seed), **options)
    files.make_directory("/d")
    files.sync_directory("/")
    return files


def durable_file(files: SimulatedFiles, name: str = "/d/f") -> SimulatedFile:
    file = files.open(name, create=True)
    files.sync_directory("/d")
    return file


def contents(files: SimulatedFiles, name: str = "/d/f") -> bytes:
    file = files.open(name)
    buffer = bytearray(file.size)
    assert file.read_now(0, [memoryview(buffer)]) == len(buffer)
    return bytes(buffer)


def images(files: SimulatedFiles, count: int = 200, name: str = "/d/f") -> set[bytes]:
    return {contents(files.after_power_loss(seed), name) for seed in range(count)}


def test_power_loss_keeps_what_was_synced() -> None:
    files = new_files()
    file = durable_file(files)
    file.write(0, [b"x" * 3000])
    file.sync_now()
    assert images(files) == {b"x" * 3000}


def test_power_loss_tears_unsynced_writes_at_sectors_and_in_any_order() -> None:
    files = new_files()
    file = durable_file(files)
    file.write(0, [b"-" * 4 * SECTOR])
    file.sync_now()
    file.write(100, [b"a" * (3 * SECTOR)])
    seen = images(files, 500)
    for image in seen:
        for start in range(0, 4 * SECTOR, SECTOR):
            part = image[start : start + SECTOR].strip(b"-")
            assert part in (b"", b"a" * len(part))
    whole = b"-" * 100 + b"a" * 3 * SECTOR + b"-" * (SECTOR - 100)
    kept = {tuple(image[s : s + SECTOR] == whole[s : s + SECTOR] for s in range(0, 4 * SECTOR, SECTOR)) for image in seen}
    assert len(kept) == 16, "every combination of sectors is possible"


def test_within_a_sector_an_older_write_never_replaces_a_newer_one() -> None:
    files = new_files()
    file = durable_file(files)
    file.write(0, [b"-" * SECTOR])
    file.sync_now()
    for letter in (b"a", b"b", b"c"):
        file.write(0, [letter * SECTOR])
    assert images(files) == {letter * SECTOR for letter in (b"-", b"a", b"b", b"c")}


def test_the_size_after_power_loss_is_one_the_file_had() -> None:
    files = new_files()
    file = durable_file(files)
    file.write(0, [b"a" * 600])
    file.sync_now()
    file.write(600, [b"b" * 600])
    file.truncate(1000)
    file.write(5000, [b"c" * 10])
    assert {len(image) for image in images(files)} == {600, 1200, 1000, 5010}
    for image in images(files):
        assert set(image[600:]) <= set(b"b\0c")


def test_what_a_truncation_cut_off_does_not_come_back_behind_it() -> None:
    files = new_files()
    file = durable_file(files)
    file.write(0, [b"secret" * 1000])
    file.sync_now()
    file.truncate(0)
    file.truncate(6000)
    file.write(4096, [b"n" * 512])
    for image in images(files, 400):
        if image == b"secret" * 1000:
            continue
        assert b"secret" not in image


def test_a_sync_makes_durable_what_was_written_before_it_and_no_more() -> None:
    async def main() -> None:
        files = new_files()
        file = durable_file(files)
        file.write(0, [b"a" * SECTOR])
        sync = file.sync()
        file.write(SECTOR, [b"b" * SECTOR])
        await sync
        found = images(files)
        assert all(image.startswith(b"a" * SECTOR) for image in found)
        assert {image[SECTOR:] for image in found} >= {b"", b"b" * SECTOR}

    run(main())


def test_a_sync_under_way_promises_nothing() -> None:
    async def main() -> None:
        files = new_files()
        file = durable_file(files)
        file.write(0, [b"a"])
        file.sync()
        found = images(files)
        assert found == {b"", b"a", b"\0"}

    run(main())


def test_a_failed_sync_forgets_what_it_should_have_written() -> None:
    async def main() -> None:
        lost = 0
        for seed in range(20):
            files = new_files(seed)
            file = durable_file(files)
            file.write(0, [b"a" * SECTOR])
            files.fail("sync", "/d", times=1)
            with pytest.raises(DiskFailed):
                await file.sync()
            file.write(SECTOR, [b"b" * SECTOR])
            await file.sync()
            image = contents(files.after_power_loss())
            assert image[SECTOR:] == b"b" * SECTOR
            lost += image[:SECTOR] != b"a" * SECTOR
        assert 0 < lost < 20

    run(main())


def test_names_need_a_sync_of_their_directory() -> None:
    files = new_files()
    file = files.open("/d/f", create=True)
    file.write(0, [b"a"])
    file.sync_now()
    assert {tuple(files.after_power_loss(seed).list("/d")) for seed in range(50)} == {(), ("f",)}
    files = new_files()
    files.open("/d/f", create=True).sync_now()
    files.sync_directory("/d")
    assert {tuple(files.after_power_loss(seed).list("/d")) for seed in range(50)} == {("f",)}


def test_a_rename_is_done_or_not_done() -> None:
    files = new_files()
    for name, text in (("/d/old", b"old"), ("/d/new", b"new")):
        file = files.open(name, create=True)
        file.write(0, [text])
        file.sync_now()
    files.sync_directory("/d")
    files.rename("/d/new", "/d/old")
    found = set()
    for seed in range(50):
        after = files.after_power_loss(seed)
        found.add((tuple(after.list("/d")), contents(after, "/d/old")))
    assert found == {(("new", "old"), b"old"), (("old",), b"new")}


def test_later_names_of_a_directory_do_not_survive_earlier_ones() -> None:
    files = new_files()
    for number in range(4):
        files.open(f"/d/{number}", create=True)
    found = {tuple(files.after_power_loss(seed).list("/d")) for seed in range(100)}
    assert found == {tuple(map(str, range(count))) for count in range(5)}


def test_the_death_of_a_process_loses_nothing() -> None:
    async def main() -> None:
        files = new_files()
        file = files.open("/d/f", create=True)
        file.write(0, [b"a" * 5000])
        told: list[object] = []
        file.sync().then(told.append)
        lock = files.lock("/d/lock")
        after = files.after_process_death()
        assert contents(after) == b"a" * 5000
        after.lock("/d/lock").close()
        with pytest.raises(Crash):
            file.write(0, [b"zombie"])
        lock.close()
        await asyncio.sleep(1)
        assert not told, "nobody is left to be told"
        assert {tuple(after.after_power_loss(seed).list("/d")) for seed in range(50)} >= {(), ("f", "lock")}

    run(main())


def test_a_run_can_be_crashed_at_each_of_its_steps() -> None:
    def workload(files: SimulatedFiles, acknowledged: list[int]) -> Callable[[SimulatedLoop], Coroutine[Any, Any, None]]:
        async def main(_: SimulatedLoop) -> None:
            file = files.open("/d/f", create=True)
            files.sync_directory("/d")
            for number in range(5):
                file.write(number * 1000, [bytes([65 + number]) * 1000])
                await file.sync()
                acknowledged.append(number)
            await files.records("/d/r", 1 << 20).commit([(b"k", b"v")])

        return main

    files = new_files()
    simulate(workload(files, []))
    total = files.steps
    assert total > 20
    for step in range(files.steps - total + 3, total + 1):
        files, acknowledged = new_files(step), list[int]()
        files.crash_at = step
        with pytest.raises(Crash):
            simulate(workload(files, acknowledged))
        after = files.crash()
        if acknowledged:
            image = contents(after)
            for number in acknowledged:
                assert image[number * 1000 : number * 1000 + 1000] == bytes([65 + number]) * 1000


def test_a_commit_under_way_is_there_whole_or_not_at_all() -> None:
    async def main() -> None:
        files = new_files()
        records = files.records("/d/r", 1 << 20)
        await records.commit([(b"a", b"1"), (b"b", b"1")])
        commit = records.commit([(b"a", b"2"), (b"b", b"2")])
        found = set()
        for seed in range(30):
            after = files.after_power_loss(seed).records("/d/r", 1 << 20)
            found.add((after.get(b"a"), after.get(b"b")))
        assert found == {(b"1", b"1"), (b"2", b"2")}
        commit.cancel()  # type: ignore[attr-defined]

    run(main())


def test_a_bit_flips_where_it_is_asked_to() -> None:
    files = new_files()
    file = durable_file(files)
    file.write(0, [bytes(10000)])
    file.sync_now()
    files.flip("/d/f", 5000, 3)
    expected = bytes(5000) + b"\x08" + bytes(4999)
    assert contents(files) == expected
    assert images(files, 5) == {expected}


def test_a_file_system_fills_up_and_has_room_again() -> None:
    files = new_files()
    files.make_directory("/small")
    files.mount("/small", 10 * 4096)
    file = files.open("/small/a", create=True)
    file.allocate(0, 8 * 4096)
    assert files.space("/small").free == 2 * 4096
    with pytest.raises(NoSpace):
        file.write(8 * 4096, [bytes(3 * 4096)])
    file.write(0, [bytes(8 * 4096)])
    file.punch(4096, 2 * 4096)
    assert files.space("/small").free == 4 * 4096
    file.truncate(4096)
    assert files.space("/small").free == 9 * 4096
    files.remove("/small/a")
    assert files.space("/small").free == 10 * 4096
    assert files.space("/d").free == 1 << 40


def test_operations_fail_where_and_as_often_as_asked() -> None:
    async def main() -> None:
        files = new_files(miss=1.0)
        file = durable_file(files)
        file.write(0, [b"abc"])
        files.fail("read", "/d", after=1, times=1)
        buffer = bytearray(3)
        assert file.read_now(0, [memoryview(buffer)]) == 3
        with pytest.raises(DiskFailed):
            file.read_now(0, [memoryview(buffer)])
        waiting = file.read(0, [memoryview(buffer)])
        assert not isinstance(waiting, int) and await waiting == 3
        read_only = files.fail("write", "/d/f", ReadOnly)
        for _ in range(2):
            with pytest.raises(ReadOnly):
                file.write(0, [b"x"])
            with pytest.raises(ReadOnly):
                await file.write_out(0, [b"x"])
        files.faults.remove(read_only)
        file.write(0, [b"x"])
        files.fail("open", "/d/f", DiskFailed)
        with pytest.raises(DiskFailed):
            files.open("/d/f")
        with pytest.raises(NotFound):
            files.open("/d/other")

    run(main())


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 20000), st.integers(1, 9000)),
        st.tuples(st.just("punch"), st.integers(0, 20000), st.integers(1, 9000)),
        st.tuples(st.just("truncate"), st.integers(0, 20000), st.just(0)),
        st.tuples(st.just("allocate"), st.integers(0, 20000), st.integers(1, 9000)),
        st.tuples(st.just("sync"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(operations, st.integers(0, 1 << 32))
def test_any_sequence_of_changes_agrees_with_plain_bytes_and_syncs_hold(steps: list[Any], seed: int) -> None:
    files = new_files(seed)
    file = durable_file(files)
    model, versions = bytearray(), [b""]
    for number, (operation, offset, length) in enumerate(steps):
        if operation == "write":
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + length] = bytes([number + 1]) * length
            file.write(offset, [bytes([number + 1]) * length])
        elif operation == "punch":
            end = max(offset, min(len(model), offset + length))
            model[offset:end] = bytes(max(0, min(end, len(model)) - offset))
            file.punch(offset, length)
        elif operation == "truncate":
            model = bytearray(model[:offset].ljust(offset, b"\0"))
            file.truncate(offset)
        elif operation == "allocate":
            model.extend(bytes(max(0, offset + length - len(model))))
            file.allocate(offset, length)
        else:
            file.sync_now()
            versions.clear()
        versions.append(bytes(model))
        assert contents(files) == model
    after = contents(files.after_power_loss())
    assert len(after) in {len(version) for version in versions}
    for start in range(0, len(after), SECTOR):
        seen = after[start : start + SECTOR]
        possible = {version[start : start + SECTOR].ljust(len(seen), b"\0")[: len(seen)] for version in versions}
        assert seen.rstrip(b"\0") in {value.rstrip(b"\0") for value in possible}


def test_a_quiet_sync_is_done_in_its_time_and_told_of_only_in_a_hurry() -> None:
    async def main() -> None:
        files = new_files()
        file = durable_file(files)
        told: list[object] = []
        file.write(0, [b"a"])
        file.sync(quietly=True).then(told.append)
        await asyncio.sleep(1)
        assert not told
        file.write(0, [b"b"])
        file.sync(quietly=True).then(told.append)
        files.hurry()
        assert told == [None], "the first is done, the second is not"
        await asyncio.sleep(1)
        assert told == [None, None]
        file.write(0, [b"c"])
        file.sync(quietly=True).then(told.append)
        await asyncio.sleep(1)
        assert told == [None, None] and images(files) == {b"c"}

    run(main())
