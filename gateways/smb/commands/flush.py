"""FLUSH, MS-SMB2 3.3.5.11: answered once all that was written to the file is stable."""

from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status
from sofs.volume.api import Access, Flush

_WRITERS = Access.WRITE_DATA | Access.APPEND_DATA


async def handle(exchange: Exchange) -> bytes:
    handle = exchange.handle
    if handle.pipe is not None:
        return b"\x04\0\0\0"
    if not handle.access & _WRITERS:
        raise Failure(Status.ACCESS_DENIED)
    exchange.stable()
    await exchange.call(Flush(handle.id))
    return b"\x04\0\0\0"
