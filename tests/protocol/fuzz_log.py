"""Inputs for what is read from a log's disks: records, segments, whole logs, batches, checkpoints' marks.

Half of the damaged inputs get right checksums again, as a faulty program or a malicious disk would give them: then it is
the contents that the decoders have to doubt.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from functools import cache
from random import Random

import structlog
from crc32c import crc32c

from sofs.errors import Damaged, ExtentGone
from sofs.log import reading, record, recovery
from sofs.log.configuration import BEGINNING, Mark
from sofs.log.record import HEADER, aligned, decode, encode, payload_sum
from sofs.log.recovery import recover
from sofs.log.replica import FIRST, SegmentHeader
from sofs.runtime.ports import Buffer
from sofs.types import Lsn
from sofs.volume import batch, checkpoint
from sofs.volume.batch import Batch
from sofs.volume.batch import decode as decode_batch
from sofs.volume.checkpoint import decode_mark, encode_mark
from sofs.volume.recovery import Incarnation
from tests.protocol.fuzz import Target, mutated
from tests.volatile import volatile_keyspace

SEGMENT = 8 << 10
VERSION = 5


class MemoryReplica:
    """A replica of the log in memory: only what recovery needs."""

    id = 1
    place = "memory"
    segment_size = SEGMENT

    def __init__(self, content: Sequence[bytes]) -> None:
        self.content = [bytearray(each.ljust(SEGMENT, b"\0")[:SEGMENT]) for each in content]

    def segments(self) -> list[int]:
        return list(range(len(self.content)))

    def prepare(self, index: int) -> None:
        while len(self.content) <= index:
            self.content.append(bytearray(SEGMENT))

    def write(self, lsn: int, data: Sequence[Buffer]) -> None:
        index, offset = divmod(lsn, SEGMENT)
        whole = b"".join(data)
        assert offset + len(whole) <= SEGMENT
        self.content[index][offset : offset + len(whole)] = whole

    def sync(self) -> Awaitable[None]:
        raise NotImplementedError

    def read(self, address: int, into: memoryview) -> Awaitable[None] | None:
        raise NotImplementedError

    def read_now(self, address: int, into: memoryview) -> None:
        index, offset = divmod(address, SEGMENT)
        if index >= len(self.content):
            raise ExtentGone("no such segment")
        assert offset + len(into) <= SEGMENT
        into[:] = self.content[index][offset : offset + len(into)]

    def trim(self, below: int) -> None: ...

    def where(self, address: int) -> str:
        return f"position {address}"

    def close(self) -> None: ...


def sealed(data: bytearray, at: int) -> None:
    """Gives the record that stands there the checksum that it should have, if its lengths make sense."""
    if at + HEADER > len(data):
        return
    operations = int.from_bytes(data[at + 32 : at + 36], "little")
    if at + HEADER + operations <= len(data):
        data[at + 4 : at + 8] = crc32c(data[at + 8 : at + HEADER + operations]).to_bytes(4, "little")


def records(chance: Random) -> None:
    operations, payload = chance.randbytes(chance.choice((0, 1, 7, 60))), chance.randbytes(chance.choice((0, 8, 100)))
    lsn = Lsn(chance.randrange(1 << 40) * 8)
    _, head = encode(lsn, Lsn(lsn // 2), VERSION, chance.getrandbits(32), operations, len(payload), payload_sum([payload]))
    data = bytearray(mutated(head, chance))
    if chance.random() < 0.5:
        sealed(data, 0)
    try:
        header, found = decode(memoryview(data), lsn)
    except Damaged:
        assert bytes(data) != head
        return
    assert header.lsn == lsn and len(found) == header.operations
    assert header.address % 8 == 0 and header.end == header.address + aligned(header.length)
    SegmentHeader.decode(mutated(SegmentHeader(1, 2, 3, SEGMENT).encode(), chance))


@cache
def log(variant: int) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """A log of two segments, and where its records begin."""
    chance = Random(variant)
    content, starts = [bytearray(SEGMENT), bytearray(SEGMENT)], []
    at, checksum = int(FIRST), 0
    for number in range(chance.choice((1, 5, 20))):
        operations = b"%d" % number * chance.choice((1, 20))
        payload = chance.randbytes(chance.choice((0, 5, 700)))
        size = aligned(HEADER + len(operations)) + aligned(len(payload))
        if at % SEGMENT + size > SEGMENT:
            at = SEGMENT + FIRST
        index, offset = divmod(at, SEGMENT)
        if index > 1 or offset + size > SEGMENT:
            break
        stable = Lsn(at if chance.random() < 0.5 else FIRST)
        checksum, head = encode(Lsn(at), stable, 1 + number // 8, checksum, operations, len(payload), payload_sum([payload]))
        whole = head + payload
        content[index][offset : offset + len(whole)] = whole
        starts.append(at)
        at += size
    return tuple(map(bytes, content)), tuple(starts)


def recoveries(chance: Random) -> None:
    content, starts = log(chance.randrange(50))
    replicas = []
    for _ in range(chance.choice((1, 1, 2))):
        changed = [bytearray(each) for each in content]
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            start = chance.choice(starts)
            index, offset = divmod(start + chance.randrange(80), SEGMENT)
            piece = mutated(bytes(changed[index][offset : offset + 64]), chance)[: SEGMENT - offset]
            changed[index][offset : offset + len(piece)] = piece
            if chance.random() < 0.5:
                sealed(changed[start // SEGMENT], start % SEGMENT)
        replicas.append(MemoryReplica([bytes(each) for each in changed]))
    applied: list[int] = []

    def apply(lsn: Lsn, operations: bytes, address: int) -> None:
        assert operations and (not applied or lsn > applied[-1])
        applied.append(lsn)

    unbroken = chance.random() < 0.5
    try:
        found = recover(replicas, BEGINNING, VERSION, lambda: unbroken, apply)
    except Damaged:
        return
    assert found.records >= len(applied)
    # What recovery leaves behind is a log that it finds whole.
    again = recover(replicas, BEGINNING, VERSION, lambda: False, lambda *record: None)
    assert again.end == found.end and again.repaired == 0


def batches(chance: Random) -> None:
    made = Batch()
    for _ in range(chance.randrange(4)):
        key = b"D" + chance.randbytes(chance.choice((8, 12)))
        chance.choice((
            lambda key=key: made.put(key, chance.randbytes(9)),
            lambda key=key: made.delete(key),
            lambda key=key: made.add(b"C" + key, chance.choice((-1, 5))),
        ))()  # fmt: skip
    whole = made.encode()
    data = mutated(whole, chance)
    try:
        found = decode_batch(data)
    except Damaged:
        assert data != whole
        return
    keyspace = volatile_keyspace({})
    try:
        keyspace.apply(Lsn(4096), data, 5000)
    except Damaged:
        assert data != whole
    assert len(found) <= len(data) // 5


def marks(chance: Random) -> None:
    mark = Mark(Lsn(chance.getrandbits(60)), chance.getrandbits(32), chance.getrandbits(32))
    whole = encode_mark(mark)
    data = mutated(whole, chance)
    try:
        assert decode_mark(data) == mark or data != whole
    except Damaged:
        assert data != whole
    incarnation = Incarnation(chance.randbytes(8), chance.randbytes(chance.choice((0, 36))), chance.random() < 0.5)
    data = mutated(incarnation.encode(), chance)
    try:
        Incarnation.decode(data)
    except Damaged:
        assert data != incarnation.encode()


structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

TARGETS = (
    Target("log-records", records, (record.__name__,)),
    Target("log-recoveries", recoveries, (recovery.__name__, reading.__name__)),
    Target("log-batches", batches, (batch.__name__,)),
    Target("log-marks", marks, (checkpoint.__name__,)),
)
