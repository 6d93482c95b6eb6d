"""The Open request: finding or making the file, its rights, its place among other opens (MS-FSA 2.1.5.1).

The order of checks is the document's where it can be observed: name, delete pending, kind, disposition, rights, sharing. Nothing is
changed before all have passed. An open lives in the coordinator's memory and in the lock engine.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from sofs.errors import (
    AccessDenied,
    CannotDelete,
    Closed,
    DeletePending,
    Exists,
    InvalidArgument,
    IsDirectory,
    NoSpace,
    NotDirectory,
    NotFound,
    QuotaExceeded,
    ReparsePoint,
    SofsError,
)
from sofs.types import ROOT, Inode, Kind
from sofs.volume import directory, keys, security
from sofs.volume.access import is_superuser, require
from sofs.volume.api import (
    ARCHIVE,
    DIRECTORY_LINK,
    HIDDEN,
    READONLY,
    REPARSE_POINT,
    SETTABLE_FLAGS,
    SYSTEM,
    Access,
    Action,
    AnyToken,
    Changed,
    Disposition,
    Open,
    Opened,
)
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.descriptors import with_security
from sofs.volume.directory import Slot
from sofs.volume.extended import clear, put_new
from sofs.volume.inode import InodeRecord
from sofs.volume.io import sheds
from sofs.volume.lookup import enter, symlink_in_path, walk
from sofs.volume.make import adding, put_name
from sofs.volume.openfile import OpenFile
from sofs.volume.opening import admit, answer_again, check_grace, conclude, give_up, grow, let_go, make_open, share
from sofs.volume.removal import may_delete
from sofs.volume.streams import find_stream, put_stream, remove_stream
from sofs.volume.watching import STREAM_ADDED

_CREATES = frozenset({Disposition.CREATE, Disposition.OPEN_IF, Disposition.SUPERSEDE, Disposition.OVERWRITE_IF})
_OVERWRITES = frozenset({Disposition.SUPERSEDE, Disposition.OVERWRITE, Disposition.OVERWRITE_IF})
_WRITES = int(Access.WRITE_DATA | Access.APPEND_DATA)
_RIGHTS = int(Access.ALL | Access.SYSTEM_SECURITY)
_ALL = int(Access.ALL)
_EMPTIED = int(Changed.ATTRIBUTES | Changed.SIZE | Changed.LAST_WRITE)


class _Found(NamedTuple):
    """Where the path led."""

    parent: Inode
    name: bytes
    """As stored, or as it will be."""
    stored: tuple[bytes, ...]
    """The whole path."""
    slot: Slot | None
    place: directory.Place


def open_file(core: Core, request: Open, token: AnyToken | None) -> Opened | Awaitable[Opened]:
    if (known := answer_again(core, request)) is not None:
        return known
    if request.client in core.register.departed:
        raise Closed("the client has ended")
    if core.grace or request.reclaim:
        check_grace(core, request)
    if not request.access & (_RIGHTS | Access.MAXIMUM_ALLOWED):
        raise AccessDenied("an open asks for at least one right")
    if request.disposition in _OVERWRITES and request.directory:
        raise InvalidArgument("a directory cannot be overwritten")
    found = _find(core, request)
    if request.allocation and request.disposition != Disposition.OPEN:
        _check_announced(core, request, found.parent)
    if found.slot is not None:
        return _open_existing(core, request, found, token)
    if request.disposition not in _CREATES:
        raise NotFound(f"there is no {found.name!r} in directory {found.parent}")
    return _create(core, request, found, token)


def _check_announced(core: Core, request: Open, parent: Inode) -> None:
    """The size is a client's announcement: nothing is reserved for it, but what cannot fit is refused before the first byte.

    Raises `NoSpace`, `QuotaExceeded`.
    """
    if request.allocation > core.data.usage().free:
        raise NoSpace(f"{request.allocation} bytes are more than there is room for")
    if core.data.quotas.active:
        room = core.data.quotas.room(request.caller.uid, request.caller.gid, core.record(parent).tree)
        if room is not None and request.allocation > room.free:
            raise QuotaExceeded(f"{request.allocation} bytes are more than a quota leaves")


def _find(core: Core, request: Open) -> _Found:
    path, caller, fold = request.path, request.caller, request.fold
    if not path:
        # SMB opens a share's root this way, NFSv4 any file that it has a handle of (CLAIM_FH).
        record = core.directory(request.at) if request.mandatory else core.record(request.at)
        root = Slot(b"", request.at, record.kind, b"")
        if record.kind == Kind.SYMLINK and request.follow:
            raise symlink_in_path(core, root, ())
        return _Found(Inode(record.parent or ROOT), b"", (), root, b"")
    parent, stored = walk(core, caller, request.at, path, fold)
    enter(core, caller, parent, fold)
    slot, place = core.look(parent, path[-1], fold)
    if slot is None:
        return _Found(parent, path[-1], (*stored, path[-1]), None, place)
    if slot.kind == Kind.SYMLINK and request.follow:
        raise symlink_in_path(core, slot, ())
    return _Found(parent, slot.name, (*stored, slot.name), slot, place)


# What exists


def _open_existing(core: Core, request: Open, found: _Found, token: AnyToken | None) -> Opened | Awaitable[Opened]:
    slot = found.slot
    assert slot is not None
    inode, record = slot.inode, core.record(slot.inode)
    _check_kind(core, request, found, record)
    maximal = _maximal(core, request, found, inode, record)
    stream: tuple[Slot | None, directory.Place] | None = None
    if request.stream:
        stream = find_stream(core, inode, request.stream)
        if stream[0] is None and request.disposition not in _CREATES:
            raise NotFound(f"{slot.name!r} has no stream {request.stream!r}")
        if stream[0] is not None and request.disposition == Disposition.CREATE:
            raise Exists(f"{slot.name!r} has a stream {request.stream!r} already")
    elif request.disposition == Disposition.CREATE:
        raise Exists(f"{slot.name!r} exists")
    overwrite = request.disposition in _OVERWRITES and (stream is None or stream[0] is not None)
    granted = _grant(core, request, record, maximal, overwrite)
    if overwrite and stream is None and record.kind == Kind.DIRECTORY:
        raise InvalidArgument("a directory cannot be overwritten")
    if overwrite and stream is None and record.flags & (HIDDEN | SYSTEM) & ~request.flags:
        raise AccessDenied("overwriting would lose the attributes HIDDEN or SYSTEM")
    kind = record.kind if stream is None else Kind.FILE
    admit(core, request, inode if stream is None else None if stream[0] is None else stream[0].inode)
    opened = None if request.mandatory or not request.owner else core.register.by_owner.get((inode, request.owner))
    undo = None
    if opened is None:
        opened = make_open(core, request, (found.parent, found.name, found.stored), inode, kind, granted)
        opened.sheds = stream is None and bool(granted & _WRITES) and sheds(record, request.caller)
        if stream is not None:
            return _open_stream(core, request, found, opened, record, maximal, stream, token)
        share(core, opened, request, overwrite)
    else:
        undo = grow(core, opened, request, granted, overwrite)
    if overwrite:
        return _overwrite(core, opened, request, maximal, token, undo)
    try:
        return conclude(core, opened, request, Action.OPENED, maximal, record.attributes(inode), None, token, undo)
    except SofsError:
        give_up(core, opened, undo)
        raise


def _check_kind(core: Core, request: Open, found: _Found, record: InodeRecord) -> None:
    assert found.slot is not None
    inode = found.slot.inode
    if core.delete_pending(inode):
        raise DeletePending(f"{found.name!r} is about to be deleted")
    if request.disposition == Disposition.CREATE and not request.stream:
        raise Exists(f"{found.name!r} exists")
    if record.flags & REPARSE_POINT and request.follow and request.mandatory and not request.stream:
        raise ReparsePoint(f"{found.name!r} is a reparse point with tag {record.major:#x}")
    is_directory = record.kind == Kind.DIRECTORY or bool(record.flags & DIRECTORY_LINK)
    if request.directory and not is_directory:
        raise NotDirectory(f"{found.name!r} is not a directory")
    if request.directory is False and is_directory and not request.stream:
        raise IsDirectory(f"{found.name!r} is a directory")


def _maximal(core: Core, request: Open, found: _Found, inode: Inode, record: InodeRecord) -> int:
    """All rights that the caller has to the file, those that its directory gives among them."""
    caller = request.caller
    rights = core.rights(inode, record, caller)
    if inode == ROOT or not found.name or (rights & Access.DELETE and rights & Access.READ_ATTRIBUTES):
        return rights
    parent = core.record(found.parent)
    above = core.rights(found.parent, parent, caller)
    if may_delete(core, caller, parent, above, inode, record):
        rights |= Access.DELETE
    if above & Access.READ_DATA:
        rights |= Access.READ_ATTRIBUTES
    return rights


def _grant(core: Core, request: Open, record: InodeRecord, maximal: int, overwrite: bool) -> int:
    """The rights that the open gets. Raises `AccessDenied`, `CannotDelete`, `ReadOnly`."""
    wanted = request.access & _RIGHTS
    needed = wanted
    if overwrite:
        needed |= Access.WRITE_DATA | (Access.DELETE if request.disposition == Disposition.SUPERSEDE else 0)
    read_only = record.flags & READONLY and record.kind != Kind.DIRECTORY
    if read_only and (wanted & _WRITES or overwrite):
        raise AccessDenied("the file is read-only")
    if request.mandatory or not _is_let(request, record, maximal, needed):
        require(maximal, needed)
    granted = wanted
    if request.access & Access.MAXIMUM_ALLOWED:
        granted |= maximal & (_ALL & ~_WRITES if read_only else _ALL)
    if request.delete_on_close:
        core.writable()
        if not granted & Access.DELETE:
            raise AccessDenied("deletion at the close takes the right to delete")
        if record.flags & READONLY:
            raise CannotDelete("the file is read-only")
    return granted


def _is_let(request: Open, record: InodeRecord, maximal: int, needed: int) -> bool:
    """What NFS clients may beside their rights: read what they may execute (RFC 1813 4.4), and reclaim a file of their own whose mode has changed since."""
    if needed == Access.READ_DATA and record.kind == Kind.FILE and maximal & Access.EXECUTE:
        return True
    return request.reclaim and request.caller.uid == record.uid


# What is made


def _create(core: Core, request: Open, found: _Found, token: AnyToken | None) -> Opened:
    parent, name = found.parent, found.name
    kind = Kind.DIRECTORY if request.directory and not request.stream else Kind.FILE
    above = core.directory(parent)
    core.require(parent, above, request.caller, adding(kind, above, request.fold))
    if request.delete_on_close and request.flags & READONLY:
        raise CannotDelete("a read-only file cannot be deleted at its close")
    now = core.clock.now()
    batch = Batch()
    mode, fallback = (None, request.mode) if request.mandatory else (request.mode, None)
    record, descriptor = core.new_record(parent, above, kind, request.caller, mode, now, fallback, request.flags & SETTABLE_FLAGS)
    if request.security is not None:
        given = security.decode(request.security)
        parts = security.parts_of(given)
        if not is_superuser(request.caller):
            parts &= ~security.SACL_PART
        record, descriptor = with_security(core, request.caller, record, descriptor, given, parts)
    inode = core.new_number(batch)
    if request.attributes:
        record = put_new(batch, inode, record, request.attributes)
    maximal = core.judge.rights(record, descriptor, request.caller) | Access.DELETE
    granted = request.access & _RIGHTS
    if request.access & Access.MAXIMUM_ALLOWED:
        granted |= maximal & _ALL
    require(maximal | _ALL, granted)  # who makes a file gets what he asks for; only SYSTEM_SECURITY is a privilege
    if request.delete_on_close and not granted & Access.DELETE:
        raise AccessDenied("deletion at the close takes the right to delete")
    admit(core, request, None)
    opened = make_open(core, request, (parent, name, found.stored), inode, kind, granted)
    if request.stream:
        _, place = find_stream(core, inode, request.stream)
        opened.inode, record = put_stream(core, batch, inode, record, place, request.stream, now)
    record = core.put_new(batch, inode, record, descriptor)
    put_name(core, batch, parent, above, found.place, inode, kind, name, now)
    share(core, opened, request, False)
    core.parent_key = request.parent_key
    try:
        attributes = None if request.stream else record.attributes(inode)
        reply = conclude(core, opened, request, Action.CREATED, maximal, attributes, batch, token)
    except SofsError:
        let_go(core, opened)
        raise
    core.changed(parent, name, 1, opened.base, kind)
    return reply


# Streams


def _open_stream(
    core: Core,
    request: Open,
    found: _Found,
    opened: OpenFile,
    file: InodeRecord,
    maximal: int,
    stream: tuple[Slot | None, directory.Place],
    token: AnyToken | None,
) -> Opened | Awaitable[Opened]:
    slot, place = stream
    if slot is not None:
        opened.inode, opened.stream = slot.inode, slot.name
        overwrite = request.disposition in _OVERWRITES
        share(core, opened, request, overwrite)
        if overwrite:
            return _overwrite(core, opened, request, maximal, token)
        try:
            return conclude(core, opened, request, Action.OPENED, maximal, None, None, token)
        except SofsError:
            let_go(core, opened)
            raise
    require(maximal, Access.WRITE_DATA)
    batch = Batch()
    now = core.clock.now()
    opened.inode, file = put_stream(core, batch, opened.base, file, place, request.stream, now)
    core.put_record(batch, opened.base, file)
    share(core, opened, request, False)
    try:
        reply = conclude(core, opened, request, Action.CREATED, maximal, None, batch, token)
    except SofsError:
        let_go(core, opened)
        raise
    if core.watching.any:
        core.watching.stream(opened, opened.stream, STREAM_ADDED)
    return reply


# Overwriting


def _overwrite(
    core: Core, opened: OpenFile, request: Open, maximal: int, token: AnyToken | None = None, undo: Callable[[], None] | None = None
) -> Opened | Awaitable[Opened]:
    """Empties the file; what is too large for one batch is cut off first, in the background's slices, under the open."""
    if core.data.small(opened.inode):
        try:
            return _emptied(core, opened, request, maximal, token, undo)
        except SofsError:
            give_up(core, opened, undo)
            raise
    return _overwrite_large(core, opened, request, maximal, token, undo)


async def _overwrite_large(
    core: Core, opened: OpenFile, request: Open, maximal: int, token: AnyToken | None, undo: Callable[[], None] | None
) -> Opened:
    try:
        while not core.data.small(opened.inode):
            done = core.data.truncate(opened.inode, 0, core.clock.now())
            if isinstance(done, Awaitable):
                await done
        return _emptied(core, opened, request, maximal, token, undo)
    except BaseException:
        give_up(core, opened, undo)
        raise


def _emptied(core: Core, opened: OpenFile, request: Open, maximal: int, token: AnyToken | None, undo: Callable[[], None] | None) -> Opened:
    core.writable()
    inode, now = opened.inode, core.clock.now()
    record = core.record(inode)
    batch = Batch()
    core.data.drop(batch, inode)
    record = record.stamped(now, size=0, pages=0, modified=now)
    if not opened.stream:
        record = record._replace(flags=record.flags & ~SETTABLE_FLAGS | request.flags & SETTABLE_FLAGS | ARCHIVE)
        record = clear(core, batch, inode, record)
        record = put_new(batch, inode, record, request.attributes)
        used = {other.inode for other in core.by_inode.get(inode, ())}
        for slot in directory.slots(core.keys, keys.bucket(keys.STREAM, inode)):
            if slot.inode not in used:
                remove_stream(core, batch, slot)
    core.put_record(batch, inode, record)
    action = Action.SUPERSEDED if request.disposition == Disposition.SUPERSEDE else Action.OVERWRITTEN
    attributes = None if opened.stream else record.attributes(inode)
    reply = conclude(core, opened, request, action, maximal, attributes, batch, token, undo)
    core.parent_key = request.parent_key
    core.altered(inode, _EMPTIED, opened)
    return reply
