"""The lease with which a node holds its addresses, and what stands in for it while the store is down: the promises of all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from sofs.cluster import Answer, Asked, Interconnect, NodeId
from sofs.cluster.vips.callers import Callers
from sofs.cluster.vips.here import Here
from sofs.cluster.vips.known import Known
from sofs.cluster.vips.lasting import PROMISE_S, Lasting, Promises
from sofs.cluster.vips.records import HolderRecord, KeeperRecord
from sofs.coordination import Delete, Lease, Put, Store, keys
from sofs.encoding import decode, encode
from sofs.errors import SofsError
from sofs.runtime.ports import Clock

log = structlog.get_logger("vips")

LEASE_S = 3.0
"""So long after it was heard of last a node that is not known to be dead keeps its addresses to itself: as long as a volume's promises last (DESIGN, L)."""
KEEP_EVERY_S = 0.5
ANSWER_S = 0.75
"""A store that has not answered by then is taken for one that is down. The promises then have to be there before the kernel takes the addresses away."""
ASK_EVERY_S = 0.25
ASKED_S = 1.0
PROMISE, HELLO = "vips.promise", "vips.hello"


class Keeping:
    """This node's. `claiming` is raised by whoever has a claim under way, and `promises` bind whoever claims."""

    def __init__(
        self,
        me: HolderRecord,
        store: Store,
        clock: Clock,
        interconnect: Interconnect,
        known: Known,
        here: Here,
        callers: Callers,
        look: Callable[[], None],
    ) -> None:
        """`look` is called after each attempt to keep the lease."""
        self._me, self._store, self._clock, self._interconnect = me, store, clock, interconnect
        self._known, self._here, self._callers, self._look = known, here, callers, look
        self.lease: Lease | None = None
        self.lasting = Lasting()
        """Of the lease; each has its own, so that what was held with a former one is not held any longer by the next."""
        self.answers = True
        """The store does."""
        self.claiming = 0
        self._asked = -PROMISE_S
        """When the others were asked for promises last."""
        self.promises = Promises()
        # Whoever asked this node's former process for a promise, or left it out as dead, is not known any more.
        self.promises.give(clock.boottime())
        self._free = clock.boottime() + PROMISE_S
        """So long it may claim nothing that has no holder, whoever has asked it."""
        self._told: tuple[int, bool] | None = None
        """The lease under which the others were told that this node takes addresses on, and whether they were told to wait."""
        self._leaving = False
        self._heard: dict[int, int] = {}
        """The process of each node that told last of its start."""
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        self._interconnect.serve(PROMISE, self._promise)
        self._interconnect.serve(HELLO, self._hello)
        self._callers.open()
        self._tasks += [asyncio.create_task(self._keep()), asyncio.create_task(self._gather())]
        for id, state in self._known.facts().members.items():
            if state != "evicted":
                # Whoever holds addresses on promises is to hear that this node is there again, before it claims anything.
                self._interconnect.peer(NodeId(id)).notify(HELLO, b"")

    async def leave(self) -> None:
        """Tells the others to wait for this node no longer: it takes nothing more on. Raises `SofsError` when they could not be told."""
        self._leaving = True
        await self._store.transact([], [Delete(keys.keeper(self._me.node))])

    def stay(self) -> None:
        """The opposite."""
        self._leaving, self._told = False, None

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def end(self) -> None:
        """What the store cannot be told now, it learns when the lease runs out."""
        lease, self.lease = self.lease, None
        if lease is not None:
            try:
                await lease.revoke()
            except SofsError:
                pass  # it runs out by itself

    async def _keep(self) -> None:
        while True:
            before = self._clock.boottime()
            if self._known.records or self._here:
                await self._keep_once(before)
                self._callers.tell(list(self._here), self._others())
            self._look()
            await self._clock.sleep(max(0.05, KEEP_EVERY_S - (self._clock.boottime() - before)))

    async def _keep_once(self, before: float) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                if self.lease is None:
                    self.lease = await self._store.lease(LEASE_S)
                elif not await self.lease.keep():
                    # What was held with it is claimed again with a new one; until then others' promises may still cover it.
                    log.warning("vips.lease_ended")
                    self.lease, self.lasting = None, Lasting()
                if self.lease is not None:
                    self.lasting.kept(before, self.lease.duration)
                    await self._tell(self.lease)
                self.answers = True
        except (SofsError, TimeoutError):
            self.answers = False
        self._here.refresh()

    async def _tell(self, lease: Lease) -> None:
        """Tells the others that this node takes addresses on, as long as this lease lasts; at first only that it will, unless there is nobody else."""
        bound = self._clock.boottime() < self._free
        if self._told == (lease.id, bound) or self._leaving:
            return
        record = KeeperRecord(node=self._me.node, incarnation=self._me.incarnation, bound=bound)
        await self._store.transact([], [Put(keys.keeper(self._me.node), record.encode(), lease.id)])
        self._told = lease.id, bound

    # While the store is down

    async def _gather(self) -> None:
        """Gathers promises. One that is refused is asked for again soon: not everybody finds out at the same moment that the store is down."""
        while True:
            if not self.answers and self._here:
                lasting, self._asked = self.lasting, self._clock.boottime()
                for id in self._others():
                    asyncio.create_task(self._ask(lasting, id))  # noqa: RUF006  # ends by itself within its deadline
                self._conclude(lasting)
            await self._clock.sleep(ASK_EVERY_S)

    @property
    def binds_others(self) -> bool:
        """Whether others may have promised this node to claim nothing: what it gave away would be nowhere for so long."""
        return self._clock.boottime() - self._asked < PROMISE_S + ASKED_S

    def _conclude(self, lasting: Lasting) -> None:
        if not self.answers:
            lasting.conclude(self._clock.boottime(), self._others())
            self._here.refresh()

    def _others(self) -> list[int]:
        """All who might claim something: members that are not known to be dead, or have been heard of since."""
        facts = self._known.facts()
        ended = [id for id, incarnation in facts.dead.items() if not self._has_newer(id, incarnation)]
        return [id for id, state in facts.members.items() if id != self._me.node and state != "evicted" and id not in ended]

    def _has_newer(self, id: int, incarnation: int) -> bool:
        """Whether another process of this node has been heard of than this one, which has ended."""
        keeper = self._known.keepers.get(id)
        seen = (self._interconnect.peer(NodeId(id)).incarnation, self._heard.get(id, 0), 0 if keeper is None else keeper.incarnation)
        return any(each not in (0, incarnation) for each in seen)

    def _hello(self, asked: Asked) -> Answer:
        self._heard[asked.node] = asked.incarnation
        return Answer(b"")

    async def _ask(self, lasting: Lasting, id: int) -> None:
        before = self._clock.boottime()
        try:
            answer = await self._interconnect.peer(NodeId(id)).call(PROMISE, encode(list(self._here)), deadline_s=ASKED_S)
        except SofsError:
            return
        if bytes(answer.body) == b"y":
            lasting.promised(before, id)
            self._conclude(lasting)

    def _promise(self, asked: Asked) -> Answer:
        """Whether this node claims nothing of the caller's for a while: not if it has the store, may have claimed something just now, or did so before."""
        theirs = decode(asked.body, list[str])
        if self.answers or self.claiming or any(address in self._here or self._known.holder(address) == self._me for address in theirs):
            return Answer(b"n")
        self.promises.give(self._clock.boottime())
        return Answer(b"y")
