"""LOCK, MS-SMB2 3.3.5.14: byte-range locks and unlocks, several in one request."""

import struct
from collections.abc import Coroutine
from typing import Any

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
_REPLY = b"\x04\0\0\0"

Element = tuple[int, int, int]


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    count = exchange.unpack(_REQUEST)[1]
    if not count or count > _MAX_LOCKS or exchange.handle.directory or exchange.handle.pipe is not None:
        raise Failure(Status.INVALID_PARAMETER)
    elements = [
        unpack(_ELEMENT, exchange.message, HEADER_SIZE + _REQUEST.size + place * _ELEMENT.size)[:3] for place in range(count)
    ]
    if elements[0][2] == _UNLOCK:
        return _unlock(exchange, elements)
    if any(flags not in _LOCKS for _, _, flags in elements):
        raise Failure(Status.INVALID_PARAMETER)
    if count > 1 and any(not flags & _FAIL_IMMEDIATELY for _, _, flags in elements):
        raise Failure(Status.INVALID_PARAMETER)
    return _lock(exchange, elements)


def _check_range(offset: int, length: int) -> None:
    # A range may end at 2**64, but not wrap beyond it (MS-FSA 2.1.5.7).
    if length and offset + length - 1 > 0xFFFFFFFF_FFFFFFFF:
        raise Failure(Status.INVALID_LOCK_RANGE)


async def _unlock(exchange: Exchange, elements: list[Element]) -> Answer:
    handle = exchange.handle
    for offset, length, flags in elements:
        if flags != _UNLOCK:
            raise Failure(Status.INVALID_PARAMETER)
        _check_range(offset, length)
        await exchange.call(Unlock(handle.id, offset, length))
    return _REPLY


async def _lock(exchange: Exchange, elements: list[Element]) -> Answer:
    """All or none: what was taken is given back when a later one fails."""
    handle = exchange.handle
    taken: list[Element] = []
    try:
        for offset, length, flags in elements:
            _check_range(offset, length)
            wait = not flags & _FAIL_IMMEDIATELY
            try:
                await exchange.call(Lock(handle.id, offset, length, bool(flags & _EXCLUSIVE), wait))
            except LockConflict as error:
                failure = Failure(Status.LOCK_NOT_GRANTED)
                failure.gate = error.gate
                raise failure from None
            except Closed:
                # The open went while its lock was waiting (3.3.5.10).
                raise Failure(Status.RANGE_NOT_LOCKED) from None
            taken.append((offset, length, flags))
    except SofsError:
        for offset, length, _ in reversed(taken):
            await exchange.call(Unlock(handle.id, offset, length))
        raise
    return _REPLY
