"""A node, put together: the one place that knows every part.

    coordination store -> pools and volumes, in a cluster its membership and interconnect (`assembly`) -> gateways (`doors`) -> admin interface

`open` brings up what holds data, `listen` opens the doors, `close` goes the other way. Between the two an owner may make
what is missing, as `sofs quickstart` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import structlog

from gateways.exports import Shares
from sofs.admin import api
from sofs.admin.server import AdminServer
from sofs.assembly import Assembly, Ports
from sofs.cluster.authority import node_of
from sofs.cluster.membership import DRAINING, Membership
from sofs.cluster.own import OwnIdentity
from sofs.cluster.renewal import renew_if_due
from sofs.cluster.store import open_etcd
from sofs.cluster.stream import Identify
from sofs.config import Config, changes, load
from sofs.coordination import Store, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.doors import Doors
from sofs.errors import SofsError, Unavailable
from sofs.homes import Homes
from sofs.neighbours import Neighbours
from sofs.operations import NodeOperations
from sofs.processes import Processes
from sofs.records import Registry
from sofs.runtime import durable
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_network import SystemNetwork
from sofs.runtime.system_tls import Tls
from sofs.types import VolumeId
from sofs.vips import virtual_addresses

log = structlog.get_logger("node")

CLUSTER_NAME = "sofs"
"""What clients know a cluster by, unless the configuration says otherwise."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
RENEW_EVERY_S = 3600.0
WAIT_FOR_ETCD_S = 60.0
STATES_EVERY_S = 10.0
"""How often changed states of disks are recorded."""


class Node:
    """One running node. Use `open`."""

    def __init__(self, config: Config, assembly: Assembly, tls: Tls | None, doors: Doors, operations: NodeOperations, token: str) -> None:
        self.config = config
        """As it is in effect; `reload` changes what is live."""
        self._assembly = assembly
        self._tls = tls
        self._store = assembly.store
        self._host = assembly.host
        self._doors = doors
        self.operations = operations
        self._admin = AdminServer(operations, token)
        self._followers: list[asyncio.Task[None]] = []
        self.on_fenced: Callable[[str], None] = lambda reason: None
        """The cluster goes on without this process, which must end and be started again; told the reason."""
        assembly.on_fenced = doors.on_fenced = self._fenced
        self.vips = virtual_addresses(assembly, doors, Path(config.node.data_dir))
        operations.vips_here = self.vips
        if self.vips is not None:
            doors.know_groups(self.vips.group_of, self.vips.is_elsewhere)

    @classmethod
    async def open(cls, config: Config) -> Node:
        """Open the store and all that its records name. Raises `Unavailable` when another node has the data directory."""
        data = Path(config.node.data_dir)
        name = config.node.name or socket.gethostname().partition(".")[0]
        _allow_many_files()
        files, clock, random = SystemFiles(), SystemClock(), SystemRandom()
        _make_durable(files, data)
        tls = Tls.open(data) if config.coordination.kind == "etcd" else None
        store = await _open_store(config, files, clock, random)
        try:
            network = None if tls is None else SystemNetwork(tls=tls)
            ports = Ports(files, clock, random, BOOT_ID.read_bytes().strip(), network, _identified)
            assembly = await Assembly.open(config, name, ports, store)
            try:
                registry, host, identities = assembly.registry, assembly.host, assembly.identities
                shares = Shares(assembly.volume)
                homes, neighbours = _neighbourhood(assembly)
                doors = Doors(
                    config,
                    config.smb.name or (name if homes is None else CLUSTER_NAME),
                    shares,
                    identities,
                    clock,
                    random,
                    handle_key=await registry.secret("nfs-handles", 32),
                    guid=await registry.secret(f"smb-guid-{name}", 16),
                    system=assembly.system,
                    incarnation=assembly.incarnation,
                    homes=homes,
                    neighbours=neighbours,
                )
                assembly.routes.lost = doors.give_up
                host.on_failure = lambda volume: _give_up(assembly, doors, volume.id)
                doors.offer(await registry.shares())
                token = _token(config, data, random.bytes(24).hex())
                node = cls(config, assembly, tls, doors, NodeOperations(registry, host, doors, clock, assembly), token)
                node._follow(registry)
                return node
            except BaseException:
                await assembly.close()
                raise
        except BaseException:
            await store.close()
            raise

    @property
    def endpoints(self) -> list[str]:
        return self._doors.endpoints

    async def listen(self) -> None:
        """Let clients and operators in. Raises `Unavailable`."""
        await self._host.ensure_system()  # a node with data of a release that had none gets one
        await self._doors.open()
        admin = self.config.admin
        try:
            await self._admin.start(Path(self.config.node.data_dir) / "admin.sock", admin.address, admin.port)
        except OSError as error:
            raise Unavailable(f"admin interface at {admin.address} port {admin.port}: {error.strerror}") from None
        if self._assembly.membership is not None:
            await self._assembly.membership.announce(
                smb=self._places("smb"), nfs=self._places("nfs"), admin=[f"{admin.address}:{admin.port}"] if admin.port else []
            )
        if self.vips is not None:
            await self.vips.open()

    def _places(self, scheme: str) -> list[str]:
        return [endpoint.removeprefix(f"{scheme}://") for endpoint in self.endpoints if endpoint.startswith(f"{scheme}://")]

    async def close(self) -> None:
        """Let requests in progress finish, then close everything, also if one part fails to."""
        log.info("node.stopping")
        await self._assembly.stopping()
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(self._store.close)
            parts.push_async_callback(self._assembly.close)
            parts.push_async_callback(self._doors.close)
            parts.push_async_callback(self._admin.close)
            parts.push_async_callback(self._stop_following)
            if self.vips is not None:
                parts.push_async_callback(self.vips.close)

    def reload(self, config: Config) -> Iterator[tuple[str, bool]]:
        """Take over what may change while running; gives each changed setting and whether it is in effect now."""
        config.node.data_dir = self.config.node.data_dir
        for setting, value, live in changes(self.config, config):
            if live:
                section, _, key = setting.partition(".")
                setattr(getattr(self.config, section), key, value)
            yield setting, live

    # Following the store: another node of the cluster may have changed shares or users

    def _follow(self, registry: Registry) -> None:
        async def shares() -> None:
            self._doors.offer(await registry.shares())

        async def users() -> None:
            self._doors.know(await registry.users())

        for prefix, refresh in ((keys.SHARES, shares), (keys.USERS, users)):
            self._followers.append(asyncio.create_task(_watch(self._store, prefix, refresh)))
        self._followers.append(asyncio.create_task(self._keep_states()))
        if self._assembly.membership is not None:
            self._followers.append(asyncio.create_task(self._keep_drained(self._assembly.membership)))
        if self._tls is not None:
            self._followers.append(asyncio.create_task(self._keep_certificate(self._tls)))

    async def _keep_certificate(self, tls: Tls) -> None:
        own = self._assembly.own
        while True:
            try:
                await renew_if_due(self._store, tls, own.cluster, own.node, self._assembly.ports.clock.now())
            except SofsError as error:
                log.warning("cluster.certificate_not_renewed", reason=str(error))
            await asyncio.sleep(RENEW_EVERY_S)

    async def _keep_drained(self, membership: Membership) -> None:
        """Hands over what there is whenever this node is being drained; its virtual addresses go by themselves."""
        changed = asyncio.Event()
        membership.on_change(changed.set)
        while True:
            changed.clear()
            member = membership.members.get(membership.node)
            if member is not None and member.state == DRAINING:
                try:
                    await self._doors.hand_over_all()
                    stay = await self._host.hand_over_all()
                except SofsError as error:
                    stay = [str(error)]
                if stay:
                    log.warning("node.not_drained", stays=stay)
                    await asyncio.sleep(1)
                    continue
            await changed.wait()

    def _fenced(self, reason: str) -> None:
        self.on_fenced(reason)

    async def _keep_states(self) -> None:
        """Disks change state by themselves; the next start should know."""
        while True:
            await asyncio.sleep(STATES_EVERY_S)
            try:
                await self._host.note_states()
            except SofsError as error:
                log.warning("disk.state_not_recorded", reason=str(error))

    async def _stop_following(self) -> None:
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)


def _give_up(assembly: Assembly, doors: Doors, id: VolumeId) -> None:
    volume = assembly.routes.get(id)
    if volume is not None:
        doors.give_up(volume)


def _neighbourhood(assembly: Assembly) -> tuple[Homes | None, Neighbours | None]:
    """What the gateways have to do with other nodes; nothing for a single node."""
    membership, interconnect = assembly.membership, assembly.interconnect
    if membership is None or interconnect is None:
        return None, None
    processes = Processes(membership, interconnect)
    return Homes(assembly.registry, processes, interconnect, assembly.ports.clock), Neighbours(processes, interconnect, assembly.ports.clock)


async def _watch(store: Store, prefix: str, refresh: Callable[[], Awaitable[None]]) -> None:
    async for _ in store.watch(prefix):
        try:
            await refresh()
        except SofsError as error:
            log.warning("node.not_refreshed", what=prefix, reason=str(error))
        except Exception:
            log.exception("node.not_refreshed", what=prefix)  # the next change may be better


def _identified(own: OwnIdentity) -> Identify:
    """Other nodes prove who they are by certificates of the cluster's authority."""
    return lambda connection: node_of(own.cluster, connection.names)


async def _open_store(config: Config, files: SystemFiles, clock: SystemClock, random: SystemRandom) -> Store:
    """Waits a while for etcd. Raises `Unavailable`, `ConfigError`."""
    if config.coordination.kind == "etcd":
        store = open_etcd(config)
        try:
            await _answering(store)
        except BaseException:
            await store.close()
            raise
        return store
    path = str(Path(config.node.data_dir) / "store")
    try:
        return EmbeddedStore.open(files, clock, random, path)
    except Unavailable:
        raise Unavailable(f"another node runs on {config.node.data_dir}; stop it, or give this one a data directory of its own") from None


async def _answering(store: Store) -> None:
    until = time.monotonic() + WAIT_FOR_ETCD_S
    while True:
        try:
            await store.get(keys.CLUSTER)
            return
        except Unavailable:
            if time.monotonic() > until:
                raise Unavailable("none of the etcd members in coordination.endpoints answers; is etcd running there?") from None
            log.warning("coordination.waiting")
            await asyncio.sleep(1)


def _make_durable(files: SystemFiles, path: Path) -> None:
    """Make the directory with its parents, so that a loss of power does not take it away with all that is in it."""
    missing = [each for each in (path, *path.parents) if not files.exists(str(each))]
    files.make_directory(str(path))
    for each in missing:
        files.sync_directory(str(each.parent))


def _token(config: Config, data: Path, fresh: str) -> str:
    """The secret of requests over the network; made at first start when no file is named. Raises `Unavailable`."""
    path = Path(config.admin.token_file) if config.admin.token_file else data / "admin.token"
    try:
        if not config.admin.token_file and not path.exists():
            durable.replace(path, f"{fresh}\n".encode())
        return path.read_text().strip()
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}; admin.token_file names a file this node can read") from None


def _allow_many_files() -> None:
    """Every connection and every arena in use takes a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_offline(data: Path, request: api.CheckRequest) -> Iterator[api.Progress]:
    """Check a stopped node's volumes, from its data directory. No gateway is opened."""
    path = data / "conf" / "sofs.toml"
    config = load(path) if path.exists() else Config()
    config.node.data_dir = str(data.absolute())

    async def steps() -> AsyncIterator[api.Progress]:
        node = await Node.open(config)
        try:
            async for step in node.operations.check(request):
                yield step
        finally:
            await node.close()

    with asyncio.Runner() as runner:
        walk = steps()
        while True:
            try:
                yield runner.run(_next(walk))
            except StopAsyncIteration:
                return


async def _next(steps: AsyncIterator[api.Progress]) -> api.Progress:
    return await anext(steps)
