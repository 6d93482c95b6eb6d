"""A raw NFSv3 client: prebuilt requests, patched and sent."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Generator
from typing import Any, NamedTuple

from bench.driver import Channel
from gateways.nfs.v3 import messages as m
from gateways.nfs.xdr import decode, encode
from tests.protocol import nfs3_results as r3

__all__ = ["NfsChannel", "NfsFiles"]

NFS, MOUNT = 100003, 100005
NOBODY = 65534
_BODY = struct.pack(">II5sxxxIII", 1, 5, b"bench", NOBODY, NOBODY, 0)
AUTH = struct.pack(">2I", 1, len(_BODY)) + _BODY + bytes(8)
_RECORD = struct.Struct(">I")
_xids = itertools.count(int.from_bytes(struct.pack(">I", id(object()) & 0x3FFFFFFF)) or 1)


class Request(NamedTuple):
    """A call without its xid."""

    head: bytes
    payload: bytes | memoryview = b""
    status: bool = True
    """The results begin with a status that must be 0."""


def _call(program: int, procedure: int, arguments: bytes, payload: bytes | memoryview = b"", status: bool = True) -> Request:
    return Request(struct.pack(">5I", 0, 2, program, 3, procedure) + AUTH + arguments, payload, status)


class NfsChannel(Channel):
    """One connection. Replies are given from the results on, without the status."""

    def __init__(self, host: str, port: int) -> None:
        self.sock = socket.create_connection((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(4 << 20)
        self._view = memoryview(self._buffer)
        self._end = 0

    def encode(self, request: Request) -> tuple[int, list[bytes | memoryview]]:
        xid = next(_xids) & 0xFFFFFFFF
        size = 4 + len(request.head) + len(request.payload)
        head = struct.pack(">2I", 0x80000000 | size, xid) + request.head
        return xid, [head, request.payload] if request.payload else [head]

    def receive(self) -> list[tuple[int, Any]]:
        count = self.sock.recv_into(self._view[self._end :])
        if not count:
            raise ConnectionError("the server closed the connection")
        self._end += count
        start = 0
        found: list[tuple[int, Any]] = []
        while self._end - start >= 4:
            (header,) = _RECORD.unpack_from(self._buffer, start)
            stop = start + 4 + (header & 0x7FFFFFFF)
            if stop > self._end:
                break
            xid, kind, denied, _, _, accepted = struct.unpack_from(">6I", self._buffer, start + 4)
            if (kind, denied, accepted) != (1, 0, 0):
                raise RuntimeError(f"the call was refused: {denied}, {accepted}")
            found.append((xid, self._view[start + 28 : stop]))
            start = stop
        if found:
            # Nobody looks at file data: of large replies the beginning is enough.
            found = [(xid, bytes(part if len(part) < 1 << 18 else part[:256])) for xid, part in found]
            self._buffer[: self._end - start] = self._buffer[start : self._end] if start < self._end else b""
            self._end -= start
        return found

    def ask(self, request: Request) -> bytes:
        """One call and its results."""
        _, buffers = self.encode(request)
        self.sock.sendmsg(buffers)
        while True:
            for _, reply in self.receive():
                return checked(reply)


def checked(reply: Any) -> bytes:
    """The results behind a status of 0."""
    (status,) = _RECORD.unpack_from(reply)
    if status:
        raise RuntimeError(f"NFS status {status}")
    return reply[4:]  # type: ignore[no-any-return]


Step = Generator[Request, Any, Any]


class NfsFiles:
    """Operations on files, as generators for workers."""

    protocol = "nfs"
    label = "v3"

    def __init__(self, host: str, port: int, mount_port: int, path: str) -> None:
        self._address = (host, port)
        channel = NfsChannel(host, mount_port)
        arguments = encode(m.MountPath(path.encode()))
        self.root = decode(m.Mounted, channel.ask(_call(MOUNT, 1, arguments))).handle
        channel.sock.close()

    def channel(self) -> NfsChannel:
        return NfsChannel(*self._address)

    def make_directory(self, name: str) -> Step:
        arguments = encode(m.MakeDirectoryArgs(m.DirectoryName(self.root, name.encode()), m.NewAttributes(mode=0o777)))
        reply = yield _call(NFS, 9, arguments)
        handle = decode(r3.Created, checked(reply)).object
        assert handle is not None
        return handle

    def create(self, directory: bytes, name: str) -> Step:
        how = (m.CreateMode.UNCHECKED, m.NewAttributes(mode=0o644))
        reply = yield _call(NFS, 8, encode(m.CreateArgs(m.DirectoryName(directory, name.encode()), how)))
        handle = decode(r3.Created, checked(reply)).object
        assert handle is not None
        return handle

    def open(self, directory: bytes, name: str) -> Step:
        """LOOKUP and ACCESS, as clients do."""
        reply = yield _call(NFS, 3, encode(m.LookupArgs(m.DirectoryName(directory, name.encode()))))
        handle = decode(r3.LookedUp, checked(reply)).object
        checked((yield _call(NFS, 4, encode(m.AccessArgs(handle, 0x1F)))))
        return handle

    def close(self, handle: bytes, written: bool = False) -> Step:
        """A file that was written is committed, as clients do at close."""
        if written:
            yield from self.sync(handle)

    def read(self, handle: bytes, offset: int, length: int) -> Step:
        reply = checked((yield _call(NFS, 6, _handle(handle) + struct.pack(">QI", offset, length))))
        (count,) = _RECORD.unpack_from(reply, 88 if reply[3] else 4)
        if count != length:
            raise RuntimeError(f"{count} bytes instead of {length}")

    def write(self, handle: bytes, offset: int, data: bytes, stable: bool = False) -> Step:
        """UNSTABLE, or FILE_SYNC."""
        arguments = _handle(handle) + struct.pack(">QIII", offset, len(data), 2 if stable else 0, len(data))
        checked((yield _call(NFS, 7, arguments, data)))

    def sync(self, handle: bytes) -> Step:
        checked((yield _call(NFS, 21, _handle(handle) + bytes(12))))

    def stat(self, directory: bytes, name: str) -> Step:
        """LOOKUP and GETATTR."""
        reply = yield _call(NFS, 3, encode(m.LookupArgs(m.DirectoryName(directory, name.encode()))))
        handle = decode(r3.LookedUp, checked(reply)).object
        checked((yield _call(NFS, 1, _handle(handle))))

    def unlink(self, directory: bytes, name: str) -> Step:
        checked((yield _call(NFS, 12, encode(m.RemoveArgs(m.DirectoryName(directory, name.encode()))))))

    def list(self, directory: bytes) -> Step:
        """All entries with their attributes; gives their number, `.` and `..` not counted."""
        cookie, verifier, total = 0, bytes(8), 0
        while True:
            arguments = encode(m.ReadDirectoryPlusArgs(directory, cookie, verifier, 32768, 131072))
            listing = decode(r3.ListingPlus, checked((yield _call(NFS, 17, arguments))))
            total += sum(entry.name not in (b".", b"..") for entry in listing.entries)
            verifier = listing.verifier
            if listing.eof:
                return total
            cookie = listing.entries[-1].cookie


def _handle(handle: bytes) -> bytes:
    return struct.pack(">I", len(handle)) + handle + bytes(-len(handle) % 4)
