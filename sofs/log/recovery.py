"""What a log holds after a crash.

From the last checkpoint on, the chain of records is followed over all replicas of the configuration at once: a record that any of
them has intact, and that fits the chain, was appended, and is kept; whoever lacks it is given it. So the
longest copy wins, and a damaged record is repaired from another copy. Where no copy has a record that fits, the log ends,
unless that is damage:

- A record further on says that more was stable. Stable records do not go missing; some disk lost or changed them.
- Every copy has an intact record further on, and the host has been running all the time. Then nothing that was written can be missing,
  because the page cache has it. (After a loss of power a hole before an intact record is a matter of course:
  what is not synced reaches the disk in any order.)

Then recovery refuses with `Damaged` rather than forget what was acknowledged. What lies behind the end otherwise is never met again:
each start of a log takes a new version, and a record of an older version does not fit behind one of a newer.

Records that nothing shows to be stable are written again where they stand, before they are trusted: if a sync failed in the former
process, the page cache has them and believes that the disk does, too. A further sync would say nothing about them.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import structlog

from sofs.errors import Damaged, DiskFailed, SofsError
from sofs.log.configuration import Mark
from sofs.log.reading import SegmentReader, next_segment
from sofs.log.record import ALIGNMENT, MAGIC, Header
from sofs.log.replica import Replica
from sofs.types import Lsn

_AHEAD = 4 << 20
"""Bytes read at a time."""

_SLICE = 100
"""Records between two pauses."""


class Recovered(NamedTuple):
    end: Mark
    replicas: list[Replica]
    """Those that hold every record up to the end now; the others failed on the way."""
    records: int
    repaired: int
    """Records that some copy lacked and was given."""
    stable: Mark
    """The records say that everything below is stable; at least the place that recovery started from."""
    tail: tuple[Header, ...]
    """The records from there on."""


def recover(
    replicas: Sequence[Replica], start: Mark, version: int, unbroken: Callable[[], bool], apply: Callable[[Lsn, bytes, int], None]
) -> Recovered:
    """Follows the log from `start`, brings all replicas to one state, and gives each record with operations to `apply`.

    `version` is the configuration's; `unbroken`, asked when all has been applied, says whether the host has been running since the log was
    last written, without an error of its disks. Nothing is synced yet.

    Raises `Damaged`, naming file, offset and remedy, and `DiskFailed` if no replica can be read.
    """
    run = _Recovery(replicas, start, version)
    while run.step(apply):
        pass
    return run.finish(unbroken)


async def recover_in_slices(
    replica: Replica,
    start: Mark,
    version: int,
    unbroken: Callable[[], bool],
    apply: Callable[[Lsn, bytes, int], None],
    pause: Callable[[], Awaitable[None]],
) -> Recovered:
    """The same of one copy, where others are served meanwhile: `pause` lets them have their turn."""
    run = _Recovery([replica], start, version)
    while run.step(apply):
        if run.records % _SLICE == 0:
            await pause()
    return run.finish(unbroken)


def newest_version(replica: Replica, start: Mark) -> int:
    """The newest configuration under which this copy has records, going by heads alone. Nothing is changed."""
    reader = SegmentReader(replica, _AHEAD)
    at = start
    while True:
        for lsn in (at.lsn, next_segment(at.lsn, replica.segment_size)):
            try:
                header, _ = reader.header(lsn)
            except (Damaged, DiskFailed):
                continue
            if header.previous == at.checksum and header.version >= at.version:
                at = Mark(header.end, header.checksum, header.version)
                break
        else:
            return at.version


class _Recovery:
    """Where a recovery stands."""

    def __init__(self, replicas: Sequence[Replica], start: Mark, version: int) -> None:
        self.readers = [SegmentReader(replica, _AHEAD) for replica in replicas]
        self.at = start
        self.records = 0
        self.repaired = 0
        self.failures: list[str] = []
        self._stable = start.lsn
        """Records say that everything below is stable."""
        self.stable = start
        """The last place between two records that is not above it."""
        self.unsure: deque[Header] = deque()
        """The records from there on."""
        self._version = version
        self._size = replicas[0].segment_size
        self._logger = structlog.get_logger(component="log", place=replicas[0].place)

    def step(self, apply: Callable[[Lsn, bytes, int], None]) -> bool:
        """Applies the next record; False at the end."""
        found = self.next()
        if found is None:
            return False
        header, operations = found
        if operations:
            apply(header.lsn, operations, header.address)
        return True

    def finish(self, unbroken: Callable[[], bool]) -> Recovered:
        if self.readers:
            self.check_end(unbroken())
            self.write_again()
        if not self.readers:
            raise DiskFailed("no copy of the log can be read: " + "; ".join(self.failures))
        replicas = [reader.replica for reader in self.readers]
        return Recovered(self.at, replicas, self.records, self.repaired, self.stable, tuple(self.unsure))

    def next(self) -> tuple[Header, bytes] | None:
        """The next record, now on every replica; None at the end."""
        for lsn in (self.at.lsn, next_segment(self.at.lsn, self._size)):
            found = [(reader, self._fitting(reader, lsn)) for reader in tuple(self.readers)]
            intact = [(reader, record) for reader, record in found if record is not None]
            if intact:
                best, record = max(intact, key=lambda pair: pair[1][0].version)
                header = record[0]
                for reader, other in found:
                    if reader in self.readers and (other is None or other[0].checksum != header.checksum):
                        self._mend(reader, best, header)
                self.at = Mark(header.end, header.checksum, header.version)
                self.records += 1
                self._note(header)
                return record
        return None

    def _fitting(self, reader: SegmentReader, lsn: int) -> tuple[Header, bytes] | None:
        """The intact record at `lsn` that follows the one before, if this replica has it."""
        try:
            header, operations = reader.record(lsn)
        except Damaged:
            return None
        except DiskFailed as error:
            self._give_up(reader, error)
            return None
        fits = header.previous == self.at.checksum and self.at.version <= header.version <= self._version
        return (header, operations) if fits else None

    def _mend(self, reader: SegmentReader, source: SegmentReader, header: Header) -> None:
        """Copies a record to a replica that lacks it."""
        data = bytes(source.view(header.lsn, header.end - header.lsn))
        replica = reader.replica
        try:
            replica.prepare(header.lsn // self._size)
            replica.write(header.lsn, [data])
        except SofsError as error:
            self._give_up(reader, error)
            return
        self._logger.warning("record_mended", at=replica.where(header.lsn), length=len(data))
        self.repaired += 1
        reader.forget()

    def _give_up(self, reader: SegmentReader, error: SofsError) -> None:
        self._logger.error("replica_lost", at=reader.replica.place, error=str(error))
        self.failures.append(str(error))
        self.readers.remove(reader)

    def _note(self, header: Header) -> None:
        self.unsure.append(header)
        self._stable = max(self._stable, header.stable)
        while self.unsure and self.unsure[0].lsn < self._stable:
            known = self.unsure.popleft()
            self.stable = Mark(known.end, known.checksum, known.version)

    # The end

    def check_end(self, unbroken: bool) -> None:
        """Raises `Damaged` if the chain ends where it must not have ended."""
        evidence = []
        for reader in tuple(self.readers):
            stray = None
            try:
                for stray in self._strays(reader):
                    if stray.stable > self.at.lsn:
                        raise Damaged(self._complaint(reader, stray))
            except DiskFailed as error:
                self._give_up(reader, error)
                continue
            if stray is not None:
                evidence.append((reader, stray))
        # What only some of the copies got was never committed.
        if unbroken and evidence and len(evidence) == len(self.readers):
            raise Damaged(self._complaint(*evidence[0]))

    def write_again(self) -> None:
        """Has the page cache note once more that the records not known to be stable are to be written."""
        for reader in tuple(self.readers):
            reader.forget()
            try:
                for header in self.unsure:
                    again, _ = reader.record(header.lsn)
                    if again.checksum != header.checksum:
                        raise Damaged(f"{reader.replica.where(header.lsn)}: reads differently the second time")
                    reader.replica.write(header.lsn, [reader.view(header.lsn, header.end - header.lsn)])
            except SofsError as error:
                self._give_up(reader, error)

    def _complaint(self, reader: SegmentReader, header: Header) -> str:
        lost = "was acknowledged as stable" if header.stable > self.at.lsn else "was written"
        return (
            f"{reader.replica.where(self.at.lsn)}: the log is damaged here: what follows {lost}, as the intact record at "
            f"offset {header.lsn % self._size} of segment {header.lsn // self._size:016x} shows, and no copy has an intact record for this place; "
            "bring back another disk that holds a copy of this log, or restore this one from a backup"
        )

    def _strays(self, reader: SegmentReader) -> Iterator[Header]:
        """Intact records behind the end that were written under the last record's configuration or a newer one.

        What an earlier start of the log cut off is of an older configuration.
        """
        at = self.at.lsn
        for index in reader.replica.segments():
            end = (index + 1) * self._size
            if end > at:
                for lsn in self._candidates(reader, max(at, index * self._size), end):
                    try:
                        header, _ = reader.record(lsn)
                    except Damaged:
                        continue
                    if self.at.version <= header.version <= self._version:
                        yield header

    def _candidates(self, reader: SegmentReader, start: int, end: int) -> Iterator[int]:
        """Positions where a record might begin: those of the magic and of the position itself."""
        while start < end:
            data = bytes(reader.view(start, min(_AHEAD, end - start)))
            found = data.find(MAGIC)
            while found >= 0:
                lsn = start + found
                if lsn % ALIGNMENT == 0 and data[found + 8 : found + 16] == lsn.to_bytes(8, "little"):
                    yield lsn
                found = data.find(MAGIC, found + 1)
            # A header may lie across two pieces.
            start += max(len(data) - 2 * ALIGNMENT, 1) if start + len(data) < end else len(data)
