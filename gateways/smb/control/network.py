"""Controls about the connection rather than a file."""

import struct

from gateways.smb.commands.negotiate import server_capabilities, server_security_mode
from gateways.smb.crypto import Dialect
from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status
from gateways.smb.wire import unpack
from sofs.errors import PeerError

_VALIDATE = struct.Struct("<I16sHH")  # capabilities, guid, security mode, dialect count
_VALIDATED = struct.Struct("<I16sHH")  # capabilities, guid, security mode, dialect


async def validate_negotiate(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_VALIDATE_NEGOTIATE_INFO, MS-SMB2 3.3.5.15.12: a client asks, signed, whether NEGOTIATE was tampered with.

    A mismatch means that someone sits in between: the connection must end without an answer.
    """
    connection = exchange.connection
    capabilities, guid, mode, count = unpack(_VALIDATE, data)
    dialects = unpack(struct.Struct(f"<{count}H"), data, _VALIDATE.size)
    if room < _VALIDATED.size:
        raise Failure(Status.INVALID_PARAMETER)
    best = max((dialect for dialect in Dialect if dialect in dialects), default=None)
    same = (
        guid == connection.client_guid
        and mode == connection.client_security_mode
        and capabilities == connection.client_capabilities
        and best is connection.dialect
    )
    if not same or connection.dialect is Dialect.SMB_3_1_1:
        raise PeerError("what NEGOTIATE said is not what the client had sent")
    settings = connection.service.settings
    return _VALIDATED.pack(server_capabilities(connection), settings.guid, server_security_mode(connection), connection.dialect)


async def pipe_transceive(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_PIPE_TRANSCEIVE, MS-FSCC 2.3.47: a write and a read in one."""
    pipe = exchange.handle.pipe
    if pipe is None:
        raise Failure(Status.INVALID_DEVICE_REQUEST)
    pipe.write(data)
    answer, more = pipe.read(room)
    if more:
        exchange.status = Status.BUFFER_OVERFLOW
    return answer
