"""Data requests: who may, whether others' locks allow it, and then the data half does it.

Read and write are the hot path. Through an open they cost a look-up of the open, a test of its rights, and a look-up in the lock
engine that ends there for a file without byte ranges and grants. A stateless caller (NFSv3) is judged anew each time; a file's owner may
always read and write it, since NFS checks rights when the client opens, and the mode may have changed since (RFC 1813 4.4).
"""

from collections.abc import Awaitable, Callable

from sofs.errors import AccessDenied, Closed, InvalidArgument, IsDirectory
from sofs.types import Inode, Kind, Lsn, OpenId, Time
from sofs.volume import keys
from sofs.volume.access import SETGID, SETUID, is_owner, is_superuser, require
from sofs.volume.api import (
    Access,
    Allocate,
    AnyToken,
    Caller,
    Clone,
    Copied,
    Copy,
    Flush,
    GetSpace,
    Punch,
    RangeList,
    Ranges,
    Read,
    Reply,
    SpaceReply,
    Stateless,
    Written,
)
from sofs.volume.batch import Batch, Operation
from sofs.volume.core import FILES, Core, Subject
from sofs.volume.inode import IS_STREAM, InodeRecord, encode_patch
from sofs.volume.mapping import KEEP_MODIFIED
from sofs.volume.openfile import OpenFile
from sofs.volume.pages import Done
from sofs.volume.reader import Got
from sofs.volume.sharing import check_io
from sofs.volume.writer import APPEND

_MAY_READ = int(Access.READ_DATA | Access.EXECUTE)
"""Execution reads (MS-SMB2 3.3.5.12, RFC 1813 4.4)."""
_MAY_WRITE = int(Access.WRITE_DATA | Access.APPEND_DATA)


def not_a_file(kind: int) -> IsDirectory | InvalidArgument:
    return IsDirectory("a directory has no data") if kind == Kind.DIRECTORY else InvalidArgument("this kind of file has no data")


# Reading


def read(core: Core, number: OpenId, offset: int, into: memoryview) -> Read | Awaitable[Read]:
    """Through an open."""
    opened = core.opens.get(number)
    if opened is None:
        raise Closed(f"open {number} has ended")
    if opened.former:
        core.open_of(number)  # not for those whom it belonged to before
    if not opened.access & _MAY_READ:
        raise AccessDenied("the open does not allow reading")
    if opened.kind != Kind.FILE:
        raise not_a_file(opened.kind)
    inode = opened.inode
    waiting = core.locks.may_read(inode, number, offset, len(into), wait=opened.mandatory)
    if waiting is not None:
        return _read_later(core, inode, offset, into, waiting)
    got = core.data.read(inode, offset, into)
    if isinstance(got, Got):
        return Read(got.length, got.end, core.keys.gate(keys.INODE + inode.to_bytes(8)))
    return _read_later(core, inode, offset, into, None, got)


async def _read_later(
    core: Core, inode: Inode, offset: int, into: memoryview, locked: Awaitable[None] | None, reading: Awaitable[Got] | None = None
) -> Read:
    if locked is not None:
        await locked
    got = core.data.read(inode, offset, into) if reading is None else await reading
    if not isinstance(got, Got):
        got = await got
    return Read(got.length, got.end, core.keys.gate(keys.INODE + inode.to_bytes(8)))


def read_stateless(core: Core, target: Stateless, offset: int, into: memoryview) -> Read | Awaitable[Read]:
    attributes = core.stateless(target)
    inode, caller = target.inode, target.caller
    if attributes.kind != Kind.FILE:
        raise not_a_file(attributes.kind)
    if caller.uid and caller.uid != attributes.uid and not core.rights(inode, core.record(inode), caller) & _MAY_READ:
        raise AccessDenied(f"inode {inode} may not be read")
    core.locks.may_read(inode, OpenId(0), offset, len(into))
    got = core.data.read(inode, offset, into)
    if isinstance(got, Got):
        return Read(got.length, got.end, core.gate, attributes)
    return _stateless_later(core, inode, got)


async def _stateless_later(core: Core, inode: Inode, reading: Awaitable[Got]) -> Read:
    got = await reading
    return Read(got.length, got.end, core.keys.gate(keys.INODE + inode.to_bytes(8)), core.attributes(inode))


# Writing


def write(core: Core, number: OpenId, offset: int, data: memoryview, token: AnyToken | None) -> Written | Awaitable[Written]:
    """Through an open."""
    opened = core.opens.get(number)
    if opened is None:
        raise Closed(f"open {number} has ended")
    if opened.former:
        core.open_of(number)
    if not opened.access & _MAY_WRITE:
        raise AccessDenied("the open does not allow writing")
    if opened.kind != Kind.FILE:
        raise not_a_file(opened.kind)
    if not data:
        return Written(Lsn(0), 0)  # wherever it would go (MS-FSA 2.1.5.4)
    inode = opened.inode
    if not opened.access & Access.WRITE_DATA or offset == APPEND:
        offset = _at_end(core, opened, offset)
    waiting = core.locks.may_write(inode, number, offset, len(data), wait=opened.mandatory)
    if waiting is not None:
        return _write_later(core, opened, offset, data, token, waiting, core.guard(opened))
    done = _write(core, opened, offset, data, token, None)
    if isinstance(done, Done):
        return Written(done.lsn, done.length)
    return _written_later(done)


def _at_end(core: Core, opened: OpenFile, offset: int) -> int:
    """Where an append goes. An open that may only append may write nowhere else (MS-FSA 2.1.5.3)."""
    size = core.record(opened.inode).size
    if offset != APPEND and offset < size and not opened.access & Access.WRITE_DATA:
        raise AccessDenied("the open allows appending only")
    return size if offset == APPEND else offset


def _write(
    core: Core, opened: OpenFile, offset: int, data: memoryview, token: AnyToken | None, guard: Callable[[], None] | None
) -> Done | Awaitable[Done]:
    now = core.clock.now()
    batch = Batch()
    if token is not None or opened.sheds or core.read_only:
        core.with_token(batch, token, Written(Lsn(0), len(data)))
        if opened.sheds:
            shed(batch, opened.inode, core.record(opened.inode))
            opened.sheds = False
    grows = core.watching.any and offset + len(data) > core.record(opened.inode).size
    done = core.data.write(opened.inode, offset, data, now, batch, KEEP_MODIFIED if opened.keep_modified else 0)
    if not isinstance(done, Done):
        batch.guard = guard or core.guard(opened)
    return core.watching.written(opened.inode, opened, grows, done) if core.watching.any else done


async def _write_later(
    core: Core, opened: OpenFile, offset: int, data: memoryview, token: AnyToken | None, waiting: Awaitable[None], guard: Callable[[], None]
) -> Written:
    await waiting
    guard()
    done = _write(core, opened, offset, data, token, guard)
    if not isinstance(done, Done):
        done = await done
    return Written(done.lsn, done.length)


async def _written_later(waiting: Awaitable[Done]) -> Written:
    done = await waiting
    return Written(done.lsn, done.length)


def write_stateless(core: Core, target: Stateless, offset: int, data: memoryview, token: AnyToken | None) -> Written | Awaitable[Written]:
    # As for a read, of the attributes and not of the decoded record and all rights: together 6 us less.
    found = core.stateless(target)
    inode, caller = target.inode, target.caller
    if found.kind != Kind.FILE:
        raise not_a_file(found.kind)
    if caller.uid and caller.uid != found.uid and not core.rights(inode, core.record(inode), caller) & Access.WRITE_DATA:
        raise AccessDenied(f"inode {inode} may not be written")
    at = found.size if offset == APPEND else offset
    core.locks.may_write(inode, OpenId(0), at, len(data))
    now = core.clock.now()
    before = found.size, found.modified, found.changed, found.change
    batch = Batch()
    if token is not None or core.read_only:
        core.with_token(batch, token, Written(Lsn(0), len(data), None, before))
    if found.mode & (SETUID | SETGID):
        record = core.record(inode)
        if sheds(record, caller):
            shed(batch, inode, record)
    done = core.data.write(inode, offset, data, now, batch)
    if core.watching.any:
        done = core.watching.written(inode, None, at + len(data) > found.size, done)
    if core.directories:
        core.entries_changed(found.parent)
    if isinstance(done, Done):
        return Written(done.lsn, done.length, core.attributes(inode), before)
    return core.finish(done, lambda done: Written(done.lsn, done.length, core.attributes(inode), before))


def sheds(record: InodeRecord, caller: Caller) -> bool:
    """Whether a write by this caller takes set-id bits away: whoever changes a program loses what it was trusted with (POSIX write)."""
    return bool(record.mode & (SETUID | SETGID)) and record.kind == Kind.FILE and not is_superuser(caller)


def shed(batch: Batch, inode: Inode, record: InodeRecord) -> InodeRecord:
    """Adds to the batch that the bits go; gives the record without them."""
    cleared = record._replace(mode=record.mode & ~SETUID & ~(SETGID if record.mode & 0o010 else 0))
    batch.raw(Operation.ATTRIBUTES, encode_patch(inode, record, cleared, SETUID | SETGID))
    return cleared


# The rest


def flush(core: Core, request: Flush, token: AnyToken | None) -> Reply:
    subject = core.subject(request.target)
    if subject.open is not None and subject.open.kind == Kind.FILE and not subject.rights & _MAY_WRITE:
        raise AccessDenied("the open does not allow writing")
    if subject.record.marks & IS_STREAM:
        core.note(keys.inode(Inode(subject.record.parent)))
    return Reply(core.gate)


def _to_change(core: Core, subject: Subject, offset: int, length: int, ranges: bool = True) -> int:
    """Raises unless the subject's caller may write these bytes; gives the flags for the data operation.

    Without `ranges` an SMB open does not mind byte ranges that others have locked.
    """
    if subject.record.kind != Kind.FILE:
        raise not_a_file(subject.record.kind)
    if not (subject.open is None and is_owner(subject.caller, subject.record)):
        require(subject.rights, Access.WRITE_DATA)
    if ranges or subject.open is None or not subject.open.mandatory:
        check_io(core, subject, offset, length, write=True)
    core.writable()
    return KEEP_MODIFIED if subject.open is not None and subject.open.keep_modified else 0


def _batch(core: Core, subject: Subject, token: AnyToken | None, reply: Reply, now: Time) -> Batch:
    """The batch of a change of a file's data, other than by a write."""
    batch = core.with_token(Batch(), token, reply)
    if subject.open is not None:
        batch.guard = core.guard(subject.open)
    if sheds(subject.record, subject.caller):
        shed(batch, subject.inode, subject.record)
    return batch


def _to_read(core: Core, subject: Subject, offset: int, length: int, ranges: bool = True) -> None:
    if subject.record.kind != Kind.FILE:
        raise not_a_file(subject.record.kind)
    if not (subject.rights & _MAY_READ or (subject.open is None and is_owner(subject.caller, subject.record))):
        raise AccessDenied(f"inode {subject.inode} may not be read")
    if ranges or subject.open is None or not subject.open.mandatory:
        check_io(core, subject, offset, length, write=False)


def _noticed(core: Core, subject: Subject, done: Done | Awaitable[Done]) -> Done | Awaitable[Done]:
    return core.watching.written(subject.inode, subject.open, True, done) if core.watching.any else done


def _plain(done: Done) -> Reply:
    return Reply(done.lsn)


def allocate(core: Core, request: Allocate, token: AnyToken | None) -> Reply | Awaitable[Reply]:
    subject = core.subject(request.target)
    flags = _to_change(core, subject, request.offset, request.length)
    now = core.clock.now()
    batch = _batch(core, subject, token, Reply(Lsn(0)), now)
    done = core.data.allocate(subject.inode, request.offset, request.length, now, request.extend, batch, flags)
    return core.finish(_noticed(core, subject, done), _plain)


def punch(core: Core, request: Punch, token: AnyToken | None) -> Reply | Awaitable[Reply]:
    subject = core.subject(request.target)
    flags = _to_change(core, subject, request.offset, request.length)
    now = core.clock.now()
    batch = _batch(core, subject, token, Reply(Lsn(0)), now)
    done = core.data.punch(subject.inode, request.offset, request.length, now, batch, flags, request.deallocate)
    return core.finish(_noticed(core, subject, done), _plain)


def ranges(core: Core, request: Ranges, token: AnyToken | None) -> RangeList:
    subject = core.subject(request.target)
    if subject.record.kind != Kind.FILE:
        raise not_a_file(subject.record.kind)
    if not (subject.rights & _MAY_READ or (subject.open is None and is_owner(subject.caller, subject.record))):
        raise AccessDenied(f"inode {subject.inode} may not be read")
    if request.offset < 0 or request.length < 0 or request.limit < 1:
        raise InvalidArgument(f"a range of {request.length} bytes at {request.offset}")
    found, end = core.data.ranges(subject.inode, request.offset, request.length, request.limit)
    return RangeList(core.gate, found, end, subject.record.size)


def clone(core: Core, request: Clone, token: AnyToken | None) -> Reply | Awaitable[Reply]:
    source, target = core.subject(request.source), core.subject(request.target)
    # Unlike copychunk this does not run into byte ranges in SMB (smbtorture smb2.ioctl.dup_extents_src_lock, as Windows does).
    _to_read(core, source, request.source_offset, request.length, ranges=False)
    flags = _to_change(core, target, request.offset, request.length, ranges=False)
    now = core.clock.now()
    batch = _batch(core, target, token, Reply(Lsn(0)), now)
    done = core.data.clone(source.inode, request.source_offset, target.inode, request.offset, request.length, now, batch, flags)
    return core.finish(_noticed(core, target, done), _plain)


def copy(core: Core, request: Copy, token: AnyToken | None) -> Copied | Awaitable[Copied]:
    source, target = core.subject(request.source), core.subject(request.target)
    _to_read(core, source, request.source_offset, request.length)
    flags = _to_change(core, target, request.offset, request.length)
    now = core.clock.now()
    batch = _batch(core, target, token, Copied(Lsn(0), request.length), now)
    done = core.data.copy(source.inode, request.source_offset, target.inode, request.offset, request.length, now, batch, flags)
    return core.finish(_noticed(core, target, done), lambda done: Copied(done.lsn, done.length))


def get_space(core: Core, request: GetSpace, token: AnyToken | None) -> SpaceReply:
    total, free = core.data.usage()
    available = free
    quotas = core.data.quotas
    if quotas.active:
        tree = 0 if request.at is None else core.record(request.at).tree
        room = quotas.room(request.caller.uid, request.caller.gid, tree)
        if room is not None:
            total, available = min(total, room.total), min(free, room.free)
    value = core.get(FILES)
    files = int.from_bytes(value, "little", signed=True) if value else 0
    return SpaceReply(Lsn(0), total, free, files, available)  # usage never gates (DESIGN section 6)
