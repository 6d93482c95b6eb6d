"""Byte-range locks of one file, as a value.

SMB and NFS locks lie in one tuple, sorted by their start, so that a Windows and a Linux client exclude each
other although neither gateway knows of the other. Nothing here waits, sends or reads a clock.

An SMB lock belongs to its open and is released exactly as it was taken (MS-FSA 2.1.5.8). An NFS lock belongs to a lock owner;
ranges of one owner merge and split as in POSIX, the latest request decides (RFC 8881 9.4).
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from sofs.errors import InvalidArgument, LockNotHeld
from sofs.types import OpenId

END = 1 << 64
"""Behind the last byte that a lock can cover."""
TO_END = END - 1
"""NFS's length of a lock up to the end of the file, however long it gets."""


class ByteLock(NamedTuple):
    """A lock on the bytes from `start` up to, not including, `end`."""

    start: int
    end: int
    exclusive: bool
    open: OpenId
    """The open it was taken through, and with which it ends; 0 if there is none (NLM)."""
    owner: bytes = b""
    """The NFS lock owner; empty for an SMB lock, which belongs to its open."""

    @property
    def mandatory(self) -> bool:
        return not self.owner

    def overlaps(self, start: int, end: int) -> bool:
        # An empty range lies between two bytes, and touches another range only when that has bytes on both
        # sides of it. Windows relies on this (MS-FSA 2.1.4.10); NFS never sends one (RFC 8881 18.10.3).
        return self.start < end and start < self.end


Ranges = tuple[ByteLock, ...]


def span(offset: int, length: int, owner: bytes) -> tuple[int, int]:
    """Start and end of what a client asked for. Raises `InvalidArgument` when it does not fit in 64 bits."""
    if owner and length == TO_END:
        return offset, END
    if not 0 <= offset <= TO_END or length < 0 or offset + length > END:
        raise InvalidArgument(f"a lock of {length} bytes at {offset} ends beyond the last possible byte")
    if owner and length == 0:
        raise InvalidArgument("a lock of no bytes")
    return offset, offset + length


def blocker(ranges: Ranges, wanted: ByteLock) -> ByteLock | None:
    """The first lock in the way of `wanted`."""
    for held in _near(ranges, wanted.start, wanted.end):
        if not (held.exclusive or wanted.exclusive) or not held.overlaps(wanted.start, wanted.end):
            continue
        if wanted.owner and held.owner == wanted.owner:
            continue  # it will be replaced
        if not wanted.owner and not held.owner and held.open == wanted.open and held.exclusive and not wanted.exclusive:
            # A shared lock may lie over an exclusive one of the same open; no other overlap of its own is
            # allowed (LockFileEx; smbtorture smb2.lock).
            continue
        return held
    return None


def acquire(ranges: Ranges, wanted: ByteLock) -> Ranges:
    """The ranges with `wanted` among them; nothing may be in its way.

    All that an NFS owner has locked belongs to the open through which it locked last: it is one state (RFC 8881 9.1.2), and ends with that.
    """
    if wanted.owner:
        if any(held.owner == wanted.owner and held.open != wanted.open for held in ranges):
            ranges = tuple(held._replace(open=wanted.open) if held.owner == wanted.owner else held for held in ranges)
        ranges = release_owner(ranges, wanted.owner, wanted.start, wanted.end)
        ranges, wanted = _merge(ranges, wanted)
    return tuple(sorted((*ranges, wanted)))


def release(ranges: Ranges, start: int, end: int, open: OpenId, owner: bytes) -> Ranges:
    """The ranges without an SMB open's lock of exactly these bytes, or without an NFS owner's locks within them.

    Raises `LockNotHeld` for SMB; NFS clients may unlock what they do not hold (RFC 8881 18.12.4).
    """
    if owner:
        return release_owner(ranges, owner, start, end)
    exact = [held for held in ranges if held[:2] == (start, end) and held.open == open and not held.owner]
    if not exact:
        raise LockNotHeld(f"no lock from {start} to {end}")
    # Of two locks on the same bytes the exclusive one goes first (LockFileEx).
    index = ranges.index(max(exact, key=lambda held: held.exclusive))
    return ranges[:index] + ranges[index + 1 :]


def release_owner(ranges: Ranges, owner: bytes, start: int, end: int) -> Ranges:
    """The ranges without those bytes of this owner's locks: what is left of a lock keeps its ends."""
    left: list[ByteLock] = []
    for held in ranges:
        if held.owner != owner or not held.overlaps(start, end):
            left.append(held)
            continue
        if held.start < start:
            left.append(held._replace(end=start))
        if held.end > end:
            left.append(held._replace(start=end))
    return tuple(sorted(left))


def io_blocker(ranges: Ranges, start: int, end: int, write: bool, open: OpenId, mandatory: bool) -> ByteLock | None:
    """The first lock that forbids a read or write of these bytes.

    `mandatory` I/O is SMB's: every lock binds it, its own shared locks included when it writes (MS-FSA 2.1.4.10). NFS I/O is bound by
    SMB locks only.
    """
    for held in _near(ranges, start, end):
        if not (held.exclusive or write) or not held.overlaps(start, end):
            continue
        if not mandatory and held.owner:
            continue
        if mandatory and not held.owner and held.open == open and held.exclusive:
            continue
        return held
    return None


def _near(ranges: Ranges, start: int, end: int) -> Iterator[ByteLock]:
    """Those locks that can touch these bytes, in their order. A file may have thousands, so what cannot is passed over as quickly as Python can."""
    return (held for held in ranges[: bisect_left(ranges, (max(end, start + 1),))] if held[1] >= start)


def _merge(ranges: Ranges, wanted: ByteLock) -> tuple[Ranges, ByteLock]:
    """Joins `wanted` with its owner's locks of the same mode that touch it."""
    left = []
    for held in ranges:
        same = held.owner == wanted.owner and held.exclusive == wanted.exclusive
        if same and (held.end == wanted.start or held.start == wanted.end):
            wanted = wanted._replace(start=min(held.start, wanted.start), end=max(held.end, wanted.end))
        else:
            left.append(held)
    return tuple(left), wanted
