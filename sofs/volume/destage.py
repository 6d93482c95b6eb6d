"""Destaging: moving live pages out of the log, oldest first, so that the log can be trimmed.

One step reads records from `DESTAGED` on, keeps the pages that are still live, and writes them into a new extent. Then, without a wait, it looks
again which of them are live, and appends one batch: the windows that say where these pages lie now, the extent, the
count of live pages in the log, and the new `DESTAGED`. From that batch on nothing below it is read from the log. A step that is cut off leaves
only an orphan. Maps, clones and their checksums are untouched: a page keeps its name wherever it lies.

A page is live if the leaf that it was written for still names it, if it is listed as shared, or if a snapshot's dead list has it.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

import structlog
from crc32c import crc32c

from sofs.errors import Damaged, DiskFailed, NoSpace
from sofs.log import DamagedRecord, Log
from sofs.pool import Placement
from sofs.types import PAGE, Lsn
from sofs.volume import leaves, mapping, windows
from sofs.volume.batch import Batch, Operation, decode
from sofs.volume.extents import WINDOW_LIMIT, Extents
from sofs.volume.keys import DESTAGED, LEAF, LEAF_PAGES, LOG_PAGES, PLACES, REFERENCES, WINDOW_SHIFT
from sofs.volume.keyspace import KeySpace
from sofs.volume.reader import Reader, mend_log_page
from sofs.volume.settings import MIB, DataSettings
from sofs.volume.snapshots.deadlists import dead_pages
from sofs.volume.windows import WINDOW, Place

_RECORDS_A_SLICE = 100
"""Records looked at before the loop gets its turn: less than a millisecond."""

_STRETCH = 256 << 10
"""Bytes of the log that are read in one go."""
_GAP = 16 << 10
"""Dead bytes that are read along rather than making two reads of it."""


class _Run(NamedTuple):
    """Live pages that follow one another in a leaf and in the log."""

    leaf: bytes
    """The leaf's key."""
    slot: int
    names: bytes
    """As they are packed in the leaf."""
    address: int
    sums: tuple[int, ...]
    shared: bool
    """The leaf no longer names them, but others do, or snapshots."""


class _Found(NamedTuple):
    """What a step will move: live runs of the log below `end`."""

    runs: list[_Run]
    pages: int
    end: Lsn


class _Extent(NamedTuple):
    """A new extent, and what it takes to record it if all its pages stay live."""

    placement: Placement
    runs: list[_Run]
    places: dict[int, list[Place]]
    """By window."""


class Destager:
    """Destages one volume's log."""

    def __init__(
        self, keyspace: KeySpace, log: Log, extents: Extents, reader: Reader, settings: DataSettings, pause: Callable[[], Awaitable[None]]
    ) -> None:
        self._keyspace = keyspace
        self._get = keyspace.get
        self._history = keyspace.overlay.history
        self._log = log
        self._extents = extents
        self._reader = reader
        self._settings = settings
        self._pause = pause
        self._data = memoryview(b"")
        self._scratch = memoryview(bytearray(_STRETCH + LEAF_PAGES * PAGE + _GAP))
        # Both are kept: the first touch of new memory costs as much as copying into it.
        self._stable = self.destaged
        self._switched: deque[tuple[Lsn, Lsn]] = deque()
        """Batches that may not be stable yet, and the `DESTAGED` of each."""
        self._logger = structlog.get_logger(component="destage")

    @property
    def destaged(self) -> Lsn:
        """The position below which nothing live is left in the log."""
        return Lsn(max(self._reader.destaged, self._log.start))

    @property
    def stable(self) -> Lsn:
        """The same as far as it survives a loss of power: what the log may be trimmed to."""
        while self._switched and self._switched[0][0] < self._log.stable:
            self._stable = self._switched.popleft()[1]
        return self._stable

    async def run_once(self, keep: int = 0) -> int:
        """One step, of one extent as a rule; gives the bytes of log it dealt with, 0 if all that is stable is destaged.

        The newest `keep` bytes of the log are left alone. Raises `NoSpace`, `DiskFailed`; then nothing has changed.
        """
        try:
            return await self._step(self._settings.extent_size, keep)
        except NoSpace:
            # A pool that is nearly full may have no room for so much in a row.
            return await self._step(MIB, keep)

    async def _step(self, size: int, keep: int) -> int:
        start, stop = self.destaged, Lsn(self._log.end - keep)
        try:
            found = await self._collect(start, stop, size // PAGE)
        except DamagedRecord as error:
            if not await self._log.mend(error.lsn):
                raise
            found = await self._collect(start, stop, size // PAGE)
        if found.end <= start:
            return 0
        written: list[_Extent] = []
        try:
            for runs in _chunks(found.runs, found.pages, size // PAGE):
                written.append(await self._write(runs))
            unused = self._commit(written, found.end)
        except BaseException:
            for extent in written:
                await self._extents.abandon(extent.placement)
            raise
        finally:
            for extent in written:
                self._extents.done(extent.placement.id.number)
        for placement in unused:
            await self._extents.abandon(placement)
        return found.end - start

    async def _collect(self, start: Lsn, stop: Lsn, limit: int) -> _Found:
        """Live pages of stable records from `start` on and before `stop`, as many as fill an extent of `limit` pages."""
        runs: list[_Run] = []
        touched: set[int] = set()
        pages = 0
        end = start
        for seen, record in enumerate(self._log.scan(start, self._log.stable), 1):
            if record.lsn >= stop:
                break
            if record.length:
                before = len(runs)
                for code, body in decode(record.operations):
                    if code == Operation.WRITE:
                        self._live(body, record.address, runs)
                if len(runs) > before:
                    more = runs[before:]
                    count = sum([len(run.sums) for run in more])
                    new = _windows(more) - touched
                    if before and (pages + count > limit or len(touched) + len(new) > WINDOW_LIMIT):
                        del runs[before:]
                        break
                    pages += count
                    touched |= new
            end = record.next
            if seen % _RECORDS_A_SLICE == 0:
                await self._pause()
        return _Found(runs, pages, end)

    def _live(self, body: bytes, base: int, runs: list[_Run]) -> None:
        """Adds the live pages of one WRITE."""
        number, first, count, at, sums = mapping.written(body)
        address = base + at
        if count == 1:
            self._live_page(LEAF + number + (first // LEAF_PAGES).to_bytes(8), first % LEAF_PAGES, address, sums, runs)
            return
        done = 0
        while done < count:
            index, slot = divmod(first + done, LEAF_PAGES)
            fits = min(LEAF_PAGES - slot, count - done)
            key = LEAF + number + index.to_bytes(8)
            names = leaves.ADDRESSES[fits].pack(*range(address, address + fits * PAGE, PAGE))
            leaf = self._get(key)
            if leaf is not None and leaf[slot * 8 : (slot + fits) * 8] == names:
                runs.append(_Run(key, slot, names, address, sums[done : done + fits], False))
            else:
                self._live_pages(key, leaf or leaves.EMPTY, slot, address, sums[done : done + fits], runs)
            address += fits * PAGE
            done += fits

    def _live_page(self, key: bytes, slot: int, address: int, sums: tuple[int, ...], runs: list[_Run]) -> None:
        """The same for one page, as most writes have: 2 us less."""
        leaf = self._get(key)
        name = address.to_bytes(8, "little")
        if leaf is not None and leaf[slot * 8 : slot * 8 + 8] == name:
            runs.append(_Run(key, slot, name, address, sums, False))
        elif address < self._history.horizon or self._get(REFERENCES + (address >> WINDOW_SHIFT).to_bytes(8)) is not None:
            self._live_pages(key, leaf or leaves.EMPTY, slot, address, sums, runs)

    def _live_pages(self, key: bytes, leaf: bytes, slot: int, address: int, sums: tuple[int, ...], runs: list[_Run]) -> None:
        """The same page by page, where not all are as they were written."""
        window, listed = -1, None
        dead: set[int] = set()
        stored = leaves.addresses(leaf, slot, len(sums))
        end = address + len(sums) * PAGE
        gone = min(stored) >= end or not any(address <= found < end for found in stored)
        if gone and not self._kept(address, end):
            return  # all of it has been overwritten: 2 us for a leaf instead of 20
        for index, found in enumerate(stored):
            name = address + index * PAGE
            named = found == name
            if not named:
                if name >> WINDOW_SHIFT != window:
                    # Once a window: a megabyte of dead pages took 250 us of look-ups.
                    window = name >> WINDOW_SHIFT
                    listed = self._get(REFERENCES + window.to_bytes(8))
                    # What is younger than the newest snapshot is in no dead list.
                    dead = dead_pages(self._keyspace.overlay, window) if name < self._history.horizon else set()
                if (listed is None or not _lists(listed, name)) and name & (WINDOW - 1) not in dead:
                    continue
            runs.append(_Run(key, slot + index, name.to_bytes(8, "little"), name, (sums[index],), not named))

    def _kept(self, address: int, end: int) -> bool:
        """Whether some page with a name in this range may be held by a clone or a snapshot."""
        touched = range(address >> WINDOW_SHIFT, (end - PAGE >> WINDOW_SHIFT) + 1)
        return address < self._history.horizon or any(self._get(REFERENCES + window.to_bytes(8)) for window in touched)

    async def _write(self, runs: list[_Run]) -> _Extent:
        """Writes the runs, one behind the other, into a new extent."""
        size = sum(len(run.sums) for run in runs) * PAGE
        if len(self._data) < size:
            self._data = memoryview(bytearray(size))
        data = self._data[:size]
        at = 0
        sums: list[int] = []
        for stretch in _stretches(runs):
            size = sum(len(run.sums) for run in stretch) * PAGE
            sums += await self._fetch(stretch, data[at : at + size])
            at += size
            await self._pause()
        number = await self._extents.take()
        try:
            placement = await self._extents.write(number, [data], self._settings.policy, sorted(_windows(runs)), sums)
        except BaseException:
            self._extents.done(number)
            raise
        return _Extent(placement, runs, _places(runs, number))

    async def _fetch(self, stretch: list[_Run], into: memoryview) -> list[int]:
        """Reads runs that lie near each other in the log, verified; gives the CRC32Cs of their pages as they are.

        A page of which no copy is right is moved as it is: its file's leaf knows better, so that whoever reads it is told of the damage, and
        the rest of the log is not held up by it.
        """
        start = stretch[0].address
        last = stretch[-1]
        length = last.address + len(last.sums) * PAGE - start
        whole = into if length == len(into) else self._scratch[:length]
        # What the log's first copy cannot read does not match, and is fetched from another.
        with suppress(DiskFailed):
            waiting = self._log.read(start, whole)
            if waiting is not None:
                await waiting
        at = 0
        sums: list[int] = []
        for run in stretch:
            sums += run.sums
            size = len(run.sums) * PAGE
            view = into[at : at + size]
            if whole is not into:
                view[:] = whole[run.address - start : run.address - start + size]
            at += size
            for index, expected in enumerate(run.sums):
                page = view[index * PAGE : (index + 1) * PAGE]
                if crc32c(page) != expected:
                    await self._mend(run, index, page)
                    # What could not be mended is whole for the pool: its fragments can be copied and repaired like all others.
                    sums[index - len(run.sums)] = crc32c(page)
        return sums

    async def _mend(self, run: _Run, index: int, page: memoryview) -> None:
        try:
            await mend_log_page(self._log, run.address + index * PAGE, page, run.sums[index])
        except Damaged as error:
            self._logger.error(
                "damaged page in the log",
                inode=int.from_bytes(run.leaf[1:9]),
                offset=(int.from_bytes(run.leaf[9:]) * LEAF_PAGES + run.slot + index) * PAGE,
                reason=str(error),
            )

    def _commit(self, written: list[_Extent], end: Lsn) -> list[Placement]:
        """Appends the batch that switches the places; gives the extents that have turned out to hold nothing live.

        Everything that does not depend on this moment has been prepared: the loop stands still for about a microsecond a page.
        """
        batch = Batch()
        moved = 0
        unused: list[Placement] = []
        by_window: dict[int, list[Place]] = {}
        for extent in written:
            number = extent.placement.id.number
            dead = self._dead(extent.runs)
            pages = extent.placement.length // PAGE - len(dead)
            if not pages:
                unused.append(extent.placement)
                continue
            moved += pages
            self._extents.record(batch, extent.placement, sorted(extent.places), pages)
            # Two extents may have pages of one window.
            for window, added in (_places(extent.runs, number, dead) if dead else extent.places).items():
                by_window.setdefault(window, []).extend(added)
        for window, added in by_window.items():
            key = PLACES + window.to_bytes(8)
            batch.put(key, windows.merge(self._get(key), added))
        if moved:
            batch.add(LOG_PAGES, -moved)
        batch.put(DESTAGED, end.to_bytes(8, "little"))
        lsn = self._keyspace.commit_cleaning(batch)
        self._switched.append((lsn, end))
        self._reader.refresh()
        return unused

    def _dead(self, runs: list[_Run]) -> set[int]:
        """Names of pages that have died since they were collected."""
        get = self._get
        dead: set[int] = set()
        for key, slot, names, address, sums, shared in runs:
            if not shared:
                leaf = get(key)
                if leaf is not None and leaf[slot * 8 : slot * 8 + len(names)] == names:
                    continue
            still: list[_Run] = []
            self._live_pages(key, get(key) or leaves.EMPTY, slot, address, sums, still)
            live = {run.address for run in still}
            dead.update(name for name in range(address, address + len(sums) * PAGE, PAGE) if name not in live)
        return dead


def _lists(references: bytes, address: int) -> bool:
    """Whether a window's references list this page."""
    offset = address & (WINDOW - 1)
    return any(start <= offset < start + pages * PAGE for start, pages, _ in windows.references(references))


def _windows(runs: list[_Run]) -> set[int]:
    if len(runs) == 1 and len(runs[0].sums) == 1:
        return {runs[0].address >> WINDOW_SHIFT}
    return {window for run in runs for window in range(run.address >> WINDOW_SHIFT, (run.address + (len(run.sums) - 1) * PAGE >> WINDOW_SHIFT) + 1)}


def _places(runs: list[_Run], extent: int, dead: Collection[int] = ()) -> dict[int, list[Place]]:
    """The places, window by window, that pages get which lie one behind the other in an extent."""
    places: dict[int, list[Place]] = {}
    at = 0
    for run in runs:
        if dead:
            for index in range(len(run.sums)):
                name = run.address + index * PAGE
                if name not in dead:
                    place = Place(name & (WINDOW - 1), 1, at + index, extent)
                    places.setdefault(name >> WINDOW_SHIFT, []).append(place)
            at += len(run.sums)
            continue
        for window, offset, pages in windows.pieces(run.address, len(run.sums)):
            places.setdefault(window, []).append(Place(offset, pages, at, extent))
            at += pages
    return places


def _stretches(runs: list[_Run]) -> Iterator[list[_Run]]:
    """Groups runs that are worth reading in one go."""
    stretch: list[_Run] = []
    behind = 0
    for run in runs:
        if stretch and (run.address - behind > _GAP or run.address - stretch[0].address > _STRETCH):
            yield stretch
            stretch = []
        stretch.append(run)
        behind = run.address + len(run.sums) * PAGE
    if stretch:
        yield stretch


def _chunks(runs: list[_Run], pages: int, limit: int) -> list[list[_Run]]:
    """Cuts the runs into extents of at most `limit` pages. Only a single record may be larger than that."""
    if pages <= limit:
        return [runs] if runs else []
    chunks: list[list[_Run]] = [[]]
    room = limit
    for run in runs:
        if len(run.sums) > room:
            chunks.append([])
            room = limit
        chunks[-1].append(run)
        room -= len(run.sums)
    return chunks
