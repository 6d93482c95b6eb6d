"""A disk's label: who it is, said in a small text file that an operator can read.

    sofs disk, format 1
    id 5d1f0c4b9a6e2377
    pool default
    tier ssd
    host node1
    arenas 236
    arena-slots 1016
    crc32c 83c2a9f0

The label is the file `label` in the disk's directory (or the first block of a device, padded with zeros). It is written
last when a disk is made, to another name that is synced and then renamed, so a disk with a label is
complete, and a label is never torn. Only `sofs disk add` writes it. The checksum covers every byte before its own line, so a
label that was edited by hand is refused: whoever moves a disk to another pool by an editor would lose data.

`id` is random, and part of every table entry's and every fragment's checksum: what another disk wrote is never taken for
this disk's. `arenas` times `arena-slots` is the length of the slot table and the most that the disk will ever hold.
"""

import re
from typing import NamedTuple

from crc32c import crc32c

from sofs.errors import DiskRefused
from sofs.types import DiskId

FORMAT = 1
LABEL_SIZE = 4096
"""No label is longer: it fits into a device's first block."""

_FIRST_LINE = re.compile(r"sofs disk, format ([0-9]{1,9})\n")
_NAME = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
_LINES = re.compile(
    rf"sofs disk, format {FORMAT}\nid (?P<id>[0-9a-f]{{16}})\npool (?P<pool>{_NAME})\ntier (?P<tier>ssd|hdd)\nhost (?P<host>{_NAME})\n"
    r"arenas (?P<arenas>[1-9][0-9]{0,8})\narena-slots (?P<slots>[1-9][0-9]{0,5})\ncrc32c (?P<crc>[0-9a-f]{8})\n"
)


class Label(NamedTuple):
    """What a label says."""

    id: DiskId
    pool: str
    tier: str
    host: str
    """The fault domain: all disks of a host may go at once."""
    arenas: int
    arena_slots: int

    @property
    def slots(self) -> int:
        return self.arenas * self.arena_slots


def encode_label(label: Label) -> bytes:
    """The label's text. Its names must be valid: see `check_name`."""
    check_name("pool", label.pool)
    check_name("host", label.host)
    text = (
        f"sofs disk, format {FORMAT}\nid {label.id:016x}\npool {label.pool}\ntier {label.tier}\nhost {label.host}\n"
        f"arenas {label.arenas}\narena-slots {label.arena_slots}\n"
    )
    encoded = text.encode() + b"crc32c %08x\n" % crc32c(text.encode())
    assert decode_label(encoded, "a new label") == label, f"a label that cannot be read back: {label}"
    return encoded


def check_name(what: str, name: str) -> None:
    """Raises `DiskRefused` for a pool's or host's name that a label cannot hold."""
    if re.fullmatch(_NAME, name) is None:
        raise DiskRefused(f"{name!r} cannot be a {what}'s name: letters, digits and . _ : - only, at most 128")


def decode_label(data: bytes, where: str) -> Label:
    """Reads a label; `where` names it in errors. Raises `DiskRefused` with what is wrong and the remedy."""
    text = data.rstrip(b"\0").decode("ascii", errors="replace")
    first = _FIRST_LINE.match(text)
    if first is None:
        raise DiskRefused(f"{where} is not the label of a sofs disk; give an empty directory, or --force to overwrite")
    if int(first[1]) != FORMAT:
        raise DiskRefused(f"{where} has format {first[1]}, this program reads format {FORMAT}; run the program that made it")
    found = _LINES.fullmatch(text)
    covered = text.rpartition("crc32c ")[0]
    if found is None or crc32c(covered.encode()) != int(found["crc"], 16) or int(found["id"], 16) >> 63:
        raise DiskRefused(f"{where} is damaged or was edited; restore it, or replace the disk and let the pool copy its data")
    return Label(DiskId(int(found["id"], 16)), found["pool"], found["tier"], found["host"], int(found["arenas"]), int(found["slots"]))
