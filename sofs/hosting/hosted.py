"""One volume, as this node has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sofs.errors import Unavailable
from sofs.pool.policy import Policy, parse_policy
from sofs.records import VolumeRecord
from sofs.types import VolumeId
from sofs.volume.api import Volume
from sofs.volume.data import Data
from sofs.volume.recovery import Store
from sofs.volume.volume import LocalVolume
from sofs.volume.where import Whereabouts

SYSTEM = ".system"
"""The small volume of the cluster, or of a node by itself: what gateways keep about their clients. It has no share, and operators are not
shown it."""


@dataclass
class Hosted:
    """A volume with a record. Without `volume` it is not served here, and `reason` says why if it should be."""

    record: VolumeRecord
    where: Whereabouts
    volume: LocalVolume | None = None
    store: Store | None = None
    data: Data | None = None
    reason: str = ""
    find: Callable[[], Volume | None] = lambda: None
    """The volume as this node reaches it, wherever it is served."""

    @classmethod
    def of(cls, record: VolumeRecord) -> Hosted:
        return cls(record, Whereabouts(VolumeId(record.id), record.name))

    @property
    def is_system(self) -> bool:
        """It is not the operator's."""
        return self.record.name == SYSTEM

    @property
    def policy(self) -> Policy:
        return parse_policy(self.record.policy)

    @property
    def state(self) -> tuple[str, str]:
        """serving, degraded or failed, and why."""
        if self.store is None:
            return "failed", self.reason
        if self.store.log.failure is not None:
            return "failed", str(self.store.log.failure)
        wanted = self.policy.tolerates + 1
        if self.store.log.replicas < wanted:
            return "degraded", f"its log has {self.store.log.replicas} of {wanted} replicas"
        return "serving", ""

    @property
    def reached(self) -> Volume:
        """The volume, wherever it is served. Raises `Unavailable` where it cannot be."""
        volume = self.find()
        if volume is None:
            raise Unavailable(f"volume {self.record.name} is not served: {self.reason}")
        return volume

    def opened_store(self) -> Store:
        """Raises `Unavailable` for a volume that is not served here."""
        if self.store is None:
            raise Unavailable(self.reason)
        return self.store

    def figures(self) -> dict[str, int]:
        """Its own counters, for operators."""
        if self.store is None:
            return {}
        log, keyspace = self.store.log, self.store.keyspace
        return {
            "log_end": log.end,
            "log_kept_bytes": log.end - log.start,
            "log_capacity_bytes": log.capacity,
            "log_unstable_bytes": log.end - log.stable,
            "log_behind_checkpoint_bytes": log.end - keyspace.checkpointed,
            "log_replayed_records": self.store.replayed,
            "snapshots": len(keyspace.overlay.history.snapshots),
            **({f"again_{how}": count for how, count in self.volume.core.repeated.items()} if self.volume is not None else {}),
        }
