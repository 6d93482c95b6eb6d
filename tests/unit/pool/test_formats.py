"""What the disks' formats say, and that no bytes at all make a decoder do anything but decode or refuse."""

from collections.abc import Callable

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from sofs.errors import Damaged, DiskRefused
from sofs.pool.extent import ExtentId, slots_for
from sofs.pool.fragment import BLOCK, META_PER_SLOT, Header, checksum, decode_meta, decode_names, encode_meta, meta_length
from sofs.pool.label import LABEL_SIZE, Label, decode_label, encode_label
from sofs.pool.revocations import Revocations
from sofs.pool.scheme import SIMPLE, Scheme, mirror
from sofs.pool.table import ENTRY_SIZE, Entry, SlotTable, decode_entry, encode_entry, free_entry, seed_of
from sofs.types import PAGE, DiskId, VolumeId

DISK = DiskId(0x5D1F0C4B9A6E2377)
SEED = seed_of(DISK)
LABEL = Label(DISK, "default", "ssd", "node1", 236, 1016)
GOLDEN_LABEL = b"""sofs disk, format 1
id 5d1f0c4b9a6e2377
pool default
tier ssd
host node1
arenas 236
arena-slots 1016
crc32c """

numbers = st.integers(0, (1 << 39) - 1)
volumes = st.integers(0, (1 << 63) - 1).map(VolumeId)
ids = st.builds(ExtentId, volumes, numbers)
schemes = st.sampled_from([SIMPLE, mirror(2), mirror(3)])


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    scheme: Scheme = draw(schemes)
    pages = draw(st.integers(1, 2048))
    return Entry(draw(ids), scheme, draw(st.integers(0, scheme.width - 1)), pages, slots_for(pages * PAGE))


# The label


def test_a_label_is_text_that_an_operator_can_read() -> None:
    encoded = encode_label(LABEL)
    assert encoded == GOLDEN_LABEL + b"%08x\n" % crc32c(GOLDEN_LABEL[: -len(b"crc32c ")])
    assert decode_label(encoded, "label") == LABEL
    assert decode_label(encoded.ljust(LABEL_SIZE, b"\0"), "a device's first block") == LABEL


def test_every_prefix_of_a_label_and_every_changed_byte_is_refused() -> None:
    encoded = encode_label(LABEL)
    for length in range(len(encoded)):
        with pytest.raises(DiskRefused):
            decode_label(encoded[:length], "label")
    for at in range(len(encoded)):
        for change in (1, 0x20, 0x80):
            with pytest.raises(DiskRefused):
                decode_label(encoded[:at] + bytes([encoded[at] ^ change]) + encoded[at + 1 :], "label")


def test_refusals_of_a_label_name_the_remedy() -> None:
    with pytest.raises(DiskRefused, match=r"x/label is not the label of a sofs disk.*--force"):
        decode_label(b"something else", "x/label")
    with pytest.raises(DiskRefused, match="has format 2, this program reads format 1"):
        decode_label(b"sofs disk, format 2\nwhatever", "x/label")
    with pytest.raises(DiskRefused, match="damaged or was edited"):
        decode_label(encode_label(LABEL).replace(b"default", b"another"), "x/label")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "-x", "x" * 129, "ä"])
def test_a_label_takes_no_name_that_it_could_not_give_back(name: str) -> None:
    with pytest.raises(DiskRefused, match="cannot be a pool's name"):
        encode_label(LABEL._replace(pool=name))


def test_a_sealed_label_with_a_name_that_we_would_not_write_is_refused() -> None:
    for name in (b"a\x01b", b"-x", b"x" * 129):
        body = encode_label(LABEL).replace(b"default", name).rpartition(b"crc32c ")[0]
        with pytest.raises(DiskRefused, match="damaged or was edited"):
            decode_label(body + b"crc32c %08x\n" % crc32c(body), "label")


@given(st.binary(max_size=LABEL_SIZE))
def test_any_bytes_are_a_label_or_refused(data: bytes) -> None:
    with pytest.raises(DiskRefused):
        decode_label(data, "label")


# The slot table


@given(st.integers(0, 1 << 30), entries())
def test_an_entry_reads_back_at_its_own_slot_of_its_own_disk_only(slot: int, entry: Entry) -> None:
    data = encode_entry(slot, entry, SEED)
    assert len(data) == ENTRY_SIZE
    assert decode_entry(data, slot, SEED) == entry
    assert isinstance(decode_entry(data, slot + 1, SEED), str)
    assert isinstance(decode_entry(data, slot, seed_of(DiskId(DISK + 1))), str)


@given(st.integers(0, 1 << 20), entries(), st.integers(0, ENTRY_SIZE * 8 - 1))
def test_an_entry_with_a_flipped_bit_is_neither_used_nor_free(slot: int, entry: Entry, bit: int) -> None:
    for data in (encode_entry(slot, entry, SEED), free_entry(SEED)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        assert isinstance(decode_entry(bytes(bad), slot, SEED), str)


def test_zeros_are_no_entry() -> None:
    assert decode_entry(bytes(ENTRY_SIZE), 0, SEED) == "wrong checksum"
    assert decode_entry(free_entry(SEED), 0, SEED) is None


@given(st.binary(max_size=40), st.integers(0, 100))
def test_any_bytes_are_an_entry_or_not(data: bytes, slot: int) -> None:
    assert isinstance(decode_entry(data, slot, SEED), str)
    # With a right checksum the contents are looked at, too.
    head = data[:28].ljust(28, b"\0")
    entry = decode_entry(head + crc32c(head, SEED).to_bytes(4, "little"), slot, SEED)
    if isinstance(entry, Entry):
        assert entry.pages and entry.slots and entry.part < entry.scheme.width


def test_a_sealed_free_entry_that_says_more_is_no_entry() -> None:
    head = b"\xf0" + b"\1" * 27
    assert decode_entry(head + crc32c(head, SEED).to_bytes(4, "little"), 3, SEED) == "impossible contents"


def test_a_scan_gives_what_is_not_free_and_nothing_else() -> None:
    image = bytearray(SlotTable.blank(DISK, 1000))
    table = SlotTable(DISK, image)
    entry = Entry(ExtentId(VolumeId(1), 7), SIMPLE, 0, 256, 1)
    for slot in (0, 127, 128, 640, 999):
        at, data = table.put(slot, entry)
        assert image[at : at + ENTRY_SIZE] == data
    image[500 * ENTRY_SIZE] ^= 1
    table.put(127, None)
    found = dict(table.scan(0, 1000))
    assert sorted(found) == [0, 128, 500, 640, 999]
    assert found.pop(500) == "wrong checksum"
    assert set(found.values()) == {entry}
    assert [slot for slot, _ in table.scan(128, 640)] == [128, 500]
    assert table.get(1000) is None and table.get(-1) is None


# Fragments


def header_for(pages: int, **changes: object) -> Header:
    header = Header(DISK, 12, slots_for(pages * PAGE), ExtentId(VolumeId(9), 77), 1, mirror(2), pages, pages)
    return header._replace(**changes)


pieces = st.lists(st.integers(1, 3 * PAGE), min_size=1, max_size=40)


@given(pieces, st.randoms(use_true_random=False))
def test_checksums_do_not_depend_on_how_the_data_is_cut(cuts: list[int], random: object) -> None:
    length = sum(cuts) // PAGE * PAGE + PAGE
    data = (bytes(range(251)) * (length // 251 + 1))[:length]
    parts, at = [], 0
    for cut in cuts:
        parts.append(memoryview(data)[at : at + cut])
        at += cut
    parts.append(memoryview(data)[at:])
    sums = checksum(parts)
    assert list(sums.pages) == [crc32c(data[place : place + PAGE]) for place in range(0, length, PAGE)]
    assert list(sums.blocks) == [crc32c(data[place : place + BLOCK]) for place in range(0, length, BLOCK)]


@given(st.integers(1, 40), st.data())
def test_bad_pages_are_found_wherever_a_read_begins_and_ends(pages: int, data: st.DataObject) -> None:
    content = bytearray(bytes(range(256)) * (PAGE // 256 * pages))
    sums = checksum([content])
    start = data.draw(st.integers(0, pages - 1))
    stop = data.draw(st.integers(start + 1, pages))
    bad = data.draw(st.sets(st.integers(start, stop - 1), max_size=3))
    for page in bad:
        content[page * PAGE + data.draw(st.integers(0, PAGE - 1))] ^= 1
    assert sums.bad_pages(start, memoryview(content)[start * PAGE : stop * PAGE]) == sorted(bad)


@pytest.mark.parametrize("pages", [1, 16, 17, 256, 257, 2048])
@pytest.mark.parametrize("names", [b"", b"names" * 1000])
def test_a_header_carries_its_checksums_and_names(pages: int, names: bytes) -> None:
    sums = checksum([bytes([page % 251]) * PAGE for page in range(pages)])
    meta = encode_meta(header_for(pages), sums, names)
    assert len(meta) == slots_for(pages * PAGE) * META_PER_SLOT
    assert decode_meta(meta) == (header_for(pages), sums)
    assert decode_meta(meta[: meta_length(pages)]) == (header_for(pages), sums)
    assert decode_names(meta, pages) == names


def test_the_header_of_a_full_slot_has_room_for_the_names_that_are_promised() -> None:
    assert meta_length(256) + 6 * 1024 <= META_PER_SLOT
    assert meta_length(2048) + 8 * 6 * 1024 <= 8 * META_PER_SLOT


def test_every_prefix_of_a_header_and_every_changed_byte_is_damage() -> None:
    meta = encode_meta(header_for(20), checksum([bytes(PAGE)] * 20), b"some names")
    end = meta_length(20)
    for length in range(end):
        with pytest.raises(Damaged):
            decode_meta(meta[:length])
    for at in range(end):
        bad = bytearray(meta)
        bad[at] ^= 0x41
        with pytest.raises(Damaged):
            decode_meta(bad)
    for at in range(end, end + len(b"some names")):
        bad = bytearray(meta)
        bad[at] ^= 0x41
        decode_meta(bad)
        with pytest.raises(Damaged):
            decode_names(bad, 20)


def seal(meta: bytearray, own_pages: int) -> bytes:
    """Gives a header a right checksum, so that what it says is looked at."""
    end = meta_length(own_pages)
    meta[60:64] = crc32c(bytes(meta[64:end]), crc32c(bytes(meta[:60]))).to_bytes(4, "little")
    return bytes(meta)


@pytest.mark.parametrize(
    "change",
    [lambda m: m.__setitem__(44, 2), lambda m: m.__setitem__(45, 9), lambda m: m.__setitem__(10, 7), lambda m: m.__setitem__(48, 1)],
    ids=["part beyond the scheme", "unknown redundancy", "more slots than pages need", "fewer pages than its own"],
)  # fmt: skip
def test_a_sealed_header_with_impossible_contents_is_damage(change: Callable[[bytearray], None]) -> None:
    meta = bytearray(encode_meta(header_for(20), checksum([bytes(PAGE)] * 20), b""))
    change(meta)
    with pytest.raises(Damaged, match="impossible contents"):
        decode_meta(seal(meta, 20))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_header_or_damage(data: bytes, with_magic: bool) -> None:
    with pytest.raises(Damaged):
        decode_meta(b"SOFSFRAG\1\0" + data if with_magic else data)


# Revoked ids

ranges = st.lists(st.tuples(st.integers(1, 3).map(VolumeId), st.integers(0, 60), st.integers(0, 20)), max_size=12)


@given(ranges, ranges)
def test_revoked_ids_are_a_set_however_they_were_added(first: list[tuple[VolumeId, int, int]], second: list[tuple[VolumeId, int, int]]) -> None:
    revoked, other = Revocations(), Revocations()
    model: set[tuple[int, int]] = set()
    for target, additions in ((revoked, first), (other, second)):
        for volume, start, length in additions:
            before = list(target)
            assert target.add(volume, range(start, start + length)) == (list(target) != before)
            model |= {(volume, number) for number in range(start, start + length)}
    alone = list(revoked)
    assert revoked.merge(other) == (list(revoked) != alone)
    assert not revoked.merge(other)
    assert {(v, n) for v in range(1, 4) for n in range(90) if revoked.covers(VolumeId(v), n)} == model
    assert len(list(revoked)) <= len(first) + len(second)
    assert Revocations.decode(revoked.encode(SEED), SEED) == revoked


def test_neighbouring_ranges_melt_into_one() -> None:
    revoked = Revocations()
    for start in range(0, 10_000, 100):
        revoked.add(VolumeId(1), range(start, start + 100))
    assert list(revoked) == [(1, 0, 10_000)]


def test_every_prefix_and_every_changed_byte_of_the_list_is_damage() -> None:
    revoked = Revocations()
    revoked.add(VolumeId(1), range(5, 9))
    revoked.add(VolumeId(2), range(5, 9))
    data = revoked.encode(SEED)
    for length in range(len(data)):
        with pytest.raises(Damaged):
            Revocations.decode(data[:length], SEED)
    for at in range(len(data)):
        with pytest.raises(Damaged):
            Revocations.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], SEED)
    with pytest.raises(Damaged):
        Revocations.decode(data, SEED + 1)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_list_or_damage(data: bytes, with_magic: bool) -> None:
    with pytest.raises(Damaged):
        Revocations.decode(b"SOFSREVK" + data if with_magic else data, SEED)
