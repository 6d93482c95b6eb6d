"""Copies and clones at the server: copychunk (MS-SMB2 3.3.5.15.5 and 6) and duplicate extents (MS-FSCC 2.3.7 to 2.3.10)."""

import struct
from functools import partial

from gateways.smb.exchange import Exchange
from gateways.smb.handle import Handle
from gateways.smb.header import ANY_FILE
from gateways.smb.status import Failure, Status, status_of
from sofs.errors import SofsError
from sofs.types import PAGE
from sofs.volume.api import SPARSE_FILE, Access, Attributes, Clone, Copied, Copy, Found, GetAttributes

MAX_CHUNKS, MAX_CHUNK, MAX_TOTAL = 256, 1 << 20, 16 << 20
"""Windows' own limits (MS-SMB2 appendix A)."""

_KEY = struct.Struct("<QQQ")
_COPY = struct.Struct("<24sII")  # resume key, chunk count, reserved
_CHUNK = struct.Struct("<QQII")  # source offset, target offset, length, reserved
_COPIED = struct.Struct("<III")
_LIMITS = _COPIED.pack(MAX_CHUNKS, MAX_CHUNK, MAX_TOTAL)
_DUPLICATE = struct.Struct("<QQQQQ")  # source file id, source offset, target offset, length
_DUPLICATE_EX = struct.Struct("<QQQQQQII")  # structure size first; flags, reserved last


async def resume_key(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_SRV_REQUEST_RESUME_KEY: a name for this open that a copychunk on another can give as its source."""
    handle = exchange.handle
    return _KEY.pack(handle.number, handle.persistent, handle.session.number) + bytes(8)


def _source(exchange: Exchange, key: bytes) -> Handle:
    number, persistent, session = _KEY.unpack(key)
    handle = exchange.session.handles.get(number)
    if handle is None or handle.persistent != persistent or session != exchange.session.number or handle.pipe is not None:
        raise Failure(Status.OBJECT_NAME_NOT_FOUND)
    return handle


def _check_rights(source: Handle, target: Handle, read_target: bool) -> None:
    if source.directory or target.directory:
        raise Failure(Status.INVALID_DEVICE_REQUEST)
    if not source.access & (Access.READ_DATA | Access.EXECUTE) or not target.access & Access.WRITE_DATA:
        raise Failure(Status.ACCESS_DENIED)
    if read_target and not target.access & Access.READ_DATA:
        raise Failure(Status.ACCESS_DENIED)
    if source.volume is not target.volume:
        raise Failure(Status.NOT_SAME_DEVICE)


async def copychunk(exchange: Exchange, data: memoryview, room: int, read_target: bool = True) -> bytes:
    """FSCTL_SRV_COPYCHUNK, whose target must be readable too."""
    key, count, _ = _COPY.unpack_from(data)
    source, target = _source(exchange, key), exchange.handle
    if len(data) < _COPY.size + count * _CHUNK.size:
        raise Failure(Status.INVALID_PARAMETER)
    chunks = [_CHUNK.unpack_from(data, _COPY.size + place * _CHUNK.size)[:3] for place in range(min(count, MAX_CHUNKS + 1))]
    lengths = [length for _, _, length in chunks]
    if count > MAX_CHUNKS or (lengths and (not min(lengths) or max(lengths) > MAX_CHUNK)) or sum(lengths) > MAX_TOTAL:
        # The limits go with the error, so that the client can ask again (3.3.5.15.6.1).
        exchange.status = Status.INVALID_PARAMETER
        return _LIMITS
    _check_rights(source, target, read_target)
    found: Found = await exchange.call(GetAttributes(source.id))
    done = total = 0
    for source_offset, offset, length in chunks:
        if source_offset + length > found.attributes.size:
            exchange.status = Status.INVALID_VIEW_SIZE
            break
        try:
            copied: Copied = await exchange.call(Copy(source.id, source_offset, target.id, offset, length))
        except SofsError as error:
            if not done:
                exchange.status = status_of(error)
            exchange.wait_for(target.volume, error.gate)
            break
        total += copied.length
        done += 1
    return _COPIED.pack(done, 0, total)


copychunk_write = partial(copychunk, read_target=False)
"""FSCTL_SRV_COPYCHUNK_WRITE."""


async def duplicate(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_DUPLICATE_EXTENTS_TO_FILE."""
    persistent, volatile, source_offset, offset, length = _DUPLICATE.unpack_from(data)
    return await _clone(exchange, persistent, volatile, source_offset, offset, length)


async def duplicate_ex(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX. A clone is one batch here, so DUPLICATE_EXTENTS_DATA_EX_SOURCE_ATOMIC is always kept."""
    size, persistent, volatile, source_offset, offset, length, _, _ = _DUPLICATE_EX.unpack_from(data)
    if size != _DUPLICATE_EX.size:
        raise Failure(Status.INVALID_PARAMETER)
    return await _clone(exchange, persistent, volatile, source_offset, offset, length)


async def _clone(exchange: Exchange, persistent: int, volatile: int, source_offset: int, offset: int, length: int) -> bytes:
    target = exchange.handle
    if persistent == volatile == ANY_FILE:
        source = target
    else:
        found = exchange.session.handles.get(volatile)
        if found is None or found.persistent != persistent:
            raise Failure(Status.INVALID_HANDLE)
        source = found
    _check_rights(source, target, read_target=False)
    found_source: Found = await exchange.call(GetAttributes(source.id))
    found_target: Found = await exchange.call(GetAttributes(target.id))
    ours, theirs = found_target.attributes, found_source.attributes
    # MS-FSCC 2.3.8: not from beyond the source's last cluster, not onto itself, and no holes into a file that has none.
    if source_offset + length > -(-theirs.size // PAGE) * PAGE or theirs.flags & SPARSE_FILE & ~ours.flags:
        raise Failure(Status.NOT_SUPPORTED)
    if source.inode == target.inode and abs(source_offset - offset) < length:
        raise Failure(Status.NOT_SUPPORTED)
    # The target never grows: clients set its end first.
    length = min(length, ours.size - offset)
    if length > 0:
        await exchange.call(Clone(source.id, source_offset, target.id, offset, length))
    return b""


async def attributes_of(exchange: Exchange) -> Attributes:
    found: Found = await exchange.call(GetAttributes(exchange.handle.id))
    return found.attributes
