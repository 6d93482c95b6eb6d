"""A coordination store that is older than the volume, such as one brought back from a backup, is refused: by it, the newest changes were never made."""

from collections.abc import Callable

import pytest

from sofs.errors import Fenced
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from tests.unit.volume.rig import Rig


@pytest.mark.parametrize("crash", [None, SimulatedFiles.after_process_death, SimulatedFiles.after_power_loss])
def test_a_store_that_is_older_than_the_log_is_refused_and_nothing_is_cut_off(crash: Callable[[SimulatedFiles], SimulatedFiles] | None) -> None:
    random = SimulatedRandom(1)
    loop = SimulatedLoop()
    rig = Rig(SimulatedFiles(random), SimulatedClock(loop), random)

    async def write() -> None:
        await rig.make()
        old = rig.configuration
        await rig.close()
        await rig.open()
        file = rig.make_file(2)
        await rig.write(file, 0, b"new")
        await rig.store.log.sync()
        if crash is None:
            await rig.close()
        newest.append(rig.configuration)
        rig.configuration = old

    async def read() -> None:
        with pytest.raises(Fenced, match="older"):
            await rig.open()
        rig.configuration = newest[0]
        await rig.open()
        assert await rig.read(2, 0, 3) == b"new"  # type: ignore[arg-type]
        await rig.close()

    newest = []
    loop.run(write())
    if crash is not None:
        rig.files = crash(rig.files)  # type: ignore[arg-type]
    loop = SimulatedLoop()
    rig.clock = SimulatedClock(loop)
    loop.run(read())
