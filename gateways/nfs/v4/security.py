"""SECINFO and SECINFO_NO_NAME (RFC 8881 18.29, 18.45): everything here takes AUTH_SYS, and AUTH_NONE as the anonymous user."""

import struct
from typing import NamedTuple

from gateways.nfs.auth import AUTH_NONE, AUTH_SYS
from gateways.nfs.handles import Place
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.filehandles import checked
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import ANONYMOUS, Name
from gateways.nfs.xdr import U32
from sofs.errors import NotFound
from sofs.types import Kind
from sofs.volume.api import Found, GetAttributes, Lookup

FLAVORS = struct.pack(">3I", 2, AUTH_SYS, AUTH_NONE)
CURRENT, PARENT = 0, 1


class SecInfoArgs(NamedTuple):
    """SECINFO4args."""

    name: Name


class SecInfoNoNameArgs(NamedTuple):
    """SECINFO_NO_NAME4args: whether the current filehandle is meant or its parent."""

    style: U32


def _consumed(c: Compound) -> bytes:
    """The current filehandle is gone afterwards (2.6.3.1.1.8)."""
    c.here, c.stateid = None, ANONYMOUS
    return FLAVORS


def secinfo(c: Compound, args: SecInfoArgs) -> Outcome:
    place = c.place
    return Ask(place.volume, Lookup(place.caller, place.inode, (checked(args.name),)), lambda _: _consumed(c))


def secinfo_above(c: Compound, args: SecInfoArgs) -> Outcome:
    name = checked(args.name)
    if not any(share.name.encode() == name for share in c.places.visible()):
        raise NotFound(repr(name))
    return _consumed(c)


def secinfo_no_name(c: Compound, args: SecInfoNoNameArgs) -> Outcome:
    if args.style == CURRENT:
        return _consumed(c)
    if args.style != PARENT:
        raise Failure(Status.INVAL)
    place: Place = c.place

    def answer(found: Found) -> bytes:
        if found.attributes.kind is not Kind.DIRECTORY:
            raise Failure(Status.NOTDIR)
        return _consumed(c)

    return Ask(place.volume, GetAttributes(place.target), answer)


def secinfo_no_name_above(c: Compound, args: SecInfoNoNameArgs) -> Outcome:
    if args.style == CURRENT:
        return _consumed(c)
    raise Failure(Status.NOENT if args.style == PARENT else Status.INVAL)
