"""The messages of NFS version 3 (RFC 1813 section 3): arguments and results of all procedures.

Both directions are declared, so that vectors, round trips and the tests' client use the very types that the server does. A result
is the pair of a status and what the specification gives in its success or failure arm. The hot paths (attributes, READ, WRITE) have layouts
of their own in `layout.py`; a test holds them against these declarations.
"""

from enum import IntEnum
from typing import Annotated, NamedTuple

from gateways.nfs.xdr import U32, U64, Array, Bool, Fixed, Linked, Opaque, Switch, Void

HANDLE_SIZE = 64
NAME_LIMIT = 4096
"""What the decoder takes; the volume decides what is too long for it (NFS3ERR_NAMETOOLONG)."""
PATH_LIMIT = 4096
DATA_LIMIT = 1 << 20
ENTRIES = 65536
"""More entries than fit into the largest answer."""

Handle = Annotated[bytes, Opaque(HANDLE_SIZE)]
Name = Annotated[bytes, Opaque(NAME_LIMIT)]
Path = Annotated[bytes, Opaque(PATH_LIMIT)]
Verifier = Annotated[bytes, Fixed(8)]


class Type(IntEnum):
    """ftype3, RFC 1813 2.5."""

    REG = 1
    DIR = 2
    BLK = 3
    CHR = 4
    LNK = 5
    SOCK = 6
    FIFO = 7


class Stable(IntEnum):
    """stable_how, RFC 1813 3.3.7."""

    UNSTABLE = 0
    DATA_SYNC = 1
    FILE_SYNC = 2


class Moment(NamedTuple):
    """nfstime3."""

    seconds: U32
    nanoseconds: U32


class Device(NamedTuple):
    """specdata3."""

    major: U32
    minor: U32


class FileAttributes(NamedTuple):
    """fattr3, RFC 1813 2.5.5."""

    type: U32
    mode: U32
    links: U32
    uid: U32
    gid: U32
    size: U64
    used: U64
    device: Device
    fsid: U64
    fileid: U64
    accessed: Moment
    modified: Moment
    changed: Moment


class WccAttributes(NamedTuple):
    """wcc_attr, RFC 1813 2.5.7."""

    size: U64
    modified: Moment
    changed: Moment


class WccData(NamedTuple):
    """wcc_data, RFC 1813 2.5.7."""

    before: WccAttributes | None
    after: FileAttributes | None


class SetTime(IntEnum):
    """time_how, RFC 1813 2.5.8."""

    KEEP = 0
    SERVER = 1
    CLIENT = 2


TimeHow = Annotated[
    tuple[int, Moment | Void],
    Switch({SetTime.KEEP: Void, SetTime.SERVER: Void, SetTime.CLIENT: Moment}),
]


class NewAttributes(NamedTuple):
    """sattr3, RFC 1813 2.5.8."""

    mode: U32 | None = None
    uid: U32 | None = None
    gid: U32 | None = None
    size: U64 | None = None
    accessed: TimeHow = (SetTime.KEEP, Void())
    modified: TimeHow = (SetTime.KEEP, Void())


class DirectoryName(NamedTuple):
    """diropargs3."""

    directory: Handle
    name: Name


# Arguments, in the order of the procedures


class GetAttributesArgs(NamedTuple):
    """GETATTR3args, 3.3.1."""

    object: Handle


class SetAttributesArgs(NamedTuple):
    """SETATTR3args, 3.3.2."""

    object: Handle
    attributes: NewAttributes
    guard: Moment | None


class LookupArgs(NamedTuple):
    """LOOKUP3args, 3.3.3."""

    what: DirectoryName


class AccessArgs(NamedTuple):
    """ACCESS3args, 3.3.4."""

    object: Handle
    access: U32


class ReadLinkArgs(NamedTuple):
    """READLINK3args, 3.3.5."""

    symlink: Handle


class ReadArgs(NamedTuple):
    """READ3args, 3.3.6."""

    file: Handle
    offset: U64
    length: U32


class WriteArgs(NamedTuple):
    """WRITE3args, 3.3.7."""

    file: Handle
    offset: U64
    length: U32
    stable: U32
    data: Annotated[bytes, Opaque(DATA_LIMIT)]


class CreateMode(IntEnum):
    """createmode3."""

    UNCHECKED = 0
    GUARDED = 1
    EXCLUSIVE = 2


class ExclusiveVerifier(NamedTuple):
    verifier: Verifier


class CreateArgs(NamedTuple):
    """CREATE3args, 3.3.8."""

    where: DirectoryName
    how: Annotated[
        tuple[int, NewAttributes | ExclusiveVerifier],
        Switch(
            {
                CreateMode.UNCHECKED: NewAttributes,
                CreateMode.GUARDED: NewAttributes,
                CreateMode.EXCLUSIVE: ExclusiveVerifier,
            }
        ),
    ]


class MakeDirectoryArgs(NamedTuple):
    """MKDIR3args, 3.3.9."""

    where: DirectoryName
    attributes: NewAttributes


class SymlinkArgs(NamedTuple):
    """SYMLINK3args, 3.3.10."""

    where: DirectoryName
    attributes: NewAttributes
    target: Path


class DeviceData(NamedTuple):
    """devicedata3."""

    attributes: NewAttributes
    device: Device


class MakeNodeArgs(NamedTuple):
    """MKNOD3args, 3.3.11."""

    where: DirectoryName
    what: Annotated[
        tuple[int, DeviceData | NewAttributes | Void],
        Switch(
            {
                Type.CHR: DeviceData,
                Type.BLK: DeviceData,
                Type.SOCK: NewAttributes,
                Type.FIFO: NewAttributes,
            },
            Void,
        ),
    ]


class RemoveArgs(NamedTuple):
    """REMOVE3args and RMDIR3args, 3.3.12 and 3.3.13."""

    what: DirectoryName


class RenameArgs(NamedTuple):
    """RENAME3args, 3.3.14."""

    source: DirectoryName
    target: DirectoryName


class LinkArgs(NamedTuple):
    """LINK3args, 3.3.15."""

    file: Handle
    link: DirectoryName


class ReadDirectoryArgs(NamedTuple):
    """READDIR3args, 3.3.16."""

    directory: Handle
    cookie: U64
    verifier: Verifier
    limit: U32


class ReadDirectoryPlusArgs(NamedTuple):
    """READDIRPLUS3args, 3.3.17."""

    directory: Handle
    cookie: U64
    verifier: Verifier
    directory_limit: U32
    limit: U32


class FileSystemArgs(NamedTuple):
    """FSSTAT3args, FSINFO3args and PATHCONF3args, 3.3.18 to 3.3.20."""

    object: Handle


class CommitArgs(NamedTuple):
    """COMMIT3args, 3.3.21."""

    file: Handle
    offset: U64
    length: U32


# Results: what follows a status of NFS3_OK


class Attributes(NamedTuple):
    """GETATTR3resok."""

    attributes: FileAttributes


class PostOp(NamedTuple):
    """What most procedures give when they fail: attributes, perhaps."""

    attributes: FileAttributes | None


class Wcc(NamedTuple):
    """SETATTR3resok, REMOVE3resok, RMDIR3resok, and those procedures' failures."""

    wcc: WccData


class LookedUp(NamedTuple):
    """LOOKUP3resok."""

    object: Handle
    attributes: FileAttributes | None
    directory: FileAttributes | None


class Granted(NamedTuple):
    """ACCESS3resok."""

    attributes: FileAttributes | None
    access: U32


class LinkText(NamedTuple):
    """READLINK3resok."""

    attributes: FileAttributes | None
    target: Path


class ReadData(NamedTuple):
    """READ3resok."""

    attributes: FileAttributes | None
    length: U32
    eof: Bool
    data: Annotated[bytes, Opaque(DATA_LIMIT)]


class Written(NamedTuple):
    """WRITE3resok."""

    wcc: WccData
    length: U32
    committed: U32
    verifier: Verifier


class Created(NamedTuple):
    """CREATE3resok, MKDIR3resok, SYMLINK3resok and MKNOD3resok."""

    object: Handle | None
    attributes: FileAttributes | None
    directory: WccData


class Renamed(NamedTuple):
    """RENAME3resok, and its failure."""

    source: WccData
    target: WccData


class Linked3(NamedTuple):
    """LINK3resok, and its failure."""

    attributes: FileAttributes | None
    directory: WccData


class Entry(NamedTuple):
    """entry3."""

    fileid: U64
    name: Name
    cookie: U64


class Listing(NamedTuple):
    """READDIR3resok."""

    attributes: FileAttributes | None
    verifier: Verifier
    entries: Annotated[tuple[Entry, ...], Linked(Entry, ENTRIES)]
    eof: Bool


class EntryPlus(NamedTuple):
    """entryplus3."""

    fileid: U64
    name: Name
    cookie: U64
    attributes: FileAttributes | None
    handle: Handle | None


class ListingPlus(NamedTuple):
    """READDIRPLUS3resok."""

    attributes: FileAttributes | None
    verifier: Verifier
    entries: Annotated[tuple[EntryPlus, ...], Linked(EntryPlus, ENTRIES)]
    eof: Bool


class FileSystemSpace(NamedTuple):
    """FSSTAT3resok."""

    attributes: FileAttributes | None
    total_bytes: U64
    free_bytes: U64
    available_bytes: U64
    total_files: U64
    free_files: U64
    available_files: U64
    invariant_seconds: U32


class FileSystemInfo(NamedTuple):
    """FSINFO3resok."""

    attributes: FileAttributes | None
    read_max: U32
    read_preferred: U32
    read_multiple: U32
    write_max: U32
    write_preferred: U32
    write_multiple: U32
    directory_preferred: U32
    file_size_max: U64
    time_delta: Moment
    properties: U32


class PathLimits(NamedTuple):
    """PATHCONF3resok."""

    attributes: FileAttributes | None
    link_max: U32
    name_max: U32
    no_truncation: Bool
    chown_restricted: Bool
    case_insensitive: Bool
    case_preserving: Bool


class Committed(NamedTuple):
    """COMMIT3resok."""

    wcc: WccData
    verifier: Verifier


class Groups(NamedTuple):
    """The element of groupnode, Appendix I (MOUNT)."""

    name: Name


class Exported(NamedTuple):
    """The element of exportnode."""

    directory: Path
    groups: Annotated[tuple[Groups, ...], Linked(Groups, 1024)]


class ExportList(NamedTuple):
    """The result of MOUNTPROC3_EXPORT."""

    exports: Annotated[tuple[Exported, ...], Linked(Exported, 4096)]


class MountPath(NamedTuple):
    """The argument of MNT and UMNT (dirpath)."""

    path: Annotated[bytes, Opaque(1024)]


class Mounted(NamedTuple):
    """mountres3_ok."""

    handle: Handle
    flavors: Annotated[tuple[int, ...], Array(U32, 16)]
