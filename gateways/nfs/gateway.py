"""The NFS gateway: one port on which NFS versions 3 and 4 (4.1, 4.2) and MOUNT answer."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Mapping as Table
from typing import Any

from gateways.exports import Shares
from gateways.nfs import mount
from gateways.nfs.ask import Performer
from gateways.nfs.handles import Handles, Places
from gateways.nfs.rpc import Program, RpcConnection
from gateways.nfs.v3 import program as v3
from gateways.nfs.v4.clients import FIRST_GROUP
from gateways.nfs.v4.forwarding import RemoteConnection
from gateways.nfs.v4.groups import Groups, Homes
from gateways.nfs.v4.owners import Mapping, Owners
from gateways.nfs.v4.program import Nfs4
from gateways.nfs.v4.service import LEASE_S, Service
from gateways.nfs.v4.underway import UnderWay
from gateways.server import Link, Server
from sofs.runtime.ports import Buffer, Clock, Random
from sofs.types import VolumeId
from sofs.volume.api import Binding, Volume


class NfsGateway:
    """Serves the shares to NFS clients.

    `key` signs file handles: the same at all nodes of a cluster, and for ever. `incarnation` is this gateway's, for `Binding`.
    `groups` gives the groups of a uid that are known here, for users with more groups than AUTH_SYS can carry; `users` names them. `system` is the volume
    that keeps NFSv4's clients and sessions, once there is one. `homes` knows the other nodes, if there are any.
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
        homes: Homes | None = None,
    ) -> None:
        self._shares = shares
        self._handles = Handles(key)
        self._groups = groups
        self._performer = Performer(Binding(incarnation, 0))
        self.server = Server("nfs", loop, self._accept, clock=clock)
        self.server.abrupt = True
        scope = hashlib.blake2b(key, digest_size=16, person=b"server scope").hexdigest().encode()
        owners = Owners(users)
        self.repeated = 0
        """Requests of sessions that were known from their slots: answered as the first time, or taken up where they stood."""

        def repeat() -> None:
            self.repeated += 1

        def make(hear: Callable[[Volume], None], group: int, fences: Sequence[int], former: UnderWay | None) -> Service:
            return Service(
                self._performer.by,
                clock,
                random,
                shares.served,
                # The first group's is that of a node which was alone before it had others.
                identity=scope if group == FIRST_GROUP else scope + b"/%d" % group,
                scope=scope,
                system=system,
                lease_s=lease_s,
                owners=owners,
                take=self.server.buffers.take,
                handles=self._handles,
                shares=shares,
                hear=hear,
                group=group,
                others=None if homes is None else homes.known,
                fences=fences,
                former=former,
                repeat=repeat,
            )

        self.groups = Groups(make, clock, self._exported, homes, incarnation)
        """Of NFSv4's clients."""
        self._performer.barriers = self.groups.barriers

    def _exported(self) -> dict[VolumeId, Volume]:
        ids = sorted({share.volume for share in self._shares.all()})
        return {id: volume for id in ids if (volume := self._shares.served(id)) is not None}

    async def load(self) -> None:
        """Of a node that is alone: brings back what NFSv4's clients had before the last stop; to be called before the first `listen`. Raises `SofsError`."""
        await self.groups.start()

    def forwarded(self, node: int, header: bytes, message: bytes) -> Coroutine[Any, Any, Sequence[Buffer] | None]:
        """A COMPOUND that came to another node; None if its home is not here."""
        return self.groups.forwarded(node, header, message, self._connect)

    def _connect(self, peer: str, port: int) -> RemoteConnection:
        return RemoteConnection(peer, port, Nfs4(self.groups, Places(self._handles, self._shares, self._groups, peer, port)).compound)

    def listen(self, address: str, port: int) -> int:
        """Serves at `address` from now on. Gives the port, chosen by the system for 0. Raises `OSError`."""
        return self.server.listen(address, port)

    async def stop(self) -> None:
        """Lets calls in progress be answered, then closes all connections."""
        await self.server.stop()
        await self.groups.stop()

    def give_up(self, volume: Volume) -> None:
        """To be called when the volume has failed for good: ends the connections with calls in progress, of whatever volume.

        Their clients send them again over new ones.
        """
        for connection in list(self.server.connections):
            if connection.busy:
                connection.close(f"volume {volume.name} has failed")
        self.groups.begin_anew()

    def clients(self) -> dict[bytes, tuple[str, str]]:
        """Each NFSv4 client's protocol and address, by what volumes know it by (`Open.client`)."""
        return self.groups.described()

    def _accept(self, link: Link) -> RpcConnection:
        return RpcConnection(link, self.programs(link.peer, link.peer_port))

    def programs(self, peer: str, port: int = 0) -> Table[int, Program]:
        """What a client at address `peer` can call that comes from `port`."""
        places = Places(self._handles, self._shares, self._groups, peer, port)
        nfs = v3.Nfs3(places, self._performer, self.server.buffers.take)
        return {
            v3.PROGRAM: Program({3: nfs.version(), 4: Nfs4(self.groups, places).version()}),
            mount.PROGRAM: mount.Mount(places, self._performer).program(),
        }
