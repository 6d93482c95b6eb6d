"""Small controls, MS-FSCC 2.3: compression, integrity, object ids."""

import struct

from gateways.smb.exchange import Exchange
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U16


async def get_compression(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_GET_COMPRESSION, MS-FSCC 2.3.13: files are not compressed one by one."""
    return U16.pack(0)


async def set_compression(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_SET_COMPRESSION, MS-FSCC 2.3.51: only "none" can be set."""
    if U16.unpack_from(data)[0]:
        raise Failure(Status.NOT_SUPPORTED)
    return b""


async def get_integrity(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_GET_INTEGRITY_INFORMATION, MS-FSCC 2.3.21: CRC32C over 4 KiB, for every file. Clone sizes are aligned to it."""
    return struct.pack("<HHIII", 1, 0, 0, 4096, 4096)


async def object_id(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_CREATE_OR_GET_OBJECT_ID, MS-FSCC 2.3.1: the inode's number in this volume, which never names another file."""
    identity = struct.pack("<QQ", exchange.handle.inode, exchange.handle.volume.id)
    return identity + struct.pack("<QQ", exchange.handle.volume.id, 0) + identity + bytes(16)
