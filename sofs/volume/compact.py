"""Compaction: extents that have become mostly dead are packed into new ones.

The live pages of an extent are those that its windows name. They are read (verified by the fragment's own
checksums: what they are is known to the files' leaves only), written into a new extent, and then, without a wait, the windows are looked at again: what they
still name in the old extents gets its new place, and the old extents are freed. As with destaging, no map changes, and a step that
is cut off leaves an orphan.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from sofs.errors import Damaged, ExtentGone, NoSpace
from sofs.pool import Placement, Pool
from sofs.types import PAGE
from sofs.volume import keys, mapping, windows
from sofs.volume.batch import Batch, Operation
from sofs.volume.extents import WINDOW_LIMIT, Extents, live
from sofs.volume.keyspace import KeySpace
from sofs.volume.settings import MIB, DataSettings
from sofs.volume.windows import Place


class Candidate(NamedTuple):
    """An extent that is worth rewriting."""

    live: int
    """Pages."""
    number: int
    placement: Placement
    windows: tuple[int, ...]


def choose(candidates: list[Candidate], limit: int) -> list[Candidate]:
    """Which of them to pack into one extent of at most `limit` pages: the deadest first. None if that would not give space back."""
    chosen: list[Candidate] = []
    pages = named = before = 0
    for candidate in sorted(candidates):
        if pages + candidate.live > limit or named + len(candidate.windows) > WINDOW_LIMIT:
            break
        chosen.append(candidate)
        pages += candidate.live
        named += len(candidate.windows)
        before += _slots(candidate.placement.length)
    return chosen if _slots(pages * PAGE) < before else []


def _slots(length: int) -> int:
    """Space is given out in MiB."""
    return -(-length // MIB)


class _Piece(NamedTuple):
    """Live pages that lie together in an old extent."""

    extent: int
    at: int
    pages: int


class Compactor:
    """Compacts one volume's extents."""

    def __init__(self, keyspace: KeySpace, pool: Pool, extents: Extents, settings: DataSettings, pause: Callable[[], Awaitable[None]]) -> None:
        self._keyspace = keyspace
        self._pool = pool
        self._extents = extents
        self._settings = settings
        self._pause = pause
        self._damaged: set[int] = set()
        """Extents that cannot be read as a whole."""
        self._logger = structlog.get_logger(component="compact")

    async def run_once(self, below: float) -> int:
        """Packs some extents of which less than this share is live into one; gives how many were freed, 0 if none is worth it.

        Raises `NoSpace`, `DiskFailed`; then nothing has changed.
        """
        try:
            return await self._step(below, self._settings.extent_size)
        except NoSpace:
            # A pool that is nearly full may have no room for so much in a row.
            return await self._step(below, MIB)

    async def _step(self, below: float, size: int) -> int:
        chosen = choose(await self._candidates(below), size // PAGE)
        # What was live when it was chosen may have died since; what is live can only become less.
        pieces = self._pieces(chosen)
        if not pieces:
            return 0
        data = await self._read(pieces, {candidate.number: candidate.placement for candidate in chosen})
        if data is None:
            return 0
        placement = await self._write(data, chosen)
        try:
            used = self._commit(placement, pieces, chosen)
        finally:
            self._extents.done(placement.id.number)
        if not used:
            await self._extents.abandon(placement)
        return len(chosen)

    async def _candidates(self, below: float) -> list[Candidate]:
        found: list[Candidate] = []
        async for number, placement, named in self._extents.all(self._pause):
            count = self._keyspace.get(keys.live_pages(number))
            if count is None or number in self._damaged:
                continue  # freed meanwhile, or not to be moved
            pages = live(count)
            if pages * PAGE < placement.length * below:
                found.append(Candidate(pages, number, placement, named))
        return found

    def _pieces(self, chosen: list[Candidate]) -> list[_Piece]:
        """Where the live pages of the chosen extents lie, in order of place."""
        pieces: list[_Piece] = []
        for candidate in chosen:
            mine: list[_Piece] = []
            for window in candidate.windows:
                value = self._keyspace.get(keys.bucket(keys.PLACES, window))
                if value is not None:
                    mine += [_Piece(place.extent, place.at, place.pages) for place in windows.places(value) if place.extent == candidate.number]
            pieces += sorted(mine)
        return pieces

    async def _read(self, pieces: list[_Piece], placements: dict[int, Placement]) -> memoryview | None:
        """The live pages, one behind the other; None if something came in between and another try is needed."""
        data = memoryview(bytearray(sum(piece.pages for piece in pieces) * PAGE))
        at = 0
        for piece in pieces:
            size = piece.pages * PAGE
            try:
                waiting = self._pool.read(placements[piece.extent], piece.at * PAGE, data[at : at + size])
                if waiting is not None:
                    await waiting
            except ExtentGone:
                return None
            except Damaged as error:
                # It stays where it is, for whoever reads it to be told, and does not hold up the others.
                self._damaged.add(piece.extent)
                self._logger.error("damaged extent", extent=piece.extent, reason=str(error))
                return None
            at += size
            await self._pause()
        return data

    async def _write(self, data: memoryview, chosen: list[Candidate]) -> Placement:
        number = await self._extents.take()
        try:
            names = sorted({window for candidate in chosen for window in candidate.windows})
            return await self._extents.write(number, [data], self._settings.policy, names)
        except BaseException:
            self._extents.done(number)
            raise

    def _commit(self, placement: Placement, pieces: list[_Piece], chosen: list[Candidate]) -> bool:
        """Switches the places and frees the old extents; says whether the new one is of any use."""
        number = placement.id.number
        new_at: dict[tuple[int, int], int] = {}
        at = 0
        for piece in pieces:
            for page in range(piece.pages):
                new_at[piece.extent, piece.at + page] = at + page
            at += piece.pages
        old = {candidate.number for candidate in chosen}
        batch = Batch()
        moved = 0
        named: list[int] = []
        for window in sorted({window for candidate in chosen for window in candidate.windows}):
            key = keys.bucket(keys.PLACES, window)
            value = self._keyspace.get(key)
            if value is None:
                continue
            known = windows.places(value)
            mine = [place for place in known if place.extent in old]
            if mine:
                kept = [place for place in known if place.extent not in old]
                batch.put(key, windows.merge(windows.encode_places(kept), _switched(mine, new_at, number)))
                moved += sum(place.pages for place in mine)
                named.append(window)
        if moved:
            self._extents.record(batch, placement, named, moved)
        for candidate in chosen:
            # One whose last page died meanwhile has been freed by that already.
            if self._keyspace.get(keys.bucket(keys.EXTENT, candidate.number)) is not None:
                batch.raw(Operation.FREE, mapping.free(candidate.number))
        if batch.count:
            self._keyspace.commit(batch, reserved=True)
        return moved > 0


def _switched(places: list[Place], new_at: dict[tuple[int, int], int], number: int) -> list[Place]:
    """The same pages in their new extent; neighbours are joined when the window is packed."""
    return [Place(place.offset + page * PAGE, 1, new_at[place.extent, place.at + page], number) for place in places for page in range(place.pages)]
