"""Dead lists: pages that no living file names any more, and snapshots do.

When the last reference of a page goes and the newest snapshot was taken while the page was there, the page joins that snapshot's dead list
instead of being freed; it keeps its place. A page that is not reborn (below) has lived without a break, so the snapshots that hold it
are those from the first one behind its birth up to the one in whose list it stands. Deleting a snapshot therefore
frees those of its list that were born behind the next older snapshot, and passes the rest on to that one (`snapshots/operations.py`).

    K  window    snapshot u64   pages of this window: offset in it u32, pages u16, birth u64 (0: as the name says)
    H  snapshot  snapshot u64   how many pages that are in the first snapshot's list, and nowhere else, the second is the oldest to hold, i64

What a snapshot alone holds is therefore one count. The restoration of a snapshot brings dead pages back to life: such a page stays in the list
that it is in, and its second life has a birth of its own. It is gone when it is in no list and does not live; while it lives, or is in several lists,
no snapshot holds it alone.

    Y  window    reborn pages that live, and dead ones in several lists: offset u32, pages u16, lists u16, lives u8, birth of that life u64
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from sofs.errors import Damaged
from sofs.types import PAGE, Lsn
from sofs.volume.batch import Mutator
from sofs.volume.keys import BUCKET, DEAD, DEAD_COUNT, REBORN, WINDOW_SHIFT
from sofs.volume.snapshots.saving import index_key

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
    return {offset + page * PAGE for _, rows in lists(records, window) for offset, pages, _ in rows for page in range(pages)}


def keep(records: Mutator, window: int, offset: int, pages: int) -> list[tuple[int, int]]:
    """Puts pages of a window that have lost their last reference on the newest snapshot's dead list; gives the runs that nothing holds."""
    history = records.history
    newest = history.newest
    assert newest is not None
    value = records.get(REBORN + window.to_bytes(8))
    base = window << WINDOW_SHIFT
    if value is None:
        # Names that follow one another within a window were born together.
        oldest = history.oldest(base + offset)
        if not oldest:
            return [(offset, pages)]
        _add(records, window, newest.number, dict.fromkeys(range(offset, offset + pages * PAGE, PAGE), 0))
        _count(records, newest.number, oldest, pages)
        return []
    known = lives(value)
    gone: list[tuple[int, int]] = []
    for page in range(offset, offset + pages * PAGE, PAGE):
        life = known.pop(page, Life(0, True, 0))
        buried = bool(_oldest(records, base + page, life.birth))
        if buried:
            _add(records, window, newest.number, {page: life.birth})
        count = life.lists + buried
        if not count:
            gone.append((page, 1))
        elif count == 1:
            _count_sole(records, window, page, 1)
        else:
            known[page] = Life(count, False, 0)
    _put_lives(records, window, known)
    return gone


def _oldest(records: Mutator, name: int, birth: int) -> int:
    """The oldest snapshot that holds a page in this life of it; 0 if none does."""
    return records.history.after(birth) if birth else records.history.oldest(name)


def _count_sole(records: Mutator, window: int, page: int, amount: int) -> None:
    """Counts a page that is in one list only."""
    for number, rows in lists(records, window):
        for grave in rows:
            if grave.offset <= page < grave.offset + grave.pages * PAGE:
                _count(records, number, _oldest(records, (window << WINDOW_SHIFT) + page, grave.birth), amount)
                return
    raise AssertionError("a dead page that is in no list")


def _add(records: Mutator, window: int, number: int, births: dict[int, int]) -> None:
    """Adds pages to a snapshot's dead list."""
    place = DEAD + window.to_bytes(8)
    key = place + number.to_bytes(8)
    value = records.get(key)
    if value is None:
        records.put(index_key(number, place), b"")
    else:
        known = {offset + page * PAGE: birth for offset, pages, birth in graves(value) for page in range(pages)}
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
    place = DEAD + window.to_bytes(8)
    key = place + number.to_bytes(8)
    value = records.get(key)
    assert value is not None, f"no dead list of snapshot {number} in window {window}"
    records.delete(key)
    records.delete(index_key(number, place))
    reborn = records.get(REBORN + window.to_bytes(8))
    known = lives(reborn) if reborn is not None else {}
    older, _ = records.history.neighbours(number)
    base = window << WINDOW_SHIFT
    passed: dict[int, int] = {}
    freed: list[tuple[int, int]] = []
    for start, pages, birth in _split(graves(value), known):
        oldest = _oldest(records, base + start, birth)
        assert oldest, "a dead page that no snapshot ever held"
        life = known.get(start)
        counted = life is None or (life.lists == 1 and not life.lives)
        if counted:
            _count(records, number, oldest, -pages)
        if oldest != number:
            passed.update(dict.fromkeys(range(start, start + pages * PAGE, PAGE), birth))
            if counted:
                _count(records, older, oldest, pages)
        elif life is None:
            freed.append((start, pages))
        else:
            freed += _leave(records, window, start, life, known)
    if passed:
        _add(records, window, older, passed)
    if reborn is not None:
        _put_lives(records, window, known)
    return freed


def _split(rows: list[Grave], known: dict[int, Life]) -> Iterator[Grave]:
    """The rows, page by page where some are of reborn pages."""
    for row in rows:
        if not known:
            yield row
            continue
        for page in range(row.pages):
            yield Grave(row.offset + page * PAGE, 1, row.birth)


def _leave(records: Mutator, window: int, page: int, life: Life, known: dict[int, Life]) -> list[tuple[int, int]]:
    """A reborn page is in one list less; gives it if it is gone with that."""
    count = life.lists - 1
    if life.lives or count > 1:
        known[page] = life._replace(lists=count)
        return []
    del known[page]
    if not count:
        return [(page, 1)]
    _count_sole(records, window, page, 1)
    return []


def bring_back(records: Mutator, window: int, offset: int, pages: int, lsn: Lsn) -> list[tuple[int, int]]:
    """Gives those of the pages that are dead another life; the runs that live already are returned."""
    value = records.get(REBORN + window.to_bytes(8))
    known = lives(value) if value is not None else {}
    dead = dead_pages(records, window)
    living: list[tuple[int, int]] = []
    for page in range(offset, offset + pages * PAGE, PAGE):
        life = known.get(page, Life(1, page not in dead, 0))
        if life.lives:
            living.append((page, 1))
            continue
        if life.lists == 1:
            # Whoever deletes that snapshot frees it no longer.
            _count_sole(records, window, page, -1)
        known[page] = Life(life.lists, True, lsn)
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
