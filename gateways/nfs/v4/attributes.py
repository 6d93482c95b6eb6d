"""Attributes as NFSv4 writes them: `bitmap4` and `fattr4` (RFC 8881 5, RFC 7862 12.2, RFC 8276 8.2).

One table has a line per attribute: what `struct` writes of it, from a file's `Attributes` and from the `Facts` about where it lies. A client asks for
the same few sets of attributes again and again, so `encoder` makes one function for each set, in which neighbours of fixed size go through
one `struct.Struct`. Setting is `settable`'s business.
"""

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import lru_cache

from gateways.nfs.handles import HANDLE_SIZE
from gateways.nfs.rpc import TRANSFER
from gateways.nfs.v4.acls import ACL_SUPPORT, acl_of, dacl_of
from gateways.nfs.v4.owners import Owners
from sofs.types import UNIX_EPOCH, Inode, Kind, Time
from sofs.volume.api import ARCHIVE, HIDDEN, SYSTEM, Attributes, SpaceReply


class Attr(IntEnum):
    """The attributes that are served here, by number."""

    SUPPORTED_ATTRS = 0
    TYPE = 1
    FH_EXPIRE_TYPE = 2
    CHANGE = 3
    SIZE = 4
    LINK_SUPPORT = 5
    SYMLINK_SUPPORT = 6
    NAMED_ATTR = 7
    FSID = 8
    UNIQUE_HANDLES = 9
    LEASE_TIME = 10
    RDATTR_ERROR = 11
    ACL = 12
    ACLSUPPORT = 13
    ARCHIVE = 14
    CANSETTIME = 15
    CASE_INSENSITIVE = 16
    CASE_PRESERVING = 17
    CHOWN_RESTRICTED = 18
    FILEHANDLE = 19
    FILEID = 20
    FILES_AVAIL = 21
    FILES_FREE = 22
    FILES_TOTAL = 23
    HIDDEN = 25
    HOMOGENEOUS = 26
    MAXFILESIZE = 27
    MAXLINK = 28
    MAXNAME = 29
    MAXREAD = 30
    MAXWRITE = 31
    MODE = 33
    NO_TRUNC = 34
    NUMLINKS = 35
    OWNER = 36
    OWNER_GROUP = 37
    QUOTA_AVAIL_HARD = 38
    QUOTA_AVAIL_SOFT = 39
    RAWDEV = 41
    SPACE_AVAIL = 42
    SPACE_FREE = 43
    SPACE_TOTAL = 44
    SPACE_USED = 45
    SYSTEM = 46
    TIME_ACCESS = 47
    TIME_ACCESS_SET = 48
    TIME_CREATE = 50
    TIME_DELTA = 51
    TIME_METADATA = 52
    TIME_MODIFY = 53
    TIME_MODIFY_SET = 54
    MOUNTED_ON_FILEID = 55
    DACL = 58
    MODE_SET_MASKED = 74
    SUPPATTR_EXCLCREAT = 75
    FS_CHARSET_CAP = 76
    CLONE_BLKSIZE = 77
    CHANGE_ATTR_TYPE = 79
    XATTR_SUPPORT = 82
    OPEN_ARGUMENTS = 86


def _bits(*attributes: Attr) -> int:
    return sum(1 << attribute for attribute in attributes)


EVERY = _bits(*Attr)
_MINOR_1 = (1 << Attr.FS_CHARSET_CAP + 1) - 1
"""What minor version 1 has numbers for."""
SETTABLE = _bits(
    Attr.SIZE, Attr.ACL, Attr.ARCHIVE, Attr.HIDDEN, Attr.MODE, Attr.OWNER, Attr.OWNER_GROUP, Attr.SYSTEM, Attr.TIME_ACCESS_SET,
    Attr.TIME_CREATE, Attr.TIME_MODIFY_SET, Attr.DACL, Attr.MODE_SET_MASKED,
)  # fmt: skip
WRITE_ONLY = _bits(Attr.TIME_ACCESS_SET, Attr.TIME_MODIFY_SET, Attr.MODE_SET_MASKED)
EXCLUSIVE_CREATE = SETTABLE
"""What may be set with EXCLUSIVE4_1 (5.8.1.14): the verifier has a place of its own."""
SPACE_ASKED = _bits(
    Attr.FILES_AVAIL, Attr.FILES_FREE, Attr.FILES_TOTAL, Attr.QUOTA_AVAIL_HARD, Attr.QUOTA_AVAIL_SOFT, Attr.SPACE_AVAIL, Attr.SPACE_FREE,
    Attr.SPACE_TOTAL,
)  # fmt: skip
"""Those for which `Facts.space` must be there."""
ACL_ASKED = _bits(Attr.ACL, Attr.DACL)
"""Those for which `Facts.security` must be there: the file's descriptor with owner, group and DACL."""


def supported(minor: int) -> int:
    """The attributes of a minor version, as a mask."""
    return EVERY & _MINOR_1 if minor == 1 else EVERY


class Facts:
    """What attributes depend on beside the file itself."""

    __slots__ = ("change_type", "fsid", "handle", "lease", "minor", "mounted_on", "owners", "root", "security", "space")

    def __init__(
        self,
        minor: int,
        owners: Owners,
        lease_s: int,
        fsid: int,
        handle: Callable[[Attributes], bytes],
        root: Inode,
        mounted_on: int,
        change_type: int = 0,
    ) -> None:
        self.minor = minor
        self.owners = owners
        self.lease = lease_s
        self.fsid = fsid
        self.handle = handle
        self.root = root
        """The export's directory, which has another number in the directory above all exports: `mounted_on`."""
        self.mounted_on = mounted_on
        self.change_type = change_type
        """change_attr_type4, RFC 7862 12.2.3: 0 rises with every change, 4 undefined."""
        self.space: SpaceReply | None = None
        self.security: bytes | None = None


# Bitmaps


@lru_cache(1024)
def mask_of(words: Sequence[int]) -> int:
    """A bitmap4 as one number."""
    mask = 0
    for place, word in enumerate(words):
        mask |= word << 32 * place
    return mask


@lru_cache(1024)
def words_of(mask: int) -> bytes:
    """A mask as bitmap4, packed."""
    count = (mask.bit_length() + 31) // 32
    return struct.pack(f">{count + 1}I", count, *(mask >> 32 * place & 0xFFFFFFFF for place in range(count)))


# Values

_TYPES = {
    Kind.FILE: 1, Kind.DIRECTORY: 2, Kind.BLOCK_DEVICE: 3, Kind.CHARACTER_DEVICE: 4, Kind.SYMLINK: 5, Kind.SOCKET: 6, Kind.FIFO: 7,
}  # fmt: skip
_CONTAINS_NON_UTF8 = 1
"""fs_charset_cap: names are bytes, as clients wrote them (14.4)."""


OPEN_ARGUMENTS = b"".join(
    map(
        words_of,
        (
            1 << 1 | 1 << 2 | 1 << 3,  # read, write, both
            1 << 0 | 1 << 1 | 1 << 2 | 1 << 3,  # deny none, read, write, both
            1 << 3 | 1 << 4 | 1 << 5,  # any delegation is wanted, none is, the wish is taken back
            1 << 0 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5,  # CLAIM_NULL, PREVIOUS, DELEGATE_CUR, FH, DELEG_CUR_FH
            1 << 0 | 1 << 1 | 1 << 2 | 1 << 3,  # unchecked, guarded, exclusive, exclusive with attributes
        ),
    )
)
"""open_arguments4 (RFC 9754 4): what OPEN understands."""


@lru_cache(4096)
def moment(time: Time) -> tuple[int, int]:
    """nfstime4. Most times are asked for again and again."""
    seconds, ticks = divmod(time - UNIX_EPOCH, 10_000_000)
    return seconds, ticks * 100


def _handle(handle: bytes) -> bytes:
    return _HANDLE_LENGTH + handle


_HANDLE_LENGTH = HANDLE_SIZE.to_bytes(4)

_FIXED: dict[Attr, tuple[str, str]] = {
    Attr.TYPE: ("I", "types[a.kind]"),
    Attr.FH_EXPIRE_TYPE: ("I", "0"),  # FH4_PERSISTENT
    Attr.CHANGE: ("Q", "a.change"),
    Attr.SIZE: ("Q", "a.size"),
    Attr.LINK_SUPPORT: ("I", "1"),
    Attr.SYMLINK_SUPPORT: ("I", "1"),
    Attr.NAMED_ATTR: ("I", "0"),
    Attr.FSID: ("QQ", "f.fsid, 0"),
    Attr.UNIQUE_HANDLES: ("I", "1"),
    Attr.LEASE_TIME: ("I", "f.lease"),
    Attr.RDATTR_ERROR: ("I", "0"),
    Attr.ACLSUPPORT: ("I", str(ACL_SUPPORT)),
    Attr.ARCHIVE: ("I", f"1 if a.flags & {ARCHIVE} else 0"),
    Attr.CANSETTIME: ("I", "1"),
    Attr.CASE_INSENSITIVE: ("I", "0"),
    Attr.CASE_PRESERVING: ("I", "1"),
    Attr.CHOWN_RESTRICTED: ("I", "1"),
    Attr.FILEID: ("Q", "a.inode"),
    # Files are limited by space alone, so their number is given as what would fit (4 KiB each).
    Attr.FILES_AVAIL: ("Q", "f.space.free >> 12"),
    Attr.FILES_FREE: ("Q", "f.space.free >> 12"),
    Attr.FILES_TOTAL: ("Q", "f.space.inodes + (f.space.free >> 12)"),
    Attr.HIDDEN: ("I", f"1 if a.flags & {HIDDEN} else 0"),
    Attr.HOMOGENEOUS: ("I", "1"),
    Attr.MAXFILESIZE: ("Q", str((1 << 63) - 1)),
    Attr.MAXLINK: ("I", "65535"),
    Attr.MAXNAME: ("I", "255"),
    Attr.MAXREAD: ("Q", str(TRANSFER)),
    Attr.MAXWRITE: ("Q", str(TRANSFER)),
    Attr.MODE: ("I", "a.mode"),
    Attr.NO_TRUNC: ("I", "1"),
    Attr.NUMLINKS: ("I", "a.links"),
    # What may still be allocated here (5.8.2.28, 5.8.2.29); who comes near a soft limit is told so elsewhere.
    Attr.QUOTA_AVAIL_HARD: ("Q", "f.space.available"),
    Attr.QUOTA_AVAIL_SOFT: ("Q", "f.space.available"),
    Attr.RAWDEV: ("II", "*a.device"),
    Attr.SPACE_AVAIL: ("Q", "f.space.available"),
    Attr.SPACE_FREE: ("Q", "f.space.available"),
    Attr.SPACE_TOTAL: ("Q", "f.space.total"),
    Attr.SPACE_USED: ("Q", "a.allocated"),
    Attr.SYSTEM: ("I", f"1 if a.flags & {SYSTEM} else 0"),
    Attr.TIME_ACCESS: ("qI", "*moment(a.accessed)"),
    Attr.TIME_CREATE: ("qI", "*moment(a.created)"),
    Attr.TIME_DELTA: ("qI", "0, 100"),
    Attr.TIME_METADATA: ("qI", "*moment(a.changed)"),
    Attr.TIME_MODIFY: ("qI", "*moment(a.modified)"),
    Attr.MOUNTED_ON_FILEID: ("Q", "f.mounted_on if a.inode == f.root else a.inode"),
    Attr.FS_CHARSET_CAP: ("I", str(_CONTAINS_NON_UTF8)),
    Attr.CLONE_BLKSIZE: ("I", "4096"),
    Attr.CHANGE_ATTR_TYPE: ("I", "f.change_type"),
    Attr.XATTR_SUPPORT: ("I", "1"),
}
"""What `struct` writes, and the expressions of it, where `a` is the file and `f` the facts."""
_OTHERS: dict[Attr, str] = {
    Attr.SUPPORTED_ATTRS: "words(supported(f.minor))",
    Attr.ACL: "acl(f.security, f.owners)",
    Attr.FILEHANDLE: "handle(f.handle(a))",
    Attr.OPEN_ARGUMENTS: "OPEN_ARGUMENTS",
    Attr.OWNER: "f.owners.text(a.uid)",
    Attr.OWNER_GROUP: "f.owners.text(a.gid)",
    Attr.DACL: "dacl(f.security, f.owners)",
    Attr.SUPPATTR_EXCLCREAT: f"words({EXCLUSIVE_CREATE})",
}
"""Those of no fixed size: expressions of packed bytes."""

_SMALLEST_OTHER = {Attr.SUPPORTED_ATTRS: 16, Attr.SUPPATTR_EXCLCREAT: 16, Attr.FILEHANDLE: 4 + HANDLE_SIZE, Attr.OWNER: 8, Attr.OWNER_GROUP: 8}


@lru_cache(512)
def smallest(wanted: int) -> int:
    """Bytes that the values of these attributes take at least."""
    fixed = sum(struct.calcsize(">" + format) for attribute, (format, _) in _FIXED.items() if wanted >> attribute & 1)
    return fixed + sum(_SMALLEST_OTHER.get(attribute, 4) for attribute in _OTHERS if wanted >> attribute & 1)


Encoder = Callable[[Attributes, Facts], bytes]


@lru_cache(512)
def encoder(wanted: int) -> Encoder:
    """Writes a fattr4 of those attributes of `wanted` that are there; `wanted` must not have those that can only be set."""
    names: dict[str, object] = {
        "types": _TYPES, "moment": moment, "words": words_of, "supported": supported, "acl": acl_of, "dacl": dacl_of, "handle": _handle,
        "OPEN_ARGUMENTS": OPEN_ARGUMENTS, "length": struct.Struct(">I").pack, "head": words_of(wanted & EVERY),
    }  # fmt: skip
    pieces: list[str] = []
    formats, values = "", list[str]()

    def flush() -> None:
        nonlocal formats
        if formats:
            name = f"pack{len(names)}"
            names[name] = struct.Struct(">" + formats).pack
            pieces.append(f"{name}({', '.join(values)})")
            formats = ""
            values.clear()

    for attribute in Attr:
        if not wanted >> attribute & 1:
            continue
        if attribute in _FIXED:
            format, value = _FIXED[attribute]
            formats += format
            values.append(value)
        else:
            flush()
            pieces.append(_OTHERS[attribute])
    flush()
    body = " + ".join(pieces or ['b""'])
    source = f"def encode(a, f):\n    body = {body}\n    return head + length(len(body)) + body"
    exec(source, names)
    encode: Encoder = names["encode"]  # type: ignore[assignment]
    return encode
