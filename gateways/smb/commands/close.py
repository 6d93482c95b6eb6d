"""CLOSE, MS-SMB2 3.3.5.10."""

import asyncio
import struct

from gateways.smb.exchange import Exchange
from gateways.smb.info.attributes import allocation, as_opened, file_attributes, file_size
from sofs.volume.api import Access, Close, ClosedReply

_REQUEST = struct.Struct("<HHIQQ")  # structure size, flags, reserved, file id
_REPLY = struct.Struct("<HHIQQQQQQI")  # structure size, flags, reserved, 4 times, allocation, size, attributes
_WANT_ATTRIBUTES = 1


async def handle(exchange: Exchange) -> bytes:
    flags: int = exchange.unpack(_REQUEST)[1]
    handle = exchange.handle
    del exchange.session.handles[handle.number]
    service = exchange.connection.service
    service.notices.end(handle)
    if handle.holding is not None or handle.durable is not None:
        service.leases.detach(handle)
        service.durables.ended(handle)
    if handle.pipe is not None:
        return _REPLY.pack(60, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    changing = [task for channel in exchange.session.channels for task in channel.connection.changing(handle)]
    if changing:
        await asyncio.wait(changing)  # a client may close without waiting for its writes
    if exchange.tree.durable and handle.access & Access.DELETE:
        exchange.stable()  # the name may go with it
    wanted = bool(flags & _WANT_ATTRIBUTES)
    reply: ClosedReply = await exchange.call(Close(handle.id, wanted))
    if not wanted or reply.attributes is None:
        return _REPLY.pack(60, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    a = as_opened(reply.attributes, handle.stream)
    return _REPLY.pack(60, _WANT_ATTRIBUTES, 0, a.created, a.accessed, a.modified, a.changed, allocation(a), file_size(a), file_attributes(a))
