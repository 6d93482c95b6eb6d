"""Inputs for what one node reads from another: frames in any pieces, greetings, answers and outcomes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random

import msgspec
import structlog

from sofs.cluster import Answer, Asked, Incarnation, NodeId, Priority, outcomes, serving
from sofs.cluster import frames as framing
from sofs.cluster import link as links
from sofs.cluster import stream as streams
from sofs.cluster.frames import ANSWER, CALL, ERROR, HELLO, NOTIFY, PING, PONG, REFUSED, WELCOME, FrameReader, Hello, Refusal, Welcome, frame
from sofs.cluster.handling import Services
from sofs.cluster.serving import ServingLink
from sofs.cluster.stream import CallingLink, Identity, Stream
from sofs.errors import NotFound, PeerError, SofsError, SymlinkInPath
from sofs.runtime.ports import Buffer
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_network import SimulatedNetwork
from sofs.types import Lsn
from tests.protocol.fuzz import Target, mutated

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

ME, OTHER = NodeId(7), NodeId(8)
BUG = "a bug of ours, see the log"


class Wire:
    """A connection that collects."""

    peer = ("peer", 1)
    names: tuple[str, ...] = ()
    congested = False

    def __init__(self) -> None:
        self.sent = bytearray()

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def on_relief(self, call: Callable[[], None]) -> None: ...

    def send(self, data: Sequence[Buffer]) -> None:
        for piece in data:
            self.sent += piece

    def close(self) -> None: ...


def message(kind: int, chance: Random) -> bytes:
    """A frame as a correct peer may send it."""
    payload = chance.randbytes(chance.choice((0, 0, 1, 30, 5000)))
    if kind == HELLO:
        body = msgspec.msgpack.encode(Hello(framing.PROTOCOL, OTHER, chance.getrandbits(62), ME, chance.randrange(3), chance.getrandbits(20), 1))
    elif kind == WELCOME:
        body = msgspec.msgpack.encode(Welcome(chance.getrandbits(62), 1))
    elif kind == REFUSED:
        body = msgspec.msgpack.encode(Refusal("no"))
    elif kind == ERROR:
        body = outcomes.encode(sample_error(chance))
    else:
        body = chance.randbytes(chance.choice((0, 10, 300)))
    if kind in (HELLO, WELCOME, REFUSED, PING, PONG):
        payload = b""
    name = chance.choice((b"echo", b"echo", b"none", b"\xff")) if kind in (CALL, NOTIFY) else b""
    return frame(kind, chance.randrange(6), body, name, len(payload)) + payload


def sample_error(chance: Random) -> SofsError:
    error: SofsError = chance.choice((NotFound("x"), SymlinkInPath(b"t", 3, False)))
    error.gate = Lsn(chance.choice((0, 1, 1 << 62)))
    return error


def stream_of(kinds: Sequence[int], chance: Random) -> bytes:
    """Some frames in a row, then mutated, now and then."""
    whole = b"".join(message(kind, chance) for kind in kinds)
    return mutated(whole, chance) if chance.random() < 0.7 else whole


def feed(take: Callable[[memoryview], None], data: bytes, chance: Random) -> None:
    """Gives the bytes in random pieces."""
    at = 0
    while at < len(data):
        size = chance.choice((1, 7, 20, 100, 4096, len(data)))
        take(memoryview(data)[at : at + size])
        at += size


def pieces(chance: Random) -> None:
    """The same frames come out however a stream is cut and held up, and all of them are what was put in."""
    whole = stream_of([chance.randrange(1, 10) for _ in range(chance.randrange(6))], chance)
    seen: list[list[tuple[int, int, bytes, bytes, bytes]]] = []
    for cut in (False, True):
        taken: list[tuple[int, int, bytes, bytes, bytes]] = []
        stops = 0.3 if cut else 0.0

        def take(kind: int, number: int, name: memoryview, body: memoryview, payload: memoryview, kept: bool) -> bool:
            taken.append((kind, number, bytes(name), bytes(body), bytes(payload)))  # noqa: B023  # called in this round only
            return chance.random() >= stops  # noqa: B023

        reader = FrameReader(take, greeted=True)

        def feed_held(data: memoryview) -> None:
            reader.feed(data)  # noqa: B023
            if chance.random() < 0.5:
                reader.go_on()  # noqa: B023

        try:
            if cut:
                feed(feed_held, whole, chance)
                stops = 0.0
                reader.go_on()
            else:
                reader.feed(memoryview(whole))
        except PeerError:
            taken.append((0, 0, b"", b"", b""))
        seen.append(taken)
    assert seen[0] == seen[1]
    made = b"".join(frame(kind, number, body, name, len(payload)) + payload for kind, number, name, body, payload in seen[0] if kind)
    assert whole.startswith(made)


def answering(chance: Random) -> None:
    """Whatever comes to the end that answers, it answers with frames, or ends the connection."""

    async def main(loop: SimulatedLoop) -> None:
        def echo(asked: Asked) -> Answer:
            return Answer(bytes(asked.body), (bytes(asked.payload),))

        link = ServingLink(SimulatedClock(loop), Services({b"echo": echo}), lambda link, hello: Welcome(1, 1), lambda link: None)
        wire = Wire()
        link.begin(wire)
        kinds = [HELLO, *(chance.choice((CALL, CALL, NOTIFY, PING, HELLO, ANSWER)) for _ in range(chance.randrange(6)))]
        feed(link.received, stream_of(kinds, chance), chance)
        link.end("over")
        assert link.closed_for != BUG
        FrameReader(lambda *_: True, greeted=True).feed(memoryview(bytes(wire.sent)))

    simulate(main)


def calling(chance: Random) -> None:
    """Whatever comes to the end that calls, each of its calls has one outcome at most, and the connection goes on or ends."""

    async def main(loop: SimulatedLoop) -> None:
        clock, random = SimulatedClock(loop), SimulatedRandom(1)
        host = SimulatedNetwork(random).host("here")
        me = Identity(ME, Incarnation(1), 1, "")
        stream = Stream(clock, random, host, me, OTHER, Priority.FOREGROUND, lambda node: [], None, lambda welcome: None)
        link = CallingLink(clock, stream, Hello(framing.PROTOCOL, ME, 1, OTHER, 1, 1, 1))
        link.begin(Wire())
        stream._link = link
        answers: list[object] = []
        for _ in range(4):
            stream.ask(b"echo", b"", (), answers.append, 5.0, True)
        kinds = [WELCOME, *(chance.choice((ANSWER, ANSWER, ERROR, PONG, REFUSED, CALL)) for _ in range(chance.randrange(6)))]
        feed(link.received, stream_of(kinds, chance), chance)
        link.end("over")
        assert link.closed_for != BUG
        assert len(answers) == 4
        link.greeting.exception()
        stream.close("over")

    simulate(main)


def errors(chance: Random) -> None:
    """An outcome reads as what was written, or is refused."""
    whole = outcomes.encode(sample_error(chance))
    changed = mutated(whole, chance)
    try:
        read = outcomes.decode(memoryview(changed))
    except PeerError:
        return
    assert outcomes.encode(outcomes.decode(memoryview(outcomes.encode(read)))) == outcomes.encode(read)


TARGETS = [
    Target("cluster.frames", pieces, (framing.__name__,)),
    Target("cluster.answering", answering, (serving.__name__, links.__name__)),
    Target("cluster.calling", calling, (streams.__name__,)),
    Target("cluster.outcomes", errors, (outcomes.__name__,)),
]
