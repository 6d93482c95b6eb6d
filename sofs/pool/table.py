"""The slot table: what lies in each slot of a disk, 32 bytes for each.

It is one file (`table`; a region of a device), preallocated when the disk is made and read whole at start, so that no
fragment is ever searched for. Entry s stands at byte 32 s:

    u8  state          0xF0 free, 0xA1 used
    u8  slots          slots of this fragment: it takes s, s+1, ...; the entries of the others stay free
    u8  part           which of the extent's fragments it is
    u8  redundancy, u8 data, u8 extra      the extent's scheme
    u16 pages          data pages of the whole extent
    u64 volume, u64 number                 the extent's id
    u32 slot           s itself: an entry that strayed is no entry
    u32 crc32c         of the bytes before it, begun with the checksum of the disk's id

A free entry is the state and zeros, so on one disk all free entries are alike and a page of them is compared at once.

*Who may write.* The process that holds the disk's lock, one entry at a time. A used entry is written when its fragment's bytes
are durable, and `write` returns when the entry is too; a free entry is durable before its slot can be taken again. So at every
instant a used entry names a whole fragment, and two never overlap.

*What a torn write looks like.* An entry lies within one sector and is old or new. If its checksum is wrong, it rotted. Zeros, too, are
no entry: they are neither free nor used. The fragment's header then tells what lies there (see `LocalDisk`). Taking up again a
fragment that was being deleted is harmless: nobody names it, and it is collected as an orphan.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from crc32c import crc32c

from sofs.pool.extent import ExtentId
from sofs.pool.scheme import Scheme, scheme_from_code
from sofs.types import DiskId, VolumeId

_ENTRY = struct.Struct("<BBBBBBHQQI")
_CRC = struct.Struct("<I")
ENTRY_SIZE = 32
assert _ENTRY.size + _CRC.size == ENTRY_SIZE
_VOLUME_AT = 8
_FREE, _USED = 0xF0, 0xA1
_FREE_HEAD = bytes([_FREE]).ljust(_ENTRY.size, b"\0")
_PAGE_ENTRIES = 128


class Entry(NamedTuple):
    """A fragment, as the table knows it."""

    id: ExtentId
    scheme: Scheme
    part: int
    pages: int
    """Data pages of the whole extent."""
    slots: int


def seed_of(disk: DiskId) -> int:
    """What the checksums of everything on this disk begin with."""
    return int(crc32c(disk.to_bytes(8, "little")))


def free_entry(seed: int) -> bytes:
    return _FREE_HEAD + _CRC.pack(crc32c(_FREE_HEAD, seed))


def encode_entry(slot: int, entry: Entry, seed: int) -> bytes:
    scheme, (volume, number) = entry.scheme, entry.id
    head = _ENTRY.pack(_USED, entry.slots, entry.part, *scheme, entry.pages, volume, number, slot)
    return head + _CRC.pack(crc32c(head, seed))


def decode_entry(data: bytes, slot: int, seed: int) -> Entry | str | None:
    """A used entry; `None` for a free one; in words what is wrong with any other."""
    if len(data) != ENTRY_SIZE:
        return "cut short"
    head = data[: _ENTRY.size]
    if crc32c(head, seed) != _CRC.unpack_from(data, _ENTRY.size)[0]:
        return "wrong checksum"
    state, slots, part, redundancy, fragments, extra, pages, volume, number, own = _ENTRY.unpack(head)
    if head == _FREE_HEAD:
        return None
    scheme = scheme_from_code(redundancy, fragments, extra)
    if state != _USED or scheme is None or own != slot or not (slots and pages and part < scheme.width):
        return "impossible contents"
    return Entry(ExtentId(VolumeId(volume), number), scheme, part, pages, slots)


class SlotTable:
    """The table's image in memory, the same as the file's page cache at every instant."""

    def __init__(self, disk: DiskId, image: bytearray) -> None:
        assert len(image) % ENTRY_SIZE == 0
        self._seed = seed_of(disk)
        self._image = image
        self._free = free_entry(self._seed)
        self._free_page = self._free * _PAGE_ENTRIES

    @staticmethod
    def blank(disk: DiskId, slots: int) -> bytes:
        """The table of an empty disk."""
        return free_entry(seed_of(disk)) * slots

    @property
    def image(self) -> bytes:
        """The whole table as it is now."""
        return bytes(self._image)

    @property
    def slots(self) -> int:
        return len(self._image) // ENTRY_SIZE

    def get(self, slot: int) -> Entry | str | None:
        """As `decode_entry`; slots that do not exist are free."""
        at = slot * ENTRY_SIZE
        if not 0 <= at < len(self._image):
            return None
        return decode_entry(bytes(self._image[at : at + ENTRY_SIZE]), slot, self._seed)

    def put(self, slot: int, entry: Entry | None) -> tuple[int, bytes]:
        """Changes the image; the caller writes the returned bytes to the file at the returned offset, in the same tick."""
        data = self._free if entry is None else encode_entry(slot, entry, self._seed)
        at = slot * ENTRY_SIZE
        self._image[at : at + ENTRY_SIZE] = data
        return at, data

    def scan(self, start: int, stop: int) -> Iterator[tuple[int, Entry | str]]:
        """The entries from `start` up to `stop` that are not free; `start` must begin a page of entries."""
        for first in range(start, min(stop, self.slots), _PAGE_ENTRIES):
            page = bytes(self._image[first * ENTRY_SIZE : (first + _PAGE_ENTRIES) * ENTRY_SIZE])
            if page == self._free_page:
                continue
            for slot in range(first, min(first + _PAGE_ENTRIES, stop, self.slots)):
                at = (slot - first) * ENTRY_SIZE
                data = page[at : at + ENTRY_SIZE]
                if data != self._free:
                    entry = decode_entry(data, slot, self._seed)
                    assert entry is not None, "two different free entries"
                    yield slot, entry

    def of_volume(self, volume: VolumeId, start: int, stop: int) -> Iterator[tuple[int, Entry]]:
        """The used entries from `start` up to `stop` that are a volume's. Costs next to nothing where it has none: every volume asks at its start."""
        wanted = volume.to_bytes(8, "little")
        image, end = self._image, stop * ENTRY_SIZE
        at = image.find(wanted, start * ENTRY_SIZE, end)
        while at >= 0:
            if at % ENTRY_SIZE == _VOLUME_AT:
                slot = at // ENTRY_SIZE
                entry = self.get(slot)
                if isinstance(entry, Entry):
                    yield slot, entry
            at = image.find(wanted, at + 1, end)
