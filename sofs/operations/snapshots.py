"""Snapshots, as an operator asks for them: by volume and name, answered once what was asked is stable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sofs.admin import api
from sofs.errors import NotFound
from sofs.hosting import Host, Hosted
from sofs.operations.asking import ask_stable
from sofs.runtime.ports import Clock
from sofs.types import Time
from sofs.volume.api import Binding, DeleteSnapshot, ListSnapshots, MakeSnapshot, Reply, RestoreSnapshot, SnapshotInfo, SnapshotList

_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


class Snapshots:
    """Those of a node's volumes."""

    def __init__(self, host: Host, clock: Clock, by: Binding) -> None:
        self._host = host
        self._clock = clock
        self._by = by

    async def all(self, volume: str) -> list[api.Snapshot]:
        hosted = self._host.named(volume)
        listed = await ask_stable(hosted, ListSnapshots(), SnapshotList, self._by)
        return [_shown(volume, snapshot) for snapshot in listed.snapshots]

    async def create(self, request: api.SnapshotName) -> api.Snapshot:
        """Without a name it is named by the time, as SMB's clients will see it."""
        hosted = self._host.named(request.volume)
        name = request.name or _moment(self._clock.now()).strftime("%Y-%m-%dT%H:%M:%SZ")
        made = await ask_stable(hosted, MakeSnapshot(name), SnapshotList, self._by)
        return _shown(request.volume, made.snapshots[0])

    async def delete(self, request: api.SnapshotName) -> None:
        hosted = self._host.named(request.volume)
        await ask_stable(hosted, DeleteSnapshot(await self._number(hosted, request.name)), Reply, self._by)

    async def restore(self, request: api.SnapshotName) -> api.Snapshot:
        """Gives the snapshot that was taken of the state before."""
        hosted = self._host.named(request.volume)
        number = await self._number(hosted, request.name)
        await ask_stable(hosted, RestoreSnapshot(number, request.force), Reply, self._by)
        listed = await ask_stable(hosted, ListSnapshots(), SnapshotList, self._by)
        return _shown(request.volume, listed.snapshots[-1])

    async def _number(self, hosted: Hosted, name: str) -> int:
        listed = await ask_stable(hosted, ListSnapshots(), SnapshotList, self._by)
        for snapshot in listed.snapshots:
            if snapshot.name == name:
                return snapshot.number
        raise NotFound(f"volume {hosted.record.name} has no snapshot {name!r}; `sofs snapshot list {hosted.record.name}` shows them")


def _moment(time: Time) -> datetime:
    return _EPOCH + timedelta(microseconds=time // 10)


def _shown(volume: str, snapshot: SnapshotInfo) -> api.Snapshot:
    taken = _moment(snapshot.taken).strftime("%Y-%m-%dT%H:%M:%SZ")
    return api.Snapshot(volume, snapshot.name, taken, snapshot.number, snapshot.held)
