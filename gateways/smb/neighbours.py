"""What the SMB gateway asks of other nodes. A node that is alone has none."""

from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from sofs.volume.api import Binding, Bound, Volume


class Held(Enum):
    """What has become of an open's session at another gateway."""

    IN_USE = 1
    """It is there."""
    FREE = 2
    """The gateway lives, and has no such session any more: what it knew of the open is lost, as when its answer did not come in time."""
    FENCED = 3
    """The gateway was gone, and has been fenced."""


class Neighbours(Protocol):
    """The other nodes' gateways. A session's number begins with 32 bits of the incarnation of the gateway that has it."""

    async def end_session(self, number: int, user: str, volumes: Iterable[Volume], by: Binding) -> None:
        """Ends a session of that user which is another gateway's (MS-SMB2 3.3.5.5.3). If that gateway is gone it is shut out of the volumes instead.
        Does what can be done within a few seconds."""

    async def has(self, bound: Bound, volume: Volume, by: Binding) -> Held:
        """Whether an open still belongs to the session of another gateway that it is bound to. A gateway that is gone is fenced at the volume.
        Raises `SofsError`."""


class Alone:
    """There are no others: whatever has another incarnation was an earlier start of this gateway, and is gone."""

    async def end_session(self, number: int, user: str, volumes: Iterable[Volume], by: Binding) -> None:
        """Nobody has it."""

    async def has(self, bound: Bound, volume: Volume, by: Binding) -> Held:
        return Held.IN_USE
