"""COMPOUNDs that came to another node, as their group's home carries them out.

What is forwarded is the RPC message as it came, behind a header that says which connection of which client it came over. At the home a `RemoteConnection`
stands for that, so that sessions are bound to it as to any other; only callbacks do not go that way (`RpcConnection.calls_back`). The answer is the
whole RPC reply.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence

from gateways.nfs.auth import Credential, Refused, credential
from gateways.nfs.rpc import GARBAGE_ARGS, Call, RpcConnection, read_call
from gateways.nfs.v4.service import Service
from gateways.nfs.xdr import XdrError
from sofs.errors import PeerError, Unavailable
from sofs.runtime.ports import Buffer

_HEADER = struct.Struct(">HQH")  # group, number of the connection, the client's port; its address follows

Begin = Callable[[Call, Service], None]


def pack_header(group: int, connection: int, port: int, peer: str) -> bytes:
    return _HEADER.pack(group, connection, port) + peer.encode()


def read_header(header: bytes) -> tuple[int, int, int, str]:
    """Group, number of the connection, the client's port and address. Raises `PeerError`."""
    try:
        return (*_HEADER.unpack_from(header), header[_HEADER.size :].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise PeerError(f"a forwarded COMPOUND's header: {error}") from None


class _Far:
    """The link of a connection that is another node's."""

    local = ""

    def __init__(self, peer: str, peer_port: int) -> None:
        self.peer = peer
        self.peer_port = peer_port

    def send(self, buffers: Sequence[Buffer]) -> None:
        raise AssertionError("replies go back the way their calls came")

    def pause(self) -> None:
        """The other node holds its clients up."""

    def resume(self) -> None: ...

    def close(self, reason: str) -> None:
        """Whoever forwarded it closes it."""


class RemoteCall(Call):
    """One call, whose reply goes to the node that has forwarded it."""

    __slots__ = ("replied",)

    def __init__(self, connection: RpcConnection, xid: int, procedure: int, who: Credential, data: memoryview, at: int) -> None:
        super().__init__(connection, xid, procedure, who, data, at)
        self.replied: asyncio.Future[Sequence[Buffer]] = asyncio.get_running_loop().create_future()


class RemoteConnection(RpcConnection):
    """A client's connection to another node. `begin` carries out a COMPOUND."""

    calls_back = False

    def __init__(self, peer: str, port: int, begin: Begin) -> None:
        super().__init__(_Far(peer, port), {})
        self._compound = begin
        self.groups: set[int] = set()
        """For which it has been used."""

    def carry_out(self, message: bytes, service: Service) -> "asyncio.Future[Sequence[Buffer]]":
        """The reply. Raises `Unavailable` for what no client's connection would have let through."""
        data = memoryview(message)
        try:
            xid, _, _, _, number, authentication, at = read_call(data)
            call = RemoteCall(self, xid, number, credential(authentication), data, at)
        except (PeerError, Refused) as error:
            raise Unavailable(f"a forwarded call that makes no sense: {error}") from None
        try:
            self._compound(call, service)
        except XdrError:
            call.refuse(GARBAGE_ARGS)
        return call.replied

    def drop(self, call: Call) -> None:
        assert isinstance(call, RemoteCall)
        call.replied.cancel()

    def answer(self, call: Call, buffers: Sequence[Buffer]) -> None:
        assert isinstance(call, RemoteCall)
        if not call.replied.done():
            call.replied.set_result(buffers)
