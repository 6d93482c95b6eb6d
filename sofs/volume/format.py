"""The format of a volume: what its first records say, and what is expected of them when it is opened."""

from collections.abc import Callable

from sofs.errors import ConfigError, Exists
from sofs.runtime.ports import Clock, Random
from sofs.types import ROOT, Kind
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.core import FILES, NUMBERS
from sofs.volume.inode import InodeRecord
from sofs.volume.keyspace import KeySpace
from sofs.volume.names import UPCASE_ID
from sofs.volume.recovery import Store

FORMAT = keys.meta(b"format")
FORMAT_VERSION = b"sofs-volume-2"
SECRET = keys.meta(b"name secret")
UPCASE = keys.meta(b"upcase")
STARTS = keys.counter(b"starts")


async def make_volume(store: Store, clock: Clock, random: Random, *, mode: int = 0o1777) -> None:
    """Formats an empty store: the superuser's root directory with this mode, the secret of the names' hash, the tables' ids. Stable on return.

    Raises `Exists` if it has been formatted already.
    """
    keyspace = store.keyspace
    if keyspace.get(FORMAT) is not None:
        raise Exists("the volume has been formatted already")
    now = clock.now()
    root = InodeRecord(
        kind=Kind.DIRECTORY, marks=0, mode=mode & 0o7777, links=2, uid=0, gid=0, generation=1, size=0, pages=0, created=now,
        accessed=now, modified=now, changed=now, change=1, flags=0, major=0, minor=0, ea_size=0, parent=ROOT,
    )  # fmt: skip
    batch = Batch()
    batch.put(FORMAT, FORMAT_VERSION)
    batch.put(SECRET, random.bytes(32))
    batch.put(UPCASE, UPCASE_ID)
    batch.put(NUMBERS, (ROOT + 1).to_bytes(8, "little"))
    batch.put(keys.inode(ROOT), root.encode())
    batch.add(FILES, 1)
    keyspace.commit(batch)
    await store.log.sync()


def name_secret(name: str, get: Callable[[bytes], bytes | None]) -> bytes:
    """The secret of the names' hash. Raises `ConfigError` for a volume that was never formatted, or by a release whose format is not this one's."""
    found, upcase, secret = get(FORMAT), get(UPCASE), get(SECRET)
    if found is None or secret is None:
        raise ConfigError(f"volume {name} has not been formatted")
    if found != FORMAT_VERSION or upcase != UPCASE_ID:
        raise ConfigError(f"volume {name} has format {found!r} with names by {upcase!r}; this release knows {FORMAT_VERSION!r} with {UPCASE_ID!r}")
    return secret


def count_start(keyspace: KeySpace) -> int:
    """How often the volume has been opened, this time counted: no two times give the same numbers."""
    batch = Batch()
    batch.add(STARTS, 1)
    keyspace.commit(batch, reserved=True)
    return int.from_bytes(keyspace.get(STARTS) or b"", "little")
