"""READ and WRITE (RFC 1813 3.3.6 and 3.3.7): the hot path, without copies of payload.

A reply to READ is one buffer: the volume fills the payload in behind a header whose size is known beforehand. A WRITE's payload is a view
of the buffer it was received into, which the connection leaves alone as long as somebody holds one.
"""

import struct
from collections.abc import Awaitable, Callable

from gateways.nfs.ask import Performer
from gateways.nfs.handles import Place
from gateways.nfs.rpc import LAST_FRAGMENT, POOLED, REPLY_SIZE, TRANSFER, Call
from gateways.nfs.v3 import layout
from gateways.nfs.v3.attributes import OK
from gateways.nfs.v3.messages import Handle, Stable
from gateways.nfs.xdr import XdrError, codec
from sofs.errors import InvalidArgument, SofsError
from sofs.types import Level
from sofs.volume.api import Read, Written

_handle: Callable[[memoryview, int], tuple[bytes, int]] = codec(Handle).unpack
_READ = struct.Struct(">QI")  # offset, count
_WRITE = struct.Struct(">QIII")  # offset, count, stable, length of the data
_READ_REPLY = struct.Struct(">7I I")  # record and RPC header, status
_READ_TAIL = struct.Struct(">3I")  # count, eof, length of the data
_WRITTEN = struct.Struct(">II8s")  # count, committed, verifier
ATTRIBUTES = 88
HEAD = REPLY_SIZE + 4 + ATTRIBUTES + 12
"""Bytes before the payload in a reply to READ."""

Fail = Callable[[SofsError], None]


ReadCall = tuple[bytes, int, int]
"""Handle, offset, length. Tuples without names, as one is made for every call."""
WriteCall = tuple[bytes, int, int, int, memoryview]
"""Handle, offset, how stable, length, data."""


def handle_argument(data: memoryview, at: int) -> bytes:
    """The file handle that a call's arguments consist of or begin with. Raises `XdrError`."""
    try:
        return _handle(data, at)[0]
    except struct.error:
        raise XdrError("a file handle cut short") from None


def read_arguments(data: memoryview, at: int) -> ReadCall:
    """READ3args. Raises `XdrError`."""
    try:
        handle, at = _handle(data, at)
        offset, length = _READ.unpack_from(data, at)
        return handle, offset, length
    except struct.error:
        raise XdrError("READ3args is cut short") from None


def write_arguments(data: memoryview, at: int) -> WriteCall:
    """WRITE3args, its data as a view. Raises `XdrError`."""
    try:
        handle, at = _handle(data, at)
        offset, count, stable, length = _WRITE.unpack_from(data, at)
    except struct.error:
        raise XdrError("WRITE3args is cut short") from None
    at += _WRITE.size
    if length > TRANSFER or at + length > len(data):
        raise XdrError(f"{length} bytes to write announced, {len(data) - at} there")
    return handle, offset, stable, count, data[at : at + length]


def read(performer: Performer, take: Callable[[int], bytearray], call: Call, place: Place, args: ReadCall, fail: Fail) -> None:
    """At most 1 MiB; the answer tells how much there was, and whether the file ends there."""
    _, offset, count = args
    if count > TRANSFER:
        count = TRANSFER
    size = HEAD + count + 3
    buffer = take(size) if size >= POOLED else bytearray(size)
    view = memoryview(buffer)
    result = place.volume.read(place.target, offset, view[HEAD : HEAD + count], performer.by)
    if isinstance(result, Read):
        _send_read(call, place, view, result)
    else:
        performer.later(call, _finish_read(call, place, view, result, fail))


async def _finish_read(call: Call, place: Place, view: memoryview, result: Awaitable[Read], fail: Fail) -> None:
    try:
        done = await result
    except SofsError as error:
        fail(error)
        return
    _send_read(call, place, view, done)


def _send_read(call: Call, place: Place, view: memoryview, result: Read) -> None:
    """Writes the headers before the payload, and the answer is ready."""
    count = result.count
    attributes = layout.post_op(result.attributes, place.fsid)
    start = ATTRIBUTES - len(attributes)  # without attributes the headers are shorter
    end = HEAD + (count + 3 & ~3)
    view[HEAD + count : end] = bytes(end - HEAD - count)
    _READ_REPLY.pack_into(view, start, LAST_FRAGMENT | end - start - 4, call.xid, 1, 0, 0, 0, 0, 0)
    view[start + _READ_REPLY.size : HEAD - 12] = attributes
    _READ_TAIL.pack_into(view, HEAD - 12, count, result.end, count)
    message = (view[start:end],)
    place.volume.when(result.gate, Level.COMMITTED, lambda: call.connection.answer(call, message))


def write(performer: Performer, call: Call, place: Place, args: WriteCall, fail: Fail) -> None:
    """UNSTABLE data is answered when every replica has it in memory: the verifier changes if it is lost after all (3.3.7)."""
    _, offset, stable, count, data = args
    if count != len(data):
        raise InvalidArgument("count and data differ")
    level = Level.COMMITTED if stable == Stable.UNSTABLE else Level.STABLE
    result = place.volume.write(place.target, offset, data, None, level, performer.by)
    if isinstance(result, Written):
        _send_written(call, place, result, level)
    else:
        performer.later(call, _finish_write(call, place, result, level, fail))


async def _finish_write(call: Call, place: Place, result: Awaitable[Written], level: Level, fail: Fail) -> None:
    try:
        done = await result
    except SofsError as error:
        fail(error)
        return
    _send_written(call, place, done, level)


def _send_written(call: Call, place: Place, result: Written, level: Level) -> None:
    volume = place.volume
    committed = Stable.UNSTABLE if level is Level.COMMITTED else Stable.FILE_SYNC
    results = OK + layout.wcc(result.before, result.attributes, place.fsid) + _WRITTEN.pack(result.count, committed, volume.verifier.to_bytes(8))
    volume.when(result.gate, level, lambda: call.reply(results))
