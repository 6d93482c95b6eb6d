"""Ordered records of a simulated host: what LMDB promises, in memory."""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from sofs.errors import NoSpace, SofsError
from sofs.runtime.simulated_disk import RecordSet

if TYPE_CHECKING:
    from sofs.runtime.simulated_files import SimulatedFiles


class SimulatedRecords:
    """`Records` over a `RecordSet`. Commits take virtual time and are carried out one after another."""

    def __init__(self, files: "SimulatedFiles", path: str, size: int, records: RecordSet) -> None:
        self._files = files
        self._path = path
        self._size = size
        self._records = records
        self._queue: list[tuple[dict[bytes, bytes | None], asyncio.Future[None]]] = []
        self._seen = records.committed
        self._sorted: list[bytes] | None = None

    def get(self, key: bytes) -> bytes | None:
        self._files.alive()
        return self._seen.get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._files.alive()
        if self._sorted is None:
            self._sorted = sorted(self._seen)
        keys, seen = self._sorted, self._seen
        for index in range(bisect_left(keys, start), bisect_left(keys, end)):
            assert self._seen is seen, "a scan was used on across a refresh"
            yield keys[index], seen[keys[index]]

    def commit(self, changes: Sequence[tuple[bytes, bytes | None]]) -> Awaitable[None]:
        self._files.alive()
        keys = [key for key, _ in changes]
        assert all(0 < len(key) <= 511 for key in keys), "keys have 1 to 511 bytes"
        assert all(first < second for first, second in pairwise(keys)), "changes come in key order"
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((dict(changes), future))
        self._files.step("commit", self._path)
        if len(self._queue) == 1:
            self._start()
        return future

    def _start(self) -> None:
        """Begins the first commit of the queue: from now on the disk may have it when the power goes."""
        changes, future = self._queue[0]
        self._records.under_way = _changed(self._records.committed, changes)

        def complete() -> None:
            try:
                self._complete()
            except SofsError as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(None)
            self._queue.pop(0)
            if self._queue:
                self._start()

        self._files.later(2 * self._files.latency.sync, complete)

    def _complete(self) -> None:
        after, self._records.under_way = self._records.under_way, None
        assert after is not None
        self._files.check_fault("commit", self._path)
        used = sum(len(key) + len(value) for key, value in after.items())
        if used > self._size:
            raise NoSpace(f"{self._path}: the records have reached their configured size")
        self._files.take_space(self._records, used - self._records.used)
        self._records.committed = after
        self._files.step("committed", self._path)

    def refresh(self) -> None:
        self._files.alive()
        self._seen = self._records.committed
        self._sorted = None

    def copy(self, path: str) -> Awaitable[None]:
        self._files.alive()
        return self._files.later(self._files.latency.sync, lambda: self._copy(path))

    def _copy(self, path: str) -> None:
        committed = self._records.committed
        copy = self._files.records(path, self._size)
        self._files.take_space(copy._records, sum(len(key) + len(value) for key, value in committed.items()))
        copy._records.committed = committed

    def close(self) -> None: ...


def _changed(records: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    after = dict(records)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after
