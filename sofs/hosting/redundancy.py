"""Keeping each volume's log on as many disks as its policy asks for, by whoever coordinates it.

When a disk or a node is lost, a volume goes on with the other replicas of its log. A replica that comes back is brought up to date, and gets only what it
lacks. If it stays away, or lacks what the log no longer has, another is made in its place, on a disk of another host where there is one. Until that one
counts, the one that is away stays in the volume's record: it may have what has become unreadable here meanwhile. What is left of former replicas is removed
by the node that has the disk. The same service moves volumes to nodes that coordinate fewer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from sofs.errors import NotFound, SofsError, Unavailable
from sofs.hosting.moving import hand_over, imbalance, targets
from sofs.hosting.part import Part
from sofs.hosting.recovering import split_name
from sofs.hosting.recruiting import readmit, recruit
from sofs.hosting.site import Site
from sofs.pool.members import DiskStatus
from sofs.pool.states import WRITABLE, State
from sofs.records import ReplicaRecord
from sofs.volume.rebuild import remove_replica
from sofs.volume.recovery import Place, Store, let_go

log = structlog.get_logger("redundancy")

FIRST_S = 5.0
"""After the start: disks that are slow to appear get a moment, and so do clients."""
INTERVAL_S = 30.0
SOON_S = 1.0
"""While a volume lacks something: a node that comes back is to count soon."""
RETURN_S = 10.0
"""For so long a replica that is away is waited for, before another is made on another host."""
BALANCE_S = 60.0
"""Between two moves for balance' sake."""
SYSTEM_REPLICAS = 5
RECRUITS = 4
"""New replicas that are made at once for the volumes of one node; each is a copy of much."""
LEAVING = frozenset({State.DRAINING, State.RETIRED})


class Host(Protocol):
    """What this service has to know of its host."""

    site: Site

    @property
    def parts(self) -> Mapping[int, Part]: ...


class Redundancy:
    """The service, for all volumes of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._site = host.site
        self._stopping = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._providing: dict[int, asyncio.Task[None]] = {}
        self._recruiting = asyncio.Semaphore(RECRUITS)
        self._busy: dict[int, asyncio.Lock] = {}
        self._away: dict[int, float] = {}
        """Since when a replica has been away, by the monotonic clock."""
        self._vain: dict[int, set[int]] = {}
        """By volume, replicas that were begun here and have never counted."""
        self._balanced = self._site.clock.monotonic()
        self._cleaned = self._balanced - INTERVAL_S

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Something may be lacking, or may be had again."""
        self._wake.set()

    async def close(self) -> None:
        """Ends it. What is being copied is given up; a change of who counts is seen through."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, *self._providing.values(), return_exceptions=True)

    def stopping(self) -> bool:
        return self._stopping

    async def _run(self) -> None:
        pause = FIRST_S if self._site.interconnect is None else SOON_S
        while not self._stopping:
            timer = self._site.clock.call_later(pause, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            self._wake.clear()
            if self.stopping():
                break
            # Nobody waits for one whose copy takes an hour.
            self._begin([part for part in self._host.parts.values() if part.serving])
            await self._upkeep()
            pause = SOON_S if any(self.lacks(part) for part in self._host.parts.values()) else INTERVAL_S

    def _begin(self, parts: Sequence[Part]) -> None:
        for part in parts:
            id = part.hosted.record.id
            if id not in self._providing:
                task = self._providing[id] = asyncio.create_task(self.provide(part))
                task.add_done_callback(lambda task, id=id: self._providing.pop(id))  # type: ignore[misc]

    async def _upkeep(self) -> None:
        now = self._site.clock.monotonic()
        if now - self._cleaned >= INTERVAL_S:
            self._cleaned = now
            await self._clean()
        if self._site.interconnect is not None:
            await self._balance()

    async def run_once(self) -> None:
        """Gives every volume that is served here and lacks a replica one more, as far as there are disks for it, and removes what is left of former
        ones.
        """
        await asyncio.gather(*[self.provide(part) for part in self._host.parts.values() if part.serving])
        await self._clean()

    async def provide(self, part: Part) -> None:
        """Gives one volume what it lacks."""
        lock = self._busy.setdefault(part.hosted.record.id, asyncio.Lock())
        async with lock:
            try:
                await self._provide(part)
            except SofsError as error:
                log.warning("redundancy.failed", volume=part.hosted.record.name, reason=str(error))
                # Perhaps the other node has only not heard of the volume yet.
                self._site.clock.call_later(SOON_S, self._wake.set)
            except Exception:
                # A bug must not end the service, nor keep the other volumes from theirs.
                log.exception("redundancy.broken", volume=part.hosted.record.name)

    def lacks(self, part: Part) -> bool:
        """Whether a volume that is served here has fewer replicas than it should and could."""
        store = part.hosted.store
        return part.serving and store is not None and len(store.log.replica_ids) < self._wanted(part)

    def _wanted(self, part: Part) -> int:
        pool = self._site.disks.all.get(part.hosted.record.pool)
        return wanted_replicas(part, [] if pool is None else pool.disks())

    async def _provide(self, part: Part) -> None:
        self._dismiss_evicted(part)
        refused: set[int] = set()
        while self.lacks(part) and not self._stopping:
            if await self._take_back(part, refused) or await self._add(part):
                continue
            return
        await self._leave_disks(part)
        await self._forget_others(part)

    def _dismiss_evicted(self, part: Part) -> None:
        store = part.hosted.store
        for remote in tuple(store.log.remotes.counted) if store is not None else ():
            member = self._site.view.members.get(part.node_of(remote.id) or 0)
            if store is not None and member is not None and member.state == "evicted":
                store.log.lose(remote.id, Unavailable(f"node {member.name} has been evicted"))

    async def _take_back(self, part: Part, refused: set[int]) -> bool:
        """Brings a replica up to date that has come back; False if there is none."""
        store, site = part.hosted.store, self._site
        if store is None or site.logs is None:
            return False
        for replica in part.hosted.record.replicas:
            if replica.id in store.log.replica_ids or replica.id in refused:
                continue
            node = part.node_of(replica.id)
            if node is None or (node == site.node and replica.id not in part.standbys):
                continue
            try:
                await readmit(site, part, store, replica.id, self.stopping)
            except NotFound:
                self._since_away(replica.id)
            except SofsError as error:
                self._since_away(replica.id)
                refused.add(replica.id)
                log.info("redundancy.not_back", volume=part.hosted.record.name, replica=f"{replica.id:016x}", reason=str(error))
            else:
                self._away.pop(replica.id, None)
                return True
        return False

    def _since_away(self, replica: int) -> float:
        """For how many seconds a replica has been away."""
        now = self._site.clock.monotonic()
        return now - self._away.setdefault(replica, now)

    async def _add(self, part: Part) -> bool:
        """Adds a replica; False if there is no disk for one, or one that may come back is still waited for."""
        store, hosted = part.hosted.store, part.hosted
        pool = self._site.disks.all.get(hosted.record.pool)
        if store is None or pool is None or self._stopping:
            return False
        others = [replica for replica in hosted.record.replicas if replica.id not in store.log.replica_ids]
        counted = {replica.disk for replica in hosted.record.replicas if replica.id in store.log.replica_ids}
        if any(self._may_return(part, replica) for replica in others):
            return False
        disk = choose_disk(pool.disks(), counted, self._logs(counted), by_host=by_host(part))
        if disk is None:
            return False
        await self._recruit(part, store, disk)
        return True

    async def _recruit(self, part: Part, store: Store, disk: DiskStatus) -> None:
        async with self._recruiting:
            if part.hosted.store is not store or self._stopping:
                return
            record = part.hosted.record
            vain = self._vain.setdefault(record.id, set())
            vain &= {each.id for each in record.replicas}
            replica = ReplicaRecord(id=self._site.random.number(63), disk=disk.id)
            vain.add(replica.id)
            awaited = self._awaited(part, disk) - vain
            await recruit(self._site, part, store, replica, disk, awaited, self.stopping)
            vain.discard(replica.id)

    def _awaited(self, part: Part, beside: DiskStatus) -> set[int]:
        """Replicas on nodes that may come back, other than where one is going to be made."""
        leaving = {disk.id for disk in self._site.disks.all[part.hosted.record.pool].disks() if disk.state in LEAVING}
        return {
            each.id
            for each in part.hosted.record.replicas
            if each.disk not in leaving and self._comes_back(part, each) and part.node_of(each.id) != beside.node
        }

    def _may_return(self, part: Part, replica: ReplicaRecord) -> bool:
        """Whether a replica on another node has been away for so short a time that it is waited for."""
        return self._comes_back(part, replica) and self._since_away(replica.id) < RETURN_S

    def _comes_back(self, part: Part, replica: ReplicaRecord) -> bool:
        """Whether a replica is on another node that has not been given up."""
        node = part.node_of(replica.id)
        member = self._site.view.members.get(node or 0)
        return node not in (None, self._site.node) and (member is None or member.state != "evicted")

    def _logs(self, taken: set[int]) -> dict[int, tuple[int, int]]:
        """Of each disk: how many volumes have a replica there and one on a disk that is taken, and how many have one there at all."""
        together: Counter[int] = Counter()
        alone: Counter[int] = Counter()
        for record in self._site.view.volumes.values():
            disks = {replica.disk for replica in record.replicas}
            (together if disks & taken else alone).update(disks)
        return {disk: (together[disk], together[disk] + alone[disk]) for disk in together.keys() | alone.keys()}

    # Disks that are being drained

    async def _leave_disks(self, part: Part) -> None:
        """Replaces a replica on a disk that is being drained. One step at a time: the next round goes on."""
        store, pool = part.hosted.store, self._site.disks.all.get(part.hosted.record.pool)
        if store is None or pool is None or not part.serving or self._stopping:
            return
        leaving = {disk.id for disk in pool.disks() if disk.state in LEAVING}
        counted = [replica for replica in part.hosted.record.replicas if replica.id in store.log.replica_ids]
        replica = next((each for each in counted if each.disk in leaving), None)
        if replica is None:
            return
        if len(counted) <= self._wanted(part):
            taken = {each.disk for each in counted if each is not replica}
            disk = choose_disk(pool.disks(), taken, self._logs(taken), by_host=by_host(part))
            if disk is None:
                log.warning("redundancy.nowhere_else", volume=part.hosted.record.name, disk=f"{replica.disk:016x}")
                return
            await self._recruit(part, store, disk)
        own = [opened for opened in store.opened if opened.place.id in store.checkpoints.records]
        if [opened.place.id for opened in own] == [replica.id]:
            # The coordinator's own copy goes last: it is somebody else's to leave out.
            node = min(targets(self._site, part), default=None)
            if node is not None:
                await hand_over(self._site, part, node)
            return
        store.log.lose(replica.id, Unavailable("its disk is being drained"))
        log.info("redundancy.left_disk", volume=part.hosted.record.name, disk=f"{replica.disk:016x}")
        for opened in [opened for opened in own if opened.place.id == replica.id]:
            await self._site.clock.sleep(1.0)  # what is under way there comes to its end
            store.opened.remove(opened)
            let_go(opened)

    async def _forget_others(self, part: Part) -> None:
        """Takes replicas out of the volume's record that are not needed any more."""
        store, hosted = part.hosted.store, part.hosted
        if store is None or not part.serving or self.lacks(part):
            return
        counted = store.log.replica_ids
        if all(replica.id in counted for replica in hosted.record.replicas):
            return
        hosted.record = await self._site.registry.change_replicas(
            hosted.record.id,
            (self._site.node, self._site.incarnation),
            lambda replicas, named: tuple(each for each in replicas if each.id in counted or each.id in named),
        )

    # What is left behind

    async def _clean(self) -> None:
        """Removes what former replicas have left on this node's disks."""
        try:
            await self._clean_disks()
        except SofsError as error:
            log.warning("redundancy.not_cleaned", reason=str(error))

    async def _clean_disks(self) -> None:
        files = self._site.files
        for pool in self._site.disks.all.values():
            for disk in pool.disks():
                logs = Path(disk.path) / "logs"
                if not disk.own or disk.state not in WRITABLE | LEAVING or not files.exists(str(logs)):
                    continue
                for name in files.list(str(logs)):
                    await self._clean_one(name, logs)

    async def _clean_one(self, name: str, logs: Path) -> None:
        volume, replica = split_name(name)
        part = self._host.parts.get(volume)
        if part is None or replica in part.standbys or replica in part.making:
            return
        if any(replica == each.id for each in part.hosted.record.replicas) and not (self._site.interconnect is None and part.serving):
            return
        # Decided by what the store says now: the view may be older than a replica that is being made.
        registry = self._site.registry
        record, configuration = await registry.volume(volume), await registry.configuration(volume)
        named = {each.id for each in record.replicas} if self._site.interconnect is not None else set()
        if replica in named or replica in configuration.replicas:
            return
        try:
            remove_replica(self._site.files, Place(replica, str(logs / name)))
            log.info("redundancy.removed", volume=record.name, at=str(logs / name))
        except SofsError as error:
            # Still held open by this process, as a rule; the next start removes it.
            log.debug("redundancy.kept", at=str(logs / name), reason=str(error))

    # Balance

    async def _balance(self) -> None:
        now = self._site.clock.monotonic()
        if now - self._balanced < BALANCE_S or self._stopping:
            return
        self._balanced = now
        found = imbalance(self._site, self._host.parts)
        if found is not None:
            part, node = found
            try:
                await hand_over(self._site, part, node)
            except SofsError as error:
                log.warning("balance.not_moved", volume=part.hosted.record.name, reason=str(error))


def wanted_replicas(part: Part, disks: list[DiskStatus]) -> int:
    """How many replicas a volume's log should have: one more than its policy tolerates failures; the system volume's as many as there are hosts, up
    to five.
    """
    wanted = part.hosted.policy.tolerates + 1
    if part.hosted.is_system:
        hosts = {disk.host for disk in disks if disk.state in WRITABLE}
        wanted = max(wanted, min(SYSTEM_REPLICAS, len(hosts)))
    return wanted


def by_host(part: Part) -> bool:
    """Whether each replica must be on a host of its own."""
    return part.hosted.policy.domain == "host" or part.hosted.is_system


def choose_disk(disks: list[DiskStatus], taken: set[int], logs: Mapping[int, tuple[int, int]], *, by_host: bool) -> DiskStatus | None:
    """The disk for one more replica: on a host without one if there is such, ssd before hdd, with few logs before many (`logs`; what one node
    coordinates has its standbys on many others, so that all of them share what it leaves), roomy before full; None if every usable one is taken.
    """
    hosts = {disk.host for disk in disks if disk.id in taken}
    usable = [disk for disk in disks if disk.state in WRITABLE and disk.id not in taken and not (by_host and disk.host in hosts)]
    return min(usable, key=lambda disk: (disk.host in hosts, disk.tier != "ssd", logs.get(disk.id, (0, 0)), -disk.usage.free), default=None)
