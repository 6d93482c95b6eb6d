"""Power loss and process death at every step of a workload on a pool.

What must hold afterwards, at the next start:

- every extent whose write returned, and whose deletion had not begun, reads back whole from every copy;
- an extent whose deletion returned is gone, and gone it stays;
- anything else in the slot tables is an orphan: whole, with an id that some write used, and found by `orphans`;
- no two fragments share a slot, and what the allocator calls free is in no fragment;
- what was revoked stays revoked.

The workload runs again on what the crash left, so that what survived one crash has to survive what is written after it.
"""

import asyncio
import os
from dataclasses import dataclass, field

import pytest

from sofs.errors import ExtentGone, Fenced
from sofs.pool import Placement
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_process import Crash
from sofs.types import PAGE
from tests.unit.pool.rig import MIB, MIRROR, SIMPLE, VOLUME, Rig, content, eid, healthy, make

POINTS = int(os.environ.get("POOL_CRASH_POINTS", "100"))
REVOKED = range(500, 510)


@dataclass
class Ledger:
    """What the workload was told, across its crashes."""

    number: int = 0
    written: dict[int, Placement] = field(default_factory=dict)
    doomed: dict[int, Placement] = field(default_factory=dict)
    """Deletion began, and was not heard to end."""
    gone: dict[int, Placement] = field(default_factory=dict)
    revoked: bool = False


async def workload(rig: Rig, ledger: Ledger, random: SimulatedRandom) -> None:
    """Three clients that write, delete and read; a revocation in the middle; space given back now and then."""

    async def client(turns: int) -> None:
        for _ in range(turns):
            if len(ledger.written) > 4 and random.chance(0.5):
                number = list(ledger.written)[random.below(len(ledger.written))]
                at = ledger.doomed[number] = ledger.written.pop(number)
                await rig.pool.delete(at)
                ledger.gone[number] = ledger.doomed.pop(number)
            else:
                ledger.number += 1
                number = ledger.number
                length = [PAGE, 5 * PAGE, MIB, MIB + PAGE][random.below(4)]
                policy = MIRROR if random.chance(0.6) else SIMPLE
                ledger.written[number] = await rig.write(number, length, policy)

    async def duties() -> None:
        await asyncio.sleep(0.004 * random.fraction())
        await rig.pool.revoke(VOLUME, REVOKED)
        ledger.revoked = True
        for _ in range(4):
            await asyncio.sleep(0.003 * random.fraction())
            for disk in rig.pool.members.all_readable():
                disk.give_back(4)

    await asyncio.gather(client(5), client(5), client(5), duties())


async def verify(rig: Rig, ledger: Ledger) -> None:
    assert rig.events == [], "a crash is no damage"
    for number, at in ledger.written.items():
        assert healthy(rig.pool, at)
        assert await rig.pool.check(at) == []
        for _ in at.fragments:
            at = at._replace(fragments=(*at.fragments[1:], at.fragments[0]))
            assert await rig.read(at) == content(number, at.length)
    for number, at in ledger.gone.items():
        with pytest.raises(ExtentGone):
            await rig.read(at)
        assert number not in [entry.id.number for entries in rig.used().values() for entry in entries.values()]
    slots_used = {}
    for id, entries in rig.used().items():
        taken = [slot + more for slot, entry in entries.items() for more in range(entry.slots)]
        assert len(taken) == len(set(taken)), "two fragments on one slot"
        assert rig.disk(id)._slots.free_count == rig.disk(id).slots - len(taken)
        slots_used[id] = taken
    orphans = await rig.orphans(range(1, 10_000), set(ledger.written))
    for at in orphans:
        assert 0 < at.id.number <= ledger.number
        # An orphan's missing copy is all that may be wrong with it.
        assert [line for line in await rig.pool.check(at) if "fragments" not in line] == []
        await rig.pool.delete(at)
        ledger.doomed.pop(at.id.number, None)
    assert {entry.id.number for entries in rig.used().values() for entry in entries.values()} == set(ledger.written)
    ledger.gone |= ledger.doomed
    ledger.doomed.clear()
    if ledger.revoked:
        with pytest.raises(Fenced):
            await rig.pool.write(eid(REVOKED[0]), [bytes(PAGE)], SIMPLE)


def run_once(files: SimulatedFiles, specs: list, ledger: Ledger, seed: int) -> None:  # type: ignore[type-arg]
    async def main(loop: SimulatedLoop) -> None:
        rig = Rig(files, SimulatedRandom(seed), specs)
        await verify(rig, ledger)
        await workload(rig, ledger, SimulatedRandom(seed))
        await rig.pool.close()

    simulate(main)


def run_verify(files: SimulatedFiles, specs: list, ledger: Ledger, more: int = 0) -> None:  # type: ignore[type-arg]
    async def main(loop: SimulatedLoop) -> None:
        rig = Rig(files, SimulatedRandom(0), specs)
        await verify(rig, ledger)
        if more:
            ledger.number = max(ledger.number, more)
            ledger.written[more] = await rig.write(more, PAGE)
        await rig.pool.close()

    simulate(main)


def crash_thrice(seed: int) -> tuple[int, int]:
    """Runs the workload into three crashes at random steps; gives how many crashed and how many extents were verified at last."""
    random = SimulatedRandom(seed)
    files = SimulatedFiles(random, latency=Latency(200e-6, 800e-6), miss=0.3)
    specs = [make(files, random, f"/data/d{number}", arenas=3) for number in range(2)]
    ledger = Ledger()
    crashes = 0
    for _ in range(3):
        files.crash_at = files.steps + 1 + random.below(170)
        try:
            run_once(files, specs, ledger, random.number(30))
        except Crash:
            crashes += 1
            files = files.after_power_loss() if random.chance(0.7) else files.after_process_death()
        else:
            files.crash_at = None
            files = files.after_process_death()
    run_verify(files, specs, ledger)
    return crashes, len(ledger.written)


@pytest.mark.parametrize("block", range(10))
def test_nothing_is_lost_doubled_or_brought_back_by_crashes_at_random_steps(block: int) -> None:
    crashes = verified = 0
    for seed in range(block * POINTS // 10, (block + 1) * POINTS // 10):
        try:
            more_crashes, more_verified = crash_thrice(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}: crash_thrice({seed}) replays it")
            raise
        crashes += more_crashes
        verified += more_verified
    assert crashes > POINTS // 10 and verified > POINTS // 10, "the workload hardly met a crash"


def small_run(files: SimulatedFiles, specs: list, ledger: Ledger) -> None:  # type: ignore[type-arg]
    """One of everything, in a fixed order."""

    async def main(loop: SimulatedLoop) -> None:
        rig = Rig(files, SimulatedRandom(5), specs)

        async def write(number: int, length: int) -> None:
            ledger.number = max(ledger.number, number)
            ledger.written[number] = await rig.write(number, length)

        async def delete(number: int) -> None:
            ledger.doomed[number] = ledger.written.pop(number)
            await rig.pool.delete(ledger.doomed[number])
            ledger.gone[number] = ledger.doomed.pop(number)

        two_slots = MIB + PAGE
        await write(1, two_slots)
        await asyncio.gather(write(2, PAGE), write(3, PAGE))
        await asyncio.gather(delete(1), write(4, two_slots))
        # Over the slots of the first, by way of two shorter ones.
        await asyncio.gather(write(5, PAGE), write(6, PAGE), delete(2))
        await rig.pool.revoke(VOLUME, REVOKED)
        ledger.revoked = True
        for disk in rig.pool.members.all_readable():
            disk.give_back(100)
        await write(7, two_slots)
        await rig.pool.close()

    simulate(main)


def prepared() -> tuple[SimulatedFiles, list]:  # type: ignore[type-arg]
    random = SimulatedRandom(3)
    files = SimulatedFiles(random)
    return files, [make(files, random, f"/data/d{number}", arenas=2) for number in range(2)]


def test_every_single_step_of_a_run_can_be_its_last() -> None:
    files, specs = prepared()
    start = files.steps
    small_run(files, specs, Ledger())
    total = files.steps - start
    assert total > 60
    for step in range(1, total + 1):
        for kind in ("process death", "power loss"):
            files, specs = prepared()
            files.crash_at = files.steps + step
            ledger = Ledger()
            with pytest.raises(Crash):
                small_run(files, specs, ledger)
            after = files.after_process_death() if kind == "process death" else files.after_power_loss(step)
            try:
                # What a dead process left in memory only is built upon here, and then the power goes all the same.
                run_verify(after, specs, ledger, more=9)
                run_verify(after.after_power_loss(step), specs, ledger)
            except BaseException as error:
                error.add_note(f"{kind} at step {step}")
                raise


def test_a_slot_is_not_written_over_while_its_old_entry_may_come_back() -> None:
    """Process death right after an entry was freed in memory; the next process takes the slot and the power goes meanwhile."""

    async def first(loop: SimulatedLoop) -> None:
        rig = Rig(files, SimulatedRandom(5), specs)
        ledger.number = 1
        at = await rig.write(1, MIB + PAGE)
        ledger.doomed[1] = at
        await rig.pool.delete(at)

    async def second(loop: SimulatedLoop) -> None:
        rig = Rig(after, SimulatedRandom(6), specs)
        ledger.number = 2
        ledger.written[2] = await rig.write(2, MIB + PAGE)

    files, specs = prepared()
    start, deaths = files.steps, 0
    ledger = Ledger()
    simulate(first)
    total = files.steps - start
    for step in range(1, total + 1):
        for late in range(1, 12, 2):
            files, specs = prepared()
            files.crash_at = files.steps + step
            ledger = Ledger()
            with pytest.raises(Crash):
                simulate(first)
            if 1 not in ledger.doomed:
                continue
            deaths += 1
            after = files.after_process_death()
            after.crash_at = after.steps + late
            with pytest.raises(Crash):
                simulate(second)
            run_verify(after.after_power_loss(step * 100 + late), specs, ledger)
    assert deaths > 6
