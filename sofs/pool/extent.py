"""The words of the pool's interface: an extent's id, where its fragments lie, how much room there is."""

from typing import NamedTuple

from sofs.types import DiskId, VolumeId

MIB = 1 << 20
EXTENT_LIMIT = 8 * MIB
"""Bytes of data in the largest extent."""
NAMES_PER_MIB = 6 * 1024
"""Bytes of names that an extent can carry for each MiB of data begun."""


class ExtentId(NamedTuple):
    """An extent's name for ever: never reused, even after the extent is gone."""

    volume: VolumeId
    number: int
    """Granted by the volume's log in ranges; below 2**39."""


class Fragment(NamedTuple):
    """Where one disk's part of an extent lies."""

    disk: DiskId
    slot: int


class Placement(NamedTuple):
    """Where an extent lies. Recorded in its volume's metadata; stays valid whatever the policy becomes."""

    id: ExtentId
    length: int
    """Bytes of data, a multiple of the page."""
    scheme: str
    """`simple`, `mirror(2)`, `mirror(3)`, later `parity(4,2)`: what the fragments mean, in order."""
    fragments: tuple[Fragment, ...]
    """One for each of the scheme's fragments; fewer when disks were out of service at the time."""


class Copies(NamedTuple):
    """The copies of an extent that lacks some."""

    readable: int
    """On disks that answer, or will: the fewer, the sooner something has to be done."""
    sure: int
    """Those of them on disks that can be relied on, and are to be kept."""


class Usage(NamedTuple):
    """Capacity of a tier or a pool in bytes, as data: after the slots' own overhead, before redundancy."""

    total: int
    free: int


def slots_for(length: int) -> int:
    """Slots that a fragment of `length` bytes takes."""
    return -(-length // MIB)
