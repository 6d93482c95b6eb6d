"""A whole volume for tests: `LocalVolume` over a real log, key space, pool and lock engine on simulated disks, with shorthands for requests."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.types import ROOT, Inode, Kind, Level, OpenId, VolumeId
from sofs.volume.api import (
    Access,
    Attributes,
    Binding,
    Caller,
    Changes,
    Close,
    Disposition,
    Entries,
    Entry,
    Found,
    GetAttributes,
    Lookup,
    Make,
    Open,
    Opened,
    ReadDirectory,
    Remove,
    Removed,
    Rename,
    Renamed,
    Reply,
    Request,
    SetAttributes,
    Stateless,
    Target,
    Token,
)
from sofs.volume.format import make_volume
from sofs.volume.volume import LocalVolume
from tests.unit.volume.rig import Rig, done

__all__ = ["ALICE", "BOB", "BY", "SUPER", "VolumeRig", "run"]

SUPER = Caller(0, 0)
ALICE = Caller(1000, 1000)
BOB = Caller(1001, 1001, (2000,))
BY = Binding(1, 1)

R = TypeVar("R", bound=Reply)


class VolumeRig(Rig):
    volume: LocalVolume
    caller: Caller = SUPER
    """Who asks, where a shorthand is not told."""

    async def make(self) -> None:
        await super().make()
        await make_volume(self.store, self.clock, self.random, mode=0o777)
        self.mount()

    def mount(self) -> None:
        self.volume = LocalVolume(self.store, self.data, self.clock, id=VolumeId(7), name="v")

    async def reopen(self) -> None:
        """An orderly restart."""
        await self.close()
        await self.open()
        self.mount()

    async def close(self) -> None:
        await self.volume.close()
        await self.pool.close()

    # Requests

    def call(self, request: Request, token: Token | None = None) -> Any:
        """The reply to a request that must not have to wait."""
        reply = self.volume.call(request, token, BY)
        assert isinstance(reply, Reply), f"{type(request).__name__} had to wait"
        return reply

    async def later(self, request: Request, token: Token | None = None) -> Any:
        return await done(self.volume.call(request, token, BY))

    def make_name(self, name: bytes, kind: Kind = Kind.FILE, at: Inode = ROOT, mode: int | None = None, **options: Any) -> Inode:
        changes = options.pop("changes", Changes(mode=mode))
        caller = options.pop("caller", self.caller)
        found: Found = self.call(Make(caller, at, name, kind, changes, **options))
        return found.attributes.inode

    def mkdir(self, name: bytes, at: Inode = ROOT, **options: Any) -> Inode:
        return self.make_name(name, Kind.DIRECTORY, at, **options)

    def lookup(self, *path: bytes, at: Inode = ROOT, fold: bool = False, caller: Caller | None = None) -> Attributes:
        found: Found = self.call(Lookup(caller or self.caller, at, path, fold))
        return found.attributes

    def stat(self, target: Inode | OpenId, caller: Caller | None = None, by_open: bool = False) -> Attributes:
        what: Target = OpenId(target) if by_open else Stateless(Inode(target), caller or self.caller)
        found: Found = self.call(GetAttributes(what))
        return found.attributes

    def set_attributes(self, inode: Inode, caller: Caller | None = None, **changes: Any) -> Any:
        return self.volume.call(SetAttributes(Stateless(inode, caller or self.caller), Changes(**changes)), None, BY)

    def remove(self, name: bytes, at: Inode = ROOT, directory: bool | None = None, caller: Caller | None = None) -> Removed:
        reply: Removed = self.call(Remove(caller or self.caller, at, name, directory))
        return reply

    def rename(self, name: bytes, to_name: bytes, at: Inode = ROOT, to: Inode = ROOT, replace: bool = True, caller: Caller | None = None) -> Renamed:
        reply: Renamed = self.call(Rename(caller or self.caller, to, to_name, replace, at, name))
        return reply

    def entries(self, inode: Inode = ROOT, cookie: int = 0, limit: int = 10_000, attributes: bool = False) -> list[Entry]:
        reply: Entries = self.call(ReadDirectory(self.caller, inode, cookie, limit, attributes))
        return reply.entries

    def names(self, inode: Inode = ROOT) -> set[bytes]:
        return {entry.name for entry in self.entries(inode)}

    def open_name(
        self,
        *path: bytes,
        access: int = int(Access.ALL),
        share: int = 7,
        disposition: Disposition = Disposition.OPEN_IF,
        caller: Caller | None = None,
        **options: Any,
    ) -> Opened:
        at = options.pop("at", ROOT)
        opened: Opened = self.call(Open(caller or self.caller, at, path, access, share, disposition, **options))
        return opened

    def close_open(self, opened: Opened | OpenId) -> None:
        self.call(Close(opened.open if isinstance(opened, Opened) else opened))

    async def put(self, target: Target | Inode, offset: int, data: bytes) -> None:
        await done(self.volume.write(target, offset, memoryview(data), None, Level.COMMITTED, BY))

    async def content(self, target: Target, offset: int = 0, length: int = 1 << 16) -> bytes:
        buffer = bytearray(length)
        got = await done(self.volume.read(target, offset, memoryview(buffer), BY))
        return bytes(buffer[: got.count])


def run(scenario: Callable[[VolumeRig], Awaitable[None]], **options: Any) -> None:
    """Runs a scenario against a new volume on a host of its own; afterwards `sofs check` finds nothing."""
    loop = SimulatedLoop()
    random = SimulatedRandom(1)
    rig = VolumeRig(SimulatedFiles(random), SimulatedClock(loop), random, **options)

    async def main() -> None:
        await rig.make()
        await scenario(rig)
        for number in list(rig.volume.core.opens):
            rig.close_open(number)
        await rig.volume.run_once()
        await rig.clean()
        await rig.close()

    loop.run(main())
