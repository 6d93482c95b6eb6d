"""Changing a file's size and map without new data: truncate, punch, reserve, remove; and telling what has data.

Where a range begins or ends within a page, the part of that page which goes is overwritten with zeros in the same batch. What
touches more pages than `SLICE` is done in several batches, each of which leaves a file that makes sense: a truncated file
shrinks step by step, a punched or reserved range grows. Only the last carries the caller's operations.
"""

from collections.abc import Awaitable, Callable

from crc32c import crc32c

from sofs.errors import Delayed, FileTooLarge, InvalidArgument
from sofs.runtime.ports import Buffer
from sofs.types import PAGE, Inode, Time
from sofs.volume import leaves, mapping
from sofs.volume.batch import Batch, Operation
from sofs.volume.inode import CLONED
from sofs.volume.keys import HOLE, LEAF_PAGES
from sofs.volume.maps import NOTHING, visible
from sofs.volume.pages import ZEROS, Done, Known, Pages, attempted
from sofs.volume.space import Space
from sofs.volume.writer import LARGEST

SLICE = 1 << 14
"""Pages (64 MiB) that one batch may change: 8 ms of the loop when they were written in large pieces, up to 35 ms if each was written by itself."""


class RangeChanges:
    """Changes ranges of one volume's files."""

    def __init__(self, pages: Pages, space: Space, pause: Callable[[], Awaitable[None]]) -> None:
        self._pages = pages
        self._keyspace = pages.keyspace
        self._space = space
        self._pause = pause
        """Lets others have their turn."""

    # Size

    def truncate(self, inode: Inode, size: int, now: Time, batch: Batch | None = None, flags: int = 0) -> Done | Awaitable[Done]:
        """Sets the file's size. Raises `Stale`, `FileTooLarge`, `Damaged`."""
        if size > LARGEST:
            raise FileTooLarge(f"a file ends at {LARGEST} bytes at the latest")
        if size < 0:
            raise InvalidArgument("a size below zero")
        batch = Batch() if batch is None else batch
        known: Known = {}
        # All that is seen through an origin goes at once, by letting that go.
        if size < self._pages.size(inode) and (self.seen(inode) if size else self._placed(inode)) > SLICE:
            return self._truncate_slices(inode, size, now, batch, flags, known)
        return attempted(lambda: self._truncate(inode, size, now, batch, flags, known))

    def _truncate(self, inode: Inode, size: int, now: Time, batch: Batch, flags: int, known: Known) -> Done | Awaitable[object]:
        pages = self._pages
        if (full := pages.exhausted()) is not None:
            return full
        payload: list[Buffer] = []
        cut = size % PAGE
        if size < pages.size(inode) and cut and pages.name(inode, size // PAGE) >= leaves.PLACED:
            old = pages.old(inode, size // PAGE, known)
            if not isinstance(old, memoryview):
                return old
            payload = self._rewrite(batch, inode, size // PAGE, [old[:cut], ZEROS[cut:]], 0, size, now, flags)
        batch.raw(Operation.TRUNCATE, mapping.truncate(inode, size, now, flags))
        return pages.commit(batch, payload, reserved=True)

    def _rewrite(self, batch: Batch, inode: Inode, page: int, parts: list[memoryview], at: int, size: int, now: Time, flags: int) -> list[Buffer]:
        """Adds the overwriting of one page to the batch; gives its payload."""
        sum_ = 0
        for part in parts:
            sum_ = crc32c(part, sum_)
        batch.raw(Operation.WRITE, mapping.write(inode, page, sum_.to_bytes(4, "little"), at, size, now, flags, self._pages.map(inode)))
        return [part for part in parts if part]

    async def _truncate_slices(self, inode: Inode, size: int, now: Time, batch: Batch, flags: int, known: Known) -> Done:
        keep, since = -(-size // PAGE), self._keyspace.restorations
        for low, _ in reversed(self._slices(inode, keep, mapping.FOREVER)):
            if low > keep:
                await self._empty()
                self._check_still(inode, since)
                shorter = Batch()
                step = min(low * PAGE, self._pages.size(inode))
                shorter.raw(Operation.TRUNCATE, mapping.truncate(inode, step, now, flags | mapping.UNSEEN))
                self._pages.commit(shorter, reserved=True)
                await self._pause()
        self._check_still(inode, since)
        result = attempted(lambda: self._truncate(inode, size, now, batch, flags, known))
        return result if isinstance(result, Done) else await result

    def _check_still(self, inode: Inode, since: int) -> None:
        """After a wait, before the next slice. Raises `Stale` for a file that has gone, `Delayed` if the volume is another one since the first slice."""
        self._pages.inode(inode)
        if self._keyspace.restorations != since:
            raise Delayed("the volume was brought back to a snapshot meanwhile")

    async def _empty(self) -> None:
        """Waits if the log cannot even take what gives space back."""
        if (full := self._pages.exhausted()) is not None:
            await full

    def _slices(self, inode: Inode, first: int, last: int) -> list[tuple[int, int]]:
        """Cuts a range of pages into parts that hold at most `SLICE` pages of existing leaves each: (first, last)."""
        if first >= last:
            return []
        low, high = first // LEAF_PAGES, (last - 1) // LEAF_PAGES + 1
        bounds = [first]
        for count, (index, *_) in enumerate(visible(self._keyspace, self._pages.way(inode), low, high)):
            if count and count % (SLICE // LEAF_PAGES) == 0:
                bounds.append(index * LEAF_PAGES)
        return list(zip(bounds, [*bounds[1:], last], strict=True))

    # Punch

    def punch(
        self, inode: Inode, offset: int, length: int, now: Time, batch: Batch | None = None, flags: int = 0, deallocate: bool = True
    ) -> Done | Awaitable[Done]:
        """Makes a range read as zeros; whole pages become holes, or stay reserved unless `deallocate`. The size stays."""
        if offset < 0 or length < 0 or offset + length > LARGEST:
            raise InvalidArgument(f"a range of {length} bytes at {offset}")
        batch = Batch() if batch is None else batch
        if not deallocate:
            flags |= mapping.RESERVE
        known: Known = {}
        end = offset + length
        if self.seen(inode) > SLICE:
            return self._punch_slices(inode, offset, end, now, batch, flags, known)
        return attempted(lambda: self._punch(inode, offset, end, now, batch, flags, known))

    def _punch(self, inode: Inode, offset: int, end: int, now: Time, batch: Batch, flags: int, known: Known) -> Done | Awaitable[object]:
        pages = self._pages
        if (full := pages.exhausted()) is not None:
            return full
        size = pages.size(inode)
        if end >= size:
            # Behind the file's end a page holds zeros anyway, so its last page can go as a whole.
            end = max(-(-end // PAGE) * PAGE, offset)
        first, last = -(-offset // PAGE), end // PAGE
        cuts: dict[int, tuple[int, int]] = {}
        if offset % PAGE:
            cuts[offset // PAGE] = (offset % PAGE, min(PAGE, end - offset // PAGE * PAGE))
        if end % PAGE and end // PAGE not in cuts:
            cuts[end // PAGE] = (0, end % PAGE)
        contents: list[tuple[int, list[memoryview]]] = []
        for page, (start, stop) in cuts.items():
            if start >= stop or pages.name(inode, page) < leaves.PLACED:
                continue
            old = pages.old(inode, page, known)
            if not isinstance(old, memoryview):
                return old
            contents.append((page, [old[:start], ZEROS[: stop - start], old[stop:]]))
        payload: list[Buffer] = []
        for number, (page, parts) in enumerate(contents):
            payload += self._rewrite(batch, inode, page, parts, number * PAGE, size, now, flags)
        batch.raw(Operation.PUNCH, mapping.punch(inode, first, max(first, last), now, flags))
        return pages.commit(batch, payload, reserved=True)

    async def _punch_slices(self, inode: Inode, offset: int, end: int, now: Time, batch: Batch, flags: int, known: Known) -> Done:
        since = self._keyspace.restorations
        for low, high in self._slices(inode, -(-offset // PAGE), end // PAGE):
            await self._empty()
            self._check_still(inode, since)
            part = Batch()
            part.raw(Operation.PUNCH, mapping.punch(inode, low, high, now, flags))
            self._pages.commit(part, reserved=True)
            await self._pause()
        self._check_still(inode, since)
        result = attempted(lambda: self._punch(inode, offset, end, now, batch, flags, known))
        return result if isinstance(result, Done) else await result

    # Reserve

    def allocate(
        self, inode: Inode, offset: int, length: int, now: Time, extend: bool, batch: Batch | None = None, flags: int = 0
    ) -> Done | Awaitable[Done]:
        """Reserves space for a range; with `extend` the file's end is moved behind it. Raises `NoSpace`."""
        if offset < 0 or length < 0:
            raise InvalidArgument(f"a range of {length} bytes at {offset}")
        if offset + length > LARGEST:
            raise FileTooLarge(f"a file ends at {LARGEST} bytes at the latest")
        batch = Batch() if batch is None else batch
        first, last = offset // PAGE, -(-(offset + length) // PAGE)
        end = offset + length if extend else 0
        missing = last - first - self._pages.used(inode, first, last)
        self._pages.allow(inode, offset, offset + length)
        self._space.admit(missing)
        if last - first <= SLICE:
            return self._allocate(inode, first, last, end, now, batch, flags)
        return self._allocate_slices(inode, first, last, end, now, batch, flags)

    def _allocate(self, inode: Inode, first: int, last: int, end: int, now: Time, batch: Batch, flags: int) -> Done:
        size = max(self._pages.size(inode), end)
        batch.raw(Operation.ALLOCATE, mapping.allocate(inode, first, last, size, now, flags))
        return self._pages.commit(batch)

    async def _allocate_slices(self, inode: Inode, first: int, last: int, end: int, now: Time, batch: Batch, flags: int) -> Done:
        since = self._keyspace.restorations
        while last - first > SLICE:
            self._check_still(inode, since)
            self._allocate(inode, first, first + SLICE, 0, now, Batch(), flags)
            first += SLICE
            await self._pause()
        self._check_still(inode, since)
        return self._allocate(inode, first, last, end, now, batch, flags)

    # Remove

    def small(self, inode: Inode) -> bool:
        """Whether the file's pages can all be dropped in one batch (`drop`); else `trim` first."""
        return self._placed(inode) <= SLICE

    def _placed(self, inode: Inode) -> int:
        """Pages of the file's own leaves that are no holes."""
        return int.from_bytes(self._pages.inode(inode)[28:36], "little")

    def seen(self, inode: Inode) -> int:
        """Pages of the file that are no holes, those that it sees through its origin among them."""
        record = self._pages.inode(inode)
        return self._placed(inode) + (int.from_bytes(record[-8:], "little") if record[1] & CLONED else 0)

    def drop(self, batch: Batch, inode: Inode) -> None:
        """Adds the dropping of all the file's pages to a batch that will delete its inode."""
        batch.raw(Operation.DROP, mapping.drop(inode))

    async def trim(self, inode: Inode, now: Time) -> None:
        """Drops a nameless file's pages, slice by slice, until it is `small`; safe to be cut off and called again."""
        if self._pages.way(inode).origin != NOTHING:
            # Punching would only hide what is seen through the origin.
            await self._truncate_slices(inode, 0, now, Batch(), mapping.UNSEEN, {})
            return
        since = self._keyspace.restorations
        for low, high in self._slices(inode, 0, mapping.FOREVER):
            await self._empty()
            self._check_still(inode, since)
            batch = Batch()
            batch.raw(Operation.PUNCH, mapping.punch(inode, low, high, now, mapping.UNSEEN))
            self._pages.commit(batch, reserved=True)
            await self._pause()

    # What has data

    def ranges(self, inode: Inode, offset: int, length: int, limit: int) -> tuple[list[tuple[int, int]], bool]:
        """Up to `limit` parts (offset, length) of the range, cut at the file's end, that have data or are reserved; and
        whether these are all."""
        end = min(offset + length, self._pages.size(inode))
        if offset >= end:
            return [], True
        found: list[tuple[int, int]] = []
        first, last = offset // PAGE, -(-end // PAGE)
        low, high = first // LEAF_PAGES, -(-last // LEAF_PAGES)
        for index, leaf, _ in visible(self._keyspace, self._pages.way(inode), low, high):
            base = index * LEAF_PAGES
            start, stop = max(first - base, 0), min(last - base, LEAF_PAGES)
            addresses = leaves.addresses(leaf, start, stop - start)
            if found and HOLE not in addresses and sum(found[-1]) == (base + start) * PAGE:
                # The common case in a file without holes, which may have millions of leaves: all at once.
                found[-1] = (found[-1][0], min((base + stop) * PAGE, end) - found[-1][0])
                continue
            for page, address in enumerate(addresses, base + start):
                if address == HOLE:
                    continue
                at, to = max(page * PAGE, offset), min((page + 1) * PAGE, end)
                if found and sum(found[-1]) == at:
                    found[-1] = (found[-1][0], to - found[-1][0])
                elif len(found) == limit:
                    return found, False
                else:
                    found.append((at, to - at))
        return found, True
