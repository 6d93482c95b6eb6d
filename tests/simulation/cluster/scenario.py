"""One seed's life of a cluster: which nodes, volumes, workloads and faults, for how long, and what must be true in the end."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.simulation.cluster.cluster import Cluster, small
from tests.simulation.cluster.faults import TOGETHER, Faults
from tests.simulation.cluster.workloads import WORKLOADS, Workload
from tests.simulation.cluster.world import World, run

__all__ = ["Outcome", "Shape", "run_seed"]

_STUCK_S = 900.0
"""Virtual seconds after which clients that are still not answered, with all faults over, never will be."""


@dataclass(frozen=True)
class Shape:
    """What a seed may choose from."""

    nodes: tuple[int, int] = (1, 1)
    """Fewest and most."""
    disks: int = 2
    policies: tuple[str, ...] = ("mirror(2)",)
    volumes: int = 1
    workloads: tuple[str, ...] = tuple(sorted(WORKLOADS))
    faults: tuple[str, ...] = TOGETHER
    duration: float = 20.0
    """Virtual seconds of faults, on average."""


class Outcome(NamedTuple):
    """What a run came to."""

    answers: int
    operations: int
    resent: int
    lost: int
    """Acknowledged, not stable, and lost with a change of the verifier."""
    faults: dict[str, int]
    virtual: float
    digest: int


async def _live(world: World, shape: Shape) -> Outcome:
    random = world.random
    few, many = shape.nodes
    cluster = Cluster(world, few + random.below(many - few + 1))
    await cluster.begin(1 + random.below(shape.volumes), shape.disks, shape.policies[random.below(len(shape.policies))])
    workloads = _chosen(cluster, shape)
    for workload in workloads:
        await workload.begin()
    working = [asyncio.ensure_future(workload.work()) for workload in workloads]
    faults = Faults(cluster, shape.faults)
    striking = asyncio.ensure_future(faults.strike())
    await _while_well(shape.duration * (0.5 + random.fraction()), [*working, striking])
    cluster.replicas.look()
    striking.cancel()
    await asyncio.wait([striking])
    faults.stop()
    world.note("world", "settling")
    await cluster.settle()
    await faults.finish()
    for workload in workloads:
        workload.stopping = True
    try:
        async with asyncio.timeout(_STUCK_S):
            await asyncio.gather(*working)
    except TimeoutError:
        raise AssertionError(f"with all faults over, clients have waited {_STUCK_S:.0f} s for an answer") from None
    await cluster.recovered()
    for workload in workloads:
        for client in workload.clients[:2]:
            await workload.verify(client)
    await cluster.check_volumes()
    cluster.replicas.look()
    if "rot" not in faults.counts:  # a record that rots below the checkpoint stays so until somebody needs it
        cluster.check_logs()
    return Outcome(
        cluster.answers,
        sum(workload.operations for workload in workloads),
        sum(client.resent for workload in workloads for client in workload.clients),
        cluster.lost,
        faults.counts,
        world.loop.time(),
        world.digest,
    )


def _chosen(cluster: Cluster, shape: Shape) -> list[Workload]:
    random = cluster.world.random
    chosen = []
    for number in range(1 + random.below(3)):
        kind = WORKLOADS[shape.workloads[random.below(len(shape.workloads))]]
        chosen.append(kind(cluster, number, cluster.volumes[random.below(len(cluster.volumes))]))
    return chosen


async def _while_well(seconds: float, tasks: Sequence["asyncio.Future[None]"]) -> None:
    """Lets time pass, and raises what any of the tasks raises meanwhile."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def run_seed(seed: int, shape: Shape, loud: bool = False) -> Outcome:
    """Raises AssertionError, or whatever escaped, with the last events as a note."""
    small()
    return run(seed, lambda world: _live(world, shape), loud)
