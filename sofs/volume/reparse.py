"""Reparse points: GetReparse, SetReparse, DeleteReparse (MS-FSA 2.1.5.9.11, 2.1.5.9.37 and 2.1.5.9.4).

A symbolic link, pipe, socket or device is a kind of its own, whichever protocol made it; the entry that names it says so too, which is why only a
file with one name can become one. An opaque reparse point keeps its kind: REPARSE_POINT among its flags, the tag where a device has its number,
the data where a link has its text.
"""

from sofs.errors import InvalidArgument, NameTooLong, NotEmpty, NotPermitted, NotSupported, NotSymlink
from sofs.types import Inode, Kind
from sofs.volume import directory
from sofs.volume.access import is_superuser
from sofs.volume.api import DIRECTORY_LINK, REPARSE_POINT, Access, AnyToken, Changed, DeleteReparse, GetReparse, Reparse, Reply, SetReparse
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.inode import CLONED, KINDS, TAIL_SIZE, InodeRecord
from sofs.volume.names import check_link
from sofs.volume.openfile import OpenFile

MAX_DATA = 16 << 10
"""MAXIMUM_REPARSE_DATA_BUFFER_SIZE, MS-FSCC 2.3.30."""
_PLAIN = (Kind.FILE, Kind.DIRECTORY)
_DEVICES = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


def get_reparse(core: Core, request: GetReparse, token: AnyToken | None) -> Reparse:
    record = core.record(core.open_of(request.open).base)
    if record.kind not in _PLAIN:
        return Reparse(core.gate, KINDS[record.kind], 0, record.text, (record.major, record.minor))
    if record.flags & REPARSE_POINT:
        return Reparse(core.gate, KINDS[record.kind], record.major, record.text)
    raise NotSymlink("this is no reparse point")


def _to_change(core: Core, opened: OpenFile) -> InodeRecord:
    """Raises unless the open may make its file something else."""
    if not opened.access & (Access.WRITE_DATA | Access.WRITE_ATTRIBUTES):
        raise NotPermitted("the open allows no writing")
    if opened.stream or not opened.name:
        raise InvalidArgument("neither a stream nor the share's own directory can be a reparse point")
    core.writable()
    return core.record(opened.base)


def set_reparse(core: Core, request: SetReparse, token: AnyToken | None) -> Reply:
    opened = core.open_of(request.open)
    before = _to_change(core, opened)
    if before.kind == Kind.DIRECTORY and before.size:
        raise NotEmpty(f"directory {opened.name!r} has {before.size} entries")
    if request.kind != Kind.FILE:
        return _become(core, opened, before, request, token)
    if before.kind not in _PLAIN:
        raise NotSupported("it is a reparse point of another sort")
    if len(request.text) > MAX_DATA:
        raise NameTooLong(f"reparse data of {len(request.text)} bytes")
    tail = before.extra[-TAIL_SIZE:] if before.marks & CLONED else b""
    after = before.stamped(core.clock.now(), flags=before.flags | REPARSE_POINT, major=request.tag, minor=0, extra=request.text + tail)
    return _commit(core, Batch(), opened, after, token)


def _become(core: Core, opened: OpenFile, before: InodeRecord, request: SetReparse, token: AnyToken | None) -> Reply:
    kind, text = request.kind, request.text
    if before.kind not in (*_PLAIN, kind) or before.flags & REPARSE_POINT:
        raise NotSupported("it is a reparse point of another sort")
    if before.kind == Kind.FILE and (before.size or before.links != 1):
        raise NotSupported("only an empty file with one name can become a link or a special file")
    if kind in _DEVICES and not is_superuser(opened.caller):
        raise NotPermitted("only the superuser makes devices")
    if kind == Kind.SYMLINK:
        check_link(text)
    batch = Batch()
    if before.kind == Kind.FILE:
        core.data.drop(batch, opened.base)
    flags = before.flags | (DIRECTORY_LINK if before.kind == Kind.DIRECTORY else 0)
    after = before.stamped(
        core.clock.now(), kind=kind, marks=before.marks & ~CLONED, links=1, size=len(text), pages=0, flags=flags,
        major=request.device[0], minor=request.device[1], extra=text,
    )  # fmt: skip
    _rename_kind(core, batch, opened, before.kind, kind)
    return _commit(core, batch, opened, after, token)


def delete_reparse(core: Core, request: DeleteReparse, token: AnyToken | None) -> Reply:
    opened = core.open_of(request.open)
    before = _to_change(core, opened)
    now = core.clock.now()
    batch = Batch()
    if before.kind in _PLAIN:
        if not before.flags & REPARSE_POINT:
            raise NotSymlink("this is no reparse point")
        tail = before.extra[-TAIL_SIZE:] if before.marks & CLONED else b""
        after = before.stamped(now, flags=before.flags & ~REPARSE_POINT, major=0, extra=tail)
    else:
        if before.links != 1:
            raise NotSupported("only a file with one name can become another kind")
        kind = Kind.DIRECTORY if before.flags & DIRECTORY_LINK else Kind.FILE
        links = 2 if kind == Kind.DIRECTORY else 1
        after = before.stamped(now, kind=kind, links=links, size=0, flags=before.flags & ~DIRECTORY_LINK, major=0, minor=0, extra=b"")
        _rename_kind(core, batch, opened, before.kind, kind)
    return _commit(core, batch, opened, after, token)


def _rename_kind(core: Core, batch: Batch, opened: OpenFile, before: int, after: int) -> None:
    """The entry says what kind of file it names, and its directory counts subdirectories."""
    slot = core.find(opened.parent, opened.name, False)
    if slot is None or slot.inode != opened.base:
        raise NotSupported("the name it was opened by is gone")
    directory.put(batch, slot.place, slot.inode, after, slot.name)
    more = (after == Kind.DIRECTORY) - (before == Kind.DIRECTORY)
    if more:
        core.put_record(batch, opened.parent, core.record(opened.parent).touched(core.clock.now(), 0, more))


def _commit(core: Core, batch: Batch, opened: OpenFile, after: InodeRecord, token: AnyToken | None) -> Reply:
    inode: Inode = opened.base
    core.put_record(batch, inode, after)
    reply = core.commit(batch, Reply(core.gate), token)
    for other in core.by_inode.get(inode, ()):
        if not other.stream:
            other.kind = after.kind
    core.altered(inode, Changed.ATTRIBUTES, opened)
    return reply
