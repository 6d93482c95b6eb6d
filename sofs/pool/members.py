"""The disks of a pool: which there are, in which state, and what happened to them.

The node says which disks belong to the pool (`DiskSpec`, from its records) and is told of every change of a state; here the
states are applied. A disk of this node that cannot be opened at start keeps its place, as missing or failed, with the reason: the pool opens degraded.
A disk of another node is in the state in which that node has it, and missing while that node does not say (`neighbours`).
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sofs.cluster import Interconnect, NodeId
from sofs.errors import DiskFailed, DiskRefused, InvalidArgument, NoSpace, NotFound, ReadOnly, SofsError, Unavailable
from sofs.pool.disk import Disk, Part, Slow
from sofs.pool.extent import Usage
from sofs.pool.local_disk import LocalDisk
from sofs.pool.opening import Note, open_disk
from sofs.pool.policy import Candidate
from sofs.pool.remote_disk import RemoteDisk
from sofs.pool.revocations import Revocations
from sofs.pool.states import READABLE, WRITABLE, Event, State, after
from sofs.runtime.ports import Clock, Files
from sofs.types import DiskId

_FORGETTABLE = (State.RETIRED, State.MISSING, State.FAILED)
DISTRUSTED_S = 30.0
"""For so long a disk of another node that did not answer in time is asked last."""


class Report(Protocol):
    """Told of what an operator wants to know: a stable name and fields, as a structured log takes them."""

    def __call__(self, event: str, /, **fields: object) -> object: ...


class DiskSpec(NamedTuple):
    """A disk as the node remembers it."""

    path: str
    id: DiskId
    tier: str
    host: str
    state: State = State.HEALTHY
    """As last reported. What the operator wanted stays, and a failed disk is opened with suspicion; the rest is found out again."""
    node: int = 0
    """The member that has it; 0: this node, which is the only one."""
    lost: bool = False
    """That member has been evicted: its disks do not come back."""


class DiskStatus(NamedTuple):
    """A disk as operators see it."""

    id: DiskId
    path: str
    tier: str
    host: str
    state: State
    reason: str
    usage: Usage
    node: int = 0
    own: bool = True
    """It is a disk of this node."""


@dataclass(eq=False, slots=True)
class Member:
    """A disk of the pool, open or not."""

    spec: DiskSpec
    state: State
    reason: str = ""
    disk: LocalDisk | RemoteDisk | None = None
    draining: bool = False
    """The operator wants it emptied: that outlasts its being missing or failed."""
    since: float = 0.0
    """When it went missing, on the monotonic clock."""
    well: bool = True
    """It could be relied on until then."""
    distrusted_until: float = 0.0


class Members:
    """The disks of one pool by their ids."""

    def __init__(self, pool: str, files: Files, report: Report, clock: Clock, interconnect: Interconnect | None) -> None:
        self.pool = pool
        self._files = files
        self._report = report
        self._clock = clock
        self._interconnect = interconnect
        self._members: dict[DiskId, Member] = {}
        self._places: dict[int, dict[DiskId, Member]] = {}
        """The same by their nodes; 0 for this one. Nodes are asked for theirs all the time, and a pool may have a thousand."""
        self.ready: dict[DiskId, LocalDisk | RemoteDisk] = {}
        """Those that are read without a second thought."""
        self.near: dict[DiskId, LocalDisk] = {}
        """Those of them that are this node's."""
        self.revoked = Revocations()
        """What this process has had revoked: disks that were away are told when they return."""
        self.returns = 0
        """How often a disk that could not be read can be read again."""
        self._waiters: dict[asyncio.Future[None], None] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def open(self, specs: Iterable[DiskSpec]) -> None:
        """Opens the disks that the node remembers. Raises `Unavailable` if another process has one of this node's, or `DiskRefused` if two
        specs name one disk; anything else leaves that disk missing or failed. Those of other nodes are missing until these are heard.
        """
        try:
            for spec in specs:
                if spec.id in self._members:
                    raise DiskRefused(f"disk {spec.id:016x} is to be at {self._members[spec.id].spec.path} and at {spec.path}: remove one")
                if self.owns(spec):
                    self._open(spec)
                else:
                    self._join(spec)
        except BaseException:
            for member in self:
                if isinstance(member.disk, LocalDisk):
                    member.disk.release()
            self._members.clear()
            self._places.clear()
            self.ready.clear()
            self.near.clear()
            raise
        self._share_revocations()

    async def update(self, specs: Iterable[DiskSpec]) -> set[int]:
        """The records have changed: takes in disks of other nodes, and lets those go that are gone from the records. This node's own come by `add` only,
        and go if nothing can be on them any more. Gives the nodes of which disks have come: how these are is not known yet.
        """
        there = {spec.id: spec for spec in specs}
        come: set[int] = set()
        for id, member in list(self._members.items()):
            spec = there.pop(id, None)
            if spec is None:
                if not self.owns(member.spec) or member.state in _FORGETTABLE:
                    self._report("disk forgotten", disk=f"{id:016x}", path=member.spec.path)
                    await self.forget(id, True)
            elif not self.owns(member.spec):
                if spec.node != member.spec.node:
                    self._take_out(member)
                    member.spec = spec
                    self._put(member)
                    if not self.owns(spec):
                        come.add(spec.node)
                member.spec = spec
                if spec.lost:
                    self._condemn(member)
        for spec in there.values():
            if not self.owns(spec):
                self._join(spec)
                if not spec.lost:
                    come.add(spec.node)
        return come

    def owns(self, spec: DiskSpec) -> bool:
        """Whether a disk is this node's."""
        return self._interconnect is None or spec.node in (0, self._interconnect.node)

    def is_own(self, id: DiskId) -> bool:
        return id in self._places.get(0, ())

    @property
    def own(self) -> list[Member]:
        """This node's disks."""
        return list(self._places.get(0, {}).values())

    def _put(self, member: Member) -> Member:
        self._members[member.spec.id] = member
        self._places.setdefault(self._place(member.spec), {})[member.spec.id] = member
        return member

    def _take_out(self, member: Member) -> None:
        del self._members[member.spec.id]
        del self._places[self._place(member.spec)][member.spec.id]

    def _place(self, spec: DiskSpec) -> int:
        return 0 if self.owns(spec) else spec.node

    def _open(self, spec: DiskSpec) -> None:
        state = spec.state if spec.state in (State.DRAINING, State.RETIRED) else State.HEALTHY
        member = self._put(Member(spec, state, draining=state is State.DRAINING))
        if state is not State.RETIRED:
            self._try_open(member, spec.state is State.FAILED)

    def _join(self, spec: DiskSpec) -> None:
        assert self._interconnect is not None
        disk = RemoteDisk(self._interconnect.peer(NodeId(spec.node)), self._clock, spec.id, spec.path)
        state = State.RETIRED if spec.state is State.RETIRED else State.MISSING
        member = self._put(Member(spec, state, "its node has not been heard yet", disk, since=self._clock.monotonic()))
        member.well = spec.state in (State.HEALTHY, State.MISSING)
        if spec.lost:
            self._condemn(member)

    def _condemn(self, member: Member) -> None:
        if member.state is not State.FAILED:
            self._change(member, State.FAILED, "its node has been evicted")

    # Disks of other nodes

    def of_node(self, node: int) -> list[Member]:
        """Another node's disks that may still be used."""
        return [member for member in self._places.get(node, {}).values() if not member.spec.lost]

    def told(self, member: Member, state: State, reason: str, usage: Usage) -> None:
        """A disk's own node says how it is."""
        assert isinstance(member.disk, RemoteDisk)
        member.disk.reported = usage
        if state is State.HEALTHY and self._clock.monotonic() < member.distrusted_until:
            state, reason = State.SUSPECT, "it did not answer in time"
        if member.spec.lost or (state is member.state and reason == member.reason):
            return
        self._change(member, state, reason)

    def away(self, disk: Disk, error: Unavailable) -> None:
        """A disk of another node did not answer: it is missing until that node says how it is, which may be in a moment."""
        member = self._members.get(disk.id)
        if member is None or member.disk is not disk or member.spec.lost:
            return
        if isinstance(error, Slow):
            member.distrusted_until = self._clock.monotonic() + DISTRUSTED_S
        if member.state is not State.RETIRED:
            self._change(member, State.MISSING, str(error))

    def counts(self, id: DiskId, grace: float) -> bool:
        """Whether what lies on a disk is as safe as it should be: the disk can be trusted, or was heard to be fine less than `grace` seconds ago."""
        member = self._members.get(id)
        if member is None or member.state is State.HEALTHY:
            return member is not None
        now = self._clock.monotonic()
        return (member.state is State.MISSING and member.well and now - member.since < grace) or (
            member.state is State.SUSPECT and now < member.distrusted_until
        )

    def counting(self, grace: float) -> frozenset[DiskId]:
        """The disks of which `counts` says so."""
        return frozenset(id for id in self._members if self.counts(id, grace))

    def may_have(self, id: DiskId) -> bool:
        """Whether a disk cannot be read now, and may hold what it held all the same."""
        member = self._members.get(id)
        return member is not None and member.state not in READABLE and not member.spec.lost

    def may_return(self, id: DiskId) -> bool:
        """Whether a disk is away, and may be back in a moment."""
        member = self._members.get(id)
        return member is not None and member.state is State.MISSING and not self.owns(member.spec)

    async def change(self, timeout: float) -> None:
        """Returns when some disk can be read again, or after `timeout` seconds."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        timer = self._clock.call_later(timeout, lambda: None if waiter.done() else waiter.set_result(None))
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiters[waiter]

    # Disks of this node

    def _try_open(self, member: Member, distrusted: bool) -> None:
        spec, note = member.spec, self._noter(member.spec.path)
        try:
            member.disk = open_disk(self._files, spec.path, pool=self.pool, expected=spec.id, distrusted=distrusted, note=note)
        except (NotFound, DiskRefused) as error:
            self.happened(member, Event.ABSENT, str(error))
        except (DiskFailed, ReadOnly) as error:
            self.happened(member, Event.WRITE_ERROR, str(error))
        else:
            self.happened(member, Event.OPENED, "")

    def add(self, path: str) -> DiskSpec:
        """Takes in a disk that was made for this pool. Raises as `open_disk`, and `DiskRefused` for a copy of a disk that is there."""
        disk = open_disk(self._files, path, pool=self.pool, note=self._noter(path))
        label = disk.label
        known = self._members.get(label.id)
        if known is not None:
            disk.release()
            raise DiskRefused(
                f"{path} is disk {label.id:016x}, which is at {known.spec.path} already: a copy cannot join its original; "
                "give an empty directory, or --force to make it a new disk"
            )
        spec = DiskSpec(path, label.id, label.tier, label.host, node=0 if self._interconnect is None else self._interconnect.node)
        member = self._put(Member(spec, State.HEALTHY, disk=disk))
        self._share_revocations()
        self.happened(member, Event.OPENED, "added")
        return spec

    async def reopen(self, id: DiskId) -> State:
        """Opens a missing or failed disk again, or any disk anew; gives the state it is in then. Raises `Unavailable`, `NotFound`."""
        member = self._get_own(id)
        if isinstance(member.disk, LocalDisk):
            disk, member.disk = member.disk, None
            self.ready.pop(id, None)
            self.near.pop(id, None)
            await disk.close()
        self._try_open(member, True)
        self._share_revocations()
        return member.state

    async def forget(self, id: DiskId, whatever: bool = False) -> None:
        """Takes a disk out of the pool that can hold nothing any more: retired, missing or failed. Raises `InvalidArgument`, `NotFound`."""
        member = self.get(id)
        if member.state not in _FORGETTABLE and not whatever:
            raise InvalidArgument(f"disk {id:016x} is {member.state}: drain it first")
        self._take_out(member)
        self.ready.pop(id, None)
        self.near.pop(id, None)
        if isinstance(member.disk, LocalDisk):
            await member.disk.close()

    def get(self, id: DiskId) -> Member:
        member = self._members.get(id)
        if member is None:
            raise NotFound(f"the pool {self.pool} has no disk {id:016x}")
        return member

    def _get_own(self, id: DiskId) -> Member:
        member = self.get(id)
        if not self.owns(member.spec):
            raise InvalidArgument(f"disk {id:016x} is node {member.spec.node:016x}'s: that is to be done there")
        return member

    def readable(self, id: DiskId) -> LocalDisk | RemoteDisk | None:
        """The disk, unless nothing can be read from it now."""
        member = self._members.get(id)
        return member.disk if member is not None and member.state in READABLE else None

    def writable(self, id: DiskId) -> LocalDisk | RemoteDisk:
        """A disk that was just chosen among the `candidates`."""
        disk = self._members[id].disk
        assert disk is not None, "a disk that is not open was chosen"
        return disk

    async def write(self, disk: LocalDisk | RemoteDisk, part: Part) -> int:
        """As `Disk.write`, if the disk still takes extents when it comes to that: one that is drained may be retired at any moment, and pulled out.

        Raises `NoSpace` if it does not: whoever asked takes another.
        """
        member = self._members.get(disk.id)
        if member is None or member.state in (State.DRAINING, State.RETIRED):
            raise NoSpace(f"{self.describe(disk.id)}: it takes no new extents")
        return await disk.write(part)  # one that has failed says so itself

    def state(self, id: DiskId) -> State | None:
        """A disk's state; `None` if the pool does not know it."""
        member = self._members.get(id)
        return None if member is None else member.state

    def describe(self, id: DiskId) -> str:
        """A disk and what is wrong with it, for messages."""
        member = self._members.get(id)
        if member is None:
            return f"disk {id:016x} is not in the pool"
        return f"disk {member.spec.path} is {member.state}" + (f" ({member.reason})" if member.reason else "")

    def all_readable(self) -> list[LocalDisk | RemoteDisk]:
        return [member.disk for member in self if member.disk is not None and member.state in READABLE]

    def own_readable(self) -> list[LocalDisk]:
        return [disk for disk in self.all_readable() if isinstance(disk, LocalDisk)]

    def candidates(self) -> list[Candidate]:
        """The disks that take new extents now."""
        found = []
        for member in self:
            if member.state in WRITABLE:
                free, spec = self.usage(member).free, member.spec
                # Asking may have shown that it is gone.
                if member.state in WRITABLE:
                    found.append(Candidate(spec.id, spec.host, spec.tier, free, member.state is State.HEALTHY))
        return found

    def capacities(self) -> list[Candidate]:
        """The disks that can be read, as if empty."""
        return [
            Candidate(member.spec.id, member.spec.host, member.spec.tier, self.usage(member).total) for member in self if member.state in READABLE
        ]

    def usage(self, member: Member) -> Usage:
        """A disk's capacity; none if it cannot be read, or turns out not to be there any more."""
        if member.disk is not None and member.state in READABLE:
            try:
                return member.disk.usage()
            except NotFound as error:
                self.happened(member, Event.ABSENT, str(error))
            except SofsError as error:
                self.happened(member, Event.WRITE_ERROR, str(error))
        return Usage(0, 0)

    def status(self, member: Member) -> DiskStatus:
        usage, spec = self.usage(member), member.spec
        return DiskStatus(
            spec.id, spec.path, spec.tier, spec.host, member.state, member.reason, usage, spec.node, self.owns(spec)
        )  # fmt: skip

    def prospects(self) -> list[Candidate]:
        """All disks that are to take extents, as if present and empty: what a policy is validated against."""
        return [
            Candidate(member.spec.id, member.spec.host, member.spec.tier, 1 << 62)
            for member in self
            if member.state not in (State.DRAINING, State.RETIRED)
        ]

    def happened(self, member: Member, event: Event, reason: str) -> None:
        """Moves a disk to the state that follows, and tells the node if that is another one."""
        old, new = member.state, after(member.state, event)
        if member.draining and new is State.HEALTHY:
            new = State.DRAINING
        if new is old and event not in (Event.READ_ERROR, Event.WRITE_ERROR, Event.ABSENT):
            self._refresh(member)
            return
        self._change(member, new, reason)

    def _change(self, member: Member, new: State, reason: str) -> None:
        old = member.state
        member.state, member.reason = new, reason
        self._refresh(member)
        if new is old:
            return
        if new is State.MISSING:
            member.since = self._clock.monotonic()
            member.well = old is State.HEALTHY or (old is State.SUSPECT and member.since < member.distrusted_until)
        if new in READABLE and old not in READABLE:
            self.returns += 1
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
        self._report("disk state", disk=f"{member.spec.id:016x}", path=member.spec.path, old=str(old), new=str(new), reason=reason)

    def failed(self, disk: Disk, event: Event, error: SofsError) -> None:
        """A disk gave an error on reading or writing. A full disk is none the worse for it; nor is one that has been opened
        again for what its former opening says.
        """
        member = self._members.get(disk.id)
        if member is not None and member.disk is disk and isinstance(error, DiskFailed):
            self.happened(member, event, str(error))

    def drain(self, id: DiskId, on: bool = True) -> State:
        """Has a disk of this node emptied (volumes write elsewhere what lies on it), or no longer. Raises `InvalidArgument`, `NotFound`."""
        member = self._get_own(id)
        event = Event.DRAIN if on else Event.UNDRAIN
        after(member.state, event)  # raises if that makes no sense now
        member.draining = on
        self.happened(member, event, "by the operator")
        if member.disk is None:  # it was retired when the node started, so it has not been opened
            try:
                self._try_open(member, True)
            except Unavailable as error:
                self.happened(member, Event.ABSENT, str(error))  # another process has it: the probe tries again
            self._share_revocations()
        if on and isinstance(member.disk, LocalDisk) and member.disk.empty:
            self.emptied(id)
        return member.state

    def emptied(self, id: DiskId) -> None:
        """The last extent of a disk of this node is gone: if it was draining, it is retired."""
        member = self._members.get(id)
        if member is not None and member.state is State.DRAINING:
            self.happened(member, Event.EMPTIED, "drained")

    def _refresh(self, member: Member) -> None:
        id = member.spec.id
        self.ready.pop(id, None)
        self.near.pop(id, None)
        if member.disk is not None and member.state in (State.HEALTHY, State.DRAINING):
            self.ready[id] = member.disk
            if isinstance(member.disk, LocalDisk):
                self.near[id] = member.disk

    def _noter(self, path: str) -> Note:
        """Passes on what is found while the disk at `path` is opened."""

        def note(event: str, slot: int) -> None:
            self._report(event, path=path, slot=slot)

        return note

    def _share_revocations(self) -> None:
        """Tells every disk of this node what the others know: one that was away lacks what was revoked meanwhile."""
        disks = self.own_readable()
        for disk in disks:
            changed = disk.revoked.merge(self.revoked)
            for other in disks:
                changed |= other is not disk and disk.revoked.merge(other.revoked)
            if changed:
                try:
                    disk.save_revoked()
                except SofsError as error:
                    self.failed(disk, Event.WRITE_ERROR, error)

    async def close(self) -> None:
        for member in self:
            if isinstance(member.disk, LocalDisk):
                await member.disk.close()
