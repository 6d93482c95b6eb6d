"""A client of a simulated cluster: sends requests to a gateway, and to another one with the same token when that is gone.

A client is at no machine: its requests run in the process of the gateway's node, whatever it waits for goes on there when it no longer does, and its own
code is the simulation's. What it knows of the volume is what replies say once they were sent, which is when their gates have opened.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, cast

from sofs.errors import Delayed, Fenced, Grace, SofsError, Unavailable
from sofs.types import Inode, Level, Lsn
from sofs.volume.api import (
    AnyToken,
    Binding,
    Caller,
    Reply,
    Request,
    Stateless,
    Target,
    Token,
    Volume,
    Written,
)
from sofs.volume.api.interface import Read
from tests.simulation.cluster.machine import Gone, Machine

if TYPE_CHECKING:
    from tests.simulation.cluster.cluster import Cluster, Node

__all__ = ["SUPER", "Answer", "Client", "done", "stateless"]

T = TypeVar("T")
R = TypeVar("R", bound=Reply)

SUPER = Caller(0, 0, privileged=True)

Send = Callable[[Volume, Binding], Reply | Awaitable[Reply]]


class Answer:
    """What a request was answered, and how the volume identified itself then."""

    __slots__ = ("at", "reply", "sent", "verifier")

    def __init__(self, reply: Reply, verifier: int, sent: float, at: float) -> None:
        self.reply = reply
        self.verifier = verifier
        self.sent = sent
        """When it was sent first, in true time."""
        self.at = at


async def done(result: T | Awaitable[T]) -> T:
    return await result if isinstance(result, Awaitable) else result


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
        self.reattach: Callable[[], Awaitable[None]] | None = None
        """Takes over what it has to a new gateway, before anything is sent again."""
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

    async def write(self, target: Target, offset: int, data: bytes, token: AnyToken, level: Level) -> Answer:
        answer = await self.send(lambda volume, by: volume.write(target, offset, memoryview(data), token, level, by), level, "write")
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

    async def send(self, ask: Send, level: Level, what: str) -> Answer:
        sent = self.world.loop.time()
        tries = 0
        while True:
            try:
                await self._attach()
                async with asyncio.timeout(self.patience):
                    answer = await self.machine.ask(lambda node: self._once(node, ask, level, sent))
            except (Gone, TimeoutError, Fenced) as error:
                self.note("lost", what, type(error).__name__, self.machine.name)
                await self.move(fence=isinstance(error, TimeoutError))
            except (Delayed, Unavailable, Grace) as error:
                self.note("refused", what, type(error).__name__, str(error)[:60])
                await asyncio.sleep((1.0 if isinstance(error, Grace) else 0.1) * (1 + self.random.fraction()))
            else:
                return answer
            tries += 1
            self.resent += 1
            assert tries < 2000, f"{self.name} has no answer to {what} after {self.world.loop.time() - sent:.0f} s"

    async def _attach(self) -> None:
        """Makes itself known to a gateway that it has not used before."""
        node = self.machine.node
        if node is None:
            raise Gone(self.machine.name)
        if self.bound != node.incarnation:
            self.bound = node.incarnation
            if self.reattach is not None:
                await self.reattach()

    async def _once(self, node: "Node", ask: Send, level: Level, sent: float) -> Answer:
        volume = node.volume(self.volume)
        try:
            reply = await done(ask(volume, node.binding))
        except SofsError as error:
            await _sent(volume, error.gate, level)
            raise
        await _sent(volume, reply.gate, level)
        self.cluster.answered(node, self.volume)
        return Answer(reply, volume.verifier, sent, self.world.loop.time())

    async def move(self, fence: bool = False) -> None:
        """Goes to another gateway that runs; shuts out the one it leaves, if that may still be at work for it."""
        left = self.machine
        await asyncio.sleep(0.05 + 0.5 * self.random.fraction())
        others = [machine for machine in self.cluster.machines if machine.node is not None and (machine is not left or not fence)]
        if others:
            self.machine = others[self.random.below(len(others))]
        if fence and self.machine is not left:
            await self.cluster.shut_out(left, self.machine)


async def _sent(volume: Volume, gate: Lsn, level: Level) -> None:
    """Waits until an answer that rests on `gate` may leave."""
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    volume.when(gate, level, lambda: None if told.done() else told.set_result(None))
    await told


def stateless(inode: Inode) -> Stateless:
    return Stateless(inode, SUPER)
