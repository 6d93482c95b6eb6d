"""Which slots of a disk are free, as bit sets in memory.

The truth is the slot table; this is built from it at start. A run of slots never crosses an arena's
end, since an arena is one file and a fragment is read with one call. First fit from the lowest arena keeps the high arenas
empty, and so uncreated.
"""

from collections.abc import Iterable, Iterator


class SlotAllocator:
    """Takes runs of slots and gets them back. All slots start out free."""

    def __init__(self, arenas: int, arena_slots: int) -> None:
        self._per_arena = arena_slots
        self._free = [(1 << arena_slots) - 1] * arenas
        self._spoilt: dict[int, int] = {}
        # By length of run: no arena below this one has such a run.
        self._first: dict[int, int] = {}
        self.free_count = arenas * arena_slots

    def claim(self, slot: int, count: int) -> bool:
        """Marks a run as used; says whether all of it was free and in one arena. Used while a table is read."""
        arena, bits = self._bits(slot, count)
        if bits >> self._per_arena:
            return False
        clean = self._free[arena] & bits == bits
        self._take(arena, self._free[arena] & bits)
        return clean

    def is_free(self, slot: int) -> bool:
        arena, bits = self._bits(slot, 1)
        return bool(self._free[arena] & bits)

    def spoil(self, slot: int, count: int) -> None:
        """Takes a run (cut at the arena's end) out of use until the next start: what lies there is uncertain."""
        arena, bits = self._bits(slot, count)
        bits &= (1 << self._per_arena) - 1
        self._spoilt[arena] = self._spoilt.get(arena, 0) | bits
        self._take(arena, self._free[arena] & bits)

    @property
    def spoilt_count(self) -> int:
        return sum(bits.bit_count() for bits in self._spoilt.values())

    def take(self, count: int) -> int | None:
        """The first free run of `count` slots, now used; `None` if there is none."""
        for arena in range(self._first.get(count, 0), len(self._free)):
            runs = _run_starts(self._free[arena], count)
            if runs:
                self._first[count] = arena
                first = (runs & -runs).bit_length() - 1
                self._take(arena, ((1 << count) - 1) << first)
                return arena * self._per_arena + first
        self._first[count] = len(self._free)
        return None

    def give_back(self, slot: int, count: int) -> None:
        arena, bits = self._bits(slot, count)
        bits &= ~self._spoilt.get(arena, 0)
        assert not self._free[arena] & bits, f"slots {slot}+{count} were free already"
        self._free[arena] |= bits
        self.free_count += bits.bit_count()
        for length, first in self._first.items():
            self._first[length] = min(first, arena)

    def free_runs(self, arenas: Iterable[int]) -> Iterator[tuple[int, int]]:
        """The maximal free runs (slot, count) of some arenas, as they are when reached."""
        for arena in arenas:
            at = 0
            while rest := self._free[arena] >> at:
                at += (rest & -rest).bit_length() - 1
                rest = self._free[arena] >> at
                length = (~rest & (rest + 1)).bit_length() - 1
                yield arena * self._per_arena + at, length
                at += length

    def free_within(self, slot: int, count: int) -> Iterator[tuple[int, int]]:
        """The free slots among a run, each as (slot, 1), or the whole run at once."""
        arena, bits = self._bits(slot, count)
        if self._free[arena] & bits == bits:
            yield slot, count
            return
        for one in range(slot, slot + count):
            if self._free[arena] >> one % self._per_arena & 1:
                yield one, 1

    def _take(self, arena: int, bits: int) -> None:
        self._free[arena] &= ~bits
        self.free_count -= bits.bit_count()

    def _bits(self, slot: int, count: int) -> tuple[int, int]:
        arena, within = divmod(slot, self._per_arena)
        return arena, ((1 << count) - 1) << within


def _run_starts(free: int, count: int) -> int:
    """The bits at which `count` set bits in a row begin."""
    # Doubling: after each step a bit says that `have` set bits begin there.
    have = 1
    while have < count and free:
        step = min(have, count - have)
        free &= free >> step
        have += step
    return free
