"""Reading stretches of whole records from a log that is being written, to send them to another node."""

from collections.abc import Awaitable
from typing import NamedTuple

from sofs.errors import Damaged
from sofs.log.configuration import Mark
from sofs.log.reading import next_segment, parse
from sofs.log.record import HEADER, MAGIC, aligned
from sofs.log.replica import LocalReplica
from sofs.types import Lsn

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
    size = replica.segment_size
    for lsn in (after.lsn, next_segment(after.lsn, size)):
        if lsn >= end:
            break
        data = await _bytes(replica, lsn, min(length, end - lsn, size - lsn % size))
        whole = _length(data, lsn)
        if whole is None:
            continue  # the one that follows is in the next segment
        if whole > len(data):
            data = await _bytes(replica, lsn, min(whole, end - lsn, size - lsn % size))
        data = data[: _records(data, lsn)]
        found = parse(data, after, size)
        if found:
            return Stretch(data, found[-1].mark)
    raise Damaged(f"{replica.where(after.lsn)}: no record follows here that fits")


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
