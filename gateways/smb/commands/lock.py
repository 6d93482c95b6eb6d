"""LOCK, MS-SMB2 3.3.5.14: byte-range locks and unlocks, several in one request."""

import struct
from collections.abc import Coroutine
from typing import Any

from gateways.smb.commands.negotiate import CAP_MULTI_CHANNEL, server_capabilities
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.header import HEADER_SIZE
from gateways.smb.status import Failure, Status
from gateways.smb.wire import unpack
from sofs.errors import Closed, LockConflict, SofsError
from sofs.volume.api import Lock, Unlock

_REQUEST = struct.Struct("<HHIQQ")  # structure size, lock count, lock sequence, file id
_ELEMENT = struct.Struct("<QQII")  # offset, length, flags, reserved
_SHARED, _EXCLUSIVE, _UNLOCK, _FAIL_IMMEDIATELY = 1, 2, 4, 0x10
_LOCKS = (_SHARED, _EXCLUSIVE, _SHARED | _FAIL_IMMEDIATELY, _EXCLUSIVE | _FAIL_IMMEDIATELY)
_MAX_LOCKS = 64
_MAX_INDEX = 64
_REPLY = b"\x04\0\0\0"

Element = tuple[int, int, int]


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    _, count, sequence, _, _ = exchange.unpack(_REQUEST)
    if not count or count > _MAX_LOCKS or exchange.handle.directory or exchange.handle.pipe is not None:
        raise Failure(Status.INVALID_PARAMETER)
    elements = [unpack(_ELEMENT, exchange.message, HEADER_SIZE + _REQUEST.size + place * _ELEMENT.size)[:3] for place in range(count)]
    if elements[0][2] == _UNLOCK:
        return _unlock(exchange, elements, _number(exchange, sequence))
    if any(flags not in _LOCKS for _, _, flags in elements):
        raise Failure(Status.INVALID_PARAMETER)
    if count > 1 and any(not flags & _FAIL_IMMEDIATELY for _, _, flags in elements):
        raise Failure(Status.INVALID_PARAMETER)
    return _lock(exchange, elements, _number(exchange, sequence))


def _number(exchange: Exchange, sequence: int) -> bytes:
    """LockSequenceIndex and -Number as the volume takes them; empty where they say nothing, MS-SMB2 3.3.5.14."""
    index, number = sequence >> 4, sequence & 0xF
    if not 1 <= index <= _MAX_INDEX:
        return b""
    lasts = exchange.handle.durable is not None and bool(exchange.handle.durable.granted_ms)
    if not lasts and not server_capabilities(exchange.connection) & CAP_MULTI_CHANNEL:
        return b""
    return struct.pack("<IB", index, number)


def _check_range(offset: int, length: int) -> None:
    # A range may end at 2**64, but not wrap beyond it (MS-FSA 2.1.5.7).
    if length and offset + length - 1 > 0xFFFFFFFF_FFFFFFFF:
        raise Failure(Status.INVALID_LOCK_RANGE)


async def _unlock(exchange: Exchange, elements: list[Element], number: bytes) -> Answer:
    handle = exchange.handle
    for place, (offset, length, flags) in enumerate(elements):
        if flags != _UNLOCK:
            raise Failure(Status.INVALID_PARAMETER)
        _check_range(offset, length)
        await exchange.call(Unlock(handle.id, offset, length, number=number, element=place))
    return _REPLY


async def _lock(exchange: Exchange, elements: list[Element], number: bytes) -> Answer:
    """All or none: what was taken is given back when a later one fails."""
    handle = exchange.handle
    taken: list[Element] = []
    try:
        for place, (offset, length, flags) in enumerate(elements):
            _check_range(offset, length)
            wait = not flags & _FAIL_IMMEDIATELY
            try:
                await exchange.call(Lock(handle.id, offset, length, bool(flags & _EXCLUSIVE), wait, number=number, element=place))
            except LockConflict as error:
                failure = Failure(Status.LOCK_NOT_GRANTED)
                failure.gate = error.gate
                raise failure from None
            except Closed:
                # The open went while its lock was waiting (3.3.5.10).
                raise Failure(Status.RANGE_NOT_LOCKED) from None
            taken.append((offset, length, flags))
    except SofsError:
        for place, (offset, length, _) in reversed(list(enumerate(taken))):
            await exchange.call(Unlock(handle.id, offset, length, number=number, element=place, undoes=True))
        raise
    return _REPLY
