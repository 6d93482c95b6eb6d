"""SET_INFO, MS-SMB2 3.3.5.21: attributes, sizes, names, deletion, security."""

import struct
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from gateways.smb import quotas
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Handle
from gateways.smb.info import extended, file
from gateways.smb.info.attributes import DIRECTORY, NORMAL, TEMPORARY
from gateways.smb.names import parse_path
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U32, U64, part, text
from sofs.errors import NotFound
from sofs.types import Inode, Time
from sofs.volume.api import (
    SETTABLE_FLAGS,
    Access,
    Allocate,
    Changes,
    Found,
    GetAttributes,
    Link,
    Lookup,
    Remove,
    Rename,
    SetAttributes,
    SetDisposition,
    SetExtended,
    SetSecurity,
)

_REQUEST = struct.Struct("<HBBIHHIQQ")  # size, type, class, length, at, reserved, parts, file id
_REPLY = b"\x02\0"
_FILE, _FILE_SYSTEM, _SECURITY, _QUOTA = 1, 2, 3, 4
_U8 = struct.Struct("<B")
_BASIC = struct.Struct("<qqqqI")
_RENAME = struct.Struct("<I4xQI")  # replace or flags, root directory, name length
_MAX_SIZE = (1 << 63) - 1
_OWNER, _GROUP, _DACL, _SACL, _LABEL = 1, 2, 4, 8, 0x10
_REPLACE = 1
_DELETE, _POSIX_SEMANTICS = 1, 2
_MODES = 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x1000
_LINKABLE_NAME = 65_534


class Setter(NamedTuple):
    """One class of information."""

    set: Callable[..., Coroutine[Any, Any, None]]
    """Takes exchange, open and the fields of `layout`, or all the data where there is none."""
    layout: struct.Struct | None = None
    access: int = 0
    """The rights of which the open must have one."""


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    _, kind, number, length, at, _, parts, _, _ = exchange.unpack(_REQUEST)
    if length > (exchange.charge or 1) << 16:
        raise Failure(Status.INVALID_PARAMETER)
    data = part(exchange.message, at, length, "the information")
    if exchange.handle.pipe is not None:
        raise Failure(Status.NOT_SUPPORTED)
    if kind == _FILE:
        setter = SETTERS.get(number)
        if setter is None:
            raise Failure(Status.INVALID_INFO_CLASS)
        return _run(exchange, setter, data)
    if kind == _SECURITY:
        return _security(exchange, parts, data)
    if kind == _QUOTA:
        return _quota(exchange, data)
    raise Failure(Status.NOT_SUPPORTED if kind == _FILE_SYSTEM else Status.INVALID_PARAMETER)


async def _quota(exchange: Exchange, data: memoryview) -> Answer:
    await quotas.change(exchange, data)
    return _REPLY


async def _run(exchange: Exchange, setter: Setter, data: memoryview) -> Answer:
    fields = (data,) if setter.layout is None else _fields(setter.layout, data)
    if setter.access:
        _need(exchange.handle, setter.access)
    await setter.set(exchange, exchange.handle, *fields)
    return _REPLY


def _fields(layout: struct.Struct, data: memoryview) -> tuple[Any, ...]:
    if len(data) < layout.size:
        raise Failure(Status.INFO_LENGTH_MISMATCH)
    return layout.unpack_from(data)


def _need(handle: Handle, access: int) -> None:
    if not handle.access & access:
        raise Failure(Status.ACCESS_DENIED)


async def _basic(exchange: Exchange, handle: Handle, created: int, accessed: int, modified: int, changed: int, flags: int) -> None:
    """Times of 0 stay, of -1 are no longer kept by the server, of -2 are again (MS-FSCC 2.4.7)."""
    if min(created, accessed, modified, changed) < -2:
        raise Failure(Status.INVALID_PARAMETER)
    if flags & (TEMPORARY if handle.directory else DIRECTORY):
        raise Failure(Status.INVALID_PARAMETER)
    changes = Changes(
        created=_time(created),
        accessed=_time(accessed),
        modified=_time(modified),
        changed=_time(changed),
        flags=flags & SETTABLE_FLAGS & ~NORMAL if flags else None,
        keep_times={-1: True, -2: False}.get(modified),
    )
    await exchange.call(SetAttributes(handle.id, changes))


def _time(value: int) -> Time | None:
    return Time(value) if value > 0 else None


async def _end_of_file(exchange: Exchange, handle: Handle, size: int) -> None:
    if size > _MAX_SIZE or handle.directory:
        raise Failure(Status.INVALID_PARAMETER)
    await exchange.call(SetAttributes(handle.id, Changes(size=size)))


async def _allocation(exchange: Exchange, handle: Handle, size: int) -> None:
    """Reserves space; a smaller allocation than the file's size cuts the file (MS-FSA 2.1.5.15.1)."""
    if size > _MAX_SIZE or handle.directory:
        raise Failure(Status.INVALID_PARAMETER)
    found: Found = await exchange.call(GetAttributes(handle.id))
    if size < found.attributes.size:
        await exchange.call(SetAttributes(handle.id, Changes(size=size)))
    elif size > found.attributes.allocated:
        await exchange.call(Allocate(handle.id, 0, size))


async def _valid_data_length(exchange: Exchange, handle: Handle, size: int) -> None:
    """Every byte up to the file's end is valid here; what is asked can only be checked."""
    found: Found = await exchange.call(GetAttributes(handle.id))
    if size > found.attributes.size:
        raise Failure(Status.INVALID_PARAMETER)


async def _disposition(exchange: Exchange, handle: Handle, delete: int) -> None:
    await exchange.call(SetDisposition(handle.id, bool(delete)))


async def _disposition_ex(exchange: Exchange, handle: Handle, flags: int) -> None:
    """MS-FSCC 2.4.12."""
    await exchange.call(SetDisposition(handle.id, bool(flags & _DELETE), bool(flags & _POSIX_SEMANTICS)))


def _new_name(data: memoryview) -> tuple[int, str]:
    """Flags and path of a rename or link, MS-FSCC 2.4.42 and 2.4.28."""
    flags, root, length = _fields(_RENAME, data)
    if root or not length or length > _LINKABLE_NAME:
        raise Failure(Status.INVALID_PARAMETER)
    if _RENAME.size + length > len(data):
        raise Failure(Status.INFO_LENGTH_MISMATCH)
    return flags, text(data[_RENAME.size : _RENAME.size + length])


async def _place(exchange: Exchange, path: tuple[bytes, ...]) -> Inode:
    """The directory that the last component of `path` is to go into."""
    tree = exchange.tree
    if len(path) == 1:
        return tree.root
    try:
        found: Found = await exchange.call(Lookup(exchange.session.caller, tree.root, path[:-1], fold=True))
    except NotFound:
        raise Failure(Status.OBJECT_PATH_NOT_FOUND) from None
    return found.attributes.inode


async def _rename(exchange: Exchange, handle: Handle, data: memoryview, replace_bits: int = 0xFF) -> None:
    """`replace_bits`: which of the flags say that what has the name is to be replaced; in the older form it is a boolean."""
    flags, name = _new_name(data)
    if name.startswith(":"):
        await _rename_stream(exchange, handle, name, bool(flags & replace_bits))
        return
    if handle.stream:
        raise Failure(Status.INVALID_PARAMETER)
    path = parse_path(name.lstrip("\\"))
    if not path.components or path.colon:
        raise Failure(Status.OBJECT_NAME_INVALID)
    if not handle.name:
        raise Failure(Status.SHARING_VIOLATION)
    directory = await _place(exchange, path.components)
    request = Rename(exchange.session.caller, directory, path.components[-1], bool(flags & replace_bits), open=handle.id, fold=True)
    await exchange.call(request)
    handle.name = path.components


async def _rename_stream(exchange: Exchange, handle: Handle, name: str, replace: bool) -> None:
    """A stream gets another name; the unnamed one takes no part (MS-FSA 2.1.5.15.12)."""
    stream = parse_path("file" + name).stream
    if not handle.stream or not stream:
        raise Failure(Status.INVALID_PARAMETER)
    await exchange.call(Rename(exchange.session.caller, Inode(0), b"", replace, open=handle.id, stream=stream))
    handle.stream = stream


async def _link(exchange: Exchange, handle: Handle, data: memoryview) -> None:
    flags, name = _new_name(data)
    path = parse_path(name.lstrip("\\"))
    if not path.components or path.colon:
        raise Failure(Status.OBJECT_NAME_INVALID)
    if handle.directory:
        raise Failure(Status.FILE_IS_A_DIRECTORY)
    directory = await _place(exchange, path.components)
    caller = exchange.session.caller
    if flags & 0xFF:
        try:
            found: Found = await exchange.call(Lookup(caller, directory, path.components[-1:], fold=True))
            if found.attributes.inode == handle.inode:
                return
            await exchange.call(Remove(caller, directory, found.path[-1]))
        except NotFound:
            pass
    await exchange.call(Link(caller, handle.inode, directory, path.components[-1], fold=True))


async def _position(exchange: Exchange, handle: Handle, position: int) -> None:
    handle.position = position


async def _mode(exchange: Exchange, handle: Handle, mode: int) -> None:
    if mode & ~_MODES:
        raise Failure(Status.INVALID_PARAMETER)
    handle.mode = mode


async def _full_ea(exchange: Exchange, handle: Handle, data: memoryview) -> None:
    await exchange.call(SetExtended(handle.id, tuple(extended.decode(data))))


async def _security(exchange: Exchange, parts: int, data: memoryview) -> Answer:
    """MS-SMB2 3.3.5.21.3."""
    handle = exchange.handle
    if parts & (_OWNER | _GROUP | _LABEL):
        _need(handle, Access.WRITE_OWNER)
    if parts & _DACL:
        _need(handle, Access.WRITE_DAC)
    if parts & _SACL:
        _need(handle, Access.SYSTEM_SECURITY)
    if handle.stream:
        raise Failure(Status.NOT_SUPPORTED)
    await exchange.call(SetSecurity(handle.id, parts, bytes(data)))
    return _REPLY


SETTERS: dict[int, Setter] = {
    file.BASIC: Setter(_basic, _BASIC, Access.WRITE_ATTRIBUTES),
    file.RENAME: Setter(_rename, None, Access.DELETE),
    file.LINK: Setter(_link),
    file.DISPOSITION: Setter(_disposition, _U8, Access.DELETE),
    file.POSITION: Setter(_position, U64),
    file.FULL_EA: Setter(_full_ea, None, Access.WRITE_EA),
    file.MODE: Setter(_mode, U32),
    file.ALLOCATION: Setter(_allocation, U64, Access.WRITE_DATA),
    file.END_OF_FILE: Setter(_end_of_file, U64, Access.WRITE_DATA),
    file.VALID_DATA_LENGTH: Setter(_valid_data_length, U64, Access.WRITE_DATA),
    file.DISPOSITION_EX: Setter(_disposition_ex, U32, Access.DELETE),
    file.RENAME_EX: Setter(partial(_rename, replace_bits=_REPLACE), None, Access.DELETE),
}
