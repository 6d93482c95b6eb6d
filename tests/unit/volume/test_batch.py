"""Batches as bytes."""

import pytest

from sofs.errors import Damaged
from sofs.volume.batch import Batch, Operation, decode
from tests.volatile import volatile_keyspace


def test_a_batch_has_the_documented_bytes() -> None:
    batch = Batch()
    batch.put(b"key", b"value")
    batch.add(b"count", -1)
    assert batch.encode() == (b"\x02\0\0\0" + b"\x01\x0a\0\0\0" + b"\x03\0keyvalue" + b"\x03\x0d\0\0\0" + b"\xff" * 8 + b"count")


def test_operations_come_back_in_their_order() -> None:
    batch, other = Batch(), Batch()
    batch.delete(b"a")
    other.raw(Operation.WRITE, b"body")
    other.put(b"b", b"")
    batch.extend(other)
    assert decode(batch.encode()) == [(Operation.DELETE, b"a"), (Operation.WRITE, b"body"), (Operation.PUT, b"\x01\0b")]
    assert decode(Batch().encode()) == []


def test_every_prefix_is_damage() -> None:
    batch = Batch()
    batch.put(b"key", b"value")
    batch.delete(b"key")
    batch.raw(Operation.WRITE, b"")
    whole = batch.encode()
    for length in range(len(whole)):
        with pytest.raises(Damaged):
            decode(whole[:length])
    with pytest.raises(Damaged):
        decode(whole + b"\0")


@pytest.mark.parametrize("body", [b"", b"\x05\0abc", b"\0\0abc"])
def test_a_put_whose_key_does_not_fit_is_damage(body: bytes) -> None:
    batch = Batch()
    batch.raw(Operation.PUT, body)
    with pytest.raises(Damaged):
        volatile_keyspace({}).commit(batch)


def test_an_unknown_operation_is_refused_by_name() -> None:
    batch = Batch()
    batch.raw(200, b"")
    with pytest.raises(Damaged, match="unknown operation 200"):
        volatile_keyspace({}).commit(batch)
