"""What listings of either version have in common: their limits, and entries that are remembered as they are sent.

Whoever lists a directory once does it again, and so do others: an entry that is remembered costs 0.3 us, an encoded one ten times that. It is good as long
as the record, the name and the cookie that it was made from are the same.
"""

from collections.abc import Callable, Sequence

from sofs.types import Inode
from sofs.volume.api import Attributes
from sofs.volume.inode import attributes_of

ANSWER_LIMIT = 1 << 20
"""Bytes of the largest answer."""
MOST_ENTRIES = 8192
"""Asked of the volume at once, whatever fits into the client's buffer."""
END, MORE = b"\0\0\0\0\0\0\0\1", bytes(8)
"""What follows the last entry: no further one here; eof or not."""
REMEMBERED = 1 << 14
"""Entries of one form and one export, about half a kilobyte each."""

Listed = tuple[bytes, int, bytes, bytes]
"""An entry: the stored record, cookie and name it was made from, and its bytes."""
Row = tuple[int, bytes, Inode, bytes]
"""As `Scanned` has them."""


def pieces(known: dict[int, Listed], rows: Sequence[Row], encode: Callable[[int, bytes, int, Attributes], bytes]) -> list[bytes]:
    """The entries of these rows; `encode` makes one of inode, name, cookie and attributes that is not in `known` by its inode."""
    if len(known) > REMEMBERED:
        known.clear()
    found: list[bytes] = []
    for cookie, name, inode, record in rows:
        entry = known.get(inode)
        if entry is None or entry[0] != record or entry[1] != cookie or entry[2] != name:
            entry = known[inode] = record, cookie, name, encode(inode, name, cookie, attributes_of(record, inode))
        found.append(entry[3])
    return found
