"""The end of a connection that answers calls.

Calls are handed to their services in the order in which they come; answers leave in the order in which they are ready. A handler that has to wait
holds nobody else up.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from sofs.cluster import Answer, Asked, Incarnation, NodeId, Outcome, Priority, outcomes
from sofs.cluster.frames import (
    ANSWER,
    CALL,
    ERROR,
    HELLO,
    LARGEST_BODY,
    LARGEST_PAYLOAD,
    NOTIFY,
    PING,
    PONG,
    PROTOCOL,
    REFUSED,
    WELCOME,
    Hello,
    Refusal,
    Welcome,
    frame,
)
from sofs.cluster.handling import Services, Waiting, ask_handler, outcome_of
from sofs.cluster.link import Link
from sofs.encoding import decode, encode
from sofs.errors import PeerError, SofsError, Unavailable
from sofs.runtime.later import Later
from sofs.runtime.ports import Clock

CALLS = 16_384
"""Calls that may wait at once over one connection; their caller bounds itself below that."""
GREETING_S = 5.0
"""What a peer has to say who it is."""

log = structlog.get_logger("cluster")


class ServingLink(Link):
    """A connection that another node has made."""

    def __init__(
        self, clock: Clock, services: Services, greet: Callable[["ServingLink", Hello], Welcome], ended: Callable[["ServingLink"], None]
    ) -> None:
        """`greet` judges who has connected; it raises `Unavailable` with the reason when it refuses."""
        super().__init__(clock)
        self._services = services
        self._greet = greet
        self._ended = ended
        self.hello: Hello | None = None
        self._node = NodeId(0)
        self._incarnation = Incarnation(0)
        self._waiting = Waiting()
        self._holding = False
        self._timer = clock.call_later(GREETING_S, lambda: self.end("it did not say who it is"))

    def frame(self, kind: int, number: int, name: memoryview, body: memoryview, payload: memoryview, kept: bool) -> bool:
        if kind == CALL:
            if not number:
                raise PeerError("a call with the number 0")
            self._serve(number, bytes(name), body, payload, kept)
        elif kind == NOTIFY:
            self._serve(0, bytes(name), body, payload, kept)
        elif kind == PING:
            self.send_small(PONG, number=number)
        elif kind == HELLO and self.hello is None:
            self._welcome(body)
        else:
            raise PeerError(f"a frame of kind {kind} from the end that calls")
        return not self.closed_for and not self._hold_if_congested()

    def _hold_if_congested(self) -> bool:
        """Who does not take its answers is not heard until it has."""
        connection = self._connection
        if connection is None or not connection.congested:
            return False
        if not self._holding:
            self._holding = True
            connection.pause()
            connection.on_relief(self._relieved)
        return True

    def _relieved(self) -> None:
        if self._holding and not self.closed_for and self._connection is not None:
            self._holding = False
            self.take(self._reader.go_on)
            if not self._holding:
                self._connection.resume()

    def ended(self, reason: str) -> None:
        self._timer.cancel()
        self._ended(self)

    def stop(self) -> None:
        """Gives up handlers that still wait."""
        self._waiting.cancel()

    def _welcome(self, body: memoryview) -> None:
        hello = decode(body, Hello, "a greeting")
        self._timer.cancel()
        try:
            if hello.protocol != PROTOCOL:
                raise Unavailable(
                    f"this node speaks protocol {PROTOCOL}, not {hello.protocol}; let the newer of the two wait until the older is upgraded"
                )
            if not 0 <= hello.priority < len(Priority):
                raise PeerError(f"it connects for the priority {hello.priority}")
            welcome = self._greet(self, hello)
        except Unavailable as refusal:
            log.warning("cluster.refused", peer=self.place, node=f"{hello.node:016x}", reason=str(refusal))
            self.send_small(REFUSED, encode(Refusal(str(refusal))))
            self.end(str(refusal))
            return
        self.hello = hello
        self._node, self._incarnation = NodeId(hello.node), Incarnation(hello.incarnation)
        self._reader.greeted = True
        self.send_small(WELCOME, encode(welcome))

    def _serve(self, number: int, name: bytes, body: memoryview, payload: memoryview, kept: bool) -> None:
        """`number` 0: nobody waits for the answer."""
        if self.hello is None:
            raise PeerError("it calls before it has said who it is")
        outcome: Outcome | Later[Answer] | Awaitable[Answer]
        if self._waiting.count >= CALLS:
            outcome = Unavailable(f"{CALLS} calls wait already")
        else:
            outcome = ask_handler(self._services, name, Asked(self._node, self._incarnation, body, payload, kept))
        if isinstance(outcome, Answer | SofsError):
            if number:
                self._answer(number, name, outcome)
        elif isinstance(outcome, Later):
            self._waiting.count += 1
            outcome.then(partial(self._told, number, name))
        else:
            self._waiting.add(outcome, lambda future: self._finish(number, name, future))

    def _told(self, number: int, name: bytes, outcome: Outcome) -> None:
        self._waiting.count -= 1
        if number:
            self._answer(number, name, outcome)

    def _finish(self, number: int, name: bytes, future: "asyncio.Future[Answer]") -> None:
        try:
            outcome = outcome_of(name, future)
        except PeerError as error:
            log.warning("cluster.peer_error", peer=self.place, reason=str(error))
            self.end(f"the peer broke the protocol: {error}")
            return
        if number:
            self._answer(number, name, outcome)

    def _answer(self, number: int, name: bytes, outcome: Outcome) -> None:
        if isinstance(outcome, SofsError):
            self.send(frame(ERROR, number, outcomes.encode(outcome)))
            return
        body, payload = outcome
        size = 0
        for piece in payload:
            size += len(piece)
        if size > LARGEST_PAYLOAD or len(body) > LARGEST_BODY:
            log.error("cluster.answer_too_long", service=name.decode(), bytes=len(body) + size)
            self.send(frame(ERROR, number, outcomes.encode(Unavailable("the answer is too long"))))
            return
        self.send(frame(ANSWER, number, body, payload=size), payload, size)
