"""What the gateways call: a volume's requests, replies and upcalls.

Local and remote volumes look alike: a request is a value that can be forwarded. Both protocols use the same requests, so what one
promises binds the other. Rights are NT access masks (MS-DTYP 2.4.3), whose file bits NFSv4 shares (RFC 8881 6.2.1.3.1).

Names are bytes: UTF-8, with lone surrogates as WTF-8 for those Windows names that have them; one component
each, never empty, `.` or `..`, without `/` and NUL. Offsets and lengths are bytes. Times are `sofs.types.Time`.

A reply (and a `SofsError`) carries its gate: the position in the log on which it rests. A gateway captures the content of
its answer, then hands `Volume.when(gate, level, send)`; nothing is told before. `level` is the protocol's
choice (DESIGN section 6: NFS metadata and everything on a continuously available share at STABLE, other SMB operations at COMMITTED).
"""

from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import NamedTuple, Protocol

import msgspec

from sofs.types import Inode, Kind, Level, Lsn, OpenId, Time, VolumeId

# Who asks, and through whom


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


# Names


class Lookup(Request):
    """Finds a path; every directory on the way must grant EXECUTE (traverse). `fold` matches any case, the exact one first.

    Raises `NotFound` (last component), `PathNotFound`, `NotDirectory`, `SymlinkInPath`, `AccessDenied`.

    An empty path is `at` itself. A symbolic link as the last component is found, not followed.
    """

    caller: Caller
    at: Inode
    path: tuple[bytes, ...]
    fold: bool = False


class Found(Reply):
    """`path` holds the components as they are stored."""

    attributes: Attributes
    path: tuple[bytes, ...] = ()
    directory: Attributes | None = None
    """The directory's attributes after the call, where the call changed or searched one (NFSv3 post_op_attr)."""
    before: tuple[int, Time, Time, int] | None = None
    """The changed directory's (size, modified, changed, change) before the call (NFSv3 wcc_data, NFSv4 change_info)."""


class Make(Request):
    """Makes a file, directory, symbolic link or special file of exactly this name (NFSv3 CREATE, MKDIR, SYMLINK, MKNOD).

    `exclusive` is NFSv3's verifier: a file that exists with the same verifier is the answer, with another `Exists`. Without it and with `guarded` an existing
    name is `Exists`; with neither, an existing regular file is the answer (its size set when `changes` says so). Answers `Found`.
    """

    caller: Caller
    at: Inode
    name: bytes
    kind: Kind
    changes: "Changes"
    guarded: bool = True
    exclusive: int | None = None
    target: bytes = b""
    """A symbolic link's text."""
    device: tuple[int, int] = (0, 0)


class Link(Request):
    """One more name for a file. Raises `IsDirectory`, `Exists` (with `fold` also for a name that differs in case only). Answers `Found`."""

    caller: Caller
    inode: Inode
    at: Inode
    name: bytes
    fold: bool = False


class Remove(Request):
    """Takes a name away (NFS). `directory` says which of RMDIR and REMOVE it is, None takes either.

    Raises `NotEmpty`, `Delayed`, `SharingViolation`. Answers `Removed`.
    """

    caller: Caller
    at: Inode
    name: bytes
    directory: bool | None = False


class Removed(Reply):
    directory: Attributes
    before: tuple[int, Time, Time, int]


class Rename(Request):
    """Moves a name, replacing what stands there if `replace`. With `open` (SMB) the open's own name is moved and the source
    is not given; with `fold` names match in any case. Answers `Renamed`.
    """

    caller: Caller
    to: Inode
    to_name: bytes
    replace: bool
    at: Inode = Inode(0)
    name: bytes = b""
    open: OpenId | None = None
    fold: bool = False
    stream: bytes | None = None
    """The open is one of a stream, and this is its new name; `to` and `to_name` mean nothing then."""


class Renamed(Reply):
    source: Attributes
    source_before: tuple[int, Time, Time, int]
    target: Attributes
    target_before: tuple[int, Time, Time, int]


class ReadDirectory(Request):
    """Entries behind `cookie` (0: from the start) in cookie order, at most `limit`. Neither `.` nor `..` is among them. Answers `Entries`.

    An entry that is there throughout a listing is listed exactly once, whatever is made or removed meanwhile.
    """

    caller: Caller
    directory: Inode
    cookie: int
    limit: int
    attributes: bool = False
    open: OpenId | None = None
    """The SMB open through which it is read; then rights were checked at its CREATE."""


class Entries(Reply):
    entries: list[Entry]
    end: bool
    """No entry lies behind these."""
    directory: Attributes


class ReadLink(Request):
    caller: Caller
    inode: Inode


class Text(Reply):
    text: bytes
    attributes: Attributes


# Opens


class Open(Request):
    """Opens, and makes if the disposition says so, the file at `path` below `at` (MS-SMB2 3.3.5.9, MS-FSA 2.1.5.1).

    Raises what `Lookup` raises, `Exists`, `SharingViolation`, `DeletePending`, `AccessDenied`, `IsDirectory`, `CannotDelete`, `NoSpace`, ... Answers `Opened`.
    """

    caller: Caller
    at: Inode
    path: tuple[bytes, ...]
    access: int
    share: int
    disposition: Disposition
    fold: bool = True
    directory: bool | None = None
    """True: must be (or becomes) a directory; False: must not be one; None: either (a file is made)."""
    stream: bytes = b""
    """A named stream of the file (without `:` and `:$DATA`)."""
    delete_on_close: bool = False
    follow: bool = True
    """False opens a symbolic link itself (FILE_OPEN_REPARSE_POINT)."""
    mode: int | None = None
    """For what is made. SMB: only where nothing is inherited; NFS: also on top of that (RFC 8881 6.4.3). None: the volume's default."""
    flags: int = 0
    security: bytes | None = None
    """A self-relative security descriptor for what is made (MS-DTYP 2.4.6)."""
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    """Extended attributes for what is made."""
    allocation: int = 0
    """The size that a new file will have, as its client announces; `NoSpace` if there is no room for so much. Nothing is reserved."""
    owner: bytes = b""
    """Who holds the open, as the gateway names it: the lease key or session for SMB, the open-owner for NFSv4."""
    guid: bytes = b""
    """CreateGuid; an open with the same one is answered, not opened again."""
    mandatory: bool = True
    """An SMB open: its byte ranges bind everybody's I/O, others' ranges bind its own, and it waits where an NFS one is `Delayed`."""


class Opened(Reply):
    open: OpenId
    action: Action
    attributes: Attributes
    access: int
    """The rights granted."""
    maximal: int
    """The rights this caller could have had (MxAc)."""
    path: tuple[bytes, ...]
    """As stored."""
    stream: bytes = b""
    """As stored."""


class Close(Request):
    """Ends an open with its locks; the last one to close deletes what is delete-pending. `attributes` asks for them. Answers `ClosedReply`."""

    open: OpenId
    attributes: bool = False


class ClosedReply(Reply):
    attributes: Attributes | None


class ListOpens(Request):
    """All opens of the volume, or one file's (for operators, and for a gateway that ends a session). Answers `OpenList`."""

    inode: Inode | None = None


class OpenInfo(msgspec.Struct, array_like=True):
    """An open, as an operator sees it."""

    open: OpenId
    inode: Inode
    directory: Inode
    name: bytes
    """The name it was opened by, followed by `:` and the stream's if it is one."""
    uid: int
    access: int
    share: int
    gateway: int
    session: int
    delete_pending: bool


class OpenList(Reply):
    opens: list[OpenInfo]


class SetDisposition(Request):
    """Marks for deletion at the last close, or takes the mark away (MS-FSA 2.1.5.15.3). Raises `NotEmpty`, `CannotDelete`. `posix` removes the name at once."""

    open: OpenId
    delete: bool
    posix: bool = False


# Attributes


class Changes(msgspec.Struct, array_like=True):
    """Attributes to set; None leaves one alone. A time of -1 means the server's time now."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    created: Time | None = None
    accessed: Time | None = None
    modified: Time | None = None
    changed: Time | None = None
    flags: int | None = None
    """The settable ones (`SETTABLE_FLAGS`), all at once; SPARSE_FILE has its own field."""
    sparse: bool | None = None
    """FSCTL_SET_SPARSE: whether zeroed ranges give their space back, and how the file is shown."""
    keep_times: bool | None = None
    """Whether from now on changes through this open leave `modified` alone (FILETIME -1 and -2, MS-FSCC 2.4.7).

    A time that is set through an open stays what it was set to, whatever the open does later (MS-FSA 2.1.5.14.2)."""


class GetAttributes(Request):
    """Breaks no grant. Answers `Found`."""

    target: Target


class SetAttributes(Request):
    """`guard`: raises `Changed` unless the file's `changed` is this (NFSv3 sattrguard3). Answers `Found` with `before` of the file."""

    target: Target
    changes: Changes
    guard: Time | None = None


class CheckAccess(Request):
    """Which of the `wanted` rights the caller has. Answers `Rights`."""

    caller: Caller
    inode: Inode
    wanted: int


class Rights(Reply):
    granted: int
    attributes: Attributes


class GetSecurity(Request):
    """The security descriptor's parts (MS-DTYP 2.4.6; bits of MS-SMB2 2.2.37 AdditionalInformation), stored or derived. Answers `Text`."""

    target: Target
    parts: int


class SetSecurity(Request):
    target: Target
    parts: int
    descriptor: bytes


class GetExtended(Request):
    """Extended attributes: all of them (names None) or those named. Answers `Extended`."""

    target: Target
    names: tuple[bytes, ...] | None = None


class Extended(Reply):
    attributes: list[tuple[bytes, bytes]]


class SetExtended(Request):
    """Sets each; an empty value removes (SMB), `create`/`replace` as setxattr(2). Raises `NoData`, `Exists`."""

    target: Target
    attributes: tuple[tuple[bytes, bytes], ...]
    create: bool = False
    replace: bool = False


class ListStreams(Request):
    """Named streams with size and allocation, the unnamed not among them. Answers `Streams`."""

    target: Target


class Streams(Reply):
    streams: list[tuple[bytes, int, int]]


# Data (reads and writes have methods of their own)


class Flush(Request):
    """All data and attributes of the file, when the reply's gate is STABLE."""

    target: Target


class Allocate(Request):
    """Reserves space; `extend` moves the end of the file (RFC 7862 15.1), otherwise not (FILE_ALLOCATION_INFORMATION)."""

    target: Target
    offset: int
    length: int
    extend: bool = False


class Punch(Request):
    """Zeros a range, and gives its space back when `deallocate` (FSCTL_SET_ZERO_DATA on a sparse file, RFC 7862 15.4)."""

    target: Target
    offset: int
    length: int
    deallocate: bool = True


class Ranges(Request):
    """Parts of the range that hold data (FSCTL_QUERY_ALLOCATED_RANGES, SEEK). Answers `RangeList`, at most `limit`; `end` there says that these are all."""

    target: Target
    offset: int
    length: int
    limit: int = 4096


class RangeList(Reply):
    ranges: list[tuple[int, int]]
    end: bool
    size: int


class Clone(Request):
    """Makes the target's range share the source's data (FSCTL_DUPLICATE_EXTENTS_TO_FILE, RFC 7862 15.13): instantly, page-aligned
    except at the source's end.
    """

    source: Target
    source_offset: int
    target: Target
    offset: int
    length: int


class Copy(Request):
    """Copies a range at the server (copychunk, RFC 7862 15.2), sharing what can be shared. Answers `Copied`."""

    source: Target
    source_offset: int
    target: Target
    offset: int
    length: int


class Copied(Reply):
    length: int


# Byte-range locks


class Lock(Request):
    """Takes a lock; `wait` queues behind the lock in its way (then the answer is an awaitable, cancellable), else `LockConflict`."""

    open: OpenId
    offset: int
    length: int
    exclusive: bool
    wait: bool = False
    owner: bytes = b""
    """Empty: the open itself (SMB)."""


class Unlock(Request):
    """Releases exactly that lock (SMB) or that range (NFS). Raises `LockNotHeld`."""

    open: OpenId
    offset: int
    length: int
    owner: bytes = b""


# The file system


class GetSpace(Request):
    caller: Caller


class SpaceReply(Reply):
    total: int
    free: int
    inodes: int
    """In use."""


# Reads, writes, tokens, upcalls


class Read(NamedTuple):
    """`count` bytes were put into the buffer; `end` says that the file's end was reached."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants of a Read
    end: bool
    gate: Lsn
    attributes: Attributes | None = None
    """Given for `Stateless` targets (NFSv3 returns them with every read)."""


class Written(Reply):
    count: int
    attributes: Attributes | None = None
    before: tuple[int, Time, Time, int] | None = None


class Token(NamedTuple):
    """What makes a retry harmless. `key` names the retry (NFSv3: client, xid, procedure, argument checksum); a request whose key is
    known is answered with the reply of the first time, at any node. Tokens go by age (seconds, at most 600). A request that failed
    had no effect and leaves none.
    """

    key: bytes
    age_s: int = 600


class Upcalls(Protocol):
    """What a volume tells its gateways. Called on the loop; must not raise."""

    def recall(self, open: OpenId, rights: int) -> None:
        """Only `rights` of the open's grant may be kept; the gateway asks its client to give the rest back."""

    def changed(self, directory: Inode, name: bytes, action: int) -> None:
        """An entry was added (1), removed (2), modified (3), renamed from (4) or to (5): MS-FSCC 2.7.1 actions."""

    def fenced(self, gateway: int) -> None:
        """That gateway incarnation has been superseded: its sessions are gone."""


class Volume(Protocol):
    """A volume, local or forwarded. Every method answers at once, or with an awaitable only when it has to wait."""

    id: VolumeId
    name: str
    verifier: int
    """64 bits: changes exactly when an acknowledged unstable write may have been lost."""

    def call(self, request: Request, token: Token | None, by: Binding) -> Reply | Awaitable[Reply]: ...

    def read(self, target: Target, offset: int, into: memoryview, by: Binding) -> Read | Awaitable[Read]:
        """Fills `into`. Raises `LockConflict`, `AccessDenied`, `Damaged`, ..."""

    def write(self, target: Target, offset: int, data: memoryview, token: Token | None, level: Level, by: Binding) -> Written | Awaitable[Written]:
        """`data` stays valid until the reply's gate opens. An `offset` of -1 appends."""

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        """Calls `send` at once if the gate is open and the lease valid; else later, in order, or never."""

    def subscribe(self, upcalls: Upcalls) -> None: ...
