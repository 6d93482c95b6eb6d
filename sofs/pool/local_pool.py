"""The pool over this node's disks: places, writes, reads and frees extents.

Decisions are made elsewhere, as values: where fragments go by the policy, what a disk may be used for by the state table, how a copy
is mended by `copies`. This module carries them out, and it is the place where a disk's error becomes a state.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from sofs.errors import Damaged, DiskFailed, ExtentGone, InvalidArgument, NoSpace, NotSupported, SofsError
from sofs.pool.copies import Copy, Trouble, mend, read_copies, worst
from sofs.pool.disk import BadPages, Part
from sofs.pool.extent import EXTENT_LIMIT, MIB, NAMES_PER_MIB, ExtentId, Fragment, Placement, Usage, slots_for
from sofs.pool.fragment import Checksummer, Sums
from sofs.pool.local_disk import LocalDisk
from sofs.pool.members import DiskSpec, DiskStatus, Members, Report
from sofs.pool.policy import Policy
from sofs.pool.scheme import Redundancy, parse_scheme
from sofs.pool.states import WRITABLE, Event, State
from sofs.runtime.ports import Buffer, Files, Random
from sofs.types import PAGE, DiskId, VolumeId

__all__ = ["LocalPool"]

T = TypeVar("T")
_PUNCHED = 8  # runs of slots punched in one go


class LocalPool:
    """The pool's interface over disks of this process; see `sofs.pool.Pool` for what its methods promise."""

    def __init__(self, name: str, files: Files, random: Random, report: Report) -> None:
        self.name = name
        self.members = Members(name, files, report)
        self.counters: Counter[str] = Counter()
        self._claims: dict[VolumeId, int] = {}
        self._random = random
        self._report = report
        self._ready = self.members.ready
        self._tasks: set[asyncio.Task[Any]] = set()
        self._returning: asyncio.Task[None] | None = None

    def open(self, disks: Sequence[DiskSpec]) -> None:
        """Opens the pool's disks; see `Members.open` for what is raised and what makes it degraded."""
        self.members.open(disks)

    async def close(self) -> None:
        """Finishes what was begun, then lets go of the disks."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.members.close()

    # Extents

    async def write(
        self, id: ExtentId, data: Sequence[Buffer], policy: Policy, names: bytes = b"", sums: Sequence[int] | None = None
    ) -> Placement:
        return await self._finish(partial(self._write, id, data, policy, names, sums))

    async def _write(
        self, id: ExtentId, data: Sequence[Buffer], policy: Policy, names: bytes, sums: Sequence[int] | None
    ) -> Placement:
        length = sum(map(len, data))
        _check_extent(length, names)
        assert sums is None or len(sums) * PAGE == length, f"{len(sums)} checksums for {length} bytes"
        part = Part(id, policy.scheme, 0, length // PAGE, data, await _checksum(data, sums), names)
        size = slots_for(policy.scheme.fragment_length(length)) * MIB
        failed: dict[DiskId, SofsError] = {}
        full: set[DiskId] = set()
        while True:
            candidates = [
                each._replace(free=0) if each.disk in full else each
                for each in self.members.candidates()
                if each.disk not in failed
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
                    full.add(disk.label.id)
                elif isinstance(error, DiskFailed):
                    failed[disk.label.id] = error
                    self.members.failed(disk, Event.WRITE_ERROR, error)
                else:
                    raise error
        if len(done) < policy.scheme.width:
            self.counters["degraded_extents"] += 1
        self.counters["extents_written"] += 1
        return Placement(id, length, policy.scheme.text, tuple(done))

    async def _write_parts(
        self, part: Part, chosen: Sequence[DiskId]
    ) -> tuple[list[Fragment], list[tuple[LocalDisk, SofsError]]]:
        """Writes a fragment to each disk, in parallel; gives what was written and what failed."""
        # A disk may go between being chosen and being written: nothing in between waits.
        disks = [self.members.writable(id) for id in chosen]
        writes = [disk.write(part._replace(part=nth)) for nth, disk in enumerate(disks)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        done, errors = [], []
        for disk, result in zip(disks, results, strict=True):
            if isinstance(result, int):
                done.append(Fragment(disk.label.id, result))
            elif isinstance(result, SofsError):
                errors.append((disk, result))
            else:
                raise result
        return done, errors

    def read(
        self, at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None = None
    ) -> Awaitable[None] | None:
        for fragment in at.fragments:
            disk = self._ready.get(fragment.disk)
            if disk is not None:
                break
        else:
            return self._recover(at, offset, into, sums)
        try:
            waiting = disk.read(fragment.slot, at.id, offset, into, sums)
        except SofsError:
            return self._recover(at, offset, into, sums)
        if waiting is None:
            return None
        return self._read_rest(waiting, at, offset, into, sums)

    async def _read_rest(
        self, waiting: Awaitable[None], at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None
    ) -> None:
        try:
            await waiting
        except SofsError:
            await self._recover(at, offset, into, sums)

    async def _recover(self, at: Placement, offset: int, into: memoryview, sums: Sequence[int] | None) -> None:
        """Reads from whichever copies there are, and mends those that were bad."""
        copies = self._copies(at)
        troubles, good = await read_copies(copies, at.id, offset, into, sums)
        for trouble in troubles:
            self._blame(at.id, trouble)
        if good is None:
            error = worst(troubles)
            if isinstance(error, Damaged):
                self.counters["damaged_reads"] += 1
            raise error
        for trouble in troubles:
            await self._mend(at.id, trouble, good, offset, into)

    def _copies(self, at: Placement) -> list[Copy]:
        """The copies that can be read, the trusted first. Raises `DiskFailed` when there is none, naming the disks."""
        if parse_scheme(at.scheme).redundancy is not Redundancy.COPIES:
            raise NotSupported(f"extent {at.id.number}: {at.scheme} is not offered yet")
        copies: list[Copy] = []
        suspects: list[Copy] = []
        for id, slot in at.fragments:
            disk = self.members.readable(id)
            if disk is not None:
                (copies if id in self._ready else suspects).append(Copy(disk, slot))
        if not copies and not suspects:
            away = ", ".join(self.members.describe(fragment.disk) for fragment in at.fragments)
            raise DiskFailed(f"extent {at.id.number} of volume {at.id.volume:x} cannot be read: {away}")
        return copies + suspects

    def _blame(self, id: ExtentId, trouble: Trouble) -> None:
        disk = trouble.copy.disk
        if isinstance(trouble.error, DiskFailed):
            self.members.failed(disk, Event.READ_ERROR, trouble.error)
        elif isinstance(trouble.error, Damaged):
            self.counters["bad_pages"] += len(trouble.pages)
            self._report(
                "bad pages", disk=f"{disk.label.id:016x}", slot=trouble.copy.slot, volume=f"{id.volume:x}", extent=id.number,
                pages=trouble.pages, error=str(trouble.error),
            )  # fmt: skip

    async def _mend(self, id: ExtentId, trouble: Trouble, good: Copy, offset: int, data: memoryview) -> None:
        """Mends one copy; that it cannot be mended is told, and is no reason to fail whoever reads."""
        disk, slot = trouble.copy
        if self.members.readable(disk.label.id) is not disk:
            return
        try:
            mended = await mend(trouble, good, id, offset, data)
        except DiskFailed as error:
            self.members.failed(disk, Event.WRITE_ERROR, error)
        except SofsError as error:
            self._report("not mended", disk=f"{disk.label.id:016x}", slot=slot, extent=id.number, error=str(error))
        else:
            if mended:
                self.counters["mended"] += 1
                self._report("mended", disk=f"{disk.label.id:016x}", slot=slot, extent=id.number, pages=trouble.pages)

    async def delete(self, at: Placement) -> None:
        await self._finish(partial(self._free, at.id, at.fragments))

    async def _free(self, id: ExtentId, fragments: Sequence[Fragment]) -> None:
        """Frees fragments on the disks that are there; on another they become orphans, should it come back."""
        present = [(disk, slot) for where, slot in fragments if (disk := self.members.readable(where)) is not None]
        results = await asyncio.gather(*[disk.delete(slot, id) for disk, slot in present], return_exceptions=True)
        for (disk, _), result in zip(present, results, strict=True):
            if isinstance(result, SofsError):
                self.members.failed(disk, Event.WRITE_ERROR, result)
            elif result is not None:
                raise result
            elif disk.empty:
                self.members.emptied(disk.label.id)
        if self._returning is None or self._returning.done():
            self._returning = self._start(self.give_back())

    async def give_back(self) -> None:
        """Punches the slots of freed fragments, so that their space returns to the file systems. Runs by itself after
        deletions; at start nobody knows what was left unpunched, and all free slots are.
        """
        for disk in self.members.all_readable():
            try:
                # In slices: punching holds up the loop, for some 50 us a MiB.
                more = True
                while more:
                    more = disk.give_back(_PUNCHED)
                    await asyncio.sleep(0)
            except SofsError as error:
                self.members.failed(disk, Event.WRITE_ERROR, error)

    async def revoke(self, volume: VolumeId, ids: range) -> None:
        stored = False
        failure: SofsError | None = None
        for disk in self.members.all_readable():
            try:
                await disk.revoke(volume, ids)
                stored = True
            except SofsError as error:
                failure = error
                self.members.failed(disk, Event.WRITE_ERROR, error)
        if not stored:
            raise failure or DiskFailed(f"the pool {self.name} has no disk on which ids could be revoked")

    async def orphans(self, volume: VolumeId, ids: range, known: Collection[int]) -> list[Placement]:
        found = await self._find(volume, ids)
        return [placement for number, placement in sorted(found.items()) if number not in known]

    async def _find(self, volume: VolumeId, ids: range) -> dict[int, Placement]:
        """The extents of a volume with these numbers, by number, with the fragments that are found."""
        found: dict[int, Placement] = {}
        parts: dict[int, list[tuple[int, Fragment]]] = {}
        for disk in self.members.all_readable():
            for slot, entry in await disk.find(volume, ids):
                number = entry.id.number
                found.setdefault(number, Placement(entry.id, entry.pages * PAGE, entry.scheme.text, ()))
                parts.setdefault(number, []).append((entry.part, Fragment(disk.label.id, slot)))
        return {
            number: placement._replace(fragments=tuple(fragment for _, fragment in sorted(parts[number])))
            for number, placement in found.items()
        }

    async def reprotect(self, at: Placement, id: ExtentId, policy: Policy) -> Placement:
        return await self._finish(partial(self._reprotect, at, id, policy))

    async def _reprotect(self, at: Placement, id: ExtentId, policy: Policy) -> Placement:
        data = memoryview(bytearray(at.length))
        for offset in range(0, at.length, MIB):
            waiting = self.read(at, offset, data[offset : offset + MIB])
            if waiting is not None:
                await waiting
        # Reading mended whatever copy was bad, so that the first that can be read has the names.
        copy = self._copies(at)[0]
        _, _, names = await copy.disk.describe(copy.slot, at.id)
        return await self._write(id, [data], policy, names, None)

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
                problems += await check_fragment(disk, fragment.slot, at.id, at.length)
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
                await self._recover(at, offset, data[: min(MIB, at.length - offset)], None)
            except (Damaged, DiskFailed) as error:
                self._report("damaged extent", volume=f"{id.volume:x}", extent=id.number, offset=offset, error=str(error))
        disk = self.members.readable(bad.disk)
        return disk is not None and not await check_fragment(disk, bad.slot, id, at.length)

    # Capacity and disks

    def usage(self, tier: str | None = None) -> Usage:
        total = free = 0
        for member in self.members:
            if tier in (None, member.spec.tier):
                usage = self.members.usage(member)
                total += usage.total
                free += usage.free if member.state in WRITABLE else 0
        return Usage(total, free)

    def room(self, policy: Policy, volume: VolumeId) -> Usage:
        claimed = sum(size for other, size in self._claims.items() if other != volume)
        free = policy.usable(self.members.candidates()) - -(-claimed // policy.scheme.width)
        return Usage(policy.usable(self.members.capacities()), max(0, free))

    def claim(self, volume: VolumeId, size: int) -> None:
        self._claims[volume] = size

    def healthy(self, at: Placement) -> bool:
        """A draining disk does not count: what lies on it is to be written elsewhere."""
        return len(at.fragments) == parse_scheme(at.scheme).width and all(
            self.members.state(fragment.disk) is State.HEALTHY for fragment in at.fragments
        )

    def validate(self, policy: Policy) -> None:
        """Raises `InvalidArgument` if the pool's disks, all present and empty, could not hold an extent of this policy."""
        policy.validate(self.members.prospects())

    def disks(self) -> list[DiskStatus]:
        return [self.members.status(member) for member in self.members]

    async def _finish(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs `work` to its end even if whoever waits for it is cancelled: its slots are in use until then."""
        return await asyncio.shield(self._start(work()))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def check_fragment(disk: LocalDisk, slot: int, id: ExtentId, length: int) -> list[str]:
    """Reads every page of a fragment of `length` bytes from the disk itself; gives what is wrong in words."""
    try:
        header, _, _ = await disk.describe(slot, id)
    except SofsError as error:
        return [str(error)]
    if header.own_pages * PAGE != length:
        return [f"disk {disk.path} slot {slot}, extent {id.number}: {header.own_pages * PAGE} bytes, not {length}"]
    problems = []
    buffer = memoryview(bytearray(MIB))
    for offset in range(0, length, MIB):
        view = buffer[: min(MIB, length - offset)]
        try:
            await disk.read_stored(slot, id, offset, view)
        except BadPages as error:
            problems.append(f"{error} ({len(error.pages)} pages in this MiB)")
        except SofsError as error:
            problems.append(str(error))
        await asyncio.sleep(0)
    return problems


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
