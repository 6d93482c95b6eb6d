"""The end of a connection that calls: one priority's calls to one peer, in order, over one connection at a time.

A stream connects when somebody calls, and keeps itself connected from then on: at once after a break, then with growing pauses, and at once again
whenever somebody calls or the peer has been heard of. The peer's addresses are tried in turn; each priority begins with another one, so that several
cables are used together.

What is under way is bounded in bytes, per priority; further calls wait their turn here, and those waiting are bounded, too. When a connection
breaks, all calls that were sent over it end with `Unavailable`, and those that still waited to be sent go over the next one. The far end drops what is left of
an older connection before it hears the next (see `Hello.number`), so nothing overtakes.

A peer that says nothing for `SILENCE_S`, pings included, is given up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from sofs.cluster import Answer, Incarnation, NodeId, Outcome, Priority, Then, outcomes
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
from sofs.cluster.handling import tell
from sofs.cluster.link import Link
from sofs.encoding import decode, encode
from sofs.errors import PeerError, Unavailable
from sofs.runtime.ports import Buffer, Clock, Connection, Network, Random, Timer

UNDER_WAY = {Priority.REPLICATION: 64 << 20, Priority.FOREGROUND: 32 << 20, Priority.REBUILD: 8 << 20}
"""Bytes of calls sent and not answered. That of rebuilding is small: it is all that may stand before something urgent on the same cable."""
WAITING = 64 << 20
"""Bytes of calls that wait to be sent, for each priority; who calls then is told `Unavailable`."""
CALLS = 8192
"""Calls under way and waiting, each."""
CONNECT_S = 2.0
"""What one address has to answer in, greeting included."""
SOONEST_S, PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.1, 2.0
"""Between two rounds over the addresses: when somebody calls; at first; after many failures."""
TICK_S = 0.001
"""A deadline that has just not come yet is looked at again so much later."""
PING_S = 1.0
SILENCE_S = 4.0
NOTIFIED = 16 << 20
"""Bytes of messages without an answer that may wait for a connection."""

log = structlog.get_logger("cluster")

Addresses = Callable[[NodeId], Sequence[tuple[str, int]]]
Identify = Callable[[Connection], NodeId | None]


class Identity(NamedTuple):
    """What a node says of itself."""

    node: NodeId
    incarnation: Incarnation
    features: int
    cluster: str


class _Call(NamedTuple):
    then: Then
    deadline: float
    size: int
    keep: bool
    """The answer is used behind `then`, too."""


class _Waiting(NamedTuple):
    number: int
    call: _Call | None
    """None: nobody waits for an answer."""
    head: bytes
    payload: Sequence[Buffer]
    size: int


class CallingLink(Link):
    """A connection that this node has made."""

    def __init__(self, clock: Clock, stream: "Stream", hello: Hello) -> None:
        super().__init__(clock)
        self._stream = stream
        self.greeting: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        """The peer's welcome; raises `Unavailable`."""
        self.over = asyncio.Event()
        self.send_small(HELLO, encode(hello))

    def frame(self, kind: int, number: int, name: memoryview, body: memoryview, payload: memoryview, kept: bool) -> bool:
        if kind == ANSWER:
            self._stream.answered(number, Answer(body, (payload,) if payload else ()), kept)
        elif kind == ERROR:
            self._stream.answered(number, outcomes.decode(body))
        elif kind == PONG:
            pass
        elif kind == WELCOME and not self.greeting.done():
            self._reader.greeted = True
            self.greeting.set_result(decode(body, Welcome, "a greeting"))
        elif kind == REFUSED and not self.greeting.done():
            self.greeting.set_exception(Unavailable(decode(body, Refusal, "a greeting").reason))
            self.end("refused")
        elif kind in (WELCOME, REFUSED) and self.greeting.cancelled():
            self.end("the greeting came too late")
        else:
            raise PeerError(f"a frame of kind {kind} from the end that answers")
        return not self.closed_for

    def ended(self, reason: str) -> None:
        if not self.greeting.done():
            # Who does not trust a certificate hangs up in TLS 1.3 without a word that would get here.
            self.greeting.set_exception(Unavailable(f"{reason} before a greeting; if it does not trust this node's certificate, a clock is wrong"))
        self.over.set()
        self._stream.broken(self, reason)


class Stream:
    """One priority of one peer."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        network: Network,
        me: Identity,
        node: NodeId,
        priority: Priority,
        addresses: Addresses,
        identify: Identify | None,
        changed: Callable[[Welcome | None], None],
    ) -> None:
        """`changed` is told of every connection, and with `None` of its end."""
        self._clock = clock
        self._random = random
        self._network = network
        self._me = me
        self._node = node
        self._priority = priority
        self._addresses = addresses
        self._identify = identify
        self._changed = changed
        self._link: CallingLink | None = None  # only while calls may go over it
        self._heard = 0.0
        self._numbers = 0
        self._connections = 0
        self._calls: dict[int, _Call] = {}
        self._waiting: deque[_Waiting] = deque()
        self._under_way = 0
        self._held = 0
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._pinger: Timer | None = None
        self._looked = 0.0
        """When `_look` was called last."""
        self._closed = ""

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def heard(self) -> float:
        return self._heard if self._link is None else self._link.heard

    @property
    def under_way(self) -> int:
        """Bytes that were sent and are not answered."""
        return self._under_way

    # Calling

    def ask(self, service: bytes, body: Buffer, payload: Sequence[Buffer], then: Then, deadline_s: float, keep: bool) -> None:
        """`then` is called exactly once, never before this returns."""
        size = 0
        for piece in payload:
            size += len(piece)
        assert len(body) <= LARGEST_BODY and size <= LARGEST_PAYLOAD, "a message as long as this has to be cut by its sender"
        self._numbers = number = self._numbers + 1
        head = frame(CALL, number, body, service, size)
        deadline = self._clock.monotonic() + deadline_s
        call = _Call(then, deadline, len(head) + size, keep)
        link = self._link
        if link is not None and not self._waiting and self._has_room(call.size):
            self._calls[number] = call
            self._under_way += call.size
            link.send(head, payload, size)
        else:
            self._hold(_Waiting(number, call, head, payload, size))
        if self._timer is None or deadline < self._timer_at:
            self._set_timer(deadline)

    def notify(self, service: bytes, body: Buffer, payload: Sequence[Buffer]) -> None:
        """May be lost."""
        size = sum(len(piece) for piece in payload)
        assert len(body) <= LARGEST_BODY and size <= LARGEST_PAYLOAD
        head = frame(NOTIFY, 0, body, service, size)
        if self._link is not None and not self._waiting:
            self._link.send(head, payload, size)
        else:
            self._hold(_Waiting(0, None, head, payload, size))

    def _has_room(self, size: int) -> bool:
        return not self._calls or (self._under_way + size <= UNDER_WAY[self._priority] and len(self._calls) < CALLS)

    def _hold(self, waiting: _Waiting) -> None:
        """Keeps it until it can be sent, or refuses it."""
        size = len(waiting.head) + waiting.size
        refusal = self._closed
        if self._held + size > (WAITING if waiting.call else NOTIFIED) or len(self._waiting) >= CALLS:
            refusal = f"too much waits to be sent to node {self._node:016x}"
        if not refusal:
            self._waiting.append(waiting)
            self._held += size
            self.want()
        elif waiting.call is not None:
            then = waiting.call.then
            self._clock.call_soon(lambda: then(Unavailable(refusal)))

    def _pump(self) -> None:
        """Sends what has waited, as far as there is room."""
        link = self._link
        while link is not None and self._waiting:
            number, call, head, payload, size = self._waiting[0]
            if call is not None:
                if not self._has_room(call.size):
                    return
                self._calls[number] = call
                self._under_way += call.size
            self._waiting.popleft()
            self._held -= len(head) + size
            link.send(head, payload, size)
            link = self._link

    # Answers

    def answered(self, number: int, outcome: Outcome, kept: bool = True) -> None:
        """`kept`: its views stay valid behind this call."""
        call = self._calls.pop(number, None)
        if call is None:
            return  # its time was over before
        if call.keep and not kept and isinstance(outcome, Answer):
            outcome = Answer(memoryview(bytes(outcome.body)), tuple(memoryview(bytes(piece)) for piece in outcome.payload))
        self._under_way -= call.size
        if self._waiting:
            self._pump()
        tell(call.then, outcome)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        # Not less: of two clocks with different rates one may find that nothing is due just when the other's time has come, over and over.
        self._timer = self._clock.call_later(max(at - self._clock.monotonic(), TICK_S), self._expire)

    def _expire(self) -> None:
        """Ends the calls whose time is over."""
        self._timer = None
        now = self._clock.monotonic()
        late = [number for number, call in self._calls.items() if call.deadline <= now]
        ended = [self._calls.pop(number) for number in late]
        self._under_way -= sum(call.size for call in ended)
        stay = deque(each for each in self._waiting if each.call is None or each.call.deadline > now)
        if len(stay) < len(self._waiting):
            ended += [each.call for each in self._waiting if each.call is not None and each.call.deadline <= now]
            self._waiting = stay
            self._held = sum(len(each.head) + each.size for each in stay)
        self._pump()
        left = [call.deadline for call in self._calls.values()]
        left += [each.call.deadline for each in self._waiting if each.call is not None]
        if left:
            self._set_timer(min(left))
        for call in ended:
            tell(call.then, Unavailable(f"node {self._node:016x} did not answer in time"))

    # The connection

    def want(self) -> None:
        """Somebody calls: connects now."""
        self._wanted.set()
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._keep_connected())

    def hasten(self) -> None:
        """The peer was heard of: no need to pause any longer."""
        self._wanted.set()

    def broken(self, link: CallingLink, reason: str) -> None:
        if link is not self._link:
            return
        self._link, self._heard = None, link.heard
        if self._pinger is not None:
            self._pinger.cancel()
        calls, self._calls, self._under_way = list(self._calls.values()), {}, 0
        log.info("cluster.disconnected", node=f"{self._node:016x}", priority=self._priority.name, reason=reason)
        self._changed(None)
        for call in calls:
            tell(call.then, Unavailable(f"the connection to node {self._node:016x} broke: {reason}"))

    def disconnect(self, reason: str) -> None:
        if self._link is not None:
            self._link.end(reason)

    def close(self, reason: str) -> None:
        """Ends everything that is under way with `Unavailable`."""
        self._closed = reason
        if self._task is not None:
            self._task.cancel()
        if self._link is not None:
            self._link.end(reason)
        self._give_up(reason)
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self, reason: str) -> None:
        """Whoever waits for a connection waits in vain."""
        waiting, self._waiting, self._held = list(self._waiting), deque(), 0
        for each in waiting:
            if each.call is not None:
                tell(each.call.then, Unavailable(reason))

    async def _keep_connected(self) -> None:
        failures = 0
        try:
            while True:
                self._wanted.clear()  # whoever calls, or is heard of, from now on may know more than this round finds
                link, reason = await self._connect()
                if link is not None:
                    failures = 0
                    await link.over.wait()
                    await self._clock.sleep(self._jittered(SOONEST_S))
                    continue
                self._give_up(reason)
                if not self._waiting and not self._addresses(self._node):
                    return  # no member any more
                failures += 1
                await self._pause(min(PAUSE_S * 2 ** min(failures, 10), LONGEST_PAUSE_S))
        finally:
            self._task = None

    async def _pause(self, longest: float) -> None:
        await self._clock.sleep(SOONEST_S)
        waker = self._clock.call_later(self._jittered(longest), self._wanted.set)
        try:
            await self._wanted.wait()
        finally:
            waker.cancel()

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.5 + self._random.number(16) / (1 << 16))

    async def _connect(self) -> tuple[CallingLink | None, str]:
        """One round over all addresses; the connection, or why there is none."""
        addresses = list(self._addresses(self._node))
        if not addresses:
            return None, f"node {self._node:016x} is no member of the cluster"
        first = (self._priority + self._connections) % len(addresses)
        reasons = []
        for host, port in addresses[first:] + addresses[:first]:
            try:
                return await self._connect_to(host, port), ""
            except Unavailable as error:
                reasons.append(f"{host} port {port}: {error}")
        return None, f"node {self._node:016x} cannot be reached ({'; '.join(reasons)})"

    async def _connect_to(self, host: str, port: int) -> CallingLink:
        self._connections += 1
        me = self._me
        hello = Hello(PROTOCOL, me.node, me.incarnation, self._node, self._priority, self._connections, me.features, me.cluster)
        link = CallingLink(self._clock, self, hello)
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._network.connect(host, port, link)
                if self._identify is not None and self._identify(connection) != self._node:
                    connection.close()
                    raise Unavailable(f"who answers there shows another's certificate: {connection.names}")
                link.begin(connection)
                welcome = await link.greeting
        except BaseException as error:
            link.end("it was not welcomed")
            if not link.greeting.cancelled():
                link.greeting.exception()  # somebody has looked at it
            if isinstance(error, TimeoutError):
                raise Unavailable("no answer") from None
            raise
        if link.closed_for:
            raise Unavailable(link.closed_for)
        self._link = link
        self._looked = self._clock.monotonic()
        self._pinger = self._clock.call_later(PING_S, self._look)
        log.info("cluster.connected", node=f"{self._node:016x}", priority=self._priority.name, address=f"{host}:{port}")
        self._changed(welcome)
        self._pump()
        return link

    def _look(self) -> None:
        """Once a second: a peer that has been silent is asked for a sign of life, and given up in the end."""
        link = self._link
        if link is None:
            return
        now = self._clock.monotonic()
        if now - self._looked > 2 * PING_S:
            # This process did not run, or hardly: what the peer has said meanwhile is still to be read.
            link.heard = max(link.heard, now - PING_S)
        self._looked = now
        silent = now - link.heard
        if silent >= SILENCE_S:
            link.end(f"nothing was heard for {silent:.0f} s")
            return
        if silent >= PING_S * 0.9:
            link.send_small(PING)
        self._pinger = self._clock.call_later(PING_S, self._look)
