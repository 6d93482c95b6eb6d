"""The SMB gateway as a node runs it: the service behind its listeners."""

import asyncio
from collections.abc import Callable

from gateways.exports import Shares
from gateways.identity import Identities
from gateways.server import Server
from gateways.smb.neighbours import Neighbours
from gateways.smb.service import SmbService, SmbSettings
from sofs.runtime.interfaces import host_interfaces
from sofs.runtime.ports import Clock, Random
from sofs.volume.api import Volume

UNACKNOWLEDGED_S = 20.0
"""Less than a client has to answer a break: so a break that went into the void is sent on another channel, or what a dead client caches is given up."""


class SmbGateway:
    """`incarnation` is this start of this gateway: no number is used twice in a cluster's life. `neighbours` are the other nodes' gateways; `on_fenced` is
    called when this one has been shut out of a volume, and can only start anew."""

    def __init__(
        self, settings: SmbSettings, shares: Shares, identities: Identities, clock: Clock, random: Random, incarnation: int,
        loop: asyncio.AbstractEventLoop, neighbours: Neighbours | None = None, on_fenced: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.service = SmbService(settings, shares, identities, clock, random, incarnation, neighbours, on_fenced)
        self.server = Server("smb", loop, self.service.accept, clock=clock)
        self.server.unacknowledged_s = UNACKNOWLEDGED_S
        self.service.interfaces = host_interfaces
        self.service.listening = lambda: self.server.addresses

    @property
    def repeated(self) -> int:
        """Requests that were answered here as the first time."""
        return self.service.durables.repeated

    def listen(self, address: str, port: int) -> int:
        """Serves clients at `address` from now on. Gives the port, chosen by the system for 0. Raises `OSError`."""
        return self.server.listen(address, port)

    def refresh(self) -> None:
        """To be called when the shares have been replaced."""
        self.service.refresh()

    def refresh_users(self) -> None:
        """To be called when the users have been replaced."""
        self.service.refresh_users()

    def end_session(self, number: int, user: str) -> bool:
        """Ends the session of this number, if it is that user's: its client has logged on at another node. Whether it is still there."""
        self.service.end_previous(number, user)
        return number in self.service.sessions

    def give_up(self, volume: Volume) -> None:
        """To be called when the volume has failed for good: who is connected to it is disconnected."""
        self.service.give_up(volume)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Answers what is in progress, for at most `grace_s`, then ends all connections and closes all opens."""
        await self.server.stop(grace_s)
        await self.service.stop()
