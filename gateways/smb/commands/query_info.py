"""QUERY_INFO, MS-SMB2 3.3.5.20: files, file systems, security."""

import struct
from collections.abc import Coroutine
from typing import Any

from gateways.smb import quotas
from gateways.smb.crypto import Dialect
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Handle
from gateways.smb.header import HEADER_SIZE
from gateways.smb.info import extended, file, filesystem
from gateways.smb.info.attributes import as_opened
from gateways.smb.names import to_wire
from gateways.smb.short_names import short_name
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U32, part, utf16
from sofs.errors import NotSupported
from sofs.volume.api import (
    Access,
    Extended,
    Found,
    GetAttributes,
    GetExtended,
    GetSecurity,
    GetSpace,
    ListStreams,
    SpaceReply,
    Stateless,
    Streams,
    Text,
)

_REQUEST = struct.Struct("<HBBIHHIIIQQ")  # size, type, class, output length, input at, reserved, input length, parts, flags, file id
_REPLY = struct.Struct("<HHI")
_FILE, _FILE_SYSTEM, _SECURITY, _QUOTA = 1, 2, 3, 4
_MAX = 8 << 20
_LEAST_STREAMS = 32
"""A FILE_STREAM_INFORMATION with one character of a name, aligned (MS-FSCC 2.4.49)."""
_RESTART_SCAN, _SINGLE_ENTRY, _INDEXED = 1, 2, 4
_OWNER_GROUP_DACL, _SACL, _LABEL = 7, 8, 0x10


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    _, kind, number, room, input_at, _, input_length, parts, flags, _, _ = exchange.unpack(_REQUEST)
    if room > _MAX or max(room, input_length) > (exchange.charge or 1) << 16:
        raise Failure(Status.INVALID_PARAMETER)
    given = part(exchange.message, input_at, input_length, "the input") if input_length else memoryview(b"")
    if exchange.handle.pipe is not None:
        if kind != _FILE:
            raise Failure(Status.INVALID_DEVICE_REQUEST)
        return _pipe(exchange, number, room)
    if kind == _FILE:
        return _file(exchange, number, room, given, flags)
    if kind == _FILE_SYSTEM:
        return _file_system(exchange, number, room)
    if kind == _SECURITY:
        return _security(exchange, parts, room)
    if kind == _QUOTA:
        return quotas.query(exchange, room, given)
    raise Failure(Status.INVALID_PARAMETER)


def _reply(data: bytes) -> bytes:
    return _REPLY.pack(9, HEADER_SIZE + _REPLY.size if data else 0, len(data)) + data


def _fit(exchange: Exchange, data: bytes, fixed: int, room: int) -> bytes:
    """Cut to the client's buffer where only the variable part does not fit."""
    if room < fixed:
        raise Failure(Status.INFO_LENGTH_MISMATCH)
    if len(data) > room:
        exchange.status = Status.BUFFER_OVERFLOW
        data = data[:room]
    return _reply(data)


def _need(handle: Handle, access: int) -> None:
    if handle.access & access != access:
        raise Failure(Status.ACCESS_DENIED)


async def _file(exchange: Exchange, number: int, room: int, given: memoryview, flags: int) -> Answer:
    handle = exchange.handle
    if number == file.FULL_EA:
        return await _extended(exchange, room, given, flags)
    form = file.CLASSES.get(number)
    if form is None and number not in (file.STREAM, file.ALTERNATE_NAME):
        raise Failure(Status.INVALID_INFO_CLASS)
    if number == file.NORMALIZED_NAME and exchange.connection.dialect is not Dialect.SMB_3_1_1:
        raise Failure(Status.NOT_SUPPORTED)  # MS-SMB2 3.3.5.20.1
    if form is not None:
        _need(handle, form.access)
        if room < form.fixed:
            raise Failure(Status.INFO_LENGTH_MISMATCH)
    found: Found = await exchange.call(GetAttributes(handle.id))
    if form is not None:
        facts = file.Facts(
            as_opened(found.attributes, handle.stream), handle.volume.id, handle.access, handle.mode, handle.position, handle.name, handle.stream
        )
        return _fit(exchange, form.encode(facts), form.fixed, room)
    if number == file.ALTERNATE_NAME:
        if not handle.name or handle.stream:
            raise Failure(Status.OBJECT_NAME_NOT_FOUND)
        name = utf16(short_name(to_wire(handle.name[-1])))
        return _fit(exchange, U32.pack(len(name)) + name, 8, room)
    return await _streams(exchange, found, room)


async def _streams(exchange: Exchange, found: Found, room: int) -> Answer:
    handle = exchange.handle
    target: Any = handle.id
    attributes = found.attributes
    if handle.stream:
        target = Stateless(attributes.parent, exchange.session.caller)
        base: Found = await exchange.call(GetAttributes(target))
        attributes = base.attributes
    reply: Streams = await exchange.call(ListStreams(target))
    data = file.streams(attributes, reply.streams)
    if len(data) > room:
        raise Failure(Status.BUFFER_OVERFLOW if room >= _LEAST_STREAMS else Status.INFO_LENGTH_MISMATCH)
    return _reply(data)


async def _extended(exchange: Exchange, room: int, given: memoryview, flags: int) -> Answer:
    handle = exchange.handle
    _need(handle, Access.READ_EA)
    names = extended.decode_names(given) if given else None
    reply: Extended = await exchange.call(GetExtended(handle.id, names))
    pairs = reply.attributes
    if not pairs:
        raise Failure(Status.NO_EAS_ON_FILE)
    data, whole = extended.encode(pairs, room)
    if not data:
        raise Failure(Status.BUFFER_TOO_SMALL)
    if not whole:
        exchange.status = Status.BUFFER_OVERFLOW
    return _reply(data)


async def _file_system(exchange: Exchange, number: int, room: int) -> Answer:
    form = filesystem.CLASSES.get(number)
    if form is None:
        raise Failure(Status.INVALID_INFO_CLASS)
    tree = exchange.tree
    volume = exchange.handle.volume
    assert tree.share is not None
    if room < form.fixed:
        raise Failure(Status.INFO_LENGTH_MISMATCH)
    total = free = available = 0
    if number in (filesystem.SIZE, filesystem.FULL_SIZE):
        space: SpaceReply = await exchange.call(GetSpace(exchange.session.caller, exchange.handle.inode))
        total, free, available = space.total, space.free, space.available
    root: Found = await exchange.call(GetAttributes(Stateless(tree.root, exchange.session.caller)))
    facts = filesystem.Facts(volume.id, tree.share.name, root.attributes.created, total, free, available, tree.read_only)
    return _fit(exchange, form.encode(facts), form.fixed, room)


async def _security(exchange: Exchange, parts: int, room: int) -> Answer:
    handle = exchange.handle
    if parts & (_OWNER_GROUP_DACL | _LABEL):
        _need(handle, Access.READ_CONTROL)
    if parts & _SACL:
        _need(handle, Access.SYSTEM_SECURITY)
    if handle.stream:
        raise NotSupported
    reply: Text = await exchange.call(GetSecurity(handle.id, parts))
    if len(reply.text) > room:
        raise Failure(Status.BUFFER_TOO_SMALL, U32.pack(len(reply.text)))
    return _reply(reply.text)


async def _pipe(exchange: Exchange, number: int, room: int) -> Answer:
    """What clients ask of a pipe before they use it, MS-FSCC 2.4.36 and 2.4.41."""
    forms = {
        file.STANDARD: struct.pack("<QQIBBH", 4096, 0, 1, 1, 0, 0),
        file.PIPE: struct.pack("<II", 1, 1),
        file.PIPE_LOCAL: struct.pack("<IIIIIIIIII", 1, 2, 1, 1, 4096, 0, 4096, 4096, 3, 0),
    }
    if number not in forms:
        raise Failure(Status.INVALID_INFO_CLASS)
    return _fit(exchange, forms[number], len(forms[number]), room)
