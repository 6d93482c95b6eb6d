"""IOCTL, MS-SMB2 3.3.5.15: the table of controls, and the message around them."""

import struct
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from gateways.smb import previous
from gateways.smb.admission import take_handle
from gateways.smb.control import copy, misc, network, offload, reparse, resilience, sparse
from gateways.smb.exchange import BODY, Answer, Exchange
from gateways.smb.header import ANY_FILE
from gateways.smb.status import Failure, Status
from gateways.smb.wire import part

_REQUEST = struct.Struct("<HHIQQIIIIIIII")
_REPLY = struct.Struct("<HHIQQIIIIII")
_IS_FSCTL = 1
_MAX = 8 << 20

Control = Callable[[Exchange, memoryview, int], Coroutine[Any, Any, bytes]]


class Rule(NamedTuple):
    control: Control
    file: bool = True
    """It works on an open; else the FileId is not looked at."""
    changes: bool = False
    """Refused on a read-only share."""
    pipe: bool = False
    least: int = 0
    """Bytes of input, and of room for the output, with less of which it is STATUS_INVALID_PARAMETER."""
    room: int = 0


CONTROLS: dict[int, Rule] = {
    0x00140204: Rule(network.validate_negotiate, file=False),
    0x001401FC: Rule(network.query_interfaces, file=False),
    0x0011C017: Rule(network.pipe_transceive, pipe=True),
    0x00144064: Rule(previous.enumerate_snapshots),
    0x00140078: Rule(copy.resume_key, room=32),
    0x001401D4: Rule(resilience.request),
    0x001440F2: Rule(copy.copychunk, changes=True, least=32, room=12),
    0x001480F2: Rule(copy.copychunk_write, changes=True, least=32, room=12),
    0x00098344: Rule(copy.duplicate, changes=True, least=40),
    0x000983E8: Rule(copy.duplicate_ex, changes=True, least=56),
    0x000900C4: Rule(sparse.set_sparse, changes=True),
    0x000980C8: Rule(sparse.set_zero_data, changes=True),
    0x00098208: Rule(sparse.trim, changes=True),
    0x00094264: Rule(offload.read, least=32, room=528),
    0x00098268: Rule(offload.write, changes=True, least=544, room=16),
    0x000940CF: Rule(sparse.query_allocated_ranges),
    0x0009003C: Rule(misc.get_compression, room=2),
    0x0009C040: Rule(misc.set_compression, changes=True, least=2),
    0x0009027C: Rule(misc.get_integrity, room=16),
    0x000900A8: Rule(reparse.get),
    0x000900A4: Rule(reparse.set, changes=True),
    0x000900AC: Rule(reparse.delete, changes=True),
    0x000900C0: Rule(misc.object_id, room=64),
}
_DFS_REFERRALS = (0x00060194, 0x000601B0)


def handle(exchange: Exchange) -> Coroutine[Any, Any, Answer]:
    (
        _, _, code, persistent, volatile, input_at, input_length, max_input, _, _, room, flags, _,
    ) = exchange.unpack(_REQUEST)  # fmt: skip
    if flags != _IS_FSCTL:
        raise Failure(Status.NOT_SUPPORTED)
    if max(input_length, room, max_input) > _MAX or max(input_length, room + max_input) > (exchange.charge or 1) << 16:
        raise Failure(Status.INVALID_PARAMETER)
    data = part(exchange.message, input_at, input_length, "the control's input")
    if code in _DFS_REFERRALS:
        raise Failure(Status.FS_DRIVER_REQUIRED)
    rule = CONTROLS.get(code)
    if rule is None and persistent == volatile == ANY_FILE:
        raise Failure(Status.NOT_SUPPORTED)
    if rule is not None and not rule.file and not persistent == volatile == ANY_FILE:
        raise Failure(Status.INVALID_PARAMETER)
    if rule is None or rule.file:
        take_handle(exchange, persistent, volatile)
        if rule is None or (exchange.handle.pipe is not None and not rule.pipe):
            raise Failure(Status.INVALID_DEVICE_REQUEST if rule is None else Status.NOT_SUPPORTED)
        if rule.changes:
            if exchange.tree.read_only:
                raise Failure(Status.MEDIA_WRITE_PROTECTED)
            if exchange.tree.durable:
                exchange.stable()
    if len(data) < rule.least or room < rule.room:
        raise Failure(Status.INVALID_PARAMETER)
    return _run(exchange, rule.control, code, persistent, volatile, data, room)


async def _run(exchange: Exchange, control: Control, code: int, persistent: int, volatile: int, data: memoryview, room: int) -> Answer:
    output = await control(exchange, data, room)
    at = BODY + _REPLY.size
    return _REPLY.pack(49, 0, code, persistent, volatile, at, 0, at, len(output), 0, 0) + output
