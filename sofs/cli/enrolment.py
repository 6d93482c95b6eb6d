"""What `sofs cluster init`, `token`, `join`, `leave`, `evict` and `recover` do: to the records in etcd, and to a data directory whose node does not run.

Each can be repeated after an interruption. A command that changes the data directory holds its lock, so that no node starts meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import Struct, structs

from sofs.cluster import NodeId, running
from sofs.cluster.authority import Authority
from sofs.cluster.founding import Token, admit, authority_of, evict, found, invite, leave
from sofs.cluster.membership import FEATURES, endpoint
from sofs.cluster.own import OwnIdentity, load_or_make, save
from sofs.cluster.own import load as load_own
from sofs.cluster.records import ClusterRecord, MemberRecord, named
from sofs.cluster.recovery import read_copy, restore
from sofs.cluster.store import open_etcd
from sofs.config import Config, amended, load
from sofs.coordination import Entry, Put, Store, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.errors import Busy, ConfigError, InvalidArgument, Unavailable
from sofs.records import ConfigurationRecord, DiskRecord, VolumeRecord
from sofs.runtime import durable
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_tls import Tls

P = ParamSpec("P")
T = TypeVar("T")

PASSING = (keys.NODES, keys.DEAD, keys.MEMBERS, keys.TOKENS, keys.HANDED_OVER)
"""Of an embedded store: what is not copied."""


class Enrolled(Struct):
    cluster: str
    node: str
    name: str
    copied: int = 0


class Recovered(Struct):
    cluster: str
    restored: int
    raised: int
    kept: int


class _Runs(Busy):
    """The node is running."""


class Place:
    """A data directory with its configuration file."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.path = data / "conf" / "sofs.toml"
        self.files = SystemFiles()
        self.random = SystemRandom()
        self.clock = SystemClock()
        self.config = load(self.path) if self.path.exists() else Config()
        self.config.node.data_dir = str(data)

    @contextmanager
    def held(self) -> Iterator[OwnIdentity]:
        """The node's identity, while no process of it runs. Raises `Busy`."""
        self.files.make_directory(str(self.data))
        try:
            lock = self.files.lock(str(self.data / running.FILE))
        except Unavailable:
            raise _Runs(f"a node runs on {self.data}; stop it first") from None
        try:
            yield load_or_make(self.files, self.random, str(self.data))
        finally:
            lock.close()

    @property
    def own(self) -> OwnIdentity:
        """Raises `ConfigError` when this is no member of a cluster."""
        own = load_own(self.files, str(self.data))
        if own is None or not own.cluster or self.config.coordination.kind != "etcd":
            raise ConfigError(f"{self.data} is not of a cluster's member; `sofs cluster init` founds a cluster, --data names another directory")
        return own

    def use_etcd(self, endpoints: Sequence[str], prefix: str | None) -> None:
        """In the configuration in memory. Raises `InvalidArgument`."""
        coordination = self.config.coordination
        if not endpoints and coordination.kind != "etcd":
            raise InvalidArgument("say where etcd is: --etcd HOST:PORT, for each of its members")
        coordination.kind = "etcd"
        coordination.endpoints = list(endpoints) or coordination.endpoints
        coordination.prefix = prefix or coordination.prefix

    def use_addresses(self, addresses: Sequence[str], name: str | None) -> None:
        self.config.cluster.addresses = list(addresses) or self.config.cluster.addresses
        self.config.node.name = name or self.config.node.name
        if not self.config.cluster.addresses:
            raise InvalidArgument("say where the other nodes reach this one: --address IP:PORT, such as 10.0.0.1:4700")
        for text in self.config.cluster.addresses:
            endpoint(text)

    @property
    def name(self) -> str:
        return self.config.node.name or os.uname().nodename.partition(".")[0]

    def member(self, own: OwnIdentity) -> MemberRecord:
        return MemberRecord(
            id=own.id, name=self.name, host=self.config.cluster.host or self.name, addresses=tuple(self.config.cluster.addresses), features=FEATURES
        )

    def write_config(self) -> None:
        """What a member needs stands in its file."""
        text = self.path.read_text() if self.path.exists() else ""
        config = self.config
        if "data_dir" not in text:
            text = amended(text, str(self.path), "node", {"data_dir": ".."})
        if config.node.name:
            text = amended(text, str(self.path), "node", {"name": config.node.name})
        coordination = config.coordination
        text = amended(text, str(self.path), "coordination", {"kind": "etcd", "endpoints": coordination.endpoints, "prefix": coordination.prefix})
        text = amended(text, str(self.path), "cluster", {"addresses": config.cluster.addresses})
        durable.make_directory(self.path.parent)
        durable.replace(self.path, text.encode())

    def take_credentials(self, authority: Authority, own: OwnIdentity) -> None:
        issued = authority.issue(own.cluster, own.node, self.clock.now())
        Tls(self.data).store(authority.certificate, issued.key, issued.certificate)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """The cluster's."""
        store = open_etcd(self.config)
        try:
            yield store
        finally:
            await store.close()

    def embedded(self) -> EmbeddedStore | None:
        """A single node's, if there is one."""
        path = self.data / "store"
        return EmbeddedStore.open(self.files, self.clock, self.random, str(path)) if path.exists() else None


def _at_place(work: Callable[Concatenate[Place, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Path, P], T]:
    """Takes the data directory instead of its `Place`, and runs to its end. Raises `SofsError`s that name the remedy."""

    def run(data: Path, /, *args: P.args, **kwargs: P.kwargs) -> T:
        place = Place(data)
        try:
            return asyncio.run(work(place, *args, **kwargs))
        except Unavailable as error:
            raise Unavailable(f"{error} (at {', '.join(place.config.coordination.endpoints)}; --etcd or coordination.endpoints name it)") from None

    return run


# The first node


@_at_place
async def found_cluster(place: Place, etcd: Sequence[str], prefix: str | None, addresses: Sequence[str], name: str | None) -> Enrolled:
    place.use_etcd(etcd, prefix)
    place.use_addresses(addresses, name)
    if not place.config.coordination.prefix.endswith("/"):
        # Else the keys of "a" and those of "ab" would be each other's.
        raise InvalidArgument(f"a prefix ends with /: {place.config.coordination.prefix}/")
    with place.held() as own:
        if not own.cluster:
            # Before anything else: whoever repeats this goes on with the same cluster.
            own = OwnIdentity(own.id, f"{place.random.number(64):016x}")
            save(place.files, str(place.data), own)
        embedded = place.embedded()
        try:
            async with place.store() as store:
                await _refuse_lost(place, own, store)
                records = await _records(embedded, own)

                async def copied() -> None:
                    if embedded is not None:
                        await embedded.transact([], [Put(keys.HANDED_OVER, own.cluster.encode())])

                authority = await found(
                    store, place.member(own), own.cluster, place.clock.now(), records, lambda entry: _translated(entry, place.member(own)), copied
                )
        finally:
            if embedded is not None:
                await embedded.close()
        place.take_credentials(authority, own)
        place.write_config()
        return Enrolled(own.cluster, f"{own.id:016x}", place.name, len(records))


async def _refuse_lost(place: Place, own: OwnIdentity, store: Store) -> None:
    """A node that has been a member knows better than its old embedded store what was lost with etcd. Raises `ConfigError`."""
    known = read_copy(place.files, str(place.data)).get(keys.CLUSTER)
    if known is not None and ClusterRecord.decode(known).id == own.cluster and await store.get(keys.CLUSTER) is None:
        raise ConfigError(
            f"this node belongs to cluster {own.cluster}, whose records are not in this etcd: if it was lost, `sofs cluster recover` puts them back; "
            "else correct --etcd and --prefix"
        )


async def _records(embedded: EmbeddedStore | None, own: OwnIdentity) -> list[Entry]:
    """What is to be copied. Raises `ConfigError` when it was, for another cluster."""
    if embedded is None:
        return []
    entries = (await embedded.range("")).entries
    for entry in entries:
        if entry.key == keys.HANDED_OVER and entry.value.decode() != own.cluster:
            raise ConfigError(f"the records of this node were handed over to cluster {entry.value.decode()} already")
    return [entry for entry in entries if not entry.lease and not entry.key.startswith(PASSING)]


def _translated(entry: Entry, first: MemberRecord) -> bytes:
    """A single node's record, as the first member's."""
    if entry.key.startswith(keys.DISKS):
        return structs.replace(DiskRecord.decode(entry.value), node=first.id, host=first.host).encode()
    if entry.key.endswith(keys.CONFIGURATION):
        return structs.replace(ConfigurationRecord.decode(entry.value), coordinator=first.id).encode()
    return entry.value


# Further nodes


@_at_place
async def make_token(place: Place, reusable: bool, valid_s: float) -> str:
    _ = place.own
    async with place.store() as store:
        coordination = place.config.coordination
        token = await invite(store, place.random, place.clock.now(), coordination.endpoints, coordination.prefix, valid_s=valid_s, reusable=reusable)
        return token.encode()


@_at_place
async def join_cluster(place: Place, text: str, addresses: Sequence[str], name: str | None, etcd: Sequence[str] = ()) -> Enrolled:
    """`etcd`: where it is for this host, if that is not where it is for whoever made the token."""
    token = Token.decode(text)
    place.use_etcd(etcd or token.endpoints, token.prefix)
    place.use_addresses(addresses, name)
    with place.held() as own:
        if own.cluster not in ("", token.cluster):
            raise Busy(f"this node belongs to cluster {own.cluster}; `sofs cluster leave` takes it out, or choose another directory")
        await _refuse_data(place)
        async with place.store() as store:
            authority = await admit(store, token, place.member(own), place.clock.now())
        own = OwnIdentity(own.id, token.cluster)
        save(place.files, str(place.data), own)
        place.take_credentials(authority, own)
        place.write_config()
        return Enrolled(own.cluster, f"{own.id:016x}", place.name)


async def _refuse_data(place: Place) -> None:
    """A single node with volumes cannot be merged into a cluster. Raises `Busy`."""
    embedded = place.embedded()
    if embedded is None:
        return
    try:
        if (await embedded.range(keys.DISKS)).entries:
            raise Busy(
                f"{place.data} holds disks of a node of its own, whose volumes no cluster could take over; "
                "join with an empty directory, or make this one the first node with `sofs cluster init`"
            )
    finally:
        await embedded.close()


# Those who go


@_at_place
async def leave_cluster(place: Place) -> Enrolled:
    with place.held():
        own = place.own
        async with place.store() as store:
            disks = [DiskRecord.decode(entry.value) for entry in (await store.range(keys.DISKS)).entries]
            count = sum(disk.node == own.id for disk in disks)
            await leave(store, own.node, [f"{count} disk(s)"] if count else [])
        save(place.files, str(place.data), OwnIdentity(own.id))
        return Enrolled(own.cluster, f"{own.id:016x}", place.name)


@_at_place
async def evict_member(place: Place, wanted: str, force: bool) -> Enrolled:
    own = place.own
    async with place.store() as store:
        node = await find_member(store, wanted)
        if node == own.id and not force:
            raise Busy("that is this node itself; stop it and use `sofs cluster leave`")
        if (alone := await _only_there(store, node)) and not force:
            raise Busy(
                f"only that node has a copy of the log of {', '.join(alone)}: evicted, it cannot bring that back. "
                "If its disks are lost for good, repeat this with --force"
            )
        named = [
            record.incarnation
            for entry in (await store.range(keys.VOLUMES)).entries
            if entry.key.endswith(keys.CONFIGURATION)
            for record in [ConfigurationRecord.decode(entry.value)]
            if record.coordinator == node and record.incarnation
        ]
        barred = await evict(store, node, "an operator", force=force, incarnations=named)
        return Enrolled(own.cluster, f"{node:016x}", barred.name)


async def _only_there(store: Store, node: NodeId) -> list[str]:
    """Names of the volumes of whose logs no copy that counts lies on another node's disk."""
    disks = {disk.id for entry in (await store.range(keys.DISKS)).entries if (disk := DiskRecord.decode(entry.value)).node == node}
    entries = (await store.range(keys.VOLUMES)).entries
    counted = {keys.id_of(entry.key): ConfigurationRecord.decode(entry.value).replicas for entry in entries if entry.key.endswith(keys.CONFIGURATION)}
    volumes = [VolumeRecord.decode(entry.value) for entry in entries if not entry.key.endswith(keys.CONFIGURATION)]
    return [
        volume.name
        for volume in volumes
        if (places := {replica.disk for replica in volume.replicas if replica.id in counted.get(volume.id, ())}) and places <= disks
    ]


async def find_member(store: Store, wanted: str) -> NodeId:
    """By name, or by id. Raises `NotFound`, `Busy` (a name that several have)."""
    members = (await store.range(keys.MEMBERS)).entries
    return NodeId(named([MemberRecord.decode(entry.value) for entry in members], wanted).id)


# When etcd is lost


@_at_place
async def recover_cluster(place: Place, etcd: Sequence[str]) -> Recovered:
    place.use_etcd(etcd, None)
    copy = read_copy(place.files, str(place.data))
    try:
        with place.held() as own:
            _learn_from_logs(place, copy, own)
            return await _put_back(place, own, copy, etcd)
    except _Runs:
        # Its copy is as new as anything that it knows, and nobody need notice.
        if etcd:
            raise
        return await _put_back(place, place.own, copy, etcd)


async def _put_back(place: Place, own: OwnIdentity, copy: dict[str, bytes], etcd: Sequence[str]) -> Recovered:
    async with place.store() as store:
        outcome = await restore(store, copy)
        await authority_of(store)
    if etcd:
        place.write_config()
    return Recovered(own.cluster, *outcome)


def _learn_from_logs(place: Place, copy: dict[str, bytes], own: OwnIdentity) -> None:
    """The replicas on this node's disks may know of a change that came too late for the copy."""
    from sofs.hosting.recovering import known_in_logs  # all of a volume: half a second that the other commands need not wait

    disks = [DiskRecord.decode(value) for key, value in copy.items() if key.startswith(keys.DISKS)]
    paths = [(disk.id, str(place.data / disk.path)) for disk in disks if disk.node == own.id]
    for volume, known in known_in_logs(place.files, paths).items():
        copy.setdefault(keys.volume(volume), known.volume.encode())
        key = keys.configuration(volume)
        if key not in copy or ConfigurationRecord.decode(copy[key]).version < known.configuration.version:
            copy[key] = known.configuration.encode()
