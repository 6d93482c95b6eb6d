"""What a simulated disk holds, and what is left of it after a loss of power.

The fault model:

- A file has its bytes as processes see them (the page cache), its bytes as the disk has them, and the
  changes in between, in order. A sync moves the changes made before it to the disk.
- Power loss keeps or loses each 512-byte sector of the unsynced changes by itself, in any order: writes tear and reorder.
  Within a sector the changes keep their order, because the page cache has only one version of it at a time, and
  a sector is written whole or not at all.
- The size after power loss is any of those the file had since its last sync. Bytes below it that were never written, or were
  lost, read as before, or as zeros. What a truncation cut off never comes back behind it: file systems order that.
- A name made, replaced or removed is durable after a sync of its directory, not after that of the file. Unsynced changes
  of names are lost from some point on, in each directory by itself; a rename is done or not done.
- A sync that fails leaves each unsynced sector on the disk or not, and, like Linux, forgets that it had to be written: a later sync
  that succeeds says nothing about it.
- Bits flip on request. Records (the stand-in for LMDB) are atomic: a commit under way when the power goes is there or is not.

The death of a process loses nothing here: its changes stay in the page cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sofs.runtime.simulated_loop import SimulatedRandom

PAGE = 4096
SECTOR = 512
_ZERO_PAGE = bytes(PAGE)
_END = 1 << 62  # behind the last byte of any file


class Change(NamedTuple):
    """One change of a file: bytes written at `start`, zeros from `start` to `end`, or (`resize`) a new size `end`."""

    start: int
    end: int
    data: bytes | None
    resize: bool = False


class Image:
    """Bytes of a file: pages that are not all zeros by their number, and the size."""

    def __init__(self, pages: dict[int, bytes] | None = None, size: int = 0) -> None:
        self.pages: dict[int, bytes] = {} if pages is None else pages
        self.size = size

    def copy(self) -> "Image":
        return Image(dict(self.pages), self.size)

    def read(self, offset: int, into: memoryview) -> int:
        count = max(0, min(len(into), self.size - offset))
        done = 0
        while done < count:
            number, within = divmod(offset + done, PAGE)
            piece = min(PAGE - within, count - done)
            page = self.pages.get(number, _ZERO_PAGE)
            into[done : done + piece] = page[within : within + piece]
            done += piece
        return count

    def patch(self, offset: int, data: bytes | memoryview) -> None:
        """Replaces bytes; leaves the size alone."""
        done = 0
        while done < len(data):
            number, within = divmod(offset + done, PAGE)
            piece = data[done : done + PAGE - within]
            if len(piece) == PAGE:
                self.pages[number] = bytes(piece)
            else:
                old = self.pages.get(number, _ZERO_PAGE)
                self.pages[number] = old[:within] + bytes(piece) + old[within + len(piece) :]
            done += len(piece)

    def zero(self, start: int, end: int) -> None:
        for number in self.pages_within(start, end):
            first, last = max(start, number * PAGE), min(end, number * PAGE + PAGE)
            if last - first == PAGE:
                del self.pages[number]
            else:
                self.patch(first, bytes(last - first))

    def pages_within(self, start: int, end: int) -> list[int]:
        """Numbers of the stored pages that touch the bytes from `start` to `end`."""
        first, last = start // PAGE, -(-end // PAGE)
        if last - first > len(self.pages):
            return sorted(number for number in self.pages if first <= number < last)
        return [number for number in range(first, last) if number in self.pages]

    def resize(self, size: int) -> None:
        self.zero(size, _END)
        self.size = size

    def apply(self, change: Change) -> None:
        if change.resize:
            self.resize(change.end)
        elif change.data is None:
            self.zero(change.start, change.end)
        else:
            self.patch(change.start, change.data)
            self.size = max(self.size, change.end)


class Content:
    """A regular file."""

    def __init__(self, mount: str) -> None:
        self.mount = mount
        self.linked = True
        self.seen = Image()
        """As processes see it."""
        self.durable = Image()
        """As the disk has it."""
        self.pending: list[Change] = []
        self.synced = 0
        """How many changes, over the file's whole life, left `pending`."""
        self.allocated = bytearray()
        """A byte per page: 1 if it takes space."""

    @property
    def changes(self) -> int:
        """How many changes there have been: what a sync that starts now must make durable."""
        return self.synced + len(self.pending)

    def change(self, change: Change) -> None:
        self.seen.apply(change)
        self.pending.append(change)

    def sync(self, upto: int) -> None:
        """Makes the first `upto` changes durable."""
        for change in self._take(upto):
            self.durable.apply(change)

    def fail_sync(self, upto: int, random: SimulatedRandom) -> None:
        """A sync has failed: some of it is on the disk, none of it will be tried again."""
        self.durable = _after_power_loss(self.durable, self._take(upto), random)

    def _take(self, upto: int) -> list[Change]:
        count = max(0, upto - self.synced)
        taken, self.pending = self.pending[:count], self.pending[count:]
        self.synced += len(taken)
        return taken

    def after_power_loss(self, random: SimulatedRandom) -> "Content":
        left = Content(self.mount)
        left.durable = _after_power_loss(self.durable, self.pending, random)
        left.seen = left.durable.copy()
        left.allocated = bytearray(self.allocated)
        return left

    def flip(self, offset: int, bit: int) -> None:
        """Flips one bit on the disk and in the page cache."""
        byte = bytearray(1)
        assert self.seen.read(offset, memoryview(byte)) == 1, "no such byte"
        byte[0] ^= 1 << bit
        if offset < self.durable.size:
            self.durable.patch(offset, bytes(byte))
        self.seen.patch(offset, bytes(byte))
        if self.pending:
            self.pending.append(Change(offset, offset + 1, bytes(byte)))

    def pages_to_take(self, start: int, end: int) -> int:
        """How many pages from `start` to `end` take no space yet."""
        first, last = start // PAGE, -(-end // PAGE)
        return (last - first) - self.allocated.count(1, first, last)

    def take(self, start: int, end: int) -> None:
        first, last = start // PAGE, -(-end // PAGE)
        if last > len(self.allocated):
            self.allocated.extend(bytes(last - len(self.allocated)))
        self.allocated[first:last] = b"\1" * (last - first)

    def give_back(self, start: int, end: int) -> int:
        """Frees the whole pages within; returns how many took space."""
        first, last = -(-start // PAGE), min(end // PAGE, len(self.allocated))
        if last <= first:
            return 0
        freed = self.allocated.count(1, first, last)
        self.allocated[first:last] = bytes(last - first)
        return freed


def _after_power_loss(durable: Image, pending: list[Change], random: SimulatedRandom) -> Image:
    """One of the images that the disk may hold when the power goes with these changes unsynced."""
    left = durable.copy()
    if not pending:
        return left
    sizes, shadow = [durable.size], durable.copy()
    for change in pending:
        shadow.apply(change)
        sizes.append(shadow.size)
    # Everything, nothing, or a mixture: the extremes deserve to be seen more often than by chance.
    odds = (0.0, 1.0, 0.1, 0.5, 0.9)[random.below(5)]
    reached = {0.0: 0, 1.0: len(pending)}.get(odds, random.below(len(pending) + 1))
    ended: dict[int, bool] = {}  # sector -> its later changes are lost
    cuts: list[int] = []  # where truncations that did not happen would have cut
    for index, change in enumerate(pending):
        if change.resize:
            if index < reached:
                left.resize(change.end)
                ended = {sector: lost for sector, lost in ended.items() if sector * SECTOR < change.end}
            elif change.end < sizes[index]:
                cuts.append(change.end)
            continue
        for start, end in _sectors(left, change):
            sector = start // SECTOR
            lost = ended.get(sector, False) or random.fraction() >= odds or any(start >= cut for cut in cuts)
            ended[sector] = lost
            if lost:
                continue
            if change.data is None:
                left.zero(start, end)
            else:
                left.patch(start, change.data[start - change.start : end - change.start])
    left.resize(sizes[reached])
    return left


def _sectors(image: Image, change: Change) -> Iterator[tuple[int, int]]:
    """The pieces of `change` by sector. Zeros over what is zero already are left out."""
    if change.data is None:
        ranges = [
            (max(change.start, number * PAGE), min(change.end, number * PAGE + PAGE)) for number in image.pages_within(change.start, change.end)
        ]
    else:
        ranges = [(change.start, change.end)]
    for first, last in ranges:
        while first < last:
            end = min(last, first // SECTOR * SECTOR + SECTOR)
            yield first, end
            first = end


class RecordSet:
    """The records of one environment: the last commit, and one that is under way."""

    def __init__(self, mount: str) -> None:
        self.mount = mount
        self.linked = True
        self.committed: dict[bytes, bytes] = {}
        self.under_way: dict[bytes, bytes] | None = None

    def after_power_loss(self, random: SimulatedRandom) -> "RecordSet":
        left = RecordSet(self.mount)
        left.committed, left.under_way = self.committed, self.under_way
        left.recover(random)
        return left

    def recover(self, random: SimulatedRandom) -> None:
        """What opening it after a crash finds of a commit that was under way: all or nothing."""
        if self.under_way is not None and random.chance(0.5):
            self.committed = self.under_way
        self.under_way = None

    @property
    def used(self) -> int:
        return sum(len(key) + len(value) for key, value in self.committed.items())


@dataclass(eq=False)
class Directory:
    """Names, as processes see them and as the disk has them."""

    entries: dict[str, "Node"] = field(default_factory=dict)
    durable: dict[str, "Node"] = field(default_factory=dict)


Node = Content | RecordSet | Directory


class NameChange(NamedTuple):
    """Entries that are set (or, with `None`, removed) together."""

    edits: tuple[tuple[Directory, str, Node | None], ...]

    def touches(self, directories: list[Directory]) -> bool:
        return any(directory in directories for directory, _, _ in self.edits)

    def apply(self, durable: bool) -> None:
        for directory, name, node in self.edits:
            entries = directory.durable if durable else directory.entries
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node


class Disk:
    """A tree of names over files and records."""

    def __init__(self) -> None:
        self.root = Directory()
        self.pending: list[NameChange] = []

    def change(self, *edits: tuple[Directory, str, Node | None]) -> None:
        change = NameChange(edits)
        change.apply(durable=False)
        self.pending.append(change)

    def sync(self, directory: Directory) -> None:
        """Makes the names in `directory` durable, with all that they depend on in other directories."""
        wanted = [directory]
        done, kept = [], []
        for change in reversed(self.pending):
            if change.touches(wanted):
                wanted.extend(edit[0] for edit in change.edits)
                done.append(change)
            else:
                kept.append(change)
        for change in reversed(done):
            change.apply(durable=True)
        self.pending = kept[::-1]

    def after_power_loss(self, random: SimulatedRandom) -> "Disk":
        """One of the disks that may be found when the power comes back. This one stays as it is."""
        left = Disk()
        overlay: dict[int, dict[str, Node]] = {}
        self._choose_names(overlay, random)
        left.root = _rebuild(self.root, overlay, random)
        return left

    def _choose_names(self, overlay: dict[int, dict[str, Node]], random: SimulatedRandom) -> None:
        odds = (0.0, 1.0, 0.5, 0.9)[random.below(4)]
        cut: list[Directory] = []
        for change in self.pending:
            if change.touches(cut) or random.fraction() >= odds:
                cut.extend(edit[0] for edit in change.edits)
                continue
            for directory, name, node in change.edits:
                entries = overlay.setdefault(id(directory), dict(directory.durable))
                if node is None:
                    entries.pop(name, None)
                else:
                    entries[name] = node


def _rebuild(directory: Directory, overlay: dict[int, dict[str, Node]], random: SimulatedRandom) -> Directory:
    left = Directory()
    for name, node in sorted(overlay.get(id(directory), directory.durable).items()):
        if isinstance(node, Directory):
            left.entries[name] = _rebuild(node, overlay, random)
        else:
            left.entries[name] = node.after_power_loss(random)
    left.durable = dict(left.entries)
    return left
