"""One copy of a log: segments on a disk.

A segment is a preallocated file that holds the positions from `index * size` on; its name is the index in hexadecimal.
Its first page holds a header that says whose it is; records follow. A position below the log's start lies in no segment. Segments that
were trimmed are kept and renamed to hold later positions: writing over blocks that have been written costs
less than half of writing into fresh ones (the file system has nothing to note at the sync).

    magic         8 bytes
    log           u64  the log's identity: another volume's segments are refused
    replica       u64
    number        u64  the index
    segment size  u64
    checksum      u32  CRC32C of the above

The header identifies, records vouch for themselves: a header that is damaged, or that a crash left from the file's former use,
costs nothing, since no record found there has a position that fits.
"""

import struct
from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from crc32c import crc32c

from sofs.errors import ConfigError, DiskRefused, ExtentGone, NoSpace
from sofs.runtime.later import Later, together
from sofs.runtime.ports import Buffer, File, Files
from sofs.types import PAGE, Lsn

FIRST = Lsn(PAGE)
"""The first position of any log: that of the first segment's first record."""

_MAGIC = b"sofslog1"
_HEADER = struct.Struct("<8sQQQQ")
_SUM = struct.Struct("<I")
_HEADER_SIZE = _HEADER.size + _SUM.size
_KEPT = 8
"""At most so many trimmed segments wait for their next use; more are removed, and so are those that make more than the log ever used.

A segment that is used again has its pages in memory and its blocks on the disk: writing a MiB into it takes 85 us, into a fresh one
120 to 250, and its removal 20 to 100 more, in which the loop stands still.
"""


class Replica(Protocol):
    """One copy of a log, as its coordinator sees it. A copy on another node will answer the same calls through that node."""

    id: int
    place: str
    """Where it is, for messages."""
    segment_size: int

    def segments(self) -> list[int]:
        """Indices that exist, in order."""

    def prepare(self, index: int) -> None:
        """Makes the segment, so that writing there cannot run out of space. No error if it exists. Raises `NoSpace`, `DiskFailed`."""

    def write(self, lsn: int, data: Sequence[Buffer]) -> None:
        """Writes bytes within one prepared segment into the page cache. Raises `DiskFailed`."""

    def sync(self, quietly: bool = False) -> Later[None]:
        """Completes when all that was written before the call is durable; if `quietly`, nobody need be told before `hurry`.

        Raises `DiskFailed`; then this copy is lost.
        """

    def hurry(self) -> None:
        """Tells of quiet syncs: see `Files.hurry`."""

    def read(self, address: int, into: memoryview) -> Awaitable[None] | None:
        """Raises `ExtentGone` where no segment is, `DiskFailed`."""

    def read_now(self, address: int, into: memoryview) -> None:
        """The same, waiting inline."""

    def trim(self, below: int) -> None:
        """Gives back the segments with an index below `below`."""

    def where(self, address: int) -> str:
        """File and offset of a position, for messages."""

    def close(self) -> None: ...


class SegmentHeader(NamedTuple):
    """Whose segment this is."""

    log: int
    replica: int
    number: int
    segment_size: int

    @classmethod
    def decode(cls, data: bytes) -> "SegmentHeader | None":
        """None if there is no intact header."""
        if len(data) < _HEADER_SIZE or _SUM.unpack_from(data, _HEADER.size)[0] != crc32c(data[: _HEADER.size]):
            return None
        magic, log, replica, number, segment_size = _HEADER.unpack_from(data)
        return cls(log, replica, number, segment_size) if magic == _MAGIC else None

    def encode(self) -> bytes:
        data = _HEADER.pack(_MAGIC, *self)
        return data + _SUM.pack(crc32c(data))


class LocalReplica:
    """A copy in a directory of this node."""

    def __init__(self, files: Files, path: str, log: int, id: int, segment_size: int) -> None:
        """Opens the segments in `path`, which exists. Raises `DiskRefused` if they are another log's, `ConfigError` if of another size."""
        self.id = id
        self.place = path
        self.segment_size = segment_size
        self._files = files
        self._log = log
        self._open: dict[int, File] = {}
        self._free: list[tuple[int, File]] = []
        self._most = 0
        """Segments that were in use at once."""
        for name in files.list(path):
            index = _index(name)
            if index is not None:
                self._open[index] = self._verified(name)
        # A process that died may have left in the page cache what it wrote last.
        self._unsynced = set(self._open)
        self._unsynced_names = True
        self._last_sync: Later[None] | None = None
        """While it is under way."""

    def _verified(self, name: str) -> File:
        path = f"{self.place}/{name}"
        file = self._files.open(path)
        data = bytearray(_HEADER_SIZE)
        file.read_now(0, [memoryview(data)])
        header = SegmentHeader.decode(bytes(data))
        if header is not None and (header.log, header.replica) != (self._log, self.id):
            file.close()
            raise DiskRefused(
                f"{path} belongs to log {header.log:x}, copy {header.replica:x}, not to {self._log:x}, {self.id:x}; "
                "put the right disk back, or remove the directory if its volume is no longer needed"
            )
        if header is not None and header.segment_size != self.segment_size:
            file.close()
            raise ConfigError(f"{path} was made with segments of {header.segment_size} bytes, not {self.segment_size}")
        return file

    def segments(self) -> list[int]:
        return sorted(self._open)

    def prepare(self, index: int) -> None:
        if index in self._open:
            return
        name = f"{self.place}/{index:016x}"
        if self._free:
            old, file = self._free.pop()
            self._files.rename(f"{self.place}/{old:016x}", name)
        else:
            file = self._files.open(name, create=True)
            try:
                file.allocate(0, self.segment_size)
            except NoSpace as error:
                file.close()
                self._files.remove(name)
                raise NoSpace(f"{self.place}: no space for another segment of the log; free some, or add a disk") from error
        file.write(0, [SegmentHeader(self._log, self.id, index, self.segment_size).encode()])
        self._open[index] = file
        self._most = max(self._most, len(self._open))
        self._unsynced.add(index)
        self._unsynced_names = True

    def write(self, lsn: int, data: Sequence[Buffer]) -> None:
        index, offset = divmod(lsn, self.segment_size)
        self._unsynced.add(index)
        self._open[index].write(offset, data)

    def sync(self, quietly: bool = False) -> Later[None]:
        unsynced = sorted(self._unsynced & self._open.keys())
        self._unsynced.clear()
        if self._unsynced_names:
            # Seldom (once a segment), so it may as well be waited for inline.
            self._files.sync_directory(self.place)
            self._unsynced_names = False
        syncs = [self._open[index].sync(quietly) for index in unsynced]
        # What an earlier sync is still about is not durable yet, though no longer counted as unsynced.
        if self._last_sync is not None:
            syncs.append(self._last_sync)
        sync = self._last_sync = together(syncs)
        sync.then(lambda outcome: self._synced(sync))
        return sync

    def _synced(self, sync: Later[None]) -> None:
        if self._last_sync is sync:
            self._last_sync = None

    def hurry(self) -> None:
        self._files.hurry()

    def read(self, address: int, into: memoryview) -> Awaitable[None] | None:
        file, offset = self._at(address)
        count = file.read(offset, (into,))
        if isinstance(count, int):
            if count < len(into):
                self._whole(count, into)
            return None
        return self._finish(count, into)

    async def _finish(self, counting: Awaitable[int], into: memoryview) -> None:
        self._whole(await counting, into)

    def read_now(self, address: int, into: memoryview) -> None:
        file, offset = self._at(address)
        self._whole(file.read_now(offset, [into]), into)

    def _whole(self, count: int, into: memoryview) -> None:
        # A file cut short by somebody reads as zeros; checksums tell.
        into[count:] = bytes(len(into) - count)

    def _at(self, address: int) -> tuple[File, int]:
        index, offset = divmod(address, self.segment_size)
        file = self._open.get(index)
        if file is None:
            raise ExtentGone(f"position {address} is no longer in the log")
        return file, offset

    def trim(self, below: int) -> None:
        for index in [index for index in self._open if index < below]:
            file = self._open.pop(index)
            self._unsynced.discard(index)
            if len(self._free) < _KEPT and len(self._open) + len(self._free) < self._most:
                self._free.append((index, file))
            else:
                file.close()
                self._files.remove(f"{self.place}/{index:016x}")

    def where(self, address: int) -> str:
        index, offset = divmod(address, self.segment_size)
        return f"{self.place}/{index:016x}, offset {offset}"

    def close(self) -> None:
        for file in [*self._open.values(), *(file for _, file in self._free)]:
            file.close()


def _index(name: str) -> int | None:
    """The index that a file's name says; None for a file that is no segment."""
    if len(name) != 16:
        return None
    try:
        return int(name, 16)
    except ValueError:
        return None
