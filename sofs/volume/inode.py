"""The inode record: what is known of a file apart from its names and its data.

The layout is fixed, so that `apply` patches size and times in place for every write (DESIGN section 6) without
decoding the rest. A symbolic link's text, or the verifier of an exclusive NFSv3 CREATE, follows the fixed part.
"""

import struct
from typing import NamedTuple, Self

from sofs.types import Inode, Kind, Time
from sofs.volume.api import Attributes, Changes

__all__ = ["HAS_DESCRIPTOR", "IS_STREAM", "SHARES_PAGES", "Changes", "InodeRecord", "patch_data"]

SHARES_PAGES = 1
"""Some page of this file may have more than one reference: look at the reference windows before freeing one."""
HAS_DESCRIPTOR = 2
"""An explicit security descriptor is stored under `A`; otherwise it is derived from mode and owners."""
IS_STREAM = 4
"""A named stream: `parent` is the file it belongs to."""

LAYOUT = struct.Struct("<BBHIIIIQQQQQQQIIIIQ")
_DATA = struct.Struct("<QQ")  # size, pages
_DATA_AT = 20
_STAMP = struct.Struct("<QQQ")  # modified, changed, change
_STAMP_AT = 52

assert LAYOUT.size == 100


class InodeRecord(NamedTuple):
    kind: int
    marks: int
    """SHARES_PAGES, HAS_DESCRIPTOR, IS_STREAM."""
    mode: int
    links: int
    uid: int
    gid: int
    generation: int
    size: int
    pages: int
    """Pages that have a place or are reserved."""
    created: int
    accessed: int
    modified: int
    changed: int
    change: int
    flags: int
    major: int
    minor: int
    ea_size: int
    parent: int
    extra: bytes = b""

    @classmethod
    def decode(cls, value: bytes) -> Self:
        return cls(*LAYOUT.unpack_from(value), value[LAYOUT.size :])

    def encode(self) -> bytes:
        return LAYOUT.pack(*self[:-1]) + self.extra

    def attributes(self, inode: Inode, delete_pending: bool = False) -> Attributes:
        return Attributes(
            inode,
            self.generation,
            Kind(self.kind),
            self.mode,
            self.links,
            self.uid,
            self.gid,
            self.size,
            self.pages << 12,
            Time(self.created),
            Time(self.accessed),
            Time(self.modified),
            Time(self.changed),
            self.change,
            self.flags,
            (self.major, self.minor),
            Inode(self.parent),
            self.ea_size,
            delete_pending,
        )


def patch_data(value: bytes, size: int, pages: int, modified: Time, changed: Time, change: int) -> bytes:
    """The record with its data's figures replaced; 0.4 us, where decode and encode cost 2."""
    record = bytearray(value)
    _DATA.pack_into(record, _DATA_AT, size, pages)
    _STAMP.pack_into(record, _STAMP_AT, modified, changed, change)
    return bytes(record)
