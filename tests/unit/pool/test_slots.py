"""The allocator of slots against a plain set of slots."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sofs.pool.slots import SlotAllocator


class SlotsMachine(RuleBasedStateMachine):
    """Takes, returns, claims and spoils runs; the model is the set of free slots."""

    @initialize(arenas=st.integers(1, 3), per_arena=st.integers(1, 20))
    def start(self, arenas: int, per_arena: int) -> None:
        self.arenas, self.per_arena = arenas, per_arena
        self.slots = SlotAllocator(arenas, per_arena)
        self.free = set(range(arenas * per_arena))
        self.spoilt: set[int] = set()
        self.taken: list[tuple[int, int]] = []

    def in_one_arena(self, slot: int, count: int) -> bool:
        return slot // self.per_arena == (slot + count - 1) // self.per_arena

    @rule(count=st.integers(1, 8))
    def take(self, count: int) -> None:
        runs = [
            slot for slot in range(self.arenas * self.per_arena) if set(range(slot, slot + count)) <= self.free and self.in_one_arena(slot, count)
        ]
        got = self.slots.take(count)
        assert got == (runs[0] if runs else None)
        if got is not None:
            self.free -= set(range(got, got + count))
            self.taken.append((got, count))

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        slot, count = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.slots.give_back(slot, count)
        self.free |= set(range(slot, slot + count)) - self.spoilt

    @rule(data=st.data(), count=st.integers(1, 8))
    def claim(self, data: st.DataObject, count: int) -> None:
        slot = data.draw(st.integers(0, self.arenas * self.per_arena - 1))
        run = set(range(slot, slot + count))
        clean = self.slots.claim(slot, count)
        assert clean == (self.in_one_arena(slot, count) and run <= self.free)
        if clean:
            self.taken.append((slot, count))
            self.free -= run
        else:
            self.slots.spoil(slot, count)
            within = {each for each in run if each // self.per_arena == slot // self.per_arena}
            self.spoilt |= within
            self.free -= within

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "slots"):
            return
        assert self.slots.free_count == len(self.free)
        assert self.slots.spoilt_count == len(self.spoilt)
        runs = list(self.slots.free_runs(range(self.arenas)))
        assert {slot for start, length in runs for slot in range(start, start + length)} == self.free
        assert all(self.in_one_arena(start, length) for start, length in runs)
        for start, length in self.taken:
            within = {slot for one, many in self.slots.free_within(start, length) for slot in range(one, one + many)}
            assert within == self.free & set(range(start, start + length))


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=30)


def test_a_run_never_crosses_an_arena() -> None:
    slots = SlotAllocator(2, 10)
    assert [slots.take(8), slots.take(8), slots.take(8)] == [0, 10, None]
    assert [slots.take(1), slots.take(2), slots.take(1), slots.take(1)] == [8, 18, 9, None]
