"""What the pool asks of a disk, here or on another node: fragments by slot and extent id.

A disk knows nothing about other fragments of an extent, about policies or volumes. `LocalDisk` is a disk of this process, `RemoteDisk` one
of another node, with the same methods behind the interconnect.
"""

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from sofs.cluster import Priority
from sofs.errors import Damaged, Unavailable
from sofs.pool.extent import ExtentId, Usage
from sofs.pool.fragment import Header, Sums
from sofs.pool.scheme import Scheme
from sofs.pool.table import Entry
from sofs.runtime.ports import Buffer
from sofs.types import DiskId, VolumeId


class BadPages(Damaged):
    """Pages of one fragment do not match their checksums."""

    def __init__(self, message: str, pages: list[int]) -> None:
        super().__init__(message)
        self.pages = pages


class Slow(Unavailable):
    """A disk of another node did not answer in time."""


class Part(NamedTuple):
    """One fragment on its way to a disk."""

    id: ExtentId
    scheme: Scheme
    part: int
    pages: int
    """Data pages of the whole extent."""
    data: Sequence[Buffer]
    sums: Sums
    """Of `data`, computed where the data came from."""
    names: bytes
    priority: Priority = Priority.FOREGROUND


class Disk(Protocol):
    """What the pool asks of a disk.

    Every method raises `DiskFailed` when the disk does not answer properly, and `Unavailable` when its node does not, or not in time: then
    nobody knows whether a change has been made, or still will be.
    """

    id: DiskId
    path: str
    """How operators call it."""

    def read(
        self, slot: int, id: ExtentId, offset: int, into: memoryview, sums: Sequence[int] | None = None,
        priority: Priority = Priority.FOREGROUND,
    ) -> Awaitable[None] | None:  # fmt: skip
        """Fills `into` and verifies it, by `sums` if given (one for each page), else by the fragment's own checksums.

        Verified here, by whoever uses the data, wherever the disk is. Raises `ExtentGone` when another extent or none lies at `slot`, `BadPages`,
        `Damaged` (the header).
        """

    async def write(self, part: Part) -> int:
        """Writes a fragment and returns its slot: data and table entry are durable then. Raises `NoSpace`, `Fenced`."""

    async def delete(self, slot: int, id: ExtentId) -> None:
        """Frees a fragment, durably; none if another extent or none lies there."""

    async def describe(self, slot: int, id: ExtentId) -> tuple[Header, Sums, bytes]:
        """A fragment's header, checksums and names. Raises `ExtentGone`, `Damaged`."""

    async def mend(self, slot: int, id: ExtentId, first: int, data: Buffer) -> None:
        """Writes good pages over bad ones, from page `first` on; durable.

        What does not match the fragment's own checksums is refused (`InvalidArgument`). Raises `ExtentGone`, `Damaged` (the header: it has to
        be mended first).
        """

    async def mend_header(self, slot: int, id: ExtentId, sums: Sums, names: bytes) -> None:
        """Writes a fragment's header and checksums again; durable. Raises `ExtentGone`."""

    async def revoke(self, volume: VolumeId, ids: range) -> None:
        """Refuses, for ever, fragments of extents with these ids that are not in the table yet."""

    async def find(self, volume: VolumeId, ids: range) -> list[tuple[int, Entry]]:
        """The fragments of a volume's extents with these numbers, with their slots."""

    async def check(self, slot: int, id: ExtentId, length: int) -> list[str]:
        """Reads every page of a fragment of `length` bytes from the disk itself; gives what is wrong in words."""

    async def probe(self) -> None:
        """Writes, syncs and reads a little."""

    def usage(self) -> Usage:
        """As last heard of, for a disk of another node."""
