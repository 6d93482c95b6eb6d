"""GETATTR, SETATTR, ACCESS, FSSTAT, FSINFO, PATHCONF and COMMIT: what is asked of one object (RFC 1813 3.3.1, 3.3.2, 3.3.4, 3.3.18 to 3.3.21)."""

import struct

from gateways.nfs.ask import Ask, Outcome
from gateways.nfs.handles import Place
from gateways.nfs.rights import ALL_RIGHTS, WRITING, granted
from gateways.nfs.rpc import TRANSFER
from gateways.nfs.v3 import layout
from gateways.nfs.v3.layout import NO_WCC
from gateways.nfs.v3.messages import AccessArgs, CommitArgs, FileSystemArgs, GetAttributesArgs, Moment, NewAttributes, SetAttributesArgs, SetTime
from sofs.types import Time, from_unix_ns
from sofs.volume.api import Changes, CheckAccess, Flush, Found, GetAttributes, GetSpace, Reply, Rights, SetAttributes, SpaceReply

OK = bytes(4)
DIRECTORY = 64 << 10
"""The size of answer that is best for READDIR."""
NOW = Time(-1)
"""The volume's way to say "your time"."""

_U32 = struct.Struct(">I")
_SPACE = struct.Struct(">6QI")
_INFO = struct.Struct(">7IQ3I")
_PATHS = struct.Struct(">6I")
LINK, SYMLINK, HOMOGENEOUS, CAN_SET_TIME = 1, 2, 8, 16


def getattr(place: Place, args: GetAttributesArgs) -> Outcome:
    fsid = place.fsid

    def answer(found: Found) -> bytes:
        return OK + layout.attributes(found.attributes, fsid)

    return Ask(place.volume, GetAttributes(place.target), answer)


def setattr(place: Place, args: SetAttributesArgs) -> Outcome:
    """With a guard the file's ctime must be the one given (3.3.2); `NOT_SYNC` otherwise."""
    fsid = place.fsid
    guard = None if args.guard is None else _time(args.guard)

    def answer(found: Found) -> bytes:
        return OK + layout.wcc(found.before, found.attributes, fsid)

    return Ask(place.volume, SetAttributes(place.target, changes(args.attributes), guard), answer)


def changes(new: NewAttributes) -> Changes:
    """A sattr3 in the volume's terms."""
    mode = None if new.mode is None else new.mode & 0o7777
    return Changes(mode, new.uid, new.gid, new.size, accessed=_new_time(new.accessed), modified=_new_time(new.modified))


def _new_time(how: tuple[int, object]) -> Time | None:
    kind, moment = how
    if kind == SetTime.KEEP:
        return None
    if isinstance(moment, Moment):
        return _time(moment)
    return NOW


def _time(moment: Moment) -> Time:
    return from_unix_ns(moment.seconds * 1_000_000_000 + moment.nanoseconds)


def access(place: Place, args: AccessArgs) -> Outcome:
    """ACCESS, 3.3.4."""
    wanted = args.access & ~WRITING if place.read_only else args.access
    fsid = place.fsid

    def answer(rights: Rights) -> bytes:
        return OK + layout.post_op(rights.attributes, fsid) + _U32.pack(granted(rights) & wanted)

    return Ask(place.volume, CheckAccess(place.caller, place.inode, ALL_RIGHTS), answer)


def fsstat(place: Place, args: FileSystemArgs) -> Outcome:
    """Files are limited by space alone, so their number is given as what would fit (4 KiB each)."""

    def answer(space: SpaceReply) -> Ask:
        files = space.free >> 12
        # Where a quota is the tightest limit, all three are the quota's, or clients would find more free than there is.
        sizes = (space.total, space.available, space.available, space.inodes + files, files, files)
        return _with_attributes(place, _SPACE.pack(*sizes, 0))

    return Ask(place.volume, GetSpace(place.caller, place.inode), answer)


def fsinfo(place: Place, args: FileSystemArgs) -> Outcome:
    return _with_attributes(place, INFO)


INFO = _INFO.pack(
    TRANSFER, TRANSFER, 4096, TRANSFER, TRANSFER, 4096, DIRECTORY, (1 << 63) - 1,
    0, 100, LINK | SYMLINK | HOMOGENEOUS | CAN_SET_TIME,
)  # fmt: skip
"""FSINFO3resok behind the attributes; times are kept in steps of 100 ns."""


def pathconf(place: Place, args: FileSystemArgs) -> Outcome:
    return _with_attributes(place, PATHS)


PATHS = _PATHS.pack(65535, 255, True, True, False, True)
"""PATHCONF3resok behind the attributes: names are kept as they are written, and compared exactly."""


def _with_attributes(place: Place, results: bytes) -> Ask:
    """`results` behind the object's attributes."""
    fsid = place.fsid

    def answer(found: Found) -> bytes:
        return OK + layout.post_op(found.attributes, fsid) + results

    return Ask(place.volume, GetAttributes(place.target), answer)


def commit(place: Place, args: CommitArgs) -> Outcome:
    """All of the file is flushed, whatever range is asked for: one log makes everything stable at once."""
    volume = place.volume

    def answer(reply: Reply) -> bytes:
        return OK + NO_WCC + volume.verifier.to_bytes(8)

    return Ask(volume, Flush(place.target), answer)
