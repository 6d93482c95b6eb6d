"""The directory above all exports (`gateways.nfs.above`), which a client gets by mounting `/`."""

import struct
from collections.abc import Callable
from typing import Any

from gateways.exports import Share
from gateways.nfs import above
from gateways.nfs.above import FSID, SELF
from gateways.nfs.ask import Ask, Outcome
from gateways.nfs.auth import Credential
from gateways.nfs.handles import Places
from gateways.nfs.listed import ANSWER_LIMIT
from gateways.nfs.rights import EXECUTE, LOOKUP, READ
from gateways.nfs.v3 import layout
from gateways.nfs.v3.attributes import INFO, OK, PATHS
from gateways.nfs.v3.directories import FIXED, Pieces, dots, listing, plain_piece
from gateways.nfs.v3.messages import AccessArgs, LookupArgs, ReadDirectoryArgs, ReadDirectoryPlusArgs
from gateways.nfs.xdr import opaque
from sofs.errors import ReadOnly
from sofs.volume.api import Attributes, Found, GetAttributes, Stateless

_SPACE = struct.Struct(">6QI")


class Pseudo:
    """The directory, as one user on one client sees it."""

    def __init__(self, places: Places, who: Credential) -> None:
        self._places = places
        self._who = who
        self.shares = places.visible()

    def attributes(self) -> Attributes:
        return above.attributes(self.shares)

    def getattr(self, args: Any) -> Outcome:
        return OK + layout.attributes(self.attributes(), FSID)

    def access(self, args: AccessArgs) -> Outcome:
        return OK + self._post_op() + (args.access & (READ | LOOKUP | EXECUTE)).to_bytes(4)

    def lookup(self, args: LookupArgs) -> Outcome:
        name = args.what.name
        if name in (b".", b".."):
            return OK + opaque(self._places.root_handle) + self._post_op() * 2
        return self._enter(above.named(self.shares, name))

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
        pieces = Pieces(min(limit, ANSWER_LIMIT) - FIXED)
        items = dots(cookie, SELF, SELF)
        items += [(above.file_id(share), share.name.encode(), above.cookie(share)) for share in self.shares if above.cookie(share) > cookie]
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
