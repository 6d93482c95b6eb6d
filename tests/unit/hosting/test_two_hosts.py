"""Two hosts over a real etcd, real sockets and real files: a volume moves from one to the other, and whoever was deposed stops at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateways.identity import Identities, domain_sid
from sofs.cluster import Incarnation, NodeId
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.cluster.records import DeadRecord, MemberRecord
from sofs.config import Config
from sofs.coordination import Condition, Put, keys
from sofs.coordination.etcd import EtcdStore
from sofs.errors import Unavailable
from sofs.hosting import Host
from sofs.log.configuration import LeaseSettings
from sofs.records import Registry
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.runtime.system_network import SystemNetwork
from sofs.volume import keys as volume_keys
from sofs.volume.batch import Batch
from tests.contracts.etcd_server import EtcdServer, free_ports

NOTE = volume_keys.meta(b"a test's note")


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def hosts(etcd: EtcdServer, tmp_path: Path) -> AsyncIterator[list[Host]]:
    """Two, each with a disk, and a volume `v` with a replica at each, coordinated by the first."""
    ports = free_ports(2)
    async with AsyncExitStack() as stack:
        made = []
        for number, port in enumerate(ports):
            store = EtcdStore([("127.0.0.1", etcd.port)], f"{tmp_path.name}/")
            stack.push_async_callback(store.close)
            node, clock, random, files = NodeId(number + 1), SystemClock(), SystemRandom(), SystemFiles(2)
            record = MemberRecord(id=node, name=f"n{node}", host=f"h{node}", addresses=(f"127.0.0.1:{port}",))
            await store.transact([Condition(keys.member(node), 0)], [Put(keys.member(node), record.encode())])
            interconnect = NetworkInterconnect(
                clock, random, SystemNetwork(), (node, Incarnation(100 + number)), lambda node: [("127.0.0.1", ports[node - 1])]
            )
            stack.push_async_callback(interconnect.close)
            await interconnect.listen("127.0.0.1", port)
            data = tmp_path / f"n{node}"
            data.mkdir()
            host = Host(
                f"h{node}", data, Config(), Registry(store, random), files, clock, random,
                Identities(domain_sid(bytes(12)), []), b"boot", interconnect,
            )  # fmt: skip
            await host.open()
            stack.push_async_callback(host.close)
            await host.add_disk(str(data / "disk"), "ssd", "p", 2 << 30, False)
            made.append(host)
        await until(lambda: [str(disk.state) for disk in made[0].pools["p"].disks()] == ["healthy", "healthy"])
        await made[0].create_volume("v", "p", "mirror(2) across host", False)
        yield made


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - several things may bring it about
            await asyncio.sleep(0.02)


async def serves(host: Host) -> None:
    await until(lambda: any(each.record.name == "v" and each.where.local is not None for each in host.volumes.values()))


async def put(host: Host, value: bytes) -> None:
    store = host.named("v").opened_store()
    batch = Batch()
    batch.put(NOTE, value)
    await store.log.reach(store.keyspace.commit(batch))


def noted(host: Host) -> bytes | None:
    return host.named("v").opened_store().keyspace.get(NOTE)


def test_a_volume_moves_there_and_back_with_what_was_written(etcd: EtcdServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with hosts(etcd, tmp_path) as (one, other):
            assert {replica.in_sync for replica in one.describe(one.named("v").record.id).replicas} == {True}
            for source, target, name in ((one, other, "n2"), (other, one, "n1")):
                await put(source, name.encode())
                await source.move("v", name)
                await serves(target)
                assert noted(target) == name.encode()
                assert source.named("v").where.local is None

    asyncio.run(main())


def test_a_coordinator_that_is_declared_dead_and_is_not_finds_itself_deposed(etcd: EtcdServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with hosts(etcd, tmp_path) as (one, other):
            await put(one, b"before")
            deposed = one.named("v").opened_store()
            record = DeadRecord(incarnation=100, by="somebody who errs")
            await other.registry.put(keys.dead(1), record.encode(), what="a death", replace=True)
            await serves(other)
            assert noted(other) == b"before"
            await until(lambda: deposed.log.failure is not None)
            with pytest.raises(Unavailable):
                await deposed.log.reach(deposed.log.end)
            assert one.named("v").where.local is None
            # It follows, and counts again.
            await until(lambda: len(other.named("v").opened_store().log.replica_ids) == 2)

    asyncio.run(main())


def test_a_copy_whose_process_is_known_to_have_ended_is_not_waited_for(etcd: EtcdServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with hosts(etcd, tmp_path) as (one, other):
            await put(one, b"before")
            assert other.interconnect is not None
            await other.interconnect.close()
            await one.registry.put(keys.dead(2), DeadRecord(incarnation=101, by="its supervisor").encode(), what="a death")
            async with asyncio.timeout(LeaseSettings().silence_s / 2):
                await put(one, b"after")
            assert len(one.named("v").opened_store().log.replica_ids) == 1

    asyncio.run(main())
