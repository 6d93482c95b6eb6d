"""A volume that is served in one process and used through another's gateway, over the real interconnect and a simulated network.

`FarRig` is a `StateRig` whose `volume` is the other process's `RoutedVolume`, made to answer at once where a local one would: the loop is run, within the
call, for as long as messages need. What has not been answered by then really waits, and is handed out as the awaitable that it is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_network import SimulatedNetwork
from sofs.types import Level, Lsn, VolumeId
from sofs.volume.api import AnyToken, Binding, Reply, Request, Target, Volume
from sofs.volume.remote.routed import RoutedVolume
from sofs.volume.remote.routes import RoutedVolumes
from sofs.volume.volume import LocalVolume
from sofs.volume.where import Coordinator, Whereabouts
from tests.unit.volume.state_rig import StateRig, Told

__all__ = ["GATEWAY", "HERE", "THERE", "Far", "FarRig", "Near", "pump"]

HERE, THERE = (NodeId(10), Incarnation(99)), (NodeId(20), Incarnation(1))
"""The coordinator's process, and the one whose gateway's incarnation tests use in their bindings."""
GATEWAY = THERE[1]
_SOON_S = 0.3

R = TypeVar("R")


def pump(waiting: Awaitable[R], seconds: float = _SOON_S) -> "asyncio.Future[R]":
    """Runs the loop, from within one of its tasks, until this is done or so much time has passed."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    future = asyncio.ensure_future(waiting)
    end = loop.time() + seconds
    timer = loop.call_later(seconds, lambda: None)
    task = asyncio.current_task()
    assert task is not None
    asyncio.tasks._leave_task(loop, task)
    try:
        while not future.done() and loop.time() < end:
            loop._run_once()  # type: ignore[attr-defined]
    finally:
        asyncio.tasks._enter_task(loop, task)
        timer.cancel()
    return future


class Near:
    """The volume's interface, answering at once what a local volume would answer at once."""

    def __init__(self, volume: Volume, local: Callable[[], LocalVolume]) -> None:
        self._volume = volume
        self._local = local
        self.id, self.name = volume.id, volume.name

    @property
    def core(self) -> Any:
        return self._local().core

    @property
    def verifier(self) -> int:
        return self._volume.verifier

    def call(self, request: Request, token: AnyToken | None, by: Binding) -> Any:
        return _now(self._volume.call(request, token, by), Reply)

    def read(self, target: Target, offset: int, into: memoryview, by: Binding) -> Any:
        return _now(self._volume.read(target, offset, into, by), object)

    def write(self, target: Target, offset: int, data: memoryview, token: AnyToken | None, level: Level, by: Binding) -> Any:
        return _now(self._volume.write(target, offset, data, token, level, by), Reply)

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        self._volume.when(gate, level, send)

    def subscribe(self, upcalls: Any) -> None:
        self._volume.subscribe(upcalls)

    def at(self, snapshot: int) -> "Near":
        return Near(self._volume.at(snapshot), self._local)

    def keep_all(self) -> None:
        self._local().keep_all()

    async def run_once(self) -> None:
        await self._local().run_once()

    async def close(self) -> None:
        await self._local().close()


def _now(answer: Any, kind: type[Any]) -> Any:
    if not isinstance(answer, Awaitable):
        return answer
    future = pump(answer)
    return future.result() if future.done() else future


class Far:
    """Two processes, and the volume's whereabouts as each of them knows it."""

    def __init__(self, clock: SimulatedClock, random: SimulatedRandom) -> None:
        self.network = SimulatedNetwork(random)
        addresses = {HERE[0]: [("10.0.0.1", 1)], THERE[0]: [("10.0.0.2", 1)]}
        self.clock = clock
        self.interconnects = [
            NetworkInterconnect(clock, random, self.network.host(place[0][0]), me, lambda node: addresses.get(node, []))
            for me, place in ((HERE, addresses[HERE[0]]), (THERE, addresses[THERE[0]]))
        ]
        self.routes = [RoutedVolumes(interconnect, clock, self._lost) for interconnect in self.interconnects]
        self.where = [Whereabouts(VolumeId(7), "v"), Whereabouts(VolumeId(7), "v")]
        self.lost: list[RoutedVolume] = []
        self.version = 0
        for routes, where in zip(self.routes, self.where, strict=True):
            routes.add(where)

    async def open(self) -> None:
        for interconnect, address in zip(self.interconnects, ("10.0.0.1", "10.0.0.2"), strict=True):
            await interconnect.listen(address, 1)

    async def close(self) -> None:
        for interconnect in self.interconnects:
            await interconnect.close()

    def serve(self, local: LocalVolume) -> None:
        self.version += 1
        for where in self.where:
            where.moved(Coordinator(*HERE, self.version))
        self.where[0].served(local)

    @property
    def near(self) -> RoutedVolume:
        """As the coordinator's own gateways have it."""
        found = self.routes[0].get(VolumeId(7))
        assert found is not None
        return found

    @property
    def far(self) -> RoutedVolume:
        """As the other process's gateways have it."""
        found = self.routes[1].get(VolumeId(7))
        assert found is not None
        return found

    def _lost(self, volume: RoutedVolume) -> None:
        self.lost.append(volume)


class FarRig(StateRig):
    local: LocalVolume
    between: Far
    mounts: int = 0

    def mount(self) -> None:
        """Both processes begin anew, but what the gateway had open is not gone with it."""
        assert isinstance(self.clock, SimulatedClock) and isinstance(self.random, SimulatedRandom)
        self.local = LocalVolume(self.store, self.data, self.clock, id=VolumeId(7), name="v", gateway=HERE[1], ended=lambda gateway: False)
        self.between = Far(self.clock, self.random)
        # Its incarnation is the same, so it must not begin to count from the start.
        asker = self.between.far._asker
        assert asker is not None
        self.mounts += 1
        asker._sequences, asker._free = [self.mounts << 20] * 64, list(range(64))
        pump(self.between.open()).result()
        self.between.serve(self.local)
        pump(self.between.far.ready(), 5).result()
        self.volume = Near(self.between.far, lambda: self.local)  # type: ignore[assignment]
        self.told = Told()
        self.volume.subscribe(self.told)

    async def close(self) -> None:
        await self.between.close()
        await super().close()
