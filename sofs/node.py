"""A node, put together: the one place that knows every part.

    coordination store -> records -> pools and volumes (`hosting`) -> gateways (`doors`) -> admin interface

`open` brings up what holds data, `listen` opens the doors, `close` goes the other way. Between the two an owner may make
what is missing, as `sofs quickstart` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import structlog

from gateways.exports import Shares
from gateways.identity import Identities, domain_sid
from sofs.admin import api
from sofs.admin.server import AdminServer
from sofs.config import Config, changes, load
from sofs.coordination import Store, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.doors import Doors
from sofs.errors import ConfigError, SofsError, Unavailable
from sofs.hosting import Host
from sofs.operations import NodeOperations
from sofs.records import Registry
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles

log = structlog.get_logger("node")

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STATES_EVERY_S = 10.0
"""How often changed states of disks are recorded."""


class Node:
    """One running node. Use `open`."""

    def __init__(
        self, config: Config, store: Store, host: Host, doors: Doors, operations: NodeOperations, token: str
    ) -> None:
        self.config = config
        """As it is in effect; `reload` changes what is live."""
        self._store = store
        self._host = host
        self._doors = doors
        self.operations = operations
        self._admin = AdminServer(operations, token)
        self._followers: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, config: Config) -> Node:
        """Open the store and all that its records name. Raises `Unavailable` when another node has the data directory."""
        data = Path(config.node.data_dir)
        name = config.node.name or socket.gethostname().partition(".")[0]
        _allow_many_files()
        files, clock, random = SystemFiles(), SystemClock(), SystemRandom()
        _make_durable(files, data)
        store = _open_store(config, files, clock, random)
        try:
            registry = Registry(store, random)
            identities = Identities(domain_sid(await registry.secret("domain", 12)), await registry.users())
            host = Host(name, data, config, registry, files, clock, random, identities, BOOT_ID.read_bytes().strip())
            try:
                await host.open()
                shares = Shares(host.volume)
                doors = Doors(
                    config,
                    name,
                    shares,
                    identities,
                    clock,
                    random,
                    handle_key=await registry.secret("nfs-handles", 32),
                    guid=await registry.secret(f"smb-guid-{name}", 16),
                    system=host.system,
                )
                host.on_failure = doors.give_up
                doors.offer(await registry.shares())
                token = _token(config, data, random.bytes(24).hex())
                node = cls(config, store, host, doors, NodeOperations(registry, host, doors, clock), token)
                node._follow(registry)
                return node
            except BaseException:
                await host.close()
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
            raise Unavailable(
                f"admin interface at {admin.address} port {admin.port}: {error.strerror}"
            ) from None

    async def close(self) -> None:
        """Let requests in progress finish, then close everything, also if one part fails to."""
        log.info("node.stopping")
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(self._store.close)
            parts.push_async_callback(self._host.close)
            parts.push_async_callback(self._doors.close)
            parts.push_async_callback(self._admin.close)
            parts.push_async_callback(self._stop_following)

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


async def _watch(store: Store, prefix: str, refresh: Callable[[], Awaitable[None]]) -> None:
    async for _ in store.watch(prefix):
        try:
            await refresh()
        except SofsError as error:
            log.warning("node.not_refreshed", what=prefix, reason=str(error))


def _endpoints(texts: list[str]) -> list[tuple[str, int]]:
    """Raises `ConfigError`."""
    result = []
    for text in texts:
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"coordination.endpoints: {text!r}; write HOST:PORT, such as 10.0.0.1:2379")
        result.append((host.strip("[]"), int(port)))
    return result


def _open_store(config: Config, files: SystemFiles, clock: SystemClock, random: SystemRandom) -> Store:
    if config.coordination.kind == "etcd":
        from sofs.coordination.etcd import EtcdStore  # grpc takes a while to import

        return EtcdStore(_endpoints(config.coordination.endpoints), config.coordination.prefix)
    path = str(Path(config.node.data_dir) / "store")
    try:
        return EmbeddedStore.open(files, clock, random, path)
    except Unavailable:
        raise Unavailable(
            f"another node runs on {config.node.data_dir}; stop it, or give this one a data directory of its own"
        ) from None


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
            path.touch(mode=0o600)
            path.write_text(fresh + "\n")
        return path.read_text().strip()
    except OSError as error:
        raise Unavailable(
            f"{path}: {error.strerror}; admin.token_file names a file this node can read"
        ) from None


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
