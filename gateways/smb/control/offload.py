"""Offloaded data transfer (ODX): FSCTL_OFFLOAD_READ and FSCTL_OFFLOAD_WRITE, MS-FSCC 2.3.53 to 2.3.56, MS-FSA 2.1.5.9.24 and 25.

A read makes a token that stands for what a range holds at that moment; a write puts it elsewhere in the volume, sharing the pages where it can. A token
says where the data is, how the file had changed by then, whose it is and until when it holds, under a MAC with a key of this start of the
gateway. Once the file has changed it stands for nothing (STATUS_INVALID_TOKEN), and the client copies by itself.
"""

import hashlib
import hmac
import struct

from gateways.smb.control.copy import attributes_of
from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status
from sofs.errors import NotFound, Stale
from sofs.types import Inode
from sofs.volume.api import Access, Attributes, Caller, Copied, Copy, Found, GetAttributes, Punch, Stateless

_READ = struct.Struct("<IIIIQQ")  # size, flags, time to live in ms, reserved, offset, length
_READ_REPLY = struct.Struct("<IIQ")  # size, flags, transfer length; the token follows
_WRITE = struct.Struct("<IIQQQ")  # size, flags, offset, length, offset in the token's data; the token follows
_WRITE_REPLY = struct.Struct("<IIQ")  # size, flags, length written
TOKEN = 512
_TYPE = struct.Struct(">IHH")  # type, reserved, length of the id; STORAGE_OFFLOAD_TOKEN, MS-FSCC 2.3.54.1
_OURS, _ZEROS = 0x736F6673, 0xFFFF0001
_ID = 504
_FIELDS = struct.Struct("<QQIQQQQId")  # volume, inode, generation, change, file's size, offset, length, uid, until
_MAC = 32

SECTOR = 512
MOST = 64 << 20
"""Bytes for one token and one write: a copy that shares nothing takes the disk's time."""
_DEFAULT_S, _LONGEST_S = 30.0, 600.0
_READER = Caller(0, 0, privileged=True)
"""Who has the token was allowed to read when it was made."""


def _check(exchange: Exchange, access: int, *aligned: int) -> None:
    handle = exchange.handle
    if handle.directory or any(value % SECTOR for value in aligned):
        raise Failure(Status.INVALID_PARAMETER)
    if not handle.access & access:
        raise Failure(Status.ACCESS_DENIED)


async def read(exchange: Exchange, data: memoryview, room: int) -> bytes:
    size, _, live_ms, _, offset, length = _READ.unpack_from(data)
    _check(exchange, Access.READ_DATA, offset, length)
    if size != _READ.size or not length:
        raise Failure(Status.INVALID_PARAMETER)
    attributes = await attributes_of(exchange)
    if offset >= attributes.size:
        raise Failure(Status.END_OF_FILE)
    whole = attributes.size - offset + SECTOR - 1 & -SECTOR
    length = min(length, whole, MOST)
    service, handle = exchange.connection.service, exchange.handle
    until = service.clock.monotonic() + min(live_ms / 1000 or _DEFAULT_S, _LONGEST_S)
    fields = _TYPE.pack(_OURS, 0, _ID) + _FIELDS.pack(
        handle.volume.id, handle.inode, attributes.generation, attributes.change, attributes.size, offset, length,
        exchange.session.caller.uid, until,
    )  # fmt: skip
    token = (fields + _mac(service.token_key, fields)).ljust(TOKEN, b"\0")
    return _READ_REPLY.pack(_READ_REPLY.size + TOKEN, 0, length) + token


def _mac(key: bytes, fields: bytes) -> bytes:
    return hmac.digest(key, fields, hashlib.sha256)


async def write(exchange: Exchange, data: memoryview, room: int) -> bytes:
    size, _, offset, length, skipped = _WRITE.unpack_from(data)
    _check(exchange, Access.WRITE_DATA, offset, length, skipped)
    if size != _WRITE.size + TOKEN or not length:
        raise Failure(Status.INVALID_PARAMETER)
    target = await attributes_of(exchange)
    if offset >= target.size:
        raise Failure(Status.END_OF_FILE)
    length = min(length, target.size - offset, MOST)
    token = bytes(data[_WRITE.size : _WRITE.size + TOKEN])
    kind, _, _ = _TYPE.unpack_from(token)
    if kind == _ZEROS:
        await exchange.call(Punch(exchange.handle.id, offset, length))
        written = length
    else:
        written = await _transfer(exchange, token, skipped, offset, length)
    return _WRITE_REPLY.pack(_WRITE_REPLY.size, 0, written)


async def _transfer(exchange: Exchange, token: bytes, skipped: int, offset: int, length: int) -> int:
    """Copies what the token stands for, from `skipped` on. Gives how much of `length` is there now."""
    source, start, available, size = await _redeem(exchange, token)
    if skipped >= available:
        raise Failure(Status.INVALID_PARAMETER)
    length = min(length, available - skipped)
    start += skipped
    within = max(min(length, size - start), 0)
    if within:
        copied: Copied = await exchange.call(Copy(source, start, exchange.handle.id, offset, within))
        if copied.length < within:
            return copied.length & -SECTOR
    if length > within:
        # The last sector goes on behind the source's end, with zeros.
        await exchange.call(Punch(exchange.handle.id, offset + within, length - within))
    return length


async def _redeem(exchange: Exchange, token: bytes) -> tuple[Stateless, int, int, int]:
    """The file that a token is of, its range there, and the file's size. Raises `Failure` unless all is as it was when it was made."""
    service = exchange.connection.service
    end = _TYPE.size + _FIELDS.size
    fields, given = token[:end], token[end : end + _MAC]
    if not hmac.compare_digest(given, _mac(service.token_key, fields)):
        raise Failure(Status.INVALID_TOKEN)
    volume, inode, generation, change, size, offset, length, uid, until = _FIELDS.unpack_from(fields, _TYPE.size)
    if until < service.clock.monotonic() or uid != exchange.session.caller.uid or volume != exchange.handle.volume.id:
        raise Failure(Status.INVALID_TOKEN)
    source = Stateless(Inode(inode), _READER, generation)
    try:
        found: Found = await exchange.call(GetAttributes(source))
    except (Stale, NotFound):
        raise Failure(Status.INVALID_TOKEN) from None
    now: Attributes = found.attributes
    if now.change != change:
        raise Failure(Status.INVALID_TOKEN)
    return source, offset, length, size
