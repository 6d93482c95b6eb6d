"""Connections that have ended for their cores and not yet for their peers: those of an address that another node gets.

A socket that is closed with something unread in it resets its connection; and Linux's SMB client (6.1 by its source) gives up the WRITE that it is just
handing to a connection that is reset, where it repeats all that it has handed to one that is ended. So these are ended, their peers heard out, and only who
does not hang up in time is reset: before the address has gone, since nothing leaves after that.
"""

import asyncio
import socket
import struct

from gateways.buffers import CHUNK

PARTING_S = 0.5
"""What peers have to hang up."""
ABRUPT, PATIENT = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""SO_LINGER: whether closing a socket resets its connection and leaves nothing behind in the kernel."""


class Parting:
    """The sockets of one server's connections that are parting."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._addresses: dict[socket.socket, str] = {}

    def begin(self, sock: socket.socket) -> None:
        """Ends a connection; nobody else has its socket from now on."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone before
            sock.close()
            return
        self._addresses[sock] = sock.getsockname()[0]
        self._loop.add_reader(sock.fileno(), self._hear_out, sock)

    async def over(self, address: str) -> None:
        """Waits until all peers of an address have hung up, for `PARTING_S` at most."""
        until = self._loop.time() + PARTING_S
        while address in self._addresses.values() and self._loop.time() < until:  # noqa: ASYNC110  # the peers are not asked to tell
            await asyncio.sleep(0.005)

    def break_off(self, address: str | None = None) -> None:
        """Resets what is left of an address's connections, or of all."""
        for sock, local in list(self._addresses.items()):
            if address in (None, local):
                self._parted(sock)

    def _hear_out(self, sock: socket.socket) -> None:
        try:
            if sock.recv(CHUNK):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._parted(sock)

    def _parted(self, sock: socket.socket) -> None:
        del self._addresses[sock]
        self._loop.remove_reader(sock.fileno())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)
        sock.close()
