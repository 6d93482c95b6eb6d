"""What coordinators and followers say to each other, as bytes."""

import random

import msgspec
import pytest

from sofs.encoding import encode
from sofs.errors import Damaged, PeerError
from sofs.log.configuration import Mark
from sofs.log.messages import Ack, Append, Ask, Read, Result, Rewrite, Status, Sync, decode_ack, decode_message, decode_status
from sofs.log.reading import parse
from sofs.types import Lsn
from tests.unit.log.test_follower import SEGMENT, Author

MARK = Mark(Lsn(1 << 40), 1 << 31, 7)
MESSAGES = [
    Append(1 << 62, 5, MARK, Lsn(9), Lsn(10), Lsn(4096), True),
    Sync(3, 5, Lsn(1 << 41)),
    Ask(3),
    Read(3, 1 << 41, 4096),
    Rewrite(3, 5, 1 << 41),
]
ANSWERS = [Ack(Result.DONE, 5, Lsn(1), Lsn(2), Lsn(3)), Ack(Result.ELSEWHERE, 5, Lsn(1), Lsn(2), Lsn(3), MARK, MARK)]
STATUS = Status(5, Lsn(4096), MARK, MARK, Lsn(7), True, False)


def test_messages_and_answers_come_back() -> None:
    for message in MESSAGES:
        assert decode_message(memoryview(encode(message))) == message
    for answer in ANSWERS:
        assert decode_ack(encode(answer)) == answer
    assert decode_status(encode(STATUS)) == STATUS


def test_every_prefix_is_a_peers_error() -> None:
    for message in MESSAGES:
        data = encode(message)
        for length in range(len(data)):
            with pytest.raises(PeerError):
                decode_message(data[:length])
    for length in range(len(encode(STATUS))):
        with pytest.raises(PeerError):
            decode_status(encode(STATUS)[:length])


def test_random_changes_give_a_message_or_a_peers_error() -> None:
    chance = random.Random(7)
    for _ in range(4000):
        data = bytearray(encode(chance.choice([*MESSAGES, *ANSWERS, STATUS])))
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for decode in (decode_message, decode_ack, decode_status):
            try:
                decode(bytes(data))
            except PeerError:
                pass


def test_whatever_is_no_message_is_a_peers_error() -> None:
    values: list[object] = [None, 1, [], {}, [9, 1], [0, 1], ["0", 1], [0, -1, "x", [], 0, 0, 0], b"\xff"]
    for value in values:
        with pytest.raises(PeerError):
            decode_message(msgspec.msgpack.encode(value))


def test_records_that_were_changed_at_random_are_damaged_or_the_same() -> None:
    chance = random.Random(8)
    after, pristine = Author().write(*(b"operations %d" % number for number in range(8)), payload=b"payload!" * 20)
    expected = parse(memoryview(pristine), after, SEGMENT)
    assert len(expected) == 8
    same = 0
    for _ in range(3000):
        data = bytearray(pristine)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data = data[: chance.randrange(len(data) + 1)] if chance.random() < 0.3 else data
        try:
            found = parse(memoryview(data), after, SEGMENT)
        except Damaged:
            continue
        # Only padding may differ, or the cut was between two records.
        assert [record[:2] for record in found] == [record[:2] for record in expected[: len(found)]]
        same += 1
    assert same < 400
