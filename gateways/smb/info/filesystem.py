"""What QUERY_INFO tells of a file system, MS-FSCC 2.5."""

import struct
from collections.abc import Callable
from typing import NamedTuple

from gateways.smb.wire import utf16
from sofs.types import Time

VOLUME, SIZE, DEVICE, ATTRIBUTE, CONTROL, FULL_SIZE, OBJECT_ID, SECTOR_SIZE = 1, 3, 4, 5, 6, 7, 8, 11

_SECTOR = 512
_SECTORS = 8
_UNIT = _SECTOR * _SECTORS
_DISK_DEVICE, _MOUNTED = 7, 0x20
_NAME = "NTFS"
"""Programs ask for this name before they use streams, ACLs or sparse files; Samba answers the same."""

CASE_SENSITIVE_SEARCH, CASE_PRESERVED_NAMES, UNICODE, PERSISTENT_ACLS = 0x1, 0x2, 0x4, 0x8
SPARSE_FILES, REPARSE_POINTS, NAMED_STREAMS, HARD_LINKS = 0x40, 0x80, 0x40000, 0x400000
EXTENDED_ATTRIBUTES, BLOCK_REFCOUNTING, READ_ONLY = 0x800000, 0x8000000, 0x80000
_FLAGS = (
    CASE_SENSITIVE_SEARCH | CASE_PRESERVED_NAMES | UNICODE | PERSISTENT_ACLS | SPARSE_FILES | REPARSE_POINTS | NAMED_STREAMS | HARD_LINKS
    | EXTENDED_ATTRIBUTES | BLOCK_REFCOUNTING
)  # fmt: skip
_SECTOR_FLAGS = 0xB
"""SSINFO_FLAGS_ALIGNED_DEVICE, PARTITION_ALIGNED_ON_DEVICE and TRIM_ENABLED."""


class Facts(NamedTuple):
    number: int
    label: str
    created: Time
    total: int
    free: int
    available: int
    """What the caller's quotas leave of it."""
    read_only: bool


def _volume(facts: Facts) -> bytes:
    label = utf16(facts.label)
    serial = (facts.number ^ facts.number >> 32) & 0xFFFFFFFF
    return struct.pack("<QIIBx", facts.created, serial, len(label), 0) + label


# Both speak of what is there for the user who asks (MS-FSCC 2.5.4 and 2.5.8).


def _size(facts: Facts) -> bytes:
    return struct.pack("<QQII", facts.total // _UNIT, facts.available // _UNIT, _SECTORS, _SECTOR)


def _full_size(facts: Facts) -> bytes:
    return struct.pack("<QQQII", facts.total // _UNIT, facts.available // _UNIT, facts.free // _UNIT, _SECTORS, _SECTOR)


def _attribute(facts: Facts) -> bytes:
    name = utf16(_NAME)
    return struct.pack("<III", _FLAGS | (READ_ONLY if facts.read_only else 0), 255, len(name)) + name


class Class(NamedTuple):
    encode: Callable[[Facts], bytes]
    fixed: int


CLASSES: dict[int, Class] = {
    VOLUME: Class(_volume, 24),
    SIZE: Class(_size, 24),
    DEVICE: Class(lambda facts: struct.pack("<II", _DISK_DEVICE, _MOUNTED), 8),
    ATTRIBUTE: Class(_attribute, 16),
    # Neither quotas nor thresholds: "no limit" is all ones (MS-FSCC 2.5.2).
    CONTROL: Class(lambda facts: struct.pack("<QQQQQII", 0, 0, 0, 2**64 - 1, 2**64 - 1, 0, 0), 48),
    FULL_SIZE: Class(_full_size, 32),
    OBJECT_ID: Class(lambda facts: struct.pack("<QQ48x", facts.number, 0), 64),
    SECTOR_SIZE: Class(lambda facts: struct.pack("<IIIIIII", _SECTOR, _UNIT, _UNIT, _UNIT, _SECTOR_FLAGS, 0, 0), 28),
}
