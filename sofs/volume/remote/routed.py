"""The volume that gateways hold: local while this process coordinates it, else forwarded, and in between a wait.

A local request is a plain call, with one test more: what has to wait is followed, because the volume may be handed over meanwhile. Then it was not carried
out, and is asked again at the next coordinator. A coordinator that is deposed cannot know what became of the requests that it had not answered: nobody
is told anything about them, and `lost` has their connections closed, so that clients ask again by their protocol's own means. Only then are they given up,
for those within the node who wait for them: nobody else can be told any more that they failed, though they may have been carried out.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from sofs.cluster import Interconnect, NodeId
from sofs.errors import Fenced, ReadOnly, SofsError, Unavailable
from sofs.runtime.ports import Clock
from sofs.types import Level, Lsn, VolumeId
from sofs.volume import api
from sofs.volume.api import AnyToken, Binding, FencedOff, Read, Reply, Request, Resumed, Target, Upcall, Upcalls, Written
from sofs.volume.remote.asking import Asker
from sofs.volume.remote.forwarded import RemoteVolume
from sofs.volume.remote.messages import Told
from sofs.volume.volume import LocalVolume
from sofs.volume.where import Whereabouts

R = TypeVar("R")


class RoutedVolume:
    """`sofs.volume.api.Volume`, for the life of the process."""

    def __init__(
        self, where: Whereabouts, interconnect: Interconnect | None, clock: Clock, lost: Callable[["RoutedVolume"], None] = lambda volume: None
    ) -> None:
        """Without an interconnect the volume is served here or nowhere. `lost` is called when requests that were asked may never be answered: whoever
        could tell a client what becomes of them drops them, in what it puts off to the loop's next round at the latest."""
        self.id: VolumeId = where.id
        self.name = where.name
        self.verifier = 0
        """0 until it is known: `ready`."""
        self._where = where
        self._lost = lost
        self._upcalls: list[Upcalls] = []
        self._pasts: WeakValueDictionary[int, RoutedPast] = WeakValueDictionary()
        self._local: LocalVolume | None = None
        self._handed_over: LocalVolume | None = None
        """It was well when it ceased to be served here: what it has not answered was not carried out, or is as if it had not been."""
        self._former: LocalVolume | None = None
        """It was served here until a moment ago, and nothing has been heard from the next coordinator yet: all gates are still this one's."""
        self._given_up: WeakKeyDictionary[LocalVolume, asyncio.Event] = WeakKeyDictionary()
        """Set when one is lost, and whoever has clients knows it."""
        self._attended: LocalVolume | None = None
        """Whose upcalls are heard."""
        self._served = False
        """It has been reached, here or elsewhere, at least once."""
        self._known: asyncio.Event = asyncio.Event()
        self._heard = (0, 0)
        """Subscription and number of the upcalls that came last."""
        self._asker = None if interconnect is None else Asker(interconnect, clock, where.id)
        self._own = NodeId(0) if interconnect is None else interconnect.node
        self._incarnation = 0 if interconnect is None else int(interconnect.incarnation)
        if self._asker is not None:
            self._asker.other_verifier = self._other_verifier
            self._asker.subscribed = self._subscribed
            self._asker.idle = self._settle
            self._asker.heard = self._reached
            self._far = RemoteVolume(self._asker, clock)
            self._far.tell = partial(self.tell, self.id)
        where.on_change(self._moved)
        self._moved()

    # sofs.volume.api.Volume

    def call(self, request: Request, token: AnyToken | None, by: Binding) -> Reply | Awaitable[Reply]:
        local = self._local
        if local is None:
            return self._elsewhere().call(request, token, by)
        try:
            reply = local.call(request, token, by)
        except SofsError:
            if self._stays(local):
                raise
            return self._elsewhere().call(request, token, by)
        if isinstance(reply, Reply) or self._asker is None:
            return reply
        return self.follow(local, reply, lambda: self._far.call(request, token, by))

    def read(self, target: Target, offset: int, into: memoryview, by: Binding) -> Read | Awaitable[Read]:
        local = self._local
        if local is None:
            return self._elsewhere().read(target, offset, into, by)
        try:
            got = local.read(target, offset, into, by)
        except SofsError:
            if self._stays(local):
                raise
            return self._elsewhere().read(target, offset, into, by)
        if type(got) is Read or self._asker is None:
            return got
        return self.follow(local, got, lambda: self._far.read(target, offset, into, by))  # type: ignore[arg-type]  # no Read

    def write(self, target: Target, offset: int, data: memoryview, token: AnyToken | None, level: Level, by: Binding) -> Written | Awaitable[Written]:
        local = self._local
        if local is None:
            return self._elsewhere().write(target, offset, data, token, level, by)
        try:
            done = local.write(target, offset, data, token, level, by)
        except SofsError:
            if self._stays(local):
                raise
            return self._elsewhere().write(target, offset, data, token, level, by)
        if isinstance(done, Written) or self._asker is None:
            return done
        return self.follow(local, done, lambda: self._far.write(target, offset, data, token, level, by))

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        """Once a local volume is lost, replies of its own are never told; what was forwarded was committed when it was answered."""
        local, former = self._local, self._former
        if local is not None:
            local.when(gate, level, send)
        elif former is not None:
            if former is self._handed_over and isinstance(former.failure, Fenced):
                send()  # all of it was stable before it was handed over
            else:
                former.when(gate, level, send)
        elif self._asker is not None:
            self._far.when(gate, level, send)

    def subscribe(self, upcalls: Upcalls) -> None:
        self._upcalls.append(upcalls)

    def at(self, snapshot: int) -> "RoutedPast":
        """Raises `NotFound` if the volume is here and there is no such snapshot; elsewhere, the first request will."""
        if self._local is not None:
            self._local.at(snapshot)
        found = self._pasts.get(snapshot)
        if found is None:
            found = self._pasts[snapshot] = RoutedPast(self, snapshot)
        return found

    # More

    @property
    def local(self) -> LocalVolume | None:
        """The volume while this process serves it."""
        return self._where.local

    async def ready(self) -> None:
        """Returns when the volume has been reached, and `verifier` is known."""
        await self._known.wait()

    def heard(self, told: Told) -> bool:
        """Upcalls have come from the coordinator; each is passed on once. False for those of a subscription that is not in force."""
        if self._asker is None or not told.subscription or told.subscription != self._asker.subscription:
            return False
        if (told.subscription, told.number) > self._heard:
            self._heard = told.subscription, told.number
            for upcall in told.upcalls:
                self._far.heard(upcall)
        return True

    # Where it is

    def _go_local(self, local: LocalVolume | None) -> None:
        """Requests go straight to this volume from now on; None: to another node's, or nowhere yet."""
        self._local = local
        for name in ("call", "read", "write", "when"):
            self.__dict__.pop(name, None)
        if local is not None:
            # A call in between would cost every request 0.1 us; without an interconnect there is nothing to be followed either.
            direct = ("when",) if self._asker is not None else ("call", "read", "write", "when")
            self.__dict__.update({name: getattr(local, name) for name in direct})

    def _moved(self) -> None:
        """`where` has changed."""
        local, former = self._where.local, self._local
        if local is not former:
            self._go_local(None)
        if former is not None and local is not former:
            self._former = former if self._asker is not None else None
            if former.failed:
                self._lost(self)
                asyncio.get_running_loop().call_soon(self._loss(former).set)
            else:
                self._handed_over = former
        if local is not None:
            if local is self._handed_over:
                self._handed_over = self._former = None  # it has stayed here after all
            self._attend(local)
            if self._asker is None or not self._asker.busy:
                self._go_local(local)
                return
        if self._asker is None:
            return
        node = self._where.coordinator.node
        if local is not None:
            # Behind what was forwarded and is not answered yet, for which this is the place now.
            self._asker.go(self._own, listen=False)
        else:
            self._asker.go(NodeId(0) if node == self._own else node, listen=True)

    def _settle(self) -> None:
        """Nothing that was forwarded is under way any more."""
        if self._where.local is not None and self._local is None:
            self._go_local(self._where.local)

    def _reached(self) -> None:
        """The next coordinator answers: what it says rests on its own gates."""
        self._former = None

    def _attend(self, local: LocalVolume) -> None:
        if local is self._attended:
            return
        self._attended = local
        local.subscribe(self.tell)
        self._set_verifier(local.verifier)
        self._resume()

    def _subscribed(self, refusal: Fenced | None) -> None:
        if refusal is not None:
            self.tell(self.id, FencedOff(self._incarnation))
            return
        assert self._asker is not None
        self._attended = None
        self._set_verifier(self._asker.verifier)
        self._resume()

    def _set_verifier(self, verifier: int) -> None:
        """What was to become stable under another one may be lost."""
        former, self.verifier = self.verifier, verifier
        if former not in (0, verifier):
            if self._asker is not None:
                self._far.forget_waiting()
            self._lost(self)
        self._known.set()

    def _other_verifier(self) -> None:
        assert self._asker is not None
        self._set_verifier(self._asker.verifier)

    def _resume(self) -> None:
        if self._served:
            self.tell(self.id, Resumed())
        self._served = True

    # What has to wait

    def _elsewhere(self) -> RemoteVolume:
        if self._asker is None:
            raise Unavailable(f"volume {self.name} is not served here")
        return self._far

    def _stays(self, local: LocalVolume) -> bool:
        """Whether what the local volume says counts: it is served here, and nobody else will."""
        return self._asker is None or (self._where.local is local and not local.failed)

    async def follow(self, local: LocalVolume, waiting: Awaitable[R], again: Callable[[], Awaitable[R]]) -> R:
        """What the local volume answers in the end, or the next coordinator. Raises `Unavailable` for what was lost with the local one."""
        try:
            answer = await waiting
            if not local.failed or local is self._handed_over:
                return answer
        except SofsError as error:
            if self._stays(local) or (local is self._handed_over and not isinstance(error, Unavailable)):
                raise
        if local.failed and local is not self._handed_over:
            await self._loss(local).wait()
            raise Unavailable(f"volume {self.name} was lost here meanwhile; what was asked may have been carried out")
        return await again()

    def _loss(self, local: LocalVolume) -> asyncio.Event:
        return self._given_up.setdefault(local, asyncio.Event())

    # Upcalls, of a local volume or from afar

    def tell(self, volume: VolumeId, upcall: Upcall) -> None:
        for hear in self._upcalls:
            hear(volume, upcall)


class RoutedPast:
    """A snapshot of the volume: `sofs.volume.api.Volume`, read-only."""

    def __init__(self, living: RoutedVolume, snapshot: int) -> None:
        self.id = living.id
        self.name = living.name
        self._living = living
        self._snapshot = snapshot

    @property
    def verifier(self) -> int:
        return self._living.verifier

    @property
    def local(self) -> LocalVolume | None:
        return self._living.local

    def call(self, request: Request, token: AnyToken | None, by: Binding) -> Reply | Awaitable[Reply]:
        return self._ask(lambda past: past.call(request, None, by), lambda far: far.call(request, None, by, self._snapshot))

    def read(self, target: Target, offset: int, into: memoryview, by: Binding) -> Read | Awaitable[Read]:
        return self._ask(lambda past: past.read(target, offset, into, by), lambda far: far.read(target, offset, into, by, self._snapshot))

    def _ask(self, here: Callable[[api.Volume], R | Awaitable[R]], there: Callable[[RemoteVolume], Awaitable[R]]) -> R | Awaitable[R]:
        living, local = self._living, self._living._local
        if local is None:
            return there(living._elsewhere())
        try:
            answer = here(local.at(self._snapshot))
        except SofsError:
            if living._stays(local):
                raise
            return there(living._elsewhere())
        if living._asker is None or not isinstance(answer, Awaitable):
            return answer
        return living.follow(local, answer, lambda: there(living._far))

    def write(self, target: Target, offset: int, data: memoryview, token: AnyToken | None, level: Level, by: Binding) -> Written | Awaitable[Written]:
        raise ReadOnly("a snapshot cannot be changed")

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        self._living.when(gate, level, send)

    def subscribe(self, upcalls: Upcalls) -> None:
        """Nothing ever happens in a snapshot."""

    def at(self, snapshot: int) -> api.Volume:
        raise ReadOnly("a snapshot has no snapshots")
