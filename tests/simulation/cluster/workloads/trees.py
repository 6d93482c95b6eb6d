"""A client's own files, changed in every way, one request after another: what there is, is what was done, to the byte.

All at stable: whatever fails, also the power of all nodes, each request has taken effect once and in order.
"""

from typing import cast

from sofs.errors import Exists, NotFound
from sofs.types import Inode, Kind, Level
from sofs.volume.api import Allocate, Changes, Clone, Found, Make, Punch, Remove, Rename, SetAttributes
from tests.simulation.cluster.client import SUPER, Client, stateless
from tests.simulation.cluster.workloads.base import Workload

__all__ = ["Trees"]

KIB = 1 << 10
_LARGEST = 200 * KIB


class _Tree:
    """What a client knows."""

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.names: dict[bytes, Inode] = {}
        self.contents: dict[Inode, bytes] = {}


class Trees(Workload):
    """Each client has a directory."""

    async def prepare(self) -> None:
        self.trees: dict[str, _Tree] = {}
        for client in self.clients:
            self.trees[client.name] = _Tree(await self.make(client, self.directory, client.name.encode(), Kind.DIRECTORY))

    async def turn(self, client: Client) -> None:
        tree = self.trees[client.name]
        if not tree.names or (len(tree.names) < 8 and self.random.chance(0.2)):
            await self._make(client, tree)
            return
        name = list(tree.names)[self.random.below(len(tree.names))]
        turns = (
            self._write, self._write, self._write, self._append, self._truncate, self._punch, self._allocate,
            self._rename, self._remove, self._clone, self._read, self._read, self._make_again,
        )  # fmt: skip
        await turns[self.random.below(len(turns))](client, tree, name)

    async def _make(self, client: Client, tree: _Tree) -> None:
        free = [name for name in (b"f%d" % number for number in range(10)) if name not in tree.names]
        name = free[self.random.below(len(free))]
        inode = await self.make(client, tree.inode, name)
        tree.names[name] = inode
        tree.contents[inode] = b""
        client.note("made", name, inode)

    async def _make_again(self, client: Client, tree: _Tree, name: bytes) -> None:
        try:
            answer = await client.call(Make(SUPER, tree.inode, name, Kind.FILE, Changes(mode=0o600)), client.token())
        except Exists:
            return
        raise AssertionError(f"{client.name}: {name!r} could be made again, as {cast(Found, answer.reply).attributes.inode}")

    def _data(self, length: int) -> bytes:
        return (self.random.bytes(32) * (length // 32 + 1))[:length]

    async def _write(self, client: Client, tree: _Tree, name: bytes) -> None:
        inode = tree.names[name]
        if self.random.chance(0.5):
            offset, length = self.random.below(20) * 4096, (1 + self.random.below(3)) * 4096
        elif self.random.chance(0.9):
            offset, length = self.random.below(60 * KIB), 1 + self.random.below(6000)
        else:
            offset, length = self.random.below(4) * 4096, 130 * KIB
        data = self._data(length)
        await client.write(stateless(inode), offset, data, client.token(), Level.STABLE)
        old = tree.contents[inode]
        tree.contents[inode] = old[:offset].ljust(offset, b"\0") + data + old[offset + length :]
        client.note("wrote", name, inode, offset, length)

    async def _append(self, client: Client, tree: _Tree, name: bytes) -> None:
        inode = tree.names[name]
        if len(tree.contents[inode]) > _LARGEST:
            return
        data = self._data(1 + self.random.below(5000))
        await client.write(stateless(inode), -1, data, client.token(), Level.STABLE)
        tree.contents[inode] += data
        client.note("appended", name, inode, len(data))

    async def _truncate(self, client: Client, tree: _Tree, name: bytes) -> None:
        inode, size = tree.names[name], self.random.below(100 * KIB)
        await client.call(SetAttributes(stateless(inode), Changes(size=size)), client.token())
        tree.contents[inode] = tree.contents[inode][:size].ljust(size, b"\0")
        client.note("cut", name, inode, size)

    async def _punch(self, client: Client, tree: _Tree, name: bytes) -> None:
        inode, offset, length = tree.names[name], self.random.below(60 * KIB), 1 + self.random.below(30 * KIB)
        await client.call(Punch(stateless(inode), offset, length), client.token())
        old = tree.contents[inode]
        end = min(len(old), offset + length)
        if offset < end:
            tree.contents[inode] = old[:offset] + bytes(end - offset) + old[end:]
        client.note("punched", name, inode, offset, length)

    async def _allocate(self, client: Client, tree: _Tree, name: bytes) -> None:
        inode, offset, length = tree.names[name], self.random.below(60 * KIB), 1 + self.random.below(30 * KIB)
        await client.call(Allocate(stateless(inode), offset, length, True), client.token())
        tree.contents[inode] = tree.contents[inode].ljust(offset + length, b"\0")
        client.note("allocated", name, inode, offset, length)

    async def _clone(self, client: Client, tree: _Tree, name: bytes) -> None:
        source, target = tree.names[name], list(tree.names.values())[self.random.below(len(tree.names))]
        pages = len(tree.contents[source]) // 4096
        if source == target or not pages:
            return
        first, to = self.random.below(pages), self.random.below(20) * 4096
        length = (1 + self.random.below(pages - first)) * 4096
        await client.call(Clone(stateless(source), first * 4096, stateless(target), to, length), client.token())
        old, piece = tree.contents[target], tree.contents[source][first * 4096 : first * 4096 + length]
        tree.contents[target] = old[:to].ljust(to, b"\0") + piece + old[to + len(piece) :]
        client.note("cloned", source, target, first, to, length)

    async def _rename(self, client: Client, tree: _Tree, name: bytes) -> None:
        new = b"f%d" % self.random.below(10)
        if new == name:
            return
        await client.call(Rename(SUPER, tree.inode, new, True, tree.inode, name), client.token())
        replaced = tree.names.pop(new, None)
        tree.names[new] = tree.names.pop(name)
        if replaced is not None:
            del tree.contents[replaced]
        client.note("renamed", name, new)

    async def _remove(self, client: Client, tree: _Tree, name: bytes) -> None:
        try:
            await client.call(Remove(SUPER, tree.inode, name), client.token())
        except NotFound:
            raise AssertionError(f"{client.name}: {name!r} is gone before it was removed") from None
        del tree.contents[tree.names.pop(name)]
        client.note("removed", name)

    async def _read(self, client: Client, tree: _Tree, name: bytes) -> None:
        await self._compare(client, tree, name, client.name)

    async def _compare(self, client: Client, tree: _Tree, name: bytes, owner: str) -> None:
        inode = tree.names[name]
        found, wanted = await self.content(client, inode), tree.contents[inode]
        if found != wanted:
            at = next((index for index, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
            raise AssertionError(f"{owner}: {name!r} ({inode}) has {len(found)} bytes where {len(wanted)} were written; first difference at {at}")

    async def verify(self, client: Client) -> None:
        for owner, tree in self.trees.items():
            listed = {entry.name: entry.inode for entry in await self.list(client, tree.inode)}
            assert listed == tree.names, f"{owner}: listed are {listed}, made were {tree.names}"
            for name in tree.names:
                await self._compare(client, tree, name, owner)
