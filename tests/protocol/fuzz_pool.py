"""Inputs for what is read from a pool's disks: labels, slot tables, fragment headers, lists of revoked ids.

Half of the damaged inputs get a right checksum again, as a faulty program or a malicious disk would give them one: then
it is the contents that the decoders have to doubt.
"""

from __future__ import annotations

from random import Random

from crc32c import crc32c

from sofs.errors import Damaged, DiskRefused, InvalidArgument, NotSupported
from sofs.pool import label, policy, revocations, scheme, table
from sofs.pool.extent import ExtentId, slots_for
from sofs.pool.fragment import Header, checksum, decode_meta, decode_names, encode_meta, meta_length
from sofs.pool.label import Label, decode_label, encode_label
from sofs.pool.policy import parse_policy
from sofs.pool.revocations import Revocations
from sofs.pool.table import ENTRY_SIZE, Entry, SlotTable, decode_entry, encode_entry, free_entry, seed_of
from sofs.types import PAGE, DiskId, VolumeId
from tests.protocol.fuzz import Target, mutated

DISK = DiskId(0x1234_5678_9ABC_DEF0)
SEED = seed_of(DISK)
SCHEMES = [scheme.SIMPLE, scheme.mirror(2), scheme.mirror(3), scheme.Scheme(scheme.Redundancy.PARITY, 4, 2)]
BLANK = bytes(PAGE)
SUMS = {pages: checksum([BLANK] * pages) for pages in (1, 2, 16, 17, 40)}
WORDS = [
    "simple",
    "mirror(2)",
    "mirror(3)",
    "mirror(9)",
    "parity(4,2)",
    "parity(99,9)",
    "across",
    "disk",
    "host",
    "on",
    "ssd",
    "hdd",
    "(",
    ")",
    "",
    " ",
]


def _name(chance: Random) -> str:
    return chance.choice("azAZ09") + "".join(chance.choice("az09._:-") for _ in range(chance.choice((0, 1, 5, 127))))


def labels(chance: Random) -> None:
    made = Label(
        DiskId(chance.getrandbits(63)), _name(chance), chance.choice(("ssd", "hdd")), _name(chance),
        chance.choice((1, 236, 999_999_999)), chance.choice((1, 1016, 999_999)),
    )  # fmt: skip
    whole = encode_label(made)
    data = mutated(whole, chance)
    if chance.random() < 0.5:
        body = data.rpartition(b"crc32c ")[0]
        data = body + b"crc32c %08x\n" % crc32c(body)
    try:
        read = decode_label(data, "label")
    except DiskRefused:
        assert data != whole
        return
    assert encode_label(read) == data.rstrip(b"\0") and read.slots > 0


def entries(chance: Random) -> None:
    slot = chance.choice((0, 1, 1015, 1 << 20))
    kind = chance.choice(SCHEMES)
    entry = Entry(
        ExtentId(VolumeId(chance.getrandbits(63)), chance.getrandbits(39)), kind, chance.randrange(kind.width),
        chance.choice((1, 256, 2048, 65535)), chance.choice((1, 8, 255)),
    )  # fmt: skip
    whole = chance.choice((encode_entry(slot, entry, SEED), free_entry(SEED)))
    data = mutated(whole, chance)
    if chance.random() < 0.5:
        data = data[:28].ljust(28, b"\0")
        data += crc32c(data, SEED).to_bytes(4, "little")
    read = decode_entry(data, slot, SEED)
    if isinstance(read, Entry):
        assert read.part < read.scheme.width and read.slots > 0 and read.pages > 0
        assert encode_entry(slot, read, SEED) == data
    elif read is None:
        assert data[0] == free_entry(SEED)[0]
    else:
        assert data != whole
    image = bytearray(SlotTable.blank(DISK, 130))
    at = chance.randrange(129) * ENTRY_SIZE
    image[at : at + len(data)] = data
    scanned = list(SlotTable(DISK, image[: 130 * ENTRY_SIZE]).scan(0, 130))
    assert len(scanned) <= len(data) // ENTRY_SIZE + 2


def headers(chance: Random) -> None:
    pages = chance.choice(tuple(SUMS))
    kind = chance.choice(SCHEMES[:3])
    header = Header(
        DISK, chance.getrandbits(20), slots_for(pages * PAGE), ExtentId(VolumeId(chance.getrandbits(63)), chance.getrandbits(39)),
        chance.randrange(kind.width), kind, pages, pages,
    )  # fmt: skip
    names = chance.randbytes(chance.choice((0, 8, 300)))
    whole = encode_meta(header, SUMS[pages], names)
    end = meta_length(pages) + len(names)
    data = bytearray(mutated(whole[:end], chance) + (whole[end:] if chance.random() < 0.8 else b""))
    if chance.random() < 0.5 and len(data) >= 64:
        own_pages = int.from_bytes(data[52:56], "little")
        if own_pages < 5000:
            sealed = crc32c(bytes(data[64 : meta_length(own_pages)]), crc32c(bytes(data[:60])))
            data[60:64] = sealed.to_bytes(4, "little")
    try:
        read, sums = decode_meta(data)
    except Damaged:
        assert data != whole
        return
    assert len(sums.pages) == read.own_pages and read.part < read.scheme.width
    assert len(sums.blocks) == -(-read.own_pages // 16)
    if bytes(data) == whole:
        content = bytearray(BLANK * pages)
        bad = chance.randrange(pages * PAGE)
        content[bad] ^= 1
        assert sums.bad_pages(0, memoryview(content)) == [bad // PAGE]
        cut = chance.randrange(len(content))
        assert checksum([content[:cut], content[cut:]]) == checksum([content])
    try:
        decode_names(data, read.own_pages)
    except Damaged:
        assert data != whole


def revoked(chance: Random) -> None:
    made = Revocations()
    for _ in range(chance.choice((0, 1, 3, 20))):
        start = chance.getrandbits(chance.choice((4, 39)))
        made.add(VolumeId(chance.getrandbits(2)), range(start, start + chance.choice((1, 10, 1000))))
    whole = made.encode(SEED)
    data = mutated(whole, chance)
    if chance.random() < 0.5:
        data = data[:-4] + crc32c(data[:-4], SEED).to_bytes(4, "little")
    try:
        read = Revocations.decode(data, SEED)
    except Damaged:
        assert data != whole
        return
    for volume, start, stop in read:
        assert start < stop and read.covers(volume, start) and not read.covers(volume, stop)
    assert Revocations.decode(read.encode(SEED), SEED) == read


def policies(chance: Random) -> None:
    text = " ".join(chance.choice(WORDS) for _ in range(chance.randrange(7)))
    if chance.random() < 0.3:
        text = mutated(text.encode(), chance).decode("latin-1")
    try:
        read = parse_policy(text)
    except (InvalidArgument, NotSupported):
        return
    assert parse_policy(read.text) == read


TARGETS = (
    Target("pool-labels", labels, (label.__name__,)),
    Target("pool-entries", entries, (table.__name__,)),
    Target("pool-headers", headers, ("sofs.pool.fragment",)),
    Target("pool-revoked", revoked, (revocations.__name__,)),
    Target("pool-policies", policies, (policy.__name__, scheme.__name__)),
)
