"""What the hot paths write by `struct` directly: attributes, and the replies of READ and WRITE.

`fattr3` is 84 bytes of fixed layout (RFC 1813 2.5.5); with the TRUE before it, a `post_op_attr` is 88.
"""

import struct
from functools import lru_cache

from sofs.types import UNIX_EPOCH, Kind, Time
from sofs.volume.api import Attributes

Before = tuple[int, Time, Time, int] | None
"""(size, modified, changed, change) before a call, as replies of the volume carry it."""

ABSENT = bytes(4)
"""A `post_op_attr` or `pre_op_attr` that is not given."""
NO_WCC = bytes(8)

_POST_OP = struct.Struct(">6I2Q2I2Q6I")
_WCC = struct.Struct(">IQ4I6I2Q2I2Q6I")
_TYPES = {Kind.FILE: 1, Kind.DIRECTORY: 2, Kind.BLOCK_DEVICE: 3, Kind.CHARACTER_DEVICE: 4, Kind.SYMLINK: 5, Kind.SOCKET: 6, Kind.FIFO: 7}
_LATEST = UNIX_EPOCH + (1 << 32) * 10_000_000 - 1

assert _POST_OP.size == 88


@lru_cache(4096)
def moment(time: Time) -> tuple[int, int]:
    """(seconds, nanoseconds) since 1970, held within what nfstime3 can say. Most times are asked for again and again."""
    seconds, ticks = divmod(min(max(time, UNIX_EPOCH), _LATEST) - UNIX_EPOCH, 10_000_000)
    return seconds, ticks * 100


def post_op(of: Attributes | None, fsid: int) -> bytes:
    """A `post_op_attr`: the attributes, or that there are none."""
    if of is None:
        return ABSENT
    return _POST_OP.pack(1, *fields(of, fsid))


def attributes(of: Attributes, fsid: int) -> bytes:
    """A bare `fattr3`."""
    return post_op(of, fsid)[4:]


def wcc(before: Before, after: Attributes | None, fsid: int) -> bytes:
    """A `wcc_data`."""
    if after is None:
        return NO_WCC
    if before is None:
        return ABSENT + post_op(after, fsid)
    size, modified, changed, _ = before
    return _WCC.pack(1, size, *moment(modified), *moment(changed), 1, *fields(after, fsid))


def fields(of: Attributes, fsid: int) -> tuple[int, ...]:
    """The numbers of a fattr3, in order."""
    major, minor = of.device
    accessed, accessed_ns = moment(of.accessed)
    modified, modified_ns = moment(of.modified)
    changed, changed_ns = moment(of.changed)
    return (
        _TYPES[of.kind], of.mode, of.links, of.uid, of.gid, of.size, of.allocated, major, minor, fsid, of.inode,
        accessed, accessed_ns, modified, modified_ns, changed, changed_ns,
    )  # fmt: skip
