"""`sofs cluster init|token|join|leave|evict|recover`, with a real etcd and data directories whose nodes do not run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sofs.cli import enrolment
from sofs.cluster import NodeId
from sofs.cluster.authority import node_of
from sofs.cluster.founding import Token
from sofs.cluster.own import load as load_own
from sofs.cluster.records import DeadRecord, MemberRecord
from sofs.cluster.recovery import FILE, RecordsCopy, older, read_copy, restore
from sofs.config import load
from sofs.coordination import Entry, Put, keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.coordination.etcd import EtcdStore
from sofs.errors import AccessDenied, Busy, ConfigError, InvalidArgument, NotFound, Unavailable
from sofs.records import ConfigurationRecord, DiskRecord, ReplicaRecord, VolumeRecord
from sofs.runtime.ports import Connection
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_network import SystemNetwork
from sofs.runtime.system_tls import Tls
from tests.contracts.etcd_server import EtcdServer
from tests.simulation.cluster_net import on_loopback


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


class Etcd:
    """The part of it that one test has."""

    def __init__(self, server: EtcdServer, prefix: str) -> None:
        self.endpoint = f"127.0.0.1:{server.port}"
        self.prefix = prefix
        self._port = server.port

    def entries(self) -> dict[str, Entry]:
        async def read() -> dict[str, Entry]:
            store = self.store()
            try:
                return {entry.key: entry for entry in (await store.range("")).entries}
            finally:
                await store.close()

        return asyncio.run(read())

    def put(self, key: str, value: bytes) -> None:
        async def write() -> None:
            store = self.store()
            try:
                await store.transact([], [Put(key, value)])
            finally:
                await store.close()

        asyncio.run(write())

    def store(self) -> EtcdStore:
        return EtcdStore([("127.0.0.1", self._port)], self.prefix)


@pytest.fixture
def etcd(server: EtcdServer, request: pytest.FixtureRequest) -> Etcd:
    return Etcd(server, request.node.name + "/")


def init(data: Path, etcd: Etcd, name: str = "one") -> enrolment.Enrolled:
    return enrolment.found_cluster(data, [etcd.endpoint], etcd.prefix, ["127.0.0.1:4701"], name)


def join(data: Path, token: str, name: str, port: int = 4702) -> enrolment.Enrolled:
    return enrolment.join_cluster(data, token, [f"127.0.0.1:{port}"], name)


DISK = DiskRecord(id=7, path="disks/ssd0", tier="ssd", pool="default", host="old")
CONFIGURATION = ConfigurationRecord(version=4, replicas=(1,))


def single_node(data: Path, users: int = 200) -> None:
    """A data directory with an embedded store, as `sofs quickstart` leaves it."""

    async def fill() -> None:
        data.mkdir()
        store = EmbeddedStore.open(SystemFiles(), SystemClock(), SystemRandom(), str(data / "store"))
        await store.transact([], [Put(keys.disk(7), DISK.encode()), Put(keys.configuration(9), CONFIGURATION.encode())])
        for number in range(users):
            await store.transact([], [Put(keys.user(f"u{number}"), b"%d" % number)])
        await store.close()

    asyncio.run(fill())


def embedded(data: Path) -> dict[str, Entry]:
    async def read() -> dict[str, Entry]:
        store = EmbeddedStore.open(SystemFiles(), SystemClock(), SystemRandom(), str(data / "store"))
        try:
            return {entry.key: entry for entry in (await store.range("")).entries}
        finally:
            await store.close()

    return asyncio.run(read())


def with_copy(data: Path, etcd: Etcd) -> None:
    """Has the node copy the records, as it does while it runs."""

    async def follow() -> None:
        store = etcd.store()
        task = asyncio.create_task(RecordsCopy(SystemFiles(), SystemClock(), str(data)).follow(store))
        for _ in range(200):
            if read_copy(SystemFiles(), str(data)):
                break
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()

    asyncio.run(follow())


def test_a_single_nodes_records_become_the_clusters(tmp_path: Path, etcd: Etcd) -> None:
    data = tmp_path / "one"
    single_node(data)
    done = init(data, etcd)
    assert done.copied == 202 and done.name == "one"
    entries = etcd.entries()
    own = load_own(SystemFiles(), str(data))
    assert own is not None and own.cluster == done.cluster and f"{own.id:016x}" == done.node
    assert sum(key.startswith(keys.USERS) for key in entries) == 200
    assert DiskRecord.decode(entries[keys.disk(7)].value) == DiskRecord(id=7, path="disks/ssd0", tier="ssd", pool="default", host="one", node=own.id)
    configuration = ConfigurationRecord.decode(entries[keys.configuration(9)].value)
    assert (configuration.version, configuration.coordinator) == (4, own.id)
    assert MemberRecord.decode(entries[keys.member(own.id)].value).addresses == ("127.0.0.1:4701",)
    config = load(data / "conf" / "sofs.toml")
    assert (config.coordination.kind, config.coordination.endpoints, config.cluster.addresses) == ("etcd", [etcd.endpoint], ["127.0.0.1:4701"])
    assert embedded(data)[keys.HANDED_OVER].value.decode() == done.cluster
    again = enrolment.found_cluster(data, [], None, [], None)
    assert again.cluster == done.cluster and etcd.entries().keys() == entries.keys()


def test_further_nodes_join_by_tokens_and_trust_each_other(tmp_path: Path, etcd: Etcd) -> None:
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    done = init(one, etcd)
    token = enrolment.make_token(one, False, 3600)
    joined = join(two, token, "two")
    assert joined.cluster == done.cluster
    with pytest.raises(AccessDenied, match="was used"):
        join(three, token, "three")
    config = load(two / "conf" / "sofs.toml")
    assert (config.coordination.endpoints, config.coordination.prefix, config.node.name) == ([etcd.endpoint], etcd.prefix, "two")

    async def talk() -> None:
        def identify(connection: Connection) -> NodeId | None:
            found = node_of(done.cluster, connection.names)
            return {int(done.node, 16): NodeId(1), int(joined.node, 16): NodeId(2)}.get(found or 0)

        nodes = await on_loopback(2, [SystemNetwork(tls=Tls.open(path)) for path in (one, two)], identify=identify)
        from sofs.cluster import Answer

        nodes[1].serve("echo", lambda asked: Answer(bytes(asked.body)))
        assert bytes((await nodes[0].peer(NodeId(2)).call("echo", b"x")).body) == b"x"
        for node in nodes:
            await node.close()

    asyncio.run(talk())
    reusable = enrolment.make_token(one, True, 3600)
    join(three, reusable, "three", 4703)
    with pytest.raises(InvalidArgument, match="no join token"):
        join(tmp_path / "four", reusable[:-3], "four")
    with pytest.raises(InvalidArgument, match="--address"):
        enrolment.join_cluster(tmp_path / "four", reusable, [], None)
    single_node(tmp_path / "five")
    with pytest.raises(Busy, match="holds disks"):
        join(tmp_path / "five", reusable, "five")


def test_a_member_whose_etcd_was_lost_founds_no_second_cluster(tmp_path: Path, server: EtcdServer, etcd: Etcd) -> None:
    data = tmp_path / "one"
    single_node(data, users=2)
    done = init(data, etcd)
    with_copy(data, etcd)
    emptied = Etcd(server, etcd.prefix + "new/")
    config = data / "conf" / "sofs.toml"
    config.write_text(config.read_text().replace(etcd.prefix, emptied.prefix))
    with pytest.raises(ConfigError, match=f"belongs to cluster {done.cluster}.*sofs cluster recover"):
        enrolment.found_cluster(data, [], None, [], None)
    assert not emptied.entries()
    assert enrolment.recover_cluster(data, [etcd.endpoint]).restored > 3


def test_a_prefix_ends_with_a_slash(tmp_path: Path, etcd: Etcd) -> None:
    with pytest.raises(InvalidArgument, match="ends with /"):
        enrolment.found_cluster(tmp_path / "one", [etcd.endpoint], etcd.prefix[:-1], ["127.0.0.1:1"], None)
    assert not (tmp_path / "one").exists()


def test_a_token_whose_etcd_is_elsewhere_for_this_host_says_so_and_is_good_with_another_address(tmp_path: Path, etcd: Etcd) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    init(one, etcd)
    config = one / "conf" / "sofs.toml"
    token = Token.decode(enrolment.make_token(one, False, 3600))
    text = Token(token.cluster, ("127.0.0.1:1",), token.prefix, token.id, token.secret, token.fingerprint).encode()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1; --etcd"):
        join(two, text, "two")
    joined = enrolment.join_cluster(two, text, ["127.0.0.1:4702"], "two", [etcd.endpoint])
    assert joined.name == "two" and load(two / "conf" / "sofs.toml").coordination.endpoints == [etcd.endpoint] == load(config).coordination.endpoints


def test_a_command_leaves_nothing_in_a_directory_that_is_no_nodes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not of a cluster's member"):
        enrolment.make_token(tmp_path, False, 60)
    assert not list(tmp_path.iterdir())


def test_commands_wait_for_no_running_node(tmp_path: Path, etcd: Etcd) -> None:
    data = tmp_path / "one"
    init(data, etcd)
    lock = SystemFiles().lock(str(data / "incarnation"))
    for command in (lambda: init(data, etcd), lambda: enrolment.leave_cluster(data), lambda: enrolment.recover_cluster(data, ["127.0.0.1:1"])):
        with pytest.raises(Busy, match="stop it first"):
            command()
    enrolment.make_token(data, False, 60)  # needs no stop
    lock.close()


def test_what_is_no_member_says_so(tmp_path: Path, etcd: Etcd) -> None:
    with pytest.raises(ConfigError, match="sofs cluster init"):
        enrolment.make_token(tmp_path / "none", False, 60)
    with pytest.raises(InvalidArgument, match="--etcd"):
        enrolment.found_cluster(tmp_path / "one", [], None, ["127.0.0.1:1"], None)


def test_nodes_leave_and_are_evicted(tmp_path: Path, etcd: Etcd) -> None:
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    init(one, etcd)
    token = enrolment.make_token(one, True, 3600)
    second, third = join(two, token, "two"), join(three, token, "three", 4703)
    id = int(second.node, 16)
    etcd.put(keys.disk(5), DiskRecord(id=5, path="x", tier="ssd", pool="p", host="two", node=id).encode())
    with pytest.raises(Busy, match="1 disk"):
        enrolment.leave_cluster(two)
    etcd.put(keys.disk(5), DiskRecord(id=5, path="x", tier="ssd", pool="p", host="two", node=1).encode())
    enrolment.leave_cluster(two)
    assert keys.member(id) not in etcd.entries()
    own = load_own(SystemFiles(), str(two))
    assert own is not None and own.cluster == ""
    # The third one was lost: only volumes' configurations know its last process.
    lost = int(third.node, 16)
    etcd.put(keys.configuration(1), ConfigurationRecord(version=1, replicas=(1,), coordinator=lost, incarnation=77).encode())
    with pytest.raises(NotFound, match="sofs node list"):
        enrolment.evict_member(one, "nobody", False)
    etcd.put(keys.disk(6), DiskRecord(id=6, path="y", tier="ssd", pool="p", host="three", node=lost).encode())
    replicas = (ReplicaRecord(id=1, disk=6), ReplicaRecord(id=2, disk=5))
    etcd.put(keys.volume(1), VolumeRecord(id=1, name="alone", pool="p", policy="none", log_id=1, replicas=replicas).encode())
    with pytest.raises(Busy, match="the log of alone"):
        enrolment.evict_member(one, "three", False)
    etcd.put(keys.configuration(1), ConfigurationRecord(version=2, replicas=(1, 2), coordinator=lost, incarnation=77).encode())
    enrolment.evict_member(one, "three", False)
    entries = etcd.entries()
    assert MemberRecord.decode(entries[keys.member(lost)].value).state == "evicted"
    assert keys.dead(lost) not in entries, "nothing proves that its process has ended"
    enrolment.evict_member(one, "three", True)
    assert DeadRecord.decode(etcd.entries()[keys.dead(lost)].value).incarnation == 77


def test_a_lost_etcd_is_put_back_from_the_nodes_copies(tmp_path: Path, server: EtcdServer, etcd: Etcd) -> None:
    one = tmp_path / "one"
    single_node(one)
    done = init(one, etcd)

    with_copy(one, etcd)
    assert (one / FILE).stat().st_mode & 0o777 == 0o600
    before = {key: entry.value for key, entry in etcd.entries().items()}
    copy = read_copy(SystemFiles(), str(one))
    assert copy == before
    fresh = Etcd(server, "fresh/")

    async def scene() -> None:
        store = fresh.store()
        lower = ConfigurationRecord(version=3, replicas=(2,)).encode()
        await store.transact([], [Put(keys.configuration(9), lower)])
        assert "is at version 3 there, and was at 4" in await older(store, copy)
        outcome = await restore(store, copy)
        assert (outcome.restored, outcome.raised, outcome.kept) == (len(copy) - 1, 1, 0)
        assert {entry.key: entry.value for entry in (await store.range("")).entries} == before
        assert await older(store, copy) == ""
        # Another node knows a newer configuration; what this one knows does not take it back.
        higher = ConfigurationRecord(version=6, replicas=(2,)).encode()
        assert (await restore(store, {**copy, keys.configuration(9): higher})).raised == 1
        assert (await restore(store, copy)) == (0, 0, len(copy))
        entry = await store.get(keys.configuration(9))
        assert entry is not None and entry.value == higher
        with pytest.raises(ConfigError, match="another cluster"):
            await restore(store, {**copy, keys.CLUSTER: b'{"id":"other"}'})
        with pytest.raises(ConfigError, match="no copy"):
            await restore(store, {})
        await store.close()

    asyncio.run(scene())
    config = one / "conf" / "sofs.toml"
    config.write_text(config.read_text().replace(etcd.prefix, "fresh/"))
    again = enrolment.recover_cluster(one, [])
    assert again.cluster == done.cluster and again.restored == 0


def test_an_etcd_that_lost_its_data_does_not_take_the_copy_with_it(tmp_path: Path, etcd: Etcd) -> None:
    data = tmp_path / "one"
    init(data, etcd)

    async def scene() -> None:
        store = etcd.store()
        copy = RecordsCopy(SystemFiles(), SystemClock(), str(data))
        task = asyncio.create_task(copy.follow(store))
        await asyncio.sleep(1.5)
        before = read_copy(SystemFiles(), str(data))
        assert keys.CLUSTER in before
        from sofs.coordination import Delete

        await store.transact([], [Delete(key) for key in before])
        await asyncio.sleep(1.5)
        assert read_copy(SystemFiles(), str(data)) == before
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()

    asyncio.run(scene())
