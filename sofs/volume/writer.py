"""Writing a file's data.

Data goes into the log as the batch's payload, gathered from the caller's buffer without a copy, each page under its own CRC32C. A write that begins or
ends within a page is completed to whole pages: from the page's old content, or with zeros behind the file's end, where a page is
always zero. A large write puts what it has of whole MiB into extents first, since the pool gives space by the MiB; then only the names
of those pages are logged, beside what is left at both ends.
"""

import struct
from collections.abc import Awaitable
from typing import NamedTuple

from crc32c import crc32c

from sofs.errors import FileTooLarge, NoSpace
from sofs.pool import Placement
from sofs.runtime.ports import Buffer
from sofs.types import PAGE, Inode, Lsn, Time
from sofs.volume import mapping
from sofs.volume.batch import Batch, Operation
from sofs.volume.extents import EXTENT_LIMIT, Extents
from sofs.volume.inode import CLONED
from sofs.volume.keys import EXTENT_BORN, EXTENT_SHIFT, PLACES
from sofs.volume.maps import map_of
from sofs.volume.pages import ZEROS, Done, Known, Pages, attempted, page_sums
from sofs.volume.settings import MIB, DataSettings
from sofs.volume.space import Space
from sofs.volume.windows import Place, encode_places, pieces

APPEND = -1
"""The offset that means the file's end."""

LARGEST = (1 << 63) - (1 << 18)
"""The largest size of a file."""

_PAGE_MASK = PAGE - 1


class _Extent(NamedTuple):
    """Whole pages of a write that lie in an extent already."""

    placement: Placement
    first: int
    """Page of the file."""
    sums: bytes


class _Moved(Exception):
    """The end at which something was to be appended is somewhere else by now."""


class Writer:
    """Writes to one volume's files."""

    def __init__(self, pages: Pages, extents: Extents, space: Space, settings: DataSettings) -> None:
        self._pages = pages
        self._commit = pages.keyspace.commit
        self._extents = extents
        self._space = space
        self._settings = settings
        largest = pages.keyspace.log.largest
        self._threshold = settings.direct_threshold
        self._direct_fill = settings.direct_fill
        # A record takes this much payload beside its checksums and what a caller adds to the batch.
        self._record_limit = largest - largest // 512 - (32 << 10)
        self._unit = min(MIB, settings.direct_threshold, self._record_limit - 2 * PAGE) // PAGE * PAGE

    def write(self, inode: Inode, offset: int, data: memoryview, now: Time, batch: Batch | None = None, flags: int = 0) -> Done | Awaitable[Done]:
        """Writes `data` at `offset` (or `APPEND`) in one batch, to which the caller may have added operations.

        `data` must not change until the batch is committed. Raises `Stale`, `FileTooLarge`, `NoSpace`, `Damaged`.
        """
        length = len(data)
        if batch is None:
            batch = Batch()
        if length > self._record_limit or (length >= self._threshold and self._pages.fill >= self._direct_fill):
            return self._write_direct(inode, offset, data, now, batch, flags)
        record = self._pages.inode(inode)
        size = int.from_bytes(record[20:28], "little")
        at = size if offset == APPEND else offset
        if not (at | length) & _PAGE_MASK and length and not self._pages.full(length):
            try:
                self._space.admit(length >> 12)
            except NoSpace:
                pass  # perhaps only until dead space has been given back
            else:
                return self._write_aligned(inode, at, data, now, batch, flags, size, record)
        known: Known = {}
        return attempted(lambda: self._attempt(inode, offset, data, now, batch, flags, known))

    def _write_aligned(self, inode: Inode, offset: int, data: memoryview, now: Time, batch: Batch, flags: int, size: int, record: bytes) -> Done:
        """Writes whole pages that have been admitted."""
        length = len(data)
        end = offset + length
        if end > LARGEST:
            raise FileTooLarge(f"a file ends at {LARGEST} bytes at the latest")
        map_ = map_of(b"", record) if record[1] & CLONED else b""
        if self._pages.quotas.limits:
            self._pages.allow(inode, offset, end)
        if length == PAGE:
            sums = crc32c(data).to_bytes(4, "little")
        else:
            sums = _packed(page_sums(data))
        batch.raw(Operation.WRITE, mapping.write(inode, offset >> 12, sums, 0, end if end > size else size, now, flags, map_))
        return Done(self._commit(batch, (data,), False, sums), length)

    def _attempt(self, inode: Inode, offset: int, data: memoryview, now: Time, batch: Batch, flags: int, known: Known) -> Done | Awaitable[object]:
        """A write through the log, of any alignment."""
        pages = self._pages
        size = pages.size(inode)
        if offset == APPEND:
            offset = size
        end = offset + len(data)
        if end > LARGEST:
            raise FileTooLarge(f"a file ends at {LARGEST} bytes at the latest")
        if not data:
            return pages.commit(batch) if batch.count else Done(Lsn(0))
        if pages.full(len(data) + 2 * PAGE):
            return pages.room(len(data) + 2 * PAGE)
        edges = self._edges(inode, offset, end, size, known)
        if not isinstance(edges, tuple):
            return edges
        before, behind = edges
        pages.allow(inode, offset, end)
        sums = _packed(_sums_of_gather(before, data, behind))
        try:
            self._space.admit(len(sums) // 4)
        except NoSpace as error:
            return pages.reclaim(error)
        batch.raw(Operation.WRITE, mapping.write(inode, offset // PAGE, sums, 0, max(end, size), now, flags, pages.map(inode)))
        return pages.commit(batch, [part for part in (before, data, behind) if part], len(data), sums=sums)

    def _edges(self, inode: Inode, offset: int, end: int, size: int, known: Known) -> tuple[memoryview, memoryview] | Awaitable[None]:
        """What completes a write to whole pages, before and behind it."""
        before = behind = ZEROS[:0]
        first, last = offset // PAGE, end // PAGE
        head, tail = offset % PAGE, end % PAGE
        if head:
            page = self._pages.old(inode, first, known)
            if not isinstance(page, memoryview):
                return page
            before = page[:head]
        if tail:
            if end >= size:
                behind = ZEROS[tail:]
            else:
                page = self._pages.old(inode, last, known)
                if not isinstance(page, memoryview):
                    return page
                behind = page[tail:]
        return before, behind

    # Large writes

    async def _write_direct(self, inode: Inode, offset: int, data: memoryview, now: Time, batch: Batch, flags: int) -> Done:
        """The middle goes into extents, what is left at both ends into the log, and the names of all of it into one batch."""
        if offset != APPEND:
            done = await self._write_at(inode, offset, data, now, batch, flags, None)
            assert done is not None
            return done
        while True:
            end = self._pages.size(inode)
            appended = await self._write_at(inode, end, data, now, batch, flags, end)
            if appended is not None:
                return appended

    async def _write_at(self, inode: Inode, offset: int, data: memoryview, now: Time, batch: Batch, flags: int, if_size: int | None) -> Done | None:
        """None, with nothing changed, if the file's size turns out not to be `if_size`."""
        self._pages.size(inode)
        if offset + len(data) > LARGEST:
            raise FileTooLarge(f"a file ends at {LARGEST} bytes at the latest")
        self._pages.allow(inode, offset, offset + len(data))
        start = -offset % PAGE
        length = (len(data) - start) // self._unit * self._unit
        count = -(-length // MIB) * (MIB // PAGE) + (len(data) - length) // PAGE + 2
        await self._admit(count)
        self._space.begin(count)
        written: list[_Extent] = []
        try:
            await self._fill_extents((offset + start) // PAGE, data[start : start + length], written)
            known: Known = {}
            result = attempted(lambda: self._attempt_direct(inode, offset, data, now, batch, flags, written, known, if_size))
            return result if isinstance(result, Done) else await result
        except _Moved:
            await self._abandon(written)
            return None
        except BaseException:
            await self._abandon(written)
            raise
        finally:
            self._space.end(count)
            for extent in written:
                self._extents.done(extent.placement.id.number)

    async def _abandon(self, written: list[_Extent]) -> None:
        for extent in written:
            await self._extents.abandon(extent.placement)

    async def _admit(self, pages: int) -> None:
        while True:
            try:
                self._space.admit(pages)
                return
            except NoSpace as error:
                await self._pages.reclaim(error)

    async def _fill_extents(self, first: int, data: memoryview, written: list[_Extent]) -> None:
        for at in range(0, len(data), EXTENT_LIMIT):
            chunk = data[at : at + EXTENT_LIMIT]
            sums = page_sums(chunk)
            number = await self._extents.take()
            try:
                names = [window for window, _, _ in pieces(_name(number), len(chunk) // PAGE)]
                placement = await self._extents.write(number, [chunk], self._settings.policy, names, sums)
            except BaseException:
                self._extents.done(number)
                raise
            written.append(_Extent(placement, first + at // PAGE, _packed(sums)))

    def _attempt_direct(
        self,
        inode: Inode,
        offset: int,
        data: memoryview,
        now: Time,
        batch: Batch,
        flags: int,
        written: list[_Extent],
        known: Known,
        if_size: int | None,
    ) -> Done | Awaitable[object]:
        pages = self._pages
        size = pages.size(inode)
        if if_size is not None and size != if_size:
            raise _Moved
        end = offset + len(data)
        start = -offset % PAGE
        stop = start + sum(len(extent.sums) // 4 for extent in written) * PAGE
        logged = len(data) - (stop - start) + 2 * PAGE
        if pages.full(logged):
            return pages.room(logged)
        edges = self._edges(inode, offset, end, size, known)
        if not isinstance(edges, tuple):
            return edges
        before, behind = edges
        pages.allow(inode, offset, end)
        size = max(end, size)
        for extent in written:
            self._add_extent(batch, inode, extent, size, now, flags)
        payload: list[Buffer] = []
        at = 0
        map_ = pages.map(inode)
        for page, parts in ((offset // PAGE, (before, data[:start], ZEROS[:0])), ((offset + stop) // PAGE, (ZEROS[:0], data[stop:], behind))):
            if parts[1]:
                sums = _sums_of_gather(*parts)
                batch.raw(Operation.WRITE, mapping.write(inode, page, _packed(sums), at, size, now, flags, map_))
                payload += [part for part in parts if part]
                at += len(sums) * PAGE
        return pages.commit(batch, payload, len(data))

    def _add_extent(self, batch: Batch, inode: Inode, extent: _Extent, size: int, now: Time, flags: int) -> None:
        number = extent.placement.id.number
        name = _name(number)
        names = pieces(name, len(extent.sums) // 4)
        self._extents.record(batch, extent.placement, [window for window, _, _ in names], len(extent.sums) // 4)
        at = 0
        for window, start, count in names:
            batch.put(PLACES + window.to_bytes(8), encode_places([Place(start, count, at, number)]))
            at += count
        batch.raw(Operation.MAP, mapping.map_pages(inode, extent.first, extent.sums, name, size, now, flags))


def _name(number: int) -> int:
    """The name of the first page born in an extent."""
    return EXTENT_BORN | number << EXTENT_SHIFT


def _packed(sums: list[int]) -> bytes:
    return struct.pack(f"<{len(sums)}I", *sums)


def _sums_of_gather(before: memoryview, data: memoryview, behind: memoryview) -> list[int]:
    """The checksums of the pages that the three make up together."""
    at = -len(before) % PAGE
    length = len(data)
    if length < at:
        return [crc32c(behind, crc32c(data, crc32c(before)))]
    sums = [crc32c(data[:at], crc32c(before))] if at else []
    whole_end = length - (length - at) % PAGE
    sums += page_sums(data[at:whole_end])
    if whole_end < length:
        sums.append(crc32c(behind, crc32c(data[whole_end:])))
    return sums
