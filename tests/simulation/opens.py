"""Crashes under opens, locks, grants and slot tokens: clients of both protocols at work, until an I/O step that never returns.

Fault model: that of `SimulatedFiles`; each life ends in power loss or in the death of the process, at a random step. Checked after each start:

- What is held is what was held after some change that was committed, whole: every kept open with its ranges, grants and sequences. It is not older than
  the last change that a client was told of (at the level at which it was told, after a loss of power: stable).
- If something that a client was told of is gone, its incarnation has changed, and the volume is in grace.
- A slot's token is there exactly if what its request did is there, and nothing was done twice.
- The check finds nothing: no bytes locked twice, no contradicting grants or share modes, nothing that belongs to nobody.

In the end everything is closed, and no record is left. A seed replays a run: `python -m tests.simulation.crash --layer opens --seed S --points 1`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from sofs.errors import SofsError
from sofs.locks import HANDLE, READ, WRITE, GrantKind
from sofs.log.configuration import LogSettings
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.runtime.simulated_process import Crash
from sofs.types import ROOT, Kind, Level, Lsn, OpenId
from sofs.volume import keys
from sofs.volume.api import (
    Acknowledge,
    Changes,
    Close,
    Disconnect,
    Downgrade,
    EndClient,
    EndGrace,
    Keep,
    ListSlots,
    Lock,
    Make,
    Recall,
    Reconnect,
    Remove,
    Reply,
    Request,
    ReturnGrant,
    SetDisposition,
    SlotToken,
    Stateless,
    Unlock,
    Want,
    Wish,
)
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.core import Core
from sofs.volume.kept import Changes as Recorded
from sofs.volume.recovery import StoreSettings
from tests.unit.volume.rig import MIB
from tests.unit.volume.state_rig import NFS, SMB, WRITES, StateRig
from tests.unit.volume.volume_rig import SUPER

__all__ = ["Scenario"]

SESSION = bytes(16)
SLOTS = 3
FILES = (b"a", b"b", b"c")
SMB_CLIENTS = (b"smb 1", b"smb 2")
NFS_CLIENTS = (b"nfs 1", b"nfs 2")
MEMORY_ONLY = Lsn(0)

Held = frozenset[tuple[Any, ...]]


def held(core: Core) -> Held:
    """All that is held and kept, as comparable values."""
    found: set[tuple[Any, ...]] = set()
    kept = {id: opened for id, opened in core.opens.items() if opened.keep is not None}
    for id, opened in kept.items():
        numbers = tuple(sorted(opened.numbers.items()))
        found.add(("open", id, opened.inode, opened.access, opened.share, opened.key, opened.sequence, opened.by, opened.name, opened.state, numbers))
    for inode, state in core.locks.files():
        keys_ = {opened.key for opened in kept.values() if opened.inode == inode and opened.key}
        for grant in state.grants:
            if grant.key in keys_:
                found.add(("grant", inode, grant.key, grant.kind, grant.rights, grant.epoch, grant.delegation))
        for place, byte_range in enumerate(state.ranges):
            if byte_range.open in kept and not (byte_range.owner and core.register.lock_state(inode, byte_range.owner) is None):
                same = sum(1 for other in state.ranges[:place] if other == byte_range)
                found.add(("range", inode, *byte_range, same))
        if state.delete_pending and any(opened.inode == inode for opened in kept.values()):
            found.add(("doomed", inode))
    for lock_state in core.register.locks.values():
        if lock_state.open in kept:
            found.add(("locks", lock_state.id, lock_state.inode, lock_state.owner, lock_state.open, lock_state.sequence))
    return frozenset(found)


class Entry(NamedTuple):
    lsn: Lsn
    held: Held
    ever: frozenset[bytes]
    """Names of all files that were made by opens so far."""


@dataclass
class Known:
    """What clients know, and what a restart may show them."""

    history: list[Entry] = field(default_factory=lambda: [Entry(MEMORY_ONLY, frozenset(), frozenset())])
    committed: int = 1
    """So many of these a client was told of, or of what followed from them."""
    stable: int = 1
    slots: dict[int, int] = field(default_factory=dict)
    """The newest sequence of each slot that was answered, by slot; those of this life as committed."""
    stable_slots: dict[int, int] = field(default_factory=dict)
    tried: dict[int, int] = field(default_factory=dict)
    """The newest sequence that was sent."""


class Scenario:
    """One seed's host and clients, over several lives."""

    def __init__(self, seed: int) -> None:
        random = self.random = SimulatedRandom(seed)
        files = SimulatedFiles(random, latency=Latency(100e-6, 1e-3))
        self.rig = StateRig(
            files,
            SimulatedClock(SimulatedLoop()),
            random,
            policy="simple",
            disks=1,
            log_disks=1,
            settings=StoreSettings(LogSettings(MIB, 8 * MIB, (0.02, 0.3)[random.below(2)]), CheckpointSettings(1e9, 1 << 60, 1 << 60), 1 << 28),
        )
        self.known = Known()
        self.crashes = 0
        self.number = 0
        self.ever: set[bytes] = set()
        self.verifier = 0

    @property
    def files(self) -> SimulatedFiles:
        assert isinstance(self.rig.files, SimulatedFiles)
        return self.rig.files

    def run(self, crashes: int) -> int:
        """Gives how many crashes there were. Raises what is found wrong."""
        assert not self._on_loop(self._make)
        while self.crashes < crashes:
            self.files.crash_at = self.files.steps + 5 + self.random.below(400)
            self._on_loop(self._live)
            power = self.random.chance(0.4)
            self.rig.files = self.files.after_power_loss() if power else self.files.after_process_death()
            if power:
                self.rig.boot += b"'"
            assert not self._on_loop(partial(self._verify, power))
        assert not self._on_loop(self._end)
        return self.crashes

    def _on_loop(self, main: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Runs one life; True if it ended by a crash."""
        loop = SimulatedLoop()
        self.rig.clock = SimulatedClock(loop)
        try:
            loop.run(main())
            return False
        except Crash:
            self.crashes += 1
            return True
        finally:
            loop.close()

    async def _make(self) -> None:
        await self.rig.make()
        for name in FILES:
            self.rig.make_name(name, mode=0o666)
        self.verifier = self.rig.volume.verifier
        await self.rig.close()

    async def _open(self) -> None:
        await self.rig.open()
        self.rig.mount()
        core = self.rig.volume.core
        settled = core.kept.settled

        def settled_too(changes: Recorded, lsn: Lsn) -> None:
            settled(changes, lsn)
            self.known.history.append(Entry(lsn, held(core), frozenset(self.ever)))

        core.kept.settled = settled_too  # type: ignore[method-assign]

    # One life

    async def _live(self) -> None:
        await self._open()
        if self.rig.volume.core.grace:
            await self._reclaim()
        tasks = [asyncio.ensure_future(self._client()) for _ in range(3)]
        tasks.append(asyncio.ensure_future(self._answer_recalls()))
        for task in tasks[:3]:
            await task
        tasks[3].cancel()
        await self.rig.store.log.sync()
        raise Crash

    async def _reclaim(self) -> None:
        """Whatever is asked for as a new thing is refused until the grace is over."""
        for client in NFS_CLIENTS:
            try:
                self._send(self.rig.nfs_request(b"a", client, b"o", reclaim=True), NFS)
            except SofsError:
                continue
        self._send(EndGrace(), NFS)

    async def _answer_recalls(self) -> None:
        told, random = self.rig.told, self.random
        while True:
            await self.rig.clock.sleep(0.002)
            recalls, told.recalls = told.recalls, []
            for recall in recalls:
                if recall.acknowledge and not random.chance(0.1):
                    self._answer(recall)

    def _answer(self, recall: Recall) -> None:
        try:
            if recall.delegation:
                self._send(ReturnGrant(recall.delegation), NFS)
            else:
                self._send(Acknowledge(recall.inode, recall.key, recall.keep & (7 if self.random.chance(0.7) else READ)), SMB)
        except SofsError:
            pass  # it has been closed meanwhile

    async def _client(self) -> None:
        for _ in range(60):
            try:
                reply = self._choose()()
                if isinstance(reply, Awaitable):
                    async with asyncio.timeout(0.05):
                        await reply
            except (SofsError, TimeoutError):
                pass
            if self.random.chance(0.5):
                await self.rig.clock.sleep(self.random.fraction() * 0.004)
            if self.random.chance(0.02):
                await self.rig.store.keyspace.checkpoint()

    def _send(self, request: Request, by: Any, token: SlotToken | None = None) -> Reply | Awaitable[Reply]:
        reply = self.rig.volume.call(request, token, by)
        if isinstance(reply, Reply):
            self._gate(reply)
            return reply
        return self._later(reply)

    async def _later(self, waiting: Awaitable[Reply]) -> Reply:
        reply = await waiting
        self._gate(reply)
        return reply

    def _gate(self, reply: Reply) -> None:
        known, gate = self.known, reply.gate
        log = self.rig.store.log
        # The answer may show all that is held by now, recorded or not.
        shown = len(known.history) + bool(self.rig.volume.core.kept.dirty)

        def committed() -> None:
            known.committed = max(known.committed, shown)

        def stable() -> None:
            known.stable = max(known.stable, shown)

        log.when(gate, Level.COMMITTED, committed)
        if self.random.chance(0.2):
            log.when(gate, Level.STABLE, stable)

    # What clients do

    def _choose(self) -> Callable[[], Reply | Awaitable[Reply] | None]:
        random = self.random
        actions = (self._smb_open, self._smb_open, self._nfs_open, self._nfs_open, self._lock, self._lock, self._unlock, self._close)
        rarer = (self._disconnect, self._reconnect, self._downgrade, self._want, self._dispose, self._end_client, self._stateless_write)
        pick = random.below(20)
        if pick < 4:
            return self._slot_request
        if pick < 10:
            return rarer[random.below(len(rarer))]
        return actions[random.below(len(actions))]

    def _some(self, wanted: Callable[[Any], bool]) -> Any:
        fitting = [opened for opened in self.rig.volume.core.opens.values() if wanted(opened)]
        if not fitting:
            raise SofsError("there is none")
        return fitting[self.random.below(len(fitting))]

    def _name(self) -> bytes:
        if self.random.chance(0.8):
            return FILES[self.random.below(len(FILES))]
        self.number += 1
        return b"made %d" % self.number

    def _smb_open(self) -> Reply | Awaitable[Reply]:
        random, client, name = self.random, SMB_CLIENTS[self.random.below(2)], self._name()
        kind = GrantKind.OPLOCK if random.chance(0.3) else GrantKind.LEASE
        key = b"" if kind is GrantKind.OPLOCK else client + name
        keep = (None, Keep(50), Keep(50), Keep(50, persistent=True))[random.below(4)]
        rights = (READ | WRITE | HANDLE, READ | HANDLE, READ)[random.below(3)]
        self.number += 1
        request = self.rig.smb_request(
            name, rights, key=key, kind=kind, keep=keep, share=(7, 7, 3, 1)[random.below(4)], client=client, guid=b"%d" % self.number,
            access=WRITES | (0x10000 if random.chance(0.3) else 0),
        )  # fmt: skip
        return self._made(name, request, SMB)

    def _made(self, name: bytes, request: Request, by: Any) -> Reply | Awaitable[Reply]:
        """The open may make the file, in the batch with its record."""
        keep = getattr(request, "keep", None)
        if name not in FILES and (keep is None or not (keep.persistent or keep.timeout_ms < 0)):
            raise SofsError("only kept opens make files here, so that one record says both")
        new = name not in FILES
        if new:
            self.ever.add(name)
        try:
            return self._send(request, by)
        except SofsError:
            if new:
                self.ever.discard(name)
            raise

    def _nfs_open(self) -> Reply | Awaitable[Reply]:
        random, client, name = self.random, NFS_CLIENTS[self.random.below(2)], self._name()
        delegate = (0, READ, READ | WRITE)[random.below(3)]
        access = (1, WRITES)[random.below(2)]
        request = self.rig.nfs_request(name, client, b"o%d" % random.below(2), access, (0, 0, 0, 2)[random.below(4)], delegate=delegate)
        return self._made(name, request, NFS)

    def _lock(self) -> Reply | Awaitable[Reply]:
        random = self.random
        opened = self._some(lambda opened: opened.kind == Kind.FILE and opened.state == 1)
        start, length, exclusive = random.below(20), 1 + random.below(8), random.chance(0.6)
        if not opened.mandatory:
            owner = opened.client + b" lock owner %d" % random.below(2)
            return self._send(Lock(opened.id, start, length, exclusive, owner=owner), NFS)
        number = b"\0\0\0\1" + bytes((random.below(16),)) if random.chance(0.5) else b""
        return self._send(Lock(opened.id, start, length, exclusive, random.chance(0.2), number=number), opened.by)

    def _unlock(self) -> Reply | Awaitable[Reply]:
        opened = self._some(lambda opened: any(r.open == opened.id for r in self.rig.volume.core.locks.state(opened.inode).ranges))
        ranges = [r for r in self.rig.volume.core.locks.state(opened.inode).ranges if r.open == opened.id]
        one = ranges[self.random.below(len(ranges))]
        return self._send(Unlock(opened.id, one.start, one.end - one.start, one.owner), opened.by)

    def _close(self) -> Reply | Awaitable[Reply]:
        opened = self._some(lambda opened: True)
        request: Request = ReturnGrant(opened.id) if opened.state == 3 else Close(opened.id)
        return self._send(request, opened.by)

    def _disconnect(self) -> Reply | Awaitable[Reply]:
        opened = self._some(lambda opened: opened.mandatory and opened.connected)
        return self._send(Disconnect(opened.id), opened.by)

    def _reconnect(self) -> Reply | Awaitable[Reply]:
        opened = self._some(lambda opened: not opened.connected)
        by = SMB._replace(session=self.random.below(100))
        return self._send(Reconnect(SUPER, opened.id, opened.guid, opened.client, b"", opened.lease), by)

    def _downgrade(self) -> Reply | Awaitable[Reply]:
        opened = self._some(lambda opened: len(opened.combinations) > 1)
        access, share = opened.combinations[0]
        return self._send(Downgrade(opened.id, access, share), NFS)

    def _want(self) -> Reply | Awaitable[Reply]:
        opened = self._some(lambda opened: opened.lease is not None)
        return self._send(Want(opened.id, Wish(opened.lease, GrantKind.LEASE, READ | WRITE | HANDLE)), opened.by)

    def _dispose(self) -> Reply | Awaitable[Reply]:
        opened = self._some(lambda opened: opened.access & 0x10000 and opened.name not in FILES)
        return self._send(SetDisposition(opened.id, self.random.chance(0.5)), opened.by)

    def _end_client(self) -> Reply | Awaitable[Reply]:
        if not self.random.chance(0.2):
            raise SofsError("not so often")
        return self._send(EndClient(NFS_CLIENTS[self.random.below(2)]), NFS)

    def _stateless_write(self) -> None:
        inode = self.rig.lookup(FILES[self.random.below(len(FILES))]).inode
        done = self.rig.volume.write(Stateless(inode, SUPER), 0, memoryview(b"x"), None, Level.COMMITTED, NFS)
        assert not isinstance(done, Awaitable)

    def _slot_request(self) -> Reply | Awaitable[Reply]:
        """Makes the directory that is named after the slot's next sequence."""
        slot = self.random.below(SLOTS)
        known = self.known
        sequence = known.tried.get(slot, 0) + 1
        known.tried[slot] = sequence
        token = SlotToken(SESSION, slot, sequence, b"d", 0, b"note")
        reply = self.rig.volume.call(Make(SUPER, ROOT, b"slot %d %d" % (slot, sequence), Kind.DIRECTORY, Changes()), token, NFS)
        assert isinstance(reply, Reply)
        self._gate(reply)
        log = self.rig.store.log
        log.when(reply.gate, Level.COMMITTED, lambda: known.slots.__setitem__(slot, sequence))
        if self.random.chance(0.2):
            log.when(reply.gate, Level.STABLE, lambda: known.stable_slots.__setitem__(slot, sequence))
        return reply

    # After a crash

    async def _verify(self, power: bool) -> None:
        known = self.known
        # Nobody may have anything that was not there when some batch was committed: not even if it is closed at once.
        await self.rig.open()
        await self.rig.clean()
        self.rig.mount()
        core = self.rig.volume.core
        promised = known.stable if power else known.committed
        now, names = held(core), self.rig.names()
        made = frozenset(name for name in names if name.startswith(b"made"))
        fitting = [place for place, entry in enumerate(known.history) if entry.held == now and made <= entry.ever]
        assert fitting, self._difference(now)
        found = fitting[-1] + 1
        assert found >= promised, f"what is held was so after {found} changes, clients were told of {promised}"
        lost = power and found < known.committed
        changed = self.rig.volume.verifier != self.verifier
        assert changed or not lost, "the loss of what clients were told went unannounced"
        nfs = any(row[0] == "open" and row[5] in NFS_CLIENTS for entry in known.history[:found] for row in entry.held)
        assert core.grace or not (lost and nfs), "clients may reclaim what was lost"
        assert not core.grace or changed
        self.verifier = self.rig.volume.verifier
        self._verify_slots(power, names)
        await self.rig.store.log.sync()
        await asyncio.sleep(0)
        self.ever = set(made)
        sequences = {slot: max((int(n.split()[2]) for n in names if n.startswith(b"slot %d " % slot)), default=0) for slot in range(SLOTS)}
        self.known = Known([Entry(MEMORY_ONLY, now, made)], slots=dict(sequences), stable_slots=dict(sequences), tried=dict(sequences))
        self.rig.volume.core.locks.stop()
        for opened in core.opens.values():
            if opened.timer is not None:
                opened.timer.cancel()
        await self.rig.data.close()
        await self.rig.store.close()
        await self.rig.pool.close()

    def _difference(self, now: Held) -> str:
        nearest = min(self.known.history, key=lambda entry: len(entry.held ^ now))
        return f"never held: {sorted(map(str, now - nearest.held))}; missing: {sorted(map(str, nearest.held - now))}"

    def _verify_slots(self, power: bool, names: set[bytes]) -> None:
        slots = {slot.slot: slot for slot in self.rig.ask(ListSlots(SESSION), NFS).slots}
        told = self.known.stable_slots if power else self.known.slots
        for slot in range(SLOTS):
            done = {int(name.split()[2]) for name in names if name.startswith(b"slot %d " % slot)}
            newest = slots[slot].sequence if slot in slots else 0
            assert done == set(range(1, newest + 1)), f"slot {slot} has a token of {newest}, and did {sorted(done)}"
            assert told.get(slot, 0) <= newest <= self.known.tried.get(slot, 0)

    async def _end(self) -> None:
        await self._open()
        rig = self.rig
        if rig.volume.core.grace:
            rig.ask(EndGrace())
        for number in list(rig.volume.core.opens):
            if number in rig.volume.core.opens:
                rig.shut(OpenId(number))
        assert rig.records(keys.OPEN, keys.RANGE, keys.LOCKS, keys.GRANT, keys.PENDING) == []
        assert not list(rig.volume.core.locks.files())
        for name in FILES:
            rig.ask(Remove(SUPER, ROOT, name))
        await rig.volume.run_once()
        await rig.clean()
        await rig.close()
