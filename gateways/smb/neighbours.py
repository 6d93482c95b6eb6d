"""What the SMB gateway asks of other nodes. A node that is alone has none."""

from collections.abc import Iterable
from typing import Protocol

from sofs.volume.api import Binding, Volume


class Neighbours(Protocol):
    """The other nodes' gateways. A session's number begins with 32 bits of the incarnation of the gateway that has it."""

    async def end_session(self, number: int, user: str, volumes: Iterable[Volume], by: Binding) -> None:
        """Ends a session of that user which is another gateway's (MS-SMB2 3.3.5.5.3). If that gateway is gone it is shut out of the volumes instead.
        Does what can be done within a few seconds."""

    async def shut_out(self, gateway: int, volume: Volume, by: Binding) -> bool:
        """Fences a gateway incarnation at the volume, if it is gone; false if it lives. Raises `SofsError`."""


class Alone:
    """There are no others: whatever has another incarnation was an earlier start of this gateway, and is gone."""

    async def end_session(self, number: int, user: str, volumes: Iterable[Volume], by: Binding) -> None:
        """Nobody has it."""

    async def shut_out(self, gateway: int, volume: Volume, by: Binding) -> bool:
        return False
