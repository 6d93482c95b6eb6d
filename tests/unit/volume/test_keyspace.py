"""The overlay and the key space over it, without a disk."""

import random
from collections.abc import Iterator

from sofs.types import Lsn
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.overlay import Overlay
from tests.volatile import VolatileRecords, volatile_keyspace


class DictRecords(VolatileRecords):
    """Records as a dict, so that a test can carry out a checkpoint by itself."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((key, value) for key, value in self.values.items() if start <= key < end))


def checkpoint(overlay: Overlay, records: DictRecords) -> None:
    changes = [change for piece in overlay.frozen() for change in piece]
    assert changes == sorted(changes, key=lambda change: change[0])
    for key, value in changes:
        if value is None:
            records.values.pop(key, None)
        else:
            records.values[key] = value
    overlay.thaw()


def test_every_layer_answers_like_one_dictionary() -> None:
    random_ = random.Random(7)
    records = DictRecords()
    overlay = Overlay(records)
    model: dict[bytes, bytes] = {}
    buckets = [keys.bucket(tag, owner) for tag in (b"D", b"I", b"L") for owner in (1, 2, 2**64 - 1)]
    frozen = False
    for step in range(6000):
        overlay.lsn = Lsn(step)
        key = random_.choice(buckets) + random_.randrange(60).to_bytes(random_.choice((1, 2)))
        action = random_.random()
        if action < 0.55:
            overlay.put(key, str(step).encode())
            model[key] = str(step).encode()
        elif action < 0.95:
            overlay.delete(key)
            model.pop(key, None)
        elif not frozen:
            overlay.freeze()
            frozen = True
        elif random_.random() < 0.3:
            overlay.unfreeze()
            frozen = False
        else:
            checkpoint(overlay, records)
            frozen = False
        assert overlay.get(key) == model.get(key)
        if step % 20 == 0:
            bucket = random_.choice(buckets)
            start = bucket + bytes((random_.randrange(60),))
            end = bucket + bytes((random_.randrange(60), 7))
            found = list(overlay.scan(bucket, start, end))
            assert found == sorted((k, v) for k, v in model.items() if start <= k < end)
            assert list(overlay.scan(bucket)) == sorted((k, v) for k, v in model.items() if k[:9] == bucket)
            assert list(overlay.walk(b"D")) == sorted((k, v) for k, v in model.items() if k[:1] == b"D")


def test_a_bucket_may_change_under_a_scan() -> None:
    overlay = Overlay(DictRecords())
    bucket = keys.bucket(b"D", 5)
    for number in range(0, 200, 2):
        overlay.put(bucket + bytes((number,)), b"old")
    found = []
    for key, _ in overlay.scan(bucket):
        found.append(key)
        overlay.delete(key)
        if key[9] % 2 == 0:
            overlay.put(bucket + bytes((key[9] + 1,)), b"new")
            overlay.put(bucket + bytes((key[9] // 3 * 2 + 1,)), b"new")
        list(overlay.scan(bucket))
    assert found == sorted(set(found))
    assert {key for key in found if key[9] % 2 == 0} == {bucket + bytes((n,)) for n in range(0, 200, 2)}


def test_the_gate_is_the_buckets_last_unstable_change() -> None:
    keyspace = volatile_keyspace({})
    first, second = keys.bucket(b"D", 1), keys.bucket(b"D", 2)
    batch = Batch()
    batch.put(first + b"a", b"1")
    at = keyspace.commit(batch)
    assert keyspace.overlay.gate(first) == at
    assert keyspace.gate(first) == 0, "the log says that it is stable"
    assert keyspace.overlay.gate(second) == 0
    batch = Batch()
    batch.delete(first + b"a")
    later = keyspace.commit(batch)
    assert keyspace.overlay.gate(first) == later > at
    keyspace.overlay.freeze()
    assert keyspace.overlay.gate(first) == later
    keyspace.overlay.thaw()
    assert keyspace.overlay.gate(first) == 0


def test_counters_begin_at_nothing_and_may_be_negative() -> None:
    keyspace = volatile_keyspace({})
    for amount, total in ((5, 5), (-7, -2), (2**40, 2**40 - 2)):
        batch = Batch()
        batch.add(keys.counter(b"pages"), amount)
        keyspace.commit(batch)
        value = keyspace.get(keys.counter(b"pages"))
        assert value is not None
        assert int.from_bytes(value, "little", signed=True) == total
