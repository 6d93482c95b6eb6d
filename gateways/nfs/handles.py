"""File handles: what an NFS client holds instead of an open file, and what it stands for.

A handle names volume, snapshot, inode, generation and export, and carries a MAC with a key that all gateways of a
cluster share. So a client can neither make one up nor turn one export's handle into another's, and a handle stays good
over restarts and at any node. It is 48 bytes, which mean nothing to the client:

    version u8, zero 3 bytes, export u32, volume u64, snapshot u64 (0: the living tree), inode u64, generation u32, zero 4 bytes, MAC 8 bytes

Whatever else has the right form but the wrong MAC is no handle of ours (`BadHandle`); one whose export, volume or file is gone
is `Stale`.
"""

import hashlib
import struct
from collections.abc import Callable
from hmac import compare_digest
from typing import NamedTuple

from gateways.exports import Client, Share, Shares
from gateways.nfs.auth import Credential
from gateways.nfs.listed import Listed
from gateways.nfs.snapshot_list import LIST, SnapshotList
from sofs.errors import AccessDenied, NotFound, Stale
from sofs.types import Inode, VolumeId
from sofs.volume.api import Attributes, Caller, Stateless, Volume

VERSION = 1
_TREE = struct.Struct(">B3xIQQ")
_FILE = struct.Struct(">QI4x")
MAC_SIZE = 8
HANDLE_SIZE = _TREE.size + _FILE.size + MAC_SIZE
FORMS = 12
"""Of listings that are remembered at once, over all exports: at most some 10 MB each."""
ROOT_EXPORT = 0
"""The export number of the directory above all exports."""

assert HANDLE_SIZE == 48


class BadHandle(Exception):
    """The bytes are no file handle of ours."""


class Named(NamedTuple):
    """What a handle says."""

    export: int
    volume: VolumeId
    snapshot: int
    inode: Inode
    generation: int


class Handles:
    """Makes and reads handles."""

    def __init__(self, key: bytes) -> None:
        assert len(key) >= 16, "a key that can be guessed"
        self._mac = hashlib.blake2b(key=key[:64], digest_size=MAC_SIZE)
        self._listed: dict[tuple[bytes, int], dict[int, Listed]] = {}

    def make(self, export: int, volume: VolumeId, inode: Inode, generation: int, snapshot: int = 0) -> bytes:
        return self.maker(export, volume, snapshot)(inode, generation)

    def maker(self, export: int, volume: VolumeId, snapshot: int = 0) -> Callable[[int, int], bytes]:
        """Makes the handles of one tree from inode and generation: what they have in common is prepared."""
        start = _TREE.pack(VERSION, export, volume, snapshot)
        base = self._mac.copy()
        base.update(start)
        copy, pack = base.copy, _FILE.pack

        def make(inode: int, generation: int) -> bytes:
            mac, rest = copy(), pack(inode, generation)
            mac.update(rest)
            return start + rest + mac.digest()

        return make

    def listed(self, handle: bytes, form: int) -> dict[int, Listed]:
        """What is remembered, by inode, of the entries listed in the tree that this handle belongs to, in one of the forms that clients ask for; for all
        users and clients."""
        key = handle[: _TREE.size], form
        found = self._listed.pop(key, None)
        if found is None:
            if len(self._listed) >= FORMS:
                del self._listed[next(iter(self._listed))]  # the one that has not been asked for longest
            found = {}
        self._listed[key] = found
        return found

    def read(self, handle: bytes) -> Named:
        """Raises `BadHandle`."""
        if len(handle) != HANDLE_SIZE:
            raise BadHandle
        _, export, volume, snapshot = _TREE.unpack_from(handle)
        inode, generation = _FILE.unpack_from(handle, _TREE.size)
        if not compare_digest(self.make(export, volume, inode, generation, snapshot), handle):
            raise BadHandle
        return Named(export, VolumeId(volume), snapshot, Inode(inode), generation)


class View:
    """One export, as it is or as of a snapshot, as one user on one client sees it."""

    __slots__ = ("_handles", "at", "caller", "fsid", "make", "read_only", "share", "snapshot", "volume")

    def __init__(
        self, handles: Handles, share: Share, snapshot: int, volume: Volume, client: Client, caller: Caller, at: Callable[[int], "View"]
    ) -> None:
        """`volume` is as of the snapshot, `at` gives the same export as of another one."""
        self.share = share
        self.snapshot = snapshot
        self.volume = volume
        self.caller = caller
        self.at = at
        self.read_only = share.read_only or client.read_only or snapshot != 0
        self.fsid = fsid(share, snapshot)
        self.make = handles.maker(share.number, share.volume, snapshot)
        self._handles = handles

    def listed(self, form: int) -> dict[int, Listed]:
        return self._handles.listed(self.make(0, 0), form)


class Place:
    """A file handle as one user's calls see it: the file, and the rules of its export."""

    __slots__ = ("_make", "_view", "caller", "fsid", "generation", "inode", "read_only", "share", "snapshot", "target", "volume")

    def __init__(self, view: View, inode: Inode, generation: int) -> None:
        self._view = view
        self._make = view.make
        self.share = view.share
        self.snapshot = view.snapshot
        """0: the living tree; `LIST`: the list of all snapshots."""
        self.volume = view.volume
        self.caller = view.caller
        self.read_only = view.read_only
        self.fsid = view.fsid
        self.inode = inode
        self.generation = generation
        self.target = Stateless(inode, view.caller, generation)

    def handle(self, of: Attributes) -> bytes:
        """The handle of another file of the same export."""
        return self._make(of.inode, of.generation)

    def sibling(self, of: Attributes) -> "Place":
        """Another file of the same export, for the same user."""
        return Place(self._view, of.inode, of.generation)

    def in_snapshot(self, snapshot: int, inode: Inode) -> "Place":
        """A file of the same export as of a snapshot (0: as it is), for the same user. Raises `NotFound`."""
        return Place(self._view.at(snapshot), inode, 0)

    @property
    def own_handle(self) -> bytes:
        """This file's handle. The generation must be known: that of a place found by its handle, or of a `sibling`."""
        return self._make(self.inode, self.generation)

    def listed(self, form: int = 0) -> dict[int, Listed]:
        """What is remembered of entries of this tree; `form` says what of (0: READDIRPLUS of version 3)."""
        return self._view.listed(form)

    @property
    def is_root(self) -> bool:
        return self.inode == self.share.root


def fsid(share: Share, snapshot: int = 0) -> int:
    """The export's file system number, the same at every node. It is one per export, because what is read-only in one may be
    writable in another, and clients cache per file system; and one per snapshot, in which the files have the numbers that they have today."""
    words = b"%d %d" % (share.volume, share.number) + (b" %d" % snapshot if snapshot else b"")
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest()) >> 1


class Places:
    """Finds what handles stand for, for one client's connection; remembers the answers until the shares change."""

    LIMIT = 8192
    """Answers remembered."""

    def __init__(self, handles: Handles, shares: Shares, groups: Callable[[int], tuple[int, ...]], peer: str, port: int = 0) -> None:
        self.handles = handles
        self.shares = shares
        self.peer = peer
        self.port = port
        """Where the client comes from."""
        self.root_handle = handles.make(ROOT_EXPORT, VolumeId(0), Inode(1), 0)
        """That of the directory above all exports."""
        self._groups = groups
        self._known: dict[tuple[Credential, bytes], Place] = {}
        self._views: dict[tuple[Credential, int, int], View] = {}
        self._version = shares.version

    def at(self, handle: bytes, who: Credential) -> Place | None:
        """The place of `handle`; None is the directory above all exports.

        Raises `BadHandle`, `Stale`, `AccessDenied` (not in the client list), `Unavailable`.
        """
        if self._version != self.shares.version:
            self._known.clear()
            self._views.clear()
            self._version = self.shares.version
        place = self._known.get((who, handle))
        if place is None:
            if handle == self.root_handle:
                return None
            place = self._find(handle, who)
            if len(self._known) >= self.LIMIT:
                self._known.clear()
            self._known[who, handle] = place
        return place

    def _find(self, handle: bytes, who: Credential) -> Place:
        named = self.handles.read(handle)
        view = self._views.get((who, named.export, named.snapshot))
        if view is None:
            share = self.shares.numbered(named.export)
            if share is None or not share.nfs.enabled:
                raise Stale(f"export {named.export} is gone")
            if share.volume != named.volume:
                raise Stale("the export lies in another volume now")
            try:
                view = self._view(share, who, named.snapshot)
            except NotFound:
                raise Stale(f"snapshot {named.snapshot} has been deleted") from None
        if view.share.volume != named.volume:
            raise Stale("the export lies in another volume now")
        return Place(view, named.inode, named.generation)

    def place(self, share: Share, who: Credential, inode: Inode, generation: int = 0) -> Place:
        """A file of `share` as this user sees it. Raises `AccessDenied`, `Unavailable`."""
        return Place(self._view(share, who), inode, generation)

    def _view(self, share: Share, who: Credential, snapshot: int = 0) -> View:
        if snapshot and (known := self._views.get((who, share.number, snapshot))) is not None:
            return known
        client = share.client(self.peer, self.port)
        if client is None:
            raise AccessDenied(f"{self.peer} port {self.port} is not admitted to {share.name}: not in its client list, or not a privileged port")
        caller = who.caller(client, self._groups)
        volume = self.shares.volume(share)
        if snapshot == LIST:
            volume = SnapshotList(volume, share.root)
        elif snapshot:
            volume = volume.at(snapshot)
        view = View(self.handles, share, snapshot, volume, client, caller, lambda other: self._view(share, who, other))
        if len(self._views) >= self.LIMIT:
            self._views.clear()
        self._views[who, share.number, snapshot] = view
        return view

    def visible(self) -> list[Share]:
        """The exports that this client may mount, by number."""
        return sorted(
            (share for share in self.shares.all() if share.nfs.enabled and share.client(self.peer, self.port)), key=lambda share: share.number
        )
