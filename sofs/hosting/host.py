"""All that one node hosts: its pools, and every volume of the cluster as this node has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from sofs.config import MIB, Config
from sofs.coordination import keys
from sofs.errors import Exists, InvalidArgument, NotFound, SofsError, Unavailable
from sofs.hosting.hosted import SYSTEM, Hosted
from sofs.hosting.making import log_disks
from sofs.hosting.pools import Pools
from sofs.log.replicated import Configuration, LogSettings
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskStatus
from sofs.pool.policy import parse_policy
from sofs.pool.upkeep import Upkeep
from sofs.records import ConfigurationRecord, Registry, ReplicaRecord, VolumeRecord
from sofs.redundancy import Redundancy
from sofs.runtime.ports import Clock, Files, Random
from sofs.types import VolumeId
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.data import APPLIERS, Data, DataSettings
from sofs.volume.recovery import Place, StoreSettings, make_store, open_store
from sofs.volume.security import Identities
from sofs.volume.volume import LocalVolume, make_volume

log = structlog.get_logger("node")

LOG_SHARE = 8
"""A log takes at most one part in so many of its disk."""
SEGMENT = 64 * MIB
FEWEST_SEGMENTS = 3
ROOT_MODE = 0o777
"""Of a new volume's root: whoever a share lets in may use it, until somebody narrows that."""


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
    boot: bytes
    """Identifies this boot of the host: what was written under it, and not synced, is still in the page cache."""
    disks: Pools = field(init=False)
    volumes: dict[int, Hosted] = field(default_factory=dict)
    redundancy: Redundancy = field(init=False)
    on_failure: Callable[[LocalVolume], None] | None = None
    """Called once for a volume that fails while it is served: requests that it was asked may never be answered."""

    def __post_init__(self) -> None:
        self.disks = Pools(self.name, self.data_dir, self.registry, self.files, self.clock, self.random)
        self.redundancy = Redundancy(self)

    @property
    def pools(self) -> dict[str, LocalPool]:
        return self.disks.all

    # Start and end

    async def open(self) -> None:
        """Open every pool and volume in the records. Raises `Unavailable` when another process has a disk."""
        await self.disks.open()
        for volume in await self.registry.volumes():
            hosted = self.volumes[volume.id] = Hosted.of(volume)
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
        parts += [*self.disks.upkeep, *self.pools.values()]
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

    async def create_pool(self, name: str) -> LocalPool:
        return await self.disks.create(name)

    async def add_disk(self, path: str, tier: str, pool_name: str, size: int, force: bool) -> DiskStatus:
        """As `Pools.add_disk`."""
        return await self.disks.add_disk(path, tier, pool_name, size, force)

    async def note_states(self) -> None:
        await self.disks.note_states()

    def places(self, record: VolumeRecord) -> list[Place]:
        return self.disks.places(record)

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
        disks = log_disks(pool.disks(), policy, force)
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
        hosted = Hosted.of(record)
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
            boot=self.boot,
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

    def _store_settings(self, places: list[Place], small: bool) -> StoreSettings:
        """For a log with replicas at `places`, whose disks are there; `small` takes as little room as possible."""
        smallest = min(self.files.space(Path(place.path).parents[1].as_posix()).total for place in places)
        capacity = min(self.config.volume.log_limit_mib * MIB, smallest // LOG_SHARE)
        capacity = FEWEST_SEGMENTS * SEGMENT if small else max(capacity // SEGMENT, FEWEST_SEGMENTS) * SEGMENT
        return StoreSettings(
            log=LogSettings(segment_size=SEGMENT, capacity=capacity),
            checkpoint=CheckpointSettings(interval_s=self.config.volume.checkpoint_interval_s),
        )
