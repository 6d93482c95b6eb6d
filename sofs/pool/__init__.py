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

Over several nodes it is one pool all the same. Each node opens its own disks only, and serves them to the others (`service`); to a
coordinator they look alike (`disk`). Slots are given out where the disk is, and nowhere else; scrubbing, probing and punching are done
there, too. A disk of another node is in the state in which that node has it. While the node does not answer, its disks are *missing*: they
are not read, new extents go elsewhere, and nothing is concluded from it until the grace time is over. Checksums travel beside the data and
are compared where it is used.

**A coordinator that has been deposed** may not know it, and what it has sent may arrive at any time: it was paused, or cut off together
with some of the disks. Nothing here asks which configuration a message comes from, because none of them can do harm, if the volume keeps to
four rules: (1) the batch that grants numbers is stable before the first of them is used, so no successor ever grants the same; (2) an
extent is deleted only when the batch that freed it is stable on all replicas, so every successor has it; (3) only an extent that no batch
names is abandoned; (4) numbers are looked for as orphans only below the lowest that may still be recorded, and after a sync of the log,
which a deposed coordinator does not get. For then:

- *A late write* has a number that its successor never grants. Before the successor's first collection has revoked it, it is an orphan, and
  found; afterwards it is refused. The disk asks whether an id is revoked before the data is written and again, without a wait in between,
  before the table entry is, and the collection looks into the table behind the revocation: a fragment is seen by it, or never written. A
  disk that is away then hears of all revocations before anything else when it returns (`neighbours`), and is looked through once more
  (`in_doubt`).
- *A late deletion* names a slot and an id. The extent has been freed by a batch that the successor has as well, who deletes it, too:
  whoever comes second finds nothing of that id. That the slot is another extent's by then does not matter: its id is another one, and ids
  are never used twice.
- *A late collection of orphans* deletes what lies below a limit and had no record when it was asked: the successor cannot have recorded it,
  since it takes no number below its own first grant, and its log begins with all that was stable.
- *A late mending* is refused unless the slot still has that id, and unless the pages match the checksums that were stored with the
  fragment. An extent never changes, so what matches is right, however old. A header is written again from the table's entry and another
  fragment's checksums, which are the same for all copies.
- *A late revocation* covers numbers that its sender was granted, or somebody before it: nobody writes those any more but the sender.
- *A late reading* finds the extent, or that it is gone.

The same holds for a message whose answer was lost. A write that may have been made all the same is never repeated on that disk, so the
extent goes to others, and what may lie there is a *stray*: a fragment of a known id in a place that the record does not name. It holds
right bytes or fails its checksums; nobody reads it, and the collection finds it, as it compares fragments and not ids. When a node is
evicted, its disks are lost at once, and if one of them is seen again, it is as a new one.

What is not safe, and is nowhere done: to write an extent again under the id it had; to let a disk back in whose table is older than what it
has acknowledged (a copy of a disk, a snapshot of its file system).

In reading order: `extent` (the words), `scheme` and `policy` (how many fragments, and where), `label`, `table`, `fragment`, `revocations`
(the formats, each told in its module), `layout` (the directory), `sync` (one for all who wait), `slots` (what is free), `disk` (what a disk
can do), `opening`, `fragments` and `local_disk`, `messages`, `service` and `remote_disk` (the same from another node), `states`, `members` and
`neighbours` (what a pool knows of its disks), `copies` (reading around damage), `capacity`, `local_pool`, `upkeep`.
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

    async def write(self, id: ExtentId, data: Sequence[Buffer], policy: Policy, names: bytes = b"", sums: Sequence[int] | None = None) -> Placement:
        """Writes an extent of 1 page to 8 MiB, durable on every fragment, or raises and leaves only an orphan.

        `data` must not change until then. `names` (at most `NAMES_PER_MIB` for each MiB of data begun) goes into each fragment's header:
        which chunks it holds, for whoever has to rebuild a volume from its disks. `sums` are the pages' CRC32Cs, if the caller has
        them. When disks are out of service the extent may get fewer
        fragments than the policy asks for, which its placement and `relied_on` tell. A disk that fails or is full meanwhile is avoided as
        long as there is another. Raises `NoSpace`, `DiskFailed`, `Fenced` (the id was revoked), `InvalidArgument`.
        """

    def read(self, at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None = None) -> Awaitable[None] | None:
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
        what is free what the other volumes have claimed, here and at the nodes that answer.
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
