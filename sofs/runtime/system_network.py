"""TCP through the event loop, with TLS between nodes, for everything but the gateways' hot path."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from sofs.errors import Unavailable
from sofs.runtime.ports import CONGESTED, Buffer, Connection, Receiver
from sofs.runtime.system_tls import Tls

_RECORD = 16 << 10
"""Bytes in one record of TLS at most (RFC 8446 section 5.1)."""
_AT_ONCE = 256 << 10
"""Bytes received at a time."""


class SystemNetwork:
    """`Network` over asyncio's transports. With `tls` all its connections, both ways, are mutually authenticated."""

    def __init__(self, connect_timeout: float = 5.0, tls: Tls | None = None) -> None:
        self._connect_timeout = connect_timeout
        self._buffer = memoryview(bytearray(_AT_ONCE))
        self._server: ssl.SSLContext | None = None
        self._client: ssl.SSLContext | None = None
        if tls is not None:
            self._server, self._client = tls.server, tls.client

    @property
    def _handshake_timeout(self) -> float | None:
        return None if self._server is None else self._connect_timeout

    def listen(self, address: str, port: int, accept: Callable[[Connection], Receiver]) -> Awaitable["SystemListener"]:
        return self._listen(address, port, accept)

    async def _listen(self, address: str, port: int, accept: Callable[[Connection], Receiver]) -> "SystemListener":
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: _Stream(accept, self._buffer), address, port, ssl=self._server, ssl_handshake_timeout=self._handshake_timeout
            )
        except OSError as error:
            raise Unavailable(f"cannot listen on {address} port {port}: {error.strerror or error}") from error
        return SystemListener(server)

    def connect(self, address: str, port: int, receiver: Receiver) -> Awaitable[Connection]:
        return self._connect(address, port, receiver)

    async def _connect(self, address: str, port: int, receiver: Receiver) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, stream = await loop.create_connection(
                    lambda: _Stream(lambda _: receiver, self._buffer), address, port, ssl=self._client, ssl_handshake_timeout=self._handshake_timeout
                )
        except TimeoutError as error:
            raise Unavailable(f"{address} port {port} does not answer") from error
        except ssl.SSLError as error:
            raise Unavailable(f"{address} port {port}: {_distrust(error)}") from error
        except OSError as error:
            raise Unavailable(f"cannot connect to {address} port {port}: {error.strerror or error}") from error
        return stream


class SystemListener:
    """A listening socket; `port` is the one it got. Closing it leaves accepted connections alone."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._server.close()


class _Stream(asyncio.BufferedProtocol):
    """One TCP connection: asyncio's protocol on one side, the port's `Connection` on the other.

    All connections are read into one buffer, of which nobody needs anything once it has been received. (uvloop would make a fresh object of 256 KiB for
    what each TLS record has: a call of 4 KiB and its answer took 56 us of CPU instead of 22.)
    """

    def __init__(self, accept: Callable[[Connection], Receiver], buffer: memoryview) -> None:
        self._accept = accept
        self._buffer = buffer
        self._why = "the peer closed the connection"
        self.peer: tuple[str, int] = ("", 0)
        self.names: tuple[str, ...] = ()
        self.congested = False
        self._relief: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._sealed = transport.get_extra_info("ssl_object") is not None
        self._transport.set_write_buffer_limits(CONGESTED, CONGESTED // 16)
        name = transport.get_extra_info("peername")
        if name is not None:  # already gone again otherwise
            self.peer = (name[0], name[1])
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self.names = tuple(name for kind, name in certificate.get("subjectAltName", ()) if kind == "URI")
        self._receiver = self._accept(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._receiver.received(self._buffer[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):
            self._receiver.closed(_distrust(exc))
        else:
            self._receiver.closed(str(exc) if exc is not None else self._why)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        self._relief()

    def on_relief(self, call: Callable[[], None]) -> None:
        self._relief = call

    def pause(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def send(self, data: Sequence[Buffer]) -> None:
        if not self._transport.is_closing():
            self._transport.writelines(_gathered(data) if self._sealed and len(data) > 1 else data)

    def close(self) -> None:
        if not self._transport.is_closing():
            self._why = "closed here"
            self._transport.close()


def _distrust(error: ssl.SSLError) -> str:
    """What is wrong with a certificate, as far as this end is told, and what may be the cause."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"this node does not trust the certificate there ({error.verify_message}): a clock is wrong, or that is a node of another cluster"
    return f"the other end does not trust this node's certificate, or speaks no TLS ({error.reason}): a clock is wrong, or that is a node of another cluster"


def _gathered(data: Sequence[Buffer]) -> list[Buffer]:
    """The same bytes in fewer pieces: TLS makes a record of its own of each, which costs both ends 1.5 us and more; joining costs 0.2."""
    found: list[Buffer] = []
    small: list[Buffer] = []
    size = 0
    for piece in data:
        length = len(piece)
        if size + length > _RECORD and small:
            found.append(small[0] if len(small) == 1 else b"".join(small))
            small, size = [], 0
        small.append(piece)
        size += length
    found.append(small[0] if len(small) == 1 else b"".join(small))
    return found
