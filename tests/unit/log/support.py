"""A log on simulated disks, with a machine that only remembers what it was given."""

from collections.abc import Callable, Coroutine
from typing import Any

from sofs.errors import Fenced, Unavailable
from sofs.log.configuration import BEGINNING, Configuration, LogSettings
from sofs.log.recovery import Recovered, recover
from sofs.log.replica import LocalReplica
from sofs.log.replicated import ReplicatedLog
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.types import Level, Lsn

SEGMENT = 16 << 10
SETTINGS = LogSettings(SEGMENT, 8 * SEGMENT, sync_interval_s=1.0)


class Machine:
    """Remembers records."""

    def __init__(self) -> None:
        self.applied: list[tuple[Lsn, bytes, int]] = []

    def apply(self, lsn: Lsn, operations: bytes, address: int) -> None:
        if operations == b"impossible":
            raise AssertionError("a bug")
        self.applied.append((lsn, operations, address))

    def truncate(self, to: Lsn) -> None:
        raise NotImplementedError

    @property
    def operations(self) -> list[bytes]:
        return [operations for _, operations, _ in self.applied]


class Bench:
    """Disks with replicas, and the log over them after each `start`."""

    def __init__(self, replicas: int = 1, seed: int = 1, capacity: int = 1 << 30) -> None:
        self.files = SimulatedFiles(SimulatedRandom(seed), latency=Latency(100e-6, 2e-3), capacity=capacity)
        self.configuration = Configuration(1, tuple(range(replicas)))
        self.changes: list[Configuration] = []
        self.refuse = self.away = False
        for number in range(replicas):
            self.files.make_directory(f"/{number}")
        self.files.sync_directory("/")

    def start(self, loop: SimulatedLoop, settings: LogSettings = SETTINGS, unbroken: bool = False) -> None:
        """Recovers the log from its beginning, and opens it."""
        self.clock = SimulatedClock(loop)
        self.machine = Machine()
        self.configuration = Configuration(self.configuration.version + 1, self.configuration.replicas)
        replicas = [LocalReplica(self.files, f"/{id}", 77, id, settings.segment_size) for id in self.configuration.replicas]
        self.recovered: Recovered = recover(replicas, BEGINNING, self.configuration.version, lambda: unbroken, self.machine.apply)
        for replica in replicas:
            replica.prepare((self.recovered.end.lsn - 1) // settings.segment_size)
        self.log = ReplicatedLog(self.clock, self.machine, replicas, self.configuration, self.change, self.recovered.end, BEGINNING.lsn, settings)

    async def change(self, wanted: Configuration) -> None:
        await self.clock.sleep(0.01)
        if self.away:
            raise Unavailable("the store does not answer")
        if self.refuse or wanted.version != self.configuration.version + 1:
            raise Fenced("somebody else changed the configuration")
        self.configuration = wanted
        self.changes.append(wanted)

    async def reach(self, lsn: Lsn, level: Level) -> None:
        """Waits as a gateway does."""
        reached: list[Lsn] = []
        self.log.when(lsn, level, lambda: reached.append(lsn))
        while not reached:
            await self.clock.sleep(1e-4)

    def power_loss(self) -> None:
        self.files = self.files.after_power_loss()

    def process_death(self) -> None:
        self.files = self.files.after_process_death()

    def segment(self, replica: int, index: int) -> str:
        return f"/{replica}/{index:016x}"


def run(bench: Bench, main: Callable[[Bench], Coroutine[Any, Any, None]], unbroken: bool = False) -> None:
    """Starts the bench's log, runs `main` on it, and drops everything as the end of a process does."""

    async def started(loop: SimulatedLoop) -> None:
        bench.start(loop, unbroken=unbroken)
        await main(bench)

    simulate(started)
