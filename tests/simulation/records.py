"""Batches on the key space, crashed and checked against a list of all states there ever were.

What is checked after each crash:

- The state is exactly the one after some batch: batches are there whole, and none without those before it.
- That batch is not before the last one that was told to be stable; nor, when memory survived, committed.
- Payload reads back byte for byte on every replica.
- The verifier has changed if something was told to be committed and is lost, and has not if only the process died.
"""

from dataclasses import dataclass, field
from functools import partial

from sofs.errors import DiskFailed, NoSpace, Unavailable
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_process import Crash
from sofs.types import Level, Lsn
from sofs.volume import keys
from sofs.volume.batch import Apply, Batch, Mutator
from sofs.volume.recovery import INCARNATION, Store, make_store
from tests.simulation.host import LOG_ID, Host, small_settings

__all__ = ["Scenario"]

NUMBER = keys.meta(b"number")
TOTAL = keys.counter(b"total")
TAGS = (b"D", b"I", b"W", b"M", b"C")

State = dict[bytes, bytes]


@dataclass
class Model:
    """Every state since the last start, and what has been promised of them."""

    states: list[State] = field(default_factory=lambda: [{}])
    first: int = 0
    """The number of the batch that the first of `states` is after."""
    committed: int = 0
    """The newest batch that was told to be committed."""
    stable: int = 0

    @property
    def newest(self) -> int:
        return self.first + len(self.states) - 1

    def restart(self, number: int) -> None:
        self.states = [self.states[number - self.first]]
        self.first = self.committed = self.stable = number


def apply_attach(records: Mutator, body: bytes, address: int, lsn: Lsn) -> None:
    """ATTACH, an operation of this test: the key in the body names the batch's payload, of the length before it."""
    records.put(body[4:], address.to_bytes(8) + body[:4])


ATTACH = 200
APPLIERS: dict[int, Apply] = {ATTACH: apply_attach}


class Scenario:
    """One host's life over several crashes, all of it decided by `seed`."""

    def __init__(self, seed: int) -> None:
        self.random = SimulatedRandom(seed)
        self.host = Host(self.random, 1 + self.random.below(2), small_settings(self.random))
        self.model = Model()
        self.verifier = b""
        self.crashes = self.rebuilt = 0
        self.memory_broken = False
        self.flipped = False
        self.rotten = self.random.below(self.host.disks)
        self._made = False

    def run(self, crashes: int) -> int:
        """Gives how many crashes there were. Raises AssertionError, or whatever escaped, when a promise is broken."""
        simulate(self._make)
        while self.crashes < crashes:
            self.host.files.crash_at = self.host.files.steps + 1 + self.random.below(250)
            try:
                simulate(self._live)
            except Crash:
                pass
            self.crashes += 1
            self.host.crash(power_loss=self.random.chance(0.6))
            self._damage()
        self.host.files.crash_at = None
        self.host.store.trouble = 0
        simulate(self._verify_only)
        return self.crashes

    def _damage(self) -> None:
        """With two copies, one of them may rot while nobody looks; always the same, because both would be one failure too many."""
        both = len(self.host.store.configuration.replicas) == 2
        if both and self.random.chance(0.3):
            self.host.flip_bits(self.rotten, 1 + self.random.below(5))
            self.flipped = True

    async def _make(self, loop: SimulatedLoop) -> None:
        await make_store(self.host.files, self.host.places, LOG_ID, self.host.settings)

    async def _verify_only(self, loop: SimulatedLoop) -> None:
        _, store = await self.host.open(loop, APPLIERS)
        await self._verify(store)
        await store.close()
        assert store.log.stable == store.log.end

    async def _live(self, loop: SimulatedLoop) -> None:
        self.host.store.trouble = self.random.below(3) * 0.05
        if self.random.chance(0.4):
            self._arm_fault()
        try:
            clock, store = await self.host.open(loop, APPLIERS)
        except (DiskFailed, NoSpace, Unavailable):
            # Only an injected fault may have this effect.
            assert self.host.files.faults or self.host.store.trouble
            raise Crash from None
        store.log.on_failure = lambda error: self._note_failure()
        await self._verify(store)
        store.start()
        writers = [loop.create_task(self._write(clock, store)) for _ in range(3)]
        if len(self.host.store.configuration.replicas) < self.host.disks:
            writers.append(loop.create_task(self._rebuild(clock, store)))
        for writer in writers:
            await writer
        if self.random.chance(0.3) and store.log.serving():
            try:
                await store.close()
            except (DiskFailed, NoSpace, Unavailable):
                assert self.host.files.faults
            else:
                self.model.committed = self.model.stable = self.model.newest
        raise Crash

    def _arm_fault(self) -> None:
        # Where one disk rots, the other must not fail.
        disk = self.host.places[self.rotten if self.flipped else self.random.below(self.host.disks)].path
        operation = ("sync", "sync", "write", "commit", "allocate", "read")[self.random.below(6)]
        error = NoSpace if operation == "allocate" else DiskFailed
        self.host.files.fail(operation, disk, error, after=self.random.below(60), times=1 + self.random.below(2))

    def _note_failure(self) -> None:
        self.memory_broken = True

    async def _rebuild(self, clock: SimulatedClock, store: Store) -> None:
        await clock.sleep(self.random.fraction() * 0.1)
        try:
            await self.host.rebuild(store)
        except (DiskFailed, NoSpace, Unavailable):
            assert self.host.files.faults or not store.log.serving()
        else:
            self.rebuilt += 1
            assert store.log.replica_ids == self.host.store.configuration.replicas

    # Writing

    async def _write(self, clock: SimulatedClock, store: Store) -> None:
        for _ in range(self.random.below(80)):
            try:
                self._one(store)
            except NoSpace:
                await self._make_room(store)
            except Unavailable:
                assert not store.log.serving()
                return
            if self.random.chance(0.6):
                await clock.sleep(self.random.fraction() * 0.02)
            if self.random.chance(0.03):
                await self._checkpoint(store)

    def _one(self, store: Store) -> None:
        model, random = self.model, self.random
        batch, state = Batch(), dict(model.states[-1])
        number = model.newest + 1
        payload: list[bytes] = []
        before = dict(state)
        for _ in range(random.below(4)):
            key = keys.bucket(TAGS[random.below(2)], random.below(5)) + random.below(8).to_bytes(1)
            if random.chance(0.3):
                batch.delete(key)
                state.pop(key, None)
            else:
                value = random.bytes(random.below(30))
                batch.put(key, value)
                state[key] = value
        batch.put(NUMBER, number.to_bytes(8))
        state[NUMBER] = number.to_bytes(8)
        batch.add(TOTAL, number)
        total = int.from_bytes(before.get(TOTAL, bytes(8)), "little", signed=True) + number
        state[TOTAL] = total.to_bytes(8, "little", signed=True)
        if random.chance(0.5):
            payload = [random.bytes(random.below(3000)) for _ in range(1 + random.below(3))]
            key = keys.bucket(keys.PLACES, random.below(6))
            whole = b"".join(payload)
            batch.raw(ATTACH, len(whole).to_bytes(4) + key)
            state[key] = whole
        lsn = store.keyspace.commit(batch, payload, reserved=random.chance(0.05))
        model.states.append(state)
        store.log.when(lsn, Level.COMMITTED, partial(self._acknowledge, Level.COMMITTED, number))
        if random.chance(0.3):
            store.log.when(lsn, Level.STABLE, partial(self._acknowledge, Level.STABLE, number))

    def _acknowledge(self, level: Level, number: int) -> None:
        model = self.model
        if level is Level.STABLE:
            model.stable = max(model.stable, number)
        assert number >= model.committed or level is Level.STABLE, "answers come in order"
        model.committed = max(model.committed, number)

    async def _checkpoint(self, store: Store) -> None:
        """Makes a checkpoint, and gives back the log below the oldest payload that it names."""
        oldest = min((int.from_bytes(value[:8]) for _, value in store.keyspace.walk(keys.PLACES)), default=store.log.end)
        try:
            await store.keyspace.checkpoint()
        except (DiskFailed, NoSpace, Unavailable):
            assert self.host.files.faults or not store.log.serving()
            return
        store.log.trim(Lsn(min(oldest, store.keyspace.checkpointed)))

    async def _make_room(self, store: Store) -> None:
        """The log is full: drops all payload, as destaging would, and trims. The reserved segment must be enough for that."""
        batch, state = Batch(), dict(self.model.states[-1])
        for key, _ in list(store.keyspace.walk(keys.PLACES)):
            batch.delete(key)
            del state[key]
        number = self.model.newest + 1
        batch.put(NUMBER, number.to_bytes(8))
        state[NUMBER] = number.to_bytes(8)
        try:
            store.keyspace.commit(batch, reserved=True)
        except NoSpace:
            # Other writers made room at the same time, each with a record of its own.
            assert self.host.files.faults or store.log.capacity - (store.log.end - store.log.start) < 2 * self.host.settings.log.segment_size
        except Unavailable:
            assert not store.log.serving()
            return
        else:
            self.model.states.append(state)
        await self._checkpoint(store)

    # Verifying

    async def _verify(self, store: Store) -> None:
        model = self.model
        found = {key: value for tag in TAGS for key, value in store.keyspace.walk(tag) if key != INCARNATION}
        number = int.from_bytes(found.get(NUMBER, b""))
        broken = self.host.power_lost or self.memory_broken
        assert number >= model.stable, f"batch {model.stable} was stable, but the state is that after {number}"
        assert broken or number >= model.committed, f"batch {model.committed} was committed, but the state is that after {number}"
        assert number <= model.newest
        await self._verify_state(store, found, model.states[number - model.first])
        lost = number < model.committed
        verifier = store.incarnation.verifier
        assert not (lost and verifier == self.verifier), "the loss of a committed batch went unannounced"
        assert broken or verifier == self.verifier or not self.verifier, "the verifier changed although nothing can be lost"
        self.verifier = verifier
        self.memory_broken = self.host.power_lost = False
        model.restart(number)

    async def _verify_state(self, store: Store, found: State, expected: State) -> None:
        assert found.keys() == expected.keys()
        for key, value in found.items():
            if key[:1] != keys.PLACES:
                assert value == expected[key]
                continue
            address, length = int.from_bytes(value[:8]), int.from_bytes(value[8:])
            assert length == len(expected[key])
            for replica in range(store.log.replicas):
                try:
                    data = await self._read(store, address, length, replica)
                except DiskFailed:
                    assert self.host.files.faults
                    continue
                # Below the checkpoint the log is not verified at the start, so there rot is found by whoever reads.
                if data != expected[key] and self.flipped and address < store.keyspace.checkpointed:
                    await self._repair(store, address, expected[key], replica)
                else:
                    assert data == expected[key], f"payload at {address}, replica {replica}"

    async def _repair(self, store: Store, address: int, expected: bytes, replica: int) -> None:
        assert store.log.replicas == 2
        # With the other copy damaged in the same place, too (both rotted at different crashes), it would be lost.
        if await self._read(store, address, len(expected), 1 - replica) == expected:
            store.log.rewrite(address, expected, replica)

    async def _read(self, store: Store, address: int, length: int, replica: int) -> bytes:
        data = bytearray(length)
        waiting = store.log.read(address, memoryview(data), replica)
        if waiting is not None:
            await waiting
        return bytes(data)
