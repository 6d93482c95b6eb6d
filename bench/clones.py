"""`python -m bench.clones`: many clones of one large image, in a volume on real files.

Prints, as JSON lines, the seconds that each clone takes, the space that all of them take, what `sofs check` finds, and how long reads take in the image before
it was cloned and in a clone. The image has 10 GiB in its map and a quarter of a GiB on the disk: it is made of clones of ranges, since it is the
map that matters here, and a machine's page cache that would matter otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from sofs.types import ROOT, Kind, Level
from sofs.volume.api import Binding, Caller, Changes, Clone, Found, Make, Remove, Stateless
from sofs.volume.check import check
from sofs.volume.volume import LocalVolume
from tests.served import VOLUME, volume_on

MIB = 1 << 20
ROOT_USER = Caller(0, 0)
BY = Binding(1, 1)
PIECE = 256 * MIB
READS = 20_000


async def call(volume: LocalVolume, request: object) -> object:
    result = volume.call(request, None, BY)  # type: ignore[arg-type]
    if asyncio.iscoroutine(result):
        result = await result
    opened = asyncio.get_running_loop().create_future()
    volume.when(result.gate, Level.STABLE, lambda: opened.set_result(None))  # type: ignore[union-attr]
    await opened
    return result


async def make(volume: LocalVolume, name: str) -> Stateless:
    made = await call(volume, Make(ROOT_USER, ROOT, name.encode(), Kind.FILE, Changes()))
    assert isinstance(made, Found)
    return Stateless(made.attributes.inode, ROOT_USER)


async def image(volume: LocalVolume, size: int) -> Stateless:
    target = await make(volume, "image")
    for at in range(0, min(PIECE, size), MIB):
        written = volume.write(target, at, memoryview(os.urandom(MIB)), None, Level.COMMITTED, BY)
        if asyncio.iscoroutine(written):
            await written
    for at in range(PIECE, size, PIECE):
        await call(volume, Clone(target, 0, target, at, min(PIECE, size - at)))
    return target


async def reads(volume: LocalVolume, target: Stateless, size: int, block: int, count: int) -> float:
    """Microseconds a read, best of three rounds over the same random places."""
    chance = random.Random(1)
    places = [chance.randrange(size // block) * block for _ in range(count)]
    into = memoryview(bytearray(block))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for at in places:
            got = volume.read(target, at, into, BY)
            if asyncio.iscoroutine(got):
                await got
        best = min(best, time.perf_counter() - start)
    return best / count * 1e6


def report(what: str, **figures: object) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


async def measure(path: Path, size: int, clones: int) -> None:
    async with volume_on(path / "volume") as volume:
        source = await image(volume, size)
        await volume.core.data.cleaner.destage()
        before = {block: await reads(volume, source, size, block, count) for block, count in ((4096, READS), (MIB, 200))}
        space = volume.core.data.usage().free
        seconds = []
        last = source
        for number in range(clones):
            last = await make(volume, f"clone {number}")
            start = time.perf_counter()
            await call(volume, Clone(source, 0, last, 0, size))
            seconds.append(time.perf_counter() - start)
        report(
            "clones", count=clones, gib=size / (1 << 30), median_ms=round(statistics.median(seconds) * 1e3, 3),
            longest_ms=round(max(seconds) * 1e3, 3), total_s=round(sum(seconds), 3),
        )  # fmt: skip
        await volume.core.data.cleaner.destage()
        report("space", bytes_more=space - volume.core.data.usage().free)
        for block, count in ((4096, READS), (MIB, 200)):
            after = await reads(volume, last, size, block, count)
            report("reads", block=block, before_us=round(before[block], 2), clone_us=round(after, 2), ratio=round(after / before[block], 3))
        await checked(volume)
        start = time.perf_counter()
        for number in range(clones):
            await call(volume, Remove(caller=ROOT_USER, at=ROOT, name=f"clone {number}".encode()))
        while await volume.core.data.maps.run_once():
            pass
        report("removal of all clones", seconds=round(time.perf_counter() - start, 3))
        await checked(volume)


async def checked(volume: LocalVolume) -> None:
    async def pause() -> None:
        """The volume rests."""

    data, keyspace = volume.core.data, volume.core.keys
    start = time.perf_counter()
    found = await check(keyspace, keyspace, keyspace.log, data.extents._pool, VOLUME, pause)
    report("check", findings=[str(finding) for finding in found.findings[:5]], seconds=round(time.perf_counter() - start, 1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.clones", description="many clones of one large image")
    parser.add_argument("--gib", type=float, default=10)
    parser.add_argument("--clones", type=int, default=1000)
    parser.add_argument("--data", type=Path, default=Path("/var/tmp"), help="a directory with half a GiB to spare")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.data, prefix="sofs-clones-") as path:
        asyncio.run(measure(Path(path), int(chosen.gib * (1 << 30)), chosen.clones))


if __name__ == "__main__":
    main()
