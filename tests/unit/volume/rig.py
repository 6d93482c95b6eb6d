"""A volume's data half over a real log, key space and pool, for tests: made, opened, closed, crashed and opened again.

Files have just enough of a namespace (one directory) for `sofs check` to be applicable.
"""

import asyncio
import struct
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from sofs.errors import Fenced
from sofs.log.configuration import Configuration, LogSettings
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec
from sofs.pool.opening import make_disk
from sofs.pool.policy import parse_policy
from sofs.runtime.ports import Clock, Files, Random
from sofs.types import PAGE, ROOT, Inode, Kind, Time, VolumeId
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.check import Report, check
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.data import APPLIERS, Data
from sofs.volume.inode import InodeRecord
from sofs.volume.recovery import Place, Store, StoreSettings, make_store, open_store
from sofs.volume.settings import DataSettings

T = TypeVar("T")
VOLUME = VolumeId(0x5EED)
LOG_ID = 77
MIB = 1 << 20
NOW = Time(133_600_000_000_000_000)

SMALL_LOG = StoreSettings(LogSettings(MIB, 8 * MIB, 0.01), CheckpointSettings(1e9, 1 << 60, 1 << 60), 1 << 28)
"""Segments of 1 MiB; checkpoints only when they are asked for."""

_ENTRY = struct.Struct("<QB")


async def done(result: T | Awaitable[T]) -> T:
    """The value, now or later."""
    return await result if isinstance(result, Awaitable) else result


def _ignore(event: str, /, **fields: object) -> None:
    """The pool's reports."""


async def no_pause() -> None:
    """For checks of a volume at rest."""


@dataclass
class Rig:
    """What survives a crash, and what is open."""

    files: Files
    clock: Clock
    random: Random
    root: str = ""
    policy: str = "mirror(2)"
    disks: int = 2
    disk_mib: int = 64
    settings: StoreSettings = SMALL_LOG
    direct_threshold: int = MIB // 2
    direct_fill: float = 0.0
    extent_size: int = 8 * MIB
    whole_from: int = (4 * MIB) // PAGE
    log_disks: int = 2
    configuration: Configuration = field(init=False)
    specs: list[DiskSpec] = field(default_factory=list)
    boot: bytes = b"boot"
    store: Store = field(init=False)
    pool: LocalPool = field(init=False)
    data: Data = field(init=False)

    @property
    def places(self) -> list[Place]:
        return [Place(100 + number, f"{self.root}/disk{number}/logs/v") for number in range(self.log_disks)]

    async def make(self) -> None:
        self.specs = []
        for number in range(self.disks):
            path = f"{self.root}/disk{number}"
            label = make_disk(self.files, self.random, path, pool="p", tier="ssd", host=f"h{number}", capacity=self.disk_mib * MIB, arena_slots=15)
            self.specs.append(DiskSpec(path, label.id, "ssd", f"h{number}"))
        for place in self.places:
            self.files.make_directory(place.path)
            parent = place.path.rpartition("/")[0]
            while parent != self.root:
                self.files.sync_directory(parent)
                parent = parent.rpartition("/")[0]
            self.files.sync_directory(parent or "/")
        await make_store(self.files, self.places, LOG_ID, self.settings)
        self.configuration = Configuration(1, tuple(place.id for place in self.places))
        await self.open()
        batch = Batch()
        batch.put(keys.inode(ROOT), _record(Kind.DIRECTORY, 2).encode())
        self.store.keyspace.commit(batch)
        await self.store.log.sync()

    async def change(self, wanted: Configuration) -> None:
        if wanted.version != self.configuration.version + 1:
            raise Fenced(f"version {wanted.version}")
        self.configuration = wanted

    async def open(self) -> None:
        self.store = await open_store(
            self.files,
            self.clock,
            self.random,
            self.places,
            self.configuration,
            self.change,
            log_id=LOG_ID,
            boot=self.boot,
            appliers=APPLIERS,
            settings=self.settings,
        )
        self.pool = LocalPool("p", self.files, self.random, _ignore, clock=self.clock)
        self.pool.open(self.specs)
        self.data = Data(
            self.store.keyspace,
            self.store.log,
            self.pool,
            self.clock,
            DataSettings(
                VOLUME,
                parse_policy(self.policy),
                direct_threshold=self.direct_threshold,
                direct_fill=self.direct_fill,
                extent_size=self.extent_size,
                whole_from=self.whole_from,
                reserve=2 * MIB,
            ),
        )

    async def close(self) -> None:
        await self.data.close()
        await self.store.close()
        await self.pool.close()

    async def check(self, read_data: bool = True) -> Report:
        return await check(self.store.keyspace, self.store.keyspace, self.store.log, self.pool, VOLUME, no_pause, read_data)

    async def clean(self) -> Report:
        """The check, which must find nothing."""
        report = await self.check()
        assert not report.findings, "\n".join(map(str, report.findings))
        return report

    # A namespace of one directory

    def record(self, inode: Inode) -> InodeRecord:
        value = self.store.keyspace.get(keys.inode(inode))
        assert value is not None
        return InodeRecord.decode(value)

    def make_file(self, inode: int) -> Inode:
        batch = Batch()
        batch.put(keys.inode(Inode(inode)), _record(Kind.FILE, 1).encode())
        batch.put(keys.entry(ROOT, inode << 15), _ENTRY.pack(inode, Kind.FILE) + b"file %d" % inode)
        root = self.record(ROOT)
        batch.put(keys.inode(ROOT), root._replace(size=root.size + 1).encode())
        self.store.keyspace.commit(batch)
        return Inode(inode)

    async def delete_file(self, inode: Inode) -> None:
        if not self.data.small(inode):
            await self.data.trim(inode)
        batch = Batch()
        self.data.drop(batch, inode)
        batch.delete(keys.inode(inode))
        batch.delete(keys.entry(ROOT, inode << 15))
        root = self.record(ROOT)
        batch.put(keys.inode(ROOT), root._replace(size=root.size - 1).encode())
        self.store.keyspace.commit(batch, reserved=True)

    # Shorthands

    async def write(self, inode: Inode, offset: int, data: bytes) -> None:
        await done(self.data.write(inode, offset, memoryview(data), NOW))

    async def read(self, inode: Inode, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        got = await done(self.data.read(inode, offset, memoryview(buffer)))
        return bytes(buffer[: got.length])

    async def settle(self) -> None:
        """Everything to extents, the freed given back, the log trimmed."""
        await self.store.log.sync()
        await self.data.cleaner.destage()
        await self.store.keyspace.checkpoint()
        self.data.cleaner.trim()
        await self.data.cleaner.give_back()
        await asyncio.sleep(0)


def _record(kind: Kind, links: int) -> InodeRecord:
    return InodeRecord(
        kind=kind, marks=0, mode=0o644, links=links, uid=0, gid=0, generation=1, size=0, pages=0, created=NOW,
        accessed=NOW, modified=NOW, changed=NOW, change=1, flags=0, major=0, minor=0, ea_size=0, parent=ROOT,
    )  # fmt: skip
