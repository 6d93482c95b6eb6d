"""Snapshots, as an operator asks for them: by volume and name, answered once what was asked is stable."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sofs.admin import api
from sofs.errors import NotFound, Unavailable
from sofs.hosting import Host, Hosted
from sofs.runtime.ports import Clock
from sofs.types import Time
from sofs.volume.api import (
    Binding,
    DeleteSnapshot,
    ListSnapshots,
    MakeSnapshot,
    Reply,
    Request,
    RestoreSnapshot,
    SnapshotInfo,
    SnapshotList,
)

__all__ = ["Snapshots"]

R = TypeVar("R", bound=Reply)
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


class Snapshots:
    """Those of a node's volumes."""

    def __init__(self, host: Host, clock: Clock, by: Binding) -> None:
        self._host = host
        self._clock = clock
        self._by = by

    async def all(self, volume: str) -> list[api.Snapshot]:
        hosted = self._host.named(volume)
        listed = await self._ask(hosted, ListSnapshots(), SnapshotList)
        return [_shown(volume, snapshot) for snapshot in listed.snapshots]

    async def create(self, request: api.SnapshotName) -> api.Snapshot:
        """Without a name it is named by the time, as SMB's clients will see it."""
        hosted = self._host.named(request.volume)
        name = request.name or _moment(self._clock.now()).strftime("%Y-%m-%dT%H:%M:%SZ")
        made = await self._ask(hosted, MakeSnapshot(name), SnapshotList)
        return _shown(request.volume, made.snapshots[0])

    async def delete(self, request: api.SnapshotName) -> None:
        hosted = self._host.named(request.volume)
        await self._ask(hosted, DeleteSnapshot(await self._number(hosted, request.name)), Reply)

    async def restore(self, request: api.SnapshotName) -> api.Snapshot:
        """Gives the snapshot that was taken of the state before."""
        hosted = self._host.named(request.volume)
        number = await self._number(hosted, request.name)
        await self._ask(hosted, RestoreSnapshot(number, request.force), Reply)
        listed = await self._ask(hosted, ListSnapshots(), SnapshotList)
        return _shown(request.volume, listed.snapshots[-1])

    async def _number(self, hosted: Hosted, name: str) -> int:
        listed = await self._ask(hosted, ListSnapshots(), SnapshotList)
        for snapshot in listed.snapshots:
            if snapshot.name == name:
                return snapshot.number
        raise NotFound(f"volume {hosted.record.name} has no snapshot {name!r}; `sofs snapshot list {hosted.record.name}` shows them")

    async def _ask(self, hosted: Hosted, request: Request, kind: type[R]) -> R:
        if hosted.volume is None or hosted.store is None:
            raise Unavailable(f"volume {hosted.record.name} is not served: {hosted.reason}")
        reply: Reply | Awaitable[Reply] = hosted.volume.call(request, None, self._by)
        if not isinstance(reply, Reply):
            reply = await reply
        assert isinstance(reply, kind)
        await hosted.store.log.reach(reply.gate)
        return reply


def _moment(time: Time) -> datetime:
    return _EPOCH + timedelta(microseconds=time // 10)


def _shown(volume: str, snapshot: SnapshotInfo) -> api.Snapshot:
    taken = _moment(snapshot.taken).strftime("%Y-%m-%dT%H:%M:%SZ")
    return api.Snapshot(volume, snapshot.name, taken, snapshot.number, snapshot.held)
