"""From a directory to the one above it, without leaving the export.

A client of an export that is a directory within a volume may hold a handle of something that was moved out of that directory, over another share or the
whole volume's. `..` of it must not lead on from there. So the directory above is only given if the export's own lies above it, or is it.
"""

from collections.abc import Callable
from typing import TypeVar

from gateways.nfs.handles import Place
from sofs.errors import NotDirectory, Stale
from sofs.types import ROOT, Inode, Kind
from sofs.volume.api import Attributes, Found, GetAttributes, Request, Stateless, Volume

A = TypeVar("A")
DEPTH = 4096
"""Directories above each other: beyond that the walk is given up."""


def parent(place: Place, ask: Callable[[Volume, Request, Callable[[Found], A]], A], then: Callable[[Inode], A]) -> A:
    """What `then` makes of the directory above `place`, which must not be the export's own. `ask` makes the gateway's request of (volume, request, answer).

    Raises `NotDirectory`; `Stale` if that directory is not in the export.
    """
    volume, root = place.volume, place.share.root

    def first(found: Found) -> A:
        if found.attributes.kind is not Kind.DIRECTORY:
            raise NotDirectory("only directories have a directory above them that is known")
        above = found.attributes.parent
        if root == ROOT or above == root:
            return then(above)
        return climb(above, above, DEPTH)

    def climb(at: Inode, above: Inode, left: int) -> A:
        def look(found: Found) -> A:
            of: Attributes = found.attributes
            if of.parent == root:
                return then(above)
            if of.inode == ROOT or of.parent == of.inode or not left:
                raise Stale("the directory has been moved out of the export")
            return climb(of.parent, above, left - 1)

        return ask(volume, GetAttributes(Stateless(at, place.caller)), look)

    return ask(volume, GetAttributes(place.target), first)
