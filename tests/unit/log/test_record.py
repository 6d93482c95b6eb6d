"""Records as bytes."""

import itertools
import random

import pytest
from crc32c import crc32c

from sofs.errors import Damaged
from sofs.log.record import HEADER, aligned, decode, encode, page_sums, payload_sum
from sofs.log.replica import SegmentHeader
from sofs.types import Lsn

LSN, STABLE = Lsn(0x1000), Lsn(0x0F00)


def record(operations: bytes = b"operations", payload: bytes = b"") -> bytes:
    checksum, data = encode(LSN, STABLE, 7, 0xABCD, operations, len(payload), payload_sum([payload]))
    assert int.from_bytes(data[4:8], "little") == checksum
    return data + payload + bytes(-len(payload) % 8)


def test_a_record_has_the_documented_bytes() -> None:
    data = record(b"op", b"12345678")
    assert data[:4] == b"sRec"
    assert data[8:16] == LSN.to_bytes(8, "little")
    assert data[16:24] == STABLE.to_bytes(8, "little")
    assert data[24:28] == (7).to_bytes(4, "little")
    assert data[28:32] == (0xABCD).to_bytes(4, "little")
    assert data[32:40] == b"\x02\0\0\0\x08\0\0\0"
    assert data[48:] == b"op" + bytes(6) + b"12345678"
    # CRC32C of "12345678" by the tables of RFC 3720; the payload's sum is that of the sums of its pages.
    assert page_sums([b"12345678"]) == (0x6087809A).to_bytes(4, "little")
    assert data[40:44] == crc32c(page_sums([b"12345678"])).to_bytes(4, "little")


def test_page_sums_do_not_depend_on_how_the_payload_is_cut() -> None:
    payload = random.Random(4).randbytes(3 * 4096 + 100)
    pages = [payload[at : at + 4096] for at in range(0, len(payload), 4096)]
    expected = b"".join(crc32c(page).to_bytes(4, "little") for page in pages)
    for cuts in ((), (4096,), (1, 4095, 4097), (5000, 12_288), (12_388,)):
        bounds = (0, *cuts, len(payload))
        assert page_sums([payload[a:b] for a, b in itertools.pairwise(bounds)]) == expected
    assert payload_sum([]) == 0


def test_a_record_comes_back() -> None:
    header, operations = decode(memoryview(record(b"operations", b"payload")), LSN)
    assert operations == b"operations"
    assert (header.lsn, header.stable, header.version, header.previous) == (LSN, STABLE, 7, 0xABCD)
    assert header.address == LSN + 64 and header.end == LSN + 72


def test_every_prefix_is_damage() -> None:
    data = record()
    for length in range(HEADER + len(b"operations")):
        with pytest.raises(Damaged):
            decode(memoryview(data)[:length], LSN)


def test_every_flipped_bit_of_header_and_operations_is_damage() -> None:
    data = record()
    for at in range(HEADER + len(b"operations")):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with pytest.raises(Damaged):
                decode(memoryview(flipped), LSN)


def test_a_record_at_another_position_is_none() -> None:
    with pytest.raises(Damaged):
        decode(memoryview(record()), LSN + 8)


def test_random_bytes_never_do_anything_but_raise() -> None:
    chance = random.Random(3)
    for _ in range(5000):
        data = bytearray(record())
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data = data[: chance.randrange(len(data) + 1)]
        try:
            decode(memoryview(data), LSN)
        except Damaged:
            pass
        else:
            # Only the padding may differ.
            assert bytes(data[: HEADER + 10]) == record()[: HEADER + 10]


@pytest.mark.parametrize(("length", "padded"), [(0, 0), (1, 8), (8, 8), (9, 16)])
def test_records_are_padded_to_eight_bytes(length: int, padded: int) -> None:
    assert aligned(length) == padded
    assert len(record(bytes(length))) == HEADER + padded


def test_a_segments_header_comes_back_or_is_none() -> None:
    header = SegmentHeader(1, 2, 3, 1 << 20)
    data = header.encode()
    assert SegmentHeader.decode(data) == header
    for length in range(len(data)):
        assert SegmentHeader.decode(data[:length]) is None
    for at in range(len(data)):
        assert SegmentHeader.decode(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]) is None
