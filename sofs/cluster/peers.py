"""Peers, as whoever calls has them: other nodes, and this one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from sofs.cluster import Answer, Asked, Incarnation, NodeId, Outcome, Priority, Then
from sofs.cluster.frames import Welcome
from sofs.cluster.handling import Services, Waiting, ask_handler, outcome_of, tell
from sofs.cluster.stream import Addresses, Identify, Identity, Stream
from sofs.errors import PeerError, SofsError, Unavailable
from sofs.runtime.later import Later
from sofs.runtime.ports import Buffer, Clock, Network, Random


class _Peer:
    """What `call` is made of."""

    def call(
        self, service: str, body: Buffer, payload: Sequence[Buffer] = (), *, priority: Priority = Priority.FOREGROUND, deadline_s: float = 5.0
    ) -> Awaitable[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def then(outcome: Outcome) -> None:
            if future.done():
                return  # whoever called was cancelled
            if isinstance(outcome, SofsError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self._ask(service, body, payload, then, priority, deadline_s, True)
        return future

    def ask(
        self, service: str, body: Buffer, payload: Sequence[Buffer], then: Then, *, priority: Priority = Priority.FOREGROUND, deadline_s: float = 5.0
    ) -> None:
        self._ask(service, body, payload, then, priority, deadline_s, False)

    def _ask(self, service: str, body: Buffer, payload: Sequence[Buffer], then: Then, priority: Priority, deadline_s: float, keep: bool) -> None:
        """`keep`: the answer's views are to stay valid."""
        raise NotImplementedError


class NetworkPeer(_Peer):
    """`Peer`: another node."""

    def __init__(
        self, clock: Clock, random: Random, network: Network, me: Identity, node: NodeId, addresses: Addresses, identify: Identify | None
    ) -> None:
        self.node = node
        self.incarnation = Incarnation(0)
        self.features = 0
        """Its newest feature level, as last heard of."""
        self._streams = [Stream(clock, random, network, me, node, priority, addresses, identify, self._changed) for priority in Priority]
        self._watchers: list[Callable[[bool], None]] = []
        self._connected = False

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def heard(self) -> float:
        return max(stream.heard for stream in self._streams)

    def _ask(self, service: str, body: Buffer, payload: Sequence[Buffer], then: Then, priority: Priority, deadline_s: float, keep: bool) -> None:
        self._streams[priority].ask(service.encode(), body, payload, then, deadline_s, keep)

    def notify(self, service: str, body: Buffer, payload: Sequence[Buffer] = (), *, priority: Priority = Priority.FOREGROUND) -> None:
        self._streams[priority].notify(service.encode(), body, payload)

    def on_change(self, call: Callable[[bool], None]) -> Callable[[], None]:
        self._watchers.append(call)
        return lambda: self._watchers.remove(call) if call in self._watchers else None

    def heard_of(self, incarnation: Incarnation) -> None:
        """It has connected here, so it can probably be reached."""
        self.incarnation = incarnation
        for stream in self._streams:
            stream.hasten()

    def disconnect(self, reason: str) -> None:
        for stream in self._streams:
            stream.disconnect(reason)

    def close(self) -> None:
        for stream in self._streams:
            stream.close("the node is stopping")

    def _changed(self, welcome: Welcome | None) -> None:
        if welcome is not None:
            self.incarnation = Incarnation(welcome.incarnation)
            self.features = welcome.features
        connected = any(stream.connected for stream in self._streams)
        if connected != self._connected:
            self._connected = connected
            for call in list(self._watchers):
                call(connected)


class OwnPeer(_Peer):
    """`Peer`: this node. Calls take the same way through the handlers, in their order, a step of the loop later."""

    connected = True

    def __init__(self, clock: Clock, me: Identity, services: Services) -> None:
        self.node, self.incarnation, self.features = me.node, me.incarnation, me.features
        self._clock = clock
        self._services = services
        self._queue: deque[tuple[bytes, Buffer, Sequence[Buffer], Then | None, float]] = deque()
        self._waiting = Waiting()
        self._closed = False

    @property
    def heard(self) -> float:
        return self._clock.monotonic()

    def _ask(self, service: str, body: Buffer, payload: Sequence[Buffer], then: Then, priority: Priority, deadline_s: float, keep: bool) -> None:
        self._add(service, body, payload, then, deadline_s)

    def notify(self, service: str, body: Buffer, payload: Sequence[Buffer] = (), *, priority: Priority = Priority.FOREGROUND) -> None:
        self._add(service, body, payload, None, 0.0)

    def on_change(self, call: Callable[[bool], None]) -> Callable[[], None]:
        """It never changes."""
        return lambda: None

    def close(self) -> None:
        self._closed = True
        self._waiting.cancel()

    def _add(self, service: str, body: Buffer, payload: Sequence[Buffer], then: Then | None, deadline_s: float) -> None:
        self._queue.append((service.encode(), body, payload, then, deadline_s))
        if len(self._queue) == 1:
            self._clock.call_soon(self._serve)

    def _serve(self) -> None:
        queue, self._queue = self._queue, deque()
        for name, body, payload, then, deadline_s in queue:
            whole = memoryview(payload[0] if len(payload) == 1 else b"".join(payload))
            once = _once(then)
            try:
                if self._closed:
                    raise Unavailable("the node is stopping")
                outcome = ask_handler(self._services, name, Asked(self.node, self.incarnation, memoryview(body), whole, True))
            except (SofsError, PeerError) as error:
                outcome = error if isinstance(error, SofsError) else Unavailable(str(error))
            if isinstance(outcome, Answer | SofsError):
                once(outcome)
            else:
                self._wait(name, _awaited(outcome) if isinstance(outcome, Later) else outcome, once, deadline_s)

    def _wait(self, name: bytes, outcome: Awaitable[Answer], once: Then, deadline_s: float) -> None:
        timer = self._clock.call_later(deadline_s, lambda: once(Unavailable("this node did not answer itself in time")))

        def done(future: "asyncio.Future[Answer]") -> None:
            timer.cancel()
            try:
                once(outcome_of(name, future))
            except PeerError as error:
                once(Unavailable(str(error)))

        self._waiting.add(outcome, done)


async def _awaited(later: Later[Answer]) -> Answer:
    return await later


def _once(then: Then | None) -> Then:
    """Calls `then` the first time only, in the form in which answers come over a network."""
    left = [then]

    def once(outcome: Outcome) -> None:
        call, left[0] = left[0], None
        if call is None:
            return
        if isinstance(outcome, Answer):
            body, payload = outcome
            whole = payload[0] if len(payload) == 1 else b"".join(payload)
            outcome = Answer(memoryview(body), (memoryview(whole),) if len(whole) else ())
        tell(call, outcome)

    return once
