"""The disks of a pool: which there are, in which state, and what happened to them.

The node says which disks belong to the pool (`DiskSpec`, from its records) and is told of every change of a state; here the
states are applied. A disk that cannot be opened at start keeps its place, as missing or failed, with the reason: the pool opens degraded.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sofs.errors import DiskFailed, DiskRefused, InvalidArgument, NotFound, ReadOnly, SofsError
from sofs.pool.disk import Disk
from sofs.pool.extent import Usage
from sofs.pool.local_disk import LocalDisk
from sofs.pool.opening import Note, open_disk
from sofs.pool.policy import Candidate
from sofs.pool.states import READABLE, WRITABLE, Event, State, after
from sofs.runtime.ports import Files
from sofs.types import DiskId

__all__ = ["DiskSpec", "DiskStatus", "Member", "Members", "Report"]


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


class DiskStatus(NamedTuple):
    """A disk as operators see it."""

    id: DiskId
    path: str
    tier: str
    host: str
    state: State
    reason: str
    usage: Usage


@dataclass(eq=False, slots=True)
class Member:
    """A disk of the pool, open or not."""

    spec: DiskSpec
    state: State
    reason: str = ""
    disk: LocalDisk | None = None


class Members:
    """The disks of one pool by their ids."""

    def __init__(self, pool: str, files: Files, report: Report) -> None:
        self.pool = pool
        self._files = files
        self._report = report
        self._members: dict[DiskId, Member] = {}
        self.ready: dict[DiskId, LocalDisk] = {}
        """Those that are read without a second thought."""

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def open(self, specs: Iterable[DiskSpec]) -> None:
        """Opens the disks that the node remembers. Raises `Unavailable` if another process has one, or `DiskRefused` if two specs name one
        disk; anything else leaves that disk missing or failed.
        """
        try:
            for spec in specs:
                self._open(spec)
        except BaseException:
            for member in self:
                if member.disk is not None:
                    member.disk.release()
            self._members.clear()
            self.ready.clear()
            raise
        self._share_revocations()

    def _open(self, spec: DiskSpec) -> None:
        if spec.id in self._members:
            raise DiskRefused(f"disk {spec.id:016x} is to be at {self._members[spec.id].spec.path} and at {spec.path}: remove one")
        state = spec.state if spec.state in (State.DRAINING, State.RETIRED) else State.HEALTHY
        member = self._members[spec.id] = Member(spec, state)
        if state is not State.RETIRED:
            self._try_open(member, spec.state is State.FAILED)

    def _try_open(self, member: Member, distrusted: bool) -> None:
        spec, note = member.spec, self._noter(member.spec.path)
        try:
            member.disk = open_disk(
                self._files, spec.path, pool=self.pool, expected=spec.id, distrusted=distrusted, note=note
            )
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
        spec = DiskSpec(path, label.id, label.tier, label.host)
        member = self._members[label.id] = Member(spec, State.HEALTHY, disk=disk)
        self._share_revocations()
        self.happened(member, Event.OPENED, "added")
        return spec

    async def reopen(self, id: DiskId) -> State:
        """Opens a missing or failed disk again, or any disk anew; gives the state it is in then. Raises `Unavailable`, `NotFound`."""
        member = self.get(id)
        if member.disk is not None:
            disk, member.disk = member.disk, None
            self.ready.pop(id, None)
            await disk.close()
        self._try_open(member, True)
        self._share_revocations()
        return member.state

    async def forget(self, id: DiskId) -> None:
        """Takes a disk out of the pool that can hold nothing any more: retired, missing or failed. Raises `InvalidArgument`, `NotFound`."""
        member = self.get(id)
        if member.state not in (State.RETIRED, State.MISSING, State.FAILED):
            raise InvalidArgument(f"disk {id:016x} is {member.state}: drain it first")
        del self._members[id]
        if member.disk is not None:
            await member.disk.close()

    def get(self, id: DiskId) -> Member:
        member = self._members.get(id)
        if member is None:
            raise NotFound(f"the pool {self.pool} has no disk {id:016x}")
        return member

    def readable(self, id: DiskId) -> LocalDisk | None:
        """The disk, unless nothing can be read from it now."""
        member = self._members.get(id)
        return member.disk if member is not None and member.state in READABLE else None

    def writable(self, id: DiskId) -> LocalDisk:
        """A disk that was just chosen among the `candidates`."""
        disk = self._members[id].disk
        assert disk is not None, "a disk that is not open was chosen"
        return disk

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

    def all_readable(self) -> list[LocalDisk]:
        return [member.disk for member in self if member.disk is not None and member.state in READABLE]

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
            Candidate(member.spec.id, member.spec.host, member.spec.tier, self.usage(member).total)
            for member in self
            if member.state in READABLE
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
        return DiskStatus(spec.id, spec.path, spec.tier, spec.host, member.state, member.reason, usage)

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
        if new is old and event not in (Event.READ_ERROR, Event.WRITE_ERROR, Event.ABSENT):
            self._refresh(member)
            return
        member.state, member.reason = new, reason
        self._refresh(member)
        if new is not old:
            self._report("disk state", disk=f"{member.spec.id:016x}", path=member.spec.path, old=str(old), new=str(new), reason=reason)

    def failed(self, disk: Disk, event: Event, error: SofsError) -> None:
        """A disk gave an error on reading or writing. A full disk is none the worse for it; nor is one that has been opened
        again for what its former opening says.
        """
        member = self._members.get(disk.label.id)
        if member is not None and member.disk is disk and isinstance(error, DiskFailed):
            self.happened(member, event, str(error))

    def drain(self, id: DiskId, on: bool = True) -> State:
        """Has a disk emptied (volumes write elsewhere what lies on it), or no longer. Raises `InvalidArgument`, `NotFound`."""
        member = self.get(id)
        self.happened(member, Event.DRAIN if on else Event.UNDRAIN, "by the operator")
        if on and member.disk is not None and member.disk.empty:
            self.emptied(id)
        return member.state

    def emptied(self, id: DiskId) -> None:
        """The last extent of a disk is gone: if it was draining, it is retired."""
        member = self._members.get(id)
        if member is not None and member.state is State.DRAINING:
            self.happened(member, Event.EMPTIED, "drained")

    def _refresh(self, member: Member) -> None:
        if member.disk is not None and member.state in (State.HEALTHY, State.DRAINING):
            self.ready[member.spec.id] = member.disk
        else:
            self.ready.pop(member.spec.id, None)

    def _noter(self, path: str) -> Note:
        """Passes on what is found while the disk at `path` is opened."""

        def note(event: str, slot: int) -> None:
            self._report(event, path=path, slot=slot)

        return note

    def _share_revocations(self) -> None:
        """Tells every disk what the others know: one that was away lacks what was revoked meanwhile."""
        disks = self.all_readable()
        for disk in disks:
            changed = False
            for other in disks:
                changed |= other is not disk and disk.revoked.merge(other.revoked)
            if changed:
                try:
                    disk.save_revoked()
                except SofsError as error:
                    self.failed(disk, Event.WRITE_ERROR, error)

    async def close(self) -> None:
        for member in self:
            if member.disk is not None:
                await member.disk.close()
