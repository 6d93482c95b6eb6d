"""The same seed replays a whole run: clock, disks and network together."""

import asyncio

from sofs.coordination import Put
from sofs.coordination.embedded import EmbeddedStore
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_network import SimulatedNetwork
from tests.contracts.test_network import Recorder, Server


def run(seed: int) -> list[tuple[float, str]]:
    """Some traffic and some transactions, as a trace of everything that happened and when."""

    async def main(loop: SimulatedLoop) -> list[tuple[float, str]]:
        random, trace = SimulatedRandom(seed), list[tuple[float, str]]()
        files, network = SimulatedFiles(random), SimulatedNetwork(random)
        files.make_directory("/d")
        files.on_step = lambda operation, path: trace.append((loop.time(), f"{operation} {path}"))
        store = EmbeddedStore.open(files, SimulatedClock(loop), random, "/d/store")
        server, client = Server(), Recorder()
        await network.host("b").listen("b", 9, server.accept)
        connection = await network.host("a").connect("b", 9, client)

        async def transact(number: int) -> None:
            for n in range(5):
                await asyncio.sleep(random.fraction() / 1000)
                connection.send([bytes(random.below(50) + 1)])
                await store.transact([], [Put(f"k{number}", b"%d" % n)])
                trace.append((loop.time(), f"{number} {n} {len(server.recorders[0].data)}"))

        await asyncio.gather(*(transact(number) for number in range(4)))
        await store.close()
        return trace

    return simulate(main)


def test_a_seed_replays_a_run_and_another_seed_does_not() -> None:
    assert run(5) == run(5)
    assert run(5) != run(6)
    assert len(run(5)) > 60
