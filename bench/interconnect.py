"""`python -m bench.interconnect`: what a call from one node to another costs, over the loopback, with and without TLS.

Prints, as JSON lines, microseconds of CPU per call, for both ends together: they are in one process, so that nothing is counted twice or missed. `depth`
calls are under way at a time; `ask` hands its answer to a callback, `call` to a coroutine. What the kernel does for the loopback is in the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path

import structlog
import uvloop

from sofs.cluster import Answer, NodeId, Outcome, Peer, Priority
from sofs.cluster.authority import Authority, node_of
from sofs.runtime.ports import Buffer
from sofs.runtime.system_clock import SystemClock
from sofs.runtime.system_network import SystemNetwork
from sofs.runtime.system_tls import Tls
from tests.simulation.cluster_net import on_loopback

CLUSTER = "bench"
BODY = bytes(40)
SMALL, LARGE = 4 << 10, 1 << 20


async def asked(peer: Peer, service: str, payload: tuple[Buffer, ...], depth: int, count: int) -> None:
    """`count` calls with callbacks."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left, started = count, 0

    def start() -> None:
        nonlocal started
        started += 1
        peer.ask(service, BODY, payload, then, priority=Priority.REPLICATION)

    def then(outcome: Outcome) -> None:
        nonlocal left
        assert isinstance(outcome, Answer)
        left -= 1
        if started < count:
            start()
        elif not left:
            done.set_result(None)

    for _ in range(depth):
        start()
    await done


async def called(peer: Peer, service: str, payload: tuple[Buffer, ...], depth: int, count: int) -> None:
    """`count` calls by coroutines."""

    async def caller() -> None:
        for _ in range(count // depth):
            await peer.call(service, BODY, payload, priority=Priority.REPLICATION)

    await asyncio.gather(*(caller() for _ in range(depth)))


def networks(directory: Path) -> list[SystemNetwork]:
    now = SystemClock().now()
    authority = Authority.make(CLUSTER, now)
    result = []
    for number in (1, 2):
        (directory / str(number)).mkdir()
        tls = Tls(directory / str(number))
        issued = authority.issue(CLUSTER, NodeId(number), now)
        tls.store(authority.certificate, issued.key, issued.certificate)
        result.append(SystemNetwork(tls=tls))
    return result


async def measure(tls: bool, scale: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        if tls:
            nodes = await on_loopback(2, networks(Path(directory)), identify=lambda connection: node_of(CLUSTER, connection.names))
        else:
            nodes = await on_loopback(2)
    small, large = bytes(SMALL), bytes(LARGE)
    nodes[1].serve("take", lambda question: Answer(b"ok"))
    nodes[1].serve("give", lambda question: Answer(b"", (large,)))
    peer = nodes[0].peer(NodeId(2))
    await peer.call("take", b"", priority=Priority.REPLICATION)
    rows = [("4 KiB sent", how, "take", (small,), depth, 10_000) for depth in (1, 8, 64) for how in (asked, called)]
    rows += [("1 MiB sent", asked, "take", (large,), depth, 400) for depth in (1, 8)]
    rows += [("1 MiB answered", asked, "give", (), depth, 400) for depth in (1, 8)]  # type: ignore[list-item]
    for what, how, service, payload, depth, count in rows:
        count = max(int(count * scale) // depth, 1) * depth
        began, cpu = time.perf_counter(), time.process_time()
        await how(peer, service, payload, depth, count)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - began
        figures = {"what": what, "tls": tls, "how": "ask" if how is asked else "call", "depth": depth}
        print(json.dumps({**figures, "cpu_us": round(1e6 * cpu / count, 1), "wall_us": round(1e6 * wall / count, 1)}), flush=True)
    for node in nodes:
        await node.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.interconnect")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of calls")
    scale = parser.parse_args().scale
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for tls in (False, True):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(tls, scale))


if __name__ == "__main__":
    main()
