"""The pools and volumes that this node hosts: opened from their records, made on request, closed in order.

A disk, pool or volume that cannot be opened does not keep the others from being served: it is shown with its state and the reason. Nothing here
knows of gateways or commands.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from sofs.config import MIB, Config
from sofs.coordination import keys
from sofs.errors import Exists, InvalidArgument, NotFound, SofsError, Unavailable
from sofs.log.replicated import Configuration, LogSettings
from sofs.pool.label import Label
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec, DiskStatus
from sofs.pool.opening import make_disk, open_disk
from sofs.pool.policy import Policy, parse_policy
from sofs.pool.states import WRITABLE, State
from sofs.pool.upkeep import Upkeep
from sofs.records import ConfigurationRecord, DiskRecord, PoolRecord, Registry, ReplicaRecord, VolumeRecord
from sofs.redundancy import Redundancy
from sofs.runtime.ports import Clock, Files, Random
from sofs.types import DiskId, VolumeId
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.data import APPLIERS, Data, DataSettings
from sofs.volume.recovery import Place, Store, StoreSettings, make_store, open_store
from sofs.volume.security import Identities
from sofs.volume.volume import LocalVolume, make_volume

log = structlog.get_logger("node")

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOG_SHARE = 8
"""A log takes at most one part in so many of its disk."""
SEGMENT = 64 * MIB
FEWEST_SEGMENTS = 3
SYSTEM = ".system"
"""The node's own small volume: what gateways keep about their clients. It has no share, and operators are not shown it."""
ROOT_MODE = 0o777
"""Of a new volume's root: whoever a share lets in may use it, until somebody narrows that."""


@dataclass
class Hosted:
    """A volume of this node. Without `volume` it could not be opened, and `reason` says why."""

    record: VolumeRecord
    volume: LocalVolume | None = None
    store: Store | None = None
    data: Data | None = None
    reason: str = ""

    @property
    def is_system(self) -> bool:
        """It is the node's own."""
        return self.record.name == SYSTEM

    @property
    def policy(self) -> Policy:
        return parse_policy(self.record.policy)

    @property
    def state(self) -> tuple[str, str]:
        """serving, degraded or failed, and why."""
        if self.store is None:
            return "failed", self.reason
        if self.store.log.failure is not None:
            return "failed", str(self.store.log.failure)
        wanted = self.policy.tolerates + 1
        if self.store.log.replicas < wanted:
            return "degraded", f"its log has {self.store.log.replicas} of {wanted} replicas"
        return "serving", ""

    def opened_store(self) -> Store:
        """Raises `Unavailable` for a volume that could not be opened."""
        if self.store is None:
            raise Unavailable(self.reason)
        return self.store

    def figures(self) -> dict[str, int]:
        """Its own counters, for operators."""
        if self.store is None:
            return {}
        log_, keyspace = self.store.log, self.store.keyspace
        return {
            "log_end": log_.end,
            "log_kept_bytes": log_.end - log_.start,
            "log_capacity_bytes": log_.capacity,
            "log_unstable_bytes": log_.end - log_.stable,
            "log_behind_checkpoint_bytes": log_.end - keyspace.checkpointed,
            "log_replayed_records": self.store.replayed,
            "snapshots": len(keyspace.overlay.history.snapshots),
        }


@dataclass
class Host:
    """All of them. `name` is this host's, the fault domain of its disks. Made on a running loop."""

    name: str
    data_dir: Path
    config: Config
    registry: Registry
    files: Files
    clock: Clock
    random: Random
    identities: Identities
    pools: dict[str, LocalPool] = field(default_factory=dict)
    upkeep: list[Upkeep] = field(default_factory=list)
    volumes: dict[int, Hosted] = field(default_factory=dict)
    redundancy: Redundancy = field(init=False)
    on_failure: Callable[[LocalVolume], None] | None = None
    """Called once for a volume that fails while it is served: requests that it was asked may never be answered."""

    def __post_init__(self) -> None:
        self.redundancy = Redundancy(self)

    # Start and end

    async def open(self) -> None:
        """Open every pool and volume in the records. Raises `Unavailable` when another process has a disk."""
        disks = await self.registry.disks()
        for record in await self.registry.pools():
            pool = self._pool(record.name)
            pool.open([self._spec(disk) for disk in disks if disk.pool == record.name])
            self._keep_up(pool)
        for volume in await self.registry.volumes():
            hosted = self.volumes[volume.id] = Hosted(volume)
            try:
                await self._open_volume(hosted)
            except SofsError as error:
                hosted.reason = str(error) or type(error).__name__
                log.error("volume.failed", volume=volume.name, reason=hosted.reason)
        await self.note_states()
        self.redundancy.start()

    async def close(self) -> None:
        """Close volumes, then pools; each even if others fail. The first failure is raised at the end."""
        parts: list[Redundancy | LocalVolume | Upkeep | LocalPool] = [self.redundancy]
        parts += [hosted.volume for hosted in self.volumes.values() if hosted.volume is not None]
        parts += [*self.upkeep, *self.pools.values()]
        failures: list[Exception] = []
        for part in parts:
            try:
                await part.close()
            except Exception as error:
                log.error(
                    "host.close_failed",
                    part=type(part).__name__,
                    reason=str(error),
                    exc_info=not isinstance(error, SofsError),
                )
                failures.append(error)
        if failures:
            raise failures[0]

    def volume(self, id: VolumeId) -> LocalVolume | None:
        """The volume, if it is served here: what `gateways.exports.Shares` asks."""
        hosted = self.volumes.get(id)
        return hosted.volume if hosted else None

    def named(self, name: str) -> Hosted:
        """A volume that shares can be made of. Raises `NotFound`."""
        for hosted in self.volumes.values():
            if hosted.record.name == name and not hosted.is_system:
                return hosted
        raise NotFound(f"there is no volume {name}; `sofs volume list` shows all")

    def system(self) -> LocalVolume | None:
        """The node's own volume, once there is one."""
        return next((hosted.volume for hosted in self.volumes.values() if hosted.is_system), None)

    async def ensure_system(self) -> None:
        """Make the node's own volume if it has none, as safe as the safest of the others. Without any there is nothing to keep records for."""
        others = [hosted for hosted in self.volumes.values() if hosted.volume is not None]
        if not others or any(hosted.is_system for hosted in self.volumes.values()):
            return
        model = max(others, key=lambda hosted: hosted.policy.tolerates).record
        try:
            await self._create_volume(SYSTEM, model.pool, model.policy, force=True)
        except SofsError as error:
            log.warning("system_volume.not_made", reason=str(error))

    # Disks and pools

    def _pool(self, name: str) -> LocalPool:
        pool = self.pools[name] = LocalPool(name, self.files, self.random, log.info)
        return pool

    def _spec(self, record: DiskRecord) -> DiskSpec:
        path = str(self.data_dir / record.path)
        return DiskSpec(path, DiskId(record.id), record.tier, record.host, State(record.state))

    def _stored(self, path: str) -> str:
        inside = Path(path).is_relative_to(self.data_dir)
        return os.path.relpath(path, self.data_dir) if inside else path

    async def create_pool(self, name: str) -> LocalPool:
        await self.registry.put(keys.pool(name), PoolRecord(name=name).encode(), what=f"pool {name}")
        pool = self._pool(name)
        pool.open([])
        self._keep_up(pool)
        return pool

    def _keep_up(self, pool: LocalPool) -> None:
        """Begin the pool's background duties: probing, scrubbing, giving space back."""
        upkeep = Upkeep(pool, self.clock)
        upkeep.start()
        self.upkeep.append(upkeep)

    async def add_disk(self, path: str, tier: str, pool_name: str, size: int, force: bool) -> DiskStatus:
        """Make the directory a disk and take it in; its pool is made if it is the first. Raises `DiskRefused`, ..."""
        if not os.path.isabs(path):
            raise InvalidArgument(f"{path}: name the disk by its absolute path")
        path = os.path.normpath(path)
        pool = self.pools.get(pool_name) or await self.create_pool(pool_name)
        label = (None if force else await self._left_behind(path, tier, pool_name)) or make_disk(
            self.files,
            self.random,
            path,
            pool=pool_name,
            tier=tier,
            host=self.name,
            capacity=size or None,
            force=force,
        )
        record = DiskRecord(id=label.id, path=self._stored(path), tier=tier, pool=pool_name, host=self.name)
        await self.registry.put(keys.disk(label.id), record.encode(), what=f"disk {label.id:016x}")
        pool.members.add(path)
        return next(status for status in pool.disks() if status.id == label.id)

    async def _left_behind(self, path: str, tier: str, pool: str) -> Label | None:
        """The label of a disk in our data directory that was made before, just as asked, when the node ended before it was recorded."""
        if not (Path(path).is_relative_to(self.data_dir) and self.files.exists(f"{path}/label")):
            return None
        try:
            disk = open_disk(self.files, path, pool=pool, note=lambda event, slot: None)
        except SofsError:
            return None  # whatever it is, it is refused as any other directory that holds something
        try:
            label = disk.label
            known = {record.id for record in await self.registry.disks()}
            ours = disk.empty and label.id not in known and (label.tier, label.host) == (tier, self.name)
            return label if ours else None
        finally:
            disk.release()

    async def note_states(self) -> None:
        """Record the states of disks as they are now, for the next start."""
        for record in await self.registry.disks():
            pool = self.pools.get(record.pool)
            for status in pool.disks() if pool else []:
                if status.id == record.id and status.state != record.state:
                    fresh = DiskRecord(
                        id=record.id,
                        path=record.path,
                        tier=record.tier,
                        pool=record.pool,
                        host=record.host,
                        state=str(status.state),
                    )
                    what = f"disk {record.id:016x}"
                    await self.registry.put(keys.disk(record.id), fresh.encode(), what=what, replace=True)

    # Volumes

    async def create_volume(self, name: str, pool_name: str, policy_text: str, force: bool) -> Hosted:
        """Make, record and open a volume. Raises `Exists`, `NotFound` (the pool), `InvalidArgument` (the policy)."""
        if name == SYSTEM:
            raise InvalidArgument(f"the name {SYSTEM} is the node's own volume's")
        return await self._create_volume(name, pool_name, policy_text, force)

    async def _create_volume(self, name: str, pool_name: str, policy_text: str, force: bool) -> Hosted:
        if any(hosted.record.name == name for hosted in self.volumes.values()):
            raise Exists(f"volume {name} exists already")
        if not name or "/" in name:
            raise InvalidArgument(f"{name!r} cannot be a volume's name: it needs a character and no /")
        pool = self.pools.get(pool_name)
        if pool is None:
            raise NotFound(
                f"there is no pool {pool_name}; make it with: sofs disk add --pool {pool_name} PATH"
            )
        policy = parse_policy(policy_text)
        if not force:
            pool.validate(policy)
        disks = _log_disks(pool.disks(), policy, force)
        replicas = tuple(ReplicaRecord(id=self.random.number(63), disk=disk.id) for disk in disks)
        record = VolumeRecord(
            id=self.random.number(63),
            name=name,
            pool=pool_name,
            policy=policy.text,
            log_id=self.random.number(63),
            replicas=replicas,
        )
        places = self.places(record)
        await make_store(self.files, places, record.log_id, self._store_settings(places, name == SYSTEM))
        for place in places:
            # The names of the directories above are ours to make durable.
            logs = Path(place.path).parent
            self.files.sync_directory(str(logs))
            self.files.sync_directory(str(logs.parent))
        # The record comes last: a volume whose making was cut short is none, and leaves only unused directories.
        first = ConfigurationRecord(version=1, replicas=tuple(replica.id for replica in replicas))
        await self.registry.change_configuration(record.id, first)
        hosted = Hosted(record)
        await self._open_volume(hosted, fresh=True)
        await self.registry.put(keys.volume(record.id), record.encode(), what=f"volume {name}")
        self.volumes[record.id] = hosted
        return hosted

    async def _open_volume(self, hosted: Hosted, fresh: bool = False) -> None:
        record = hosted.record
        pool = self.pools.get(record.pool)
        if pool is None:
            raise Unavailable(f"its pool {record.pool} is not in the records")
        places = [place for place in self.places(record) if self.files.exists(place.path)]
        if not places:
            raise Unavailable("no disk with a replica of its log is present; bring one back and start again")
        current = await self.registry.configuration(record.id)

        async def change(wanted: Configuration) -> None:
            await self.registry.change_configuration(
                record.id,
                ConfigurationRecord(
                    version=wanted.version,
                    replicas=tuple(wanted.replicas),
                    memory_broken=wanted.memory_broken,
                ),
            )

        store = await open_store(
            self.files,
            self.clock,
            self.random,
            places,
            Configuration(current.version, current.replicas, current.memory_broken),
            change,
            log_id=record.log_id,
            boot=BOOT_ID.read_bytes().strip(),
            appliers=APPLIERS,
            settings=self._store_settings(places, hosted.is_system),
        )
        try:
            if fresh:
                await make_volume(store, self.clock, self.random, mode=ROOT_MODE)
            settings = DataSettings(volume=VolumeId(record.id), policy=hosted.policy)
            hosted.data = Data(store.keyspace, store.log, pool, self.clock, settings)
            hosted.volume = LocalVolume(
                store,
                hosted.data,
                self.clock,
                id=VolumeId(record.id),
                name=record.name,
                identities=self.identities,
                lease_s=self.config.nfs.lease_s,
            )
            hosted.volume.start()
        except BaseException:
            await store.close()
            raise
        hosted.store = store
        store.log.on_failure = partial(self._failed, hosted)
        log.info("volume.opened", volume=record.name, replayed=store.replayed, replicas=store.log.replicas)

    def _failed(self, hosted: Hosted, error: SofsError) -> None:
        log.error("volume.failed", volume=hosted.record.name, reason=str(error))
        if hosted.volume is not None and self.on_failure is not None:
            self.on_failure(hosted.volume)

    def places(self, record: VolumeRecord) -> list[Place]:
        """Where the log's replicas lie: beside the arenas of their disks."""
        paths = {status.id: status.path for status in self.pools[record.pool].disks()}
        return [
            Place(replica.id, f"{paths[DiskId(replica.disk)]}/logs/{record.id:016x}-{replica.id:016x}")
            for replica in record.replicas
            if DiskId(replica.disk) in paths
        ]

    def _store_settings(self, places: list[Place], small: bool) -> StoreSettings:
        """For a log with replicas at `places`, whose disks are there; `small` takes as little room as possible."""
        smallest = min(self.files.space(Path(place.path).parents[1].as_posix()).total for place in places)
        capacity = min(self.config.volume.log_limit_mib * MIB, smallest // LOG_SHARE)
        capacity = FEWEST_SEGMENTS * SEGMENT if small else max(capacity // SEGMENT, FEWEST_SEGMENTS) * SEGMENT
        return StoreSettings(
            log=LogSettings(segment_size=SEGMENT, capacity=capacity),
            checkpoint=CheckpointSettings(interval_s=self.config.volume.checkpoint_interval_s),
        )


def _log_disks(disks: list[DiskStatus], policy: Policy, force: bool) -> list[DiskStatus]:
    """Where a new volume's log goes: as many disks as the policy tolerates failures, plus one; ssd before hdd, roomy before full.

    Raises `InvalidArgument` when there are too few, unless forced (then the volume is degraded).
    """
    wanted = policy.tolerates + 1
    usable = [disk for disk in disks if disk.state in WRITABLE]
    usable.sort(key=lambda disk: (disk.tier != "ssd", -disk.usage.free))
    chosen: list[DiskStatus] = []
    for disk in usable:
        taken = {other.host for other in chosen}
        if len(chosen) < wanted and not (policy.domain == "host" and disk.host in taken):
            chosen.append(disk)
    if not chosen or (len(chosen) < wanted and not force):
        raise InvalidArgument(
            f"{policy.text} needs a log on {wanted} {policy.domain}s, and {len(chosen)} can be written: "
            "add disks, choose a weaker policy, or --force a degraded volume"
        )
    return chosen
