"""A simulated cluster: machines, the wires between them and the coordination store, on one loop, from one seed."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sofs.coordination.embedded import EmbeddedStore
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_network import SimulatedNetwork
from sofs.runtime.simulated_process import Crash
from tests.simulation.cluster.machine import Machine, Ports
from tests.simulation.cluster.trace import Trace

__all__ = ["World", "run"]

T = TypeVar("T")


class World:
    """Made on its loop, before anything runs there."""

    def __init__(self, loop: SimulatedLoop, seed: int, loud: bool = False) -> None:
        self.loop = loop
        self.seed = seed
        self.random = SimulatedRandom(seed)
        self.trace = Trace(loud)
        self.network = SimulatedNetwork(self.random, connect_timeout=2.0, cut=0.05)
        self.machines: list[Machine[Any]] = []
        self.store: EmbeddedStore
        files = SimulatedFiles(SimulatedRandom(seed), latency=Latency(1e-4, 5e-4), miss=0.0)
        files.make_directory("/store")
        self._store_files = files

    def begin(self) -> None:
        """Opens the store; on the running loop."""
        self.store = EmbeddedStore.open(self._store_files, SimulatedClock(self.loop), SimulatedRandom(self.seed), "/store/journal")

    def end(self) -> None:
        """Ends whatever still runs."""
        for machine in self.machines:
            machine.ended = None
            if machine.up:
                machine.kill()

    def add(self, build: Callable[[Ports], Coroutine[Any, Any, T]]) -> Machine[T]:
        machine = Machine(self, len(self.machines), build)
        self.machines.append(machine)
        return machine

    async def pause(self, seconds: float) -> None:
        """Waits in true time."""
        await asyncio.sleep(seconds)

    def note(self, who: str, what: str, *fields: object) -> None:
        self.trace.note(self.loop.time(), who, what, *fields)

    @property
    def digest(self) -> int:
        """What two runs of one seed have in common."""
        return hash((self.trace.hash, self.loop.callbacks, self.loop.time(), self.random.number(64)))


def run(seed: int, main: Callable[[World], Coroutine[Any, Any, T]], loud: bool = False) -> T:
    """Runs `main(world)` in a world of its own. What any process left unattended is raised when it has ended."""
    loop = SimulatedLoop()
    world = World(loop, seed, loud)

    async def whole() -> T:
        world.begin()
        value = await main(world)
        world.end()
        return value

    with _collected():
        try:
            return loop.run(whole())
        except Crash as error:
            raise AssertionError("something crashed that is no machine") from error
        except BaseException as error:
            error.add_note(f"{world.trace.text(120)}\nat {loop.time():.6f} of seed {seed}")
            raise
        finally:
            loop.close()


@contextmanager
def _collected() -> Iterator[None]:
    """Garbage is collected between runs only: when it is in one would depend on what ran before."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
