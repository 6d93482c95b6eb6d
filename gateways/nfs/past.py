"""Stepping into the past and back: look-ups that lead from an export to its snapshots.

    export/          its own directory
    export/.snapshot             the list of snapshots (`snapshot_list.py`)
    export/.snapshot/NAME        the export's directory as of that snapshot, a file system of its own

Both versions of the protocol ask `cross` before they ask the volume.
"""

from collections.abc import Callable
from typing import TypeVar

from gateways.nfs.handles import Place
from gateways.nfs.snapshot_list import LIST, LIST_INODE, NAME
from sofs.volume.api import Found, Lookup, Request, Volume

A = TypeVar("A")


def cross(place: Place, name: bytes, ask: Callable[[Volume, Request, Callable[[Found], A]], A], then: Callable[[Place], A]) -> A | None:
    """What `then` makes of where a look-up of `name` in a directory leads, if it is to a snapshot, the list of them, or back; None if it is any other look-up.
    `ask` makes the gateway's request of (volume, request, answer).

    Raises, or has the request raise, `NotFound` for a snapshot that does not exist, or in which the export's directory does not.
    """
    if place.snapshot == LIST and name not in (b".", b".."):
        return ask(
            place.volume, Lookup(place.caller, place.inode, (name,)), lambda found: then(place.in_snapshot(found.attributes.change, place.share.root))
        )
    to = _step(place, name)
    return None if to is None else then(to)


def _step(place: Place, name: bytes) -> Place | None:
    if place.snapshot == LIST:
        return place if name == b"." else place.in_snapshot(0, place.share.root)
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
