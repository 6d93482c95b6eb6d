"""The watchman where a volume stops being served while it shuts a gateway out."""

import asyncio
from typing import Any

from sofs.cluster import NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.cluster.membership import Membership
from sofs.cluster.records import DeadRecord
from sofs.coordination import Put, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.volume.remote.watchman import Watchman
from tests.unit.volume.remote.far_rig import HERE, THERE, FarRig


def test_a_fence_that_its_coordinator_could_not_finish_is_begun_anew_by_it_later() -> None:
    loop, random = SimulatedLoop(), SimulatedRandom(1)
    rig = FarRig(SimulatedFiles(random), SimulatedClock(loop), random)

    async def main() -> None:
        await rig.make()
        rig.smb(b"f")
        near: Any = rig.between.near
        interconnect = rig.between.interconnects[0]
        assert isinstance(interconnect, NetworkInterconnect)
        files = SimulatedFiles(random)
        files.make_directory("/store")
        store = EmbeddedStore.open(files, rig.clock, rig.random, "/store/journal")
        membership = Membership(store, rig.clock, NodeId(HERE[0]), HERE[1], "boot")
        watchman = Watchman(membership, interconnect, rig.clock, rig.between.routes[0])
        asked: list[object] = []
        near.call = lambda request, token, by: asked.append(request) or loop.create_future()
        await store.transact([], [Put(keys.dead(THERE[0]), DeadRecord(incarnation=THERE[1], by="its supervisor").encode())])
        membership.dead[THERE[0]] = THERE[1]
        watchman.run_once()
        await asyncio.sleep(0)
        assert len(asked) == 1
        local = rig.local
        rig.between.where[0].served(None)
        watchman.run_once()
        await asyncio.sleep(0.01)
        rig.between.where[0].served(local)
        watchman.run_once()
        await asyncio.sleep(1)
        assert THERE[1] in rig.local.core.gateways.fenced
        await watchman.close()
        await store.close()
        await rig.close()

    loop.run(main())
