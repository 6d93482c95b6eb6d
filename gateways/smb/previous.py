"""Previous versions: files as of a snapshot, MS-SMB2 2.2.13.2.7 (TWrp) and 3.3.5.9.2, and the list of snapshots, 2.2.32.2.

A snapshot is named by its time in whole seconds, either in the create context or as a component `@GMT-2026.01.31-23.59.59` of the path (MS-SMB 3.2.4.3.1).
"""

import re
import struct
from datetime import UTC, datetime, timedelta

from gateways.smb.exchange import Exchange
from gateways.smb.names import Path
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U64, utf16
from sofs.types import Time
from sofs.volume.api import ListSnapshots, SnapshotList, Volume

PREFIX = "@GMT-"
_TOKEN = re.compile(rb"@GMT-(\d{4})\.(\d\d)\.(\d\d)-(\d\d)\.(\d\d)\.(\d\d)")
_FORM = "@GMT-%Y.%m.%d-%H.%M.%S"
_BEGIN = datetime(1601, 1, 1, tzinfo=UTC)
_SECOND = 10_000_000
_ARRAY = struct.Struct("<III")  # snapshots there are, snapshots returned, size of their names


def token(taken: Time) -> str:
    return (_BEGIN + timedelta(seconds=taken // _SECOND)).strftime(_FORM)


def _seconds(name: bytes) -> int | None:
    """The time that a path's component names; None if it names none."""
    found = _TOKEN.fullmatch(name)
    if found is None:
        return None
    try:
        moment = datetime(*map(int, found.groups()), tzinfo=UTC)  # type: ignore[arg-type,misc]  # six numbers
    except ValueError:
        return None
    return round((moment - _BEGIN).total_seconds())


async def find(exchange: Exchange, path: Path, warp: bytes | None) -> tuple[Volume | None, Path]:
    """The volume as of the time that the context or the path names, and the path without it; None where neither names one. Raises `Failure`."""
    seconds = None
    if warp is not None:
        if len(warp) != U64.size:
            raise Failure(Status.INVALID_PARAMETER)
        seconds = U64.unpack(warp)[0] // _SECOND or None
    for place, name in enumerate(path.components):
        named = _seconds(name)
        if named is not None:
            seconds = named
            path = path._replace(components=path.components[:place] + path.components[place + 1 :])
            break
    if seconds is None:
        return None, path
    live = exchange.tree.volume
    assert live is not None
    reply: SnapshotList = await exchange.call(ListSnapshots(), live)
    for snapshot in reply.snapshots:
        if snapshot.taken // _SECOND == seconds:
            return live.at(snapshot.number), path
    raise Failure(Status.OBJECT_NAME_NOT_FOUND)


async def enumerate_snapshots(exchange: Exchange, data: memoryview, room: int) -> bytes:
    """FSCTL_SRV_ENUMERATE_SNAPSHOTS, MS-SMB2 3.3.5.15.1: newest first. Without room for all, only how much it takes."""
    if room < 16:
        raise Failure(Status.INVALID_PARAMETER)
    live = exchange.tree.volume
    assert live is not None
    reply: SnapshotList = await exchange.call(ListSnapshots(), live)
    names = b"".join(utf16(token(snapshot.taken) + "\0") for snapshot in reversed(reply.snapshots)) + b"\0\0"
    count = len(reply.snapshots)
    if _ARRAY.size + len(names) > room:
        return _ARRAY.pack(count, 0, len(names)) + bytes(4)
    return _ARRAY.pack(count, count, len(names)) + names.ljust(4, b"\0")
