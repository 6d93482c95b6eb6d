"""The messages of NFS version 3 (RFC 1813 section 3) and MOUNT, as the server reads them: arguments of all procedures but READ and WRITE.

Those two are read as layouts (`data`), and all results are written as such (`layout`, `directories`); tests hold the layouts against declarations of their own.
"""

from enum import IntEnum
from typing import Annotated, NamedTuple

from gateways.nfs.xdr import U32, U64, Array, Fixed, Linked, Opaque, Switch, Void

HANDLE_SIZE = 64
NAME_LIMIT = 4096
"""What the decoder takes; the volume decides what is too long for it (NFS3ERR_NAMETOOLONG)."""
PATH_LIMIT = 4096

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


class SetTime(IntEnum):
    """time_how, RFC 1813 2.5.8."""

    KEEP = 0
    SERVER = 1
    CLIENT = 2


TimeHow = Annotated[tuple[int, Moment | Void], Switch({SetTime.KEEP: Void, SetTime.SERVER: Void, SetTime.CLIENT: Moment})]


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
        Switch({CreateMode.UNCHECKED: NewAttributes, CreateMode.GUARDED: NewAttributes, CreateMode.EXCLUSIVE: ExclusiveVerifier}),
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
        Switch({Type.CHR: DeviceData, Type.BLK: DeviceData, Type.SOCK: NewAttributes, Type.FIFO: NewAttributes}, Void),
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


# MOUNT, RFC 1813 Appendix I


class Groups(NamedTuple):
    """The element of groupnode."""

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
