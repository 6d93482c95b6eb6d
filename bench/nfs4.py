"""A raw NFSv4.1 client: one session per connection, COMPOUNDs by `struct`, a slot for each request in flight.

It asks for no delegations, so that each open and close goes to the server, as each look-up does: it measures servers, not caches. What goes into one
COMPOUND is what the Linux client puts there.
"""

from __future__ import annotations

import itertools
import secrets
import struct
from collections.abc import Generator
from typing import Any, NamedTuple

from bench.nfs import AUTH, NfsChannel

__all__ = ["Nfs4Channel", "Nfs4Files"]

NFS = 100003
ACCESS, CLOSE, COMMIT, CREATE, GETATTR, GETFH, LOOKUP, OPEN, PUTFH, PUTROOTFH, READ, READDIR, REMOVE, WRITE = (
    3, 4, 5, 6, 9, 10, 15, 18, 22, 24, 25, 26, 28, 38,
)  # fmt: skip
EXCHANGE_ID, CREATE_SESSION, SEQUENCE, RECLAIM_COMPLETE = 42, 43, 53, 58
SLOTS = 64
LARGEST = (1 << 20) + (64 << 10)
BOTH, NO_DELEGATION = 3, 0x400

# What a stat asks for: type, change, size, fsid, fileid; mode, numlinks, owners, space_used, times.
_STAT = struct.pack(">3I", 2, 1 << 1 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 20, 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 13 | 1 << 15 | 1 << 20 | 1 << 21)
# For each entry of a listing that, its handle, and what went wrong with it.
_LIST = struct.pack(">3I", 2, 1 << 1 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 11 | 1 << 19 | 1 << 20, struct.unpack(">3I", _STAT)[2])
_SEQUENCE = struct.Struct(">I16s4I")
_AFTER_SEQUENCE = 12 + 8 + 16 + 20
"""Bytes of results, with an empty tag, up to the one behind SEQUENCE."""


def _opaque(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data + bytes(-len(data) % 4)


def _mode(mode: int) -> bytes:
    """A fattr4 that is only a mode."""
    return struct.pack(">5I", 2, 0, 2, 4, mode)


def _put(handle: bytes) -> bytes:
    return PUTFH.to_bytes(4) + _opaque(handle)


def _op(number: int, arguments: bytes = b"") -> bytes:
    return number.to_bytes(4) + arguments


class Request(NamedTuple):
    """The operations behind SEQUENCE; `payload` ends them."""

    operations: tuple[bytes, ...]
    payload: bytes | memoryview = b""


class File(NamedTuple):
    """An open."""

    handle: bytes
    stateid: bytes


class Nfs4Channel(NfsChannel):
    """One connection with its session. Replies are given from the result behind SEQUENCE on."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._slots = list(range(SLOTS))
        self._sequences = [0] * SLOTS
        self._taken: dict[int, int] = {}
        self._xid = secrets.randbits(30)
        self._session = b""
        owner = secrets.token_bytes(8) + _opaque(b"bench " + secrets.token_hex(8).encode())
        reply = self._plain(_op(EXCHANGE_ID, owner + struct.pack(">3I", 0, 0, 0)))
        self.client, sequence = struct.unpack_from(">QI", reply, 8)
        channel = struct.pack(">7I", 0, LARGEST, LARGEST, 4096, 16, SLOTS, 0)
        arguments = struct.pack(">QII", self.client, sequence, 0) + channel + channel + struct.pack(">3I", 0x40000000, 1, 0)
        self._session = bytes(self._plain(_op(CREATE_SESSION, arguments))[8:24])
        self.ask4(Request((_op(RECLAIM_COMPLETE, bytes(4)),)))

    def _plain(self, operation: bytes) -> memoryview:
        """A COMPOUND of one operation that stands outside of sessions; gives its result."""
        _, buffers = self._call(1, operation, b"")
        self.sock.sendmsg(buffers)
        while True:
            for _, reply in super().receive():
                return _checked(reply)[12:]

    def _call(self, count: int, operations: bytes, payload: bytes | memoryview) -> tuple[int, list[bytes | memoryview]]:
        self._xid += 1
        head = struct.pack(">5I", 0, 2, NFS, 4, 1) + AUTH + struct.pack(">3I", 0, 1, count) + operations
        size = 4 + len(head) + len(payload)
        start = struct.pack(">2I", 0x80000000 | size, self._xid) + head
        return self._xid, [start, payload] if payload else [start]

    def encode(self, request: Request) -> tuple[int, list[bytes | memoryview]]:  # type: ignore[override]
        slot = self._slots.pop()
        self._sequences[slot] += 1
        sequence = _SEQUENCE.pack(SEQUENCE, self._session, self._sequences[slot], slot, SLOTS - 1, 0)
        number, buffers = self._call(1 + len(request.operations), sequence + b"".join(request.operations), request.payload)
        self._taken[number] = slot
        return number, buffers

    def receive(self) -> list[tuple[int, Any]]:
        found = super().receive()
        for number, _ in found:
            self._slots.append(self._taken.pop(number))
        return [(number, _checked(reply)[_AFTER_SEQUENCE:]) for number, reply in found]

    def ask4(self, request: Request) -> memoryview:
        """One COMPOUND and its reply."""
        _, buffers = self.encode(request)
        self.sock.sendmsg(buffers)
        while True:
            for _, reply in self.receive():
                return reply  # type: ignore[no-any-return]


def _checked(reply: Any) -> memoryview:
    """The whole reply, all of whose operations have succeeded."""
    (status,) = struct.unpack_from(">I", reply)
    if status:
        raise RuntimeError(f"NFSv4 status {status}")
    return memoryview(reply)


def _handle_at(reply: memoryview, at: int) -> bytes:
    """The handle in the result of a GETFH at this offset."""
    (length,) = struct.unpack_from(">I", reply, at + 8)
    return bytes(reply[at + 12 : at + 12 + length])


def _opened(reply: memoryview) -> File:
    """What PUTFH, OPEN and GETFH gave."""
    stateid = bytes(reply[16:32])
    at = 32 + 20 + 4
    (words,) = struct.unpack_from(">I", reply, at)
    at += 4 + words * 4
    delegation, why = struct.unpack_from(">2I", reply, at)
    if delegation not in (0, 3):
        raise RuntimeError("a delegation that nobody asked for")
    at += 4 if delegation == 0 else 12 if why in (1, 2) else 8
    return File(_handle_at(reply, at), stateid)


Step = Generator[Request, Any, Any]


class Nfs4Files:
    """Operations on files, as generators for workers."""

    protocol = "nfs4"
    label = "v4.1"

    def __init__(self, host: str, port: int, share: str) -> None:
        self._address = (host, port)
        channel = self.channel()
        reply = channel.ask4(Request((_op(PUTROOTFH), _op(LOOKUP, _opaque(share.encode())), _op(GETFH))))
        self.root = _handle_at(reply, 16)
        channel.sock.close()
        self._owners = itertools.count(1)

    def channel(self) -> Nfs4Channel:
        return Nfs4Channel(*self._address)

    def make_directory(self, name: str) -> Step:
        made = _op(CREATE, (2).to_bytes(4) + _opaque(name.encode()) + _mode(0o777))
        reply = yield Request((_put(self.root), made, _op(GETFH)))
        (words,) = struct.unpack_from(">I", reply, 8 + 8 + 20)
        return _handle_at(reply, 8 + 8 + 20 + 4 + words * 4)

    def _open(self, name: str, how: bytes) -> bytes:
        # The client's number means nothing in a minor version that has sessions (RFC 8881 18.16.3).
        owner = bytes(8) + _opaque(b"%d" % next(self._owners))
        return _op(OPEN, struct.pack(">3I", 0, BOTH | NO_DELEGATION, 0) + owner + how + bytes(4) + _opaque(name.encode()))

    def create(self, directory: bytes, name: str) -> Step:
        how = struct.pack(">2I", 1, 0) + _mode(0o644)
        reply = yield Request((_put(directory), self._open(name, how), _op(GETFH), _op(ACCESS, b"\0\0\0\x1f"), _op(GETATTR, _STAT)))
        return _opened(reply)

    def open(self, directory: bytes, name: str) -> Step:
        reply = yield Request((_put(directory), self._open(name, bytes(4)), _op(GETFH), _op(ACCESS, b"\0\0\0\x1f"), _op(GETATTR, _STAT)))
        return _opened(reply)

    def close(self, file: File, written: bool = False) -> Step:
        """A file that was written is committed first, as clients do at close."""
        if written:
            yield from self.sync(file)
        yield Request((_put(file.handle), _op(CLOSE, bytes(4) + file.stateid)))

    def read(self, file: File, offset: int, length: int) -> Step:
        reply = yield Request((_put(file.handle), _op(READ, file.stateid + struct.pack(">QI", offset, length))))
        (count,) = struct.unpack_from(">I", reply, 8 + 8 + 4)
        if count != length:
            raise RuntimeError(f"{count} bytes instead of {length}")

    def write(self, file: File, offset: int, data: bytes, stable: bool = False) -> Step:
        """UNSTABLE4, or FILE_SYNC4."""
        yield Request((_put(file.handle), _op(WRITE, file.stateid + struct.pack(">QII", offset, 2 if stable else 0, len(data)))), data)

    def sync(self, file: File) -> Step:
        yield Request((_put(file.handle), _op(COMMIT, bytes(12))))

    def stat(self, directory: bytes, name: str) -> Step:
        yield Request((_put(directory), _op(LOOKUP, _opaque(name.encode())), _op(GETFH), _op(GETATTR, _STAT)))

    def unlink(self, directory: bytes, name: str) -> Step:
        yield Request((_put(directory), _op(REMOVE, _opaque(name.encode()))))

    def list(self, directory: bytes) -> Step:
        """All entries with their attributes and handles; gives their number."""
        cookie, verifier, total = 0, bytes(8), 0
        while True:
            arguments = struct.pack(">Q8s2I", cookie, verifier, 32768, 131072) + _LIST
            reply = yield Request((_put(directory), _op(READDIR, arguments)))
            verifier, at = bytes(reply[16:24]), 24
            while struct.unpack_from(">I", reply, at)[0]:
                cookie, length = struct.unpack_from(">QI", reply, at + 4)
                at += 16 + (length + 3 & ~3)
                (words,) = struct.unpack_from(">I", reply, at)
                at += 4 + words * 4
                (length,) = struct.unpack_from(">I", reply, at)
                at += 4 + (length + 3 & ~3)
                total += 1
            if struct.unpack_from(">I", reply, at + 4)[0]:
                return total
