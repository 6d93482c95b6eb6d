"""What the messages of NFSv3 hold that the server has no types for: the results of all procedures, and the arguments of READ and WRITE (RFC 1813 section 3).

The server writes results, and reads the arguments of its hot paths, as layouts of its own; vectors, fuzzing and the tests' client hold them against
these. A result is the pair of a status and what the specification gives in its success or failure arm.
"""

from typing import Annotated, NamedTuple

from gateways.nfs.v3.messages import Device, Handle, Moment, Name, Path, Verifier
from gateways.nfs.xdr import U32, U64, Bool, Linked, Opaque

DATA_LIMIT = 1 << 20
ENTRIES = 65536
"""More entries than fit into the largest answer."""


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
