"""The pool: immutable extents on tiered local disks.

A pool knows disks, not volumes or files. A disk is a directory (or, later, a raw device) with a label; it is divided into
arenas and these into slots; a fragment lies in one slot or several in a row, with a checksum for every page. An extent is written once,
durable on every fragment before anybody may name it, read with verification and repaired from redundancy, and
deleted once. Resiliency is the policy's business: `simple` and `mirror(n)` now, `parity(k, m)` behind the same interface.
"""

from collections.abc import Awaitable, Collection, Sequence
from typing import NamedTuple, Protocol

from sofs.runtime.ports import Buffer
from sofs.types import DiskId, VolumeId

__all__ = ["ExtentId", "Fragment", "Placement", "Policy", "Pool", "Usage"]


class ExtentId(NamedTuple):
    """An extent's name for ever: never reused, even after the extent is gone."""

    volume: VolumeId
    number: int
    """Granted by the volume's log in ranges; below 2**39."""


class Fragment(NamedTuple):
    """Where one disk's part of an extent lies."""

    disk: DiskId
    slot: int


class Policy(Protocol):
    """How an extent is protected, parsed from its text: `mirror(2) across disk on ssd`."""

    text: str
    tolerates: int
    """How many failures it survives."""


class Placement(NamedTuple):
    """Where an extent lies. Recorded in its volume's metadata; stays valid whatever the policy becomes."""

    id: ExtentId
    length: int
    """Bytes of data, a multiple of the page."""
    scheme: str
    """`simple`, `mirror(2)`, `mirror(3)`, later `parity(4,2)`: what the fragments mean, in order."""
    fragments: tuple[Fragment, ...]


class Usage(NamedTuple):
    """Capacity of a tier or a pool in bytes, as data: after the slots' own overhead, before redundancy."""

    total: int
    free: int


class Pool(Protocol):
    """What a volume asks of its pool."""

    async def write(self, id: ExtentId, data: Sequence[Buffer], policy: Policy, names: bytes = b"") -> Placement:
        """Writes an extent of 1 page to 8 MiB, durable on every fragment, or raises and leaves only an orphan.

        `names` (at most 3 KiB) goes into each fragment's header: which chunks it holds, for whoever has to rebuild a volume from its
        disks. Raises `NoSpace`, `DiskFailed`, `Fenced` (the id was revoked).
        """

    def read(
        self, at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None = None
    ) -> Awaitable[None] | None:
        """Fills `into` from `offset` (both multiples of the page), every page verified; a bad page is served from
        redundancy and rewritten. At once when the page cache has it. Raises `ExtentGone`, `Damaged`, `DiskFailed`.

        `sums` are the CRC32Cs of the pages that the caller expects: then these are compared with instead of the fragment's own, so that a page is
        verified once, end to end.
        """

    async def delete(self, at: Placement) -> None:
        """Frees the extent's slots. Deleting twice is no error."""

    async def revoke(self, volume: VolumeId, ids: range) -> None:
        """Refuses, from now on and across restarts, writes of these ids that have not been made yet."""

    async def orphans(self, volume: VolumeId, ids: range, known: Collection[int]) -> list[Placement]:
        """Extents of the volume on the disks with a number in `ids` and not in `known` (fragments found, maybe not all)."""

    async def reprotect(self, at: Placement, id: ExtentId, policy: Policy) -> Placement:
        """Writes the extent's data again under a new id, as `policy` says; the volume swaps, then deletes the old."""

    def check(self, at: Placement) -> Awaitable[list[str]]:
        """Reads every page of every fragment; gives what is wrong in words, nothing if all is well."""

    def usage(self, tier: str | None = None) -> Usage: ...

    def healthy(self, at: Placement) -> bool:
        """Whether every fragment's disk is present and trusted."""
