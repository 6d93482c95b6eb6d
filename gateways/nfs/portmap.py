"""The way to the port: program 100000, versions 2 (RFC 1833 section 3), 3 and 4 (section 2).

Some NFS clients cannot be told a port and ask port 111. Where a rpcbind runs there, the gateway's programs are registered with it; where none does,
this answers itself, over TCP and UDP, for exactly the gateway's programs: nobody can register anything here.
"""

import asyncio
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, NamedTuple, cast

import structlog

from gateways.nfs.auth import AUTH_NONE
from gateways.nfs.mount import PROGRAM as MOUNT_PROGRAM
from gateways.nfs.rpc import (
    GARBAGE_ARGS,
    PROC_UNAVAIL,
    PROG_MISMATCH,
    PROG_UNAVAIL,
    RPC_MISMATCH,
    SUCCESS,
    Call,
    Program,
    RpcConnection,
    Version,
    accepted,
    denied,
    read_call,
)
from gateways.nfs.v3.program import PROGRAM as NFS_PROGRAM
from gateways.nfs.v3.program import null
from gateways.nfs.xdr import U32, Bool, Linked, Opaque, XdrError, encode, unpack
from gateways.server import Link, Server
from sofs.errors import PeerError, Unavailable

PROGRAM = 100000
PORT = 111
TCP, UDP = 6, 17
SET, UNSET, GET, DUMP = 1, 2, 3, 4

log = structlog.get_logger("nfs")


class Registration(NamedTuple):
    """struct mapping, RFC 1833 3.1."""

    program: U32
    version: U32
    protocol: U32
    port: U32


class RegistrationList(NamedTuple):
    """pmaplist, the result of PMAPPROC_DUMP."""

    all: Annotated[tuple[Registration, ...], Linked(Registration, 4096)]


class Port(NamedTuple):
    """The result of PMAPPROC_GETPORT; 0 is "not registered"."""

    port: U32


class Done(NamedTuple):
    """The result of SET and UNSET."""

    done: Bool


class Mapping4(NamedTuple):
    """struct rpcb, RFC 1833 2.1."""

    program: U32
    version: U32
    network: Annotated[bytes, Opaque(64)]
    address: Annotated[bytes, Opaque(256)]
    owner: Annotated[bytes, Opaque(256)]


class MappingList(NamedTuple):
    """rpcblist, the result of RPCBPROC_DUMP."""

    all: Annotated[tuple[Mapping4, ...], Linked(Mapping4, 4096)]


class Address(NamedTuple):
    """The result of RPCBPROC_GETADDR: a universal address, empty for "not registered"."""

    address: Annotated[bytes, Opaque(256)]


_PROTOCOLS = {b"tcp": TCP, b"tcp6": TCP, b"udp": UDP, b"udp6": UDP}


def registrations(port: int) -> list[Registration]:
    """What the NFS gateway at `port` offers."""
    versions = [(NFS_PROGRAM, 3), (MOUNT_PROGRAM, 1), (MOUNT_PROGRAM, 2), (MOUNT_PROGRAM, 3)]
    return [Registration(program, version, TCP, port) for program, version in versions]


class Portmap:
    """The program, without I/O."""

    def __init__(self, known: Iterable[Registration], port: int = PORT) -> None:
        own = [Registration(PROGRAM, version, protocol, port) for version in (2, 3, 4) for protocol in (TCP, UDP)]
        self._known = [*own, *known]
        self._ports = {(one.program, one.version, one.protocol): one.port for one in self._known}
        self._offered = {one.program for one in self._known}

    def programs(self) -> dict[int, Program]:
        """What a connection dispatches to."""
        return {
            PROGRAM: Program(
                {
                    version: Version({0: null, **{number: _replying(one) for number, one in table.items()}})
                    for version, table in self._tables().items()
                }
            )
        }

    def datagram(self, data: bytes) -> bytes | None:
        """The answer to one datagram, without a record header; None for what is no call."""
        try:
            xid, rpc_version, program, version, number, _, at = read_call(memoryview(data))
        except PeerError:
            return None
        if rpc_version != 2:
            return denied(xid, RPC_MISMATCH, struct.pack(">2I", 2, 2))[4:]
        status, results = SUCCESS, b""
        table = self._tables().get(version)
        if program != PROGRAM:
            status = PROG_UNAVAIL
        elif table is None:
            status, results = PROG_MISMATCH, struct.pack(">2I", 2, 4)
        elif number:
            procedure = table.get(number)
            if procedure is None:
                status = PROC_UNAVAIL
            else:
                try:
                    results = procedure(memoryview(data), at)
                except XdrError:
                    status = GARBAGE_ARGS
        return accepted(xid, status, results)[4:]

    def _tables(self) -> Mapping[int, Mapping[int, Callable[[memoryview, int], bytes]]]:
        newer = {SET: self._refuse4, UNSET: self._refuse4, GET: self._get_address, DUMP: self._dump4}
        older = {SET: self._refuse, UNSET: self._refuse, GET: self._get_port, DUMP: self._dump}
        return {2: older, 3: newer, 4: newer}

    def _get_port(self, data: memoryview, at: int) -> bytes:
        wanted, _ = unpack(Registration, data, at)
        return encode(Port(self._find(wanted.program, wanted.version, wanted.protocol)))

    def _find(self, program: int, version: int, protocol: int) -> int:
        """A program's port. For a version that is not offered it is given too: the program itself tells which are."""
        port = self._ports.get((program, version, protocol), 0)
        if not port and program in self._offered:
            port = next((one.port for one in self._known if one.program == program and one.protocol == protocol), 0)
        return port

    def _get_address(self, data: memoryview, at: int) -> bytes:
        wanted, _ = unpack(Mapping4, data, at)
        port = self._find(wanted.program, wanted.version, _PROTOCOLS.get(wanted.network, TCP))
        return encode(Address(_universal(port, wanted.network) if port else b""))

    def _dump(self, data: memoryview, at: int) -> bytes:
        return encode(RegistrationList(tuple(self._known)))

    def _dump4(self, data: memoryview, at: int) -> bytes:
        entries = []
        for one in self._known:
            network = b"tcp" if one.protocol == TCP else b"udp"
            entries.append(Mapping4(one.program, one.version, network, _universal(one.port, network), b"superuser"))
        return encode(MappingList(tuple(entries)))

    def _refuse(self, data: memoryview, at: int) -> bytes:
        unpack(Registration, data, at)
        return encode(Done(False))

    def _refuse4(self, data: memoryview, at: int) -> bytes:
        unpack(Mapping4, data, at)
        return encode(Done(False))


def _universal(port: int, network: bytes) -> bytes:
    """A universal address, RFC 5665 5.2.3.3; the host stands for "where you asked"."""
    host = b"::" if network.endswith(b"6") else b"0.0.0.0"
    return b"%s.%d.%d" % (host, port >> 8, port & 255)


def _replying(procedure: Callable[[memoryview, int], bytes]) -> Callable[[Call], None]:
    def serve(call: Call) -> None:
        call.reply(procedure(call.data, call.at))

    return serve


class PortMapper:
    """Makes the gateway's port known at port 111 of this host, in one of the two ways."""

    def __init__(self, loop: asyncio.AbstractEventLoop, known: Iterable[Registration], port: int = PORT) -> None:
        self._loop = loop
        self._known = list(known)
        self._port = port
        self._server: Server | None = None
        self._datagrams: asyncio.DatagramTransport | None = None
        self._registered: list[Registration] = []

    async def start(self, address: str) -> str:
        """Gives how it was done, for the log. Raises `Unavailable` with the remedy."""
        if await self._register():
            return f"registered with the rpcbind at port {self._port}"
        core = Portmap(self._known, self._port)
        server = Server("portmap", self._loop, lambda link: _connection(link, core), limit=256)
        try:
            server.listen(address, self._port)
            self._datagrams, _ = await self._loop.create_datagram_endpoint(lambda: _Datagrams(core), local_addr=(address, self._port))
        except OSError as error:
            await server.stop()
            raise Unavailable(
                f"port {self._port} at {address}: {error.strerror}; give the service CAP_NET_BIND_SERVICE, or leave the portmapper off"
            ) from None
        self._server = server
        return f"answering at port {self._port}"

    async def stop(self) -> None:
        for one in self._registered:
            await self._ask(UNSET, one)
        self._registered = []
        if self._datagrams is not None:
            self._datagrams.close()
        if self._server is not None:
            await self._server.stop(0)

    async def _register(self) -> bool:
        """Registers everything with a rpcbind on this host; false if there is none."""
        for one in self._known:
            # What an earlier run left behind would make rpcbind refuse.
            if await self._ask(UNSET, one) is None:
                return False
            if not await self._ask(SET, one):
                raise Unavailable(
                    f"rpcbind at port {self._port} refused to register program {one.program}: it takes that from a privileged local port only"
                )
            self._registered.append(one)
        return True

    async def _ask(self, procedure: int, one: Registration) -> bool | None:
        """One PMAPPROC_SET or UNSET at the local rpcbind; None if nobody answers."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await self._connect()
                try:
                    call = struct.pack(">10I", 1, 0, 2, PROGRAM, 2, procedure, AUTH_NONE, 0, AUTH_NONE, 0) + encode(one)
                    writer.write(struct.pack(">I", 0x80000000 | len(call)) + call)
                    (header,) = struct.unpack(">I", await reader.readexactly(4))
                    reply = await reader.readexactly(header & 0xFFFF)
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError):
            return None
        return len(reply) == 28 and reply[20:28] == bytes(7) + b"\1"

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """From a privileged port if possible: rpcbind believes nobody else."""
        for port in range(1023, 990, -1):
            try:
                return await asyncio.open_connection("127.0.0.1", self._port, local_addr=("127.0.0.1", port))
            except PermissionError:
                break
            except ConnectionRefusedError:
                raise
            except OSError:
                continue
        return await asyncio.open_connection("127.0.0.1", self._port)


def _connection(link: Link, core: Portmap) -> RpcConnection:
    return RpcConnection(link, core.programs())


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, core: Portmap) -> None:
        self._core = core
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is no subclass

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        answer = self._core.datagram(data)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, address)
