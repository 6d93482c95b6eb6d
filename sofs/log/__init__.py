"""The log: the one mechanism through which everything durable goes.

It appends batches as records at increasing byte positions, on every replica of its configuration,
makes them committed and then stable, reads their payload back and trims what a checkpoint covers. It knows nothing
of files. Records of one loop tick are written together, and one sync makes all of them stable.

In reading order: `record` (one record, as bytes), `replica` (one copy: segments on a disk), `reading`, `recovery` (what a log holds after a crash),
`replicated` (all copies together: group commit).

A position is that of a record's first byte. `committed` and `stable` are the positions behind the last record
that is: a record at `lsn` is committed when `lsn < log.committed`. Position 0 names no record and is always stable.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from sofs.runtime.ports import Buffer
from sofs.types import Level, Lsn

__all__ = ["Log", "Machine", "Record"]


class Machine(Protocol):
    """The volume, as its log sees it."""

    def apply(self, lsn: Lsn, operations: bytes, address: int) -> None:
        """Changes the records as the batch says; pure, and the same on every replica.

        `address` is where in the log the batch's payload begins (byte k of it has address `address + k`).
        """

    def truncate(self, to: Lsn) -> None:
        """Forgets every batch at `to` and behind it: they never became committed."""


class Record(NamedTuple):
    """One record, as `Log.scan` finds it."""

    lsn: Lsn
    next: Lsn
    """Where the next record begins, if there is one."""
    operations: bytes
    address: int
    """Where its payload begins."""
    length: int
    """Bytes of payload."""


class Log(Protocol):
    """One volume's log, as its coordinator sees it."""

    version: int
    """The configuration's version."""
    start: Lsn
    """The oldest position still kept."""
    end: Lsn
    """Behind the last appended record."""
    committed: Lsn
    stable: Lsn
    capacity: int
    """Bytes that the log may hold; `end - start` is how many it does."""

    @property
    def replicas(self) -> int:
        """How many copies there are now."""

    @property
    def room(self) -> int:
        """Bytes that may still be appended without `reserved` before the capacity is reached. What does not fit into the rest of
        a segment leaves that unused.
        """

    @property
    def largest(self) -> int:
        """Bytes of operations and payload that one record can have."""

    def append(self, operations: bytes, payload: Sequence[Buffer] = (), reserved: bool = False, sums: bytes | None = None) -> Lsn:
        """Appends a batch, has the machine apply it, and returns its position.

        The payload must not change until the record is committed; the log keeps it readable from this moment on. Raises `NoSpace`
        (nothing was appended), `Unavailable`. `reserved` may use the last segment, which is kept for what gives space back: deleting, destaging.
        `sums` are the packed CRC32Cs of the payload's pages, if it is whole pages and the caller has them; a payload that does not match
        them is damage when it is read back.
        """

    def overdraft(self) -> AbstractContextManager[None]:
        """Within, appends may take one segment beyond the capacity: a full log must still be opened, emptied and closed."""

    def when(self, lsn: Lsn, level: Level, then: Callable[[], None]) -> None:
        """Calls `then` at once if `lsn` has reached `level`, else as soon as it does, in order of position; never if the log fails first."""

    def serving(self) -> bool:
        """Whether this coordinator may answer now; asked after a reply's content is captured."""

    def read(self, address: int, into: memoryview, replica: int = 0) -> Awaitable[None] | None:
        """Payload bytes from `address` on, as copy number `replica` has them. Raises `ExtentGone` when they have been trimmed, `DiskFailed`.

        They are not verified here: who knows their checksum tries the other copies, then mends the bad one with `rewrite`.
        """

    def rewrite(self, address: int, data: Buffer, replica: int) -> None:
        """Puts verified payload bytes back where copy number `replica` was found to be wrong."""

    def scan(self, start: Lsn, end: Lsn) -> Iterator[Record]:
        """Committed records from `start` (where one begins) up to `end`, heads and operations only. Not to be used on across a `trim`.

        Raises `Damaged`.
        """

    def reach(self, lsn: Lsn) -> Awaitable[None]:
        """Completes when the record at `lsn` is stable, for work that is not answered through gates. Raises `Unavailable` when the log fails first."""

    def sync(self) -> Awaitable[None]:
        """Completes when all appended so far is stable."""

    def trim(self, below: Lsn) -> None:
        """Gives back whole segments below a position that every checkpoint covers."""
