"""Named streams: data beside a file's data, under names that belong to the file (MS-FSA 2.1.1.4).

A stream is an inode of its own for its data; everything else (times, rights, attributes) is its file's. Its name stands in an index of the
file that is laid out as a directory. Streams have no links, no parents but their file, and go with it.
"""

from sofs.errors import AccessDenied, Exists, NotSupported
from sofs.types import Inode, Kind, Time
from sofs.volume import directory, keys
from sofs.volume.access import require
from sofs.volume.api import Access, AnyToken, ListStreams, Renamed, Streams
from sofs.volume.batch import Batch
from sofs.volume.core import Core
from sofs.volume.directory import Place, Slot
from sofs.volume.inode import HAS_STREAMS, IS_STREAM, InodeRecord
from sofs.volume.names import check_stream
from sofs.volume.openfile import OpenFile
from sofs.volume.watching import STREAM_ADDED, STREAM_REMOVED


def find_stream(core: Core, base: Inode, name: bytes) -> tuple[Slot | None, Place]:
    """The stream of this name in any case, and the place for a new one. Raises `InvalidName`, `NameTooLong`."""
    check_stream(name)
    index = keys.bucket(keys.STREAM, base)
    core.note(index)
    return directory.look(core.get, index, core.names.first(name), name, True)


def stream_inodes(core: Core, inode: Inode, record: InodeRecord) -> list[Inode]:
    """A file's streams."""
    if not record.marks & HAS_STREAMS:
        return []
    return [slot.inode for slot in directory.slots(core.keys, keys.bucket(keys.STREAM, inode))]


def put_stream(core: Core, batch: Batch, base: Inode, file: InodeRecord, place: Place, name: bytes, now: Time) -> tuple[Inode, InodeRecord]:
    """Adds a new stream to the batch; gives its inode, and the file's record, which the caller writes."""
    inode = core.new_number(batch)
    record = InodeRecord(
        kind=Kind.FILE, marks=IS_STREAM, mode=0, links=1, uid=file.uid, gid=file.gid, generation=1, size=0, pages=0, created=now,
        accessed=now, modified=now, changed=now, change=1, flags=0, major=0, minor=0, ea_size=0, parent=base, tree=file.tree,
    )  # fmt: skip
    core.put_new(batch, inode, record, None)
    directory.put(batch, place, inode, Kind.FILE, name)
    return inode, file.stamped(now, marks=file.marks | HAS_STREAMS)


def remove_stream(core: Core, batch: Batch, slot: Slot) -> None:
    """Adds a stream's removal to the batch; a large one goes in the background."""
    directory.remove(batch, core.get, slot)
    drop_stream(core, batch, slot.inode)


def drop_stream(core: Core, batch: Batch, inode: Inode) -> None:
    """The same for a stream whose entry is the caller's business."""
    if core.data.small(inode):
        core.data.drop(batch, inode)
        core.delete_record(batch, inode)
        return
    core.put_record(batch, inode, core.record(inode)._replace(links=0))
    batch.put(keys.orphan(inode), b"")
    core.orphaned()


def rename_stream(core: Core, opened: OpenFile, name: bytes, replace: bool, token: AnyToken | None) -> Renamed:
    """Gives an open stream another name (MS-FSA 2.1.5.14.11.1). Raises `Exists`, and `AccessDenied` for a stream that is open."""
    require(opened.access, Access.DELETE)
    if not opened.stream:
        raise NotSupported("a file's own data cannot be made a named stream")
    index, base = keys.bucket(keys.STREAM, opened.base), opened.base
    file = core.record(base)
    source, _ = find_stream(core, base, opened.stream)
    assert source is not None, "an open stream has a name"
    target, place = find_stream(core, base, name)
    now = core.clock.now()
    batch = Batch()
    if target is not None and target.inode != source.inode:
        if not replace:
            raise Exists(f"there is a stream {target.name!r} already")
        if any(other.inode == target.inode for other in core.by_inode[base]):
            raise AccessDenied(f"stream {target.name!r} is open")
        drop_stream(core, batch, target.inode)
        place = target.place
    if core.names.first(name) == core.names.first(opened.stream):
        place = source.place  # another case only
    else:
        directory.remove(batch, core.get, source)
    directory.put(batch, place, source.inode, Kind.FILE, name)
    assert place.startswith(index)
    after = file.stamped(now)
    core.put_record(batch, base, after)
    reply = Renamed(core.gate, after.attributes(base), file.before, after.attributes(base), file.before)
    core.commit(batch, reply, token)
    if core.watching.any:
        core.watching.stream(opened, opened.stream, STREAM_REMOVED)
        core.watching.stream(opened, name, STREAM_ADDED)
    for other in core.by_inode[base]:
        if other.inode == source.inode:
            other.stream = name
            core.kept.touch(other)
    return reply


def list_streams(core: Core, request: ListStreams, token: AnyToken | None) -> Streams:
    subject = core.subject(request.target)
    if subject.open is None:
        require(subject.rights, Access.READ_ATTRIBUTES)
    base, _ = core.file_of(subject.inode, subject.record)
    index = keys.bucket(keys.STREAM, base)
    core.note(index)
    found = []
    for slot in directory.slots(core.keys, index):
        stream = core.record(slot.inode)
        found.append((slot.name, stream.size, stream.allocated))
    return Streams(core.gate, found)
