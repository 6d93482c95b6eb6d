"""A node's virtual addresses: claimed, kept and given away as `placing` says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from sofs.cluster import Incarnation, Interconnect, NodeId
from sofs.cluster.vips.callers import Callers
from sofs.cluster.vips.here import Addresses, Doorkeeper, Here, is_own
from sofs.cluster.vips.keeping import Keeping
from sofs.cluster.vips.known import Facts, Holding, Known
from sofs.cluster.vips.lasting import kernel_seconds
from sofs.cluster.vips.placing import Vip, place
from sofs.cluster.vips.records import HolderRecord, VipRecord
from sofs.coordination import Condition, Delete, Entry, OutcomeUnknown, Put, Store, keys
from sofs.errors import SofsError, Unavailable
from sofs.runtime.ports import Clock

log = structlog.get_logger("vips")

ANSWER_S = 1.0
"""For a claim; a store that has not answered by then is asked what has become of it."""
SETTLE_S = 5.0
"""For so long an address must belong elsewhere before it moves there for the balance alone."""
HOME_FIRST_S = 0.1
"""What an address waits for its group to be adopted; what comes until then waits for that in its turn."""
ADOPT_S = 5.0
LEAVE_S, LOOK_S = 7.0, 0.02
"""Longer than others may have promised to claim nothing."""


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
        self._store, self._clock, self._doors = store, clock, doors
        self._known = Known(store, facts, self.look)
        callers = Callers(interconnect, doors.peers)
        self._here = Here(addresses, doors, clock, note, callers.left_behind)
        self._keeping = Keeping(self._me, store, clock, interconnect, self._known, self._here, callers, self.look)
        self._given: dict[str, int] = {}
        """The revision of this node's own record that it asked the store to delete, which may happen any time from then on: that record counts no more."""
        self._rightful: dict[str, int] = {}
        """The revision of this node's own record with which it may have an address whatever it has promised: it has had it with that, or came behind a holder
        that is dead."""
        self._opened = self._leaving = False
        self._wishes: dict[str, tuple[int, float]] = {}
        """To which node an address is to move, and since when."""
        self._working: dict[str, asyncio.Task[None]] = {}
        self._adopting: set[asyncio.Task[None]] = set()

    # For others

    @property
    def records(self) -> Mapping[str, VipRecord]:
        return self._known.records

    def group_of(self, address: str) -> int | None:
        """The NFS group that an address belongs to; None: it is no virtual address, or one without a group."""
        record = self._known.records.get(address)
        return record.group or None if record is not None else None

    def is_elsewhere(self, group: int) -> bool:
        """Whether another node has an address of an NFS group. Not known before `open`: then it may be so."""
        addresses = [record.address for record in self._known.records.values() if record.group == group]
        return not self._opened or any(self.holder(address) not in (None, self._me) for address in addresses)

    def holder(self, address: str) -> HolderRecord | None:
        """Who has it, unless that process is known to be dead."""
        return self._known.holder(address)

    @property
    def held(self) -> list[str]:
        return list(self._here)

    # Life

    async def open(self) -> None:
        """Raises `Unavailable`."""
        await self._known.open()
        self._opened = True
        self._keeping.open()
        self.look()

    async def leave(self) -> None:
        """Gives everything away, as soon as others may claim it, and takes nothing on any more: before the node stops."""
        self._leaving = True
        try:
            await self._keeping.leave()
        except SofsError as error:
            log.warning("vips.leaving_untold", reason=str(error))
        until = self._clock.boottime() + LEAVE_S  # a store that is away must not keep a node from stopping
        self.look()
        while (self._working or self._gives) and self._clock.boottime() < until:
            await self._clock.sleep(LOOK_S)
            self.look()

    @property
    def _gives(self) -> bool:
        """Whether something here belongs to another node."""
        plan, me = self._plan(), self._me.node
        return any(plan.get(address, me) != me for address in self._here)

    def stay(self) -> None:
        """The opposite."""
        self._leaving = False
        self._keeping.stay()

    async def close(self) -> None:
        """Leaves, and ends."""
        await self.leave()
        await self.abandon()
        for address in self._here:
            self._here.drop(address)
        await self._keeping.end()

    async def abandon(self) -> None:
        """Does nothing any more, and leaves all as it is."""
        await self._known.close()
        await self._keeping.close()
        working = [*self._working.values(), *self._adopting]
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    # Acting

    def look(self) -> None:
        """Compares what is with what should be, and begins what is to be done about it."""
        plan = self._plan()
        for address, record in list(self._known.records.items()):
            if address not in self._working:
                self._look_at(record, plan)
        for address in self._here:
            if address not in self._known.records:
                self._here.drop(address)

    def _look_at(self, record: VipRecord, plan: Mapping[str, int]) -> None:
        address, me = record.address, self._me.node
        found, holder, belongs = self._known.holders.get(address), self.holder(address), plan.get(address, me)
        if holder == self._me and belongs != me:
            if self._is_settled(record, belongs):
                self._begin(address, self._give(record, belongs))
        elif holder == self._me:
            self._wishes.pop(address, None)
            if not self._counts(address):
                self._begin(address, self._claim(record, found))
            elif address not in self._here:
                self._begin(address, self._take(record))
        elif holder is not None:
            if address in self._here:
                self._here.drop(address)
        elif address in plan and (belongs == me or address in self._here):
            # What the lease that has ended has left behind stays here, if the others' promises have kept it so long.
            self._begin(address, self._claim(record, found))

    def _plan(self) -> dict[str, int]:
        known, facts = self._known, self._known.facts()
        candidates = known.candidates() - ({self._me.node} if self._leaving else set())
        holders = {address: holder.node for address in known.holders if (holder := self.holder(address)) is not None}
        vips = [Vip(record.address, record.group, record.volume) for record in known.records.values()]
        return place(vips, candidates, holders, facts.coordinators, known.bound())

    def _counts(self, address: str) -> bool:
        """Whether this node's record lasts as long as its lease: not if that is another by now, nor if the record was to be deleted."""
        found, lease = self._known.holders[address], self._keeping.lease
        return lease is not None and found.lease == lease.id and found.revision != self._given.get(address)

    def _is_bound(self, address: str) -> bool:
        """Whether this node has promised to let others keep it: its lease may have ended while the store was away, and its holder go on with what it was
        promised."""
        found = self._known.holders.get(address)
        rightful = address in self._here or (found is not None and found.revision == self._rightful.get(address))
        return not rightful and self._keeping.promises.bound(self._clock.boottime())

    def _may_take(self, address: str) -> bool:
        """Whether what is known suffices to let clients in there: what others have promised is only for what is held already, and so is what a node has that
        leaves; and a claim that was made long after it was asked for must not break a promise that was given in between."""
        if self._leaving and address not in self._here:
            return False
        left = self._keeping.lasting.left(self._clock.boottime())
        lasts = left > 0 if is_own(address) else kernel_seconds(left) > 0
        return lasts and self._keeping.answers and not self._is_bound(address) and self.holder(address) == self._me and self._counts(address)

    def _is_settled(self, record: VipRecord, belongs: int) -> bool:
        """Whether it is time to move: when this node leaves or the address follows a volume, as soon as others may claim it."""
        if self._keeping.binds_others:
            return False
        if self._leaving or record.volume or self._known.facts().members.get(self._me.node) != "active":
            return True
        now = self._clock.boottime()
        wished, since = self._wishes.get(record.address, (0, 0.0))
        if wished != belongs:
            self._wishes[record.address] = (belongs, now)
            return False
        return now - since >= SETTLE_S and self._keeping.answers

    def _begin(self, address: str, work: Coroutine[Any, Any, None]) -> None:
        async def do() -> None:
            try:
                await work
            except SofsError as error:
                log.warning("vip.failed", address=address, reason=str(error) or type(error).__name__)
            finally:
                del self._working[address]

        self._working[address] = asyncio.create_task(do())

    async def _claim(self, record: VipRecord, found: Holding | None) -> None:
        """Becomes the holder in the place of `found`, which was looked at: not of whoever has been heard of since."""
        address, lease = record.address, self._keeping.lease
        if lease is None or (found is None and self._is_bound(address)):
            return
        key = keys.holder(address)
        condition = Condition(key, found.revision if found else 0)
        self._keeping.claiming += 1
        try:
            try:
                async with asyncio.timeout(ANSWER_S):
                    done = (await self._store.transact([condition], [Put(key, self._me.encode(), lease.id)])).done
            except (OutcomeUnknown, TimeoutError):
                done = False
            entry = await self._read(key)
        finally:
            self._keeping.claiming -= 1
        self._known.note(address, entry)
        if entry is not None and entry.value == self._me.encode() and self._counts(address):
            log.info("vip.claimed", address=address, from_the_dead=found is not None, by_reading=not done)
            if found is not None:
                self._rightful[address] = entry.revision
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
        adopting = asyncio.create_task(self._adopt(record))
        self._adopting.add(adopting)
        adopting.add_done_callback(self._adopting.discard)
        # NFS clients are better served by a node that is their home already; but neither they nor SMB's are to wait long for an address.
        await asyncio.wait((adopting,), timeout=HOME_FIRST_S)
        if self._may_take(address):  # else the next look begins anew
            self._here.take(address, record.interface, self._keeping.lasting)
            self._rightful[address] = self._known.holders[address].revision

    async def _adopt(self, record: VipRecord) -> None:
        if record.group:
            try:
                async with asyncio.timeout(ADOPT_S):
                    await self._doors.adopt(record.group)
            except (SofsError, TimeoutError) as error:
                # The first NFS request has it tried again.
                log.warning("vip.group_not_adopted", address=record.address, reason=str(error) or type(error).__name__)

    async def _give(self, record: VipRecord, to: int) -> None:
        """Lets another node have it: first gone here, then free there."""
        address = record.address
        if record.group:
            try:
                async with asyncio.timeout(ADOPT_S):
                    await self._doors.hand_over(record.group, to)
            except (SofsError, TimeoutError) as error:
                log.warning("vip.group_not_handed_over", address=address, reason=str(error) or type(error).__name__)
        if address in self._here:
            await self._here.part(address)
        if address in self._here:
            self._here.drop(address)
        self._wishes.pop(address, None)
        found = self._known.holders.get(address)
        if found is None or found.record != self._me:
            return
        self._given[address] = found.revision
        key = keys.holder(address)
        try:
            done = (await self._store.transact([Condition(key, found.revision)], [Delete(key)])).done
            if done and self._known.holders.get(address) == found:
                self._known.note(address, None)
        except Unavailable:
            del self._given[address]  # certainly not done: it is taken back until the store is there
            raise
        except OutcomeUnknown:
            pass  # the watch tells; if it was not done, it is done the next time
        log.info("vip.given", address=address, to=f"{to:016x}")
