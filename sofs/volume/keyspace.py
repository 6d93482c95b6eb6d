"""The key space: all of a volume's records, and the one way to change them.

Reading is immediate and sees every batch that was appended, committed or not. Changing is `commit`: the batch
goes to the log, which applies it here at once. Who answers a client reads `gate` of each bucket that the answer
rests on, or takes the position that `commit` gave, and waits for that in the log.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from sofs.errors import Damaged, SofsError
from sofs.log import Log
from sofs.runtime.ports import Buffer, Records
from sofs.types import Lsn
from sofs.volume.batch import Apply, Batch, Mutator, Operation, apply_add, apply_delete, apply_put, decode
from sofs.volume.keys import COUNTED
from sofs.volume.overlay import Overlay
from sofs.volume.quotas.counting import Counting
from sofs.volume.snapshots.saving import Saving


class KeySpace:
    """The machine (`sofs.log.Machine`) of a volume's log.

    `appliers` maps the codes of further operations to their apply functions; PUT, DELETE and ADD are known.
    """

    log: Log
    """Set by `attach` before anything is committed."""
    get: Callable[[bytes], bytes | None]
    """The record's value by key, or None."""
    changed: Callable[[bytes], Lsn]
    """As `gate`, but also of what is stable."""
    checkpointed: Lsn
    """Every replica's records durably hold all batches below this position."""
    barred: SofsError | None = None
    """What `commit` raises while a snapshot is being restored."""
    restorations: int = 0
    """How many have ended since the start: work that goes in slices is about another volume after each."""
    checkpoint: Callable[[], Awaitable[None]]
    """Completes when all that was committed before the call is in every replica's records (`sofs.volume.checkpoint`)."""

    def __init__(self, records: Records, appliers: Mapping[int, Apply]) -> None:
        self.overlay = Overlay(records)
        self._saving = Saving(self.overlay, self.overlay.history)
        self._appliers: dict[int, Apply] = {Operation.PUT: apply_put, Operation.DELETE: apply_delete, Operation.ADD: apply_add, **appliers}
        if Operation.COUNT in appliers:
            self._apply_count = appliers[Operation.COUNT]
            self._appliers[Operation.COUNT] = self._count
        self._counted = self._load_counted()
        self.checkpointed = Lsn(0)
        # The hot path reads without a call in between.
        self.get = self.overlay.get
        self.changed = self.overlay.gate

    def attach(self, log: Log) -> None:
        self.log = log

    def scan(self, bucket: bytes, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The records of a bucket in key order, from `start` (inclusive) to `end` (exclusive), each a whole key.

        Changes made meanwhile may or may not show; what they do not touch is found exactly once. Not to be used on across an await.
        """
        return self.overlay.scan(bucket, start, end)

    def walk(self, tag: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All records with this tag in key order, over all buckets, from the key `start` on. As `scan`; for background work (it sorts)."""
        return self.overlay.walk(tag, start)

    def last_bucket(self, tag: bytes) -> bytes:
        """See `Overlay.last_bucket`."""
        return self.overlay.last_bucket(tag)

    def gate(self, bucket: bytes) -> Lsn:
        """Position of the bucket's last change, removals included, if that may not be stable yet; else 0."""
        lsn = self.overlay.gate(bucket)
        return Lsn(0) if lsn < self.log.stable else lsn

    def state(self, bucket: bytes) -> object:
        """Something that is equal as long as the bucket has not changed. (It may differ without a change.)"""
        return self.overlay.generation, self.overlay.gate(bucket)

    def commit(self, batch: Batch, payload: Sequence[Buffer] = (), reserved: bool = False, sums: bytes | None = None) -> Lsn:
        """Appends the batch to the log, which applies it; gives its position.

        On return the batch can be read here, and is neither committed nor stable. The payload must not change until it is committed. Raises
        `NoSpace` and `Unavailable`; then nothing was changed. `reserved` is for what gives space back, `sums` are the payload's page sums (see `Log.append`).
        """
        if self.barred is not None:
            raise self.barred
        if batch.guard is not None:
            batch.guard()
        return self.log.append(batch.encode(), payload, reserved, sums)

    def commit_cleaning(self, batch: Batch) -> Lsn:
        """As `commit`, for what has to be recorded before the log can be made shorter: it gets through even when deletions have used up
        what a full log keeps for them, and when everything else is barred.
        """
        with self.log.overdraft():
            return self.log.append(batch.encode(), (), True, None)

    # sofs.log.Machine

    def apply(self, lsn: Lsn, operations: bytes, address: int) -> None:
        """Changes the records as the batch says. Raises `Damaged` for a batch that no version of this code wrote."""
        overlay = self.overlay
        overlay.lsn = lsn
        # Where there is no snapshot, nothing has to be saved.
        target: Mutator = overlay if overlay.history.newest is None else self._saving
        if self._counted:
            target = Counting(target, self._counted)
        appliers = self._appliers
        for code, body in decode(operations):
            apply = appliers.get(code)
            if apply is None:
                raise Damaged(f"record {lsn} holds an unknown operation {code}; it was written by a newer release")
            apply(target, body, address, lsn)

    def _count(self, records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
        self._apply_count(records, body, address, lsn)
        self._counted = self._load_counted()

    def _load_counted(self) -> int:
        return int.from_bytes(self.overlay.get(COUNTED) or b"", "little")

    def truncate(self, to: Lsn) -> None:
        """Forgets all that the checkpoint does not hold; the log applies again what lies between it and `to`."""
        self.overlay.clear()
        self._counted = self._load_counted()
