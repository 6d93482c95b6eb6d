"""The whole check of a volume: its records one group after the other, then its disks, then its data."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from crc32c import crc32c

from sofs.errors import Damaged, DiskFailed, ExtentGone
from sofs.log import Log
from sofs.pool import Placement, Pool
from sofs.types import PAGE, VolumeId
from sofs.volume import keys, leaves
from sofs.volume.check.kept import check_kept
from sofs.volume.check.maps import MapCheck
from sofs.volume.check.names import check_names
from sofs.volume.check.quotas import check_quotas
from sofs.volume.check.view import Finding, View
from sofs.volume.extents import NEXT
from sofs.volume.keyspace import KeySpace
from sofs.volume.windows import WINDOW, find


class Report(NamedTuple):
    """What a check came to."""

    findings: list[Finding]
    """Empty: the volume is as it should be."""
    inodes: int
    pages: int
    """Pages of data that files have, shared ones counted each time."""
    extents: int
    orphans: int
    """Extents on the disks that no record knows, and that have not been collected yet: left by a crash or an absent node, no discrepancy."""
    pages_read: int


class _Check:
    def __init__(
        self, view: View, living: KeySpace, log: Log, pool: Pool, volume: VolumeId, pause: Callable[[], Awaitable[None]], doubtful: Callable[[], bool]
    ) -> None:
        self._doubtful = doubtful
        self._view = view
        self._living = living
        self._log = log
        self._pool = pool
        self._volume = volume
        self._pause = pause
        self.findings: list[Finding] = []
        self.map = MapCheck(view, volume, log.start, log.end, self._note)
        self.orphans = 0
        self.pages_read = 0

    def _note(self, where: str, what: str) -> None:
        self.findings.append(Finding(where, what))

    async def run(self, read_data: bool) -> None:
        if self._view.get(keys.RESTORING) is not None:
            # Its records agree with each other again when it is over; whatever stands between them now, `apply` brings there.
            self._note("volume", "a snapshot is being restored: serve the volume until that is over, and check again")
            return
        await self.map.run(self._pause)
        await check_names(self._view, self._note, self._pause)
        await check_quotas(self._view, self._note, self._pause)
        check_kept(self._view, self._note)
        await self._disks()
        if read_data:
            await self._extents()
            await self._files()

    # Disks

    async def _disks(self) -> None:
        """What the disks hold below the lowest number that was never granted, against the records."""
        value = self._view.get(NEXT)
        if value is None:
            return
        numbers = range(1, int.from_bytes(value, "little"))
        there = {placement.id.number: placement for placement in await self._pool.orphans(self._volume, numbers, lambda number: ())}
        for number, placement in self.map.extents.items():
            found = there.get(number)
            if self._living.get(keys.bucket(keys.EXTENT, number)) is None:
                continue  # freed meanwhile
            if found is None:
                self._note(f"extent {number}", "is recorded, and no disk that is present has it")
                continue
            missing = set(placement.fragments) - set(found.fragments)
            for fragment in sorted(missing):
                self._note(f"extent {number}", f"has no fragment in slot {fragment.slot} of disk {fragment.disk:x}")
        granted = [
            range(first, first + int.from_bytes(value, "little"))
            for first, value in ((int.from_bytes(key[1:9]), value) for key, value in self._living.walk(keys.GRANTED))
        ]
        for number in there.keys() - self.map.extents.keys() - self.map.freed.keys():
            if any(self._living.get(keys.bucket(tag, number)) is not None for tag in (keys.EXTENT, keys.FREED)):
                continue  # made meanwhile
            if self._doubtful() or any(number in numbers for numbers in granted):
                self.orphans += 1
            else:
                self._note(f"extent {number}", "lies on a disk and is not recorded, though orphans there were collected")

    # Data

    async def _extents(self) -> None:
        """Every copy of every extent, by the checksums beside it."""
        for number, placement in self.map.extents.items():
            await self._pause()
            try:
                wrong = await self._pool.check(placement)
            except (ExtentGone, Damaged, DiskFailed) as error:
                wrong = [str(error)]
            if self._living.get(keys.bucket(keys.EXTENT, number)) is None:
                continue
            for what in wrong:
                self._note(f"extent {number}", what)

    async def _files(self) -> None:
        """Every page of every file, by the checksum in its leaf; pages in the log on each of its copies."""
        view = memoryview(bytearray(PAGE))
        sizes: dict[int, int] = {}
        for key, leaf in self._view.walk(keys.LEAF):
            inode, index = int.from_bytes(key[1:9]), int.from_bytes(key[9:])
            if inode not in sizes:
                sizes = {inode: self._size(inode)}
            pages = leaves.addresses(leaf, 0, keys.LEAF_PAGES)
            sums = leaves.sums(leaf, 0, keys.LEAF_PAGES)
            for slot, (address, expected) in enumerate(zip(pages, sums, strict=True)):
                if address < leaves.PLACED:
                    continue
                await self._pause()
                page = index * keys.LEAF_PAGES + slot
                wrong = await self._page(address, expected, view)
                self.pages_read += 1
                tail = sizes[inode] - page * PAGE
                if not wrong and 0 < tail < PAGE and any(view[tail:]):
                    wrong = "is not zero behind the file's end"
                if wrong and self._still(key, slot, address):
                    self._note(f"inode {inode}, offset {page * PAGE}", wrong)

        for where, address, expected in self.map.snapshots.dead_pages():
            await self._pause()
            wrong = await self._page(address, expected, view)
            self.pages_read += 1
            places = keys.bucket(keys.PLACES, keys.window(address))
            if wrong and all(self._view.get(key) == self._living.get(key) for key in (where, places)):
                self._note(f"page {address} of a snapshot", wrong)

    def _size(self, map_: int) -> int:
        """Where the map's file ends. A frozen map belongs to files that may end anywhere."""
        if map_ in self.map.clones.frozen:
            return 1 << 63
        if map_ in self.map.sizes:
            return self.map.sizes[map_]
        record = self._view.get(keys.bucket(keys.INODE, map_))
        return 0 if record is None else int.from_bytes(record[20:28], "little")

    async def _page(self, address: int, expected: int, view: memoryview) -> str:
        """What is wrong with a page; empty if nothing is."""
        try:
            if self.map.destaged <= address < keys.EXTENT_BORN:
                for replica in range(self._log.replicas):
                    waiting = self._log.read(address, view, replica)
                    if waiting is not None:
                        await waiting
                    if crc32c(view) != expected:
                        return f"copy {replica} of the log does not match its checksum"
                return ""
            placement, at = self._locate(address)
            waiting = self._pool.read(placement, at, view, [expected])
            if waiting is not None:
                await waiting
        except (Damaged, DiskFailed, ExtentGone) as error:
            return str(error)
        return ""

    def _locate(self, address: int) -> tuple[Placement, int]:
        value = self._view.get(keys.bucket(keys.PLACES, keys.window(address)))
        found = None if value is None else find(value, address & (WINDOW - 1))
        if found is None or found[0] not in self.map.extents:
            raise Damaged("has no place")
        return self.map.extents[found[0]], found[1] * PAGE

    def _still(self, key: bytes, slot: int, address: int) -> bool:
        """Whether the living volume's file still names this page, in the same place."""
        leaf = self._living.get(key)
        if leaf is None or leaves.addresses(leaf, slot, 1)[0] != address:
            return False
        window = keys.bucket(keys.PLACES, keys.window(address))
        return self._living.get(window) == self._view.get(window)


async def check(
    view: View,
    living: KeySpace,
    log: Log,
    pool: Pool,
    volume: VolumeId,
    pause: Callable[[], Awaitable[None]],
    read_data: bool = False,
    doubtful: Callable[[], bool] = lambda: False,
) -> Report:
    """Checks a volume. `view` is what is checked (offline it is `living` itself, and `pause` must not let anybody change it).

    `doubtful`: whether orphans may lie anywhere, and will be collected (`Extents.doubtful`).
    """
    work = _Check(view, living, log, pool, volume, pause, doubtful)
    await work.run(read_data)
    inodes = sum(1 for _ in view.walk(keys.INODE))
    return Report(work.findings, inodes, work.map.placed, len(work.map.extents), work.orphans, work.pages_read)
