"""Everything of a volume at once: the clients of `tests.simulation.files`, large files that are cloned and removed in slices, quotas,
snapshots and their restoration, all of it through the volume's interface, with crashes at any step.

Checked besides what `tests.simulation.files` checks (directories, promises, tokens, the check, the verifier):

- A snapshot is there if its taking was promised, is gone if its deletion was, and no other is there.
- It shows of each client's directory what that was when the snapshot was taken, and of everything the same each time it is looked at.
- A restoration takes effect for all or for none, goes on after a crash by whatever duty comes first, and ends with all directories as the
  snapshot has them. The state before it is a snapshot like the others.
- No request is found that came before a snapshot and is missing now, while the snapshot is there.
- No background duty ends by an error, and the log does not fail by itself.

In the end, with all names and snapshots gone, no record of a file, a clone, a quota or a snapshot is left.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

from sofs.errors import DiskFailed, NoSpace, SofsError, Stale, Unavailable
from sofs.runtime.simulated_loop import SimulatedLoop
from sofs.types import PAGE, Level, Lsn
from sofs.volume import cleaning, ranges
from sofs.volume.api import DeleteSnapshot, MakeSnapshot, Quota, QuotaKind, Remove, Reply, RestoreSnapshot, SetQuota
from sofs.volume.snapshots.operations import NEXT_SNAPSHOT
from tests.simulation import clients, files
from tests.simulation.clients import Call, Change, State
from tests.simulation.hands import LEAF, Hands, Shown, shown
from tests.unit.volume.volume_rig import SUPER, VolumeRig

__all__ = ["Scenario"]

MOST = 4
"""Snapshots at a time, besides those that restorations make."""
_PAUSE_S = 0.0003

_PASSING = b"DXLRWBZNJKHYidlxsazb"
"""Tags (`sofs.volume.keys`) of which nothing is left when all files and snapshots have gone, but for the clients' directories themselves."""


class Client(clients.Client):
    """Its requests are all done in one batch: those of which the slices can be seen are for the hands."""

    def _whole(self, state: State, number: int) -> bool:
        return len(state.files[number].content or b"") < LEAF

    def _truncate(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        return (super()._truncate if self._whole(state, number) else super()._append)(rig, state, number)

    def _punch(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        return (super()._punch if self._whole(state, number) else super()._append)(rig, state, number)

    def _clone(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        return (super()._clone if self._whole(state, number) else super()._append)(rig, state, number)


@dataclass
class Promise:
    """What was told, to be held against what is found after a crash."""

    committed: bool = False
    stable: bool = False

    def keep(self, when: Callable[[Lsn, Level, Callable[[], None]], None], gate: Lsn) -> None:
        when(gate, Level.COMMITTED, self._commit)
        when(gate, Level.STABLE, self._settle)

    def _commit(self) -> None:
        self.committed = True

    def _settle(self) -> None:
        self.committed = self.stable = True

    def holds(self, memory_lost: bool) -> bool:
        return self.stable or (self.committed and not memory_lost)


@dataclass
class Known:
    """What is known of one snapshot."""

    states: list[list[State]]
    """What each client's directory may have been then: two, until it has been looked at, if a request was under way."""
    floors: list[int]
    """The last request of each client that the snapshot certainly comes after, as long as there is no restoration."""
    taken: Promise = field(default_factory=Promise)
    gone: Promise = field(default_factory=Promise)
    given_up: bool = False
    hands: Shown | None = None
    """None: it was not looked at yet."""


@dataclass
class Restored:
    """The restoration of this life."""

    known: Known
    before: int
    """The number that the snapshot of the state before it has."""
    numbers: list[int]
    """As which request of each client it counts."""
    over: bool = False
    """Whether the hands have been at work since."""


class Scenario(files.Scenario):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rotten = None
        self.rig.disk_mib = 256
        self.rig.whole_from = (1, 16, 128)[self.random.below(3)]
        self.clients: list[clients.Client] = [Client(number, self.random) for number in range(len(self.clients))]
        self.hands = Hands(self.random)
        self.known: dict[int, Known] = {}
        self.taken = 0
        self.restored: Restored | None = None
        self.held = False
        """Nobody sends anything: a restoration is about to begin, or under way."""

    def run(self, crashes: int) -> int:
        async def pause(pace: cleaning.Pace) -> None:
            await self.rig.clock.sleep(_PAUSE_S)

        # Small slices, and a step of others between any two.
        with patch.object(ranges, "SLICE", LEAF // PAGE), patch.object(cleaning.Pace, "__call__", pause):
            return super().run(crashes)

    async def _make(self, loop: SimulatedLoop) -> None:
        await super()._make(loop)
        await self._open(loop)
        self.hands.inode = self.rig.mkdir(self.hands.directory)
        await self.rig.close()

    async def _open(self, loop: SimulatedLoop) -> None:
        await super()._open(loop)
        self.rig.data.snapshots.slice = (1, 2, 5, 50)[self.random.below(4)]
        self.held = False
        self.hands.busy = 0

    def _note_failure(self, error: BaseException) -> None:
        super()._note_failure(error)
        if not self._files.faults:
            self.wrong = self.wrong or error

    def _crash(self) -> None:
        if self.hands.busy and not self.rig.data.snapshots.restoring:
            self.hands.after_restoration = True  # nobody knows
        super()._crash()

    # Working

    def _beside(self) -> list[Coroutine[Any, Any, None]]:
        return [*super()._beside(), self._keep_snapshots(), *(self._use_hands() for _ in range(self.random.below(3)))]

    async def _turn(self, client: clients.Client) -> None:
        while self.held:
            await self.rig.clock.sleep(0.001)

    async def _use_hands(self) -> None:
        while self.rig.store.log.serving():
            await self.rig.clock.sleep(self.random.fraction() * 0.02)
            if not self.held:
                await self.hands.work(self.rig)

    async def _limit(self) -> None:
        await super()._limit()
        with suppress(SofsError):
            self.rig.call(SetQuota(Quota(QuotaKind.DIRECTORY, self.hands.inode, 0, self.random.below(2) << 40)))

    async def _keep_snapshots(self) -> None:
        while self.rig.store.log.serving():
            await self.rig.clock.sleep(self.random.fraction() * 0.05)
            ready = [number for number, known in self.known.items() if not known.given_up]
            pick, number = self.random.below(10), ready[self.random.below(len(ready))] if ready else 0
            try:
                if not ready or (pick < 3 and len(ready) < MOST):
                    self._take()
                elif pick < 5 or len(ready) > MOST:
                    await self._give_up(number)
                elif pick < 7:
                    await self._look_at(number)
                elif pick < 8:
                    await self.rig.volume.run_once()
                elif self.restored is None:
                    await self._restore(number)
            except (NoSpace, Unavailable, DiskFailed):
                assert self._files.faults or self.rig.store.log.serving()

    def _present(self) -> Known:
        """A snapshot that is taken now."""
        states = [client.states[-2:] if client.pending else client.states[-1:] for client in self.clients]
        return Known([[state.copy() for state in each] for each in states], [client.newest - client.pending for client in self.clients])

    def _take(self) -> None:
        known = self._present()
        self.taken += 1
        reply = self.rig.call(MakeSnapshot(f"s{self.taken}"))
        self.known[reply.snapshots[0].number] = known
        known.taken.keep(self.rig.volume.when, reply.gate)

    async def _give_up(self, number: int) -> None:
        if self.restored is not None and number == self.restored.before:
            return  # it tells, after a crash, that the restoration began
        known = self.known[number]
        known.given_up = True
        reply: Reply = await self.rig.later(DeleteSnapshot(number))
        known.gone.keep(self.rig.volume.when, reply.gate)

    async def _look_at(self, number: int) -> None:
        """Reads all of a snapshot."""
        known = self.known[number]
        past = copy(self.rig)
        try:
            past.volume = self.rig.volume.at(number)  # type: ignore[assignment]
            for client, states in zip(self.clients, known.states, strict=True):
                found, inodes = await self._found(client, past)
                states[:] = [state for state in states if state.visible() == found][:1]
                assert states, f"snapshot {number} shows a {client.directory!r} that never was, or another one than before"
                client.inodes.update({states[0].names[name]: inode for name, inode in inodes.items()})
            hands = await shown(past, self.hands.directory)
        except Stale:
            assert known.given_up
            return
        assert known.hands in (None, hands), f"what snapshot {number} shows of large files has changed"
        known.hands = hands

    # Restoring

    async def _restore(self, number: int) -> None:
        await self._look_at(number)
        self.held = True
        try:
            while any(client.pending for client in self.clients):
                await self.rig.clock.sleep(0.001)
            if self.random.chance(0.8):
                await self.hands.remove_some(self.rig)
                await self.rig.clock.sleep(self.random.fraction() * 0.004)
            await self._restore_now(number)
        finally:
            self.held = False

    async def _restore_now(self, number: int) -> None:
        known, since = self.known[number], self.rig.data.keyspace.restorations
        before = int.from_bytes(self.rig.store.keyspace.get(NEXT_SNAPSHOT) or b"", "little")
        self.known[before] = self._present()
        for client, states in zip(self.clients, known.states, strict=True):
            client.states.append(states[0].copy())
            client.sent = None
        restored = self.restored = Restored(known, before, [client.newest for client in self.clients])
        self.hands.after_restoration = False
        if self.random.chance(0.8):
            self._files.crash_at = self._files.steps + 1 + self.random.below((10, 40, 160)[self.random.below(3)])
        try:
            reply: Reply = await self.rig.later(RestoreSnapshot(number, True))
        except BaseException:
            if not self.rig.data.snapshots.restoring and self.rig.data.keyspace.restorations == since:
                self._not_restored(restored)
            raise
        self.known[before].taken.keep(self.rig.volume.when, reply.gate)
        for client, last in zip(self.clients, restored.numbers, strict=True):
            for level in (Level.COMMITTED, Level.STABLE):
                self.rig.volume.when(reply.gate, level, partial(client.acknowledge, level, last))
        while self.hands.busy:
            await self.rig.clock.sleep(0.001)
        for client, states in zip(self.clients, known.states, strict=True):
            found, _ = await self._found(client, self.rig)
            assert found == states[0].visible(), f"{client.directory!r} is not as snapshot {number} has it"
        await self._compare_hands(restored)
        restored.over = True

    def _not_restored(self, restored: Restored) -> None:
        """It was refused."""
        self.known.pop(restored.before, None)
        for client in self.clients:
            client.states.pop()
        self.restored = None

    async def _compare_hands(self, restored: Restored) -> None:
        if not self.hands.after_restoration and not restored.over:
            found = await shown(self.rig, self.hands.directory)
            assert found == restored.known.hands, "the large files are not as the snapshot has them"

    # Verifying

    async def _verify(self) -> None:
        snapshots = self.rig.data.snapshots
        if snapshots.restoring:
            # Begun by the last life; or by one before, if its end was lost with the power.
            await self._end_restoration()
        there = {snapshot.number for snapshot in snapshots.all()}
        memory_lost = self.power_lost or self.memory_broken
        if self.restored is not None:
            self._adopt(self.restored, self.restored.before in there)
        await super()._verify()
        for number, known in list(self.known.items()):
            if number in there:
                assert not known.gone.holds(memory_lost), f"snapshot {number} is there again"
                known.given_up, known.gone = False, Promise()
                for client, floor in zip(self.clients, known.floors, strict=True):
                    assert client.first >= floor, f"snapshot {number} came after request {floor} of {client.directory!r}, which is lost"
                known.taken = Promise(True, True)
                await self._look_at(number)
            else:
                assert known.given_up or not known.taken.holds(memory_lost), f"snapshot {number} is lost"
                del self.known[number]
        assert self.known.keys() == there, "a snapshot that nobody took"
        if self.restored is not None and self.restored.before in there:
            await self._compare_hands(self.restored)
        self.restored = None

    def _adopt(self, restored: Restored, took_effect: bool) -> None:
        """Keeps of what clients' directories may be what goes with a restoration that took effect, or did not."""
        for client, number in zip(self.clients, restored.numbers, strict=True):
            if took_effect and client.first < number:
                assert client.newest >= number
                del client.states[: number - client.first]
                client.first = number
            elif not took_effect and client.newest >= number:
                assert client.committed < number or self.power_lost or self.memory_broken, "a restoration is lost"
                assert client.stable < number, "a stable restoration is lost"
                del client.states[number - client.first :]
                client.pending = False

    async def _end_restoration(self) -> None:
        """Runs what a volume that starts has in its background, in any order: the restoration goes on with one of them."""
        rig, random = self.rig, self.random
        duties: list[Callable[[], Awaitable[object]]] = [
            rig.volume.run_once, rig.data.maps.run_once, rig.data.snapshots.run_once, rig.data.cleaner.compact, rig.data.cleaner.destage,
        ]  # fmt: skip
        duties.sort(key=lambda _: random.number(32))
        if random.chance(0.5):
            results = await asyncio.gather(*(duty() for duty in duties), return_exceptions=True)
        else:
            results = [(await asyncio.gather(duty(), return_exceptions=True))[0] for duty in duties]
        for result in results:
            if isinstance(result, (DiskFailed, Unavailable)):
                raise result
            if isinstance(result, BaseException) and not isinstance(result, SofsError):
                raise result
        if rig.data.snapshots.restoring:
            await rig.volume.run_once()
        assert not rig.data.snapshots.restoring

    async def _verify_only(self, loop: SimulatedLoop) -> None:
        await super()._verify_only(loop)
        await self._open(loop)
        rig = self.rig
        for number in self.known:
            await rig.later(DeleteSnapshot(number))
        for directory in (*(client.directory for client in self.clients), self.hands.directory):
            inode = rig.lookup(directory).inode
            for entry in rig.entries(inode):
                rig.call(Remove(SUPER, inode, entry.name, None))
        for _ in range(4):
            await rig.volume.run_once()
            await rig.data.maps.run_once()
            await rig.settle()
        await rig.clean()
        left = [key for tag in _PASSING for key, _ in rig.store.keyspace.walk(bytes([tag]))]
        assert len(left) == len(self.clients) + 1, f"{len(left)} records are left, among them {left[:5]}"
        await rig.close()
