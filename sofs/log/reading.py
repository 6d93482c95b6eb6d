"""Reading a log back, record by record: for recovery and for destaging."""

from sofs.errors import Damaged, ExtentGone
from sofs.log.record import HEADER, Header, decode, payload_sum
from sofs.log.replica import FIRST, Replica
from sofs.types import PAGE

__all__ = ["SegmentReader", "next_segment"]


def next_segment(lsn: int, segment_size: int) -> int:
    """The first position of the segment behind the one that `lsn` lies in (or ends, being just behind it)."""
    return ((lsn - 1) // segment_size + 1) * segment_size + FIRST


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
                operations = int.from_bytes(head[32:36], "little")
                head = self.view(lsn, HEADER + operations)
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
