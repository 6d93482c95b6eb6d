"""The pool: immutable extents on tiered disks.

A pool knows disks, not volumes or files. A disk is a directory (or, later, a raw device) with a label; it is divided into
arenas and these into slots; a fragment lies in one slot or several in a row, with a checksum for every page. An extent is written once,
durable on every fragment before anybody may name it, read with verification and mended from redundancy, and
deleted once. Resiliency is the policy's business: `simple` and `mirror(n)` now, `parity(k, m)` behind the same interface.

What a disk remembers is one table entry for each fragment, and the order of writes is all there is to crash safety:

    write    data and header, synced; then the table entry, synced; then `write` returns and a volume may name the extent
    delete   the volume has forgotten the extent, durably; then the entry is freed, synced; then its slots may be taken again

So after a crash at any moment every extent that a volume can name is whole, and what else is on the disks is an
orphan: whole too, but named by nobody, and found by its id with `orphans`. Ids are never reused, and a range of them is revoked before
orphans are looked for, so that nothing is taken for an orphan that somebody is about to name.

In reading order: `extent` (the words), `scheme` and `policy` (how many fragments, and where), `label`, `table`, `fragment`, `revocations`
(the formats, each told in its module), `layout` (the directory), `sync` (one for all who wait), `slots` (what is free), `disk` (what a disk can do), `opening`
and `local_disk`, `states` and `members` (what a pool knows of its disks), `copies` (reading around damage), `local_pool`, `upkeep`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from sofs.pool.extent import EXTENT_LIMIT, NAMES_PER_MIB, Copies, ExtentId, Fragment, Placement, Usage
from sofs.pool.policy import Policy, parse_policy
from sofs.runtime.ports import Buffer
from sofs.types import DiskId, VolumeId

__all__ = ["EXTENT_LIMIT", "NAMES_PER_MIB", "Copies", "ExtentId", "Fragment", "Placement", "Policy", "Pool", "Usage", "parse_policy"]


class Pool(Protocol):
    """What a volume asks of its pool."""

    async def write(
        self, id: ExtentId, data: Sequence[Buffer], policy: Policy, names: bytes = b"", sums: Sequence[int] | None = None
    ) -> Placement:
        """Writes an extent of 1 page to 8 MiB, durable on every fragment, or raises and leaves only an orphan.

        `data` must not change until then. `names` (at most `NAMES_PER_MIB` for each MiB of data begun) goes into each fragment's header:
        which chunks it holds, for whoever has to rebuild a volume from its disks. `sums` are the pages' CRC32Cs, if the caller has
        them. When disks are out of service the extent may get fewer
        fragments than the policy asks for, which `healthy` tells. A disk that fails or is full meanwhile is avoided as
        long as there is another. Raises `NoSpace`, `DiskFailed`, `Fenced` (the id was revoked), `InvalidArgument`.
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
        """Frees the extent's slots, durably. Deleting twice is no error, nor is a disk that is away: what lies there becomes an orphan."""

    async def revoke(self, volume: VolumeId, ids: range) -> None:
        """Refuses, from now on and across restarts, writes of these ids that have not been made yet.

        An extent of theirs is afterwards seen by `orphans`, or never written.
        """

    @property
    def in_doubt(self) -> int:
        """Rises when there may be orphans that no crash of this process has left: a disk has come back, or nobody knows whether a fragment was written or
        deleted. 0 as long as neither can have been.
        """

    async def orphans(self, volume: VolumeId, ids: range, known: Callable[[int], Collection[Fragment]]) -> list[Placement]:
        """What lies on the disks that are there of the volume's extents with a number in `ids`, without the fragments that are `known` of a number.

        Those are asked for when the disks have been looked through.
        """

    async def reprotect(self, at: Placement, id: ExtentId, policy: Policy, avoid: Collection[DiskId] = ()) -> Placement:
        """Writes the extent's data again under a new id, as `policy` says and not on the disks to `avoid`; the volume swaps, then deletes the old."""

    def check(self, at: Placement) -> Awaitable[list[str]]:
        """Reads every page of every fragment; gives what is wrong in words, nothing if all is well."""

    def usage(self, tier: str | None = None) -> Usage:
        """Capacity of the disks (of one tier) that can be read, and what is free on those that can be written."""

    def room(self, policy: Policy, volume: VolumeId) -> Usage:
        """The same as data of this policy can use it: what its copies cost is taken off, what no second disk matches, and from
        what is free what the other volumes have claimed.
        """

    def claim(self, volume: VolumeId, size: int) -> None:
        """Says how many bytes of the disks, copies included, a volume will still need for what it has promised its clients."""

    def relied_on(self, at: Placement) -> Copies | None:
        """Which copies an extent has that is to be written again because it lacks some; `None` for one that is not.

        A copy is lacking that was never written, or lies on a disk that is failed, suspect, being drained, or missing for longer than the
        grace time.
        """

    @property
    def standing(self) -> object:
        """While this is equal, `relied_on` answers for every extent as before."""

    def attainable(self, policy: Policy, avoid: Collection[DiskId] = ()) -> int:
        """How many copies an extent that is written now can get."""

    def crowded(self, policy: Policy) -> Mapping[DiskId, float]:
        """Disks that are much fuller than the others, if extents of this policy can do without them; with the share of what they hold that is too much."""

    def healthy(self, at: Placement) -> bool:
        """Whether the extent has all its fragments, each on a disk that is present, trusted and not being drained."""
