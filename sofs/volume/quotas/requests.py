"""Requests about quotas, and the background work that the first quota, and a directory's, takes.

Setting the first quota of a volume begins the counting of all its inodes. Setting one on a directory puts that directory into a tree of its own at once, and
with it whatever is made there from then on; what lies below already is walked in the background, each directory before its entries, so that
nothing made meanwhile is missed. Taking it away is the same walk with no tree. Both are batches that can be cut off anywhere and begun again:
records say how far the counting is and which trees are to be walked. Restoring a snapshot brings back which trees directories belonged to, not the quotas;
then the trees are walked again.
"""

from collections.abc import Iterator

from sofs.errors import InvalidArgument, NotDirectory, NotFound
from sofs.types import ROOT, Inode, Kind
from sofs.volume import directory, keys
from sofs.volume.api import AnyToken, GetQuota, ListQuotas, Quota, QuotaKind, QuotaList, SetQuota
from sofs.volume.batch import Batch, Operation
from sofs.volume.core import Core
from sofs.volume.inode import InodeRecord, is_nameless
from sofs.volume.keys import BUCKET, COUNTED, QUOTA
from sofs.volume.quotas import counting
from sofs.volume.quotas.limits import DEFAULT, Limits, gone_key, limits_key, walk_key
from sofs.volume.streams import stream_inodes

_AT_ONCE = 500
"""Inodes that one batch counts or moves to a tree: some two milliseconds."""


def set_quota(core: Core, request: SetQuota, token: AnyToken | None) -> QuotaList:
    quota = request.quota
    kind, subject = quota.kind, quota.subject
    _check(quota)
    core.writable()
    quotas = core.data.quotas
    limits = Limits(quota.soft_bytes, quota.hard_bytes, quota.hard_files)
    known = quotas.limits.get((kind, subject))
    batch = Batch()
    if any(limits):
        batch.put(limits_key(kind, subject), limits.encode())
        if core.get(COUNTED) is None:
            batch.raw(Operation.COUNT, counting.begin())
        if kind == QuotaKind.DIRECTORY and known is None:
            _new_tree(core, batch, Inode(subject))
    elif known is not None:
        batch.delete(limits_key(kind, subject))
        if kind == QuotaKind.DIRECTORY:
            _walk(batch, Inode(subject), 0, core.get(keys.inode(Inode(subject))) is not None)
            if core.keys.overlay.history.newest is not None:
                batch.put(gone_key(subject), b"")
        if len(quotas.limits) == 1:
            batch.raw(Operation.COUNT, counting.stop())
    else:
        raise NotFound("there is no such quota")
    reply = core.commit(batch, QuotaList(core.gate, []), token)
    quotas.load()
    reply.quotas = [quotas.quota(kind, subject)]
    core.orphaned()
    return reply


def _check(quota: Quota) -> None:
    """Raises `InvalidArgument` for limits that make no sense."""
    if min(quota.soft_bytes, quota.hard_bytes, quota.hard_files) < 0:
        raise InvalidArgument("a limit below zero")
    if quota.kind == QuotaKind.VOLUME and quota.subject:
        raise InvalidArgument("the volume's quota has no subject")
    if quota.kind in (QuotaKind.USER, QuotaKind.GROUP) and not 0 <= quota.subject <= DEFAULT:
        raise InvalidArgument(f"{quota.subject} is no number of a user or group")
    if quota.kind == QuotaKind.GROUP and quota.subject == DEFAULT:
        raise InvalidArgument("groups have no default quota")


def _new_tree(core: Core, batch: Batch, top: Inode) -> None:
    record = core.record(top)
    if record.kind != Kind.DIRECTORY:
        raise NotDirectory(f"inode {top} is not a directory")
    if top == ROOT:
        raise InvalidArgument("the quota of the root directory is that of the volume")
    if record.tree not in (0, top):
        raise InvalidArgument("the directory lies in one that has a quota")
    for key, value in core.keys.scan(keys.bucket(QUOTA, QuotaKind.DIRECTORY)):
        if key[-1:] in (b"l", b"w"):
            other = Inode(int.from_bytes(key[BUCKET:-1]))
            known = core.get(keys.inode(other))
            if known is None or is_nameless(known):
                continue  # it has been removed
            if other != top and _is_below(core, other, top):
                raise InvalidArgument("a directory below has a quota" if key[-1:] == b"l" else "a quota below is being taken away")
            if other != top and key[-1:] == b"w" and not int.from_bytes(value, "little") and _is_below(core, top, other):
                raise InvalidArgument("the quota of a directory above is being taken away")
    _walk(batch, top, top, True)
    if core.get(gone_key(top)) is not None:
        batch.delete(gone_key(top))


def _is_below(core: Core, inode: Inode, top: Inode) -> bool:
    while inode not in (ROOT, top):
        value = core.get(keys.inode(inode))
        if value is None:
            return False
        inode = Inode(InodeRecord.decode(value).parent)
    return inode == top


def _walk(batch: Batch, top: Inode, tree: int, there: bool) -> None:
    """Adds to the batch that everything below the directory comes into the tree, the directory itself at once."""
    batch.put(walk_key(top), tree.to_bytes(8, "little"))
    if there:
        batch.raw(Operation.TREE, counting.tree(Inode(tree), [top]))


def get_quota(core: Core, request: GetQuota, token: AnyToken | None) -> QuotaList:
    quotas = core.data.quotas
    if (request.kind, request.subject) not in quotas.limits and quotas.used(request.kind, request.subject) == (0, 0):
        raise NotFound("there is no such quota")
    return QuotaList(core.gate, [quotas.quota(request.kind, request.subject)])


def list_quotas(core: Core, request: ListQuotas, token: AnyToken | None) -> QuotaList:
    quotas = core.data.quotas
    if request.directory is not None:
        tree = core.record(request.directory).tree
        wanted: set[tuple[int, int]] = {(QuotaKind.VOLUME, 0), (QuotaKind.DIRECTORY, tree)}
        subjects = sorted(wanted & quotas.limits.keys())
    else:
        used = {(int(QuotaKind.USER), subject) for subject in _users(core)}
        subjects = sorted(quotas.limits.keys() | used)
    subjects = [subject for subject in subjects if subject > request.after]
    found = [quotas.quota(*subject) for subject in subjects[: request.limit]]
    return QuotaList(core.gate, found, len(subjects) <= request.limit)


def _users(core: Core) -> Iterator[int]:
    """Users who own something, as far as it is counted."""
    for key, _ in core.keys.scan(keys.bucket(QUOTA, QuotaKind.USER)):
        if key[-1:] == b"f":
            yield int.from_bytes(key[BUCKET:-1])


class QuotaKeeper:
    """Counts inodes and walks trees. A background duty: `run_once` does what there is to do."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run_once(self) -> None:
        self._order(False)
        await self._count()
        for key, _ in list(self._core.keys.scan(keys.bucket(QUOTA, QuotaKind.DIRECTORY))):
            top = Inode(int.from_bytes(key[BUCKET:-1]))
            if key[-1:] == b"w":
                await self._walk_tree(top)
            elif key[-1:] == b"l" and self._core.get(keys.inode(top)) is None:
                self._forget(top)

    def restored(self) -> None:
        """To be called when the volume is what it was at a snapshot: directories belong to the trees they belonged to then."""
        self._order(True)

    def _order(self, everything: bool) -> None:
        """Orders the walks of the trees that are not as the quotas say, or of all of them, also those that were under way."""
        batch = Batch()
        for key, _ in self._core.keys.scan(keys.bucket(QUOTA, QuotaKind.DIRECTORY)):
            top = Inode(int.from_bytes(key[BUCKET:-1]))
            record = self._record(top)
            if record is None or record.links == 0 or (not everything and self._core.get(walk_key(top)) is not None):
                continue
            if key[-1:] == b"l" and (everything or record.tree != top):
                _walk(batch, top, top, True)
            elif key[-1:] == b"g" and (everything or record.tree == top):
                _walk(batch, top, 0, True)
        if batch.count:
            self._core.keys.commit(batch, reserved=True)

    async def _count(self) -> None:
        core = self._core
        if core.get(COUNTED) is None or self._counted() == counting.ALL:
            return
        # What is in memory is put in order for each slice.
        await core.keys.checkpoint()
        while 0 < (start := self._counted()) < counting.ALL:
            numbers: list[Inode] = []
            following = counting.ALL
            for key, _ in core.keys.walk(keys.INODE, keys.inode(Inode(start))):
                if len(numbers) == _AT_ONCE:
                    following = int.from_bytes(key[1:])
                    break
                numbers.append(Inode(int.from_bytes(key[1:])))
            self._commit(Operation.COUNT, counting.count(numbers, following))
            await core.clock.sleep(0)

    def _counted(self) -> int:
        return int.from_bytes(self._core.get(COUNTED) or b"", "little")

    def _commit(self, code: Operation, body: bytes) -> None:
        batch = Batch()
        batch.raw(code, body)
        self._core.keys.commit(batch, reserved=True)

    def _forget(self, top: Inode) -> None:
        """A directory with a quota has been removed."""
        batch = Batch()
        batch.delete(limits_key(QuotaKind.DIRECTORY, top))
        if self._core.get(walk_key(top)) is not None:
            batch.delete(walk_key(top))
        quotas = self._core.data.quotas
        if len(quotas.limits) == 1:
            batch.raw(Operation.COUNT, counting.stop())
        self._core.keys.commit(batch, reserved=True)
        quotas.load()

    async def _walk_tree(self, top: Inode) -> None:
        """Brings all below a directory into the tree that its walk's record names."""
        core = self._core
        value, since = core.get(walk_key(top)), core.keys.restorations
        todo = [top]
        while todo:
            if core.get(walk_key(top)) != value or core.keys.restorations != since:
                return  # another walk has been ordered meanwhile
            at = todo.pop()
            assert value is not None
            todo += await self._enter(at, int.from_bytes(value, "little"), top)
        if core.get(walk_key(top)) == value and core.keys.restorations == since:
            batch = Batch()
            batch.delete(walk_key(top))
            if value == bytes(8) and core.keys.overlay.history.newest is not None:
                batch.put(gone_key(top), b"")  # a snapshot of meanwhile has some of it in the tree yet
            core.keys.commit(batch, reserved=True)

    async def _enter(self, at: Inode, tree: int, top: Inode) -> list[Inode]:
        """Brings a directory's entries into its tree; gives the directories among them."""
        core = self._core
        directories: list[Inode] = []
        after = 0
        index = keys.bucket(keys.ENTRY, at)
        while True:
            record = self._record(at)
            if record is None or record.tree != tree:
                return []  # it has been moved elsewhere, or removed
            found: list[Inode] = []
            for count, slot in enumerate(directory.slots(core.keys, index, after)):
                if count == _AT_ONCE:
                    break
                after = int.from_bytes(slot.place[BUCKET:])
                entry = self._record(slot.inode)
                if entry is None or (entry.tree != tree and entry.tree not in (0, top)):
                    continue
                if slot.kind == Kind.DIRECTORY:
                    directories.append(slot.inode)
                if entry.tree != tree:
                    found += [slot.inode, *stream_inodes(core, slot.inode, entry)]
            else:
                count = -1
            if found:
                self._commit(Operation.TREE, counting.tree(Inode(tree), dict.fromkeys(found)))
            await core.clock.sleep(0)
            if count != _AT_ONCE:
                return directories

    def _record(self, inode: Inode) -> InodeRecord | None:
        value = self._core.get(keys.inode(inode))
        return None if value is None else InodeRecord.decode(value)
