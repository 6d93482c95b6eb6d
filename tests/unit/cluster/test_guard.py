"""A store that has lost its records is not believed by a node that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sofs.cluster import NodeId
from sofs.cluster.founding import found
from sofs.cluster.guard import GuardedStore
from sofs.cluster.membership import Membership
from sofs.coordination import Condition, Delete, Put, Seen, keys
from sofs.errors import ConfigError, Unavailable
from tests.unit.cluster.test_membership import CLUSTER, Rig, as_is, member, simulate


def on_store(main: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def run(loop: Any) -> None:
        await main(Rig(loop))

    simulate(run)


async def lose(rig: Rig) -> dict[str, bytes]:
    """All records, which are gone then."""
    entries = (await rig.store.range("")).entries
    await rig.store.transact([], [Delete(entry.key) for entry in entries])
    return {entry.key: entry.value for entry in entries}


def test_nothing_is_read_or_changed_in_a_store_without_its_cluster() -> None:
    async def main(rig: Rig) -> None:
        await found(rig.store, member(1), CLUSTER, rig.clock.now(), [], as_is)
        store = await GuardedStore.open(rig.store, rig.clock)
        assert await store.get("shares/none") is None
        assert (await store.transact([], [Put("shares/x", b"1")])).done
        assert not (await store.transact([Condition("shares/x", 0)], [Put("shares/x", b"2")])).done
        records = await lose(rig)
        for question in (store.get("shares/x"), store.range("members/"), store.transact([Condition("shares/x", 0)], [Put("shares/x", b"3")])):
            with pytest.raises(Unavailable, match="recover"):
                await question
        assert await rig.store.get("shares/x") is None
        with pytest.raises(ConfigError):
            await GuardedStore.open(rig.store, rig.clock)
        await rig.store.transact([], [Put(key, value) for key, value in records.items()])
        entry = await store.get("shares/x")
        assert entry is not None and entry.value == b"1"
        assert (await store.transact([Condition("shares/x", entry.revision)], [Put("shares/x", b"4")])).done
        await rig.store.transact([], [Put(keys.CLUSTER, b'{"id":"another"}')])
        with pytest.raises(Unavailable):
            await store.range("shares/")

    on_store(main)


def test_a_watch_waits_until_the_records_are_back() -> None:
    async def main(rig: Rig) -> None:
        await found(rig.store, member(1), CLUSTER, rig.clock.now(), [], as_is)
        store = await GuardedStore.open(rig.store, rig.clock)
        await store.transact([], [Put("shares/x", b"1"), Put("shares/y", b"1")])
        seen: list[Seen] = []

        async def follow() -> None:
            async for each in store.watch("shares/"):
                seen.append(each)

        task = asyncio.ensure_future(follow())
        await asyncio.sleep(1)
        await store.transact([], [Delete("shares/y")])
        await asyncio.sleep(1)
        assert [each.removed for each in seen] == [(), ("shares/y",)]
        records = await lose(rig)
        await asyncio.sleep(60)
        assert len(seen) == 2
        await rig.store.transact([], [Put(key, value) for key, value in records.items()])
        await asyncio.sleep(10)
        assert seen[-1].complete and [entry.key for entry in seen[-1].entries] == ["shares/x"] and not seen[-1].removed
        task.cancel()

    on_store(main)


def test_no_member_takes_itself_for_evicted_when_the_records_are_lost() -> None:
    async def main(rig: Rig) -> None:
        await rig.begin(2)
        node = Membership(await GuardedStore.open(rig.store, rig.clock), rig.clock, NodeId(1), 101, "boot")  # type: ignore[arg-type]
        fences: list[str] = []
        node.on_fenced = fences.append
        await node.load()
        await node.start("n1", "h1", ["10.0.0.1:4700"])
        await asyncio.sleep(1)
        records = await lose(rig)
        await asyncio.sleep(120)
        assert not fences and node.addresses(NodeId(2)) and set(node.members) == {1, 2}
        await rig.store.transact([], [Put(key, value) for key, value in records.items() if not key.startswith(keys.NODES)])
        await asyncio.sleep(20)
        assert node.alive == {1: 101} and not fences

    on_store(main)
