"""What the coordination store said last, kept in memory: decisions rest on it while the store is away.

It may be old: who acts on it changes records by compare-and-set, which fails if somebody else was there first. A volume's configuration
only ever moves forward here, whatever arrives late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import structlog

from sofs.cluster.records import DeadRecord, MemberRecord, NodeRecord
from sofs.coordination import Entry, Seen, keys
from sofs.encoding import Record
from sofs.errors import ConfigError
from sofs.records import ConfigurationRecord, DiskRecord, PoolRecord, Registry, VolumeRecord
from sofs.volume.duties import begin

log = structlog.get_logger("node")

PREFIXES = (keys.MEMBERS, keys.DEAD, keys.NODES, keys.POOLS, keys.DISKS, keys.VOLUMES)

R = TypeVar("R", bound=Record)


class View:
    """Records by id (pools by name), as they were last seen."""

    def __init__(self, registry: Registry) -> None:
        self._store = registry.store
        self.members: dict[int, MemberRecord] = {}
        self.dead: dict[int, int] = {}
        """By node: the incarnation of its process that is known to have ended."""
        self.running: dict[int, NodeRecord] = {}
        """Processes that say that they run. That one does not says nothing."""
        self.pools: dict[str, PoolRecord] = {}
        self.disks: dict[int, DiskRecord] = {}
        self.volumes: dict[int, VolumeRecord] = {}
        self.configurations: dict[int, ConfigurationRecord] = {}
        self._calls: list[Callable[[str, Collection[int]], None]] = []
        self._watching: list[asyncio.Task[None]] = []

    def ended(self, nodes: Collection[int]) -> set[int]:
        """Those of these nodes whose process is known to have ended, with no newer one announced."""
        announced = {id: self.running[id].incarnation for id in nodes if id in self.running}
        return {id for id in nodes if id in self.dead and announced.get(id, self.dead[id]) == self.dead[id]}

    def on_change(self, call: Callable[[str, Collection[int]], None]) -> None:
        """Has `call` run after each change, with the prefix of `sofs.coordination.keys` that it lies below, and the ids that it is about."""
        self._calls.append(call)

    async def open(self) -> None:
        """Reads all there is, and follows it from there on. Raises `Unavailable`."""
        for prefix in PREFIXES:
            listing = await self._store.range(prefix)
            self._take(prefix, Seen(listing.revision, listing.entries, complete=True))
            self._watching.append(begin(self._follow(prefix, listing.revision), f"watching {prefix}"))

    async def close(self) -> None:
        for watching in self._watching:
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self._watching = []

    async def _follow(self, prefix: str, revision: int) -> None:
        watch = self._store.watch(prefix, revision)
        try:
            async for seen in watch:
                self._take(prefix, seen)
        except asyncio.CancelledError:
            await watch.close()
            raise

    def configured(self, volume: int, configuration: ConfigurationRecord) -> None:
        """Notes a configuration that is known to have come into force, before the watch says so."""
        known = self.configurations.get(volume)
        if known is None or configuration.version > known.version:
            self.configurations[volume] = configuration
            self._tell(keys.VOLUMES, (volume,))

    def _take(self, prefix: str, seen: Seen) -> None:
        removed: Iterable[str] = seen.removed
        if seen.complete:
            there = {entry.key for entry in seen.entries}
            removed = [key for key in self._keys(prefix) if key not in there]
        for key in removed:
            self._forget(prefix, key)
        for entry in seen.entries:
            try:
                self._put(prefix, entry)
            except ConfigError as error:
                # Of a newer release, perhaps: it must not keep the others from being seen.
                log.error("record.not_understood", key=entry.key, reason=str(error))
        changed = [*removed, *(entry.key for entry in seen.entries)]
        self._tell(prefix, set() if prefix == keys.POOLS else {keys.id_of(key) for key in changed})

    def _tell(self, prefix: str, ids: Collection[int]) -> None:
        for call in tuple(self._calls):
            call(prefix, ids)

    def _keys(self, prefix: str) -> list[str]:
        if prefix == keys.POOLS:
            return [keys.pool(name) for name in self.pools]
        if prefix == keys.VOLUMES:
            return [*map(keys.volume, self.volumes), *map(keys.configuration, self.configurations)]
        if prefix == keys.MEMBERS:
            return list(map(keys.member, self.members))
        if prefix == keys.NODES:
            return list(map(keys.node, self.running))
        return list(map(keys.dead, self.dead)) if prefix == keys.DEAD else list(map(keys.disk, self.disks))

    def _put(self, prefix: str, entry: Entry) -> None:
        if prefix == keys.POOLS:
            self.pools[keys.name_of(entry.key)] = PoolRecord.decode(entry.value)
            return
        id = keys.id_of(entry.key)
        if prefix == keys.MEMBERS:
            self.members[id] = MemberRecord.decode(entry.value)
        elif prefix == keys.DEAD:
            self.dead[id] = DeadRecord.decode(entry.value).incarnation
        elif prefix == keys.NODES:
            self.running[id] = NodeRecord.decode(entry.value)
        elif prefix == keys.DISKS:
            self.disks[id] = DiskRecord.decode(entry.value)
        elif entry.key.endswith(keys.CONFIGURATION):
            fresh = ConfigurationRecord.decode(entry.value)
            known = self.configurations.get(id)
            if known is None or fresh.version > known.version:
                self.configurations[id] = fresh
        else:
            self.volumes[id] = VolumeRecord.decode(entry.value)

    def _forget(self, prefix: str, key: str) -> None:
        if prefix == keys.POOLS:
            self.pools.pop(keys.name_of(key), None)
            return
        id = keys.id_of(key)
        if prefix == keys.MEMBERS:
            self.members.pop(id, None)
        elif prefix == keys.DEAD:
            self.dead.pop(id, None)
        elif prefix == keys.NODES:
            self.running.pop(id, None)
        elif prefix == keys.DISKS:
            self.disks.pop(id, None)
        elif key.endswith(keys.CONFIGURATION):
            self.configurations.pop(id, None)
        else:
            self.volumes.pop(id, None)
