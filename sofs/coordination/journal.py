"""The embedded store's file: how records are laid down, found again, and told from damage.

The file is a row of records, numbered without a gap, the first one holding a complete state. Each record stands twice, one frame behind
the other, and every frame begins at a multiple of 4096 bytes:

    magic "sofsrec1" | number u64 | number of the file's first record u64 | copy (0, 1) u32 | length u32 | CRC32C u32 | payload | zeros

The checksum covers what stands between the magic and itself, and the payload.

A record is written only when the one before it has been synced. So:

- a record of which one frame is whole is whole: a bad sector loses nothing, and the next compaction puts it right;
- the last record, when no frame of it is whole, is a write that the end of the process or of the power cut off: it was never
  acknowledged, and is overwritten;
- a missing number with a whole frame behind it is damage: `Damaged`, and nothing is served.

Compaction writes the state as the first record of a new file, which then replaces the old one by rename. Zeros behind the last record are room
reserved for the next ones, so that a full disk is noticed before a change is made, not after.
"""

import struct
from collections.abc import Awaitable, Iterator
from typing import NamedTuple

from crc32c import crc32c

from sofs.errors import Damaged
from sofs.runtime.ports import File, Files

_MAGIC = b"sofsrec1"
_COVERED = struct.Struct("<QQII")
_CHECKSUM = struct.Struct("<I")
_HEADER = len(_MAGIC) + _COVERED.size + _CHECKSUM.size
_PAGE = 4096
_RESERVE = 256 * 1024
assert _HEADER == 36


class _Frame(NamedTuple):
    offset: int
    number: int
    first: int
    copy: int
    payload: bytes


class Journal:
    """The file, open for appending. One record at a time: each must be durable before the next is written."""

    def __init__(self, files: Files, path: str, file: File, first: int, next: int, end: int) -> None:
        self._files = files
        self._path = path
        self._file = file
        self._first = first
        self._next = next
        self.end = end
        """Where the next record goes."""

    @classmethod
    def create(cls, files: Files, path: str, state: bytes) -> "Journal":
        """A new file with `state` in it, durable under its name; replaces one that is there."""
        return cls._lay_down(files, path, state, 1)

    @classmethod
    def open(cls, files: Files, path: str) -> tuple["Journal", list[bytes]]:
        """The file and the payloads of its records. Raises `Damaged`, `NotFound`, `DiskFailed`."""
        file = files.open(path)
        try:
            image = bytearray(file.size)
            file.read_now(0, [memoryview(image)])
            records = {frame.number: frame for frame in _frames(image)}
            if not records:
                raise Damaged(f"{path} is not a store, or damaged throughout; restore it from a backup")
            last = records[max(records)]
            for expected, number in enumerate(sorted(records), last.first):
                if number != expected:
                    raise Damaged(f"{path}: both copies of record {expected} are damaged; restore it from a backup")
            # A record or a rename that a dying process left in the page cache counts from now on, so it has to be durable.
            file.sync_now()
            files.sync_directory(_directory_of(path))
        except BaseException:
            file.close()
            raise
        end = last.offset + (2 - last.copy) * _padded(_HEADER + len(last.payload))
        payloads = [records[number].payload for number in sorted(records)]
        return cls(files, path, file, last.first, last.number + 1, end), payloads

    @classmethod
    def _lay_down(cls, files: Files, path: str, state: bytes, number: int) -> "Journal":
        fresh = path + ".new"
        if files.exists(fresh):
            files.remove(fresh)
        file = files.open(fresh, create=True, exclusive=True)
        frames = _record(number, number, state)
        end = len(frames[0]) + len(frames[1])
        file.allocate(0, end + _RESERVE)
        file.write(0, frames)
        file.sync_now()
        files.rename(fresh, path)
        files.sync_directory(_directory_of(path))
        return cls(files, path, file, number, number + 1, end)

    def reserve(self, length: int) -> None:
        """Makes sure that a record of `length` bytes will find room. Raises `NoSpace`, `DiskFailed`; then nothing has changed."""
        needed = self.end + 2 * _padded(_HEADER + length)
        if needed > self._file.size:
            self._file.allocate(self.end, needed - self.end + _RESERVE)

    def append(self, payload: bytes) -> Awaitable[None]:
        """Writes the next record; completes when it is durable. Raises `DiskFailed`; then the journal is not to be used any more."""
        frames = _record(self._next, self._first, payload)
        self._file.write(self.end, frames)
        self.end += len(frames[0]) + len(frames[1])
        self._next += 1
        return self._file.sync()

    def compact(self, state: bytes) -> "Journal":
        """The same file begun anew with one record, the complete `state`; this object is closed."""
        journal = self._lay_down(self._files, self._path, state, self._next)
        self.close()
        return journal

    def close(self) -> None:
        self._file.close()


def _directory_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _padded(length: int) -> int:
    return -(-length // _PAGE) * _PAGE


def _record(number: int, first: int, payload: bytes) -> list[bytes]:
    """Both frames of a record."""
    frames = []
    for copy in (0, 1):
        covered = _COVERED.pack(number, first, copy, len(payload))
        checksum = _CHECKSUM.pack(crc32c(payload, crc32c(covered)))
        frame = _MAGIC + covered + checksum + payload
        frames.append(frame.ljust(_padded(len(frame)), b"\0"))
    return frames


def _frames(image: bytearray) -> Iterator[_Frame]:
    """Every whole frame."""
    offset = 0
    while offset < len(image):
        frame = _frame_at(image, offset)
        if frame is None:
            offset += _PAGE
        else:
            yield frame
            offset += _padded(_HEADER + len(frame.payload))


def _frame_at(image: bytearray, offset: int) -> _Frame | None:
    start = offset + _HEADER
    if not image.startswith(_MAGIC, offset) or start > len(image):
        return None
    covered = bytes(image[offset + len(_MAGIC) : start - _CHECKSUM.size])
    number, first, copy, length = _COVERED.unpack(covered)
    (checksum,) = _CHECKSUM.unpack_from(image, start - _CHECKSUM.size)
    payload = bytes(image[start : start + length])
    if copy > 1 or len(payload) < length or crc32c(payload, crc32c(covered)) != checksum:
        return None
    return _Frame(offset, number, first, copy, payload)
