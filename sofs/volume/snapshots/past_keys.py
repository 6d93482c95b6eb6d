"""The key space as of a snapshot: what was saved of it, and the present where nothing was.

Only what a snapshot shows (`keys.VERSIONED`) is of then; places of pages, extents and counters are those of now, since pages move and keep their names.
Nothing that this gives for a versioned key ever changes, so all of it may be remembered.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from sofs.errors import ReadOnly, Stale
from sofs.runtime.ports import Buffer
from sofs.types import Lsn
from sofs.volume.batch import Batch
from sofs.volume.keys import BUCKET, VERSIONED
from sofs.volume.keyspace import KeySpace
from sofs.volume.snapshots.history import Snapshot, is_ready
from sofs.volume.snapshots.saving import base_of, place_of, saved_value

_TAGS = frozenset(tag[0] for tag in VERSIONED)
_ONE_LENGTH = frozenset(b"DLS")
"""Tags whose suffixes are eight bytes long: their saved values lie in the order of their keys."""

_REMEMBERED = 4096
"""Values: about 4 MB if all are leaves."""


class Living(Protocol):
    """The present records."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, bucket: bytes, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...


def past_value(records: Living, snapshot: Snapshot, key: bytes) -> bytes | None:
    """What a versioned key held at the snapshot."""
    if snapshot.lacks(int.from_bytes(key[1:BUCKET])):
        return None
    place = place_of(key)
    # Numbers begin with a zero byte, so these are the values of this key and no other's.
    for _, value in records.scan(place[:BUCKET], place + snapshot.number.to_bytes(8), place + b"\1"):
        return saved_value(value)
    return records.get(key)


def past_scan(records: Living, snapshot: Snapshot, bucket: bytes, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """A versioned bucket's records as of the snapshot, as `KeySpace.scan` gives them."""
    if snapshot.lacks(int.from_bytes(bucket[1:BUCKET])):
        return
    saved = _saved(records, snapshot, bucket, start, end)
    ordered = iter(sorted(saved))
    following = next(ordered, None)
    for key, value in records.scan(bucket, start, end):
        while following is not None and following < key:
            if (old := saved[following]) is not None:
                yield following, old
            following = next(ordered, None)
        if following == key:
            continue  # its turn comes with the next key, or at the end
        yield key, value
    while following is not None:
        if (old := saved[following]) is not None:
            yield following, old
        following = next(ordered, None)


def _saved(records: Living, snapshot: Snapshot, bucket: bytes, start: bytes, end: bytes) -> dict[bytes, bytes | None]:
    """By key, what was saved of a bucket and counts for this snapshot."""
    base = place_of(bucket)[:BUCKET]
    low = high = b""
    if bucket[0] in _ONE_LENGTH:
        low = base + b"\x08" + start[BUCKET:]
        high = base + b"\x08" + end[BUCKET:] if end else base + b"\x09"
    found: dict[bytes, bytes | None] = {}
    for place, value in records.scan(base, low, high):
        if int.from_bytes(place[-8:]) < snapshot.number:
            continue
        key = base_of(place[:-8])
        if key not in found and key >= start and (not end or key < end):
            found[key] = saved_value(value)
    return found


class PastKeys(KeySpace):
    """A `KeySpace` that is read-only and shows the volume as of a snapshot."""

    def __init__(self, living: KeySpace, snapshot: Snapshot) -> None:
        # The parent's state is the living volume's: nothing of it is made again.
        self.snapshot = snapshot
        self._living = living
        self._known: dict[bytes, bytes | None] = {}
        self.log = living.log
        self.overlay = living.overlay
        self.checkpointed = living.checkpointed
        self.get = self._get
        self.changed = self.gate

    def _get(self, key: bytes) -> bytes | None:
        if key[0] not in _TAGS:
            return self._living.get(key)
        try:
            return self._known[key]
        except KeyError:
            pass
        self.check()
        value = past_value(self._living, self.snapshot, key)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = value
        return value

    def check(self) -> None:
        """Raises `Stale` once the snapshot is being deleted: what it showed is gone then, or will be."""
        if not is_ready(self._living.get(self.snapshot.key)):
            raise Stale(f"snapshot {self.snapshot.number} has been deleted")

    def scan(self, bucket: bytes, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        if bucket[0] not in _TAGS:
            return self._living.scan(bucket, start, end)
        self.check()
        return past_scan(self._living, self.snapshot, bucket, start, end)

    def walk(self, tag: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        raise ReadOnly("nothing works through a snapshot as a whole")

    def gate(self, bucket: bytes) -> Lsn:
        lsn = self.snapshot.lsn
        return Lsn(0) if lsn < self.log.stable else lsn

    def commit(self, batch: Batch, payload: Sequence[Buffer] = (), reserved: bool = False, sums: bytes | None = None) -> Lsn:
        raise ReadOnly("a snapshot cannot be changed")

    def commit_cleaning(self, batch: Batch) -> Lsn:
        raise ReadOnly("a snapshot cannot be changed")

    def apply(self, lsn: Lsn, operations: bytes, address: int) -> None:
        raise AssertionError("no log leads to a snapshot's key space")

    def truncate(self, to: Lsn) -> None:
        raise AssertionError("no log leads to a snapshot's key space")
