"""What the logs on a stopped node's disks say of their volumes, for the day when the coordination store is lost for good.

A coordinator notes the volume's record and its configuration in the volume itself after every change, so every replica that counts has them. The last
change may have come too late for that. Then the log shows at least its version, and the replicas whose logs show it are those that may count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import structlog

from sofs.encoding import Record
from sofs.errors import Damaged, SofsError
from sofs.log.recovery import newest_version, recover
from sofs.log.replica import SegmentHeader
from sofs.records import ConfigurationRecord, VolumeRecord
from sofs.runtime.ports import Files
from sofs.volume.batch import Batch
from sofs.volume.data import APPLIERS
from sofs.volume.keys import meta
from sofs.volume.keyspace import KeySpace
from sofs.volume.memory import INCOMPLETE, noted_boot
from sofs.volume.recovery import Place, StoreSettings, let_go, open_place

log = structlog.get_logger("cluster")

NOTED = meta(b"configuration")
ANY_VERSION = (1 << 32) - 1


class Known(Record, frozen=True, kw_only=True):
    """A volume and who counts, as its own records have them."""

    volume: VolumeRecord
    configuration: ConfigurationRecord


def split_name(name: str) -> tuple[int, int]:
    """The volume and the replica in the name of a replica's directory; 0 if it is none."""
    volume, _, replica = name.partition("-")
    try:
        return int(volume, 16), int(replica, 16)
    except ValueError:
        return 0, 0


def note_configuration(keyspace: KeySpace, volume: VolumeRecord, configuration: ConfigurationRecord) -> None:
    """Has the volume itself keep its record and the configuration in force. Raises `NoSpace`, `Unavailable`."""
    batch = Batch()
    batch.put(NOTED, Known(volume=volume, configuration=configuration).encode())
    keyspace.commit_cleaning(batch)


class _Found(NamedTuple):
    known: Known
    replica: int
    version: int
    """The newest that the log has records of."""


def known_in_logs(files: Files, disks: Iterable[tuple[int, str]]) -> dict[int, Known]:
    """The newest of each volume that the replicas on these disks (id and path) know. The node must not run; nothing is changed but what recovery
    writes again as it is. A replica that cannot be read is left out, and logged.
    """
    found: dict[int, list[_Found]] = {}
    for _, path in disks:
        logs = f"{path}/logs"
        for name in files.list(logs) if files.exists(logs) else []:
            volume, replica = split_name(name)
            if not volume:
                continue
            try:
                one = _read(files, Place(replica, f"{logs}/{name}"))
            except SofsError as error:
                log.warning("replica.not_read", at=f"{logs}/{name}", reason=str(error))
                continue
            if one is not None:
                found.setdefault(volume, []).append(one)
    return {volume: _newest(each) for volume, each in found.items()}


def _newest(found: list[_Found]) -> Known:
    version = max(one.version for one in found)
    known = max((one.known for one in found), key=lambda known: known.configuration.version)
    if version <= known.configuration.version:
        return known
    holders = tuple(one.replica for one in found if one.version == version)
    return msgspec.structs.replace(known, configuration=msgspec.structs.replace(known.configuration, version=version, replicas=holders))


def _read(files: Files, place: Place) -> _Found | None:
    if noted_boot(files, place.path) == INCOMPLETE:
        return None
    log_id, segment_size = _identity(files, place)
    settings = StoreSettings()
    settings = settings._replace(log=settings.log._replace(segment_size=segment_size))
    opened = open_place(files, place, log_id, settings)
    try:
        keyspace = KeySpace(opened.records, APPLIERS)
        version = newest_version(opened.replica, opened.mark)
        recover([opened.replica], opened.mark, ANY_VERSION, lambda: False, keyspace.apply)
        value = keyspace.get(NOTED)
        return None if value is None else _Found(Known.decode(value), place.id, version)
    finally:
        let_go(opened)


def _identity(files: Files, place: Place) -> tuple[int, int]:
    """The log's id and the size of its segments, as any of them says. Raises `Damaged`."""
    for name in files.list(f"{place.path}/log"):
        file = files.open(f"{place.path}/log/{name}")
        try:
            data = bytearray(64)
            file.read_now(0, [memoryview(data)])
        finally:
            file.close()
        header = SegmentHeader.decode(bytes(data))
        if header is not None and header.replica == place.id:
            return header.log, header.segment_size
    raise Damaged(f"{place.path}: no segment of its log says whose it is")
