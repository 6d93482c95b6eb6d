"""The part that this node plays in one volume, kept in line with what the coordination store says (`roles` decides, this carries out).

One transition at a time: whatever wakes it, the facts are collected, one decision is made and executed, and then it is looked again. Errors
of one volume are shown as its reason and tried again; they never keep another volume from its transitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from functools import partial

import structlog

from sofs.cluster import Incarnation, NodeId
from sofs.errors import Damaged, DiskFailed, Fenced, NotFound, ReadOnly, SofsError, Unavailable
from sofs.hosting.asking import ask_checkpoints, node_of
from sofs.hosting.candidates import Candidates, fitness
from sofs.hosting.hosted import Hosted
from sofs.hosting.opening import as_configuration, changer, reader, serve, store_settings
from sofs.hosting.recovering import note_configuration
from sofs.hosting.roles import Facts, Role, Step, decide
from sofs.hosting.site import Site
from sofs.log.configuration import Configuration, LeaseSettings, LogSettings
from sofs.log.remote import RemoteReplica
from sofs.records import ConfigurationRecord, VolumeRecord
from sofs.volume.data import APPLIERS
from sofs.volume.duties import begin
from sofs.volume.format import make_volume
from sofs.volume.memory import BROKEN
from sofs.volume.recovery import Place, Store, note, open_store
from sofs.volume.standby import Standby, open_standby
from sofs.volume.takeover import take_over
from sofs.volume.where import Coordinator

log = structlog.get_logger("node")

ROOT_MODE = 0o777
"""Of a new volume's root: whoever a share lets in may use it, until somebody narrows that."""
RETRY_S = 0.25
"""After a transition that failed."""
REOPEN_S = 2.0
"""Between two attempts to open a replica that is in use, or whose disk is not there yet."""
PROMISE_S = LeaseSettings().promise_s


class Part:
    """What this node is for one volume: coordinator, standby, learner, nothing."""

    def __init__(self, site: Site, hosted: Hosted) -> None:
        self.hosted = hosted
        self.role = Role.NONE
        self.standbys: dict[int, Standby] = {}
        """This node's replicas that follow, by id."""
        self.problems: dict[int, str] = {}
        """Replicas of this node that cannot be used, and why."""
        self.making: set[int] = set()
        """Replicas that their coordinator is having made here."""
        self.reason = ""
        """Why the last transition did not come about; empty if it did."""
        self.turn = asyncio.Lock()
        """Held during a transition."""
        self._site = site
        self._retry: dict[int, float] = {}
        self._seen = (0, 0.0)
        """The configuration that was seen last, and since when."""
        self._acted = 0
        """The newest version in which this node, named as coordinator, has begun to write."""
        self._failed_copies: set[int] = set()
        """Replicas here whose disk failed while this node coordinated: it is yet to leave the volume to others."""
        self._noted: tuple[VolumeRecord, ConfigurationRecord] | None = None
        """What the volume served here has been given of its own records."""
        self._candidates = Candidates(site, hosted)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def configuration(self) -> ConfigurationRecord | None:
        return self._site.view.configurations.get(self.hosted.record.id)

    @property
    def mine(self) -> dict[int, Place]:
        """Where the volume's replicas lie on this node's disks."""
        return {place.id: place for place in self._site.disks.places(self.hosted.record)}

    @property
    def serving(self) -> bool:
        store = self.hosted.store
        return self.hosted.volume is not None and store is not None and store.log.failure is None

    def wake(self) -> None:
        """Something has changed."""
        self._wake.set()

    def ended(self, nodes: Collection[int]) -> None:
        """Processes of these nodes are known to have ended. What is served here waits for their copies no longer, unless others run there by now."""
        store = self.hosted.store
        if store is None:
            return
        for remote in tuple(store.log.remotes.counted):
            if self.node_of(remote.id) in nodes and not remote.connected:
                store.log.lost(remote, Unavailable(f"the process of {remote.place} has ended"))

    def start(self) -> None:
        self._task = begin(self._run(), f"part in volume {self.hosted.record.name}")

    async def close(self) -> None:
        """Ends all of it in order: what is served here is left stable, and in a checkpoint."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        async with self.turn:
            volume, self.hosted.volume = self.hosted.volume, None
            self.hosted.where.served(None)
            failure: Exception | None = None
            try:
                if volume is not None:
                    await volume.close()
            except Exception as error:
                failure = error
            for id in list(self.standbys):
                await self._drop(id)
            if failure is not None:
                raise failure

    async def _run(self) -> None:
        while not self._closing:
            pause = await self.step()
            timer = None if pause is None else self._site.clock.call_later(pause, self._wake.set)
            await self._wake.wait()
            self._wake.clear()
            if timer is not None:
                timer.cancel()

    async def step(self) -> float | None:
        """One look, and what follows from it. Gives the seconds until the next one if nothing happens meanwhile."""
        async with self.turn:
            try:
                pause = await self._step()
            except SofsError as error:
                self._failed(str(error) or type(error).__name__)
                return RETRY_S
            except Exception as error:
                # A bug in one volume's transition must not end it, nor the others.
                log.exception("part.broken", volume=self.hosted.record.name)
                self._failed(f"internal error: {error!r}")
                return 20 * RETRY_S
            return pause

    def _failed(self, reason: str) -> None:
        if reason != self.reason:
            log.warning("part.waits", volume=self.hosted.record.name, role=self.role.value, reason=reason)
        self.reason = reason
        if self.hosted.volume is None:
            # Alone it is not tried again: somebody has to look at the disks first.
            self.hosted.reason = reason if self._site.interconnect is not None else f"{reason}; when that is mended, then start the node again"

    async def _step(self) -> float | None:
        store = self.hosted.store
        if self._site.interconnect is None:
            # Alone: what has failed stays so, and says why, until somebody has looked at its disks.
            if store is not None:
                return None
            return await self._open_here(await self._site.registry.configuration(self.hosted.record.id))
        if store is not None and store.log.failure is not None:
            await self._leave(store.log.failure)
        if self._failed_copies:
            await self._vacate(self._failed_copies)
        if not self.serving:
            await self._keep_standbys()
        configuration = self.configuration
        if configuration is not None:
            node, incarnation = NodeId(configuration.coordinator), Incarnation(configuration.incarnation)
            self.hosted.where.moved(Coordinator(node, incarnation, configuration.version))
        facts = self._facts(configuration)
        decision = decide(facts)
        self.role = decision.role
        if decision.step is Step.LEAVE:
            await self._leave(Fenced("another configuration is in force"))
            return 0.0
        if decision.step is Step.TAKE_OVER:
            assert configuration is not None
            return await self._take_over(configuration, facts)
        self._candidates.forget()
        if self.serving and configuration is not None and store is not None:
            self._note(store, configuration)
        if not self.serving:
            self.hosted.reason = self._standing_by(configuration)
        self.reason = ""
        until = max(decision.until - facts.now, 0.01) if decision.until else None
        return min(REOPEN_S, until or REOPEN_S) if self._retry else until

    def _note(self, store: Store, configuration: ConfigurationRecord) -> None:
        """Has the volume keep who counts in its own records, for `sofs cluster recover`."""
        current = (self.hosted.record, configuration)
        if current != self._noted:
            note_configuration(store.keyspace, *current)
            self._noted = current

    def _standing_by(self, configuration: ConfigurationRecord | None) -> str:
        """Why the volume is not served here, though all is well."""
        if configuration is None:
            return "it has no configuration"
        member = self._site.view.members.get(configuration.coordinator)
        return f"served by node {member.name if member else f'{configuration.coordinator:016x}'}"

    def _facts(self, configuration: ConfigurationRecord | None) -> Facts:
        site, store = self._site, self.hosted.store
        named = () if configuration is None else configuration.replicas
        now = site.clock.boottime()
        if configuration is not None and configuration.version != self._seen[0]:
            self._seen = configuration.version, now
        promises = [each.follower.promised_until for each in self.standbys.values() if each.id in named]
        # Whoever has just been put in force has promised nothing yet, and is to have the time to say so: else two standbys whose promises run out
        # at the same moment would depose one another in turn.
        news = self._seen[1] + PROMISE_S
        return Facts(
            node=site.node,
            incarnation=site.incarnation,
            configuration=configuration,
            mine=tuple(self.mine),
            promised_until=max(*promises, news) if promises else now + 3600.0,
            dead=0 if configuration is None else site.view.dead.get(configuration.coordinator, 0),
            serving=store.log.version if self.serving and store is not None else 0,
            now=now,
        )

    # Following

    async def _keep_standbys(self) -> None:
        """Has every replica of this node follow that can."""
        places, site, record = self.mine, self._site, self.hosted.record
        for id, standby in list(self.standbys.items()):
            if id not in places or standby.follower.failure is not None:
                if standby.follower.failure is not None:
                    self._trouble(id, standby.follower.failure)
                await self._drop(id)
        if all(id in self.standbys or self._not_now(id) for id in places):
            return
        configuration = as_configuration(await site.registry.configuration(record.id))
        named_here = configuration.coordinator == site.node
        for id, place in places.items():
            if id in self.standbys or self._not_now(id):
                continue
            try:
                standby = await open_standby(
                    site.files,
                    site.clock,
                    place,
                    configuration,
                    reader(site, record.id),
                    log_id=record.log_id,
                    boot=site.boot,
                    appliers=APPLIERS,
                    settings=store_settings(site, [place], self.hosted.is_system),
                    promised=not named_here,
                )
            except SofsError as error:
                self._trouble(id, error)
            else:
                self.follow(standby)

    def follow(self, standby: Standby) -> None:
        """Has an opened replica follow, and answer its coordinator."""
        self.problems.pop(standby.id, None)
        self._retry.pop(standby.id, None)
        self.standbys[standby.id] = standby
        standby.follower.on_adopted = lambda configuration: self.wake()
        standby.on_failure = lambda error: self.wake()
        if self._site.logs is not None:
            self._site.logs.add(standby.follower)
        standby.start()

    def _not_now(self, id: int) -> bool:
        """Whether a replica that is being made, or cannot be used, is not to be tried now."""
        if id in self.making:
            return True
        return id in self.problems and self._site.clock.monotonic() < self._retry.get(id, float("inf"))

    def _trouble(self, id: int, error: SofsError) -> None:
        reason = str(error) or type(error).__name__
        if self.problems.get(id) != reason and not isinstance(error, NotFound):  # it may be about to be made
            log.warning("replica.not_usable", volume=self.hosted.record.name, replica=f"{id:016x}", reason=reason)
        self.problems[id] = reason
        if isinstance(error, Damaged | DiskFailed | ReadOnly | Fenced):
            self._retry.pop(id, None)  # not before the next start: it is made anew, or an operator has to look
        else:
            self._retry[id] = self._site.clock.monotonic() + REOPEN_S

    async def _drop(self, id: int) -> None:
        standby = self.standbys.pop(id)
        if self._site.logs is not None:
            self._site.logs.remove(id)
        await standby.close()

    # Taking over

    async def _take_over(self, configuration: ConfigurationRecord, facts: Facts) -> float | None:
        named = [standby for standby in self.standbys.values() if standby.id in configuration.replicas]
        if len(named) > 1 and len(named) == len(configuration.replicas):
            return await self._open_here(configuration)
        lead = max(named, key=fitness, default=None)
        if lead is None:
            if configuration.coordinator == facts.node and any(other.unbroken for other in (await self._candidates.ask(configuration))[0]):
                # Somebody who has everything can serve it. Without that, what is here may be needed yet.
                await self._vacate(set(facts.mine))
                return RETRY_S
            wrong = "; ".join(self.problems.values())
            raise Unavailable(f"no replica of its log here can be used: {wrong or 'their disks are missing'}")
        if not lead.follower.settled:
            return RETRY_S
        unbroken = lead.follower.whole or lead.clean
        if not unbroken and (waits := await self._candidates.waits_for(configuration, lead)):
            self._failed(waits)
            return 2 * RETRY_S
        proof = self._nobody_serves(configuration, facts, lead)
        if not lead.follower.stand(proof, broken=not lead.follower.whole):
            return max(lead.follower.promised_until - self._site.clock.boottime(), 0.01)
        taken = await self._win(configuration, lead)
        if taken is None:
            return RETRY_S
        self.standbys.pop(lead.id)
        if self._site.logs is not None:
            self._site.logs.remove(lead.id)
        store = await self._found(lead, taken, unbroken)
        await self._serve(store)
        return None

    def _nobody_serves(self, configuration: ConfigurationRecord, facts: Facts, lead: Standby) -> bool:
        """Whether what this replica has promised need not be kept."""
        if configuration.coordinator == facts.node:
            # It was handed over; or this is a new start of the coordinator's process, if it has not listened to anybody else since.
            return configuration.incarnation == facts.incarnation or lead.follower.heard_at == 0.0
        return configuration.coordinator == 0 or facts.dead == configuration.incarnation

    async def _win(self, configuration: ConfigurationRecord, lead: Standby) -> Configuration | None:
        """Has the configuration name this node, by compare-and-set; None if somebody else was faster, or the store does not answer."""
        site, record = self._site, self.hosted.record
        current = as_configuration(configuration)
        mine = (site.node, site.incarnation)
        if (current.coordinator, current.incarnation) == mine and current.version > self._acted:
            self._acted = current.version
            return current  # a planned move: the former coordinator has put it in force
        replicas = tuple(id for id in current.replicas if self._stays(id, current.coordinator, lead.id))
        wanted = Configuration(current.version + 1, replicas, False, *mine)
        try:
            await changer(site, record.id)(wanted)
        except Unavailable as error:
            # It is not in force, and never will be: what may yet be made is waited for (`Registry.change_configuration`). So whatever is promised from
            # now on can be kept; and a coordinator that lives after all must not be kept from serving while the store is away.
            log.info("takeover.not_made", volume=record.name, version=wanted.version, reason=str(error))
            lead.follower.resume(current)
            return None
        except Fenced as error:
            log.info("takeover.not_won", volume=record.name, version=wanted.version, reason=str(error))
            with suppress(SofsError):
                current = await reader(site, record.id)()
            lead.follower.resume(current)
            return None
        except SofsError:
            # A record that this release does not understand: what was sent, if anything was, cannot follow it any more.
            lead.follower.resume(current)
            raise
        self._acted = wanted.version
        return wanted

    def _stays(self, replica: int, former: int, lead: int) -> bool:
        """Whether a replica stays in the configuration at a takeover: those of the former coordinator, if it is another node, do not."""
        node = self.node_of(replica)
        return replica == lead or (node is not None and (node != former or node == self._site.node))

    def node_of(self, replica: int) -> int | None:
        """The node on whose disk a replica lies, if there are records that say so."""
        return node_of(self._site, self.hosted, replica)

    async def _found(self, lead: Standby, configuration: Configuration, unbroken: bool) -> Store:
        site, record = self._site, self.hosted.record
        settings = store_settings(site, [lead.opened.place], self.hosted.is_system)
        remotes = [self.remote(id, settings.log) for id in configuration.replicas if id != lead.id]
        return await take_over(
            site.files,
            site.clock,
            site.random,
            lead,
            remotes,
            configuration,
            changer(site, record.id),
            log_id=record.log_id,
            boot=site.boot,
            unbroken=unbroken and not configuration.memory_broken,
            settings=settings,
        )

    def remote(self, replica: int, settings: LogSettings) -> RemoteReplica:
        """A replica on another node, or one of this node that follows like those."""
        assert self._site.interconnect is not None, "a single node has no other"
        node = NodeId(self.node_of(replica) or 0)
        member = self._site.view.members.get(node)
        place = f"node {member.name if member else f'{node:016x}'}"
        return RemoteReplica(self._site.interconnect.peer(node), self._site.clock, replica, place, settings)

    async def open_fresh(self, configuration: ConfigurationRecord) -> None:
        """Opens the volume that has just been made here, formats and serves it. Raises as opening does; then it is not served."""
        async with self.turn:
            await self._open_here(configuration, fresh=True)

    async def _open_here(self, configuration: ConfigurationRecord, fresh: bool = False) -> float | None:
        """All replicas that count are on this node's disks: they are opened together, and mend one another."""
        site, record = self._site, self.hosted.record
        for standby in self.standbys.values():
            standby.follower.stand(proof=True, broken=True)  # follows nobody any more
        for id in list(self.standbys):
            await self._drop(id)
        places = [place for place in self.mine.values() if site.files.exists(place.path)]
        if not places:
            raise Unavailable("no disk with a replica of its log is present; bring one back and start again")
        current = as_configuration(configuration)._replace(coordinator=site.node, incarnation=site.incarnation)
        store = await open_store(
            site.files,
            site.clock,
            site.random,
            places,
            current,
            changer(site, record.id),
            log_id=record.log_id,
            boot=site.boot,
            appliers=APPLIERS,
            settings=store_settings(site, places, self.hosted.is_system),
        )
        if fresh:
            await make_volume(store, site.clock, site.random, mode=ROOT_MODE)
        await self._serve(store)
        return None

    async def _serve(self, store: Store) -> None:
        site, hosted = self._site, self.hosted
        try:
            volume = serve(site, hosted, store)
        except (Exception, asyncio.CancelledError):
            await store.abandon()
            raise
        store.checkpoints.others = lambda: [remote.checkpointed for remote in store.log.remotes]
        store.checkpoints.ask_others = partial(ask_checkpoints, site, hosted, store)
        store.log.on_failure = self._log_failed
        store.log.look = partial(site.registry.configuration, hosted.record.id)
        store.log.on_lost = partial(self._replica_lost, store)
        self.role, self.reason, self._noted = Role.COORDINATOR, "", None
        self._candidates.forget()
        self.wake()
        hosted.where.moved(Coordinator(site.node, site.incarnation, store.log.version))
        hosted.where.served(volume)
        site.lacking()
        log.info("volume.opened", volume=hosted.record.name, replayed=store.replayed, replicas=store.log.replicas)

    # Leaving

    def _replica_lost(self, store: Store, id: int) -> None:
        store.checkpoints.lost(id)
        self._site.lacking()

    def _log_failed(self, error: SofsError) -> None:
        volume = self.hosted.volume
        if self._site.interconnect is not None:
            if self.hosted.where.local is not None:  # else it is a planned move
                log.warning("volume.left", volume=self.hosted.record.name, reason=str(error))
            self.hosted.where.served(None)
        elif volume is not None:
            log.error("volume.failed", volume=self.hosted.record.name, reason=str(error))
            self._site.failed(volume)
        self.wake()

    async def leave(self, error: SofsError) -> None:
        """Stops serving, having handed the volume over. To be called within `turn`."""
        try:
            await self._leave(error)
        finally:
            self.wake()

    async def _leave(self, error: SofsError) -> None:
        """Stops serving without writing anything; on a single node the failed volume stays, and says why."""
        site, hosted, store = self._site, self.hosted, self.hosted.store
        if site.interconnect is None or store is None:
            return
        # Deposed: what has not been answered never is, and whoever asks for the volume here must see that.
        store.log.abandon(error)
        self._acted = max(
            self._acted, store.log.version
        )  # a change of this log's may yet be made: who counts is settled anew before anything is written
        volume, hosted.volume, hosted.store, hosted.data = hosted.volume, None, None, None
        hosted.where.served(None)
        hosted.reason = str(error)
        places = [opened.place for opened in store.opened]
        if volume is not None:
            await volume.abandon()
        else:
            await store.abandon()
        if not isinstance(error, Fenced | Unavailable):
            # Its own disk has failed, or is gone.
            for place in places:
                note(site.files, place, BROKEN)
            self._failed_copies = {place.id for place in places}

    async def _vacate(self, own: set[int]) -> None:
        """Lays the office down: with its disk failed, this node leaves the volume to the others that have all of it. Raises `Unavailable`."""
        configuration = await self._site.registry.configuration(self.hosted.record.id)
        here = configuration.coordinator == self._site.node
        others = tuple(id for id in configuration.replicas if id not in own)
        if here and others:
            with suppress(Fenced):  # one of them was faster
                await changer(self._site, self.hosted.record.id)(Configuration(configuration.version + 1, others))
        self._failed_copies = set()
