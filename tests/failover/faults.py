"""What happens to the cluster: each fault begins, lasts, and is mended. All go by what the cluster says of itself at that moment.

How long it lasts is said by whoever asks for it, unless the fault is a fixed time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.failover.laboratory import Laboratory

PAUSED_S = 10.0
ETCD_DOWN_S = 60.0
DOWN_S = 2.0
BACK_S = 30.0
"""Until an undrained node has an address again; it waits some seconds before it moves one for the balance."""


Over = Callable[[], Awaitable[None]]
"""Waits until the fault has lasted long enough, where it does not say so itself."""


async def a_while() -> None:
    await asyncio.sleep(DOWN_S)


class Fault(NamedTuple):
    name: str
    happen: Callable[[Laboratory, Over], Awaitable[None]]
    target: str
    """The pause that it may cause."""
    alone: bool = False
    """Its pause is only told from that of an address which moves for the balance if none does."""
    power: bool = False
    """Hosts lose power: only what was stable counts, and the lab needs file systems of its own."""


async def coordinator(lab: Laboratory) -> str:
    """The node that coordinates the volume, as all others see it."""
    for name in lab.names:
        volume = await lab.volume(name)
        if volume.coordinator:
            return volume.coordinator
    raise AssertionError("nobody coordinates the volume")


async def roles(lab: Laboratory) -> tuple[str, list[str], list[str]]:
    """The coordinator, the standbys, and the nodes that are only gateways."""
    leads = await coordinator(lab)
    having = {replica.node for replica in (await lab.volume(leads)).replicas}
    return leads, [name for name in lab.names if name in having and name != leads], [name for name in lab.names if name not in having]


async def _kill(lab: Laboratory, over: Over, name: str) -> None:
    await lab.do("kill", name)
    await over()
    await lab.do("restart", name)


async def kill_coordinator(lab: Laboratory, over: Over = a_while) -> None:
    await _kill(lab, over, (await roles(lab))[0])


async def kill_standby(lab: Laboratory, over: Over = a_while) -> None:
    await _kill(lab, over, (await roles(lab))[1][0])


async def kill_gateway(lab: Laboratory, over: Over = a_while) -> None:
    _, standbys, gateways = await roles(lab)
    await _kill(lab, over, (gateways or standbys)[-1])


async def pause_coordinator(lab: Laboratory, over: Over = a_while) -> None:
    name = await coordinator(lab)
    await lab.do("pause", name)
    await asyncio.sleep(PAUSED_S)
    await lab.do("resume", name)


async def _cut(lab: Laboratory, over: Over, *networks: str) -> None:
    name = await coordinator(lab)
    await lab.do("cut", name, *networks)
    await over()
    await lab.do("heal", name, *networks)


async def cut_coordinator(lab: Laboratory, over: Over = a_while) -> None:
    await _cut(lab, over)


async def cut_coordinator_from_its_peers(lab: Laboratory, over: Over = a_while) -> None:
    await _cut(lab, over, "cluster")


async def etcd_leader(lab: Laboratory, over: Over = a_while) -> None:
    cluster = await lab.cluster(lab.names[0])
    leader = next(member.endpoint for member in cluster.store if member.state == "leader")
    name = next(member["name"] for member in lab.about["etcd"] if member["address"] == leader)
    await lab.do("etcd-kill", name)
    await over()
    await lab.do("etcd-restart", name)


async def etcd_all(lab: Laboratory, over: Over = a_while) -> None:
    names = [member["name"] for member in lab.about["etcd"]]
    for name in names:
        await lab.do("etcd-kill", name)
    await asyncio.sleep(ETCD_DOWN_S)
    for name in names:
        await lab.do("etcd-restart", name)


async def lose_disk(lab: Laboratory, over: Over = a_while) -> None:
    name = await coordinator(lab)
    await lab.do("lose-disk", name)
    await over()
    await lab.do("return-disk", name)


async def power(lab: Laboratory, over: Over = a_while) -> None:
    await lab.do("power-off")
    await asyncio.sleep(DOWN_S)
    await lab.do("power-on")


async def move(lab: Laboratory, over: Over = a_while) -> None:
    """A planned one, by draining: volumes, groups and addresses go. Undrained, the node gets its address back, under load as well."""
    from sofs.admin import api

    name = await coordinator(lab)
    asked = lab.admin(next(each for each in lab.names if each != name), timeout=90)
    await asyncio.to_thread(asked.ask, api.Operations.drain, name)
    await over()
    await asyncio.to_thread(asked.ask, api.Operations.undrain, name)
    async with asyncio.timeout(BACK_S):
        while await lab.crowded(name):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.2)


FAULTS = (
    Fault("kill -9 of the coordinator", kill_coordinator, "1 s"),
    Fault("kill -9 of a standby", kill_standby, "1 s"),
    Fault("kill -9 of a gateway only", kill_gateway, "1 s"),
    Fault("coordinator stopped for 10 s", pause_coordinator, "L + 1 s"),
    Fault("coordinator cut off", cut_coordinator, "L + 1 s"),
    Fault("coordinator cut off from its peers", cut_coordinator_from_its_peers, "L + 1 s"),
    Fault("loss of the etcd leader", etcd_leader, "none", alone=True),
    Fault("loss of all etcd for 60 s", etcd_all, "none", alone=True),
    Fault("loss of the coordinator's disk", lose_disk, "L + 1 s"),
    Fault("planned move", move, "1 s", alone=True),
    Fault("loss of power of all nodes and all etcd", power, "none", power=True),
)
