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
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from sofs.errors import Delayed, DiskFailed, InvalidArgument, NoSpace, NotFound, Unavailable
from sofs.log.replicated import LogSettings
from sofs.runtime.simulated_files import Latency, SimulatedFiles
from sofs.runtime.simulated_loop import Crash, SimulatedClock, SimulatedLoop, SimulatedRandom, simulate
from sofs.types import PAGE, Inode, Kind, Level, Lsn
from sofs.volume.api import (
    Allocate,
    Changes,
    Clone,
    Copy,
    Flush,
    Found,
    GetExtended,
    Link,
    Make,
    Punch,
    Quota,
    QuotaKind,
    Remove,
    Rename,
    Reply,
    Request,
    SetAttributes,
    SetExtended,
    SetQuota,
    Stateless,
    Token,
)
from sofs.volume.checkpoint import CheckpointSettings
from sofs.volume.recovery import StoreSettings
from tests.unit.volume.rig import done
from tests.unit.volume.volume_rig import BY, SUPER, VolumeRig

__all__ = ["Scenario"]

KIB = 1 << 10
_STUCK_S = 600.0
"""Virtual seconds that a life may take; a fraction of a second is usual."""


class File(NamedTuple):
    """A file or (without content) a directory, as the model has it."""

    content: bytes | None
    mode: int
    extended: bytes = b""


@dataclass
class State:
    """One client's directory after some request."""

    names: dict[bytes, int] = field(default_factory=dict)
    files: dict[int, File] = field(default_factory=dict)

    def copy(self) -> "State":
        return State(dict(self.names), dict(self.files))

    def visible(self) -> dict[bytes, tuple[File, frozenset[bytes]]]:
        """By name: the file, and all names it has."""
        groups: dict[int, list[bytes]] = {}
        for name, number in self.names.items():
            groups.setdefault(number, []).append(name)
        return {name: (self.files[number], frozenset(groups[number])) for name, number in self.names.items()}


Change = Callable[[State], None]
Call = Callable[[Token], Reply | Awaitable[Reply]]
"""Sends a request. Sent again with the same token it is answered, and not carried out again."""


class Sent(NamedTuple):
    """A client's last request, for it to be sent again after a crash."""

    number: int
    token: Token
    call: Call
    change: Change


class Client:
    """One client: what it has done, and what it has been promised."""

    def __init__(self, number: int, random: SimulatedRandom) -> None:
        self.directory = b"client %d" % number
        self.inode = Inode(0)
        self.random = random
        self.states = [State()]
        self.first = self.committed = self.stable = 0
        self.pending = False
        """Whether the newest state is that of a request that has not been answered."""
        self.inodes: dict[int, Inode] = {}
        self.last = 0
        self.sent: Sent | None = None
        self.requests = 0

    @property
    def newest(self) -> int:
        return self.first + len(self.states) - 1

    def restart(self, number: int, found: dict[bytes, Inode]) -> None:
        self.states = [self.states[number - self.first].copy()]
        self.first = self.committed = self.stable = number
        self.pending = False
        self.inodes = {self.states[0].names[name]: inode for name, inode in found.items()}
        if self.sent is not None and self.sent.number not in (number, number + 1):
            self.sent = None  # what it rested on is lost

    def new_token(self) -> Token:
        self.requests += 1
        return Token(b"%s, request %d" % (self.directory, self.requests))

    def acknowledge(self, level: Level, number: int) -> None:
        self.committed = max(self.committed, number)
        if level is Level.STABLE:
            self.stable = max(self.stable, number)

    # What it may do next: a request with its effect on the state

    def next(self, rig: VolumeRig) -> tuple[Call, Change]:
        state, random = self.states[-1], self.random
        files = [number for number in state.names.values() if state.files[number].content is not None]
        if not files or random.chance(0.1):
            return self._make(rig, state)
        number = files[random.below(len(files))]
        choices = (
            self._write, self._write, self._write, self._write, self._append, self._truncate, self._punch,
            self._allocate, self._clone, self._copy, self._rename, self._remove, self._link, self._chmod, self._extended,
        )  # fmt: skip
        return choices[random.below(len(choices))](rig, state, number)

    def _call(self, rig: VolumeRig, request: Request) -> Call:
        return lambda token: rig.volume.call(request, token, BY)

    def _target(self, number: int) -> Stateless:
        return Stateless(self.inodes[number], SUPER)

    def _name(self) -> bytes:
        return b"name %d" % self.random.below(12)

    def _make(self, rig: VolumeRig, state: State) -> tuple[Call, Change]:
        free = [name for name in (b"name %d" % index for index in range(40)) if name not in state.names]
        name = free[self.random.below(len(free))]
        directory = self.random.chance(0.2)
        self.last += 1
        number = self.last

        kind = Kind.DIRECTORY if directory else Kind.FILE

        def make(token: Token) -> Reply:
            found: Found = rig.call(Make(SUPER, self.inode, name, kind, Changes(mode=0o640)), token)
            self.inodes[number] = found.attributes.inode
            return found

        def change(after: State) -> None:
            after.names[name] = number
            after.files[number] = File(None if directory else b"", 0o640)

        return make, change

    def _edit(self, number: int, edit: Callable[[bytes], bytes]) -> Change:
        def change(after: State) -> None:
            file = after.files[number]
            assert file.content is not None
            after.files[number] = file._replace(content=edit(file.content))

        return change

    def _write(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        random = self.random
        if random.chance(0.5):
            offset, length = random.below(40) * PAGE, (1 + random.below(4)) * PAGE
        elif random.chance(0.7):
            offset, length = random.below(100 * KIB), 1 + random.below(9000)
        else:
            offset, length = random.below(20) * PAGE, (20 + random.below(30)) * PAGE
        return self._write_at(rig, number, offset, length)

    def _append(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        content = state.files[number].content
        assert content is not None
        return self._write_at(rig, number, len(content), 1 + self.random.below(5000))

    def _write_at(
        self, rig: VolumeRig, number: int, offset: int, length: int
    ) -> tuple[Call, Change]:
        data = self.random.bytes(16) * (length // 16 + 1)
        data = data[:length]
        target = self._target(number)

        def write(token: Token) -> Reply | Awaitable[Reply]:
            return rig.volume.write(target, offset, memoryview(data), token, Level.COMMITTED, BY)

        return write, self._edit(number, lambda old: old[:offset].ljust(offset, b"\0") + data + old[offset + length :])

    def _truncate(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        size = self.random.below(150 * KIB)
        request = SetAttributes(self._target(number), Changes(size=size))
        return self._call(rig, request), self._edit(number, lambda old: old[:size].ljust(size, b"\0"))

    def _punch(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        offset, length = self.random.below(100 * KIB), 1 + self.random.below(50 * KIB)
        request = Punch(self._target(number), offset, length)

        def edit(old: bytes) -> bytes:
            end = min(len(old), offset + length)
            return old if offset >= end else old[:offset] + bytes(end - offset) + old[end:]

        return self._call(rig, request), self._edit(number, edit)

    def _allocate(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        offset, length = self.random.below(100 * KIB), 1 + self.random.below(50 * KIB)
        extend = self.random.chance(0.5)
        request = Allocate(self._target(number), offset, length, extend)
        return self._call(rig, request), self._edit(number, lambda old: old.ljust(offset + length, b"\0") if extend else old)

    def _other(self, state: State, number: int) -> int:
        others = [each for each in state.names.values() if state.files[each].content is not None and each != number]
        return others[self.random.below(len(others))] if others else number

    def _clone(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        source = self._other(state, number)
        content = state.files[source].content or b""
        pages = len(content) // PAGE
        if source == number or pages == 0:
            return self._write(rig, state, number)
        if self.random.chance(0.5):
            return self._clone_whole(rig, source, number, content)
        first = self.random.below(pages)
        count = 1 + self.random.below(pages - first)
        to = self.random.below(30) * PAGE
        request = Clone(self._target(source), first * PAGE, self._target(number), to, count * PAGE)
        piece = content[first * PAGE : (first + count) * PAGE]
        return self._call(rig, request), self._edit(number, lambda old: old[:to].ljust(to, b"\0") + piece + old[to + len(piece) :])

    def _clone_whole(self, rig: VolumeRig, source: int, number: int, content: bytes) -> tuple[Call, Change]:
        request = Clone(self._target(source), 0, self._target(number), 0, len(content))
        return self._call(rig, request), self._edit(number, lambda old: content + old[len(content) :])

    def _copy(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        source = self._other(state, number)
        content = state.files[source].content or b""
        if source == number or not content:
            return self._write(rig, state, number)
        offset = self.random.below(len(content))
        # Short, and so in one batch.
        piece = content[offset : offset + 1 + self.random.below(3000)]
        to = self.random.below(100 * KIB)
        request = Copy(self._target(source), offset, self._target(number), to, len(piece))
        return self._call(rig, request), self._edit(number, lambda old: old[:to].ljust(to, b"\0") + piece + old[to + len(piece) :])

    def _name_of(self, state: State, number: int) -> bytes:
        return next(name for name, each in state.names.items() if each == number)

    def _rename(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        name, new = self._name_of(state, number), self._name()
        old = state.names.get(new)
        if old is not None and state.files[old].content is None:
            return self._write(rig, state, number)

        def change(after: State) -> None:
            if old != number:  # two names of one file: POSIX leaves both
                after.names[new] = after.names.pop(name)

        return self._call(rig, Rename(SUPER, self.inode, new, True, self.inode, name)), change

    def _remove(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        name = list(state.names)[self.random.below(len(state.names))]

        def change(after: State) -> None:
            del after.names[name]

        return self._call(rig, Remove(SUPER, self.inode, name, None)), change

    def _link(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        new = self._name()
        if new in state.names:
            return self._write(rig, state, number)

        def change(after: State) -> None:
            after.names[new] = number

        return self._call(rig, Link(SUPER, self.inodes[number], self.inode, new)), change

    def _chmod(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        mode = self.random.below(0o1000)

        def change(after: State) -> None:
            after.files[number] = after.files[number]._replace(mode=mode)

        return self._call(rig, SetAttributes(self._target(number), Changes(mode=mode))), change

    def _extended(self, rig: VolumeRig, state: State, number: int) -> tuple[Call, Change]:
        value = self.random.bytes(1 + self.random.below(200))

        def change(after: State) -> None:
            after.files[number] = after.files[number]._replace(extended=value)

        return self._call(rig, SetExtended(self._target(number), ((b"user.test", value),))), change


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
        self.rig.store.log.on_failure = lambda error: self._note_failure()
        if self.rig.store.log.failure is not None:
            self._note_failure()  # it failed before anybody could be told
        self.rig.mount()

    def _note_failure(self) -> None:
        self.memory_broken = True

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
        disturbing = loop.create_task(self._disturb())
        async with asyncio.timeout(_STUCK_S):
            for task in [loop.create_task(self._work(client)) for client in self.clients]:
                await task
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
        if self.random.chance(0.3):
            await self._close()
        raise Crash

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
            call, change = client.next(self.rig)
            client.sent = Sent(client.newest + 1, client.new_token(), call, change)
            if not await self._send(client, client.sent):
                return
            if self.random.chance(0.7):
                await self.rig.clock.sleep(self.random.fraction() * (0.3 if self.random.chance(0.05) else 0.01))

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
            found, inodes = await self._found(client)
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

    async def _found(self, client: Client) -> tuple[dict[bytes, tuple[File, frozenset[bytes]]], dict[bytes, Inode]]:
        rig = self.rig
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

    def _matching(self, client: Client, found: dict[bytes, tuple[File, frozenset[bytes]]]) -> int | None:
        """The newest request after which the model looked as found; requests that change nothing to be seen may be more."""
        for index in reversed(range(len(client.states))):
            if client.states[index].visible() == found:
                return client.first + index
        return None

    def _difference(self, client: Client, found: dict[bytes, tuple[File, frozenset[bytes]]]) -> str:
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


