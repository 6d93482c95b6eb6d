"""Records in the coordination store: made once, changed by compare-and-set, and settled when an outcome is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from sofs.coordination import Change, Condition, OutcomeUnknown, Store, Transacted, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.errors import ConfigError, Exists, Fenced, NotFound, Unavailable
from sofs.records import ConfigurationRecord, PoolRecord, Registry
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles


class Doubtful:
    """A store whose answers to changes are lost, `count` of them; the changes are made, or not, as `made` says."""

    def __init__(self, store: Store, count: int, made: bool) -> None:
        self._store = store
        self._count = count
        self._made = made
        self.get = store.get
        self.range = store.range

    async def transact(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> Transacted:
        if self._count == 0:
            return await self._store.transact(conditions, changes)
        self._count -= 1
        if self._made:
            await self._store.transact(conditions, changes)
        raise OutcomeUnknown("the answer was lost")


def with_store(tmp_path: Path, work: Callable[[EmbeddedStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = EmbeddedStore.open(SystemFiles(), SystemClock(), SystemRandom(), str(tmp_path / "store"))
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


def registry(store: object) -> Registry:
    return Registry(store, SystemRandom())  # type: ignore[arg-type]


POOL = PoolRecord(name="p").encode()


def test_a_record_is_made_once_and_deleted_once(tmp_path: Path) -> None:
    async def work(store: EmbeddedStore) -> None:
        records = registry(store)
        await records.put(keys.pool("p"), POOL, what="pool p")
        with pytest.raises(Exists, match="pool p exists already"):
            await records.put(keys.pool("p"), POOL, what="pool p")
        assert [pool.name for pool in await records.pools()] == ["p"]
        await records.delete(keys.pool("p"), "pool p")
        with pytest.raises(NotFound, match="there is no pool p"):
            await records.delete(keys.pool("p"), "pool p")

    with_store(tmp_path, work)


@pytest.mark.parametrize("made", [True, False])
def test_a_change_of_unknown_outcome_is_settled_by_a_read(tmp_path: Path, made: bool) -> None:
    async def work(store: EmbeddedStore) -> None:
        await registry(Doubtful(store, 2, made)).put(keys.pool("p"), POOL, what="pool p")
        assert [pool.name for pool in await registry(store).pools()] == ["p"]

    with_store(tmp_path, work)


@pytest.mark.parametrize("made", [True, False])
def test_no_number_is_given_out_twice_even_when_answers_are_lost(tmp_path: Path, made: bool) -> None:
    async def work(store: EmbeddedStore) -> None:
        numbers = [await registry(store).next_number("share")]
        numbers += [await registry(Doubtful(store, 1, made)).next_number("share") for _ in range(3)]
        numbers += [await registry(store).next_number("share")]
        assert len(set(numbers)) == 5

    with_store(tmp_path, work)


def test_a_secret_stays_what_it_is(tmp_path: Path) -> None:
    async def work(store: EmbeddedStore) -> None:
        first = await registry(store).secret("key", 32)
        assert len(first) == 32 and await registry(store).secret("key", 32) == first

    with_store(tmp_path, work)


def test_a_configuration_follows_the_one_before_or_is_fenced(tmp_path: Path) -> None:
    async def work(store: EmbeddedStore) -> None:
        records = registry(store)
        await records.change_configuration(7, ConfigurationRecord(version=1, replicas=(1, 2)))
        await records.change_configuration(7, ConfigurationRecord(version=2, replicas=(1,)))
        await records.change_configuration(7, ConfigurationRecord(version=2, replicas=(1,)))  # tried again
        for late in (ConfigurationRecord(version=2, replicas=(2,)), ConfigurationRecord(version=4, replicas=(1,))):
            with pytest.raises(Fenced):
                await records.change_configuration(7, late)
        assert await records.configuration(7) == ConfigurationRecord(version=2, replicas=(1,))
        assert await records.volumes() == [], "a configuration is no volume"

    with_store(tmp_path, work)


class Late:
    """A store that does not say what became of the first change, and makes it when a second one could not be sent."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._first: tuple[Sequence[Condition], Sequence[Change]] | None = None
        self.asked = 0
        self.get = store.get
        self.range = store.range

    async def transact(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> Transacted:
        self.asked += 1
        if self.asked == 1:
            self._first = conditions, changes
            raise OutcomeUnknown("no answer")
        if self.asked == 2:
            assert self._first is not None
            await self._store.transact(*self._first)
            raise Unavailable("no member can be reached")
        return await self._store.transact(conditions, changes)


def test_a_change_that_may_have_been_sent_is_settled_although_it_cannot_be_sent_again(tmp_path: Path) -> None:
    async def work(store: EmbeddedStore) -> None:
        wanted = ConfigurationRecord(version=1, replicas=(1, 2))
        records = registry(Late(store))
        await records.change_configuration(7, wanted)
        assert await records.configuration(7) == wanted

    with_store(tmp_path, work)


def test_a_record_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PoolRecord in the coordination store"):
        PoolRecord.decode(b'{"nam": 1}')
