"""Random faults over whole hosts: python -m tests.simulation.hosts_soak --seeds 1-50."""

import argparse
import asyncio

from sofs.errors import SofsError
from sofs.types import Level
from tests.simulation.cluster.machine import Gone, Machine
from tests.simulation.cluster.world import World, run
from tests.simulation.hosts import HostNode, Hosts

STEPS = 12


async def scenario(world: World) -> None:
    random = world.random
    count = 2 + random.below(2)
    hosts = Hosts(world, count)
    copies = 2 + random.below(count - 1)
    await hosts.begin(f"mirror({copies}) across host")
    await hosts.in_sync(copies)
    for _ in range(STEPS):
        writing = asyncio.create_task(keep_writing(hosts))
        await fault(world, hosts, hosts.machines[random.below(count)])
        await asyncio.sleep(random.fraction() * 3)
        await mend(world, hosts)
        await hosts.served(within=60)
        if await writing:
            await hosts.verify()
    await hosts.in_sync(copies, within=120)
    await hosts.verify()


async def keep_writing(hosts: Hosts) -> bool:
    for _ in range(20):
        await hosts.write(Level.STABLE if hosts.world.random.chance(0.5) else Level.COMMITTED, within=120)
        await asyncio.sleep(hosts.world.random.fraction() * 0.2)
    return True


async def fault(world: World, hosts: Hosts, machine: Machine[HostNode]) -> None:
    random = world.random
    await asyncio.sleep(random.fraction())
    kind = ("kill", "reap", "power", "pause", "part", "store", "move", "trouble")[random.below(8)]
    world.note("fault", kind, machine.name)
    node = machine.node
    if kind == "pause":
        machine.pause()
        await asyncio.sleep(random.fraction() * 8)
    elif kind == "part":
        others = [other for other in hosts.machines if other is not machine]
        world.network.partition(machine.name, others[random.below(len(others))].name)
        if random.chance(0.3):
            machine.line.up = False
    elif kind == "store":
        for each in hosts.machines:
            each.line.up = False
    elif kind == "trouble":
        for each in hosts.machines:
            each.line.trouble = 0.3
        if machine.up and node is not None:
            machine.kill()
    elif kind == "move":
        holders = sorted(hosts.holders()) if hosts.coordinator() is not None else []
        asked = hosts.coordinator()
        if asked is not None and holders:
            target = hosts.machines[holders[random.below(len(holders))]].name
            try:
                await asked.ask(lambda node: node.host.move("v", target))
            except (SofsError, Gone):
                pass
    elif machine.up and node is not None:
        if kind == "power":
            await hosts.in_sync(2, within=60)  # so that somebody remembers what was not stable
            machine.lose_power()
        else:
            machine.kill()
        if kind == "reap":
            await hosts.reap(machine, node.incarnation)


async def mend(world: World, hosts: Hosts) -> None:
    for machine in hosts.machines:
        machine.resume()
        machine.line.up, machine.line.trouble = True, 0.0
        for other in hosts.machines:
            if other is not machine:
                world.network.heal(machine.name, other.name)
    await asyncio.sleep(world.random.fraction() * 5)
    for machine in hosts.machines:
        if not machine.up:
            machine.start()
    for machine in hosts.machines:
        await machine.until_ready()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="1-20")
    parser.add_argument("--loud", action="store_true")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    violations = 0
    for seed in range(int(first), int(last or first) + 1):
        try:
            run(seed, scenario, loud=options.loud)
        except BaseException as error:
            violations += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:600]}")
            if first == (last or first):
                raise
    print(f"{violations} violations")


if __name__ == "__main__":
    main()
