"""The directory above all exports, which a client gets by mounting `/`.

It is read-only and holds one directory per export that the client may mount. Looking one up gives that export's own handle,
of another file system; so clients cross over as they would at any mount point.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Any

from gateways.exports import Share
from gateways.nfs.ask import Ask, Outcome
from gateways.nfs.auth import Credential
from gateways.nfs.handles import Places
from gateways.nfs.v3 import layout
from gateways.nfs.v3.attributes import EXECUTE, INFO, LOOKUP, OK, PATHS, READ
from gateways.nfs.v3.directories import ANSWER_LIMIT, FIXED, Pieces, dots, listing, plain_piece
from gateways.nfs.v3.messages import AccessArgs, LookupArgs, ReadDirectoryArgs, ReadDirectoryPlusArgs
from gateways.nfs.v3.names import opaque
from sofs.errors import NotFound, ReadOnly
from sofs.types import UNIX_EPOCH, Inode, Kind, Time
from sofs.volume.api import Attributes, Found, GetAttributes, Stateless

__all__ = ["PSEUDO", "Pseudo"]

FSID = 0x736F_6673
"""No volume's."""
SELF = Inode(1)
_SPACE = struct.Struct(">6QI")


class Pseudo:
    """The directory, as one user on one client sees it."""

    def __init__(self, places: Places, who: Credential) -> None:
        self._places = places
        self._who = who
        self.shares = places.visible()

    def attributes(self) -> Attributes:
        """Its times say nothing but whether the list of exports has changed, which is what clients compare."""
        names = "/".join(share.name for share in self.shares)
        time = Time(UNIX_EPOCH + zlib.crc32(names.encode()) % 10_000_000)
        links = 2 + len(self.shares)
        return Attributes(
            SELF, 0, Kind.DIRECTORY, 0o555, links, 0, 0, len(self.shares), 0, time, time, time, time, 0, 0, (0, 0), SELF
        )

    def getattr(self, args: Any) -> Outcome:
        return OK + layout.attributes(self.attributes(), FSID)

    def access(self, args: AccessArgs) -> Outcome:
        return OK + self._post_op() + (args.access & (READ | LOOKUP | EXECUTE)).to_bytes(4)

    def lookup(self, args: LookupArgs) -> Outcome:
        name = args.what.name
        if name in (b".", b".."):
            return OK + opaque(self._places.root_handle) + self._post_op() * 2
        share = next((share for share in self.shares if share.name.encode() == name), None)
        if share is None:
            raise NotFound(repr(name))
        return self._enter(share)

    def _enter(self, share: Share) -> Ask:
        place = self._places.place(share, self._who, share.root)
        own = self._post_op()

        def answer(found: Found) -> bytes:
            handle = place.handle(found.attributes)
            return OK + opaque(handle) + layout.post_op(found.attributes, place.fsid) + own

        return Ask(place.volume, GetAttributes(Stateless(share.root, place.caller)), answer)

    def readdir(self, args: ReadDirectoryArgs) -> Outcome:
        return self._list(args.cookie, args.limit, b"")

    def readdirplus(self, args: ReadDirectoryPlusArgs) -> Outcome:
        """Neither attributes nor handles: they are another file system's."""
        return self._list(args.cookie, args.limit, layout.NO_WCC)

    def _list(self, cookie: int, limit: int, rest: bytes) -> bytes:
        """An export's cookie and file id follow from its number, so they never change."""
        pieces = Pieces(min(limit, ANSWER_LIMIT) - FIXED)
        items = dots(cookie, SELF, SELF)
        items += [
            (share.number + 1, share.name.encode(), share.number + 2)
            for share in self.shares
            if share.number + 2 > cookie
        ]
        complete = all(pieces.add(plain_piece(*item) + rest) for item in items)
        return listing(self.attributes(), FSID, pieces, complete)

    def fsstat(self, args: Any) -> Outcome:
        return OK + self._post_op() + _SPACE.pack(0, 0, 0, len(self.shares) + 1, 0, 0, 0)

    def fsinfo(self, args: Any) -> Outcome:
        return OK + self._post_op() + INFO

    def pathconf(self, args: Any) -> Outcome:
        return OK + self._post_op() + PATHS

    def refuse(self, args: Any) -> Outcome:
        raise ReadOnly("the list of exports can be changed with `sofs share` only")

    def _post_op(self) -> bytes:
        return layout.post_op(self.attributes(), FSID)


PSEUDO: dict[int, Callable[[Pseudo, Any], Outcome]] = {
    1: Pseudo.getattr,
    3: Pseudo.lookup,
    4: Pseudo.access,
    16: Pseudo.readdir,
    17: Pseudo.readdirplus,
    18: Pseudo.fsstat,
    19: Pseudo.fsinfo,
    20: Pseudo.pathconf,
}
"""What the directory answers, by procedure; all else is `Pseudo.refuse`."""

