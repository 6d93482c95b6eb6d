"""The values that requests and replies are made of: who asks, for what rights, and what a file is."""

from enum import IntEnum
from typing import NamedTuple

import msgspec

from sofs.types import Inode, Kind, Lsn, OpenId, Time


class Binding(NamedTuple):
    """The gateway incarnation and session that a request came through; a superseded one is refused with `Fenced`."""

    gateway: int
    session: int


class Caller(msgspec.Struct, frozen=True, array_like=True):
    """On whose behalf. uid 0 is the superuser (root squash happens in the gateway)."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    sids: tuple[str, ...] = ()
    """The user's own SID first, then its groups'; derived from uid and gids (S-1-22-1/2) when empty."""
    privileged: bool = False
    """Backup or restore intent, or the superuser: access checks are waived."""


class Stateless(msgspec.Struct, frozen=True, array_like=True):
    """A file reached without an open: NFSv3, and NFSv4's special stateids."""

    inode: Inode
    caller: Caller
    generation: int = 0
    """0 matches any; else a file of another generation is `Stale`."""


Target = OpenId | Stateless
"""What a data request works on."""


class Access(IntEnum):
    """Bits of an access mask, MS-DTYP 2.4.3 and MS-SMB2 2.2.13.1. Masks are plain integers: an `IntFlag` costs 0.5 us per operation."""

    READ_DATA = 0x1
    WRITE_DATA = 0x2
    APPEND_DATA = 0x4
    READ_EA = 0x8
    WRITE_EA = 0x10
    EXECUTE = 0x20
    DELETE_CHILD = 0x40
    READ_ATTRIBUTES = 0x80
    WRITE_ATTRIBUTES = 0x100
    DELETE = 0x10000
    READ_CONTROL = 0x20000
    WRITE_DAC = 0x40000
    WRITE_OWNER = 0x80000
    SYNCHRONIZE = 0x100000
    SYSTEM_SECURITY = 0x1000000
    MAXIMUM_ALLOWED = 0x2000000
    ALL = 0x1F01FF
    """Every right there is to a file; a gateway has mapped the generic rights already."""


class ShareMode(IntEnum):
    """What an open lets others do meanwhile, MS-SMB2 2.2.13."""

    READ = 1
    WRITE = 2
    DELETE = 4
    ALL = 7


class Disposition(IntEnum):
    """MS-SMB2 2.2.13 CreateDisposition."""

    SUPERSEDE = 0
    OPEN = 1
    CREATE = 2
    OPEN_IF = 3
    OVERWRITE = 4
    OVERWRITE_IF = 5


READONLY, HIDDEN, SYSTEM, ARCHIVE, TEMPORARY, SPARSE_FILE = 0x1, 0x2, 0x4, 0x20, 0x100, 0x200
"""The attributes of MS-FSCC 2.6 that a volume stores."""
REPARSE_POINT = 0x400
"""Of a file or directory: what it is only clients know; `Attributes.device` begins with its tag."""
DIRECTORY_LINK = 0x10
"""Of a symbolic link: Windows is to see a link to a directory."""
SETTABLE_FLAGS = READONLY | HIDDEN | SYSTEM | ARCHIVE | TEMPORARY | 0x1000 | 0x2000
"""Those that FileBasicInformation may set: also OFFLINE and NOT_CONTENT_INDEXED."""


class Action(IntEnum):
    """MS-SMB2 2.2.14 CreateAction."""

    SUPERSEDED = 0
    OPENED = 1
    CREATED = 2
    OVERWRITTEN = 3


class Attributes(msgspec.Struct, array_like=True):
    """All that a stat of either protocol asks for."""

    inode: Inode
    generation: int
    kind: Kind
    mode: int
    """Permission bits, 0o7777."""
    links: int
    uid: int
    gid: int
    size: int
    """A directory's size is the number of its entries."""
    allocated: int
    """Bytes that the file's data occupies, before redundancy."""
    created: Time
    accessed: Time
    modified: Time
    changed: Time
    change: int
    """Strictly increases with every change of data or attributes (RFC 8881 5.8.1.4)."""
    flags: int
    """MS-FSCC 2.6 FileAttributes that are stored: READONLY, HIDDEN, SYSTEM, ARCHIVE, SPARSE_FILE, ... DIRECTORY and NORMAL are the gateway's to add."""
    device: tuple[int, int]
    """Major and minor number of a device, else (0, 0)."""
    parent: Inode
    """A directory that names it: exact for directories and files with one name, a hint otherwise. For a stream, its file: then `inode`, `size`
    and `allocated` are the stream's own, all else is its file's."""
    ea_size: int = 0
    delete_pending: bool = False


class Entry(msgspec.Struct, array_like=True):
    """One name in a directory."""

    cookie: int
    """Its place: 3 to 2**63 - 1, the same at every node and until the name goes."""
    name: bytes
    inode: Inode
    kind: Kind
    attributes: Attributes | None


class Request(msgspec.Struct, array_like=True, tag=True):
    """Base of all requests."""


class Reply(msgspec.Struct, array_like=True, tag=True):
    """Base of all replies; used as it is when there is nothing to say but the gate."""

    gate: Lsn
