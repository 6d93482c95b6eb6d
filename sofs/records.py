"""What the coordination store holds of disks, pools and volumes, and how it is read and changed.

A record is JSON under its key (`sofs.coordination.keys`). Shares and users are values of the gateways (`gateways.exports.Share`,
`gateways.identity.User`). A change is one compare-and-set transaction; when its outcome is unknown, a read tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from gateways.exports import Share
from gateways.identity import User
from sofs.coordination import Change, Condition, Delete, Entry, OutcomeUnknown, Put, Store, keys
from sofs.encoding import Record
from sofs.errors import ConfigError, Exists, Fenced, NotFound, Unavailable
from sofs.runtime.ports import Random

TRIES = 8
"""Attempts at a change that other changes overtake, before the caller is told to try again."""
RETRY_S = 0.5
"""Between two attempts at a store that is away."""


class GroupRecord(Record, frozen=True, kw_only=True):
    """A group of NFSv4.1 clients, one server instance: where its home is. Changes only by compare-and-set."""

    id: int
    """That of the member it was made for."""
    number: int
    """Its clients' ids begin with it: never given to another group."""
    node: int
    incarnation: int
    """Of the home's process."""
    fences: tuple[int, ...] = ()
    """Incarnations of former homes that did not hand it over: each is to be fenced wherever the group's clients have anything."""
    former: tuple[int, ...] = ()
    """Those of which that is done, the newest last. They cannot be its home any more."""
    tenure: int = 0
    """Grows with each new home: what a home knew in an earlier tenure is worth nothing in a later one."""


class DiskRecord(Record, frozen=True, kw_only=True):
    id: int
    path: str
    """Relative to the data directory if it lies in it, so that the whole can be moved."""
    tier: str
    pool: str
    host: str
    state: str = "healthy"
    node: int = 0
    """The member that has it; 0: of a single node, from before it was a cluster."""


class PoolRecord(Record, frozen=True, kw_only=True):
    name: str


class ReplicaRecord(Record, frozen=True, kw_only=True):
    """One copy of a volume's log, with its records beside it, on one disk."""

    id: int
    disk: int


class VolumeRecord(Record, frozen=True, kw_only=True):
    id: int
    name: str
    pool: str
    policy: str
    log_id: int
    replicas: tuple[ReplicaRecord, ...]


class ConfigurationRecord(Record, frozen=True, kw_only=True):
    """Who serves a volume, and which replicas count (DESIGN section 7); changes only by compare-and-set on `version`."""

    version: int
    replicas: tuple[int, ...]
    memory_broken: bool = False
    coordinator: int = 0
    """The member's id; 0: the single node."""
    incarnation: int = 0
    """Of the coordinator's process."""


R = TypeVar("R", bound=Record)


class Registry:
    """The records, typed, over a store."""

    def __init__(self, store: Store, random: Random) -> None:
        self.store = store
        self._random = random

    # Reading

    async def _all(self, prefix: str, kind: type[R]) -> list[R]:
        listing = await self.store.range(prefix)
        return [kind.decode(entry.value) for entry in listing.entries if entry.key.count("/") == 1]

    async def disks(self) -> list[DiskRecord]:
        return await self._all(keys.DISKS, DiskRecord)

    async def pools(self) -> list[PoolRecord]:
        return await self._all(keys.POOLS, PoolRecord)

    async def volumes(self) -> list[VolumeRecord]:
        return sorted(await self._all(keys.VOLUMES, VolumeRecord), key=lambda volume: volume.name)

    async def shares(self) -> list[Share]:
        return [Share.decode(entry.value) for entry in (await self.store.range(keys.SHARES)).entries]

    async def users(self) -> list[User]:
        return [User.decode(entry.value) for entry in (await self.store.range(keys.USERS)).entries]

    # Changing

    async def put(self, key: str, value: bytes, *others: Change, what: str, replace: bool = False) -> None:
        """Put a new record, and with it `others`. Raises `Exists` unless `replace`; `what` names it for people."""
        for _ in range(TRIES):
            present = await self.store.get(key)
            if present is not None and not replace:
                raise Exists(f"{what} exists already")
            condition = Condition(key, present.revision if present else 0)
            if await self._transact(condition, [Put(key, value), *others], key, value):
                return
        raise Unavailable(f"{what} is being changed by somebody else; try again")

    async def note_disk_state(self, id: int, state: str) -> None:
        """Change a disk's recorded state, unless the disk has been removed: nobody would ever take its record out again."""
        key = keys.disk(id)
        for _ in range(TRIES):
            entry = await self.store.get(key)
            if entry is None:
                return
            value = msgspec.structs.replace(DiskRecord.decode(entry.value), state=state).encode()
            if entry.value == value or await self._transact(Condition(key, entry.revision), [Put(key, value)], key, value):
                return
        raise Unavailable(f"disk {id:016x} is being changed by somebody else; try again")

    async def delete(self, key: str, what: str) -> None:
        """Raises `NotFound`."""
        for _ in range(TRIES):
            present = await self.store.get(key)
            if present is None:
                raise NotFound(f"there is no {what}")
            if await self._transact(Condition(key, present.revision), [Delete(key)], key, None):
                return
        raise Unavailable(f"{what} is being changed by somebody else; try again")

    async def _transact(self, condition: Condition, changes: Sequence[Change], key: str, value: bytes | None) -> bool:
        try:
            return (await self.store.transact([condition], changes)).done
        except OutcomeUnknown:
            found = await self.store.get(key)
            return (found.value if found else None) == value

    async def secret(self, name: str, size: int) -> bytes:
        """Random bytes that are made once and then stay."""
        key = keys.secret(name)
        for _ in range(TRIES):
            present = await self.store.get(key)
            if present is not None:
                return present.value
            value = self._random.bytes(size)
            if await self._transact(Condition(key, 0), [Put(key, value)], key, value):
                return value
        raise Unavailable(f"the secret {name} could not be made; try again")

    async def next_number(self, name: str) -> int:
        """A number that was never given out before under this name."""
        key = keys.counter(name)
        for _ in range(TRIES):
            present = await self.store.get(key)
            number = int(present.value) + 1 if present else 1
            try:
                done = (await self.store.transact([Condition(key, present.revision if present else 0)], [Put(key, b"%d" % number)])).done
            except OutcomeUnknown:
                continue  # a number may be lost; none is given out twice
            if done:
                return number
        raise Unavailable(f"the counter {name} is being changed by others; try again")

    # A volume's configuration

    async def configuration(self, volume: int) -> ConfigurationRecord:
        entry = await self.store.get(keys.configuration(volume))
        if entry is None:
            raise ConfigError(f"volume {volume:016x} has no configuration in the coordination store")
        return ConfigurationRecord.decode(entry.value)

    async def change_configuration(self, volume: int, wanted: ConfigurationRecord) -> None:
        """Put `wanted` in force if it follows the one that is. Raises `Fenced`; `Unavailable`: it is not in force, and was not sent.

        An attempt whose outcome is not known is settled before this ends, however long the store is away: it may yet be made.
        """
        key, value = keys.configuration(volume), wanted.encode()
        entry = await self.store.get(key)
        sent = False
        while entry is None or entry.value != value:  # else an earlier attempt, whose outcome was not known, has done it
            version = ConfigurationRecord.decode(entry.value).version if entry else 0
            if wanted.version != version + 1:
                raise Fenced(f"volume {volume:016x} is at configuration {version}, so {wanted.version} cannot follow")
            try:
                condition = Condition(key, entry.revision if entry else 0)
                if (await self.store.transact([condition], [Put(key, value)])).done:
                    return
            except OutcomeUnknown:
                sent = True
            except Unavailable:
                if not sent:
                    raise
                await asyncio.sleep(RETRY_S)  # this one was not sent, but the one before may yet be made
            entry = await self._get_surely(key)

    async def _get_surely(self, key: str) -> Entry | None:
        while True:
            try:
                return await self.store.get(key)
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    # A volume

    async def volume(self, id: int) -> VolumeRecord:
        """Raises `NotFound`."""
        entry = await self.store.get(keys.volume(id))
        if entry is None:
            raise NotFound(f"there is no volume {id:016x}")
        return VolumeRecord.decode(entry.value)

    async def change_replicas(
        self, volume: int, coordinator: tuple[int, int], change: Callable[[tuple[ReplicaRecord, ...], Collection[int]], tuple[ReplicaRecord, ...]]
    ) -> VolumeRecord:
        """Change where a volume's replicas are, for its coordinator (a node and its incarnation), by compare-and-set.

        `change` is given those there are, and which of them the configuration in force names; it may be asked again. What it answers is put only while
        that configuration stays in force: whoever has been deposed, and does not know it, would else take a replica out that counts.
        Raises `NotFound`, `Fenced`, `Unavailable`.
        """
        key, place = keys.volume(volume), keys.configuration(volume)
        for _ in range(TRIES):
            entry, named = await self.store.get(key), await self.store.get(place)
            if entry is None or named is None:
                raise NotFound(f"volume {volume:016x} has been deleted")
            configuration = ConfigurationRecord.decode(named.value)
            if (configuration.coordinator, configuration.incarnation) != coordinator:
                raise Fenced(f"volume {volume:016x} is coordinated by another process")
            present = VolumeRecord.decode(entry.value)
            wanted = msgspec.structs.replace(present, replicas=change(present.replicas, configuration.replicas))
            if wanted == present:
                return present
            conditions = [Condition(key, entry.revision), Condition(place, named.revision)]
            with suppress(OutcomeUnknown):  # it is looked at again
                if (await self.store.transact(conditions, [Put(key, wanted.encode())])).done:
                    return wanted
        raise Unavailable(f"volume {volume:016x} is being changed by somebody else; try again")
