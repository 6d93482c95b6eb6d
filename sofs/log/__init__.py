"""The log: the one mechanism through which everything durable goes.

It appends batches as records at increasing byte positions, on every replica of its configuration,
makes them committed and then stable, reads their payload back and trims what a checkpoint covers. It knows nothing
of files. Records of one loop tick are written together, and one sync makes all of them stable.

In reading order: `configuration` (who counts, where a log stands), `record` (one record, as bytes), `replica` (one copy: segments on a disk),
`reading`, `recovery` (what a log holds after a crash), `gates` (who waits), `copies` (which copies count, and how that changes), `contents` (what they
hold), `replicated` (all copies together: group commit). Then across nodes: `messages`, `follower` (a standby's side), `syncing` (how far it is on its
disk), `service` (all followers of a node), `remote` (the coordinator's side of one copy), `stretch` (what is sent to catch up), `mending` (what is
damaged here, fetched from there), `remotes` (all of them: the lease).

A position is that of a record's first byte. `committed` and `stable` are the positions behind the last record
that is: a record at `lsn` is committed when `lsn < log.committed`. Position 0 names no record and is always stable.

Replication
===========

The protocol is PacificA (Lin, Yang, Zhang, Zhou: MSR-TR-2008-25), with the coordination store as its configuration manager. This is
what a reader needs to check the code against the paper: the words, the invariants with where each is enforced, what differs and why that is safe.

What is the same
----------------

- The paper's primary is our coordinator, its secondaries are standbys, its candidate is a learner. A configuration has a version and changes only
  by compare-and-set on it (`Copies._record`); whose outcome is unknown is resolved before anything is acknowledged.
- Update: the coordinator gives each record its place and sends it to all replicas of the configuration; a record that all have is committed.
  Messages carry the version; a replica refuses those of an older one (`Follower._refusal`).
- Failure of a secondary: the coordinator leaves it out by compare-and-set, and acknowledges nothing from before that until it is recorded
  (`Copies.lost`, `_leave_out`; until then it is still waited for, so its answers do no harm).
- Failure of the primary: any replica of the configuration may propose itself, and the configuration manager lets one of them win. The winner's log
  is the truth: the others are extended, or cut off where they differ (the paper's reconciliation). All that was committed is in the winner's log,
  since it was on every replica; what else is there becomes committed.
- Two leases: a coordinator serves only while every other replica has promised not to take over, and a replica takes over only once its promise has
  run out (the paper's lease period and grace period; here they are one, less the drift of the clocks).
- Adding: a learner is sent the live stream and what it lacks, and is added once it lacks nothing.

Invariants
----------

One log. For each (version, position) there is at most one record. One process writes under a version: only a won compare-and-set makes one, and
    that names the process. Within it positions only grow.

Prefix. In every replica of the configuration, everything below `committed` is the same. A record is committed at the least position that every
    counted replica has acknowledged (`ReplicatedLog._advance`), and a follower acknowledges only what it knows to be the coordinator's:
    `Follower._common`, which starts at the stable position with each version and grows by what the coordinator sends, compared record by record.

Stability. Everything below a stable position is the same in every copy there is or will be, and on the disk of every replica of the configuration.
    The same with `synced`. A follower cuts nothing off below it (`_compare`, `_cut` refuse), a learner counts only once it has synced it.

No way back. Nothing below `common` is ever cut off, not even for a moment: a record that is here already is skipped, only the first that differs
    cuts. So a message may come late, twice, or begin anywhere, and whoever is asked in the middle of it still has everything.

Chain. A record's checksum covers its predecessor's: logs that have the same mark (position, checksum) have the same below it. A message says which
    mark it follows, and is taken only where that is a mark of the follower's own (`Follower._place`). After a cut the records behind it are of an
    older version than what is written next, so that a recovery never finds them again.

One coordinator serves. At no instant of true time do two processes answer. Coordinator C of version v answers while, on its clock, all promises of
    replicas in v are unexpired, each counted from before its question was sent and for L less 1 %. A replica R stands for v + 1 only when, on its
    clock, L has passed since the last question it took; clocks drift by at most 1 % against each other, so C has stopped. From `stand` on R takes
    nothing, hence promises nothing, until it knows what became of its compare-and-set: a promise given after the look at the clock would undo it.
    Whose promise C needs is the union of the configuration in force and any that may be (`Remotes.need`, `recorded`): a replica that is being added may
    count, and so take over, from the moment the compare-and-set is sent; one that is being removed, until it is known to have happened. With a
    record under `dead/` for C's incarnation C does not run, and no promise to it is needed any more. C's own node, started again, has promised
    nobody anything, and holds C's lock.

Establishment. A new coordinator serves nothing before its first record is stable on all replicas of its configuration (`establish`). That record
    follows the end of its log. A longer log of another replica differs there and is cut off; a record that this one lacks cannot survive elsewhere,
    for then the follower's log would have it in the place of the first, under a lower version.

What differs, and why it is safe
--------------------------------

Promises come from standbys, in every answer. In the paper the primary obtains leases by beacons; so it is here, but every record is a beacon and
    every answer a promise, and beacons of their own are sent only when idle. Nothing else changes. A follower that has been restarted has forgotten
    its promise, and waits for L first.

Byte positions, and no separate prepared list. The paper keeps a prepared list and a committed point. Here the log is the list; the coordinator's
    committed position is told with each message only so that a replica knows when it is whole. A takeover treats all of the winner's list as
    committed, as the paper's does.

The winner need not be the longest. All committed records are in every replica. What only some had was acknowledged to nobody.

A stable level. The paper knows one level. Committed here means in the page cache of every replica: a process that dies loses nothing. A replica
    whose host went down may have lost what was committed and not stable, and must not be taken for one that has it: it is not `whole` until it has
    again what was committed when it was asked (`Follower._settle`), and `stand` refuses it until then. If no whole replica answers, the one with
    the most may stand all the same (`broken`): it has everything that was stable, and what may be lost is announced by the volume's new
    incarnation. So only the loss of all memory loses committed records, and nothing loses stable ones.

Records are sent under whatever version is in force, and followers may still obey the one before. They answer BEHIND, read the store, adopt it, and
    the stream begins anew at what they have. A removed replica's late answers count for nothing (`RemoteReplica.detach`, the epoch of each stream).

Replicas have incarnations. A configuration names random ids of logs, not nodes: a replica that was made anew is another one, and the former one's
    promises and answers say nothing about it.

A learner's log may begin behind a checkpoint that its machine was given: the records below it are written, verified by the chain up to the
    checkpoint's own mark, and not applied. Its process may die before it is whole; then its log has a hole that no recovery can see. Whoever opens
    it must know from a note beside it that it was whole once.

Damage is nobody else's fault. A record that is damaged here is fetched from a copy that has it (`mending`). What no copy has intact and was never
    acknowledged is lost with the copies here, which are given up; only a copy that lacks what it had acknowledged itself is left out for it
    (`Contents._stretch`).

Promotion looks twice. Once while acknowledging goes on, and once more after that has paused (`Copies.promote`): between the last look and the
    outcome of the compare-and-set nothing is committed, so nothing can be committed without it that it lacks.

Trimming is each replica's own. The coordinator says what it keeps; a standby gives back only what its own checkpoint covers as well. So the log of
    a standby that takes over may be longer than a log is to be (`ReplicatedLog._least`). What a standby or a learner may still have to be sent is
    kept for it, within bounds (`Remotes.keep`).
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from sofs.errors import Damaged
from sofs.runtime.ports import Buffer
from sofs.types import Level, Lsn

__all__ = ["DamagedRecord", "Log", "Machine", "Record"]


class DamagedRecord(Damaged):
    """No copy of the log on this node has an intact record where one begins."""

    def __init__(self, message: str, lsn: Lsn) -> None:
        super().__init__(message)
        self.lsn = lsn


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

        Raises `DamagedRecord`; `mend` may help.
        """

    def mend(self, lsn: Lsn) -> Awaitable[bool]:
        """Fetches the record at a position from another node and puts it back here; False if none has one that is intact."""

    def reach(self, lsn: Lsn) -> Awaitable[None]:
        """Completes when the record at `lsn` is stable, for work that is not answered through gates. Raises `Unavailable` when the log fails
        first."""

    def sync(self) -> Awaitable[None]:
        """Completes when all appended so far is stable."""

    def trim(self, below: Lsn) -> None:
        """Gives back whole segments below a position that every checkpoint covers."""
