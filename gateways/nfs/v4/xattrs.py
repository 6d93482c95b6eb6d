"""GETXATTR, SETXATTR, LISTXATTRS and REMOVEXATTR (RFC 8276 8.4): the user's extended attributes, which SMB shows as EAs."""

import struct
from typing import Annotated, NamedTuple

from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.xdr import U32, U64, Opaque, opaque
from sofs.volume.api import Extended, GetAttributes, GetExtended, Reply, SetExtended

EITHER, CREATE, REPLACE = range(3)
"""setxattr_option4."""
MAX_NAME = 255
MAX_VALUE = 65_535
_CHANGE = struct.Struct(">IQQ")  # atomic, before, after
_COOKIE = struct.Struct(">QI")  # cookie, number of names
_FIXED = 16
"""Bytes of a LISTXATTR4resok without its names: cookie, count, eof."""

AttributeName = Annotated[bytes, Opaque(1024)]


class NameArgs(NamedTuple):
    name: AttributeName


class SetArgs(NamedTuple):
    option: U32
    name: AttributeName
    value: Annotated[bytes, Opaque(1 << 20)]


class ListArgs(NamedTuple):
    cookie: U64
    limit: U32


def getxattr(c: Compound, args: NameArgs) -> Outcome:
    def answer(found: Extended) -> bytes:
        ((_, value),) = found.attributes
        return opaque(value)

    return Ask(c.place.volume, GetExtended(c.place.target, (_checked(args.name),)), answer)


def setxattr(c: Compound, args: SetArgs) -> Outcome:
    """An empty value is a value, as setxattr(2) has it. (The volume's requests follow SMB there, unless they say which of the two it is.)"""
    name = _checked(args.name)
    if args.option > REPLACE:
        raise Failure(Status.INVAL)
    if len(args.value) > MAX_VALUE:
        raise Failure(Status.XATTR2BIG)

    def go(option: int) -> Outcome:
        return _change(c, SetExtended(c.place.target, ((name, args.value),), option == CREATE, option == REPLACE))

    if args.option == EITHER and not args.value:
        return Ask(
            c.place.volume, GetExtended(c.place.target), lambda found: go(REPLACE if any(name == each for each, _ in found.attributes) else CREATE)
        )
    return go(args.option)


def removexattr(c: Compound, args: NameArgs) -> Outcome:
    """Raises `NoData` for one that is not there."""
    name = _checked(args.name)
    return Ask(c.place.volume, GetExtended(c.place.target, (name,)), lambda found: _change(c, SetExtended(c.place.target, ((name, b""),))))


def _change(c: Compound, request: SetExtended) -> Outcome:
    """Carries a change out, and answers with the file's change attribute around it."""
    volume, target = c.place.volume, c.place.target

    def answer(before: int) -> Outcome:
        def done(reply: Reply) -> Outcome:
            return Ask(volume, GetAttributes(target), lambda after: _CHANGE.pack(False, before, after.attributes.change))

        return Ask(volume, request, done, True)

    return Ask(volume, GetAttributes(target), lambda found: answer(found.attributes.change))


def listxattrs(c: Compound, args: ListArgs) -> Outcome:
    """The cookie is the number of names that have been listed: the volume gives them in order."""
    room = args.limit - _FIXED
    if room < 0:
        raise Failure(Status.TOOSMALL)

    def answer(found: Extended) -> bytes:
        names = [name for name, _ in found.attributes]
        if args.cookie > len(names):
            raise Failure(Status.BAD_COOKIE)
        left, pieces = room, []
        for name in names[args.cookie :]:
            piece = opaque(name)
            left -= len(piece)
            if left < 0:
                break
            pieces.append(piece)
        at = args.cookie + len(pieces)
        if left < 0 and not pieces:
            raise Failure(Status.TOOSMALL)
        return _COOKIE.pack(at, len(pieces)) + b"".join(pieces) + (at == len(names)).to_bytes(4)

    return Ask(c.place.volume, GetExtended(c.place.target), answer)


def list_above(c: Compound, args: ListArgs) -> Outcome:
    """The directory above all exports has none."""
    return _COOKIE.pack(0, 0) + b"\0\0\0\1"


def _checked(name: bytes) -> bytes:
    if not name or b"\0" in name:
        raise Failure(Status.INVAL)
    if len(name) > MAX_NAME:
        raise Failure(Status.NAMETOOLONG)
    return name
