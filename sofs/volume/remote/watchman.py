"""Shuts out the gateways of processes that are gone, at the volumes that this process coordinates.

A gateway is fenced when its process is known to have ended, when its node was evicted or runs another process by now; and when it has not been heard of for
so long that its clients cannot be waiting for it: what says that it runs has expired, and it has no connection here. To fence one that lives after all is
safe, only unfriendly: it finds out, and begins anew.
"""

import asyncio
from collections.abc import Iterable

import structlog

from sofs.cluster import Incarnation, Interconnect, NodeId
from sofs.cluster.membership import EVICTED, Membership
from sofs.errors import SofsError
from sofs.runtime.ports import Clock, Timer
from sofs.volume.api import Binding, FenceGateway, Reply
from sofs.volume.remote.routed import RoutedVolume
from sofs.volume.remote.routes import RoutedVolumes
from sofs.volume.volume import LocalVolume

UNREACHABLE_S = 30.0
_LOOK_S = 5.0

log = structlog.get_logger("volume")


class Watchman:
    """One per process of a cluster. Made on the loop; ends with `close`."""

    def __init__(self, membership: Membership, interconnect: Interconnect, clock: Clock, routes: RoutedVolumes) -> None:
        self._membership = membership
        self._interconnect = interconnect
        self._clock = clock
        self._routes = routes
        self._unheard: dict[NodeId, float] = {}
        """Since when a node has not been heard of."""
        self._strangers: dict[tuple[RoutedVolume, int], float] = {}
        """Gateways that have opens though nobody knows whose they were, and since when: of a former coordinator that ended long ago, or of one that
        is about to say where it is."""
        self._known: dict[RoutedVolume, LocalVolume] = {}
        """The volumes whose opens have been looked through since they are served here."""
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._timer: Timer | None = clock.call_later(_LOOK_S, self._look)
        membership.on_dead(lambda node, incarnation: self._ended(incarnation))
        membership.on_change(self.run_once)
        routes.on_served = self.run_once

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self) -> None:
        self.run_once()
        self._timer = self._clock.call_later(_LOOK_S, self._look)

    def run_once(self) -> None:
        """Looks at every gateway that has been at a volume served here."""
        for volume in self._routes.all():
            local = volume.local
            if local is None:
                self._known.pop(volume, None)
                for (id, _), task in list(self._tasks.items()):
                    if id == volume.id:
                        task.cancel()  # it may never be answered; whoever coordinates next fences for itself
                continue
            if self._known.get(volume) is not local:
                self._known[volume] = local
                self._look_through(volume, local, self._membership.dead.values())
            for gateway, record in list(local.core.gateways.known.items()):
                if not record.fenced and self._is_gone(NodeId(record.node), Incarnation(gateway)):
                    self._fence(volume, gateway)
        self._judge_strangers()

    def _judge_strangers(self) -> None:
        now = self._clock.monotonic()
        for (volume, gateway), since in list(self._strangers.items()):
            local = volume.local
            if local is None or self._known.get(volume) is not local or gateway in local.core.gateways.known:
                del self._strangers[volume, gateway]
            elif now - since >= UNREACHABLE_S:
                del self._strangers[volume, gateway]
                self._fence(volume, gateway)

    def _ended(self, incarnation: Incarnation) -> None:
        for volume in self._routes.all():
            if volume.local is not None:
                self._look_through(volume, volume.local, (incarnation,))

    def _look_through(self, volume: RoutedVolume, local: LocalVolume, ended: Iterable[Incarnation]) -> None:
        """Also a gateway that never came from another node may have something here: it was this volume's coordinator once."""
        gateways = local.core.gateways
        held = {opened.by.gateway for opened in local.core.opens.values()} | gateways.known.keys()
        for gateway in ended:
            if gateway in held and gateway not in gateways.fenced:
                self._fence(volume, gateway)
        running = {record.incarnation for record in self._membership.running.values()}
        for stranger in held - running - gateways.known.keys() - {0, int(self._interconnect.incarnation)}:
            self._strangers.setdefault((volume, stranger), self._clock.monotonic())

    def _is_gone(self, node: NodeId, gateway: Incarnation) -> bool:
        membership = self._membership
        if gateway == self._interconnect.incarnation:
            return False
        member, running = membership.members.get(node), membership.running.get(node)
        if membership.is_dead(node, gateway) or member is None or member.state == EVICTED:
            return True
        if running is not None:
            self._unheard.pop(node, None)
            return running.incarnation != gateway
        if self._interconnect.peer(node).connected:
            self._unheard.pop(node, None)
            return False
        return self._clock.monotonic() - self._unheard.setdefault(node, self._clock.monotonic()) >= UNREACHABLE_S

    def _fence(self, volume: RoutedVolume, gateway: int) -> None:
        place = (volume.id, gateway)
        if place not in self._tasks:
            self._tasks[place] = asyncio.get_running_loop().create_task(self._carry_out(volume, gateway))
            self._tasks[place].add_done_callback(lambda task: self._tasks.pop(place, None))

    async def _carry_out(self, volume: RoutedVolume, gateway: int) -> None:
        try:
            reply = volume.call(FenceGateway(gateway), None, Binding(self._interconnect.incarnation, 0))
            if not isinstance(reply, Reply):
                await reply
            log.info("gateway_fenced", volume=volume.name, gateway=f"{gateway:016x}")
        except SofsError as error:
            log.warning("gateway_not_fenced", volume=volume.name, gateway=f"{gateway:016x}", reason=str(error))
