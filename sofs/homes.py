"""Where the homes of NFSv4.1's groups are, and how they move (`gateways.nfs.v4.groups`; PROTOCOLS, "Sessions have a home").

Each member of the cluster has a group of its own. Its record says which process is its home, and changes by compare-and-set only. A home moves in
two ways. It is *handed over*: the home carries out what is under way, and then puts another node into the record. Or it is *adopted*: where the home's
process is gone, or counts as that, another node puts itself into the record and shuts the former one out of the volumes before it does anything there. To
be on the safe side nobody has to be right about who is gone: who was wrongly believed to be finds itself fenced.

A group is adopted by the node that is told to (it gets the group's virtual address), by the first that gets a request of it, or by whoever is next in
line after a moment: clients' leases run out, and delegations are recalled, whether or not their clients come.
"""

import asyncio
import hashlib
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

import structlog
from msgspec import structs

from gateways.nfs.v4.groups import Groups
from sofs.cluster import Answer, Asked, Interconnect, NodeId
from sofs.coordination import Condition, OutcomeUnknown, Put, Seen, keys
from sofs.errors import ConfigError, Fenced, NotFound, PeerError, SofsError, Unavailable
from sofs.processes import Processes
from sofs.records import GroupRecord, Registry
from sofs.runtime.ports import Buffer, Clock

log = structlog.get_logger("nfs")

FORWARD, CLOSED, RELEASE = "nfs.compound", "nfs.closed", "nfs.release"
"""The interconnect's services."""
PATIENCE_S = 40.0
"""How long a COMPOUND waits for a home that cannot be reached."""
ANSWER_S = 120.0
"""What a home may take to answer one."""
RELEASE_S, LOST_S, SILENT_S = 15.0, 1.0, 0.25
"""What a home may take to let a group go, one that has lost the group's address, and one that has also said nothing for `SILENCE_S`."""
SILENCE_S = 2.5
TURN_S = 1.0
"""After so long the first in line adopts a group whose home is gone, then the next ...; after `LOOK_S` one whose home is known to have ended."""
LOOK_S = 0.25
AGAIN_S = 0.01
"""Before a COMPOUND is offered to its home once more; each time twice as long, up to `LOOK_S`."""
MOST_FORMER = 16
LARGE = 64 << 10
"""A payload of this size lies in a buffer of its own."""
_HERE, _ELSEWHERE = b"\1", b"\0"
_NUMBER = struct.Struct(">Q")
_RELEASE = struct.Struct(">QQQ")  # the group's id, the new home's node and incarnation


class Gateway(Protocol):
    """`gateways.nfs.gateway.NfsGateway`, as far as homes concern it."""

    groups: Groups

    def forwarded(self, node: int, header: bytes, message: bytes) -> Coroutine[Any, Any, Sequence[Buffer] | None]: ...


class Homes:
    """One node's view."""

    def __init__(self, registry: Registry, processes: Processes, interconnect: Interconnect, clock: Clock) -> None:
        self._registry = registry
        self._processes = processes
        self._interconnect = interconnect
        self._clock = clock
        self.group_of_address: Callable[[str], int | None] = lambda address: None
        """The group, by its id, that a virtual address of this node belongs to."""
        self.is_elsewhere: Callable[[int], bool] = lambda id: False
        """Whether another node has the virtual address of a group: its clients are there, and the group comes here with the address (`adopt`)."""
        self._gateway: Gateway | None = None
        self._records: dict[int, GroupRecord] = {}
        """By number."""
        self._revisions: dict[int, int] = {}
        self._own = 0
        self._turns: dict[int, asyncio.Lock] = {}
        self._asking: dict[tuple[int, int], set[asyncio.Future[Answer]]] = {}
        """COMPOUNDs that are at a home, by its group's number and its incarnation."""
        self._since: dict[int, float] = {}
        """When the home of a group was first seen to be gone."""
        self._heard: set[NodeId] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self, gateway: Gateway) -> None:
        """Makes this node's own group if there is none, becomes its home if nobody is, and serves the others from now on. Raises `SofsError`."""
        self._gateway = gateway
        self._interconnect.serve(FORWARD, self._forwarded)
        self._interconnect.serve(CLOSED, self._closed)
        self._interconnect.serve(RELEASE, self._asked_to_release)
        self._processes.on_dead(lambda node, incarnation: self._groups.forget(incarnation))
        self._see(await self._listing())
        node = self._interconnect.node
        if not any(record.id == node for record in self._records.values()):
            await self._make(node)
        self._own = next(record.number for record in self._records.values() if record.id == node)
        loop = asyncio.get_running_loop()
        self._tasks |= {loop.create_task(self._follow()), loop.create_task(self._tend()), loop.create_task(self._come_home(node))}

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # gateways.nfs.v4.groups.Homes

    def known(self, group: int) -> bool:
        return group in self._records

    def group_at(self, address: str) -> int:
        id = self.group_of_address(address)
        return next((record.number for record in self._records.values() if record.id == id), self._own)

    async def ask(self, group: int, header: bytes, message: Buffer, wanted: Callable[[], bool]) -> Sequence[Buffer] | None:
        until, pause = self._clock.monotonic() + PATIENCE_S, AGAIN_S
        while wanted():
            record = self._records.get(group)
            if record is None:
                raise NotFound(f"there is no group {group}")
            if self._is_mine(record):
                return None
            try:
                if self._processes.gone(NodeId(record.node), record.incarnation):
                    await self.adopt(record.id)
                    continue
                answer = await self._forward(record, header, message)
                if bytes(answer.body) == _HERE:
                    return [bytes(piece) for piece in answer.payload]
                await self._look_again(record)
            except SofsError as error:
                # It may have been carried out: asked again, it is its slot's repetition.
                log.debug("nfs.home_not_reached", group=group, node=record.node, reason=str(error))
                if self._clock.monotonic() > until:
                    raise Unavailable(f"the home of group {group} cannot be reached") from None
            await self._clock.sleep(pause)
            pause = min(pause * 2, LOOK_S)
        # Its client has gone on elsewhere: late, and at a new home, it could be taken for the newest of its slot.
        raise Unavailable("nobody waits for it any more")

    async def _forward(self, record: GroupRecord, header: bytes, message: Buffer) -> Answer:
        """Raises `Unavailable`, too, as soon as the home has been shut out: it may be silent, which the interconnect puts up with for seconds."""
        asking = asyncio.ensure_future(self._interconnect.peer(NodeId(record.node)).call(FORWARD, header, (message,), deadline_s=ANSWER_S))
        there = self._asking.setdefault((record.number, record.incarnation), set())
        there.add(asking)
        try:
            return await asking
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Unavailable("it was silent, and another node is the home now") from None
        finally:
            there.discard(asking)
            if not there:
                self._asking.pop((record.number, record.incarnation), None)

    def forget(self, groups: Iterable[int], connection: int) -> None:
        for node in {record.node for group in groups if (record := self._records.get(group)) is not None}:
            if node != self._interconnect.node:
                self._interconnect.peer(NodeId(node)).notify(CLOSED, _NUMBER.pack(connection))

    # Serving other nodes

    def _forwarded(self, asked: Asked) -> "asyncio.Future[Answer]":
        header = bytes(asked.body)
        message = asked.payload if len(asked.payload) >= LARGE else bytes(asked.payload)
        self._hear(asked)
        assert self._gateway is not None
        return asyncio.ensure_future(self._answer(self._gateway.forwarded(asked.incarnation, header, message)))  # type: ignore[arg-type]

    @staticmethod
    async def _answer(work: Coroutine[Any, Any, Sequence[Buffer] | None]) -> Answer:
        pieces = await work
        return Answer(_ELSEWHERE) if pieces is None else Answer(_HERE, pieces)

    def _hear(self, asked: Asked) -> None:
        """Forgets the connections of a node that can no longer tell of their end."""
        if asked.node not in self._heard:
            self._heard.add(asked.node)
            peer = self._interconnect.peer(asked.node)
            peer.on_change(lambda connected: None if connected else self._groups.forget(peer.incarnation))

    def _closed(self, asked: Asked) -> Answer:
        (connection,) = _unpacked(_NUMBER, asked)
        self._groups.forget(asked.incarnation, connection)
        return Answer(b"")

    def _asked_to_release(self, asked: Asked) -> Awaitable[Answer]:
        return self._release(*_unpacked(_RELEASE, asked))

    async def _release(self, id: int, node: int, incarnation: int) -> Answer:
        await self._hand_over(id, NodeId(node), incarnation)
        return Answer(b"")

    # Homes move

    async def adopt(self, id: int, lost: bool = False) -> None:
        """Makes this node the home of a group: one that lives is asked to hand it over. `lost` says that the home has lost the group's address, so if it does
        not answer either that will do. Whatever the former home may still do for the group takes no effect where this node has begun to serve it. Raises
        `Unavailable` when the home lives and does not let go, and `NotFound`."""
        async with self._turns.setdefault(id, asyncio.Lock()):
            while True:
                entry = await self._registry.store.get(keys.group(id))
                if entry is None:
                    raise NotFound(f"there is no group {id:016x}")
                record = GroupRecord.decode(entry.value)
                if self._is_mine(record):
                    self._note(record, entry.revision)
                    return
                node, incarnation = self._processes.me
                self._check_shut_out(record, incarnation)
                if not self._processes.gone(NodeId(record.node), record.incarnation) and await self._lets_go(record, lost):
                    continue
                log.warning("nfs.group_adopted", group=record.number, former=record.node)
                await self._change(entry.revision, _moved(record, node, incarnation, record.incarnation))

    async def _lets_go(self, record: GroupRecord, lost: bool) -> bool:
        """Asks the home to hand the group over; false if that is beyond asking. Raises `SofsError`."""
        peer = self._interconnect.peer(NodeId(record.node))

        def silent() -> bool:
            return bool(peer.heard) and self._clock.monotonic() - peer.heard > SILENCE_S

        wait_s = RELEASE_S if not lost else SILENT_S if silent() else LOST_S
        try:
            await peer.call(RELEASE, _RELEASE.pack(record.id, *self._processes.me), deadline_s=wait_s)
        except SofsError:
            if not lost or (peer.connected and not silent()):
                raise
            return False
        return True

    async def hand_over(self, id: int, to: int) -> None:
        """Another node is to be the home of a group that is here; its clients notice nothing. Raises `Unavailable`, `NotFound`: then it stays."""
        incarnation = self._processes.running(NodeId(to))
        if incarnation is None:
            raise Unavailable(f"node {to:016x} does not run")
        await self._hand_over(id, NodeId(to), incarnation)

    async def hand_over_all(self, candidates: Sequence[int] = (), ends: bool = False) -> None:
        """Hands over all that are here, in turn to the candidates or those who run; what cannot be handed over is left to be adopted. For a node that is
        drained, or `ends`."""
        self._stopping = ends
        others = [node for node in candidates or self._processes.candidates() if node != self._interconnect.node]
        mine = [record for record in self._records.values() if self._is_mine(record)]
        for place, record in enumerate(mine):
            for attempt in range(len(others)):
                try:
                    await self.hand_over(record.id, others[(place + attempt) % len(others)])
                    break
                except SofsError as error:
                    log.warning("nfs.group_not_handed_over", group=record.number, reason=str(error))

    async def _hand_over(self, id: int, to: NodeId, incarnation: int) -> None:
        async with self._turns.setdefault(id, asyncio.Lock()):
            entry = await self._registry.store.get(keys.group(id))
            if entry is None:
                raise NotFound(f"there is no group {id:016x}")
            record = GroupRecord.decode(entry.value)
            if (record.node, record.incarnation) == (to, incarnation):
                return
            if not self._is_mine(record):
                raise Unavailable(f"group {record.number} is not here any more")
            if incarnation in (*record.fences, *record.former):
                raise Fenced(f"that process of node {to:016x} was shut out as a former home of group {record.number}")
            await self._groups.release(record.number)
            done = False
            try:
                done = await self._change(entry.revision, _moved(record, to, incarnation))
            finally:
                if not done:
                    self._note(self._records[record.number], self._revisions[record.number])  # it is taken up again, if it is still to be here
            if not done:
                raise Unavailable(f"group {record.number} has not been handed over")

    async def _change(self, revision: int, wanted: GroupRecord) -> bool:
        """Compare-and-set. Whether it was done is found out, however long that takes, and taken note of. Raises `Unavailable`: it was not."""
        key = keys.group(wanted.id)
        try:
            result = await self._registry.store.transact([Condition(key, revision)], [Put(key, wanted.encode())])
        except OutcomeUnknown as error:
            log.info("nfs.group_unknown", group=wanted.number, reason=str(error))
            return await self._find_out(key, revision, wanted)
        if result.done:
            self._note(wanted, result.revision)
        else:
            await self._look_again(wanted)
        return result.done

    async def _find_out(self, key: str, revision: int, wanted: GroupRecord) -> bool:
        """What has become of a change. As long as nothing has, it may yet be made; so another one takes its place, which changes nothing but the tenure."""
        while True:
            try:
                entry = await self._registry.store.get(key)
                if entry is None:
                    return False
                found = GroupRecord.decode(entry.value)
                if entry.revision != revision:
                    self._note(found, entry.revision)
                    return entry.value == wanted.encode()
                barrier = structs.replace(found, tenure=found.tenure + 1)
                await self._registry.store.transact([Condition(key, revision)], [Put(key, barrier.encode())])
            except (Unavailable, OutcomeUnknown):
                await self._clock.sleep(TURN_S)

    def _check_shut_out(self, record: GroupRecord, incarnation: int) -> None:
        """Raises `Fenced` where this process was a home of the group that others have shut out: it has to be started again."""
        if incarnation in (*record.fences, *record.former):
            self._groups.on_fenced()
            raise Fenced(f"this process was shut out as a former home of group {record.number}")

    async def _make(self, node: int) -> None:
        number = await self._registry.next_number("groups")
        record = GroupRecord(id=node, number=number, node=node, incarnation=self._interconnect.incarnation)
        await self._registry.put(keys.group(node), record.encode(), what=f"group {node:016x}")
        self._see(await self._listing())

    async def _come_home(self, node: int) -> None:
        """This node's own group lives here, if whoever has it lets it go: when the node starts, and when it is no longer drained. Not without its address: each
        request would be forwarded by the node that has it, which would have to wait for this one if it fell silent."""
        wanted = True
        while not self._stopping:
            if not self._takes_part:
                wanted = True
            elif wanted and not self.is_elsewhere(node):
                try:
                    await self.adopt(node)
                    wanted = False
                except Fenced:
                    return
                except SofsError as error:
                    log.info("nfs.group_not_home", reason=str(error) or type(error).__name__)
            await self._clock.sleep(TURN_S)

    @property
    def _takes_part(self) -> bool:
        """It is neither drained nor about to end."""
        return not self._stopping and self._interconnect.node in self._processes.candidates()

    async def _tend(self) -> None:
        """Adopts groups whose homes are gone when it is this node's turn, and takes note of fences that are done."""
        while True:
            await self._clock.sleep(LOOK_S)
            for record in list(self._records.values()):
                try:
                    await self._look_after(record)
                except SofsError as error:
                    log.info("nfs.group_not_tended", group=record.number, reason=str(error) or type(error).__name__)

    async def _look_after(self, record: GroupRecord) -> None:
        if self._is_mine(record):
            service = self._groups.here.get(record.number)
            if record.fences and service is not None and service.all_shut:
                entry = await self._registry.store.get(keys.group(record.id))
                if entry is not None and entry.value == record.encode():
                    former = tuple(dict.fromkeys((*record.former, *record.fences)))[-MOST_FORMER:]
                    await self._change(entry.revision, structs.replace(record, fences=(), former=former))
            return
        if not self._takes_part or not self._processes.gone(NodeId(record.node), record.incarnation):
            self._since.pop(record.number, None)
            return
        now = self._clock.monotonic()
        turn = LOOK_S if self._processes.ended(NodeId(record.node), record.incarnation) else TURN_S
        if now - self._since.setdefault(record.number, now) > turn * (1 + self._place(record)):
            await self.adopt(record.id)

    def _place(self, record: GroupRecord) -> int:
        """This node's place in line, another one for each group."""

        def order(node: NodeId) -> bytes:
            return hashlib.blake2b(b"%d %d" % (record.number, node), digest_size=8).digest()

        line = sorted(self._processes.candidates(), key=order)
        return line.index(self._interconnect.node) if self._interconnect.node in line else len(line)

    # Records

    @property
    def _groups(self) -> Groups:
        assert self._gateway is not None
        return self._gateway.groups

    def _is_mine(self, record: GroupRecord) -> bool:
        return (record.node, record.incarnation) == self._processes.me

    async def _listing(self) -> Seen:
        listing = await self._registry.store.range(keys.GROUPS)
        return Seen(listing.revision, listing.entries, complete=True)

    async def _look_again(self, record: GroupRecord) -> None:
        """The home says that it is none."""
        entry = await self._registry.store.get(keys.group(record.id))
        if entry is not None:
            self._note(GroupRecord.decode(entry.value), entry.revision)

    async def _follow(self) -> None:
        async for seen in self._registry.store.watch(keys.GROUPS):
            await self._seen(seen)

    async def _seen(self, seen: Seen) -> None:
        """What the watch tells. A whole listing that is older than what is known comes late, or from a store that has taken the place of one which was lost,
        and counts its revisions from the start: a look that begins now can tell."""
        known = max(self._revisions.values(), default=0)
        while seen.complete and seen.revision < known:
            try:
                seen = await self._listing()
            except SofsError:
                await self._clock.sleep(TURN_S)
                continue
            if seen.revision < known:
                self._revisions.clear()
            break
        self._see(seen)

    def _see(self, seen: Seen) -> None:
        for entry in seen.entries:
            try:
                self._note(GroupRecord.decode(entry.value), entry.revision)
            except ConfigError as error:
                log.warning("group_record_unreadable", key=entry.key, reason=str(error))

    def _note(self, record: GroupRecord, revision: int) -> None:
        """What is known of a group by now. Who is its home takes it; who was one gives it up."""
        if revision < self._revisions.get(record.number, 0):
            return  # what a watch tells late
        self._records[record.number], self._revisions[record.number] = record, revision
        self._groups.look_again()
        for former in record.fences:
            for asking in self._asking.get((record.number, former), ()):
                asking.cancel()
        if self._is_mine(record):
            self._groups.take(record.number, record.fences, record.tenure)
        elif self._groups.has(record.number):
            self._groups.give_up(record.number)


def _moved(record: GroupRecord, node: int, incarnation: int, *shut_out: int) -> GroupRecord:
    """With another home; the former one is shut out if it is named."""
    fences = tuple(dict.fromkeys((*record.fences, *shut_out)))
    return structs.replace(record, node=node, incarnation=incarnation, fences=fences, tenure=record.tenure + 1)


def _unpacked(layout: struct.Struct, asked: Asked) -> tuple[int, ...]:
    """Raises `PeerError`."""
    if len(asked.body) != layout.size:
        raise PeerError(f"a message about a group of {len(asked.body)} bytes")
    return layout.unpack(asked.body)
