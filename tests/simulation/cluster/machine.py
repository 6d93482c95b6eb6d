"""One host of a simulated cluster: its clock, disks, wires, way to the store, and the process that runs on it, over any number of ends and starts.

A process is made by a function that is given the machine's ports, runs in the process's context, and returns what the workloads talk to. A new one
starts from what its predecessor left: everything in the page cache after a kill, what a power loss leaves otherwise.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sofs.errors import NotDirectory, SofsError
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedRandom
from sofs.runtime.simulated_network import SimulatedHost
from sofs.runtime.simulated_process import Crash, SimulatedProcess
from tests.simulation.cluster.channel import Channel, Line

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

__all__ = ["DATA", "DRIFT", "Gone", "Machine", "Ports"]

N = TypeVar("N")
T = TypeVar("T")

DATA = "/data"
"""A node's data directory, with its disks in it."""
DRIFT = 0.005
"""A clock's rate is off by at most so much, so that two of them drift apart by at most 1 %."""


class Gone(Exception):
    """The process that was asked has ended, or does not run."""


@dataclass
class Ports:
    """What a node's process is given. Its store is new with each process."""

    clock: SimulatedClock
    random: SimulatedRandom
    files: SimulatedFiles
    network: SimulatedHost
    store: Channel
    address: str
    boot: bytes
    number: int
    """The machine's."""
    exit: Callable[[str], None]
    """The process is to end, for a reason; its supervisor starts it again."""
    hang_up: Callable[[], None]
    """The connections of all its clients are to be closed: what they have asked may never be answered."""


class Machine(Generic[N]):
    """A host. `node` is what its process made, while that runs."""

    def __init__(self, world: "World", number: int, build: Callable[[Ports], Coroutine[Any, Any, N]]) -> None:
        self.world = world
        self.number = number
        self.name = f"n{number}"
        self.build = build
        self.line = Line()
        self.files = SimulatedFiles(world.random, latency=Latency(100e-6, 1e-3), miss=0.02)
        self.drift = (2 * world.random.fraction() - 1) * DRIFT
        self.boots = 0
        self.starts = 0
        self.powered = True
        self.process: SimulatedProcess | None = None
        self.node: N | None = None
        self.ended: Callable[[Machine[N]], None] | None = None
        """Called whenever its process has ended."""
        self._fate = "kill"
        self._asked: dict[asyncio.Future[Any], None] = {}
        self._boot()

    @property
    def boot(self) -> bytes:
        return b"boot %d of %d" % (self.boots, self.number)

    @property
    def up(self) -> bool:
        return self.process is not None

    @property
    def paused(self) -> bool:
        return self.process is not None and not self.process.running

    def _boot(self) -> None:
        self.boots += 1
        self.clock = SimulatedClock(self.world.loop, drift=self.drift, uptime=10.0 - self.world.loop.time())

    def note(self, what: str, *fields: object) -> None:
        self.world.note(self.name, what, *fields)

    # Life and death

    def start(self) -> None:
        """Starts a process, booting first if there is no power."""
        assert self.process is None
        if not self.powered:
            self.powered = True
            self._boot()
            self.world.network.power_up(self.name)
        self.starts += 1
        process = self.process = SimulatedProcess(f"{self.name}.{self.starts}")
        process.on_end = self._ended
        self.note("start", self.boot)
        store = Channel(self.world.store, self.line, self.world.random, self.note)
        network = self.world.network.host(self.name)
        ports = Ports(self.clock, self.world.random, self.files, network, store, self.name, self.boot, self.number, self._exit, self._hang_up)
        process.start(self.world.loop, self._main(process, ports))

    def _exit(self, reason: str) -> None:
        self.note("exits", reason)

        def end() -> None:
            self._fate = "exit"
            raise Crash

        self.world.loop.call_soon(end)

    def _hang_up(self) -> None:
        asked, self._asked = self._asked, {}
        self.note("hangs up on", len(asked))
        for outcome in asked:
            if not outcome.done():
                outcome.set_exception(Gone(self.name))

    def _start_again(self) -> None:
        if not self.up and self.powered:
            self.start()

    async def _main(self, process: SimulatedProcess, ports: Ports) -> None:
        try:
            node = await self.build(ports)
        except SofsError as error:
            self.note("does not start", type(error).__name__, str(error))
            self._fate = "exit"
            raise Crash from None
        assert self.process is process
        self.node = node
        self.note("ready")
        await asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        """kill -9."""
        self._end("kill")

    def lose_power(self) -> None:
        if self.process is None:
            if self.powered:
                self._lose_power()
            return
        self._end("power")

    def _end(self, fate: str) -> None:
        assert self.process is not None
        self._fate = fate
        self.process.end()

    def crash_at_step(self, steps: int, fate: str) -> None:
        """Ends it by `fate` (`kill`, `power`) when it makes the so-manieth change of a disk from now on."""
        self._fate = fate
        self.files.crash_at = self.files.steps + steps

    def _ended(self) -> None:
        fate, self._fate = self._fate, "kill"
        self.note("ended", fate)
        if fate == "exit":
            # As its supervisor has it.
            self.world.loop.call_later(1.0, self._start_again)
        self.process = self.node = None
        self._hang_up()
        if fate == "power":
            self._lose_power()
        else:
            self.files = self._successor(self.files.after_process_death())
            self.world.network.crash(self.name)
        if self.ended is not None:
            self.ended(self)

    def _lose_power(self) -> None:
        self.powered = False
        self.files = self._successor(self.files.after_power_loss())
        self.world.network.power_loss(self.name)

    def _successor(self, files: SimulatedFiles) -> SimulatedFiles:
        # A disk that failed stays so until somebody mends it.
        files.faults = self.files.faults
        return files

    # Being stopped for a while

    def pause(self) -> None:
        if self.process is not None:
            self.note("pause")
            self.process.pause()

    def resume(self) -> None:
        if self.process is not None:
            self.note("resume")
            self.process.resume(self.world.loop)

    def written(self, path: str) -> list[str]:
        """Files below a path of which pages have been written, by name."""
        found = []
        for name in self.files.list(path):
            below = f"{path}/{name}"
            try:
                found += self.written(below)
            except NotDirectory:
                found.append(below)
            except AssertionError:
                pass  # records have no pages
        return found

    # Being asked

    async def ask(self, work: Callable[[N], Awaitable[T]]) -> T:
        """Does `work` in its process, for somebody elsewhere. Raises `Gone`, and what it raised.

        Who stops waiting does not stop the work: it is at the other end of a wire.
        """
        if self.process is None or self.node is None:
            raise Gone(self.name)
        node, process = self.node, self.process
        outcome: asyncio.Future[T] = self.world.loop.create_future()
        self._asked[outcome] = None

        async def run() -> None:
            try:
                value = await work(node)
            except Exception as error:
                # What code says to being thrown away where it stands, nobody hears.
                if not outcome.done() and not process.ended:
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(value)

        task = self.process.start(self.world.loop, run())
        try:
            return await outcome
        finally:
            self._asked.pop(outcome, None)
            del task

    async def until_ready(self) -> N:
        while self.node is None:  # noqa: ASYNC110 - it may end and start again meanwhile
            await asyncio.sleep(0.01)
        return self.node
