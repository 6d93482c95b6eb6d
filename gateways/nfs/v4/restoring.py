"""What volumes know of a client and its sessions from before the server's start, or its group's move: stateids and slots' tokens.

They are fetched with the client's first request, and again when there may be more to know.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gateways.nfs.v4 import grace, recalls, stateids
from gateways.nfs.v4.operation import Ask, Outcome
from sofs.types import VolumeId
from sofs.volume.api import ClientStates, FenceGateway, ListClient, ListSlots, Reply, Slots, Volume

if TYPE_CHECKING:
    from gateways.nfs.v4.clients import Client
    from gateways.nfs.v4.service import Service
    from gateways.nfs.v4.slots import Session


def restore_session(service: "Service", session: "Session", then: Callable[[], Outcome]) -> Outcome:
    """Fetches what the volumes know of a session and its client. Raises `Unavailable`."""
    client = session.client
    volumes = [service.volume(id) for id in sorted(client.volumes)]
    doubts = session.doubts

    def done() -> Outcome:
        if session.doubts != doubts:
            return restore_session(service, session, then)
        session.restored = True
        return then()

    return restore_client(service, client, lambda: _fetch(session, volumes, done) if session.resumed else done())


def restore_client(service: "Service", client: "Client", then: Callable[[], Outcome]) -> Outcome:
    """Rebuilds the client's stateids. Raises `Unavailable`."""
    return then() if client.restored else _list(service, client, [service.volume(id) for id in sorted(client.volumes)], then)


def _list(service: "Service", client: "Client", volumes: Sequence[Volume], then: Callable[[], Outcome]) -> Outcome:
    if not volumes:
        client.restored = True
        recalls.catch_up(service, client)
        return then()
    volume = volumes[0]

    def answer(found: ClientStates) -> Outcome:
        grace.check_lost(service, client, volume.id)
        stateids.restore(client, volume.id, found.states)
        return _list(service, client, volumes[1:], then)

    return _fenced(service, volume, lambda: Ask(volume, ListClient(client.key), answer))


def _fenced(service: "Service", volume: Volume, then: Callable[[], Outcome]) -> Outcome:
    """Goes on once the group's former homes are shut out of a volume."""
    left = list(service.fences) if volume.id not in service.shut else []

    def next_one(_: Reply | None) -> Outcome:
        if left:
            return Ask(volume, FenceGateway(left.pop()), next_one)
        service.shut.add(volume.id)
        return then()

    return next_one(None)


def _fetch(session: "Session", volumes: Sequence[Volume], then: Callable[[], Outcome]) -> Outcome:
    """Asks the volumes for the session's tokens, one after the other."""
    if not volumes:
        return then()

    def answer(found: Slots) -> Outcome:
        session.restore(found.slots)
        return _fetch(session, volumes[1:], then)

    return Ask(volumes[0], ListSlots(session.id), answer)


def resumed(service: "Service", volume: VolumeId) -> None:
    """The volume is served again. What clients have there is what it was, unless it has another verifier now."""
    for client in service.clients.numbered.values():
        if client.restored and grace.check_lost(service, client, volume):
            # Whatever is left of its states is asked for with its next request.
            for other in [other for other, held in client.states.items() if held.volume == volume]:
                del client.states[other]
            client.restored = False
            for session in client.sessions.values():
                session.doubt()
