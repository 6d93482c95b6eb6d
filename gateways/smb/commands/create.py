"""CREATE, MS-SMB2 3.3.5.9: opens and makes files, directories, streams and pipes, with leases or oplocks, and for longer than a connection lasts.

A client that comes back to such an open, or repeats a CREATE, is `commands.reopen`'s business.
"""

import struct
from collections.abc import Coroutine
from typing import Any, NamedTuple

from gateways.smb import contexts, durable, leases, previous, quotas, short_names
from gateways.smb.commands import reopen
from gateways.smb.commands.negotiate import CAP_PERSISTENT_HANDLES, server_capabilities
from gateways.smb.commands.tree_connect import READ_ONLY_ACCESS
from gateways.smb.durable import Durable
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Handle
from gateways.smb.header import FLAG_REPLAY, HEADER_SIZE
from gateways.smb.info import extended
from gateways.smb.info.attributes import allocation, as_opened, file_attributes, file_size
from gateways.smb.names import Path, link_target, parse_path
from gateways.smb.rpc.pipe import open_pipe
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U64, part, text, utf16
from sofs.errors import AccessDenied, NotFound, PathNotFound, SymlinkInPath
from sofs.locks import READ
from sofs.types import Kind, OpenId
from sofs.volume.api import ARCHIVE, SETTABLE_FLAGS, Access, Action, Attributes, Disposition, Open, Opened, Volume

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
_OVERWRITES = (Disposition.SUPERSEDE, Disposition.OVERWRITE, Disposition.OVERWRITE_IF)
_MODIFYING = (Disposition.SUPERSEDE, Disposition.CREATE, Disposition.OVERWRITE, Disposition.OVERWRITE_IF)
_MAX_NAME = 65_534


def map_generic(access: int) -> int:
    """Generic rights as file rights, MS-SMB2 2.2.13.1."""
    for bit, rights in _GENERIC.items():
        if access & bit:
            access = access & ~bit | rights
    return access


class Asked(NamedTuple):
    """What a CREATE asks for besides the open itself."""

    level: int
    """Its oplock level."""
    lease: leases.Asked | None
    durable: Durable | None
    extras: dict[bytes, bytes]
    """All create contexts."""


_NOTHING = Asked(leases.LEVEL_NONE, None, None, {})


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    (
        _, _, level, impersonation, _, _, access, attributes, share, disposition, options, name_at, name_length, extras_at, extras_length,
    ) = exchange.unpack(_REQUEST)  # fmt: skip
    message = exchange.message
    if name_length > _MAX_NAME:
        raise Failure(Status.INVALID_PARAMETER)
    name = text(part(message, name_at, name_length, "the name"))
    extras = contexts.decode(part(message, extras_at, extras_length, "create contexts")) if extras_length else {}
    if not exchange.connection.service.has_room(exchange.session):
        raise Failure(Status.INSUFFICIENT_RESOURCES)
    asked = _asked(exchange, level, extras) if extras or level else _NOTHING
    if extras and exchange.tree.volume is not None:
        # Of a CREATE that comes back, nothing else counts; an earlier one that is asked for again has been checked.
        back = durable.coming_back(extras, exchange.connection.client_guid)
        if back is not None:
            return reopen.come_back(exchange, parse_path(name), back, asked, options)
        known = reopen.earlier(exchange, asked.durable)
        if known is not None:
            return reopen.again(exchange, known, asked)
    if impersonation > 3:
        raise Failure(Status.BAD_IMPERSONATION_LEVEL)
    if exchange.tree.volume is None:
        return _pipe(exchange, name)
    access = _check(exchange, access, attributes, share, disposition, options)
    if name.startswith("$") and name.lower() == quotas.FILE_NAME:
        return _quota_file(exchange, share)
    path = parse_path(name)
    if previous.PREFIX in name or contexts.TIMEWARP in extras:
        return _previous(exchange, path, access, attributes, share, Disposition(disposition), options, asked)
    return _file(exchange, path, access, attributes, share, Disposition(disposition), options, asked)


def _asked(exchange: Exchange, level: int, extras: dict[bytes, bytes]) -> Asked:
    connection = exchange.connection
    assert connection.dialect is not None
    lease = None
    if level == leases.LEVEL_LEASE or any(name in extras for name in durable.RECONNECTS):
        level = leases.LEVEL_LEASE if leases.CONTEXT in extras else leases.LEVEL_NONE
        lease = leases.decode(extras[leases.CONTEXT], connection.dialect) if leases.CONTEXT in extras else None
    if exchange.tree.scaleout:
        level = leases.LEVEL_II if level in (leases.LEVEL_EXCLUSIVE, leases.LEVEL_BATCH) else level
        lease = lease and lease._replace(rights=lease.rights & READ)
    persistent = exchange.tree.durable and bool(server_capabilities(connection) & CAP_PERSISTENT_HANDLES)
    return Asked(level, lease, durable.asked(extras, connection.client_guid, persistent), extras)


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


async def _quota_file(exchange: Exchange, share: int) -> Answer:
    """An open to ask about quotas through: the share's directory, which looks as NTFS's file of quotas does."""
    reply = await _file(exchange, Path(()), int(Access.READ_ATTRIBUTES), 0, share, Disposition.OPEN, 0, _NOTHING)
    size, level, flags, action, *_, persistent, volatile, at, length = _REPLY.unpack_from(reply)
    return _REPLY.pack(size, level, flags, action, 0, 0, 0, 0, 0, 0, quotas.ATTRIBUTES, 0, persistent, volatile, at, length)


async def _previous(
    exchange: Exchange, path: Path, access: int, attributes: int, share: int, disposition: Disposition, options: int, asked: Asked
) -> Answer:
    """Opens a file as of a snapshot: read-only, and so without grants."""
    volume, path = await previous.find(exchange, path, asked.extras.get(contexts.TIMEWARP))
    if volume is None:
        return await _file(exchange, path, access, attributes, share, disposition, options, asked)
    if disposition in _OVERWRITES:
        raise Failure(Status.MEDIA_WRITE_PROTECTED)
    asked = Asked(leases.LEVEL_NONE, None, None, asked.extras)
    makes = disposition is not Disposition.OPEN
    if disposition is Disposition.OPEN_IF:
        disposition = Disposition.OPEN
    try:
        return await _file(exchange, path, access, attributes, share, disposition, options, asked, volume)
    except (NotFound, AccessDenied):
        if makes:
            raise Failure(Status.MEDIA_WRITE_PROTECTED) from None
        raise


async def _file(
    exchange: Exchange,
    path: Path,
    access: int,
    attributes: int,
    share: int,
    disposition: Disposition,
    options: int,
    asked: Asked,
    past: Volume | None = None,
) -> Answer:
    """Opens or makes a file in the share's volume, or in `past`, that volume as of a snapshot."""
    tree, extras = exchange.tree, asked.extras
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
    )
    try:
        if asked is _NOTHING or past is not None:
            opened: Opened = await exchange.call(request, past or tree.volume)
        else:
            opened = await _lasting(exchange, request, asked)
    except SymlinkInPath as error:
        raise _stopped(error, path) from None
    except (NotFound, PathNotFound):
        long = await short_names.resolve(exchange, path) if past is None and short_names.may_be_short(path) else None
        if long is None or long.components == path.components:
            raise
        return await _file(exchange, long, access, attributes, share, disposition, options, asked)
    return _answer(exchange, path, opened, options, asked, past)


async def _lasting(exchange: Exchange, request: Open, asked: Asked) -> Opened:
    """Opens with a grant, or for longer than the connection."""
    client, lease, lasting = exchange.connection.client_guid, asked.lease, asked.durable
    request.wish = leases.wish_for(client, asked.level, lease)
    if lease is not None:
        request.owner = client + lease.key
        request.parent_key = client + lease.parent if lease.parent else b""
    if lasting is None:
        opened: Opened = await exchange.call(request, exchange.tree.volume)
        return opened
    request.guid, request.client = lasting.guid, lasting.client
    request.away, request.anew = True, not exchange.flags & FLAG_REPLAY
    request.keep = lasting.keep(reopen.owner(exchange))
    reopen.replace_instance(exchange, lasting)
    durables = exchange.connection.service.durables
    durables.begin(lasting)
    try:
        opened = await exchange.call(request, exchange.tree.volume)
        try:
            return await reopen.own(exchange, opened, asked)
        except reopen.Gone:
            # What was left of a session that has been lost may end at any time: then there is nothing to come back to, and this is the first one.
            opened = await exchange.call(request, exchange.tree.volume)
            return await reopen.own(exchange, opened, asked)
    except BaseException:
        durables.failed(lasting)
        raise


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
    name = utf16(link_target(error.target))
    relative = 1 if error.relative else 0
    body = struct.pack("<IIHHHHHHI", 0x4C4D5953, 0xA000000C, 12 + 2 * len(name), error.unparsed, 0, len(name), len(name), len(name), relative)
    data = struct.pack("<I", len(body) + 2 * len(name)) + body + name + name
    return Failure(Status.STOPPED_ON_SYMLINK, data)


def _answer(exchange: Exchange, path: Path, opened: Opened, options: int, asked: Asked, past: Volume | None) -> bytes:
    handle = Handle(exchange.connection.service.next_handle(), exchange.tree, opened.open, opened.access, opened.path)
    if past is not None:
        handle.volume = past
    handle.write_through = bool(options & WRITE_THROUGH)
    handle.mode = options & _MODE_OPTIONS
    if asked is not _NOTHING and asked.durable is not None:
        lasting = asked.durable._replace(action=opened.action, maximal=opened.maximal, granted_ms=opened.keep_ms)
        exchange.connection.service.durables.made(handle, lasting)
    hold(exchange, handle, opened, asked)
    if exchange.tree.durable and opened.action != Action.OPENED:
        exchange.stable()
    level = leases.LEVEL_NONE
    if opened.grant or asked.lease is not None:
        level = level_granted(handle, opened, asked)
    return respond(handle, as_opened(opened.attributes, path.stream), opened.action, opened.maximal, level, asked)


def hold(exchange: Exchange, handle: Handle, opened: Opened, asked: Asked) -> None:
    """The open is the session's from now on. Raises `Failure` when nobody is there any more to have it."""
    service = exchange.connection.service
    attributes = opened.attributes
    handle.stream = opened.stream
    handle.inode = attributes.parent if opened.stream else attributes.inode
    handle.directory = attributes.kind is Kind.DIRECTORY and not opened.stream
    if opened.grant or asked.lease is not None:
        service.leases.attach(exchange, handle, opened, asked.lease)
    repeatable = handle.durable is not None and bool(handle.durable.guid)
    if not exchange.session.ready or (exchange.connection.gone and not repeatable):
        # The session or its connection ended while the volume was opening: nobody would ever close it.
        service.drop(handle, lost=True)
        raise Failure(Status.USER_SESSION_DELETED)
    exchange.session.handles[handle.number] = handle
    exchange.handle = handle


def level_granted(handle: Handle, opened: Opened, asked: Asked) -> int:
    if asked.lease is None:
        return leases.level_of(opened.grant)
    if handle.directory and asked.lease.version == 1:
        return leases.LEVEL_NONE  # leases on directories came with version 2
    return leases.LEVEL_LEASE


def respond(handle: Handle, a: Attributes, action: Action, maximal: int, level: int, asked: Asked) -> bytes:
    """The reply, MS-SMB2 2.2.14."""
    answers = []
    extras = asked.extras
    if contexts.MAXIMAL_ACCESS in extras:
        maximal = maximal & READ_ONLY_ACCESS if handle.tree.read_only else maximal
        answers.append((contexts.MAXIMAL_ACCESS, struct.pack("<II", Status.SUCCESS, maximal)))
    if contexts.FILE_ID in extras:
        answers.append((contexts.FILE_ID, struct.pack("<QQ16x", a.inode, handle.volume.id)))
    if level == leases.LEVEL_LEASE and handle.holding is not None and asked.lease is not None:
        answers.append((leases.CONTEXT, handle.holding.encode(asked.lease.parent)))
    lasting = handle.durable
    if asked.durable is not None and lasting is not None and lasting.granted_ms:
        if lasting.persistent or level in (leases.LEVEL_BATCH, leases.LEVEL_LEASE):
            answers.append(durable.encode(lasting))
    rest = contexts.encode(answers)
    head = _REPLY.pack(
        89, level, 0, action, a.created, a.accessed, a.modified, a.changed, allocation(a), file_size(a), file_attributes(a), 0,
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
