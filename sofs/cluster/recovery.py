"""When etcd is lost with all its data: every node keeps a copy of the records, and can put it back.

The copy is `DATA/records.copy`: all records as of one revision, written anew (beside the old one, then renamed) a moment after each change, readable for its
owner only, since it holds secrets. What is under a lease is left out: it says who runs at the moment.

Copies of different nodes may be of different ages. Putting one back adds what is missing, and of a volume's configuration the higher version stays: a lower
one has been superseded, and nobody may serve under it. A share or user that was deleted after the oldest copy had been written may so come back; a volume's
data never suffers, since each replica refuses configurations older than those in its own log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import structlog

from sofs.coordination import Change, Condition, Entry, OutcomeUnknown, Put, Seen, Store, keys
from sofs.encoding import UNREADABLE, decode, encode
from sofs.errors import ConfigError, SofsError, Unavailable
from sofs.runtime.ports import Clock, Files
from sofs.runtime.whole import read_whole, replace

FILE = "records.copy"
SETTLE_S = 0.3
"""Changes come in bursts."""
TRIES = 8
BATCH = 64
PASSING = (keys.NODES, keys.TOKENS)
"""What says nothing later on."""

log = structlog.get_logger("cluster")


class _Stored(msgspec.Struct, array_like=True):
    revision: int
    entries: list[tuple[str, bytes]]


class _Version(msgspec.Struct):
    """What is looked at of a configuration here."""

    version: int


class Restored(NamedTuple):
    restored: int
    raised: int
    """Configurations that were there in an older version."""
    kept: int


class RecordsCopy:
    """Keeps the copy of one node up to date, as long as `follow` runs."""

    def __init__(self, files: Files, clock: Clock, directory: str) -> None:
        self._files = files
        self._clock = clock
        self._directory = directory
        self._entries: dict[str, Entry] = {}
        self._changed = asyncio.Event()
        self._revision = 0

    async def follow(self, store: Store) -> None:
        """Until it is cancelled."""
        writer = asyncio.get_running_loop().create_task(self._write_changes())
        watch = store.watch("")
        try:
            async for seen in watch:
                self._take(seen)
        finally:
            writer.cancel()
            await watch.close()

    def _take(self, seen: Seen) -> None:
        if seen.complete:
            self._entries.clear()
        for key in seen.removed:
            self._entries.pop(key, None)
        for entry in seen.entries:
            if entry.lease or entry.key.startswith(PASSING):
                self._entries.pop(entry.key, None)
            else:
                self._entries[entry.key] = entry
        self._revision = seen.revision
        self._changed.set()

    async def _write_changes(self) -> None:
        while True:
            await self._changed.wait()
            await self._clock.sleep(SETTLE_S)
            self._changed.clear()
            if keys.CLUSTER not in self._entries:
                # An etcd that has lost its data must not take this copy with it.
                continue
            try:
                self._write()
            except SofsError as error:
                log.warning("cluster.records_not_copied", reason=str(error))

    def _write(self) -> None:
        stored = _Stored(self._revision, [(entry.key, entry.value) for entry in self._entries.values()])
        replace(self._files, f"{self._directory}/{FILE}", encode(stored))


def read_copy(files: Files, directory: str) -> dict[str, bytes]:
    """The records of a node's copy; none if it has no copy. Raises `ConfigError`."""
    path = f"{directory}/{FILE}"
    data = read_whole(files, path)
    if data is None:
        return {}
    return dict(decode(data, _Stored, f"{path}, instead of which another node's will do,", ConfigError).entries)


async def older(store: Store, copy: dict[str, bytes]) -> str:
    """How the store is older than the copy, in words; empty if it is not. Raises `Unavailable`."""
    present = {entry.key: entry.value for entry in (await store.range(keys.VOLUMES)).entries}
    for key, value in copy.items():
        found = present.get(key)
        if _is_configuration(key) and found is not None and _version(found) < _version(value):
            return f"{key} is at version {_version(found)} there, and was at {_version(value)} already"
    return ""


async def restore(store: Store, copy: dict[str, bytes]) -> Restored:
    """Puts back what the store lacks of the copy. Raises `ConfigError` (another cluster's), `Unavailable`."""
    cluster = copy.get(keys.CLUSTER)
    if cluster is None:
        raise ConfigError("this node has no copy of a cluster's records; recover on one that has")
    for _ in range(TRIES):
        present = {entry.key: entry for entry in (await store.range("")).entries}
        there = present.get(keys.CLUSTER)
        if there is not None and there.value != cluster:
            raise ConfigError("this etcd has the records of another cluster under this prefix")
        missing = [key for key in copy if key not in present]
        raised = [key for key, value in copy.items() if key in present and _is_configuration(key) and _version(present[key].value) < _version(value)]
        # What makes it a cluster comes last: nobody may start on a half.
        missing.sort(key=lambda key: key == keys.CLUSTER)
        if await _put(store, copy, [(key, present[key].revision) for key in raised] + [(key, 0) for key in missing]):
            return Restored(len(missing), len(raised), len(copy) - len(missing) - len(raised))
    raise Unavailable("the records could not be put back: others change them at the same time")


async def _put(store: Store, copy: dict[str, bytes], wanted: Sequence[tuple[str, int]]) -> bool:
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        changes: list[Change] = [Put(key, copy[key]) for key, _ in batch]
        try:
            if not (await store.transact([Condition(key, revision) for key, revision in batch], changes)).done:
                return False
        except OutcomeUnknown:
            return False
    return True


def _is_configuration(key: str) -> bool:
    return key.startswith(keys.VOLUMES) and key.endswith(keys.CONFIGURATION)


def _version(value: bytes) -> int:
    try:
        return msgspec.json.decode(value, type=_Version).version
    except UNREADABLE:
        return 0
