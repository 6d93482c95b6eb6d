"""A node below its gateways, put together from ports: what `sofsd` runs, and what the simulator runs many of.

    data directory's claim -> membership -> interconnect -> pools and volumes (`hosting`)

A single node has neither membership nor interconnect; for it nothing of a cluster is opened. `open` brings all of it up in this order, `close` goes
the other way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateways.identity import Identities, domain_sid
from sofs.cluster import Incarnation
from sofs.cluster.founding import cluster_of
from sofs.cluster.guard import GuardedStore
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.cluster.membership import FEATURES, Membership, endpoint
from sofs.cluster.own import OwnIdentity, load_or_make
from sofs.cluster.recovery import RecordsCopy, older, read_copy
from sofs.cluster.running import Claim, claim
from sofs.cluster.stream import Identify
from sofs.config import Config
from sofs.coordination import Store, keys
from sofs.errors import ConfigError, Unavailable
from sofs.hosting import Host
from sofs.records import Registry
from sofs.runtime.ports import Clock, Files, Network, Random
from sofs.types import VolumeId
from sofs.volume.remote.routed import RoutedVolume
from sofs.volume.remote.routes import RoutedVolumes
from sofs.volume.remote.watchman import Watchman
from sofs.volume.where import Whereabouts

log = structlog.get_logger("node")


@dataclass
class Ports:
    """A host's, as one process of a node has them."""

    files: Files
    clock: Clock
    random: Random
    boot: bytes
    """Identifies this start of the host."""
    network: Network | None = None
    """To the other nodes of the cluster; None: a single node."""
    identify: Callable[[OwnIdentity], Identify] | None = None
    """How the others prove who they are; None: everybody is believed."""


class Assembly:
    """One node's parts. Use `open`."""

    own: OwnIdentity
    incarnation: Incarnation
    claim: Claim
    registry: Registry
    identities: Identities
    host: Host
    routes: RoutedVolumes
    """The volumes, wherever they are served, as gateways hold them."""
    membership: Membership | None = None
    interconnect: NetworkInterconnect | None = None

    def __init__(self, config: Config, name: str, ports: Ports, store: Store) -> None:
        self.config = config
        self.name = name
        self.ports = ports
        self.store = store
        self.on_fenced: Callable[[str], None] = lambda reason: None
        """This process must not go on; told the reason."""
        self._parts = AsyncExitStack()

    @classmethod
    async def open(cls, config: Config, name: str, ports: Ports, store: Store) -> Assembly:
        """`name` is the node's; the store stays its owner's. Raises `ConfigError`, `Unavailable` (another process has the data directory)."""
        assembly = cls(config, name, ports, store)
        try:
            await assembly._open()
        except BaseException:
            await assembly.close()
            raise
        return assembly

    async def close(self) -> None:
        """Ends everything, also if one part fails to."""
        await self._parts.aclose()

    async def stopping(self) -> None:
        """The others are told that this node is about to give up what it has."""
        if self.membership is not None:
            await self.membership.stopping()

    def _fenced(self, reason: str) -> None:
        self.on_fenced(reason)

    async def _open(self) -> None:
        ports, data = self.ports, self.config.node.data_dir
        self.own = load_or_make(ports.files, ports.random, data)
        self.incarnation = Incarnation(ports.random.number(62) or 1)
        self.claim = claim(ports.files, data, self.own.node, self.incarnation)
        self._parts.callback(self.claim.close)
        if ports.network is not None:
            await self._open_cluster(ports.network)
        else:
            await self._check_single()
        self.registry = Registry(self.store, ports.random)
        self.identities = Identities(domain_sid(await self.registry.secret("domain", 12)), await self.registry.users())
        self.host = self._host()
        routes = self.routes = RoutedVolumes(self.interconnect, ports.clock)
        self.host.on_volume, self.host.routes = self._route, self.volume
        if self.membership is not None and self.interconnect is not None:
            await self._listen(self.interconnect)
            former = self.claim.former
            await self.membership.start(
                self.name, self._fault_domain, self._addresses, former=None if former is None or former.node != self.own.node else former.incarnation
            )
        self._parts.push_async_callback(self.host.close)
        if self.membership is not None and self.interconnect is not None:
            self._parts.push_async_callback(Watchman(self.membership, self.interconnect, ports.clock, routes).close)
        await self.host.open()
        if self.interconnect is not None:
            self.interconnect.complete = True

    def _route(self, where: Whereabouts) -> None:
        self.routes.add(where)

    def volume(self, id: VolumeId) -> RoutedVolume | None:
        """The volume as gateways hold it. Of a single node only one that is served."""
        route = self.routes.get(id)
        return None if route is None or (self.interconnect is None and route.local is None) else route

    def system(self) -> RoutedVolume | None:
        """The system volume, once there is one."""
        where = self.host.system_where
        return None if where is None else self.volume(where.id)

    def _host(self) -> Host:
        ports = self.ports
        return Host(
            self._fault_domain,
            Path(self.config.node.data_dir),
            self.config,
            self.registry,
            ports.files,
            ports.clock,
            ports.random,
            self.identities,
            ports.boot,
            self.interconnect,
        )

    @property
    def _fault_domain(self) -> str:
        return self.config.cluster.host or self.name

    async def _check_single(self) -> None:
        """Raises `ConfigError` when the records here are a cluster's now."""
        entry = await self.store.get(keys.HANDED_OVER)
        if entry is not None:
            raise ConfigError(
                f"the records of this node were handed over to cluster {entry.value.decode()} and change there now; set "
                '[coordination] kind = "etcd" with its endpoints in conf/sofs.toml, or repeat `sofs cluster init`, which does it'
            )

    async def _check_store(self) -> None:
        """Raises `ConfigError` when the store has gone back in time, as after a restored backup: what it says was superseded long ago."""
        ports, data = self.ports, self.config.node.data_dir
        reason = await older(self.store, read_copy(ports.files, data))
        if reason:
            raise ConfigError(f"the coordination store is older than what this node knows ({reason}); `sofs cluster recover` brings it up to date")
        copy = asyncio.get_running_loop().create_task(RecordsCopy(ports.files, ports.clock, data).follow(self.store))
        self._parts.push_async_callback(_cancelled, copy)

    async def _open_cluster(self, network: Network) -> None:
        ports, own = self.ports, self.own
        cluster = await cluster_of(self.store)
        self.store = await GuardedStore.open(self.store, ports.clock)
        if own.cluster != cluster.id:
            raise ConfigError(
                f"this node belongs to {'cluster ' + own.cluster if own.cluster else 'no cluster'}, this etcd to cluster {cluster.id}; "
                "correct [coordination], or make it a member with `sofs cluster join`"
            )
        membership = self.membership = Membership(self.store, ports.clock, own.node, self.incarnation, ports.boot.decode(errors="replace"))
        membership.on_fenced = self._fenced
        await membership.load()
        await self._check_store()
        self._parts.push_async_callback(membership.close)
        interconnect = self.interconnect = NetworkInterconnect(
            ports.clock,
            ports.random,
            network,
            (own.node, self.incarnation),
            membership.addresses,
            features=FEATURES,
            cluster=cluster.id,
            identify=ports.identify(own) if ports.identify is not None else None,
            admit=membership.admit,
        )
        self._parts.push_async_callback(interconnect.close)
        interconnect.complete = False
        membership.on_change(interconnect.review)

    async def _listen(self, interconnect: NetworkInterconnect) -> None:
        """Who calls what is not there yet is told to try again."""
        self._addresses = []
        for text in self.config.cluster.addresses:
            host, port = endpoint(text)
            try:
                port = await interconnect.listen(host, port)
            except Unavailable as error:
                raise Unavailable(f"{error}; [cluster] addresses says where other nodes reach this one") from None
            self._addresses.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        if not self._addresses:
            raise ConfigError('[cluster] addresses is empty: say where other nodes reach this one, such as ["10.0.0.1:4700"]')


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
