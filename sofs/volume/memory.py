"""Whether a replica still has everything that was ever written to it: the boot note beside it.

What a killed process has written is in the host's page cache; what a host had not synced when it lost power is gone. So a replica's memory is
*unbroken* as long as its host has not been started anew since the replica was last known to be whole, and no write to its disk has
failed. The note, a file `boot` in the replica's directory, says under which boot that was:

    the boot's id, CRC32C of it u32

It is durable before it counts, and only ever written of a replica that has everything which is committed at that moment.
"""

import struct

from crc32c import crc32c

from sofs.runtime.ports import Files
from sofs.runtime.whole import read_whole, replace

BROKEN = b"broken"
"""Stands for no boot at all: the replica's disk has failed to write something."""

INCOMPLETE = b"incomplete"
"""A replica that is being made: what it has may have gaps, so it is thrown away should it not be completed."""

_NAME = "boot"
_SUM = struct.Struct("<I")
_LONGEST = 256


def noted_boot(files: Files, path: str) -> bytes | None:
    """The boot under which the replica at `path` was last known to be whole; None if nothing says so. Raises `DiskFailed`."""
    note = read_whole(files, f"{path}/{_NAME}", _LONGEST)
    if note is None:
        return None
    boot, sum = note[: -_SUM.size], note[-_SUM.size :]
    return boot if boot and sum == _SUM.pack(crc32c(boot)) else BROKEN


def note_whole(files: Files, path: str, boot: bytes) -> None:
    """Records that the replica is whole under this boot (or `BROKEN`), durably. Raises `DiskFailed`, `NoSpace`."""
    if noted_boot(files, path) != boot:
        replace(files, f"{path}/{_NAME}", boot + _SUM.pack(crc32c(boot)))
