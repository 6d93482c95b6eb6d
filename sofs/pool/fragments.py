"""The fragments of a disk of this process, found and read.

The slot table is the judge in all of it: a fragment exists if the table's entry names it, and each method that comes back from
waiting asks the table again before it believes a byte, since the slot may be another extent's by then. Checksums of what has been read
lately are kept in memory.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import NamedTuple

from crc32c import crc32c

from sofs.cluster import Priority
from sofs.errors import Damaged, ExtentGone, InvalidArgument, SofsError
from sofs.pool.disk import BadPages
from sofs.pool.extent import MIB, ExtentId
from sofs.pool.fragment import BLOCK, META_PER_SLOT, SLOT_SIZE, Header, Sums, decode_meta, decode_names, meta_length
from sofs.pool.label import Label
from sofs.pool.layout import Layout
from sofs.pool.table import Entry, SlotTable
from sofs.runtime.ports import File
from sofs.types import PAGE

_CACHED = 2048
"""Fragments whose checksums are kept in memory, at least; twice as many at most (each up to 9 KiB)."""


class Place:
    """A fragment that has been read lately: where its data lies and, once needed, its checksums."""

    __slots__ = ("at", "entry", "file", "id", "length", "sums")

    def __init__(self, entry: Entry, file: File, at: int) -> None:
        self.id = entry.id
        self.entry = entry
        self.file = file
        self.at = at
        self.length = entry.scheme.fragment_length(entry.pages * PAGE)
        self.sums: Sums | None = None


class Fetched(NamedTuple):
    """What was read of a fragment, not verified yet."""

    size: int
    """Bytes; fewer than were asked for are all there are."""
    sums: Sums | None
    """The fragment's own checksums of the pages asked for; `None` if its header is damaged."""


class Fragments:
    """What a disk holds, for reading: the half of `sofs.pool.local_disk.LocalDisk` that changes nothing."""

    def __init__(self, layout: Layout, label: Label, table: SlotTable) -> None:
        self.label = label
        self.id = label.id
        self.path = layout.path
        self._layout = layout
        self._table = table
        self._arenas: dict[int, tuple[File, int]] = {}
        self._recent: dict[int, Place] = {}
        self._older: dict[int, Place] = {}

    def read(
        self, slot: int, id: ExtentId, offset: int, into: memoryview, sums: Sequence[int] | None = None,
        priority: Priority = Priority.FOREGROUND,
    ) -> Awaitable[None] | None:  # fmt: skip
        place = self._recent.get(slot)
        if place is None or place.id != id:
            place = self._find_place(slot, id)
        if place.sums is None and (sums is None or len(into) >= BLOCK):
            try:
                loading = self._load(place, slot)
            except Damaged:
                if sums is None:
                    raise
                loading = None
            if loading is not None:
                return self._read_after(loading, place, slot, offset, into, sums)
        assert offset >= 0 and offset + len(into) <= place.length, "a read beyond the extent"
        count = place.file.read(place.at + offset, (into,))
        if isinstance(count, int):
            self._verify(place, slot, offset, into, count, sums)
            return None
        return self._read_rest(count, place, slot, offset, into, sums)

    async def _read_after(self, loading: Awaitable[None], place: Place, slot: int, offset: int, into: memoryview, sums: Sequence[int] | None) -> None:
        # The place in hand is used even if it has been forgotten meanwhile: an extent's checksums never change.
        try:
            await loading
        except Damaged:
            if sums is None:
                raise
        assert offset >= 0 and offset + len(into) <= place.length, "a read beyond the extent"
        count = place.file.read(place.at + offset, (into,))
        if isinstance(count, int):
            self._verify(place, slot, offset, into, count, sums)
        else:
            await self._read_rest(count, place, slot, offset, into, sums)

    async def read_stored(self, slot: int, id: ExtentId, offset: int, into: memoryview) -> None:
        """As `read`, but from the disk itself. What is bad there is dropped from the page cache, so that `read` meets it, too."""
        place = self._find_place(slot, id)
        if place.sums is None:
            loading = self._load(place, slot)
            if loading is not None:
                await loading
        assert offset >= 0 and offset + len(into) <= place.length, "a read beyond the extent"
        count = await place.file.read_stored(place.at + offset, into)
        self._entry(slot, place.id)
        try:
            self._verify(place, slot, offset, into, count, None)
        except BadPages:
            place.file.forget(place.at + offset, len(into))
            raise

    def fetch(self, slot: int, id: ExtentId, offset: int, into: memoryview, headless: bool) -> Fetched | Awaitable[Fetched]:
        """Reads without verifying, for a reader elsewhere who will, with the checksums that it takes.

        `headless`: the reader has checksums, and can do without ours. Raises `ExtentGone`, `Damaged` (the header), `DiskFailed`,
        `InvalidArgument` (beyond the fragment's end).
        """
        place = self._find_place(slot, id)
        if offset + len(into) > place.length:
            raise InvalidArgument(f"{self._where(slot, id)}: it has {place.length} bytes, {offset + len(into)} were asked for")
        if place.sums is None and not (headless and len(into) < BLOCK):
            try:
                loading = self._load(place, slot)
            except Damaged:
                if not headless:
                    raise
                loading = None
            if loading is not None:
                return self._fetch_after(loading, place, slot, offset, into, headless)
        count = place.file.read(place.at + offset, (into,))
        if isinstance(count, int):
            return self._fetched(place, offset, into, count)
        return self._fetch_rest(count, place, slot, offset, into)

    async def _fetch_after(self, loading: Awaitable[None], place: Place, slot: int, offset: int, into: memoryview, headless: bool) -> Fetched:
        try:
            await loading
        except Damaged:
            if not headless:
                raise
        count = place.file.read(place.at + offset, (into,))
        if isinstance(count, int):
            return self._fetched(place, offset, into, count)
        return await self._fetch_rest(count, place, slot, offset, into)

    async def _fetch_rest(self, reading: Awaitable[int], place: Place, slot: int, offset: int, into: memoryview) -> Fetched:
        count = await reading
        self._entry(slot, place.id)
        return self._fetched(place, offset, into, count)

    def _fetched(self, place: Place, offset: int, into: memoryview, count: int) -> Fetched:
        sums = place.sums
        return Fetched(count, None if sums is None else sums.part(offset // PAGE, len(into) // PAGE))

    async def check(self, slot: int, id: ExtentId, length: int) -> list[str]:
        try:
            header, _, _ = await self.describe(slot, id)
        except SofsError as error:
            return [str(error)]
        if header.own_pages * PAGE != length:
            return [f"disk {self.path} slot {slot}, extent {id.number}: {header.own_pages * PAGE} bytes, not {length}"]
        problems = []
        buffer = memoryview(bytearray(MIB))
        for offset in range(0, length, MIB):
            view = buffer[: min(MIB, length - offset)]
            try:
                await self.read_stored(slot, id, offset, view)
            except BadPages as error:
                problems.append(f"{error} ({len(error.pages)} pages in this MiB)")
            except SofsError as error:
                problems.append(str(error))
            await asyncio.sleep(0)
        return problems

    async def _read_rest(self, reading: Awaitable[int], place: Place, slot: int, offset: int, into: memoryview, sums: Sequence[int] | None) -> None:
        count = await reading
        self._entry(slot, place.id)
        self._verify(place, slot, offset, into, count, sums)

    def _verify(self, place: Place, slot: int, offset: int, into: memoryview, count: int, sums: Sequence[int] | None) -> None:
        first = offset // PAGE
        own = place.sums
        if count != len(into):
            bad = list(range(first + count // PAGE, first + len(into) // PAGE))
        elif sums is None:
            assert own is not None
            if count == PAGE and crc32c(into) == own.pages[first]:
                return
            bad = own.bad_pages(first, into)
        elif count == PAGE and crc32c(into) == sums[0]:
            return
        elif own is not None and own.pages[first : first + count // PAGE].tolist() == list(sums):
            # The checksums of blocks stand for those of their pages, and take half the time.
            bad = own.bad_pages(first, into)
        else:
            bad = [first + at for at, sum in enumerate(sums) if crc32c(into[at * PAGE : (at + 1) * PAGE]) != sum]
        if bad:
            raise BadPages(f"{self._where(slot, place.id)}: page {bad[0]} does not match its checksum", bad)

    def _find_place(self, slot: int, id: ExtentId) -> Place:
        """The place of a fragment that the table names, remembered. Raises `ExtentGone`."""
        place = self._recent.get(slot) or self._older.get(slot)
        if place is None or place.id != id:
            entry = self._entry(slot, id)
            file, base = self._arena(slot // self.label.arena_slots)
            at = base + slot % self.label.arena_slots * SLOT_SIZE + entry.slots * META_PER_SLOT
            place = Place(entry, file, at)
        if len(self._recent) >= _CACHED:
            self._older, self._recent = self._recent, {}
        self._recent[slot] = place
        return place

    def _load(self, place: Place, slot: int) -> Awaitable[None] | None:
        """Fetches a fragment's checksums into its place; at once if the page cache has them."""
        length = place.length // PAGE
        meta = memoryview(bytearray(-(-meta_length(length) // PAGE) * PAGE))
        count = place.file.read(place.at - place.entry.slots * META_PER_SLOT, (meta,))
        if isinstance(count, int):
            place.sums = self._accept(meta[:count], place.entry, slot)[1]
            return None
        return self._load_rest(count, place, meta, slot)

    async def _load_rest(self, reading: Awaitable[int], place: Place, meta: memoryview, slot: int) -> None:
        count = await reading
        self._entry(slot, place.id)
        place.sums = self._accept(meta[:count], place.entry, slot)[1]

    def _accept(self, meta: memoryview, entry: Entry, slot: int) -> tuple[Header, Sums]:
        """Decodes a header and compares it with the table. Raises `Damaged`."""
        try:
            header, sums = decode_meta(meta)
        except Damaged as error:
            raise Damaged(f"{self._where(slot, entry.id)}: {error}") from None
        if header != self._header(entry, slot):
            raise Damaged(f"{self._where(slot, entry.id)}: its header is that of another fragment ({header.id})")
        return header, sums

    async def describe(self, slot: int, id: ExtentId) -> tuple[Header, Sums, bytes]:
        place = self._find_place(slot, id)
        size = place.entry.slots * META_PER_SLOT
        meta = memoryview(bytearray(size))
        reading = place.file.read(place.at - size, (meta,))
        count = reading if isinstance(reading, int) else await reading
        self._entry(slot, id)
        header, sums = self._accept(meta[:count], place.entry, slot)
        place.sums = sums
        try:
            return header, sums, decode_names(meta, header.own_pages)
        except Damaged as error:
            raise Damaged(f"{self._where(slot, id)}: {error}") from None

    def _arena(self, number: int) -> tuple[File, int]:
        arena = self._arenas.get(number)
        if arena is None:
            arena = self._arenas[number] = self._layout.arena(number, self.label.arena_slots)
        return arena

    def _entry(self, slot: int, id: ExtentId) -> Entry:
        entry = self._table.get(slot)
        if not isinstance(entry, Entry) or entry.id != id:
            raise ExtentGone(f"{self._where(slot, id)}: it is not there any more")
        return entry

    def _header(self, entry: Entry, slot: int) -> Header:
        own_pages = entry.scheme.fragment_length(entry.pages * PAGE) // PAGE
        return Header(self.label.id, slot, entry.slots, entry.id, entry.part, entry.scheme, entry.pages, own_pages)

    def _where(self, slot: int, id: ExtentId) -> str:
        return f"disk {self.path} slot {slot}, extent {id.number} of volume {id.volume:x}"
