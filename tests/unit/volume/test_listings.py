"""Listings are kept between answers, and never older than the directory."""

import random
from collections.abc import Iterator

from sofs.types import Inode
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.directory import listing, put, remove, slots
from sofs.volume.keyspace import KeySpace
from sofs.volume.listings import Listings, Row
from tests.volatile import VolatileLog, VolatileRecords, volatile_keyspace

INDEX = keys.bucket(keys.ENTRY, Inode(9))


class Remembered(VolatileRecords):
    """Records that a checkpoint can be written to."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((key, value) for key, value in self._values.items() if start <= key < end))

    def take(self, changes: list[tuple[bytes, bytes | None]]) -> None:
        for key, value in changes:
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value


def place(number: int) -> bytes:
    return INDEX + (number << 15).to_bytes(8)


def record_key(number: int) -> bytes:
    return keys.INODE + number.to_bytes(8)


def change(keyspace: KeySpace, number: int, record: bytes) -> None:
    batch = Batch()
    batch.put(record_key(number), record)
    keyspace.commit(batch)


def add(keyspace: KeySpace, number: int) -> None:
    batch = Batch()
    batch.put(record_key(number), b"new")
    put(batch, place(number), Inode(number), 1, b"%d" % number)
    keyspace.commit(batch)


def all_of(listings: Listings, size: int, step: int) -> list[Row]:
    """The directory, `step` entries at a time."""
    rows: list[Row] = []
    end = False
    while not end:
        more, end = listings.rows(INDEX, size, rows[-1][0] if rows else 0, step)
        rows += more
        assert more or end
    return rows


def test_answers_cut_out_of_kept_entries_are_those_of_the_index() -> None:
    keyspace = volatile_keyspace({})
    for number in range(1, 101):
        add(keyspace, number)
    listings = Listings(keyspace)
    for step in (1, 7, 50, 99, 100, 101):
        assert all_of(listings, 100, step) == list(listing(keyspace, INDEX, 0))
    middle = (50 << 15) + 3
    assert listings.rows(INDEX, 100, middle, 2)[0] == [(51 << 15, 51, 1, b"51"), (52 << 15, 52, 1, b"52")]


def test_a_change_between_two_answers_shows() -> None:
    chance, records = random.Random(5), Remembered()
    keyspace = KeySpace(records, {})
    keyspace.attach(VolatileLog(keyspace))
    listings = Listings(keyspace)
    there: set[int] = set()
    for _ in range(2000):
        match chance.randrange(6):
            case 0 | 1:
                number = chance.randrange(1, 40)
                if number not in there:
                    add(keyspace, number)
                    there.add(number)
            case 2:
                if there:
                    number = chance.choice(sorted(there))
                    batch = Batch()
                    remove(batch, keyspace.get, next(slot for slot in slots(keyspace, INDEX) if slot.inode == number))
                    keyspace.commit(batch)
                    there.discard(number)
            case 3:
                # A checkpoint: afterwards no gate says that anything has changed.
                keyspace.overlay.freeze()
                records.take([change for piece in keyspace.overlay.frozen() for change in piece])
                keyspace.overlay.thaw()
            case _:
                assert [row[1] for row in all_of(listings, len(there), chance.randrange(1, 20))] == sorted(there)
                number = chance.choice(sorted(there) or [1])
                if number in there and chance.randrange(2):
                    change(keyspace, number, b"record %d" % chance.randrange(100))
                full, end = listings.full(INDEX, len(there), number << 15, 5)
                expected = [each for each in sorted(there) if each > number]
                assert [(row[2], row[3]) for row in full] == [(each, keyspace.get(record_key(each))) for each in expected[:5]]
                assert end == (len(expected) <= 5)


def test_large_directories_are_not_kept() -> None:
    keyspace = volatile_keyspace({})
    for number in range(1, 11):
        add(keyspace, number)
    listings = Listings(keyspace)
    for _ in range(3):
        assert len(all_of(listings, 1 << 20, 3)) == 10
    assert all(rows is None for _, rows in listings._kept.values())
