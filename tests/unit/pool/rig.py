"""A pool with small disks, and what its tests do with it."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from sofs.pool import ExtentId, Placement, Policy, parse_policy
from sofs.pool.fragment import META_PER_SLOT, SLOT_SIZE
from sofs.pool.local_disk import LocalDisk
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec
from sofs.pool.opening import make_disk
from sofs.pool.scheme import parse_scheme
from sofs.pool.states import State
from sofs.pool.table import Entry
from sofs.runtime.ports import Clock, Files, Random
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop
from sofs.runtime.system_clock import SystemClock
from sofs.types import PAGE, DiskId, VolumeId

VOLUME = VolumeId(0x5EED)
MIB = 1 << 20
SIMPLE = parse_policy("simple")
MIRROR = parse_policy("mirror(2)")
ARENA_SLOTS = 16


def eid(number: int) -> ExtentId:
    return ExtentId(VOLUME, number)


def clock() -> Clock:
    """Of the loop that runs, if one does."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return SystemClock()
    return SimulatedClock(loop) if isinstance(loop, SimulatedLoop) else SystemClock()


@lru_cache(maxsize=64)
def content(number: int, length: int) -> bytes:
    """Bytes that name their extent and their page, so that no page can pass for another."""
    return b"".join(b"%016x%016x" % (number, page) * (PAGE // 32) for page in range(length // PAGE))


def make(files: Files, random: Random, path: str, *, arenas: int = 2, tier: str = "ssd", host: str = "h", pool: str = "p") -> DiskSpec:
    label = make_disk(files, random, path, pool=pool, tier=tier, host=host, capacity=arenas * ARENA_SLOTS * SLOT_SIZE, arena_slots=ARENA_SLOTS)
    return DiskSpec(path, label.id, tier, host)


@dataclass
class Rig:
    """A pool, its disks, and the events it reported."""

    files: Files
    random: Random
    specs: list[DiskSpec]
    pool: LocalPool = field(init=False)
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = LocalPool("p", self.files, self.random, self.report, clock=clock())
        self.pool.open(self.specs)

    def report(self, event: str, /, **fields: object) -> None:
        self.events.append((event, fields))

    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def disk(self, id: DiskId) -> LocalDisk:
        disk = self.pool.members.get(id).disk
        assert disk is not None
        return disk

    async def write(self, number: int, length: int = MIB, policy: Policy = MIRROR, names: bytes = b"") -> Placement:
        return await self.pool.write(eid(number), [content(number, length)], policy, names)

    async def read(self, at: Placement, offset: int = 0, length: int | None = None, sums: Sequence[int] | None = None) -> bytes:
        into = memoryview(bytearray(at.length - offset if length is None else length))
        waiting = self.pool.read(at, offset, into, sums)
        if waiting is not None:
            await waiting
        return bytes(into)

    async def orphans(self, ids: range, known: Collection[int] = ()) -> list[Placement]:
        """Where everything counts as recorded that has one of these numbers."""
        found = {number: at for number, at in (await self.pool._find(VOLUME, ids)).items() if number in known} if known else {}
        return await self.pool.orphans(VOLUME, ids, lambda number: found[number].fragments if number in found else ())

    def fragment_at(self, at: Placement, nth: int) -> tuple[str, int]:
        """The arena's path and the offset in it at which a fragment begins."""
        disk, slot = at.fragments[nth]
        path = next(spec.path for spec in self.specs if spec.id == disk)
        return f"{path}/arenas/{slot // ARENA_SLOTS:06d}", slot % ARENA_SLOTS * SLOT_SIZE

    def page_at(self, at: Placement, nth: int, page: int) -> tuple[str, int]:
        """The arena's path and the offset in it of a page of data."""
        path, start = self.fragment_at(at, nth)
        return path, start + -(-at.length // MIB) * META_PER_SLOT + page * PAGE

    def spoil(self, path: str, offset: int, data: bytes = b"\xff") -> None:
        """Overwrites bytes behind the pool's back."""
        file = self.files.open(path)
        file.write(offset, [data])
        file.close()

    def used(self) -> dict[DiskId, dict[int, Entry]]:
        """The fragments on every open disk, by slot."""
        return {disk.label.id: dict(disk.entries(0, disk.slots)) for disk in self.pool.members.all_readable()}


def make_rig(files: Files, random: Random, root: str, disks: int = 2, **options: int) -> Rig:
    specs = [make(files, random, f"{root}/d{number}", **options) for number in range(disks)]
    return Rig(files, random, specs)


def healthy(pool: LocalPool, at: Placement) -> bool:
    """Whether the extent has all its fragments, each on a disk that is present, trusted and not being drained."""
    return len(at.fragments) == parse_scheme(at.scheme).width and all(pool.members.state(fragment.disk) is State.HEALTHY for fragment in at.fragments)
