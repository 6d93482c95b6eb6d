"""What other nodes ask of this one about volumes, answered: the interconnect's service of `messages`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from sofs.cluster import Answer, Asked
from sofs.encoding import encode
from sofs.errors import NotFound, SofsError, Unavailable
from sofs.hosting.messages import (
    SERVICE,
    Checkpoint,
    Describe,
    Described,
    Follow,
    Leave,
    MakeReplica,
    Message,
    Move,
    PutRecords,
    decode_message,
    decode_slice,
)
from sofs.hosting.opening import as_configuration, reader, store_settings
from sofs.hosting.part import Part
from sofs.hosting.site import Site
from sofs.runtime.ports import Files, Records
from sofs.types import Lsn
from sofs.volume.data import APPLIERS
from sofs.volume.memory import INCOMPLETE, note_whole
from sofs.volume.rebuild import remove_replica
from sofs.volume.recovery import Place, StoreSettings
from sofs.volume.standby import open_standby

log = structlog.get_logger("node")

_DONE = Answer(b"")


class Volumes(Protocol):
    """The host, as these answers need it."""

    @property
    def parts(self) -> Mapping[int, Part]: ...

    def describe(self, volume: int) -> Described: ...

    async def hand_over(self, volume: int, node: int) -> None: ...


class Making(NamedTuple):
    """A replica that is being made."""

    volume: int
    place: Place
    records: Records
    settings: StoreSettings


def _begun(files: Files, place: Place, settings: StoreSettings) -> Records:
    """An empty replica that counts as incomplete; gives the records beside it. Raises `NoSpace`, `DiskFailed`."""
    if files.exists(place.path):
        remove_replica(files, place)
    files.make_directory(f"{place.path}/log")
    note_whole(files, place.path, INCOMPLETE)
    records = files.records(f"{place.path}/records", settings.records_size)
    logs = Path(place.path).parent
    for path in (place.path, str(logs), str(logs.parent)):
        files.sync_directory(path)
    return records


class HostingService:
    """Answers for all volumes of this node."""

    def __init__(self, site: Site, volumes: Volumes) -> None:
        assert site.interconnect is not None, "a single node is asked nothing"
        self._site = site
        self._volumes = volumes
        self._making: dict[int, Making] = {}
        site.interconnect.serve(SERVICE, self._handle)

    def close(self) -> None:
        for making in self._making.values():
            making.records.close()
        self._making.clear()

    def _handle(self, asked: Asked) -> Answer | Awaitable[Answer]:
        message = decode_message(asked.body)
        if isinstance(message, PutRecords):
            return self._put(message, decode_slice(asked.payload))
        if isinstance(message, Leave):
            return self._leave(message, asked.node)
        if isinstance(message, Describe):
            return Answer(encode(self._volumes.describe(message.volume)))
        answers: dict[type, Callable[[Message], Awaitable[Answer]]] = {
            MakeReplica: self._make,
            Follow: self._follow,
            Checkpoint: self._checkpoint,
            Move: self._move,
        }
        return answers[type(message)](message)

    def _part(self, volume: int) -> Part:
        part = self._volumes.parts.get(volume)
        if part is None:
            raise Unavailable(f"volume {volume:016x} is not known here yet")
        return part

    # Making a replica

    async def _make(self, message: Message) -> Answer:
        """Raises `NotFound` (no record names such a replica on a disk of ours), `NoSpace`, `DiskFailed`."""
        assert isinstance(message, MakeReplica)
        part, site = self._part(message.volume), self._site
        # The record names the replica before it is made, so the store is asked rather than the view.
        part.hosted.record = await site.registry.volume(message.volume)
        place = part.mine.get(message.replica)
        if place is None:
            raise NotFound(f"no record names replica {message.replica:016x} on a disk of this node")
        for id, earlier in list(self._making.items()):
            if earlier.volume == message.volume:  # whoever began with that has given it up
                self._forget(id)
                part.making.discard(id)
        settings = store_settings(site, [place], part.hosted.is_system)
        self._making[message.replica] = Making(message.volume, place, _begun(site.files, place, settings), settings)
        part.making.add(message.replica)
        return _DONE

    async def _put(self, message: PutRecords, slice: list[tuple[bytes, bytes]]) -> Answer:
        making = self._found(message.replica)
        changes: list[tuple[bytes, bytes | None]] = list(slice)
        await making.records.commit(changes)
        return _DONE

    async def _follow(self, message: Message) -> Answer:
        assert isinstance(message, Follow)
        part, site = self._part(message.volume), self._site
        making = self._found(message.replica)
        self._forget(message.replica)
        try:
            configuration = await site.registry.configuration(message.volume)
            standby = await open_standby(
                site.files,
                site.clock,
                making.place,
                as_configuration(configuration),
                reader(site, message.volume),
                log_id=part.hosted.record.log_id,
                boot=site.boot,
                appliers=APPLIERS,
                settings=making.settings,
                origin=message.origin,
            )
            part.follow(standby)
        finally:
            part.making.discard(message.replica)
        return _DONE

    def _found(self, replica: int) -> Making:
        making = self._making.get(replica)
        if making is None:
            raise NotFound(f"replica {replica:016x} is not being made here")
        return making

    def _forget(self, replica: int) -> None:
        making = self._making.pop(replica, None)
        if making is not None:
            making.records.close()

    # The rest

    async def _checkpoint(self, message: Message) -> Answer:
        """Raises `NotFound` (that replica does not follow here), and what keeps the checkpoint from being made."""
        assert isinstance(message, Checkpoint)
        standby = self._part(message.volume).standbys.get(message.replica)
        if standby is None:
            raise NotFound(f"nobody follows with replica {message.replica:016x} here")
        await standby.follower.reach(Lsn(message.lsn - 1))
        if standby.checkpoints.done.lsn < message.lsn:
            await standby.checkpoints.run_once()
        return _DONE

    def _leave(self, message: Leave, node: int) -> Answer:
        part = self._part(message.volume)
        store = part.hosted.store
        if store is None or part.node_of(message.replica) != node:
            raise NotFound(f"replica {message.replica:016x} of node {node:016x} is no part of a volume that is served here")
        if message.replica in store.log.replica_ids:
            store.log.lose(message.replica, Unavailable("its node is being stopped"))
        return _DONE

    async def _move(self, message: Message) -> Answer:
        assert isinstance(message, Move)
        try:
            await self._volumes.hand_over(message.volume, message.node)
        except SofsError as error:
            log.warning("volume.not_moved", volume=f"{message.volume:016x}", reason=str(error))
            raise
        return _DONE
