"""Requests about names: finding, making, linking, removing, renaming, listing."""

from sofs.types import Inode, Kind, OpenId, Time
from sofs.volume.api.attributes import Changes
from sofs.volume.api.values import Attributes, Caller, Entry, Reply, Request


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


class ScanDirectory(Request):
    """As `ReadDirectory` without an open, for who lists much: entries are tuples, their attributes as they are stored. Answers `Scanned`."""

    caller: Caller
    directory: Inode
    cookie: int
    limit: int


class Scanned(Reply):
    rows: list[tuple[int, bytes, Inode, bytes]]
    """Cookie, name, inode, record. While the record of an inode is the same, so are its attributes (`sofs.volume.inode.attributes_of` reads them)."""
    end: bool
    directory: Attributes


class ReadLink(Request):
    caller: Caller
    inode: Inode


class Text(Reply):
    text: bytes
    attributes: Attributes
