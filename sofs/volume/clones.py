"""Clones and copies: making a range name another range's pages.

A clone of a range shares every page, so it takes no space and about the time that its leaves take. A clone of a whole file takes no time either: both read
through the map that the source had (`maps.py`), however large that is. A copy shares whatever lies equally within its pages and
copies the edges; if source and target lie differently within pages, it copies everything. What is longer than `SLICE`
pages goes in several batches, the last of which carries the caller's operations.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from crc32c import crc32c

from sofs.errors import FileTooLarge, InvalidArgument
from sofs.types import PAGE, Inode, Time
from sofs.volume import mapping, origins
from sofs.volume.batch import Batch, Operation
from sofs.volume.keys import LEAF_PAGES
from sofs.volume.maps import depth, first
from sofs.volume.pages import Done, Known, Pages, attempted
from sofs.volume.ranges import SLICE, RangeChanges
from sofs.volume.space import Space
from sofs.volume.thaw import Maps
from sofs.volume.writer import LARGEST, Writer

_CHUNK = 1 << 20
"""Bytes that are copied at a time."""

_DEEPEST = 8
"""Maps behind a file's own, at most: each costs a reader two look-ups, 1 us."""


class _Span(NamedTuple):
    """A range of one file that is to become a range of another, or of the same."""

    source: Inode
    source_offset: int
    target: Inode
    offset: int
    length: int
    now: Time
    flags: int

    def part(self, at: int, length: int) -> "_Span":
        return self._replace(source_offset=self.source_offset + at, offset=self.offset + at, length=length)

    @property
    def backwards(self) -> bool:
        """Its parts are done from behind, should they overlap: what is read must not have been overwritten."""
        return self.source == self.target and self.offset > self.source_offset


class Cloner:
    """Clones and copies between one volume's files."""

    def __init__(
        self, pages: Pages, writer: Writer, ranges: RangeChanges, maps: Maps, space: Space, pause: Callable[[], Awaitable[None]], whole_from: int
    ) -> None:
        self._pages = pages
        self._writer = writer
        self._ranges = ranges
        self._maps = maps
        self._space = space
        self._pause = pause
        self._whole_from = whole_from
        """Files of fewer pages are cloned as a range."""

    def clone(
        self, source: Inode, source_offset: int, target: Inode, offset: int, length: int, now: Time, batch: Batch | None = None, flags: int = 0
    ) -> Done | Awaitable[Done]:
        """Makes the target's range share the source's pages, as the source was before.

        Offsets must be multiples of the page, and so must the length unless the range ends where the source does. Raises `InvalidArgument`, `Stale`,
        `FileTooLarge`, `NoSpace`.
        """
        return self._clone(_Span(source, source_offset, target, offset, length, now, flags), Batch() if batch is None else batch)

    def _clone(self, span: _Span, batch: Batch) -> Done | Awaitable[Done]:
        self._check(span)
        if self._is_whole(span):
            return self._whole(span, batch) if self._is_ready(span) else self._make_ready(span, batch)
        self._allow(span)
        if span.length // PAGE > SLICE:
            return self._slices(span, batch)
        known: tuple[Known, Known] = {}, {}
        return attempted(lambda: self._attempt(span, batch, known))

    # Whole files

    def _is_whole(self, span: _Span) -> bool:
        """Whether all of a file, large enough, is to become all of another."""
        pages = self._pages
        return (
            span.source_offset == span.offset == 0
            and span.source != span.target
            and span.length == pages.size(span.source) >= pages.size(span.target)
            and self._ranges.seen(span.source) >= self._whole_from
        )

    def _is_ready(self, span: _Span) -> bool:
        """Whether one batch does it."""
        pages = self._pages
        return self._ranges.small(span.target) and depth(pages.keyspace.get, pages.way(span.source)) < _DEEPEST

    def _whole(self, span: _Span, batch: Batch) -> Done:
        more = self._ranges.seen(span.source) - self._ranges.seen(span.target)
        self._pages.quotas.grow(self._pages.inode(span.target), more)
        batch.raw(Operation.CLONE_FILE, origins.clone_file(span.source, span.target, span.length, span.now, span.flags))
        return self._pages.commit(batch, length=span.length)

    async def _make_ready(self, span: _Span, batch: Batch) -> Done:
        while not self._is_ready(span):
            if not self._ranges.small(span.target):
                await self._ranges.trim(span.target, span.now)
            # A file that was changed and cloned again and again: what lies behind it becomes its own, and it begins anew.
            if depth(self._pages.keyspace.get, self._pages.way(span.source)) >= _DEEPEST:
                await self._maps.flatten(span.source)
        if self._is_whole(span):
            return self._whole(span, batch)
        # Somebody has changed a size meanwhile.
        done = self._clone(span, batch)
        return done if isinstance(done, Done) else await done

    # Ranges

    def _allow(self, span: _Span) -> None:
        """Passes when the target may have as many pages as the source has there. Raises `QuotaExceeded`."""
        pages = self._pages
        if pages.quotas.limits:
            ends = ((span.source, span.source_offset), (span.target, span.offset))
            given, had = (pages.used(inode, at // PAGE, -(-(at + span.length) // PAGE)) for inode, at in ends)
            pages.quotas.grow(pages.inode(span.target), given - had)

    def _check(self, span: _Span) -> None:
        end = span.source_offset + span.length
        size = self._pages.size(span.source)
        if min(span.source_offset, span.offset, span.length) < 0 or end > size:
            raise InvalidArgument(f"the source ends at {size}, before {end}")
        if span.source_offset % PAGE or span.offset % PAGE or (span.length % PAGE and end != size):
            raise InvalidArgument(f"a cloned range begins and ends at multiples of {PAGE}, or at the source's end")
        if span.offset + span.length > LARGEST:
            raise FileTooLarge(f"a file ends at {LARGEST} bytes at the latest")

    def _attempt(self, span: _Span, batch: Batch, known: tuple[Known, Known]) -> Done | Awaitable[object]:
        self._check(span)
        self._allow(span)
        source, source_offset, target, offset, length, now, flags = span
        pages = self._pages
        size, end = pages.size(target), offset + length
        count, tail = divmod(length, PAGE)
        payload: list[memoryview] = []
        if tail and end >= size:
            # Behind the source's end its last page holds zeros, which is right behind the target's end too.
            count, tail = count + 1, 0
        if tail:
            new = pages.old(source, (source_offset + length) // PAGE, known[0])
            if not isinstance(new, memoryview):
                return new
            old = pages.old(target, end // PAGE, known[1])
            if not isinstance(old, memoryview):
                return old
            if pages.full(PAGE):
                return pages.room(PAGE)
            self._space.admit(1)
            payload = [new[:tail], old[tail:]]
        size = max(size, end)
        if count:
            batch.raw(Operation.CLONE, mapping.clone(source, source_offset // PAGE, target, offset // PAGE, count, size, now, flags))
        if payload:
            sums = crc32c(payload[1], crc32c(payload[0])).to_bytes(4, "little")
            map_ = pages.map(target)
            batch.raw(Operation.WRITE, mapping.write(target, end // PAGE, sums, 0, size, now, flags, map_))
        return pages.commit(batch, payload, length)

    async def _slices(self, span: _Span, batch: Batch) -> Done:
        parts = self._parts(span)
        if span.backwards:
            parts.reverse()
        for part in parts[:-1]:
            cloning = self._clone(span.part(*part), Batch())
            if not isinstance(cloning, Done):
                await cloning
            await self._pause()
        last = self._clone(span.part(*parts[-1]), batch)
        done = last if isinstance(last, Done) else await last
        return Done(done.lsn, span.length)

    def _parts(self, span: _Span) -> list[tuple[int, int]]:
        """Cuts a range to be cloned into parts (where in it, how much) of at most `SLICE` pages, the last of which ends with it.

        Where neither file has anything, nothing is to be done: a file's size is its client's choice, and may be far beyond what any disk holds.
        """
        length = span.length
        parts: list[tuple[int, int]] = []
        at = end = 0
        while True:
            at = min(self._data_from(span.source, span.source_offset, at, length), self._data_from(span.target, span.offset, at, length))
            if at >= length:
                break
            parts.append((at, min(SLICE * PAGE, length - at)))
            at = end = sum(parts[-1])
        if end < length:
            last = max(end, (length - 1) // PAGE * PAGE)
            parts.append((last, length - last))
        return parts

    def _data_from(self, inode: Inode, offset: int, at: int, length: int) -> int:
        """Where in the range of a file that begins at `offset`, from `at` on, its next leaf is; `length` if there is none."""
        leaf = LEAF_PAGES * PAGE
        low, high = (offset + at) // leaf, -(-(offset + length) // leaf)
        found = first(self._pages.keyspace, self._pages.way(inode), low, high)
        return length if found is None else max(found * leaf - offset, at)

    async def copy(
        self, source: Inode, source_offset: int, target: Inode, offset: int, length: int, now: Time, batch: Batch | None = None, flags: int = 0
    ) -> Done:
        """Copies a range, cut at the source's end; `Done.length` says how much. Overlapping ranges are copied as by memmove."""
        batch = Batch() if batch is None else batch
        length = max(0, min(length, self._pages.size(source) - source_offset))
        span = _Span(source, source_offset, target, offset, length, now, flags)
        if self._is_whole(span):
            whole = self._clone(span, batch)
            return whole if isinstance(whole, Done) else await whole
        parts = _parts(source_offset, offset, length)
        if span.backwards:
            parts.reverse()
        done = Done(self._pages.commit(batch).lsn) if not parts else None
        for number, (shared, at, size) in enumerate(parts):
            mine = batch if number == len(parts) - 1 else Batch()
            if shared:
                result = self._clone(span.part(at, size), mine)
            else:
                data = memoryview(bytearray(size))
                got = self._pages.reader.read(source, source_offset + at, data)
                if not isinstance(got, tuple):
                    await got
                result = self._writer.write(target, offset + at, data, now, mine, flags)
            done = result if isinstance(result, Done) else await result
            await self._pause()
        assert done is not None
        return Done(done.lsn, length)


def _parts(source_offset: int, offset: int, length: int) -> list[tuple[bool, int, int]]:
    """What to do for a copy, in order: (share or copy, where in the range, how much)."""
    if (source_offset - offset) % PAGE:
        return [(False, at, min(_CHUNK, length - at)) for at in range(0, length, _CHUNK)]
    head = min(-offset % PAGE, length)
    whole = (length - head) // PAGE * PAGE
    parts = [(False, 0, head), (True, head, whole), (False, head + whole, length - head - whole)]
    return [part for part in parts if part[2]]
