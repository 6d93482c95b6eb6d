"""PUTROOTFH, PUTPUBFH, PUTFH, GETFH, SAVEFH, RESTOREFH, LOOKUP, LOOKUPP: what the current and the saved filehandle are
(RFC 8881 18.8, 18.13, 18.14, 18.19 to 18.21, 18.27, 18.29).

The directory above all exports is every client's root; below it each export is a file system of its own.
"""

from functools import partial
from typing import NamedTuple

from gateways.nfs import above, climbing, past
from gateways.nfs.handles import HANDLE_SIZE, Place
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import ABOVE, Ask, Outcome
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Handle, Name, NoArguments
from gateways.nfs.xdr import codec
from sofs.volume.api import Found, GetAttributes, Lookup

_LENGTH = HANDLE_SIZE.to_bytes(4)
putfh_arguments = codec(Handle).unpack
MAX_NAME = 765
"""Bytes of the longest name: 255 UTF-16 units in UTF-8."""


class LookupArgs(NamedTuple):
    name: Name


def putrootfh(c: Compound, args: NoArguments) -> Outcome:
    c.go(ABOVE)
    return b""


def putfh(c: Compound, handle: bytes) -> Outcome:
    """Whether the file is still there shows with the next operation, which has to look anyway."""
    c.go(c.places.at(handle, c.credential) or ABOVE)
    return b""


def getfh(c: Compound, args: NoArguments) -> Outcome:
    here = c.here
    return _LENGTH + (here.own_handle if isinstance(here, Place) else c.places.root_handle)


def savefh(c: Compound, args: NoArguments) -> Outcome:
    c.saved, c.saved_stateid = c.here, c.stateid
    return b""


def restorefh(c: Compound, args: NoArguments) -> Outcome:
    if c.saved is None:
        raise Failure(Status.NOFILEHANDLE)
    c.go(c.saved)
    c.stateid = c.saved_stateid
    return b""


def lookup(c: Compound, args: LookupArgs) -> Outcome:
    place, name = c.place, checked(args.name)
    crossed = past.cross(place, name, Ask, partial(_enter, c))
    return crossed if crossed is not None else _ask(c, place, Lookup(place.caller, place.inode, (name,)))


def _enter(c: Compound, place: Place) -> Outcome:
    """Makes a place whose generation is not known the current filehandle."""
    return _ask(c, place, GetAttributes(place.target))


def _ask(c: Compound, place: Place, request: Lookup | GetAttributes) -> Outcome:
    """Makes what the request finds, in the same file system as `place`, the current filehandle."""

    def answer(found: Found) -> bytes:
        c.go(place.sibling(found.attributes))
        return b""

    return Ask(place.volume, request, answer)


def lookup_above(c: Compound, args: LookupArgs) -> Outcome:
    share = above.named(c.places.visible(), checked(args.name))
    return _enter(c, c.places.place(share, c.credential, share.root))


def lookupp(c: Compound, args: NoArguments) -> Outcome:
    """Above an export's directory lies the one above all exports; nothing leads to where the export lies in its volume."""
    place = c.place
    crossed = past.cross(place, b"..", Ask, partial(_enter, c))
    if crossed is not None:
        return crossed
    if place.is_root:
        c.go(ABOVE)
        return b""
    return climbing.parent(place, Ask, lambda inode: _ask(c, place, Lookup(place.caller, inode, ())))


def checked(name: bytes) -> bytes:
    """The name of an entry. Raises `Failure` for what can be none (14.5, 15.1.7)."""
    if not name:
        raise Failure(Status.INVAL)
    if name in (b".", b"..") or b"/" in name:
        raise Failure(Status.BADNAME)
    if b"\0" in name:
        raise Failure(Status.BADCHAR)
    if len(name) > MAX_NAME:
        raise Failure(Status.NAMETOOLONG)
    return name


def checked_new(place: Place, name: bytes) -> bytes:
    """The name of an entry to be made."""
    if past.is_reserved(place, name):
        raise Failure(Status.EXIST)
    return checked(name)
