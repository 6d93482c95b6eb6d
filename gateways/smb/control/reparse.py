"""Reparse points over the wire: FSCTL_GET, SET and DELETE_REPARSE_POINT, MS-FSCC 2.3.29 to 2.3.30, 2.3.81 and 2.3.5; their buffers, 2.1.2.

A symbolic link's text in the volume is what NFS made or will read, with `/`. One with a backslash is a Windows path which has no such form (`\\??\\C:\\x`), and
is kept as it came.
"""

import struct

from gateways.smb.exchange import Exchange
from gateways.smb.info.attributes import TAG_NFS, TAG_SYMLINK
from gateways.smb.names import from_wire, link_target
from gateways.smb.status import Failure, Status
from gateways.smb.wire import text, utf16
from sofs.errors import NotSymlink
from sofs.types import Kind
from sofs.volume.api import DeleteReparse, GetReparse, Reparse, SetReparse

_HEAD = struct.Struct("<IHH")  # tag, data length, reserved
_SYMLINK = struct.Struct("<HHHHI")  # substitute at, its length, print at, its length, flags
_NFS = struct.Struct("<Q")
_DEVICE = struct.Struct("<II")
_RELATIVE = 1
_MICROSOFT = 0x80000000
_GUID = 16
"""Follows the head where the tag is not one of Microsoft's, and does not count as data."""
_MOST = 16 << 10

_NFS_LINK = 0x014B4E4C
_NFS_KINDS = {0x4F464946: Kind.FIFO, 0x4B434F53: Kind.SOCKET, 0x00524843: Kind.CHARACTER_DEVICE, 0x004B4C42: Kind.BLOCK_DEVICE}
"""NFS_SPECFILE_*, MS-FSCC 2.1.2.6."""
_NFS_TYPES = {kind: number for number, kind in _NFS_KINDS.items()}
_DEVICES = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


async def get(exchange: Exchange, data: memoryview, room: int) -> bytes:
    reply: Reparse = await exchange.call(GetReparse(exchange.handle.id))
    answer = encode(reply)
    if room < _HEAD.size:
        raise Failure(Status.BUFFER_TOO_SMALL)
    if len(answer) > room:
        exchange.status = Status.BUFFER_OVERFLOW
    return answer[:room]


def encode(point: Reparse) -> bytes:
    """A REPARSE_DATA_BUFFER."""
    if point.kind is Kind.SYMLINK:
        target = utf16(link_target(point.text))
        flags = 0 if point.text[:1] in (b"/", b"\\") else _RELATIVE
        body = _SYMLINK.pack(0, len(target), len(target), len(target), flags) + target + target
        return _HEAD.pack(TAG_SYMLINK, len(body), 0) + body
    if point.kind in _NFS_TYPES:
        body = _NFS.pack(_NFS_TYPES[point.kind]) + (_DEVICE.pack(*point.device) if point.kind in _DEVICES else b"")
        return _HEAD.pack(TAG_NFS, len(body), 0) + body
    length = len(point.text) - (0 if point.tag & _MICROSOFT else _GUID)
    return _HEAD.pack(point.tag, length, 0) + point.text


def decode(exchange: Exchange, data: memoryview) -> SetReparse:
    """What a client wants its file to become. Raises `Failure`."""
    tag, rest = _head(data)
    number = exchange.handle.id
    if tag == TAG_SYMLINK:
        return SetReparse(number, Kind.SYMLINK, _link(rest))
    if tag != TAG_NFS:
        return SetReparse(number, Kind.FILE, bytes(rest), tag)
    if len(rest) < _NFS.size:
        raise Failure(Status.IO_REPARSE_DATA_INVALID)
    (kind,) = _NFS.unpack_from(rest)
    if kind == _NFS_LINK:
        return SetReparse(number, Kind.SYMLINK, _stored(text(rest[_NFS.size :])))
    if kind not in _NFS_KINDS or (_NFS_KINDS[kind] in _DEVICES and len(rest) < _NFS.size + _DEVICE.size):
        raise Failure(Status.IO_REPARSE_DATA_INVALID)
    device = _DEVICE.unpack_from(rest, _NFS.size) if _NFS_KINDS[kind] in _DEVICES else (0, 0)
    return SetReparse(number, _NFS_KINDS[kind], device=device)


def _head(data: memoryview) -> tuple[int, memoryview]:
    """Tag and data of a buffer, its lengths checked (MS-FSA 2.1.5.9.37)."""
    if len(data) < _HEAD.size or len(data) > _MOST:
        raise Failure(Status.IO_REPARSE_DATA_INVALID)
    tag, length, _ = _HEAD.unpack_from(data)
    if _HEAD.size + length + (0 if tag & _MICROSOFT else _GUID) != len(data):
        raise Failure(Status.IO_REPARSE_DATA_INVALID)
    if tag & 0xFFFF in (0, 1):
        raise Failure(Status.IO_REPARSE_TAG_INVALID)
    return tag, data[_HEAD.size :]


def _link(rest: memoryview) -> bytes:
    if len(rest) < _SYMLINK.size:
        raise Failure(Status.IO_REPARSE_DATA_INVALID)
    at, length = _SYMLINK.unpack_from(rest)[:2]
    if not length or length & 1 or _SYMLINK.size + at + length > len(rest):
        raise Failure(Status.IO_REPARSE_DATA_INVALID)
    return _stored(text(rest[_SYMLINK.size + at : _SYMLINK.size + at + length]))


def _stored(target: str) -> bytes:
    """A link's text as the volume has it."""
    if target.startswith(("\\??\\", "\\\\")) or ":" in target:
        return target.encode("utf-8", "surrogatepass")  # a drive or a server: nothing that NFS clients could follow
    return b"/".join(part.encode() if part in (".", "..") else from_wire(part) for part in target.split("\\"))


async def set(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """A reparse point keeps its tag: STATUS_IO_REPARSE_TAG_MISMATCH (MS-FSA 2.1.5.9.37)."""
    wanted = decode(exchange, data)
    try:
        found: Reparse = await exchange.call(GetReparse(exchange.handle.id))
    except NotSymlink:
        pass
    else:
        if (found.kind, found.tag) != (wanted.kind, wanted.tag) and (wanted.kind != Kind.FILE or found.tag != wanted.tag):
            raise Failure(Status.IO_REPARSE_TAG_MISMATCH)
    await exchange.call(wanted)
    return b""


async def delete(exchange: Exchange, data: memoryview, room: int) -> bytes:
    if len(data) < _HEAD.size:
        raise Failure(Status.IO_REPARSE_DATA_INVALID)
    tag, length, _ = _HEAD.unpack_from(data)
    if length:
        raise Failure(Status.IO_REPARSE_DATA_INVALID)
    found: Reparse = await exchange.call(GetReparse(exchange.handle.id))
    if tag != _HEAD.unpack_from(encode(found))[0]:
        raise Failure(Status.IO_REPARSE_TAG_MISMATCH)
    await exchange.call(DeleteReparse(exchange.handle.id))
    return b""
