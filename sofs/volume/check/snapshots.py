"""Checking snapshots: what was saved, the index, the dead lists and their counts, compared with each other and with the living maps.

A saved leaf names pages for every snapshot between the one before it with a saved value of its own and its own. Whatever it names and was born
before its snapshot must live or stand in the dead list of that snapshot or a younger one; whatever stands in a dead list must be named by a saved
leaf of that very snapshot. A snapshot that is being deleted is in between: what it names may be gone already, and what it lists be named no more.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from sofs.errors import Damaged
from sofs.types import PAGE
from sofs.volume import keys, leaves, windows
from sofs.volume.check.view import Note, View
from sofs.volume.snapshots import deadlists
from sofs.volume.snapshots.history import READY, SNAPSHOTS, History, Snapshot
from sofs.volume.snapshots.operations import NEXT_SNAPSHOT
from sofs.volume.snapshots.saving import ABSENT, index_key

_NUMBER = (1 << 39) - 1
"""The highest number of a snapshot that the check can deal with: one a second for 17,000 years."""
_SAVED = tuple(sorted(tag.lower() for tag in keys.VERSIONED))


class SnapshotCheck:
    """The part of the check of maps that is about snapshots: `load` reads, `window` compares."""

    def __init__(self, view: View, note: Note) -> None:
        self._view = view
        self._note = note
        self._ready: dict[int, Snapshot] = {}
        self._history = History()
        self._named: dict[int, array[int]] = {}
        """By window: offset, pages and snapshot of each run that a saved leaf names, in one number: there may be very many."""
        self._graves: dict[int, list[tuple[int, deadlists.Grave]]] = {}
        """By window: snapshot and pages of its dead list."""
        self._lives: dict[int, dict[int, deadlists.Life]] = {}
        self._counts: Counter[tuple[int, int]] = Counter()

    # Reading what there is

    def load(self) -> Iterator[None]:
        yield from self._snapshots()
        belongs: set[bytes] = set()
        for tag in _SAVED:
            for key, value in self._view.walk(tag):
                yield
                belongs.add(self._saved(key, value))
        for key, value in self._view.walk(keys.DEAD):
            yield
            belongs.add(self._dead(key, value))
        for key, value in self._view.walk(keys.REBORN):
            yield
            self._reborn(key, value)
        for window, rows in self._graves.items():
            yield
            self._count(window, rows)
        for key, _ in self._view.walk(keys.SAVED_INDEX):
            yield
            if key not in belongs:
                self._note(f"snapshot {int.from_bytes(key[1:9])}", f"its index names {key[9:].hex()}, which is not there")
            belongs.discard(key)
        for key in sorted(belongs):
            self._note(f"snapshot {int.from_bytes(key[1:9])}", f"its index lacks {key[9:].hex()}")

    def _snapshots(self) -> Iterator[None]:
        value = self._view.get(NEXT_SNAPSHOT)
        limit = 1 if value is None else int.from_bytes(value, "little")
        found: list[tuple[bytes, bytes]] = []
        for key, value in self._view.walk(keys.SNAPSHOT):
            yield
            where = f"snapshot {int.from_bytes(key[9:])}"
            try:
                snapshot = Snapshot.decode(key, value)
            except Damaged as error:
                self._note(where, str(error))
                continue
            found.append((key, value))
            if snapshot.state == READY:
                self._ready[snapshot.number] = snapshot
            if snapshot.number >= min(limit, _NUMBER):
                self._note(where, f"its number was never used: the next is {limit}")
            if not key.startswith(SNAPSHOTS):
                self._note(where, "does not stand among the others")
        self._history = History(found)
        all_ = self._history.snapshots
        for older, younger in pairwise(all_):
            if older.lsn >= younger.lsn or older.extents > younger.extents or older.inodes > younger.inodes or older.taken >= younger.taken:
                self._note(f"snapshot {younger.number}", f"is not younger than snapshot {older.number}")

    def _exists(self, number: int, where: str) -> bool:
        if number in self._history:
            return True
        self._note(where, f"belongs to snapshot {number}, which does not exist")
        return False

    def _saved(self, key: bytes, value: bytes) -> bytes:
        place, number = key[:-8], int.from_bytes(key[-8:])
        where = f"saved value {key.hex()}"
        if len(key) < 18 or place[9] != len(place) - 10:
            self._note(where, "its key cannot be read")
        elif value != ABSENT and value[:1] != b"\1":
            self._note(where, f"{len(value)} bytes cannot be read")
        elif self._exists(number, where):
            if self._history[number].lacks(int.from_bytes(place[1:9])):
                self._note(where, f"is of something younger than snapshot {number}")
            if place[:1] == b"l" and value != ABSENT:
                self._leaf(where, number, value[1:])
        return index_key(number, place)

    def _leaf(self, where: str, number: int, leaf: bytes) -> None:
        if len(leaf) != leaves.SIZE:
            self._note(where, f"a leaf of {len(leaf)} bytes instead of {leaves.SIZE}")
            return
        for _, address, count in leaves.runs(leaves.addresses(leaf, 0, keys.LEAF_PAGES)):
            if address >= leaves.PLACED:
                for window, offset, pages in windows.pieces(address, count):
                    self._named.setdefault(window, array("Q")).append(offset << 46 | pages << 39 | number)

    def _dead(self, key: bytes, value: bytes) -> bytes:
        window, number = int.from_bytes(key[1:9]), int.from_bytes(key[9:])
        where = f"dead list of snapshot {number}, window {window}"
        try:
            rows = deadlists.graves(value)
        except Damaged as error:
            self._note(where, str(error))
            rows = []
        if self._exists(number, where):
            for grave in rows:
                base = (window << keys.WINDOW_SHIFT) + grave.offset
                oldest = self._history.after(grave.birth) if grave.birth else self._history.oldest(base)
                if not oldest or oldest > number:
                    self._note(where, f"lists page {base}, which is younger than the snapshot")
            self._graves.setdefault(window, []).extend((number, grave) for grave in rows)
        return index_key(number, key[: keys.BUCKET])

    def _reborn(self, key: bytes, value: bytes) -> None:
        window = int.from_bytes(key[1:9])
        try:
            self._lives[window] = deadlists.lives(value)
        except Damaged as error:
            self._note(f"window {window}", str(error))

    def _count(self, window: int, rows: list[tuple[int, deadlists.Grave]]) -> None:
        lives = self._lives.get(window, {})
        base = window << keys.WINDOW_SHIFT
        for number, grave in rows:
            oldest = self._history.after(grave.birth) if grave.birth else self._history.oldest(base + grave.offset)
            alone = grave.pages
            for page in range(grave.pages) if lives else ():
                life = lives.get(grave.offset + page * PAGE)
                alone -= life is not None and (life.lives or life.lists > 1)
            self._counts[number, oldest] += alone

    # Comparing

    def windows(self) -> set[int]:
        return self._named.keys() | self._graves.keys() | self._lives.keys()

    def window(self, window: int, living: Counter[int]) -> set[int]:
        """Compares one window with what living leaves name in it; gives the offsets of all pages that only snapshots hold."""
        listed: dict[int, list[int]] = {}
        for number, grave in self._graves.get(window, ()):
            for page in range(grave.pages):
                listed.setdefault(grave.offset + page * PAGE, []).append(number)
        self._reborn_pages(window, listed, living)
        named: dict[int, set[int]] = {}
        for run in self._named.get(window, ()):
            offset, pages, number = run >> 46, run >> 39 & 0x7F, run & _NUMBER
            for page in range(offset, offset + pages * PAGE, PAGE):
                named.setdefault(page, set()).add(number)
        base = window << keys.WINDOW_SHIFT
        for offset, numbers in listed.items():
            for number in numbers:
                if number in self._ready and not self._names(number, named.get(offset, set())):
                    self._note(f"page {base + offset}", f"is in the dead list of snapshot {number}, and no saved leaf of that names it")
        for offset, numbers_ in named.items():
            for number in numbers_ & self._ready.keys():
                if not self._held(base, offset, number, listed, living):
                    self._note(f"page {base + offset}", f"is named by a leaf of snapshot {number}, and nothing keeps it")
        return listed.keys() - living.keys()

    def _names(self, number: int, named: set[int]) -> bool:
        """Whether this snapshot has a leaf among these. One that is being deleted passes its leaves on to the next older one."""
        if number in named:
            return True
        passing = [each for each in self._history.younger(number) if each not in self._ready]
        return any(self._history.neighbours(each)[0] == number for each in passing if each in named)

    def _held(self, base: int, offset: int, number: int, listed: dict[int, list[int]], living: Counter[int]) -> bool:
        oldest = self._history.oldest(base + offset)
        if not oldest or oldest > number:
            return False
        return offset in living or any(other >= number for other in listed.get(offset, ()))

    def _reborn_pages(self, window: int, listed: dict[int, list[int]], living: Counter[int]) -> None:
        lives = self._lives.get(window, {})
        base = window << keys.WINDOW_SHIFT
        for offset, life in lives.items():
            if life.lists != len(listed.get(offset, ())):
                self._note(f"page {base + offset}", f"{life.lists} dead lists are recorded, {len(listed.get(offset, ()))} have it")
            if life.lives != (offset in living):
                self._note(f"page {base + offset}", f"is recorded as {'living' if life.lives else 'dead'} and is not")
        for offset, numbers in listed.items():
            if offset in lives:
                continue
            if offset in living:
                self._note(f"page {base + offset}", f"is in the dead list of snapshot {numbers[0]} and lives")
            if len(numbers) > 1:
                self._note(f"page {base + offset}", f"is in the dead lists of snapshots {numbers}")

    def dead_pages(self) -> Iterator[tuple[bytes, int, int]]:
        """Every page that only snapshots hold: key of the dead list that has it, name, checksum as a saved leaf has it."""
        for key, value in self._view.walk(keys.LEAF.lower()):
            if value == ABSENT or len(value) != 1 + leaves.SIZE:
                continue
            pages, sums = leaves.addresses(value[1:], 0, keys.LEAF_PAGES), leaves.sums(value[1:], 0, keys.LEAF_PAGES)
            for address, expected in zip(pages, sums, strict=True):
                if address >= leaves.PLACED and (found := self._grave_of(address, int.from_bytes(key[-8:]))) is not None:
                    yield found, address, expected

    def _grave_of(self, address: int, number: int) -> bytes | None:
        """The key of this snapshot's dead list, if the page stands in it."""
        window = keys.window(address)
        offset = address - (window << keys.WINDOW_SHIFT)
        for other, grave in self._graves.get(window, ()):
            if other == number and grave.offset <= offset < grave.offset + grave.pages * PAGE:
                return keys.bucket(keys.DEAD, window) + number.to_bytes(8)
        return None

    def counts(self) -> None:
        """The counts of dead pages by the oldest snapshot that holds them."""
        recorded = {(int.from_bytes(key[1:9]), int.from_bytes(key[9:])): deadlists.held(value) for key, value in self._view.walk(keys.DEAD_COUNT)}
        for number, oldest in sorted(recorded.keys() | self._counts.keys()):
            told, counted = recorded.get((number, oldest), 0), self._counts[number, oldest]
            if told != counted:
                self._note(f"snapshot {number}", f"{told} dead pages are recorded that snapshot {oldest} is the oldest to hold, there are {counted}")
