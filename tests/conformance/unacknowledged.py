"""A node to some of whose connections no acknowledgement ever comes: `unacknowledged.py .../sofs ARGUMENTS` runs `sofs ARGUMENTS` so,
and `.../sofsd` that.

smbtorture wants to see what a server does whose breaks go into the void. It would drop packets by iptables, as root; or it asks the server itself, by
FSCTL_SMBTORTURE_FORCE_UNACKED_TIMEOUT, to act as if a connection were cut that way. A real node ends such a connection when the kernel has waited long
enough (TCP_USER_TIMEOUT, `gateways.smb.gateway`). Here the kernel's part is played: a second after a break has been sent on it, the connection ends.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from gateways.smb import dispatch
from gateways.smb.connection import Connection
from gateways.smb.crypto import Sealer
from gateways.smb.exchange import Exchange
from gateways.smb.handle import Session
from gateways.smb.header import ANY_FILE, PLAIN, Command
from sofs import cli, service

FORCE_UNACKNOWLEDGED = 0x83848003
PATIENCE_S = 1.0
_CUT: set[Connection] = set()
_received, _notify = Connection.received, Connection.notify


def _cut(exchange: Exchange) -> bytes:
    _CUT.add(exchange.connection)
    return struct.pack("<HHIQQIIIIII", 49, 0, FORCE_UNACKNOWLEDGED, ANY_FILE, ANY_FILE, 112, 0, 112, 0, 0, 0)


_CONTROL = dispatch.RULES[Command.IOCTL]
_ASKED = _CONTROL._replace(handler=_cut, session=False, tree=False)


def received(self: Connection, header: int, message: memoryview) -> None:
    asked = len(message) >= 72 and message[:4] == PLAIN and struct.unpack_from("<H", message, 12) == (Command.IOCTL,)
    if asked and struct.unpack_from("<I", message, 68) == (FORCE_UNACKNOWLEDGED,):
        dispatch.RULES[Command.IOCTL] = _ASKED  # smbtorture asks without a session
    try:
        _received(self, header, message)
    finally:
        dispatch.RULES[Command.IOCTL] = _CONTROL


def notify(self: Connection, body: bytes, session: Session | None, sealer: Sealer | None) -> None:
    _notify(self, body, session, sealer)
    if self in _CUT:
        _CUT.discard(self)
        self.service.clock.call_later(PATIENCE_S, lambda: self.link.close("nothing was acknowledged"))


if __name__ == "__main__":
    Connection.received, Connection.notify = received, notify  # type: ignore[method-assign]
    sys.path.pop(0)  # this directory: what is imported later is not meant to be found here
    del sys.argv[0]
    main = service.main if Path(sys.argv[0]).name == "sofsd" else cli.main
    main()
