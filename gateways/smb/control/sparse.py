"""Holes: FSCTL_SET_SPARSE, SET_ZERO_DATA, FILE_LEVEL_TRIM and QUERY_ALLOCATED_RANGES, MS-FSCC 2.3.63, 2.3.67, 2.3.75 and 2.3.32."""

import struct

from gateways.smb.control.copy import attributes_of
from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U32
from sofs.types import PAGE
from sofs.volume.api import SPARSE_FILE, Access, Changes, Punch, RangeList, Ranges, SetAttributes

_RANGE = struct.Struct("<qq")
_MAX_RANGES = 65_536
_TRIM = struct.Struct("<II")  # key, number of ranges
_TRIMMED = struct.Struct("<QQ")
_MAX_TRIMMED = 4096


def _need(exchange: Exchange, access: int) -> None:
    handle = exchange.handle
    if handle.directory:
        raise Failure(Status.INVALID_PARAMETER)
    if not handle.access & access:
        raise Failure(Status.ACCESS_DENIED)


async def set_sparse(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """An empty input means yes."""
    _need(exchange, Access.WRITE_DATA | Access.WRITE_ATTRIBUTES | Access.APPEND_DATA)
    sparse = bool(data[0]) if len(data) else True
    await exchange.call(SetAttributes(exchange.handle.id, Changes(sparse=sparse)))
    return b""


async def set_zero_data(exchange: Exchange, data: memoryview, room: int) -> bytes:
    _need(exchange, Access.WRITE_DATA)
    if len(data) < _RANGE.size:
        raise Failure(Status.INVALID_PARAMETER)
    start, end = _RANGE.unpack_from(data)
    if start < 0 or end < start:
        raise Failure(Status.INVALID_PARAMETER)
    attributes = await attributes_of(exchange)
    end = min(end, attributes.size)
    if start < end:
        sparse = bool(attributes.flags & SPARSE_FILE)
        await exchange.call(Punch(exchange.handle.id, start, end - start, deallocate=sparse))
    return b""


async def trim(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_FILE_LEVEL_TRIM, MS-FSCC 2.3.75: ranges whose content nobody wants any more. Whole pages of them are given back, and read as zeros then."""
    _need(exchange, Access.WRITE_DATA)
    if len(data) < _TRIM.size:
        raise Failure(Status.INVALID_PARAMETER)
    key, count = _TRIM.unpack_from(data)
    if key or not count or count > _MAX_TRIMMED or len(data) < _TRIM.size + count * _TRIMMED.size:
        raise Failure(Status.INVALID_PARAMETER)
    size = (await attributes_of(exchange)).size
    for place in range(count):
        offset, length = _TRIMMED.unpack_from(data, _TRIM.size + place * _TRIMMED.size)
        start, end = offset + PAGE - 1 & -PAGE, min(offset + length, size)
        end = end if end == size else end & -PAGE
        if start < end:
            await exchange.call(Punch(exchange.handle.id, start, end - start))
    return U32.pack(count) if room >= 4 else b""


async def query_allocated_ranges(exchange: Exchange, data: memoryview, room: int) -> bytes:
    _need(exchange, Access.READ_DATA)
    if len(data) < _RANGE.size:
        raise Failure(Status.INVALID_PARAMETER)
    offset, length = _RANGE.unpack_from(data)
    if offset < 0 or length < 0 or offset + length >= 1 << 63:
        raise Failure(Status.INVALID_PARAMETER)
    attributes = await attributes_of(exchange)
    length = min(offset + length, attributes.size) - offset
    if length <= 0:
        return b""
    if not attributes.flags & SPARSE_FILE:
        ranges, end = [(offset, length)], True
    else:
        reply: RangeList = await exchange.call(Ranges(exchange.handle.id, offset, length, min(room // _RANGE.size + 1, _MAX_RANGES)))
        ranges, end = reply.ranges, reply.end
    fitting = ranges[: room // _RANGE.size]
    if len(fitting) < len(ranges) or not end:
        if not fitting:
            raise Failure(Status.BUFFER_TOO_SMALL)
        exchange.status = Status.BUFFER_OVERFLOW
    return b"".join(_RANGE.pack(*each) for each in fitting)
