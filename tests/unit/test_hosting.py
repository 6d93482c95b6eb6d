"""What a node hosts, on real directories: starts with a disk missing, and with one that comes back stale."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateways.identity import Identities, domain_sid
from sofs.config import Config
from sofs.coordination import keys as store_keys
from sofs.coordination.embedded import EmbeddedStore
from sofs.errors import DiskFailed, DiskRefused, Exists, InvalidArgument, NotFound
from sofs.hosting import SYSTEM, Host, Hosted
from sofs.records import DiskRecord, Registry
from sofs.runtime.ports import Clock, Files, Random
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_process import Crash
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.volume import keys
from sofs.volume.api import Binding, Caller, GetSpace, KeepRecords, ListRecords, Records, Reply
from sofs.volume.batch import Batch

NOTE = keys.meta(b"a test's note")


@asynccontextmanager
async def hosted_on(data: Path) -> AsyncIterator[Host]:
    """The host of a data directory, opened and closed as a node does it."""
    files = SystemFiles(2)
    async with hosted(data, files, SystemClock(), SystemRandom()) as host:
        yield host
    files.close()


@asynccontextmanager
async def hosted(data: Path, files: Files, clock: Clock, random: Random) -> AsyncIterator[Host]:
    store = EmbeddedStore.open(files, clock, random, str(data / "store"))
    registry = Registry(store, random)
    host = Host("h", data, Config(), registry, files, clock, random, Identities(domain_sid(bytes(12)), []), b"boot")
    try:
        await host.open()
        yield host
    finally:
        await host.close()
        await store.close()


async def make(data: Path) -> None:
    """A mirrored volume over two disks."""
    async with hosted_on(data) as host:
        for number in range(2):
            await host.add_disk(str(data / f"disk{number}"), "ssd", "p", 2 << 30, False)
        await host.create_volume("v", "p", "mirror(2)", False)


def note(hosted: Hosted, value: bytes) -> None:
    batch = Batch()
    batch.put(NOTE, value)
    hosted.opened_store().keyspace.commit(batch)


def noted(hosted: Hosted) -> bytes | None:
    return hosted.opened_store().keyspace.get(NOTE)


async def provide(host: Host) -> None:
    """Makes what is missing, as a first start does."""
    present = {status.path for pool in host.pools.values() for status in pool.disks()}
    for number in range(2):
        if f"/data/disk{number}" not in present:
            await host.add_disk(f"/data/disk{number}", "ssd", "p", 2 << 30, False)
    if not host.volumes:
        await host.create_volume("v", "p", "mirror(2)", False)


def first_start(crash_at: int | None) -> tuple[SimulatedFiles, int]:
    """A first start that may end at some step; the files, and how many steps there were."""
    random = SimulatedRandom(crash_at or 0)
    files = SimulatedFiles(random)
    files.make_directory("/data")
    files.sync_directory("/")
    files.crash_at = crash_at

    async def main(loop: SimulatedLoop) -> None:
        context = hosted(Path("/data"), files, SimulatedClock(loop), random)
        await provide(await context.__aenter__())

    loop = SimulatedLoop()
    try:
        loop.run(main(loop))
    except Crash:
        pass
    return files, files.steps


@pytest.mark.parametrize("power_loss", [False, True])
def test_a_first_start_that_was_cut_off_anywhere_is_completed_by_the_next(power_loss: bool) -> None:
    _, steps = first_start(None)
    for crash_at in range(1, steps, max(1, steps // 16)):
        files, _ = first_start(crash_at)
        files = files.after_power_loss() if power_loss else files.after_process_death()

        async def main(loop: SimulatedLoop, files: SimulatedFiles = files) -> None:
            async with hosted(Path("/data"), files, SimulatedClock(loop), files.random) as host:
                await provide(host)
                assert host.named("v").state == ("serving", "")

        loop = SimulatedLoop()
        loop.run(main(loop))


def test_a_volume_is_served_degraded_when_one_of_its_two_disks_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        await make(tmp_path)
        shutil.move(tmp_path / "disk1", tmp_path / "away")
        async with hosted_on(tmp_path) as host:
            hosted = host.named("v")
            assert hosted.state[0] == "degraded", hosted.state
            note(hosted, b"while it was away")

    asyncio.run(main())


@pytest.mark.parametrize("force", [False, True])
def test_a_disk_that_the_cluster_has_is_not_made_anew(tmp_path: Path, force: bool) -> None:
    """As it may be asked for after it was mounted elsewhere, or put into another node: what is on it would be lost."""

    async def main() -> None:
        await make(tmp_path)
        shutil.move(tmp_path / "disk1", tmp_path / "elsewhere")
        async with hosted_on(tmp_path) as host:
            with pytest.raises(DiskRefused, match=r"belongs at .*/disk1: bring it back there, or give up what is on it first: sofs disk remove"):
                await host.add_disk(str(tmp_path / "elsewhere"), "ssd", "p", 2 << 30, force)
        shutil.move(tmp_path / "elsewhere", tmp_path / "disk1")
        async with hosted_on(tmp_path) as host:
            assert {status.state for status in host.disks.all["p"].disks()} == {"healthy"}

    asyncio.run(main())


def test_that_a_disk_is_not_what_it_was_is_a_warning_in_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        await make(tmp_path)
        shutil.move(tmp_path / "disk1", tmp_path / "away")
        with capture_logs() as said:
            async with hosted_on(tmp_path):
                pass
        assert [line["log_level"] for line in said if line["event"] == "disk state"] == ["warning"]
        shutil.move(tmp_path / "away", tmp_path / "disk1")

    asyncio.run(main())


def test_a_disk_that_comes_back_with_an_old_copy_of_the_log_is_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        await make(tmp_path)
        shutil.move(tmp_path / "disk1", tmp_path / "away")
        async with hosted_on(tmp_path) as host:
            note(host.named("v"), b"while it was away")
        shutil.move(tmp_path / "away", tmp_path / "disk1")
        async with hosted_on(tmp_path) as host:
            hosted = host.named("v")
            assert hosted.state[0] == "degraded"
            assert noted(hosted) == b"while it was away"
        # Alone, it must not bring the volume back as it was before.
        shutil.move(tmp_path / "disk0", tmp_path / "away")
        async with hosted_on(tmp_path) as host:
            state, reason = host.named("v").state
            assert state == "failed" and reason.endswith("then start the node again"), "which alone does not try again by itself"

    asyncio.run(main())


def test_a_disk_that_comes_back_gets_a_new_copy_of_the_log_in_place_of_the_old_one(tmp_path: Path) -> None:
    async def main() -> None:
        await make(tmp_path)
        shutil.move(tmp_path / "disk1", tmp_path / "away")
        async with hosted_on(tmp_path) as host:
            note(host.named("v"), b"while it was away")
            await host.redundancy.run_once()
            assert host.named("v").state[0] == "degraded", "there is no disk for another copy"
        shutil.move(tmp_path / "away", tmp_path / "disk1")
        async with hosted_on(tmp_path) as host:
            hosted = host.named("v")
            await host.redundancy.run_once()
            assert hosted.state == ("serving", "")
            note(hosted, b"since it is back")
            assert len(list((tmp_path / "disk1" / "logs").iterdir())) == 1, "the old copy is gone"
        # Now it is as good as the other.
        shutil.move(tmp_path / "disk0", tmp_path / "away")
        async with hosted_on(tmp_path) as host:
            assert noted(host.named("v")) == b"since it is back"

    asyncio.run(main())


def test_a_lost_disks_copy_of_the_log_is_made_again_on_a_third_disk(tmp_path: Path) -> None:
    async def main() -> None:
        await make(tmp_path)
        shutil.move(tmp_path / "disk0", tmp_path / "away")
        async with hosted_on(tmp_path) as host:
            note(host.named("v"), b"kept")
            await host.add_disk(str(tmp_path / "disk2"), "ssd", "p", 2 << 30, False)
            await host.redundancy.run_once()
            assert host.named("v").state == ("serving", "")
            note(host.named("v"), b"kept twice")
        shutil.move(tmp_path / "disk1", tmp_path / "away too")
        async with hosted_on(tmp_path) as host:
            assert noted(host.named("v")) == b"kept twice"

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_a_volume_outlives_a_loss_of_power_right_after_it_was_made(seed: int) -> None:
    random = SimulatedRandom(seed)
    files = SimulatedFiles(random)
    files.make_directory("/data")
    files.sync_directory("/")

    async def life(loop: SimulatedLoop, first: bool) -> None:
        clock = SimulatedClock(loop)
        context = hosted(Path("/data"), files, clock, random)
        host = await context.__aenter__()
        if first:
            for number in range(2):
                await host.add_disk(f"/data/disk{number}", "ssd", "p", 2 << 30, False)
            await host.create_volume("v", "p", "mirror(2)", False)
            return  # and never ends in order
        assert host.named("v").state == ("serving", "")
        await context.__aexit__(None, None, None)

    for first in (True, False):
        loop = SimulatedLoop()
        loop.run(life(loop, first))
        files = files.after_power_loss()


def test_a_volume_whose_log_fails_is_shown_as_failed_and_refuses_everything(tmp_path: Path) -> None:
    async def main() -> None:
        await make(tmp_path)
        async with hosted_on(tmp_path) as host:
            failed: list[str] = []
            host.on_failure = lambda volume: failed.append(volume.name)
            hosted = host.named("v")
            assert hosted.volume is not None
            log = hosted.opened_store().log
            note(hosted, b"never stable")
            for id in log.replica_ids:
                log.lose(id, DiskFailed("disk: input/output error"))
            assert failed == ["v"]
            assert hosted.state == ("failed", "disk: input/output error")
            with pytest.raises(DiskFailed, match="log has failed: disk: input/output error"):
                hosted.volume.call(GetSpace(Caller(0, 0)), None, Binding(1, 1))

    asyncio.run(main())


def test_a_node_gets_a_volume_of_its_own_with_the_first_volume_and_keeps_it_hidden(tmp_path: Path) -> None:
    async def scenario() -> None:
        await make(tmp_path)  # as by a release that had none
        async with hosted_on(tmp_path) as host:
            assert host.system() is None
            await host.ensure_system()
            system = host.system()
            assert system is not None
            record = next(hosted.record for hosted in host.volumes.values() if hosted.is_system)
            assert (record.policy, len(record.replicas)) == ("mirror(2)", 2), "as safe as what it keeps records for"
            reply = system.call(KeepRecords(((b"key", b"value"),)), None, Binding(1, 0))
            assert isinstance(reply, Reply)
            for refused in (SYSTEM, "v"):
                with pytest.raises((InvalidArgument, Exists)):
                    await host.create_volume(refused, "p", "simple", False)
            with pytest.raises(NotFound):
                host.named(SYSTEM)
        async with hosted_on(tmp_path) as host:
            await host.ensure_system()
            assert len(host.volumes) == 2
            system = host.system()
            assert system is not None
            found = system.call(ListRecords(b""), None, Binding(2, 0))
            assert isinstance(found, Records) and found.records == [(b"key", b"value")]

    asyncio.run(scenario())


def test_a_node_without_volumes_needs_none_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosted_on(tmp_path) as host:
            await host.ensure_system()
            assert not host.volumes

    asyncio.run(scenario())


def test_a_disk_that_is_drained_loses_its_copy_of_the_log_to_another_disk(tmp_path: Path) -> None:
    async def main() -> None:
        await make(tmp_path)
        async with hosted_on(tmp_path) as host:
            await host.add_disk(str(tmp_path / "disk2"), "ssd", "p", 2 << 30, False)
            hosted = host.named("v")
            note(hosted, b"kept")
            disks = {disk.path: disk.id for disk in host.pools["p"].disks()}
            leaving = disks[str(tmp_path / "disk0")]
            await host.pools["p"].drain(leaving)
            await host.redundancy.run_once()
            assert {replica.disk for replica in hosted.record.replicas} == {disks[str(tmp_path / "disk1")], disks[str(tmp_path / "disk2")]}
            assert hosted.state == ("serving", "")
            await host.redundancy.run_once()
            assert not list((tmp_path / "disk0" / "logs").glob(f"{hosted.record.id:016x}-*"))
        shutil.move(tmp_path / "disk0", tmp_path / "away")
        async with hosted_on(tmp_path) as host:
            assert noted(host.named("v")) == b"kept" and host.named("v").state == ("serving", "")

    asyncio.run(main())


def test_a_disk_that_is_removed_while_its_state_is_being_recorded_stays_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        await make(tmp_path)
        async with hosted_on(tmp_path) as host:
            added = await host.add_disk(str(tmp_path / "disk2"), "ssd", "p", 2 << 30, False)
            await host.pools["p"].drain(added.id)
            read = host.registry.disks

            async def removed_meanwhile() -> list[DiskRecord]:
                records = await read()
                await host.registry.delete(store_keys.disk(added.id), "the disk")
                return records

            monkeypatch.setattr(host.registry, "disks", removed_meanwhile)
            await host.note_states()
            assert added.id not in {record.id for record in await read()}

    asyncio.run(main())
