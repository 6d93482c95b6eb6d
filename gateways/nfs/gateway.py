"""The NFS gateway: one port on which NFS version 3 and MOUNT answer."""

import asyncio
from collections.abc import Callable, Mapping

from gateways.exports import Shares
from gateways.nfs import mount
from gateways.nfs.ask import Performer
from gateways.nfs.handles import Handles, Places
from gateways.nfs.rpc import Program, RpcConnection
from gateways.nfs.v3 import program as v3
from gateways.server import Link, Server
from sofs.volume.api import Binding, Volume

__all__ = ["NfsGateway"]


class NfsGateway:
    """Serves the shares to NFS clients.

    `key` signs file handles: the same at all nodes of a cluster, and for ever. `incarnation` is this gateway's, for `Binding`.
    `groups` gives the groups of a uid that are known here, for users with more groups than AUTH_SYS can carry.
    """

    def __init__(
        self,
        shares: Shares,
        *,
        key: bytes,
        incarnation: int,
        groups: Callable[[int], tuple[int, ...]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._shares = shares
        self._handles = Handles(key)
        self._groups = groups
        self._performer = Performer(Binding(incarnation, 0))
        self.server = Server("nfs", loop, self._accept)

    def listen(self, address: str, port: int) -> int:
        """Serves at `address` from now on. Gives the port, chosen by the system for 0. Raises `OSError`."""
        return self.server.listen(address, port)

    async def stop(self) -> None:
        """Lets calls in progress be answered, then closes all connections."""
        await self.server.stop()

    def give_up(self, volume: Volume) -> None:
        """To be called when the volume has failed for good: ends the connections with calls in progress, of whatever volume.

        Their clients send them again over new ones.
        """
        for connection in list(self.server.connections):
            if connection.busy:
                connection.close(f"volume {volume.name} has failed")

    def _accept(self, link: Link) -> RpcConnection:
        return RpcConnection(link, self.programs(link.peer))

    def programs(self, peer: str) -> Mapping[int, Program]:
        """What a client at address `peer` can call."""
        places = Places(self._handles, self._shares, self._groups, peer)
        nfs = v3.Nfs3(places, self._performer, self.server.buffers.take)
        return {
            v3.PROGRAM: Program({3: nfs.version()}),
            mount.PROGRAM: mount.Mount(places, self._performer).program(),
        }
