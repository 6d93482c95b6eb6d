"""What the copies of a log hold: read, verified, scanned, and mended where another copy is better.

Whoever reads payload bytes knows their checksum, and tries the other copies itself. Records verify themselves.
"""

import asyncio
from collections.abc import Awaitable, Iterator

from sofs.errors import Damaged, DiskFailed, ExtentGone, SofsError, Unavailable
from sofs.log import DamagedRecord, Record
from sofs.log.configuration import Mark
from sofs.log.copies import Copies
from sofs.log.mending import fetch_missing
from sofs.log.reading import SegmentReader, next_segment
from sofs.log.remote import RemoteReplica
from sofs.log.replica import LocalReplica
from sofs.log.stretch import Stretch, read_stretch
from sofs.runtime.ports import Buffer
from sofs.types import Lsn

_SCAN = 256 << 10
"""Bytes that `scan` reads at a time."""


class Contents(Copies):
    """The copies, and what is in them."""

    start: Lsn
    written: Mark
    """The end of what the copies here have. Kept up to date only for copies on other nodes."""
    _written: Lsn
    """The same, always."""
    _size: int
    """Of a segment."""

    def read(self, address: int, into: memoryview, replica: int = 0) -> Awaitable[None] | None:
        if address >= self._written:
            self._write()
            if address >= self._written:
                raise Unavailable(f"position {address} was never written: the volume's log has failed: {self.failure}")
        if replica >= len(self._replicas):
            return self._elsewhere(replica).read(address, into)
        return self._replicas[replica].read(address, into)

    def _elsewhere(self, replica: int) -> RemoteReplica:
        remotes, number = self.remotes.counted, replica - len(self._replicas)
        if number >= len(remotes):
            raise Unavailable(f"there is no copy {replica} of the log any more")
        return remotes[number]

    def rewrite(self, address: int, data: Buffer, replica: int) -> None:
        if self.failure is not None or address < self.start or replica >= self.replicas:
            return  # the log has ended, was trimmed, or has lost that copy while the good bytes were being fetched
        if replica >= len(self._replicas):
            self._elsewhere(replica).rewrite(address, data)
            return
        where = self._replicas[replica]
        self._logger.warning("log_repaired", at=where.where(address), length=len(data))
        try:
            where.write(address, [data])
        except SofsError as error:
            self._lose(where, error)

    async def mend(self, lsn: Lsn, previous: int | None = None) -> bool:
        """Fetches the records at a position, or else those that the next segment begins with, from another node, and puts them back here: up to the
        first behind which this log goes on.

        False if nobody has some that are intact, certainly this log's, and follow the record before, if that one's checksum (`previous`) is known.
        """

        async def fits(mark: Mark) -> bool:
            return mark.lsn <= self.stable or await self._goes_on(mark)

        found = await fetch_missing(tuple(self.remotes), lsn, previous, self._size, fits)
        for at, data in found:
            for number in range(len(self._replicas)):
                self.rewrite(at, data, number)
        return bool(found) and self.failure is None

    def scan(self, start: Lsn, end: Lsn) -> Iterator[Record]:
        """Committed records from `start` (where one begins) up to `end`. Raises `DamagedRecord`, naming file and offset."""
        readers = [SegmentReader(replica, _SCAN) for replica in self._replicas]
        at = start
        end = min(end, self.committed)
        while at < end:
            record = _first_intact(readers, at)
            if record is None and (following := next_segment(at, self._size)) < end:
                record = _first_intact(readers, following)
            if record is None:
                raise DamagedRecord(f"{self._replicas[0].where(at)}: no copy of the log here has an intact record", at)
            yield record
            at = record.next

    # For other nodes

    def stretch(self, after: Mark, length: int) -> "asyncio.Future[Stretch]":
        return asyncio.ensure_future(self._stretch(after, length))

    async def _stretch(self, after: Mark, length: int) -> Stretch:
        """From whichever copy here has it; what all of them lack or have damaged is fetched from another node first.

        What nobody has, although it was never acknowledged, is the fault of the copies here: they are given up, not the one that was to be sent it.
        """
        wrong = await self._read_stretch(after, length)
        if isinstance(wrong, Damaged) and await self.mend(after.lsn, after.checksum):
            wrong = await self._read_stretch(after, length)
        if isinstance(wrong, Stretch):
            return wrong
        if isinstance(wrong, Damaged) and after.lsn >= self.committed:
            for replica in tuple(self._replicas):
                self._lose(replica, wrong)
        raise wrong

    async def _read_stretch(self, after: Mark, length: int) -> Stretch | SofsError:
        wrong: SofsError = Unavailable("no copy of the log is left here")
        for replica in tuple(self._replicas):
            assert isinstance(replica, LocalReplica)
            try:
                return await read_stretch(replica, after, self.written.lsn, length)
            except DiskFailed as error:
                self._lose(replica, error)
                wrong = Unavailable(str(error))
            except (Damaged, ExtentGone) as error:
                wrong = error
        return wrong

    def has(self, mark: Mark) -> "asyncio.Future[bool]":
        return asyncio.ensure_future(self._goes_on(mark))

    async def _goes_on(self, mark: Mark) -> bool:
        """Whether an intact record follows a mark here, or it is the end: then it is a place in this log."""
        return mark == self.written or isinstance(await self._read_stretch(mark, 1), Stretch)


def _first_intact(readers: list[SegmentReader], lsn: int) -> Record | None:
    """The record at `lsn` from the first copy that has it intact (apart from the payload, which is not read)."""
    for reader in readers:
        try:
            header, operations = reader.header(lsn)
        except (Damaged, DiskFailed):
            continue
        return Record(header.lsn, header.end, operations, header.address, header.length)
    return None
