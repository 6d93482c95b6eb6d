"""The volume at its coordinator: what gateways call, put together.

Each request has one handler, found by its type in one table (`handlers`); handlers stand in modules by what they are about. Nothing is told to a
client before the reply's gate has opened (`when`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from sofs.errors import Delayed, DiskFailed, Fenced, NoSpace, SofsError, Unavailable
from sofs.locks import LockManager, Upcall
from sofs.runtime.ports import Clock, Timer
from sofs.types import Inode, Level, Lsn, VolumeId
from sofs.volume import api, clients, io
from sofs.volume.access import Judge
from sofs.volume.api import AnyToken, Binding, CallToken, Read, Reply, Request, SlotToken, Target, Token, Written
from sofs.volume.batch import Batch
from sofs.volume.core import Core, Wait
from sofs.volume.data import Data
from sofs.volume.duties import begin
from sofs.volume.format import count_start, name_secret
from sofs.volume.handlers import HANDLERS
from sofs.volume.kept import GRACE, NFS_STATE
from sofs.volume.names import NameHash
from sofs.volume.quotas import requests as quota_requests
from sofs.volume.recovery import Store
from sofs.volume.removal import Reaper
from sofs.volume.restoring import restore
from sofs.volume.security import Identities, UnixIdentities
from sofs.volume.snapshots.past_volume import Pasts
from sofs.volume.upcalls import Teller

_BACKGROUND_S = 60.0
"""Between two rounds of background duties, when nothing calls for one earlier."""

R = TypeVar("R", bound=Reply)

RECALL_S = 35.0
"""What Windows gives SMB clients to answer a break (MS-SMB2 3.3.2.1); never more than a lease period (PROTOCOLS)."""


class LocalVolume:
    """`sofs.volume.api.Volume`, at the volume's coordinator."""

    def __init__(
        self,
        store: Store,
        data: Data,
        clock: Clock,
        *,
        id: VolumeId,
        name: str,
        identities: Identities | None = None,
        lease_s: float = 90.0,
        gateway: int = 0,
        ended: Callable[[int], bool] | None = None,
    ) -> None:
        """`lease_s` is that of NFSv4's clients: so long a delegation may take to come back, and so long is their grace if state has been lost.

        `gateway` is the incarnation of this process's own gateways, 0 on a node by itself: what others have open is recorded. `ended` says of a gateway
        incarnation whether it is gone with its connections, and with it what it had open; None: all but this one are.

        Raises `ConfigError` for a volume that was never formatted, or by a release whose format is not this one's.
        """
        self.id = id
        self.name = name
        self.verifier = int.from_bytes(store.incarnation.verifier)
        self._store = store
        self._log = store.log
        self._clock = clock
        keyspace = store.keyspace
        secret = name_secret(name, keyspace.get)
        starts = count_start(keyspace)
        locks = LockManager(clock, self._tell, min(RECALL_S, lease_s), lease_s)
        judge = Judge(identities or UnixIdentities())
        self.core = Core(keyspace, data, locks, clock, NameHash(secret), judge, starts, gateway)
        self.core.gateways.load()
        self._fenced = self.core.gateways.fenced
        self.core.orphaned = self._wake
        self.core.watching.volume, self.core.watching.when = id, store.log.when
        self._teller = Teller(self.core, name)
        self.core.ended = lambda open: self.core.tell(api.Dropped(open))
        self.core.begin_grace = lambda: self._begin_grace(lease_s)
        self.reaper = Reaper(self.core, store.log.serving)
        self._quotas = quota_requests.QuotaKeeper(self.core)
        data.snapshots.restored = self._quotas.restored
        self._pasts = Pasts(id, name, self.verifier, self.core, self._log_failure)
        self._snapshots = data.snapshots
        self._running: dict[bytes, asyncio.Future[Any]] = {}
        self.closing: list[Callable[[], None]] = []
        """Called when it is closed: nothing of what it was asked is answered any more."""
        self._grace: Timer | None = None
        self._work, self._given_up = asyncio.Event(), asyncio.Event()
        self._services: list[asyncio.Task[None]] = []
        self._logger = structlog.get_logger(component="volume", volume=name)
        restored = restore(self.core, (lambda other: other != gateway) if ended is None else ended)
        if restored:
            self._logger.info("opens_restored", count=restored)
        if store.lost and keyspace.get(NFS_STATE) is not None:
            self._doubt()
            self._begin_grace(lease_s)
        elif keyspace.get(GRACE) is not None:
            self._begin_grace(lease_s)

    # sofs.volume.api.Volume

    def call(self, request: Request, token: AnyToken | None, by: Binding) -> Reply | Awaitable[Reply]:
        if self._log.failure is not None or self._snapshots.restoring or by[0] in self._fenced:
            raise self._not_now(by)
        core = self.core
        core.gate, core.by, core.parent_key = core.kept.gate if core.kept.lsn else Lsn(0), by, b""
        try:
            if token is None or isinstance(token, SlotToken):
                reply = HANDLERS[type(request)](core, request, token)
                if core.kept.dirty:
                    self._record_rest(reply)
                return reply
            plain = token.inner if isinstance(token, CallToken) else token
            if isinstance(plain, Token):
                if (known := self._known(plain)) is not None:
                    return known
                return self._once(plain, HANDLERS[type(request)](core, request, token))
            reply = HANDLERS[type(request)](core, request, token)
            if core.kept.dirty:
                self._record_rest(reply)
            return reply
        except Wait as wait:
            return self._after(wait, request, token, by)
        except SofsError as error:
            error.gate = core.gate
            raise

    @property
    def failed(self) -> bool:
        """Its log has failed, or belongs to another coordinator by now: nothing is answered any more."""
        return self._log.failure is not None

    @property
    def failure(self) -> SofsError | None:
        """Why it has `failed`; `Fenced` where another coordinator is in force."""
        return self._log.failure

    def _not_now(self, by: Binding) -> SofsError:
        """Why nothing is answered: the log has failed, a restoration is under way, or whoever asks is shut out."""
        if (failure := self._log_failure()) is not None:
            return failure
        try:
            self.core.gateways.check(by[0])
        except Fenced as error:
            return error
        return Delayed("the volume is being brought back to a snapshot")

    def _log_failure(self) -> SofsError | None:
        """What everything is answered once the log has failed: what is in memory may never have been recorded, so it must not be told."""
        failure = self._log.failure
        if failure is None:
            return None
        kind = DiskFailed if isinstance(failure, DiskFailed) else Unavailable
        return kind(f"the volume's log has failed: {failure}")

    def read(self, target: Target, offset: int, into: memoryview, by: Binding) -> Read | Awaitable[Read]:
        if self._log.failure is not None or self._snapshots.restoring or by[0] in self._fenced:
            raise self._not_now(by)
        core = self.core
        core.gate, core.by = Lsn(0), by
        try:
            if isinstance(target, int):
                return io.read(core, target, offset, into)
            return io.read_stateless(core, target, offset, into)
        except SofsError as error:
            error.gate = core.gate
            raise

    def write(self, target: Target, offset: int, data: memoryview, token: AnyToken | None, level: Level, by: Binding) -> Written | Awaitable[Written]:
        if self._log.failure is not None or self._snapshots.restoring or by[0] in self._fenced:
            raise self._not_now(by)
        core = self.core
        core.gate, core.by, core.parent_key = Lsn(0), by, b""
        plain = None
        if token is not None:
            given = token.inner if isinstance(token, CallToken) else token
            plain = given if isinstance(given, Token) else None
        try:
            if plain is not None and (known := self._known(plain)) is not None:
                return known  # type: ignore[return-value]  # a token's key names the procedure too
            if isinstance(target, int):
                done = io.write(core, target, offset, data, token)
            else:
                done = io.write_stateless(core, target, offset, data, token)
            return done if plain is None else self._once(plain, done)
        except SofsError as error:
            error.gate = core.gate
            raise

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        self._log.when(gate, level, send)

    def subscribe(self, upcalls: api.Upcalls) -> None:
        self.core.upcalls.append(upcalls)

    def keep_all(self) -> None:
        """The volume is about to be handed over: what is open becomes a record, and what waits for others is to be asked again at the next coordinator.

        Raises `NoSpace`, `Unavailable`. `go_on` takes it back.
        """
        for opened in self.core.opens.values():
            if not opened.recorded:
                self.core.kept.follow(opened)
        self.core.kept.flush()
        self.core.locks.stop()

    def go_on(self) -> None:
        """The volume stays here after all."""
        self.core.locks.go_on()

    def at(self, snapshot: int) -> api.Volume:
        return self._pasts.of(self._snapshots.get(snapshot))

    # Waiting

    def _known(self, token: Token) -> Reply | Awaitable[Reply] | None:
        """What a request with this token was answered, or will be."""
        running = self._running.get(token.key)
        if running is not None:
            self.core.repeated["under_way"] += 1
            return asyncio.shield(running)
        known = self.core.tokens.replay(token)
        if known is not None:
            self.core.repeated["token"] += 1
        return known

    def _once(self, token: Token, reply: R | Awaitable[R]) -> R | Awaitable[R]:
        """Keeps what is under way by its token, so that a retry meanwhile waits for the same outcome."""
        if isinstance(reply, Reply):
            return reply
        running: asyncio.Future[R] = asyncio.ensure_future(reply)
        self._running[token.key] = running
        running.add_done_callback(lambda _: self._running.pop(token.key, None))
        return asyncio.shield(running)  # whoever goes away leaves it to the others

    async def _after(self, wait: Wait, request: Request, token: AnyToken | None, by: Binding) -> Reply:
        """Waits, takes back what the wait's success changed, and calls again: the handler then finds nothing in its way."""
        future = asyncio.ensure_future(wait.waiting)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None and wait.undo is not None:
                wait.undo()
            raise
        if wait.undo is not None:
            wait.undo()
        reply = self.call(request, token, by)
        return reply if isinstance(reply, Reply) else await reply

    # State that outlives connections

    def _tell(self, inode: Inode, upcall: Upcall) -> None:
        self._teller.tell(inode, upcall)

    def _record_rest(self, reply: Reply | Awaitable[Reply]) -> None:
        """Records what the request changed about opens and did not take along in its own batch; the reply rests on it."""
        kept = self.core.kept
        with suppress(NoSpace):  # it is tried again
            kept.flush()
            if isinstance(reply, Reply) and reply.gate < kept.lsn:
                reply.gate = kept.lsn

    def _doubt(self) -> None:
        """The end of what clients of NFSv4 have by their records may have been lost: it counts until they have reclaimed all that they have."""
        for opened in self.core.opens.values():
            if not opened.mandatory:
                opened.unclaimed = True
                self.core.kept.touch(opened)

    def _begin_grace(self, seconds: float) -> None:
        if self.core.grace:
            return
        self._logger.warning("grace_begins", seconds=seconds)
        self.core.grace = True
        if self.core.get(GRACE) is None:
            batch = Batch()
            batch.put(GRACE, b"")
            self.core.put(batch, reserved=True)
        if self._grace is not None:
            self._grace.cancel()
        self._grace = self._clock.call_later(seconds, self._end_grace)

    def _end_grace(self) -> None:
        with suppress(SofsError):
            clients.end_grace(self.core, api.EndGrace(), None)

    # Background

    def start(self) -> None:
        """Begins background duties: the store's checkpoints, the data's cleaning, the removal of orphans, the expiry of tokens."""
        self._store.start()
        self.core.data.start()
        self._wake()  # what was orphaned or given up before the last stop
        # A large snapshot may take long to go: nothing else waits for it.
        self._services = [
            begin(self._run(self._work, self._tidy), "removal"), begin(self._run(self._given_up, self._snapshots.run_once), "snapshots")
        ]  # fmt: skip

    async def close(self) -> None:
        """Ends all of it, in order, and leaves everything stable. Opens that are not kept are forgotten."""
        await self._end(self.core.kept.close)
        await self._store.close()

    async def abandon(self) -> None:
        """Ends all of it without writing anything more, and lets go of the log and the files."""
        await self._end(lambda: None)
        await self._store.abandon()

    async def _end(self, record: Callable[[], None]) -> None:
        for call in self.closing:
            call()
        for service in self._services:
            service.cancel()
        await asyncio.gather(*self._services, return_exceptions=True)
        self._services = []
        self.core.locks.stop()
        record()
        for opened in self.core.opens.values():
            if opened.timer is not None:
                opened.timer.cancel()
        if self._grace is not None:
            self._grace.cancel()
        await self.core.data.close()

    def _wake(self) -> None:
        self._work.set()
        self._given_up.set()

    async def _run(self, work: asyncio.Event, duty: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                # Not `wait_for`: before Python 3.12 it loses a cancellation that comes together with the event.
                async with asyncio.timeout(_BACKGROUND_S):
                    await work.wait()
            except TimeoutError:
                pass
            work.clear()
            try:
                await duty()
            except SofsError as error:
                self._logger.error("background_failed", error=str(error))
                await self._clock.sleep(1.0)

    async def run_once(self) -> None:
        """Removes what is orphaned, snapshots that were deleted, and the tokens that have expired."""
        await self._tidy()
        await self._snapshots.run_once()

    async def _tidy(self) -> None:
        if self._snapshots.restoring:
            await self._snapshots.restore(self._clock.now())
        await self.reaper.run_once()
        await self._quotas.run_once()
        while self.core.tokens.expire():
            await self._clock.sleep(0)
