"""Reading a file's pages: from the map to the bytes, verified end to end.

Each page is verified once, against the checksum in the file's leaf, wherever it lies. For the log there is no other checksum to look at; for an
extent the pool is given the expected checksums and uses them instead of the fragment's own. So a read also proves that it is
*this* page: a fragment's checksum would pass for an intact page of another file.

A read first makes a plan (pieces that lie together somewhere), then carries it out, synchronously as far as the page cache goes. When it had
to wait, the file may have changed or its pages may have moved meanwhile: what then is gone or does not match is looked up again
before it is called damage.
"""

import struct
from collections.abc import Awaitable
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakSet

from crc32c import crc32c

from sofs.errors import Damaged, DiskFailed, ExtentGone, Stale
from sofs.log import Log
from sofs.pool import Pool
from sofs.types import PAGE, Inode
from sofs.volume import leaves, windows
from sofs.volume.extents import Extents
from sofs.volume.inode import CLONED
from sofs.volume.keys import DESTAGED, EXTENT_BORN, HOLE, INODE, LEAF, LEAF_PAGES, PLACES, WINDOW_SHIFT
from sofs.volume.keyspace import KeySpace
from sofs.volume.maps import Way, find, find_cloned, way
from sofs.volume.verified import Verifier

_ZEROS = memoryview(bytes(1 << 20))
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from
_SIZE_AT = 20  # of the size in an inode's record
_SUMS_AT = LEAF_PAGES * 8


class Got(NamedTuple):
    """Bytes read, and whether the file's end was reached."""

    length: int
    end: bool


class Piece(NamedTuple):
    """Pages of a read that lie together."""

    page: int
    """Within the read."""
    pages: int
    extent: int
    """0: in the log."""
    at: int
    """Address in the log, or offset in the extent."""
    sums: list[int]


class Reader:
    """Reads pages of one volume's files."""

    def __init__(self, keyspace: KeySpace, log: Log, pool: Pool, extents: Extents) -> None:
        self._get = keyspace.get
        self._log = log
        self._pool = pool
        self._extents = extents
        self._verifier = Verifier()
        self.followers: WeakSet[Reader] = WeakSet()
        """Readers of snapshots, which have to know how far destaging is as well."""
        self.destaged = 0
        """The record DESTAGED, kept here because every read asks for it."""
        self.refresh()

    def refresh(self) -> None:
        """To be called when DESTAGED has changed."""
        value = self._get(DESTAGED)
        self.destaged = 0 if value is None else int.from_bytes(value, "little")
        for follower in self.followers:
            follower.destaged = self.destaged

    def read(self, inode: Inode, offset: int, into: memoryview) -> Got | Awaitable[Got]:
        """Fills `into` from `offset` on, as far as the file goes; bytes of `into` behind the count may be overwritten with zeros.

        Raises `Stale` (no such inode), `Damaged`, `DiskFailed`.
        """
        number = inode.to_bytes(8)
        record = self._get(INODE + number)
        if record is None:
            raise Stale(f"inode {inode} is gone")
        size = _U64(record, _SIZE_AT)[0]
        room = len(into)
        count = min(room, size - offset)
        if count <= 0:
            return Got(0, True)
        first, head = divmod(offset, PAGE)
        pages = (head + count + PAGE - 1) // PAGE
        result = Got(count, offset + count >= size)
        if head == 0 and pages * PAGE <= room:
            waiting = self.pages(number, first, pages, into, record)
            return result if waiting is None else _then(waiting, result)
        return self._unaligned(number, first, head, pages, into[:count], result)

    def _unaligned(self, number: bytes, first: int, head: int, pages: int, into: memoryview, result: Got) -> Got | Awaitable[Got]:
        """Reads whole pages to the side, since only those can be verified, and copies what was asked for."""
        whole = memoryview(bytearray(pages * PAGE))
        waiting = self.pages(number, first, pages, whole)
        if waiting is None:
            into[:] = whole[head : head + len(into)]
            return result

        async def later() -> Got:
            await waiting
            into[:] = whole[head : head + len(into)]
            return result

        return later()

    def pages(self, number: bytes, first: int, pages: int, into: memoryview, record: bytes | None = None) -> Awaitable[None] | None:
        """Fills `into` with whole pages, holes as zeros. `number` is the inode's, as it stands in keys, `record` its record if that is at hand."""
        if pages == 1:
            return self._page(number, first, into if len(into) == PAGE else into[:PAGE], record)
        plan = self._plan(number, first, pages, into)
        for index, piece in enumerate(plan):
            view = into[piece.page * PAGE : (piece.page + piece.pages) * PAGE]
            try:
                waiting = self._start(piece, view)
            except (Damaged, ExtentGone) as error:
                # Nothing has happened since the map was looked at, so the place is right and the data is not.
                raise _damaged(number, first + piece.page, error) from error
            if waiting is not None:
                return self._finish(number, first, into, plan[index:], waiting)
            if not piece.extent and self._verifier.mismatch(piece.at, view, piece.sums) is not None:
                return self._finish(number, first, into, plan[index:], None)
        return None

    def _page(self, number: bytes, first: int, into: memoryview, record: bytes | None) -> Awaitable[None] | None:
        """The same for one page, without a plan unless something has to be waited for or mended: 2 us less."""
        if record is None:
            record = self._get(INODE + number)
        if record is None or not record[1] & CLONED:
            leaf = self._get(LEAF + number + (first // LEAF_PAGES).to_bytes(8))
        else:
            leaf = find_cloned(self._get, record, first // LEAF_PAGES)
        slot = first % LEAF_PAGES
        address = HOLE if leaf is None else _U64(leaf, slot * 8)[0]
        if leaf is None or address < leaves.PLACED:
            into[:] = _ZEROS[:PAGE]
            return None
        expected = _U32(leaf, _SUMS_AT + slot * 4)[0]
        extent, at = 0, address
        try:
            if self.destaged <= address < EXTENT_BORN:
                waiting = self._read_log(address, into)
                if waiting is None and crc32c(into) == expected:
                    return None
            else:
                extent, page, _ = self.place(address)
                at = page * PAGE
                waiting = self._pool.read(self._extents.placement(extent), at, into, (expected,))
                if waiting is None:
                    return None
        except (Damaged, ExtentGone) as error:
            raise _damaged(number, first, error) from error
        return self._finish(number, first, into, [Piece(0, 1, extent, at, [expected])], waiting)

    def place(self, address: int) -> tuple[int, int, int]:
        """Where a page that is not in the log lies: (extent, page in it, pages that follow there)."""
        value = self._get(PLACES + (address >> WINDOW_SHIFT).to_bytes(8))
        found = None if value is None else windows.find(value, address & (windows.WINDOW - 1))
        assert found is not None, f"page {address} has no place"
        return found

    def _plan(self, number: bytes, first: int, pages: int, into: memoryview) -> list[Piece]:
        plan: list[Piece] = []
        done = 0
        # Not remembered over a wait: a clone that is made meanwhile gives the file another map.
        record = self._get(INODE + number)
        where = Way(number) if record is None else way(number, record)
        while done < pages:
            index, slot = divmod(first + done, LEAF_PAGES)
            count = min(LEAF_PAGES - slot, pages - done)
            leaf = find(self._get, where, index)
            if leaf is None:
                _zero(into, done, count)
            elif count == LEAF_PAGES and (whole := leaves.whole(leaf)) is not None:
                self._locate(plan, done, *whole)
            else:
                sums = leaves.sums(leaf, slot, count)
                for start, address, length in leaves.runs(leaves.addresses(leaf, slot, count)):
                    if address < leaves.PLACED:
                        _zero(into, done + start, length)
                    else:
                        self._locate(plan, done + start, address, sums[start : start + length])
            done += count
        return plan

    def _locate(self, plan: list[Piece], page: int, address: int, sums: tuple[int, ...]) -> None:
        """Adds pages with consecutive names to the plan."""
        if self.destaged <= address < EXTENT_BORN:
            _join(plan, page, 0, address, sums)
            return
        while sums:
            extent, at, follow = self.place(address)
            _join(plan, page, extent, at * PAGE, sums[:follow])
            page += follow
            address += follow * PAGE
            sums = sums[follow:]

    def _start(self, piece: Piece, view: memoryview) -> Awaitable[None] | None:
        if not piece.extent:
            return self._read_log(piece.at, view)
        return self._pool.read(self._extents.placement(piece.extent), piece.at, view, piece.sums)

    def _read_log(self, address: int, view: memoryview) -> Awaitable[None] | None:
        """Reads the log's first copy. If that fails the bytes are wrong as far as they do not happen to be right: `_mend` gets them elsewhere."""
        try:
            return self._log.read(address, view)
        except DiskFailed:
            return None

    async def _finish(self, number: bytes, first: int, into: memoryview, plan: list[Piece], waiting: Awaitable[None] | None) -> None:
        """Goes on with a plan whose first piece is being fetched (`waiting`), or has been and does not match."""
        for index, piece in enumerate(plan):
            view = into[piece.page * PAGE : (piece.page + piece.pages) * PAGE]
            try:
                if index:
                    waiting = self._start(piece, view)
                if piece.extent:
                    if waiting is not None:
                        await waiting
                    continue
                if waiting is not None:
                    with suppress(DiskFailed):
                        await waiting
                await self._mend(piece, view)
            except (Damaged, ExtentGone) as error:
                # The map changes before a place goes, so if the map has not changed it is not a matter of having been overtaken.
                if self._is_at(number, first, piece):
                    raise _damaged(number, first + piece.page, error) from error
                again = self.pages(number, first + piece.page, piece.pages, view)
                if again is not None:
                    await again

    def _is_at(self, number: bytes, first: int, piece: Piece) -> bool:
        """Whether the map still says that the piece lies there."""
        scratch = memoryview(bytearray(piece.pages * PAGE))
        return self._plan(number, first + piece.page, piece.pages, scratch) == [piece._replace(page=0)]

    async def _mend(self, piece: Piece, view: memoryview) -> None:
        """Takes pages from the log that do not match from another copy, and puts them right. Raises `Damaged`, `DiskFailed`."""
        while (bad := self._verifier.mismatch(piece.at, view, piece.sums)) is not None:
            page = view[bad * PAGE : (bad + 1) * PAGE]
            await mend_log_page(self._log, piece.at + bad * PAGE, page, piece.sums[bad])


def _damaged(number: bytes, page: int, error: Exception) -> Damaged:
    return Damaged(f"inode {int.from_bytes(number)}, offset {page * PAGE}: {error}")


async def mend_log_page(log: Log, address: int, page: memoryview, expected: int) -> None:
    """Fills `page` from whichever of the log's copies matches, and rewrites those that do not.

    Raises `Damaged` when none does, `DiskFailed` when one that could not be read might.
    """
    wrong: list[int] = []
    good: bytes | None = None
    failure: DiskFailed | None = None
    replica = 0
    while replica < log.replicas:
        try:
            waiting = log.read(address, page, replica)
            if waiting is not None:
                await waiting
        except DiskFailed as error:
            failure = error
            wrong.append(replica)
        else:
            if crc32c(page) == expected:
                good = bytes(page)
            else:
                wrong.append(replica)
        replica += 1
    if good is None:
        raise failure or Damaged(f"no copy of the log has the page at {address} as it was written")
    page[:] = good
    for replica in wrong:
        log.rewrite(address, good, replica)


async def _then(waiting: Awaitable[None], result: Got) -> Got:
    await waiting
    return result


def _zero(into: memoryview, page: int, count: int) -> None:
    at, end = page * PAGE, (page + count) * PAGE
    while at < end:
        length = min(end - at, len(_ZEROS))
        into[at : at + length] = _ZEROS[:length]
        at += length


def _join(plan: list[Piece], page: int, extent: int, at: int, sums: tuple[int, ...]) -> None:
    """Adds a piece, to the last one if it continues that in the read and in its place."""
    if plan:
        last = plan[-1]
        size = last.pages * PAGE
        if last.extent == extent and last.page + last.pages == page and last.at + size == at:
            last.sums.extend(sums)
            plan[-1] = Piece(last.page, last.pages + len(sums), extent, last.at, last.sums)
            return
    plan.append(Piece(page, len(sums), extent, at, list(sums)))
