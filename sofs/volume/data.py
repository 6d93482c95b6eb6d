"""The data of a volume's files: what the namespace half calls once it has checked rights, opens and locks.

Every method that changes something ends in one batch (very large ones in several), to which the caller may have added
operations of its own beforehand: then these take effect with the last. The answer is `Done`, at once or, when a page has to be fetched, room has to be
made or an extent has to be written, through an awaitable. `Done.lsn` is the gate of the reply. The inode's size, pages,
times and change follow in `apply`: read its record again afterwards.
"""

import asyncio
from collections.abc import Awaitable

import structlog

from sofs.errors import FileTooLarge
from sofs.log import Log
from sofs.pool import Pool
from sofs.runtime.ports import Clock
from sofs.types import Inode, Time
from sofs.volume import mapping, origins
from sofs.volume.balance import Balancer
from sofs.volume.cleaning import Cleaner, Pace
from sofs.volume.clones import Cloner
from sofs.volume.compact import Compactor
from sofs.volume.destage import Destager
from sofs.volume.duties import begin
from sofs.volume.extents import Extents
from sofs.volume.keyspace import KeySpace
from sofs.volume.moving import Mover
from sofs.volume.pages import Pages
from sofs.volume.protect import Protector
from sofs.volume.quotas import counting
from sofs.volume.quotas.limits import Quotas
from sofs.volume.ranges import RangeChanges
from sofs.volume.reader import Reader
from sofs.volume.settings import DataSettings
from sofs.volume.snapshots import operations as snapshot_operations
from sofs.volume.snapshots.lifecycle import Snapshots
from sofs.volume.space import Space
from sofs.volume.thaw import Maps
from sofs.volume.writer import LARGEST, Writer

APPLIERS = {**mapping.APPLIERS, **origins.APPLIERS, **counting.APPLIERS, **snapshot_operations.APPLIERS}
"""For `KeySpace`."""


class Data:
    """One volume's data, at its coordinator. The key space must have been made with `APPLIERS`."""

    def __init__(self, keyspace: KeySpace, log: Log, pool: Pool, clock: Clock, settings: DataSettings) -> None:
        self.pause = pause = Pace(clock)
        self.keyspace = keyspace
        self.log = log
        self.pool = pool
        self.settings = settings
        self.extents = Extents(settings.volume, keyspace, pool)
        self.space = Space(keyspace, pool, settings)
        self.reader = Reader(keyspace, log, pool, self.extents)
        mover = Mover(keyspace, pool, self.extents, settings.policy)
        self.cleaner = Cleaner(
            clock,
            keyspace,
            log,
            Destager(keyspace, log, self.extents, self.reader, settings, pause),
            Compactor(keyspace, pool, self.extents, settings, pause),
            Protector(clock, pool, self.extents, mover, settings, pause),
            Balancer(pool, self.extents, mover, settings, pause),
            self.extents,
            self.space,
            settings,
        )
        self.quotas = Quotas(keyspace.get, keyspace.scan)
        pages = Pages(keyspace, log, self.reader, self.cleaner.room, self.cleaner.reclaim, self.quotas)
        writer = Writer(pages, self.extents, self.space, settings)
        ranges = RangeChanges(pages, self.space, pause)
        self.maps = Maps(keyspace, pages.exhausted, pause)
        cloner = Cloner(pages, writer, ranges, self.maps, self.space, pause, settings.whole_from)
        self.cleaner.maps = self.maps
        self._ranges = ranges
        self._service: asyncio.Task[None] | None = None
        # The hot path is one call shorter without a method of ours in between; the signatures are these:
        #   read(inode, offset, into) -> Got | Awaitable[Got]
        #   write(inode, offset or APPEND, data, now, batch=None, flags=0) -> Done | Awaitable[Done]
        self.read = self.reader.read
        self.write = writer.write
        self.truncate = ranges.truncate
        self.punch = ranges.punch
        self.allocate = ranges.allocate
        self.ranges = ranges.ranges
        self.small = ranges.small
        self.drop = ranges.drop
        self.usage = self.space.usage
        self.exhausted = pages.exhausted
        self.snapshots = Snapshots(keyspace, self.extents, pause, pages.exhausted)
        self.clone = cloner.clone
        self.copy = cloner.copy

    def trim(self, inode: Inode) -> Awaitable[None]:
        """Drops a nameless file's pages in slices, until it is `small`. Whoever cuts it off may call it again."""
        return self._ranges.trim(inode, Time(0))

    def check_size(self, size: int) -> None:
        """Raises `FileTooLarge` for a size that no file can have."""
        if size > LARGEST:
            raise FileTooLarge(f"a file ends at {LARGEST} bytes at the latest")

    def start(self) -> None:
        """Begins to clean in the background."""
        self._service = begin(self.cleaner.run(), "cleaning")
        self._service.add_done_callback(_ended)

    async def close(self) -> None:
        """Ends the background work."""
        if self._service is not None:
            self._service.cancel()
            await asyncio.gather(self._service, return_exceptions=True)
            self._service = None
        self.space.release()


def _ended(service: "asyncio.Task[None]") -> None:
    if not service.cancelled() and (error := service.exception()) is not None:
        # Our own bug. Writers who find the log full do the cleaning themselves, and are told.
        structlog.get_logger(component="cleaning").critical("cleaning ended", reason=repr(error), exc_info=error)
