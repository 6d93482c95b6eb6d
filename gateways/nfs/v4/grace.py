"""Grace: a volume may have lost what clients had there, and those who had it have yet to reclaim it (RFC 8881 8.4.2).

A client has lost something where the volume has another verifier than when the client first had state there. A volume's grace ends when nobody has anything
to reclaim there any more, in this group and in all others.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from gateways.nfs.v4 import records
from gateways.nfs.v4.operation import Ask, Outcome
from sofs.types import VolumeId
from sofs.volume.api import ClientStates, EndGrace, EndUnclaimed, ListRecords, Volume

if TYPE_CHECKING:
    from gateways.nfs.v4.clients import Client
    from gateways.nfs.v4.service import Service


def check_lost(service: "Service", client: "Client", id: VolumeId) -> bool:
    """Whether the volume may have lost what the client had there since it came; it is then to reclaim it."""
    volume, verifier = service.known_volume(id), client.volumes.get(id)
    if volume is None or verifier is None or volume.verifier in (verifier, 0):
        return False
    client.lost.add(id)
    client.reclaimed = False
    return True


def awaits_reclaim(service: "Service", id: VolumeId) -> bool:
    """Whether clients have yet to reclaim what they had in the volume."""
    return any(id in client.lost for client in service.clients.numbered.values())


def reclaimed(service: "Service", client: "Client", then: Callable[[], Outcome]) -> Outcome:
    """The client has reclaimed all it had (18.51): whatever else it had by the volumes' records ends."""
    if client.lost:
        return _end_unclaimed(service, client, sorted(client.lost), lambda: _complete(service, client, then))
    return _complete(service, client, then)


def _end_unclaimed(service: "Service", client: "Client", ids: Sequence[VolumeId], then: Callable[[], Outcome]) -> Outcome:
    if not ids:
        return then()

    def ended(found: ClientStates) -> Outcome:
        left = {state.id for state in found.states}
        for other, held in list(client.states.items()):
            if held.volume == ids[0] and held.id not in left:
                del client.states[other]
        return _end_unclaimed(service, client, ids[1:], then)

    return Ask(service.volume(ids[0]), EndUnclaimed(client.key), ended)


def _complete(service: "Service", client: "Client", then: Callable[[], Outcome]) -> Outcome:
    lost, client.lost, client.reclaimed = client.lost, set(), True
    for id in lost:
        client.volumes[id] = service.volume(id).verifier
    return service.record([records.client_change(client)], lambda: end(service, sorted(lost), then))


def end(service: "Service", ids: Sequence[VolumeId], then: Callable[[], Outcome]) -> Outcome:
    """Ends the grace of those volumes where no client has anything to reclaim any more. One that is in none does not mind."""
    for place, id in enumerate(ids):
        volume = service.known_volume(id)
        if volume is not None and id not in service.runs_out and not awaits_reclaim(service, id):
            return _unless_others_reclaim(service, volume, partial(end, service, ids[place + 1 :], then))
    return then()


def _unless_others_reclaim(service: "Service", volume: Volume, then: Callable[[], Outcome]) -> Outcome:
    """Ends a volume's grace if no client of another group has anything to reclaim there, as their records say."""
    end = Ask(volume, EndGrace(), lambda _: then())
    if service.alone or service.system is None:
        return end

    def look(found: Any) -> Outcome:
        return then() if _others_reclaim(service, volume, found.records) else end

    return Ask(service.system, ListRecords(records.CLIENTS), look)


def _others_reclaim(service: "Service", volume: Volume, found: Sequence[tuple[bytes, bytes]]) -> bool:
    for key, value in found:
        client = records.read_client(key, value, 0.0)
        if not service.mine(client.key) and client.volumes.get(volume.id, volume.verifier) != volume.verifier:
            return True
    return False
