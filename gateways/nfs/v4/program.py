"""Program 100003 version 4: takes COMPOUNDs off the wire (RFC 8881 16.1, 16.2)."""

import struct
from collections.abc import Callable

from gateways.nfs.handles import Places
from gateways.nfs.rpc import Call, Version
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.groups import Groups
from gateways.nfs.v4.service import Service
from gateways.nfs.v4.status import Status
from gateways.nfs.xdr import XdrError, pad

TAG_LIMIT = 1024
MINORS = (1, 2)
_U32 = struct.Struct(">I")
_TWO = struct.Struct(">2I")


class Nfs4:
    """The program, as one connection is served by it."""

    def __init__(self, groups: Groups, places: Places) -> None:
        self._groups = groups
        self._places = places

    def version(self) -> Version:
        """What the RPC layer dispatches to."""
        procedures: dict[int, Callable[[Call], None]] = {0: null, 1: self.compound}
        return Version(procedures)

    def compound(self, call: Call, service: Service | None = None) -> None:
        """Carries out a COMPOUND, of the group `service` if that is known already. Raises `XdrError` when not even the header can be read; an operation
        that cannot be is BADXDR."""
        data, at = call.data, call.at
        try:
            (length,) = _U32.unpack_from(data, at)
            at += 4
            tag = bytes(data[at : at + length]) if length <= TAG_LIMIT else b""
            at += length + 3 & ~3
            minor, count = _TWO.unpack_from(data, at)
        except struct.error:
            raise XdrError("COMPOUND4args is cut short") from None
        if length > TAG_LIMIT:
            raise XdrError(f"a tag of {length} bytes")
        if minor not in MINORS:
            call.reply(Status.MINOR_VERS_MISMATCH.to_bytes(4) + length.to_bytes(4) + tag + pad(length) + bytes(4))
            return
        service = service or self._groups.only
        if service is not None:
            Compound(service, self._places, call, tag, minor, count, at + 8).proceed()
        else:
            self._groups.route(call, at + 8, lambda found: Compound(found, self._places, call, tag, minor, count, at + 8).proceed())


def null(call: Call) -> None:
    """Procedure 0 of every program: does nothing."""
    call.reply(b"")
