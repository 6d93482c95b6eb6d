"""What every coordination `Store` promises: the embedded one, on real and simulated disks, and etcd."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from aetcd import rpc

from sofs.coordination import Condition, Delete, Entry, OutcomeUnknown, Put, Seen, Store, Watch
from sofs.coordination.embedded import EmbeddedStore
from sofs.coordination.etcd import EtcdStore
from sofs.errors import NotFound, Unavailable
from sofs.runtime.ports import Clock, Files, Random
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from tests.contracts.etcd_server import EtcdServer


class Harness(Protocol):
    """A store's server, as far as a test has to handle it."""

    least_lease: float

    def run(self, main: Coroutine[Any, Any, Any], /) -> Any: ...

    async def connect(self) -> Store: ...

    async def forget_history(self, store: Store) -> None: ...

    async def restart(self, store: Store) -> Store:
        """The server goes down and comes back; gives the store to use from then on."""


class Embedded:
    least_lease = 0.2

    def __init__(self, files: Files, clock: Clock, random: Random, path: str, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._open: Callable[[], EmbeddedStore] = lambda: EmbeddedStore.open(files, clock, random, path)
        self._run = run

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        return self._run(main)

    async def connect(self) -> Store:
        return self._open()

    async def forget_history(self, store: Store) -> None:
        assert isinstance(store, EmbeddedStore)
        store.compact_history()

    async def restart(self, store: Store) -> Store:
        await store.close()
        return self._open()


class Etcd:
    least_lease = 1.0

    def __init__(self, server: EtcdServer) -> None:
        self.server = server

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(main)

    async def connect(self) -> EtcdStore:
        return EtcdStore([("127.0.0.1", self.server.port)], timeout=5.0)

    async def forget_history(self, store: Store) -> None:
        revision = (await store.range("")).revision
        async with rpc.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
            await rpc.KVStub(channel).Compact(rpc.CompactionRequest(revision=revision, physical=True))

    async def restart(self, store: Store) -> Store:
        self.server.stop()
        self.server.start()
        return store


@pytest.fixture(params=["embedded", "simulated", "etcd"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    if request.param == "embedded":
        files = SystemFiles()
        yield Embedded(files, SystemClock(), SystemRandom(), str(tmp_path / "store"), asyncio.run)
        files.close()
    elif request.param == "simulated":
        loop, random = SimulatedLoop(), SimulatedRandom(1)
        simulated = SimulatedFiles(random)
        simulated.make_directory("/d")
        yield Embedded(simulated, SimulatedClock(loop), random, "/d/store", loop.run)
        loop.close()
    else:
        server = EtcdServer(tmp_path)
        server.start()
        yield Etcd(server)
        server.stop()


def using(harness: Harness, test: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        store = await harness.connect()
        try:
            await test(store)
        finally:
            await store.close()

    harness.run(main())


async def put(store: Store, key: str, value: bytes, lease: int = 0) -> int:
    return (await store.transact([], [Put(key, value, lease)])).revision


async def next_of(watch: Watch) -> Seen:
    async with asyncio.timeout(20):
        return await anext(aiter(watch))


def test_what_is_put_is_got_and_listed_in_order(harness: Harness) -> None:
    async def test(store: Store) -> None:
        assert await store.get("shares/a") is None
        first = await put(store, "shares/b", b"\0\xff")
        second = await put(store, "shares/a", b"a")
        await put(store, "sharesX", b"another prefix")
        assert 0 < first < second
        assert await store.get("shares/b") == Entry("shares/b", b"\0\xff", first)
        listing = await store.range("shares/")
        assert listing.entries == (Entry("shares/a", b"a", second), Entry("shares/b", b"\0\xff", first))
        assert listing.revision > second
        assert (await store.range("nothing/")).entries == ()

    using(harness, test)


def test_a_transaction_makes_all_its_changes_or_none(harness: Harness) -> None:
    async def test(store: Store) -> None:
        revision = await put(store, "a", b"1")
        done = await store.transact([Condition("a", revision), Condition("b", 0)], [Put("a", b"2"), Put("b", b"2")])
        assert done.done
        a, b = await store.get("a"), await store.get("b")
        assert a is not None and b is not None and a.revision == b.revision == done.revision
        for conditions in ([Condition("a", revision)], [Condition("b", 0)], [Condition("a", a.revision), Condition("c", 7)]):
            refused = await store.transact(conditions, [Put("a", b"3"), Delete("b")])
            assert not refused.done and refused.revision == done.revision
        assert (await store.range("")).entries == (a, b)
        assert (await store.transact([Condition("a", a.revision)], [Delete("a"), Delete("missing")])).done
        assert await store.get("a") is None

    using(harness, test)


def test_of_many_at_once_one_succeeds(harness: Harness) -> None:
    async def test(store: Store) -> None:
        answers = await asyncio.gather(*(store.transact([Condition("leader", 0)], [Put("leader", b"%d" % n)]) for n in range(20)))
        winners = [n for n, answer in enumerate(answers) if answer.done]
        entry = await store.get("leader")
        assert len(winners) == 1 and entry is not None and entry.value == b"%d" % winners[0]

    using(harness, test)


def test_many_transactions_at_once_are_all_made(harness: Harness) -> None:
    async def test(store: Store) -> None:
        async def count() -> None:
            while True:
                entry = await store.get("n")
                revision, value = (entry.revision, int(entry.value)) if entry else (0, 0)
                if (await store.transact([Condition("n", revision)], [Put("n", b"%d" % (value + 1))])).done:
                    return

        await asyncio.gather(*(count() for _ in range(15)))
        entry = await store.get("n")
        assert entry is not None and entry.value == b"15"

    using(harness, test)


def test_a_watch_begins_with_all_there_is_and_goes_on_with_what_changes(harness: Harness) -> None:
    async def test(store: Store) -> None:
        await put(store, "w/a", b"1")
        await put(store, "x", b"1")
        watch = store.watch("w/")
        first = await next_of(watch)
        assert first.complete and [entry.key for entry in first.entries] == ["w/a"]
        both = await store.transact([], [Put("w/b", b"2"), Put("w/a", b"2"), Put("x", b"2")])
        seen = await next_of(watch)
        assert seen.revision == both.revision and not seen.complete and not seen.removed
        assert sorted(seen.entries) == [Entry("w/a", b"2", both.revision), Entry("w/b", b"2", both.revision)]
        await put(store, "x", b"3")
        await store.transact([], [Delete("w/a")])
        seen = await next_of(watch)
        assert seen.removed == ("w/a",) and not seen.entries
        await watch.close()
        with pytest.raises(StopAsyncIteration):
            await next_of(watch)

    using(harness, test)


def test_a_watch_resumes_where_its_reader_left_off(harness: Harness) -> None:
    async def test(store: Store) -> None:
        first = await put(store, "w/a", b"1")
        for n in range(2, 5):
            await put(store, "w/a", b"%d" % n)
        watch = store.watch("w/", after=first)
        values = [(await next_of(watch)).entries[0].value for _ in range(3)]
        assert values == [b"2", b"3", b"4"]
        await watch.close()

    using(harness, test)


def test_a_watch_whose_reader_gives_up_waiting_misses_nothing(harness: Harness) -> None:
    async def test(store: Store) -> None:
        watch = store.watch("w/")
        await next_of(watch)
        for n in range(5):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await anext(aiter(watch))
            await put(store, "w/a", b"%d" % n)
            assert (await next_of(watch)).entries[0].value == b"%d" % n
        await watch.close()

    using(harness, test)


def test_a_closed_store_is_unavailable(harness: Harness) -> None:
    async def main() -> None:
        store = await harness.connect()
        await put(store, "a", b"1")
        watch = store.watch("")
        await next_of(watch)
        waiting = asyncio.ensure_future(next_of(watch))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        for call in (store.get("a"), store.range(""), store.transact([], [Put("a", b"")]), store.lease(5)):
            with pytest.raises(Unavailable):
                await call

    harness.run(main())


def test_a_watch_gets_a_full_listing_for_changes_that_are_forgotten(harness: Harness) -> None:
    async def test(store: Store) -> None:
        first = await put(store, "w/a", b"1")
        await put(store, "w/b", b"1")
        await store.transact([], [Delete("w/a")])
        await put(store, "w/c", b"1")
        await harness.forget_history(store)
        watch = store.watch("w/", after=first)
        seen = await next_of(watch)
        assert seen.complete and [entry.key for entry in seen.entries] == ["w/b", "w/c"]
        await put(store, "w/d", b"1")
        seen = await next_of(watch)
        assert not seen.complete and [entry.key for entry in seen.entries] == ["w/d"]
        await watch.close()

    using(harness, test)


def test_a_lease_that_is_kept_lives_and_one_that_is_not_takes_its_keys_along(harness: Harness) -> None:
    async def test(store: Store) -> None:
        kept, left = await store.lease(harness.least_lease), await store.lease(harness.least_lease)
        assert kept.duration >= harness.least_lease
        await store.transact([], [Put("l/kept", b"", kept.id), Put("l/left", b"", left.id), Put("l/plain", b"")])
        entry = await store.get("l/left")
        assert entry is not None and entry.lease == left.id
        watch = store.watch("l/")
        assert len((await next_of(watch)).entries) == 3
        gone = asyncio.ensure_future(next_of(watch))
        while not gone.done():
            assert await kept.keep()
            await asyncio.sleep(harness.least_lease / 5)
        assert (await gone).removed == ("l/left",)
        assert [entry.key for entry in (await store.range("l/")).entries] == ["l/kept", "l/plain"]
        assert not await left.keep()
        with pytest.raises(NotFound):
            await put(store, "l/again", b"", left.id)
        await kept.revoke()
        await kept.revoke()
        assert (await next_of(watch)).removed == ("l/kept",)
        assert not await kept.keep()
        await watch.close()

    using(harness, test)


def test_everything_is_there_after_the_server_restarts_and_leases_go_on(harness: Harness) -> None:
    async def main() -> None:
        store = await harness.connect()
        lease = await store.lease(max(harness.least_lease, 1.0))
        first = await put(store, "r/a", b"1")
        await put(store, "r/leased", b"", lease.id)
        await store.transact([], [Put("r/b", b"2")])
        store = await harness.restart(store)
        listing = await store.range("r/")
        assert [entry.key for entry in listing.entries] == ["r/a", "r/b", "r/leased"]
        again = await put(store, "r/c", b"3")
        assert again > listing.revision > first
        watch = store.watch("r/leased")
        seen = await next_of(watch)
        if not seen.complete or seen.entries:  # not ended yet
            assert (await next_of(watch)).removed == ("r/leased",)
        await store.close()

    harness.run(main())


async def patient_get(store: Store, key: str) -> Entry | None:
    """Asks until the store is there."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.get(key)
            except Unavailable:
                pass


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_watch_lasts_through_a_restart_of_etcd(etcd: EtcdServer) -> None:
    async def main() -> None:
        store, other = EtcdStore([("127.0.0.1", etcd.port)]), EtcdStore([("127.0.0.1", etcd.port)])
        watch = store.watch("w/")
        await next_of(watch)
        await put(store, "w/a", b"1")
        assert (await next_of(watch)).entries[0].value == b"1"
        etcd.stop()
        waiting = asyncio.ensure_future(next_of(watch))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        etcd.start()
        await put(other, "w/a", b"2")
        assert (await waiting).entries[0].value == b"2"
        await store.close()
        await other.close()

    asyncio.run(main())


def test_a_watch_begins_anew_when_etcd_has_lost_its_data(etcd: EtcdServer) -> None:
    """Its revisions are other ones then; to wait for those that come next would be to wait for long, and to miss what lies between."""

    async def main() -> None:
        store = EtcdStore([("127.0.0.1", etcd.port)])
        for number in range(20):
            await put(store, f"w/{number}", b"1")
        watch = store.watch("w/")
        assert len((await next_of(watch)).entries) == 20
        etcd.lose()
        await put(store, "w/new", b"2")
        seen = await next_of(watch)
        assert seen.complete and len(seen.entries) <= 1
        if not seen.entries:
            seen = await next_of(watch)
        assert [entry.key for entry in seen.entries] == ["w/new"]
        await store.close()

    asyncio.run(main())


def test_while_etcd_is_down_every_call_is_unavailable_in_bounded_time(etcd: EtcdServer) -> None:
    async def main() -> None:
        store = EtcdStore([("127.0.0.1", etcd.port)])
        lease = await store.lease(5)
        etcd.stop()
        store.timeout = 0.5
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.get("a"),
            lambda: store.range("a"),
            lambda: store.transact([], [Put("a", b"")]),
            lambda: store.lease(5),
            lease.keep,
        ]
        for call in calls:
            # The first one may have been on its way when the connection broke.
            with pytest.raises((Unavailable, OutcomeUnknown)):
                async with asyncio.timeout(20):
                    await call()
        with pytest.raises(Unavailable):
            await store.transact([], [Put("a", b"")])
        etcd.start()
        assert await patient_get(store, "a") is None
        await store.close()

    asyncio.run(main())


def test_a_change_that_is_not_answered_is_of_unknown_outcome_and_a_read_resolves_it(etcd: EtcdServer) -> None:
    async def main() -> None:
        store = EtcdStore([("127.0.0.1", etcd.port)])
        await put(store, "a", b"1")
        store.timeout = 1.0
        etcd.freeze()
        with pytest.raises(OutcomeUnknown):
            await store.transact([], [Put("a", b"2")])
        with pytest.raises(Unavailable):
            await store.get("a")
        etcd.thaw()
        entry = await patient_get(store, "a")
        assert entry is not None and entry.value in (b"1", b"2")
        await store.close()

    asyncio.run(main())


def test_calls_under_way_when_the_store_is_closed_end_with_an_outcome(etcd: EtcdServer) -> None:
    async def main() -> None:
        store = EtcdStore([("127.0.0.1", etcd.port)])
        lease = await store.lease(10)
        etcd.freeze()
        reads = [asyncio.ensure_future(call) for call in (store.get("a"), lease.keep())]
        change = asyncio.ensure_future(store.transact([], [Put("a", b"")]))
        await asyncio.sleep(0.2)
        await store.close()
        for read in reads:
            with pytest.raises(Unavailable):
                await read
        with pytest.raises(OutcomeUnknown):
            await change
        cancelled = asyncio.ensure_future(EtcdStore([("127.0.0.1", etcd.port)]).get("a"))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    asyncio.run(main())


def test_calls_go_on_at_another_member_when_one_is_gone(etcd: EtcdServer, tmp_path: Path) -> None:
    async def main() -> None:
        # A port where nobody listens stands for the dead member.
        dead = EtcdServer(tmp_path / "dead").port
        store = EtcdStore([("127.0.0.1", dead), ("127.0.0.1", etcd.port)])
        await put(store, "a", b"1")
        entry = await store.get("a")
        assert entry is not None and entry.value == b"1"
        await store.close()

    asyncio.run(main())
