"""The overlay: recent changes in memory over records on a disk that are always stable.

Two layers of dicts: `active` takes changes, `frozen` is what a running checkpoint writes down. A record is looked for in
active, frozen and then on the disk; a removal is kept as a tombstone until the checkpoint has carried it out.
Keys of one bucket are put in order only when the bucket is scanned, or when the checkpoint reaches it.

A layer remembers for each bucket the position of its last change, removals included: a reply that rests on
the bucket must not be told before that is as safe as the reply promises (DESIGN section 6, the gate rule).
"""

import struct
from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import merge
from typing import Final

from sofs.runtime.ports import Records
from sofs.types import Lsn
from sofs.volume.keys import BUCKET
from sofs.volume.snapshots.history import SNAPSHOTS, History

_COUNTER = struct.Struct("<q")
_INSERT_LIMIT = 32
"""Up to so many new keys are inserted one by one (moving pointers: 4 us in a bucket of 10,000), more are sorted in."""

_SORTED_AT_ONCE = 4000
_PIECE = 500
"""Buckets sorted, and keys given, in one step towards a checkpoint."""


class _Absent:
    """The type of the mark for "this layer does not know the key", which differs from a tombstone."""


_ABSENT: Final = _Absent()


class _Layer:
    """One set of dicts."""

    __slots__ = ("buckets", "fresh", "gates", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}
        self.gates: dict[bytes, Lsn] = {}
        self.buckets: dict[bytes, list[bytes]] = {}
        """Each bucket's keys in order, without those that are still in `fresh`."""
        self.fresh: dict[bytes, list[bytes]] = {}
        """Keys that have come to each bucket since it was last put in order."""

    def ordered(self, bucket: bytes) -> list[bytes]:
        """The bucket's keys in order. The list only ever grows, so that a scan that is under way misses none of its keys."""
        fresh = self.fresh.pop(bucket, None)
        keys = self.buckets.get(bucket)
        if fresh is None:
            return [] if keys is None else keys
        if keys is None:
            fresh.sort()
            self.buckets[bucket] = fresh
            return fresh
        if len(fresh) > _INSERT_LIMIT:
            keys += fresh
            keys.sort()
        else:
            for key in fresh:
                insort(keys, key)
        return keys


class Overlay:
    """Records by key: the newest state, stable or not. It is the `Mutator` of the apply functions."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.lsn = Lsn(0)
        """Position of the batch that is being applied."""
        self._active = _Layer()
        self._frozen: _Layer | None = None
        self.generation = 0
        """Counts how often gates have been forgotten: within one, a bucket whose gate is the same has not changed."""
        self.history = History(self.scan(SNAPSHOTS))

    # Reading

    def get(self, key: bytes) -> bytes | None:
        value = self._active.values.get(key, _ABSENT)
        if value is not _ABSENT:
            return value  # type: ignore[return-value]
        if self._frozen is not None:
            value = self._frozen.values.get(key, _ABSENT)
            if value is not _ABSENT:
                return value  # type: ignore[return-value]
        return self.records.get(key)

    def scan(self, bucket: bytes, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The bucket's records in key order, from `start` up to, not including, `end` (each a whole key).

        Changes made while a scan is under way may or may not show in it; what they do not touch is found exactly once. Not to be used on
        across an await: a checkpoint may have ended meanwhile.
        """
        start = max(start, bucket)
        end = end or (int.from_bytes(bucket) + 1).to_bytes(BUCKET)
        layers = [layer for layer in (self._active, self._frozen) if layer is not None and bucket in layer.gates]
        if not layers:
            return self.records.scan(start, end)
        return self._merge(layers, [layer.ordered(bucket) for layer in layers], start, end)

    def walk(self, tag: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All records with this one-byte tag, over all buckets, as `scan` gives them."""
        start = max(start, tag)
        end = bytes((tag[0] + 1,))
        layers = [self._active] if self._frozen is None else [self._active, self._frozen]
        keys = [sorted(key for key in layer.values if start <= key < end) for layer in layers]
        return self._merge(layers, keys, start, end)

    def last_bucket(self, tag: bytes) -> bytes:
        """The highest bucket with this one-byte tag that has records, or has lost its last one lately; empty if there is none. For tags with few buckets
        on disk."""
        last = max(
            (bucket for layer in (self._active, self._frozen) if layer is not None for bucket in layer.gates if bucket[:1] == tag), default=b""
        )
        above, end = last or tag, bytes((tag[0] + 1,))
        while (stored := next(self.records.scan(above, end), None)) is not None:
            last = stored[0][:BUCKET]
            above = (int.from_bytes(last) + 1).to_bytes(BUCKET)
        return last

    def _merge(self, layers: list[_Layer], keys: list[list[bytes]], start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        stored = self.records.scan(start, end)
        next_stored = next(stored, None)
        for key in _union(keys, start, end):
            while next_stored is not None and next_stored[0] < key:
                yield next_stored
                next_stored = next(stored, None)
            if next_stored is not None and next_stored[0] == key:
                next_stored = next(stored, None)
            value = next(layer.values[key] for layer in layers if key in layer.values)
            if value is not None:
                yield key, value
        while next_stored is not None:
            yield next_stored
            next_stored = next(stored, None)

    def gate(self, bucket: bytes) -> Lsn:
        """Position of the bucket's last change that no checkpoint holds yet; 0 if there is none."""
        lsn = self._active.gates.get(bucket)
        if lsn is None:
            lsn = self._frozen.gates.get(bucket) if self._frozen is not None else None
        return Lsn(0) if lsn is None else lsn

    # Changing

    def put(self, key: bytes, value: bytes) -> None:
        self._set(key, value)

    def delete(self, key: bytes) -> None:
        self._set(key, None)

    def add(self, key: bytes, amount: int) -> int:
        value = self.get(key)
        total: int = amount if value is None else amount + _COUNTER.unpack(value)[0]
        self._set(key, _COUNTER.pack(total))
        return total

    def _set(self, key: bytes, value: bytes | None) -> None:
        active = self._active
        bucket = key[:BUCKET]
        if key not in active.values:
            fresh = active.fresh.get(bucket)
            if fresh is None:
                active.fresh[bucket] = [key]
            else:
                fresh.append(key)
        active.values[key] = value
        active.gates[bucket] = self.lsn

    # Checkpoints

    def __len__(self) -> int:
        """How many keys are in memory."""
        frozen = 0 if self._frozen is None else len(self._frozen.values)
        return len(self._active.values) + frozen

    def freeze(self) -> None:
        """Sets what has been changed so far apart, for a checkpoint to write down."""
        assert self._frozen is None, "a checkpoint is under way"
        self._frozen = self._active
        self._active = _Layer()

    def frozen(self) -> Iterator[list[tuple[bytes, bytes | None]]]:
        """The frozen changes in key order, piece by piece: each step takes about a millisecond, and may give nothing yet."""
        assert self._frozen is not None
        frozen = self._frozen
        buckets = list(frozen.gates)
        runs = []
        for start in range(0, len(buckets), _SORTED_AT_ONCE):
            runs.append(sorted(buckets[start : start + _SORTED_AT_ONCE]))
            yield []
        piece: list[tuple[bytes, bytes | None]] = []
        for bucket in merge(*runs):
            for key in frozen.ordered(bucket):
                piece.append((key, frozen.values[key]))
            if len(piece) >= _PIECE:
                yield piece
                piece = []
        yield piece

    def thaw(self) -> None:
        """Forgets what is frozen: the records, newly refreshed, have it."""
        assert self._frozen is not None
        self._frozen = None
        self.generation += 1

    def unfreeze(self) -> None:
        """Takes back a freeze whose checkpoint failed."""
        assert self._frozen is not None
        newer, self._active = self._active, self._frozen
        self._frozen = None
        for key, value in newer.values.items():
            self.lsn = newer.gates[key[:BUCKET]]
            self._set(key, value)

    def clear(self) -> None:
        """Forgets everything that the records do not have."""
        self._active = _Layer()
        self._frozen = None
        self.generation += 1
        self.history.load(self.scan(SNAPSHOTS))


def _union(lists: list[list[bytes]], start: bytes, end: bytes) -> Iterator[bytes]:
    """The keys of all lists that lie between `start` and `end`, in order, each once.

    The lists may grow meanwhile. Then a list's rest has moved to the right, never to the left: keys are met again, not missed.
    """
    at = [bisect_left(keys, start) for keys in lists]
    last = b""
    while True:
        best = None
        for number, keys in enumerate(lists):
            index = at[number]
            while index < len(keys) and keys[index] <= last:
                index += 1
            at[number] = index
            if index < len(keys) and keys[index] < end and (best is None or keys[index] < best):
                best = keys[index]
        if best is None:
            return
        last = best
        yield best
