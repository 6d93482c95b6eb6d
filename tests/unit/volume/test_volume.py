"""The volume put together: formats, handlers, start and end."""

import pytest

from sofs.errors import ConfigError, Exists
from sofs.types import ROOT, Level
from sofs.volume import api
from sofs.volume.batch import Batch
from sofs.volume.format import FORMAT, UPCASE, make_volume
from sofs.volume.handlers import HANDLERS
from tests.unit.volume.volume_rig import VolumeRig, run


def test_every_request_has_a_handler() -> None:
    assert set(api.Request.__subclasses__()) == set(HANDLERS)


def test_a_volume_is_formatted_once() -> None:
    async def scenario(rig: VolumeRig) -> None:
        with pytest.raises(Exists):
            await make_volume(rig.store, rig.clock, rig.random)
        assert rig.stat(ROOT).mode == 0o777

    run(scenario)


@pytest.mark.parametrize(("key", "value"), [(FORMAT, None), (FORMAT, b"sofs-volume-1"), (UPCASE, b"unicode-15.0-simple-1")])
def test_a_format_that_is_not_ours_is_not_opened(key: bytes, value: bytes | None) -> None:
    async def scenario(rig: VolumeRig) -> None:
        keyspace = rig.store.keyspace
        kept = keyspace.get(key)
        assert kept is not None
        batch = Batch()
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
        keyspace.commit(batch)
        with pytest.raises(ConfigError):
            rig.mount()
        batch = Batch()
        batch.put(key, kept)
        keyspace.commit(batch)

    run(scenario)


def test_the_verifier_outlives_an_orderly_restart() -> None:
    async def scenario(rig: VolumeRig) -> None:
        before = rig.volume.verifier
        assert 0 <= before < 1 << 64
        await rig.reopen()
        assert rig.volume.verifier == before

    run(scenario)


def test_a_reply_is_told_when_its_gate_opens() -> None:
    async def scenario(rig: VolumeRig) -> None:
        told: list[Level] = []
        rig.make_name(b"x")
        gate = rig.remove(b"x").gate
        rig.volume.when(gate, Level.STABLE, lambda: told.append(Level.STABLE))
        rig.volume.when(gate, Level.COMMITTED, lambda: told.append(Level.COMMITTED))
        assert told == []
        await rig.clock.sleep(2)
        assert told == [Level.COMMITTED, Level.STABLE]

    run(scenario)


def test_background_work_runs_and_ends_with_the_volume() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.volume.start()
        opened = rig.open_name(b"x")
        rig.remove(b"x")
        await rig.reopen()
        rig.volume.start()
        await rig.clock.sleep(1)
        assert rig.stat(ROOT).size == 0
        assert rig.volume.core.get(b"I" + opened.attributes.inode.to_bytes(8)) is None

    run(scenario)
