"""Resilient opens, MS-SMB2 3.3.5.15.9: what dialect 2.1 had before persistent handles, and old programs still ask for.

Such an open waits for its client as a persistent one does, however its file is cached, but only as long as the client has said.
"""

import struct

from gateways.smb.commands.reopen import owner
from gateways.smb.crypto import Dialect
from gateways.smb.durable import Durable
from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status
from sofs.volume.api import Retain

_REQUEST = struct.Struct("<II")  # timeout in ms, reserved
_DEFAULT_MS, _LONGEST_MS = 120_000, 300_000


async def request(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_LMR_REQUEST_RESILIENCY."""
    dialect = exchange.connection.dialect
    assert dialect is not None
    if dialect < Dialect.SMB_2_1:
        raise Failure(Status.INVALID_DEVICE_REQUEST)
    if len(data) < _REQUEST.size:
        raise Failure(Status.INVALID_PARAMETER)
    timeout, _ = _REQUEST.unpack_from(data)
    if timeout > _LONGEST_MS:
        raise Failure(Status.INVALID_PARAMETER)
    timeout = timeout or _DEFAULT_MS
    handle = exchange.handle
    before = handle.durable or Durable(1, b"", b"", timeout, False)
    lasting = before._replace(timeout_ms=timeout, granted_ms=timeout, resilient=True)
    await exchange.call(Retain(handle.id, lasting.keep(owner(exchange))))
    exchange.connection.service.durables.made(handle, lasting)
    return b""
