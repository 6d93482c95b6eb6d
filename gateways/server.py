"""The connection shell: sockets on one side, sans-I/O protocol cores on the other.

SMB over TCP, ONC RPC and the nodes' own protocol all send messages behind a big-endian 32-bit header that tells their
size, so one shell serves them. It owns non-blocking sockets directly: at depth 8 a uvloop transport costs three times
the CPU of a plain `sendmsg` for a reply of 1 MiB (DESIGN section 3).

Receiving: one `recv_into` takes as many messages as the kernel has, up to `CHUNK`; a message larger than that gets a buffer
that already has its size. The core is given views into the buffer and may keep them as long as it likes: a buffer is used
again only when nobody holds a view of it, which CPython's reference count tells. Anybody may announce a large message, without
having proved who he is: what all connections together are receiving of such has a budget, and who does not fit waits unread.

Sending: replies made while one batch of messages is handled leave in one gathered `sendmsg`, unless they are large; replies made at another time
leave at the end of that loop tick. A peer that does not take its replies is not read from.

A `PeerError` from the core drops that connection with the reason in the log; so does any other exception, with its traceback: a
bug met by one client must not take the others' service away.
"""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from gateways.buffers import CHUNK, Budget, Buffers
from gateways.parting import ABRUPT, PATIENT, Parting
from sofs.errors import PeerError
from sofs.runtime.ports import Buffer, Clock

LEAD = 4096
"""Bytes asked for behind a large message: the next is probably large too, and what of it is read here is copied."""
AWAITED = 512 << 10
"""Bytes of a large message that are waited for at most before it is read on: else the loop is woken for every few segments (1 MiB at depth 1: a tenth
less CPU). Not more, so that one half is copied while the other is on its way."""
HIGH, LOW = 16 << 20, 2 << 20
"""Unsent bytes at which a connection is no longer read from, and at which it is again."""
UNDER_WAY = 256 << 20
"""Bytes of large messages being received at the same time, over all connections of a server."""
CLOSING_S = 10.0
"""What a peer has to take the replies that are left when its connection is being closed."""
PER_PEER = 1_000
"""Connections from one address, or from one IPv6 network of 64 bits: one host has as many addresses there as it likes."""
AT_ONCE = 512 << 10
"""Unsent bytes that leave without waiting for the end of the batch: while they are in the processor's cache, and so that their
buffers can take the next replies (READs of 1 MiB at depth 8: 360 us of CPU instead of 400, a fifth more of them)."""
GATHER = 512
"""Buffers handed to one `sendmsg` (IOV_MAX is 1024)."""

_HEADER = struct.Struct(">I")
log = structlog.get_logger("server")


class Link(Protocol):
    """A core's way out. Calls do no I/O themselves and never raise, not even after the connection's end."""

    peer: str
    """The client's address without its port."""
    peer_port: int
    local: str

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Queues bytes, header included; they must not change until sent."""

    def pause(self) -> None:
        """Reads no further messages until `resume`: for cores that bound their requests in progress."""

    def resume(self) -> None: ...

    def close(self, reason: str) -> None:
        """Ends the connection once everything queued has been sent, or after `CLOSING_S`. Nothing is queued any more."""


class Core(Protocol):
    """One connection's protocol, without I/O. Constructed by the `accept` function given to `Server`."""

    @property
    def busy(self) -> bool:
        """A request is still to be answered: a graceful stop waits for it."""

    def size(self, header: int) -> int:
        """Bytes of the message behind this header. Raises `PeerError`."""

    def received(self, header: int, message: memoryview) -> None:
        """One whole message, writable; views of it may be kept. Raises `PeerError`."""

    def closed(self, reason: str) -> None:
        """The connection is gone; called exactly once."""


class Connection:
    """One socket, as a `Link` to its core."""

    def __init__(self, server: "Server", sock: socket.socket, peer: tuple[str, int]) -> None:
        self.peer, self.peer_port = peer[0], peer[1]
        self.local: str
        self.local_port: int
        self.local, self.local_port = sock.getsockname()[:2]
        self._server = server
        self._loop = server.loop
        self._sock = sock
        self._fd = sock.fileno()
        self._out: list[Buffer] = []
        self._unsent = 0
        self._batching = self._scheduled = self._writing = False
        self._holds = 0
        self._held = False
        self._awaited = 1
        self._large = False  # the buffer is that of one large message, which has its share of the budget
        self._throttled = False
        self._closing = ""
        self.alive = True
        self._sends = True
        self._core: Core | None = None
        self._adopt(server.buffers.take(CHUNK))

    def begin(self, core: Core) -> None:
        """Serves the connection with `core` from now on."""
        self._core = core
        self._loop.add_reader(self._fd, self._readable)

    @property
    def busy(self) -> bool:
        return bool(self._out) or (self._core is not None and self._core.busy)

    @property
    def held_up(self) -> bool:
        """Its core asked that nothing be read: what is missing of a message is not the peer's fault."""
        return self._holds > self._throttled

    # Receiving

    def _adopt(self, buffer: bytearray) -> None:
        self._buffer = buffer
        del buffer
        self._limit = len(self._buffer)
        self._start = self._end = 0
        self._unshared = self._references()

    def _references(self) -> int:
        return sys.getrefcount(self._buffer)

    def _readable(self) -> None:
        self._work(self._receive)

    def _continue(self) -> None:
        if self._held and self.alive and not self._holds:
            self._work(self._deliver)

    def _work(self, step: Callable[[], int]) -> None:
        """Receives or delivers, then sends what was answered meanwhile."""
        self._batching = True
        alone = self._server.alone(self)
        if alone:
            self._server.hold()
        try:
            need = step()
            if need:
                self._make_room(need)
        except PeerError as error:
            self.end(f"the peer broke the protocol: {error}", "warning")
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.end(f"receiving failed: {error.strerror}")
        except Exception:
            log.exception("connection_failed", peer=self.peer)
            self.end("a bug of ours, see the log", "error")
        finally:
            if alone:
                self._server.settle()
        self._batching = False
        if self._out:
            self._flush()
        elif self._closing:
            self.end(self._closing)
        if self._held and not self._holds:
            self._loop.call_soon(self._continue)

    def _receive(self) -> int:
        """Reads once and hands on. Returns how many bytes the next message has, as far as that is known."""
        if self._held:
            return self._deliver()
        count = self._sock.recv_into(memoryview(self._buffer)[self._end : self._limit])
        if not count:
            self.end("the peer closed the connection")
            return 0
        self._server.received_bytes += count
        self._end += count
        return self._deliver()

    def _deliver(self) -> int:
        """Hands on whole messages. When the connection is paused meanwhile, or its replies become too many to hold, the rest waits;
        then 0 is returned."""
        core, buffer = self._core, self._buffer
        assert core is not None
        view = memoryview(buffer)
        start, end = self._start, self._end
        need = 4
        self._held = False
        while end - start >= 4:
            (header,) = _HEADER.unpack_from(buffer, start)
            need = 4 + core.size(header)
            if need > end - start:
                break
            if self._holds or self._unsent > HIGH:
                self._start, self._held = start, True
                return 0
            core.received(header, view[start + 4 : start + need])
            start, need = start + need, 4
            if self._closing or not self.alive:
                return 0
        self._start = start
        return need

    def _make_room(self, need: int) -> None:
        """Sees to it that the buffer can take the `need` bytes of the next message, of which some are there already."""
        rest = self._end - self._start
        if not self._large and need <= CHUNK:
            self._limit = len(self._buffer)
            if not rest and self._references() == self._unshared:
                self._start = self._end = 0
                return
            if self._start + max(need, LEAD) <= len(self._buffer):
                return
        if self._large:
            if rest:
                self._await(need - rest)
                return  # the message is still on its way into the buffer of its size
            self._await(1)
            self._server.budget.give(self)
        if need > CHUNK and not self._server.budget.take(self, need):
            self.pause()
            return
        self._enlarge(need)

    def proceed(self, need: int) -> None:
        """There is room for the message of `need` bytes that waited."""
        if self.alive:
            self._enlarge(need)
            self.resume()

    def _enlarge(self, need: int) -> None:
        """Goes on in another buffer."""
        was_large, self._large = self._large, need > CHUNK
        rest = self._end - self._start
        old, start = self._buffer, self._start
        self._adopt(self._server.buffers.take(max(need, CHUNK)))
        self._buffer[:rest] = memoryview(old)[start : start + rest]
        self._end = rest
        if self._large:
            self._limit = need
            self._await(need - rest)
        elif was_large:
            self._limit = LEAD

    def _await(self, count: int) -> None:
        """Has the socket count as readable once so many bytes are there, or `AWAITED`, or its peer sends no more (SO_RCVLOWAT, socket(7))."""
        count = min(count, AWAITED)
        if count != self._awaited:
            self._awaited = count
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    # Sending

    def send(self, buffers: Sequence[Buffer]) -> None:
        if not self._sends:
            return
        self._out.extend(buffers)
        for buffer in buffers:
            self._unsent += len(buffer)
        if self._batching:
            if self._unsent >= AT_ONCE and not self._writing:
                # An error is met again, and handled, at the end of the batch: the core is in the middle of something.
                with contextlib.suppress(OSError):
                    self._transmit()
        elif not (self._scheduled or self._writing):
            self._scheduled = True
            self._server.soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if not self.alive:
            return
        try:
            self._transmit()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.end(f"sending failed: {error.strerror}")
            return
        self._after_flush()

    def _transmit(self) -> None:
        """Hands the kernel as much as it takes. Raises `OSError`."""
        out = self._out
        while out:
            sent = self._sock.sendmsg(out[:GATHER] if len(out) > GATHER else out)
            self._server.sent_bytes += sent
            if sent == self._unsent:
                self._unsent = 0
                out.clear()
                return
            self._unsent -= sent
            if self._drop_sent(sent):
                return

    def _drop_sent(self, sent: int) -> bool:
        """Takes `sent` bytes off the queue; true if the kernel left a rest of what was offered."""
        out = self._out
        done = 0
        for buffer in out:
            if sent < len(buffer):
                break
            sent -= len(buffer)
            done += 1
        del out[:done]
        if sent:
            out[0] = memoryview(out[0])[sent:]
        return bool(out) and (bool(sent) or done < GATHER)

    def _after_flush(self) -> None:
        if self._out and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._flush)
        elif not self._out and self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        if self._unsent > HIGH and not self._throttled:
            self._throttled = True
            self.pause()
        elif self._throttled and self._unsent < LOW:
            self._throttled = False
            self.resume()
        if self._closing and not self._out:
            self.end(self._closing)

    # Flow and end

    def pause(self) -> None:
        self._holds += 1
        if self._holds == 1 and self.alive:
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        self._holds -= 1
        assert self._holds >= 0
        if not self._holds and self.alive:
            self._loop.add_reader(self._fd, self._readable)
            if self._held and not self._batching:
                self._loop.call_soon(self._continue)

    def close(self, reason: str) -> None:
        if not self.alive or self._closing:
            return
        self._closing = reason
        self._sends = False
        self.pause()
        if not (self._out or self._batching):
            self._loop.call_soon(self.end, reason)
        else:
            self._loop.call_later(CLOSING_S, self.end, f"{reason}; the peer did not take its last replies")

    def end(self, reason: str, level: str = "debug", gently: bool = False) -> None:
        """Closes the socket now, or `gently`, which `Server.leave` or the peer brings to its end; what is still unsent gets one try."""
        if not self.alive:
            return
        self.alive = self._sends = False
        if self._out:
            with contextlib.suppress(OSError):
                self._sock.sendmsg(self._out[:GATHER])
        getattr(log, level)("connection_closed", service=self._server.name, peer=self.peer, reason=reason)
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        if gently:
            self._server.parting.begin(self._sock)
        else:
            if self._server.abrupt:
                with contextlib.suppress(OSError):
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, PATIENT)
            self._sock.close()
        self._out.clear()
        self._server.forget(self)
        if self._core is not None:
            self._core.closed(reason)


class Server:
    """Listens for one service, and makes a core for every connection.

    `accept` may refuse one by raising `PeerError`. All calls must come from `loop`'s thread.
    """

    def __init__(
        self, name: str, loop: asyncio.AbstractEventLoop, accept: Callable[[Link], Core], limit: int = 10_000, clock: Clock | None = None
    ) -> None:
        """`clock` is the one that the cores' volumes have: where one connection is at work, what a batch of messages has put off to the end of the tick is
        done right behind it, so that its replies leave at once, and the loop has no round to go for it (3 us)."""
        self.name = name
        self.soon: Callable[[Callable[[], object]], object] = loop.call_soon if clock is None else clock.call_soon
        self.hold: Callable[[], object] = (lambda: None) if clock is None else clock.hold
        self.settle: Callable[[], object] = (lambda: None) if clock is None else clock.settle
        self.loop = loop
        self._last: Connection | None = None
        self.buffers = Buffers()
        self.budget = Budget(loop, UNDER_WAY)
        self.connections: set[Connection] = set()
        self.per_peer = PER_PEER
        self.unacknowledged_s = 0.0
        """A connection ends when the peer's host acknowledges nothing of what was sent for so long, or takes nothing; 0: as long as the kernel tries."""
        self._peers: dict[str, int] = {}
        self.accepted = self.received_bytes = self.sent_bytes = 0
        self._accept = accept
        self._limit = limit
        self._listeners: list[socket.socket] = []
        self.parting = Parting(loop)
        self.abrupt = False
        """When the process dies, its connections are reset: else the kernel goes on with them for minutes, without their address, and answers with them when
        that comes back and a client uses its port again."""

    def listen(self, address: str, port: int) -> int:
        """Accepts connections at `address` from now on. Gives the port, chosen by the system for 0. Raises `OSError` (in use, no right to it)."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.create_server((address, port), family=family, backlog=1024)
        sock.setblocking(False)
        self._listeners.append(sock)
        self.loop.add_reader(sock.fileno(), self._acceptable, sock)
        bound: int = sock.getsockname()[1]
        return bound

    async def part(self, address: str) -> None:
        """Accepts nobody there any more, and ends the connections to it; waits a moment for their peers to hear of it. `leave` follows.

        The listener stays: whoever comes back at once is to wait for the next holder, and not to be refused, which Linux takes for three seconds.
        """
        for listener in self._at(address):
            self.loop.remove_reader(listener.fileno())
        self._end_at(address)
        await self.parting.over(address)

    def leave(self, address: str) -> None:
        """Listens at the address no more, and resets the connections that are left; those of a listener at all addresses, too. What has not been sent by
        now never leaves, nor does an end behind it, once the address is gone; and what the kernel kept of a connection would answer in its successor's
        place when the address comes back here: NFS clients use their ports again."""
        for listener in self._at(address):
            self.loop.remove_reader(listener.fileno())
            self._listeners.remove(listener)
            listener.close()
        self._end_at(address)
        self.parting.break_off(address)

    def _end_at(self, address: str) -> None:
        for connection in [each for each in self.connections if each.local == address]:
            connection.end("its address is another node's now", gently=True)

    def peers(self, address: str) -> list[tuple[int, str, int]]:
        """The connections to an address: its port, and the peer's address and port."""
        return [(each.local_port, each.peer, each.peer_port) for each in self.connections if each.local == address]

    def _at(self, address: str) -> list[socket.socket]:
        return [each for each in self._listeners if each.getsockname()[0] == address]

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        return [str(listener.getsockname()[0]) for listener in self._listeners]

    def _acceptable(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: the backlog keeps the others until some are free
                log.error("accept_failed", service=self.name, error=error.strerror)
                self.loop.remove_reader(listener.fileno())
                self.loop.call_later(0.5, self._listen_again, listener)
                return
            self._take(sock, peer)

    def _listen_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self.loop.add_reader(listener.fileno(), self._acceptable, listener)

    def _take(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        if len(self.connections) >= self._limit:
            log.warning("connection_refused", service=self.name, peer=peer[0], reason=f"{self._limit} are open")
            sock.close()
            return
        origin = origin_of(peer[0])
        if self._peers.get(origin, 0) >= self.per_peer:
            log.warning("connection_refused", service=self.name, peer=peer[0], reason=f"{self.per_peer} of {origin} are open")
            sock.close()
            return
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self.unacknowledged_s:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * self.unacknowledged_s))
            if self.abrupt:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)
            connection = Connection(self, sock, peer)
            connection.begin(self._accept(connection))
        except (OSError, PeerError) as error:
            log.warning("connection_refused", service=self.name, peer=peer[0], reason=str(error))
            sock.close()
            return
        self.connections.add(connection)
        self._peers[origin] = self._peers.get(origin, 0) + 1
        self.accepted += 1

    def alone(self, connection: Connection) -> bool:
        """Whether it was this connection that the last batch of messages came over, too. Else several are at work, and what they put off to the end of
        the tick is better done together: one write of the log for all of them."""
        last, self._last = self._last, connection
        return last is connection

    def forget(self, connection: Connection) -> None:
        """The connection has ended."""
        if self._last is connection:
            self._last = None
        self.budget.give(connection)
        if connection in self.connections:
            self.connections.remove(connection)
            origin = origin_of(connection.peer)
            self._peers[origin] -= 1
            if not self._peers[origin]:
                del self._peers[origin]

    async def stop(self, grace_s: float = 5.0) -> None:
        """Accepts and reads no more, lets requests in progress be answered for at most `grace_s`, closes everything."""
        for listener in self._listeners:
            self.loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        for connection in self.connections:
            connection.pause()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                # Looked at now and then: whoever becomes idle would otherwise have to know of the stop.
                while any(connection.busy for connection in self.connections):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        for connection in list(self.connections):
            connection.end("the server is stopping")
        self.parting.break_off()


def origin_of(peer: str) -> str:
    """What connections are counted by: the address, or its network of 64 bits."""
    if ":" not in peer:
        return peer
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])[:8] + bytes(8)) + "/64"
