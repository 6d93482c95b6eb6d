"""DCE/RPC protocol data units, C706 chapter 12 and MS-RPCE 2.2.2: binding, requests, answers, faults. Connection-oriented, NDR, no authentication.

The SMB session below has authenticated the client, so RPC need not; a bind that asks for it is refused.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from sofs.errors import PeerError

REQUEST, RESPONSE, FAULT, BIND, BIND_ACK, BIND_NAK, ALTER, ALTER_ACK = 0, 2, 3, 11, 12, 13, 14, 15
FIRST, LAST, OBJECT = 0x01, 0x02, 0x80
HEADER = struct.Struct("<BBBB4sHHI")  # version, minor, type, flags, data representation, length, auth length, call id
LITTLE_ENDIAN = b"\x10\0\0\0"
MAX_FRAGMENT = 4280
_MAX_REQUEST = 64 << 10
_MAX_CONTEXTS = 16

_BIND = struct.Struct("<HHIBxxx")  # largest sent, largest received, group, contexts
_CONTEXT = struct.Struct("<HBx16sI")  # id, transfer syntaxes, interface, version
_SYNTAX = struct.Struct("<16sI")
_RESULT = struct.Struct("<HH16sI")
_REQUEST = struct.Struct("<IHH")  # hint, context, operation
_RESPONSE = struct.Struct("<IHBx")

NDR = UUID("8a885d04-1ceb-11c9-9fe8-08002b104860").bytes_le
_FEATURES = UUID("6cb71c2c-9812-4540-0000-000000000000").bytes_le[:8]

FAULT_OPERATION_RANGE = 0x1C010002
FAULT_BAD_STUB_DATA = 0x000006F7
FAULT_CONTEXT_MISMATCH = 0x1C00001A


class Fault(Exception):
    """The call failed before its operation could answer."""

    def __init__(self, status: int) -> None:
        super().__init__(hex(status))
        self.status = status


class Interface(NamedTuple):
    """A service: what a client binds to."""

    uuid: bytes
    version: int
    call: Callable[[int, bytes], bytes]
    """The answer's stub data to an operation's. Raises `Fault`."""


class Endpoint:
    """The server's side of one binding. `received` takes whole fragments; answers gather in `answers`, one fragment each."""

    def __init__(self, name: str, interfaces: list[Interface]) -> None:
        self._name = name
        self._interfaces = interfaces
        self._bound: dict[int, Interface] = {}
        self._largest = MAX_FRAGMENT
        self._stub = bytearray()
        self.answers: list[bytes] = []

    def received(self, fragment: bytes) -> None:
        """Raises `PeerError`, after which the pipe is broken."""
        version, _, kind, flags, order, _, auth, call = HEADER.unpack_from(fragment)
        if version != 5 or order[0] != 0x10:
            raise PeerError(f"an RPC fragment of version {version}, data representation {order.hex()}")
        try:
            if kind in (BIND, ALTER):
                self._bind(kind, fragment, auth, call)
            elif kind == REQUEST:
                self._request(fragment, flags, auth, call)
            else:
                raise PeerError(f"an RPC fragment of type {kind}")
        except struct.error:
            raise PeerError("an RPC fragment that is too short") from None

    def _bind(self, kind: int, fragment: bytes, auth: int, call: int) -> None:
        if auth:
            self._send(BIND_NAK, call, struct.pack("<HBBB", 8, 1, 5, 0))  # authentication type not recognized
            return
        _, largest, _, count = _BIND.unpack_from(fragment, HEADER.size)
        if count > _MAX_CONTEXTS or largest < 1024:
            raise PeerError(f"an RPC bind with {count} contexts, fragments of {largest}")
        self._largest = min(largest, MAX_FRAGMENT)
        at = HEADER.size + _BIND.size
        results = []
        for _ in range(count):
            number, syntaxes, uuid, version = _CONTEXT.unpack_from(fragment, at)
            at += _CONTEXT.size
            transfers = [_SYNTAX.unpack_from(fragment, at + place * _SYNTAX.size) for place in range(syntaxes)]
            at += syntaxes * _SYNTAX.size
            results.append(self._offer(number, uuid, version, transfers))
        address = f"\\PIPE\\{self._name}".encode() + b"\0"
        body = struct.pack("<HHIH", self._largest, self._largest, 0x53F0, len(address)) + address
        body += bytes(-len(body) & 3) + struct.pack("<Bxxx", len(results)) + b"".join(results)
        self._send(BIND_ACK if kind == BIND else ALTER_ACK, call, body)

    def _offer(self, number: int, uuid: bytes, version: int, transfers: list[tuple[bytes, int]]) -> bytes:
        found = next((each for each in self._interfaces if each.uuid == uuid and each.version == version & 0xFFFF), None)
        if any(syntax[:8] == _FEATURES for syntax, _ in transfers):
            return _RESULT.pack(3, 0, bytes(16), 0)  # feature negotiation: none (MS-RPCE 2.2.2.14)
        if found is None:
            return _RESULT.pack(2, 1, bytes(16), 0)
        if (NDR, 2) not in transfers:
            return _RESULT.pack(2, 2, bytes(16), 0)
        self._bound[number] = found
        return _RESULT.pack(0, 0, NDR, 2)

    def _request(self, fragment: bytes, flags: int, auth: int, call: int) -> None:
        _, context, operation = _REQUEST.unpack_from(fragment, HEADER.size)
        start = HEADER.size + _REQUEST.size + (16 if flags & OBJECT else 0)
        if flags & FIRST:
            self._stub.clear()
        self._stub += fragment[start : len(fragment) - (auth + 8 if auth else 0)]
        if len(self._stub) > _MAX_REQUEST:
            raise PeerError("an RPC request beyond 64 KiB")
        if not flags & LAST:
            return
        stub = bytes(self._stub)
        self._stub.clear()
        try:
            interface = self._bound.get(context)
            if interface is None:
                raise Fault(FAULT_CONTEXT_MISMATCH)
            self._respond(call, context, interface.call(operation, stub))
        except Fault as fault:
            self._send(FAULT, call, _RESPONSE.pack(32, context, 0) + struct.pack("<II", fault.status, 0))

    def _respond(self, call: int, context: int, stub: bytes) -> None:
        room = (self._largest - HEADER.size - _RESPONSE.size) & ~7
        for at in range(0, max(len(stub), 1), room):
            piece = stub[at : at + room]
            flags = (FIRST if at == 0 else 0) | (LAST if at + room >= len(stub) else 0)
            self._send(RESPONSE, call, _RESPONSE.pack(len(stub) - at, context, 0) + piece, flags)

    def _send(self, kind: int, call: int, body: bytes, flags: int = FIRST | LAST) -> None:
        self.answers.append(HEADER.pack(5, 0, kind, flags, LITTLE_ENDIAN, HEADER.size + len(body), 0, call) + body)
