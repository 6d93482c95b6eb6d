"""Records that no copy on this node has intact, fetched from other nodes.

What another copy has is believed where it is known to be this log's: below the stable position all copies are the same; above it the chain of
checksums must lead from the record before the damage to one behind it that is intact here, or to the log's end. A copy that has
something else there (of a coordinator that was deposed, say) cannot pass for this log's in that way.
"""

from collections.abc import Awaitable, Callable, Iterable

from sofs.errors import Damaged, DiskFailed, ExtentGone, NotFound, Unavailable
from sofs.log.configuration import Mark
from sofs.log.reading import next_segment
from sofs.log.record import Header, decode
from sofs.log.stretch import Readable, fetch_record
from sofs.types import Lsn

Fetched = tuple[Lsn, bytearray]
"""A record, and where it belongs."""

_MOST = 1000
"""Records in a row. A damaged page holds some dozens."""


async def fetch_missing(
    others: Iterable[Readable], lsn: Lsn, previous: int | None, segment_size: int, fits: Callable[[Mark], Awaitable[bool]]
) -> list[Fetched]:
    """The records from a position on, or from the beginning of the next segment, up to the first behind which `fits` says that this log goes on.

    `previous` is the checksum of the record before them, where it is known. Empty if nobody has them.
    """
    for other in others:
        found = await _from(other, lsn, previous, segment_size, fits)
        if found:
            return found
    return []


async def _from(other: Readable, lsn: Lsn, previous: int | None, segment_size: int, fits: Callable[[Mark], Awaitable[bool]]) -> list[Fetched]:
    found: list[Fetched] = []
    while len(found) < _MOST:
        got = await _one(other, lsn, previous, segment_size)
        if got is None:
            break
        header, data = got
        found.append((header.lsn, data))
        if await fits(Mark(header.end, header.checksum, header.version)):
            return found
        lsn, previous = header.end, header.checksum
    return []


async def _one(other: Readable, lsn: Lsn, previous: int | None, segment_size: int) -> tuple[Header, bytearray] | None:
    for at in (lsn, Lsn(next_segment(lsn, segment_size))):
        try:
            data = await fetch_record(other, at, segment_size)
            header, _ = decode(memoryview(data), at)
        except (Damaged, ExtentGone, Unavailable, NotFound, DiskFailed):
            continue
        if previous is None or header.previous == previous:
            return header, data
    return None
