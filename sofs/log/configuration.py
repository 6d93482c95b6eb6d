"""What a log is told: who counts, where it stands, how large it may be."""

from typing import NamedTuple

from sofs.log.replica import FIRST
from sofs.types import Lsn


class Configuration(NamedTuple):
    """Which copies count, and who writes. It changes only by compare-and-set on `version`, in the coordination store."""

    version: int
    replicas: tuple[int, ...]
    memory_broken: bool = False
    """What was written but not stable may be lost although the host was not restarted: the last copy's sync failed."""
    coordinator: int = 0
    """The member's id; 0 on a single node, and where nobody coordinates any more."""
    incarnation: int = 0
    """Of the coordinator's process."""


class Mark(NamedTuple):
    """A place between two records, with what is needed to verify the log from there on."""

    lsn: Lsn
    checksum: int
    """That of the record before."""
    version: int
    """The configuration of the record before."""


BEGINNING = Mark(FIRST, 0, 0)
"""The place before the first record of any log."""


class LeaseSettings(NamedTuple):
    """Times of the protocol between a coordinator and its standbys, in seconds."""

    promise_s: float = 3.0
    """L: for how long a standby promises not to take over."""
    drift: float = 0.01
    """By how much two hosts' clocks may differ in rate: the coordinator counts on a promise for so much less."""
    silence_s: float = 1.0
    """A standby that has not answered for so long is removed."""
    retry_s: float = 0.05
    """Between two attempts to reach a replica that does not answer."""

    @property
    def beacon_s(self) -> float:
        """An idle coordinator lets no more time pass between two messages."""
        return self.promise_s / 6

    @property
    def counted_s(self) -> float:
        """How long after sending a message the coordinator counts on the promise in its answer."""
        return self.promise_s * (1 - self.drift)


class LogSettings(NamedTuple):
    segment_size: int = 64 << 20
    capacity: int = 16 << 30
    """Bytes of segments at most, per copy; at least three segments."""
    sync_interval_s: float = 1.0
    """What nobody asked to be stable is so after this time at the latest."""
    lease: LeaseSettings = LeaseSettings()
