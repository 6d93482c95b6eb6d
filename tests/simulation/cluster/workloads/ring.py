"""A fixed number of files that wander among more names than there are files: no listing ever shows one too many or too few.

A rename is one batch; a replica that had half of it, or applied it twice, would be seen at once.
"""

from sofs.errors import Exists, NotFound
from sofs.volume.api import Rename
from tests.simulation.cluster.client import SUPER, Client
from tests.simulation.cluster.workloads.base import Workload

__all__ = ["Ring"]

_NAMES = 9


class Ring(Workload):
    """All clients share the directory."""

    async def prepare(self) -> None:
        self.files = set()
        for number in range(2 + self.random.below(4)):
            self.files.add(await self.make(self.clients[0], self.directory, self._name(number)))

    def _name(self, number: int) -> bytes:
        return b"r%d" % number

    async def turn(self, client: Client) -> None:
        if self.random.chance(0.3):
            await self._check(client)
            return
        source, target = self.random.below(_NAMES), self.random.below(_NAMES)
        if source == target:
            return
        try:
            await client.call(Rename(SUPER, self.directory, self._name(target), False, self.directory, self._name(source)), client.token())
            client.note("moved", source, target)
        except (NotFound, Exists):
            pass

    async def _check(self, client: Client) -> None:
        entries = await self.list(client)
        found = [entry.inode for entry in entries]
        names = " ".join(f"{entry.name.decode()}={entry.inode}" for entry in entries)
        client.note("listed", names)
        assert sorted(found) == sorted(self.files), f"{client.name}: of the files {sorted(self.files)} there are {names}"

    async def verify(self, client: Client) -> None:
        await self._check(client)
