"""OPLOCK_BREAK from the client: it agrees to what a break asked of it, MS-SMB2 3.3.5.22. The server's breaks are `leases`'."""

import struct
from collections.abc import Coroutine
from typing import Any

from gateways.smb.admission import take_handle
from gateways.smb.exchange import BODY, Answer, Exchange
from gateways.smb.leases import LEVEL_II, LEVEL_NONE, Holding, level_of
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U16, unpack
from sofs.errors import InvalidArgument, NotFound
from sofs.locks import READ, WRITE
from sofs.volume.api import Acknowledge, Granted

_OPLOCK = struct.Struct("<HBBIQQ")  # structure size, level, reserved, reserved, file id
_LEASE = struct.Struct("<HHI16sIQ")  # structure size, reserved, flags, key, state, duration
assert (_OPLOCK.size, _LEASE.size) == (24, 36)


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    if U16.unpack_from(exchange.message, BODY)[0] == _LEASE.size:
        return _lease(exchange)
    return _oplock(exchange)


async def _oplock(exchange: Exchange) -> Answer:
    """MS-SMB2 3.3.5.22.1."""
    _, level, _, _, persistent, volatile = exchange.unpack(_OPLOCK)
    open = take_handle(exchange, persistent, volatile)
    if level not in (LEVEL_NONE, LEVEL_II):
        raise Failure(Status.INVALID_PARAMETER)
    holding = open.holding
    if holding is None or holding.lease:
        raise Failure(Status.INVALID_OPLOCK_PROTOCOL)
    if holding.told is None:
        # Level II is broken without a question.
        raise Failure(Status.INVALID_DEVICE_STATE if holding.rights & WRITE else Status.INVALID_OPLOCK_PROTOCOL)
    # A client that was asked for all, and keeps level II, keeps nothing.
    rights = await _settle(exchange, holding, (READ if level == LEVEL_II else 0) & holding.told.keep)
    return _OPLOCK.pack(24, level_of(rights), 0, 0, persistent, volatile)


async def _lease(exchange: Exchange) -> Answer:
    """MS-SMB2 3.3.5.22.2."""
    _, _, _, key, rights, _ = unpack(_LEASE, exchange.message, BODY)
    connection, volume = exchange.connection, exchange.tree.volume
    holding = connection.service.leases.find(volume, connection.client_guid, key) if volume is not None else None
    if holding is None:
        raise Failure(Status.OBJECT_NAME_NOT_FOUND)
    if holding.told is None:
        raise Failure(Status.UNSUCCESSFUL)
    if rights & ~holding.told.keep:
        raise Failure(Status.REQUEST_NOT_ACCEPTED)
    kept = await _settle(exchange, holding, rights)
    return _LEASE.pack(36, 0, 0, key, kept, 0)


async def _settle(exchange: Exchange, holding: Holding, rights: int) -> int:
    """The rights that the client keeps."""
    leases = exchange.connection.service.leases
    told, holding.told = holding.told, None
    leases.settled(holding, rights)
    try:
        granted: Granted = await exchange.call(Acknowledge(holding.inode, holding.key, rights), exchange.tree.volume)
    except (NotFound, InvalidArgument):
        holding.told = told
        raise Failure(Status.REQUEST_NOT_ACCEPTED) from None
    return granted.rights if granted.rights & ~rights == 0 else rights
