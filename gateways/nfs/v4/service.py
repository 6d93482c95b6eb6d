"""An NFSv4 server instance, a group: what all its connections share.

It knows clients and sessions, and hears what the volumes have to say. It runs on one node at a time, its home, and is brought back from its records on
another (`loading`, `groups`).
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import structlog

from gateways.exports import Shares
from gateways.nfs.handles import Handles
from gateways.nfs.rpc import RpcConnection
from gateways.nfs.v4 import departing, loading, recalls, records, restoring, stateids
from gateways.nfs.v4.backchannel import Callbacks
from gateways.nfs.v4.clients import FIRST_GROUP, Client, Clients
from gateways.nfs.v4.operation import Ask, Outcome, Wait
from gateways.nfs.v4.owners import Owners
from gateways.nfs.v4.slots import Session
from gateways.nfs.v4.table import read_operation
from gateways.nfs.v4.underway import UnderWay
from sofs.errors import SofsError, Unavailable
from sofs.locks import GrantKind
from sofs.runtime.ports import Clock, Random, Timer
from sofs.types import Inode, Level, VolumeId
from sofs.volume.api import Binding, Dropped, KeepRecords, ListClient, Recall, Reply, Request, Resumed, Revoked, Upcall, Volume

log = structlog.get_logger("nfs")

LEASE_S = 90
STOOD_STILL_S = 2.0
WRITERS = 10_000
"""Write delegations before those are dropped that have gone."""
CB_PATH_DOWN, RECALLABLE_REVOKED, RECLAIM_NEEDED, CB_PATH_DOWN_SESSION, BACKCHANNEL_FAULT = 0x1, 0x40, 0x100, 0x200, 0x400
"""SEQ4_STATUS_*, 18.46.2."""

Volumes = Callable[[VolumeId], Volume | None]


class Service:
    """`identity` is this server instance's (so_major_id), `scope` the cluster's; `system` the volume that keeps client and session records, without
    which they are lost with the process. `by` is this gateway's incarnation.

    `group` is the instance's number, `others` says whether a number is another one's; `fences` are the gateway incarnations of former homes that may
    still believe to be that; `former` says what the group's former service in this process has left under way."""

    def __init__(
        self,
        by: Binding,
        clock: Clock,
        random: Random,
        volumes: Volumes,
        *,
        identity: bytes = b"sofs",
        scope: bytes = b"sofs",
        system: Callable[[], Volume | None] = lambda: None,
        lease_s: float = LEASE_S,
        owners: Owners,
        take: Callable[[int], bytearray],
        handles: Handles,
        shares: Shares,
        hear: Callable[[Volume], None],
        group: int = FIRST_GROUP,
        others: Callable[[int], bool] | None = None,
        fences: Sequence[int] = (),
        former: UnderWay | None = None,
        repeat: Callable[[], None] = lambda: None,
    ) -> None:
        self.by = by
        self.group = group
        self.alone = others is None
        """There is no other group."""
        self._others = others or (lambda number: False)
        self.fences = tuple(fences)
        self.repeat = repeat
        """Called for each request that was known from its slot."""
        self.shut: set[VolumeId] = set()
        """Where `fences` have been fenced."""
        self.clock = clock
        self.random = random
        self.identity = identity
        self.scope = scope
        self._system = system
        self._known: Volume | None = None
        self._keeps = True
        self.lease_s = lease_s
        self.owners = owners
        self.take = take
        """A large buffer, of those that are used again."""
        self.handles = handles
        self.shares = shares
        self.clients = Clients(random, group)
        self.sessions: dict[bytes, Session] = {}
        self.slots: Counter[str] = Counter()
        """Of the sessions, by the address that their client came from."""
        self._bound: dict[RpcConnection, set[Session]] = {}
        """The sessions that use a connection, in either direction."""
        self.writers: dict[tuple[VolumeId, Inode], tuple[Client, stateids.Held]] = {}
        """Write delegations by file, some of which may have gone already (`writer`)."""
        self.read = read_operation
        self._volumes = volumes
        self._hear = hear
        self.runs_out: set[VolumeId] = set()
        """Volumes whose grace takes its whole time: nobody knows for whom it is."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self.under_way = UnderWay(former)
        self._timer: Timer | None = None
        self._recording = 0
        """Changes of records that are under way."""
        self.stopped = False
        """What is still under way is never answered."""
        self._settled = False
        self._due = 0.0
        """When leases are to be looked at next, by the clock that also runs while the host sleeps."""

    # Start and end

    async def load(self) -> None:
        """Brings back the clients and sessions of before. Raises `SofsError`."""
        await loading.load(self)
        self._look_later()

    async def settle(self) -> None:
        """To be called once loaded: sees to the volumes that are shared. Raises `SofsError`."""
        for id in sorted({share.volume for share in self.shares.all()}):
            await loading.settle(self, id)
        self._settled = True

    @property
    def all_shut(self) -> bool:
        """The former homes are fenced wherever they could have done anything."""
        return self._settled and all(id in self.shut for client in self.clients.numbered.values() for id in client.volumes)

    def mine(self, id: bytes) -> bool:
        """Whether a client's key or a session id is this group's."""
        return loading.is_of(self.group, self._others, id)

    def keeps_nothing(self) -> None:
        """There is no room for records in the system volume."""
        self._keeps = False

    @property
    def idle(self) -> bool:
        """Nothing is under way that changes anything."""
        return not self._recording and not any(client.waiting or client.creating for client in self.clients.numbered.values())

    async def stop(self) -> None:
        """Ends what is under way and in the background. Clients and sessions stay in their records.

        What COMPOUNDs have asked of volumes is not taken back: it may have been carried out, with its token, and is to stay so. They go no further.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._drop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Tasks

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Sees to it that the task is not collected before its end."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def begin(self, work: Any, what: str) -> None:
        """Runs a coroutine in the background; what it raises is logged."""

        async def guarded() -> None:
            try:
                await work
            except SofsError as error:
                log.warning(f"nfs4.{what}_failed", reason=str(error))
            except Exception:
                log.exception(f"nfs4.{what}_failed")

        self.keep(asyncio.get_running_loop().create_task(guarded()))

    async def ask(self, volume: Volume, request: Request) -> Any:
        """The answer to a request, once what it rests on is committed: nothing of it is lost any more. Raises `SofsError`."""
        return await self.reached(volume, volume.call(request, None, self.by), Level.COMMITTED)

    async def perform(self, outcome: Outcome) -> None:
        """Takes an outcome that belongs to no COMPOUND to its end. Raises `SofsError`."""
        while isinstance(outcome, (Ask, Wait)):
            reply: Any = outcome.volume.call(outcome.request, None, self.by) if isinstance(outcome, Ask) else outcome.result
            outcome = outcome.answer(await reply if isinstance(reply, Awaitable) else reply)

    # Volumes and records

    @property
    def system(self) -> Volume | None:
        """The volume that keeps records; None if there is none."""
        if self._known is None and self._keeps:
            self._known = self._system()
        return self._known

    def known_volume(self, id: VolumeId) -> Volume | None:
        return self._volumes(id)

    def volume(self, id: VolumeId) -> Volume:
        """The volume, whose upcalls are heard from now on. Raises `Unavailable`."""
        volume = self._volumes(id)
        if volume is None:
            raise Unavailable(f"there is no volume {id:#x}")
        self._hear(volume)
        return volume

    def record(self, changes: Iterable[records.Change], then: Callable[[], Outcome], undo: Callable[[], None] = lambda: None) -> Outcome:
        """Changes records; the answer is not told before they are stable. `undo` takes back what the caller has done if they cannot be kept."""
        if self.system is None:
            return then()
        system = self.system
        try:
            reply = system.call(KeepRecords(tuple(changes)), None, self.by)
        except SofsError:
            undo()
            raise
        self._recording += 1
        return Wait(system, self._recorded(system, reply, undo), lambda _: then())

    async def _recorded(self, system: Volume, reply: Reply | Awaitable[Reply], undo: Callable[[], None] = lambda: None) -> Reply:
        try:
            return await self.reached(system, reply, Level.STABLE)
        except SofsError:
            undo()
            raise
        finally:
            self._recording -= 1

    async def keep_session(self, session: Session) -> None:
        """Records a session as it is now. Raises `SofsError`."""
        system = self.system
        if system is not None:
            reply = system.call(KeepRecords((records.session_change(session),)), None, self.by)
            self._recording += 1
            await self._recorded(system, reply)

    async def reached(self, volume: Volume, reply: Reply | Awaitable[Reply], level: Level) -> Reply:
        """The reply, once what it says is committed, or stable. Raises `SofsError`."""
        answered = reply if isinstance(reply, Reply) else await reply
        await self.under_way.opened(volume, answered.gate, level)
        return answered

    def note_volume(self, client: Client, id: VolumeId, then: Callable[[], Outcome]) -> Outcome:
        """The client is about to have state or tokens in a volume: that has to be known after a crash."""
        volume = self.volume(id)
        verifier = client.noted[id] = volume.verifier
        if not verifier:  # it is known once the volume has answered anything
            del client.noted[id]
            return Ask(volume, ListClient(client.key), lambda _: self.note_volume(client, id, then))

        def noted() -> Outcome:
            client.volumes[id] = verifier
            return then()

        return self.record([records.client_change(client)], noted)

    # Write delegations

    def writes(self, client: Client, held: stateids.Held) -> None:
        """The client was given a write delegation."""
        if len(self.writers) >= WRITERS:
            self.writers = {key: each for key, each in self.writers.items() if self._holds(*each)}
        self.writers[held.volume, held.inode] = client, held

    def writer(self, volume: VolumeId, inode: Inode, asking: Client | None) -> tuple[Client, stateids.Held] | None:
        """Who, beside the client that asks, may have changed the file without our knowledge."""
        found = self.writers.get((volume, inode))
        if found is None or found[0] is asking:
            return None
        if not self._holds(*found):
            del self.writers[volume, inode]
            return None
        return found

    def _holds(self, client: Client, held: stateids.Held) -> bool:
        return self.clients.numbered.get(client.id) is client and client.states.get(held.other) is held and not held.revoked

    # Sessions

    def add(self, session: Session) -> None:
        self.sessions[session.id] = session
        session.client.sessions[session.id] = session
        self.slots[session.client.origin] += len(session.slots)

    def remove(self, session: Session) -> None:
        """Forgets the session at once; its record and tokens are the caller's to remove."""
        if self.sessions.pop(session.id, None) is None:
            return
        session.client.sessions.pop(session.id, None)
        origin = session.client.origin
        self.slots[origin] -= len(session.slots)
        if not self.slots[origin]:
            del self.slots[origin]
        for connection in (*session.connections, *(callbacks.connection for callbacks in session.back.connections)):
            self._bound[connection].discard(session)

    def bind(self, session: Session, connection: RpcConnection) -> None:
        """The connection belongs to the session's fore channel (2.10.3.1)."""
        session.connections.add(connection)
        self._use(session, connection)

    def _use(self, session: Session, connection: RpcConnection) -> None:
        sessions = self._bound.get(connection)
        if sessions is None:
            sessions = self._bound[connection] = set()
            connection.ended.append(partial(self._ended, connection))
        sessions.add(session)

    def abandon(self) -> None:
        """Another service takes this one's place: who waits for an answer is to ask again, over another connection."""
        self._drop()
        for connection in list(self._bound):
            if connection.busy:
                connection.link.close("its group has another home, or begins anew")

    def _drop(self) -> None:
        self.stopped = True
        self.under_way.drop()

    def _ended(self, connection: RpcConnection) -> None:
        for session in self._bound.pop(connection):
            session.connections.discard(connection)
            if isinstance(connection.back, Callbacks):
                session.back.lost(connection.back)

    def bind_back(self, session: Session, connection: RpcConnection) -> None:
        """The session's callbacks may go over this connection."""
        if connection.back is None:
            connection.back = Callbacks(connection)
        callbacks = connection.back
        assert isinstance(callbacks, Callbacks)
        if callbacks not in session.back.connections:
            session.back.connections.append(callbacks)
            self._use(session, connection)
        session.client.called_back = True
        session.back.fault = False
        recalls.repeat(self, session.client)

    def flags(self, session: Session, connection: RpcConnection) -> int:
        """SEQ4_STATUS_* for a reply to SEQUENCE over this connection."""
        client, flags = session.client, 0
        # Not told where the client cannot mend it: Linux closes each connection over which BIND_CONN_TO_SESSION gives it no backchannel, four in a row, and
        # again with the next SEQUENCE, so that it hardly gets on until its group's home has followed the address.
        if client.called_back and connection.calls_back:
            if not session.back.live and session.flags & loading.CREATE_CONN_BACK_CHAN:
                flags |= CB_PATH_DOWN_SESSION
            if not client.reachable:
                flags |= CB_PATH_DOWN
            elif session.back.fault:
                flags |= BACKCHANNEL_FAULT
        if client.revoked:
            flags |= RECALLABLE_REVOKED
        if client.lost:
            flags |= RECLAIM_NEEDED
        return flags

    def described(self) -> dict[bytes, tuple[str, str]]:
        """Each client's protocol and address, for operators; without a connection, what it calls itself."""
        result = {}
        for client in self.clients.numbered.values():
            sessions = client.sessions.values()
            peers = sorted({connection.peer for session in sessions for connection in session.connections})
            minor = max((session.back.minor for session in sessions), default=1)
            result[client.key] = f"nfs4.{minor}", ", ".join(peers) or client.owner.decode(errors="replace")
        return result

    def _look_later(self) -> None:
        after = max(self.lease_s / 6, 0.05)
        self._due = self.clock.boottime() + after
        self._timer = self.clock.call_later(after, self._look)

    def _look(self) -> None:
        late = self.clock.boottime() - self._due
        departing.expire(self, late if late > STOOD_STILL_S else 0.0)
        self._look_later()

    # Upcalls, as far as they concern a group

    def tell(self, volume: VolumeId, upcall: Upcall) -> None:
        if isinstance(upcall, Resumed):
            restoring.resumed(self, volume)
        elif isinstance(upcall, Dropped):  # the volume was brought back to a snapshot
            other = stateids.other_of(volume, upcall.open)
            for client in self.clients.numbered.values():
                client.states.pop(other, None)
        elif isinstance(upcall, (Recall, Revoked)) and upcall.kind is GrantKind.DELEGATION and upcall.delegation:
            if isinstance(upcall, Revoked):
                recalls.revoked(self, volume, upcall.key, upcall.delegation)
                return
            with contextlib.suppress(SofsError):
                recalls.recall(self, volume, upcall)
