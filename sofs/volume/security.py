"""Security descriptors: their bytes, and the pure functions on them.

A descriptor is kept as clients gave it: self-relative (MS-DTYP 2.4.6), the order of its entries untouched. A volume stores one
only when somebody set it, or when it was inherited; otherwise it is derived from mode and owners by `derive`. NT descriptors and NFSv4 ACLs
are two views of this one object.

Nothing here knows files or callers; who may do what is `access.py`.
"""

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Protocol

from sofs.errors import InvalidArgument
from sofs.volume.api import Access

OWNER_PART, GROUP_PART, DACL_PART, SACL_PART, LABEL_PART = 1, 2, 4, 8, 0x10
"""MS-SMB2 2.2.37 AdditionalInformation."""

DACL_PRESENT, SACL_PRESENT, DACL_AUTO_INHERIT_REQ, DACL_AUTO_INHERITED, DACL_PROTECTED, SELF_RELATIVE = 0x4, 0x10, 0x100, 0x400, 0x1000, 0x8000
_KEPT_CONTROL = 0x3F3F
"""Control bits that mean something here; the two AUTO_INHERIT_REQ bits among them are requests, and not stored."""
_DACL_CONTROL = DACL_PRESENT | 0x8 | DACL_AUTO_INHERITED | DACL_PROTECTED
_SACL_CONTROL = SACL_PRESENT | 0x20 | 0x800 | 0x2000

ALLOW, DENY = 0, 1
_SACL_TYPES = frozenset({2, 0x11, 0x12, 0x13})  # audit, mandatory label, resource attribute, scoped policy

OBJECT_INHERIT, CONTAINER_INHERIT, NO_PROPAGATE, INHERIT_ONLY, INHERITED = 1, 2, 4, 8, 0x10

MAX_SIZE = 0xFFFF

_HEAD = struct.Struct("<BxHIIII")  # revision, control, offsets of owner, group, sacl, dacl
_ACL = struct.Struct("<BxHHxx")  # revision, size, count
_ACE = struct.Struct("<BBHI")  # type, flags, size, mask


class Identities(Protocol):
    """One mapping between the SIDs of Windows and the numbers of Unix, given by the node."""

    def sid_of_uid(self, uid: int) -> str: ...

    def sid_of_gid(self, gid: int) -> str: ...

    def uid_of_sid(self, sid: str) -> int | None: ...

    def gid_of_sid(self, sid: str) -> int | None: ...


class UnixIdentities:
    """The mapping where nothing else is known: S-1-22-1-uid and S-1-22-2-gid."""

    def sid_of_uid(self, uid: int) -> str:
        return f"S-1-22-1-{uid}"

    def sid_of_gid(self, gid: int) -> str:
        return f"S-1-22-2-{gid}"

    def uid_of_sid(self, sid: str) -> int | None:
        return _number_after(sid, "S-1-22-1-")

    def gid_of_sid(self, sid: str) -> int | None:
        return _number_after(sid, "S-1-22-2-")


def _number_after(sid: str, prefix: str) -> int | None:
    rest = sid.removeprefix(prefix)
    return int(rest) if rest != sid and rest.isdecimal() and int(rest) < 1 << 32 else None


class Ace(NamedTuple):
    """An entry of an ACL. `rest` is what follows the SID; for audit and label types it is everything behind the mask."""

    type: int
    flags: int
    mask: int
    sid: bytes
    rest: bytes = b""


class Descriptor(NamedTuple):
    control: int
    owner: bytes | None
    group: bytes | None
    dacl: tuple[Ace, ...] | None
    """None grants everything to everybody (MS-DTYP 2.4.6: a NULL DACL); the empty one grants nothing."""
    sacl: tuple[Ace, ...] | None


# SIDs, MS-DTYP 2.4.2


@lru_cache(4096)
def sid_bytes(text: str) -> bytes:
    """The binary form of `S-1-5-21-...`. Raises `InvalidArgument`."""
    parts = text.split("-")
    try:
        if parts[0] != "S" or int(parts[1]) != 1 or len(parts) > 18:
            raise ValueError
        authority = int(parts[2], 0).to_bytes(6)
        subs = [int(part) for part in parts[3:]]
        return bytes((1, len(subs))) + authority + struct.pack(f"<{len(subs)}I", *subs)
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise InvalidArgument(f"{text!r} is not a SID") from error


@lru_cache(4096)
def sid_text(sid: bytes) -> str:
    """The `S-1-...` form of a binary SID that `decode` accepted."""
    subs = struct.unpack(f"<{sid[1]}I", sid[8:])
    return "-".join(("S", str(sid[0]), str(int.from_bytes(sid[2:8])), *map(str, subs)))


EVERYONE = sid_bytes("S-1-1-0")
AUTHENTICATED = sid_bytes("S-1-5-11")
CREATOR_OWNER = sid_bytes("S-1-3-0")
CREATOR_GROUP = sid_bytes("S-1-3-1")
OWNER_RIGHTS = sid_bytes("S-1-3-4")


def _sid_at(data: bytes, offset: int) -> bytes:
    if offset + 8 > len(data) or data[offset] != 1 or data[offset + 1] > 15:
        raise InvalidArgument(f"no SID at byte {offset} of a security descriptor")
    end = offset + 8 + 4 * data[offset + 1]
    if end > len(data):
        raise InvalidArgument("a SID reaches beyond its security descriptor")
    return data[offset:end]


# Bytes


@lru_cache(256)
def decode(data: bytes) -> Descriptor:
    """The descriptor from its self-relative bytes, validated. Raises `InvalidArgument`."""
    if len(data) < _HEAD.size or len(data) > MAX_SIZE:
        raise InvalidArgument(f"a security descriptor of {len(data)} bytes")
    revision, control, owner_at, group_at, sacl_at, dacl_at = _HEAD.unpack_from(data)
    if revision != 1 or not control & SELF_RELATIVE:
        raise InvalidArgument("a security descriptor must be of revision 1 and self-relative")
    return Descriptor(
        control & _KEPT_CONTROL,
        _sid_at(data, owner_at) if owner_at else None,
        _sid_at(data, group_at) if group_at else None,
        _decode_acl(data, dacl_at, _decode_access_ace) if control & DACL_PRESENT and dacl_at else None,
        _decode_acl(data, sacl_at, _decode_system_ace) if control & SACL_PRESENT and sacl_at else None,
    )


def _decode_acl(data: bytes, at: int, decode_ace: Callable[[int, int, int, bytes], Ace]) -> tuple[Ace, ...]:
    if at + _ACL.size > len(data):
        raise InvalidArgument("an ACL begins beyond its security descriptor")
    revision, size, count = _ACL.unpack_from(data, at)
    end = at + size
    if revision not in (2, 4) or end > len(data):
        raise InvalidArgument(f"an ACL of revision {revision} and {size} bytes")
    aces = []
    at += _ACL.size
    for _ in range(count):
        if at + _ACE.size > end:
            raise InvalidArgument("an ACE reaches beyond its ACL")
        kind, flags, length, mask = _ACE.unpack_from(data, at)
        if length < _ACE.size or at + length > end:
            raise InvalidArgument(f"an ACE of {length} bytes")
        aces.append(decode_ace(kind, flags, mask, data[at + _ACE.size : at + length]))
        at += length
    return tuple(aces)


def _decode_access_ace(kind: int, flags: int, mask: int, body: bytes) -> Ace:
    # Object and conditional entries mean nothing here; ignoring a denial would grant what was not meant.
    if kind not in (ALLOW, DENY):
        raise InvalidArgument(f"an access control entry of type {kind}")
    sid = _sid_at(body, 0)
    return Ace(kind, flags & 0x1F, mask, sid, body[len(sid) :])


def _decode_system_ace(kind: int, flags: int, mask: int, body: bytes) -> Ace:
    if kind not in _SACL_TYPES:
        raise InvalidArgument(f"a system access control entry of type {kind}")
    return Ace(kind, flags, mask, b"", body)


def encode(descriptor: Descriptor) -> bytes:
    """The self-relative bytes: owner, group, SACL, DACL, as Windows lays them out."""
    parts = []
    at = _HEAD.size
    offsets = []
    for part in (descriptor.owner, descriptor.group, _encode_acl(descriptor.sacl), _encode_acl(descriptor.dacl)):
        offsets.append(at if part else 0)
        if part:
            parts.append(part)
            at += len(part)
    if at > MAX_SIZE:
        raise InvalidArgument(f"a security descriptor of {at} bytes")
    return b"".join((_HEAD.pack(1, descriptor.control | SELF_RELATIVE, *offsets), *parts))


def _encode_acl(acl: tuple[Ace, ...] | None) -> bytes:
    if acl is None:
        return b""
    aces = [_ACE.pack(ace.type, ace.flags, _ACE.size + len(ace.sid) + len(ace.rest), ace.mask) + ace.sid + ace.rest for ace in acl]
    size = _ACL.size + sum(map(len, aces))
    if size > MAX_SIZE:
        raise InvalidArgument(f"an ACL of {size} bytes")
    return _ACL.pack(2, size, len(aces)) + b"".join(aces)


def parts_of(descriptor: Descriptor) -> int:
    """Which parts there are in a descriptor that a client gave."""
    return (
        (OWNER_PART if descriptor.owner else 0)
        | (GROUP_PART if descriptor.group else 0)
        | (DACL_PART if descriptor.control & DACL_PRESENT else 0)
        | (SACL_PART if descriptor.control & SACL_PRESENT else 0)
    )


def merge(old: Descriptor, new: Descriptor, parts: int) -> Descriptor:
    """`old` with the named `parts` from `new`; generic rights become those of files."""
    control = old.control
    owner, group, _, dacl, sacl = old.owner, old.group, None, old.dacl, old.sacl
    if parts & OWNER_PART:
        owner = new.owner
    if parts & GROUP_PART:
        group = new.group
    if parts & DACL_PART:
        dacl = None if new.dacl is None else tuple(ace._replace(mask=generic(ace.mask)) for ace in new.dacl)
        control = control & ~_DACL_CONTROL | new.control & _DACL_CONTROL | DACL_PRESENT
        if not new.control & DACL_AUTO_INHERIT_REQ:
            control &= ~DACL_AUTO_INHERITED  # it is kept only where inheritance was asked for (MS-DTYP 2.5.3.4)
    if parts & (SACL_PART | LABEL_PART):
        sacl = new.sacl
        control = control & ~_SACL_CONTROL | new.control & _SACL_CONTROL
    return Descriptor(control, owner, group, dacl, sacl)


# Rights

FILE_READ, FILE_WRITE, FILE_EXECUTE = 0x120089, 0x120116, 0x1200A0
"""FILE_GENERIC_READ, _WRITE and _EXECUTE (MS-SMB2 2.2.13.1)."""
_ALWAYS = Access.READ_ATTRIBUTES | Access.READ_CONTROL | Access.SYNCHRONIZE
_OWNER = Access.WRITE_DAC | Access.WRITE_ATTRIBUTES


def generic(mask: int) -> int:
    """The mask with GENERIC_READ, _WRITE, _EXECUTE and _ALL mapped to the rights of files."""
    if mask & 0xF0000000:
        for bit, rights in ((1 << 31, FILE_READ), (1 << 30, FILE_WRITE), (1 << 29, FILE_EXECUTE), (1 << 28, Access.ALL)):
            if mask & bit:
                mask |= rights
        mask &= 0x0FFFFFFF
    return mask


def granted(dacl: tuple[Ace, ...] | None, sids: frozenset[bytes]) -> int:
    """All rights that the entries grant to someone with these SIDs (MS-DTYP 2.5.3.2): for each right the first entry that speaks of it decides."""
    if dacl is None:
        return int(Access.ALL)
    allowed = denied = 0
    for ace in dacl:
        if ace.flags & INHERIT_ONLY or ace.sid not in sids:
            continue
        if ace.type == ALLOW:
            allowed |= ace.mask & ~denied
        else:
            denied |= ace.mask & ~allowed
    return allowed


def rights_of_bits(bits: int, directory: bool, owner: bool) -> int:
    """The rights that one class's three bits of a mode stand for.

    A file that can be read can be executed as far as Windows is concerned, which knows no such bit (NFS asks `access.execute`). Its owner may do everything
    to what he may read and write, deletion included; NFS asks the directory for that, as Unix has it (`removal.may_delete`).
    """
    whole = 7 if directory else 6
    if owner and bits & whole == whole:
        return int(Access.ALL)
    rights = int(_ALWAYS | _OWNER if owner else _ALWAYS)
    if bits & 4:
        rights |= Access.READ_DATA | Access.READ_EA
        if not directory:
            rights |= Access.EXECUTE
    if bits & 2:
        rights |= Access.WRITE_DATA | Access.APPEND_DATA | Access.WRITE_EA | Access.WRITE_ATTRIBUTES
        if directory:
            rights |= Access.DELETE_CHILD
    if bits & 1:
        rights |= Access.EXECUTE
    return rights


def derive(mode: int, directory: bool, owner: bytes, group: bytes) -> Descriptor:
    """The descriptor that says what mode and owners say.

    A class that may less than a later one gets a denial behind its entry (RFC 8881 6.3.1.2: the classes of a mode do not add up).
    """
    user = rights_of_bits(mode >> 6 & 7, directory, True)
    members = rights_of_bits(mode >> 3 & 7, directory, False)
    others = rights_of_bits(mode & 7, directory, False)
    aces = [Ace(ALLOW, 0, user, owner)]
    if (members | others) & ~user:
        aces.append(Ace(DENY, 0, (members | others) & ~user, owner))
    aces.append(Ace(ALLOW, 0, members, group))
    if others & ~members:
        aces.append(Ace(DENY, 0, others & ~members, group))
    aces.append(Ace(ALLOW, 0, others, EVERYONE))
    return Descriptor(DACL_PRESENT, owner, group, tuple(aces), None)


def mode_of(dacl: tuple[Ace, ...] | None, owner: bytes, group: bytes) -> int:
    """The nine permission bits that come nearest to the entries (RFC 8881 6.3.2)."""
    mode = 0
    for who in (frozenset({owner, OWNER_RIGHTS, EVERYONE}), frozenset({group, EVERYONE}), frozenset({EVERYONE})):
        rights = granted(dacl, who)
        mode <<= 3
        if rights & Access.READ_DATA:
            mode |= 4
        if rights & Access.WRITE_DATA and rights & Access.APPEND_DATA:
            mode |= 2
        if rights & Access.EXECUTE:
            mode |= 1
    return mode


def chmod(descriptor: Descriptor, mode: int, directory: bool, owner: bytes, group: bytes) -> Descriptor | None:
    """The descriptor after a mode was set (RFC 8881 6.4.1), or None if mode and owners then say all there is.

    What was in effect is replaced by what the mode says. What new files in the directory inherit stays, and so does the SACL.
    """
    kept = tuple(
        ace._replace(flags=ace.flags & ~INHERITED | INHERIT_ONLY)
        for ace in descriptor.dacl or ()
        if directory and ace.flags & (OBJECT_INHERIT | CONTAINER_INHERIT)
    )
    if not kept and descriptor.sacl is None:
        return None
    derived = derive(mode, directory, owner, group)
    assert derived.dacl is not None
    control = descriptor.control & ~_DACL_CONTROL | DACL_PRESENT
    return descriptor._replace(control=control, dacl=derived.dacl + kept)


# Inheritance, MS-DTYP 2.5.3.4


def inherit(parent: Descriptor, directory: bool, owner: bytes, group: bytes) -> Descriptor | None:
    """What is made in a directory with this descriptor inherits; None if nothing."""
    aces: list[Ace] = []
    # Only where inheritance is automatic do entries say that they were inherited.
    mark = INHERITED if parent.control & DACL_AUTO_INHERITED else 0
    for ace in parent.dacl or ():
        aces += _inherited(ace, directory, owner, group, mark)
    if not aces:
        return None
    return Descriptor(DACL_PRESENT | parent.control & DACL_AUTO_INHERITED, None, None, tuple(aces), None)


def _inherited(ace: Ace, directory: bool, owner: bytes, group: bytes, mark: int) -> list[Ace]:
    passes_on = directory and not ace.flags & NO_PROPAGATE
    onward = ace.flags & (OBJECT_INHERIT | CONTAINER_INHERIT) if passes_on else 0
    effective = bool(ace.flags & (CONTAINER_INHERIT if directory else OBJECT_INHERIT))
    if not effective:
        # A directory carries what is meant for files only, without obeying it.
        return [ace._replace(flags=onward | INHERIT_ONLY | mark)] if onward & OBJECT_INHERIT else []
    mask = generic(ace.mask)
    if ace.sid not in (CREATOR_OWNER, CREATOR_GROUP):
        return [ace._replace(flags=onward | mark, mask=mask)]
    creator = owner if ace.sid == CREATOR_OWNER else group
    own = Ace(ace.type, mark, mask, creator, ace.rest)
    return [own, ace._replace(flags=onward | INHERIT_ONLY | mark)] if onward else [own]
