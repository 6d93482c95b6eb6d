"""CREATE, MS-SMB2 3.3.5.9: opens and makes files, directories, streams and pipes.

Neither oplocks nor leases are granted, and no handle is durable; their contexts are ignored, as 3.3.5.9 asks of a server without them.
"""

import struct
from collections.abc import Coroutine
from typing import Any

from gateways.smb import contexts
from gateways.smb.commands.tree_connect import READ_ONLY_ACCESS
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import MAX_HANDLES, Handle
from gateways.smb.header import HEADER_SIZE
from gateways.smb.info import extended
from gateways.smb.info.attributes import allocation, as_opened, file_attributes, file_size
from gateways.smb.names import Path, parse_path, to_wire
from gateways.smb.rpc.pipe import open_pipe
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U64, part, text
from sofs.errors import SymlinkInPath
from sofs.types import Kind, OpenId
from sofs.volume.api import ARCHIVE, SETTABLE_FLAGS, Access, Action, Disposition, Open, Opened

_REQUEST = struct.Struct("<HBBIQQIIIIIHHII")
_REPLY = struct.Struct("<HBBIQQQQQQIIQQII")
assert _REPLY.size == 88

# CreateOptions, MS-SMB2 2.2.13
DIRECTORY_FILE, WRITE_THROUGH, NON_DIRECTORY_FILE, CREATE_TREE_CONNECTION = 0x1, 0x2, 0x40, 0x80
DELETE_ON_CLOSE, OPEN_BY_FILE_ID, RESERVE_OPFILTER, OPEN_REPARSE_POINT = 0x1000, 0x2000, 0x100000, 0x200000
_UNSUPPORTED_OPTIONS = CREATE_TREE_CONNECTION | OPEN_BY_FILE_ID | RESERVE_OPFILTER
_UNKNOWN_OPTIONS = 0xFF000000
_MODE_OPTIONS = 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | DELETE_ON_CLOSE

_KNOWN_ATTRIBUTES = 0x7FB7
_ACCESS = int(Access.ALL | Access.SYSTEM_SECURITY | Access.MAXIMUM_ALLOWED)
_GENERIC = {0x10000000: int(Access.ALL), 0x20000000: 0x1200A0, 0x40000000: 0x120116, 0x80000000: 0x120089}
_MODIFYING = (Disposition.SUPERSEDE, Disposition.CREATE, Disposition.OVERWRITE, Disposition.OVERWRITE_IF)
_MAX_NAME = 65_534


def map_generic(access: int) -> int:
    """Generic rights as file rights, MS-SMB2 2.2.13.1."""
    for bit, rights in _GENERIC.items():
        if access & bit:
            access = access & ~bit | rights
    return access


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    (
        _, _, _, impersonation, _, _, access, attributes, share, disposition, options, name_at, name_length, extras_at, extras_length,
    ) = exchange.unpack(_REQUEST)  # fmt: skip
    message = exchange.message
    if name_length > _MAX_NAME:
        raise Failure(Status.INVALID_PARAMETER)
    name = text(part(message, name_at, name_length, "the name"))
    extras = contexts.decode(part(message, extras_at, extras_length, "create contexts")) if extras_length else {}
    if impersonation > 3:
        raise Failure(Status.BAD_IMPERSONATION_LEVEL)
    if len(exchange.session.handles) >= MAX_HANDLES:
        raise Failure(Status.INSUFFICIENT_RESOURCES)
    if exchange.tree.volume is None:
        return _pipe(exchange, name)
    access = _check(exchange, access, attributes, share, disposition, options)
    return _file(exchange, parse_path(name), access, attributes, share, Disposition(disposition), options, extras)


def _check(exchange: Exchange, access: int, attributes: int, share: int, disposition: int, options: int) -> int:
    """Refuses what no file makes right, MS-SMB2 3.3.5.9 and MS-FSA 2.1.5.1. Gives the rights wanted, generic ones mapped."""
    if options & _UNKNOWN_OPTIONS or disposition > max(Disposition) or share > 7:
        raise Failure(Status.INVALID_PARAMETER)
    if options & DIRECTORY_FILE:
        if options & NON_DIRECTORY_FILE or disposition in (Disposition.SUPERSEDE, Disposition.OVERWRITE, Disposition.OVERWRITE_IF):
            raise Failure(Status.INVALID_PARAMETER)
    if options & _UNSUPPORTED_OPTIONS:
        raise Failure(Status.NOT_SUPPORTED)
    access = map_generic(access)
    if not access or access & ~_ACCESS:
        raise Failure(Status.ACCESS_DENIED)
    if attributes & ~_KNOWN_ATTRIBUTES:
        raise Failure(Status.INVALID_PARAMETER)
    if access & Access.SYSTEM_SECURITY and not exchange.session.caller.privileged:
        raise Failure(Status.PRIVILEGE_NOT_HELD)
    if options & DELETE_ON_CLOSE and not access & (Access.DELETE | Access.MAXIMUM_ALLOWED):
        raise Failure(Status.INVALID_PARAMETER)
    if exchange.tree.read_only:
        if options & DELETE_ON_CLOSE or access & ~(READ_ONLY_ACCESS | Access.MAXIMUM_ALLOWED) or disposition in _MODIFYING:
            raise Failure(Status.ACCESS_DENIED)
    return access


async def _file(
    exchange: Exchange, path: Path, access: int, attributes: int, share: int, disposition: Disposition, options: int, extras: dict[bytes, bytes]
) -> Answer:
    tree = exchange.tree
    if contexts.TIMEWARP in extras or any(name in extras for name in contexts.DURABLE_RECONNECTS):
        raise Failure(Status.OBJECT_NAME_NOT_FOUND)
    directory = True if options & DIRECTORY_FILE else False if options & NON_DIRECTORY_FILE else None
    if path.colon:
        if directory:
            raise Failure(Status.NOT_A_DIRECTORY)
        directory = False if not path.stream else directory
    if tree.read_only:
        if disposition is Disposition.OPEN_IF:
            disposition = Disposition.OPEN
    request = Open(
        caller=exchange.session.caller,
        at=tree.root,
        path=path.components,
        access=access,
        share=share,
        disposition=disposition,
        directory=directory,
        stream=path.stream,
        delete_on_close=bool(options & DELETE_ON_CLOSE),
        follow=not options & OPEN_REPARSE_POINT,
        mode=_mode(exchange, directory),
        flags=attributes & SETTABLE_FLAGS | (0 if directory else ARCHIVE),
        security=extras.get(contexts.SECURITY),
        attributes=_extended(extras),
        allocation=0 if directory else _allocation(extras),
        owner=U64.pack(exchange.session.number),
    )
    try:
        opened: Opened = await exchange.call(request)
    except SymlinkInPath as error:
        raise _stopped(error, path) from None
    return _answer(exchange, path, opened, options, extras)


def _mode(exchange: Exchange, directory: bool | None) -> int | None:
    share = exchange.tree.share
    assert share is not None
    return share.smb.directory_mode if directory else share.smb.file_mode


def _extended(extras: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    data = extras.get(contexts.EXTENDED_ATTRIBUTES)
    return tuple(extended.decode(memoryview(data))) if data else ()


def _allocation(extras: dict[bytes, bytes]) -> int:
    data = extras.get(contexts.ALLOCATION)
    if data is None:
        return 0
    if len(data) != 8:
        raise Failure(Status.INVALID_PARAMETER)
    size: int = U64.unpack(data)[0]
    return size


def _stopped(error: SymlinkInPath, path: Path) -> Failure:
    """The symbolic link error response, MS-SMB2 2.2.2.2.1: the client follows links itself."""
    target = to_wire(error.target.replace(b"/", b"\\")) if b"\\" not in error.target else to_wire(error.target)
    target = target.replace("\uf026", "\\")
    name = target.encode("utf-16-le", "surrogatepass")
    relative = 1 if error.relative else 0
    body = struct.pack("<IIHHHHHHI", 0x4C4D5953, 0xA000000C, 12 + 2 * len(name), error.unparsed, 0, len(name), len(name), len(name), relative)
    data = struct.pack("<I", len(body) + 2 * len(name)) + body + name + name
    return Failure(Status.STOPPED_ON_SYMLINK, data)


def _answer(exchange: Exchange, path: Path, opened: Opened, options: int, extras: dict[bytes, bytes]) -> bytes:
    service = exchange.connection.service
    a = as_opened(opened.attributes, path.stream)
    handle = Handle(service.next_handle(), exchange.tree, opened.open, opened.access, opened.path)
    handle.stream = opened.stream
    handle.inode = a.inode
    handle.directory = a.kind is Kind.DIRECTORY
    handle.write_through = bool(options & WRITE_THROUGH)
    handle.mode = options & _MODE_OPTIONS
    if not exchange.session.ready:
        # The session ended while the volume was opening: nobody would ever close it.
        service.drop(handle)
        raise Failure(Status.USER_SESSION_DELETED)
    exchange.session.handles[handle.number] = handle
    exchange.handle = handle
    if exchange.tree.durable and opened.action != Action.OPENED:
        exchange.stable()
    answers = []
    if contexts.MAXIMAL_ACCESS in extras:
        maximal = opened.maximal & READ_ONLY_ACCESS if exchange.tree.read_only else opened.maximal
        answers.append((contexts.MAXIMAL_ACCESS, struct.pack("<II", Status.SUCCESS, maximal)))
    if contexts.FILE_ID in extras:
        answers.append((contexts.FILE_ID, struct.pack("<QQ16x", a.inode, handle.volume.id)))
    rest = contexts.encode(answers)
    head = _REPLY.pack(
        89, 0, 0, opened.action, a.created, a.accessed, a.modified, a.changed, allocation(a), file_size(a), file_attributes(a), 0,
        handle.persistent, handle.number, HEADER_SIZE + _REPLY.size if rest else 0, len(rest),
    )  # fmt: skip
    return head + rest


async def _pipe(exchange: Exchange, name: str) -> Answer:
    service = exchange.connection.service
    pipe = open_pipe(service, exchange.session, name)
    handle = Handle(service.next_handle(), exchange.tree, OpenId(0), int(Access.ALL), (name.encode("utf-8", "surrogatepass"),))
    handle.pipe = pipe
    exchange.session.handles[handle.number] = handle
    exchange.handle = handle
    return _REPLY.pack(89, 0, 0, 1, 0, 0, 0, 0, 4096, 0, 0x80, 0, handle.persistent, handle.number, 0, 0)
