"""Files of a whole volume, changed through its real interface, crashed and checked against all states there ever were.

Each of a few clients works in a directory of its own, one request after another, beside the volume's own work: checkpoints,
destaging, compaction, removal. After each crash:

- Every client's directory is exactly as after some request of that client: requests took effect whole, in order.
- That request is not before the last one that was told to be stable; nor, when memory survived, committed.
- `sofs check` finds nothing, and reads every page on every copy.
- A request that is sent again after a crash, with its token, has been carried out once.
- What quotas count is what there is (the check says so), however often they are set and taken away meanwhile.
- The verifier has changed if something was told to be committed and is lost, and has not if only the process died.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from sofs.errors import Delayed, DiskFailed, InvalidArgument, NoSpace, NotFound, Unavailable
from sofs.log.configuration import LogSettings
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.runtime.simulated_process import Crash
from sofs.types import PAGE, Inode, Kind, Level, Lsn
from sofs.volume.api import Flush, GetExtended, Quota, QuotaKind, Reply, SetQuota, Stateless
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.recovery import StoreSettings
from tests.simulation.clients import KIB, Client, File, Sent, Visible
from tests.unit.volume.rig import done
from tests.unit.volume.volume_rig import SUPER, VolumeRig

__all__ = ["Scenario"]

_STUCK_S = 600.0
"""Virtual seconds that a life may take; a fraction of a second is usual."""


class Scenario:
    """One host's life over several crashes, all of it decided by `seed`."""

    def __init__(self, seed: int) -> None:
        random = self.random = SimulatedRandom(seed)
        segment = (256, 512, 1024)[random.below(3)] * KIB
        log = LogSettings(segment, segment * (6 + random.below(6)), sync_interval_s=0.05 + random.fraction() * 0.1)
        checkpoint = CheckpointSettings(0.05 + random.fraction() * 0.5, 50 + random.below(500), 2 * segment)
        disks = 1 + random.below(2)
        files = SimulatedFiles(random, latency=Latency(100e-6, 1e-3))
        self.rig = VolumeRig(
            files,
            SimulatedClock(SimulatedLoop()),
            random,
            policy="simple" if disks == 1 else "mirror(2)",
            disks=disks,
            log_disks=disks,
            disk_mib=32,
            settings=StoreSettings(log, checkpoint, 1 << 28),
            direct_threshold=(64, 128)[random.below(2)] * KIB,
            extent_size=(256, 1024)[random.below(2)] * KIB,
            whole_from=(1, 16)[random.below(2)],
        )
        self.clients = [Client(number, random) for number in range(1 + random.below(3))]
        self.boots = 0
        self.power_lost = self.memory_broken = False
        self.verifier = 0
        self.crashes = self.resent = 0
        self.wrong: BaseException | None = None
        """What ended somebody's work that must not end by an error."""
        self.rotten = random.below(disks) if disks == 2 and random.chance(0.3) else None
        """With two disks, one of them may rot while nobody looks; both would be one failure too many."""

    def run(self, crashes: int) -> int:
        """Gives how many crashes there were. Raises AssertionError, or whatever escaped, when a promise is broken."""
        simulate(self._make)
        while self.crashes < crashes:
            self._files.crash_at = self._files.steps + 1 + self.random.below(1500)
            try:
                simulate(self._live)
            except Crash:
                pass
            if self.wrong is not None:
                raise self.wrong
            self._crash()
        simulate(self._verify_only)
        return self.crashes

    @property
    def _files(self) -> SimulatedFiles:
        assert isinstance(self.rig.files, SimulatedFiles)
        return self.rig.files

    def _crash(self) -> None:
        self.crashes += 1
        if self.random.chance(0.6):
            self.power_lost = True
            self.boots += 1
            self.rig.boot = b"boot %d" % self.boots
            self.rig.files = self._files.after_power_loss()
        else:
            self.rig.files = self._files.after_process_death()
        self._files.faults.clear()
        if self.rotten is not None and self.random.chance(0.5):
            for _ in range(1 + self.random.below(5)):
                self._rot(f"/disk{self.rotten}")

    def _rot(self, disk: str) -> None:
        """Flips a bit of what has been written to a segment of the log or an arena."""
        log = f"{self.rig.places[self.rotten or 0].path}/log"
        paths = [f"{log}/{name}" for name in self._files.list(log)]
        if self._files.exists(f"{disk}/arenas"):
            paths += [f"{disk}/arenas/{name}" for name in self._files.list(f"{disk}/arenas")]
        path = paths[self.random.below(len(paths))]
        pages = self._files.written(path)
        if pages:
            offset = pages[self.random.below(len(pages))] * PAGE + self.random.below(PAGE)
            self._files.flip(path, offset, self.random.below(8))

    async def _make(self, loop: SimulatedLoop) -> None:
        self.rig.clock = SimulatedClock(loop)
        await self.rig.make()
        for client in self.clients:
            client.inode = self.rig.mkdir(client.directory)
        await self.rig.close()

    async def _open(self, loop: SimulatedLoop) -> None:
        self.rig.clock = SimulatedClock(loop)
        await self.rig.open()
        self.rig.store.log.on_failure = self._note_failure
        if (failure := self.rig.store.log.failure) is not None:
            self._note_failure(failure)  # it failed before anybody could be told
        self.rig.mount()

    def _note_failure(self, error: BaseException) -> None:
        self.memory_broken = True

    def _begin(self, loop: SimulatedLoop, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Begins what goes on beside the clients' work, and ends by an error only if a promise is broken."""

        async def begun() -> None:
            try:
                await work
            except Exception as error:
                self.wrong = self.wrong or error

        return loop.create_task(begun())

    async def _verify_only(self, loop: SimulatedLoop) -> None:
        self._files.crash_at = None
        await self._open(loop)
        await self._verify()
        self.rig.volume.start()
        await self.rig.close()

    async def _live(self, loop: SimulatedLoop) -> None:
        if self.random.chance(0.25):
            self._arm_fault()
        try:
            await self._open(loop)
        except (DiskFailed, NoSpace, Unavailable):
            assert self._files.faults
            # What a log that failed on the way has had recorded.
            self.memory_broken |= self.rig.configuration.memory_broken
            raise Crash from None
        try:
            await self._verify()
        except (DiskFailed, Unavailable):
            assert self._files.faults and self.rig.store.log.failure is not None
            raise Crash from None  # nothing may be read of a volume whose log has failed; the next start tells
        self.rig.volume.start()
        beside = [self._begin(loop, work) for work in self._beside()]
        async with asyncio.timeout(_STUCK_S):
            for task in [loop.create_task(self._work(client)) for client in self.clients]:
                await task
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        if self.random.chance(0.3):
            await self._close()
        raise Crash

    def _beside(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside the clients' work, until that is done."""
        return [self._disturb()]

    async def _close(self) -> None:
        try:
            await self.rig.close()
        except (DiskFailed, NoSpace, Unavailable):
            assert self._files.faults
            return
        if not self.memory_broken:
            for client in self.clients:
                client.committed = client.stable = client.newest - client.pending

    def _arm_fault(self) -> None:
        """Some fault of the log's part of a disk; what the pool makes of faults is its own tests' business."""
        # Where one disk rots, the other must not fail.
        path = self.rig.places[self.random.below(self.rig.log_disks) if self.rotten is None else self.rotten].path
        operation = ("sync", "write", "commit", "allocate")[self.random.below(4)]
        error = NoSpace if operation == "allocate" else DiskFailed
        self._files.fail(operation, path, error, after=self.random.below(200), times=1)

    # Working

    async def _work(self, client: Client) -> None:
        if client.sent is not None and self.random.chance(0.7):
            await self._send_again(client, client.sent)
        for _ in range(self.random.below(60)):
            await self._turn(client)
            call, change = client.next(self.rig)
            client.sent = Sent(client.newest + 1, client.new_token(), call, change)
            if not await self._send(client, client.sent):
                return
            if self.random.chance(0.7):
                await self.rig.clock.sleep(self.random.fraction() * (0.3 if self.random.chance(0.05) else 0.01))

    async def _turn(self, client: Client) -> None:
        """Waits until the client may send its next request."""

    async def _send(self, client: Client, sent: Sent) -> bool:
        """Sends a request that has not been carried out; False if the log has failed."""
        after = client.states[-1].copy()
        sent.change(after)
        client.states.append(after)
        client.pending = True
        try:
            reply = await self._answer(sent)
        except NoSpace:
            client.states.pop()
            client.sent = None
        except (Unavailable, DiskFailed):
            # Whether it took effect is for the next start to tell.
            assert not self.rig.store.log.serving()
            return False
        else:
            self._await_answer(client, reply.gate)
        client.pending = False
        return True

    async def _answer(self, sent: Sent) -> Reply:
        """The reply, for which a client asks again while it is told to."""
        while True:
            try:
                return await done(sent.call(sent.token))
            except Delayed:
                await self.rig.clock.sleep(0.05)

    async def _send_again(self, client: Client, sent: Sent) -> None:
        """A client that had no answer, or lost it, sends its last request again: it must have been carried out once in the end."""
        if sent.number > client.newest:
            await self._send(client, sent)
            return
        try:
            await self._answer(sent)
        except (Unavailable, DiskFailed):
            assert not self.rig.store.log.serving()
        self.resent += 1

    async def _disturb(self) -> None:
        """The volume's own work, more often than it would come by itself."""
        cleaner, random = self.rig.data.cleaner, self.random
        while True:
            await self.rig.clock.sleep(random.fraction() * 0.1)
            work = (
                cleaner.destage, cleaner.destage, cleaner.compact, cleaner.give_back, self.rig.store.keyspace.checkpoint,
                self.rig.data.maps.run_once, self._limit, self.rig.volume.run_once,
            )[random.below(8)]  # fmt: skip
            try:
                await work()
                if random.chance(0.5):
                    cleaner.trim()
            except Delayed:
                pass  # a snapshot is being restored
            except (NoSpace, Unavailable, DiskFailed):
                assert self._files.faults or not self.rig.store.log.serving()

    async def _limit(self) -> None:
        """Sets a quota that nobody reaches, or takes it away: what matters is what is counted."""
        kind = (QuotaKind.USER, QuotaKind.VOLUME, QuotaKind.DIRECTORY, QuotaKind.DIRECTORY)[self.random.below(4)]
        subject = self.clients[self.random.below(len(self.clients))].inode if kind == QuotaKind.DIRECTORY else 0
        with suppress(NotFound, InvalidArgument):
            self.rig.call(SetQuota(Quota(kind, subject, 0, self.random.below(2) << 40)))

    def _await_answer(self, client: Client, gate: Lsn) -> None:
        number = client.newest
        if client.states[-1] == client.states[-2]:
            return  # it changed nothing, and so rests on what it looked at alone, not on all that went before
        when = self.rig.volume.when
        when(gate, Level.COMMITTED, partial(client.acknowledge, Level.COMMITTED, number))
        if self.random.chance(0.3):
            when(gate, Level.STABLE, partial(client.acknowledge, Level.STABLE, number))
        elif self.random.chance(0.1):
            flush = self.rig.call(Flush(Stateless(client.inode, SUPER)))
            when(max(gate, flush.gate), Level.STABLE, partial(client.acknowledge, Level.STABLE, number))

    # Verifying

    async def _verify(self) -> None:
        rig = self.rig
        # Where a disk rots the check finds what nobody has read yet; then what clients read has to be right all the same.
        report = await rig.check(read_data=self.rotten is None)
        assert not report.findings, "\n".join(map(str, report.findings[:20]))
        broken = self.power_lost or self.memory_broken
        lost = False
        for client in self.clients:
            found, inodes = await self._found(client, rig)
            number = self._matching(client, found)
            assert number is not None, self._difference(client, found)
            assert number >= client.stable, f"request {client.stable} was stable, but the state is that after {number}"
            assert broken or number >= client.committed, f"request {client.committed} was committed, the state is that after {number}"
            lost |= number < client.committed
            if sum(state.visible() == found for state in client.states) > 1:
                client.sent = None  # made and removed again, say: nobody can tell whether it has been carried out
            client.restart(number, inodes)
        assert not (lost and rig.volume.verifier == self.verifier), "the loss of a committed request went unannounced"
        if not broken and self.verifier:
            assert rig.volume.verifier == self.verifier, "the verifier changed although nothing can be lost"
        self.verifier = rig.volume.verifier
        self.power_lost = self.memory_broken = False

    async def _found(self, client: Client, rig: VolumeRig) -> tuple[Visible, dict[bytes, Inode]]:
        inodes = {entry.name: entry.inode for entry in rig.entries(rig.lookup(client.directory).inode)}
        groups: dict[Inode, set[bytes]] = {}
        for name, inode in inodes.items():
            groups.setdefault(inode, set()).add(name)
        found = {}
        for name, inode in inodes.items():
            attributes = rig.stat(inode)
            content = None
            if attributes.kind is Kind.FILE:
                content = await rig.content(Stateless(inode, SUPER), 0, attributes.size)
                assert attributes.links == len(groups[inode])
            extended = dict(rig.call(GetExtended(Stateless(inode, SUPER))).attributes)
            found[name] = (File(content, attributes.mode, extended.get(b"user.test", b"")), frozenset(groups[inode]))
        return found, inodes

    def _possible(self, client: Client) -> range:
        """The requests after which the client's directory may be as it is found."""
        return range(client.first, client.newest + 1)

    def _matching(self, client: Client, found: Visible) -> int | None:
        """The newest request after which the model looked as found; requests that change nothing to be seen may be more."""
        for number in reversed(self._possible(client)):
            if client.states[number - client.first].visible() == found:
                return number
        return None

    def _difference(self, client: Client, found: Visible) -> str:
        """What about the state is like none there ever was, compared to the newest."""
        newest = client.states[-1].visible()
        names = sorted(name for name in newest.keys() | found.keys() if newest.get(name) != found.get(name))
        lines = [f"{client.directory!r} is as after no request ({client.first} to {client.newest}); compared to the newest:"]
        for name in names:
            lines.append(f"  {name!r}: expected {_brief(newest.get(name))}, found {_brief(found.get(name))}")
        return "\n".join(lines)


def _brief(entry: tuple[File, frozenset[bytes]] | None) -> str:
    if entry is None:
        return "nothing"
    file, names = entry
    size = "directory" if file.content is None else f"{len(file.content)} bytes, hash {hash(file.content) & 0xFFFF:04x}"
    return f"{size}, mode {file.mode:o}, {len(file.extended)} extended, names {sorted(names)}"
