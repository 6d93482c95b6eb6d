"""Requests that find names: Lookup, ReadDirectory, ReadLink."""

from sofs.errors import InvalidArgument, NotDirectory, NotFound, NotSymlink, PathNotFound, SymlinkInPath
from sofs.types import Inode, Kind, Lsn
from sofs.volume import keys
from sofs.volume.access import is_superuser, require
from sofs.volume.api import Access, AnyToken, Caller, Entries, Entry, Found, Lookup, ReadDirectory, ReadLink, ScanDirectory, Scanned, Text
from sofs.volume.core import Core
from sofs.volume.directory import Slot
from sofs.volume.inode import HAS_DESCRIPTOR, KINDS, InodeRecord, attributes_of

_MOST_ENTRIES = 20_000
"""In one answer, however many are asked for: it bounds the time on the loop to some 40 ms."""


_ENTERED = 1 << 12
"""Directories that are remembered as entered by somebody."""


def enter(core: Core, caller: Caller, inode: Inode, fold: bool) -> None:
    """Raises `NotDirectory` or `AccessDenied` unless names may be looked up in `inode` by the caller.

    A directory with an NT descriptor is passed by SMB (`fold`) without the right to traverse it: Windows gives everybody
    SeChangeNotifyPrivilege, and its descriptors are written with that in mind. Where the mode decides, it decides for both protocols.
    """
    value = core.value(inode)
    entered = core.entered
    if entered.get((inode, caller)) == value:
        return
    if value[0] != Kind.DIRECTORY:
        raise NotDirectory(f"inode {inode} is not a directory")
    if not is_superuser(caller) and not (fold and value[1] & HAS_DESCRIPTOR):
        require(core.rights(inode, InodeRecord.decode(value), caller), Access.EXECUTE)
    if not value[1] & HAS_DESCRIPTOR:
        if len(entered) >= _ENTERED:
            entered.clear()
        entered[inode, caller] = value


def walk(core: Core, caller: Caller, at: Inode, path: tuple[bytes, ...], fold: bool) -> tuple[Inode, tuple[bytes, ...]]:
    """Follows a path's directories, all but the last component; gives the last of them, and the names as they are stored.

    Raises `PathNotFound`, `SymlinkInPath`, and what `enter` raises.
    """
    stored = []
    for index, name in enumerate(path[:-1]):
        enter(core, caller, at, fold)
        slot = core.find(at, name, fold)
        if slot is None:
            raise PathNotFound(f"there is no {name!r} in directory {at}")
        if slot.kind == Kind.SYMLINK:
            raise symlink_in_path(core, slot, path[index + 1 :])
        if slot.kind != Kind.DIRECTORY:
            raise PathNotFound(f"{name!r} is not a directory")
        stored.append(slot.name)
        at = slot.inode
    return at, tuple(stored)


def symlink_in_path(core: Core, slot: Slot, rest: tuple[bytes, ...]) -> SymlinkInPath:
    """The error that hands a link's text to the client. What is unparsed is counted in bytes of UTF-16 with a separator before each name."""
    text = core.record(slot.inode).extra
    unparsed = sum(2 + len(name.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")) for name in rest)
    return SymlinkInPath(text, unparsed, relative=not text.startswith((b"/", b"\\")))


def lookup(core: Core, request: Lookup, token: AnyToken | None) -> Found:
    path = request.path
    if not path:
        return Found(core.gate, core.attributes(request.at))
    caller, fold = request.caller, request.fold
    at, stored = walk(core, caller, request.at, path, fold) if len(path) > 1 else (request.at, ())
    enter(core, caller, at, fold)
    slot = core.find(at, path[-1], fold)
    if slot is None:
        raise NotFound(f"there is no {path[-1]!r} in directory {at}")
    found = core.attributes(slot.inode)
    if not found.parent or (found.links > 1 and found.kind != Kind.DIRECTORY):
        found.parent = at  # of several directories that name it, the one that was asked
    directory = None if fold else core.attributes(at)
    return Found(core.gate, found, (*stored, slot.name), directory)


def read_directory(core: Core, request: ReadDirectory, token: AnyToken | None) -> Entries:
    if request.open is None:
        inode = request.directory
        record = core.directory(inode)
        core.require(inode, record, request.caller, Access.READ_DATA)
    else:
        opened = core.open_of(request.open)
        inode = opened.inode
        record = core.record(inode)
        if record.kind != Kind.DIRECTORY:
            raise NotDirectory(f"inode {inode} is not a directory")
        require(opened.access, Access.READ_DATA)
    index = _index(core, inode, request.cookie, request.limit)
    limit = min(request.limit, _MOST_ENTRIES)
    entries: list[Entry] = []
    if request.attributes:
        full, end = core.listings.full(index, record.size, request.cookie, limit)
        opens = core.by_inode
        for cookie, name, number, value in full:
            found = attributes_of(value, number)
            if number in opens:
                found.delete_pending = core.delete_pending(number)
            entries.append(Entry(cookie, name, number, found.kind, found))
        _rests_on_all(core)
    else:
        rows, end = core.listings.rows(index, record.size, request.cookie, limit)
        entries = [Entry(cookie, name, number, KINDS[kind], None) for cookie, number, kind, name in rows]
    return Entries(core.gate, entries, end, record.attributes(inode))


def scan_directory(core: Core, request: ScanDirectory, token: AnyToken | None) -> Scanned:
    inode = request.directory
    record = core.directory(inode)
    core.require(inode, record, request.caller, Access.READ_DATA)
    index = _index(core, inode, request.cookie, request.limit)
    rows, end = core.listings.full(index, record.size, request.cookie, min(request.limit, _MOST_ENTRIES))
    _rests_on_all(core)
    return Scanned(core.gate, rows, end, record.attributes(inode))


def _index(core: Core, inode: Inode, cookie: int, limit: int) -> bytes:
    if limit < 1 or not 0 <= cookie < 1 << 63:
        raise InvalidArgument(f"at most {limit} entries behind {cookie}")
    index = keys.ENTRY + inode.to_bytes(8)
    core.note(index)
    return index


def _rests_on_all(core: Core) -> None:
    """The answer rests on many records: the end of the log is behind every change of every one, and asked for once."""
    log = core.keys.log
    if log.stable < log.end:
        core.gate = Lsn(log.end - 1)


def read_link(core: Core, request: ReadLink, token: AnyToken | None) -> Text:
    record = core.record(request.inode)
    if record.kind != Kind.SYMLINK:
        raise NotSymlink(f"inode {request.inode} is not a symbolic link")
    return Text(core.gate, record.extra, record.attributes(request.inode))
