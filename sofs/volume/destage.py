"""Destaging: moving live pages out of the log, oldest first, so that the log can be trimmed.

One step reads records from `DESTAGED` on, keeps the pages that are still live, and writes them into a new extent. Then, without a wait, it looks
again which of them are live, and appends one batch: the windows that say where these pages lie now, the extent, the
count of live pages in the log, and the new `DESTAGED`. From that batch on nothing below it is read from the log. A step that is cut off leaves
only an orphan. Maps, clones and their checksums are untouched: a page keeps its name wherever it lies.

A page is live if the leaf that it was written for still names it, or if it is listed as shared.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog
from crc32c import crc32c

from sofs.errors import Damaged, NoSpace
from sofs.log import Log
from sofs.pool import Placement, Policy
from sofs.types import PAGE, Lsn
from sofs.volume import mapping, windows
from sofs.volume.batch import Batch, Operation, decode
from sofs.volume.extents import WINDOW_LIMIT, Extents
from sofs.volume.keys import DESTAGED, LEAF, LEAF_PAGES, LOG_PAGES, PLACES, REFERENCES
from sofs.volume.keyspace import KeySpace
from sofs.volume.reader import Reader, mend_log_page
from sofs.volume.settings import MIB, DataSettings
from sofs.volume.windows import WINDOW, Place

__all__ = ["Destager", "tier_policy"]

_RECORDS_A_SLICE = 200
"""Records looked at before the loop gets its turn: about a millisecond."""


def tier_policy(policy: Policy, heat: float) -> Policy:
    """Where pages of this heat (0 cold to 1 hot) are put. The one place that will decide between tiers; today the volume's policy does."""
    return policy


class _Run(NamedTuple):
    """Live pages of one record that follow one another in a file and in the log."""

    number: bytes
    page: int
    address: int
    sums: tuple[int, ...]


class _Found(NamedTuple):
    """What a step will move: live runs of the log below `end`."""

    runs: list[_Run]
    pages: int
    end: Lsn


class Destager:
    """Destages one volume's log."""

    def __init__(
        self,
        keyspace: KeySpace,
        log: Log,
        extents: Extents,
        reader: Reader,
        settings: DataSettings,
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        self._keyspace = keyspace
        self._get = keyspace.get
        self._log = log
        self._extents = extents
        self._reader = reader
        self._settings = settings
        self._pause = pause
        self._logger = structlog.get_logger(component="destage")

    @property
    def destaged(self) -> Lsn:
        """The position below which nothing live is left in the log."""
        return Lsn(max(self._reader.destaged, self._log.start))

    async def run_once(self) -> int:
        """One step, of one extent as a rule; gives the bytes of log it dealt with, 0 if all that is stable is destaged.

        Raises `NoSpace`, `DiskFailed`; then nothing has changed.
        """
        try:
            return await self._step(self._settings.extent_size)
        except NoSpace:
            # A pool that is nearly full may have no room for so much in a row.
            return await self._step(MIB)

    async def _step(self, size: int) -> int:
        start = self.destaged
        found = await self._collect(start, size // PAGE)
        if found.end <= start:
            return 0
        written: list[tuple[Placement, list[_Run]]] = []
        try:
            for runs in _chunks(found.runs, size // PAGE):
                written.append((await self._write(runs), runs))
            unused = self._commit(written, found.end)
        except BaseException:
            for placement, _ in written:
                await self._extents.abandon(placement)
            raise
        finally:
            for placement, _ in written:
                self._extents.done(placement.id.number)
        for placement in unused:
            await self._extents.abandon(placement)
        return found.end - start

    async def _collect(self, start: Lsn, limit: int) -> _Found:
        """Live pages from `start` on, as many as fill an extent of `limit` pages."""
        runs: list[_Run] = []
        touched: set[int] = set()
        pages = 0
        end = start
        for seen, record in enumerate(self._log.scan(start, self._log.stable), 1):
            if record.length:
                more = [
                    run
                    for code, body in decode(record.operations)
                    if code == Operation.WRITE
                    for run in self._live(body, record.address)
                ]
                count = sum(len(run.sums) for run in more)
                names = {
                    window
                    for run in more
                    for window, _, _ in windows.pieces(run.address, len(run.sums))
                }
                if runs and (pages + count > limit or len(touched | names) > WINDOW_LIMIT):
                    break
                runs += more
                pages += count
                touched |= names
            end = record.next
            if seen % _RECORDS_A_SLICE == 0:
                await self._pause()
        return _Found(runs, pages, end)

    def _live(self, body: bytes, base: int) -> list[_Run]:
        """The live pages of one WRITE."""
        number, first, count, at, sums = mapping.written(body)
        runs: list[_Run] = []
        for index in range(count):
            address = base + at + index * PAGE
            if not self._is_live(number, first + index, address):
                continue
            if runs and runs[-1].address + len(runs[-1].sums) * PAGE == address:
                last = runs[-1]
                runs[-1] = last._replace(sums=(*last.sums, sums[index]))
            else:
                runs.append(_Run(number, first + index, address, (sums[index],)))
        return runs

    def _is_live(self, number: bytes, page: int, address: int) -> bool:
        leaf = self._get(LEAF + number + (page // LEAF_PAGES).to_bytes(8))
        at = page % LEAF_PAGES * 8
        if leaf is not None and int.from_bytes(leaf[at : at + 8], "little") == address:
            return True
        shared = self._get(REFERENCES + (address >> 18).to_bytes(8))
        if shared is None:
            return False
        offset = address & (WINDOW - 1)
        return any(
            start <= offset < start + pages * PAGE for start, pages, _ in windows.references(shared)
        )

    async def _write(self, runs: list[_Run]) -> Placement:
        """Writes the runs, one behind the other, into a new extent."""
        data = memoryview(bytearray(sum(len(run.sums) for run in runs) * PAGE))
        at = 0
        for count, run in enumerate(runs):
            await self._fetch(run, data[at : at + len(run.sums) * PAGE])
            at += len(run.sums) * PAGE
            if count % _RECORDS_A_SLICE == 0:
                await self._pause()
        number = await self._extents.take()
        try:
            names = sorted(
                {window for run in runs for window, _, _ in windows.pieces(run.address, len(run.sums))}
            )
            policy = tier_policy(self._settings.policy, 0.0)
            return await self._extents.write(number, [data], policy, names)
        except BaseException:
            self._extents.done(number)
            raise

    async def _fetch(self, run: _Run, view: memoryview) -> None:
        """Reads a run from the log, verified.

        A page of which no copy is right is moved as it is: its file's leaf knows better, so that whoever reads it is told of the damage, and
        the rest of the log is not held up by it.
        """
        waiting = self._log.read(run.address, view)
        if waiting is not None:
            await waiting
        for index, expected in enumerate(run.sums):
            page = view[index * PAGE : (index + 1) * PAGE]
            if crc32c(page) != expected:
                try:
                    await mend_log_page(self._log, run.address + index * PAGE, page, expected)
                except Damaged as error:
                    self._logger.error(
                        "damaged page in the log",
                        inode=int.from_bytes(run.number),
                        offset=(run.page + index) * PAGE,
                        reason=str(error),
                    )

    def _commit(self, written: list[tuple[Placement, list[_Run]]], end: Lsn) -> list[Placement]:
        """Appends the batch that switches the places; gives the extents that have turned out to hold nothing live."""
        batch = Batch()
        moved = 0
        by_window: dict[int, list[Place]] = {}
        unused: list[Placement] = []
        for placement, runs in written:
            pages = self._place(runs, placement.id.number, by_window)
            if pages:
                named = {
                    window
                    for run in runs
                    for window, _, _ in windows.pieces(run.address, len(run.sums))
                }
                self._extents.record(batch, placement, sorted(named), pages)
                moved += pages
            else:
                unused.append(placement)
        for window, added in by_window.items():
            key = PLACES + window.to_bytes(8)
            batch.put(key, windows.merge(self._get(key), added))
        if moved:
            batch.add(LOG_PAGES, -moved)
        batch.put(DESTAGED, end.to_bytes(8, "little"))
        self._keyspace.commit(batch, reserved=True)
        self._reader.refresh()
        return unused

    def _place(self, runs: list[_Run], extent: int, by_window: dict[int, list[Place]]) -> int:
        """Gives those pages of an extent that are still live their place; says how many they are."""
        at = live = 0
        for run in runs:
            for index, _ in enumerate(run.sums):
                address = run.address + index * PAGE
                if self._is_live(run.number, run.page + index, address):
                    place = Place(address & (WINDOW - 1), 1, at + index, extent)
                    by_window.setdefault(address >> 18, []).append(place)
                    live += 1
            at += len(run.sums)
        return live


def _chunks(runs: list[_Run], limit: int) -> list[list[_Run]]:
    """Cuts the runs into extents of at most `limit` pages."""
    chunks: list[list[_Run]] = []
    room = 0
    for run in runs:
        while run.sums:
            if not room:
                chunks.append([])
                room = limit
            part = run._replace(sums=run.sums[:room])
            chunks[-1].append(part)
            taken = len(part.sums)
            room -= taken
            run = run._replace(
                page=run.page + taken, address=run.address + taken * PAGE, sums=run.sums[taken:]
            )
    return chunks
