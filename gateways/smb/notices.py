"""What the opens that watch their directory have yet to tell their clients, MS-SMB2 3.3.4.4 and 3.3.5.19.

The first CHANGE_NOTIFY of an open begins to watch, and decides what for and how much is kept. From then on changes are collected, also while no request waits.
A request is answered with all there is, at once or with the next change; what is more than it, or the first one, has room for becomes
NOTIFY_ENUM_DIR, and the client looks for itself.
"""

import asyncio
import struct
from collections import deque

from gateways.smb.handle import Handle
from gateways.smb.names import to_wire
from gateways.smb.status import Status
from gateways.smb.wire import padding, utf16
from sofs.types import OpenId, VolumeId
from sofs.volume.api import Noticed, Watch

MOST_KEPT = 64 << 10
"""Bytes of one open's changes, however much its client has room for."""
MOST_OF_ALL = 64 << 20
"""Bytes of all opens' changes: beyond that, clients are told to look for themselves."""
MOST_WAITING = 512
"""Requests of one open that wait for a change."""
_ENTRY = struct.Struct("<III")  # next, action, name length; MS-FSCC 2.7.1
_GONE, _MODIFIED, _OLD_NAME, _TOO_MUCH = 0, 3, 4, 9
_STREAMS = (6, 7, 8)

Told = tuple[Status, bytes]
"""A reply's status, and its changes."""


class Kept:
    """How many bytes of changes are kept, over all opens."""

    def __init__(self) -> None:
        self.size = 0


class Notices:
    """The changes that one open has seen and its client has not."""

    def __init__(self, room: int, kept: Kept, watch: Watch) -> None:
        self.watch = watch
        """What the volume was asked."""
        self._kept = kept
        self._most = min(room, MOST_KEPT)
        self._changes: list[tuple[int, bytes]] = []
        """Action and encoded name."""
        self._size = 0
        self._overflow = False
        self._waiting: deque[tuple[asyncio.Future[Told], int]] = deque()
        self._end: Status | None = None

    def lost(self) -> None:
        """Something may have happened of which nobody was told: the client is to look for itself."""
        self.add(_TOO_MUCH, b"")

    def add(self, action: int, path: bytes) -> None:
        if action == _GONE:
            self.end(Status.DELETE_PENDING)
            return
        self._keep(action, path)
        # The new name of what was renamed comes next, and both belong into one reply.
        if action != _OLD_NAME:
            self._answer()

    def _keep(self, action: int, path: bytes) -> None:
        if self._overflow:
            return
        name = b"" if action == _TOO_MUCH else utf16(shown(action, path))
        if action == _MODIFIED and self._changes and self._changes[-1] == (action, name):
            return
        more = _ENTRY.size + len(name) + (-len(name) & 3)
        self._size += more
        self._kept.size += more
        if action == _TOO_MUCH or self._size > self._most or self._kept.size > MOST_OF_ALL:
            self._overflow = True
            self._clear()
        else:
            self._changes.append((action, name))

    def _clear(self) -> None:
        self._kept.size -= self._size
        self._changes, self._size = [], 0

    def _answer(self) -> None:
        while self._waiting and (self._changes or self._overflow):
            future, room = self._waiting.popleft()
            if not future.done():
                future.set_result(self._take(room))

    def _take(self, room: int) -> Told:
        changes, overflow = self._changes, self._overflow
        self._overflow = False
        self._clear()
        data = b"" if overflow else encode(changes)
        if overflow or len(data) > room:
            return Status.NOTIFY_ENUM_DIR, b""
        return Status.SUCCESS, data

    async def wait(self, room: int) -> Told:
        """What has changed since the last time, at most `room` bytes of it, or else the next change."""
        if self._end is not None:
            return self._end, b""
        if (self._changes or self._overflow) and not self._waiting:
            return self._take(room)
        if len(self._waiting) >= MOST_WAITING:
            return Status.INSUFFICIENT_RESOURCES, b""
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        place = (future, room)
        self._waiting.append(place)
        try:
            return await future
        finally:
            if place in self._waiting:
                self._waiting.remove(place)

    def end(self, status: Status) -> None:
        """Nothing more will be told: every request, also a later one, is answered `status`."""
        self._end = status
        self._clear()
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_result((status, b""))


class Watched:
    """All opens of the gateway that watch."""

    def __init__(self) -> None:
        self._notices: dict[tuple[VolumeId, OpenId], Notices] = {}
        self.kept = Kept()

    def begin(self, handle: Handle, room: int, watch: Watch) -> Notices:
        notices = handle.notices = Notices(room, self.kept, watch)
        self._notices[handle.volume.id, handle.id] = notices
        return notices

    def noticed(self, volume: VolumeId, what: Noticed) -> None:
        """Other gateways' opens are none of ours."""
        notices = self._notices.get((volume, what.open))
        if notices is not None:
            notices.add(what.action, what.name)

    def end(self, handle: Handle) -> None:
        """The open ends: who waits is answered NOTIFY_CLEANUP (MS-SMB2 3.3.5.10)."""
        if handle.notices is not None:
            del self._notices[handle.volume.id, handle.id]
            handle.notices.end(Status.NOTIFY_CLEANUP)
            handle.notices = None


def shown(action: int, path: bytes) -> str:
    """A path below a directory as clients see it; where a stream is told of, its name follows the last colon."""
    stream = ""
    if action in _STREAMS:
        path, _, own = path.rpartition(b":")
        stream = ":" + own.decode("utf-8", "surrogatepass")
    return "\\".join(map(to_wire, path.split(b"/"))) + stream


def encode(changes: list[tuple[int, bytes]]) -> bytes:
    """FILE_NOTIFY_INFORMATION, MS-FSCC 2.7.1."""
    parts = []
    last = len(changes) - 1
    for place, (action, name) in enumerate(changes):
        rest = padding(len(name), 4) if place < last else b""
        following = _ENTRY.size + len(name) + len(rest) if place < last else 0
        parts.append(_ENTRY.pack(following, action, len(name)) + name + rest)
    return b"".join(parts)
