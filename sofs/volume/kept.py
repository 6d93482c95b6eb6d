"""The records of opens that outlive their connection, with their byte ranges and grants.

    O  open                                               the open (`KeptOpen`)
    V  open   lock state u64, start u64, end u72, mode    a byte range: how often it is held (SMB allows a shared lock twice), u32
    k  state                                              an NFSv4 lock owner's locks: inode, owner, open, sequence
    G  inode  key                                         a grant
    P  inode                                              the file is deleted at its last close: through which open, and what name goes

An open that is not kept costs no record, and neither do its ranges and grants. What is recorded follows the memory: whatever changes
about a file with kept opens makes it *dirty*, and the next batch of the request that changed it brings its records in line
(`Core.commit`); what no request's batch took along is committed by itself, at the latest at the end of the loop's tick. A recall is not recorded: after a
restart the holder has what it had, until somebody is in its way again.
"""

from collections.abc import Mapping
from contextlib import suppress
from operator import attrgetter
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from sofs.errors import Damaged, NoSpace, SofsError
from sofs.locks import Grant, LockManager
from sofs.runtime.ports import Clock
from sofs.types import Inode, Lsn, OpenId
from sofs.volume import keys
from sofs.volume.api import Binding, Caller, Keep
from sofs.volume.batch import Batch
from sofs.volume.keyspace import KeySpace
from sofs.volume.openfile import LockState, OpenFile, StateKind
from sofs.volume.register import Register

__all__ = ["NFS_STATE", "Doom", "Kept", "KeptLocks", "KeptOpen", "decode_record", "split_range"]

NFS_STATE = keys.meta(b"nfs state")
"""There once were NFSv4 opens, and the volume has not been closed without any since: if records may be lost, there is a grace."""
_RETRY_S = 1.0


class KeptOpen(msgspec.Struct, array_like=True, frozen=True):
    """An `OpenFile` as it is recorded; the fields are the same."""

    inode: Inode
    base: Inode
    access: int
    share: int
    caller: Caller
    by: Binding
    owner: bytes
    guid: bytes
    parent: Inode
    name: bytes
    stream: bytes
    kind: int
    mandatory: bool
    delete_on_close: bool
    keep_modified: bool
    keep_changed: bool
    sheds: bool
    state: StateKind
    key: bytes
    lease: bytes | None
    parent_key: bytes
    client: bytes
    keep: Keep
    former: tuple[Binding, ...]
    sequence: int
    combinations: tuple[tuple[int, int], ...]
    numbers: dict[bytes, bytes]
    path: tuple[bytes, ...]
    maximal: int
    change: int

    def opened(self, id: OpenId) -> OpenFile:
        """The open as it is after a restart: an SMB one has lost its connection."""
        return OpenFile(id=id, connected=not self.mandatory, **{name: getattr(self, name) for name in self.__struct_fields__})


class KeptLocks(NamedTuple):
    """A `LockState` as it is recorded."""

    inode: Inode
    owner: bytes
    open: OpenId
    sequence: int


class Doom(NamedTuple):
    """How a delete-pending file was marked."""

    open: OpenId
    base: Inode
    parent: Inode
    name: bytes
    stream: bytes


T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode
_fields = attrgetter(*KeptOpen.__struct_fields__)

Values = dict[bytes, bytes]
Changes = Mapping[Inode, Values]


def decode_record(value: bytes, kind: type[T]) -> T:
    """Raises `Damaged`."""
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"a record of {len(value)} bytes is no {kind.__name__}: {error}") from error


def split_range(key: bytes) -> tuple[OpenId, OpenId, int, int, bool]:
    """What the key of a range says: open, lock state (0 for SMB), start, end, whether it is exclusive."""
    number = int.from_bytes
    return OpenId(number(key[1:9])), OpenId(number(key[9:17])), number(key[17:25]), number(key[25:34]), bool(key[34])


class Kept:
    """Brings the records in line with what is held."""

    def __init__(self, keyspace: KeySpace, locks: LockManager, clock: Clock, register: Register) -> None:
        self._keys = keyspace
        self._locks = locks
        self._clock = clock
        self._register = register
        self._opens: dict[Inode, dict[OpenId, OpenFile]] = {}
        self._streams: dict[Inode, int] = {}
        """How many kept opens of its streams a file has: its deletion would be theirs."""
        self._written: dict[Inode, Values] = {}
        self._nfs = keyspace.get(NFS_STATE) is not None
        self.dirty: dict[Inode, None] = {}
        self.lsn = Lsn(0)
        """Position of the last batch with such records."""
        locks.changed = self.mark

    # What is followed

    def follow(self, opened: OpenFile) -> None:
        """From now on the open is recorded."""
        self._opens.setdefault(opened.inode, {})[opened.id] = opened
        self._locks.followed.add(opened.inode)
        if opened.stream:
            self._streams[opened.base] = self._streams.get(opened.base, 0) + 1
            self._locks.followed.add(opened.base)
        self.mark(opened.inode)

    def forget(self, opened: OpenFile) -> None:
        """The open has ended."""
        del self._opens[opened.inode][opened.id]
        if opened.stream:
            self._streams[opened.base] -= 1
            self.mark(opened.base)
        self.mark(opened.inode)

    def mark(self, inode: Inode) -> None:
        """Something about the file's opens, ranges or grants has changed."""
        if not self.dirty:
            self._clock.call_soon(self._flush_rest)
        self.dirty[inode] = None

    def touch(self, opened: OpenFile) -> None:
        """The open itself has changed."""
        if opened.keep is not None:
            self.mark(opened.inode)

    def touch_file(self, inode: Inode) -> None:
        """What is noted beside the lock engine about the file (how it was marked for deletion) has changed."""
        if inode in self._locks.followed:
            self.mark(inode)

    def close(self) -> None:
        """The volume is being closed in order: without NFSv4 opens by now, a later loss of records will not have lost any."""
        if self._nfs and not any(not opened.mandatory for opens in self._opens.values() for opened in opens.values()):
            batch = Batch()
            batch.delete(NFS_STATE)
            with suppress(SofsError):
                self._keys.commit(batch, reserved=True)

    @property
    def gate(self) -> Lsn:
        """What every answer rests on that says who has what; 0 if that is stable."""
        return self.lsn if self.lsn >= self._keys.log.stable else Lsn(0)

    # Records

    def add_to(self, batch: Batch) -> Changes:
        """Adds to the batch what has changed. When that is committed, `settled` is to be told of what this gives."""
        changes: dict[Inode, Values] = {}
        for inode in self.dirty:
            wanted, written = self._wanted(inode), self._written.get(inode, {})
            for key, value in wanted.items():
                if written.get(key) != value:
                    batch.put(key, value)
            for key in written:
                if key not in wanted:
                    batch.delete(key)
            changes[inode] = wanted
            if not self._nfs and any(not opened.mandatory for opened in self._opens.get(inode, {}).values()):
                batch.put(NFS_STATE, b"")
        return changes

    def settled(self, changes: Changes, lsn: Lsn) -> None:
        """The batch with these changes is in the log."""
        self.lsn = lsn
        self.dirty.clear()
        self._nfs = self._nfs or self._keys.get(NFS_STATE) is not None
        for inode, wanted in changes.items():
            if wanted:
                self._written[inode] = wanted
            else:
                self._written.pop(inode, None)
            if not self._opens.get(inode, True):
                del self._opens[inode]
            if not self._streams.get(inode, 1):
                del self._streams[inode]
            if inode not in self._opens and inode not in self._streams:
                self._locks.followed.discard(inode)

    def flush(self) -> None:
        """Commits what no request's batch has taken along. Raises `NoSpace`, `Unavailable`; then it is tried again."""
        if not self.dirty:
            return
        batch = Batch()
        changes = self.add_to(batch)
        lsn = self._keys.commit(batch, reserved=True) if batch.count else self.lsn
        self.settled(changes, lsn)

    def _flush_rest(self) -> None:
        try:
            self.flush()
        except NoSpace:
            self._clock.call_later(_RETRY_S, self._flush_rest)
        except SofsError as error:
            structlog.get_logger(component="volume").error("opens_not_recorded", error=str(error))

    def adopt(self, opened: OpenFile) -> None:
        """An open that was restored from its record."""
        self.follow(opened)

    def adopted(self) -> None:
        """All have been restored: what is recorded is what is held."""
        self.settled({inode: self._wanted(inode) for inode in self.dirty}, Lsn(0))

    def _wanted(self, inode: Inode) -> Values:
        """The records that the file should have."""
        opens = self._opens.get(inode, {})
        if not opens and not self._streams.get(inode):
            return {}
        state = self._locks.state(inode)
        wanted: Values = {}
        for id, opened in opens.items():
            assert opened.keep is not None
            wanted[keys.bucket(keys.OPEN, id)] = _encode(_fields(opened))
        shared = {opened.key for opened in opens.values() if opened.key}
        for grant in state.grants:
            if grant.key in shared:
                wanted[keys.bucket(keys.GRANT, inode) + grant.key] = _encode(_settled(grant))
        owners = self._register.locks_of.get(inode, {})
        for lock in owners.values():
            if lock.open in opens:
                wanted[keys.bucket(keys.LOCKS, lock.id)] = _encode(KeptLocks(inode, lock.owner, lock.open, lock.sequence))
        for held in state.ranges:
            if held.open in opens:
                owner = owners.get(held.owner) if held.owner else None
                if held.owner and owner is None:
                    continue  # whoever waited for it has not been answered yet
                key = _range_key(held.open, owner, held.start, held.end, held.exclusive)
                count = int.from_bytes(wanted.get(key, b"")) + 1
                wanted[key] = count.to_bytes(4)
        if state.delete_pending and (marked := self._register.doomed.get(inode)) is not None:
            doom = Doom(marked.id, marked.base, marked.parent, marked.name, marked.stream)
            wanted[keys.bucket(keys.PENDING, inode)] = _encode(doom)
        return wanted


def _range_key(open: OpenId, owner: LockState | None, start: int, end: int, exclusive: bool) -> bytes:
    state = 0 if owner is None else owner.id
    return keys.bucket(keys.RANGE, open) + state.to_bytes(8) + start.to_bytes(8) + end.to_bytes(9) + bytes((exclusive,))


def _settled(grant: Grant) -> Grant:
    return msgspec.structs.replace(grant, target=grant.rights, told=grant.rights)
