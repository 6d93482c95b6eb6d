"""What a volume is opened with here: settings by its disks, its configuration in the store, and the volume over its foundation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from sofs.config import MIB
from sofs.errors import Unavailable
from sofs.hosting.hosted import Hosted
from sofs.hosting.site import Site
from sofs.log.configuration import Configuration, LogSettings
from sofs.records import ConfigurationRecord
from sofs.types import VolumeId
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.data import Data
from sofs.volume.recovery import Change, Place, Store, StoreSettings
from sofs.volume.settings import DataSettings
from sofs.volume.volume import LocalVolume

LOG_SHARE = 8
"""A log takes at most one part in so many of its disk."""
SEGMENT = 64 * MIB
FEWEST_SEGMENTS = 3


def store_settings(site: Site, places: Sequence[Place], small: bool) -> StoreSettings:
    """For a log with replicas at `places`, whose disks are there; `small` takes as little room as possible."""
    smallest = min(site.files.space(Path(place.path).parents[1].as_posix()).total for place in places)
    capacity = min(site.config.volume.log_limit_mib * MIB, smallest // LOG_SHARE)
    capacity = FEWEST_SEGMENTS * SEGMENT if small else max(capacity // SEGMENT, FEWEST_SEGMENTS) * SEGMENT
    return StoreSettings(
        log=LogSettings(segment_size=SEGMENT, capacity=capacity), checkpoint=CheckpointSettings(interval_s=site.config.volume.checkpoint_interval_s)
    )


def as_configuration(record: ConfigurationRecord) -> Configuration:
    """As the log has it."""
    return Configuration(record.version, record.replicas, record.memory_broken, record.coordinator, record.incarnation)


def as_record(configuration: Configuration) -> ConfigurationRecord:
    return ConfigurationRecord(
        version=configuration.version,
        replicas=tuple(configuration.replicas),
        memory_broken=configuration.memory_broken,
        coordinator=configuration.coordinator,
        incarnation=configuration.incarnation,
    )


def changer(site: Site, volume: int) -> Change:
    """Puts a volume's configuration in force if it follows the one that is; raises `Fenced`, `Unavailable`."""

    async def change(wanted: Configuration) -> None:
        record = as_record(wanted)
        await site.registry.change_configuration(volume, record)
        site.view.configured(volume, record)

    return change


def reader(site: Site, volume: int) -> Callable[[], Awaitable[Configuration]]:
    """Reads a volume's configuration in the store; raises `Unavailable`."""

    async def read() -> Configuration:
        record = await site.registry.configuration(volume)
        site.view.configured(volume, record)
        return as_configuration(record)

    return read


def serve(site: Site, hosted: Hosted, store: Store) -> LocalVolume:
    """The volume over its foundation, begun."""
    record = hosted.record
    pool = site.disks.all.get(record.pool)
    if pool is None:
        raise Unavailable(f"its pool {record.pool} is not in the records")
    rate = site.config.volume.moving_mib_s * MIB
    settings = DataSettings(volume=VolumeId(record.id), policy=hosted.policy, moving_rate=rate)
    data = Data(store.keyspace, store.log, pool, site.clock, settings)
    volume = LocalVolume(
        store,
        data,
        site.clock,
        id=VolumeId(record.id),
        name=record.name,
        identities=site.identities,
        lease_s=site.config.nfs.lease_s,
        gateway=site.incarnation,
        ended=None if site.interconnect is None else site.ended,
    )
    volume.start()
    hosted.store, hosted.data, hosted.volume, hosted.reason = store, data, volume, ""
    return volume
