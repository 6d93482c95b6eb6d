"""What an extent costs on a disk of another node: CPU microseconds of both nodes together, per MiB, next to a disk of one's own.

Both nodes run in this process, over real sockets of the loopback and real files; data is in the page cache.

    .venv/bin/python -m bench.disks [--directory DIR] [--rounds N] [--depth N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import uvloop

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.pool import ExtentId, Placement, parse_policy
from sofs.pool.fragment import checksum
from sofs.pool.local_pool import LocalPool
from sofs.pool.members import DiskSpec
from sofs.pool.opening import make_disk
from sofs.pool.service import DiskService
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_network import SystemNetwork
from sofs.types import PAGE, VolumeId

MIB = 1 << 20
POLICY = parse_policy("simple")


async def measured(rounds: int, depth: int, one: Callable[[int], Awaitable[object]]) -> tuple[float, float]:
    """CPU and elapsed microseconds for each of `rounds` calls, `depth` at a time."""
    numbers = iter(range(rounds))

    async def worker() -> None:
        for number in numbers:
            await one(number)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(depth)])
    return (time.process_time() - cpu) / rounds * 1e6, (time.perf_counter() - wall) / rounds * 1e6


async def measure(root: Path, rounds: int, depth: int) -> None:
    files, clock, random = SystemFiles(4), SystemClock(), SystemRandom()
    label = make_disk(files, random, str(root / "disk"), pool="p", tier="ssd", host="h", capacity=2 << 30)
    specs = [DiskSpec(str(root / "disk"), label.id, "ssd", "h", node=1)]
    addresses: dict[int, list[tuple[str, int]]] = {}
    pools: list[LocalPool] = []
    nodes = []
    for number in (1, 2):
        node = NetworkInterconnect(clock, random, SystemNetwork(), (NodeId(number), Incarnation(number)), lambda id: addresses.get(id, ()))
        addresses[number] = [("127.0.0.1", await node.listen("127.0.0.1", 0))]
        pool = LocalPool("p", files, random, lambda event, /, **fields: None, clock=clock, interconnect=node)
        pool.open(specs)
        DiskService(node, {"p": pool})
        nodes.append(node)
        pools.append(pool)
    await pools[1].hear()
    data = memoryview(bytes(range(256)) * (MIB // 256))
    sums = checksum([data]).pages.tolist()
    number = 0
    for where, pool in (("own", pools[0]), ("remote", pools[1])):
        for size in (MIB, 64 * 1024, PAGE):
            placements: list[Placement] = []

            async def write(_: int, pool: LocalPool = pool, placements: list[Placement] = placements) -> None:
                nonlocal number
                number += 1
                placements.append(await pool.write(ExtentId(VolumeId(1), number), [data], POLICY, b"", sums))

            into = memoryview(bytearray(size))

            async def read(
                nth: int, pool: LocalPool = pool, placements: list[Placement] = placements, size: int = size,
                into: memoryview = into,
            ) -> None:  # fmt: skip
                waiting = pool.read(placements[nth % len(placements)], 0, into, sums[: size // PAGE])
                if waiting is not None:
                    await waiting

            # Once before: the first touch of a file's pages is dear, and of memory.
            await measured(16, depth, write)
            if size == MIB:
                cpu, wall = await measured(rounds, depth, write)
                print(
                    json.dumps({"operation": "write", "disk": where, "bytes": size, "depth": depth, "cpu_us": round(cpu), "elapsed_us": round(wall)})
                )
            await measured(50, depth, read)
            cpu, wall = await measured(rounds * 4, depth, read)
            print(json.dumps({"operation": "read", "disk": where, "bytes": size, "depth": depth, "cpu_us": round(cpu), "elapsed_us": round(wall)}))
            for at in placements:
                await pool.delete(at)
    for pool in pools:
        await pool.close()
    for node in nodes:
        await node.close()
    files.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--depth", type=int, default=1)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory(dir=given.directory) as root:
        uvloop.run(measure(Path(root), given.rounds, given.depth))


if __name__ == "__main__":
    main()
