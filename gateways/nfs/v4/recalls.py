"""Delegations on their way back: CB_RECALL (RFC 8881 10.4, 20.2), its repetition, and what is taken away from a client that does not answer."""

import struct
from typing import TYPE_CHECKING

import structlog

from gateways.nfs.v4.stateids import DELEGATION, Held, other_of
from gateways.nfs.v4.status import Status
from gateways.nfs.xdr import pad
from sofs.errors import Unavailable
from sofs.types import OpenId, VolumeId
from sofs.volume.api import Caller, Found, GetAttributes, Recall, Reply, Stateless

if TYPE_CHECKING:
    from gateways.nfs.v4.clients import Client
    from gateways.nfs.v4.service import Service

log = structlog.get_logger("nfs")

CB_RECALL = 4
AGAIN_S = 1.0
"""Before a callback that the client put off, or did not understand, is repeated."""


def recall(service: "Service", volume: VolumeId, recall: Recall) -> None:
    """A volume wants a delegation back. What cannot be asked for now is asked for when its client has a backchannel again (`repeat`)."""
    client = _owner(service, recall.key)
    if client is None:
        return
    other = other_of(volume, recall.delegation)
    held = client.states.get(other)
    if held is None and not client.restored:
        client.wanted.add(other)  # nobody has heard of the client since the restart
    if held is None or held.recalled:
        return
    held.recalled = True
    service.begin(_ask(service, client, held), "recall")


def catch_up(service: "Service", client: "Client") -> None:
    """What the client had before the restart is known now: it is asked for what has been recalled meanwhile."""
    for other in client.wanted:
        held = client.states.get(other)
        if held is not None and not held.recalled:
            held.recalled = True
            service.begin(_ask(service, client, held), "recall")
    client.wanted.clear()


def repeat(service: "Service", client: "Client") -> None:
    """The client can be called again."""
    for held in client.states.values():
        if held.kind == DELEGATION and held.recalled and not held.revoked:
            service.begin(_ask(service, client, held), "recall")


async def _ask(service: "Service", client: "Client", held: Held) -> None:
    if held.asking:
        return
    held.asking = True
    try:
        await _ask_for(service, client, held)
    finally:
        held.asking = False


async def _ask_for(service: "Service", client: "Client", held: Held) -> None:
    """Asks until the client has understood; the delegation comes back by DELEGRETURN. A client that never does loses it (`revoked`).

    What it answers otherwise may be over in a moment: who has not had the reply to its OPEN yet, perhaps because that is to come from another node now, knows
    nothing of the delegation (BADHANDLE, BAD_STATEID) or puts the callback off (20.9.3).
    """
    handles = [held.handle] if held.handle else await _handles_for(service, held)
    while not held.revoked and held.other in client.states:
        for handle in handles:  # the file may have been opened in any of these exports
            session = next((session for session in client.sessions.values() if session.back.live), None)
            if session is None:
                return
            arguments = struct.pack(">I12s2I", held.sequence, held.other, 0, len(handle)) + handle + pad(len(handle))
            try:
                status = await session.back.call(service, session, CB_RECALL, arguments, held.granted)
            except Unavailable as error:
                log.info("nfs4.recall_unanswered", client=client.id, reason=str(error))
                break
            if status == Status.OK:
                return
            if status not in (Status.BADHANDLE, Status.STALE):
                break
        await service.clock.sleep(AGAIN_S)


async def _handles_for(service: "Service", held: Held) -> list[bytes]:
    """The filehandles that a delegation from before a restart may have been given with: one for each export of its volume.

    Raises `Unavailable`, `Stale`.
    """
    exports = [share.number for share in service.shares.all() if share.volume == held.volume and share.nfs.enabled]
    if not exports:
        raise Unavailable("the export of the delegation is gone")
    target = Stateless(held.inode, Caller(0, 0, privileged=True))
    reply = service.volume(held.volume).call(GetAttributes(target), None, service.by)
    found = reply if isinstance(reply, Reply) else await reply
    assert isinstance(found, Found)
    return [service.handles.make(export, held.volume, held.inode, found.attributes.generation) for export in exports]


def revoked(service: "Service", volume: VolumeId, key: bytes, delegation: OpenId) -> None:
    """The client did not give the delegation back in time: it is told with its next SEQUENCE, and frees the stateid."""
    client = _owner(service, key)
    held = client.states.get(other_of(volume, delegation)) if client is not None else None
    if client is not None and held is not None and not held.revoked:
        held.revoked = True
        client.revoked += 1


def _owner(service: "Service", key: bytes) -> "Client | None":
    """A delegation's key is its client's."""
    return service.clients.numbered.get(int.from_bytes(key)) if len(key) == 8 else None
