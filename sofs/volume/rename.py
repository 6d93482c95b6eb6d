"""Rename: a name moves, within its directory or to another, and may replace what stands there.

SMB renames through an open that has DELETE access (MS-FSA 2.1.5.15.11), by names in any case; NFS by names (RFC 1813 3.3.14). The
two differ in what may be replaced: SMB no directory and nothing that is open; NFS an empty directory by a directory, and an open file, which lives on
as an orphan.
"""

from contextlib import suppress
from typing import NamedTuple

from sofs.errors import (
    AccessDenied,
    CannotDelete,
    CrossVolume,
    DeletePending,
    Exists,
    InvalidArgument,
    IsDirectory,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotSupported,
    SharingViolation,
)
from sofs.locks.sharing import clashes
from sofs.types import ROOT, Inode, Kind, Time
from sofs.volume import directory, keys
from sofs.volume.access import require
from sofs.volume.api import READONLY, Access, AnyToken, Changed, Rename, Renamed, ShareMode
from sofs.volume.attributes import change_owner
from sofs.volume.batch import Batch
from sofs.volume.core import Core, Wait
from sofs.volume.directory import Place, Slot
from sofs.volume.inode import InodeRecord
from sofs.volume.make import adding, await_walks
from sofs.volume.names import NUMBER_BITS
from sofs.volume.openfile import OpenFile
from sofs.volume.removal import drop_name, may_delete
from sofs.volume.sharing import check_remove
from sofs.volume.streams import rename_stream
from sofs.volume.watching import ADDED, NEW_NAME, OLD_NAME, REMOVED

_PARENT_ACCESS = Access.WRITE_DATA


class _Move(NamedTuple):
    """What is to be done, once it is known to be right."""

    at: Inode
    source: Slot
    to: Inode
    name: bytes
    place: Place
    """Where the new entry goes: free, or the replaced entry's."""
    replaced: Slot | None


def rename(core: Core, request: Rename, token: AnyToken | None) -> Renamed:
    opened = None if request.open is None else core.open_of(request.open)
    if opened is not None and request.stream is not None:
        return rename_stream(core, opened, request.stream, request.replace, token)
    at, source = _source(core, request, opened)
    moved = core.record(source.inode)
    source_parent = core.directory(at)
    to = request.to
    target_parent = source_parent if to == at else core.directory(to)
    slot, place = core.look(to, request.to_name, request.fold)
    if slot is not None and slot.place == source.place:
        slot = None  # its own name, or that in another case
        if source.name == request.to_name:
            return _unchanged(core, at, source_parent, to, target_parent)
    elif slot is not None and slot.inode == source.inode and not request.fold:
        return _unchanged(core, at, source_parent, to, target_parent)  # two names of one file: nothing to do (POSIX rename)
    place = place if slot is None else slot.place
    move = _Move(at, source, to, request.to_name, place, slot)
    _check_source(core, request, opened, move, moved, source_parent)
    if to != at or slot is not None or _hash(place) != _hash(source.place):
        core.require(to, target_parent, request.caller, adding(source.kind, target_parent, request.fold))
    if slot is not None:
        if not request.replace:
            raise Exists(f"{slot.name!r} exists")
        _check_replaced(core, request, opened, move, target_parent)
        core.await_room()  # replacing gives space back, so it gets through where the log is full
    if source.kind == Kind.DIRECTORY and to != at:
        _check_cycle(core, source.inode, to)
    return _carry_out(core, move, moved, source_parent, target_parent, token)


def _source(core: Core, request: Rename, opened: OpenFile | None) -> tuple[Inode, Slot]:
    """The name to be moved: the open's own, or the one given."""
    at, name = (opened.parent, opened.name) if opened else (request.at, request.name)
    if opened is None:
        core.directory(at)  # or it would be a name that is not there
    else:
        require(opened.access, Access.DELETE)
        if opened.stream:
            raise NotSupported("a stream stays with its file")
        if not opened.name:
            raise AccessDenied("the share's own directory cannot be renamed through it")
        if core.delete_pending(opened.inode):
            raise DeletePending(f"{opened.name!r} is about to be deleted")
    slot = core.find(at, name, request.fold and opened is None)
    if slot is None or (opened is not None and slot.inode != opened.inode):
        raise NotFound(f"there is no {name!r} in directory {at} any more")
    # Before the target is looked at, so it holds for the directory's own name too (MS-FSA 2.1.5.14.11).
    if opened is not None and slot.kind == Kind.DIRECTORY and _open_below(core, slot.inode):
        raise AccessDenied(f"files below {name!r} are open")
    return at, slot


def _unchanged(core: Core, at: Inode, source: InodeRecord, to: Inode, target: InodeRecord) -> Renamed:
    return Renamed(core.gate, source.attributes(at), source.before, target.attributes(to), target.before)


def _check_source(core: Core, request: Rename, opened: OpenFile | None, move: _Move, moved: InodeRecord, parent: InodeRecord) -> None:
    if opened is not None:
        # DELETE access was granted, and shared by every other open, when it was opened.
        # As if the directory were opened to add a name to it, sharing reads and writes (MS-FSA 2.1.5.14.11).
        if any(clashes(held, _PARENT_ACCESS, ShareMode.READ | ShareMode.WRITE) for held in core.locks.state(move.to).opens):
            raise SharingViolation("an open of the directory keeps names from being moved into it")
        core.parent_key = opened.parent_key
        waiting = core.locks.check_remove(opened.inode, opened.id, wait=opened.mandatory)
        if waiting is not None:
            raise Wait(waiting)
        return
    rights = core.rights(move.at, parent, request.caller)
    require(rights, Access.EXECUTE)
    if not may_delete(core, request.caller, parent, rights, move.source.inode, moved):
        raise AccessDenied(f"{move.source.name!r} may not be taken out of its directory")
    check_remove(core, move.source.inode)


def _check_replaced(core: Core, request: Rename, opened: OpenFile | None, move: _Move, parent: InodeRecord) -> None:
    slot = move.replaced
    assert slot is not None
    record = core.record(slot.inode)
    rights = core.rights(move.to, parent, request.caller)
    if not may_delete(core, request.caller, parent, rights, slot.inode, record):
        raise AccessDenied(f"{slot.name!r} may not be replaced")
    if opened is not None:
        if slot.kind == Kind.DIRECTORY or move.source.kind == Kind.DIRECTORY:
            raise AccessDenied("a directory is neither replaced nor does it replace anything")
        if record.flags & READONLY:
            raise CannotDelete(f"{slot.name!r} is read-only")
        if slot.inode != move.source.inode:
            _check_unused(core, opened, slot)
        return
    if slot.kind == Kind.DIRECTORY:
        if move.source.kind != Kind.DIRECTORY:
            raise IsDirectory(f"{slot.name!r} is a directory")
        if record.size:
            raise NotEmpty(f"directory {slot.name!r} has {record.size} entries")
    elif move.source.kind == Kind.DIRECTORY:
        raise NotDirectory(f"{slot.name!r} is not a directory")
    check_remove(core, slot.inode)


def _check_unused(core: Core, opened: OpenFile, slot: Slot) -> None:
    """Raises `AccessDenied` if the file is open, unless it is so only in somebody's cache (smbtorture smb2.lease.v2_rename_target_overwrite)."""
    if slot.inode in core.by_inode:
        with suppress(SharingViolation):
            waiting = core.locks.check_remove(slot.inode, key=opened.key, wait=opened.mandatory)
            if waiting is not None:
                raise Wait(waiting)
    if slot.inode in core.by_inode:
        raise AccessDenied(f"{slot.name!r} is open")


def _check_cycle(core: Core, moved: Inode, to: Inode) -> None:
    """Raises `InvalidArgument` if directory `to` is `moved` or lies below it. A directory's `parent` is exact."""
    while to != ROOT:
        if to == moved:
            raise InvalidArgument("a directory cannot be moved below itself")
        to = Inode(core.record(to).parent)


def _open_below(core: Core, top: Inode) -> bool:
    """Whether anything below a directory is open."""
    for inode, opens in core.by_inode.items():
        if inode == top:
            continue
        above = opens[0].parent
        while above not in (ROOT, top):
            value = core.get(keys.inode(above))
            if value is None:
                break  # an orphan, whose directory is gone too
            above = Inode(InodeRecord.decode(value).parent)
        if above == top:
            return True
    return False


def _hash(place: Place) -> int:
    return int.from_bytes(place) >> NUMBER_BITS


def _into_tree(core: Core, batch: Batch, inode: Inode, moved: InodeRecord, to: InodeRecord) -> InodeRecord:
    """What is moved into another directory quota is counted there. Raises `QuotaExceeded`, `Delayed`, and `CrossVolume` for what has to be copied.

    That is a directory that is not empty, as it takes all below it along, and a file that may still have names in the tree it comes from. As
    between XFS's projects, clients then copy and delete.
    """
    if (moved.kind == Kind.DIRECTORY and (moved.size or moved.tree == inode)) or (moved.kind != Kind.DIRECTORY and moved.links > 1):
        await_walks(core, moved.tree, to.tree)
        raise CrossVolume("the directories have quotas of their own")
    after = moved._replace(tree=to.tree)
    change_owner(core, batch, inode, moved, after)
    return after


def _carry_out(
    core: Core, move: _Move, moved: InodeRecord, source_parent: InodeRecord, target_parent: InodeRecord, token: AnyToken | None
) -> Renamed:
    at, source, to, place, replaced = move.at, move.source, move.to, move.place, move.replaced
    now = core.clock.now()
    batch = Batch()
    if source_parent.tree != target_parent.tree:
        moved = _into_tree(core, batch, source.inode, moved, target_parent)
    if replaced is None and _hash(place) == _hash(source.place):
        # A change of case only: the entry keeps its place, or its hash's numbers could get a gap.
        directory.put(batch, source.place, source.inode, source.kind, move.name)
    else:
        directory.remove(batch, core.get, source)
        directory.put(batch, place, source.inode, source.kind, move.name)
    is_directory = source.kind == Kind.DIRECTORY
    if replaced is None or replaced.inode != source.inode:
        core.put_record(batch, source.inode, moved.stamped(now, parent=to))
    if replaced is not None:
        drop_name(core, batch, replaced.inode, core.record(replaced.inode), now)
    gone = replaced is not None
    gone_directory = replaced is not None and replaced.kind == Kind.DIRECTORY
    if at == to:
        source_after = target_after = source_parent.touched(now, -gone, -gone_directory)
    else:
        source_after = source_parent.touched(now, -1, -is_directory)
        target_after = target_parent.touched(now, 1 - gone, is_directory - gone_directory)
        core.put_record(batch, to, target_after)
    core.put_record(batch, at, source_after)
    reply = Renamed(core.gate, source_after.attributes(at), source_parent.before, target_after.attributes(to), target_parent.before)
    core.commit(batch, reply, token, reserved=replaced is not None)
    _follow(core, move, now)
    return reply


def _follow(core: Core, move: _Move, now: Time) -> None:
    """Opens keep the name they were opened by, wherever it goes; and watchers are told."""
    users = list(core.by_inode.get(move.source.inode, ()))
    if move.source.inode in core.doomed:
        users.append(core.doomed[move.source.inode])
    for opened in users:
        if opened.parent == move.at and opened.name == move.source.name:
            opened.parent, opened.name = move.to, move.name
            core.kept.touch(opened)
    inode, kind = move.source.inode, move.source.kind
    if move.replaced is not None:
        core.changed(move.to, move.replaced.name, REMOVED, move.replaced.inode, move.replaced.kind)
    within = move.at == move.to
    core.changed(move.at, move.source.name, OLD_NAME if within else REMOVED, inode, kind)
    core.changed(move.to, move.name, NEW_NAME if within else ADDED, inode, kind)
    if kind == Kind.FILE:
        # As NTFS tells it (smbtorture smb2.notify.mask-change).
        core.altered(inode, Changed.ATTRIBUTES | Changed.CREATION)
