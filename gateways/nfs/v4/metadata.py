"""GETATTR, SETATTR, VERIFY, NVERIFY and ACCESS (RFC 8881 18.1, 18.7, 18.15, 18.30, 18.31)."""

import struct
from collections.abc import Callable
from typing import NamedTuple

from gateways.nfs import above
from gateways.nfs.handles import Place
from gateways.nfs.rights import ALL_RIGHTS, DELETE, EXECUTE, EXTEND, LOOKUP, MODIFY, READ, WRITING, granted
from gateways.nfs.v4 import settable, stateids
from gateways.nfs.v4.acls import bound
from gateways.nfs.v4.attributes import ACL_ASKED, SPACE_ASKED, Attr, encoder, mask_of, supported, words_of
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.delegated import CONCERNED, asked_of_holder
from gateways.nfs.v4.facts import facts_above, facts_of, found, readable
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.settable import New, NewAttributes
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Bitmap, Stateid
from gateways.nfs.xdr import U32
from sofs.types import Kind
from sofs.volume.api import Access, Attributes, Changes, CheckAccess, GetAttributes, GetSecurity, Rights, SetAttributes, SetSecurity, Target, Text
from sofs.volume.security import decode

GROUP_PART, DACL_PART = 2, 4
_TWO = struct.Struct(">II")
XA_READ, XA_WRITE, XA_LIST = 0x40, 0x80, 0x100
"""ACCESS4_XAREAD, _XAWRITE, _XALIST, RFC 8276 8.5."""


class GetAttributesArgs(NamedTuple):
    wanted: Bitmap


class SetAttributesArgs(NamedTuple):
    stateid: Stateid
    attributes: NewAttributes


class VerifyArgs(NamedTuple):
    attributes: NewAttributes


class AccessArgs(NamedTuple):
    wanted: U32


def getattr(c: Compound, args: GetAttributesArgs) -> Outcome:
    place = c.place
    wanted = readable(c, mask_of(args.wanted))
    facts = facts_of(c, place)

    def answer(size: int | None) -> Outcome:
        def write(of: Attributes) -> bytes:
            if size is not None:
                of.size = size
            return encoder(wanted)(of, facts)

        return found(place, place.target, facts, wanted, write)

    if c.service.writers and wanted & CONCERNED:
        return asked_of_holder(c, place, answer)
    return answer(None)


def getattr_above(c: Compound, args: GetAttributesArgs) -> Outcome:
    return _above(c, readable(c, mask_of(args.wanted)))


def _above(c: Compound, wanted: int) -> bytes:
    """Attributes of the directory above all exports, those aside that only something stored has."""
    of = above.attributes(c.places.visible())
    return encoder(wanted & ABOVE_HAS)(of, facts_above(c))


ABOVE_HAS = ~(ACL_ASKED | SPACE_ASKED)


def setattr(c: Compound, args: SetAttributesArgs) -> Outcome:
    """The size is set through the open that the stateid names; all else is the user's business, whatever he has open.

    What does not fit into one request of the volume comes before the one that carries the slot's token, and says the same each time.
    """
    new = settable.read(args.attributes, c.minor, c.service.owners)
    place = c.place
    done = words_of(new.mask)
    if new.relative:
        return Ask(place.volume, GetAttributes(place.target), lambda found: _set(c, args, new, new.whole(found.attributes), done))
    if not new.mask:
        # Nothing is changed, but a stateid that is given must be good, and the file must be there.
        return Ask(place.volume, GetAttributes(place.target), lambda found: done)
    return _set(c, args, new, new.changes, done)


def _set(c: Compound, args: SetAttributesArgs, new: New, changes: Changes, done: bytes) -> Outcome:
    place, volume = c.place, c.place.volume
    size, changes.size = changes.size, None
    target = place.target if size is None else stateids.target(c, args.stateid, Access.WRITE_DATA)
    last_is_size, last_is_acl = size is not None, size is None and new.acl is not None

    def acl() -> Outcome:
        return set_acl(place, place.target, new, resize, last_is_acl)

    def resize() -> Outcome:
        if size is None:
            return done
        return Ask(volume, SetAttributes(target, Changes(size=size)), lambda found: done, True)

    if changes == Changes():
        return acl()
    return Ask(volume, SetAttributes(place.target, changes), lambda found: acl(), not (last_is_size or last_is_acl))


def set_acl(place: Place, target: Target, new: New, then: Callable[[], Outcome], changes: bool = False) -> Outcome:
    """Gives a file the ACL that is wanted, if one is, and goes on with `then`."""
    if new.acl is None:
        return then()
    acl = new.acl

    def answer(text: Text) -> Outcome:
        group = decode(text.text).group
        assert group is not None, "every file has a group"
        return Ask(place.volume, SetSecurity(target, DACL_PART, bound(acl, group)), lambda reply: then(), changes)

    return Ask(place.volume, GetSecurity(target, GROUP_PART), answer)


def verify(c: Compound, args: VerifyArgs) -> Outcome:
    return _compare(c, args, same=True)


def nverify(c: Compound, args: VerifyArgs) -> Outcome:
    return _compare(c, args, same=False)


def _compare(c: Compound, args: VerifyArgs, same: bool) -> Outcome:
    place, wanted = c.place, _comparable(c, args)
    facts = facts_of(c, place)
    return found(place, place.target, facts, wanted, lambda of: _decide(args, encoder(wanted)(of, facts), same))


def verify_above(c: Compound, args: VerifyArgs) -> Outcome:
    return _decide(args, _above(c, _comparable(c, args)), True)


def nverify_above(c: Compound, args: VerifyArgs) -> Outcome:
    return _decide(args, _above(c, _comparable(c, args)), False)


def _comparable(c: Compound, args: VerifyArgs) -> int:
    """Raises `Failure`: all that is given must be there, and rdattr_error says nothing about a file (18.31.3)."""
    mask = mask_of(args.attributes.mask)
    if mask & ~supported(c.minor):
        raise Failure(Status.ATTRNOTSUPP)
    if mask >> Attr.RDATTR_ERROR & 1:
        raise Failure(Status.INVAL)
    return readable(c, mask)


def _decide(args: VerifyArgs, ours: bytes, same: bool) -> bytes:
    """Equal attributes have equal encodings: only an owner that is given by name differs from our number."""
    given = args.attributes
    theirs = words_of(mask_of(given.mask)) + len(given.values).to_bytes(4) + given.values
    if (theirs == ours) is not same:
        raise Failure(Status.NOT_SAME if same else Status.SAME)
    return b""


def access(c: Compound, args: AccessArgs) -> Outcome:
    """What is asked beside the rights of files and directories is not answered (`supported`); read-only exports take the writing ones away."""
    place = c.place

    def answer(rights: Rights) -> bytes:
        directory = rights.attributes.kind is Kind.DIRECTORY
        known = READ | MODIFY | EXTEND | (LOOKUP | DELETE if directory else EXECUTE)
        bits = granted(rights)
        if c.minor >= 2:
            known |= XA_READ | XA_WRITE | XA_LIST
            bits |= XA_READ | XA_LIST if rights.granted & Access.READ_EA else 0
            bits |= XA_WRITE if rights.granted & Access.WRITE_EA else 0
        if place.read_only:
            bits &= ~(WRITING | XA_WRITE)
        return _TWO.pack(args.wanted & known, args.wanted & known & bits)

    wanted = ALL_RIGHTS | Access.READ_EA | Access.WRITE_EA
    return Ask(place.volume, CheckAccess(place.caller, place.inode, int(wanted)), answer)


def access_above(c: Compound, args: AccessArgs) -> Outcome:
    known = READ | LOOKUP | MODIFY | EXTEND | DELETE
    return _TWO.pack(args.wanted & known, args.wanted & (READ | LOOKUP))
