"""The embedded store's file: crashes, damage, a full disk, compaction."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sofs.coordination import Change, Condition, Delete, OutcomeUnknown, Put, Store
from sofs.coordination import embedded as module
from sofs.coordination.embedded import EmbeddedStore
from sofs.errors import Damaged, DiskFailed, NoSpace, Unavailable
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_process import Crash

PATH = "/d/store"
Acknowledged = list[tuple[int, int]]


def new_files(seed: int = 1) -> SimulatedFiles:
    files = SimulatedFiles(SimulatedRandom(seed))
    files.make_directory("/d")
    files.sync_directory("/")
    return files


def open_store(files: SimulatedFiles, loop: SimulatedLoop) -> EmbeddedStore:
    return EmbeddedStore.open(files, SimulatedClock(loop), files.random, PATH)


def on(files: SimulatedFiles, work: Callable[[EmbeddedStore], Coroutine[Any, Any, Any]]) -> Any:
    """Opens the store, does the work, closes it."""

    async def main(loop: SimulatedLoop) -> Any:
        store = open_store(files, loop)
        result = await work(store)
        await store.close()
        return result

    return simulate(main)


async def fill(store: Store, count: int = 10, size: int = 10) -> None:
    for n in range(count):
        await store.transact([], [Put(f"k/{n % 7}", b"%d " % n + bytes(size)), Put("last", b"%d" % n)])


async def contents(store: Store) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.range("")).entries}


def workload(files: SimulatedFiles, acknowledged: list[int]) -> Callable[[SimulatedLoop], Coroutine[Any, Any, None]]:
    async def main(loop: SimulatedLoop) -> None:
        store = open_store(files, loop)
        lease = await store.lease(60)
        for n in range(12):
            changes: list[Change] = [Put("a", b"%d" % n), Put(f"k/{n}", b"x" * (n * 700)), Delete(f"k/{n - 3}")]
            await store.transact([], [*changes, Put("leased", b"%d" % n, lease.id)])
            acknowledged.append(n)
        await store.close()

    return main


@pytest.mark.parametrize("process_only", [False, True], ids=["power", "process"])
def test_a_crash_at_any_step_loses_nothing_acknowledged_and_halves_nothing(process_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_AT", 40_000)
    files = new_files()
    simulate(workload(files, []))
    total = files.steps
    assert total > 40
    for step in range(1, total + 1):
        for seed in range(3):
            files, acknowledged = new_files(seed), list[int]()
            files.crash_at = files.steps + step
            try:
                simulate(workload(files, acknowledged))
            except Crash:
                pass
            after = files.after_process_death() if process_only else files.after_power_loss()
            found = on(after, contents)
            if not found:
                assert not acknowledged
                continue
            n = int(found["a"])
            assert n in (max(acknowledged, default=-1), max(acknowledged, default=-1) + 1)
            expected = {f"k/{k}": b"x" * (k * 700) for k in range(max(0, n - 2), n + 1)}
            assert found == {"a": b"%d" % n, "leased": b"%d" % n, **expected}


def test_what_a_restart_builds_on_after_the_death_of_a_process_survives_a_loss_of_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_AT", 40_000)
    files = new_files()
    simulate(workload(files, []))
    for step in range(1, files.steps + 1):
        for seed in range(4):
            files, acknowledged = new_files(seed), list[int]()
            files.crash_at = files.steps + step
            try:
                simulate(workload(files, acknowledged))
            except Crash:
                pass
            restarted = files.after_process_death()
            on(restarted, lambda store: store.transact([], [Put("later", b"")]))
            found = on(restarted.after_power_loss(), contents)
            assert "later" in found
            assert not acknowledged or int(found["a"]) >= acknowledged[-1]


def test_what_a_crash_cut_off_is_overwritten_and_stays_away() -> None:
    for seed in range(30):
        files = new_files(seed)

        async def main(loop: SimulatedLoop, files: SimulatedFiles = files) -> None:
            store = open_store(files, loop)
            await fill(store, 3)
            files.crash_at = files.steps + 2  # after the write, before its sync
            await store.transact([], [Put("big", b"b" * 20_000)])

        with pytest.raises(Crash):
            simulate(main)
        files = files.crash()
        before = on(files, contents)
        on(files, lambda store: store.transact([], [Put("small", b"s")]))
        files = files.crash()
        assert on(files, contents) == {**before, "small": b"s"}


def test_a_flipped_bit_anywhere_loses_nothing() -> None:
    files = new_files()
    on(files, lambda store: fill(store, 6))
    expected = on(files, contents)
    size = files.open(PATH).size
    for offset in range(0, size, 1021):
        for bit in (0, 7):
            files.flip(PATH, offset, bit)
            assert on(files, contents) == expected
            files.flip(PATH, offset, bit)


def test_a_record_whose_copies_are_both_damaged_is_refused_by_name() -> None:
    files = new_files()
    on(files, lambda store: fill(store, 6))
    for record in range(6):  # the seventh, the last, could have been cut off by a crash
        for copy in (0, 1):
            files.flip(PATH, (2 * record + copy) * 4096 + 38)
        with pytest.raises(Damaged, match=r"/d/store: both copies of record .* restore it"):
            on(files, contents)
        for copy in (0, 1):
            files.flip(PATH, (2 * record + copy) * 4096 + 38)
    assert on(files, contents)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 14 * 4096 - 1), st.binary(min_size=1, max_size=40)), max_size=8), st.booleans())
def test_any_damage_is_either_harmless_or_refused(wounds: list[tuple[int, bytes]], shorten: bool) -> None:
    files = new_files()
    on(files, lambda store: fill(store, 6))
    whole = on(files, contents)
    file = files.open(PATH)
    for offset, data in wounds:
        if shorten and wounds.index((offset, data)) == 0:
            file.truncate(offset)
        else:
            file.write(offset, [data])
    try:
        found = on(files, contents)
    except Damaged as error:
        assert PATH in str(error)
        return
    # Losing the end of the file cannot be told from a write that was cut off; anything else is there or refused.
    count = int(found.get("last", b"-1"))
    assert count <= 5 and (found == whole or all(int(value.split()[0]) <= count for value in found.values()))


def test_a_file_that_is_no_store_is_refused() -> None:
    files = new_files()
    file = files.open(PATH, create=True)
    file.write(0, [b"something else" * 1000])
    with pytest.raises(Damaged, match="is not a store"):
        on(files, contents)


def test_a_second_process_is_kept_out() -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = new_files()
        store = open_store(files, loop)
        with pytest.raises(Unavailable, match="in use"):
            open_store(files, loop)
        await store.close()
        await open_store(files, loop).close()

    simulate(main)


def test_a_full_disk_refuses_changes_and_harms_nothing() -> None:
    files = SimulatedFiles(SimulatedRandom(1))
    files.make_directory("/d")
    files.mount("/d", 1 << 20)

    async def work(store: EmbeddedStore) -> dict[str, bytes]:
        with pytest.raises(NoSpace):
            while True:
                await store.transact([], [Put("a", bytes(100_000))])
        await store.transact([], [Put("b", b"small things still fit into the reserve")])
        return await contents(store)

    before = on(files, work)
    assert on(files, contents) == before and len(before) == 2


def test_a_failed_disk_makes_the_outcome_unknown_and_then_stops_the_store() -> None:
    files = new_files()

    async def work(store: EmbeddedStore) -> None:
        await fill(store, 3)
        fault = files.fail("sync", "/d", DiskFailed, times=1)
        with pytest.raises(OutcomeUnknown):
            await store.transact([], [Put("new", b"")])
        files.faults.remove(fault)
        for call in (store.get("last"), store.range(""), store.transact([], [Put("x", b"")]), store.lease(5)):
            with pytest.raises(Unavailable, match="has stopped"):
                await call

    on(files, work)
    found = on(files.crash(), contents)
    assert found["last"] == b"2" and set(found) - {"new"} == {"k/0", "k/1", "k/2", "last"}


def test_the_file_stays_small_however_much_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_AT", 100_000)
    files = new_files()

    async def work(store: EmbeddedStore) -> int:
        lease = await store.lease(1000)
        await store.transact([], [Put("leased", b"", lease.id)])
        revision = (await store.range("")).revision
        for n in range(300):
            await store.transact([], [Put("a", b"%d" % n + bytes(2000))])
        assert (await store.range("")).revision == revision + 300
        return lease.id

    lease_id = on(files, work)
    assert files.open(PATH).size < 800_000

    async def after(store: EmbeddedStore) -> None:
        found = await store.get("leased")
        assert found is not None and found.lease == lease_id and store.has_lease(lease_id)
        entry = await store.get("a")
        assert entry is not None and entry.value.startswith(b"299")
        assert (await store.transact([Condition("a", entry.revision)], [Delete("a")])).revision == entry.revision + 1

    on(files, after)


def test_a_caller_that_is_cancelled_does_not_undo_what_is_under_way() -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = new_files()
        store = open_store(files, loop)
        task = asyncio.create_task(store.transact([], [Put("a", b"1")]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        entry = None
        while entry is None:
            await asyncio.sleep(0.001)
            entry = await store.get("a")
        assert entry.value == b"1"
        await store.close()

    simulate(main)


@pytest.mark.parametrize("rounds", range(4))
def test_a_lease_that_is_kept_in_the_moment_in_which_it_runs_out_lives_or_its_keeper_is_told(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was claimed with it could be claimed by another while its holder counts on it."""

    async def main(loop: SimulatedLoop) -> None:
        store = open_store(new_files(), loop)
        lease = await store.lease(10)
        await store.transact([], [Put("a", b"", lease.id)])
        over, end = asyncio.Event(), store.expire_lease

        def expire(id: int) -> None:
            end(id)
            over.set()

        monkeypatch.setattr(store, "expire_lease", expire)
        await over.wait()
        for _ in range(rounds):
            await asyncio.sleep(0)
        kept = await lease.keep()
        await asyncio.sleep(9)
        assert kept == (await store.get("a") is not None)
        await store.close()

    simulate(main)


def test_a_lease_that_cannot_be_ended_on_a_full_disk_ends_when_there_is_room() -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = new_files()
        store = open_store(files, loop)
        lease = await store.lease(10)
        await store.transact([], [Put("a", b"", lease.id)])
        full = files.fail("write", "/d", NoSpace)
        await asyncio.sleep(11)
        files.faults.remove(full)
        with pytest.raises(Unavailable):
            await store.get("a")  # a failed write stops the store: it must be opened again
        await store.close()
        store = open_store(files, loop)
        full = files.fail("allocate", "/d", NoSpace)
        with pytest.raises(NoSpace):
            await store.transact([], [Put("big", bytes(500_000))])
        await asyncio.sleep(20)
        assert await store.get("a") is None
        files.faults.remove(full)
        await store.close()

    simulate(main)


def test_leases_are_counted_anew_after_a_restart() -> None:
    async def main(loop: SimulatedLoop) -> None:
        files = new_files()
        store = open_store(files, loop)
        lease = await store.lease(10)
        await store.transact([], [Put("a", b"", lease.id)])
        await asyncio.sleep(8)
        await store.close()
        store = open_store(files, loop)
        await asyncio.sleep(8)
        assert await store.get("a") is not None
        await asyncio.sleep(3)
        assert await store.get("a") is None
        await store.close()

    simulate(main)
