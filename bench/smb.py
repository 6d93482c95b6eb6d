"""A raw SMB 3.1.1 client: requests built by `struct`, nothing waited for but what is needed.

The session is set up once, by NTLM; then messages are signed (AES-GMAC), sealed (AES-128-GCM) or plain, as `Protection` says. The servers allow all three,
and get the same messages.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Generator, Sequence
from enum import Enum
from typing import Any, NamedTuple

import spnego
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.driver import Channel
from gateways.smb.crypto import CipherId, Dialect, GmacSigner, Keys, Preauth

__all__ = ["Protection", "SmbChannel", "SmbFiles"]

HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")
NEGOTIATE, SESSION_SETUP, TREE_CONNECT, CREATE, CLOSE, FLUSH, READ, WRITE, QUERY_DIRECTORY, QUERY_INFO = 0, 1, 3, 5, 6, 7, 8, 9, 14, 16
SIGNED, RELATED = 8, 4
SIGNING_ENABLED, SIGNING_REQUIRED = 1, 2
PENDING, NO_MORE_FILES, MORE_PROCESSING = 0x103, 0x80000006, 0xC0000016
SAME_FILE = b"\xff" * 16
_RECORD = struct.Struct(">I")
DIRECTORY_BUFFER = 65536


TRANSFORM = struct.Struct("<4s16s16sIHHQ")
TRANSFORMED = b"\xfdSMB"


class Protection(Enum):
    """What is done to messages behind the set-up."""

    SIGNED = "3.1.1 signed"
    SEALED = "3.1.1 sealed"
    PLAIN = "3.1.1 plain"


class Request(NamedTuple):
    """One request, or several that are related and go as one message."""

    parts: tuple[tuple[int, bytes], ...]
    """Commands and bodies, fixed and variable part."""
    charge: int = 1
    allowed: tuple[int, ...] = (0,)
    """Statuses that are no error."""


class Reply(NamedTuple):
    status: int
    bodies: list[memoryview]


class SmbChannel(Channel):
    """One connection with its session and tree."""

    def __init__(self, host: str, port: int, user: str, password: str, share: str, protection: Protection) -> None:
        self._protection = protection
        self.sock = socket.create_connection((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(4 << 20)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._next = 0
        self._session = self._tree = 0
        self._signer: GmacSigner | None = None
        self._seals: tuple[AESGCM, AESGCM] | None = None
        """For messages to the server, and from it."""
        self._sealed = 0
        self._expected: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._parts: dict[int, list[memoryview]] = {}
        self._set_up(host, user, password, share)

    # Setting up, MS-SMB2 3.2.4.2

    def _set_up(self, host: str, user: str, password: str, share: str) -> None:
        preauth = Preauth()
        signing = struct.pack("<HHIHHxxxx", 8, 4, 0, 1, 2)
        integrity = struct.pack("<HHIHHH", 1, 38, 0, 1, 32, 1) + secrets.token_bytes(32) + b"\0\0"
        encryption = struct.pack("<HHIHHxxxx", 2, 4, 0, 1, CipherId.AES_128_GCM)
        mode = SIGNING_ENABLED if self._protection is Protection.PLAIN else SIGNING_REQUIRED
        body = struct.pack("<HHHHI16sIHH", 36, 1, mode, 0, 0x44, secrets.token_bytes(16), 104, 3, 0)
        body += struct.pack("<H", 0x0311) + b"\0\0" + integrity + encryption + signing
        reply = self._exchange(NEGOTIATE, body, preauth)
        if struct.unpack_from("<H", reply, 4)[0] != 0x0311:
            raise RuntimeError("the server does not speak SMB 3.1.1")
        client = spnego.client(user, password, hostname=host, service="cifs", protocol="ntlm")
        token = client.step()
        while True:
            blob = token or b""
            body = struct.pack("<HBBIIHHQ", 25, 0, mode, 0, 0, 88, len(blob), 0) + blob
            last = client.complete
            reply = self._exchange(SESSION_SETUP, body, preauth, session=not last, final=last)
            if last:
                break
            offset, length = struct.unpack_from("<HH", reply, 4)
            token = client.step(bytes(reply[offset - 64 : offset - 64 + length]))
        keys = Keys(Dialect.SMB_3_1_1, client.session_key, preauth.value, CipherId.AES_128_GCM)
        self._signer = GmacSigner(keys.signing)
        if self._protection is Protection.SEALED:
            self._seals = AESGCM(keys.to_server), AESGCM(keys.to_client)
        path = f"\\\\{host}\\{share}".encode("utf-16-le")
        header, _ = self.ask(Request(((TREE_CONNECT, struct.pack("<HHHH", 9, 0, 72, len(path)) + path),)), header=True)
        self._tree = struct.unpack_from("<I", header, 36)[0]
        if self._protection is Protection.PLAIN:
            self._signer = None  # the TREE_CONNECT must be signed whatever was agreed on (MS-SMB2 3.3.5.7)

    def _exchange(self, command: int, body: bytes, preauth: Preauth, session: bool = False, final: bool = False) -> memoryview:
        """One unsigned request of the set-up; gives the reply's body. The last reply does not enter the hash."""
        header = HEADER.pack(b"\xfeSMB", 64, 1, 0, command, 64, 0, 0, self._next, 0, 0, self._session, bytes(16))
        self._next += 1
        message = header + body
        preauth.add(message)
        self.sock.sendall(_RECORD.pack(len(message)) + message)
        reply = self._message()
        status, self._session = struct.unpack_from("<I", reply, 8)[0], struct.unpack_from("<Q", reply, 40)[0]
        if status not in (0, MORE_PROCESSING):
            raise RuntimeError(f"set-up failed: {status:#x}")
        if status == MORE_PROCESSING or command == NEGOTIATE:
            preauth.add(bytes(reply))
        return reply[64:]

    def _message(self) -> memoryview:
        """The next message, waiting for it."""
        data = self.sock.recv(4, socket.MSG_WAITALL)
        return memoryview(self.sock.recv(_RECORD.unpack(data)[0], socket.MSG_WAITALL))

    # Channel

    def encode(self, request: Request) -> tuple[int, Sequence[bytes | bytearray]]:
        parts = []
        first = self._next
        count = len(request.parts)
        for index, (command, body) in enumerate(request.parts):
            last = index == count - 1
            size = 64 + len(body)
            following = 0 if last else size + (-size % 8)
            signer = self._signer if self._seals is None else None
            flags = (SIGNED if signer else 0) | (RELATED if index else 0)
            charge = request.charge
            part = bytearray(following or size)
            HEADER.pack_into(part, 0, b"\xfeSMB", 64, charge, 0, command, charge + 8, flags, following, self._next, 0, self._tree, self._session, b"")
            part[64:size] = body
            if signer is not None:
                part[48:64] = signer.sign(part, self._next, reply=False)
            parts.append(part)
            self._expected[self._next] = (first, request.allowed)
            self._next += charge
        self._parts[first] = []
        if self._seals is not None:
            parts = self._seal(parts)
        return first, [_RECORD.pack(sum(map(len, parts))), *parts]

    def _seal(self, parts: list[bytearray]) -> list[bytearray]:
        """One message behind its TRANSFORM_HEADER, MS-SMB2 2.2.41."""
        assert self._seals is not None
        self._sealed += 1
        nonce = self._sealed.to_bytes(12, "little")
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        header = bytearray(TRANSFORM.pack(TRANSFORMED, b"", nonce, len(message), 0, 1, self._session))
        sealed = self._seals[0].encrypt(nonce, message, bytes(header[20:]))
        header[4:20] = sealed[-16:]
        return [header, bytearray(memoryview(sealed)[:-16])]

    def _open(self, message: memoryview) -> memoryview:
        assert self._seals is not None
        sealed = bytes(message[TRANSFORM.size :]) + bytes(message[4:20])
        return memoryview(self._seals[1].decrypt(bytes(message[20:32]), sealed, bytes(message[20 : TRANSFORM.size])))

    def receive(self) -> list[tuple[int, Any]]:
        count = self.sock.recv_into(self._view[self._end :])
        if not count:
            raise ConnectionError("the server closed the connection")
        self._end += count
        start = 0
        found: list[tuple[int, Any]] = []
        while self._end - start >= 4:
            stop = start + 4 + _RECORD.unpack_from(self._buffer, start)[0]
            if stop > self._end:
                break
            message = self._view[start + 4 : stop]
            self._take(self._open(message) if message[:4] == TRANSFORMED else message, found)
            start = stop
        if start:
            self._buffer[: self._end - start] = self._buffer[start : self._end]
            self._end -= start
        return found

    def _take(self, message: memoryview, found: list[tuple[int, Any]]) -> None:
        while True:
            status, _, following, number = struct.unpack_from("<I4xIIQ", message, 8)
            if status != PENDING:
                first, allowed = self._expected.pop(number)
                if status not in allowed:
                    raise RuntimeError(f"status {status:#x} of command {struct.unpack_from('<H', message, 12)[0]}")
                part = message[: following or len(message)]
                # Nobody looks at file data: of large replies the beginning is enough.
                self._parts[first].append(memoryview(bytes(part if len(part) < 1 << 18 else part[:256])))
                if not any(entry[0] == first for entry in self._expected.values()):
                    found.append((first, Reply(status, self._parts.pop(first))))
            if not following:
                return
            message = message[following:]

    def ask(self, request: Request, header: bool = False) -> Any:
        """One request and its reply."""
        number, buffers = self.encode(request)
        self.sock.sendmsg(buffers)
        while True:
            for answered, reply in self.receive():
                assert answered == number
                return (bytes(reply.bodies[0]), reply) if header else reply


Step = Generator[Request, Any, Any]
READ_WRITE, READ_ATTRIBUTES, DELETE = 0x12019F, 0x80, 0x10000
OPEN, MAKE, OPEN_IF = 1, 2, 3
DIRECTORY, FILE, DELETE_ON_CLOSE = 0x1, 0x40, 0x1000


def _create(name: str, access: int, disposition: int, options: int) -> bytes:
    path = name.encode("utf-16-le")
    return struct.pack("<HBBI8x8xIIIIIHHII", 57, 0, 0, 2, access, 0, 7, disposition, options, 120, len(path), 0, 0) + (path or b"\0")


def _file_id(reply: Reply) -> bytes:
    return bytes(reply.bodies[0][64 + 64 : 64 + 80])


def _close(file: bytes) -> tuple[int, bytes]:
    return CLOSE, struct.pack("<HHI", 24, 0, 0) + file


class SmbFiles:
    """Operations on files, as generators for workers. A file is an open; a directory is its path."""

    root = ""

    def __init__(
        self, host: str, port: int, user: str, password: str, share: str, protocol: str = "smb", protection: Protection = Protection.SIGNED
    ) -> None:
        self.protocol, self.label = protocol, protection.value
        self._arguments = (host, port, user, password, share, protection)

    def channel(self) -> SmbChannel:
        return SmbChannel(*self._arguments)

    def make_directory(self, name: str) -> Step:
        reply = yield Request(((CREATE, _create(name, READ_WRITE, OPEN_IF, DIRECTORY)),))
        yield Request((_close(_file_id(reply)),))
        return name

    def create(self, directory: str, name: str) -> Step:
        reply = yield Request(((CREATE, _create(f"{directory}\\{name}", READ_WRITE, MAKE, FILE)),))
        return _file_id(reply)

    def open(self, directory: str, name: str) -> Step:
        reply = yield Request(((CREATE, _create(f"{directory}\\{name}", READ_WRITE, OPEN, FILE)),))
        return _file_id(reply)

    def close(self, file: bytes, written: bool = False) -> Step:
        yield Request((_close(file),))

    def read(self, file: bytes, offset: int, length: int) -> Step:
        body = struct.pack("<HBBIQ16sIIIHHB", 49, 80, 0, length, offset, file, 0, 0, 0, 0, 0, 0)
        reply = yield Request(((READ, body),), max(length >> 16, 1))
        (count,) = struct.unpack_from("<I", reply.bodies[0], 64 + 4)
        if count != length:
            raise RuntimeError(f"{count} bytes instead of {length}")

    def write(self, file: bytes, offset: int, data: bytes, stable: bool = False) -> Step:
        """`stable`: SMB2_WRITEFLAG_WRITE_THROUGH."""
        body = struct.pack("<HHIQ16sIIHHI", 49, 112, len(data), offset, file, 0, 0, 0, 0, int(stable)) + data
        yield Request(((WRITE, body),), max(len(data) >> 16, 1))

    def sync(self, file: bytes) -> Step:
        yield Request(((FLUSH, struct.pack("<HHI", 24, 0, 0) + file),))

    def stat(self, directory: str, name: str) -> Step:
        """Open, FileAllInformation and close in one message, as Linux and Windows do."""
        query = struct.pack("<HBBIHHIII", 41, 1, 18, 1024, 104, 0, 0, 0, 0) + SAME_FILE
        yield Request(((CREATE, _create(f"{directory}\\{name}", READ_ATTRIBUTES, OPEN, 0)), (QUERY_INFO, query), _close(SAME_FILE)))

    def unlink(self, directory: str, name: str) -> Step:
        yield Request(((CREATE, _create(f"{directory}\\{name}", DELETE, OPEN, DELETE_ON_CLOSE)), _close(SAME_FILE)))

    def list(self, directory: str) -> Step:
        """All entries with their attributes (FileIdBothDirectoryInformation); gives their number, `.` and `..` not counted."""
        reply = yield Request(((CREATE, _create(directory, 0x100081, OPEN, DIRECTORY)),))
        file, total = _file_id(reply), 0
        star = "*".encode("utf-16-le")
        body = struct.pack("<HBBI16sHHI", 33, 37, 0, 0, file, 96, len(star), DIRECTORY_BUFFER) + star
        while True:
            reply = yield Request(((QUERY_DIRECTORY, body),), allowed=(0, NO_MORE_FILES))
            if reply.status == NO_MORE_FILES:
                break
            total += _entries(reply.bodies[0])
        yield Request((_close(file),))
        return total


def _entries(message: memoryview) -> int:
    (offset,) = struct.unpack_from("<H", message, 64 + 2)
    entries, at = 0, offset
    while True:
        following, size = struct.unpack_from("<I56xI", message, at)
        name = bytes(message[at + 104 : at + 104 + size])
        entries += name not in (b".\0", b".\0.\0")
        if not following:
            return entries
        at += following


assert HEADER.size == 64
