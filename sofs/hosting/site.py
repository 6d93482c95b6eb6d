"""What all volumes of one node share: its ports, records, disks and ways to other nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sofs.cluster import Incarnation, Interconnect, NodeId
from sofs.config import Config
from sofs.hosting.pools import Pools
from sofs.hosting.view import View
from sofs.log.service import LogService
from sofs.records import Registry
from sofs.runtime.ports import Clock, Files, Random
from sofs.volume.security import Identities
from sofs.volume.volume import LocalVolume


@dataclass
class Site:
    """One node, below its gateways."""

    name: str
    """The host: the fault domain of its disks."""
    config: Config
    registry: Registry
    view: View
    disks: Pools
    files: Files
    clock: Clock
    random: Random
    identities: Identities
    boot: bytes
    """Identifies this boot of the host."""
    interconnect: Interconnect | None = None
    """None: a single node with the embedded store."""
    logs: LogService | None = None
    failed: Callable[[LocalVolume], None] = lambda volume: None
    """Called once for a volume of a single node that fails: requests that it was asked may never be answered. In a cluster `Whereabouts` says that it is
    served here no more, and whoever routes requests knows what to do about them.
    """

    lacking: Callable[[], None] = lambda: None
    """Called when a volume that is served here may have fewer replicas than it should."""

    making: set[int] = field(default_factory=set)
    """Volumes that are being made here: the store may tell of them before the one who makes them is told that it is done."""

    @property
    def node(self) -> NodeId:
        """0 for a single node."""
        return NodeId(0) if self.interconnect is None else self.interconnect.node

    @property
    def incarnation(self) -> Incarnation:
        return Incarnation(0) if self.interconnect is None else self.interconnect.incarnation

    def ended(self, gateway: int) -> bool:
        """Whether the gateways of this incarnation are known to be gone, with their connections."""
        return gateway != self.incarnation and gateway in self.view.dead.values()
