"""ONC RPC version 2 (RFC 5531) over streams: records, call headers, errors. Knows no program.

A record comes in fragments, each behind a 32-bit header: its length, and in the top bit whether it is the last. Calls of one
connection are independent of each other: each is answered when its own answer is ready.

A header that cannot be read ends the connection (`PeerError`); a call that can be read but not served is refused in the way that the
specification has for it.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateways.nfs.auth import Credential, Refused, credential
from gateways.nfs.xdr import XdrError
from gateways.server import Link
from sofs.errors import PeerError
from sofs.runtime.ports import Buffer

LAST_FRAGMENT = 0x80000000
POOLED = 64 << 10
"""From this size on buffers are taken from the pool: a fresh one costs a page fault per 4 KiB."""
TRANSFER = 1 << 20
"""Bytes of payload in the largest READ and WRITE."""
MESSAGE_LIMIT = TRANSFER + (64 << 10)
"""The largest record: 1 MiB of payload and what stands around it."""
FRAGMENTS = 1024
"""Fragments of one record: a client that sends single bytes makes us no work beyond this."""
CALLS = 512
"""Calls of one connection that may be in progress before it is no longer read from."""
CREDENTIALS = 1024
"""Credentials remembered per connection."""
BYTES = 64 << 20
"""Bytes of calls in progress, likewise."""

_CALL = struct.Struct(">8I")  # xid, CALL, RPC version, program, version, procedure, credential's flavor and length
_PAIR = struct.Struct(">2I")
_REPLY = struct.Struct(">7I")  # record header, xid, REPLY, MSG_ACCEPTED, AUTH_NONE, no verifier, accept_stat
_DENIED = struct.Struct(">5I")  # record header, xid, REPLY, MSG_DENIED, reject_stat
_TWO = struct.Struct(">2I")

_IS_REPLY = bytes((0, 0, 0, 1))

SUCCESS, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE_ARGS, SYSTEM_ERR = range(6)
RPC_MISMATCH, AUTH_ERROR = 0, 1
REPLY_SIZE = _REPLY.size
"""Bytes before the results in an accepted reply, with its record header."""
AUTH_LIMIT = 400
"""Bytes of a credential or verifier, RFC 5531 8.2."""


class Version(NamedTuple):
    """One version of a program: its procedures by number. One that cannot read its arguments raises `XdrError`."""

    procedures: Mapping[int, Callable[["Call"], None]]


class Program(NamedTuple):
    """A program's versions by number."""

    versions: Mapping[int, Version]


class Answers(Protocol):
    """What takes the replies to calls of our own."""

    def answered(self, message: memoryview) -> None: ...


class Cancellable(Protocol):
    """Work that can be taken back."""

    def cancel(self) -> object: ...


class Call:
    """One call, until it is answered."""

    __slots__ = ("at", "connection", "credential", "data", "procedure", "xid")

    def __init__(self, connection: "RpcConnection", xid: int, procedure: int, credential: Credential, data: memoryview, at: int) -> None:
        self.connection = connection
        self.xid = xid
        self.procedure = procedure
        self.credential = credential
        self.data = data
        self.at = at
        """Where in `data` the arguments begin."""

    def reply(self, results: Buffer) -> None:
        """Answers with these results."""
        header = _REPLY.pack(LAST_FRAGMENT | len(results) + 24, self.xid, 1, 0, 0, 0, SUCCESS)
        self.connection.answer(self, (header, results))

    def drop(self) -> None:
        """It is never answered here: this gateway has been shut out, and the call, or an earlier transmission of it, may have been carried out all the
        same. Told to try again, the client would do so under another number; without its connection it asks elsewhere, or later, under the same."""
        self.connection.drop(self)

    def refuse(self, status: int, detail: bytes = b"") -> None:
        """Answers with an accept_stat other than SUCCESS."""
        header = _REPLY.pack(LAST_FRAGMENT | len(detail) + 24, self.xid, 1, 0, 0, 0, status)
        self.connection.answer(self, (header, detail))


def write_header(into: bytearray, size: int, xid: int) -> None:
    """An accepted reply's record header and RPC header, at the start of a buffer of which `size` bytes will be sent."""
    _REPLY.pack_into(into, 0, LAST_FRAGMENT | size - 4, xid, 1, 0, 0, 0, SUCCESS)


def accepted(xid: int, status: int, detail: bytes = b"") -> bytes:
    """An accepted reply with its record header (for datagrams: without its first four bytes)."""
    return _REPLY.pack(LAST_FRAGMENT | len(detail) + 24, xid, 1, 0, 0, 0, status) + detail


def denied(xid: int, status: int, detail: bytes) -> bytes:
    """A MSG_DENIED reply with its record header."""
    return _DENIED.pack(LAST_FRAGMENT | len(detail) + 16, xid, 1, 1, status) + detail


Header = tuple[int, int, int, int, int, bytes, int]
"""A call's header, RFC 5531 section 9: xid, RPC version, program, version, procedure, credential and verifier as they came, and the offset of
the arguments. A plain tuple: one is made for every call."""


def read_call(data: memoryview) -> Header:
    """The header of the call in `data`. Raises `PeerError`."""
    try:
        xid, kind, rpc_version, program, version, procedure, _, length = _CALL.unpack_from(data)
        if kind != 0:
            raise PeerError("an RPC message that is no call")
        if length > AUTH_LIMIT:
            raise PeerError(f"a credential of {length} bytes")
        verifier = 32 + (length + 3 & ~3)
        _, length = _PAIR.unpack_from(data, verifier)
    except struct.error:
        raise PeerError("an RPC call cut short") from None
    if length > AUTH_LIMIT:
        raise PeerError(f"a verifier of {length} bytes")
    arguments = verifier + 8 + (length + 3 & ~3)
    if arguments > len(data):
        raise PeerError("an RPC call cut short")
    return xid, rpc_version, program, version, procedure, bytes(data[24:arguments]), arguments


class RpcConnection:
    """One client's connection: the sans-I/O core behind `gateways/server.py`."""

    calls_back = True
    """The client can be called over it."""

    def __init__(self, link: Link, programs: Mapping[int, Program]) -> None:
        self.link = link
        self.peer = link.peer
        self._programs = programs
        self._routes = {
            (program, version): table.procedures for program, versions in programs.items() for version, table in versions.versions.items()
        }
        self._credentials: dict[bytes, Credential] = {}
        self._fragments: list[memoryview] = []
        self._gathered = 0
        self._calls = 0
        self._bytes = 0
        self._paused = False
        self._open = True
        self.waiting: set[Cancellable] = set()
        """Work on calls that is not finished; cancelled with the connection's end. Otherwise a write that had to wait could take
        effect after the client, on a new connection, has repeated it and then written newer data there."""

        self.back: Answers | None = None
        """Who calls this client (NFSv4.1's backchannel), and takes its replies."""
        self.ended: list[Callable[[], object]] = []
        """Called at the connection's end."""

    @property
    def open(self) -> bool:
        return self._open

    @property
    def busy(self) -> bool:
        return self._calls > 0

    def size(self, header: int) -> int:
        size = header & ~LAST_FRAGMENT
        if self._gathered + size > MESSAGE_LIMIT:
            raise PeerError(f"an RPC record of more than {MESSAGE_LIMIT} bytes")
        return size

    def received(self, header: int, message: memoryview) -> None:
        if header & LAST_FRAGMENT and not self._fragments:
            self._record(message)
            return
        self._fragments.append(message)
        self._gathered += len(message)
        if header & LAST_FRAGMENT:
            record = memoryview(b"".join(self._fragments))
            self._fragments = []
            self._gathered = 0
            self._record(record)
        elif len(self._fragments) >= FRAGMENTS:
            raise PeerError(f"an RPC record of more than {FRAGMENTS} fragments")

    def closed(self, reason: str) -> None:
        self._open = False
        self._fragments = []
        for work in tuple(self.waiting):
            work.cancel()
        for tell in self.ended:
            tell()

    def answer(self, call: Call, buffers: Sequence[Buffer]) -> None:
        """Sends the reply to a call; every call is answered once, or never when its volume is lost."""
        self._calls -= 1
        self._bytes -= len(call.data)
        if self._open:
            self.link.send(buffers)
            if self._paused and self._calls <= CALLS // 2 and self._bytes <= BYTES // 2:
                self._paused = False
                self.link.resume()

    def drop(self, call: Call) -> None:
        """The client is to send the call again, over another connection."""
        self.link.close("this gateway has been shut out")

    def _record(self, data: memoryview) -> None:
        if self.back is not None and data[4:8] == _IS_REPLY:
            self.back.answered(data)
            return
        xid, rpc_version, program, version, number, authentication, at = read_call(data)
        who = self._credentials.get(authentication)
        if rpc_version != 2 or who is None:
            who = self._admit(xid, rpc_version, authentication)
            if who is None:
                return
        call = Call(self, xid, number, who, data, at)
        self._calls += 1
        self._bytes += len(data)
        if (self._calls > CALLS or self._bytes > BYTES) and not self._paused:
            self._paused = True
            self.link.pause()
        route = self._routes.get((program, version))
        if route is None:
            self._no_route(call, program)
            return
        procedure = route.get(number)
        if procedure is None:
            call.refuse(PROC_UNAVAIL)
            return
        try:
            procedure(call)
        except XdrError:
            call.refuse(GARBAGE_ARGS)

    def _admit(self, xid: int, rpc_version: int, authentication: bytes) -> Credential | None:
        """The credential of a call whose like has not been seen; None when the call has been denied."""
        if rpc_version != 2:
            self.link.send((denied(xid, RPC_MISMATCH, _TWO.pack(2, 2)),))
            return None
        try:
            who = credential(authentication)
        except Refused as refused:
            self.link.send((denied(xid, AUTH_ERROR, refused.status.to_bytes(4)),))
            return None
        if len(self._credentials) >= CREDENTIALS:
            self._credentials.clear()
        self._credentials[authentication] = who
        return who

    def _no_route(self, call: Call, program: int) -> None:
        known = self._programs.get(program)
        if known is None:
            call.refuse(PROG_UNAVAIL)
        else:
            call.refuse(PROG_MISMATCH, _TWO.pack(min(known.versions), max(known.versions)))
