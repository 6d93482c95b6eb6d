"""A disk of this process: where fragments are written, mended and freed (`fragments` finds and reads them).

The slot table is the judge here, too: each method that comes back from waiting asks it again before it writes a byte, since the slot may be
another extent's by then.
"""

import asyncio
from collections.abc import Iterable

from sofs.errors import DiskFailed, DiskRefused, Fenced, InvalidArgument, NoSpace, NotFound, SofsError
from sofs.pool.disk import Part
from sofs.pool.extent import MIB, ExtentId, Usage, slots_for
from sofs.pool.fragment import SLOT_SIZE, Sums, encode_meta, fits
from sofs.pool.fragments import Fragments
from sofs.pool.label import Label, decode_label
from sofs.pool.layout import Layout
from sofs.pool.revocations import Revocations
from sofs.pool.slots import SlotAllocator
from sofs.pool.sync import GroupSync
from sofs.pool.table import ENTRY_SIZE, Entry, SlotTable, seed_of
from sofs.runtime.ports import Buffer, File
from sofs.types import PAGE, VolumeId

_SCAN = 512  # entries looked at in one go: about a millisecond if all of them are wanted
_BARREN = 64  # times as many of which none is wanted


class LocalDisk(Fragments):
    """A disk of this process; made by `sofs.pool.opening.open_disk`."""

    def __init__(
        self, layout: Layout, label: Label, lock: File, table: SlotTable, table_file: File, slots: SlotAllocator,
        revoked: Revocations,
    ) -> None:  # fmt: skip
        super().__init__(layout, label, table)
        self._lock = lock
        self._table_file = table_file
        self._table_sync = GroupSync(table_file)
        self._slots = slots
        self.revoked = revoked
        self._revision = 0
        self._saved = 0
        """Of what `revoked` was, how much of it is durable."""
        self._saving: asyncio.Task[None] | None = None
        self._seed = seed_of(label.id)
        self._broken: DiskFailed | None = None
        self._writing = 0
        self._idle: asyncio.Future[None] | None = None
        # What may hold bytes of freed fragments; at start nobody knows, so all free slots of the arenas that exist.
        self._unpunched = list(slots.free_runs(layout.arenas()))
        space = layout.space()
        # Logs and metadata share the file system: extents never take its last 2 percent (1 GiB at most).
        self._floor = min(1 << 30, space.total // 50)

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
        await self.revoke_all([(volume, ids.start, ids.stop)])

    async def revoke_all(self, ranges: Iterable[tuple[VolumeId, int, int]]) -> None:
        """Several at once."""
        self._check_usable()
        for volume, start, stop in ranges:
            if self.revoked.add(volume, range(start, stop)):
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
