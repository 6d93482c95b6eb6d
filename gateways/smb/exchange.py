"""One request on its way to its reply."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from gateways.smb.crypto import Sealer, Signer
from gateways.smb.handle import Channel, Handle, Session, Tree
from gateways.smb.header import HEADER_SIZE
from gateways.smb.wire import DecodeError
from sofs.runtime.ports import Timer
from sofs.types import Level, Lsn
from sofs.volume.api import Reply, Request, Volume

if TYPE_CHECKING:
    from gateways.smb.connection import Connection
    from gateways.smb.dispatch import Rule

Answer = bytes | bytearray | memoryview
"""What a handler gives: `bytes` are a body; a `bytearray` or `memoryview` is a whole message with room for the header in front."""

BODY = HEADER_SIZE
_NO_GATE, _COMMITTED = Lsn(0), Level.COMMITTED


class Exchange:
    """A request, what it refers to, and what its reply will say.

    `gate`, `level` and `volume` say what the reply has to wait for; `call` keeps them up to date.
    """

    __slots__ = (
        "async_id", "channel", "charge", "command", "connection", "credits", "flags", "gate", "handle", "level", "message", "message_id",
        "related", "rule", "sealed", "sealer", "sequence", "session", "session_id", "signer", "status", "task", "timer", "tree", "tree_id",
        "volume",
    )  # fmt: skip

    connection: Connection
    rule: Rule
    session: Session
    channel: Channel
    """Only of a SESSION_SETUP."""
    tree: Tree
    handle: Handle
    command: int
    flags: int
    charge: int
    credits: int
    """Asked for; 0 once they have been granted."""
    message_id: int
    sequence: int
    """ChannelSequence, in dialect 3; its high half is reserved."""
    session_id: int
    tree_id: int

    def __init__(self, connection: Connection, message: memoryview, sealed: Session | None) -> None:
        self.connection = connection
        self.message = message
        """The whole request, header first: offsets on the wire count from there."""
        self.sealed = sealed
        """The session under whose keys it came encrypted."""
        self.sealer: Sealer | None = None if sealed is None else sealed.sealer
        """Encrypts the reply; then it is not signed."""
        self.signer: Signer | None = None
        """Signs the reply."""
        self.status: int = 0
        self.gate = _NO_GATE
        self.level = _COMMITTED
        self.volume: Volume | None = None
        self.async_id = 0
        self.task: asyncio.Task[Any] | None = None
        """Set while its handler waits."""
        self.timer: Timer | None = None
        """Tells the client that it will take longer."""
        self.related: Exchange | None = None
        """The request before in a related compound."""

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The fixed part of the body. Raises `DecodeError`."""
        try:
            return layout.unpack_from(self.message, HEADER_SIZE)
        except struct.error:
            raise DecodeError(f"{self.rule.name} of {len(self.message)} bytes is too short") from None

    def wait_for(self, volume: Volume, gate: Lsn) -> None:
        """The reply is not to be told before `gate` is open."""
        self.volume = volume
        if gate > self.gate:
            self.gate = gate

    def stable(self) -> None:
        self.level = Level.STABLE

    async def call(self, request: Request, volume: Volume | None = None) -> Any:
        """The answer to `request` of the volume, the open's unless another is given; the reply will wait for it. Raises `SofsError`."""
        if volume is None:
            volume = self.handle.volume
        reply: Reply | Awaitable[Reply] = volume.call(request, None, self.session.binding)
        if not isinstance(reply, Reply):
            reply = await reply
        self.volume = volume
        if reply.gate > self.gate:
            self.gate = reply.gate
        return reply
