"""The coordination store of a running node, which does not take an emptied store at its word.

An etcd that has lost its data, and was started again empty, answers as ever: there is no such volume, no such member, no such configuration. Believed,
that would depose every coordinator and evict every node, where losing etcd is to be noticed by nobody until `sofs cluster recover` puts the records
back. So what matters is said only by a store that has the key `cluster`, which is written last of all when one is founded or recovered:

- a change is made on condition that this key is as it was;
- that something is not there, or is not there any more, is believed after a look whether this key is.

Otherwise the store is `Unavailable`, and watches wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from sofs.coordination import Change, Condition, Entry, Lease, Listing, Seen, Store, Transacted, Watch, keys
from sofs.errors import ConfigError, SofsError, Unavailable
from sofs.runtime.ports import Clock

LOST = "the coordination store has lost its records; `sofs cluster recover` puts them back"
LOOK_S = 1.0

log = structlog.get_logger("cluster")


class GuardedStore:
    """`Store` of one cluster. Use `open`."""

    def __init__(self, store: Store, clock: Clock, cluster: Entry) -> None:
        self.clock = clock
        self._store = store
        self._cluster = cluster

    @classmethod
    async def open(cls, store: Store, clock: Clock) -> GuardedStore:
        """Raises `ConfigError` when there is no cluster in it, `Unavailable`."""
        entry = await store.get(keys.CLUSTER)
        if entry is None:
            raise ConfigError(LOST)
        return cls(store, clock, entry)

    def __getattr__(self, name: str) -> Any:
        """What an adapter offers beyond the port."""
        return getattr(self._store, name)

    async def get(self, key: str) -> Entry | None:
        entry = await self._store.get(key)
        if entry is None:
            await self.check()
        return entry

    async def range(self, prefix: str) -> Listing:
        listing = await self._store.range(prefix)
        await self.check()
        return listing

    async def transact(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> Transacted:
        known = self._cluster.revision
        done = await self._store.transact([*conditions, Condition(keys.CLUSTER, known)], changes)
        if done.done:
            return done
        await self.check()
        if self._cluster.revision == known:
            return done
        # The store was recovered meanwhile: with the conditions it is another matter.
        return await self._store.transact([*conditions, Condition(keys.CLUSTER, self._cluster.revision)], changes)

    async def lease(self, duration: float) -> Lease:
        return await self._store.lease(duration)

    def watch(self, prefix: str, after: int = 0) -> Watch:
        return _GuardedWatch(self, prefix, after)

    async def close(self) -> None:
        await self._store.close()

    # For watches

    def watch_unguarded(self, prefix: str, after: int) -> Watch:
        return self._store.watch(prefix, after)

    async def check(self) -> None:
        """Raises `Unavailable` unless the cluster is there."""
        entry = await self._store.get(keys.CLUSTER)
        if entry is None or entry.value != self._cluster.value:
            raise Unavailable(LOST)
        self._cluster = entry


class _GuardedWatch:
    """A watch that waits while the store is not the cluster's, and then begins anew."""

    def __init__(self, store: GuardedStore, prefix: str, after: int) -> None:
        self._store = store
        self._prefix = prefix
        self._watch = store.watch_unguarded(prefix, after)

    def __aiter__(self) -> _GuardedWatch:
        return self

    async def __anext__(self) -> Seen:
        while True:
            seen = await self._watch.__anext__()
            if not (seen.complete or seen.removed) or await self._believed():
                return seen
            await self._watch.close()
            self._watch = self._store.watch_unguarded(self._prefix, 0)

    async def close(self) -> None:
        await self._watch.close()

    async def _believed(self) -> bool:
        """Whether what is gone is gone. If the store has lost its records, answers when it has them again: then all is to be looked at anew."""
        lost = False
        while True:
            try:
                await self._store.check()
                return not lost
            except SofsError as error:
                if str(error) == LOST:
                    if not lost:
                        log.error("coordination.records_lost", prefix=self._prefix)
                    lost = True
                # Else it is down just now: what it said before it went may be the last of a store that was wiped.
            await self._store.clock.sleep(LOOK_S)
