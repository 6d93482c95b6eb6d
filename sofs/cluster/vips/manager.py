"""A node's virtual addresses: claimed, kept and given away as `placing` says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import structlog

from sofs.cluster import Answer, Asked, Incarnation, Interconnect, NodeId
from sofs.cluster.vips.lasting import Lasting, Promises
from sofs.cluster.vips.placing import Vip, place
from sofs.cluster.vips.records import HolderRecord, VipRecord
from sofs.coordination import Condition, Delete, Entry, Lease, OutcomeUnknown, Put, Seen, Store, keys
from sofs.encoding import decode, encode
from sofs.errors import ConfigError, SofsError, Unavailable
from sofs.runtime.ports import Clock

__all__ = ["Addresses", "Doorkeeper", "Facts", "Vips"]

log = structlog.get_logger("vips")

LEASE_S = 6.0
"""So long after it was heard of last a node that is not known to be dead keeps its addresses to itself."""
KEEP_EVERY_S = 1.0
ANSWER_S = 1.0
"""A store that has not answered by then is taken for one that is down."""
SETTLE_S = 5.0
"""For so long an address must belong elsewhere before it moves there for the balance alone."""
ADOPT_S = 5.0
LEAVE_S = 5.0
ANNOUNCE_AT_S = (0.0, 0.2, 1.0)
"""After an address was set: a single announcement may be lost, and a neighbour's answer to an old question may come after it."""
PROMISE, HELLO = "vips.promise", "vips.hello"


class Addresses(Protocol):
    """This host's interfaces. All raise `Unavailable`."""

    def interface(self, address: str) -> str | None:
        """The interface whose network the address lies in; None if there is none."""

    def set(self, address: str, interface: str, lifetime_s: int) -> None:
        """Has the kernel keep the address for so many seconds from now."""

    def remove(self, address: str, interface: str) -> None: ...

    def announce(self, address: str, interface: str) -> None:
        """Tells the network where the address is now."""


class Doorkeeper(Protocol):
    """The gateways."""

    async def adopt(self, group: int) -> None:
        """Makes this node the home of an NFS group, and shuts its former home out. Nothing to do when it is."""

    async def hand_over(self, group: int, to: int) -> None:
        """Makes another node the home, without its clients noticing. Nothing to do when this one is not."""

    def listen_at(self, address: str) -> None:
        """Raises `Unavailable`."""

    def leave(self, address: str) -> None:
        """Listens there no more, and ends the connections to it."""


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


class Vips:
    """All of a node's. Made on a running loop; `open` begins."""

    def __init__(
        self,
        node: NodeId,
        incarnation: Incarnation,
        store: Store,
        clock: Clock,
        interconnect: Interconnect,
        addresses: Addresses,
        doors: Doorkeeper,
        facts: Callable[[], Facts],
        note: Callable[[Sequence[tuple[str, str]]], None],
    ) -> None:
        """`note` is told (address, interface) of all that the kernel has, before it has them: what a supervisor takes away."""
        self._me = HolderRecord(node=node, incarnation=incarnation)
        self._store, self._clock, self._interconnect = store, clock, interconnect
        self._addresses, self._doors, self._facts, self._note = addresses, doors, facts, note
        self.records: dict[str, VipRecord] = {}
        self.holders: dict[str, Holding] = {}
        self._keepers: dict[int, HolderRecord] = {}
        self._held: dict[str, str] = {}
        """What is set here, with its interface."""
        self._lease: Lease | None = None
        self._lasting = Lasting()
        """Of the lease; each has its own."""
        self._former = Lasting()
        """Of the lease before, which has ended: what was held with it is not held any longer by the next."""
        self._heard: dict[int, int] = {}
        """The process of each node that told last of its start."""
        self._renewed: set[str] = set()
        """What is held with the lease."""
        self._given: dict[str, int] = {}
        """The revision of this node's own record that it asked the store to delete, which may happen any time from then on: that record counts no more."""
        self._promises = Promises()
        # Whoever asked this node's former process for a promise, or left it out as dead, is not known any more.
        self._promises.give(clock.boottime())
        self._store_answers = True
        self._told: int | None = None
        """The lease under which the others were told that this node takes addresses on."""
        self._leaving = False
        self._wishes: dict[str, tuple[int, float]] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._claiming = 0

    # For others

    def group_of(self, address: str) -> int | None:
        """The NFS group that an address belongs to; None: it is no virtual address, or one without a group."""
        record = self.records.get(address)
        return record.group or None if record is not None else None

    def holder(self, address: str) -> HolderRecord | None:
        """Who has it, unless that process is known to be dead."""
        found = self.holders.get(address)
        if found is None or self._facts().dead.get(found.record.node) == found.record.incarnation:
            return None
        return found.record

    @property
    def held(self) -> list[str]:
        return list(self._held)

    # Life

    async def open(self) -> None:
        """Raises `Unavailable`."""
        self._interconnect.serve(PROMISE, self._promise)
        self._interconnect.serve(HELLO, self._hello)
        for prefix, take_in in ((keys.VIPS, self._take_in), (keys.KEEPERS, self._take_in_keepers)):
            listing = await self._store.range(prefix)
            take_in(Seen(listing.revision, listing.entries, complete=True))
            self._tasks.append(asyncio.create_task(self._follow(prefix, listing.revision, take_in)))
        self._tasks.append(asyncio.create_task(self._keep()))
        for id, state in self._facts().members.items():
            if state != "evicted":
                # Whoever holds addresses on promises is to hear that this node is there again, before it claims anything.
                self._interconnect.peer(NodeId(id)).notify(HELLO, b"")
        self.look()

    async def leave(self) -> None:
        """Gives everything away and takes nothing on any more: before the node stops."""
        self._leaving = True
        try:
            # First, or the others would go on waiting for this node to take on what is free.
            await self._store.transact([], [Delete(keys.keeper(self._me.node))])
        except SofsError as error:
            log.warning("vips.leaving_untold", reason=str(error))
        self.look()
        if self._working:
            await asyncio.wait(list(self._working.values()), timeout=LEAVE_S)  # a store that is away must not keep a node from stopping

    def stay(self) -> None:
        """The opposite."""
        self._leaving, self._told = False, None

    async def close(self) -> None:
        """Leaves, and ends. What the store cannot be told now, it learns when the lease runs out."""
        await self.leave()
        ending = [*self._tasks, *self._working.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for address in list(self._held):
            self._drop(address)
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await lease.revoke()
            except SofsError:
                pass  # it runs out by itself

    async def _follow(self, prefix: str, revision: int, take_in: Callable[[Seen], None]) -> None:
        watch = self._store.watch(prefix, revision)
        try:
            async for seen in watch:
                take_in(seen)
                self.look()
        finally:
            await watch.close()

    def _take_in_keepers(self, seen: Seen) -> None:
        if seen.complete:
            self._keepers.clear()
        for key in seen.removed:
            self._keepers.pop(keys.id_of(key), None)
        for entry in seen.entries:
            try:
                self._keepers[keys.id_of(entry.key)] = HolderRecord.decode(entry.value)
            except ConfigError as error:
                log.error("record.not_understood", key=entry.key, reason=str(error))

    def _take_in(self, seen: Seen) -> None:
        if seen.complete:
            self.records.clear()
            self.holders.clear()
        for key in seen.removed:
            self._all(key).pop(keys.name_of(key), None)
        for entry in seen.entries:
            try:
                self._put(entry)
            except ConfigError as error:
                log.error("record.not_understood", key=entry.key, reason=str(error))

    def _all(self, key: str) -> dict[str, Any]:
        return self.holders if key.endswith(keys.HOLDER) else self.records

    def _put(self, entry: Entry) -> None:
        address = keys.name_of(entry.key)
        if entry.key.endswith(keys.HOLDER):
            self.holders[address] = Holding(HolderRecord.decode(entry.value), entry.revision, entry.lease)
        else:
            self.records[address] = VipRecord.decode(entry.value)

    # The lease

    async def _keep(self) -> None:
        while True:
            before = self._clock.boottime()
            if self.records or self._held:
                await self._keep_once(before)
            self.look()
            await self._clock.sleep(max(0.05, KEEP_EVERY_S - (self._clock.boottime() - before)))

    async def _keep_once(self, before: float) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._lease is None:
                    self._lease = await self._store.lease(LEASE_S)
                elif not await self._lease.keep():
                    # What was held with it is claimed again with a new one; until then others' promises may still cover it.
                    log.warning("vips.lease_ended")
                    self._lease, self._former, self._lasting = None, self._lasting, Lasting()
                    self._renewed.clear()
                if self._lease is not None:
                    self._lasting.kept(before, self._lease.duration)
                    await self._tell_keeper(self._lease)
                self._store_answers = True
        except (SofsError, TimeoutError):
            self._store_answers = False
            self._ask_for_promises()
        self._refresh()

    async def _tell_keeper(self, lease: Lease) -> None:
        """Tells the others that this node takes addresses on, as long as this lease lasts."""
        if self._told == lease.id or self._leaving:
            return
        await self._store.transact([], [Put(keys.keeper(self._me.node), self._me.encode(), lease.id)])
        self._told = lease.id

    def _refresh(self) -> None:
        """Tells the kernel how long it may keep what is held, and lets go of everything when that is over."""
        now = self._clock.boottime()
        left, of_former = self._lasting.left(now), self._former.left(now)
        for address, interface in list(self._held.items()):
            renewed = address in self._renewed
            if not (left if renewed else of_former):
                log.warning("vip.lapsed", address=address)
                self._drop(address)
            elif interface and renewed:
                try:
                    self._addresses.set(address, interface, left)
                except Unavailable as error:
                    log.warning("vip.not_refreshed", address=address, reason=str(error))

    # While the store is down

    def _ask_for_promises(self) -> None:
        if not self._held:
            return
        facts = self._facts()
        ended = [id for id, incarnation in facts.dead.items() if not self._has_newer(id, incarnation)]
        others = [id for id, state in facts.members.items() if id != self._me.node and state != "evicted" and id not in ended]
        before = self._clock.boottime()
        self._lasting.ask(before, others)
        for id in others:
            asyncio.create_task(self._ask(before, id))  # noqa: RUF006  # ends by itself within its deadline

    def _has_newer(self, id: int, incarnation: int) -> bool:
        """Whether another process of this node has been heard of than this one, which has ended."""
        keeper = self._keepers.get(id)
        seen = (self._interconnect.peer(NodeId(id)).incarnation, self._heard.get(id, 0), 0 if keeper is None else keeper.incarnation)
        return any(each not in (0, incarnation) for each in seen)

    def _hello(self, asked: Asked) -> Answer:
        self._heard[asked.node] = asked.incarnation
        return Answer(b"")

    async def _ask(self, before: float, id: int) -> None:
        try:
            held = encode(list(self._held))
            answer = await self._interconnect.peer(NodeId(id)).call(PROMISE, held, deadline_s=ANSWER_S)
        except SofsError:
            return
        if bytes(answer.body) == b"y":
            self._lasting.promised(before, id)
            self._refresh()

    def _promise(self, asked: Asked) -> Answer:
        """Whether this node claims nothing of the caller's for a while: not if it has the store, may have claimed something just now, or did so before."""
        theirs = decode(asked.body, list[str])
        if self._store_answers or self._claiming or any(address in self._held or self.holder(address) == self._me for address in theirs):
            return Answer(b"n")
        self._promises.give(self._clock.boottime())
        return Answer(b"y")

    # Acting

    def look(self) -> None:
        """Compares what is with what should be, and begins what is to be done about it."""
        plan = self._plan()
        for address, record in list(self.records.items()):
            if address in self._working:
                continue
            holder = self.holder(address)
            belongs = plan.get(address, self._me.node)
            if holder == self._me and belongs != self._me.node:
                if self._is_settled(record, belongs):
                    self._begin(address, self._give(record, belongs))
            elif holder == self._me:
                self._wishes.pop(address, None)
                if not self._counts(address):
                    self._begin(address, self._claim(record))
                elif address not in self._held:
                    self._begin(address, self._take(record))
            elif holder is not None:
                if address in self._held:
                    self._drop(address)
            elif address in plan and (belongs == self._me.node or address in self._held):
                # What the lease that has ended has left behind stays here, if the others' promises have kept it so long.
                self._begin(address, self._claim(record))
        for address in [address for address in self._held if address not in self.records]:
            self._drop(address)

    def _counts(self, address: str) -> bool:
        """Whether this node's record lasts as long as its lease: not if that is another by now, nor if the record was to be deleted."""
        found = self.holders[address]
        return self._lease is not None and found.lease == self._lease.id and found.revision != self._given.get(address)

    def _may_take(self, address: str) -> bool:
        """Whether what is known suffices to let clients in there: what others have promised is only for what is held already."""
        lasting = self._lasting.left(self._clock.boottime()) > 0
        return lasting and self._store_answers and self.holder(address) == self._me and self._counts(address)

    def _plan(self) -> dict[str, int]:
        facts = self._facts()
        candidates = {
            id for id, keeper in self._keepers.items() if facts.members.get(id) == "active" and facts.dead.get(id) != keeper.incarnation
        }
        if self._leaving:
            candidates.discard(self._me.node)
        holders = {address: holder.node for address in self.holders if (holder := self.holder(address)) is not None}
        vips = [Vip(record.address, record.group, record.volume) for record in self.records.values()]
        return place(vips, candidates, holders, facts.coordinators)

    def _is_settled(self, record: VipRecord, belongs: int) -> bool:
        """Whether it is time to move: at once when this node leaves or the address follows a volume."""
        facts = self._facts()
        if self._leaving or record.volume or facts.members.get(self._me.node) != "active":
            return True
        now = self._clock.boottime()
        wished, since = self._wishes.get(record.address, (0, 0.0))
        if wished != belongs:
            self._wishes[record.address] = (belongs, now)
            return False
        return now - since >= SETTLE_S and self._store_answers

    def _begin(self, address: str, work: Coroutine[Any, Any, None]) -> None:
        async def do() -> None:
            try:
                await work
            except SofsError as error:
                log.warning("vip.failed", address=address, reason=str(error) or type(error).__name__)
            finally:
                del self._working[address]

        self._working[address] = asyncio.create_task(do())

    async def _claim(self, record: VipRecord) -> None:
        """Becomes the holder, if nobody else does meanwhile."""
        address = record.address
        found = self.holders.get(address)
        lease = self._lease
        if lease is None:
            return
        if found is None and address not in self._held and self._promises.bound(self._clock.boottime()):
            return  # its lease may have ended while the store was away, and its holder go on with what it was promised
        key = keys.holder(address)
        condition = Condition(key, found.revision if found else 0)
        self._claiming += 1
        try:
            try:
                async with asyncio.timeout(ANSWER_S):
                    done = (await self._store.transact([condition], [Put(key, self._me.encode(), lease.id)])).done
            except (OutcomeUnknown, TimeoutError):
                done = False
            entry = await self._read(key)
        finally:
            self._claiming -= 1
        if entry is None:
            self.holders.pop(address, None)
            return
        self.holders[address] = Holding(HolderRecord.decode(entry.value), entry.revision, entry.lease)
        if entry.value == self._me.encode() and self._counts(address):
            log.info("vip.claimed", address=address, from_the_dead=found is not None, by_reading=not done)
            await self._take(record)

    async def _read(self, key: str) -> Entry | None:
        """What the store says, however long it is away: until then a claim may have been made, and nobody can be promised anything."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await self._store.get(key)
            except (Unavailable, TimeoutError):
                await self._clock.sleep(0.1)

    async def _take(self, record: VipRecord) -> None:
        """Is the holder: lets clients in there."""
        address = record.address
        if not self._may_take(address):
            return
        if record.group:
            try:
                async with asyncio.timeout(ADOPT_S):
                    await self._doors.adopt(record.group)
            except (SofsError, TimeoutError) as error:
                # SMB clients need not wait for it, and the first NFS request has it tried again.
                log.warning("vip.group_not_adopted", address=address, reason=str(error) or type(error).__name__)
        if not self._may_take(address):
            return  # it took too long: the next look begins anew
        left = self._lasting.left(self._clock.boottime())
        interface = "" if _is_own(address) else record.interface or self._addresses.interface(address)
        if interface is None:
            raise Unavailable(f"no interface of this node has a network in which {address} lies; name one: sofs vip add --interface")
        self._renewed.add(address)
        if address not in self._held:
            self._held[address] = interface
            self._note_held()
        try:
            if interface:
                self._addresses.set(address, interface, left)
            self._doors.listen_at(address)
        except Unavailable:
            self._drop(address)
            raise
        log.info("vip.taken", address=address, interface=interface)
        for delay in ANNOUNCE_AT_S if interface else ():
            self._clock.call_later(delay, lambda: self._announce(address))

    def _announce(self, address: str) -> None:
        interface = self._held.get(address)
        if interface:
            try:
                self._addresses.announce(address, interface)
            except Unavailable as error:
                log.warning("vip.not_announced", address=address, reason=str(error))

    async def _give(self, record: VipRecord, to: int) -> None:
        """Lets another node have it: first gone here, then free there."""
        address = record.address
        if record.group:
            try:
                async with asyncio.timeout(ADOPT_S):
                    await self._doors.hand_over(record.group, to)
            except (SofsError, TimeoutError) as error:
                log.warning("vip.group_not_handed_over", address=address, reason=str(error) or type(error).__name__)
        if address in self._held:
            self._drop(address)
        self._wishes.pop(address, None)
        found = self.holders.get(address)
        if found is None or found.record != self._me:
            return
        self._given[address] = found.revision
        key = keys.holder(address)
        try:
            if (await self._store.transact([Condition(key, found.revision)], [Delete(key)])).done and self.holders.get(address) == found:
                del self.holders[address]
        except Unavailable:
            del self._given[address]  # certainly not done: it is taken back until the store is there
            raise
        except OutcomeUnknown:
            pass  # the watch tells; if it was not done, it is done the next time
        log.info("vip.given", address=address, to=f"{to:016x}")

    def _drop(self, address: str) -> None:
        interface = self._held.pop(address)
        self._renewed.discard(address)
        # Connections first: without the address their ends could not be told, and clients would wait for answers that never come.
        self._doors.leave(address)
        if interface:
            try:
                self._addresses.remove(address, interface)
            except Unavailable as error:
                log.warning("vip.not_removed", address=address, reason=str(error))
        self._note_held()

    def _note_held(self) -> None:
        self._note([(address, interface) for address, interface in self._held.items() if interface])


def _is_own(address: str) -> bool:
    """Whether it is every host's own."""
    return address.startswith("127.")
