"""Requests that make names: Make (NFS's CREATE, MKDIR, SYMLINK, MKNOD) and Link."""

from collections.abc import Awaitable

from sofs.errors import CrossVolume, Delayed, DeletePending, Exists, InvalidArgument, IsDirectory, NotPermitted, Stale, TooManyLinks
from sofs.types import Inode, Kind, Time
from sofs.volume import directory
from sofs.volume.access import is_superuser
from sofs.volume.api import Access, AnyToken, Changes, Found, Link, Make, SetAttributes, Stateless
from sofs.volume.attributes import change, change_owner, set_attributes
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.directory import Slot
from sofs.volume.inode import HAS_DESCRIPTOR, IS_STREAM, InodeRecord
from sofs.volume.names import check_link
from sofs.volume.quotas.limits import walk_key
from sofs.volume.security import Descriptor

MAX_LINKS = 1 << 20

_NOTHING = Changes()
_SPECIAL = (Kind.FIFO, Kind.SOCKET, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


def adding(kind: int, directory: InodeRecord, fold: bool = False) -> int:
    """The rights that adding something of this kind to a directory takes: FILE_ADD_FILE or FILE_ADD_SUBDIRECTORY, and traversal as in `enter`."""
    right = Access.APPEND_DATA if kind == Kind.DIRECTORY else Access.WRITE_DATA
    return right if fold and directory.marks & HAS_DESCRIPTOR else right | Access.EXECUTE


def make(core: Core, request: Make, token: AnyToken | None) -> Found | Awaitable[Found]:
    at, name, kind = request.at, request.name, request.kind
    parent = core.directory(at)
    slot, place = core.look(at, name, False)
    if slot is not None:
        core.require(at, parent, request.caller, Access.EXECUTE)
        return _existing(core, request, parent, slot, token)
    core.require(at, parent, request.caller, adding(kind, parent))
    now = core.clock.now()
    batch = Batch()
    record, descriptor = _new(core, request, parent, now)
    inode = core.new_number(batch)
    record = core.put_new(batch, inode, record, descriptor)
    after = put_name(core, batch, at, parent, place, inode, kind, name, now)
    reply = Found(core.gate, record.attributes(inode), (name,), after.attributes(at), parent.before)
    core.commit(batch, reply, token)
    core.changed(at, name, 1, inode, kind)
    return reply


def put_name(
    core: Core, batch: Batch, at: Inode, parent: InodeRecord, place: directory.Place, inode: Inode, kind: int, name: bytes, now: Time
) -> InodeRecord:
    """Adds an entry at a free place, and the directory's new record, which it gives."""
    directory.put(batch, place, inode, kind, name)
    after = parent.touched(now, 1, 1 if kind == Kind.DIRECTORY else 0)
    core.put_record(batch, at, after)
    return after


def _existing(core: Core, request: Make, parent: InodeRecord, slot: Slot, token: AnyToken | None) -> Found | Awaitable[Found]:
    record = core.record(slot.inode)
    if request.exclusive is not None:
        if slot.kind != Kind.FILE or record.text != request.exclusive.to_bytes(8):
            raise Exists(f"{slot.name!r} exists, made by another request")
    elif request.guarded or request.kind != Kind.FILE or slot.kind != Kind.FILE:
        raise Exists(f"{slot.name!r} exists")
    if core.delete_pending(slot.inode):
        raise DeletePending(f"{slot.name!r} is about to be deleted")
    found = Found(core.gate, record.attributes(slot.inode), (slot.name,), parent.attributes(request.at), parent.before)
    if request.changes.size is None or request.exclusive is not None:
        return found
    # Of an existing file, an unguarded CREATE sets the size only (RFC 1813 3.3.8).
    resize = SetAttributes(Stateless(slot.inode, request.caller), Changes(size=request.changes.size))
    done = set_attributes(core, resize, token)
    return _with_attributes(found, done)


def _with_attributes(found: Found, done: Found | Awaitable[Found]) -> Found | Awaitable[Found]:
    if isinstance(done, Found):
        found.attributes, found.gate = done.attributes, done.gate
        return found

    async def later() -> Found:
        ready = await done
        found.attributes, found.gate = ready.attributes, ready.gate
        return found

    return later()


def _new(core: Core, request: Make, parent: InodeRecord, now: Time) -> tuple[InodeRecord, Descriptor | None]:
    """The new file's record and descriptor, from all that the request says of it."""
    kind, caller = request.kind, request.caller
    if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) and not is_superuser(caller):
        raise NotPermitted("only the superuser makes devices")
    changes = request.changes
    mode = changes.mode if changes.mode is not None else 0o777 if kind == Kind.SYMLINK else None
    record, descriptor = core.new_record(request.at, parent, kind, caller, mode, now)
    if kind == Kind.SYMLINK:
        check_link(request.target)
        record = record._replace(size=len(request.target), extra=request.target)
    elif kind in _SPECIAL:
        record = record._replace(major=request.device[0], minor=request.device[1])
    elif request.exclusive is not None:
        record = record._replace(extra=request.exclusive.to_bytes(8))
    elif changes.size is not None and kind == Kind.FILE:
        core.data.check_size(changes.size)
        record = record._replace(size=changes.size)
    others = Changes(None, changes.uid, changes.gid, None, changes.created, changes.accessed, changes.modified, None, changes.flags)
    if others != _NOTHING:
        record = change(core, record, others, caller, now)._replace(changed=now, change=1)
    return record, descriptor


def await_walks(core: Core, *trees: int) -> None:
    """Raises `Delayed` while what is below these directories is still being brought into their trees, or out of them."""
    if any(tree and core.get(walk_key(tree)) is not None for tree in trees):
        raise Delayed("the directory's quota is being set up, or taken away")


def _into_tree(core: Core, batch: Batch, inode: Inode, record: InodeRecord, to: InodeRecord) -> InodeRecord:
    """A file whose only name lies in the same tree as its new one belongs there, although the tree's walk has not come to it yet.

    Raises `CrossVolume` for any other that belongs elsewhere: it cannot be counted in two trees (XFS refuses the same between projects). `Delayed` while
    a walk may yet come to it.
    """
    if record.tree == to.tree:
        return record
    if record.links != 1 or core.record(Inode(record.parent)).tree != to.tree:
        await_walks(core, record.tree, to.tree)
        raise CrossVolume("the directories have quotas of their own")
    after = record._replace(tree=to.tree)
    change_owner(core, batch, inode, record, after)
    return after


def link(core: Core, request: Link, token: AnyToken | None) -> Found:
    inode, at, name = request.inode, request.at, request.name
    record = core.record(inode)
    if record.kind == Kind.DIRECTORY:
        raise IsDirectory("a directory has one name")
    if record.marks & IS_STREAM:
        raise InvalidArgument("a stream has no names in directories")
    if record.links == 0:
        raise Stale(f"the last name of inode {inode} has been removed")
    if core.delete_pending(inode):
        raise DeletePending(f"inode {inode} is about to be deleted")
    if record.links >= MAX_LINKS:
        raise TooManyLinks(f"inode {inode} has {record.links} names")
    parent = core.directory(at)
    core.require(at, parent, request.caller, adding(Kind.FILE, parent, request.fold))
    slot, place = core.look(at, name, request.fold)
    if slot is not None:
        raise Exists(f"{slot.name!r} exists")
    now = core.clock.now()
    batch = Batch()
    record = _into_tree(core, batch, inode, record, parent).stamped(now, links=record.links + 1)
    core.put_record(batch, inode, record)
    after = put_name(core, batch, at, parent, place, inode, record.kind, name, now)
    reply = Found(core.gate, record.attributes(inode), (name,), after.attributes(at), parent.before)
    core.commit(batch, reply, token)
    core.changed(at, name, 1, inode, record.kind)
    return reply
