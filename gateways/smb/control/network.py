"""Controls about the connection rather than a file, MS-SMB2 3.3.5.15.11 and 3.3.5.15.12; and named pipes, MS-FSCC 2.3.47."""

import struct
from collections.abc import Sequence

from gateways.exports import plain_address
from gateways.smb.commands.negotiate import CAP_MULTI_CHANNEL, best_dialect, server_capabilities, server_security_mode
from gateways.smb.crypto import Dialect
from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status
from gateways.smb.wire import unpack
from sofs.errors import PeerError
from sofs.runtime.interfaces import Interface

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
    best = best_dialect(connection, dialects)
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


_INTERFACE = struct.Struct("<IIIIQ128s")  # next, index, capabilities, reserved, bits per second, SOCKADDR_STORAGE
_RSS_CAPABLE = 1
_IPV4, _IPV6 = 2, 0x17


async def query_interfaces(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_QUERY_NETWORK_INTERFACE_INFO, MS-SMB2 3.3.5.15.11: where else a client may connect, to bind its session to more channels.

    Those of this node's addresses at which it listens; link-local ones need a zone that only the client knows, and this host's loopback
    is nobody's but its own.
    """
    connection = exchange.connection
    if not server_capabilities(connection) & CAP_MULTI_CHANNEL:
        raise Failure(Status.NOT_SUPPORTED)
    service = connection.service
    rows = offered(service.interfaces(), service.listening(), connection.link.local)
    entries = [_entry(interface, last=place == len(rows) - 1) for place, interface in enumerate(rows)]
    output = b"".join(entries)
    if len(output) > room:
        raise Failure(Status.BUFFER_TOO_SMALL)
    return output


def offered(interfaces: Sequence[Interface], listening: Sequence[str], reached: str) -> list[Interface]:
    """The interfaces that a client may try which has reached us at the address `reached`."""
    heard = {plain_address(address) for address in listening}
    own = plain_address(reached)
    found = []
    for interface in interfaces:
        address = plain_address(interface.address)
        everywhere = any(each.is_unspecified and each.version == address.version for each in heard)
        if address.is_link_local or (address.is_loopback and not own.is_loopback):
            continue
        if address in heard or everywhere:
            found.append(interface)
    return found


def _entry(interface: Interface, last: bool) -> bytes:
    address = plain_address(interface.address)
    if address.version == 4:
        place = struct.pack("<HH4s", _IPV4, 0, address.packed)
    else:
        place = struct.pack("<HHI16sI", _IPV6, 0, 0, address.packed, 0)
    capabilities = _RSS_CAPABLE if interface.receive_queues > 1 else 0
    return _INTERFACE.pack(0 if last else _INTERFACE.size, interface.number, capabilities, 0, interface.bits_per_s, place)


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
