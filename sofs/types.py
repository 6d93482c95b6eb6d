"""The words that every layer shares: identifiers, log positions, times, levels.

Nothing here knows how a thing is stored or sent. Identifiers are plain integers on purpose: they are
made and compared on the hot path, and `NewType` gives the reader the meaning at no cost.
"""

from enum import IntEnum
from typing import NewType

Lsn = NewType("Lsn", int)
"""A byte position in a volume's log: where a record begins. 0 means "nothing": it is always stable."""

Inode = NewType("Inode", int)
"""A file's number within its volume. Never reused; 1 is the root directory."""

OpenId = NewType("OpenId", int)
"""An open's number within its volume. Never reused."""

DiskId = NewType("DiskId", int)
"""A random 63-bit number in the disk's label."""

VolumeId = NewType("VolumeId", int)
"""A random 63-bit number; part of every file handle and of every extent's id."""

Time = NewType("Time", int)
"""Hundreds of nanoseconds since 1601-01-01 UTC, as in MS-DTYP 2.3.3 FILETIME."""

ROOT = Inode(1)
PAGE = 4096
"""Bytes in a page: the unit of checksums, maps and allocation."""

UNIX_EPOCH = 116_444_736_000_000_000
"""1970-01-01 as a `Time`."""


class Level(IntEnum):
    """How safe a change is when its request is answered (DESIGN section 6)."""

    COMMITTED = 0
    """Every replica has it in its page cache: it survives the death of any process."""
    STABLE = 1
    """Every replica has it on its disk: it survives the loss of power everywhere."""


class Kind(IntEnum):
    """What an inode is."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


def from_unix_ns(nanoseconds: int) -> Time:
    """A `Time` from nanoseconds since 1970, rounded down."""
    return Time(nanoseconds // 100 + UNIX_EPOCH)
