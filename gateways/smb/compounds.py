"""Compounds, MS-SMB2 3.3.5.2.7: several requests in one message, one after the other, and their replies in one."""

import asyncio
from collections.abc import Callable
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from gateways.eager import begin
from gateways.smb.admission import admit
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Session
from gateways.smb.header import FLAG_RELATED, FRAME, HEADER_SIZE, NEXT_COMMAND_AT, Command
from gateways.smb.replies import assemble, failure
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U32, DecodeError
from sofs.errors import PeerError, SofsError
from sofs.runtime.ports import Buffer
from sofs.types import Level, Lsn
from sofs.volume.api import Volume

if TYPE_CHECKING:
    from gateways.smb.connection import Connection

MAX_COMPOUND = 32
MAX_COMPOUND_CREDITS = 384
"""24 MiB of payload, all of which is in memory at once."""


def take(connection: "Connection", message: memoryview, next_command: int, sealed: Session | None) -> None:
    """A message whose second request begins at `next_command`. Raises `PeerError`."""
    exchanges: list[Exchange] = []
    while True:
        if next_command and (next_command & 7 or next_command < HEADER_SIZE or next_command > len(message)):
            raise DecodeError(f"the next command of a compound at {next_command} of {len(message)}")
        one = message[:next_command] if next_command else message
        if len(one) < HEADER_SIZE or len(exchanges) == MAX_COMPOUND:
            raise DecodeError(f"command {len(exchanges) + 1} of a compound has {len(one)} bytes")
        exchange = connection.read_header(one, sealed)
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
    running = begin(_run(connection, exchanges))
    if isinstance(running, asyncio.Task):
        connection.hold(len(message))
        running.add_done_callback(partial(_done, connection, exchanges[0], len(message)))


def _done(connection: "Connection", exchange: Exchange, size: int, task: "asyncio.Task[None]") -> None:
    connection.release(size)
    if not task.cancelled() and (error := task.exception()) is not None:
        connection.broken(exchange, error)


async def _run(connection: "Connection", exchanges: list[Exchange]) -> None:
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
                    _deliver(connection, answers)
                    connection.wait_for(exchange, running)
                    return
                if exchange.rule.waits and exchange.command != Command.CREATE:
                    # Like Windows: what may take for ever cannot stand in the middle.
                    running.cancel()
                    await asyncio.wait([running])
                    raise Failure(Status.INTERNAL_ERROR)
                answer = await _part(connection, exchange, running)
            else:
                answer = running  # type: ignore[assignment]
        except SofsError as error:
            answer = failure(exchange, error)
        answers.append((exchange, answer))
    _deliver(connection, answers)


async def _part(connection: "Connection", exchange: Exchange, task: "asyncio.Task[Any]") -> Answer:
    """The answer to a request that the others of its compound wait for; like a single one it can be given up meanwhile."""
    exchange.task = task
    connection.in_progress[exchange.message_id] = exchange
    try:
        answer: Answer = await task
        return answer
    except asyncio.CancelledError:
        raise Failure(Status.CANCELLED) from None
    finally:
        exchange.task = None
        connection.in_progress.pop(exchange.message_id, None)


def _deliver(connection: "Connection", answers: list[tuple[Exchange, Answer]]) -> None:
    """Sends a compound's replies together, once every gate is open."""
    if not answers or connection.gone:
        return
    last = len(answers) - 1
    replies = [assemble(exchange, answer, place == last, last > 0) for place, (exchange, answer) in enumerate(answers)]
    buffers: list[Buffer] = list(replies)
    sealer = answers[0][0].sealer
    if sealer is not None:
        buffers = sealer.seal(b"".join(replies))
    total = sum(map(len, buffers))
    connection.hold(total)
    send: Callable[[], None] = partial(connection.send, [FRAME.pack(total), *buffers], total)
    gates: dict[Volume, tuple[Level, Lsn]] = {}
    for exchange, _ in answers:
        if (volume := exchange.volume) is not None:
            before = gates.get(volume)
            gate = (exchange.level, exchange.gate)
            gates[volume] = gate if before is None else (max(before[0], gate[0]), max(before[1], gate[1]))
    for volume, (level, lsn) in gates.items():
        send = partial(volume.when, lsn, level, send)
    send()
