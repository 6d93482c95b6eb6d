"""When an idle volume's log is destaged."""

import asyncio
from typing import Any

from sofs.log.configuration import LogSettings
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.recovery import StoreSettings
from tests.unit.volume.rig import MIB, Rig
from tests.unit.volume.test_data import pattern, run

LOG = StoreSettings(LogSettings(MIB, 16 * MIB, 0.01), CheckpointSettings(1e9, 1 << 60, 1 << 60), 1 << 28)


def waiting(rig: Rig) -> int:
    """Bytes of the log that have not been destaged."""
    return rig.store.log.end - max(rig.data.reader.destaged, rig.store.log.start)


async def fill(rig: Rig, count: int) -> None:
    """Writes so many MiB to one file."""
    for at in range(count * 4):
        await rig.write(rig.make_file(20 + at), 0, pattern(MIB // 4, at))


def test_an_idle_log_keeps_what_was_written_last_until_nobody_has_written_for_long() -> None:
    async def scenario(rig: Rig) -> None:
        await fill(rig, 6)
        rig.data.start()
        await asyncio.sleep(60)
        quarter = rig.store.log.capacity // 4
        assert quarter - MIB <= waiting(rig) <= quarter + MIB, "what is older than the newest quarter is in extents"
        kept = waiting(rig)
        await asyncio.sleep(400)
        await rig.write(rig.make_file(10), 0, pattern(MIB // 4))
        await asyncio.sleep(400)
        assert waiting(rig) >= kept, "it was written to in between"
        await asyncio.sleep(400)
        assert waiting(rig) < MIB, "now all of it is, but for less than an extent's worth"
        await rig.clean()

    run(scenario, settings=LOG, extent_size=MIB)


def test_a_log_is_settled_on_request_however_young_it_is_and_while_others_write() -> None:
    async def scenario(rig: Rig) -> None:
        await fill(rig, 5)
        rig.data.start()
        settling = asyncio.ensure_future(rig.data.cleaner.settle())
        end = rig.store.log.end
        for at in range(8):
            await asyncio.sleep(0)
            await rig.write(rig.make_file(60 + at), 0, pattern(MIB // 4, at))
        await settling
        assert rig.data.reader.destaged >= end
        assert rig.store.keyspace.checkpointed >= end
        await rig.data.cleaner.settle()
        assert waiting(rig) < MIB // 16
        assert rig.store.log.end - rig.store.log.start <= MIB, "what nobody needs any more has been given back"
        for at in range(8):
            assert await rig.read(60 + at, 0, MIB) == pattern(MIB // 4, at)
        await rig.data.cleaner.settle()
        await rig.clean()

    run(scenario, settings=LOG, extent_size=MIB)


def test_what_is_written_again_soon_is_never_moved() -> None:
    async def scenario(rig: Rig) -> None:
        file, extents = rig.make_file(10), 0
        write = rig.pool.write

        async def counted(*arguments: Any) -> Any:
            nonlocal extents
            extents += 1
            return await write(*arguments)

        rig.pool.write = counted  # type: ignore[assignment, method-assign]
        rig.data.start()
        for turn in range(80):
            await rig.write(file, 0, pattern(MIB // 4, turn))
            await asyncio.sleep(5)
        assert await rig.read(file, 0, MIB) == pattern(MIB // 4, 79)
        assert rig.data.reader.destaged > 0 and not extents, "all that was destaged was dead by then"

    run(scenario, settings=LOG, extent_size=MIB)


def test_a_busy_log_is_not_destaged_by_a_few_pages_at_a_time() -> None:
    async def scenario(rig: Rig) -> None:
        lengths: list[int] = []
        write = rig.pool.write

        async def noted(id: Any, data: Any, *arguments: Any) -> Any:
            lengths.append(sum(map(len, data)))
            return await write(id, data, *arguments)

        rig.pool.write = noted  # type: ignore[assignment, method-assign]
        rig.data.start()
        for number in range(160):
            await rig.write(rig.make_file(20 + number), 0, pattern(MIB // 4, number))
            await asyncio.sleep(0.1)
        assert lengths and min(lengths) >= MIB, "each takes whole MiB of the pool"

    run(scenario, settings=LOG, extent_size=4 * MIB)
