"""Space: who may still write, and how full the volume is.

Every live page in the log will have to be destaged one day, and every reserved page may be written. So a write is admitted only
if the pool can take all of those, at the policy's redundancy, besides the write itself and a reserve for cleaning. It is refused before anything is changed;
deleting and punching ask for nothing and always work. A small balance of pages admitted in advance keeps this off the hot path.
"""

from typing import NamedTuple

from sofs.errors import NoSpace
from sofs.pool import Pool
from sofs.types import PAGE
from sofs.volume.keys import LOG_PAGES, RESERVED_PAGES
from sofs.volume.keyspace import KeySpace
from sofs.volume.settings import MIB, DataSettings

_ADVANCE = (16 * MIB) // PAGE
"""Pages admitted in advance: others take space from the same disks, which is noticed after so many."""


class Usage(NamedTuple):
    """A volume's space in bytes, as its users see it: what its policy costs is taken off."""

    total: int
    free: int


class Space:
    """Admission of writes for one volume."""

    def __init__(self, keyspace: KeySpace, pool: Pool, settings: DataSettings) -> None:
        self._keyspace = keyspace
        self._pool = pool
        self._reserve = settings.reserve
        self._extent_size = settings.extent_size
        self._policy = settings.policy
        self._volume = settings.volume
        self._balance = 0
        self._under_way = 0

    def admit(self, pages: int) -> None:
        """Raises `NoSpace` unless so many more pages can be taken."""
        self._balance -= pages
        if self._balance < 0:
            left = self._pages_left() - pages
            self._balance = max(0, min(left, _ADVANCE))
            self._claim()
            if left < 0:
                raise NoSpace(f"the pool has no room for {pages * PAGE} more bytes ({self._policy.text}): add a disk, or delete something")

    def forget(self) -> None:
        """The next admission looks at the pool: cleaning has changed it."""
        self._balance = 0
        self._claim()

    def _claim(self) -> None:
        """Tells the pool's other volumes what is spoken for."""
        self._pool.claim(self._volume, (self._owed() + self._balance) * PAGE * self._policy.scheme.width)

    def release(self) -> None:
        """Claims nothing any more: the volume is served elsewhere from now on, or nowhere."""
        self._pool.claim(self._volume, 0)

    def begin(self, pages: int) -> None:
        """Pages are on their way into an extent: neither in the log nor yet taken from the pool."""
        self._under_way += pages

    def end(self, pages: int) -> None:
        self._under_way -= pages

    def _pages_left(self) -> int:
        return (self._pool.room(self._policy, self._volume).free - self._reserve) // PAGE - self._owed()

    def _owed(self) -> int:
        return self.counter(LOG_PAGES) + self.counter(RESERVED_PAGES) + self._under_way + self._waste()

    def _waste(self) -> int:
        """Pages that destaging may waste: an extent takes whole MiB of the pool."""
        return self.counter(LOG_PAGES) * PAGE // self._extent_size * (MIB // PAGE)

    def counter(self, key: bytes) -> int:
        value = self._keyspace.get(key)
        return 0 if value is None else int.from_bytes(value, "little", signed=True)

    def usage(self) -> Usage:
        """What `GetSpace` answers."""
        total = self._pool.room(self._policy, self._volume).total
        return Usage(total, min(total, max(0, self._pages_left() * PAGE)))
