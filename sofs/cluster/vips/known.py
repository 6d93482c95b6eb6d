"""What a node knows of virtual addresses and of the cluster: the store's records as it heard of them last, and who is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from sofs.cluster.vips.records import HolderRecord, KeeperRecord, VipRecord
from sofs.coordination import Entry, Seen, Store, keys
from sofs.errors import ConfigError

log = structlog.get_logger("vips")


class Facts(NamedTuple):
    """What is known of the cluster, as it was heard of last."""

    members: Mapping[int, str]
    """Each member's state."""
    dead: Mapping[int, int]
    """By node, the incarnation that is known to have ended."""
    coordinators: Mapping[int, int]
    """By volume."""


class Holding(NamedTuple):
    """A holder's record, as it was seen last."""

    record: HolderRecord
    revision: int
    lease: int


class Known:
    """The records, followed from `open` on; whoever claims an address notes what it has read itself."""

    def __init__(self, store: Store, facts: Callable[[], Facts], changed: Callable[[], None]) -> None:
        """`changed` is called behind each change of the store's records."""
        self._store, self.facts, self._changed = store, facts, changed
        self.records: dict[str, VipRecord] = {}
        self.holders: dict[str, Holding] = {}
        self.keepers: dict[int, KeeperRecord] = {}
        """By node, the process that takes addresses on."""
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Raises `Unavailable`."""
        for prefix, take_in in ((keys.VIPS, self._take_in), (keys.KEEPERS, self._take_in_keepers)):
            listing = await self._store.range(prefix)
            take_in(Seen(listing.revision, listing.entries, complete=True))
            self._tasks.append(asyncio.create_task(self._follow(prefix, listing.revision, take_in)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def holder(self, address: str) -> HolderRecord | None:
        """Who has it, unless that process is known to be dead."""
        found = self.holders.get(address)
        if found is None or self.facts().dead.get(found.record.node) == found.record.incarnation:
            return None
        return found.record

    def note(self, address: str, entry: Entry | None) -> None:
        """What has just been read of its holder."""
        if entry is None:
            self.holders.pop(address, None)
        else:
            self.holders[address] = Holding(HolderRecord.decode(entry.value), entry.revision, entry.lease)

    def candidates(self) -> set[int]:
        """The nodes that take addresses on."""
        facts = self.facts()
        return {id for id, keeper in self.keepers.items() if facts.members.get(id) == "active" and facts.dead.get(id) != keeper.incarnation}

    def bound(self) -> set[int]:
        """Those of them who may not claim anything yet that has no holder."""
        return {id for id, keeper in self.keepers.items() if keeper.bound}

    async def _follow(self, prefix: str, revision: int, take_in: Callable[[Seen], None]) -> None:
        watch = self._store.watch(prefix, revision)
        try:
            async for seen in watch:
                take_in(seen)
                self._changed()
        finally:
            await watch.close()

    def _take_in_keepers(self, seen: Seen) -> None:
        if seen.complete:
            self.keepers.clear()
        for key in seen.removed:
            self.keepers.pop(keys.id_of(key), None)
        for entry in seen.entries:
            try:
                self.keepers[keys.id_of(entry.key)] = KeeperRecord.decode(entry.value)
            except ConfigError as error:
                log.error("record.not_understood", key=entry.key, reason=str(error))

    def _take_in(self, seen: Seen) -> None:
        if seen.complete:
            self.records.clear()
            self.holders.clear()
        for key in seen.removed:
            (self.holders if key.endswith(keys.HOLDER) else self.records).pop(keys.name_of(key), None)
        for entry in seen.entries:
            try:
                address = keys.name_of(entry.key)
                if entry.key.endswith(keys.HOLDER):
                    self.note(address, entry)
                else:
                    self.records[address] = VipRecord.decode(entry.value)
            except ConfigError as error:
                log.error("record.not_understood", key=entry.key, reason=str(error))
