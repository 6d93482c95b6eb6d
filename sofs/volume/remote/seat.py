"""One volume at the node that coordinates it: what other nodes ask of it, from the takeover to its end.

Every question ends in one answer, given when the gate of what it says is open and the lease valid. A question that has to wait is kept by its asking node,
slot and sequence: asked again after a break it is joined, with the place that it has; taken back it is cancelled. One that was carried out before is
answered from its token. When the seat is given up, everything that was not answered is refused: it will be asked again elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from sofs.cluster import Answer, Asked, Interconnect
from sofs.errors import Cancelled, NoSpace, PeerError, SofsError, Unavailable
from sofs.locks.recalls import recall_upcall
from sofs.runtime.ports import Buffer, Clock
from sofs.types import Level, Lsn, OpenId, VolumeId
from sofs.volume import api
from sofs.volume.api import Binding, CallToken, Opened, Read, Reply, Upcall
from sofs.volume.batch import Batch
from sofs.volume.opening import UNTOLD
from sofs.volume.remote.messages import Answered, Call, Reached, ReadAnswer, ReadAsk, When, WriteAsk, encode_answer
from sofs.volume.remote.repeating import REPEATABLE
from sofs.volume.remote.telling import Subscriber
from sofs.volume.snapshots.requests import restored
from sofs.volume.volume import LocalVolume

LARGEST = 16 << 20
"""Bytes of data in one question or answer: the interconnect's limit."""
_KEPT = 64 << 10
"""A payload from this size on is the handler's to keep; what is smaller is copied."""
_FAREWELL_S = 30.0
_LONG = 512 << 10
"""An answer that is longer than this goes as payload: bodies end at 1 MiB."""

R = TypeVar("R")

Given = Answer | Awaitable[Answer]
Place = tuple[int, int]
"""Asking node's incarnation and slot."""
Make = Callable[[], Answer]


def answer_of(message: Answered | ReadAnswer | Reached, payload: tuple[Buffer, ...] = ()) -> Answer:
    body = encode_answer(message)
    return Answer(body, payload) if len(body) <= _LONG else Answer(b"", (body,))


class _Execution:
    """A question that has to wait before it can be answered."""

    __slots__ = ("asking", "sequence", "task")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.asking: list[asyncio.Future[Answer]] = []
        self.task: asyncio.Task[None] | None = None


class Seat:
    """What the volume tells the gateways of all other nodes, and what it answers them."""

    def __init__(self, local: LocalVolume, interconnect: Interconnect, clock: Clock) -> None:
        self.local = local
        self._core = local.core
        self._interconnect = interconnect
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._running: dict[Place, _Execution] = {}
        self._unanswered: dict[asyncio.Future[Answer], None] = {}
        self._past: dict[Place, tuple[int, Reply]] = {}
        """What was answered last about snapshots, of which nothing is in any record."""
        self._subscribers: dict[int, Subscriber] = {}
        self._refusal: Callable[[], Answer] | None = None
        local.subscribe(self.tell)
        local.core.told_former = self._told_former
        local.core.gateways.fenced_one = self._fenced

    # Questions

    def call(self, asked: Asked, slot: int, sequence: int, ask: Call) -> Given:
        place, request, by = (asked.incarnation, slot), ask.request, ask.by
        running = self._running.get(place)
        if running is not None and running.sequence == sequence:
            return self._join(running)
        try:
            if ask.snapshot:
                return self._call_past(place, sequence, ask)
            token = None
            if type(request) not in REPEATABLE:
                known = self._known(place, sequence, by)
                if known is not None and type(request) is api.RestoreSnapshot:
                    return self._wait(place, sequence, restored(self._core), lambda reply: self._replied(None, reply))
                if known is not None:
                    return self._settle(self._renewed(known, by))
                token = CallToken(asked.incarnation, slot, sequence, by.gateway, ask.plain or ask.slot_token)
            reply = self.local.call(request, token, by)
        except SofsError as error:
            return self._fail(error)
        if isinstance(reply, Reply):
            self._store(token, reply)
            return self._settle(reply)
        return self._wait(place, sequence, reply, lambda reply: self._replied(token, reply))

    def read(self, asked: Asked, slot: int, sequence: int, ask: ReadAsk) -> Given:
        if not 0 <= ask.length <= LARGEST:
            raise PeerError(f"a read of {ask.length} bytes")
        running = self._running.get((asked.incarnation, slot))
        if running is not None and running.sequence == sequence:
            return self._join(running)
        view = memoryview(bytearray(ask.length))
        try:
            volume = self.local.at(ask.snapshot) if ask.snapshot else self.local
            got = volume.read(ask.target, ask.offset, view, ask.by)
        except SofsError as error:
            return self._fail(error)
        if type(got) is Read:
            return self._when(got.gate, Level.COMMITTED, lambda: self._read(got, view))

        def done(got: Read) -> tuple[Lsn, Level, Make]:
            return got.gate, Level.COMMITTED, lambda: self._read(got, view)

        return self._wait((asked.incarnation, slot), sequence, got, done)  # type: ignore[arg-type]  # no Read

    def _read(self, got: Read, view: memoryview) -> Answer:
        message = ReadAnswer(self._stable, self.local.verifier, got.end, got.gate, got.attributes)
        return answer_of(message, (view[: got.count],) if got.count else ())

    def write(self, asked: Asked, slot: int, sequence: int, ask: WriteAsk) -> Given:
        place, by, level = (asked.incarnation, slot), ask.by, ask.level
        running = self._running.get(place)
        if running is not None and running.sequence == sequence:
            return self._join(running)
        payload = asked.payload if len(asked.payload) >= _KEPT else memoryview(bytes(asked.payload))
        try:
            known = self._known(place, sequence, by)
            if known is not None:
                return self._settle(known, level)
            token = CallToken(asked.incarnation, slot, sequence, by.gateway, ask.plain or ask.slot_token)
            done = self.local.write(ask.target, ask.offset, payload, token, level, by)
        except SofsError as error:
            return self._fail(error)
        if isinstance(done, Reply):
            return self._settle(done, level)
        return self._wait(place, sequence, done, lambda reply: (reply.gate, level, lambda: self._answer(reply)))

    def when(self, ask: When) -> Given:
        return self._when(ask.gate, Level.STABLE, self._reached)

    def cancel(self, asked: Asked, slot: int, sequence: int) -> Given:
        """What has been carried out already is answered, so that the asking side can undo it."""
        place = (asked.incarnation, slot)
        running = self._running.get(place)
        if running is not None and running.sequence == sequence:
            assert running.task is not None
            running.task.cancel()
            return self._join(running)
        known = self._core.tokens.forwarded(asked.incarnation, slot)
        if known is not None and known[0] == sequence:
            return self._settle(known[1])
        return self._reached()

    def subscribe(self, asked: Asked, number: int) -> Given:
        gateway = asked.incarnation
        self._core.gateways.check(gateway)
        self._core.gateways.meet(gateway, asked.node)
        subscriber = self._subscriber(gateway)
        subscriber.attach(asked.node, number)
        for recall in self._recalls(gateway):
            subscriber.tell(recall)
        return self._when(Lsn(0), Level.COMMITTED, self._reached)

    def stop(self, refusal: Callable[[], Answer]) -> None:
        """The volume is not served here any more: what was not answered is refused."""
        if self._refusal is not None:
            return
        self._refusal = refusal
        self._core.upcalls.remove(self.tell)
        for subscriber in self._subscribers.values():
            subscriber.close()
        for execution in list(self._running.values()):
            if execution.task is not None:
                execution.task.cancel()
        for future in list(self._unanswered):
            if not future.done():
                future.set_result(refusal())

    # Snapshots

    def _call_past(self, place: Place, sequence: int, ask: Call) -> Given:
        known = self._past.get(place)
        if known is not None and known[0] == sequence:
            return self._settle(known[1])
        reply = self.local.at(ask.snapshot).call(ask.request, None, ask.by)

        def keep(reply: Reply) -> Reply:
            self._past[place] = sequence, reply
            return reply

        if isinstance(reply, Reply):
            return self._settle(keep(reply))
        return self._wait(place, sequence, reply, lambda reply: (reply.gate, Level.COMMITTED, lambda: self._answer(keep(reply))))

    # Exactly once

    def _known(self, place: Place, sequence: int, by: Binding) -> Reply | None:
        """What this question was answered. Raises `Unavailable` for one that nobody can be waiting for any more."""
        known = self._core.tokens.forwarded(*place)
        if known is None or known[0] < sequence:
            return None
        self._core.gateways.check(by.gateway)
        if known[0] > sequence:
            raise Unavailable("a later question has taken this one's place")
        self._core.repeated["forwarded"] += 1
        return known[1]

    def _renewed(self, reply: Reply, by: Binding) -> Reply:
        """An open that is answered again may have lost some of its grant meanwhile; what it is asked for is asked again behind the answer."""
        if not isinstance(reply, Opened) or (opened := self._core.opens.get(reply.open)) is None:
            return reply
        if reply.attributes == UNTOLD:
            reply.attributes = self._core.attributes(opened.inode)
        grant = self._core.locks.state(opened.inode).grant(opened.key)
        if reply.grant and not reply.delegation:
            reply.grant = 0 if grant is None else grant.rights
            reply.epoch = reply.epoch if grant is None else grant.epoch
            reply.breaking = grant is not None and grant.recalling
        if grant is not None and grant.recalling:
            recall = api.Recall(opened.inode, *recall_upcall(self._core.locks.state(opened.inode), grant, grant, grant.told))
            self._subscriber(by.gateway).tell(recall)
        return reply

    def _store(self, token: CallToken | None, reply: Reply) -> None:
        """Not every request that changes something in memory changes a record: its token is one all the same."""
        if token is None or token.stored:
            return
        try:
            self._core.note_down(Batch(), reply, token, reserved=True)
        except NoSpace as error:
            structlog.get_logger(component="volume").warning("token_not_recorded", reason=str(error))

    def _replied(self, token: CallToken | None, reply: Reply) -> tuple[Lsn, Level, Make]:
        self._store(token, reply)
        return reply.gate, Level.COMMITTED, lambda: self._answer(reply)

    # Answers

    @property
    def _stable(self) -> Lsn:
        return self._core.keys.log.stable

    def _answer(self, reply: Reply) -> Answer:
        return answer_of(Answered(self._stable, self.local.verifier, reply))

    def _reached(self) -> Answer:
        return answer_of(Reached(self._stable, self.local.verifier))

    def _settle(self, reply: Reply, level: Level = Level.COMMITTED) -> Given:
        return self._when(reply.gate, level, lambda: self._answer(reply))

    def _fail(self, error: SofsError) -> Given:
        if self.local.failed:
            raise Unavailable("the volume's log has failed")  # whatever else it says, another coordinator will know better

        def make() -> Answer:
            raise error

        return self._when(error.gate, Level.COMMITTED, make)

    def _when(self, gate: Lsn, level: Level, make: Make) -> Given:
        """The answer, once the gate is open."""
        future: asyncio.Future[Answer] | None = None
        ready = False

        def opened() -> None:
            nonlocal ready
            ready = True
            if future is not None and not future.done():
                _finish(future, make)

        self.local.when(gate, level, opened)
        if ready:
            return make()
        future = self._future()
        return future

    def _future(self) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._refusal is not None:
            future.set_result(self._refusal())
            return future
        self._unanswered[future] = None
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: "asyncio.Future[Answer]") -> None:
        self._unanswered.pop(future, None)

    # Waiting

    def _join(self, execution: _Execution) -> Given:
        future = self._future()
        execution.asking.append(future)
        return future

    def _wait(self, place: Place, sequence: int, waiting: Awaitable[R], done: Callable[[R], tuple[Lsn, Level, Make]]) -> Given:
        execution = self._running[place] = _Execution(sequence)
        future = self._join(execution)
        execution.task = self._loop.create_task(self._run(place, execution, waiting, done))
        return future

    async def _run(self, place: Place, execution: _Execution, waiting: Awaitable[R], done: Callable[[R], tuple[Lsn, Level, Make]]) -> None:
        try:
            gate, level, make = done(await waiting)
        except asyncio.CancelledError:
            gate, level, make = Lsn(0), Level.COMMITTED, _raising(Cancelled("the request was taken back"))
        except SofsError as error:
            gate, level = error.gate, Level.COMMITTED
            make = _raising(Unavailable("the volume's log has failed") if self.local.failed else error)
        except Exception:
            structlog.get_logger(component="volume").exception("forwarded_request_failed")
            gate, level, make = Lsn(0), Level.COMMITTED, _raising(Unavailable("an error of the node's own; its log has the details"))
        if self._running.get(place) is execution:
            del self._running[place]

        def opened() -> None:
            for future in execution.asking:
                if not future.done():
                    _finish(future, make)

        self.local.when(gate, level, opened)

    # Upcalls

    def tell(self, volume: VolumeId, upcall: Upcall) -> None:
        """What the volume tells its gateways, for those of other nodes. That it was shut out, `_fenced` tells a gateway."""
        if isinstance(upcall, (api.Recall, api.Revoked)):
            self._tell_holders(upcall.opens, upcall)
        elif isinstance(upcall, api.Noticed):
            self._tell_holders((upcall.open,), upcall)
        elif isinstance(upcall, api.Dropped):
            for subscriber in self._subscribers.values():
                subscriber.tell(upcall)

    def _tell_holders(self, opens: tuple[OpenId, ...], upcall: Upcall) -> None:
        """Tells the gateways elsewhere that have one of these opens, each once; all of them where that cannot be known any more."""
        gateways: dict[int, None] = {}
        for number in opens:
            opened = self._core.opens.get(number)
            if opened is None:
                gateways.update(dict.fromkeys(self._subscribers))
            elif self._core.is_elsewhere(opened.by):
                gateways[opened.by.gateway] = None
        for gateway in gateways:
            self._subscriber(gateway).tell(upcall)

    def _told_former(self, gateway: int, open: OpenId) -> None:
        """An open has gone over from this gateway to another one."""
        if gateway in self._subscribers:
            self._subscribers[gateway].tell(api.Dropped(open))

    def _subscriber(self, gateway: int) -> Subscriber:
        found = self._subscribers.get(gateway)
        if found is None:
            found = self._subscribers[gateway] = Subscriber(self._interconnect, self._clock, self.local.id)
        return found

    def _recalls(self, gateway: int) -> list[api.Recall]:
        """What holders who are connected through this gateway are being asked for."""
        found = []
        for inode, state in self._core.locks.files():
            for grant in state.grants:
                if not grant.recalling:
                    continue
                recall = api.Recall(inode, *recall_upcall(state, grant, grant, grant.told))
                holders = [self._core.opens[number] for number in recall.opens if number in self._core.opens]
                if any(opened.by.gateway == gateway for opened in holders):
                    found.append(recall)
        return found

    def _fenced(self, gateway: int) -> None:
        """Nothing of this gateway goes on; if it still lives, it is told so."""
        for place, execution in list(self._running.items()):
            if place[0] == gateway and execution.task is not None:
                execution.task.cancel()
        subscriber = self._subscribers.pop(gateway, None)
        if subscriber is not None:
            subscriber.tell(api.FencedOff(gateway))
            # It may be dead indeed, and then never hears of it.
            self._clock.call_later(_FAREWELL_S, subscriber.close)


def _raising(error: SofsError) -> Make:
    def make() -> Answer:
        raise error

    return make


def _finish(future: "asyncio.Future[Answer]", make: Make) -> None:
    try:
        future.set_result(make())
    except SofsError as error:
        future.set_exception(error)
