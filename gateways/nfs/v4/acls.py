"""ACLs as NFSv4 writes them (RFC 8881 6), and as the volume keeps them: two views of one security descriptor.

Types, the bits of rights and most flags are the same numbers in both. What differs is who is meant: `OWNER@` is whoever owns the file just now, which
NT calls OWNER RIGHTS (S-1-3-4); where it is inherited it is CREATOR OWNER (S-1-3-0), and `GROUP@` is CREATOR GROUP (S-1-3-1). The order of entries
is kept. Audit and alarm entries are not taken (attribute `aclsupport` says so).
"""

import struct

from gateways.nfs.v4.owners import GROUP_WHO, OWNER_WHO, Owners
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.xdr import XdrError, pad
from sofs.volume.api import Access
from sofs.volume.security import ALLOW, CREATOR_GROUP, CREATOR_OWNER, DACL_PRESENT, DENY, OWNER_RIGHTS, Ace, Descriptor, decode, encode

ACL_SUPPORT = 0x3
"""ACL4_SUPPORT_ALLOW_ACL and ACL4_SUPPORT_DENY_ACL."""
INHERITABLE, INHERIT_ONLY, ONWARD = 0x3, 0x8, 0xF
"""Of the flags: file and directory inherit; inherit only; all of NT's that are NFSv4's too."""
IDENTIFIER_GROUP, INHERITED = 0x40, 0x80
_NT_INHERITED = 0x10
AUTO_INHERIT, PROTECTED = 1, 2
"""aclflag4, 6.4.3.2."""
_DACL_AUTO_INHERIT_REQ, _DACL_AUTO_INHERITED, _DACL_PROTECTED = 0x100, 0x400, 0x1000
MOST = 1024
"""Entries of one ACL that are looked at."""
_OWNERS_OWN = int(Access.READ_CONTROL | Access.WRITE_DAC | Access.READ_ATTRIBUTES | Access.WRITE_ATTRIBUTES)
"""What an owner may always do (6.2.1.3.1 leaves it to the server): NT's OWNER RIGHTS would take it from him otherwise."""
_KNOWN = int(Access.ALL) | 0x600
"""The rights, with those about retention, which nothing here grants."""

_U32 = struct.Struct(">I")
_ACE = struct.Struct(">4I")  # type, flag, mask, length of who


def acl_of(stored: bytes, owners: Owners) -> bytes:
    """Attribute `acl`: the entries of a self-relative descriptor that has owner, group and DACL. Those without a DACL grant everything to everybody."""
    descriptor = decode(stored)
    aces = descriptor.dacl
    if aces is None:
        aces = (Ace(ALLOW, 0, int(Access.ALL), owners.sid(b"EVERYONE@", False)),)
    return _U32.pack(len(aces)) + b"".join(_shown(ace, descriptor, owners) for ace in aces)


def dacl_of(stored: bytes, owners: Owners) -> bytes:
    """Attribute `dacl`, 6.2.2: the same, with what it says about inheritance."""
    control = decode(stored).control
    flags = (AUTO_INHERIT if control & _DACL_AUTO_INHERITED else 0) | (PROTECTED if control & _DACL_PROTECTED else 0)
    return _U32.pack(flags) + acl_of(stored, owners)


def _shown(ace: Ace, of: Descriptor, owners: Owners) -> bytes:
    flags = ace.flags & ONWARD | (INHERITED if ace.flags & _NT_INHERITED else 0)
    if ace.sid in (OWNER_RIGHTS, CREATOR_OWNER) or (ace.sid == of.owner and not flags & INHERITABLE):
        who = OWNER_WHO
    elif ace.sid == CREATOR_GROUP or (ace.sid == of.group and not flags & INHERITABLE):
        who, flags = GROUP_WHO, flags | IDENTIFIER_GROUP
    else:
        who, group = owners.who(ace.sid)
        flags |= IDENTIFIER_GROUP if group else 0
    return _ACE.pack(ace.type, flags, ace.mask & int(Access.ALL), len(who)) + who + pad(len(who))


def read_acl(data: memoryview, at: int, owners: Owners) -> tuple[Descriptor, int]:
    """Attribute `acl` at `at` as a descriptor that has a DACL alone, for `bound`; and the offset behind it. Raises `XdrError`, `Failure`."""
    return _read(data, at, owners, DACL_PRESENT)


def read_dacl(data: memoryview, at: int, owners: Owners) -> tuple[Descriptor, int]:
    """Attribute `dacl`, likewise."""
    try:
        (flags,) = _U32.unpack_from(data, at)
    except struct.error:
        raise XdrError("an ACL is cut short") from None
    control = DACL_PRESENT
    if flags & AUTO_INHERIT:
        control |= _DACL_AUTO_INHERIT_REQ | _DACL_AUTO_INHERITED
    if flags & PROTECTED:
        control |= _DACL_PROTECTED
    return _read(data, at + 4, owners, control)


def bound(read: Descriptor, group: bytes) -> bytes:
    """The self-relative descriptor for a file of this group: NT has no word for "whatever group the file belongs to"."""
    return encode(
        read._replace(
            dacl=tuple(ace._replace(sid=group) if ace.sid == CREATOR_GROUP and not ace.flags & INHERIT_ONLY else ace for ace in read.dacl or ())
        )
    )


def _read(data: memoryview, at: int, owners: Owners, control: int) -> tuple[Descriptor, int]:
    try:
        (count,) = _U32.unpack_from(data, at)
        at += 4
        aces: list[Ace] = []
        if count > MOST:
            raise Failure(Status.INVAL)
        for _ in range(count):
            kind, flags, mask, length = _ACE.unpack_from(data, at)
            at += _ACE.size
            end = at + (length + 3 & ~3)
            if end > len(data):
                raise XdrError("an ACL is cut short")
            aces += _kept(kind, flags, mask, bytes(data[at : at + length]), owners)
            at = end
    except struct.error:
        raise XdrError("an ACL is cut short") from None
    return Descriptor(control, None, None, tuple(aces), None), at


def _kept(kind: int, flags: int, mask: int, who: bytes, owners: Owners) -> list[Ace]:
    """The NT entries that say what one of NFSv4 says: two, where a file's own owner is meant both here and in what inherits from here."""
    if kind not in (ALLOW, DENY):
        raise Failure(Status.ATTRNOTSUPP if kind in (2, 3) else Status.INVAL)  # audit and alarm, 6.2.1.1
    if mask & ~_KNOWN or flags & ~0xFF or not who:
        raise Failure(Status.INVAL)
    mask &= int(Access.ALL)
    kept = flags & ONWARD | (_NT_INHERITED if flags & INHERITED else 0)
    if who not in (OWNER_WHO, GROUP_WHO):
        return [Ace(kind, kept, mask, owners.sid(who, bool(flags & IDENTIFIER_GROUP)))]
    if who == OWNER_WHO:
        here, inherited = OWNER_RIGHTS, CREATOR_OWNER
        own = mask | _OWNERS_OWN if kind == ALLOW else mask & ~_OWNERS_OWN
    else:
        here, inherited, own = CREATOR_GROUP, CREATOR_GROUP, mask
    aces = []
    if not kept & INHERIT_ONLY:
        aces.append(Ace(kind, kept & _NT_INHERITED, own, here))
    if kept & INHERITABLE:
        aces.append(Ace(kind, kept | INHERIT_ONLY, mask, inherited))
    return aces
