"""One volume, used from another node."""

from collections.abc import Awaitable, Callable
from typing import Any

from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from tests.unit.volume.remote.far_rig import FarRig


def run(scenario: Callable[[FarRig], Awaitable[None]], **options: Any) -> None:
    loop = SimulatedLoop()
    random = SimulatedRandom(1)
    rig = FarRig(SimulatedFiles(random), SimulatedClock(loop), random, **options)

    async def main() -> None:
        await rig.make()
        await scenario(rig)
        await rig.clean()
        await rig.close()

    loop.run(main())


def test_requests_are_carried_out_at_the_coordinator() -> None:
    async def scenario(rig: FarRig) -> None:
        inode = rig.make_name(b"f", mode=0o666)
        await rig.put(rig.smb(b"f").open, 0, b"hello")
        opened = rig.smb(b"f")
        assert await rig.content(opened.open) == b"hello"
        assert rig.stat(inode).size == 5
        assert rig.names() == {b"f"}
        assert rig.between.near.verifier == rig.between.far.verifier == rig.local.verifier

    run(scenario)
