"""Keeping each volume's log on as many disks as its policy asks for.

When a disk is lost, or was missing at the start, a volume goes on with the other replicas of its log. This service gives it a new one
on another disk of its pool, or on the same once that can be written again; a former replica that comes back
is never believed, only replaced. What is left of those is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from sofs.coordination import keys
from sofs.errors import SofsError
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskStatus
from sofs.pool.policy import Policy
from sofs.pool.states import WRITABLE
from sofs.records import Registry, ReplicaRecord, VolumeRecord
from sofs.runtime.ports import Clock, Files, Random
from sofs.volume.rebuild import add_replica, remove_replica
from sofs.volume.recovery import Place, Store

__all__ = ["Redundancy"]

log = structlog.get_logger("redundancy")

FIRST_S = 5.0
"""After the start: disks that are slow to appear get a moment, and so do clients."""
INTERVAL_S = 30.0


class Hosted(Protocol):
    """A volume of this host; `store` is None if it could not be opened."""

    record: VolumeRecord
    store: Store | None

    @property
    def policy(self) -> Policy: ...


class Host(Protocol):
    """What this service has to know of its host."""

    files: Files
    clock: Clock
    random: Random
    registry: Registry

    @property
    def pools(self) -> dict[str, LocalPool]: ...

    @property
    def volumes(self) -> Mapping[int, Hosted]: ...

    def places(self, record: VolumeRecord) -> list[Place]: ...


class Redundancy:
    """The service, for all volumes of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._stopping = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends it. What is being copied is given up; a change of who counts is seen through."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = FIRST_S
        while not self._stopping:
            timer = self._host.clock.call_later(pause, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            self._wake.clear()
            if not self._stopping:
                await self.run_once()
            pause = INTERVAL_S

    async def run_once(self) -> None:
        """Gives every volume that lacks a replica one more, as far as there are disks for it, and removes what is left of former ones."""
        for hosted in tuple(self._host.volumes.values()):
            store = hosted.store
            if store is None or store.log.failure is not None:
                continue
            try:
                while len(store.log.replica_ids) <= hosted.policy.tolerates and await self._add(hosted, store):
                    pass
                self._clean(hosted, store)
            except SofsError as error:
                log.warning("redundancy.failed", volume=hosted.record.name, reason=str(error))
            except Exception:
                # A bug must not end the service, nor keep the other volumes from theirs.
                log.exception("redundancy.broken", volume=hosted.record.name)

    async def _add(self, hosted: Hosted, store: Store) -> bool:
        """Adds a replica; False if there is no disk for one."""
        counted = [replica for replica in hosted.record.replicas if replica.id in store.log.replica_ids]
        disks = self._host.pools[hosted.record.pool].disks()
        disk = _choose(disks, {replica.disk for replica in counted}, by_host=hosted.policy.domain == "host")
        if disk is None or self._stopping:
            return False
        replica = ReplicaRecord(id=self._host.random.number(63), disk=disk.id)
        # Recorded before it is made: a replica that counts must be found by the next start. One that the configuration does not name is left alone.
        hosted.record = msgspec.structs.replace(hosted.record, replicas=(*counted, replica))
        await self._host.registry.put(
            keys.volume(hosted.record.id), hosted.record.encode(), what=f"volume {hosted.record.name}", replace=True
        )
        place = next((place for place in self._host.places(hosted.record) if place.id == replica.id), None)
        if place is None:
            return False  # the disk has gone meanwhile
        log.info("redundancy.adding", volume=hosted.record.name, at=place.path)
        await add_replica(store, place, lambda: self._stopping)
        log.info("redundancy.added", volume=hosted.record.name, at=place.path, replicas=store.log.replicas)
        return True

    def _clean(self, hosted: Hosted, store: Store) -> None:
        """Removes what former replicas have left on disks that are there."""
        ids = store.log.replica_ids
        files = self._host.files
        for disk in self._host.pools[hosted.record.pool].disks():
            logs = Path(disk.path) / "logs"
            if disk.state not in WRITABLE or not files.exists(str(logs)):
                continue
            for name in files.list(str(logs)):
                id = _replica(hosted.record, name)
                if id is None or id in ids:
                    continue
                try:
                    remove_replica(files, Place(id, str(logs / name)))
                    log.info("redundancy.removed", volume=hosted.record.name, at=str(logs / name))
                except SofsError as error:
                    # Still held open by this process, as a rule; the next start removes it.
                    log.debug("redundancy.kept", at=str(logs / name), reason=str(error))


def _replica(record: VolumeRecord, name: str) -> int | None:
    """The id in the name of a replica's directory, if it is this volume's."""
    volume, _, replica = name.partition("-")
    try:
        return int(replica, 16) if int(volume, 16) == record.id else None
    except ValueError:
        return None


def _choose(disks: list[DiskStatus], taken: set[int], by_host: bool) -> DiskStatus | None:
    """The disk for one more replica: ssd before hdd, roomy before full; None if every usable one is taken."""
    hosts = {disk.host for disk in disks if disk.id in taken}
    usable = [
        disk
        for disk in disks
        if disk.state in WRITABLE and disk.id not in taken and not (by_host and disk.host in hosts)
    ]
    return min(usable, key=lambda disk: (disk.tier != "ssd", -disk.usage.free), default=None)

