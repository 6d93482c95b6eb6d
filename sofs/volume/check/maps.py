"""Checking maps: every count and reference recomputed from the leaves, and compared with what is recorded.

The leaves say which pages there are. From them follow each inode's pages, how often each page is named, which pages the windows must place, how many are
live in each extent and in the log. All of that is also recorded, kept up to date by `mapping.py`; here the two are compared.
Names are held in memory as runs, window by window: about 100 bytes for each 256 KiB of data that was written in one piece, up to 64 times as much for data that
was written page by page.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from sofs.errors import Damaged
from sofs.pool import Placement
from sofs.types import PAGE, Kind, Lsn, VolumeId
from sofs.volume import keys, leaves, windows
from sofs.volume.check.clones import CloneCheck
from sofs.volume.check.snapshots import SnapshotCheck
from sofs.volume.check.view import Note, View, decode_inode
from sofs.volume.extents import NEXT, decode_extent, decode_freed, live
from sofs.volume.inode import CLONED, SHARES_PAGES
from sofs.volume.maps import way as way_of


class MapCheck:
    """The check of one view; `run` does all of it, and leaves what it found out for the checks of disks and data."""

    def __init__(self, view: View, volume: VolumeId, log_start: Lsn, log_end: Lsn, note: Note) -> None:
        self._view = view
        self._volume = volume
        self._log = range(log_start, log_end)
        self._note = note
        value = view.get(keys.DESTAGED)
        self.destaged = 0 if value is None else int.from_bytes(value, "little")
        self._names: dict[int, list[tuple[int, int, int]]] = {}
        """By window: (offset, pages, map) of each run that a leaf names."""
        self._pages: Counter[int] = Counter()
        self._last: dict[int, int] = {}
        """The last page of each map that has data."""
        self._reserved = 0
        self.placed = 0
        """Pages with data that leaves name."""
        self._log_pages = 0
        self._shares: set[int] = set()
        self.extents: dict[int, Placement] = {}
        self.freed: dict[int, Placement] = {}
        self._windows_of: dict[int, frozenset[int]] = {}
        self._live: Counter[int] = Counter()
        self.clones = CloneCheck(view, note)
        self.snapshots = SnapshotCheck(view, note)
        self.sizes: dict[int, int] = {}
        """By map, of files that take part in clones."""

    async def run(self, pause: Callable[[], Awaitable[None]]) -> None:
        for check in (self.snapshots.load, self.clones.load, self._leaves, self._inodes, self._extents):
            for count, _ in enumerate(check()):
                if count % 64 == 0:
                    await pause()
        for count, window in enumerate(self._all_windows()):
            if count % 64 == 0:
                await pause()
            self._window(window)
        self._counts()
        self.snapshots.counts()

    # Reading what there is

    def _leaves(self) -> Iterator[None]:
        for key, leaf in self._view.walk(keys.LEAF):
            yield
            map_, index = int.from_bytes(key[1:9]), int.from_bytes(key[9:])
            where = f"{_owner(map_)}, leaf {index}"
            if len(key) != 17 or len(leaf) != leaves.SIZE:
                self._note(where, f"{len(leaf)} bytes instead of {leaves.SIZE}")
                continue
            cloned = self.clones.takes_part(map_)
            if leaf == leaves.EMPTY and not cloned and not self._was_cloned(map_):
                self._note(where, "stored although it holds nothing")
            pages = leaves.addresses(leaf, 0, keys.LEAF_PAGES)
            last = -1
            self._pages[map_] += len(pages) - pages.count(keys.HOLE)
            self._reserved += pages.count(keys.RESERVED)
            for start, address, count in leaves.runs(pages):
                if address >= leaves.PLACED:
                    self.placed += count
                    self._last[map_] = last = index * keys.LEAF_PAGES + start + count - 1
                    for window, offset, number in windows.pieces(address, count):
                        self._names.setdefault(window, []).append((offset, number, map_))
            if cloned:
                self.clones.add(map_, index, len(pages) - pages.count(keys.HOLE), last)

    def _was_cloned(self, map_: int) -> bool:
        """Whether it is a map that had something to hide once."""
        value = self._view.get(keys.bucket(keys.INODE, map_))
        return map_ >= keys.MAP_BORN or (value is not None and bool(value[1] & CLONED))

    def _inodes(self) -> Iterator[None]:
        seen = set()
        for key, value in self._view.walk(keys.INODE):
            yield
            number = int.from_bytes(key[1:9])
            where = f"inode {number}"
            record = decode_inode(number, value, self._note)
            if record is None:
                seen.add(number)
                continue
            map_ = number
            last = -1
            if record.marks & CLONED:
                way = way_of(key[1:], value)
                map_ = int.from_bytes(way.map)
                inherited, last = self.clones.inherited(way, number)
                if value[-9] & 0x80 and map_ in self._pages:
                    self._note(where, "has leaves of its own and says that it has none")
                self.sizes[map_] = record.size
                if record.allocated != record.pages + inherited << 12:
                    self._note(where, f"says {record.allocated >> 12} pages, {record.pages + inherited} are seen")
            seen.add(map_)
            if record.pages != self._pages[map_]:
                self._note(where, f"says {record.pages} pages, its leaves have {self._pages[map_]}")
            if record.kind != Kind.FILE and self._pages[map_]:
                self._note(where, "has data and is not a regular file")
            last = max(self._last.get(map_, -1), last)
            if last * PAGE >= record.size:
                self._note(where, f"has data at page {last}, behind its end at {record.size}")
            if record.marks & SHARES_PAGES:
                self._shares.add(map_)
        self._shares |= self.clones.frozen.keys()
        for map_ in sorted(self._pages.keys() - seen - self.clones.frozen.keys()):
            self._note(_owner(map_), "has leaves and does not exist")
        self.clones.finish()

    def _extents(self) -> Iterator[None]:
        value = self._view.get(NEXT)
        limit = 1 if value is None else int.from_bytes(value, "little")
        slots: dict[tuple[int, int], int] = {}
        for key, value in self._view.walk(keys.EXTENT):
            yield
            number = int.from_bytes(key[1:9])
            where = f"extent {number}"
            if len(key) > keys.BUCKET:
                if self._view.get(key[: keys.BUCKET]) is None:
                    self._note(where, "has a count of live pages and no record")
                continue
            try:
                placement, named = decode_extent(self._volume, number, value)
            except Damaged as error:
                self._note(where, str(error))
                continue
            self.extents[number] = placement
            self._windows_of[number] = frozenset(named)
            self._slots(slots, placement)
            if number >= limit:
                self._note(where, f"its number was never granted: the next is {limit}")
        for key, value in self._view.walk(keys.FREED):
            yield
            number = int.from_bytes(key[1:9])
            if number in self.extents:
                self._note(f"extent {number}", "is recorded as freed and as in use")
            try:
                self.freed[number] = decode_freed(self._volume, number, value)[1]
            except Damaged as error:
                self._note(f"extent {number}", str(error))
            # Its slots may hold another extent already: deletion from the pool comes before the record goes.

    def _slots(self, slots: dict[tuple[int, int], int], placement: Placement) -> None:
        for fragment in placement.fragments:
            other = slots.setdefault((fragment.disk, fragment.slot), placement.id.number)
            if other != placement.id.number:
                self._note(f"extent {placement.id.number}", f"lies in slot {fragment.slot} of disk {fragment.disk:x}, as extent {other} does")

    # Comparing

    def _all_windows(self) -> list[int]:
        recorded = {int.from_bytes(key[1:9]) for tag in (keys.PLACES, keys.REFERENCES) for key, _ in self._view.walk(tag)}
        return sorted(recorded | self._names.keys() | self.snapshots.windows())

    def _window(self, window: int) -> None:
        try:
            self._compare(window)
        except Damaged as error:
            self._note(f"window {window}", str(error))

    def _compare(self, window: int) -> None:
        counts: Counter[int] = Counter()
        for offset, pages, _ in self._names.get(window, ()):
            counts.update(range(offset, offset + pages * PAGE, PAGE))
        self._references(window, counts)
        named = counts.keys() | self.snapshots.window(window, counts)
        self._overlaps(window, named)
        self._places(window, named)

    def _overlaps(self, window: int, pages: set[int]) -> None:
        before = -PAGE
        for offset in sorted(pages):
            if offset - before < PAGE:
                self._note(_name(window, offset), f"overlaps the page {_name(window, before)}")
            before = offset

    def _references(self, window: int, counts: Counter[int]) -> None:
        value = self._view.get(keys.bucket(keys.REFERENCES, window))
        listed = {} if value is None else {offset + page * PAGE: count for offset, pages, count in windows.references(value) for page in range(pages)}
        for offset, count in counts.items():
            recorded = listed.get(offset, 1)
            if recorded != count:
                self._note(_name(window, offset), f"{recorded} references are recorded, {count} leaves name it")
        for offset in listed.keys() - counts.keys():
            self._note(_name(window, offset), f"{listed[offset]} references are recorded, no leaf names it")
        for offset, pages, map_ in self._names.get(window, ()) if listed else ():
            shared = any(name in listed for name in range(offset, offset + pages * PAGE, PAGE))
            if shared and map_ not in self._shares:
                self._note(_owner(map_), f"shares {_name(window, offset)} and is not marked so")

    def _places(self, window: int, pages: set[int]) -> None:
        """`pages` are the pages that leaves or dead lists name."""
        value = self._view.get(keys.bucket(keys.PLACES, window))
        placed: set[int] = set()
        for place in windows.places(value) if value else ():
            self._place(window, place)
            for page in range(place.pages):
                offset = place.offset + page * PAGE
                placed.add(offset)
                if offset not in pages:
                    self._note(_name(window, offset), f"has a place in extent {place.extent}, and no leaf names it")
        base = window << keys.WINDOW_SHIFT
        for offset in pages:
            in_log = self.destaged <= base + offset < keys.EXTENT_BORN
            if in_log:
                self._log_pages += 1
                if base + offset not in self._log:
                    self._note(_name(window, offset), "should be in the log, which does not reach there")
            if in_log and offset in placed:
                self._note(_name(window, offset), "is in the log and has a place in an extent")
            if not in_log and offset not in placed:
                self._note(_name(window, offset), "is named by a leaf and has no place")

    def _place(self, window: int, place: windows.Place) -> None:
        where = _name(window, place.offset)
        self._live[place.extent] += place.pages
        placement = self.extents.get(place.extent)
        if placement is None:
            self._note(where, f"has a place in extent {place.extent}, which is not recorded")
            return
        if (place.at + place.pages) * PAGE > placement.length:
            self._note(where, f"has a place behind the end of extent {place.extent}")
        if window not in self._windows_of[place.extent]:
            self._note(where, f"extent {place.extent} does not list this window")

    def _counts(self) -> None:
        for number in self.extents:
            value = self._view.get(keys.live_pages(number))
            recorded = 0 if value is None or len(value) != 4 else live(value)
            if recorded != self._live[number] or not recorded:
                self._note(f"extent {number}", f"{recorded} live pages are recorded, {self._live[number]} are")
        for key, counted, what in (
            (keys.LOG_PAGES, self._log_pages, "live pages in the log"),
            (keys.RESERVED_PAGES, self._reserved, "reserved pages"),
        ):
            value = self._view.get(key)
            recorded = 0 if value is None else int.from_bytes(value, "little", signed=True)
            if recorded != counted:
                self._note("volume", f"{recorded} {what} are recorded, there are {counted}")


def _owner(map_: int) -> str:
    """Whose leaves they are: as a rule a map's number is its file's."""
    return f"map {map_:x}" if map_ >= keys.MAP_BORN else f"inode {map_}"


def _name(window: int, offset: int) -> str:
    """A page's name as people can look it up."""
    address = (window << keys.WINDOW_SHIFT) + offset
    if address >= keys.EXTENT_BORN:
        number = (address - keys.EXTENT_BORN) >> keys.EXTENT_SHIFT
        return f"page {address & ((1 << keys.EXTENT_SHIFT) - 1)} of extent {number}"
    return f"page {address} of the log"
