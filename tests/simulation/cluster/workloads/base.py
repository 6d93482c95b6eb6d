"""What all workloads have in common."""

import asyncio
from typing import TYPE_CHECKING, cast

from sofs.types import ROOT, Inode, Kind
from sofs.volume.api import Changes, Entries, Found, GetAttributes, Lookup, Make, ReadDirectory
from sofs.volume.api.values import Entry
from tests.simulation.cluster.client import SUPER, Client, stateless

if TYPE_CHECKING:
    from tests.simulation.cluster.cluster import Cluster

__all__ = ["Workload"]


class Workload:
    """Some clients in a directory of their own."""

    clients_at_most = 3

    def __init__(self, cluster: "Cluster", number: int, volume: str) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.random = cluster.world.random
        self.number = number
        self.volume = volume
        self.kind = type(self).__name__.lower()
        count = 1 + self.random.below(self.clients_at_most)
        self.clients = [self._client(index) for index in range(count)]
        self.directory = Inode(0)
        self.operations = 0
        self.stopping = False

    def _client(self, index: int) -> Client:
        return Client(self.cluster, f"{self.kind}{self.number}.{index}", self.volume)

    async def begin(self) -> None:
        self.directory = await self.make(self.clients[0], ROOT, b"%s%d" % (self.kind.encode(), self.number), Kind.DIRECTORY)
        await self.prepare()

    async def prepare(self) -> None:
        """Makes what is there before the first fault."""

    async def work(self) -> None:
        """Until it is told to stop."""
        await asyncio.gather(*(self._work(client) for client in self.clients))

    async def _work(self, client: Client) -> None:
        while not self.stopping:
            await self.turn(client)
            self.operations += 1
            if self.random.chance(0.6):
                await asyncio.sleep(self.random.fraction() * (2.0 if self.random.chance(0.1) else 0.1))
        await self.leave(client)

    async def leave(self, client: Client) -> None:
        """Gives up what would be in others' way, now that the client does nothing more."""

    async def turn(self, client: Client) -> None:
        """One thing that a client does."""
        raise NotImplementedError

    async def verify(self, client: Client) -> None:
        """Raises AssertionError if what there is does not follow from what clients were told."""

    # Helpers

    async def make(self, client: Client, at: Inode, name: bytes, kind: Kind = Kind.FILE) -> Inode:
        answer = await client.call(Make(SUPER, at, name, kind, Changes(mode=0o777)), client.token())
        return cast(Found, answer.reply).attributes.inode

    async def find(self, client: Client, name: bytes) -> Inode:
        answer = await client.call(Lookup(SUPER, self.directory, (name,)))
        return cast(Found, answer.reply).attributes.inode

    async def list(self, client: Client, directory: Inode | None = None) -> list[Entry]:
        """All of the directory as it is at one moment: it must be small enough for one request."""
        answer = await client.call(ReadDirectory(SUPER, directory or self.directory, 0, 1000, True))
        reply = cast(Entries, answer.reply)
        assert reply.end
        return reply.entries

    async def content(self, client: Client, inode: Inode) -> bytes:
        answer = await client.call(GetAttributes(stateless(inode)))
        size = cast(Found, answer.reply).attributes.size
        data, _ = await client.read(stateless(inode), 0, size)
        return data
