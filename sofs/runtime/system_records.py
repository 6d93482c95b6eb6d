"""Ordered records in LMDB.

The loop reads through one read transaction, so that it sees one state however many commits a thread makes meanwhile;
`refresh` moves it on. LMDB's default locking stays on: without it a reader that is held over commits silently reads
newer values. Its table of readers lies in memory, not beside the data: it is written to through a map, and once a disk's file system has shut down
that kills the process (SIGBUS), even with no more than closing. A write transaction lives within one thread from its begin to its commit, as LMDB
demands.
"""

import os
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

import lmdb

from sofs.errors import Damaged, DiskFailed, NoSpace, SofsError, Unavailable
from sofs.runtime.system_errors import outcome
from sofs.runtime.system_threads import Threads

_SLICE = 64
"""Keys per call into LMDB: between calls the thread lets the loop have the interpreter."""

_DAMAGE = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.VersionMismatchError)

Change = tuple[bytes, bytes | None]


class SystemRecords:
    """An LMDB environment in the directory `path`."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        try:
            with _lock_in_memory(path):
                self._environment = lmdb.open(path, map_size=size, max_dbs=0, metasync=True, sync=True, lock=True)
            # A process that died left its reader slot; its snapshot would keep pages from reuse.
            self._environment.reader_check()
            # A process killed within its last commit may have left that in the page cache alone. Once it has been
            # seen, others build on it (a log is trimmed, say), so it must not be lost with the power.
            self._environment.sync(True)
            self._reader = self._environment.begin(buffers=False)
        except lmdb.Error as error:
            raise _meaning(error, path) from error
        except OSError as error:
            raise outcome(error, path) from error
        self._threads = Threads("records", 1)

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._reader.get(key)
        except lmdb.Error as error:
            raise _meaning(error, self._path) from error

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._reader.cursor() as cursor:
                # LMDB has no empty key.
                if not (cursor.set_range(start) if start else cursor.first()):
                    return
                for key, value in cursor:
                    if key >= end:
                        return
                    yield key, value
        except lmdb.Error as error:
            raise _meaning(error, self._path) from error

    def commit(self, changes: Sequence[Change]) -> Awaitable[None]:
        return self._threads.run(lambda: self._commit(changes))

    def _commit(self, changes: Sequence[Change]) -> None:
        try:
            with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                remaining = iter(changes)
                while piece := list(islice(remaining, _SLICE)):
                    _fill(transaction, cursor, piece)
        except lmdb.Error as error:
            raise _meaning(error, self._path) from error

    def refresh(self) -> None:
        self._reader.abort()
        self._reader = self._environment.begin(buffers=False)

    def copy(self, path: str) -> Awaitable[None]:
        return self._threads.run(lambda: self._copy(path))

    def _copy(self, path: str) -> None:
        try:
            os.mkdir(path, 0o700)
            self._environment.copy(path, compact=True)
            # LMDB writes a copy past the page cache where it can, and never syncs it.
            for name in (os.path.join(path, "data.mdb"), path, os.path.dirname(os.path.abspath(path))):
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        except lmdb.Error as error:
            raise _meaning(error, path) from error
        except OSError as error:
            raise outcome(error, path) from error

    def close(self) -> None:
        """Waits for a commit under way, then closes."""
        self._threads.close()
        self._reader.abort()
        self._environment.close()


@contextmanager
def _lock_in_memory(path: str) -> Iterator[None]:
    """Within, the file that LMDB opens as its lock is one in memory, if the disk takes a name for it. The directory is nobody else's meanwhile."""
    os.makedirs(path, 0o755, exist_ok=True)
    lock = os.path.join(path, "lock.mdb")
    descriptor = os.memfd_create("lock.mdb")
    try:
        with suppress(OSError):  # on a disk without any space LMDB's own file may still do
            with suppress(FileNotFoundError):
                os.unlink(lock)
            os.symlink(f"/proc/self/fd/{descriptor}", lock)
        yield
        if os.path.islink(lock):
            os.unlink(lock)
    finally:
        os.close(descriptor)


def _fill(transaction: "lmdb.Transaction[bytes]", cursor: "lmdb.Cursor[bytes]", changes: list[Change]) -> None:
    puts: list[tuple[bytes, bytes]] = []
    for key, value in changes:
        if value is None:
            transaction.delete(key)
        else:
            puts.append((key, value))
    if puts:
        cursor.putmulti(puts)


def _meaning(error: lmdb.Error, path: str) -> SofsError:
    if isinstance(error, lmdb.MapFullError):
        return NoSpace(f"{path}: the volume's metadata has reached its configured size; raise it and restart")
    if isinstance(error, lmdb.LockError):
        return Unavailable(f"{path}: {error}")
    if isinstance(error, _DAMAGE):
        return Damaged(f"{path}: {error}")
    if error.code > 0:  # LMDB's own codes are negative, the rest are errnos
        return outcome(OSError(error.code, os.strerror(error.code)), path)
    return DiskFailed(f"{path}: {error}")
