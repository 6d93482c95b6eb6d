"""`python -m bench.snapshots`: many snapshots of a volume on real files, taken and deleted while it is written to.

Prints, as JSON lines, the seconds that taking and deleting take, what writes cost without and with a snapshot, how long reads take in the living
tree and in a snapshot, what `sofs check` finds with all snapshots there, and whether all space is back when they are gone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from bench.clones import BY, MIB, READS, ROOT_USER, call, checked, make, reads, report
from sofs.types import ROOT, Kind, Level
from sofs.volume.api import Changes, DeleteSnapshot, Found, ListSnapshots, Make, MakeSnapshot, Remove, SnapshotList, Stateless
from sofs.volume.volume import LocalVolume
from tests.served import volume_on

PAGE = 4096
FILE = 128 * MIB
SMALL = 200
"""Files that the writers make and remove."""


class Writers:
    """Keeps a volume busy: random pages of one file, and small files that come and go."""

    def __init__(self, volume: LocalVolume, target: Stateless, pause: float) -> None:
        self._volume = volume
        self._target = target
        self._pause = pause
        self.writes = 0

    async def __aenter__(self) -> Writers:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome

    async def _run(self) -> None:
        chance = random.Random(2)
        page = memoryview(os.urandom(PAGE))
        names: list[bytes] = []
        while True:
            for _ in range(20):
                written = self._volume.write(self._target, chance.randrange(FILE // PAGE) * PAGE, page, None, Level.COMMITTED, BY)
                if asyncio.iscoroutine(written):
                    await written
                self.writes += 1
            name = b"small %d" % self._volume.core.next_number
            found = self._volume.call(Make(ROOT_USER, ROOT, name, Kind.FILE, Changes()), None, BY)
            assert isinstance(found, Found)
            names.append(name)
            if len(names) > SMALL:
                self._volume.call(Remove(ROOT_USER, ROOT, names.pop(chance.randrange(SMALL))), None, BY)
            await asyncio.sleep(self._pause)


async def writes(volume: LocalVolume, target: Stateless, pages: list[int]) -> float:
    """Microseconds of CPU a write of a page, with what it brings about at once."""
    page = memoryview(os.urandom(PAGE))
    start = time.process_time()
    for at in pages:
        written = volume.write(target, at * PAGE, page, None, Level.COMMITTED, BY)
        if asyncio.iscoroutine(written):
            await written
    return (time.process_time() - start) / len(pages) * 1e6


async def fill(volume: LocalVolume, target: Stateless) -> None:
    for at in range(0, FILE, MIB):
        written = volume.write(target, at, memoryview(os.urandom(MIB)), None, Level.COMMITTED, BY)
        if asyncio.iscoroutine(written):
            await written
    await volume.core.data.cleaner.destage()


async def write_costs(volume: LocalVolume, target: Stateless) -> None:
    """Without a snapshot, the first change after one of each page's leaf, and further changes."""
    chance = random.Random(3)
    spread = [leaf * 64 + chance.randrange(64) for leaf in range(FILE // PAGE // 64)]
    again = [chance.choice(spread) for _ in range(2000)]
    await writes(volume, target, again)
    without = min([await writes(volume, target, again) for _ in range(3)])
    first, further = [], []
    for number in range(3):
        made = await call(volume, MakeSnapshot(f"cost {number}"))
        assert isinstance(made, SnapshotList)
        first.append(await writes(volume, target, spread))
        further.append(min([await writes(volume, target, again) for _ in range(2)]))
        await call(volume, DeleteSnapshot(made.snapshots[0].number))
        await volume.run_once()
    report(
        "4 KiB writes, CPU us", without=round(without, 2), first_after_snapshot=round(min(first), 2),
        with_one_snapshot=round(min(further), 2), ratio=round(min(further) / without, 3),
    )  # fmt: skip


async def measure(path: Path, count: int) -> None:
    async with volume_on(path / "volume") as volume:
        target = await make(volume, "file")
        await fill(volume, target)
        await write_costs(volume, target)
        chance = random.Random(5)
        # Scattered all over before anything is measured: it is snapshots that are, not what random writes do to a file.
        await writes(volume, target, [chance.randrange(FILE // PAGE) for _ in range(160 * count)])
        await volume.core.data.cleaner.destage()
        before = {block: (await reads([(volume, target)], FILE, block, number))[0] for block, number in ((PAGE, READS), (MIB, 100))}
        async with Writers(volume, target, 0.001) as writers:
            seconds = []
            for number in range(count):
                start = time.perf_counter()
                await call(volume, MakeSnapshot(f"snapshot {number}"))
                seconds.append(time.perf_counter() - start)
                await asyncio.sleep(0.002)
            done = writers.writes
        report(
            "taken", count=count, median_ms=round(statistics.median(seconds) * 1e3, 3), longest_ms=round(max(seconds) * 1e3, 3),
            total_s=round(sum(seconds), 3), writes_meanwhile=done,
        )  # fmt: skip
        start = time.perf_counter()
        listed = await call(volume, ListSnapshots())
        assert isinstance(listed, SnapshotList)
        report("listed", ms=round((time.perf_counter() - start) * 1e3, 2), alone_held_mib=sum(each.held for each in listed.snapshots) >> 20)
        await volume.core.data.cleaner.destage()
        await checked(volume)
        middle = listed.snapshots[len(listed.snapshots) // 2].number
        for block, number in ((PAGE, READS), (MIB, 100)):
            was = before[block]
            living, past = await reads([(volume, target), (volume.at(middle), target)], FILE, block, number)
            report(
                "reads, CPU us", block=block, before_us=round(was, 2), living_us=round(living, 2), snapshot_us=round(past, 2),
                living_ratio=round(living / was, 3), snapshot_ratio=round(past / living, 3),
            )  # fmt: skip
        await delete(volume, target, [each.number for each in listed.snapshots])


async def delete(volume: LocalVolume, target: Stateless, numbers: list[int]) -> None:
    chance = random.Random(4)
    chance.shuffle(numbers)
    data = volume.core.data
    seconds = []
    start = time.perf_counter()
    async with Writers(volume, target, 0.01) as writers:
        for number in numbers:
            began = time.perf_counter()
            await call(volume, DeleteSnapshot(number))
            await data.snapshots.run_once()
            seconds.append(time.perf_counter() - began)
        done = writers.writes
    report(
        "deleted, with all that follows", count=len(numbers), median_ms=round(statistics.median(seconds) * 1e3, 3),
        longest_ms=round(max(seconds) * 1e3, 3), total_s=round(time.perf_counter() - start, 3), writes_meanwhile=done,
    )  # fmt: skip
    await data.cleaner.destage()
    await volume.core.keys.checkpoint()
    await checked(volume)
    log, extents = data.space.counter(b"C" + bytes(8) + b"log pages"), 0
    for key, value in volume.core.keys.walk(b"E"):
        extents += int.from_bytes(value, "little") if key.endswith(b"n") and len(key) == 10 else 0
    report("space", live_pages=log + extents, pages_of_files=FILE // PAGE, more=log + extents - FILE // PAGE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.snapshots", description="many snapshots of a busy volume")
    parser.add_argument("--snapshots", type=int, default=1000)
    parser.add_argument("--data", type=Path, default=Path("/var/tmp"), help="a directory with two GiB to spare")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.data, prefix="sofs-snapshots-") as path:
        asyncio.run(measure(Path(path), chosen.snapshots))


if __name__ == "__main__":
    main()
