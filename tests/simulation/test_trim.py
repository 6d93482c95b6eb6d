"""The log must not be trimmed on the strength of a batch that a loss of power can still undo."""

import pytest

from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.types import Inode
from tests.unit.volume.rig import SMALL_LOG, Rig

PIECE = 100 << 10


@pytest.mark.parametrize("seed", range(8))
def test_pages_whose_move_was_undone_are_still_in_the_log(seed: int) -> None:
    random = SimulatedRandom(seed)
    files = SimulatedFiles(random)
    # Nothing is synced unless it is asked for.
    settings = SMALL_LOG._replace(log=SMALL_LOG.log._replace(sync_interval_s=1e6))
    rig = Rig(files, SimulatedClock(SimulatedLoop()), random, disks=1, log_disks=1, policy="simple", settings=settings)
    data = random.bytes(PIECE)

    async def destage(loop: SimulatedLoop) -> None:
        rig.clock = SimulatedClock(loop)
        await rig.make()
        inode = rig.make_file(2)
        for number in range(45):
            await rig.write(inode, number * PIECE, data)
        await rig.store.log.sync()
        await rig.store.keyspace.checkpoint()
        await rig.data.cleaner.destage()
        rig.data.cleaner.trim()
        assert rig.store.log.stable < rig.store.log.end

    async def check(loop: SimulatedLoop) -> None:
        rig.clock = SimulatedClock(loop)
        await rig.open()
        await rig.clean()
        for number in range(45):
            assert await rig.read(Inode(2), number * PIECE, PIECE) == data
        await rig.close()

    simulate(destage)
    rig.files = files.after_power_loss()
    rig.boot = b"another boot"
    simulate(check)
