"""What the copies of a log hold, read from the disks of all machines as they lie there.

- A record has the same bytes wherever it is: one checksum for each (version, position), over the whole run and all replicas, also those that are out of the
  configuration, and also for what was cut off later.
- When all is well again, the replicas of the configuration hold the same records up to what is stable.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sofs.errors import SofsError
from sofs.hosting import opening
from sofs.log.reading import SegmentReader
from sofs.log.replica import FIRST, LocalReplica, SegmentHeader
from sofs.runtime.simulated_files import SimulatedFiles
from tests.simulation.cluster.machine import DATA, Machine

__all__ = ["Records", "Replicas", "records_of"]

Records = dict[tuple[int, int], int]
"""By version and position, the checksum, which covers the record and everything before it."""


class _Place(NamedTuple):
    volume: int
    replica: int
    path: str


class Replicas:
    """What has been seen of one cluster's logs so far."""

    def __init__(self, machines: Sequence[Machine[Any]]) -> None:
        self.machines = machines
        self.known: dict[int, Records] = {}

    def look(self) -> None:
        """Compares what is there now with all that was seen. Raises AssertionError."""
        for machine in self.machines:
            for place in _places(machine.files):
                known = self.known.setdefault(place.volume, {})
                for (version, lsn), checksum in records_of(machine.files, place.path).items():
                    before = known.setdefault((version, lsn), checksum)
                    assert before == checksum, (
                        f"{machine.name}, {place.path}: the record at {lsn} of version {version} has other bytes than were seen before"
                    )

    def converged(self, volume: int, replicas: tuple[int, ...], start: int, stable: int) -> None:
        """The replicas that count hold the same from `start` to `stable`. Raises AssertionError."""
        found: dict[int, dict[int, int]] = {}
        for machine in self.machines:
            for place in _places(machine.files):
                if place.volume == volume and place.replica in replicas:
                    rows = records_of(machine.files, place.path)
                    newest: dict[int, int] = {}
                    for (_, lsn), checksum in sorted(rows.items()):
                        if start <= lsn < stable:
                            newest[lsn] = checksum
                    found[place.replica] = newest
        assert found.keys() == set(replicas), f"of the replicas {replicas} of volume {volume:x} there are {sorted(found)}"
        first, *others = replicas
        for other in others:
            differing = [lsn for lsn in sorted(found[first].keys() | found[other].keys()) if found[first].get(lsn) != found[other].get(lsn)]
            assert not differing, f"volume {volume:x}: replicas {first:x} and {other:x} differ from {differing[0]} on (from {start} to {stable})"


def _places(files: SimulatedFiles) -> list[_Place]:
    found = []
    for disk in files.list(DATA):
        logs = f"{DATA}/{disk}/logs"
        if files.exists(logs):
            for name in files.list(logs):
                volume, _, replica = name.partition("-")
                if replica and files.exists(f"{logs}/{name}/log"):
                    found.append(_Place(int(volume, 16), int(replica, 16), f"{logs}/{name}/log"))
    return found


def records_of(files: SimulatedFiles, path: str) -> Records:
    """Every record that the chain from some segment's beginning leads to."""
    try:
        # A loss of power may leave no header: the records vouch for themselves.
        header = _header(files, path) or SegmentHeader(0, 0, 0, opening.SEGMENT)
        replica = LocalReplica(files, path, header.log, header.replica, header.segment_size)
    except SofsError:
        return {}  # its disk does not work just now
    found: Records = {}
    reader = SegmentReader(replica, 1 << 16)
    for index in replica.segments():
        at = index * header.segment_size + FIRST
        while at < (index + 1) * header.segment_size:
            try:
                record, _ = reader.header(at)
            except SofsError:
                break
            found[record.version, at] = record.checksum
            at = record.end
    return found


def _header(files: SimulatedFiles, path: str) -> SegmentHeader | None:
    for name in files.list(path):
        data = bytearray(64)
        files.open(f"{path}/{name}").read_now(0, [memoryview(data)])
        header = SegmentHeader.decode(bytes(data))
        if header is not None:
            return header
    return None
