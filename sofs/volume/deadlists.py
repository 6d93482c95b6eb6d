"""Dead lists: pages that no living file names any more, and snapshots do.

When the last reference of a page goes and the newest snapshot was taken while the page was there, the page joins that snapshot's dead list
instead of being freed; it keeps its place. A page that is not reborn (below) has lived without a break, so the snapshots that hold it
are those from the first one behind its birth up to the one in whose list it stands. Deleting a snapshot therefore
frees those of its list that were born behind the next older snapshot, and passes the rest on to that one (`snapshot_operations.py`).

    K  window    snapshot u64   pages of this window: offset in it u32, pages u16, birth u64 (0: as the name says)
    H  snapshot  snapshot u64   how many pages of the first snapshot's list the second is the oldest to hold, i64

What a snapshot alone holds is therefore one count. The restoration of a snapshot brings dead pages back to life: such a page stays in the list
that it is in, and its second life has a birth of its own. It is gone when it is in no list and does not live.

    Y  window    reborn pages: offset u32, pages u16, lists that have it u16, lives u8, birth of that life u64
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from sofs.errors import Damaged
from sofs.types import PAGE, Lsn
from sofs.volume.batch import Mutator
from sofs.volume.keys import BUCKET, DEAD, DEAD_COUNT, REBORN, WINDOW_SHIFT
from sofs.volume.saving import index_key

__all__ = ["Grave", "Life", "bring_back", "dead_pages", "graves", "keep", "lists", "lives", "pass_on"]

_GRAVE = struct.Struct("<IHQ")
_LIFE = struct.Struct("<IHHBQ")
_COUNT = struct.Struct("<q")


class Grave(NamedTuple):
    """Pages of a dead list whose names follow one another."""

    offset: int
    pages: int
    birth: int


class Life(NamedTuple):
    """What is known of a page that was reborn."""

    lists: int
    """Dead lists that have it."""
    lives: bool
    birth: int
    """Position of the batch that brought it back, if it lives."""


def graves(value: bytes) -> list[Grave]:
    """A dead list's record. Raises `Damaged`."""
    if len(value) % _GRAVE.size:
        raise Damaged(f"a dead list of {len(value)} bytes")
    return [Grave._make(row) for row in _GRAVE.iter_unpack(value)]


def lives(value: bytes) -> dict[int, Life]:
    """A record of reborn pages, by offset. Raises `Damaged`."""
    if len(value) % _LIFE.size:
        raise Damaged(f"reborn pages of {len(value)} bytes")
    return {
        offset + page * PAGE: Life(lists, bool(lives), birth)
        for offset, pages, lists, lives, birth in _LIFE.iter_unpack(value)
        for page in range(pages)
    }


def _encode_graves(births: dict[int, int]) -> bytes:
    rows: list[Grave] = []
    for offset in sorted(births):
        birth = births[offset]
        if rows and rows[-1].birth == birth and rows[-1].offset + rows[-1].pages * PAGE == offset:
            rows[-1] = rows[-1]._replace(pages=rows[-1].pages + 1)
        else:
            rows.append(Grave(offset, 1, birth))
    return b"".join(_GRAVE.pack(*row) for row in rows)


def _put_lives(records: Mutator, window: int, known: dict[int, Life]) -> None:
    rows: list[tuple[int, int, Life]] = []
    for offset in sorted(known):
        life = known[offset]
        if rows and rows[-1][2] == life and rows[-1][0] + rows[-1][1] * PAGE == offset:
            rows[-1] = (rows[-1][0], rows[-1][1] + 1, life)
        else:
            rows.append((offset, 1, life))
    key = REBORN + window.to_bytes(8)
    if rows:
        records.put(key, b"".join(_LIFE.pack(offset, pages, *life) for offset, pages, life in rows))
    else:
        records.delete(key)


def lists(records: Mutator, window: int) -> Iterator[tuple[int, list[Grave]]]:
    """Every snapshot's dead list of a window: (number, pages)."""
    for key, value in records.scan(DEAD + window.to_bytes(8)):
        yield int.from_bytes(key[BUCKET:]), graves(value)


def dead_pages(records: Mutator, window: int) -> set[int]:
    """The offsets of all pages of a window that some dead list has."""
    return {
        offset + page * PAGE
        for _, rows in lists(records, window)
        for offset, pages, _ in rows
        for page in range(pages)
    }


def keep(records: Mutator, window: int, offset: int, pages: int) -> list[tuple[int, int]]:
    """Puts pages of a window that have lost their last reference on the newest snapshot's dead list; gives the runs that nothing holds."""
    history = records.history
    value = records.get(REBORN + window.to_bytes(8))
    base = window << WINDOW_SHIFT
    if value is None:
        # Names that follow one another within a window were born together.
        oldest = history.oldest(base + offset)
        if not oldest:
            return [(offset, pages)]
        _bury(records, window, offset, pages, 0, oldest)
        return []
    known = lives(value)
    gone: list[tuple[int, int]] = []
    for page in range(offset, offset + pages * PAGE, PAGE):
        life = known.get(page)
        oldest = history.oldest(base + page) if life is None else history.after(life.birth)
        if oldest:
            _bury(records, window, page, 1, 0 if life is None else life.birth, oldest)
        if life is not None:
            life = Life(life.lists + (1 if oldest else 0), False, 0)
            known[page] = life
            if not life.lists:
                del known[page]
        if not oldest and (life is None or not life.lists):
            gone.append((page, 1))
    _put_lives(records, window, known)
    return gone


def _bury(records: Mutator, window: int, offset: int, pages: int, birth: int, oldest: int) -> None:
    newest = records.history.newest
    assert newest is not None
    _add(records, window, newest.number, dict.fromkeys(range(offset, offset + pages * PAGE, PAGE), birth))
    _count(records, newest.number, oldest, pages)


def _add(records: Mutator, window: int, number: int, births: dict[int, int]) -> None:
    """Adds pages to a snapshot's dead list."""
    place = DEAD + window.to_bytes(8)
    key = place + number.to_bytes(8)
    value = records.get(key)
    if value is None:
        records.put(index_key(number, place), b"")
    else:
        known = {
            offset + page * PAGE: birth for offset, pages, birth in graves(value) for page in range(pages)
        }
        assert not known.keys() & births.keys(), "a page dies twice in one list"
        births = known | births
    records.put(key, _encode_graves(births))


def _count(records: Mutator, number: int, oldest: int, pages: int) -> None:
    key = DEAD_COUNT + number.to_bytes(8) + oldest.to_bytes(8)
    value = records.get(key)
    total = pages if value is None else pages + _COUNT.unpack(value)[0]
    assert total >= 0, "a dead list has fewer pages than leave it"
    if total:
        records.put(key, _COUNT.pack(total))
    else:
        records.delete(key)


def pass_on(records: Mutator, window: int, number: int) -> list[tuple[int, int]]:
    """Empties a window's dead list of a snapshot that is being deleted: the next older one gets what it holds. Gives the runs that nothing holds any more."""
    history = records.history
    place = DEAD + window.to_bytes(8)
    key = place + number.to_bytes(8)
    value = records.get(key)
    assert value is not None, f"no dead list of snapshot {number} in window {window}"
    records.delete(key)
    records.delete(index_key(number, place))
    older, _ = history.neighbours(number)
    base = window << WINDOW_SHIFT
    passed: dict[int, int] = {}
    freed: list[tuple[int, int]] = []
    for offset, pages, birth in graves(value):
        oldest = history.after(birth) if birth else history.oldest(base + offset)
        assert oldest, "a dead page that no snapshot ever held"
        _count(records, number, oldest, -pages)
        if oldest == number:
            freed.append((offset, pages))
        else:
            passed.update(dict.fromkeys(range(offset, offset + pages * PAGE, PAGE), birth))
            _count(records, older, oldest, pages)
    if passed:
        _add(records, window, older, passed)
    return _out_of_list(records, window, freed)


def _out_of_list(records: Mutator, window: int, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of the pages that are in no other list and do not live, after one list has let go of them."""
    value = records.get(REBORN + window.to_bytes(8)) if runs else None
    if value is None:
        return runs
    known = lives(value)
    gone: list[tuple[int, int]] = []
    for offset, pages in runs:
        for page in range(offset, offset + pages * PAGE, PAGE):
            life = known.get(page)
            if life is None:
                gone.append((page, 1))
                continue
            life = life._replace(lists=life.lists - 1)
            known[page] = life
            if not life.lists and not life.lives:
                del known[page]
                gone.append((page, 1))
    _put_lives(records, window, known)
    return gone


def bring_back(records: Mutator, window: int, offset: int, pages: int, lsn: Lsn) -> list[tuple[int, int]]:
    """Gives those of the pages that are dead another life; the runs that live already are returned."""
    value = records.get(REBORN + window.to_bytes(8))
    known = lives(value) if value is not None else {}
    dead = dead_pages(records, window)
    living: list[tuple[int, int]] = []
    for page in range(offset, offset + pages * PAGE, PAGE):
        life = known.get(page)
        if life is None and page in dead:
            known[page] = Life(1, True, lsn)
        elif life is not None and not life.lives:
            known[page] = Life(life.lists, True, lsn)
        else:
            living.append((page, 1))
    _put_lives(records, window, known)
    return living


def merge_counts(records: Mutator, number: int, younger: int) -> None:
    """A snapshot is gone whose list is empty: what it was the oldest to hold, the next younger one is the oldest to hold now."""
    for later in records.history.younger(number):
        key = DEAD_COUNT + later.to_bytes(8) + number.to_bytes(8)
        value = records.get(key)
        if value is not None:
            records.delete(key)
            _count(records, later, younger, _COUNT.unpack(value)[0])


def held(value: bytes | None) -> int:
    """The pages that a record `H` counts."""
    return 0 if value is None else int(_COUNT.unpack(value)[0])
