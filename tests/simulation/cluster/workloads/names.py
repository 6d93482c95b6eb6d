"""A few names that several clients make, remove, rename and look up: a directory is linearizable, and each request that is repeated takes effect once.

All of it at stable, as NFS has it, so no failure of any kind excuses anything.
"""

from collections.abc import Hashable
from typing import cast

from sofs.errors import Exists, NotFound
from sofs.types import Inode, Kind
from sofs.volume.api import Changes, Found, Lookup, Make, Remove, Rename
from tests.simulation.cluster.client import SUPER, Client
from tests.simulation.cluster.linear import Operation, linearizable
from tests.simulation.cluster.workloads.base import Workload

__all__ = ["Names"]

State = frozenset[tuple[bytes, Inode]]


class Names(Workload):
    """All clients share the directory."""

    async def prepare(self) -> None:
        self.names = [b"a", b"b", b"c", b"d"][: 2 + self.random.below(3)]
        self.history: list[Operation] = []

    async def turn(self, client: Client) -> None:
        name = self._name()
        kind = self.random.below(10)
        if kind < 4:
            await self._make(client, name)
        elif kind < 6:
            await self._remove(client, name)
        elif kind < 8:
            await self._rename(client, name, self._name())
        else:
            await self._look(client, name)

    def _name(self) -> bytes:
        return self.names[self.random.below(len(self.names))]

    def _note(self, client: Client, called: float, operation: "_Made | _Removed | _Moved | _Seen") -> None:
        client.note(str(operation))
        self.history.append(Operation(called, self.world.loop.time(), operation, str(operation)))

    async def _make(self, client: Client, name: bytes) -> None:
        called, made = self.world.loop.time(), Inode(0)
        try:
            answer = await client.call(Make(SUPER, self.directory, name, Kind.FILE, Changes(mode=0o666)), client.token())
            made = cast(Found, answer.reply).attributes.inode
        except Exists:
            pass
        self._note(client, called, _Made(name, made))

    async def _remove(self, client: Client, name: bytes) -> None:
        called, done = self.world.loop.time(), True
        try:
            await client.call(Remove(SUPER, self.directory, name), client.token())
        except NotFound:
            done = False
        self._note(client, called, _Removed(name, done))

    async def _rename(self, client: Client, name: bytes, to: bytes) -> None:
        if name == to:
            return
        called, done = self.world.loop.time(), True
        try:
            await client.call(Rename(SUPER, self.directory, to, True, self.directory, name), client.token())
        except NotFound:
            done = False
        self._note(client, called, _Moved(name, to, done))

    async def _look(self, client: Client, name: bytes) -> None:
        called, found = self.world.loop.time(), Inode(0)
        try:
            answer = await client.call(Lookup(SUPER, self.directory, (name,)))
            found = cast(Found, answer.reply).attributes.inode
        except NotFound:
            pass
        self._note(client, called, _Seen(name, found))

    async def verify(self, client: Client) -> None:
        for name in self.names:
            await self._look(client, name)
        listed = frozenset((entry.name, entry.inode) for entry in await self.list(client))
        now = self.world.loop.time()
        self.history.append(Operation(now, now, _Listed(listed), f"listed {sorted(listed)}"))
        rows = "\n".join(f"  {each.called:.6f} {each.returned:.6f} {each.text}" for each in self.history[-60:])
        assert linearizable(self.history, frozenset()), f"no order explains what {self.kind}{self.number}'s clients were told:\n{rows}"


class _Made:
    """`inode` 0: the name existed."""

    def __init__(self, name: bytes, inode: Inode) -> None:
        self.name, self.inode = name, inode

    def __call__(self, state: Hashable) -> Hashable | None:
        names = dict(cast(State, state))
        if not self.inode:
            return state if self.name in names else None
        return frozenset({**names, self.name: self.inode}.items()) if self.name not in names else None

    def __str__(self) -> str:
        return f"make {self.name.decode()} -> {self.inode or 'exists'}"


class _Removed:
    def __init__(self, name: bytes, done: bool) -> None:
        self.name, self.done = name, done

    def __call__(self, state: Hashable) -> Hashable | None:
        names = dict(cast(State, state))
        if (names.pop(self.name, None) is not None) != self.done:
            return None
        return frozenset(names.items())

    def __str__(self) -> str:
        return f"remove {self.name.decode()} -> {'done' if self.done else 'not found'}"


class _Moved:
    def __init__(self, name: bytes, to: bytes, done: bool) -> None:
        self.name, self.to, self.done = name, to, done

    def __call__(self, state: Hashable) -> Hashable | None:
        names = dict(cast(State, state))
        if (self.name in names) != self.done:
            return None
        if self.done:
            names[self.to] = names.pop(self.name)
        return frozenset(names.items())

    def __str__(self) -> str:
        return f"rename {self.name.decode()} {self.to.decode()} -> {'done' if self.done else 'not found'}"


class _Seen:
    """`inode` 0: not found."""

    def __init__(self, name: bytes, inode: Inode) -> None:
        self.name, self.inode = name, inode

    def __call__(self, state: Hashable) -> Hashable | None:
        return state if dict(cast(State, state)).get(self.name, Inode(0)) == self.inode else None

    def __str__(self) -> str:
        return f"look up {self.name.decode()} -> {self.inode or 'not found'}"


class _Listed:
    def __init__(self, all_: State) -> None:
        self.all = all_

    def __call__(self, state: Hashable) -> Hashable | None:
        return state if state == self.all else None
