"""The NFS gateway: one port on which NFS versions 3 and 4 (4.1, 4.2) and MOUNT answer."""

import asyncio
import hashlib
from collections.abc import Callable
from collections.abc import Mapping as Table

from gateways.exports import Shares
from gateways.nfs import mount
from gateways.nfs.ask import Performer
from gateways.nfs.handles import Handles, Places
from gateways.nfs.rpc import Program, RpcConnection
from gateways.nfs.v3 import program as v3
from gateways.nfs.v4.owners import Mapping, Owners
from gateways.nfs.v4.program import Nfs4
from gateways.nfs.v4.service import LEASE_S, Service
from gateways.server import Link, Server
from sofs.runtime.ports import Clock, Random
from sofs.volume.api import Binding, Volume

__all__ = ["NfsGateway"]


class NfsGateway:
    """Serves the shares to NFS clients.

    `key` signs file handles: the same at all nodes of a cluster, and for ever. `incarnation` is this gateway's, for `Binding`.
    `groups` gives the groups of a uid that are known here, for users with more groups than AUTH_SYS can carry; `users` names them. `system` is the volume
    that keeps NFSv4's clients and sessions, once there is one.
    """

    def __init__(
        self,
        shares: Shares,
        *,
        key: bytes,
        incarnation: int,
        groups: Callable[[int], tuple[int, ...]],
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        random: Random,
        users: Mapping,
        system: Callable[[], Volume | None] = lambda: None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._shares = shares
        self._handles = Handles(key)
        self._groups = groups
        self._performer = Performer(Binding(incarnation, 0))
        self.server = Server("nfs", loop, self._accept, clock=clock)
        scope = hashlib.blake2b(key, digest_size=16, person=b"server scope").hexdigest().encode()
        self._v4 = Service(
            self._performer.by,
            clock,
            random,
            shares.served,
            identity=scope,
            scope=scope,
            system=system,
            lease_s=lease_s,
            owners=Owners(users),
            take=self.server.buffers.take,
            handles=self._handles,
            shares=shares,
        )

    async def load(self) -> None:
        """Brings back what NFSv4's clients had before the last stop; to be called before the first `listen`. Raises `SofsError`."""
        await self._v4.load()

    def listen(self, address: str, port: int) -> int:
        """Serves at `address` from now on. Gives the port, chosen by the system for 0. Raises `OSError`."""
        return self.server.listen(address, port)

    async def stop(self) -> None:
        """Lets calls in progress be answered, then closes all connections."""
        await self.server.stop()
        await self._v4.stop()

    def give_up(self, volume: Volume) -> None:
        """To be called when the volume has failed for good: ends the connections with calls in progress, of whatever volume.

        Their clients send them again over new ones.
        """
        for connection in list(self.server.connections):
            if connection.busy:
                connection.close(f"volume {volume.name} has failed")

    def clients(self) -> dict[bytes, tuple[str, str]]:
        """Each NFSv4 client's protocol and address, by what volumes know it by (`Open.client`)."""
        return self._v4.described()

    def _accept(self, link: Link) -> RpcConnection:
        return RpcConnection(link, self.programs(link.peer, link.peer_port))

    def programs(self, peer: str, port: int = 0) -> Table[int, Program]:
        """What a client at address `peer` can call that comes from `port`."""
        places = Places(self._handles, self._shares, self._groups, peer, port)
        nfs = v3.Nfs3(places, self._performer, self.server.buffers.take)
        return {
            v3.PROGRAM: Program({3: nfs.version(), 4: Nfs4(self._v4, places).version()}),
            mount.PROGRAM: mount.Mount(places, self._performer).program(),
        }
