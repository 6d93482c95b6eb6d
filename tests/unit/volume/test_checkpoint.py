"""Checkpoints and the opening of a volume's foundation, on simulated disks and on real ones."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sofs.errors import ConfigError, Damaged, DiskFailed, Fenced, NoSpace, ReadOnly, SofsError, Unavailable
from sofs.log.configuration import Configuration, LogSettings, Mark
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.system_clock import SystemClock, SystemRandom
from sofs.runtime.system_files import SystemFiles
from sofs.types import Lsn
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.checkpoint import CheckpointSettings, decode_mark, encode_mark
from sofs.volume.recovery import Incarnation, Place, Store, StoreSettings, make_store, open_store
from tests.simulation.host import LOG_ID, Host

SETTINGS = StoreSettings(LogSettings(64 << 10, 1 << 20), CheckpointSettings(interval_s=1.0, keys=100, log_bytes=1 << 20), 1 << 24)
KEY = keys.bucket(b"D", 7)


def put(store: Store, number: int, count: int = 1) -> None:
    batch = Batch()
    for index in range(count):
        batch.put(KEY + index.to_bytes(4), number.to_bytes(8))
    store.keyspace.commit(batch)


def value(store: Store, index: int = 0) -> int:
    found = store.keyspace.get(KEY + index.to_bytes(4))
    return -1 if found is None else int.from_bytes(found)


def run(host: Host, main: Callable[[SimulatedClock, Store], Coroutine[Any, Any, None]]) -> None:
    """Opens the host's volume, making it first, runs `main`, and drops everything as the end of a process does."""

    async def live(loop: SimulatedLoop) -> None:
        if host.store.configuration.version == 1:
            await make_store(host.files, host.places, LOG_ID, host.settings)
        clock, store = await host.open(loop, {})
        await main(clock, store)

    simulate(live)


def host(disks: int = 1) -> Host:
    return Host(SimulatedRandom(1), disks, SETTINGS)


def test_a_checkpoint_shortens_recovery_and_loses_nothing() -> None:
    machine = host()

    async def write(clock: SimulatedClock, store: Store) -> None:
        for number in range(50):
            put(store, number)
        await store.keyspace.checkpoint()
        assert store.keyspace.checkpointed == store.log.end
        assert len(store.keyspace.overlay) == 0
        assert value(store) == 49
        put(store, 50)
        await store.log.sync()

    async def check(clock: SimulatedClock, store: Store) -> None:
        assert value(store) == 50
        assert store.replayed == 1

    run(machine, write)
    machine.crash(power_loss=True)
    run(machine, check)


def test_batches_go_on_while_a_checkpoint_is_under_way() -> None:
    machine = host(2)

    async def write(clock: SimulatedClock, store: Store) -> None:
        put(store, 1, count=50)
        running = asyncio.ensure_future(store.keyspace.checkpoint())
        for number in range(2, 30):
            put(store, number, count=number)
            await clock.sleep(0.0005)
            assert [value(store, index) for index in range(50)] == [number] * number + [1] * (50 - number)
            assert len(list(store.keyspace.scan(KEY))) == 50
        await running
        assert [value(store, index) for index in (0, 28, 29, 49)] == [29, 29, 1, 1]

    async def check(clock: SimulatedClock, store: Store) -> None:
        assert [value(store, index) for index in (0, 28, 29, 49)] == [29, 29, 1, 1]

    run(machine, write)
    machine.crash(power_loss=False)
    run(machine, check)


def test_checkpoints_are_made_when_due() -> None:
    async def main(clock: SimulatedClock, store: Store) -> None:
        store.start()
        await clock.sleep(3)
        before = store.keyspace.checkpointed
        put(store, 1)
        await clock.sleep(0.3)
        assert store.keyspace.checkpointed == before
        await clock.sleep(2)
        assert store.keyspace.checkpointed > before, "by age"
        before = store.keyspace.checkpointed
        put(store, 2, count=100)
        await clock.sleep(0.5)
        assert store.keyspace.checkpointed > before, "by number of keys"
        await store.close()

    run(host(), main)


def test_records_that_are_full_fail_the_checkpoint_and_nothing_else() -> None:
    machine = host()

    async def main(clock: SimulatedClock, store: Store) -> None:
        machine.files.fail("commit", "/disk0", NoSpace, times=1)
        put(store, 1, count=10)
        with pytest.raises(NoSpace):
            await store.keyspace.checkpoint()
        assert [value(store, index) for index in range(10)] == [1] * 10
        assert store.log.serving()
        await store.keyspace.checkpoint()
        assert len(store.keyspace.overlay) == 0
        assert [value(store, index) for index in range(10)] == [1] * 10

    run(machine, main)


@pytest.mark.parametrize("error", [DiskFailed, Damaged, ReadOnly, NoSpace])
@pytest.mark.parametrize("disk", [0, 1])
def test_records_on_a_failing_or_full_disk_take_their_replica_along(disk: int, error: type[SofsError]) -> None:
    machine = host(2)

    async def main(clock: SimulatedClock, store: Store) -> None:
        put(store, 1, count=10)
        machine.files.fail("commit", f"/disk{disk}", error)
        await store.keyspace.checkpoint()
        await clock.sleep(1)
        assert store.log.replica_ids == (machine.places[1 - disk].id,)
        assert machine.store.configuration.replicas == store.log.replica_ids
        put(store, 2, count=5)
        await store.keyspace.checkpoint()
        assert [value(store, index) for index in range(10)] == [2] * 5 + [1] * 5

    async def check(clock: SimulatedClock, store: Store) -> None:
        assert store.log.replicas == 1
        assert [value(store, index) for index in range(10)] == [2] * 5 + [1] * 5

    run(machine, main)
    machine.crash(power_loss=True)
    run(machine, check)


def test_a_missing_disk_degrades_the_volume_and_two_missing_ones_name_the_remedy() -> None:
    machine = host(2)

    async def write(clock: SimulatedClock, store: Store) -> None:
        put(store, 1)
        await store.close()

    async def check(clock: SimulatedClock, store: Store) -> None:
        assert store.log.replicas == 1
        assert value(store) == 1
        await store.close()

    run(machine, write)
    first, second = (place.path for place in machine.places)
    machine.files.rename(f"{first}/log", f"{first}/gone")
    run(machine, check)
    machine.files.rename(f"{second}/log", f"{second}/gone")
    with pytest.raises(Unavailable, match="is its disk mounted"):
        run_opening(machine, check)
    # The first disk comes back, but is no longer trusted: the second may have been written to meanwhile.
    machine.files.rename(f"{first}/gone", f"{first}/log")
    with pytest.raises(Unavailable):
        run_opening(machine, check)


@pytest.mark.parametrize("error", [DiskFailed, ReadOnly])
def test_a_disk_that_cannot_be_written_at_the_start_degrades_the_volume(error: type[SofsError]) -> None:
    machine = host(2)

    async def write(clock: SimulatedClock, store: Store) -> None:
        put(store, 1)
        await store.close()

    async def check(clock: SimulatedClock, store: Store) -> None:
        assert store.log.replica_ids == (machine.places[1].id,)
        assert value(store) == 1
        await store.close()

    run(machine, write)
    machine.files.fail("open", machine.places[0].path, error)
    run(machine, check)


def run_opening(machine: Host, main: Callable[[SimulatedClock, Store], Coroutine[Any, Any, None]]) -> None:
    async def live(loop: SimulatedLoop) -> None:
        clock, store = await machine.open(loop, {})
        await main(clock, store)

    simulate(live)


def test_who_does_not_get_the_configuration_touches_nothing() -> None:
    machine = host()

    async def write(clock: SimulatedClock, store: Store) -> None:
        put(store, 1)
        await store.close()

    run(machine, write)
    known = machine.store.configuration
    machine.store.configuration = Configuration(known.version + 5, known.replicas)

    async def late(loop: SimulatedLoop) -> None:
        clock = SimulatedClock(loop)
        steps: list[str] = []
        machine.files.on_step = lambda operation, path: steps.append(operation)
        with pytest.raises(Fenced):
            await open_store(
                machine.files, clock, machine.random, machine.places, known,
                lambda wanted: machine.store.change(clock, machine.random, wanted),
                log_id=LOG_ID, boot=b"boot", appliers={}, settings=SETTINGS,
            )  # fmt: skip
        assert "write" not in steps and "commit" not in steps

    simulate(late)


def test_the_verifier_changes_with_a_loss_of_power_only() -> None:
    machine = host()
    seen: list[bytes] = []

    async def note(clock: SimulatedClock, store: Store) -> None:
        seen.append(store.incarnation.verifier)
        put(store, len(seen))
        await clock.sleep(0.01)

    async def note_and_close(clock: SimulatedClock, store: Store) -> None:
        await note(clock, store)
        await store.close()

    run(machine, note)
    machine.crash(power_loss=False)
    run(machine, note)
    machine.crash(power_loss=True)
    run(machine, note_and_close)
    machine.crash(power_loss=True)
    run(machine, note)
    assert len(seen[0]) == 8
    assert seen[0] == seen[1], "the process died: the page cache has everything"
    assert seen[1] != seen[2], "power was lost"
    assert seen[2] == seen[3], "power was lost, but the volume had been closed"


def test_a_volume_is_not_made_over_another() -> None:
    machine = host()

    async def twice(loop: SimulatedLoop) -> None:
        await make_store(machine.files, machine.places, LOG_ID, SETTINGS)
        with pytest.raises(ConfigError, match="already holds"):
            await make_store(machine.files, machine.places, LOG_ID, SETTINGS)

    simulate(twice)


def test_marks_and_incarnations_come_back_or_are_damage() -> None:
    mark = Mark(Lsn(4096), 17, 3)
    data = encode_mark(mark)
    assert decode_mark(data) == mark
    for length in range(len(data)):
        with pytest.raises(Damaged):
            decode_mark(data[:length])
    for at in range(len(data)):
        with pytest.raises(Damaged):
            decode_mark(data[:at] + bytes((data[at] ^ 4,)) + data[at + 1 :])
    incarnation = Incarnation(b"12345678", b"boot", True)
    data = incarnation.encode()
    assert Incarnation.decode(data) == incarnation
    for length in range(len(data)):
        with pytest.raises(Damaged):
            Incarnation.decode(data[:length])


def test_the_same_on_real_files(tmp_path: Path) -> None:
    places = [Place(1, str(tmp_path / "a")), Place(2, str(tmp_path / "b"))]
    configuration = Configuration(1, (1, 2))

    async def change(wanted: Configuration) -> None:
        nonlocal configuration
        assert wanted.version == configuration.version + 1
        configuration = wanted

    async def opened(files: SystemFiles) -> Store:
        return await open_store(
            files, SystemClock(), SystemRandom(), places, configuration, change,
            log_id=5, boot=b"boot", appliers={}, settings=SETTINGS,
        )  # fmt: skip

    async def live() -> None:
        files = SystemFiles()
        await make_store(files, places, 5, SETTINGS)
        for generation in range(4):
            store = await opened(files)
            assert value(store) == generation - 1
            with pytest.raises(Unavailable, match="in use"):
                await opened(files)
            put(store, generation)
            store.start()
            await store.close()
        files.close()

    asyncio.run(live())


def test_a_disk_that_fails_while_opening_is_left_out() -> None:
    for after in range(12):
        for operation in ("sync", "write", "read", "name"):
            machine = host(2)

            async def write(clock: SimulatedClock, store: Store) -> None:
                for number in range(10):
                    put(store, number)
                await store.log.sync()

            async def check(clock: SimulatedClock, store: Store) -> None:
                assert value(store) == 9
                put(store, 10)
                await store.log.sync()
                assert value(store) == 10

            run(machine, write)
            machine.crash(power_loss=True)
            machine.files.fail(operation, "/disk1", DiskFailed, after=after)
            run(machine, check)
