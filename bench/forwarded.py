"""`python -m bench.forwarded`: what it costs to use a volume from another node.

Both nodes are in this process, with real sockets between them and a volume on real files; so the CPU time is that of both ends, and of the interconnect
between. Prints, as JSON lines, the microseconds of CPU of each operation when it is local and when it is forwarded, and how long the latter takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
import uvloop

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_network import SystemNetwork
from sofs.types import ROOT, Level
from sofs.volume.api import Access, Binding, Caller, Close, Disposition, GetAttributes, Open, Opened, Volume
from sofs.volume.remote.routes import RoutedVolumes
from sofs.volume.where import Coordinator, Whereabouts
from tests.served import VOLUME, volume_on

SIZE = 64 << 20
BLOCK = 4096
ROUNDS = 5
NEAR, FAR = (NodeId(1), Incarnation(11)), (NodeId(2), Incarnation(22))
ROOT_USER = Caller(0, 0)


async def answered(reply: Any) -> Any:
    return await reply if isinstance(reply, Awaitable) else reply


async def opened(volume: Volume, by: Binding, name: bytes) -> Opened:
    request = Open(ROOT_USER, ROOT, (name,), int(Access.ALL), 7, Disposition.OPEN_IF)
    reply: Opened = await answered(volume.call(request, None, by))
    return reply


async def measured(work: Callable[[int], Any], count: int, depth: int) -> tuple[float, float]:
    """Microseconds of CPU and of time that each takes, the best of some rounds."""
    best, times = float("inf"), []
    for _ in range(ROUNDS):
        start, left = time.process_time(), iter(range(count))

        async def worker(left: Any = left) -> None:
            for number in left:
                began = time.perf_counter()
                await answered(work(number))
                times.append(time.perf_counter() - began)

        await asyncio.gather(*[worker() for _ in range(depth)])
        best = min(best, time.process_time() - start)
    return best / count * 1e6, statistics.median(times) * 1e6


async def measure(path: Path, count: int) -> None:
    clock, chance, network = SystemClock(), SystemRandom(), SystemNetwork()
    places: dict[NodeId, list[tuple[str, int]]] = {}
    nodes = [NetworkInterconnect(clock, chance, network, me, lambda node: places[node]) for me in (NEAR, FAR)]
    for node in nodes:
        places[node.node] = [("127.0.0.1", await node.listen("127.0.0.1", 0))]
    async with volume_on(path / "volume", gateway=NEAR[1]) as local:
        wheres = [Whereabouts(VOLUME, "v") for _ in nodes]
        near, far = (RoutedVolumes(node, clock).add(where) for node, where in zip(nodes, wheres, strict=True))
        wheres[0].served(local)
        for where in wheres:
            where.moved(Coordinator(*NEAR, 1))
        await far.ready()
        data, into = memoryview(random.randbytes(BLOCK)), memoryview(bytearray(BLOCK))
        at = [random.randrange(SIZE // BLOCK) * BLOCK for _ in range(count)]
        for what, volume, by in (("local", near, Binding(NEAR[1], 1)), ("forwarded", far, Binding(FAR[1], 1))):
            held = await opened(volume, by, what.encode())
            whole = memoryview(random.randbytes(1 << 20))
            for place in range(0, SIZE, 1 << 20):
                await answered(volume.write(held.open, place, whole, None, Level.COMMITTED, by))
            works: dict[str, Callable[[int], Any]] = {
                "read 4 KiB": lambda number, volume=volume, held=held, by=by: volume.read(held.open, at[number], into, by),  # type: ignore[misc]
                "write 4 KiB": lambda number, volume=volume, held=held, by=by: volume.write(  # type: ignore[misc]
                    held.open, at[number], data, None, Level.COMMITTED, by
                ),
                "attributes": lambda number, volume=volume, held=held, by=by: volume.call(GetAttributes(held.open), None, by),  # type: ignore[misc]
                "open and close": lambda number, volume=volume, by=by: open_and_close(volume, by),  # type: ignore[misc]
            }
            for name, work in works.items():
                for depth in (1, 16):
                    cpu, taken = await measured(work, count, depth)
                    print(json.dumps({"what": name, "volume": what, "depth": depth, "cpu_us": round(cpu, 1), "p50_us": round(taken, 1)}), flush=True)
            await answered(volume.call(Close(held.open), None, by))
        for node in nodes:
            await node.close()


async def open_and_close(volume: Volume, by: Binding) -> None:
    held = await opened(volume, by, b"f")
    await answered(volume.call(Close(held.open), None, by))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.forwarded", description="a volume used from another node")
    parser.add_argument("--count", type=int, default=4000, help="operations in each round")
    parser.add_argument("--data", type=Path, default=Path("/var/tmp"), help="a directory with a quarter of a GiB to spare")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(dir=chosen.data, prefix="sofs-forwarded-") as path, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(Path(path), chosen.count))


if __name__ == "__main__":
    main()
