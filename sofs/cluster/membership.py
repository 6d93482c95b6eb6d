"""Who belongs to the cluster, who of them runs, and who is known to be dead.

These are the coordination store's records as this node knows them, with its own among them. The store is watched, never asked: everything here is
answered from memory, and stays as it was while the store is down. What a node says of itself (`nodes/`) stands under a lease, which is information for
people and for guesses. A process is known to have ended only when `dead/` names its incarnation: its supervisor has reaped it, its successor on the same
data has found it gone, or an operator vouches for it by evicting the node.

A process that finds its own incarnation there, or its node evicted, or another process of its node running, must do nothing more: `on_fenced`.

Feature levels: a release knows all levels up to its own. The cluster's level grows when all members know a higher one, and never goes back, so a
release that does not know it cannot join in any more; until then the newer releases do nothing that the older ones would not understand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import structlog

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.frames import Hello
from sofs.cluster.records import DeadRecord, MemberRecord, NodeRecord
from sofs.coordination import Condition, Delete, Entry, Lease, OutcomeUnknown, Put, Seen, Store, keys
from sofs.encoding import Record
from sofs.errors import ConfigError, NotFound, SofsError, Unavailable
from sofs.runtime.ports import Clock

FEATURES = 1
"""The newest feature level that this release knows."""
LEASE_S = 10.0
KEEP_S = 3.0
RETRY_S = 1.0
TRIES = 8

ACTIVE, DRAINING, EVICTED = "active", "draining", "evicted"
STOPPING = "stopping"
LEVEL = keys.counter("features")

log = structlog.get_logger("cluster")
R = TypeVar("R", bound=Record)


class Membership:
    """One node's part in the cluster. `load`, then `start`; `close` at the end."""

    def __init__(self, store: Store, clock: Clock, node: NodeId, incarnation: Incarnation, boot: str, *, features: int = FEATURES) -> None:
        """`boot` identifies the host's start, as `NodeRecord.boot`."""
        self._store = store
        self._clock = clock
        self.node = node
        self.incarnation = incarnation
        self._features = features
        self.members: dict[NodeId, MemberRecord] = {}
        """By id; evicted ones, too."""
        self.running: dict[NodeId, NodeRecord] = {}
        """Who says that it runs. Neither presence nor absence proves anything."""
        self.dead: dict[NodeId, Incarnation] = {}
        """The incarnation that is known to have ended, of each node of which any is."""
        self.level = 1
        """Of features, that all members know."""
        self.on_fenced: Callable[[str], None] = lambda reason: None
        """This process must not go on; told the reason, once."""
        self._fenced = False
        self._own = NodeRecord(id=node, incarnation=incarnation, boot=boot)
        self._lease: Lease | None = None
        self._announced = False
        self._said = 0
        """The store's revision when it was announced last."""
        self._dead_watchers: list[Callable[[NodeId, Incarnation], None]] = []
        self._watchers: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    # What others ask

    def addresses(self, node: NodeId) -> list[tuple[str, int]]:
        """Where a member's interconnect is, best first; nothing for what is no member."""
        member = self.members.get(node)
        if member is None or member.state == EVICTED:
            return []
        return [endpoint(text) for text in member.addresses]

    def admit(self, hello: Hello) -> str:
        """Why a node that connects is refused; empty if it is not."""
        member = self.members.get(NodeId(hello.node))
        if member is None:
            return f"node {hello.node:016x} is no member of this cluster; `sofs cluster join` makes it one"
        if member.state == EVICTED:
            return f"node {member.name} was evicted from this cluster; clear its data and join anew"
        if hello.features < self.level:
            return f"node {member.name} knows feature level {hello.features}, the cluster is at {self.level}; give it a newer release"
        if self.is_dead(NodeId(hello.node), Incarnation(hello.incarnation)):
            return f"this process of node {member.name} was declared dead; it has to be started again"
        return ""

    @property
    def alive(self) -> dict[NodeId, Incarnation]:
        """Who says that it runs and is not stopping, and is not known to be dead."""
        return {
            node: Incarnation(record.incarnation)
            for node, record in self.running.items()
            if record.state != STOPPING and not self.is_dead(node, Incarnation(record.incarnation))
        }

    def is_dead(self, node: NodeId, incarnation: Incarnation) -> bool:
        """Whether this process is known to have ended."""
        return self.dead.get(node) == incarnation

    def on_dead(self, call: Callable[[NodeId, Incarnation], None]) -> None:
        """Calls with every process that becomes known to have ended."""
        self._dead_watchers.append(call)

    def on_change(self, call: Callable[[], None]) -> None:
        """Calls after every change of members, of who runs, or of the level."""
        self._watchers.append(call)

    # Beginning and end

    async def load(self) -> None:
        """Reads the records. Raises `ConfigError` when this node may not take part, `Unavailable`."""
        revisions = {}
        for prefix in self._followed():
            listing = await self._store.range(prefix)
            self._see(prefix, Seen(listing.revision, listing.entries, complete=True))
            revisions[prefix] = listing.revision
        self._revisions = revisions
        own = self.members.get(self.node)
        if own is None:
            raise ConfigError(
                f"node {self.node:016x} is no member of the cluster any more; `sofs cluster join` makes a new one of a cleared data directory"
            )
        if own.state == EVICTED:
            raise ConfigError(f"node {own.name} was evicted from the cluster; clear its data directory and join anew")
        if self._features < self.level:
            raise ConfigError(
                f"this release knows feature level {self._features}, the cluster is at {self.level}; install a newer release on this node"
            )

    async def start(self, name: str, host: str, addresses: Sequence[str], *, former: Incarnation | None = None) -> None:
        """Takes part from now on: says where this node is, and that it runs. `former` is the process of this node that is known to have ended before this
        one. Raises `Unavailable`."""
        if former is not None:
            # First of all: who waits for that process to be dead need not wait any longer.
            await self._put(keys.dead(self.node), DeadRecord(incarnation=former, by="its successor").encode())
        await self._change_member(self.node, name=name, host=host, addresses=tuple(addresses), features=self._features)
        await self._announce()
        self._tasks = [asyncio.get_running_loop().create_task(self._follow(prefix)) for prefix in self._followed()]
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep()))

    async def announce(self, *, smb: Sequence[str] = (), nfs: Sequence[str] = (), admin: Sequence[str] = ()) -> None:
        """Says where clients find this node. While the store is down it is said later."""
        await self._say(smb=tuple(smb), nfs=tuple(nfs), admin=tuple(admin))

    async def stopping(self) -> None:
        """Says that this node is about to give up what it has, so that others take it without waiting."""
        await self._say(state=STOPPING)

    async def _say(self, **changes: object) -> None:
        self._own = NodeRecord(**{**_fields(self._own), **changes})  # type: ignore[arg-type]
        self._announced = False
        try:
            await self._announce()
        except SofsError as error:
            log.warning("cluster.not_announced", reason=str(error))

    async def close(self) -> None:
        """The last act of a process that serves nothing any more: it is recorded as ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._fenced or not self._tasks:
            return
        try:
            dead = DeadRecord(incarnation=self.incarnation, by="itself, at its end").encode()
            await self._store.transact([], [Put(keys.dead(self.node), dead), Delete(keys.node(self.node))])
            if self._lease is not None:
                await self._lease.revoke()
        except SofsError as error:
            log.info("cluster.end_not_recorded", reason=str(error))

    # Changing members

    async def set_state(self, node: NodeId, state: str) -> None:
        """Active or draining. Raises `NotFound`, `Unavailable`."""
        assert state in (ACTIVE, DRAINING)
        await self._change_member(node, state=state)

    async def _change_member(self, node: NodeId, **changes: object) -> None:
        key = keys.member(node)
        for _ in range(TRIES):
            entry = await self._store.get(key)
            if entry is None:
                raise NotFound(f"node {node:016x} is no member of the cluster")
            record = MemberRecord.decode(entry.value)
            if record.state == EVICTED:
                raise Unavailable(f"node {record.name} was evicted")
            wanted = MemberRecord(**{**_fields(record), **changes})  # type: ignore[arg-type]
            if wanted == record:
                return
            try:
                if (await self._store.transact([Condition(key, entry.revision)], [Put(key, wanted.encode())])).done:
                    return
            except OutcomeUnknown:
                continue  # the next round reads what has become of it
        raise Unavailable(f"the record of node {node:016x} is being changed by others; try again")

    # Following

    def _followed(self) -> dict[str, Callable[[Seen], None]]:
        return {keys.MEMBERS: self._see_members, keys.NODES: self._see_nodes, keys.DEAD: self._see_dead, LEVEL: self._see_level}

    async def _follow(self, prefix: str) -> None:
        async for seen in self._store.watch(prefix, self._revisions[prefix]):
            self._see(prefix, seen)
            if prefix in (keys.MEMBERS, LEVEL):
                await self._raise_level()

    def _see(self, prefix: str, seen: Seen) -> None:
        self._followed()[prefix](seen)
        for call in list(self._watchers):
            _tell(call)

    def _see_members(self, seen: Seen) -> None:
        _take(self.members, seen, MemberRecord)
        own = self.members.get(self.node)
        if own is None or own.state == EVICTED:
            self._fence("this node was evicted from the cluster")

    def _see_nodes(self, seen: Seen) -> None:
        _take(self.running, seen, NodeRecord)
        own = self.running.get(self.node)
        if own is None:
            self._announced = False
        elif own.incarnation != self.incarnation:
            # What the former process said may still be seen behind what this one has said; what is said later is a newer one's.
            said = next((entry.revision for entry in seen.entries if entry.key == keys.node(self.node)), 0)
            if self._said and said > self._said:
                self._fence("another process of this node runs")

    def _see_dead(self, seen: Seen) -> None:
        records: dict[NodeId, DeadRecord] = {}
        _take(records, seen, DeadRecord)
        for node, record in records.items():
            incarnation = Incarnation(record.incarnation)
            if self.dead.get(node) == incarnation:
                continue
            self.dead[node] = incarnation
            log.info("cluster.dead", node=f"{node:016x}", by=record.by)
            for call in list(self._dead_watchers):
                _tell(call, node, incarnation)
        if self.is_dead(self.node, self.incarnation):
            self._fence("this process was declared dead")

    def _see_level(self, seen: Seen) -> None:
        for entry in seen.entries:
            if entry.key == LEVEL:
                self.level = max(self.level, _number(entry))
        if self.level > self._features:
            self._fence(f"the cluster is at feature level {self.level}, this release knows {self._features}")

    def _fence(self, reason: str) -> None:
        if not self._fenced and self._tasks:
            self._fenced = True
            log.error("cluster.fenced", reason=reason)
            _tell(self.on_fenced, reason)

    async def _raise_level(self) -> None:
        known = min((member.features for member in self.members.values() if member.state != EVICTED), default=1)
        if known <= self.level:
            return
        try:
            entry = await self._store.get(LEVEL)
            if entry is None or _number(entry) < known:
                await self._store.transact([Condition(LEVEL, entry.revision if entry else 0)], [Put(LEVEL, b"%d" % known)])
        except SofsError as error:
            log.info("cluster.level_not_raised", reason=str(error))  # any member does it with its next start

    # The lease

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(KEEP_S)
            try:
                if self._lease is None or not await self._lease.keep():
                    self._lease = None
                    self._announced = False
                if not self._announced and not self._fenced:
                    await self._announce()
            except SofsError as error:
                log.info("cluster.lease_not_kept", reason=str(error))
                await self._clock.sleep(RETRY_S)

    async def _announce(self) -> None:
        """Raises `Unavailable`."""
        if self._lease is None:
            self._lease = await self._store.lease(LEASE_S)
        lease = self._lease  # who keeps it may find meanwhile that it has ended
        key = keys.node(self.node)
        for _ in range(TRIES):
            entry = await self._store.get(key)
            if entry is not None and self._tasks and NodeRecord.decode(entry.value).incarnation != self.incarnation:
                # At the start it is the former process's, which is gone. Later it would be a newer one's.
                self._fence("another process of this node runs")
                return
            try:
                condition = Condition(key, entry.revision if entry else 0)
                done = await self._store.transact([condition], [Put(key, self._own.encode(), lease.id)])
                if done.done:
                    self._announced, self._said = True, done.revision
                    return
            except NotFound:
                self._lease = None
                raise Unavailable("the lease ended at once") from None
            except OutcomeUnknown:
                pass  # the next round writes the same again
        raise Unavailable("the record of this node is being changed by others")

    async def _put(self, key: str, value: bytes) -> None:
        """Whatever is there. Raises `Unavailable`."""
        for _ in range(TRIES):
            try:
                await self._store.transact([], [Put(key, value)])
                return
            except OutcomeUnknown:
                await self._clock.sleep(RETRY_S / 10)
        raise Unavailable("the coordination store does not say whether it changes anything")


def endpoint(text: str) -> tuple[str, int]:
    """Host and port of `IP:PORT`. Raises `ConfigError`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{text!r} is no address of an interconnect; write IP:PORT, such as 10.0.0.1:4700")
    return host.strip("[]"), int(port)


def _tell(call: Callable[..., None], *arguments: object) -> None:
    """A mistake of who listens must not end the watch."""
    try:
        call(*arguments)
    except Exception:
        log.exception("cluster.listener_failed")


def _take(records: dict[NodeId, R], seen: Seen, kind: type[R]) -> None:
    """Brings records in line with what was seen. One that cannot be read is left out, and logged."""
    if seen.complete:
        records.clear()
    for key in seen.removed:
        with suppress(ValueError):  # it was none of ours
            records.pop(NodeId(keys.id_of(key)), None)
    for entry in seen.entries:
        try:
            records[NodeId(keys.id_of(entry.key))] = kind.decode(entry.value)
        except (ConfigError, ValueError) as error:
            log.error("cluster.record_unreadable", key=entry.key, reason=str(error))


def _number(entry: Entry) -> int:
    """What a counter says; 0 if that cannot be read."""
    try:
        return int(entry.value)
    except ValueError as error:
        log.error("cluster.record_unreadable", key=entry.key, reason=str(error))
        return 0


def _fields(record: Record) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
