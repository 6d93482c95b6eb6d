"""`python -m bench.clones`: many clones of one large image, in a volume on real files.

Prints, as JSON lines, the seconds that each clone takes, the space that all of them take, what `sofs check` finds, and how much CPU reads take in a clone
beside an image that was never cloned. The images have 10 GiB in their maps and a quarter of a GiB on the disk: they are made of clones of ranges, since it
is the map that matters here, and a machine's page cache that would matter otherwise.
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
from sofs.volume.api import Binding, Caller, Changes, Clone, Found, Make, Remove, Stateless, Volume
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


async def image(volume: LocalVolume, name: str, size: int) -> Stateless:
    target = await make(volume, name)
    for at in range(0, min(PIECE, size), MIB):
        written = volume.write(target, at, memoryview(os.urandom(MIB)), None, Level.COMMITTED, BY)
        if asyncio.iscoroutine(written):
            await written
    for at in range(PIECE, size, PIECE):
        await call(volume, Clone(target, 0, target, at, min(PIECE, size - at)))
    return target


async def reads(files: list[tuple[Volume, Stateless]], size: int, block: int, count: int) -> list[float]:
    """Microseconds of CPU a read in each file, best of five rounds in turn over the same random places."""
    chance = random.Random(1)
    places = [chance.randrange(size // block) * block for _ in range(count)]
    into = memoryview(bytearray(block))
    best = [float("inf")] * len(files)
    for _ in range(5):
        for number, (volume, target) in enumerate(files):
            start = time.process_time()
            for at in places:
                got = volume.read(target, at, into, BY)
                if asyncio.iscoroutine(got):
                    await got
            best[number] = min(best[number], time.process_time() - start)
    return [seconds / count * 1e6 for seconds in best]


def report(what: str, **figures: object) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


async def measure(path: Path, size: int, clones: int) -> None:
    async with volume_on(path / "volume") as volume:
        source, plain = await image(volume, "image", size), await image(volume, "plain", size)
        await volume.core.data.cleaner.destage()
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
            before, after = await reads([(volume, plain), (volume, last)], size, block, count)
            report("reads", block=block, plain_us=round(before, 2), clone_us=round(after, 2), ratio=round(after / before, 3))
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
