"""Requests about a file's attributes: GetAttributes, SetAttributes, CheckAccess.

Who may set what: through an open (SMB) the open's rights decide; a stateless caller (NFS) is judged as POSIX judges,
with those rights of an explicit descriptor beside it that say the same (WRITE_ATTRIBUTES, WRITE_DAC, WRITE_OWNER).
"""

from collections.abc import Awaitable

import msgspec

from sofs.errors import AccessDenied, Changed, InvalidArgument, IsDirectory, NotPermitted
from sofs.types import Inode, Kind, Lsn, Time
from sofs.volume import keys, security
from sofs.volume.access import SETGID, SETUID, execute, is_member, is_owner, is_superuser, require
from sofs.volume.api import SETTABLE_FLAGS, SPARSE_FILE, Access, AnyToken, Caller, Changes, CheckAccess, Found, GetAttributes, Rights, SetAttributes
from sofs.volume.api import Changed as What
from sofs.volume.batch import Batch, Operation
from sofs.volume.core import Core, Subject
from sofs.volume.inode import HAS_DESCRIPTOR, InodeRecord, encode_patch
from sofs.volume.io import shed, sheds
from sofs.volume.mapping import KEEP_MODIFIED
from sofs.volume.openfile import OpenFile
from sofs.volume.quotas import counting
from sofs.volume.sharing import check_io
from sofs.volume.streams import stream_inodes

_LATEST = (1 << 63) - 1


def get_attributes(core: Core, request: GetAttributes, token: AnyToken | None) -> Found:
    target = request.target
    if isinstance(target, int):
        opened = core.open_of(target)
        # The right is not asked for: every open may be asked what an open's reply says anyway (MS-SMB2 3.3.5.9).
        return Found(core.gate, core.attributes(opened.inode))
    attributes = core.stateless(target)
    return Found(core.gate, attributes)


def check_access(core: Core, request: CheckAccess, token: AnyToken | None) -> Rights:
    inode, caller = request.inode, request.caller
    record = core.record(inode)
    rights = core.rights(inode, record, caller)
    rights = execute(record, core.descriptor(inode, record), caller, rights)
    return Rights(core.gate, rights & request.wanted, core.attributes(inode))


def set_attributes(core: Core, request: SetAttributes, token: AnyToken | None) -> Found | Awaitable[Found]:
    subject = core.subject(request.target)
    inode, record, changes = subject.inode, subject.record, request.changes
    if request.guard is not None and request.guard != record.changed:
        raise Changed(f"inode {inode} has changed")
    core.writable()
    now = core.clock.now()
    batch = Batch()
    opened = subject.open
    if opened is not None:
        changes = _stick(opened, changes, record)
        core.kept.touch(opened)
    if changes.size is not None:
        _may_resize(core, subject, changes.size)
    owner, file = core.file_of(inode, record)
    subject = subject._replace(inode=owner, record=file)
    after = subject.record
    if changes != Changes(size=changes.size):
        _permit(subject, changes)
        after = change(core, subject.record, changes, subject.caller, now)
        change_owner(core, batch, owner, subject.record, after)
        after = _follow_descriptor(core, batch, owner, subject.record, after, changes.mode is not None)
        # Not a PUT of the record: a change of size may have to wait, and others may write meanwhile.
        batch.raw(Operation.ATTRIBUTES, encode_patch(owner, subject.record, after))
    if changes.size is not None and changes.mode is None and owner == inode and sheds(after, subject.caller):
        after = shed(batch, owner, after)
    if changes.mode is not None:
        _beware(core, owner, after)
    if changes.size is not None:
        return _resize(core, changes, subject, record, batch, after, token, now)
    reply = Found(core.gate, after.attributes(owner, core.delete_pending(inode)), before=record.before)
    if batch.count:
        core.commit(batch, reply, token)
        core.altered(owner, changed_bits(subject.record, after), subject.open)
    if owner != inode:
        reply.attributes = core.attributes(inode)
    return reply


def _beware(core: Core, inode: Inode, after: InodeRecord) -> None:
    """A program's set-id bits do not survive what is written through opens of before, either: see `OpenFile.sheds`."""
    if not after.mode & (SETUID | SETGID):
        return
    for opened in core.by_inode.get(inode, ()):
        if not opened.sheds and not opened.stream and opened.access & (Access.WRITE_DATA | Access.APPEND_DATA) and sheds(after, opened.caller):
            opened.sheds = True
            core.kept.touch(opened)


def change_owner(core: Core, batch: Batch, inode: Inode, before: InodeRecord, after: InodeRecord) -> None:
    """Asks the quotas of a file's new owners, and adds to the batch that its streams follow it. Raises `QuotaExceeded`."""
    if (before.uid, before.gid, before.tree) == (after.uid, after.gid, after.tree):
        return
    streams = [(stream, core.record(stream)) for stream in stream_inodes(core, inode, before)]
    moved = [(old, old._replace(uid=after.uid, gid=after.gid, tree=after.tree)) for _, old in streams]
    core.data.quotas.move([(before, after), *moved])
    for (stream, old), (_, new) in zip(streams, moved, strict=True):
        batch.raw(Operation.ATTRIBUTES, encode_patch(stream, old, new))
    if before.tree != after.tree:
        batch.raw(Operation.TREE, counting.tree(Inode(after.tree), [stream for stream, _ in streams]))


def _stick(opened: OpenFile, changes: Changes, record: InodeRecord) -> Changes:
    """What a client has set through an open stays as it set it (MS-FSA 2.1.5.14.2); gives the changes that make it so."""
    if changes.keep_times is not None:
        opened.keep_modified = changes.keep_times
    elif changes.modified is not None:
        opened.keep_modified = True
    changes = msgspec.structs.replace(changes, keep_times=None)
    if changes.changed is not None:
        opened.keep_changed = True
    elif opened.keep_changed and changes != Changes(size=changes.size):
        changes.changed = Time(record.changed)
    return changes


def _permit(subject: Subject, changes: Changes) -> None:
    """Raises unless the subject's caller may make these changes (the size apart)."""
    record, caller, opened = subject.record, subject.caller, subject.open
    owner = is_owner(caller, record) if opened is None else False
    by_descriptor = subject.rights if opened is not None or record.marks & HAS_DESCRIPTOR else 0
    refusal = AccessDenied if opened is not None else NotPermitted
    if changes.mode is not None and not (owner or by_descriptor & Access.WRITE_DAC):
        raise refusal(f"only its owner may set the mode of inode {subject.inode}")
    if (changes.uid is not None or changes.gid is not None) and not (owner or by_descriptor & Access.WRITE_OWNER):
        raise refusal(f"only its owner may give inode {subject.inode} away")
    times = (changes.created, changes.accessed, changes.modified, changes.changed)
    explicit = any(time is not None and time != -1 for time in times) or changes.flags is not None or changes.sparse is not None
    if explicit and not (owner or by_descriptor & Access.WRITE_ATTRIBUTES):
        # FSCTL_SET_SPARSE also takes the right to write (MS-FSA 2.1.5.9.32).
        if not (changes.sparse is not None and by_descriptor & (Access.WRITE_DATA | Access.APPEND_DATA)):
            raise refusal(f"attributes of inode {subject.inode} may not be set")
    now = any(time == -1 for time in times)
    if now and not explicit and not (owner or subject.rights & (Access.WRITE_DATA | Access.WRITE_ATTRIBUTES)):
        raise AccessDenied(f"times of inode {subject.inode} may not be set")


def change(core: Core, record: InodeRecord, changes: Changes, caller: Caller, now: Time) -> InodeRecord:
    """The record with the changes made, except that of the size. Raises `NotPermitted` for what only the superuser may do."""
    mode, uid, gid = record.mode, record.uid, record.gid
    if changes.uid is not None or changes.gid is not None:
        uid, gid, mode = _give_away(record, changes, caller)
    if changes.mode is not None:
        mode = changes.mode & 0o7777
        if mode & SETGID and not is_superuser(caller) and not is_member(caller, gid) and record.kind != Kind.DIRECTORY:
            mode &= ~SETGID
    flags = record.flags
    if changes.flags is not None:
        flags = flags & ~SETTABLE_FLAGS | changes.flags & SETTABLE_FLAGS
    if changes.sparse is not None:
        flags = flags | SPARSE_FILE if changes.sparse else flags & ~SPARSE_FILE
    return record._replace(
        mode=mode,
        uid=uid,
        gid=gid,
        created=_time(changes.created, record.created, now),
        accessed=_time(changes.accessed, record.accessed, now),
        modified=_time(changes.modified, record.modified, now),
        changed=_time(changes.changed, now, now),
        change=record.change + 1,
        flags=flags,
    )


def _give_away(record: InodeRecord, changes: Changes, caller: Caller) -> tuple[int, int, int]:
    uid = record.uid if changes.uid is None else changes.uid
    gid = record.gid if changes.gid is None else changes.gid
    mode = record.mode
    if not is_superuser(caller):
        taking = uid == caller.uid  # through an open with WRITE_OWNER; `_permit` saw to that
        if uid != record.uid and not taking:
            raise NotPermitted("only the superuser gives files to others")
        if gid != record.gid and not is_member(caller, gid):
            raise NotPermitted(f"the caller is not in group {gid}")
        if record.kind == Kind.FILE:
            mode &= ~(SETUID | SETGID if mode & 0o010 else SETUID)
    return uid, gid, mode


def _time(wanted: Time | None, kept: int, now: Time) -> int:
    if wanted is None:
        return kept
    if wanted == -1:
        return now
    if not 0 <= wanted <= _LATEST:
        raise InvalidArgument(f"{wanted} is not a time")
    return wanted


def _follow_descriptor(core: Core, batch: Batch, inode: Inode, before: InodeRecord, after: InodeRecord, mode_set: bool) -> InodeRecord:
    """Brings an explicit descriptor in step with a new mode (RFC 8881 6.4.1) or owner; gives the record that goes with it."""
    old = core.descriptor(inode, before)
    if old is None:
        return after
    new: security.Descriptor | None = old
    if before.uid != after.uid:
        new = old._replace(owner=None)
    if before.gid != after.gid:
        new = old._replace(group=None) if new is old else new and new._replace(group=None)
    if mode_set and new is not None:
        owner, group = core.sids(after.uid, after.gid)
        new = security.chmod(new, after.mode, after.kind == Kind.DIRECTORY, owner, group)
    if new is None:
        batch.delete(keys.descriptor(inode))
        return after._replace(marks=after.marks & ~HAS_DESCRIPTOR)
    if new is not old:
        batch.put(keys.descriptor(inode), security.encode(new))
    return after


def changed_bits(before: InodeRecord, after: InodeRecord) -> int:
    """What somebody who watches is told of a change of attributes, MS-FSA 2.1.5.15.2."""
    what = 0
    if before.flags != after.flags:
        what |= What.ATTRIBUTES
    if before.created != after.created:
        what |= What.CREATION
    if before.accessed != after.accessed:
        what |= What.LAST_ACCESS
    if before.modified != after.modified:
        what |= What.LAST_WRITE
    if (before.mode, before.uid, before.gid) != (after.mode, after.uid, after.gid):
        what |= What.SECURITY
    return what


def _may_resize(core: Core, subject: Subject, size: int) -> None:
    inode, record = subject.inode, subject.record
    if record.kind == Kind.DIRECTORY:
        raise IsDirectory(f"inode {inode} is a directory")
    if record.kind != Kind.FILE:
        raise InvalidArgument(f"inode {inode} has no size that could be set")
    if not (subject.open is None and is_owner(subject.caller, record)):
        require(subject.rights, Access.WRITE_DATA)
    low, high = sorted((size, record.size))
    check_io(core, subject, low, high - low, write=True)


def _resize(
    core: Core, changes: Changes, subject: Subject, sized: InodeRecord, batch: Batch, after: InodeRecord, token: AnyToken | None, now: Time
) -> Found | Awaitable[Found]:
    """Sets the size, in one batch with the other changes. `sized` is the record of what has the size: the file or its stream."""
    assert changes.size is not None
    opened = subject.open
    inode = subject.inode if opened is None else opened.inode
    keep = changes.modified is not None or (opened is not None and opened.keep_modified)
    expected = after._replace(size=changes.size, changed=now, change=after.change + 1, modified=after.modified if keep else now)
    core.with_token(batch, token, Found(Lsn(0), expected.attributes(inode), before=sized.before))
    if opened is not None:
        batch.guard = core.guard(opened)
    done = core.data.truncate(inode, changes.size, now, batch, KEEP_MODIFIED if keep else 0)
    if core.watching.any:
        done = core.watching.written(inode, opened, True, done)
    return core.finish(done, lambda done: Found(done.lsn, core.attributes(inode), before=sized.before))
