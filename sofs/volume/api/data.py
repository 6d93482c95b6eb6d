"""Requests about data and space. Reads and writes have methods of their own (`sofs.volume.api.interface`)."""

from sofs.types import Inode
from sofs.volume.api.values import Caller, Reply, Request, Target


class Flush(Request):
    """All data and attributes of the file, when the reply's gate is STABLE."""

    target: Target


class Allocate(Request):
    """Reserves space; `extend` moves the end of the file (RFC 7862 15.1), otherwise not (FILE_ALLOCATION_INFORMATION)."""

    target: Target
    offset: int
    length: int
    extend: bool = False


class Punch(Request):
    """Zeros a range, and gives its space back when `deallocate` (FSCTL_SET_ZERO_DATA on a sparse file, RFC 7862 15.4)."""

    target: Target
    offset: int
    length: int
    deallocate: bool = True


class Ranges(Request):
    """Parts of the range that hold data (FSCTL_QUERY_ALLOCATED_RANGES, SEEK). Answers `RangeList`, at most `limit`; `end` there says that these are all."""

    target: Target
    offset: int
    length: int
    limit: int = 4096


class RangeList(Reply):
    ranges: list[tuple[int, int]]
    end: bool
    size: int


class Clone(Request):
    """Makes the target's range share the source's data (FSCTL_DUPLICATE_EXTENTS_TO_FILE, RFC 7862 15.13): instantly, page-aligned
    except at the source's end.
    """

    source: Target
    source_offset: int
    target: Target
    offset: int
    length: int


class Copy(Request):
    """Copies a range at the server (copychunk, RFC 7862 15.2), sharing what can be shared. Answers `Copied`."""

    source: Target
    source_offset: int
    target: Target
    offset: int
    length: int


class Copied(Reply):
    length: int


class GetSpace(Request):
    """How much room there is, for this caller in this directory (or where this file is); None: anywhere. Answers `SpaceReply`."""

    caller: Caller
    at: Inode | None = None


class SpaceReply(Reply):
    total: int
    """Bytes; no more than the tightest quota that binds the caller there (MS-FSCC 2.5.4 TotalAllocationUnits)."""
    free: int
    """Of the volume."""
    inodes: int
    """In use."""
    available: int = 0
    """What the caller may still take there: never more than `free`."""
