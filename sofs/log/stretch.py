"""Reading stretches of whole records from a log that is being written, to send them to another node."""

from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from sofs.errors import Damaged, ExtentGone
from sofs.log.configuration import Mark
from sofs.log.reading import Found, next_segment, parse, walk
from sofs.log.record import HEADER, MAGIC, aligned
from sofs.log.replica import LocalReplica
from sofs.types import PAGE, Lsn


class Readable(Protocol):
    """A copy, here or elsewhere."""

    place: str

    def read(self, address: int, into: memoryview) -> Awaitable[None] | None: ...


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
            return _intact(data, after, size)
    raise gone or Damaged(f"{replica.where(after.lsn)}: no record follows here that fits")


def _intact(data: memoryview, after: Mark, size: int) -> Stretch:
    """The records up to the first that is damaged. Raises `Damaged` if that is the first of all."""
    last: Found | None = None
    try:
        for found in walk(data, after, size):
            last = found
    except Damaged:
        if last is None:
            raise
    assert last is not None
    return Stretch(data[: last.end], last.mark)


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


async def fetch_record(replica: Readable, lsn: Lsn, segment_size: int) -> bytearray:
    """The record at a position as a copy has it, verified. Raises `Damaged`, and whatever reading there raises."""
    head = memoryview(bytearray(HEADER))
    await _read(replica, lsn, head)
    length = _length(head, lsn)
    if length is None or lsn % segment_size + length > segment_size:
        raise Damaged(f"{replica.place}: no record begins at {lsn}")
    data = bytearray(length)
    await _read(replica, lsn, memoryview(data))
    parse(memoryview(data), Mark(lsn, int.from_bytes(data[28:32], "little"), 0), segment_size)
    return data


async def _read(replica: Readable, lsn: int, into: memoryview) -> None:
    waiting = replica.read(lsn, into)
    if waiting is not None:
        await waiting


async def _bytes(replica: LocalReplica, lsn: int, length: int) -> memoryview:
    data = memoryview(bytearray(length))
    await _read(replica, lsn, data)
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
