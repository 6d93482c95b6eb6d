"""One client connection, MS-SMB2 3.3.5: the protocol proper, without I/O.

A message comes in whole. It is decrypted if need be, split if it is a compound, and each request passes the same gate: its message id must be
among those granted (3.3.5.2.3), its signature right (3.3.5.2.4), its session, tree and file known (3.3.5.2.9 to 11). Then its handler
runs. Most answer at once; a handler that waits goes on as a task, and other requests overtake it. The client hears STATUS_PENDING when that
takes long (3.3.4.2).

A reply is captured first, signed, and leaves when the volume opens the gate it rests on. Replies leave in any order.
"""

import asyncio
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import structlog

from gateways.eager import begin, is_here
from gateways.server import Link
from gateways.smb import compounds, dispatch
from gateways.smb.admission import admit
from gateways.smb.credits import Window
from gateways.smb.crypto import CipherId, Dialect, Preauth, Sealer, SigningAlgorithm, verify
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Channel, Handle, Session
from gateways.smb.header import (
    ENCRYPTED,
    FLAG_ASYNC,
    FLAG_REPLY,
    FLAG_SIGNED,
    FRAME,
    HEADER,
    HEADER_SIZE,
    NEXT_COMMAND_AT,
    NO_SIGNATURE,
    PLAIN,
    SMB1,
    TRANSFORM,
    TRANSFORM_SIZE,
    UNASKED,
    Command,
)
from gateways.smb.replies import ERROR_BODY, assemble, failure
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U32, DecodeError
from sofs.errors import PeerError, SofsError
from sofs.runtime.ports import Buffer, Timer

if TYPE_CHECKING:
    from gateways.smb.service import SmbService

log = structlog.get_logger("smb")

MAX_MESSAGE = (8 << 20) + (64 << 10)
MAX_STRANGER_MESSAGE = 128 << 10
"""Before the first logon."""
MAX_SESSIONS = 64
HELD = 48 << 20
"""Bytes of requests and replies in progress beyond which a connection is not read from: credits alone would allow 512 MiB."""
MAX_WAITING = 8192
"""Requests in progress beyond which none is taken that may wait for ever: such a one gives its credits back at once (MS-SMB2 3.3.4.2)."""
PENDING_AFTER_S, PENDING_SOON_S = 0.5, 0.02
"""When the client is told that a request takes longer; and one that waits for others, if its volume is at another node, where all takes a moment."""


class Connection:
    """A `Core` for the connection shell."""

    def __init__(self, service: "SmbService", link: Link) -> None:
        self.service = service
        self.link = link
        self.client = link.peer
        self.channels: dict[int, Channel] = {}
        """The sessions that use this connection, by their ids."""
        self.window = Window()
        self.dialect: Dialect | None = None
        self._single = False
        self.client_guid = bytes(16)
        self.client_capabilities = 0
        self.client_security_mode = 0
        self.signing = SigningAlgorithm.AES_CMAC
        self.cipher: CipherId | None = None
        self.preauth = Preauth()
        self.authenticated = False
        self.deadline: Timer | None = None
        """Ends the connection unless someone logs on."""
        self.in_progress: dict[int, Exchange] = {}
        self._next_async = 1
        self._unanswered = 0
        self._held = 0
        self._paused = False
        self.gone = False

    # What the shell asks and tells

    @property
    def busy(self) -> bool:
        return self._unanswered > 0

    def size(self, header: int) -> int:
        if header > (MAX_MESSAGE if self.authenticated else MAX_STRANGER_MESSAGE):
            raise PeerError(f"a message of {header & 0xFFFFFF} bytes, type {header >> 24}")
        return header

    def received(self, header: int, message: memoryview) -> None:
        magic = message[:4]
        if magic == PLAIN:
            self._take(message, None)
        elif magic == ENCRYPTED:
            self._take(*self._unseal(message))
        elif magic == SMB1 and self.dialect is None:
            self._smb1(message)
        else:
            raise PeerError(f"a message begins with {bytes(magic).hex()}")

    @property
    def crowded(self) -> bool:
        return len(self.in_progress) >= MAX_WAITING

    def give_up_writes(self, session: Session) -> None:
        """Cancels the session's WRITEs that are in progress; each has happened as a whole, or never will.

        Its client may log on again elsewhere and write there: one of these must not come over that later.
        """
        for exchange in list(self.in_progress.values()):
            if exchange.task is not None and exchange.command == Command.WRITE and exchange.session is session:
                exchange.task.cancel()

    def speak(self, dialect: Dialect) -> None:
        """From now on this dialect."""
        self.dialect = dialect
        self._single = dialect is Dialect.SMB_2_0_2
        if dialect < Dialect.SMB_3_0:
            self.signing = SigningAlgorithm.HMAC_SHA256

    def busy_before(self, handle: Handle, sequence: int) -> bool:
        """Whether a request to the open is in progress here that came with another channel sequence."""
        return any(getattr(exchange, "handle", None) is handle and exchange.sequence & 0xFFFF != sequence for exchange in self.in_progress.values())

    def changing(self, handle: Handle) -> list["asyncio.Task[Any]"]:
        """Requests in progress here that change what is open."""
        if not self.in_progress:
            return []
        return [
            exchange.task
            for exchange in self.in_progress.values()
            if exchange.task is not None and exchange.rule.ordered and getattr(exchange, "handle", None) is handle
        ]

    def notify(self, body: bytes, session: Session | None, sealer: Sealer | None) -> None:
        """Sends what nobody asked for: a break, MS-SMB2 3.3.4.6 and 3.3.4.7, which is not signed."""
        number = 0 if session is None else session.number
        message = HEADER.pack(PLAIN, HEADER_SIZE, 0, 0, Command.OPLOCK_BREAK, 0, FLAG_REPLY, 0, UNASKED, 0, 0, number, NO_SIGNATURE) + body
        buffers: list[Buffer] = [message] if sealer is None else sealer.seal(message)
        self.link.send((FRAME.pack(sum(map(len, buffers))), *buffers))

    def closed(self, reason: str) -> None:
        self.gone = True
        self.service.forget(self)
        for exchange in list(self.in_progress.values()):
            # What waits for a disk ends by itself, and must not be torn off in the middle. A CREATE goes on where its session does: the
            # client asks for it again on another channel.
            if exchange.task is not None and exchange.rule.waits:
                if exchange.command != Command.CREATE or len(exchange.session.channels) < 2:
                    exchange.task.cancel()
        for channel in list(self.channels.values()):
            self.service.end_channel(channel)

    # Requests in

    def _unseal(self, message: memoryview) -> tuple[memoryview, Session]:
        if len(message) < TRANSFORM_SIZE + HEADER_SIZE:
            raise DecodeError(f"an encrypted message of {len(message)} bytes")
        channel = self.channels.get(TRANSFORM.unpack_from(message)[6])
        session = None if channel is None else channel.session
        if session is None or session.sealer is None:
            raise PeerError("an encrypted message of a session without keys")
        plain = session.sealer.open(message)
        if plain[:4] != PLAIN:
            raise PeerError("an encrypted message hides another kind of message")
        return plain, session

    def _take(self, message: memoryview, sealed: Session | None) -> None:
        if len(message) < HEADER_SIZE:
            raise DecodeError(f"a message of {len(message)} bytes")
        (next_command,) = U32.unpack_from(message, NEXT_COMMAND_AT)
        if next_command:
            compounds.take(self, message, next_command, sealed)
            return
        exchange = self.read_header(message, sealed)
        if exchange.command == Command.CANCEL:
            self._cancel(exchange)
            return
        answer: Answer
        try:
            admit(exchange)
            result = exchange.rule.handler(exchange)
            if type(result) is CoroutineType:
                running = begin(result)
                if isinstance(running, asyncio.Task):
                    self.wait_for(exchange, running)
                    return
                answer = running
            else:
                answer = result  # type: ignore[assignment]  # mypy has no word for "coroutines have been dealt with"
        except SofsError as error:
            answer = failure(exchange, error)
        except DecodeError as error:
            raise DecodeError(f"{exchange.rule.name}: {error}") from None
        self._finish(exchange, answer)

    def read_header(self, message: memoryview, sealed: Session | None) -> Exchange:
        """The request, its message id taken from the window. Raises `PeerError` where the connection must end."""
        exchange = Exchange(self, message, sealed)
        (
            magic, size, exchange.charge, exchange.sequence, exchange.command, exchange.credits, exchange.flags, _, message_id, low, high,
            exchange.session_id, _,
        ) = HEADER.unpack_from(message)  # fmt: skip
        if magic != PLAIN or size != HEADER_SIZE or exchange.flags & FLAG_REPLY:
            raise DecodeError(f"a header of size {size} and flags {exchange.flags:#x}")
        exchange.message_id = message_id
        exchange.tree_id = high
        exchange.rule = dispatch.rule(exchange.command)
        if exchange.command == Command.CANCEL:
            exchange.async_id = low | high << 32 if exchange.flags & FLAG_ASYNC else 0
            return exchange
        if self._single:
            exchange.charge = 0  # the field says nothing in dialect 2.0.2
        if not self.window.take(message_id, exchange.charge or 1):
            raise PeerError(f"message id {message_id} (charge {exchange.charge}) was not granted or is used")
        if (self.dialect is None) != (exchange.command == Command.NEGOTIATE):
            raise PeerError(f"{exchange.rule.name} {'before' if self.dialect is None else 'after'} NEGOTIATE")
        return exchange

    # Requests that wait

    def wait_for(self, exchange: Exchange, task: "asyncio.Task[Any]") -> None:
        """Its handler waits; the request is answered when `task` has an answer."""
        exchange.task = task
        # What waits for others has no payload in memory yet, and may wait for ever.
        size = len(exchange.message) + (0 if exchange.rule.waits else exchange.charge << 16)
        self.in_progress[exchange.message_id] = exchange
        self.hold(size)
        if not exchange.rule.waits:
            if exchange.command != Command.SESSION_SETUP:  # a client does not expect that while it logs on
                exchange.timer = self.service.clock.call_later(PENDING_AFTER_S, partial(self._tell_pending, exchange))
        elif exchange.command != Command.CHANGE_NOTIFY and not is_here(exchange.tree.volume):
            exchange.timer = self.service.clock.call_later(PENDING_SOON_S, partial(self._tell_pending, exchange))
        else:
            self._tell_pending(exchange)
        task.add_done_callback(partial(self._ready, exchange, size))

    def _ready(self, exchange: Exchange, size: int, task: "asyncio.Task[Any]") -> None:
        self.release(size)
        self.in_progress.pop(exchange.message_id, None)
        if exchange.timer is not None:
            exchange.timer.cancel()
        if self.gone:
            if not task.cancelled():
                task.exception()
            return
        exchange.task = None
        answer: Answer
        try:
            answer = task.result()
        except asyncio.CancelledError:
            answer = failure(exchange, Failure(Status.CANCELLED))
        except SofsError as error:
            answer = failure(exchange, error)
        except Exception as error:
            self.broken(exchange, error)
            return
        self._finish(exchange, answer)

    def broken(self, exchange: Exchange, error: BaseException) -> None:
        """A task failed in a way no handler should."""
        if isinstance(error, PeerError):
            log.warning("connection_refused", peer=self.client, reason=f"{exchange.rule.name}: {error}")
            self.link.close(f"the peer broke the protocol: {error}")
        else:
            log.error("request_failed", peer=self.client, command=exchange.rule.name, exc_info=error)
            self.link.close("a bug of ours, see the log")

    def _tell_pending(self, exchange: Exchange) -> None:
        """The interim response, MS-SMB2 3.3.4.2; it brings the credits."""
        if exchange.task is None or exchange.task.done() or self.gone or exchange.async_id:
            return
        exchange.async_id = self._next_async
        self._next_async += 1
        status, exchange.status = exchange.status, Status.PENDING
        self._transmit(exchange, assemble(exchange, ERROR_BODY))
        exchange.status = status
        exchange.credits = -1

    def _cancel(self, exchange: Exchange) -> None:
        """MS-SMB2 3.3.5.16: no reply of its own; what has finished meanwhile stays finished."""
        channel = self.channels.get(exchange.session_id)
        if channel is not None:
            exchange.session = channel.session
            if exchange.flags & FLAG_SIGNED and channel.signer is not None and exchange.sealed is None:
                if not verify(channel.signer, exchange.message, exchange.message_id, cancel=True):
                    return
        for other in self.in_progress.values():
            found = other.async_id == exchange.async_id if exchange.flags & FLAG_ASYNC else other.message_id == exchange.message_id
            if found and other.task is not None and other.rule.waits and other.session_id == exchange.session_id:
                other.task.cancel()
                return

    def hold(self, size: int) -> None:
        """One answer more is to be given; until then it keeps `size` bytes."""
        self._unanswered += 1
        self._held += size
        if self._held > HELD and not self._paused:
            self._paused = True
            self.link.pause()

    def release(self, size: int) -> None:
        self._unanswered -= 1
        self._held -= size
        if self._paused and self._held < HELD // 2:
            self._paused = False
            self.link.resume()

    # Replies out

    def _finish(self, exchange: Exchange, answer: Answer) -> None:
        """Captures the reply, and sends it once what it tells may be told."""
        message = assemble(exchange, answer)
        if exchange.command <= Command.SESSION_SETUP:
            self._hash_reply(exchange, message)
        volume = exchange.volume
        if volume is None:
            self._transmit(exchange, message)
            return
        size = len(exchange.message) + len(message)
        self._unanswered += 1
        self._held += size
        volume.when(exchange.gate, exchange.level, partial(self._opened, exchange, message, size))
        if self._held > HELD and not self._paused:
            self._paused = True
            self.link.pause()

    def _hash_reply(self, exchange: Exchange, message: bytearray | memoryview) -> None:
        """Pre-authentication integrity: all but the last reply of a logon is hashed, MS-SMB2 3.3.5.4 and 3.3.5.5."""
        if exchange.command == Command.NEGOTIATE:
            self.preauth.add(message)
        elif exchange.status == Status.MORE_PROCESSING_REQUIRED and exchange.channel.preauth is not None:
            exchange.channel.preauth.add(message)

    def _opened(self, exchange: Exchange, message: bytearray | memoryview, size: int) -> None:
        self._unanswered -= 1
        self._held -= size
        if self._paused:
            self._unanswered += 1
            self.release(0)
        self._transmit(exchange, message)

    def _transmit(self, exchange: Exchange, message: bytearray | memoryview) -> None:
        sealer = exchange.sealer
        if sealer is None:
            self.link.send((FRAME.pack(len(message)), message))
        else:
            self.link.send((FRAME.pack(TRANSFORM_SIZE + len(message)), *sealer.seal(message)))

    def send(self, buffers: list[Buffer], total: int) -> None:
        """Gives an answer of `total` bytes, for which they have been held."""
        self.release(total)
        self.link.send(buffers)

    def _smb1(self, message: memoryview) -> None:
        from gateways.smb.commands import negotiate

        if not self.window.take(0, 1):
            raise PeerError("a second SMB1 NEGOTIATE")
        reply = negotiate.answer_smb1(self, message)
        self.link.send([FRAME.pack(len(reply)), reply])
