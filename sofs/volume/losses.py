"""What loses its last reference while an operation is applied, and what follows: for `mapping`, `origins` and snapshots' operations.

A leaf that no longer names a page tells `unname`. What nothing living names any more joins a snapshot's dead list, or is dead: then it leaves its window
and its extent's live pages. `settle` brings the counts up to date at the operation's end, and frees extents of which nothing is left.
"""

from sofs.types import Lsn
from sofs.volume import leaves, windows
from sofs.volume.batch import Mutator
from sofs.volume.keys import DESTAGED, EXTENT, EXTENT_BORN, FREED, LOG_PAGES, PLACES, REFERENCES, RESERVED, RESERVED_PAGES, WINDOW_SHIFT, live_pages
from sofs.volume.snapshots import deadlists


class Dropped:
    """What lost its last reference while one operation was applied."""

    __slots__ = ("destaged", "extents", "log", "reserved")

    def __init__(self, destaged: int) -> None:
        self.destaged = destaged
        self.log = 0
        self.reserved = 0
        self.extents: dict[int, int] = {}


def destaged_below(records: Mutator) -> int:
    """The record DESTAGED: log-born names below it do not lie in the log."""
    value = records.get(DESTAGED)
    return 0 if value is None else int.from_bytes(value, "little")


def _lose(records: Mutator, dropped: Dropped, address: int, count: int) -> None:
    """No living file names the pages from this name on any more: they are dead unless a snapshot holds them."""
    if not records.history.horizon:
        bereave(records, dropped, address, count)
        return
    for window, offset, pages in windows.pieces(address, count):
        for start, number in deadlists.keep(records, window, offset, pages):
            bereave(records, dropped, (window << WINDOW_SHIFT) + start, number)


def bereave(records: Mutator, dropped: Dropped, address: int, count: int) -> None:
    """The pages from this name on are gone: nothing can name them again."""
    if dropped.destaged <= address < EXTENT_BORN:
        dropped.log += count
        return
    for window, offset, pages in windows.pieces(address, count):
        key = PLACES + window.to_bytes(8)
        value = records.get(key)
        assert value is not None, f"no places for window {window}"
        value, gone = windows.remove(value, offset, pages)
        if value:
            records.put(key, value)
        else:
            records.delete(key)
        for extent, number in gone:
            dropped.extents[extent] = dropped.extents.get(extent, 0) + number


def _release(records: Mutator, dropped: Dropped, address: int, count: int) -> None:
    """The pages from this name on have a reference less."""
    for window, offset, pages in windows.pieces(address, count):
        key = REFERENCES + window.to_bytes(8)
        value = records.get(key)
        if value is None:
            gone = [(offset, pages)]
        else:
            value, gone = windows.release(value, offset, pages)
            if value:
                records.put(key, value)
            else:
                records.delete(key)
        for start, number in gone:
            _lose(records, dropped, (window << WINDOW_SHIFT) + start, number)


def unname(records: Mutator, dropped: Dropped, pages: tuple[int, ...], shared: bool) -> None:
    """A leaf no longer names these pages."""
    lose = _release if shared else _lose
    if len(pages) > 1 and not any(pages):
        return  # nothing but holes, as where a file grows
    for _, address, count in leaves.runs(pages):
        if address >= leaves.PLACED:
            lose(records, dropped, address, count)
        elif address == RESERVED:
            dropped.reserved += count


def settle(records: Mutator, dropped: Dropped, lsn: Lsn, log_pages: int, reserved: int) -> None:
    """Brings the counts up to date, given what has come; frees the extents that have no live page left."""
    if log_pages != dropped.log:
        records.add(LOG_PAGES, log_pages - dropped.log)
    if reserved != dropped.reserved:
        records.add(RESERVED_PAGES, reserved - dropped.reserved)
    for extent, count in dropped.extents.items():
        key = live_pages(extent)
        value = records.get(key)
        assert value is not None, f"no extent {extent}"
        left = int.from_bytes(value, "little") - count
        assert left >= 0, f"extent {extent} has fewer live pages than died"
        if left:
            records.put(key, left.to_bytes(4, "little"))
            continue
        free_extent(records, extent, lsn)


def free_extent(records: Mutator, extent: int, lsn: Lsn) -> None:
    """The extent's record joins those that wait for their deletion from the pool."""
    suffix = extent.to_bytes(8)
    value = records.get(EXTENT + suffix)
    assert value is not None, f"no extent {extent}"
    records.delete(live_pages(extent))
    records.delete(EXTENT + suffix)
    records.put(FREED + suffix, lsn.to_bytes(8, "little") + value)
