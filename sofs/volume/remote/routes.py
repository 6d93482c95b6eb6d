"""All volumes of a node as its gateways hold them, and the answering side for those that it coordinates."""

from collections.abc import Callable

from sofs.cluster import Answer, Asked, Interconnect
from sofs.errors import Unavailable
from sofs.runtime.ports import Clock
from sofs.types import VolumeId
from sofs.volume.remote.messages import decode_told
from sofs.volume.remote.routed import RoutedVolume
from sofs.volume.remote.serving import VolumeService
from sofs.volume.remote.telling import SERVICE
from sofs.volume.where import Whereabouts


class RoutedVolumes:
    """One per process."""

    def __init__(self, interconnect: Interconnect | None, clock: Clock, lost: Callable[[RoutedVolume], None] = lambda volume: None) -> None:
        """Without an interconnect every volume is served here or nowhere. `lost` has the connections closed that use the volume: what they have asked may
        never be answered."""
        self._interconnect = interconnect
        self._clock = clock
        self.lost = lost
        self.on_served: Callable[[], None] = lambda: None
        """Called when this process begins to serve a volume, or ends to."""
        self._volumes: dict[int, RoutedVolume] = {}
        self._service = None if interconnect is None else VolumeService(interconnect, clock)
        if interconnect is not None:
            interconnect.serve(SERVICE, self._told)

    def add(self, where: Whereabouts) -> RoutedVolume:
        """From now on the volume can be reached, and is answered for while it is served here. The same again for one that is known."""
        known = self._volumes.get(where.id)
        if known is None:
            if self._service is not None:
                self._service.add(where)
            where.on_change(self._changed)
            known = self._volumes[where.id] = RoutedVolume(where, self._interconnect, self._clock, self._lose)
        return known

    def get(self, id: VolumeId) -> RoutedVolume | None:
        return self._volumes.get(id)

    def all(self) -> list[RoutedVolume]:
        return list(self._volumes.values())

    def _changed(self) -> None:
        self.on_served()

    def _lose(self, volume: RoutedVolume) -> None:
        self.lost(volume)

    def _told(self, asked: Asked) -> Answer:
        """Raises `PeerError`, and `Unavailable` for what belongs to a subscription that is not in force: it is told again in the next one."""
        told = decode_told(asked.body)
        volume = self._volumes.get(told.volume)
        if volume is None or not volume.heard(told):
            raise Unavailable("there is no such subscription")
        return Answer(b"")
