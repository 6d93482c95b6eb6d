"""The inode record: what is known of a file apart from its names and its data.

The layout is fixed, so that `apply` patches size and times in place for every write (DESIGN section 6) without
decoding the rest. A symbolic link's text, or the verifier of an exclusive NFSv3 CREATE, follows the fixed part; behind that, a file that took
part in a clone says where its leaves are.
"""

import struct
from typing import Any, NamedTuple, Self

from sofs.types import Inode, Kind, Lsn, Time
from sofs.volume.api import SETTABLE_FLAGS, Attributes
from sofs.volume.batch import Mutator
from sofs.volume.keys import INODE

SHARES_PAGES = 1
"""Some page of this file may have more than one reference: look at the reference windows before freeing one."""
HAS_DESCRIPTOR = 2
"""An explicit security descriptor is stored under `A`; otherwise it is derived from mode and owners."""
IS_STREAM = 4
"""A named stream: `parent` is the file it belongs to."""
HAS_STREAMS = 8
"""Named streams may exist: look for them when the file goes."""
CLONED = 16
"""Took part in a clone of a whole file: the record ends with `TAIL_SIZE` bytes that say where its leaves are (`maps.py`)."""
TAIL_SIZE = 32

LAYOUT = struct.Struct("<BBHIIIIQQQQQQQIIIIQQ")

assert LAYOUT.size == 108

KINDS = (Kind.FILE, *Kind)
"""By number: a table costs a tenth of a call of `Kind`. Nothing has kind 0."""


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
    """Pages that have a place or are reserved, in leaves of its own."""
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
    tree: int = 0
    """The directory with a quota that it lies below, or is; 0: none."""
    extra: bytes = b""

    @classmethod
    def decode(cls, value: bytes) -> Self:
        return cls._make((*LAYOUT.unpack_from(value), value[LAYOUT.size :]))

    def encode(self) -> bytes:
        return LAYOUT.pack(*self[:-1]) + self.extra

    def stamped(self, now: Time, **fields: Any) -> Self:
        """The record with `fields` replaced, after a change that is not one of data: `changed` and `change` follow."""
        return self._replace(changed=now, change=self.change + 1, **fields)

    def touched(self, now: Time, entries: int = 0, directories: int = 0) -> Self:
        """A directory's record after names came or went: as many entries and subdirectories more (or fewer)."""
        kind, marks, mode, links, uid, gid, generation, size, pages, created, accessed, _, _, change, *rest = self
        return type(self)._make(
            (kind, marks, mode, links + directories, uid, gid, generation, size + entries, pages, created, accessed, now, now,
             change + 1, *rest)
        )  # fmt: skip

    @property
    def text(self) -> bytes:
        """A symbolic link's text, or the verifier."""
        return self.extra[:-TAIL_SIZE] if self.marks & CLONED else self.extra

    @property
    def allocated(self) -> int:
        """Bytes that the file's data occupies, those that it shares with others among them."""
        inherited = int.from_bytes(self.extra[-8:], "little") if self.marks & CLONED else 0
        return self.pages + inherited << 12

    @property
    def before(self) -> tuple[int, Time, Time, int]:
        """What NFS wants to know of an object as it was before a change."""
        return self.size, Time(self.modified), Time(self.changed), self.change

    def attributes(self, inode: Inode, delete_pending: bool = False) -> Attributes:
        return Attributes(
            inode,
            self.generation,
            KINDS[self.kind],
            self.mode,
            self.links,
            self.uid,
            self.gid,
            self.size,
            self.allocated,
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


def is_nameless(value: bytes) -> bool:
    """Whether the record says that the file's last name is gone."""
    return value[4:8] == b"\0\0\0\0"


def attributes_of(value: bytes, inode: Inode) -> Attributes:
    """The attributes straight from the record's bytes: 1 us, half of what `InodeRecord.decode(value).attributes(inode)` takes."""
    (kind, marks, mode, links, uid, gid, generation, size, pages, created, accessed, modified, changed, change, flags, major, minor, ea_size,
     parent, _) = LAYOUT.unpack_from(value)  # fmt: skip
    if marks & CLONED:
        pages += int.from_bytes(value[-8:], "little")
    return Attributes(
        inode, generation, KINDS[kind], mode, links, uid, gid, size, pages << 12, created, accessed, modified, changed, change, flags,
        (major, minor), parent, ea_size,
    )  # fmt: skip


_PATCH = struct.Struct("<QBBBHHIIQQQQII")
_PATCHED = ("uid", "gid", "created", "accessed", "modified", "changed")


def encode_patch(inode: Inode, before: InodeRecord, after: InodeRecord, mode_bits: int = 0o7777) -> bytes:
    """The body of ATTRIBUTES: sets what differs and is neither data nor names.

    It may be logged after a wait, in which others change the file: what it leaves alone stays as they set it. Of a mode that
    differs it sets `mode_bits`; of flags, all that clients set when one of them differs.
    """
    fields = 0
    for bit, name in enumerate(_PATCHED):
        if getattr(before, name) != getattr(after, name):
            fields |= 1 << bit
    flags = before.flags ^ after.flags
    if flags & SETTABLE_FLAGS:
        flags |= SETTABLE_FLAGS
    return _PATCH.pack(
        inode, fields, (before.marks ^ after.marks) & HAS_DESCRIPTOR, after.marks & HAS_DESCRIPTOR,
        mode_bits if before.mode != after.mode else 0, after.mode, after.uid, after.gid, after.created, after.accessed,
        after.modified, after.changed, flags, after.flags & flags,
    )  # fmt: skip


def apply_patch(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    """The ATTRIBUTES operation's apply function."""
    inode, fields, marked, marks, mode_bits, mode, *values, flag_bits, flags = _PATCH.unpack(body)
    key = INODE + inode.to_bytes(8)
    value = records.get(key)
    if value is None:
        return  # a stream that should follow its file to a new owner has been removed during the wait
    old = InodeRecord.decode(value)
    set_ = {name: value for bit, (name, value) in enumerate(zip(_PATCHED, values, strict=True)) if fields >> bit & 1}
    new = old._replace(
        marks=old.marks & ~marked | marks & marked,
        mode=old.mode & ~mode_bits | mode & mode_bits,
        flags=old.flags & ~flag_bits | flags,
        change=old.change + 1,
        **set_,
    )
    records.put(key, new.encode())
