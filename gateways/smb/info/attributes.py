"""A file's attributes as SMB sees them."""

import msgspec

from sofs.types import Kind
from sofs.volume.api import Attributes

READONLY, HIDDEN, SYSTEM, DIRECTORY, ARCHIVE, NORMAL = 0x1, 0x2, 0x4, 0x10, 0x20, 0x80
TEMPORARY, SPARSE, REPARSE_POINT, COMPRESSED, OFFLINE = 0x100, 0x200, 0x400, 0x800, 0x1000
NOT_CONTENT_INDEXED, ENCRYPTED_ATTRIBUTE = 0x2000, 0x4000

TAG_SYMLINK = 0xA000000C
TAG_NFS = 0x80000014
"""Special files, MS-FSCC 2.1.2.6."""


def file_attributes(attributes: Attributes) -> int:
    """FileAttributes, MS-FSCC 2.6."""
    flags = attributes.flags
    kind = attributes.kind
    if kind is Kind.DIRECTORY:
        flags |= DIRECTORY
    elif kind is not Kind.FILE:
        flags |= REPARSE_POINT
    return flags or NORMAL


def as_opened(attributes: Attributes, stream: bytes) -> Attributes:
    """The attributes of a stream as its open shows them: data of its own, even on a directory, and the file's id."""
    if not stream:
        return attributes
    return msgspec.structs.replace(attributes, kind=Kind.FILE, inode=attributes.parent)


def reparse_tag(attributes: Attributes) -> int:
    """MS-FSCC 2.1.2.1; 0 for what is no reparse point."""
    kind = attributes.kind
    if kind is Kind.FILE or kind is Kind.DIRECTORY:
        return attributes.device[0] if attributes.flags & REPARSE_POINT else 0
    return TAG_SYMLINK if kind is Kind.SYMLINK else TAG_NFS


def file_size(attributes: Attributes) -> int:
    return attributes.size if attributes.kind is Kind.FILE else 0


def allocation(attributes: Attributes) -> int:
    return attributes.allocated if attributes.kind is Kind.FILE else 0
