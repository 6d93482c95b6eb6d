"""Stepping into the past and back: look-ups that lead from an export to its snapshots.

    export/          its own directory
    export/.snapshot             the list of snapshots (`snapshot_list.py`)
    export/.snapshot/NAME        the export's directory as of that snapshot, a file system of its own

Both versions of the protocol ask `step` before they ask the volume.
"""

from gateways.nfs.handles import Place
from gateways.nfs.snapshot_list import LIST, LIST_INODE, NAME, SnapshotList
from sofs.errors import NotFound, Stale
from sofs.types import Inode
from sofs.volume.api import Binding, GetAttributes, Reply, Stateless

__all__ = ["is_reserved", "step"]


def step(place: Place, name: bytes) -> Place | None:
    """Where a look-up of `name` in a directory leads if it is to a snapshot, the list of them, or back; None if it is any other look-up.

    Raises `NotFound` for a snapshot that does not exist, or in which the export's directory does not.
    """
    if place.snapshot == LIST:
        if name == b".":
            return place
        return place.in_snapshot(0, place.share.root) if name == b".." else _enter(place, name)
    if not place.is_root:
        return None
    if name == b".." and place.snapshot:
        return place.in_snapshot(LIST, LIST_INODE)
    if name == NAME and not place.snapshot:
        return place.in_snapshot(LIST, LIST_INODE)
    return None


def is_reserved(place: Place, name: bytes) -> bool:
    """Whether nothing else may have this name here."""
    return name == NAME and place.is_root and not place.snapshot


def _enter(place: Place, name: bytes) -> Place:
    volume, root = place.volume, Inode(place.share.root)
    assert isinstance(volume, SnapshotList)
    for snapshot in volume.snapshots()[1]:
        if snapshot.name.encode() == name:
            to = place.in_snapshot(snapshot.number, root)
            try:
                found = to.volume.call(GetAttributes(Stateless(root, place.caller)), None, Binding(0, 0))
            except Stale:
                raise NotFound(f"the export's directory did not exist at snapshot {snapshot.name!r}") from None
            assert isinstance(found, Reply)
            return to
    raise NotFound(f"there is no snapshot {name!r}")
