"""What must hold, judged from outside, in true time.

- What a client was told is committed is there, in its place, at every later coordinator; unless one took over whose memory was broken since no
  other answered: then all that is stable must still be there.
- What was told to be stable is there for ever.
- What was told to be committed is never cut off, not even for a moment.
- In the moment of telling, and for ever after, every replica of the coordinator's configuration has the record: in its page cache, or on its disk.
- At no moment do two processes serve.
- A record has the same bytes wherever it is: one checksum for each (version, position), over the whole run and all disks, also of what was cut off later.
- In the end all replicas hold the same, and so do their machines.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sofs.errors import SofsError
from sofs.log.reading import SegmentReader
from sofs.log.record import HEADER
from sofs.log.replica import FIRST, LocalReplica
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.types import Level, Lsn
from tests.simulation.cluster.machine import Machine
from tests.simulation.replication.machine import Entry

__all__ = ["LOG_ID", "SEGMENT", "Judge", "chain"]

LOG_ID = 0x50F5
SEGMENT = 16 << 10


class Judge:
    """Of one run."""

    def __init__(self) -> None:
        self.recent: deque[Lsn] = deque(maxlen=6)
        """What was told last."""
        self.machines: list[Machine[Any]] = []
        self.committed: dict[int, Lsn] = {}
        self.stable: dict[int, Lsn] = {}
        self.lost = 0
        """Committed, not stable, and gone with the memory of all replicas that answered."""
        self.checksums: dict[tuple[int, int], int] = {}
        self.leads = self.broken_leads = 0
        self.wrong: AssertionError | None = None
        """What was found wrong where nobody could be told at once."""
        self.forgetting = False
        """A replica whose memory was broken has taken over, and does not serve yet: what it lacks will be cut off elsewhere."""
        self.gone = False
        """The disk of the last replica has failed: there is nothing left to hold anybody to."""

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What is wrong within is raised by whoever watches: here it would be the log that survives it."""
        try:
            yield
        except AssertionError as error:
            self.wrong = self.wrong or error

    def told(self, number: int, lsn: Lsn, level: Level, replicas: Sequence[int]) -> None:
        """A client has been answered by a coordinator whose configuration names these replicas."""
        self.all_have(lsn, level, replicas)
        self.committed[number] = lsn
        self.recent.append(lsn)
        if level is Level.STABLE:
            self.stable[number] = lsn

    def all_have(self, lsn: Lsn, level: Level, replicas: Sequence[int]) -> None:
        """Every replica whose host's memory is unbroken has the record in its page cache; every one has what is stable on its disk."""
        found: dict[int, bytes] = {}
        for id in replicas:
            machine = self.machines[id // 1000 - 1]
            segment, note = f"/data/{id}/log/{lsn // SEGMENT:016x}", f"/data/{id}/note"
            if not (machine.files.exists(segment) and machine.files.exists(note)):
                continue  # lost or trimmed since
            stable = level is Level.STABLE
            if not stable and (not machine.powered or _content(machine.files, note, False, 0, 100) != machine.boot):
                continue
            found[id] = _content(machine.files, segment, stable, lsn % SEGMENT, HEADER)
        assert len(set(found.values())) <= 1, f"the record at {lsn} was told to be {level.name}, and is not the same in {sorted(found)}"

    def observed(self, entries: Iterable[Entry], asked: dict[int, Lsn]) -> None:
        """A client has been shown the state; `asked` is what had been committed when it asked."""
        shown = {entry.number: entry.lsn for entry in entries}
        for number, lsn in asked.items():
            if number in self.committed:
                assert shown.get(number) == lsn, f"{number} at {lsn} was committed, and a later read shows it at {shown.get(number)}"
        self.committed.update(shown)

    def begins(self, who: str, entries: Iterable[Entry], broken: bool) -> None:
        """A coordinator begins to serve with this state."""
        self.leads += 1
        self.broken_leads += broken
        has = {entry.number: entry.lsn for entry in entries}
        for number, lsn in self.stable.items():
            assert has.get(number) == lsn, f"{number} at {lsn} was stable, and {who} has it at {has.get(number)}"
        missing = {number for number, lsn in self.committed.items() if has.get(number) != lsn}
        assert not missing or broken, f"{sorted(missing)[:5]} were committed ({[self.committed[n] for n in sorted(missing)[:5]]}), {who} lacks them"
        self.lost += len(missing)
        if missing:
            self.recent.clear()
        self.forgetting = False
        for number in missing:
            del self.committed[number]

    def cut(self, entries: Sequence[Entry]) -> None:
        """A follower cuts these off."""
        told = [entry.number for entry in entries if self.committed.get(entry.number) == entry.lsn]
        assert not told or self.forgetting, f"{told[:5]} were committed, and are cut off"

    def serve(self, serving: list[str]) -> None:
        assert len(serving) <= 1, f"{' and '.join(serving)} serve at once"

    def look(self, files: SimulatedFiles) -> None:
        """Compares the records on a machine's disks with all that was ever seen."""
        for path in _logs(files):
            for (version, lsn), checksum in chain(files, path).items():
                before = self.checksums.setdefault((version, lsn), checksum)
                assert before == checksum, f"{path}: the record at {lsn} of version {version} has other bytes than were seen before"


def _content(files: SimulatedFiles, path: str, durable: bool, offset: int, length: int) -> bytes:
    """Bytes of a file in the page cache, or on the disk."""
    content, data = files._content(path), bytearray(length)
    count = (content.durable if durable else content.seen).read(offset, memoryview(data))
    return bytes(data[:count])


def _logs(files: SimulatedFiles) -> list[str]:
    return [f"/data/{name}/log" for name in files.list("/data") if files.exists(f"/data/{name}/log")]


def chain(files: SimulatedFiles, path: str) -> dict[tuple[int, int], int]:
    """The checksums of all records that a row from some segment's beginning leads to, by version and position."""
    found: dict[tuple[int, int], int] = {}
    id = int(path.split("/")[2])
    faults, files.faults = files.faults, []
    crash_at, files.crash_at = files.crash_at, None
    try:
        replica = LocalReplica(files, path, LOG_ID, id, SEGMENT)
        reader = SegmentReader(replica, SEGMENT)
        for index in replica.segments():
            at = index * SEGMENT + FIRST
            while at < (index + 1) * SEGMENT:
                try:
                    record, _ = reader.header(at)
                except SofsError:
                    break
                found[record.version, at] = record.checksum
                at = record.end
        replica.close()
    except SofsError:
        pass
    finally:
        files.faults, files.crash_at = faults, crash_at
    return found
