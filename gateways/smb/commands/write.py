"""WRITE, MS-SMB2 3.3.5.13. The hot path: the volume gets a view into the message that came."""

import struct
from collections.abc import Awaitable, Coroutine
from typing import Any

from gateways.smb.exchange import Answer, Exchange
from gateways.smb.status import Failure, Status
from gateways.smb.wire import DecodeError
from sofs.types import Level
from sofs.volume.api import Written

MAX_WRITE = 8 << 20
_REQUEST = struct.Struct("<HHIQQQIIHHI")  # size, data offset, length, offset, file id, channel, remaining, channel info, flags
_REPLY = struct.Struct("<HHIIHHB")  # structure size, reserved, count, remaining, channel info, one byte of nothing
_WRITE_THROUGH = 1
_MAX_OFFSET = (1 << 63) - 1


def handle(exchange: Exchange) -> Answer | Coroutine[Any, Any, Answer]:
    _, at, length, offset, _, _, channel, _, _, _, flags = exchange.unpack(_REQUEST)
    handle = exchange.handle
    message = exchange.message
    if length > MAX_WRITE or length > (exchange.charge or 1) << 16 or channel:
        raise Failure(Status.INVALID_PARAMETER)
    if at + length > len(message) or (length and at < 112):
        raise DecodeError(f"{length} bytes of data at {at} in a message of {len(message)}")
    data = message[at : at + length]
    if handle.pipe is not None:
        handle.pipe.write(data)
        return _REPLY.pack(17, 0, length, 0, 0, 0, 0)
    if handle.directory:
        raise Failure(Status.INVALID_DEVICE_REQUEST)
    if offset + length > _MAX_OFFSET:
        raise Failure(Status.INVALID_PARAMETER)
    if flags & _WRITE_THROUGH or handle.write_through:
        exchange.level = Level.STABLE
    handle.position = offset + length
    volume = handle.volume
    exchange.volume = volume
    result = volume.write(handle.id, offset, data, None, exchange.level, exchange.session.binding)
    if type(result) is Written:
        exchange.gate = result.gate
        return _REPLY.pack(17, 0, result.count, 0, 0, 0, 0)
    return _later(exchange, result)  # type: ignore[arg-type]


async def _later(exchange: Exchange, result: Awaitable[Written]) -> Answer:
    written = await result
    exchange.gate = written.gate
    return _REPLY.pack(17, 0, written.count, 0, 0, 0, 0)
