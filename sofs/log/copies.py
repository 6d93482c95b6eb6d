"""Which copies of a log count, and how that changes.

A copy whose write or sync fails is never tried again: after a failed sync a disk may lose what it says it has. It
is left out of the configuration, and until that is recorded by compare-and-set nothing is acknowledged: were this process
superseded meanwhile, the new coordinator could be missing it. When the last copy here fails the log has failed: it takes nothing more and
never calls whoever still waits.

A copy on another node that does not answer is left out, too. Until that is recorded it is still waited for, as one that may count:
so what it acknowledges after all is acknowledged, however long the coordination store is away.

A copy is added once it lacks nothing. What that is must not change while it is found out: acknowledging pauses from before the last look until
the outcome of the compare-and-set is known.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog

from sofs.errors import Fenced, SofsError, Unavailable
from sofs.log.configuration import Configuration, LogSettings
from sofs.log.remote import RemoteReplica
from sofs.log.remotes import Remotes
from sofs.log.replica import Replica
from sofs.runtime.ports import Clock
from sofs.types import Lsn

_RETRY_S = 0.5
"""Between two attempts at a coordination store that does not answer."""
_LOOK_S = 0.005
"""Between two looks at how far a learner is."""


class Copies:
    """The copies of one log; `ReplicatedLog` is what is written to them."""

    committed: Lsn
    stable: Lsn

    def __init__(
        self,
        clock: Clock,
        replicas: Sequence[Replica],
        remotes: Sequence[RemoteReplica],
        configuration: Configuration,
        change: Callable[[Configuration], Awaitable[None]],
        settings: LogSettings,
    ) -> None:
        self.version = configuration.version
        self.failure: SofsError | None = None
        self.on_failure: Callable[[SofsError], None] | None = None
        """Called once, when the log has failed for good."""
        self.on_lost: Callable[[int], None] | None = None
        """Called with its id when a replica has been given up."""
        self.look: Callable[[], Awaitable[object]] | None = None
        """Asks the coordination store something, and raises `Unavailable` if it does not answer. Done before anything pauses for a change that can
        as well be made later.
        """
        self.remotes = Remotes()
        self._clock = clock
        self._settings = settings
        self._replicas = list(replicas)
        self._joining: list[Replica] = []
        """Written and synced like the others, but not counted: see `join`."""
        self._change = change
        self._in_force = configuration
        self._changing = False
        """Who counts is being changed."""
        self._frozen = False
        """Nothing is acknowledged until that is done."""
        self._handing_over = False
        """Nothing is appended any more."""
        self._recording = False
        """The outcome of a compare-and-set is not known."""
        self._memory_broken = False
        """The last copy has failed, and what was not stable is lost with it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._logger = structlog.get_logger(component="log", place=replicas[0].place)
        for remote in remotes:
            self.remotes.counted.append(remote)
            self.remotes.need(remote)

    @property
    def replicas(self) -> int:
        return len(self._replicas) + len(self.remotes.counted)

    @property
    def replica_ids(self) -> tuple[int, ...]:
        return (*(replica.id for replica in self._replicas), *(remote.id for remote in self.remotes.counted))

    @property
    def _written_to(self) -> tuple[Replica, ...]:
        return (*self._replicas, *self._joining)

    # What the log does

    def _write(self) -> None:
        """Writes what has been appended to all copies."""
        raise NotImplementedError

    def _commit(self) -> None:
        """Acknowledges what may be."""
        raise NotImplementedError

    def _give_up(self, error: SofsError) -> None:
        """Drops whoever waits."""
        raise NotImplementedError

    def _follow(self, remote: RemoteReplica, counts: bool) -> None:
        """Begins to send to a copy on another node."""
        raise NotImplementedError

    # Failing

    def lose(self, id: int, error: SofsError) -> None:
        """Gives up a replica for a reason found elsewhere (its records cannot be written)."""
        for replica in tuple(self._replicas):
            if replica.id == id:
                self._lose(replica, error)
        for remote in tuple(self.remotes):
            if remote.id == id:
                self.lost(remote, error)

    def _lose(self, replica: Replica, error: SofsError) -> None:
        if replica not in self._written_to:
            return
        self._logger.error("replica_lost", replica=f"{replica.id:x}", at=replica.place, error=str(error))
        if replica in self._joining:
            self._joining.remove(replica)
            return
        if len(self._replicas) == 1:
            # Those that are being left out count as well, as long as that is not recorded: nothing was acknowledged without them.
            others = bool(self.remotes.counted or self.remotes.leaving)
            self._fail(error)
            if others:
                return  # other nodes have everything: one of them takes over
            self._memory_broken = True
        else:
            self._replicas.remove(replica)
            if self.on_lost is not None:
                self.on_lost(replica.id)
        self._frozen = True
        self._leave_out()

    def lost(self, remote: RemoteReplica, error: SofsError) -> None:
        """A copy on another node has failed, or does not answer."""
        if self.failure is not None or (remote not in self.remotes.counted and remote not in self.remotes.learning):
            return
        self._logger.error("replica_lost", replica=f"{remote.id:x}", at=remote.place, error=str(error))
        counted = remote in self.remotes.counted
        if counted:
            self.remotes.leave(remote)
        else:
            self.remotes.learning.remove(remote)
        if not counted or not isinstance(error, Unavailable):
            remote.detach()
        remote.reason = str(error)
        if counted:
            if self.on_lost is not None:
                self.on_lost(remote.id)
            self._leave_out()

    def fenced(self, remote: RemoteReplica, version: int) -> None:
        """A follower obeys a newer configuration: ours, whose outcome we do not know yet, or that of another coordinator."""
        if version > self.version and not self._changing and not self._recording:
            self._fail(Fenced(f"{remote.place} obeys configuration {version}; this was {self.version}"))

    def _leave_out(self) -> None:
        if not self._changing:
            self._changing = True
            self._start(self._reconfigure())

    async def _reconfigure(self) -> None:
        """Records which replicas still count, until these are all that have not failed meanwhile; then goes on."""
        recorded: Configuration | None = None
        while recorded is None or recorded[1:] != self._wanted()[1:]:
            recorded = self._wanted()
            try:
                await self._record(recorded)
            except SofsError as error:
                self._fail(error)
                return
            if self.failure is not None and (recorded.memory_broken or not self._memory_broken):
                return
        self._settled()

    async def _record(self, configuration: Configuration) -> None:
        """Records a configuration, however long the coordination store is away. Raises `Fenced`, ..."""
        self._recording = True
        try:
            while True:
                try:
                    await self._change(configuration)
                    break
                except Unavailable as error:
                    if self.failure is not None and not self._memory_broken:
                        raise  # who counts is for those to settle that go on
                    # It may have been recorded all the same; to record it twice does no harm.
                    self._logger.warning("configuration_waits", version=configuration.version, reason=str(error))
                    await self._clock.sleep(_RETRY_S)
        finally:
            self._recording = False
        self.version = configuration.version
        self._in_force = configuration
        self.remotes.recorded(configuration.replicas)

    def _settled(self) -> None:
        """The configuration in force is known: acknowledges again."""
        self._logger.warning("configuration_changed", version=self.version, replicas=self.replicas)
        self._changing = self._frozen = False
        self._write()
        if not self._frozen:
            self._commit()

    def _wanted(self) -> Configuration:
        return self._in_force._replace(version=self.version + 1, replicas=self.replica_ids, memory_broken=self._memory_broken)

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise Unavailable(f"the volume's log has failed: {self.failure}")

    def _fail(self, error: SofsError) -> None:
        if self.failure is not None:
            return
        # Being superseded is what happens to whoever was silent for too long.
        say = self._logger.warning if isinstance(error, Fenced) else self._logger.error
        say("log_failed", error=str(error))
        self._end(error)

    def _end(self, error: SofsError) -> None:
        self.failure = error
        self._give_up(error)
        self._silence()
        if self.on_failure is not None:
            self.on_failure(error)

    def abandon(self, error: SofsError) -> None:
        """Ends it without writing anything: nothing is acknowledged any more, and who waits is dropped."""
        self._fail(error)

    def _silence(self) -> None:
        """Says nothing to other nodes any more, and answers nothing for which their promises would be needed."""
        if self.remotes.counted:
            self.remotes.close()
        for remote in tuple(self.remotes):
            remote.detach()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Our own bug: nothing may be acknowledged any more.
            self._fail(Unavailable(f"the log's own work failed: {error!r}"))
            asyncio.get_running_loop().call_exception_handler({"message": "the log's own work failed", "exception": error})

    async def change(self, configuration: Configuration) -> None:
        """Records a configuration that differs in more than the lost replicas."""
        await self._record(configuration)

    # Joining

    def leave(self, replica: Replica | RemoteReplica) -> None:
        """Takes a `join` back, if it has not been promoted."""
        if isinstance(replica, RemoteReplica):
            if replica in self.remotes.learning:
                self.remotes.learning.remove(replica)
                replica.detach()
        elif replica in self._joining:
            self._joining.remove(replica)

    async def promote(self, replica: Replica | RemoteReplica) -> None:
        """Has a replica that has joined, and lacks nothing, count; one on another node is waited for until it lacks nothing.

        Raises `Unavailable` if it, or the log, has failed meanwhile. Not to be cancelled: who counts must not stay open.
        """
        if isinstance(replica, RemoteReplica):
            await self._lacks_nothing(replica)
        await self._may_change()
        self._check_joining(replica)
        # Nothing is acknowledged until it is known which configuration is in force.
        self._changing = self._frozen = True
        if isinstance(replica, RemoteReplica):
            # From the moment in which it may count it may also take over.
            self.remotes.need(replica)
            try:
                await self._lacks_nothing(replica, self._settings.lease.silence_s)
            except SofsError:
                self.remotes.recorded(self._in_force.replicas)
                await self._go_on()
                raise
        wanted = self._in_force._replace(version=self.version + 1, replicas=(*self.replica_ids, replica.id))
        try:
            await self._record(wanted)
        except SofsError as error:
            self._fail(error)
            raise
        if isinstance(replica, RemoteReplica):
            if replica in self.remotes.learning:
                self.remotes.learning.remove(replica)
                self.remotes.counted.append(replica)
                replica.counts = True
        elif replica in self._joining:
            self._joining.remove(replica)
            self._replicas.append(replica)
        await self._go_on()

    async def _may_change(self) -> None:
        """Completes when no other change is under way, and the coordination store answers. Raises `Unavailable`."""
        while True:
            if self.look is not None:
                await self.look()
            if not self._changing or self.failure is not None:
                break
            await self._clock.sleep(2 * _LOOK_S)
        self._check_alive()

    async def _go_on(self) -> None:
        """Ends a change; if some copy has failed in the meantime, that is recorded first."""
        if self.failure is None:
            if self._in_force[1:] == self._wanted()[1:]:
                self._settled()
            else:
                await self._reconfigure()

    def _check_joining(self, replica: Replica | RemoteReplica) -> None:
        if replica not in self._joining and replica not in self.remotes.learning:
            reason = f": {replica.reason}" if isinstance(replica, RemoteReplica) else ""
            raise Unavailable(f"{replica.place} has failed while it was brought up to date{reason}")

    async def _lacks_nothing(self, remote: RemoteReplica, within_s: float = math.inf) -> None:
        """Completes when a learner has all that has been committed, and on its disk all that is stable. Raises `Unavailable`."""
        until, stream = self._clock.monotonic() + within_s, remote.stream
        while True:
            self._check_alive()
            self._check_joining(remote)
            if remote.acknowledged >= self.committed and remote.synced >= self.stable and self._promised(remote):
                return
            if within_s < math.inf and (self._clock.monotonic() >= until or remote.stream != stream):
                raise Unavailable(f"{remote.place} does not answer, and all would have to wait for it")
            remote.sync(self.stable)
            await self._clock.sleep(_LOOK_S)

    def _promised(self, remote: RemoteReplica) -> bool:
        return self._clock.boottime() < remote.promised_until

    def _check_appending(self) -> None:
        self._check_alive()
        if self._handing_over:
            raise Unavailable("the volume is being handed over")

    async def hand_over(self, configuration: Configuration) -> None:
        """Ends this coordinator in favour of the one that a configuration names. From now on nothing can be appended.

        Everything becomes stable, and is acknowledged; then nothing is served, and the configuration is recorded, with all replicas that count. The
        log has then failed with `Fenced`. Raises `Unavailable` if it fails before, does not become stable within some seconds, the store is away, or
        one of the `replicas` named has been left out (then it goes on), `Fenced`. Not to be cancelled.
        """
        self._check_appending()
        self._handing_over = True
        try:
            if not await self.becomes_stable():
                raise Unavailable("not all copies of the log have become stable in time")
            await self._may_change()
            if not set(configuration.replicas) <= set(self.replica_ids):
                raise Unavailable("the copy of the log that was to take over has been left out")
        except BaseException:
            self._handing_over = False
            raise
        self._changing = self._frozen = True
        self.remotes.close()
        wanted = configuration._replace(version=self.version + 1, replicas=self.replica_ids)
        try:
            await self._record(wanted)
        except SofsError as error:
            self._fail(error)
            raise
        if self.failure is None:
            self._logger.info("log_handed_over", version=wanted.version)
            self._end(Fenced(f"handed over under configuration {wanted.version}"))

    async def becomes_stable(self) -> bool:
        """Whether all appended so far becomes stable. Where copies on other nodes are waited for they, or the coordination store that would leave
        them out, may be away for long: then it is given up after L.
        """
        waiting = self.remotes.counted or self.remotes.leaving
        try:
            async with asyncio.timeout(self._settings.lease.promise_s if waiting else None):
                await self.sync()
        except TimeoutError:
            return False
        return True

    def sync(self) -> Awaitable[None]:
        """Completes when all appended so far is stable. Raises `Unavailable` when the log fails first."""
        raise NotImplementedError
