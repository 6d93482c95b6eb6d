"""The doors of a node: its gateways, with what they share, opened and closed together.

Everything that both protocols need stands here once: the shares that are offered, the users, this start's gateway incarnation, which no other start ever
has, and, in a cluster, the way to the other nodes' gateways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from gateways.exports import Share, Shares
from gateways.identity import Identities, User
from gateways.nfs.gateway import NfsGateway
from gateways.nfs.portmap import PortMapper, registrations
from gateways.server import Server
from gateways.smb.crypto import Dialect
from gateways.smb.gateway import SmbGateway
from gateways.smb.service import SmbSettings
from sofs.config import Config
from sofs.errors import Unavailable
from sofs.homes import Homes
from sofs.neighbours import Neighbours
from sofs.runtime.ports import Clock, Random
from sofs.volume.api import Volume

log = structlog.get_logger("node")

HAND_OVER_S = 15.0
"""What an orderly end waits for others to take this node's groups."""


class Doors:
    """The gateways. `open` begins to serve; until then nothing listens."""

    def __init__(
        self,
        config: Config,
        name: str,
        shares: Shares,
        identities: Identities,
        clock: Clock,
        random: Random,
        *,
        handle_key: bytes,
        guid: bytes,
        system: Callable[[], Volume | None] = lambda: None,
        incarnation: int,
        homes: Homes | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        """`name` is what clients know the server by, the same at all nodes of a cluster, and `guid` this node's. A node that is alone has neither `homes`
        nor `neighbours`."""
        self._config = config
        self.shares = shares
        self.identities = identities
        self.incarnation = incarnation
        self._homes = homes
        self.on_fenced: Callable[[str], None] = lambda reason: None
        """This gateway incarnation has been shut out of a volume: the process is to end, and begin anew. Called once."""
        self._fenced = False
        self._loop = asyncio.get_running_loop()
        self._portmapper: PortMapper | None = None
        self.endpoints: list[str] = []
        """`smb://ADDRESS:PORT`, `nfs://ADDRESS:PORT`, once open."""
        settings = SmbSettings(
            name=name,
            workgroup=config.smb.workgroup,
            signing_required=config.smb.signing == "required",
            encryption=config.smb.encryption,
            minimum_dialect=Dialect.named(config.smb.minimum_dialect),
            guid=guid,
        )
        self._smb = SmbGateway(settings, shares, identities, clock, random, incarnation, self._loop, neighbours=neighbours, on_fenced=self._shut_out)
        if neighbours is not None:
            neighbours.serve(self._smb)
        self._nfs = NfsGateway(
            shares,
            key=handle_key,
            incarnation=incarnation,
            groups=lambda uid: identities.groups_of(uid) or (),
            loop=self._loop,
            clock=clock,
            random=random,
            users=identities,
            system=system,
            lease_s=config.nfs.lease_s,
            homes=homes,
        )
        self._nfs.groups.on_fenced = self._shut_out

    @property
    def servers(self) -> list[Server]:
        return [self._smb.server, self._nfs.server]

    def traffic(self) -> dict[str, dict[str, int]]:
        """What each gateway has counted, by its protocol."""
        return {
            gateway.server.name: {
                "connections": len(gateway.server.connections),
                "accepted": gateway.server.accepted,
                "received": gateway.server.received_bytes,
                "sent": gateway.server.sent_bytes,
                "repeated": gateway.repeated,
            }
            for gateway in (self._smb, self._nfs)
        }

    @property
    def connections(self) -> int:
        return sum(len(server.connections) for server in self.servers)

    def offer(self, shares: Sequence[Share]) -> None:
        self.shares.replace(shares)
        self._smb.refresh()

    def know(self, users: Sequence[User]) -> None:
        self.identities.replace(users)
        self._smb.refresh_users()

    def give_up(self, volume: Volume) -> None:
        """The volume has failed: connections that may wait for it are closed, so that their clients ask again, and are told."""
        # Later: a request in whose middle this was found out is to be taken to its end first.
        self._loop.call_soon(self._smb.give_up, volume)
        self._loop.call_soon(self._nfs.give_up, volume)

    def _shut_out(self) -> None:
        if not self._fenced:
            self._fenced = True
            self._loop.call_soon(self.on_fenced, "its gateways were fenced")

    # Groups of NFSv4.1 clients, by their ids (`sofs.homes`)

    def know_groups(self, of_address: Callable[[str], int | None], is_elsewhere: Callable[[int], bool]) -> None:
        """Has new clients belong to the group of the virtual address that they have come to, and this node's group stay where its address is."""
        if self._homes is not None:
            self._homes.group_of_address, self._homes.is_elsewhere = of_address, is_elsewhere

    async def adopt(self, group: int) -> None:
        """Makes this node the group's home, because it gets its address: the home hands it over, or has lost it. Raises `SofsError`."""
        if self._homes is not None and self._config.nfs.enabled:
            await self._homes.adopt(group, lost=True)

    async def hand_over(self, group: int, to: int) -> None:
        """Makes another node the home of a group that is here; its clients notice nothing. Raises `SofsError`: then it stays."""
        if self._homes is not None and self._config.nfs.enabled:
            await self._homes.hand_over(group, to)

    async def hand_over_all(self, candidates: Sequence[int] = (), ends: bool = False) -> None:
        """Hands all groups over that are here, to the candidates or whoever runs, before this node drains or stops. Does what it can."""
        if self._homes is not None and self._config.nfs.enabled:
            try:
                async with asyncio.timeout(HAND_OVER_S):
                    await self._homes.hand_over_all(candidates, ends)
            except TimeoutError:
                log.warning("nfs.groups_not_handed_over", reason=f"it took more than {HAND_OVER_S:.0f} s")

    def clients(self) -> dict[int, tuple[str, str]]:
        """Each SMB session's protocol and client: `user@address`."""
        return {number: ("smb", f"{session.user or 'anonymous'}@{session.peer}") for number, session in self._smb.service.sessions.items()}

    def nfs_clients(self) -> dict[bytes, tuple[str, str]]:
        """Each NFSv4 client's protocol and address, by `OpenInfo.client`."""
        return self._nfs.clients()

    async def open(self) -> None:
        """Listen. Raises `Unavailable`, naming address, port and remedy; then nothing is left listening."""
        smb, nfs = self._config.smb, self._config.nfs
        try:
            if smb.enabled:
                self._listen("smb", self._smb.server, smb.addresses, smb.port)
            if nfs.enabled:
                if self._homes is None:
                    await self._nfs.load()
                else:
                    await self._homes.start(self._nfs)
                port = self._listen("nfs", self._nfs.server, nfs.addresses, nfs.port)
                if nfs.portmap:
                    self._portmapper = PortMapper(self._loop, registrations(port))
                    log.info("portmap", how=await self._portmapper.start(nfs.addresses[0]))
        except BaseException:
            await self.close()
            raise

    def _listen(self, scheme: str, server: Server, addresses: Sequence[str], port: int) -> int:
        for address in addresses:
            try:
                port = server.listen(address, port)
            except OSError as error:
                raise Unavailable(_refusal(scheme, address, port, error)) from None
            host = f"[{address}]" if ":" in address else address
            self.endpoints.append(f"{scheme}://{host}:{port}")
        return port

    def listen_at(self, address: str) -> None:
        """Lets clients in at one more address, a virtual one, at the same ports. Raises `Unavailable`; then nothing listens there."""
        smb, nfs = self._config.smb, self._config.nfs
        for enabled, server, own, port in (
            (smb.enabled, self._smb.server, smb.addresses, smb.port),
            (nfs.enabled, self._nfs.server, nfs.addresses, nfs.port),
        ):
            if enabled and not _includes(own, address) and address not in server.addresses:
                try:
                    server.listen(address, port)
                except OSError as error:
                    self.leave(address)
                    raise Unavailable(_refusal(server.name, address, port, error)) from None

    async def part(self, address: str) -> None:
        """Ends the connections to a virtual address, and waits a moment for clients to hear of it. `leave` follows."""
        await asyncio.gather(*(server.part(address) for server in self.servers))

    def peers(self, address: str) -> list[tuple[int, str, int]]:
        """The connections to an address: its port, and the client's address and port."""
        return [each for server in self.servers for each in server.peers(address)]

    def leave(self, address: str) -> None:
        """The virtual address is another node's from now on."""
        for server in self.servers:
            server.leave(address)

    async def close(self) -> None:
        """Let requests in progress be answered, end sessions with their opens, close connections."""
        self.endpoints = []
        if self._portmapper is not None:
            await self._portmapper.stop()
        if not self._fenced:
            await self.hand_over_all(ends=True)
        await asyncio.gather(self._smb.stop(), self._nfs.stop())
        if self._homes is not None:
            await self._homes.stop()


def _includes(own: Sequence[str], address: str) -> bool:
    """Whether what listens at a node's own addresses hears this one, too."""
    return ("::" if ":" in address else "0.0.0.0") in own


def _refusal(scheme: str, address: str, port: int, error: OSError) -> str:
    remedy = (
        "ports below 1024 need CAP_NET_BIND_SERVICE (README, section on ports), or choose another"
        if isinstance(error, PermissionError)
        else f"end what listens there, or choose another port or address in [{scheme}]"
    )
    return f"{scheme}: cannot listen at {address} port {port} ({error.strerror}): {remedy}"
