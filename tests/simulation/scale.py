"""What many volumes on many nodes cost while nothing is asked of them, and how long it takes to take all of a dead node's over.

    python -m tests.simulation.scale --nodes 100 --volumes 300

Whole hosts over one simulated network and one store. CPU is this process's for all nodes together: the production code's with the simulator's, so an
upper bound; so is memory, in which the simulated disks lie, too. Pieces are what arrives at once over one connection.
"""

import argparse
import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from sofs.coordination.store import Seen, Watch
from tests.simulation.cluster.world import World, run
from tests.simulation.hosts import HostNode, Hosts

IDLE_S = 20.0


class CountedWatch:
    """A watch of the store that counts what it tells."""

    def __init__(self, watch: Watch, told: Callable[[], None]) -> None:
        self._watch = watch
        self._told = told

    def __aiter__(self) -> "CountedWatch":
        return self

    async def __anext__(self) -> Seen:
        seen = await self._watch.__anext__()
        self._told()
        return seen

    async def close(self) -> None:
        await self._watch.close()


class Meter:
    """What is used between two looks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.counts: Counter[str] = Counter()
        world.network.on_delivery = self._delivered
        store = world.store
        for name in ("get", "range", "transact", "lease"):
            setattr(store, name, self._counted(name, getattr(store, name)))
        watch = store.watch

        def counted(prefix: str, after: int = 0) -> Any:
            self.counts["watches"] += 1
            return CountedWatch(watch(prefix, after), lambda: self._count("told by watches"))

        store.watch = counted  # type: ignore[method-assign]
        self.begin()

    def begin(self) -> None:
        self.counts.clear()
        self._cpu, self._time, self._memory = time.process_time(), self._world.loop.time(), memory()

    def _count(self, name: str) -> None:
        self.counts[name] += 1

    def _delivered(self, source: str, target: str, size: int) -> None:
        self.counts["pieces"] += 1
        self.counts["bytes"] += size

    def _counted(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        def counted(*arguments: Any) -> Awaitable[Any]:
            self.counts[f"store {name}"] += 1
            return call(*arguments)

        return counted

    @property
    def cpu_ms(self) -> float:
        return 1e3 * (time.process_time() - self._cpu)

    @property
    def seconds(self) -> float:
        """Of the simulated world."""
        return self._world.loop.time() - self._time

    @property
    def memory_kib(self) -> float:
        return (memory() - self._memory) / 1024

    @property
    def asked(self) -> str:
        """Of the store."""
        found = [f"{count} {name}" for name, count in sorted(self.counts.items()) if name not in ("pieces", "bytes")]
        return f"the store: {', '.join(found) or 'nothing'}"


def memory() -> int:
    """Bytes that this process has in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure(world: World, nodes: int, volumes: int, policy: str) -> None:
    hosts, meter = Hosts(world, nodes), Meter(world)
    for machine in hosts.machines:
        await hosts.join(machine)
    await asyncio.sleep(3)
    print(f"{nodes} nodes: {meter.cpu_ms / nodes:.0f} ms of CPU and {meter.memory_kib / nodes:.0f} KiB each; {meter.asked}", flush=True)

    before = 0
    for until in (volumes // 3, volumes):
        meter.begin()
        for number in range(before, until):
            machine = hosts.machines[number % nodes]
            await machine.ask(lambda node, name=f"v{number}": node.host.create_volume(name, "p", policy, False))  # type: ignore[misc]
        made = until - before
        print(
            f"{until} volumes: {meter.cpu_ms / made:.1f} ms of CPU and {meter.memory_kib / made:.0f} KiB for each of the last {made}, at all nodes; "
            f"{meter.counts['pieces'] / made:.0f} pieces each; {meter.asked}",
            flush=True,
        )
        before = until
    await asyncio.sleep(5)

    meter.begin()
    await asyncio.sleep(IDLE_S)
    each = IDLE_S * nodes
    print(
        f"idle: {1e3 * meter.cpu_ms / each:.0f} us of CPU, {meter.counts['pieces'] / each:.0f} pieces and {meter.counts['bytes'] / each / 1024:.1f} KiB "
        f"a second and node; in {IDLE_S:.0f} s {meter.asked}",
        flush=True,
    )
    await fail(hosts, meter)


async def fail(hosts: Hosts, meter: Meter) -> None:
    """Kills the first node, as its supervisor sees it at once."""
    victim = hosts.machines[0]
    node = victim.node
    assert node is not None
    lost = [id for id, part in node.host.parts.items() if part.serving]
    victim.kill()
    meter.begin()
    await hosts.reap(victim, node.incarnation)
    while (waiting := [id for id in lost if not served(hosts, id)]) and meter.seconds < 60:
        await hosts.world.pause(0.005)
    assert not waiting, f"{len(waiting)} volumes are not served"
    took, cpu = meter.seconds, meter.cpu_ms
    spread = Counter(machine.name for machine in hosts.machines if machine.node is not None for id in lost if machine.node.host.parts[id].serving)
    await hosts.world.pause(1.0)
    print(
        f"a node with {len(lost)} of them died: all served again {1000 * took:.0f} ms of network time later, by {len(spread)} nodes; "
        f"{cpu / len(lost):.1f} ms of CPU each; in a second {meter.asked}"
    )


def served(hosts: Hosts, id: int) -> bool:
    return any(serves(machine.node, id) for machine in hosts.machines if machine.node is not None)


def serves(node: HostNode, id: int) -> bool:
    part = node.host.parts.get(id)
    return part is not None and part.serving and part.hosted.where.local is not None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--volumes", type=int, default=100)
    parser.add_argument("--policy", default="mirror(2) across host")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    run(1, lambda world: measure(world, options.nodes, options.volumes, options.policy))


if __name__ == "__main__":
    main()
