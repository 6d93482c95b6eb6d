"""What one node does for the log: the rules of DESIGN section 7 that belong to the volume in production, in their shortest form.

A node has at most one replica, in `/data/<id>`: `log/`, `records/` (the checkpoint), `note` (the boot during which it was last known to be
whole). Its id is the machine's number times 1,000 plus a serial number, so everybody knows where a replica is.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import NamedTuple

import msgspec
from crc32c import crc32c

from sofs.cluster import Answer, Asked, Incarnation, NodeId, Priority
from sofs.cluster.interconnect import NetworkInterconnect
from sofs.coordination.store import Condition, OutcomeUnknown, Put
from sofs.errors import Damaged, ExtentGone, Fenced, SofsError, Unavailable
from sofs.log.configuration import Configuration, LeaseSettings, LogSettings, Mark
from sofs.log.follower import Follower
from sofs.log.messages import Status
from sofs.log.reading import next_segment
from sofs.log.record import HEADER
from sofs.log.recovery import recover
from sofs.log.remote import RemoteReplica
from sofs.log.replica import LocalReplica
from sofs.log.replicated import ReplicatedLog
from sofs.log.service import LogService
from sofs.runtime.ports import Records
from sofs.types import Level, Lsn
from tests.simulation.cluster.machine import Ports
from tests.simulation.replication.judge import LOG_ID, SEGMENT, Judge
from tests.simulation.replication.machine import Entry, NumberMachine, operation, store_checkpoint

__all__ = ["CONFIGURATION", "SETTINGS", "Member", "decode_configuration", "node_of"]

CONFIGURATION = "configuration"
DEAD = "dead/"
PORT = 4700
SETTINGS = LogSettings(SEGMENT, 24 * SEGMENT, sync_interval_s=0.3, lease=LeaseSettings(promise_s=1.2, silence_s=0.4))
_TICK_S = 0.05


class Make(msgspec.Struct, array_like=True):
    """Asks a node to make a replica anew from a checkpoint."""

    id: int
    version: int
    origin: Mark
    mark: Mark
    entries: list[Entry]


class Own(NamedTuple):
    """A replica of this node that is open."""

    id: int
    replica: LocalReplica
    records: Records
    machine: NumberMachine


def node_of(replica: int) -> int:
    return replica // 1000


def decode_configuration(value: bytes) -> Configuration:
    return Configuration(*msgspec.msgpack.decode(value, type=tuple[int, tuple[int, ...], bool, int, int]))


class Member:
    """One process."""

    def __init__(self, ports: Ports, judge: Judge, count: int) -> None:
        self.ports = ports
        self.judge = judge
        self.number = ports.number + 1
        self.count = count
        self.incarnation = ports.random.number(40) + 1
        self.follower: Follower | None = None
        self.log: ReplicatedLog | None = None
        self.own: Own | None = None
        self.ready = self.broken = False
        """The log has been established; it was taken over by a replica whose memory was broken."""
        self.disks = 1
        self._interconnect = NetworkInterconnect(
            ports.clock,
            ports.random,
            ports.network,
            (NodeId(self.number), Incarnation(self.incarnation)),
            lambda node: [(f"n{node - 1}", PORT)] if 1 <= node <= count else [],
        )
        self._service = LogService(self._interconnect)
        self._interconnect.serve("status", self._asked_for_id)
        self._interconnect.serve("make", self._asked_to_make)
        self._joining: set[int] = set()
        self._making = False

    async def open(self) -> None:
        await self._interconnect.listen(self.ports.address, PORT)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_ended)
        self._checkpoints = asyncio.create_task(self._make_checkpoints())
        self._checkpoints.add_done_callback(_ended)

    def serves(self, volume: str = "") -> bool:
        return self.log is not None and self.log.serving()

    def note(self, what: str, *fields: object) -> None:
        self.ports.store.note(what, *fields)

    # The store

    async def read(self) -> Configuration:
        entry = await self.ports.store.get(CONFIGURATION)
        assert entry is not None
        return decode_configuration(entry.value)

    async def change(self, wanted: Configuration) -> None:
        """Raises `Fenced`, `Unavailable` (the outcome may be unknown)."""
        store, value = self.ports.store, msgspec.msgpack.encode(wanted)
        entry = await store.get(CONFIGURATION)
        assert entry is not None
        if entry.value == value:
            return
        if decode_configuration(entry.value).version + 1 != wanted.version:
            raise Fenced(f"{wanted.version} does not follow {decode_configuration(entry.value).version}")
        try:
            done = await store.transact([Condition(CONFIGURATION, entry.revision)], [Put(CONFIGURATION, value)])
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error
        if not done.done:
            raise Fenced(f"{wanted.version} came too late")

    async def _settle(self, wanted: Configuration) -> bool:
        """Whether `wanted` has been put in force, however long that takes to find out."""
        while True:
            try:
                await self.change(wanted)
            except Fenced:
                return False
            except Unavailable:
                await self.ports.clock.sleep(0.2)
            else:
                return True

    async def dead(self, configuration: Configuration) -> bool:
        entry = await self.ports.store.get(f"{DEAD}{configuration.coordinator}")
        return entry is not None and int(entry.value) == configuration.incarnation

    # The role

    async def _run(self) -> None:
        while True:
            try:
                await self._step()
            except (SofsError, TimeoutError) as error:
                self.note("step failed", type(error).__name__, str(error)[:100])
            await self.ports.clock.sleep(_TICK_S)

    async def _step(self) -> None:
        if self.log is not None:
            if self.log.failure is not None:
                await self._drop()
            elif self.ready:
                await self._recruit()
            return
        if self._making:
            return
        if self.follower is None:
            await self._open()
            return
        if self.follower.failure is not None:
            self._discard(f"failed: {self.follower.failure}")
            return
        await self._consider()

    async def _open(self) -> None:
        """Opens this node's replica, if it has one, and follows with it."""
        files = self.ports.files
        for name in files.list("/data"):
            configuration = await self.read()
            own = self._open_replica(int(name))
            note = self._note_of(own.id)
            mine = configuration.coordinator == self.number
            if note is None:
                self.own = own
                self._discard("it was never whole")
                return
            unbroken = note == self.ports.boot
            try:
                found = recover([own.replica], own.machine.mark, configuration.version, lambda: unbroken, own.machine.apply)  # noqa: B023
            except SofsError as error:
                self.own = own
                self._discard(str(error))
                return
            self._follow(own, configuration, found.end, found.stable, found.tail, unbroken, not mine)
            return

    def _open_replica(self, id: int) -> Own:
        files, path = self.ports.files, f"/data/{id}"
        replica = LocalReplica(files, f"{path}/log", LOG_ID, id, SEGMENT)
        records = files.records(f"{path}/records", 1 << 30)
        return Own(id, replica, records, NumberMachine(records, self.judge.cut))

    def _follow(self, own: Own, configuration: Configuration, end: Mark, stable: Mark, tail: tuple[object, ...], whole: bool, promised: bool) -> None:
        self.note("follows", own.id, configuration.version, end.lsn, "whole" if whole else "not whole")
        own.replica.prepare((end.lsn - 1) // SEGMENT)
        follower = Follower(
            self.ports.clock,
            own.replica,
            own.machine,
            configuration=configuration,
            end=end,
            stable=stable,
            tail=tail,  # type: ignore[arg-type]
            checkpoint=own.machine.mark,
            whole=whole,
            settings=SETTINGS,
            read_configuration=self.read,
            promised=promised,
        )
        follower.on_whole = partial(self._write_note, own.id)
        self.own, self.follower = own, follower
        self._service.add(follower)

    def _note_of(self, id: int) -> bytes | None:
        path = f"/data/{id}/note"
        if not self.ports.files.exists(path):
            return None
        file = self.ports.files.open(path)
        data = bytearray(file.size)
        file.read_now(0, [memoryview(data)])
        file.close()
        return bytes(data)

    def _write_note(self, id: int) -> None:
        file = self.ports.files.open(f"/data/{id}/note", create=True)
        file.truncate(0)
        file.write(0, [self.ports.boot])
        file.sync_now()
        file.close()
        self.ports.files.sync_directory(f"/data/{id}")
        self.ports.files.sync_directory("/data")

    def _let_go(self) -> None:
        own, self.own = self.own, None
        if self.follower is not None:
            self.follower.close()
            self._service.remove(self.follower.id)
        if own is not None:
            own.replica.close()
            own.records.close()
        self.follower = self.log = None
        self.ready = False

    def _discard(self, reason: str) -> None:
        """This replica is lost; it will be made anew under another id."""
        own = self.own
        assert own is not None
        self.note("discards", own.id, reason[:100])
        self.judge.look(self.ports.files)
        self._let_go()
        _remove(self.ports, f"/data/{own.id}")

    async def _drop(self) -> None:
        """The log has failed or was superseded: nothing more is written by it; the replica is a learner's from now on, if its disk is well."""
        assert self.log is not None and self.own is not None
        failure, own = self.log.failure, self.own
        self.note("drops", own.id, str(failure)[:100])
        sole = self.log.replica_ids == (own.id,)
        await self.log.close()
        if not isinstance(failure, Fenced):
            self.judge.gone |= sole
            self._discard("its disk has failed")
        else:
            self._let_go()

    # Taking over

    async def _consider(self) -> None:
        follower = self.follower
        assert follower is not None
        now, configuration = self.ports.clock.boottime(), follower.configuration
        if configuration.coordinator == self.number and configuration.incarnation == self.incarnation:
            if follower.id in configuration.replicas and follower.stand(proof=True):
                await self._lead(configuration, False)  # handed over
            return
        expired = now >= follower.promised_until
        proof = not expired and self.ports.random.chance(0.3) and await self.dead(configuration)
        if not expired and not proof:
            return
        configuration = await self.read()
        follower.adopt(configuration)
        if follower.id not in configuration.replicas or (configuration.coordinator, configuration.incarnation) == (self.number, self.incarnation):
            return
        if proof and not await self.dead(configuration):
            return
        broken = not follower.whole
        if broken and not await self._first(follower, configuration):
            return
        if self.follower is not follower or not follower.stand(proof=proof, broken=broken):
            return
        others = (id for id in configuration.replicas if id != follower.id and node_of(id) != configuration.coordinator)
        wanted = Configuration(configuration.version + 1, (follower.id, *others), False, self.number, self.incarnation)
        if await self._settle(wanted):
            await self._lead(wanted, broken)
        else:
            while True:
                try:
                    follower.resume(await self.read())
                    return
                except Unavailable:
                    await self.ports.clock.sleep(0.2)

    async def _first(self, follower: Follower, configuration: Configuration) -> bool:
        """Whether no replica with an unbroken memory answers, and none of the others has more than this one."""
        mine = (follower.end.version, follower.end.lsn, follower.id)
        asked = [self._service.status(NodeId(node_of(id)), id, 1.0) for id in configuration.replicas if id != follower.id]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for id, answer in zip((id for id in configuration.replicas if id != follower.id), answers, strict=True):
            if isinstance(answer, Status) and (answer.whole or (answer.end.version, answer.end.lsn, id) > mine):
                return False
        return True

    async def _lead(self, configuration: Configuration, broken: bool) -> None:
        assert self.follower is not None and self.own is not None
        self.broken = broken
        self.judge.forgetting |= broken
        lead = self.follower.retire()
        self._service.remove(self.follower.id)
        self.follower = None
        own = self.own
        self.note("leads", own.id, configuration.version, configuration.replicas, lead.end.lsn, "broken" if broken else "")
        remotes = [self._remote(id) for id in configuration.replicas if id != own.id]
        clock = self.ports.clock
        self.log = ReplicatedLog(clock, own.machine, [lead.replica], configuration, self.change, lead.end, lead.stable, SETTINGS, remotes)
        # From here on it may serve, and answers no later than that.
        before = list(own.machine.entries)
        begun = asyncio.ensure_future(self.log.establish())
        begun.add_done_callback(partial(self._established, self.log, _next(lead.end.lsn), before, broken))
        if broken:
            begun.add_done_callback(lambda begun: None if begun.exception() else self._write_note(own.id))

    def _established(self, log: ReplicatedLog, first: Lsn, entries: list[Entry], broken: bool, begun: "asyncio.Future[None]") -> None:
        if begun.exception() is None and self.log is log:
            self.note("serves", log.version, log.replica_ids)
            self.judge.begins(self.ports.address, entries, broken)
            self.judge.all_have(first, Level.STABLE, log.replica_ids)
            self.ready = True

    def _remote(self, id: int) -> RemoteReplica:
        return RemoteReplica(self._interconnect.peer(NodeId(node_of(id))), self.ports.clock, id, f"n{node_of(id) - 1}/{id}", SETTINGS)

    # Checkpoints

    async def _make_checkpoints(self) -> None:
        while True:
            await self.ports.clock.sleep(0.3 + self.ports.random.fraction())
            own, source = self.own, self.log if self.log is not None else self.follower
            if own is None or source is None or source.failure is not None:
                continue
            try:
                await self._checkpoint(own, source)
            except SofsError as error:
                self.note("no checkpoint", str(error)[:100])

    async def _checkpoint(self, own: Own, source: ReplicatedLog | Follower) -> None:
        mark = source.mark
        if isinstance(source, ReplicatedLog) and self.ports.random.chance(0.7):
            source.trim(own.machine.mark.lsn)
        if mark.lsn <= own.machine.mark.lsn:
            return
        entries = own.machine.before(mark)
        await source.reach(Lsn(mark.lsn - 1))
        if source.failure is not None or self.own is not own:
            return
        await store_checkpoint(own.records, mark, entries)
        own.machine.mark = mark
        if isinstance(source, Follower):
            source.checkpoint = mark

    # Newcomers

    async def _recruit(self) -> None:
        log = self.log
        assert log is not None
        have = {node_of(id) for id in log.replica_ids} | self._joining
        for number in range(1, self.count + 1):
            if number not in have:
                self._joining.add(number)
                task = asyncio.create_task(self._take_in(log, number))
                task.add_done_callback(_ended)

    async def _take_in(self, log: ReplicatedLog, number: int) -> None:
        try:
            peer = self._interconnect.peer(NodeId(number))
            answer = await peer.call("status", b"", deadline_s=1.0)
            id = int(bytes(answer.body))
            remote = self._remote(id) if id else await self._make_anew(log, number)
            if remote not in log.remotes.learning:
                log.join(remote)
            try:
                await log.promote(remote)
            except Unavailable:
                if not remote.uncovered or not log.serving():
                    raise
                remote = await self._make_anew(log, number)
                await log.promote(remote)
        except SofsError as error:
            self.note("not taken in", number, str(error)[:150])
            await self.ports.clock.sleep(0.3)
        finally:
            self._joining.discard(number)

    async def _make_anew(self, log: ReplicatedLog, number: int) -> RemoteReplica:
        hold, origin = await log.hold()
        try:
            own = self.own
            if own is None or log.failure is not None:
                raise Unavailable("the log has failed meanwhile")
            id = number * 1000 + self.ports.random.below(1000)
            body = Make(id, log.version, origin, own.machine.mark, own.machine.before(own.machine.mark))
            await self._interconnect.peer(NodeId(number)).call("make", msgspec.msgpack.encode(body), priority=Priority.REBUILD, deadline_s=3.0)
            if log.failure is not None:
                raise Unavailable("the log has failed meanwhile")
            remote = self._remote(id)
            log.join(remote)
            return remote
        finally:
            hold.release()

    def _asked_for_id(self, asked: Asked) -> Answer:
        if self.log is not None or self._making or (self.own is None and self.ports.files.list("/data")):
            raise Unavailable("not now")
        return Answer(b"%d" % (self.own.id if self.own is not None else 0))

    def _asked_to_make(self, asked: Asked) -> Awaitable[Answer]:
        return self._made(msgspec.msgpack.decode(bytes(asked.body), type=Make))

    async def _made(self, make: Make) -> Answer:
        configuration = await self.read()
        if self.log is not None or configuration.version != make.version or self._making:
            raise Unavailable("not now")
        self._making = True
        try:
            return await self._make(make, configuration)
        finally:
            self._making = False

    async def _make(self, make: Make, configuration: Configuration) -> Answer:
        follower = self.follower
        if follower is not None and (follower.id in configuration.replicas or follower.standing):
            raise Unavailable("it counts")
        if self.own is not None:
            self._discard("it is made anew")
        files, path = self.ports.files, f"/data/{make.id}"
        for name in files.list("/data"):
            _remove(self.ports, f"/data/{name}")
        files.make_directory(f"{path}/log")
        records = files.records(f"{path}/records", 1 << 30)
        await store_checkpoint(records, make.mark, make.entries)
        files.sync_directory(path)
        files.sync_directory("/data")
        own = Own(make.id, LocalReplica(files, f"{path}/log", LOG_ID, make.id, SEGMENT), records, NumberMachine(records, self.judge.cut))
        self._follow(own, configuration, make.origin, make.origin, (), False, True)
        return Answer(b"")

    # What clients ask for

    async def write(self, number: int, payload: bytes, level: Level) -> Lsn:
        """Raises `Unavailable`, `NoSpace`; or never answers."""
        log = self.log
        if log is None or not self.ready:
            raise Unavailable("not here")
        lsn = log.append(operation(number, len(payload), crc32c(payload)), [payload] if payload else [])
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            with self.judge.noting():
                self.judge.told(number, lsn, level, log.replica_ids)
            if not done.done():
                done.set_result(None)

        log.when(lsn, level, answer)
        await done
        return lsn

    async def show(self, asked: dict[int, Lsn]) -> None:
        """Shows all there is."""
        log, own = self.log, self.own
        if log is None or own is None or not self.ready:
            raise Unavailable("not here")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entries = list(own.machine.entries)

        def answer() -> None:
            with self.judge.noting():
                self.judge.observed(entries, asked)
            if not done.done():
                done.set_result(None)

        log.when(entries[-1].lsn if entries else Lsn(0), Level.COMMITTED, answer)
        await done

    async def check_copies(self) -> None:
        """Every copy has every payload that the log still holds. Raises `Damaged`."""
        log, own = self.log, self.own
        assert log is not None and own is not None
        for entry in own.machine.entries:
            if entry.address < log.start or not entry.length:
                continue
            for replica in range(log.replicas):
                data = bytearray(entry.length)
                try:
                    waiting = log.read(entry.address, memoryview(data), replica)
                    if waiting is not None:
                        await waiting
                except ExtentGone:
                    # A coordinator before this one had it trimmed there, and its checkpoint has it; here the own one was older.
                    assert entry.lsn < log.remotes.counted[replica - 1].checkpointed
                    continue
                if crc32c(data) != entry.checksum:
                    raise Damaged(f"copy {replica} has other bytes at {entry.address}")

    async def hand_over(self, number: int) -> None:
        log = self.log
        if log is None or not self.ready:
            raise Unavailable("not here")
        target = next((id for id in log.replica_ids if node_of(id) == number and number != self.number), None)
        if target is None:
            raise Unavailable("it does not count")
        peer = self._interconnect.peer(NodeId(number))
        if not peer.connected:
            raise Unavailable("it is not there")
        await log.hand_over(Configuration(0, (), False, number, peer.incarnation))


def _next(end: int) -> Lsn:
    """Where a record without operations is written that follows."""
    fits = end % SEGMENT and end % SEGMENT + HEADER <= SEGMENT
    return Lsn(end if fits else next_segment(end, SEGMENT))


def _remove(ports: Ports, path: str) -> None:
    files = ports.files
    for part in ("log", "records"):
        if files.exists(f"{path}/{part}"):
            for name in files.list(f"{path}/{part}"):
                files.remove(f"{path}/{part}/{name}")
            files.remove(f"{path}/{part}")
    if files.exists(f"{path}/note"):
        files.remove(f"{path}/note")
    files.remove(path)


def _ended(task: "asyncio.Task[None]") -> None:
    """What nobody foresaw is a violation."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
