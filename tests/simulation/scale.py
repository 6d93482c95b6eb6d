"""What many volumes on many nodes cost while nothing is asked of them, and how long it takes to take all of a dead node's over.

    python -m tests.simulation.scale --nodes 10 --volumes 200

Whole hosts over one simulated network. CPU is this process's for all nodes together: the production code's with the simulator's, so an upper bound.
"""

import argparse
import asyncio
import time
from collections import Counter

from tests.simulation.cluster.world import World, run
from tests.simulation.hosts import HostNode, Hosts

IDLE_S = 20.0


async def measure(world: World, nodes: int, volumes: int, policy: str) -> None:
    hosts = Hosts(world, nodes)
    for machine in hosts.machines:
        await hosts.join(machine)
    await asyncio.sleep(3)
    began = time.process_time()
    for number in range(volumes):
        machine = hosts.machines[number % nodes]
        await machine.ask(lambda node, name=f"v{number}": node.host.create_volume(name, "p", policy, False))  # type: ignore[misc]
    print(f"{volumes} volumes made: {1000 * (time.process_time() - began) / volumes:.0f} ms of CPU each", flush=True)
    await asyncio.sleep(5)

    began, revision, calls = time.process_time(), world.store._revision, world.loop.callbacks
    await asyncio.sleep(IDLE_S)
    spent = time.process_time() - began
    print(
        f"idle: {1e6 * spent / IDLE_S / nodes:.0f} us of CPU a second and node, {1e6 * spent / IDLE_S / volumes:.0f} a second and volume; "
        f"{(world.loop.callbacks - calls) / IDLE_S / volumes:.1f} callbacks a second and volume; "
        f"{world.store._revision - revision} changes of the store in {IDLE_S:.0f} s"
    )

    victim = hosts.machines[0]
    node = victim.node
    assert node is not None
    lost = [id for id, part in node.host.parts.items() if part.serving]
    victim.kill()
    began, died = time.process_time(), world.loop.time()
    await hosts.reap(victim, node.incarnation)
    while (waiting := [id for id in lost if not served(hosts, id)]) and world.loop.time() < died + 60:
        await world.pause(0.005)
    assert not waiting, f"{len(waiting)} volumes are not served"
    took = world.loop.time() - died
    spread = Counter(
        machine.name for machine in hosts.machines if machine.node is not None for id in lost if machine.node.host.parts[id].serving
    )
    print(
        f"a node with {len(lost)} of them died: all served again {1000 * took:.0f} ms of network time later, by {len(spread)} nodes; "
        f"{1000 * (time.process_time() - began) / len(lost):.1f} ms of CPU each"
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
    run(1, lambda world: measure(world, options.nodes, options.volumes, options.policy))


if __name__ == "__main__":
    main()
