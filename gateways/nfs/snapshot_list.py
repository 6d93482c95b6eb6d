"""The directory `.snapshot` of an export, which no volume stores: one directory per snapshot, under the snapshot's name.

It is looked up in the export's own directory and never listed there, so that nothing that walks the export walks all its pasts. It is a
`Volume` of one directory, so that the handlers of both protocol versions answer for it as for any other; only where they step over
into a snapshot they ask `gateways.nfs.past`, since each snapshot is a file system of its own to a client.
"""

from collections.abc import Awaitable, Callable

from sofs.errors import NotDirectory, NotFound, ReadOnly, Stale
from sofs.types import Inode, Kind, Level, Lsn, Time
from sofs.volume import api
from sofs.volume.api import Access, Attributes, Binding, Reply, Request, SnapshotInfo

NAME = b".snapshot"
LIST = (1 << 64) - 1
"""In a handle, the number of the snapshot that stands for the list of all."""
LIST_INODE = Inode((1 << 63) - 1)
"""No file's."""

_RIGHTS = int(Access.READ_DATA | Access.EXECUTE | Access.READ_EA | Access.READ_ATTRIBUTES | Access.READ_CONTROL | Access.SYNCHRONIZE)


class SnapshotList:
    """The directory, over one volume. Its entries have the number of the export's own directory, `root`."""

    def __init__(self, volume: api.Volume, root: Inode) -> None:
        self._volume = volume
        self._root = root
        self.id = volume.id
        self.name = volume.name
        self.verifier = volume.verifier

    @property
    def local(self) -> object:
        """As `gateways.eager.is_here` asks for it."""
        return getattr(self._volume, "local", self._volume)

    def call(self, request: Request, token: api.AnyToken | None, by: Binding) -> Reply | Awaitable[Reply]:
        if isinstance(request, api.GetSpace):
            return self._volume.call(request, None, by)
        reply = self._volume.call(api.ListSnapshots(), None, by)
        return self._answer(request, reply, by) if isinstance(reply, Reply) else self._later(request, reply, by)

    async def _later(self, request: Request, waiting: Awaitable[Reply], by: Binding) -> Reply:
        answer = self._answer(request, await waiting, by)
        return answer if isinstance(answer, Reply) else await answer

    def _answer(self, request: Request, known: Reply, by: Binding) -> Reply | Awaitable[Reply]:
        assert isinstance(known, api.SnapshotList)
        gate, snapshots = known.gate, known.snapshots  # oldest first
        own = _attributes(gate, snapshots)
        if isinstance(request, api.Lookup) and request.path:
            snapshot = next((each for each in snapshots if each.name.encode() == request.path[0]), None)
            if snapshot is None:
                raise NotFound(f"there is no snapshot {request.path[0]!r}")
            return self._enter(snapshot, request.caller, api.Found(gate, _of_entry(snapshot, self._root), directory=own), by)
        if isinstance(request, (api.GetAttributes, api.Lookup)):
            return api.Found(gate, own)
        if isinstance(request, api.CheckAccess):
            return api.Rights(gate, request.wanted & _RIGHTS, own)
        if isinstance(request, api.GetExtended):
            return api.Extended(gate, [])
        if isinstance(request, api.ReadDirectory):
            behind = [each for each in snapshots if _cookie(each) > request.cookie]
            entries = [
                api.Entry(_cookie(each), each.name.encode(), self._root, Kind.DIRECTORY, _of_entry(each, self._root) if request.attributes else None)
                for each in behind[: request.limit]
            ]
            return api.Entries(gate, entries, len(behind) <= request.limit, own)
        raise ReadOnly(f"the list of snapshots is changed by `sofs snapshot`: {type(request).__name__}")

    def _enter(self, snapshot: SnapshotInfo, caller: api.Caller, found: api.Found, by: Binding) -> Reply | Awaitable[Reply]:
        """`found`, if the export's directory existed at that snapshot. Raises `NotFound`."""
        try:
            reply = self._volume.at(snapshot.number).call(api.GetAttributes(api.Stateless(self._root, caller)), None, by)
        except Stale:
            raise _not_yet(snapshot) from None
        return found if isinstance(reply, Reply) else self._entered(snapshot, reply, found)

    @staticmethod
    async def _entered(snapshot: SnapshotInfo, waiting: Awaitable[Reply], found: api.Found) -> Reply:
        try:
            await waiting
        except Stale:
            raise _not_yet(snapshot) from None
        return found

    def read(self, target: api.Target, offset: int, into: memoryview, by: Binding) -> api.Read | Awaitable[api.Read]:
        raise NotDirectory("a directory has no data")

    def write(
        self, target: api.Target, offset: int, data: memoryview, token: api.AnyToken | None, level: Level, by: Binding
    ) -> api.Written | Awaitable[api.Written]:
        raise ReadOnly("the list of snapshots")

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        self._volume.when(gate, level, send)

    def subscribe(self, upcalls: api.Upcalls) -> None:
        """Nothing is told of it."""

    def at(self, snapshot: int) -> api.Volume:
        return self._volume.at(snapshot)


def _not_yet(snapshot: SnapshotInfo) -> NotFound:
    return NotFound(f"the export's directory did not exist at snapshot {snapshot.name!r}")


def _cookie(snapshot: SnapshotInfo) -> int:
    return snapshot.number + 2


def _attributes(gate: Lsn, snapshots: list[SnapshotInfo]) -> Attributes:
    # The position in the log says whether the list may have changed: it never goes back, which is all that `change` promises.
    time = snapshots[-1].taken if snapshots else Time(0)
    links = 2 + len(snapshots)
    return Attributes(LIST_INODE, 1, Kind.DIRECTORY, 0o555, links, 0, 0, len(snapshots), 0, time, time, time, time, gate, 0, (0, 0), LIST_INODE)


def _of_entry(snapshot: SnapshotInfo, root: Inode) -> Attributes:
    """`change` is the snapshot's number."""
    time = snapshot.taken
    return Attributes(root, 0, Kind.DIRECTORY, 0o555, 2, 0, 0, 0, 0, time, time, time, time, snapshot.number, 0, (0, 0), LIST_INODE)
