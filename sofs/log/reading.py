"""Reading a log back, record by record: for recovery and for destaging."""

from collections.abc import Iterator
from typing import NamedTuple

from sofs.errors import Damaged, ExtentGone
from sofs.log.configuration import Mark
from sofs.log.record import HEADER, Header, decode, payload_sum
from sofs.log.replica import FIRST, Replica
from sofs.types import PAGE


class Found(NamedTuple):
    """A record among bytes of a log."""

    header: Header
    operations: bytes
    start: int
    """Where it begins within the bytes."""
    end: int
    mark: Mark
    """The place behind it in the log."""


def next_segment(lsn: int, segment_size: int) -> int:
    """The first position of the segment behind the one that `lsn` lies in (or ends, being just behind it)."""
    return ((lsn - 1) // segment_size + 1) * segment_size + FIRST


def parse(data: memoryview, after: Mark, segment_size: int) -> list[Found]:
    """The records that `data` consists of, the first of which follows `after`; each is verified: itself, its payload, its place in the chain.

    Raises `Damaged`: then none of them may be used.
    """
    return list(walk(data, after, segment_size))


def walk(data: memoryview, after: Mark, segment_size: int) -> Iterator[Found]:
    """The same, one by one: those before the one that is damaged may be used."""
    at, size = 0, len(data)
    while at < size:
        lsn = int.from_bytes(data[at + 8 : at + 16], "little")
        header, operations = decode(data[at:], lsn)
        if lsn != after.lsn and lsn != next_segment(after.lsn, segment_size):
            raise Damaged(f"the record at position {lsn} does not begin where the one before ends, at {after.lsn}")
        if header.previous != after.checksum or header.version < after.version:
            raise Damaged(f"the record at position {lsn} does not follow the one before")
        end = at + header.end - lsn
        if end > size or header.end > (lsn // segment_size + 1) * segment_size:
            raise Damaged(f"the record at position {lsn} is cut off")
        if header.length:
            first = at + header.address - lsn
            if payload_sum([data[first : first + header.length]]) != header.payload_sum:
                raise Damaged(f"the payload of the record at position {lsn} does not match its checksum")
        after = Mark(header.end, header.checksum, header.version)
        yield Found(header, operations, at, end, after)
        at = end


class SegmentReader:
    """Reads one replica ahead, waiting inline, and never beyond the end of a segment."""

    def __init__(self, replica: Replica, ahead: int) -> None:
        self.replica = replica
        self._ahead = ahead
        self._base = 0
        self._data = memoryview(b"")

    def view(self, lsn: int, length: int) -> memoryview:
        """`length` bytes from `lsn` on, or as many as the segment has. Raises `ExtentGone`, `DiskFailed`."""
        at = lsn - self._base
        if at < 0 or at + length > len(self._data):
            size = self.replica.segment_size
            room = size - lsn % size
            # Where a payload as large as that was skipped, the next probably will be, too: 5 us a record instead of 20.
            skipped = lsn - self._base - len(self._data)
            ahead = self._ahead if skipped < self._ahead else PAGE
            self._data = memoryview(bytearray(min(max(length, ahead), room)))
            self._base = lsn
            try:
                self.replica.read_now(lsn, self._data)
            except BaseException:
                self._data = memoryview(b"")
                raise
            at = 0
        return self._data[at : at + length]

    def forget(self) -> None:
        """Reads again what has been changed meanwhile."""
        self._data = memoryview(b"")

    def header(self, lsn: int) -> tuple[Header, bytes]:
        """The header and operations of the record at `lsn`. Raises `Damaged` if there is none, `DiskFailed`."""
        try:
            head = self.view(lsn, HEADER)
            if len(head) == HEADER:
                at, end = lsn - self._base, lsn - self._base + HEADER + int.from_bytes(head[32:36], "little")
                # What has been read ahead has the operations, too, as a rule.
                head = self._data[at:end] if end <= len(self._data) else self.view(lsn, end - at)
        except ExtentGone as error:
            raise Damaged(f"no segment holds position {lsn}") from error
        return decode(head, lsn)

    def record(self, lsn: int) -> tuple[Header, bytes]:
        """The same, the payload verified too."""
        header, operations = self.header(lsn)
        size = self.replica.segment_size
        if header.end > (lsn // size + 1) * size:
            raise Damaged(f"the record at position {lsn} crosses the end of its segment")
        if header.length:
            payload = self.view(header.address, header.length)
            if payload_sum([payload]) != header.payload_sum:
                raise Damaged(f"the payload of the record at position {lsn} does not match its checksum")
        return header, operations
