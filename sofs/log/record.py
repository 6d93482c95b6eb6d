"""A record of the log, as bytes.

A record lies at the position that is its name, always a multiple of 8, and never crosses the end of a segment:

    header      48 bytes, below
    operations  what the machine is to apply; empty in a record that only notes how far the log is stable
    zeros       to a multiple of 8
    payload     data that the operations refer to by position
    zeros       to a multiple of 8

    magic       u32
    checksum    u32  CRC32C of the header from here on, and of the operations
    lsn         u64  the record's own position: what an earlier use of the segment left behind does not match
    stable      u64  everything below was stable when this was written: a hole below it is damage, not a torn tail
    version     u32  the configuration under which it was written; never falls from one record to the next
    previous    u32  the checksum of the record before: records form a chain, and a record of another history does not fit in
    operations  u32  bytes of operations
    payload     u32  bytes of payload
    payload sum u32  CRC32C of the payload's page sums: the CRC32Cs (u32) of its pieces of 4 KiB, of which the last may be shorter
    reserved    u32  0

The header's checksum covers the payload's, so the chain covers everything; reading operations alone needs no payload.
The payload is summed by pages since whoever writes pages has their sums already: over 1 MiB a second CRC32C costs 40 us.

A torn write leaves a record whose checksums do not match. What comes behind such a record was never acknowledged as
stable, because stable advances in order.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

from sofs.errors import Damaged
from sofs.runtime.ports import Buffer
from sofs.types import PAGE, Lsn

_HEADER = struct.Struct("<IIQQIIIIII")
_COVERED = struct.Struct("<QQIIIIII")
HEADER = _HEADER.size
MAGIC = b"sRec"
ALIGNMENT = 8
MAXIMUM = (1 << 32) - 1
"""Neither operations nor payload can be longer."""

_MAGIC = int.from_bytes(MAGIC, "little")
_PREFIX = struct.Struct("<II")
_PADDING = tuple(bytes(count) for count in range(ALIGNMENT))

assert HEADER == 48 and _COVERED.size == 40


class Header(NamedTuple):
    """A record's header, its own sum verified."""

    checksum: int
    lsn: Lsn
    stable: Lsn
    version: int
    previous: int
    operations: int
    length: int
    """Bytes of payload."""
    payload_sum: int

    @property
    def address(self) -> int:
        """Where the payload begins."""
        return self.lsn + aligned(HEADER + self.operations)

    @property
    def end(self) -> Lsn:
        """Behind the record."""
        return Lsn(self.address + aligned(self.length))


def aligned(length: int) -> int:
    return length + ALIGNMENT - 1 & -ALIGNMENT


def page_sums(payload: Sequence[Buffer]) -> bytes:
    """The packed CRC32C of each page of the payload, which may lie in parts of any length."""
    sums: list[int] = []
    running = filled = 0
    for part in payload:
        view = memoryview(part)
        at, end = 0, len(view)
        while at < end:
            piece = view[at : at + PAGE - filled]
            running = crc32c(piece, running)
            filled += len(piece)
            at += len(piece)
            if filled == PAGE:
                sums.append(running)
                running = filled = 0
    if filled:
        sums.append(running)
    return struct.pack(f"<{len(sums)}I", *sums)


def payload_sum(payload: Sequence[Buffer]) -> int:
    """What the header says of a payload; 0 of none."""
    total: int = crc32c(page_sums(payload))
    return total


def encode(lsn: Lsn, stable: Lsn, version: int, previous: int, operations: bytes, length: int, payload_crc: int) -> tuple[int, bytes]:
    """The record's checksum, and its bytes up to its payload."""
    covered = _COVERED.pack(lsn, stable, version, previous, len(operations), length, payload_crc, 0) + operations
    checksum: int = crc32c(covered)
    return checksum, _PREFIX.pack(_MAGIC, checksum) + covered + _PADDING[-len(operations) % ALIGNMENT]


def decode(data: memoryview, lsn: int) -> tuple[Header, bytes]:
    """The header and operations of the record at `lsn`, which `data` begins with; the payload is not looked at.

    Raises `Damaged`, also when `data` ends before the operations do.
    """
    if len(data) < HEADER:
        raise Damaged(f"no room for a record at position {lsn}")
    magic, checksum, own, stable, version, previous, operations, length, payload_crc, _ = _HEADER.unpack_from(data)
    end = HEADER + operations
    if magic != _MAGIC or own != lsn or end > len(data):
        raise Damaged(f"no record at position {lsn}")
    if crc32c(data[8:end]) != checksum:
        raise Damaged(f"the record at position {lsn} does not match its checksum")
    header = Header(checksum, Lsn(own), Lsn(stable), version, previous, operations, length, payload_crc)
    return header, bytes(data[HEADER:end])
