"""Leaf values: 256 KiB of a file's map each, as immutable bytes.

A leaf is a page table: 64 addresses (u64, little-endian), then the 64 CRC32Cs (u32) of the pages they name. Which
addresses there are, and what they mean, is told in `keys.py`; a hole's and a reserved page's checksum is 0 and means nothing. A missing
leaf is all holes, and a leaf of holes only is not stored. Values are patched by slicing: 0.3 us for a page.
"""

import struct
from functools import lru_cache

from sofs.volume.keys import LEAF_PAGES, RESERVED

SIZE = LEAF_PAGES * 12
_SUMS_AT = LEAF_PAGES * 8

EMPTY = bytes(SIZE)
"""A leaf of holes."""

PLACED = RESERVED + 1
"""The lowest address that names a page with data; below it, a page reads as zeros."""

ADDRESSES = tuple(struct.Struct(f"<{n}Q") for n in range(LEAF_PAGES + 1))
"""`ADDRESSES[n]` packs n addresses."""

SUMS = tuple(struct.Struct(f"<{n}I") for n in range(LEAF_PAGES + 1))
"""`SUMS[n]` packs n checksums."""


def addresses(leaf: bytes, first: int, count: int) -> tuple[int, ...]:
    """The addresses of `count` pages from the leaf's page `first` on."""
    return ADDRESSES[count].unpack_from(leaf, first * 8)


def sums(leaf: bytes, first: int, count: int) -> tuple[int, ...]:
    """The checksums of the same pages."""
    return SUMS[count].unpack_from(leaf, _SUMS_AT + first * 4)


def patch(leaf: bytes, first: int, count: int, places: bytes, checks: bytes) -> bytes:
    """The leaf with `count` pages from `first` on replaced: packed addresses and packed checksums."""
    last = first + count
    return b"".join((leaf[: first * 8], places, leaf[last * 8 : _SUMS_AT + first * 4], checks, leaf[_SUMS_AT + last * 4 :]))


def runs(pages: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Groups addresses into (index, address, count): pages whose names follow one another, or stretches of zeros.

    Holes and reserved pages, which read the same but mean different things, are kept apart; their `address` is HOLE or RESERVED.
    """
    found: list[tuple[int, int, int]] = []
    start, address = 0, pages[0]
    if address >= PLACED and pages == tuple(range(address, address + len(pages) * 4096, 4096)):
        return [(0, address, len(pages))]  # as large writes leave it: 2 us for a whole leaf, instead of 4.5
    expected = address
    for index, page in enumerate(pages):
        if page != expected:
            found.append((start, address, index - start))
            start, address, expected = index, page, page
        if page >= PLACED:
            expected += 4096
    found.append((start, address, len(pages) - start))
    return found


@lru_cache(512)
def whole(leaf: bytes) -> tuple[int, tuple[int, ...]] | None:
    """The first name and the checksums of a leaf whose 64 pages all have data and names that follow one another, as large writes leave it.

    Remembered, since files that are read in large pieces are read again (4 us, 0.5 from memory; 3.5 KiB each).
    """
    found = runs(addresses(leaf, 0, LEAF_PAGES))
    if len(found) > 1 or found[0][1] < PLACED:
        return None
    return found[0][1], sums(leaf, 0, LEAF_PAGES)


def used(leaf: bytes) -> int:
    """How many of the leaf's pages are not holes."""
    return LEAF_PAGES - ADDRESSES[LEAF_PAGES].unpack_from(leaf).count(0)
