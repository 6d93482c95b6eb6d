"""Where a volume is served: by this process, by another node, or at the moment by nobody.

One `Whereabouts` stands for one volume for as long as the process runs and the volume's record exists. The host that watches the
coordination store keeps it up to date; gateways and the serving side of the interconnect read it. What it says of another node is
what the store said last: that node may have been superseded since, and then answers `Fenced` or `Unavailable`.
"""

from collections.abc import Callable
from typing import NamedTuple

import structlog

from sofs.cluster import Incarnation, NodeId
from sofs.types import VolumeId
from sofs.volume.volume import LocalVolume


class Coordinator(NamedTuple):
    """Who coordinates a volume by the newest configuration that this node knows."""

    node: NodeId
    incarnation: Incarnation
    """Of its process. One that has ended serves nobody any more, though the configuration still names it."""
    version: int
    """The configuration's."""


NOBODY = Coordinator(NodeId(0), Incarnation(0), 0)
"""Nothing is known yet; on a single node with the embedded store it stays so."""


class Whereabouts:
    """Of one volume."""

    def __init__(self, id: VolumeId, name: str) -> None:
        self.id = id
        self.name = name
        self.coordinator = NOBODY
        self.local: LocalVolume | None = None
        """The volume while this process serves it. Before it becomes None on a planned move everything that it answered is stable; when it
        failed or was deposed, its gates that are not open yet never open, and what it still answers is `Unavailable`.
        """
        self._calls: list[Callable[[], None]] = []

    def on_change(self, call: Callable[[], None]) -> None:
        """Has `call` run, synchronously, after each change of `coordinator` or `local`."""
        self._calls.append(call)

    # For the host

    def moved(self, coordinator: Coordinator) -> None:
        """A newer configuration is known. An older one is ignored."""
        if coordinator.version > self.coordinator.version:
            self.coordinator = coordinator
            self._tell()

    def served(self, volume: LocalVolume | None) -> None:
        """This process serves the volume from now on, or no longer does."""
        if volume is not self.local:
            self.local = volume
            self._tell()

    def _tell(self) -> None:
        for call in tuple(self._calls):
            try:
                call()
            except Exception:
                # One who wants to know must not keep the others, or the takeover, from going on.
                structlog.get_logger(component="volume").exception("whereabouts.not_told", volume=self.name)
