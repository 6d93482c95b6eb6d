"""A volume as it was at a snapshot: the same interface, read-only.

The production handlers work on a core of its own, whose key space is that of the snapshot and whose opens nobody else sees. It keeps nothing over a
restart: grants are not given, since what cannot change needs none, and opens end with their gateway.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from weakref import WeakValueDictionary

import msgspec

from sofs.errors import ReadOnly, SofsError, Stale
from sofs.locks import LockManager
from sofs.runtime.ports import Clock
from sofs.types import Inode, Level, Lsn, OpenId, VolumeId
from sofs.volume import api, io
from sofs.volume.api import Access, AnyToken, Binding, Caller, Read, Reply, Request, Target, Written
from sofs.volume.batch import Batch
from sofs.volume.core import Core, Wait
from sofs.volume.data import Data
from sofs.volume.handlers import HANDLERS
from sofs.volume.inode import InodeRecord
from sofs.volume.pages import Pages
from sofs.volume.ranges import RangeChanges
from sofs.volume.reader import Reader
from sofs.volume.snapshots.history import Snapshot
from sofs.volume.snapshots.past_keys import PastKeys

_READING = frozenset(
    {
        api.Lookup, api.ReadDirectory, api.ScanDirectory, api.ReadLink, api.Open, api.Close, api.ListOpens, api.GetAttributes, api.CheckAccess, api.GetSecurity,
        api.GetExtended, api.ListStreams, api.Flush, api.Ranges, api.GetSpace, api.Lock, api.Unlock, api.TestLock, api.FreeState, api.Downgrade,
        api.Disconnect, api.EndClient, api.ListClient, api.ListSlots,
    }
)  # fmt: skip
"""What can be asked of a snapshot. Everything else would change something."""

_CHANGING = int(
    Access.WRITE_DATA | Access.APPEND_DATA | Access.WRITE_EA | Access.DELETE_CHILD | Access.WRITE_ATTRIBUTES | Access.DELETE | Access.WRITE_DAC
    | Access.WRITE_OWNER
)  # fmt: skip
"""Rights that nobody has to a snapshot."""

_KEPT = 16
"""Snapshots of which the views are kept though nobody may be using them."""


class _PastReader(Reader):
    def place(self, address: int) -> tuple[int, int, int]:
        """A read that is under way may find that its snapshot has been deleted, and the page with it."""
        try:
            return super().place(address)
        except AssertionError:
            raise Stale("the snapshot has been deleted") from None


class PastData(Data):
    """The part of `Data` that reads."""

    def __init__(self, living: Data, past: PastKeys, clock: Clock) -> None:
        # Nothing of the parent's is made again: what is not here is never called for what cannot be changed.
        self.keyspace = past
        self.settings = living.settings
        self.extents = living.extents
        self.space = living.space
        self.snapshots = living.snapshots
        self.reader = _PastReader(past, living.log, living.pool, living.extents)
        living.reader.followers.add(self.reader)
        self.quotas = living.quotas
        pages = Pages(past, living.log, self.reader, _refused, _refused, living.quotas)
        self._ranges = RangeChanges(pages, living.space, living.pause)
        self.read = self.reader.read
        self.ranges = self._ranges.ranges
        self.usage = self.space.usage
        self.exhausted = living.exhausted
        self._service = None


async def _refused(_: object) -> None:
    raise ReadOnly("a snapshot cannot be changed")


class PastCore(Core):
    """A volume's parts as of a snapshot."""

    read_only = True
    living: Core

    def rights(self, inode: Inode, record: InodeRecord, caller: Caller) -> int:
        return super().rights(inode, record, caller) & ~_CHANGING

    def put(self, batch: Batch, reserved: bool = False) -> Lsn:
        """Opens and locks in a snapshot are kept in no record, so there is nothing to commit about them."""
        return self.keys.commit(batch, reserved=reserved) if batch.count else Lsn(0)

    def new_open(self) -> OpenId:
        """One space of numbers for all opens of a volume, in whatever snapshot."""
        return self.living.new_open()


class PastVolume:
    """`sofs.volume.api.Volume`, for one snapshot of a volume at its coordinator."""

    def __init__(self, id: VolumeId, name: str, verifier: int, core: Core, snapshot: Snapshot, failure: Callable[[], SofsError | None]) -> None:
        """`core` is the living volume's, `failure` says why nothing can be answered any more."""
        self.id = id
        self.name = name
        self.verifier = verifier
        self.snapshot = snapshot
        self._living = core
        self._failure = failure
        self._log = core.keys.log
        self._keys = PastKeys(core.keys, snapshot)
        self._data = PastData(core.data, self._keys, core.clock)
        locks = LockManager(core.clock, lambda *_: None)
        self.core = PastCore(self._keys, self._data, locks, core.clock, core.names, core.judge, 0)
        self.core.living = core
        self.core.register.departed = core.register.departed
        self.core.gateways = core.gateways

    def call(self, request: Request, token: AnyToken | None, by: Binding) -> Reply | Awaitable[Reply]:
        """Tokens are not kept: asking twice does no harm here."""
        self._ready()
        self.core.gateways.check(by.gateway)
        if type(request) is api.ListSnapshots:
            return HANDLERS[api.ListSnapshots](self._living, request, None)
        if type(request) not in _READING:
            raise ReadOnly(f"a snapshot cannot be changed: {type(request).__name__}")
        if isinstance(request, api.Open):
            request = _reading(request)
        core = self.core
        core.gate, core.by = Lsn(0), by
        try:
            reply = HANDLERS[type(request)](core, request, None)
        except Wait:
            raise AssertionError("nothing in a snapshot has to be waited for") from None
        except SofsError as error:
            error.gate = core.gate
            raise
        if isinstance(reply, api.Opened):
            # A directory may let its entries be deleted, whatever the rights to the file itself.
            reply.access &= ~_CHANGING
            reply.maximal &= ~_CHANGING
            core.opens[reply.open].access = reply.access
        return reply

    def read(self, target: Target, offset: int, into: memoryview, by: Binding) -> Read | Awaitable[Read]:
        self._ready()
        core = self.core
        core.gate, core.by = Lsn(0), by
        try:
            if isinstance(target, int):
                return io.read(core, OpenId(target), offset, into)
            return io.read_stateless(core, target, offset, into)
        except SofsError as error:
            error.gate = core.gate
            raise

    def write(self, target: Target, offset: int, data: memoryview, token: AnyToken | None, level: Level, by: Binding) -> Written | Awaitable[Written]:
        raise ReadOnly("a snapshot cannot be changed")

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        self._log.when(gate, level, send)

    def subscribe(self, upcalls: api.Upcalls) -> None:
        """Nothing ever happens in a snapshot."""

    def at(self, snapshot: int) -> api.Volume:
        raise ReadOnly("a snapshot has no snapshots")

    def _ready(self) -> None:
        if (failure := self._failure()) is not None:
            raise failure
        self._keys.check()


class Pasts:
    """The views of a volume's snapshots that are in use, with those that were asked for last: they remember what was read through them."""

    def __init__(self, id: VolumeId, name: str, verifier: int, core: Core, failure: Callable[[], SofsError | None]) -> None:
        """As `PastVolume`."""
        self._make = partial(PastVolume, id, name, verifier, core, failure=failure)
        self._known: WeakValueDictionary[int, PastVolume] = WeakValueDictionary()
        self._kept: dict[int, PastVolume] = {}
        core.pasts = lambda: [past.core for past in self._known.values()]
        core.forget_past = self._forget

    def of(self, snapshot: Snapshot) -> PastVolume:
        number = snapshot.number
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = self._make(snapshot)
        self._kept.pop(number, None)
        self._kept[number] = known
        if len(self._kept) > _KEPT:
            # One with opens stays.
            idle = next((each for each, past in self._kept.items() if each != number and not past.core.opens), None)
            if idle is not None:
                del self._kept[idle]
        return known

    def _forget(self, number: int) -> None:
        self._kept.pop(number, None)


def _reading(request: api.Open) -> api.Open:
    """The open as a snapshot can grant it. Raises `ReadOnly` for one that could only want to change something."""
    if request.access & _CHANGING or request.delete_on_close or request.disposition not in (api.Disposition.OPEN, api.Disposition.OPEN_IF):
        raise ReadOnly("a snapshot cannot be changed")
    return msgspec.structs.replace(request, keep=None, wish=None, reclaim=False)
