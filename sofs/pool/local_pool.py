"""The pool, as this process has it: places, writes, reads and frees extents on this node's disks and on those of others.

Decisions are made elsewhere, as values: where fragments go by the policy, what a disk may be used for by the state table, how a copy
is mended by `copies`. This module carries them out, and it is the place where a disk's error becomes a state.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

from sofs.cluster import Interconnect, Priority
from sofs.errors import Damaged, DiskFailed, ExtentGone, InvalidArgument, NoSpace, NotSupported, SofsError, Unavailable
from sofs.pool.capacity import Capacity
from sofs.pool.copies import Copy, Trouble, mend, read_copies, worst
from sofs.pool.disk import Disk, Part
from sofs.pool.extent import EXTENT_LIMIT, MIB, NAMES_PER_MIB, ExtentId, Fragment, Placement, Usage, slots_for
from sofs.pool.fragment import Checksummer, Sums
from sofs.pool.local_disk import LocalDisk
from sofs.pool.members import DiskSpec, Members, Report
from sofs.pool.neighbours import Neighbours
from sofs.pool.policy import Policy
from sofs.pool.remote_disk import RemoteDisk
from sofs.pool.scheme import Redundancy, parse_scheme
from sofs.pool.states import Event, State
from sofs.runtime.ports import Buffer, Clock, Files, Random
from sofs.types import PAGE, DiskId, VolumeId

T = TypeVar("T")
_PUNCHED = 8  # runs of slots punched in one go
_SLICE = 200
"""Extents compared with their records in one go: less than a millisecond."""
GRACE_S = 600.0
"""For so long a missing disk may come back before its extents are written elsewhere."""
PATIENCE_S = 20.0
"""For so long a reader waits for a disk of another node that has the only copy."""


class LocalPool(Capacity):
    """The pool's interface in this process; see `sofs.pool.Pool` for what its methods promise."""

    def __init__(
        self,
        name: str,
        files: Files,
        random: Random,
        report: Report,
        *,
        clock: Clock,
        interconnect: Interconnect | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        """Without `interconnect` all disks are this node's."""
        self.name = name
        members = Members(name, files, report, clock, interconnect)
        super().__init__(members, None if interconnect is None else Neighbours(members, interconnect, self._start), grace_s)
        self._clock = clock
        self._random = random
        self._report = report
        self._ready = self.members.ready
        self._near = self.members.near
        self._in_doubt = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._returning: asyncio.Task[None] | None = None

    def open(self, disks: Sequence[DiskSpec]) -> None:
        """Opens the pool's disks; see `Members.open` for what is raised and what makes it degraded."""
        self.members.open(disks)

    async def update(self, disks: Sequence[DiskSpec]) -> None:
        """The records of the pool's disks have changed; see `Members.update`. New disks of other nodes are missing for a moment still."""
        for node in sorted(await self.members.update(disks)):
            assert self._neighbours is not None
            self._start(self._neighbours.hear(node))

    async def hear(self) -> None:
        """Asks other nodes how their disks are; takes two seconds at most for each that does not answer, all at once."""
        if self._neighbours is not None:
            await self._neighbours.run_once()

    def hears(self, node: int) -> bool:
        """Whether another node says how its disks are: else nobody knows what is on them."""
        return self._neighbours is not None and self._neighbours.hears(node)

    async def close(self) -> None:
        """Finishes what was begun, then lets go of the disks."""
        if self._neighbours is not None:
            self._neighbours.close()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.members.close()

    # Extents

    async def write(self, id: ExtentId, data: Sequence[Buffer], policy: Policy, names: bytes = b"", sums: Sequence[int] | None = None) -> Placement:
        return await self.finish(self._write(id, data, policy, names, sums))

    async def _write(
        self, id: ExtentId, data: Sequence[Buffer], policy: Policy, names: bytes, sums: Sequence[int] | None,
        priority: Priority = Priority.FOREGROUND, avoid: Collection[DiskId] = (),
    ) -> Placement:  # fmt: skip
        length = sum(map(len, data))
        _check_extent(length, names)
        assert sums is None or len(sums) * PAGE == length, f"{len(sums)} checksums for {length} bytes"
        part = Part(id, policy.scheme, 0, length // PAGE, data, await _checksum(data, sums), names, priority)
        size = slots_for(policy.scheme.fragment_length(length)) * MIB
        failed: dict[DiskId, SofsError] = {}
        full: set[DiskId] = set()
        while True:
            candidates = [
                each._replace(free=0) if each.disk in full else each
                for each in self.members.candidates()
                if each.disk not in failed and each.disk not in avoid
            ]
            try:
                chosen = policy.select(candidates, size, self._random.number)
            except NoSpace as shortage:
                # If a disk that failed is why, that is what to tell.
                raise next(iter(failed.values()), shortage) from None
            done, errors = await self._write_parts(part, chosen)
            if not errors:
                break
            # What was written is freed, so the id is not used up and other disks can be tried.
            await self._free(id, done)
            for disk, error in errors:
                if isinstance(error, NoSpace):
                    full.add(disk.id)
                elif isinstance(error, DiskFailed | Unavailable):
                    # Not asked again for this extent, whatever the trouble: what it may have written of it is a stray, and must remain
                    # the only fragment of this id there.
                    failed[disk.id] = error
                    self._troubled(disk, Event.WRITE_ERROR, error)
                else:
                    raise error
        if len(done) < policy.scheme.width:
            self.counters["degraded_extents"] += 1
        self.counters["extents_written"] += 1
        return Placement(id, length, policy.scheme.text, tuple(done))

    async def _write_parts(self, part: Part, chosen: Sequence[DiskId]) -> tuple[list[Fragment], list[tuple[Disk, SofsError]]]:
        """Writes a fragment to each disk, in parallel; gives what was written and what failed."""
        disks = [self.members.writable(id) for id in chosen]
        writes = [self.members.write(disk, part._replace(part=nth)) for nth, disk in enumerate(disks)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        done: list[Fragment] = []
        errors: list[tuple[Disk, SofsError]] = []
        for disk, result in zip(disks, results, strict=True):
            if isinstance(result, int):
                done.append(Fragment(disk.id, result))
            elif isinstance(result, SofsError):
                errors.append((disk, result))
            else:
                raise result
        return done, errors

    def _troubled(self, disk: Disk, event: Event, error: SofsError) -> None:
        """A disk has not done what was asked of it."""
        if isinstance(error, Unavailable):
            if event is Event.WRITE_ERROR:
                # It may have been done all the same, or will be.
                self._in_doubt += 1
            self.members.away(disk, error)
            if self._neighbours is not None:
                self._neighbours.ask_soon(disk.id)
        else:
            self.members.failed(disk, event, error)

    def read(self, at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None = None) -> Awaitable[None] | None:
        for fragment in at.fragments:
            disk: LocalDisk | RemoteDisk | None = self._near.get(fragment.disk)
            if disk is not None:
                break
        else:
            disk = None
            # Those who have none of the copies share the work among all who have one.
            count = len(at.fragments)
            for nth in range(count):
                fragment = at.fragments[(at.id.number + nth) % count]
                disk = self._ready.get(fragment.disk)
                if disk is not None:
                    break
        if disk is None:
            return self._recover(at, offset, into, sums)
        try:
            waiting = disk.read(fragment.slot, at.id, offset, into, sums)
        except SofsError:
            return self._recover(at, offset, into, sums)
        if waiting is None:
            return None
        return self._read_rest(waiting, disk, at, offset, into, sums)

    async def _read_rest(
        self, waiting: Awaitable[None], disk: Disk, at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None
    ) -> None:
        try:
            await waiting
        except Unavailable as error:
            self._troubled(disk, Event.READ_ERROR, error)
            await self._recover(at, offset, into, sums)
        except SofsError:
            await self._recover(at, offset, into, sums)

    async def _recover(
        self, at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None, priority: Priority = Priority.FOREGROUND
    ) -> None:
        """Reads from whichever copies there are, and mends those that were bad.

        While a disk of another node is away that may have what no other copy has, it waits a while for it; who is not in a hurry is told at once,
        and comes again.
        """
        patience = 0.0 if priority is Priority.REBUILD else PATIENCE_S
        end = self._clock.monotonic() + patience
        while True:
            error = await self._read_copies(at, offset, into, sums, priority)
            if error is None:
                return
            away = [fragment.disk for fragment in at.fragments if self.members.may_return(fragment.disk)]
            left = end - self._clock.monotonic()
            if not away or isinstance(error, ExtentGone):
                break
            if left <= 0:
                raise Unavailable(f"extent {at.id.number} of volume {at.id.volume:x} cannot be read: {self.members.describe(away[0])}")
            await self.members.change(left)
        if isinstance(error, Damaged):
            asleep = [fragment.disk for fragment in at.fragments if self.members.may_have(fragment.disk)]
            if asleep:
                # Not damaged for good, as far as anybody knows.
                raise DiskFailed(f"{error}, and {self.members.describe(asleep[0])}") from None
            self.counters["damaged_reads"] += 1
        raise error

    async def _read_copies(self, at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None, priority: Priority) -> SofsError | None:
        """One attempt; why it did not succeed."""
        copies = self._copies(at)
        if not copies:
            away = ", ".join(self.members.describe(fragment.disk) for fragment in at.fragments)
            return DiskFailed(f"extent {at.id.number} of volume {at.id.volume:x} cannot be read: {away}")
        troubles, good = await read_copies(copies, at.id, offset, into, sums, priority)
        for trouble in troubles:
            self._blame(at.id, trouble)
        if good is None:
            return worst(troubles)
        for trouble in troubles:
            await self._mend(at.id, trouble, good, offset, into)
        return None

    def _copies(self, at: Placement) -> list[Copy]:
        """The copies that can be read: those of this node first, then the others, then those that are not trusted."""
        if parse_scheme(at.scheme).redundancy is not Redundancy.COPIES:
            raise NotSupported(f"extent {at.id.number}: {at.scheme} is not offered yet")
        ranked: list[tuple[int, int, Copy]] = []
        for nth, (id, slot) in enumerate(at.fragments):
            disk = self.members.readable(id)
            if disk is not None:
                rank = 0 if id in self._near else 1 if id in self._ready else 2
                ranked.append((rank, nth, Copy(disk, slot)))
        return [copy for _, _, copy in sorted(ranked, key=lambda each: each[:2])]

    def _blame(self, id: ExtentId, trouble: Trouble) -> None:
        disk = trouble.copy.disk
        if isinstance(trouble.error, DiskFailed | Unavailable):
            self._troubled(disk, Event.READ_ERROR, trouble.error)
        elif isinstance(trouble.error, Damaged):
            self.counters["bad_pages"] += len(trouble.pages)
            self._report(
                "bad pages", disk=f"{disk.id:016x}", slot=trouble.copy.slot, volume=f"{id.volume:x}", extent=id.number,
                pages=trouble.pages, error=str(trouble.error),
            )  # fmt: skip

    async def _mend(self, id: ExtentId, trouble: Trouble, good: Copy, offset: int, data: memoryview) -> None:
        """Mends one copy; that it cannot be mended is told, and is no reason to fail whoever reads."""
        disk, slot = trouble.copy
        if self.members.readable(disk.id) is not disk:
            return
        try:
            mended = await mend(trouble, good, id, offset, data)
        except DiskFailed as error:
            self._troubled(disk, Event.WRITE_ERROR, error)
        except SofsError as error:
            self._report("not mended", disk=f"{disk.id:016x}", slot=slot, extent=id.number, error=str(error))
        else:
            if mended:
                self.counters["mended"] += 1
                self._report("mended", disk=f"{disk.id:016x}", slot=slot, extent=id.number, pages=trouble.pages)

    async def delete(self, at: Placement) -> None:
        await self.finish(self._free(at.id, at.fragments))

    async def _free(self, id: ExtentId, fragments: Sequence[Fragment]) -> None:
        """Frees fragments on the disks that are there; on another they become orphans, should it come back."""
        present = [(disk, slot) for where, slot in fragments if (disk := self.members.readable(where)) is not None]
        results = await asyncio.gather(*[disk.delete(slot, id) for disk, slot in present], return_exceptions=True)
        for (disk, _), result in zip(present, results, strict=True):
            if isinstance(result, SofsError):
                self._troubled(disk, Event.WRITE_ERROR, result)
            elif result is not None:
                raise result
            elif isinstance(disk, LocalDisk):
                self.freed(disk)

    def freed(self, disk: LocalDisk) -> None:
        """Something on a disk of this node has been freed."""
        if disk.empty:
            self.members.emptied(disk.id)
        if self._returning is None or self._returning.done():
            self._returning = self._start(self.give_back())

    async def give_back(self) -> None:
        """Punches the slots of freed fragments, so that their space returns to the file systems. Runs by itself after
        deletions; at start nobody knows what was left unpunched, and all free slots are.
        """
        for disk in self.members.own_readable():
            try:
                # In slices: punching holds up the loop, for some 50 us a MiB.
                more = True
                while more:
                    more = disk.give_back(_PUNCHED)
                    await asyncio.sleep(0)
            except SofsError as error:
                self.members.failed(disk, Event.WRITE_ERROR, error)

    async def revoke(self, volume: VolumeId, ids: range) -> None:
        # First of all remembered: a disk that returns while the others are being told must hear of it, too.
        self.members.revoked.add(volume, ids)
        disks = self.members.all_readable()
        results = await asyncio.gather(*[disk.revoke(volume, ids) for disk in disks], return_exceptions=True)
        failure: SofsError | None = None
        for disk, result in zip(disks, results, strict=True):
            if isinstance(result, SofsError):
                failure = result
                self._troubled(disk, Event.WRITE_ERROR, result)
            elif result is not None:
                raise result
        if all(results):
            raise failure or DiskFailed(f"the pool {self.name} has no disk on which ids could be revoked")

    @property
    def in_doubt(self) -> int:
        return self.members.returns + self._in_doubt + (self._neighbours is not None)

    async def orphans(self, volume: VolumeId, ids: range, known: Callable[[int], Collection[Fragment]]) -> list[Placement]:
        orphans = []
        for seen, (number, at) in enumerate(sorted((await self._find(volume, ids)).items())):
            named = known(number)
            strays = tuple(fragment for fragment in at.fragments if fragment not in named)
            if strays:
                orphans.append(at._replace(fragments=strays))
            if seen % _SLICE == 0:
                await asyncio.sleep(0)
        return orphans

    async def _find(self, volume: VolumeId, ids: range) -> dict[int, Placement]:
        """The extents of a volume with these numbers, by number, with the fragments that are found on the disks that are there."""
        found: dict[int, Placement] = {}
        parts: dict[int, list[tuple[int, Fragment]]] = {}
        for disk in self.members.all_readable():
            try:
                entries = await disk.find(volume, ids)
            except SofsError as error:
                self._troubled(disk, Event.READ_ERROR, error)
                continue
            for slot, entry in entries:
                number = entry.id.number
                found.setdefault(number, Placement(entry.id, entry.pages * PAGE, entry.scheme.text, ()))
                parts.setdefault(number, []).append((entry.part, Fragment(disk.id, slot)))
        return {number: placement._replace(fragments=tuple(fragment for _, fragment in sorted(parts[number]))) for number, placement in found.items()}

    async def reprotect(self, at: Placement, id: ExtentId, policy: Policy, avoid: Collection[DiskId] = ()) -> Placement:
        return await self.finish(self._reprotect(at, id, policy, avoid))

    async def _reprotect(self, at: Placement, id: ExtentId, policy: Policy, avoid: Collection[DiskId]) -> Placement:
        data = memoryview(bytearray(at.length))
        for offset in range(0, at.length, MIB):
            await self._recover(at, offset, data[offset : offset + MIB], None, Priority.REBUILD)
        return await self._write(id, [data], policy, await self._names(at), None, Priority.REBUILD, avoid)

    async def _names(self, at: Placement) -> bytes:
        """The names in an extent's headers. Raises as reading does."""
        failure: SofsError = ExtentGone(f"extent {at.id.number} of volume {at.id.volume:x} has no copy that can be read")
        for copy in self._copies(at):
            try:
                return (await copy.disk.describe(copy.slot, at.id))[2]
            except SofsError as error:
                failure = error
        raise failure

    async def check(self, at: Placement) -> list[str]:
        scheme = parse_scheme(at.scheme)
        problems = []
        if len(at.fragments) < scheme.width:
            problems.append(f"extent {at.id.number}: {len(at.fragments)} of {scheme.width} fragments")
        for fragment in at.fragments:
            disk = self.members.readable(fragment.disk)
            if disk is None:
                problems.append(f"extent {at.id.number}: {self.members.describe(fragment.disk)}")
            else:
                try:
                    problems += await disk.check(fragment.slot, at.id, at.length)
                except Unavailable as error:
                    problems.append(f"extent {at.id.number}: {error}")
        return problems

    async def mend(self, id: ExtentId, bad: Fragment) -> bool:
        """Reads an extent from its copy at `bad` first, so that what is wrong with that one is mended from others; says whether it is
        good then. Raises `ExtentGone`.
        """
        at = (await self._find(id.volume, range(id.number, id.number + 1))).get(id.number)
        if at is None or bad not in at.fragments:
            raise ExtentGone(f"extent {id.number} of volume {id.volume:x} is not there any more")
        at = at._replace(fragments=(bad, *[each for each in at.fragments if each != bad]))
        data = memoryview(bytearray(MIB))
        for offset in range(0, at.length, MIB):
            try:
                await self._recover(at, offset, data[: min(MIB, at.length - offset)], None, Priority.REBUILD)
            except (Damaged, DiskFailed, Unavailable) as error:
                self._report("damaged extent", volume=f"{id.volume:x}", extent=id.number, offset=offset, error=str(error))
        disk = self.members.readable(bad.disk)
        return disk is not None and not await disk.check(bad.slot, id, at.length)

    # Disks

    async def drain(self, id: DiskId, on: bool = True) -> State:
        """Has a disk of any node emptied, or no longer. Raises `InvalidArgument`, `NotFound`, `Unavailable` (its node is away)."""
        member = self.members.get(id)
        if not isinstance(member.disk, RemoteDisk):
            return self.members.drain(id, on)
        told = await member.disk.drain(on)
        self.members.told(member, told.state, told.reason, Usage(told.total, told.free))
        return member.state

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` to its end even if whoever waits for it is cancelled: its slots are in use until then."""
        return await asyncio.shield(self._start(work))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _checksum(data: Sequence[Buffer], known: Sequence[int] | None) -> Sums:
    """The checksums of an extent's data, with a turn of the loop after every MiB (which takes some 110 us)."""
    summer = Checksummer(known)
    done = 0
    for piece in data:
        view = memoryview(piece)
        for at in range(0, len(view), MIB):
            if done >= MIB:
                await asyncio.sleep(0)
                done = 0
            summer.feed(view[at : at + MIB])
            done += min(MIB, len(view) - at)
    return summer.finish()


def _check_extent(length: int, names: bytes) -> None:
    if not 0 < length <= EXTENT_LIMIT or length % PAGE:
        raise InvalidArgument(f"an extent of {length} bytes: from one page to 8 MiB, in whole pages")
    if len(names) > slots_for(length) * NAMES_PER_MIB:
        raise InvalidArgument(f"{len(names)} bytes of names for {length} bytes of data: at most {NAMES_PER_MIB} for each MiB")
