"""A host that crashes: what it keeps over crashes, what may fail, and how its log and key space are opened.

Every crash is one of two kinds. Power loss: unsynced sectors are kept or lost at random, and the next start has another boot
id. Process death: the page cache survives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sofs.errors import Fenced, Unavailable
from sofs.log.configuration import Configuration, LogSettings
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.volume.batch import Apply
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.rebuild import add_replica
from sofs.volume.recovery import Place, Store, StoreSettings, open_store

__all__ = ["ConfigurationStore", "Host"]

LOG_ID = 0x50F5


@dataclass
class ConfigurationStore:
    """The coordination store as a volume sees it: compare-and-set, whose outcome may come late."""

    configuration: Configuration
    trouble: float = 0.0
    """How probably it does not answer."""

    async def change(self, clock: SimulatedClock, random: SimulatedRandom, wanted: Configuration) -> None:
        await clock.sleep(random.fraction() * 0.01)
        if random.chance(self.trouble):
            raise Unavailable("the store does not answer")
        if wanted == self.configuration:
            return
        if wanted.version != self.configuration.version + 1:
            raise Fenced(f"version {wanted.version} does not follow {self.configuration.version}")
        self.configuration = wanted
        await clock.sleep(random.fraction() * 0.01)
        if random.chance(self.trouble):
            raise Unavailable("the store's answer was lost")


@dataclass
class Host:
    """One host with one or two disks for a volume's log."""

    random: SimulatedRandom
    disks: int
    settings: StoreSettings
    files: SimulatedFiles = field(init=False)
    store: ConfigurationStore = field(init=False)
    places: list[Place] = field(init=False)
    """Of every replica there ever was, but only the newest of each disk."""
    boots: int = 1
    power_lost: bool = False
    """Since the state was last verified."""

    def __post_init__(self) -> None:
        self.files = SimulatedFiles(self.random, latency=Latency(100e-6, 2e-3))
        self.places = [Place(0x100 + number, f"/disk{number}/log-{number}") for number in range(self.disks)]
        for number, place in enumerate(self.places):
            self.files.make_directory(place.path)
            self.files.sync_directory(f"/disk{number}")
        self.files.sync_directory("/")
        self.store = ConfigurationStore(Configuration(1, tuple(place.id for place in self.places)))

    @property
    def boot(self) -> bytes:
        return f"boot {self.boots}".encode()

    async def rebuild(self, store: Store) -> None:
        """Has a new replica take the place of one that is lost, on the same disk."""
        number = next(number for number, place in enumerate(self.places) if place.id not in self.store.configuration.replicas)
        place = Place(self.random.number(40) + 0x200, "")
        place = place._replace(path=f"/disk{number}/log-{place.id:x}")
        # Noted first, as a node does in its records: a place that the configuration does not name is left alone.
        self.places[number] = place
        await add_replica(store, place, self.boot)

    async def open(self, loop: SimulatedLoop, appliers: Mapping[int, Apply]) -> tuple[SimulatedClock, Store]:
        clock = SimulatedClock(loop)
        store = await open_store(
            self.files,
            clock,
            self.random,
            self.places,
            self.store.configuration,
            lambda wanted: self.store.change(clock, self.random, wanted),
            log_id=LOG_ID,
            boot=self.boot,
            appliers=appliers,
            settings=self.settings,
        )
        return clock, store

    def crash(self, power_loss: bool) -> None:
        """The end of everything that runs; the next `open` finds what is left."""
        self.power_lost |= power_loss
        if power_loss:
            self.files = self.files.after_power_loss()
            self.boots += 1
        else:
            self.files = self.files.after_process_death()
        self.files.faults.clear()

    def segments(self, disk: int) -> list[str]:
        path = f"{self.places[disk].path}/log"
        return [f"{path}/{name}" for name in self.files.list(path)]

    def flip_bits(self, disk: int, count: int) -> None:
        """Flips bits of the log on one disk, wherever."""
        for _ in range(count):
            names = self.segments(disk)
            if not names:
                return
            name = names[self.random.below(len(names))]
            file = self.files.open(name)
            if file.size:
                self.files.flip(name, self.random.below(file.size), self.random.below(8))
            file.close()


def small_settings(random: SimulatedRandom) -> StoreSettings:
    """Settings under which everything happens often: full segments, recycling, a full log, checkpoints."""
    segment = (16 << 10, 32 << 10, 64 << 10)[random.below(3)]
    log = LogSettings(segment, segment * (4 + random.below(8)), sync_interval_s=0.05 + random.fraction() * 0.1)
    return StoreSettings(log, CheckpointSettings(interval_s=0.1 + random.fraction(), keys=50 + random.below(100), log_bytes=2 * segment), 1 << 30)
