"""How names go, and the files whose last name is gone: the Remove request, orphans, and their collection.

A file goes when its last name and its last open are gone. Then, if it is small, everything of it is deleted in that same batch. Otherwise it
becomes an *orphan*: a `Z` record names it, its link count is 0, and it is removed later: at the last close, by `Reaper` in the
background when it is too large for one batch, or at recovery, when no open survives.
"""

from collections.abc import Callable
from typing import NamedTuple

from sofs.errors import AccessDenied, IsDirectory, NotDirectory, NotEmpty, NotFound, Stale
from sofs.types import Inode, Kind, Time
from sofs.volume import directory, keys
from sofs.volume.access import is_superuser, require, sticky_forbids
from sofs.volume.api import Access, AnyToken, Caller, Remove, Removed
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.directory import Slot
from sofs.volume.inode import HAS_DESCRIPTOR, InodeRecord
from sofs.volume.sharing import check_remove
from sofs.volume.streams import stream_inodes


def may_delete(core: Core, caller: Caller, parent: InodeRecord, parent_rights: int, inode: Inode, record: InodeRecord) -> bool:
    """Whether the caller may take a name of `inode` out of a directory on which he has `parent_rights`.

    The directory allows it (and its sticky bit does not forbid it), or the file's own descriptor does (MS-FSA 2.1.5.1.2.1).
    """
    if is_superuser(caller):
        return True
    if parent_rights & Access.DELETE_CHILD and not sticky_forbids(caller, parent, record):
        return True
    return bool(record.marks & HAS_DESCRIPTOR and core.rights(inode, record, caller) & Access.DELETE)


def remove(core: Core, request: Remove, token: AnyToken | None) -> Removed:
    at, name = request.at, request.name
    parent = core.directory(at)
    rights = core.rights(at, parent, request.caller)
    require(rights, Access.EXECUTE)
    slot = core.find(at, name, False)
    if slot is None:
        raise NotFound(f"there is no {name!r} in directory {at}")
    is_directory = slot.kind == Kind.DIRECTORY
    if request.directory is False and is_directory:
        raise IsDirectory(f"{name!r} is a directory")
    if request.directory and not is_directory:
        raise NotDirectory(f"{name!r} is not a directory")
    record = core.record(slot.inode)
    if not may_delete(core, request.caller, parent, rights, slot.inode, record):
        raise AccessDenied(f"{name!r} may not be removed")
    if is_directory and record.size:
        raise NotEmpty(f"directory {name!r} has {record.size} entries")
    core.await_room()
    check_remove(core, slot.inode)
    now = core.clock.now()
    batch = Batch()
    after = take_away(core, batch, at, parent, slot, record, now)
    reply = core.commit(batch, Removed(core.gate, after.attributes(at), parent.before), token, reserved=True)
    core.changed(at, slot.name, 2, slot.inode, slot.kind)
    return reply


def take_away(core: Core, batch: Batch, at: Inode, parent: InodeRecord, slot: Slot, record: InodeRecord, now: Time) -> InodeRecord:
    """Adds to the batch that the entry goes, with the directory's new record (which it gives) and what becomes of the file."""
    directory.remove(batch, core.get, slot)
    after = parent.touched(now, -1, -1 if slot.kind == Kind.DIRECTORY else 0)
    core.put_record(batch, at, after)
    drop_name(core, batch, slot.inode, record, now)
    return after


def drop_name(core: Core, batch: Batch, inode: Inode, record: InodeRecord, now: Time) -> None:
    """Adds to the batch what becomes of a file that loses one name (its entry is the caller's business)."""
    last = record.kind == Kind.DIRECTORY or record.links == 1
    left = record.stamped(now, links=0 if last else record.links - 1)
    if not last:
        core.put_record(batch, inode, left)
    elif inode in core.by_inode or not release(core, batch, inode, record):
        core.put_record(batch, inode, left)
        batch.put(keys.orphan(inode), b"")
        core.orphaned()


def release(core: Core, batch: Batch, inode: Inode, record: InodeRecord) -> bool:
    """Adds to the batch the removal of all there is of a nameless file, if that is small enough; else adds nothing and gives False."""
    streams = list(stream_inodes(core, inode, record))
    if not all(map(core.data.small, (inode, *streams))):
        return False
    for stream in streams:
        core.data.drop(batch, stream)
        core.delete_record(batch, stream)
    if streams:
        for key, _ in core.keys.scan(keys.bucket(keys.STREAM, inode)):
            batch.delete(key)
    if record.ea_size:
        for key, _ in core.keys.scan(keys.bucket(keys.EXTENDED, inode)):
            batch.delete(key)
    if record.marks & HAS_DESCRIPTOR:
        batch.delete(keys.descriptor(inode))
    if record.kind == Kind.FILE:
        core.data.drop(batch, inode)
    core.delete_record(batch, inode)
    return True


_A_SLICE = 32
"""Orphans removed before the loop gets its turn: some two milliseconds."""


class Reaped(NamedTuple):
    files: int
    waiting: int
    """Orphans that an open still holds."""


class Reaper:
    """Removes orphans, also large ones, in slices. A background duty: `run_once` does what there is to do."""

    def __init__(self, core: Core, serving: Callable[[], bool] = lambda: True) -> None:
        self._core = core
        self._serving = serving

    async def run_once(self) -> Reaped:
        core = self._core
        files = waiting = 0
        orphans = [Inode(int.from_bytes(key[keys.BUCKET :])) for key, _ in core.keys.scan(keys.bucket(keys.ORPHAN, 0))]
        for number, inode in enumerate(orphans):
            if not self._serving():
                break
            if number % _A_SLICE == 0:
                await core.clock.sleep(0)
            if inode in core.by_inode:
                waiting += 1
            else:
                files += await self._remove(inode)
        return Reaped(files, waiting)

    async def _remove(self, inode: Inode) -> bool:
        core = self._core
        if core.get(keys.orphan(inode)) is None:
            return False
        since = core.keys.restorations
        for part in (*stream_inodes(core, inode, core.record(inode)), inode):
            try:
                if not core.data.small(part):
                    await core.data.trim(part)
            except Stale:
                return False  # somebody else has finished it, or it was not there yet at a snapshot that has been restored
            if core.keys.restorations != since:
                return False  # it may live again
        if core.get(keys.orphan(inode)) is None:
            return False  # somebody else has finished it meanwhile
        if (full := core.data.exhausted()) is not None:
            await full
            if core.get(keys.orphan(inode)) is None:
                return False
        batch = Batch()
        whole = release(core, batch, inode, core.record(inode))
        assert whole, "what was trimmed is small, and nothing can write to a file without names and opens"
        batch.delete(keys.orphan(inode))
        core.keys.commit(batch, reserved=True)
        return True
