"""Checking names: directories, links, streams, orphans and what belongs to an inode, compared with each other."""

from collections import Counter
from collections.abc import Awaitable, Callable

from sofs.types import ROOT, Kind
from sofs.volume import keys
from sofs.volume.check.view import Note, View, decode_inode
from sofs.volume.inode import HAS_DESCRIPTOR, HAS_STREAMS, IS_STREAM, InodeRecord

_INODE = slice(0, 8)
_KIND = 8
_OWNED = {keys.EXTENDED: "extended attributes", keys.DESCRIPTOR: "a security descriptor", keys.STREAM: "streams", keys.ENTRY: "entries"}


async def check_names(view: View, note: Note, pause: Callable[[], Awaitable[None]]) -> None:
    """Compares every entry with the inode it names, and every inode with the entries that name it."""
    inodes: dict[int, InodeRecord] = {}
    for count, (key, value) in enumerate(view.walk(keys.INODE)):
        number = int.from_bytes(key[1:9])
        record = decode_inode(number, value, lambda where, what: None)  # noted by the check of maps
        if record is not None:
            inodes[number] = record
        if count % 256 == 0:
            await pause()
    names: Counter[int] = Counter()
    entries: Counter[int] = Counter()
    subdirectories: Counter[int] = Counter()
    parents: dict[int, int] = {}
    for count, (key, value) in enumerate(view.walk(keys.ENTRY)):
        if count % 256 == 0:
            await pause()
        inode = int.from_bytes(value[_INODE], "little")
        owner = int.from_bytes(key[1:9])
        if len(value) <= _KIND:
            note(f"directory {owner}", f"an entry of {len(value)} bytes cannot be read")
            continue
        if not inode:
            continue  # a vacant place (sofs/volume/directory.py)
        names[inode] += 1
        entries[owner] += 1
        parents[inode] = owner
        if _entry(inodes, owner, inode, value, note) and value[_KIND] == Kind.DIRECTORY:
            subdirectories[owner] += 1
    streams = _streams(view, inodes, note)
    orphans = {int.from_bytes(key[keys.BUCKET :]) for key, _ in view.walk(keys.ORPHAN) if key < keys.IDLE}
    for inode, record in inodes.items():
        where = f"inode {inode}"
        if record.marks & IS_STREAM:
            if inode not in streams and inode not in orphans:
                note(where, "is a stream of no file")
            continue
        if record.kind == Kind.DIRECTORY:
            _directory(inode, record, entries[inode], subdirectories[inode], parents.get(inode), names[inode], orphans, note)
        elif record.links != names[inode]:
            note(where, f"says {record.links} links, {names[inode]} entries name it")
        if not names[inode] and inode not in orphans and inode != ROOT:
            note(where, "has no name and is no orphan")
        if names[inode] and inode in orphans:
            note(where, "is an orphan and has a name")
    for inode in orphans - inodes.keys():
        note(f"inode {inode}", "is an orphan and does not exist")
    await _owned(view, inodes, note, pause)


def _entry(inodes: dict[int, InodeRecord], owner: int, inode: int, value: bytes, note: Note) -> bool:
    where = f"entry {value[_KIND + 1 :]!r} of directory {owner}"
    record = inodes.get(inode)
    if record is None:
        note(where, f"names inode {inode}, which does not exist")
        return False
    if record.kind != value[_KIND]:
        note(where, f"says that inode {inode} is of kind {value[_KIND]}, it is of kind {record.kind}")
    directory = inodes.get(owner)
    if directory is None or directory.kind != Kind.DIRECTORY:
        note(where, "is in something that is not a directory")
    return True


def _directory(
    inode: int, record: InodeRecord, entries: int, subdirectories: int, parent: int | None, names: int, orphans: set[int], note: Note
) -> None:
    where = f"directory {inode}"
    if record.size != entries:
        note(where, f"says {record.size} entries, it has {entries}")
    if inode not in orphans and record.links != 2 + subdirectories:
        note(where, f"says {record.links} links, it has {subdirectories} subdirectories")
    if names > 1:
        note(where, f"{names} entries name it")
    if parent is not None and record.parent != parent:
        note(where, f"says that it is in directory {record.parent}, it is in {parent}")


def _streams(view: View, inodes: dict[int, InodeRecord], note: Note) -> set[int]:
    found: set[int] = set()
    for key, value in view.walk(keys.STREAM):
        inode = int.from_bytes(value[_INODE], "little")
        if not inode:
            continue
        owner = int.from_bytes(key[1:9])
        where = f"stream {value[_KIND + 1 :]!r} of inode {owner}"
        record = inodes.get(inode)
        if inode in found:
            note(where, f"inode {inode} is another stream too")
        found.add(inode)
        if record is None:
            note(where, f"names inode {inode}, which does not exist")
        elif not record.marks & IS_STREAM or record.parent != owner:
            note(where, f"names inode {inode}, which is not a stream of this file")
        base = inodes.get(owner)
        if base is not None and not base.marks & HAS_STREAMS:
            note(f"inode {owner}", "has streams and is not marked so")
    return found


async def _owned(view: View, inodes: dict[int, InodeRecord], note: Note, pause: Callable[[], Awaitable[None]]) -> None:
    """Whatever is kept for an inode needs an inode that knows of it."""
    for tag, what in _OWNED.items():
        last = 0
        for count, (key, _) in enumerate(view.walk(tag)):
            if count % 256 == 0:
                await pause()
            owner = int.from_bytes(key[1:9])
            if owner != last and owner not in inodes:
                note(f"inode {owner}", f"has {what} and does not exist")
            last = owner
    described = {int.from_bytes(key[1:9]) for key, _ in view.walk(keys.DESCRIPTOR)}
    for inode, record in inodes.items():
        if bool(record.marks & HAS_DESCRIPTOR) != (inode in described):
            note(f"inode {inode}", "its mark for a security descriptor and the descriptor do not agree")
