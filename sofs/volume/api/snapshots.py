"""Snapshots of a volume: instant, read-only trees of what was there at one moment."""

import msgspec

from sofs.types import Time
from sofs.volume.api.values import Reply, Request


class SnapshotInfo(msgspec.Struct, array_like=True):
    number: int
    """Never used twice in a volume; part of the file handles below it."""
    name: str
    taken: Time
    """In whole seconds, as `@GMT-` names it; no two of a volume have the same."""
    held: int = 0
    """Bytes that would come free if this one were deleted now."""


class MakeSnapshot(Request):
    """Takes a snapshot. Raises `Exists` for a name that is in use. Answers `SnapshotList` with the new one alone."""

    name: str


class ListSnapshots(Request):
    """Oldest first. Answers `SnapshotList`."""


class SnapshotList(Reply):
    snapshots: list[SnapshotInfo]


class DeleteSnapshot(Request):
    """Removes a snapshot; what only it held comes free in the background. Raises `NotFound`."""

    number: int


class RestoreSnapshot(Request):
    """Makes the volume what it was at the snapshot, which stays. A snapshot of the state before is taken first. Raises `Busy` while files are open,
    unless `force`, which ends the opens."""

    number: int
    force: bool = False
