"""CHANGE_NOTIFY, MS-SMB2 3.3.5.19: waits for changes below an open directory. `gateways.smb.notices` keeps what happens between requests."""

import struct
from collections.abc import Coroutine
from typing import Any

from gateways.smb.exchange import Answer, Exchange
from gateways.smb.header import HEADER_SIZE
from gateways.smb.status import Failure, Status, is_error
from sofs.errors import SofsError
from sofs.volume.api import Access, Watch

_REQUEST = struct.Struct("<HHIQQII")  # structure size, flags, output length, file id, filter, reserved
_REPLY = struct.Struct("<HHI")  # structure size, output at, output length
_TREE = 1
_MAX_OUTPUT = 8 << 20


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    _, flags, room, _, _, what, _ = exchange.unpack(_REQUEST)
    if not exchange.handle.directory or room > _MAX_OUTPUT or room > (exchange.charge or 1) << 16:
        raise Failure(Status.INVALID_PARAMETER)
    if not exchange.handle.access & Access.READ_DATA:
        raise Failure(Status.ACCESS_DENIED)
    return _wait(exchange, room, what, bool(flags & _TREE))


async def _wait(exchange: Exchange, room: int, what: int, tree: bool) -> Answer:
    handle = exchange.handle
    notices = handle.notices
    if notices is None:
        watched = exchange.connection.service.notices
        watch = Watch(handle.id, what, tree)
        notices = watched.begin(handle, room, watch)
        try:
            await exchange.call(watch)
        except SofsError:
            watched.end(handle)
            raise
    status, changes = await notices.wait(room)
    if is_error(status):
        raise Failure(status)
    exchange.status = status
    # Without changes the variable part is one byte, which the structure size counts.
    return _REPLY.pack(9, HEADER_SIZE + _REPLY.size if changes else 0, len(changes)) + (changes or b"\0")
