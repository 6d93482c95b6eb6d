"""Who watches which directory, and what they are told: the volume's half of CHANGE_NOTIFY (MS-FSA 2.1.5.11 and 2.1.4.1).

A handler that has changed something says so (`Core.changed`, `Core.altered`), whichever protocol the request came by. Here the names on the way up from
the changed entry are found, and every open that watches one of these directories is told once the change is committed. Nothing is kept or looked up
while nobody watches.

Records name a file's directory but not its name there. A change through an open knows it; otherwise the directory is searched, what is found is
remembered until that name goes, and a directory too large to be searched makes its watchers look again by themselves (`TOO_MUCH`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from sofs.errors import Busy, NotDirectory, Stale
from sofs.types import ROOT, Inode, Kind, Level, Lsn, OpenId, VolumeId
from sofs.volume import directory, keys
from sofs.volume.access import is_superuser, require
from sofs.volume.api import Access, AnyToken, Caller, Noticed, Reply, Watch
from sofs.volume.api import Changed as What
from sofs.volume.inode import HAS_DESCRIPTOR, IS_STREAM

if TYPE_CHECKING:
    from sofs.volume.core import Core
    from sofs.volume.openfile import OpenFile
    from sofs.volume.pages import Done

DIRECTORY_GONE, ADDED, REMOVED, MODIFIED, OLD_NAME, NEW_NAME = 0, 1, 2, 3, 4, 5
STREAM_ADDED, STREAM_REMOVED, STREAM_MODIFIED, TOO_MUCH = 6, 7, 8, 9
"""Actions of MS-FSCC 2.7.1, and the two of `Noticed`."""

_MOST_SEARCHED = 4096
"""Entries of a directory: a search takes 2 ms then."""
_MOST_REMEMBERED = 65_536
_MOST_TREES = 256
"""Trees that one user watches in a volume: each change passes all those above it, some 5 us each."""
_MOST_OF_ONE = 256
"""Watchers of one directory that belong to one user, for the same reason."""


def watch(core: Core, request: Watch, token: AnyToken | None) -> Reply:
    """Raises `NotDirectory`, `AccessDenied` for an open that may not list its directory (MS-SMB2 3.3.5.19), and `Busy` for a user who watches too much."""
    opened = core.open_of(request.open)
    if opened.kind != Kind.DIRECTORY:
        raise NotDirectory("only directories are watched")
    require(opened.access, Access.READ_DATA)
    core.watching.watch(opened, request.filter, request.tree)
    return Reply(core.gate)


class _Watcher(msgspec.Struct):
    open: OpenId
    inode: Inode
    caller: Caller
    filter: int
    tree: bool


class Watching:
    """All watchers of a volume."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.any = False
        """Whether anybody watches anything: whoever has changed something need not ask for more."""
        self.volume = VolumeId(0)
        self.when: Callable[[Lsn, Level, Callable[[], None]], None] = lambda gate, level, send: send()
        """`Volume.when`."""
        self._watchers: dict[OpenId, _Watcher] = {}
        self._at: dict[Inode, list[_Watcher]] = {}
        self._trees = 0
        self._trees_of: dict[int, int] = {}
        """By user."""
        self._names: dict[Inode, tuple[Inode, bytes]] = {}
        self._inodes: dict[tuple[Inode, bytes], Inode] = {}

    def watch(self, opened: OpenFile, what: int, tree: bool) -> None:
        """From the first request on: a later one for the same open changes nothing (MS-FSA 2.1.5.11)."""
        if opened.id in self._watchers:
            return
        uid = opened.caller.uid
        if sum(each.caller.uid == uid for each in self._at.get(opened.inode, ())) >= _MOST_OF_ONE:
            raise Busy(f"user {uid} watches directory {opened.inode} {_MOST_OF_ONE} times")
        if tree and self._trees_of.get(uid, 0) >= _MOST_TREES:
            raise Busy(f"user {uid} watches {_MOST_TREES} trees")
        watcher = _Watcher(opened.id, opened.inode, opened.caller, what, tree)
        if tree:
            self._trees_of[uid] = self._trees_of.get(uid, 0) + 1
        self._watchers[opened.id] = watcher
        self._at.setdefault(opened.inode, []).append(watcher)
        self._trees += tree
        self.any = True

    def forget(self, open: OpenId) -> None:
        """The open has ended."""
        watcher = self._watchers.pop(open, None)
        if watcher is None:
            return
        others = self._at[watcher.inode]
        others.remove(watcher)
        if not others:
            del self._at[watcher.inode]
        if watcher.tree:
            self._trees -= 1
            uid = watcher.caller.uid
            self._trees_of[uid] -= 1
            if not self._trees_of[uid]:
                del self._trees_of[uid]
        if not self._watchers:
            self.any = False
            self._names.clear()
            self._inodes.clear()

    # What has happened

    def entry(self, parent: Inode, name: bytes, action: int, inode: Inode, kind: int) -> None:
        """A directory's entry came, went or was renamed."""
        if action in (REMOVED, OLD_NAME):
            self._names.pop(self._inodes.pop((parent, name), Inode(0)), None)
        elif inode:
            self._remember(inode, parent, name)
        what = What.DIR_NAME if kind == Kind.DIRECTORY else What.FILE_NAME
        self._tell(parent, name, action, what, self._core.keys.gate(keys.ENTRY + parent.to_bytes(8)))
        if action == REMOVED and kind == Kind.DIRECTORY:
            self.gone(inode)

    def altered(self, inode: Inode, what: int, opened: OpenFile | None) -> None:
        """A file's attributes or data have changed; `what` is bits of `Changed`."""
        gate = self._core.keys.gate(keys.INODE + inode.to_bytes(8))
        stream = b""
        if opened is not None and opened.stream:
            stream, inode = opened.stream, opened.base
        elif opened is None:
            try:
                record = self._core.record(inode)
            except Stale:
                return
            if record.marks & IS_STREAM:
                return  # only opens reach streams
        entry = (opened.parent, opened.name) if opened is not None else self._entry_of(inode)
        if entry is None or not entry[1]:
            if entry is not None and inode != ROOT:
                self._too_much(entry[0], gate)
            return
        parent, name = entry
        if stream:
            size, data = what & What.SIZE, what & What.LAST_WRITE
            of_stream = (What.STREAM_SIZE if size else 0) | (What.STREAM_WRITE if data else 0)
            if of_stream:
                self._tell(parent, name + b":" + stream, STREAM_MODIFIED, of_stream, gate)
            what &= ~(What.SIZE | What.LAST_WRITE)
        if what:
            self._tell(parent, name, MODIFIED, what, gate)

    def stream(self, opened: OpenFile, name: bytes, action: int) -> None:
        """A stream of the open's file came, went or was renamed."""
        gate = self._core.keys.gate(keys.INODE + opened.base.to_bytes(8))
        self._tell(opened.parent, opened.name + b":" + name, action, What.STREAM_NAME, gate)

    def written(self, inode: Inode, opened: OpenFile | None, grows: bool, done: Done | Awaitable[Done]) -> Done | Awaitable[Done]:
        """A file's data changed, or will have when `done` is there."""
        what = int(What.LAST_WRITE | What.SIZE) if grows else int(What.LAST_WRITE)
        if isinstance(done, Awaitable):
            return self._written_later(inode, opened, what, done)
        self.altered(inode, what, opened)
        return done

    async def _written_later(self, inode: Inode, opened: OpenFile | None, what: int, waiting: Awaitable[Done]) -> Done:
        done = await waiting
        self.altered(inode, what, opened)
        return done

    def gone(self, inode: Inode) -> None:
        """A watched directory is deleted, or will be when its last open ends."""
        gate = self._core.keys.gate(keys.INODE + inode.to_bytes(8))
        for watcher in self._at.get(inode, ()):
            self._deliver(watcher, DIRECTORY_GONE, b"", gate)

    # Whom to tell

    def _tell(self, parent: Inode, name: bytes, action: int, what: int, gate: Lsn) -> None:
        for watcher in self._at.get(parent, ()):
            if watcher.filter & what:
                self._deliver(watcher, action, name, gate)
        path: bytes | None = name
        passed = [parent]
        known: dict[tuple[Inode, Caller], bool] = {}
        for above, own in self._up(parent) if self._trees else ():
            path = own + b"/" + path if path is not None and own else None
            for watcher in self._at.get(above, ()):
                if watcher.tree and watcher.filter & what and self._may_hear(watcher, passed, known):
                    self._deliver(watcher, action if path is not None else TOO_MUCH, path or b"", gate)
            passed.append(above)

    def _too_much(self, parent: Inode, gate: Lsn) -> None:
        """Something in this directory changed whose name is not known."""
        for watcher in self._at.get(parent, ()):
            self._deliver(watcher, TOO_MUCH, b"", gate)
        for above, _ in self._up(parent) if self._trees else ():
            for watcher in self._at.get(above, ()):
                if watcher.tree:
                    self._deliver(watcher, TOO_MUCH, b"", gate)

    def _may_hear(self, watcher: _Watcher, passed: list[Inode], known: dict[tuple[Inode, Caller], bool]) -> bool:
        """Names are told only to those who could find them by listing all directories on the way: below a watched one there may be others' private ones."""
        caller = watcher.caller
        if is_superuser(caller):
            return True
        for inode in passed:
            may = known.get((inode, caller))
            if may is None:
                may = known[inode, caller] = self._may_list(inode, caller)
            if not may:
                return False
        return True

    def _may_list(self, inode: Inode, caller: Caller) -> bool:
        """As `lookup.enter` has it, and the right to list besides."""
        try:
            record = self._core.record(inode)
        except Stale:
            return False
        wanted = Access.READ_DATA if record.marks & HAS_DESCRIPTOR else Access.READ_DATA | Access.EXECUTE
        return not wanted & ~self._core.rights(inode, record, caller)

    def _deliver(self, watcher: _Watcher, action: int, path: bytes, gate: Lsn) -> None:
        noticed = Noticed(watcher.open, action, path)
        self.when(gate, Level.COMMITTED, lambda: self._core.tell(noticed))

    # Names

    def _up(self, inode: Inode) -> Iterator[tuple[Inode, bytes]]:
        """The directories above a directory, each with the name of the one below it there, or an empty one where that is not known."""
        while inode != ROOT:
            found = self._entry_of(inode)
            if found is None:
                return
            yield found
            inode = found[0]

    def _entry_of(self, inode: Inode) -> tuple[Inode, bytes] | None:
        """A name of the file: its directory, and the name there, empty if the directory is too large to be searched. None if it has none there."""
        core = self._core
        known = self._names.get(inode)
        if known is not None:
            return known
        for opened in core.by_inode.get(inode, ()):
            if opened.name:
                return opened.parent, opened.name
        try:
            parent = Inode(core.record(inode).parent)
        except Stale:
            return None
        for count, slot in enumerate(directory.slots(core.keys, keys.bucket(keys.ENTRY, parent))):
            if slot.inode == inode:
                self._remember(inode, parent, slot.name)
                return parent, slot.name
            if count == _MOST_SEARCHED:
                return parent, b""
        return None

    def _remember(self, inode: Inode, parent: Inode, name: bytes) -> None:
        if len(self._names) >= _MOST_REMEMBERED:
            self._names.clear()
            self._inodes.clear()
        self._inodes.pop(self._names.get(inode, (Inode(0), b"")), None)
        self._names[inode] = (parent, name)
        self._inodes[parent, name] = inode
