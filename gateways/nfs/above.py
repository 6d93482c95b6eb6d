"""The directory above all exports: one directory per export that the client may mount, read-only.

Looking one up gives that export's own handle, of another file system; so clients cross over as they would at any mount point. What the two
versions of the protocol say about it stands with them.
"""

import zlib
from collections.abc import Sequence

from gateways.exports import Share
from sofs.errors import NotFound
from sofs.types import UNIX_EPOCH, Inode, Kind, Time
from sofs.volume.api import Attributes

FSID = 0x736F_6673
"""No volume's."""
SELF = Inode(1)


def attributes(shares: Sequence[Share]) -> Attributes:
    """Its times say nothing but whether the list of exports has changed, which is what clients compare; `change` says the same."""
    token = zlib.crc32("/".join(share.name for share in shares).encode())
    time = Time(UNIX_EPOCH + token % 10_000_000)
    links = 2 + len(shares)
    return Attributes(SELF, 0, Kind.DIRECTORY, 0o555, links, 0, 0, len(shares), 0, time, time, time, time, token, 0, (0, 0), SELF)


def file_id(share: Share) -> int:
    """The number of an export's entry. It follows from the export's, so it never changes."""
    return share.number + 1


def cookie(share: Share) -> int:
    """The place of an export's entry in a listing: 3 and more."""
    return share.number + 2


def named(shares: Sequence[Share], name: bytes) -> Share:
    """Raises `NotFound`."""
    for share in shares:
        if share.name.encode() == name:
            return share
    raise NotFound(repr(name))
