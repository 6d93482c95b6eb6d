"""A client of a simulated cluster: sends requests to a gateway, and to another one with the same token when that is gone.

A client is at no machine: its requests run in the process of the gateway's node, whatever it waits for goes on there when it no longer does, and its own
code is the simulation's. What it knows of the volume is what replies say once they were sent, which is when their gates have opened.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, cast

from sofs.errors import Delayed, Fenced, Grace, NoSpace, SofsError, Unavailable
from sofs.types import Inode, Level
from sofs.volume.api import AnyToken, Binding, Caller, Reply, Request, Stateless, Target, Token, Volume, Written
from sofs.volume.api.interface import Read
from tests.simulation.cluster.answers import done, sent
from tests.simulation.cluster.machine import Gone, Machine

if TYPE_CHECKING:
    from tests.simulation.cluster.cluster import Cluster, Node

__all__ = ["SUPER", "Answer", "Client", "Unknown", "stateless"]

T = TypeVar("T")
R = TypeVar("R", bound=Reply)

SUPER = Caller(0, 0, privileged=True)

_PATIENCE_S = 300.0
"""A request that has no answer for so long, through whatever gateway, never gets one: no fault lasts that long."""

Send = Callable[[Volume, Binding], Reply | Awaitable[Reply]]


class Unknown(Exception):
    """A request that was sent once has not been answered: it may have been carried out, or may yet be, at most once."""


class Answer:
    """What a request was answered, and how the volume identified itself then."""

    __slots__ = ("at", "gateway", "reply", "sent", "verifier")

    def __init__(self, reply: Reply, gateway: int, verifier: int, sent: float, at: float) -> None:
        self.reply = reply
        self.gateway = gateway
        """The incarnation through which it came."""
        self.verifier = verifier
        self.sent = sent
        """When it was sent first, in true time."""
        self.at = at


class Client:
    """One client of one volume. One request at a time."""

    def __init__(self, cluster: "Cluster", name: str, volume: str) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.random = cluster.world.random
        self.name = name
        self.volume = volume
        self.machine: Machine[Node] = cluster.machines[self.random.below(len(cluster.machines))]
        self.resent = 0
        self.tokens = 0
        self.bound = 0
        """The incarnation of the gateway that it used last."""
        self.session = 1
        """Of its connection to a gateway: who has something to take over has another one with each."""
        self._left: dict[int, None] = {}
        """Incarnations that it has left, and that may still be at work for it."""
        self.reattach: Callable[[], Awaitable[int]] | None = None
        """Takes over what it has to the gateway where it is now, before anything is sent again; gives the incarnation that answered, 0 if there was nothing
        to take over."""
        self._attaching = False
        self.patience = 6.0 + self.random.fraction() * 8
        """Seconds without an answer after which it goes elsewhere."""

    def note(self, what: str, *fields: object) -> None:
        self.world.note(self.name, what, *fields)

    def token(self) -> Token:
        self.tokens += 1
        return Token(b"%s %d" % (self.name.encode(), self.tokens), 600)

    # Requests

    async def call(self, request: Request, token: AnyToken | None = None, level: Level = Level.STABLE) -> Answer:
        """Sends the request until there is an answer. Raises what the volume refuses it with."""
        return await self.send(lambda volume, by: volume.call(request, token, by), level, type(request).__name__)

    async def write(self, target: Target, offset: int, data: bytes, token: AnyToken | None, level: Level) -> Answer:
        """Without a token it is sent once, as SMB's are: raises `Unknown` if no answer comes."""

        def ask(volume: Volume, by: Binding) -> Reply | Awaitable[Reply]:
            return volume.write(target, offset, memoryview(data), token, level, by)

        answer = await self.send(ask, level, "write", again=token is not None)
        assert cast(Written, answer.reply).count == len(data)
        return answer

    async def read(self, target: Target, offset: int, length: int) -> tuple[bytes, Answer]:
        buffer = bytearray(length)

        def ask(volume: Volume, by: Binding) -> Awaitable[Reply]:
            async def read() -> Reply:
                # Each attempt has a buffer of its own: one that was given up may still be filled.
                into = bytearray(length)
                found: Read = await done(volume.read(target, offset, memoryview(into), by))
                buffer[:] = into[: found.count]
                return Reply(found.gate)

            return read()

        answer = await self.send(ask, Level.COMMITTED, "read")
        return bytes(buffer), answer

    async def send(self, ask: Send, level: Level, what: str, again: bool = True) -> Answer:
        begun = self.world.loop.time()
        while True:
            sent = False
            try:
                await self._attach()
                sent = True
                async with asyncio.timeout(self.patience):
                    return await self.machine.ask(lambda node: self._once(node, ask, level, begun))
            except (Gone, TimeoutError, Fenced) as error:
                self.note("lost", what, type(error).__name__, self.machine.name)
                await self._move(doubtful=not isinstance(error, Gone))
                if sent and not again:
                    raise Unknown from None
            except (Delayed, Unavailable, Grace, NoSpace) as error:
                self.note("refused", what, type(error).__name__, str(error)[:60])
                if sent and not again:
                    raise Unknown from None
                await asyncio.sleep((1.0 if isinstance(error, Grace) else 0.1) * (1 + self.random.fraction()))
            self.resent += 1
            waited = self.world.loop.time() - begun
            assert waited < _PATIENCE_S, f"{self.name} has no answer to {what} after {waited:.0f} s"

    async def _attach(self) -> None:
        """Makes itself known to a gateway that it has not used before, which shuts out the former one where that may still be at work."""
        while True:
            node = self.machine.node
            if node is None:
                raise Gone(self.machine.name)
            if node.incarnation in self._left:
                raise Gone(self.machine.name)  # a client does not come back to a gateway that it has had shut out
            for gateway in self._left:
                await self.cluster.shut_out(gateway, self)
            if self._attaching or self.bound == node.incarnation:
                return
            if self.reattach is None:
                self.bound = node.incarnation
                return
            self._attaching = True
            try:
                self.bound = await self.reattach() or node.incarnation
            finally:
                self._attaching = False

    async def _once(self, node: "Node", ask: Send, level: Level, begun: float) -> Answer:
        volume = node.volume(self.volume)
        try:
            reply = await done(ask(volume, Binding(node.incarnation, self.session)))
        except SofsError as error:
            await sent(volume, error.gate, level)
            raise
        await sent(volume, reply.gate, level)
        self.cluster.answered(node, self.volume)
        return Answer(reply, node.incarnation, volume.verifier, begun, self.world.loop.time())

    async def _move(self, doubtful: bool) -> None:
        """Goes to a gateway that runs: another one, if what became of this one is in doubt."""
        node = self.machine.node
        if doubtful and node is not None:
            self._left[node.incarnation] = None
            self.bound = 0
            self.session += self.reattach is not None
        await asyncio.sleep(0.05 + 0.5 * self.random.fraction())
        running = [machine for machine in self.cluster.machines if machine.node is not None]
        others = [machine for machine in running if machine.node is not None and machine.node.incarnation not in self._left]
        if others:
            self.machine = others[self.random.below(len(others))]
        elif node is not None and self.machine.node is node:
            # There is no other: it goes on asking here, with the same tokens.
            self._left.pop(node.incarnation, None)


def stateless(inode: Inode) -> Stateless:
    return Stateless(inode, SUPER)
