"""Directory entries as QUERY_DIRECTORY lists them, MS-FSCC 2.4.8 to 2.4.26."""

import struct
from collections.abc import Callable
from typing import NamedTuple

from gateways.smb.info.attributes import allocation, file_attributes, file_size, reparse_tag
from sofs.volume.api import Attributes

DIRECTORY, FULL, BOTH, NAMES, ID_BOTH, ID_FULL, ID_EXTD, ID_EXTD_BOTH = 1, 2, 3, 12, 37, 38, 60, 63

# next, index, created, accessed, modified, changed, size, allocation, attributes, name length
_DIRECTORY = struct.Struct("<IIQQQQQQII")
_FULL = struct.Struct("<IIQQQQQQIII")  # + EA size
_BOTH = struct.Struct("<IIQQQQQQIIIBB24x")  # + short name length, reserved, short name
_ID_BOTH = struct.Struct("<IIQQQQQQIIIBB24xHQ")  # + reserved, file id
_ID_FULL = struct.Struct("<IIQQQQQQIIIIQ")
_ID_EXTD = struct.Struct("<IIQQQQQQIIIIQQ")  # + EA size, reparse tag, file id of 128 bits
_ID_EXTD_BOTH = struct.Struct("<IIQQQQQQIIIIQQBB24x")
_NAMES = struct.Struct("<III")

assert (_DIRECTORY.size, _FULL.size, _BOTH.size, _ID_BOTH.size, _ID_FULL.size) == (64, 68, 94, 104, 80)
assert (_ID_EXTD.size, _ID_EXTD_BOTH.size) == (88, 114)


class Class(NamedTuple):
    fixed: int
    """Bytes before the name."""
    encode: Callable[[int, int, Attributes], bytes]
    """The fixed part, from the distance to the next entry (or 0), the name's length and the attributes."""


def _common(following: int, length: int, a: Attributes) -> tuple[int, ...]:
    return (
        following, 0, a.created, a.accessed, a.modified, a.changed, file_size(a), allocation(a), file_attributes(a), length,
    )  # fmt: skip


def _ea(a: Attributes) -> int:
    """EaSize; of a reparse point its tag, which Windows and Linux look for there."""
    return reparse_tag(a) or (a.ea_size + 4 if a.ea_size else 0)


CLASSES: dict[int, Class] = {
    DIRECTORY: Class(64, lambda n, length, a: _DIRECTORY.pack(*_common(n, length, a))),
    FULL: Class(68, lambda n, length, a: _FULL.pack(*_common(n, length, a), _ea(a))),
    BOTH: Class(94, lambda n, length, a: _BOTH.pack(*_common(n, length, a), _ea(a), 0, 0)),
    NAMES: Class(12, lambda n, length, a: _NAMES.pack(n, 0, length)),
    ID_BOTH: Class(104, lambda n, length, a: _ID_BOTH.pack(*_common(n, length, a), _ea(a), 0, 0, 0, a.inode)),
    ID_FULL: Class(80, lambda n, length, a: _ID_FULL.pack(*_common(n, length, a), _ea(a), 0, a.inode)),
    ID_EXTD: Class(88, lambda n, length, a: _ID_EXTD.pack(*_common(n, length, a), _ea(a), reparse_tag(a), a.inode, 0)),
    ID_EXTD_BOTH: Class(114, lambda n, length, a: _ID_EXTD_BOTH.pack(*_common(n, length, a), _ea(a), reparse_tag(a), a.inode, 0, 0, 0)),
}
