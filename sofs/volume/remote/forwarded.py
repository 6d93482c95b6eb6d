"""The volume's interface over questions to another node.

Replies rest on gates that were committed when they were given. What must be stable is known from what answers say of the log's stable position, or asked
for, once for all that wait. An upcall can overtake the reply that tells the gateway of the open which it is about: so what is heard while an open is being
asked for is told once more behind the reply, if it is about that open.
"""

import asyncio
import math
from bisect import insort
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sofs.encoding import encode
from sofs.errors import PeerError, SofsError
from sofs.runtime.ports import Buffer, Clock
from sofs.types import Level, Lsn, OpenId
from sofs.volume import api
from sofs.volume.api import AnyToken, Binding, Read, Reply, Request, Target, Upcall, Written
from sofs.volume.remote.asking import PATIENCE_S, Asker, Found, Question
from sofs.volume.remote.messages import Answered, Call, Kind, ReadAnswer, ReadAsk, When, WriteAsk, split
from sofs.volume.remote.repeating import ENDING, REPEATABLE, opposite

R = TypeVar("R")

_OPENING = frozenset({api.Open, api.Want, api.Reconnect})


class RemoteVolume:
    """`sofs.volume.api.Volume` at whichever node coordinates it; `asker` knows which."""

    def __init__(self, asker: Asker, clock: Clock) -> None:
        self._asker = asker
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Lsn, int, Callable[[], None]]] = []
        """For stability, by gate and then in order."""
        self._waited = 0
        self._asked = Lsn(0)
        """Up to here stability has been asked for."""
        self._asking = False
        self._opening = 0
        self._overheard: list[Upcall] = []
        """Upcalls since the oldest request for an open that is under way."""
        self.tell: Callable[[Upcall], None] = lambda upcall: None
        """Passes an upcall on to the gateways."""

    # sofs.volume.api.Volume

    def call(self, request: Request, token: AnyToken | None, by: Binding, snapshot: int = 0) -> Awaitable[Reply]:
        plain, slot = split(token)
        rest = encode(Call(snapshot, by, plain, slot, request))
        future: asyncio.Future[Reply] = self._loop.create_future()
        opening = type(request) in _OPENING
        self._opening += opening

        def then(found: Found | SofsError, payload: Buffer) -> None:
            if not future.done():
                if isinstance(found, Answered):
                    future.set_result(found.reply)
                    self._advance()
                else:
                    future.set_exception(found if isinstance(found, SofsError) else PeerError("a call is answered with a reply"))
            if opening:
                # Whoever waits for the reply runs in the loop's next round, and this behind that. (What the clock puts off may be done before.)
                self._loop.call_soon(self._loop.call_soon, self._opened, request, found)

        patience_s = math.inf if type(request) in ENDING else PATIENCE_S
        question = self._asker.ask(Kind.CALL, rest, b"", type(request) in REPEATABLE, then, patience_s=patience_s)

        def cancelled(future: "asyncio.Future[Reply]") -> None:
            if future.cancelled() and not question.done:
                self._opening -= opening
                self._take_back(question, request, by)

        future.add_done_callback(cancelled)
        return future

    def read(self, target: Target, offset: int, into: memoryview, by: Binding, snapshot: int = 0) -> Awaitable[Read]:
        rest = encode(ReadAsk(snapshot, by, target, offset, len(into)))
        future: asyncio.Future[Read] = self._loop.create_future()

        def then(found: Found | SofsError, payload: Buffer) -> None:
            if future.done():
                return
            if isinstance(found, ReadAnswer) and len(payload) <= len(into):
                count = len(payload)
                into[:count] = payload
                future.set_result(Read(count, found.end, found.gate, found.attributes))
                self._advance()
            else:
                future.set_exception(found if isinstance(found, SofsError) else PeerError("a read is answered with data"))

        return self._cancellable(future, self._asker.ask(Kind.READ, rest, b"", True, then))

    def write(self, target: Target, offset: int, data: memoryview, token: AnyToken | None, level: Level, by: Binding) -> Awaitable[Written]:
        plain, slot = split(token)
        rest = encode(WriteAsk(by, plain, slot, target, offset, level))
        future: asyncio.Future[Written] = self._loop.create_future()

        def then(found: Found | SofsError, payload: Buffer) -> None:
            if future.done():
                return
            if isinstance(found, Answered) and isinstance(found.reply, Written):
                future.set_result(found.reply)
                self._advance()
            else:
                future.set_exception(found if isinstance(found, SofsError) else PeerError("a write is answered with its count"))

        return self._cancellable(future, self._asker.ask(Kind.WRITE, rest, data, False, then))

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        if level is Level.COMMITTED or gate < self._asker.stable:
            send()
            return
        self._waited += 1
        insort(self._waiting, (gate, self._waited, send))
        if gate > self._asked and not self._asking:
            self._asking = True
            self._clock.call_soon(self._ask_stable)

    # Stability

    def _ask_stable(self) -> None:
        """Asks for all that wait by now."""
        self._asking = False
        if not self._waiting or self._waiting[-1][0] <= self._asked:
            return
        gate = self._asked = self._waiting[-1][0]

        def then(found: Found | SofsError, payload: Buffer) -> None:
            self._advance()

        self._asker.ask(Kind.WHEN, encode(When(gate)), b"", True, then, patience_s=1e9)

    def _advance(self) -> None:
        """Tells those whose gates have become stable."""
        waiting, stable = self._waiting, self._asker.stable
        if not waiting or waiting[0][0] >= stable:
            return
        count = 0
        while count < len(waiting) and waiting[count][0] < stable:
            count += 1
        due, self._waiting = waiting[:count], waiting[count:]
        for _, _, send in due:
            send()

    def forget_waiting(self) -> None:
        """What was to become stable may have been lost: nobody who waits for it is told."""
        self._waiting, self._asked = [], Lsn(0)

    # Taking back

    def _cancellable(self, future: "asyncio.Future[R]", question: Question) -> "asyncio.Future[R]":
        def cancelled(future: "asyncio.Future[R]") -> None:
            if future.cancelled() and not question.done:
                self._asker.take_back(question, lambda found, payload: None)

        future.add_done_callback(cancelled)
        return future

    def _take_back(self, question: Question, request: Request, by: Binding) -> None:
        def then(found: Found | SofsError, payload: Buffer) -> None:
            if isinstance(found, Answered) and (undo := opposite(request, found.reply)) is not None:
                # Nobody is there to be told if that fails, either.
                rest = encode(Call(0, by, None, None, undo))
                self._asker.ask(Kind.CALL, rest, b"", False, lambda found, payload: None, patience_s=math.inf)

        self._asker.take_back(question, then)

    # Upcalls

    def heard(self, upcall: Upcall) -> None:
        """An upcall has come."""
        if self._opening:
            self._overheard.append(upcall)
        self.tell(upcall)

    def _opened(self, request: Request, found: Found | SofsError) -> None:
        """The gateway knows of an open: what came before it did is told again."""
        self._opening -= 1
        again = []
        if isinstance(found, Answered) and self._overheard:
            mine = _opens_of(request, found.reply)
            again = [upcall for upcall in self._overheard if mine & _opens_in(upcall)]
        if not self._opening:
            self._overheard = []
        for upcall in again:
            self.tell(upcall)


def _opens_of(request: Request, reply: Reply) -> set[OpenId]:
    if isinstance(reply, api.Opened):
        return {reply.open, reply.delegation} - {OpenId(0)}
    if isinstance(reply, api.Granted) and isinstance(request, api.Want):
        return {request.open, reply.delegation} - {OpenId(0)}
    return set()


def _opens_in(upcall: Upcall) -> set[OpenId]:
    if isinstance(upcall, (api.Recall, api.Revoked)):
        return {*upcall.opens, upcall.delegation}
    if isinstance(upcall, (api.Dropped, api.Noticed)):
        return {upcall.open}
    return set()
