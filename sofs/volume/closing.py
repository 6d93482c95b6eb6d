"""The ends of opens, and what they delete: Close, SetDisposition; and ListOpens.

A file marked for deletion keeps its name until its last open ends, and cannot be opened meanwhile (MS-FSA 2.1.5.4). The name that goes
is the one through which the mark was set. A directory into which somebody put something meanwhile stays.
"""

from sofs.errors import CannotDelete, NotEmpty
from sofs.types import Inode, Kind
from sofs.volume import directory, keys
from sofs.volume.access import require
from sofs.volume.api import (
    READONLY,
    Access,
    Binding,
    Close,
    ClosedReply,
    ListOpens,
    OpenInfo,
    OpenList,
    Reply,
    SetDisposition,
    Token,
)
from sofs.volume.batch import Batch
from sofs.volume.core import Core, OpenFile, Wait
from sofs.volume.inode import is_nameless
from sofs.volume.removal import release, take_away
from sofs.volume.sharing import check_streams
from sofs.volume.streams import remove_stream
from sofs.volume.watching import STREAM_REMOVED

__all__ = ["close", "list_opens", "set_disposition"]


def close(core: Core, request: Close, token: Token | None, by: Binding) -> ClosedReply:
    opened = core.open_of(request.open)
    inode, base = opened.inode, opened.base
    if opened.delete_on_close or inode in core.doomed or base in core.doomed or _is_nameless(core, base):
        core.await_room()
    attributes = core.attributes(inode) if request.attributes else None
    _forget(core, opened)
    if opened.delete_on_close:
        core.doomed[inode] = opened
        if core.watching.any:
            core.watching.gone(inode)
    deleted = core.locks.close(inode, opened.id)
    if opened.stream:
        if deleted:
            _delete_stream(core, opened)
        deleted = core.locks.close(base, opened.id)
    if base not in core.by_inode:
        marked = core.doomed.pop(base, None)
        if deleted and marked is not None:
            _delete(core, marked)
        if _is_nameless(core, base):
            _finish_orphan(core, base)
    return ClosedReply(core.gate, attributes)


def _is_nameless(core: Core, inode: Inode) -> bool:
    value = core.get(keys.INODE + inode.to_bytes(8))
    return value is not None and is_nameless(value)


def _forget(core: Core, opened: OpenFile) -> None:
    del core.opens[opened.id]
    if core.watching.any:
        core.watching.forget(opened.id)
    if opened.guid:
        core.by_guid.pop(opened.guid, None)
    others = core.by_inode[opened.base]
    if len(others) == 1:
        del core.by_inode[opened.base]
    else:
        others.remove(opened)


def _delete(core: Core, marked: OpenFile) -> None:
    """Takes the name through which the file was marked away, if it is still that file's."""
    parent, name = marked.parent, marked.name
    slot = core.find(parent, name, False)
    if slot is None or slot.inode != marked.base:
        return
    record = core.record(slot.inode)
    if record.kind == Kind.DIRECTORY and record.size:
        return
    batch = Batch()
    take_away(core, batch, parent, core.record(parent), slot, record, core.clock.now())
    core.gate = core.keys.commit(batch, reserved=True)
    core.changed(parent, name, 2, slot.inode, slot.kind)


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


def _finish_orphan(core: Core, inode: Inode) -> None:
    """Removes a file that lost its last name while it was open; a large one is left to the background."""
    batch = Batch()
    if release(core, batch, inode, core.record(inode)):
        batch.delete(keys.orphan(inode))
        core.gate = core.keys.commit(batch, reserved=True)
    else:
        core.orphaned()


def set_disposition(core: Core, request: SetDisposition, token: Token | None, by: Binding) -> Reply:
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
    if not request.delete:
        core.doomed.pop(inode, None)
        return Reply(core.gate)
    core.doomed[inode] = opened
    if core.watching.any:
        core.watching.gone(inode)
    if request.posix and not opened.stream and record.links:
        _delete(core, opened)  # the name goes now, the file with its last open
    return Reply(core.gate)


def list_opens(core: Core, request: ListOpens, token: Token | None, by: Binding) -> OpenList:
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
    )
