"""A disk of this process: where fragments are written, read, mended and freed.

The slot table is the judge in all of it: a fragment exists if the table's entry names it, and each method that comes back from
waiting asks the table again before it believes or writes a byte, since the slot may be another extent's by then.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import NamedTuple

from crc32c import crc32c

from sofs.cluster import Priority
from sofs.errors import (
    Damaged,
    DiskFailed,
    DiskRefused,
    ExtentGone,
    Fenced,
    InvalidArgument,
    NoSpace,
    NotFound,
    SofsError,
)
from sofs.pool.disk import BadPages, Part
from sofs.pool.extent import MIB, ExtentId, Usage, slots_for
from sofs.pool.fragment import (
    BLOCK,
    META_PER_SLOT,
    SLOT_SIZE,
    Header,
    Sums,
    decode_meta,
    decode_names,
    encode_meta,
    fits,
    meta_length,
)
from sofs.pool.label import Label, decode_label
from sofs.pool.layout import Layout
from sofs.pool.revocations import Revocations
from sofs.pool.slots import SlotAllocator
from sofs.pool.sync import GroupSync
from sofs.pool.table import ENTRY_SIZE, Entry, SlotTable, seed_of
from sofs.runtime.ports import Buffer, File
from sofs.types import PAGE, VolumeId

__all__ = ["LocalDisk"]

_CACHED = 2048
"""Fragments whose checksums are kept in memory, at least; twice as many at most (each up to 9 KiB)."""
_SCAN = 512  # entries looked at in one go: about a millisecond if all of them are wanted
_BARREN = 64  # times as many of which none is wanted


class _Place:
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


class LocalDisk:
    """A disk of this process; made by `sofs.pool.opening.open_disk`."""

    def __init__(
        self, layout: Layout, label: Label, lock: File, table: SlotTable, table_file: File, slots: SlotAllocator,
        revoked: Revocations,
    ) -> None:  # fmt: skip
        self.label = label
        self.id = label.id
        self.path = layout.path
        self._layout = layout
        self._lock = lock
        self._table = table
        self._table_file = table_file
        self._table_sync = GroupSync(table_file)
        self._slots = slots
        self.revoked = revoked
        self._revision = 0
        self._saved = 0
        """Of what `revoked` was, how much of it is durable."""
        self._saving: asyncio.Task[None] | None = None
        self._seed = seed_of(label.id)
        self._arenas: dict[int, tuple[File, int]] = {}
        self._recent: dict[int, _Place] = {}
        self._older: dict[int, _Place] = {}
        self._broken: DiskFailed | None = None
        self._writing = 0
        self._idle: asyncio.Future[None] | None = None
        # What may hold bytes of freed fragments; at start nobody knows, so all free slots of the arenas that exist.
        self._unpunched = list(slots.free_runs(layout.arenas()))
        space = layout.space()
        # Logs and metadata share the file system: extents never take its last 2 percent (1 GiB at most).
        self._floor = min(1 << 30, space.total // 50)

    # Reading

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

    async def _read_after(
        self, loading: Awaitable[None], place: _Place, slot: int, offset: int, into: memoryview, sums: Sequence[int] | None
    ) -> None:
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

    async def _fetch_after(
        self, loading: Awaitable[None], place: _Place, slot: int, offset: int, into: memoryview, headless: bool
    ) -> Fetched:
        try:
            await loading
        except Damaged:
            if not headless:
                raise
        count = place.file.read(place.at + offset, (into,))
        if isinstance(count, int):
            return self._fetched(place, offset, into, count)
        return await self._fetch_rest(count, place, slot, offset, into)

    async def _fetch_rest(self, reading: Awaitable[int], place: _Place, slot: int, offset: int, into: memoryview) -> Fetched:
        count = await reading
        self._entry(slot, place.id)
        return self._fetched(place, offset, into, count)

    def _fetched(self, place: _Place, offset: int, into: memoryview, count: int) -> Fetched:
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

    async def _read_rest(
        self, reading: Awaitable[int], place: _Place, slot: int, offset: int, into: memoryview, sums: Sequence[int] | None
    ) -> None:
        count = await reading
        self._entry(slot, place.id)
        self._verify(place, slot, offset, into, count, sums)

    def _verify(
        self, place: _Place, slot: int, offset: int, into: memoryview, count: int, sums: Sequence[int] | None
    ) -> None:
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

    def _find_place(self, slot: int, id: ExtentId) -> _Place:
        """The place of a fragment that the table names, remembered. Raises `ExtentGone`."""
        place = self._recent.get(slot) or self._older.get(slot)
        if place is None or place.id != id:
            entry = self._entry(slot, id)
            file, base = self._arena(slot // self.label.arena_slots)
            at = base + slot % self.label.arena_slots * SLOT_SIZE + entry.slots * META_PER_SLOT
            place = _Place(entry, file, at)
        if len(self._recent) >= _CACHED:
            self._older, self._recent = self._recent, {}
        self._recent[slot] = place
        return place

    def _load(self, place: _Place, slot: int) -> Awaitable[None] | None:
        """Fetches a fragment's checksums into its place; at once if the page cache has them."""
        length = place.length // PAGE
        meta = memoryview(bytearray(-(-meta_length(length) // PAGE) * PAGE))
        count = place.file.read(place.at - place.entry.slots * META_PER_SLOT, (meta,))
        if isinstance(count, int):
            place.sums = self._accept(meta[:count], place.entry, slot)[1]
            return None
        return self._load_rest(count, place, meta, slot)

    async def _load_rest(self, reading: Awaitable[int], place: _Place, meta: memoryview, slot: int) -> None:
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

    # Writing

    async def write(self, part: Part) -> int:
        self._writing += 1
        try:
            return await self._write(part)
        finally:
            self._writing -= 1
            if self._idle is not None and not self._writing:
                self._idle.set_result(None)

    async def _write(self, part: Part) -> int:
        self._refuse(part.id)
        own_pages = len(part.sums.pages)
        entry = Entry(part.id, part.scheme, part.part, part.pages, slots_for(own_pages * PAGE))
        slot = self._slots.take(entry.slots)
        if slot is None:
            raise NoSpace(f"disk {self.path} has no {entry.slots} MiB in a row left; add a disk or delete data")
        try:
            file, base = self._arena(slot // self.label.arena_slots)
            meta = encode_meta(self._header(entry, slot), part.sums, part.names)
            await file.write_out(base + slot % self.label.arena_slots * SLOT_SIZE, [meta, *part.data])
            # Asked again: the id may have been revoked while the data was on its way, and whoever revoked it looks
            # for orphans in the table next.
            self._refuse(part.id)
        except SofsError as error:
            self._release(slot, entry.slots)
            if isinstance(error, DiskFailed):
                raise self._break(error) from error
            raise
        self._put(slot, entry)
        await self._settle()
        # Once more: the system tells a failed sync to one of those who wait for it only, and it may have been another
        # write of this disk, whose thread had not come back yet.
        self._check_usable()
        return slot

    async def delete(self, slot: int, id: ExtentId) -> None:
        entry = self._table.get(slot)
        if isinstance(entry, Entry) and entry.id == id:
            self._put(slot, None)
            self._recent.pop(slot, None)
            self._older.pop(slot, None)
            await self._settle()
            # Not before: were the slot taken again and the old entry still on the disk, a crash would bring back an
            # extent whose bytes are another's.
            self._release(slot, entry.slots)
        elif self._table_sync.pending:
            # Somebody else is deleting it; this promise is as firm as theirs.
            await self._settle()

    async def mend(self, slot: int, id: ExtentId, first: int, data: Buffer) -> None:
        place = self._find_place(slot, id)
        self._check_usable()
        if first * PAGE + len(data) > place.length:
            raise InvalidArgument(f"{self._where(slot, id)}: it has {place.length} bytes, none at {first * PAGE + len(data)}")
        if place.sums is None and (loading := self._load(place, slot)) is not None:
            # It looks again whether the fragment is still there, and nothing waits from there to the write.
            await loading
            self._check_usable()
        assert place.sums is not None
        if place.sums.part(first, len(data) // PAGE).bad_pages(0, memoryview(data)):
            raise InvalidArgument(f"{self._where(slot, id)}: what was to be mended with does not match its checksums")
        await self._overwrite(place.file, place.at + first * PAGE, data)

    async def mend_header(self, slot: int, id: ExtentId, sums: Sums, names: bytes) -> None:
        place = self._find_place(slot, id)
        self._check_usable()
        header = self._header(place.entry, slot)
        if not fits(header, sums, names):
            raise InvalidArgument(f"{self._where(slot, id)}: what was to be its header is that of another fragment")
        meta = encode_meta(header, sums, names)
        place.sums = sums
        await self._overwrite(place.file, place.at - len(meta), meta)

    async def _overwrite(self, file: File, offset: int, data: Buffer) -> None:
        try:
            file.write(offset, [data])
            await file.sync()
        except DiskFailed as error:
            raise self._break(error) from error

    async def revoke(self, volume: VolumeId, ids: range) -> None:
        self._check_usable()
        if self.revoked.add(volume, ids):
            self._revision += 1
        wanted = self._revision
        # When a node dies many volumes come at once: those who come while the list is being stored share the next time.
        while self._saved < wanted:
            if self._saving is None:
                self._saving = asyncio.create_task(self._save())
            await asyncio.shield(self._saving)

    async def _save(self) -> None:
        try:
            revision = self._revision
            await self._layout.prepare_revoked(self.revoked.encode(self._seed))
            # It may have been stored in one go meanwhile, with more in it.
            if self._saved < revision:
                self._layout.place_revoked()
                self._saved = revision
        finally:
            self._saving = None

    def save_revoked(self) -> None:
        """Stores the revoked ids, durably, while the loop waits. Raises `NoSpace`, `DiskFailed`."""
        self._revision += 1
        self._layout.write_revoked(self.revoked.encode(self._seed))
        self._saved = self._revision

    def _refuse(self, id: ExtentId) -> None:
        self._check_usable()
        if self.revoked.covers(id.volume, id.number):
            raise Fenced(f"extent {id.number} of volume {id.volume:x} was revoked before it was written")

    def _put(self, slot: int, entry: Entry | None) -> None:
        """Changes the table, in memory and in the page cache."""
        self._check_usable()
        at, data = self._table.put(slot, entry)
        try:
            self._table_file.write(at, [data])
        except SofsError as error:
            raise self._break(error) from error

    async def _settle(self) -> None:
        """Waits until the table is durable."""
        try:
            await self._table_sync.durable()
        except SofsError as error:
            raise self._break(error) from error

    def _break(self, error: SofsError) -> DiskFailed:
        """From now on nobody knows what of the last writes is on the disk, until it is opened anew."""
        if self._broken is None:
            self._broken = DiskFailed(f"disk {self.path} cannot be written ({error}); open it again or replace it")
        return self._broken

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _release(self, slot: int, count: int) -> None:
        self._slots.give_back(slot, count)
        self._unpunched.append((slot, count))

    # Space and contents

    def usage(self) -> Usage:
        slots, spoilt = self._table.slots, self._slots.spoilt_count
        room = max(0, self._layout.space().free - self._floor) // SLOT_SIZE
        return Usage((slots - spoilt) * MIB, min(self._slots.free_count, room) * MIB)

    @property
    def empty(self) -> bool:
        """Whether no fragment lies here."""
        return self._slots.free_count + self._slots.spoilt_count == self._table.slots

    def give_back(self, limit: int) -> bool:
        """Punches up to `limit` runs of slots that are still free; says whether there may be more."""
        if self._broken is not None:
            return False
        for _ in range(min(limit, len(self._unpunched))):
            slot, count = self._unpunched.pop()
            arena = slot // self.label.arena_slots
            for start, length in self._slots.free_within(slot, count):
                file, base = self._arena(arena)
                file.punch(base + start % self.label.arena_slots * SLOT_SIZE, length * SLOT_SIZE)
        return bool(self._unpunched)

    async def find(self, volume: VolumeId, ids: range) -> list[tuple[int, Entry]]:
        return (await self.find_some(volume, ids, 0, self._table.slots))[0]

    async def find_some(self, volume: VolumeId, ids: range, start: int, limit: int) -> tuple[list[tuple[int, Entry]], int]:
        """Those from slot `start` (a multiple of 512) on, not many more than `limit`, and the slot to go on from; 0 at the end."""
        found: list[tuple[int, Entry]] = []
        for first in range(start, self._table.slots, _SCAN):
            if len(found) >= limit:
                return found, first
            there = list(self._table.of_volume(volume, first, first + _SCAN))
            found += [each for each in there if each[1].id.number in ids]
            if there or first // _SCAN % _BARREN == 0:
                await asyncio.sleep(0)
        return found, 0

    def entries(self, start: int, stop: int) -> list[tuple[int, Entry]]:
        """The fragments whose first slot is from `start` (a multiple of 128) up to `stop`."""
        return [(slot, entry) for slot, entry in self._table.scan(start, stop) if isinstance(entry, Entry)]

    @property
    def slots(self) -> int:
        return self._table.slots

    async def probe(self) -> None:
        self._check_usable()
        self._table_file.read_now(0, [memoryview(bytearray(ENTRY_SIZE))])
        entry = self._table.get(0)
        if not isinstance(entry, str):
            self._put(0, entry)
        await self._settle()
        self.look()

    def look(self) -> None:
        """Whether the disk is still there; moves no disk out of its sleep. Raises `NotFound`, `DiskRefused`, `DiskFailed`."""
        text = self._layout.read_label()
        if text is None:
            raise NotFound(f"{self.path}: the label is gone")
        if decode_label(text, f"{self.path}/label") != self.label:
            raise DiskRefused(f"{self.path}: its label has become another disk's; mount the right disk there")

    async def close(self) -> None:
        """Refuses what changes the disk, waits for what is under way, then lets go of it.

        Whoever opens the disk next may take the slots that writes under way were given.
        """
        if self._broken is None:
            self._broken = DiskFailed(f"disk {self.path} has been closed")
        if self._writing:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        if self._saving is not None:
            await asyncio.wait([self._saving])
        await self._table_sync.close()
        self.release()

    def release(self) -> None:
        """Lets go of a disk on which nothing is under way."""
        for file, _ in self._arenas.values():
            file.close()
        self._table_file.close()
        self._lock.close()

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
