"""What QUERY_INFO tells of a file, MS-FSCC 2.4: one encoder per class.

An encoder takes `Facts` and gives the bytes; `FIXED` says how many of them do not depend on names. Classes that need more from the volume than
attributes (extended attributes, streams) are put together by `commands.query_info`.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

from gateways.smb.info.attributes import DIRECTORY, allocation, file_attributes, file_size, reparse_tag
from gateways.smb.names import to_wire
from gateways.smb.wire import U32, U64, utf16
from sofs.volume.api import Access, Attributes

BASIC, STANDARD, INTERNAL, EA, ACCESS, RENAME, LINK = 4, 5, 6, 7, 8, 10, 11
DISPOSITION, POSITION, FULL_EA, MODE, ALIGNMENT, ALL = 13, 14, 15, 16, 17, 18
ALLOCATION, END_OF_FILE, ALTERNATE_NAME, STREAM, PIPE, PIPE_LOCAL = 19, 20, 21, 22, 23, 24
COMPRESSION, NETWORK_OPEN, ATTRIBUTE_TAG, VALID_DATA_LENGTH = 28, 34, 35, 39
NORMALIZED_NAME, ID, DISPOSITION_EX, RENAME_EX = 48, 59, 64, 65

_BASIC = struct.Struct("<QQQQII")
_STANDARD = struct.Struct("<QQIBBH")
_NETWORK_OPEN = struct.Struct("<QQQQQQII")
_COMPRESSION = struct.Struct("<QHBBBxxx")
_ALL_TAIL = struct.Struct("<QIIQIII")  # file id, EA size, access, position, mode, alignment, name length
_STREAM = struct.Struct("<IIQQ")  # next, name length, size, allocation


class Facts(NamedTuple):
    """Attributes, and what belongs to the open alone."""

    attributes: Attributes
    volume: int
    access: int
    mode: int
    position: int
    name: tuple[bytes, ...]
    stream: bytes

    @property
    def path(self) -> str:
        """As clients see it, from the share's root, with a leading backslash."""
        shown = "\\" + "\\".join(map(to_wire, self.name))
        return shown + ":" + self.stream.decode("utf-8", "surrogatepass") if self.stream else shown


def _basic(facts: Facts) -> bytes:
    a = facts.attributes
    return _BASIC.pack(a.created, a.accessed, a.modified, a.changed, file_attributes(a), 0)


def _standard(facts: Facts) -> bytes:
    a = facts.attributes
    directory = bool(file_attributes(a) & DIRECTORY)
    # A file that is to be deleted is shown with one name less (MS-FSA 2.1.5.11.27).
    links = max(a.links - a.delete_pending, 0) if not directory else 1
    return _STANDARD.pack(allocation(a), file_size(a), links, a.delete_pending, directory, 0)


def _all(facts: Facts) -> bytes:
    a = facts.attributes
    name = utf16(facts.path)
    tail = _ALL_TAIL.pack(a.inode, _ea_size(a), facts.access, facts.position, facts.mode, 0, len(name))
    return _basic(facts) + _standard(facts) + tail + name


def _ea_size(attributes: Attributes) -> int:
    # An empty list has size 0; otherwise the list's own length field counts (MS-FSCC 2.4.13).
    return attributes.ea_size + 4 if attributes.ea_size else 0


def _network_open(facts: Facts) -> bytes:
    a = facts.attributes
    return _NETWORK_OPEN.pack(a.created, a.accessed, a.modified, a.changed, allocation(a), file_size(a), file_attributes(a), 0)


def _named(text: str) -> bytes:
    name = utf16(text)
    return U32.pack(len(name)) + name


class Class(NamedTuple):
    encode: Callable[[Facts], bytes]
    fixed: int
    """Fewer bytes of output are an error; beyond these the answer may be cut."""
    access: int = 0
    """Rights the open must have."""


CLASSES: dict[int, Class] = {
    BASIC: Class(_basic, 40, Access.READ_ATTRIBUTES),
    STANDARD: Class(_standard, 24),
    INTERNAL: Class(lambda facts: U64.pack(facts.attributes.inode), 8),
    EA: Class(lambda facts: U32.pack(_ea_size(facts.attributes)), 4),
    ACCESS: Class(lambda facts: U32.pack(facts.access), 4),
    POSITION: Class(lambda facts: U64.pack(facts.position), 8),
    MODE: Class(lambda facts: U32.pack(facts.mode), 4),
    ALIGNMENT: Class(lambda facts: U32.pack(0), 4),
    ALL: Class(_all, 104, Access.READ_ATTRIBUTES),
    COMPRESSION: Class(lambda facts: _COMPRESSION.pack(file_size(facts.attributes), 0, 0, 0, 0), 16),
    NETWORK_OPEN: Class(_network_open, 56, Access.READ_ATTRIBUTES),
    ATTRIBUTE_TAG: Class(
        lambda facts: struct.pack("<II", file_attributes(facts.attributes), reparse_tag(facts.attributes)), 8, Access.READ_ATTRIBUTES
    ),
    NORMALIZED_NAME: Class(lambda facts: _named(facts.path[1:]), 8),
    ID: Class(lambda facts: struct.pack("<QQQ", facts.volume, facts.attributes.inode, 0), 24),
}


def streams(attributes: Attributes, named: list[tuple[bytes, int, int]]) -> bytes:
    """FileStreamInformation, MS-FSCC 2.4.49: the unnamed stream of a file first."""
    entries = [(name.decode("utf-8", "surrogatepass"), size, allocated) for name, size, allocated in named]
    if not file_attributes(attributes) & DIRECTORY:
        entries.insert(0, ("", file_size(attributes), allocation(attributes)))
    parts = []
    for place, (name, size, allocated) in enumerate(entries):
        shown = utf16(f":{name}:$DATA")
        length = _STREAM.size + len(shown)
        pad = -length & 7 if place < len(entries) - 1 else 0
        parts.append(_STREAM.pack(length + pad if place < len(entries) - 1 else 0, len(shown), size, allocated) + shown + bytes(pad))
    return b"".join(parts)
