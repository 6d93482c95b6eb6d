"""Attributes that clients set: a fattr4 read into the volume's terms (RFC 8881 5.5, 18.30)."""

import struct
from typing import Annotated, NamedTuple

from gateways.nfs.v4.acls import read_acl, read_dacl
from gateways.nfs.v4.attributes import SETTABLE, Attr, mask_of, supported
from gateways.nfs.v4.owners import Owners
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Bitmap
from gateways.nfs.xdr import Opaque, XdrError
from sofs.types import Time, from_unix_ns
from sofs.volume.api import ARCHIVE, HIDDEN, SYSTEM, Attributes, Changes
from sofs.volume.security import Descriptor

_LIMIT = 256 << 10
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")
_MOMENT = struct.Struct(">qI")
_PAIR = struct.Struct(">II")
_NOW = Time(-1)
_FLAGS = {Attr.ARCHIVE: ARCHIVE, Attr.HIDDEN: HIDDEN, Attr.SYSTEM: SYSTEM}


class NewAttributes(NamedTuple):
    """fattr4, 3.3.13."""

    mask: Bitmap
    values: Annotated[bytes, Opaque(_LIMIT)]


class New(NamedTuple):
    """What a client wants to set."""

    changes: Changes
    """Without `flags`, which depend on what they are now: `whole` puts them in."""
    acl: Descriptor | None
    """Given to `acls.bound` when the file's group is known."""
    flags: tuple[int, int]
    """Values, and which are set."""
    mode: tuple[int, int]
    """mode_set_masked: values, and which bits are set."""
    mask: int
    """All attributes that were given: the attrset of the answer."""

    @property
    def relative(self) -> bool:
        """Whether what is to be set depends on what is there."""
        return bool(self.flags[1] or self.mode[1])

    def whole(self, now: Attributes | None) -> Changes:
        """All changes to a file that has these attributes now, or to a new one."""
        changes = self.changes
        values, mask = self.flags
        if mask:
            changes.flags = (0 if now is None else now.flags & ~mask) | values
        values, mask = self.mode
        if mask:
            changes.mode = (0 if now is None else now.mode & ~mask) | values & mask
        return changes


NOTHING = NewAttributes((), b"")


def read(given: NewAttributes, minor: int, owners: Owners) -> New:
    """Raises `Failure`: ATTRNOTSUPP, INVAL (an attribute that cannot be set, a value that makes no sense), BADOWNER, BADXDR."""
    mask = mask_of(given.mask)
    if mask & ~supported(minor):
        raise Failure(Status.ATTRNOTSUPP)
    if mask & ~SETTABLE or mask >> Attr.MODE & mask >> Attr.MODE_SET_MASKED & 1:
        raise Failure(Status.INVAL)
    try:
        return _Reader(memoryview(given.values), mask, owners).new()
    except (struct.error, XdrError):
        raise Failure(Status.BADXDR) from None


class _Reader:
    """Reads the values in the order of their attributes' numbers."""

    def __init__(self, data: memoryview, mask: int, owners: Owners) -> None:
        self._data = data
        self._at = 0
        self._mask = mask
        self._owners = owners

    def _has(self, attribute: Attr) -> bool:
        return bool(self._mask >> attribute & 1)

    def new(self) -> New:
        changes, acl = Changes(), None
        values = which = 0
        mode_values = mode_mask = 0
        for attribute in Attr:
            if not self._has(attribute):
                continue
            if attribute is Attr.SIZE:
                changes.size = self._number(_U64)
            elif attribute is Attr.ACL or attribute is Attr.DACL:
                acl, self._at = (read_acl if attribute is Attr.ACL else read_dacl)(self._data, self._at, self._owners)
            elif attribute in _FLAGS:
                which |= _FLAGS[attribute]
                values |= _FLAGS[attribute] if self._flag() else 0
            elif attribute is Attr.MODE:
                changes.mode = _permissions(self._number(_U32))
            elif attribute is Attr.OWNER:
                changes.uid = self._owners.uid(self._string())
            elif attribute is Attr.OWNER_GROUP:
                changes.gid = self._owners.gid(self._string())
            elif attribute is Attr.TIME_ACCESS_SET:
                changes.accessed = self._new_time()
            elif attribute is Attr.TIME_CREATE:
                changes.created = self._time()
            elif attribute is Attr.TIME_MODIFY_SET:
                changes.modified = self._new_time()
            else:
                assert attribute is Attr.MODE_SET_MASKED
                mode_values, mode_mask = (_permissions(self._number(_U32)) for _ in range(2))
        if self._at != len(self._data):
            raise XdrError("something follows the attributes")
        return New(changes, acl, (values, which), (mode_values, mode_mask), self._mask)

    def _number(self, layout: struct.Struct) -> int:
        number: int = layout.unpack_from(self._data, self._at)[0]
        self._at += layout.size
        return number

    def _flag(self) -> bool:
        number = self._number(_U32)
        if number > 1:
            raise XdrError(f"{number} is no boolean")
        return number == 1

    def _string(self) -> bytes:
        length = self._number(_U32)
        end = self._at + (length + 3 & ~3)
        if end > len(self._data):
            raise XdrError("a string is cut short")
        text = bytes(self._data[self._at : self._at + length])
        self._at = end
        return text

    def _time(self) -> Time:
        seconds, nanoseconds = _MOMENT.unpack_from(self._data, self._at)
        self._at += _MOMENT.size
        if nanoseconds >= 1_000_000_000:
            raise Failure(Status.INVAL)
        return from_unix_ns(seconds * 1_000_000_000 + nanoseconds)

    def _new_time(self) -> Time:
        """settime4, 3.3.12: the client's time, or the server's."""
        how = self._number(_U32)
        if how > 1:
            raise XdrError(f"{how} is no time_how4")
        if not how:
            return _NOW
        time = self._time()
        if time < 0:
            raise Failure(Status.INVAL)  # before 1601, which the volume cannot say
        return time


def _permissions(mode: int) -> int:
    if mode & ~0o7777:
        raise Failure(Status.INVAL)
    return mode
