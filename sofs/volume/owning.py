"""A map while an operation is applied to it: how a leaf that is seen in an origin becomes the map's own.

`Owner` stands for a file, or for a frozen map, in the apply functions of `mapping.py` and `origins.py`. It keeps the counts that
follow: pages of the own leaves, pages that are seen through the origin, reserved pages. An origin through which nothing is seen any more is let go.
"""

from sofs.volume import leaves, windows
from sofs.volume.batch import Mutator
from sofs.volume.inode import CLONED, SHARES_PAGES, TAIL_SIZE
from sofs.volume.keys import FROZEN, HOLE, LEAF, LEAF_PAGES, REFERENCES, RESERVED
from sofs.volume.maps import BARE, NOTHING, TAIL, Way, decode_frozen, encode_frozen, find, frozen_key, idle_key, reader_key


class Owner:
    """A map that changes, with what is behind it."""

    __slots__ = ("bare", "inherited", "limit", "map", "more", "origin", "reserved", "shared")

    def __init__(self, map_: bytes, shared: bool, origin: bytes = NOTHING, limit: int = 0, inherited: int = 0) -> None:
        self.map = map_
        self.shared = shared
        """Some page of its leaves may have more than one reference."""
        self.origin = origin
        self.limit = limit & ~BARE
        self.bare = limit & BARE != 0
        """It is known to have no leaf of its own."""
        self.inherited = inherited
        self.more = 0
        """Pages that have become its own, no holes."""
        self.reserved = 0
        """Reserved pages among them."""

    def leaf(self, records: Mutator, index: int, slot: int, count: int) -> bytes:
        """The leaf that is seen at this index. From now on it is the map's own: the caller stores it, changed or not, with `store`.

        In a leaf from the origin the `count` pages from `slot` on are holes, since the caller is about to replace them.
        """
        leaf = records.get(LEAF + self.map + index.to_bytes(8))
        if leaf is not None:
            return leaf
        if self.origin == NOTHING:
            return leaves.EMPTY
        leaf = self._behind(records, index)
        return leaves.EMPTY if leaf is None else self.lift(records, leaf, slot, count)

    def lift(self, records: Mutator, leaf: bytes, slot: int, count: int) -> bytes:
        """The same for a leaf that has been found in the origin."""
        self.bare = False
        self.inherited -= LEAF_PAGES - leaves.addresses(leaf, 0, LEAF_PAGES).count(HOLE)
        leaf = leaves.patch(leaf, slot, count, bytes(count * 8), bytes(count * 4))
        kept = leaves.addresses(leaf, 0, LEAF_PAGES)
        share(records, kept)
        self.more += LEAF_PAGES - kept.count(HOLE)
        self.reserved += kept.count(RESERVED)
        return leaf

    def store(self, records: Mutator, index: int, leaf: bytes) -> None:
        """Stores a leaf of the map's own. One of holes is stored only where it hides another."""
        key = LEAF + self.map + index.to_bytes(8)
        if leaf == leaves.EMPTY and (self.origin == NOTHING or self._behind(records, index) is None):
            records.delete(key)
        else:
            records.put(key, leaf)
            self.bare = False

    def _behind(self, records: Mutator, index: int) -> bytes | None:
        if index >= self.limit:
            return None
        value = records.get(FROZEN + self.origin)
        assert value is not None, f"no frozen map {int.from_bytes(self.origin):x}"
        frozen = decode_frozen(value)
        return find(records.get, Way(self.origin, frozen.origin, frozen.limit), index)

    def settle(self, records: Mutator) -> None:
        """Lets the origin go if nothing is seen through it any more."""
        assert self.inherited >= 0, f"map {int.from_bytes(self.map):x} sees less than nothing through its origin"
        if self.inherited == 0 and self.origin != NOTHING:
            leave(records, self.origin, self.map)
            self.origin, self.limit = NOTHING, 0

    def tail(self) -> bytes:
        """The end of the inode's record."""
        return TAIL.pack(self.map, self.origin, self.limit | (BARE if self.bare else 0), self.inherited)


def owner_of(number: bytes, inode: bytes) -> Owner:
    """For a file: its inode's number, as in keys, and record."""
    marks = inode[1]
    if not marks & CLONED:
        return Owner(number, marks & SHARES_PAGES != 0)
    map_, *rest = TAIL.unpack_from(inode, len(inode) - TAIL_SIZE)
    return Owner(map_, True, *rest)


def leave(records: Mutator, origin: bytes, reader: bytes) -> None:
    """A frozen map has a reader less."""
    key = frozen_key(origin)
    value = records.get(key)
    assert value is not None, f"no frozen map {int.from_bytes(origin):x}"
    frozen = decode_frozen(value)
    records.put(key, encode_frozen(frozen._replace(readers=frozen.readers - 1)))
    records.delete(reader_key(origin, reader))
    if frozen.readers <= 2:
        records.put(idle_key(origin), b"")


def share(records: Mutator, pages: tuple[int, ...]) -> None:
    """One more leaf names these pages."""
    for _, name, length in leaves.runs(pages):
        if name >= leaves.PLACED:
            for window, offset, count in windows.pieces(name, length):
                key = REFERENCES + window.to_bytes(8)
                records.put(key, windows.share(records.get(key), offset, count))
