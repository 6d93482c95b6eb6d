"""How a node becomes the home of a group: what its clients and sessions were is read from records, and whoever was the home before is shut out.

A restart is that, too: the former home is then the former start of this node's process. First the former homes are fenced at the system volume, so that
what is read there stays as it is; then the records are read. Each volume that they name is fenced before it is asked for the states and tokens that clients
have there, which is done with a client's first request. So nothing that a former home still has in memory, or on the way, takes effect any more.
"""

from typing import TYPE_CHECKING

import structlog

from gateways.nfs.v4 import grace, records
from gateways.nfs.v4.backchannel import Backchannel
from gateways.nfs.v4.clients import FIRST_GROUP, group_of
from gateways.nfs.v4.slots import Channel, Session
from sofs.errors import NotSupported
from sofs.types import VolumeId
from sofs.volume.api import BeginGrace, ClientList, EndClient, FenceGateway, ForgetSession, ListClients, ListRecords, Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateways.nfs.v4.service import Service

log = structlog.get_logger("nfs")

CREATE_CONN_BACK_CHAN = 2
"""CREATE_SESSION4_FLAG_CONN_BACK_CHAN."""


async def load(service: "Service") -> None:
    """Brings back clients and sessions from their records. Raises `SofsError`."""
    system = service.system
    if system is None:
        return
    try:
        await _shut_out(service, system)
        await _read(service, system)
    except NotSupported as error:
        log.warning("nfs4.sessions_not_kept", reason=str(error))
        service.keeps_nothing()


async def _read(service: "Service", system: Volume) -> None:
    now = service.clock.boottime()
    # Ids from before there were groups begin with anything, and are the first group's.
    prefix = b"" if service.group == FIRST_GROUP else service.group.to_bytes(2)
    for key, value in (await service.ask(system, ListRecords(records.CLIENTS + prefix))).records:
        client = records.read_client(key, value, now)
        if service.mine(client.key):
            service.clients.add(client)
            for id in client.volumes:
                grace.check_lost(service, client, id)
    for key, value in (await service.ask(system, ListRecords(records.SESSIONS + prefix))).records:
        record = records.read_session(value)
        owner = service.clients.numbered.get(record.client)
        if owner is None:
            continue
        back = Backchannel(Channel(*record.back), record.program, record.security, record.minor)
        back.resume(record.sequences)
        session = Session(key[len(records.SESSIONS) :], owner, record.flags, Channel(*record.fore), back)
        session.resumed, session.restored = True, not owner.volumes
        owner.called_back = owner.called_back or bool(record.flags & CREATE_CONN_BACK_CHAN)
        service.add(session)
        for slot, call in service.under_way.left_of(session.id):
            session.wait_for(slot, call)
    log.info("nfs4.loaded", group=service.group, clients=len(service.clients.numbered), sessions=len(service.sessions))


async def settle(service: "Service", id: VolumeId) -> None:
    """Begins to hear a volume, whose recalls count from now on, before the first client has come back; ends in it what belongs to clients of the group
    whose records are lost; ends its grace if nobody has anything to reclaim. Raises `SofsError`."""
    volume = service.known_volume(id)
    if volume is None:
        return
    service.volume(id)
    await _shut_out(service, volume)
    await _end_unknown(service, volume)
    await service.perform(grace.end(service, [id], lambda: b""))


async def _shut_out(service: "Service", volume: Volume) -> None:
    if volume.id not in service.shut:
        for gateway in service.fences:
            await service.ask(volume, FenceGateway(gateway))
        service.shut.add(volume.id)


async def _end_unknown(service: "Service", volume: Volume) -> None:
    """Ends what a volume has of clients and sessions whose records are lost: nobody else ever would. They may come again, and reclaim it first."""
    found: ClientList = await service.ask(volume, ListClients())
    for session in found.sessions:
        if service.mine(session) and session not in service.sessions:
            await service.ask(volume, ForgetSession(session))
    unknown = [client for client in found.clients if service.mine(client) and int.from_bytes(client) not in service.clients.numbered]
    if not unknown:
        return
    log.warning("nfs4.clients_unknown", volume=volume.name, clients=len(unknown))
    await service.ask(volume, BeginGrace())
    service.runs_out.add(volume.id)
    for client in unknown:
        await service.ask(volume, EndClient(client))


def is_of(group: int, known: "Callable[[int], bool]", id: bytes) -> bool:
    """Whether a client's key or session id is a group's. What names no group there is belongs to the first."""
    named = group_of(id)
    return named == group or (group == FIRST_GROUP and not known(named))
