"""Windows of page names: where the pages of extents lie, and which pages have several references.

The names of pages (`keys.py`) are numbers; a window is 256 KiB of them, so at most 64 pages begin in one. A window's record is a
packed list of runs, each a number of pages whose names follow one another, in ascending order of names, stored by columns so that
one name is found by bisection (0.6 us) and a run is cut out by slicing.

Places (`W`): the run's offset in the window (u32), pages (u16), page in the extent at which it lies (u16), extent number (u64). Only live pages are
listed, so an extent's live pages are exactly those that its windows name.

References (`R`): offset (u32), pages (u16), and how many leaves name each of these pages (u32). A page that is not listed has
one reference. A page stays listed, with a count of 1 if need be, from its first clone to its last reference, and so does one in the log that
was dead and comes back with a snapshot: so a page is live if the leaf that it was written for still names it or if it is listed here
(destaging relies on this).
"""

import struct
import sys
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from sofs.errors import Damaged
from sofs.types import PAGE
from sofs.volume.keys import WINDOW_SHIFT

# Columns are read through memoryview.cast, which knows only the machine's own order.
assert sys.byteorder == "little", "sofs runs on little-endian machines only"

WINDOW = 1 << WINDOW_SHIFT
_MASK = WINDOW - 1
_PLACE = 16
"""Bytes of one place: 4 + 2 + 2 + 8."""
_REFERENCE = 10


class Place(NamedTuple):
    """A run of pages in one extent."""

    offset: int
    """Of the first page's name within the window."""
    pages: int
    at: int
    """The page of the extent where the run begins."""
    extent: int


def pieces(address: int, pages: int) -> list[tuple[int, int, int]]:
    """Cuts a run of names at window bounds: (window, offset, pages) each."""
    found = []
    while True:
        window, offset = address >> WINDOW_SHIFT, address & _MASK
        fits = (WINDOW - offset + PAGE - 1) // PAGE
        if pages <= fits:
            found.append((window, offset, pages))
            return found
        found.append((window, offset, fits))
        address += fits * PAGE
        pages -= fits


# Places


def encode_places(entries: Iterable[Place]) -> bytes:
    """Packs places that are in order; neighbours that continue each other become one."""
    merged: list[Place] = []
    for entry in entries:
        if merged:
            last = merged[-1]
            if entry.extent == last.extent and entry.offset == last.offset + last.pages * PAGE and entry.at == last.at + last.pages:
                merged[-1] = last._replace(pages=last.pages + entry.pages)
                continue
        merged.append(entry)
    if not merged:
        return b""
    n = len(merged)
    offsets, counts, ats, extents = zip(*merged, strict=True)
    return struct.pack(f"<{n}I{n}H{n}H{n}Q", *offsets, *counts, *ats, *extents)


def places(value: bytes) -> list[Place]:
    """All places of a window, in order of names. Raises `Damaged`."""
    if len(value) % _PLACE:
        raise Damaged(f"places of {len(value)} bytes")
    n = len(value) // _PLACE
    columns = struct.unpack(f"<{n}I{n}H{n}H{n}Q", value)
    rows = zip(columns[:n], columns[n : 2 * n], columns[2 * n : 3 * n], columns[3 * n :], strict=True)
    return [Place(*row) for row in rows]


def _row(value: bytes, n: int, offset: int) -> int:
    """The row of the last run that begins at or before `offset`; -1 if none does."""
    return bisect_right(memoryview(value)[: 4 * n].cast("I"), offset) - 1


_U16 = struct.Struct("<H").unpack_from
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from


def find(value: bytes, offset: int) -> tuple[int, int, int] | None:
    """Where the page named by `offset` lies: (extent, page in it, pages that follow there including this one)."""
    n = len(value) // _PLACE
    row = _row(value, n, offset)
    if row < 0:
        return None
    skip = (offset - _U32(value, row * 4)[0]) // PAGE
    left = _U16(value, 4 * n + row * 2)[0] - skip
    if left <= 0:
        return None
    return _U64(value, 8 * n + row * 8)[0], _U16(value, 6 * n + row * 2)[0] + skip, left


def remove(value: bytes, offset: int, pages: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Takes `pages` names from `offset` on out of a window; also gives how many of them lay in which extent.

    Every name must be listed: an unlisted one is a violated invariant.
    """
    n = len(value) // _PLACE
    row = _row(value, n, offset)
    assert row >= 0, f"no place for name {offset}"
    start, count = _U32(value, row * 4)[0], _U16(value, 4 * n + row * 2)[0]
    before = (offset - start) // PAGE
    after = count - before - pages
    if after < 0:
        return _remove_part(value, offset, pages)
    at, extent = _U16(value, 6 * n + row * 2)[0], _U64(value, 8 * n + row * 8)[0]
    rest: list[tuple[int, int, int, int]] = []
    if before:
        rest.append((start, before, at, extent))
    if after:
        rest.append((offset + pages * PAGE, after, at + before + pages, extent))
    return _replaced(value, n, row, rest), [(extent, pages)]


def _replaced(value: bytes, n: int, row: int, rows: list[tuple[int, int, int, int]]) -> bytes:
    """The record with other rows in one row's place: what nearly every overwrite comes to.

    The others are not decoded: 11 us instead of 130 in a record of 60 rows.
    """
    offsets = counts = ats = extents = b""
    for offset, pages, at, extent in rows:
        offsets += offset.to_bytes(4, "little")
        counts += pages.to_bytes(2, "little")
        ats += at.to_bytes(2, "little")
        extents += extent.to_bytes(8, "little")
    count_at, at_at, extent_at = 4 * n + 2 * row, 6 * n + 2 * row, 8 * n + 8 * row
    return b"".join(
        (
            value[: 4 * row],
            offsets,
            value[4 * row + 4 : count_at],
            counts,
            value[count_at + 2 : at_at],
            ats,
            value[at_at + 2 : extent_at],
            extents,
            value[extent_at + 8 :],
        )
    )


def _remove_part(value: bytes, offset: int, pages: int) -> tuple[bytes, list[tuple[int, int]]]:
    end = offset + pages * PAGE
    kept: list[Place] = []
    gone: list[tuple[int, int]] = []
    for place in places(value):
        start, stop = place.offset, place.offset + place.pages * PAGE
        low, high = max(start, offset), min(stop, end)
        if low >= high:
            kept.append(place)
            continue
        before, taken = (low - start) // PAGE, (high - low) // PAGE
        if before:
            kept.append(place._replace(pages=before))
        after = place.pages - before - taken
        if after:
            kept.append(Place(high, after, place.at + before + taken, place.extent))
        gone.append((place.extent, taken))
    assert sum(count for _, count in gone) == pages, f"no place for some of {pages} names from {offset}"
    return encode_places(kept), gone


def merge(value: bytes | None, added: Iterable[Place]) -> bytes:
    """The record with further places, of names that are not listed yet, in any order."""
    known = places(value) if value else []
    return encode_places(sorted([*known, *added]))


# References


def references(value: bytes) -> list[tuple[int, int, int]]:
    """All runs of a window's references: (offset, pages, count). Raises `Damaged`."""
    if len(value) % _REFERENCE:
        raise Damaged(f"references of {len(value)} bytes")
    n = len(value) // _REFERENCE
    columns = struct.unpack(f"<{n}I{n}H{n}I", value)
    return list(zip(columns[:n], columns[n : 2 * n], columns[2 * n :], strict=True))


def share(value: bytes | None, offset: int, pages: int) -> bytes:
    """One more reference for each of the pages."""
    return _packed(_changed(references(value) if value else [], offset, pages, 1))


def listed(value: bytes | None, offset: int, pages: int) -> bytes:
    """As many references as before, but listed."""
    return _packed(_changed(references(value) if value else [], offset, pages, 0))


def release(value: bytes, offset: int, pages: int) -> tuple[bytes, list[tuple[int, int]]]:
    """One reference less for each of the pages; also gives the runs (offset, pages) that have none left."""
    rows = _changed(references(value), offset, pages, -1)
    gone = [(start, number) for start, number, count in rows if not count]
    return _packed([row for row in rows if row[2]] if gone else rows), gone


def _changed(rows: list[tuple[int, int, int]], offset: int, pages: int, change: int) -> list[tuple[int, int, int]]:
    """The runs with the counts of these pages changed: a page that is not listed has one reference.

    Runs are cut and joined, not taken apart into pages: 9 us for a leaf, where a dictionary of its pages takes 47.
    """
    end = offset + pages * PAGE
    at = offset
    found: list[tuple[int, int, int]] = []
    for start, number, count in rows:
        stop = start + number * PAGE
        if at < end and start > at:
            _append(found, at, min(start, end), 1 + change)
            at = min(start, end)
        low, high = max(start, offset), min(stop, end)
        if low >= high:
            _append(found, start, stop, count)
            continue
        _append(found, start, low, count)
        _append(found, low, high, count + change)
        _append(found, high, stop, count)
        at = high
    _append(found, at, end, 1 + change)
    return found


def _append(rows: list[tuple[int, int, int]], start: int, stop: int, count: int) -> None:
    """Adds a run behind the others, to the last one if it goes on with that."""
    if start >= stop:
        return
    number = (stop - start) // PAGE
    if rows:
        before, pages, same = rows[-1]
        if same == count and before + pages * PAGE == start:
            rows[-1] = (before, pages + number, count)
            return
    rows.append((start, number, count))


def _packed(rows: list[tuple[int, int, int]]) -> bytes:
    if not rows:
        return b""
    n = len(rows)
    offsets, lengths, counts = zip(*rows, strict=True)
    return struct.pack(f"<{n}I{n}H{n}I", *offsets, *lengths, *counts)
