"""The records of opens that outlive their connection, or their coordinator, follow what is held in memory.

An open of the coordinator's own gateways that does not outlive its connection costs no record, and neither do its ranges and grants. Whatever changes
about a file with kept opens makes it *dirty*, and the next batch of the request that changed it brings its records in line (`Core.put`); what no
request's batch took along is committed by itself, at the latest at the end of the loop's tick. A recall is not recorded: after a restart the holder has
what it had, until somebody is in its way again. `kept_records` says how the records look.

A file may have thousands of kept opens: only those that were touched are looked at, and of grants and ranges those that are not as they were.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from sofs.errors import NoSpace, SofsError
from sofs.locks import ByteLock, FileState, Grant, LockManager
from sofs.runtime.ports import Clock
from sofs.types import Inode, Lsn, OpenId
from sofs.volume import keys
from sofs.volume.batch import Batch
from sofs.volume.kept_records import KeptLocks, encode_doom, encode_grant, encode_locks, encode_open, range_key
from sofs.volume.keyspace import KeySpace
from sofs.volume.openfile import OpenFile
from sofs.volume.register import Register

NFS_STATE = keys.meta(b"nfs state")
"""There once were NFSv4 opens, and the volume has not been closed without any since: if records may be lost, there is a grace."""
GRACE = keys.meta(b"grace")
"""Records may have been lost, and those who had what they said may still reclaim it: also at the next coordinator."""
_RETRY_S = 1.0

Changes = list[Callable[[], None]]
"""What is to be noted when the batch is in the log: these records are there now."""


class _File:
    """One file's kept opens, and what of it is recorded."""

    __slots__ = ("doom", "grants", "keys", "locks", "opens", "ranges", "streams", "touched")

    def __init__(self) -> None:
        self.opens: dict[OpenId, OpenFile] = {}
        self.streams = 0
        """How many kept opens of its streams it has: its deletion would be theirs."""
        self.keys: Counter[bytes] = Counter()
        """How many of the opens share each grant."""
        self.touched: dict[OpenId, None] = {}
        self.grants: dict[bytes, Grant] = {}
        self.ranges: dict[ByteLock, tuple[bytes, int]] = {}
        self.locks: dict[OpenId, KeptLocks] = {}
        self.doom = b""


class Kept:
    """Brings the records in line with what is held."""

    def __init__(self, keyspace: KeySpace, locks: LockManager, clock: Clock, register: Register) -> None:
        self._keys = keyspace
        self._locks = locks
        self._clock = clock
        self._register = register
        self._files: dict[Inode, _File] = {}
        self._nfs = keyspace.get(NFS_STATE) is not None
        self.dirty: dict[Inode, None] = {}
        self.lsn = Lsn(0)
        """Position of the last batch with such records."""
        locks.changed = self.mark

    # What is followed

    def follow(self, opened: OpenFile) -> None:
        """From now on the open is recorded."""
        opened.recorded = True
        file = self._file(opened.inode)
        file.opens[opened.id] = opened
        file.touched[opened.id] = None
        if opened.key:
            file.keys[opened.key] += 1
        if opened.stream:
            self._file(opened.base).streams += 1
        self.mark(opened.inode)

    def _file(self, inode: Inode) -> _File:
        file = self._files.get(inode)
        if file is None:
            file = self._files[inode] = _File()
            self._locks.followed.add(inode)
        return file

    def forget(self, opened: OpenFile) -> None:
        """The open has ended."""
        file = self._files[opened.inode]
        del file.opens[opened.id]
        file.touched[opened.id] = None
        if opened.key:
            file.keys[opened.key] -= 1
            if not file.keys[opened.key]:
                del file.keys[opened.key]
        if opened.stream:
            self._files[opened.base].streams -= 1
            self.mark(opened.base)
        self.mark(opened.inode)

    def mark(self, inode: Inode) -> None:
        """Something about the file's ranges, lock states or grants has changed."""
        if not self.dirty:
            self._clock.call_soon(self._flush_rest)
        self.dirty[inode] = None

    def touch(self, opened: OpenFile) -> None:
        """The open itself has changed, or what is to be deleted through it."""
        file = self._files.get(opened.inode)
        if file is not None:
            if opened.id in file.opens:
                file.touched[opened.id] = None
            self.mark(opened.inode)

    def touch_file(self, inode: Inode) -> None:
        """What is noted beside the lock engine about the file (how it was marked for deletion) has changed."""
        if inode in self._files:
            self.mark(inode)

    def close(self) -> None:
        """The volume is being closed in order: without NFSv4 opens by now, a later loss of records will not have lost any."""
        if (
            self._nfs
            and self._keys.get(GRACE) is None
            and not any(not opened.mandatory for file in self._files.values() for opened in file.opens.values())
        ):
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
        changes: Changes = []
        for inode in self.dirty:
            file = self._files.get(inode)
            if file is None:
                continue
            state = self._locks.state(inode)
            self._opens(batch, file)
            self._grants(batch, changes, inode, file, state)
            self._lock_states(batch, changes, inode, file)
            self._ranges(batch, changes, inode, file, state)
            self._doom(batch, changes, inode, file, state)
        return changes

    def settled(self, changes: Changes, lsn: Lsn) -> None:
        """The batch with these changes is in the log."""
        self.lsn = lsn
        for change in changes:
            change()
        for inode in self.dirty:
            file = self._files.get(inode)
            if file is None:
                continue
            file.touched.clear()
            if not file.opens and not file.streams:
                del self._files[inode]
                self._locks.followed.discard(inode)
        self.dirty.clear()
        self._nfs = self._nfs or self._keys.get(NFS_STATE) is not None

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

    def adopted(self) -> None:
        """All that `follow` was told of has been restored from its records: they are as they should be."""
        self.settled(self.add_to(Batch()), Lsn(0))

    # What belongs into the records of one file

    def _opens(self, batch: Batch, file: _File) -> None:
        for id in file.touched:
            opened = file.opens.get(id)
            if opened is None:
                batch.delete(keys.bucket(keys.OPEN, id))
                continue
            batch.put(keys.bucket(keys.OPEN, id), encode_open(opened))
            if not self._nfs and not opened.mandatory:
                batch.put(NFS_STATE, b"")

    def _grants(self, batch: Batch, changes: Changes, inode: Inode, file: _File, state: FileState) -> None:
        if not state.grants and not file.grants:
            return
        wanted = {grant.key: grant for grant in state.grants if grant.key in file.keys}
        for key, grant in wanted.items():
            if file.grants.get(key) is not grant:
                batch.put(keys.bucket(keys.GRANT, inode) + key, encode_grant(grant))
        for key in file.grants.keys() - wanted.keys():
            batch.delete(keys.bucket(keys.GRANT, inode) + key)
        changes.append(_set(file, "grants", wanted))

    def _lock_states(self, batch: Batch, changes: Changes, inode: Inode, file: _File) -> None:
        owners = self._register.locks_of.get(inode)
        if not owners and not file.locks:
            return
        held = () if owners is None else owners.values()
        wanted = {lock.id: KeptLocks(inode, lock.owner, lock.open, lock.sequence) for lock in held if lock.open in file.opens}
        for id, locks in wanted.items():
            if file.locks.get(id) != locks:
                batch.put(keys.bucket(keys.LOCKS, id), encode_locks(locks))
        for id in file.locks.keys() - wanted.keys():
            batch.delete(keys.bucket(keys.LOCKS, id))
        changes.append(_set(file, "locks", wanted))

    def _ranges(self, batch: Batch, changes: Changes, inode: Inode, file: _File, state: FileState) -> None:
        if not state.ranges and not file.ranges:
            return
        owners = self._register.locks_of.get(inode, {})
        # A lock whose owner has no state yet is one that somebody waits for who has not been answered yet.
        mine = Counter(held for held in state.ranges if held.open in file.opens and (not held.owner or held.owner in owners))
        wanted: dict[ByteLock, tuple[bytes, int]] = {}
        for held, count in mine.items():
            known = file.ranges.get(held)
            if known is None or known[1] != count:
                known = range_key(held, owners.get(held.owner) if held.owner else None), count
                batch.put(known[0], count.to_bytes(4))
            wanted[held] = known
        for gone in file.ranges.keys() - wanted.keys():
            batch.delete(file.ranges[gone][0])
        changes.append(_set(file, "ranges", wanted))

    def _doom(self, batch: Batch, changes: Changes, inode: Inode, file: _File, state: FileState) -> None:
        marked = self._register.doomed.get(inode) if state.delete_pending and (file.opens or file.streams) else None
        wanted = b"" if marked is None else encode_doom(marked)
        if wanted == file.doom:
            return
        if wanted:
            batch.put(keys.bucket(keys.PENDING, inode), wanted)
        else:
            batch.delete(keys.bucket(keys.PENDING, inode))
        changes.append(_set(file, "doom", wanted))


def _set(file: _File, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(file, name, value)
