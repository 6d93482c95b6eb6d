"""What the pool asks of a disk, here or on another node: fragments by slot and extent id.

A disk knows nothing about other fragments of an extent, about policies or volumes. `LocalDisk` is a disk of this process; a disk of
another node will be the same methods behind the interconnect, and the pool will not see the difference.
"""

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from sofs.errors import Damaged
from sofs.pool.extent import ExtentId, Usage
from sofs.pool.fragment import Header, Sums
from sofs.pool.label import Label
from sofs.pool.scheme import Scheme
from sofs.pool.table import Entry
from sofs.runtime.ports import Buffer
from sofs.types import VolumeId

__all__ = ["BadPages", "Disk", "Part"]


class BadPages(Damaged):
    """Pages of one fragment do not match their checksums."""

    def __init__(self, message: str, pages: list[int]) -> None:
        super().__init__(message)
        self.pages = pages


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


class Disk(Protocol):
    """What the pool asks of a disk. Every method raises `DiskFailed` when the disk does not answer properly."""

    label: Label

    def read(
        self, slot: int, id: ExtentId, offset: int, into: memoryview, sums: Sequence[int] | None = None
    ) -> Awaitable[None] | None:
        """Fills `into` and verifies it, by `sums` if given (one for each page), else by the fragment's own checksums.

        Raises `ExtentGone` when another extent or none lies at `slot`, `BadPages`, `Damaged` (the header).
        """

    async def write(self, part: Part) -> int:
        """Writes a fragment and returns its slot: data and table entry are durable then. Raises `NoSpace`, `Fenced`."""

    async def delete(self, slot: int, id: ExtentId) -> None:
        """Frees a fragment, durably; none if another extent or none lies there."""

    async def describe(self, slot: int, id: ExtentId) -> tuple[Header, Sums, bytes]:
        """A fragment's header, checksums and names. Raises `ExtentGone`, `Damaged`."""

    async def mend(self, slot: int, id: ExtentId, first: int, data: Buffer) -> None:
        """Writes good pages over bad ones, from page `first` on; durable. Raises `ExtentGone`."""

    async def mend_header(self, slot: int, id: ExtentId, sums: Sums, names: bytes) -> None:
        """Writes a fragment's header and checksums again; durable. Raises `ExtentGone`."""

    async def revoke(self, volume: VolumeId, ids: range) -> None:
        """Refuses, for ever, fragments of extents with these ids that are not in the table yet."""

    async def find(self, volume: VolumeId, ids: range) -> list[tuple[int, Entry]]:
        """The fragments of a volume's extents with these numbers."""

    async def probe(self) -> None:
        """Writes, syncs and reads a little."""

    def usage(self) -> Usage: ...
