"""What every change of a file's data needs: its size, a page's old content, the log's room, the commit.

A change is made by an *attempt*: a function that looks at the records and either commits and returns `Done`, without a wait in between, or
returns something to wait for (a page that must be fetched, room in the log) and is then called again from the start. What was
fetched is kept with the name of the page, so the next attempt uses it only if it is still that page.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from crc32c import crc32c

from sofs.errors import NoSpace, Stale
from sofs.log import Log
from sofs.runtime.ports import Buffer
from sofs.types import PAGE, Inode, Lsn
from sofs.volume import leaves
from sofs.volume.batch import Batch
from sofs.volume.inode import CLONED
from sofs.volume.keys import HOLE, INODE, LEAF_PAGES
from sofs.volume.keyspace import KeySpace
from sofs.volume.maps import Way, find, map_of, visible, way
from sofs.volume.quotas.limits import Quotas
from sofs.volume.reader import Reader

ZEROS = memoryview(bytes(PAGE))

SLACK = 8 << 20
"""Bytes of the log that writers of data leave to changes of metadata (an eighth of a small log); reaching it, they wait for destaging."""


class Done(NamedTuple):
    """A change was appended at this position of the log; `length` bytes were written."""

    lsn: Lsn
    length: int = 0


Known = dict[int, tuple[int, memoryview]]
"""Pages that were fetched for an attempt: by number, the name under which each was found and its content."""

Attempt = Callable[[], Done | Awaitable[object]]


class Pages:
    """Access to the pages of one volume's files for those who change them."""

    def __init__(
        self,
        keyspace: KeySpace,
        log: Log,
        reader: Reader,
        room: Callable[[int], Awaitable[None]],
        reclaim: Callable[[NoSpace], Awaitable[None]],
        quotas: Quotas,
    ) -> None:
        self.quotas = quotas
        self.keyspace = keyspace
        self.reader = reader
        self._get = keyspace.get
        self._log = log
        self._hopeless = Lsn(0)
        """The log's end when it was full and nothing in it could be moved."""
        self.room = room
        """Waits until destaging has made room in the log for so many bytes."""
        self.reclaim = reclaim
        """Waits until dead space has been given back to the pool; raises the error that it is given if there is none."""

    def inode(self, inode: Inode) -> bytes:
        """The inode's record. Raises `Stale`."""
        record = self._get(INODE + inode.to_bytes(8))
        if record is None:
            raise Stale(f"inode {inode} is gone")
        return record

    def size(self, inode: Inode) -> int:
        record = self._get(INODE + inode.to_bytes(8))
        if record is None:
            raise Stale(f"inode {inode} is gone")
        return int.from_bytes(record[20:28], "little")

    def map(self, inode: Inode) -> bytes:
        """What a WRITE has to say about the file's map: its number, or nothing if that is the inode's."""
        record = self.inode(inode)
        return map_of(b"", record) if record[1] & CLONED else b""

    def way(self, inode: Inode) -> Way:
        """How the file's leaves are found."""
        return way(inode.to_bytes(8), self.inode(inode))

    def name(self, inode: Inode, page: int) -> int:
        """The name of a file's page, HOLE or RESERVED."""
        leaf = find(self._get, self.way(inode), page // LEAF_PAGES)
        if leaf is None:
            return HOLE
        at = page % LEAF_PAGES * 8
        return int.from_bytes(leaf[at : at + 8], "little")

    def used(self, inode: Inode, first: int, last: int) -> int:
        """Pages of the range, up to, not including, `last`, that are no holes."""
        used = 0
        for index, leaf, _ in visible(self.keyspace, self.way(inode), first // LEAF_PAGES, -(-last // LEAF_PAGES)):
            base = index * LEAF_PAGES
            start, stop = max(first - base, 0), min(last - base, LEAF_PAGES)
            used += stop - start - leaves.addresses(leaf, start, stop - start).count(HOLE)
        return used

    def allow(self, inode: Inode, offset: int, end: int) -> None:
        """Passes when the file may have data in all of this range. Raises `QuotaExceeded`."""
        if self.quotas.limits:
            first, last = offset // PAGE, -(-end // PAGE)
            self.quotas.grow(self.inode(inode), last - first - self.used(inode, first, last))

    def old(self, inode: Inode, page: int, known: Known) -> memoryview | Awaitable[None]:
        """A page's content, or something to wait for, after which it is in `known`."""
        name = self.name(inode, page)
        found = known.get(page)
        if found is not None and found[0] == name:
            return found[1]
        content = memoryview(bytearray(PAGE))
        waiting = self.reader.pages(inode.to_bytes(8), page, 1, content)
        if waiting is None:
            return content

        async def fetch() -> None:
            await waiting
            known[page] = name, content

        return fetch()

    @property
    def fill(self) -> float:
        """The share of the log that is in use."""
        log = self._log
        return (log.end - log.start) / log.capacity

    def full(self, size: int) -> bool:
        """Whether the log cannot take a payload of `size` bytes now: then wait for `room`."""
        return full(self._log, size)

    def exhausted(self) -> Awaitable[None] | None:
        """Something to wait for when the log has next to nothing left even for what gives space back; else None.

        None too when waiting has just shown to be of no use, as nothing can be moved: then deleting may help, and takes what is left.
        """
        log = self._log
        if log.room + log.largest >= min(SLACK, log.largest >> 3) or log.end == self._hopeless:
            return None
        return self._empty()

    async def _empty(self) -> None:
        try:
            await self.room(0)
        except NoSpace:
            self._hopeless = self._log.end

    def commit(self, batch: Batch, payload: Sequence[Buffer] = (), length: int = 0, reserved: bool = False, sums: bytes | None = None) -> Done:
        return Done(self.keyspace.commit(batch, payload, reserved, sums), length)


def full(log: Log, size: int) -> bool:
    """Whether the log is too full for a writer of `size` bytes."""
    return size + min(SLACK, log.capacity >> 3) > log.room


def attempted(attempt: Attempt) -> Done | Awaitable[Done]:
    """Makes an attempt until it is done; at once if nothing has to be waited for."""
    result = attempt()
    if isinstance(result, Done):
        return result
    return _again(attempt, result)


async def _again(attempt: Attempt, result: Done | Awaitable[object]) -> Done:
    while not isinstance(result, Done):
        await result
        result = attempt()
    return result


def page_sums(data: memoryview) -> list[int]:
    """The CRC32C of each whole page."""
    return [crc32c(data[at : at + PAGE]) for at in range(0, len(data), PAGE)]
