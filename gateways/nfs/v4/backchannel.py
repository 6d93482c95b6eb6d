"""Calls from the server to a client, over the client's own connections (RFC 8881 2.10.3.2, section 20).

A `Backchannel` is a session's: its slots, whose sequence numbers are recorded before a callback is sent, and the connections that the client has
given it. `Callbacks` is one connection's end of it, and matches replies with calls.
"""

import asyncio
import struct
from typing import TYPE_CHECKING, Annotated, NamedTuple

from gateways.nfs.auth import AUTH_NONE, AUTH_SYS, SysCredential
from gateways.nfs.rpc import LAST_FRAGMENT, RpcConnection
from gateways.nfs.v4.status import Status
from gateways.nfs.xdr import U32, Opaque, Switch, Void, encode, opaque
from sofs.errors import Unavailable

if TYPE_CHECKING:
    from gateways.nfs.v4.service import Service
    from gateways.nfs.v4.slots import Channel, Session

RPCSEC_GSS = 6
CB_SEQUENCE, CB_COMPOUND = 11, 1
SLOTS = 4
"""Callback slots used of what the client offers."""
RECORDED_DOUBTS, MOST_DOUBTS = 4, 16
PATIENCE_S = 15.0
"""What a callback may take."""
_CALL = struct.Struct(">7I")  # record header, xid, CALL, RPC version, program, version, procedure
_SEQUENCE = struct.Struct(">I16s4I")
_REPLY = struct.Struct(">6I")  # xid, REPLY, MSG_ACCEPTED, verifier's flavor and length (none), accept_stat
_TWO = struct.Struct(">2I")


class GssHandles(NamedTuple):
    """gss_cb_handles4."""

    service: U32
    server: Annotated[bytes, Opaque(1024)]
    client: Annotated[bytes, Opaque(1024)]


class CallbackSecurity(NamedTuple):
    """callback_sec_parms4, 18.33.1."""

    parameters: Annotated[tuple[int, Void | SysCredential | GssHandles], Switch({AUTH_NONE: Void, AUTH_SYS: SysCredential, RPCSEC_GSS: GssHandles})]


def credential_of(offered: tuple[CallbackSecurity, ...]) -> bytes:
    """The RPC credential of callbacks: the first of what the client takes that we can make; AUTH_NONE if it names nothing else."""
    for security in offered:
        flavor, parameters = security.parameters
        if isinstance(parameters, SysCredential):
            return flavor.to_bytes(4) + opaque(encode(parameters))
    return _TWO.pack(AUTH_NONE, 0)


class Referring(NamedTuple):
    """The request whose reply a callback must not overtake, 20.9.3."""

    session: bytes
    sequence: int
    slot: int


class Callbacks:
    """One connection's calls to the client, until they are answered."""

    def __init__(self, connection: RpcConnection) -> None:
        self.connection = connection
        self.open = True
        self._xid = 0
        self._waiting: dict[int, asyncio.Future[memoryview]] = {}
        connection.ended.append(self._ended)

    def call(self, program: int, procedure: int, credential: bytes, arguments: bytes) -> "asyncio.Future[memoryview]":
        """The results, behind the RPC header. Its future fails with `Unavailable`."""
        self._xid = self._xid + 1 & 0xFFFFFFFF
        future: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        xid = self._xid
        self._waiting[xid] = future
        future.add_done_callback(lambda _: self._waiting.pop(xid, None))
        size = _CALL.size - 4 + len(credential) + 8 + len(arguments)
        header = _CALL.pack(LAST_FRAGMENT | size, xid, 0, 2, program, 1, procedure)
        self.connection.link.send((header + credential + bytes(8) + arguments,))
        return future

    def answered(self, message: memoryview) -> None:
        """An RPC reply has come."""
        if len(message) < 12:
            return
        xid, _, denied = struct.unpack_from(">3I", message)
        future = self._waiting.get(xid)
        if future is None or future.done():
            return
        try:
            _, _, _, _, length, status = _REPLY.unpack_from(message)
            if denied or length or status:
                raise struct.error
        except struct.error:
            future.set_exception(Unavailable("the client refuses callbacks"))
            return
        future.set_result(message[_REPLY.size :])

    def _ended(self) -> None:
        self.open = False
        for future in tuple(self._waiting.values()):
            if not future.done():
                future.set_exception(Unavailable("the connection for callbacks has ended"))


class Backchannel:
    """A session's way to call its client."""

    def __init__(self, channel: "Channel", program: int, security: bytes, minor: int) -> None:
        self.channel = channel
        self.minor = minor
        """The minor version that the session was made with."""
        self.program = program
        self.security = security
        """The credential to use, as it is sent."""
        self.sequences = [0] * min(channel.requests, SLOTS)
        """Of each slot's last callback."""
        self.doubts = [0] * len(self.sequences)
        """How many of each slot's last callbacks the client may not have got: of those nobody knows whether it counts them."""
        self.connections: list[Callbacks] = []
        self.fault = False
        """The last callback was not answered as it should be."""
        self._free = asyncio.Semaphore(len(self.sequences))
        self._busy: set[int] = set()

    @property
    def live(self) -> bool:
        return bool(self.connections)

    def resume(self, sequences: list[int]) -> None:
        """The slots are those of before a restart. What was recorded last may never have been sent, and what was sent may have been lost."""
        self.sequences[:] = sequences
        self.doubts[:] = [RECORDED_DOUBTS] * len(sequences)

    def lost(self, callbacks: Callbacks) -> None:
        """A connection has ended."""
        if callbacks in self.connections:
            self.connections.remove(callbacks)

    async def call(self, service: "Service", session: "Session", operation: int, arguments: bytes, referring: Referring | None) -> int:
        """Sends one callback, and gives its operation's status. Raises `Unavailable` when the client cannot be reached or makes no sense."""
        return (await self.query(service, session, operation, arguments, referring))[0]

    async def query(
        self, service: "Service", session: "Session", operation: int, arguments: bytes, referring: Referring | None = None
    ) -> tuple[int, memoryview]:
        """As `call`, with the whole CB_COMPOUND4res."""
        async with self._free:
            slot = min(set(range(len(self.sequences))) - self._busy)
            self._busy.add(slot)
            try:
                return await self._send(service, session, slot, operation, arguments, referring)
            finally:
                self._busy.discard(slot)

    async def _send(
        self, service: "Service", session: "Session", slot: int, operation: int, arguments: bytes, referring: Referring | None
    ) -> tuple[int, memoryview]:
        if not self.connections:
            raise Unavailable("the session has no connection for callbacks")
        newest = self.sequences[slot] = self.sequences[slot] + 1 & 0xFFFFFFFF
        doubts = self.doubts[slot]
        self.doubts[slot] = min(doubts + 1, MOST_DOUBTS)
        await service.keep_session(session)
        status = 0
        # From the highest down, so that no number is one that the client has seen: it would answer for another callback.
        for sequence in range(newest, max(newest - doubts, 1) - 1, -1) or (newest,):
            status, which, results = await self._exchange(session, slot, sequence, operation, arguments, referring)
            if which != CB_SEQUENCE:
                self.sequences[slot], self.doubts[slot] = sequence, 0
                return status, results
            if status == Status.DELAY:
                return status, results  # it may be about what the client has not been answered yet; the number was not used
            if status != Status.SEQ_MISORDERED:
                break
        raise Unavailable(f"the client refuses CB_SEQUENCE with {status}")

    async def _exchange(
        self, session: "Session", slot: int, sequence: int, operation: int, arguments: bytes, referring: Referring | None
    ) -> tuple[int, int, memoryview]:
        """The status of the callback, of which operation it is, and the whole answer."""
        if not self.connections:
            raise Unavailable("the session has no connection for callbacks")
        callbacks = self.connections[-1]
        lists = bytes(4)
        if referring is not None:
            lists = struct.pack(">I16s3I", 1, referring.session, 1, referring.sequence, referring.slot)
        compound = (
            struct.pack(">4I", 0, self.minor, 0, 2)
            + _SEQUENCE.pack(CB_SEQUENCE, session.id, sequence, slot, len(self.sequences) - 1, 0)
            + lists
            + operation.to_bytes(4)
            + arguments
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                results = await callbacks.call(self.program, CB_COMPOUND, self.security, compound)
        except TimeoutError:
            self.fault = True
            raise Unavailable("the client does not answer a callback") from None
        except Unavailable:
            self.fault = True
            raise
        self.fault = False
        return (*_last_status(results, operation), results)


def _last_status(results: memoryview, operation: int) -> tuple[int, int]:
    """The status of a CB_COMPOUND4res, and the operation whose it is. Raises `Unavailable`."""
    try:
        status, tag = _TWO.unpack_from(results)
        at = 8 + (tag + 3 & ~3)
        (count,) = struct.unpack_from(">I", results, at)
    except struct.error:
        raise Unavailable("the client's answer to a callback is cut short") from None
    return status, operation if count > 1 or status == 0 else CB_SEQUENCE
