"""The ends of opens, and what they delete: Close, SetDisposition; and ListOpens.

A file marked for deletion keeps its name until its last open ends, and cannot be opened meanwhile (MS-FSA 2.1.5.4). The name that goes
is the one through which the mark was set. A directory into which somebody put something meanwhile stays.
"""

from contextlib import suppress

from sofs.errors import CannotDelete, Delayed, NotEmpty, SharingViolation, Stale
from sofs.types import Inode, Kind
from sofs.volume import directory, keys
from sofs.volume.access import require
from sofs.volume.api import READONLY, Access, AnyToken, Close, ClosedReply, ListOpens, OpenInfo, OpenList, Reply, SetDisposition
from sofs.volume.batch import Batch
from sofs.volume.core import Core, Wait
from sofs.volume.inode import is_nameless
from sofs.volume.openfile import OpenFile
from sofs.volume.opening import forget
from sofs.volume.removal import release, take_away
from sofs.volume.sharing import check_streams
from sofs.volume.streams import remove_stream
from sofs.volume.watching import STREAM_REMOVED


def close(core: Core, request: Close, token: AnyToken | None) -> ClosedReply:
    opened = core.open_of(request.open)
    last = must_delete(core, opened)
    if last:
        core.await_room()
    if opened.delete_on_close and opened.mandatory:
        _await_caches(core, opened)
    reply = ClosedReply(core.gate, core.attributes(opened.inode) if request.attributes else None)
    end_open(core, opened, reply, token, last)
    return reply


def _await_caches(core: Core, opened: OpenFile) -> None:
    """Before the last close of its application deletes a file, handles that are only cached are closed, so that the name goes with this close
    (smbtorture smb2.lease.unlink)."""
    with suppress(SharingViolation, Delayed):
        waiting = core.locks.check_remove(opened.inode, opened.id, wait=True)
        if waiting is not None:
            raise Wait(waiting)


def must_delete(core: Core, opened: OpenFile) -> bool:
    """Whether the open's end may have to delete something."""
    inode, base = opened.inode, opened.base
    return opened.delete_on_close or inode in core.doomed or base in core.doomed or _is_nameless(core, base)


def end_open(core: Core, opened: OpenFile, reply: Reply | None = None, token: AnyToken | None = None, last: bool = True) -> None:
    """Ends an open for good, with all that follows; `reply` gets its gate. `last` is what `must_delete` said, where that has been asked."""
    doomed(core, opened)
    forget(core, opened)
    deleted = core.locks.close(opened.inode, opened.id)
    aftermath(core, opened, deleted, reply, token, last)


def doomed(core: Core, opened: OpenFile) -> None:
    """An open that ends marks its file if it was to delete it."""
    core.parent_key = opened.parent_key
    if opened.delete_on_close:
        core.doomed[opened.inode] = opened
        if core.watching.any:
            core.watching.gone(opened.inode)


def aftermath(core: Core, opened: OpenFile, deleted: bool, reply: Reply | None = None, token: AnyToken | None = None, last: bool = True) -> None:
    """What follows when an open has left the lock engine; `deleted`: its file, or stream, is to go now. All in one batch, but that a stream goes first."""
    base = opened.base
    if core.directories and opened.parent in core.directories and _has_changed(core, opened):
        core.entries_changed(opened.parent)
    if opened.stream:
        if deleted:
            _delete_stream(core, opened)
        deleted = core.locks.close(base, opened.id)
    if not last and not opened.recorded:
        return
    batch, told = Batch(), None
    if last and base not in core.by_inode:
        marked = core.doomed.pop(base, None)
        if deleted and marked is not None:
            told = delete_name(core, batch, marked)
        if not batch.count and _is_nameless(core, base):
            _finish_orphan(core, batch, base)
    if batch.count or opened.recorded:
        done = core.note_down(batch, Reply(core.gate) if reply is None else reply, token, reserved=True)
        core.gate = done.gate
    if told is not None:
        core.changed(*told)


def _has_changed(core: Core, opened: OpenFile) -> bool:
    """Whether a directory's listing shows something else for the file than when it was opened."""
    try:
        return core.attributes(opened.inode).change != opened.change
    except Stale:
        return False


def _is_nameless(core: Core, inode: Inode) -> bool:
    value = core.get(keys.INODE + inode.to_bytes(8))
    return value is not None and is_nameless(value)


def delete_name(core: Core, batch: Batch, marked: OpenFile) -> tuple[Inode, bytes, int, Inode, int] | None:
    """Adds to the batch that the name goes through which the file was marked, if it is still that file's; gives what watchers are to be told."""
    parent, name = marked.parent, marked.name
    slot = core.find(parent, name, False)
    if slot is None or slot.inode != marked.base:
        return None
    record = core.record(slot.inode)
    if record.kind == Kind.DIRECTORY and record.size:
        return None
    take_away(core, batch, parent, core.record(parent), slot, record, core.clock.now())
    return parent, name, 2, slot.inode, slot.kind


def _delete_stream(core: Core, opened: OpenFile) -> None:
    core.doomed.pop(opened.inode, None)
    index = keys.bucket(keys.STREAM, opened.base)
    slot, _ = directory.look(core.get, index, core.names.first(opened.stream), opened.stream, True)
    if slot is not None and slot.inode == opened.inode:
        batch = Batch()
        remove_stream(core, batch, slot)
        file = core.record(opened.base)
        core.put_record(batch, opened.base, file.stamped(core.clock.now()))
        core.gate = core.keys.commit(batch, reserved=True)
        if core.watching.any:
            core.watching.stream(opened, opened.stream, STREAM_REMOVED)


def _finish_orphan(core: Core, batch: Batch, inode: Inode) -> None:
    """Removes a file that lost its last name while it was open; a large one is left to the background."""
    if release(core, batch, inode, core.record(inode)):
        batch.delete(keys.orphan(inode))
    else:
        core.orphaned()


def set_disposition(core: Core, request: SetDisposition, token: AnyToken | None) -> Reply:
    opened = core.open_of(request.open)
    require(opened.access, Access.DELETE)
    inode = opened.inode
    record = core.record(opened.base)
    if request.delete:
        core.writable()
        core.await_room()
        if not opened.name:
            raise CannotDelete("the share's own directory cannot be deleted through it")
        if record.flags & READONLY and not request.posix:
            raise CannotDelete(f"{opened.name!r} is read-only")
        if record.kind == Kind.DIRECTORY and record.size and not opened.stream:
            raise NotEmpty(f"directory {opened.name!r} has {record.size} entries")
        if not opened.stream:
            check_streams(core, inode)
    waiting = core.locks.mark_delete(inode, opened.id, request.delete, wait=opened.mandatory)
    if waiting is not None:
        raise Wait(waiting)
    batch, reply, told = Batch(), Reply(core.gate), None
    core.kept.touch_file(inode)
    if not request.delete:
        core.doomed.pop(inode, None)
    else:
        core.doomed[inode] = opened
        if core.watching.any:
            core.watching.gone(inode)
        if request.posix and not opened.stream and record.links:
            told = delete_name(core, batch, opened)  # the name goes now, the file with its last open
    if batch.count or core.kept.dirty:
        core.note_down(batch, reply, token, reserved=True)
    if told is not None:
        core.parent_key = opened.parent_key
        core.changed(*told)
    return reply


def list_opens(core: Core, request: ListOpens, token: AnyToken | None) -> OpenList:
    wanted = core.opens.values() if request.inode is None else core.by_inode.get(request.inode, ())
    return OpenList(core.gate, [_info(core, opened) for opened in wanted])


def _info(core: Core, opened: OpenFile) -> OpenInfo:
    return OpenInfo(
        opened.id,
        opened.inode,
        opened.parent,
        opened.name + b":" + opened.stream if opened.stream else opened.name,
        opened.caller.uid,
        opened.access,
        opened.share,
        opened.by.gateway,
        opened.by.session,
        core.delete_pending(opened.base) or core.locks.state(opened.inode).delete_pending,
        opened.client,
    )
