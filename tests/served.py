"""A real volume on real files, served by the NFS gateway in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateways.exports import Client, NfsOptions, Share, Shares, Squash
from gateways.identity import Identities, domain_sid
from gateways.nfs.gateway import NfsGateway
from sofs.log.configuration import Configuration, LogSettings
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec
from sofs.pool.opening import make_disk
from sofs.pool.policy import parse_policy
from sofs.pool.states import State
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.types import DiskId, VolumeId
from sofs.volume.data import APPLIERS, Data
from sofs.volume.format import make_volume
from sofs.volume.recovery import Place, StoreSettings, make_store, open_store
from sofs.volume.settings import DataSettings
from sofs.volume.volume import LocalVolume

VOLUME = VolumeId(0x5105)
MIB = 1 << 20
OPEN = NfsOptions(clients=(Client(squash=Squash.NONE),))


@asynccontextmanager
async def volume_on(
    path: Path,
    lease_s: float = 90,
    boot: bytes = b"b",
    id: VolumeId = VOLUME,
    gateway: int = 0,
    ended: Callable[[int], bool] | None = None,
    crashes: Callable[[], bool] = lambda: False,
) -> AsyncIterator[LocalVolume]:
    """The volume in directory `path`, made if it is not there; closed cleanly at the end. Another `boot` means that the host has been down. `gateway` is the
    incarnation of the process that serves it, where other nodes use it, and `ended` says whose gateways are gone; `crashes` whether it is to end as if its
    process had been killed."""
    files, clock, random = SystemFiles(4), SystemClock(), SystemRandom()
    disk, places = str(path / "disk"), [Place(1, str(path / "log"))]
    settings = StoreSettings(log=LogSettings(segment_size=4 * MIB, capacity=64 * MIB))
    fresh = not path.exists()
    if fresh:
        path.mkdir()
        make_disk(files, random, disk, pool="p", tier="ssd", host="h", capacity=1 << 30)
        await make_store(files, places, 7, settings)
        (path / "version").write_text("1")

    async def change(wanted: Configuration) -> None:
        (path / "version").write_text(str(wanted.version))

    pool = LocalPool("p", files, random, _quiet, clock=clock)
    pool.open([]) if fresh else pool.open([DiskSpec(disk, _disk_id(path), "ssd", "h", State.HEALTHY)])
    if fresh:
        spec = pool.members.add(disk)
        (path / "disk-id").write_text(str(spec.id))
    configuration = Configuration(int((path / "version").read_text()), (1,), False)
    store = await open_store(files, clock, random, places, configuration, change, log_id=7, boot=boot, appliers=APPLIERS, settings=settings)
    if fresh:
        await make_volume(store, clock, random)
    data = Data(store.keyspace, store.log, pool, clock, DataSettings(volume=id, policy=parse_policy("simple")))
    volume = LocalVolume(store, data, clock, id=id, name="v", lease_s=lease_s, gateway=gateway, ended=ended)
    volume.start()
    try:
        yield volume
    finally:
        await (volume.abandon() if crashes() else volume.close())
        await pool.close()
        files.close()


def _quiet(event: str, /, **fields: object) -> None:
    """Where the pool's reports go."""


def _disk_id(path: Path) -> DiskId:
    return DiskId(int((path / "disk-id").read_text()))


@dataclass
class Served:
    volume: LocalVolume
    shares: Shares
    gateway: NfsGateway
    port: int


@asynccontextmanager
async def nfs_on(
    path: Path, shares: Callable[[], Sequence[Share]] | None = None, incarnation: int = 1, lease_s: float = 90, boot: bytes = b"b"
) -> AsyncIterator[Served]:
    """The volume in `path` behind an NFS gateway at a free port; by default as the export `/data`, root not squashed."""
    async with volume_on(path, lease_s, boot) as volume:
        offered = Shares(lambda number: volume if number == VOLUME else None)
        offered.replace(shares() if shares else [Share("data", 1, VOLUME, nfs=OPEN)])
        loop = asyncio.get_running_loop()
        gateway = NfsGateway(
            offered, key=bytes(range(32)), incarnation=incarnation, groups=lambda uid: (), loop=loop,
            clock=SystemClock(), random=SystemRandom(), users=Identities(domain_sid(bytes(12)), []), system=lambda: volume, lease_s=lease_s,
        )  # fmt: skip
        await gateway.load()
        port = gateway.listen("127.0.0.1", 0)
        try:
            yield Served(volume, offered, gateway, port)
        finally:
            await gateway.stop()
