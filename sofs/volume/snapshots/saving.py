"""Saving what a snapshot shows: the first change of a record after it keeps the old value, under a key of its own.

The saved value of a key stands under the lower-case letter of its tag, behind it the length of the suffix, the suffix, and the number of the snapshot
for which it was saved. It is what the key held at that snapshot, and also at every older one back to the last that has a saved value of
its own. So a key as of a snapshot is the saved value of the oldest snapshot that is not older, else the living one. A record of the index
`J` says of each saved value (and of each dead list) to which snapshot it belongs.

    i d l x s a b z  owner   length u8, suffix, number u64   0: there was no such record; 1 and the value
    J                number  tag, owner, ... as above         nothing

Nothing is saved for inodes that are younger than the snapshot, nor for what belongs to them.
"""

from collections.abc import Iterator

from sofs.volume.keys import BUCKET, SAVED_INDEX, VERSIONED
from sofs.volume.overlay import Overlay
from sofs.volume.snapshots.history import History

_TAGS = frozenset(tag[0] for tag in VERSIONED)
_LOWER = {tag[0]: bytes((tag[0] | 0x20,)) for tag in VERSIONED}
_UPPER = {lower: bytes((tag,)) for tag, (lower,) in _LOWER.items()}

_REMEMBERED = 1 << 16

ABSENT = b"\0"
"""The saved value of what was not there."""


def place_of(key: bytes) -> bytes:
    """Where the values saved of a key stand: this and the number of a snapshot."""
    return b"".join((_LOWER[key[0]], key[1:BUCKET], bytes((len(key) - BUCKET,)), key[BUCKET:]))


def base_of(place: bytes) -> bytes:
    """The key whose values are saved at this place."""
    return _UPPER[place[0]] + place[1:BUCKET] + place[BUCKET + 1 :]


def index_key(number: int, place: bytes) -> bytes:
    """The record that says that something at this place belongs to a snapshot."""
    return SAVED_INDEX + number.to_bytes(8) + place


def saved_value(value: bytes) -> bytes | None:
    """What a saved value says that the key held."""
    return None if value == ABSENT else value[1:]


class Saving:
    """The records while a batch is applied to a volume with snapshots: as the overlay, but what is changed is saved first."""

    def __init__(self, overlay: Overlay, history: History) -> None:
        self.history = history
        self._overlay = overlay
        self.get = overlay.get

    def scan(self, bucket: bytes, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._overlay.scan(bucket, start, end)

    def put(self, key: bytes, value: bytes) -> None:
        if key[0] in _TAGS and key not in self.history.saved:
            self._save(key)
        self._overlay.put(key, value)

    def delete(self, key: bytes) -> None:
        if key[0] in _UPPER:
            self.history.saved.clear()
        elif key[0] in _TAGS and key not in self.history.saved:
            self._save(key)
        self._overlay.delete(key)

    def add(self, key: bytes, amount: int) -> int:
        return self._overlay.add(key, amount)

    def _save(self, key: bytes) -> None:
        newest, known = self.history.newest, self.history.saved
        assert newest is not None
        if len(known) >= _REMEMBERED:
            known.clear()
        known.add(key)
        if newest.lacks(int.from_bytes(key[1:BUCKET])):
            return
        place = place_of(key)
        saved = place + newest.number.to_bytes(8)
        get, put = self.get, self._overlay.put
        if get(saved) is None:
            old = get(key)
            put(saved, ABSENT if old is None else b"\1" + old)
            put(index_key(newest.number, place), b"")
