"""READ, MS-SMB2 3.3.5.12. The hot path: one struct in, the volume fills the reply in place, nothing is copied."""

import struct
from collections.abc import Awaitable, Coroutine
from typing import Any

from gateways.smb.exchange import Answer, Exchange
from gateways.smb.status import Failure, Status
from sofs.volume.api import Access, Read

MAX_READ = 8 << 20
_REQUEST = struct.Struct("<HBBIQQQIIIHH")  # size, padding, flags, length, offset, file id, minimum, channel, remaining, channel info
_REPLY = struct.Struct("<HBBIII")  # structure size, data offset, reserved, length, remaining, flags
_DATA_AT = 80
_POOLED = 60 << 10
"""Replies from this size on are built in buffers that are used again."""
_MAX_OFFSET = (1 << 63) - 1
_READERS = Access.READ_DATA | Access.EXECUTE


def handle(exchange: Exchange) -> Answer | Coroutine[Any, Any, Answer]:
    _, _, _, length, offset, _, _, minimum, channel, _, _, _ = exchange.unpack(_REQUEST)
    handle = exchange.handle
    if length > MAX_READ or length > (exchange.charge or 1) << 16 or channel:
        raise Failure(Status.INVALID_PARAMETER)
    if handle.pipe is not None:
        return _pipe(exchange, length)
    if handle.directory:
        raise Failure(Status.INVALID_DEVICE_REQUEST)
    if offset + length > _MAX_OFFSET:
        raise Failure(Status.INVALID_PARAMETER)
    if not length:
        if not handle.access & _READERS:
            raise Failure(Status.ACCESS_DENIED)
        if minimum:
            raise Failure(Status.END_OF_FILE)
        return _REPLY.pack(17, _DATA_AT, 0, 0, 0, 0)  # no byte is read, so no lock is in the way
    handle.position = offset + length
    size = _DATA_AT + length
    buffer = exchange.connection.service.buffers.take(size) if size > _POOLED else bytearray(size)
    view = memoryview(buffer)
    volume = handle.volume
    exchange.volume = volume
    result = volume.read(handle.id, offset, view[_DATA_AT:size], exchange.session.binding)
    if type(result) is Read:
        return _answer(exchange, view, result, length, minimum)
    return _later(exchange, view, result, length, minimum)  # type: ignore[arg-type]


async def _later(exchange: Exchange, view: memoryview, result: Awaitable[Read], length: int, minimum: int) -> Answer:
    return _answer(exchange, view, await result, length, minimum)


def _answer(exchange: Exchange, view: memoryview, result: Read, length: int, minimum: int) -> Answer:
    count, _, gate, _ = result
    exchange.gate = gate
    if not count or count < minimum:
        raise Failure(Status.END_OF_FILE)
    _REPLY.pack_into(view, 64, 17, _DATA_AT, 0, count, 0, 0)
    return view[: _DATA_AT + count]


async def _pipe(exchange: Exchange, length: int) -> Answer:
    pipe = exchange.handle.pipe
    assert pipe is not None
    data, more = pipe.read(length)
    if more:
        exchange.status = Status.BUFFER_OVERFLOW
    return _REPLY.pack(17, _DATA_AT, 0, len(data), 0, 0) + data
