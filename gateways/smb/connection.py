"""One client connection, MS-SMB2 3.3.5: the protocol proper, without I/O.

A message comes in whole. It is decrypted if need be, split if it is a compound, and each request passes the same gate: its message id must be
among those granted (3.3.5.2.3), its signature right (3.3.5.2.4), its session, tree and file known (3.3.5.2.9 to 11). Then its handler
runs. Most answer at once; a handler that waits goes on as a task, and other requests overtake it. The client hears STATUS_PENDING when that
takes long (3.3.4.2).

A reply is captured first, signed, and leaves when the volume opens the gate it rests on. Replies leave in any order.
"""

import asyncio
import struct
from collections.abc import Callable
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import structlog

from gateways.eager import begin
from gateways.server import Link
from gateways.smb import dispatch
from gateways.smb.admission import admit
from gateways.smb.credits import Window
from gateways.smb.crypto import CipherId, Dialect, Preauth, Sealer, SigningAlgorithm, verify
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Channel, Handle, Session
from gateways.smb.header import (
    ENCRYPTED,
    FLAG_ASYNC,
    FLAG_RELATED,
    FLAG_REPLY,
    FLAG_SIGNED,
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
from gateways.smb.status import Failure, Status, status_of
from gateways.smb.wire import U32, DecodeError, padding
from sofs.errors import PeerError, SofsError
from sofs.runtime.ports import Buffer, Timer
from sofs.types import Level, Lsn
from sofs.volume.api import Volume

if TYPE_CHECKING:
    from gateways.smb.service import SmbService

log = structlog.get_logger("smb")

MAX_MESSAGE = (8 << 20) + (64 << 10)
MAX_STRANGER_MESSAGE = 128 << 10
"""Before the first logon."""
MAX_COMPOUND = 32
MAX_COMPOUND_CREDITS = 384
"""24 MiB of payload, all of which is in memory at once."""
MAX_SESSIONS = 64
HELD = 48 << 20
"""Bytes of requests and replies in progress beyond which a connection is not read from: credits alone would allow 512 MiB."""
MAX_WAITING = 8192
"""Requests in progress beyond which none is taken that may wait for ever: such a one gives its credits back at once (MS-SMB2 3.3.4.2)."""
PENDING_AFTER_S, PENDING_SOON_S = 0.5, 0.02
"""When the client is told that a request takes longer; and one that waits for others, if its volume is at another node, where all takes a moment."""
_FRAME = struct.Struct(">I")
"""The direct TCP header, MS-SMB2 2.1."""

_ERROR_BODY = b"\x09\0\0\0\0\0\0\0\0"


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
        self._in_progress: dict[int, Exchange] = {}
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
        return len(self._in_progress) >= MAX_WAITING

    def give_up_writes(self, session: Session) -> None:
        """Cancels the session's WRITEs that are in progress; each has happened as a whole, or never will.

        Its client may log on again elsewhere and write there: one of these must not come over that later.
        """
        for exchange in list(self._in_progress.values()):
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
        return any(
            getattr(exchange, "handle", None) is handle and exchange.sequence & 0xFFFF != sequence
            for exchange in self._in_progress.values()
        )

    def notify(self, body: bytes, session: Session | None, sealer: Sealer | None) -> None:
        """Sends what nobody asked for: a break, MS-SMB2 3.3.4.6 and 3.3.4.7, which is not signed."""
        number = 0 if session is None else session.number
        message = HEADER.pack(PLAIN, HEADER_SIZE, 0, 0, Command.OPLOCK_BREAK, 0, FLAG_REPLY, 0, UNASKED, 0, 0, number, NO_SIGNATURE) + body
        buffers: list[Buffer] = [message] if sealer is None else sealer.seal(message)
        self.link.send((_FRAME.pack(sum(map(len, buffers))), *buffers))

    def closed(self, reason: str) -> None:
        self.gone = True
        self.service.forget(self)
        for exchange in list(self._in_progress.values()):
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
            self._compound(message, next_command, sealed)
            return
        exchange = self._read_header(message, sealed)
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
                    self._await(exchange, running)
                    return
                answer = running
            else:
                answer = result  # type: ignore[assignment]  # mypy has no word for "coroutines have been dealt with"
        except SofsError as error:
            answer = self._failure(exchange, error)
        except DecodeError as error:
            raise DecodeError(f"{exchange.rule.name}: {error}") from None
        self._finish(exchange, answer)

    def _read_header(self, message: memoryview, sealed: Session | None) -> Exchange:
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

    # Compounds, MS-SMB2 3.3.5.2.7

    def _compound(self, message: memoryview, next_command: int, sealed: Session | None) -> None:
        exchanges: list[Exchange] = []
        while True:
            if next_command and (next_command & 7 or next_command < HEADER_SIZE or next_command > len(message)):
                raise DecodeError(f"the next command of a compound at {next_command} of {len(message)}")
            one = message[:next_command] if next_command else message
            if len(one) < HEADER_SIZE or len(exchanges) == MAX_COMPOUND:
                raise DecodeError(f"command {len(exchanges) + 1} of a compound has {len(one)} bytes")
            exchange = self._read_header(one, sealed)
            if exchange.command in (Command.CANCEL, Command.NEGOTIATE):
                raise PeerError(f"{exchange.rule.name} in a compound")
            exchanges.append(exchange)
            if not next_command:
                break
            message = message[next_command:]
            if len(message) < HEADER_SIZE:
                raise DecodeError("a compound ends in the middle of a header")
            (next_command,) = U32.unpack_from(message, NEXT_COMMAND_AT)
        if (total := sum(exchange.charge for exchange in exchanges)) > MAX_COMPOUND_CREDITS:
            raise PeerError(f"a compound of {total} credits")
        running = begin(self._run_compound(exchanges))
        if isinstance(running, asyncio.Task):
            self._hold(exchanges[0], len(message))
            running.add_done_callback(partial(self._compound_done, exchanges[0], len(message)))

    def _compound_done(self, exchange: Exchange, size: int, task: "asyncio.Task[None]") -> None:
        self._release(size)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(exchange, error)

    async def _run_compound(self, exchanges: list[Exchange]) -> None:
        answers: list[tuple[Exchange, Answer]] = []
        for place, exchange in enumerate(exchanges):
            if exchange.flags & FLAG_RELATED and place:
                exchange.related = exchanges[place - 1]
            answer: Answer
            try:
                admit(exchange)
                result = exchange.rule.handler(exchange)
                running = begin(result) if type(result) is CoroutineType else result
                if isinstance(running, asyncio.Task):
                    if exchange.rule.waits and exchange is exchanges[-1]:
                        # It may take for ever: the others' replies do not wait for it.
                        self._deliver(answers)
                        self._await(exchange, running)
                        return
                    if exchange.rule.waits and exchange.command != Command.CREATE:
                        # Like Windows: what may take for ever cannot stand in the middle.
                        running.cancel()
                        await asyncio.wait([running])
                        raise Failure(Status.INTERNAL_ERROR)
                    answer = await self._part(exchange, running)
                else:
                    answer = running  # type: ignore[assignment]
            except SofsError as error:
                answer = self._failure(exchange, error)
            answers.append((exchange, answer))
        self._deliver(answers)

    async def _part(self, exchange: Exchange, task: "asyncio.Task[Any]") -> Answer:
        """The answer to a request that the others of its compound wait for; like a single one it can be given up meanwhile."""
        exchange.task = task
        self._in_progress[exchange.message_id] = exchange
        try:
            answer: Answer = await task
            return answer
        except asyncio.CancelledError:
            raise Failure(Status.CANCELLED) from None
        finally:
            exchange.task = None
            self._in_progress.pop(exchange.message_id, None)

    def _deliver(self, answers: list[tuple[Exchange, Answer]]) -> None:
        """Sends a compound's replies together, once every gate is open."""
        if not answers or self.gone:
            return
        last = len(answers) - 1
        replies = [self._assemble(exchange, answer, place == last, last > 0) for place, (exchange, answer) in enumerate(answers)]
        buffers: list[Buffer] = list(replies)
        sealer = answers[0][0].sealer
        if sealer is not None:
            buffers = sealer.seal(b"".join(replies))
        total = sum(map(len, buffers))
        self._unanswered += 1
        self._held += total
        send: Callable[[], None] = partial(self._send, [_FRAME.pack(total), *buffers], total)
        gates: dict[Volume, tuple[Level, Lsn]] = {}
        for exchange, _ in answers:
            if (volume := exchange.volume) is not None:
                before = gates.get(volume)
                gate = (exchange.level, exchange.gate)
                gates[volume] = gate if before is None else (max(before[0], gate[0]), max(before[1], gate[1]))
        for volume, (level, lsn) in gates.items():
            send = partial(volume.when, lsn, level, send)
        send()

    # Requests that wait

    def _await(self, exchange: Exchange, task: "asyncio.Task[Any]") -> None:
        exchange.task = task
        # What waits for others has no payload in memory yet, and may wait for ever.
        size = len(exchange.message) + (0 if exchange.rule.waits else exchange.charge << 16)
        self._in_progress[exchange.message_id] = exchange
        self._hold(exchange, size)
        if not exchange.rule.waits:
            if exchange.command != Command.SESSION_SETUP:  # a client does not expect that while it logs on
                exchange.timer = self.service.clock.call_later(PENDING_AFTER_S, partial(self._tell_pending, exchange))
        elif exchange.command != Command.CHANGE_NOTIFY and _is_elsewhere(exchange):
            exchange.timer = self.service.clock.call_later(PENDING_SOON_S, partial(self._tell_pending, exchange))
        else:
            self._tell_pending(exchange)
        task.add_done_callback(partial(self._ready, exchange, size))

    def _ready(self, exchange: Exchange, size: int, task: "asyncio.Task[Any]") -> None:
        self._release(size)
        self._in_progress.pop(exchange.message_id, None)
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
            answer = self._failure(exchange, Failure(Status.CANCELLED))
        except SofsError as error:
            answer = self._failure(exchange, error)
        except Exception as error:
            self._broken(exchange, error)
            return
        self._finish(exchange, answer)

    def _broken(self, exchange: Exchange, error: BaseException) -> None:
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
        self._transmit(exchange, self._assemble(exchange, _ERROR_BODY))
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
        for other in self._in_progress.values():
            found = (
                other.async_id == exchange.async_id if exchange.flags & FLAG_ASYNC else other.message_id == exchange.message_id
            )
            if found and other.task is not None and other.rule.waits and other.session_id == exchange.session_id:
                other.task.cancel()
                return

    def _hold(self, exchange: Exchange, size: int) -> None:
        self._unanswered += 1
        self._held += size
        if self._held > HELD and not self._paused:
            self._paused = True
            self.link.pause()

    def _release(self, size: int) -> None:
        self._unanswered -= 1
        self._held -= size
        if self._paused and self._held < HELD // 2:
            self._paused = False
            self.link.resume()

    # Replies out

    def _failure(self, exchange: Exchange, error: SofsError) -> bytes:
        """The body of an error response, MS-SMB2 2.2.2; the exchange gets its status and gate."""
        exchange.status = status_of(error)
        if error.gate > exchange.gate:
            exchange.gate = error.gate
        if error.gate and exchange.volume is None and hasattr(exchange, "tree"):
            exchange.volume = exchange.tree.volume
        if isinstance(error, Failure) and error.data:
            data, contexts = error.data, 0
            if exchange.status == Status.STOPPED_ON_SYMLINK and self.dialect is Dialect.SMB_3_1_1:
                data, contexts = U32.pack(len(data)) + bytes(4) + data, 1  # an error context, 2.2.2.1
            return b"\x09\0" + bytes([contexts, 0]) + U32.pack(len(data)) + data
        return _ERROR_BODY

    def _assemble(self, exchange: Exchange, answer: Answer, last: bool = True, padded: bool = False) -> bytearray | memoryview:
        """The reply as a message, signed unless it will be encrypted."""
        if type(answer) is bytes:
            message: bytearray | memoryview = bytearray(HEADER_SIZE + len(answer))
            message[HEADER_SIZE:] = answer
        else:
            message = answer  # type: ignore[assignment]
        next_command = 0
        if padded and len(message) & 7:
            message = bytearray(message) + padding(len(message))
        if not last:
            next_command = len(message)
        flags = FLAG_REPLY | (exchange.flags & FLAG_RELATED)
        low, high = 0xFEFF, exchange.tree_id
        if exchange.async_id:
            flags |= FLAG_ASYNC
            low, high = exchange.async_id & 0xFFFFFFFF, exchange.async_id >> 32
        # An interim response need not be signed (3.3.4.1.1); who signs it with the request's id would sign twice with one nonce.
        signer = exchange.signer if exchange.sealer is None and exchange.status != Status.PENDING else None
        if signer is not None:
            flags |= FLAG_SIGNED
        elif exchange.status == Status.USER_SESSION_DELETED:
            # There is no key any more. Like Windows we return the request's flag, with zeros for a signature: clients that insist on
            # signatures make an exception for exactly this, and otherwise would not learn that the session is gone.
            flags |= exchange.flags & FLAG_SIGNED
        granted = self.window.grant(exchange.credits, self.authenticated) if exchange.credits >= 0 else 0
        HEADER.pack_into(
            message, 0, PLAIN, HEADER_SIZE, exchange.charge, exchange.status, exchange.command, granted, flags, next_command,
            exchange.message_id, low, high, exchange.session_id, NO_SIGNATURE,
        )  # fmt: skip
        if signer is not None:
            message[48:64] = signer.sign(message, exchange.message_id)
        return message

    def _finish(self, exchange: Exchange, answer: Answer) -> None:
        """Captures the reply, and sends it once what it tells may be told."""
        message = self._assemble(exchange, answer)
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
            self._release(0)
        self._transmit(exchange, message)

    def _transmit(self, exchange: Exchange, message: bytearray | memoryview) -> None:
        sealer = exchange.sealer
        if sealer is None:
            self.link.send((_FRAME.pack(len(message)), message))
        else:
            self.link.send((_FRAME.pack(TRANSFORM_SIZE + len(message)), *sealer.seal(message)))

    def _send(self, buffers: list[Buffer], total: int) -> None:
        self._release(total)
        self.link.send(buffers)

    def _smb1(self, message: memoryview) -> None:
        from gateways.smb.commands import negotiate

        if not self.window.take(0, 1):
            raise PeerError("a second SMB1 NEGOTIATE")
        reply = negotiate.answer_smb1(self, message)
        self.link.send([_FRAME.pack(len(reply)), reply])


def _is_elsewhere(exchange: Exchange) -> bool:
    """Whether another node serves the volume. Only a routed volume knows; any other is here."""
    volume = exchange.tree.volume
    return getattr(volume, "local", volume) is None
