"""Reading stretches of whole records from a log that is being written, to send them to another node."""

from collections.abc import Awaitable
from typing import NamedTuple

from sofs.errors import Damaged, ExtentGone
from sofs.log.configuration import Mark
from sofs.log.reading import next_segment, parse
from sofs.log.record import HEADER, MAGIC, aligned
from sofs.log.replica import LocalReplica
from sofs.types import PAGE, Lsn

__all__ = ["Stretch", "origin", "read_stretch"]


class Stretch(NamedTuple):
    """Whole records."""

    data: memoryview
    end: Mark
    """The place behind the last of them."""


async def read_stretch(replica: LocalReplica, after: Mark, end: Lsn, length: int) -> Stretch:
    """The records behind a mark, verified: about `length` bytes of them, at least one, none beyond `end`, which is the end of one.

    Raises `Damaged` when no such record follows the mark here, `ExtentGone` when they have been trimmed, `DiskFailed`.
    """
    size, length = replica.segment_size, max(length, PAGE)
    gone: ExtentGone | None = None
    for lsn in (after.lsn, next_segment(after.lsn, size)):
        if lsn >= end:
            break
        try:
            data = await _records_at(replica, lsn, end, length)
        except ExtentGone as error:
            gone = gone or error
            continue  # the place may be the very end of what was trimmed
        if data and int.from_bytes(data[28:32], "little") == after.checksum:
            return Stretch(data, parse(data, after, size)[-1].mark)
    raise gone or Damaged(f"{replica.where(after.lsn)}: no record follows here that fits")


async def _records_at(replica: LocalReplica, lsn: int, end: Lsn, length: int) -> memoryview:
    """The bytes of the records that begin at `lsn`, as far as they are whole within about `length`; empty if none begins there."""
    size = replica.segment_size
    most = min(end - lsn, size - lsn % size)
    data = await _bytes(replica, lsn, min(length, most))
    first = _length(data, lsn)
    if first is None:
        return data[:0]
    if first > len(data):
        data = await _bytes(replica, lsn, min(first, most))
    return data[: _records(data, lsn)]


async def origin(replica: LocalReplica, start: Lsn, end: Mark) -> Mark:
    """The mark before the first record at or behind `start`, where one begins or the log ends. Raises `Damaged`, `DiskFailed`."""
    if start >= end.lsn:
        return end
    head = await _bytes(replica, start, HEADER)
    if _length(head, start) is None:
        raise Damaged(f"{replica.where(start)}: no record begins here")
    return Mark(start, int.from_bytes(head[28:32], "little"), 0)


async def _bytes(replica: LocalReplica, lsn: int, length: int) -> memoryview:
    data = memoryview(bytearray(length))
    waiting: Awaitable[None] | None = replica.read(lsn, data)
    if waiting is not None:
        await waiting
    return data


def _length(data: memoryview, lsn: int) -> int | None:
    """How long the record is that seems to begin at `lsn`."""
    if len(data) < HEADER or data[:4] != MAGIC or int.from_bytes(data[8:16], "little") != lsn:
        return None
    operations, payload = int.from_bytes(data[32:36], "little"), int.from_bytes(data[36:40], "little")
    return aligned(HEADER + operations) + aligned(payload)


def _records(data: memoryview, lsn: int) -> int:
    """How many bytes of `data` are records that are whole."""
    at = 0
    while (length := _length(data[at:], lsn + at)) is not None and at + length <= len(data):
        at += length
    return at
