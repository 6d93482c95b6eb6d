"""Checking clones of whole files: what is seen through origins, and who reads through which frozen map, recomputed.

`MapCheck` adds up leaves by map, and asks here what a file or a frozen map sees besides. Memory goes by the leaves of maps that take part in clones.
"""

from collections.abc import Iterator

from sofs.errors import Damaged
from sofs.volume import keys
from sofs.volume.check.view import Note, View
from sofs.volume.inode import CLONED
from sofs.volume.maps import NO_LIMIT, NOTHING, Frozen, Way, decode_frozen, map_of

Leaves = dict[int, tuple[int, int]]
"""By leaf number: pages that are no holes, and the last page with data (-1: none)."""


class CloneCheck:
    """What one view's records say of frozen maps, and what there is."""

    def __init__(self, view: View, note: Note) -> None:
        self._view = view
        self._note = note
        self.frozen: dict[int, Frozen] = {}
        self._listed: dict[int, dict[int, int]] = {}
        """The readers that each frozen map lists: inodes by map."""
        self._reads: dict[int, dict[int, int]] = {}
        """Those that there are."""
        self._own: dict[int, Leaves] = {}
        self._all: dict[int, tuple[Leaves, int, list[int]]] = {}
        """By map: all leaves that are seen in it, their pages, their numbers from the last to the first."""

    def load(self) -> Iterator[None]:
        """To be called first."""
        for key, value in self._view.walk(keys.FROZEN):
            yield
            map_ = int.from_bytes(key[1 : keys.BUCKET])
            if len(key) == keys.BUCKET:
                try:
                    self.frozen[map_] = decode_frozen(value)
                except Damaged as error:
                    self._note(f"frozen map {map_:x}", str(error))
            else:
                self._listed.setdefault(map_, {})[int.from_bytes(key[keys.BUCKET :])] = int.from_bytes(value)
        self._own = {map_: {} for map_ in self.frozen}
        if self.frozen:
            for key, value in self._view.walk(keys.INODE):
                yield
                if value[1] & CLONED:
                    self._own[int.from_bytes(map_of(key[1:], value))] = {}

    def takes_part(self, map_: int) -> bool:
        return map_ in self._own

    def add(self, map_: int, index: int, pages: int, last: int) -> None:
        """A leaf that was found."""
        self._own[map_][index] = pages, last

    def inherited(self, way: Way, inode: int) -> tuple[int, int]:
        """Pages that are seen through the way's origin, and the last one with data (-1: none). `inode` is 0 for a frozen map."""
        if way.origin == NOTHING:
            return 0, -1
        map_, origin = int.from_bytes(way.map), int.from_bytes(way.origin)
        self._reads.setdefault(origin, {})[map_] = inode
        if origin not in self.frozen:
            self._note(f"map {map_:x}", f"reads through map {origin:x}, which does not exist")
            return 0, -1
        seen, pages, order = self._seen(origin)
        own = self._own.get(map_, {})
        if way.limit < NO_LIMIT:
            pages = sum(count for index, (count, _) in seen.items() if index < way.limit)
        pages -= sum(seen[index][0] for index in own if index < way.limit and index in seen)
        last = next((seen[index][1] for index in order if index < way.limit and index not in own and seen[index][1] >= 0), -1)
        return pages, last

    def _seen(self, map_: int) -> tuple[Leaves, int, list[int]]:
        known = self._all.get(map_)
        if known is None:
            found: Leaves = {}
            frozen = self.frozen[map_]
            origin = int.from_bytes(frozen.origin)
            if origin in self.frozen:
                found.update((index, leaf) for index, leaf in self._seen(origin)[0].items() if index < frozen.limit)
            found.update(self._own[map_])
            known = found, sum(pages for pages, _ in found.values()), sorted(found, reverse=True)
            self._all[map_] = known
        return known

    def finish(self) -> None:
        """Compares the frozen maps with their readers, after every inode has been asked for."""
        for map_, frozen in self.frozen.items():
            pages, _ = self.inherited(Way(map_.to_bytes(8), frozen.origin, frozen.limit), 0)
            own = sum(count for count, _ in self._own[map_].values())
            if own != frozen.pages:
                self._note(f"frozen map {map_:x}", f"says {frozen.pages} pages, its leaves have {own}")
            if pages != frozen.inherited:
                self._note(f"frozen map {map_:x}", f"says that {frozen.inherited} pages are seen through its origin, {pages} are")
        for map_ in sorted(self.frozen.keys() | self._listed.keys() | self._reads.keys()):
            self._readers(map_)

    def _readers(self, map_: int) -> None:
        reads = self._reads.get(map_, {})
        if self._listed.get(map_, {}) != reads:
            self._note(f"frozen map {map_:x}", f"lists the readers {self._listed.get(map_, {})}, it has {reads}")
        if map_ not in self.frozen:
            return
        if self.frozen[map_].readers != len(reads):
            self._note(f"frozen map {map_:x}", f"says {self.frozen[map_].readers} readers, it has {len(reads)}")
        if len(reads) < 2 and self._view.get(keys.IDLE + map_.to_bytes(8)) is None:
            self._note(f"frozen map {map_:x}", "has lost its readers, and nobody is told to look after it")
