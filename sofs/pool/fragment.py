"""A fragment's bytes: header, checksums, names, data.

A slot is 1 MiB + 8 KiB, and a fragment of n MiB (rounded up) takes n slots in a row, as one stretch:

    n x 8 KiB    header (64 bytes), checksums, names, zeros
    n x 1 MiB    data; only the pages that the fragment has are written

So a 1 MiB fragment fills its slot, the data of an 8 MiB fragment lies in one piece, and everything is aligned to pages. The header:

    8s  magic "SOFSFRAG", u16 format, u16 slots, u32 length of the names in bytes
    u64 disk, u32 slot                  where it was written: a copy of a disk, or a stray write, does not pass
    u64 volume, u64 number              the extent's id
    u8  part (which of the extent's fragments), u8 redundancy, u8 data, u8 extra
    u32 pages of the extent, u32 pages of this fragment, u32 crc32c of the names
    u32 crc32c of the header before it and of the checksums

Behind it the checksums: a crc32c for every 4 KiB page, then one for every 64 KiB block (the last may be shorter). Each byte
is thus covered twice: pages find what is bad and verify small reads; blocks verify large reads in half the time (38 us for a
MiB instead of 74). `names` is opaque here: it tells whoever rebuilds a volume from its disks which chunks the extent holds.

The whole is written once, before anything names it. Only repair writes again: pages whose checksum is wrong, or a damaged header
from another fragment's. A torn write leaves a fragment that no table entry names.
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

from sofs.errors import Damaged
from sofs.pool.extent import MIB, ExtentId, slots_for
from sofs.pool.scheme import Scheme, scheme_from_code
from sofs.runtime.ports import Buffer
from sofs.types import PAGE, DiskId, VolumeId

META_PER_SLOT = 2 * PAGE
SLOT_SIZE = MIB + META_PER_SLOT
BLOCK = 65536
_BLOCK_PAGES = BLOCK // PAGE
_MAGIC = b"SOFSFRAG"
_FORMAT = 1
_HEADER = struct.Struct("<8sHHIQIQQBBBBIII")
_CRC = struct.Struct("<I")
HEADER_SIZE = 64
assert _HEADER.size + _CRC.size == HEADER_SIZE


class Sums(NamedTuple):
    """The checksums of a fragment's data."""

    pages: "array[int]"
    blocks: "array[int]"

    def bad_pages(self, first: int, data: memoryview) -> list[int]:
        """The pages, counted in the fragment, whose bytes in `data` are wrong; `data` begins with page `first`."""
        bad: list[int] = []
        at, end = 0, len(data)
        blocks = self.blocks
        while at < end:
            page = first + at // PAGE
            stop = at + BLOCK
            if page % _BLOCK_PAGES == 0 and stop <= end and blocks:
                # The lock is kept: giving it up for 2 us of work may cost the loop a whole switch interval.
                if crc32c(data[at:stop], 0, 0) == blocks[page // _BLOCK_PAGES]:
                    at = stop
                    continue
            else:
                stop = min(end, at + BLOCK - page % _BLOCK_PAGES * PAGE)
            for place in range(at, stop, PAGE):
                if crc32c(data[place : place + PAGE]) != self.pages[page]:
                    bad.append(page)
                page += 1
            at = stop
        return bad

    def part(self, first: int, pages: int) -> "Sums":
        """The checksums of some of the pages, as of data that begins with page `first`; of blocks only those that begin where its blocks do."""
        blocks = self.blocks[first // _BLOCK_PAGES : (first + pages) // _BLOCK_PAGES] if first % _BLOCK_PAGES == 0 else array("I")
        return Sums(self.pages[first : first + pages], blocks)


def wrong_pages(into: memoryview, first: int, expected: Sequence[int] | None, own: Sums | None) -> list[int]:
    """The pages, counted from `first`, whose bytes in `into` are wrong: by the checksums that the reader expects, else by the fragment's `own`.

    `own` are those of the pages from `first` on; with neither, nothing is known to be wrong.
    """
    if own is not None and (expected is None or own.pages.tolist() == list(expected)):
        # The checksums of blocks stand for those of their pages, and take half the time.
        return [first + page for page in own.bad_pages(0, into)]
    if expected is None:
        return []
    return [first + at for at, sum in enumerate(expected) if crc32c(into[at * PAGE : (at + 1) * PAGE]) != sum]


class Header(NamedTuple):
    """A fragment, as its own header knows it."""

    disk: DiskId
    slot: int
    slots: int
    id: ExtentId
    part: int
    scheme: Scheme
    pages: int
    """Data pages of the whole extent."""
    own_pages: int
    """Data pages of this fragment."""


class Checksummer:
    """Computes the checksums of data that comes in pieces, so that a large extent need not hold up the loop."""

    def __init__(self, known: Sequence[int] | None = None) -> None:
        """`known` are the pages' checksums, if somebody has computed them: they cost two thirds of the time."""
        self._known = known
        self._pages = _Grains(PAGE)
        self._blocks = _Grains(BLOCK)

    def feed(self, data: Buffer) -> None:
        view = memoryview(data)
        if self._known is None:
            self._pages.feed(view)
        self._blocks.feed(view)

    def finish(self) -> Sums:
        pages = self._pages.finish() if self._known is None else array("I", self._known)
        return Sums(pages, self._blocks.finish())


def checksum(data: Sequence[Buffer]) -> Sums:
    """The checksums of the concatenation of `data`."""
    summer = Checksummer()
    for piece in data:
        summer.feed(piece)
    return summer.finish()


class _Grains:
    """The checksum of every `grain` bytes."""

    def __init__(self, grain: int) -> None:
        self._grain = grain
        self._sums = array("I")
        self._crc = 0
        self._room = grain

    def feed(self, view: memoryview) -> None:
        grain = self._grain
        at, end = 0, len(view)
        if self._room == grain:
            at = end - end % grain
            self._sums.extend([crc32c(view[place : place + grain], 0, 0) for place in range(0, at, grain)])
        while at < end:
            step = min(self._room, end - at)
            self._crc = crc32c(view[at : at + step], self._crc)
            at, self._room = at + step, self._room - step
            if self._room == 0:
                self._sums.append(self._crc)
                self._crc, self._room = 0, grain

    def finish(self) -> "array[int]":
        if self._room != self._grain:
            self._sums.append(self._crc)
        return self._sums


def fits(header: Header, sums: Sums, names: bytes) -> bool:
    """Whether these can be a fragment's checksums and names."""
    pages, blocks = header.own_pages, -(-header.own_pages // _BLOCK_PAGES)
    return len(sums.pages) == pages and len(sums.blocks) == blocks and meta_length(pages) + len(names) <= header.slots * META_PER_SLOT


def encode_meta(header: Header, sums: Sums, names: bytes) -> bytes:
    """All bytes in front of the data."""
    fixed = _HEADER.pack(
        _MAGIC, _FORMAT, header.slots, len(names), header.disk, header.slot, *header.id,
        header.part, *header.scheme, header.pages, header.own_pages, crc32c(names),
    )  # fmt: skip
    table = stored_sums(sums.pages) + stored_sums(sums.blocks)
    meta = b"".join((fixed, _CRC.pack(crc32c(table, crc32c(fixed))), table, names))
    assert fits(header, sums, names)
    room = header.slots * META_PER_SLOT
    return meta.ljust(room, b"\0")


def meta_length(own_pages: int) -> int:
    """Bytes that hold the header and the checksums of a fragment, without its names."""
    return HEADER_SIZE + 4 * own_pages + 4 * -(-own_pages // _BLOCK_PAGES)


def decode_meta(meta: Buffer) -> tuple[Header, Sums]:
    """Reads what `encode_meta` wrote; `meta` may end behind the checksums. Raises `Damaged`, with any bytes."""
    if len(meta) < HEADER_SIZE:
        raise Damaged("its header is cut short")
    view = memoryview(meta)
    (magic, form, slots, _, disk, slot, volume, number,
     part, redundancy, data, extra, pages, own_pages, _) = _HEADER.unpack_from(view)  # fmt: skip
    if magic != _MAGIC or form != _FORMAT:
        raise Damaged("it has no fragment header")
    end = meta_length(own_pages)
    if end > slots * META_PER_SLOT or len(meta) < end:
        raise Damaged("its header is damaged (lengths)")
    if crc32c(view[HEADER_SIZE:end], crc32c(view[: _HEADER.size])) != _CRC.unpack_from(view, _HEADER.size)[0]:
        raise Damaged("its header is damaged (wrong checksum)")
    scheme = scheme_from_code(redundancy, data, extra)
    if scheme is None or part >= scheme.width or not 0 < own_pages <= pages or slots_for(own_pages * PAGE) != slots:
        raise Damaged("its header is damaged (impossible contents)")
    middle = HEADER_SIZE + 4 * own_pages
    sums = Sums(loaded_sums(view[HEADER_SIZE:middle]), loaded_sums(view[middle:end]))
    header = Header(DiskId(disk), slot, slots, ExtentId(VolumeId(volume), number), part, scheme, pages, own_pages)
    return header, sums


def decode_names(meta: Buffer, own_pages: int) -> bytes:
    """The names from a whole `meta` whose header has been decoded. Raises `Damaged`."""
    fields = _HEADER.unpack_from(meta)
    length, expected = fields[3], fields[14]
    start = meta_length(own_pages)
    names = bytes(memoryview(meta)[start : start + length])
    if len(names) != length or crc32c(names) != expected:
        raise Damaged("its names are damaged")
    return names


def stored_sums(sums: "array[int]") -> bytes:
    """Checksums as bytes, little endian."""
    if sys.byteorder == "big":
        sums = array("I", sums)
        sums.byteswap()
    return sums.tobytes()


def loaded_sums(data: Buffer) -> "array[int]":
    """What `stored_sums` gave; `data` has a multiple of four bytes."""
    sums = array("I")
    sums.frombytes(data)
    if sys.byteorder == "big":
        sums.byteswap()
    return sums
