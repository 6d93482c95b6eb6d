"""A key space over a log in memory: for unit tests of what lies above, where crashes are not the point.

Everything appended is committed and stable at once, and nothing is ever checkpointed.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from sofs.errors import ExtentGone
from sofs.log import Machine, Record
from sofs.runtime.ports import Buffer
from sofs.types import Level, Lsn
from sofs.volume.batch import Apply
from sofs.volume.keyspace import KeySpace


class VolatileRecords:
    """An empty `Records`: everything stays in the overlay."""

    def get(self, key: bytes) -> bytes | None:
        return None

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(())

    async def commit(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        raise NotImplementedError

    def refresh(self) -> None:
        pass

    async def copy(self, path: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class VolatileLog:
    """A `sofs.log.Log` of the process's memory."""

    version = 1
    replicas = 1
    room = capacity = 1 << 40
    largest = 1 << 30

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._records: list[Record] = []
        self._payloads: list[bytes] = []
        self.start = self.end = self.committed = self.stable = Lsn(4096)

    def append(self, operations: bytes, payload: Sequence[Buffer] = (), reserved: bool = False, sums: bytes | None = None) -> Lsn:
        lsn = self.end
        address = lsn + 40 + len(operations)
        data = b"".join(payload)
        self.end = self.committed = self.stable = Lsn((address + len(data) + 7) & ~7)
        self._records.append(Record(lsn, self.end, operations, address, len(data)))
        self._payloads.append(data)
        self._machine.apply(lsn, operations, address)
        return lsn

    def overdraft(self) -> AbstractContextManager[None]:
        return nullcontext()

    def when(self, lsn: Lsn, level: Level, then: Callable[[], None]) -> None:
        then()

    def serving(self) -> bool:
        return True

    def read(self, address: int, into: memoryview, replica: int = 0) -> Awaitable[None] | None:
        for record, payload in zip(self._records, self._payloads, strict=True):
            if record.address <= address and address + len(into) <= record.address + record.length:
                into[:] = payload[address - record.address :][: len(into)]
                return None
        raise ExtentGone(f"no payload at {address}")

    def rewrite(self, address: int, data: Buffer, replica: int) -> None:
        raise NotImplementedError

    def scan(self, start: Lsn, end: Lsn) -> Iterator[Record]:
        return (record for record in list(self._records) if start <= record.lsn < end)

    async def sync(self) -> None:
        pass

    async def reach(self, lsn: Lsn) -> None:
        pass

    def trim(self, below: Lsn) -> None:
        keep = [number for number, record in enumerate(self._records) if record.next > below]
        self._payloads = [self._payloads[number] for number in keep]
        self._records = [self._records[number] for number in keep]
        self.start = max(self.start, below)


def volatile_keyspace(appliers: Mapping[int, Apply]) -> KeySpace:
    """An empty key space over a `VolatileLog`."""
    keyspace = KeySpace(VolatileRecords(), appliers)
    keyspace.attach(VolatileLog(keyspace))
    return keyspace
