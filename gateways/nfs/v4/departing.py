"""The end of clients and sessions, whether they ask for it (RFC 8881 18.37, 18.50) or their lease has run out (8.3)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from gateways.nfs.v4 import grace, records
from gateways.nfs.v4.operation import Ask, Outcome
from sofs.volume.api import EndClient, ForgetSession, Reply, Volume

if TYPE_CHECKING:
    from gateways.nfs.v4.clients import Client
    from gateways.nfs.v4.service import Service
    from gateways.nfs.v4.slots import Session

log = structlog.get_logger("nfs")


def end_client(service: "Service", client: "Client", then: Callable[[], Outcome]) -> Outcome:
    """Ends a client with everything it has; its records go last, so that a crash in between is made good by its lease running out."""
    forgotten = records.forget_client(client)
    for session in tuple(client.sessions.values()):
        service.remove(session)
    service.clients.remove(client)
    client.ended = True
    sessions = [key[len(records.SESSIONS) :] for key, _ in forgotten[1:]]

    def gone() -> Outcome:
        return grace.end(service, sorted(client.lost), then)

    return _end(client, sessions, _volumes(service, client), lambda: service.record(forgotten, gone) if client.confirmed else gone())


def _volumes(service: "Service", client: "Client") -> list[Volume]:
    """Those that the client has been in, and that there still are."""
    return [volume for volume in map(service.known_volume, sorted(client.volumes)) if volume is not None]


def _end(client: "Client", sessions: Sequence[bytes], volumes: Sequence[Volume], then: Callable[[], Outcome]) -> Outcome:
    if not volumes:
        return then()
    volume, others = volumes[0], volumes[1:]
    steps = [Ask(volume, ForgetSession(session), lambda _: b"") for session in sessions]

    def forget(_: Reply) -> Outcome:
        if steps:
            return steps.pop()._replace(answer=forget)
        return _end(client, sessions, others, then)

    return Ask(volume, EndClient(client.key), forget)


def forget_session(service: "Service", session: "Session", then: Callable[[], Outcome]) -> Outcome:
    """Ends a session, and with it its tokens and its record."""
    service.remove(session)

    def forget(left: Sequence[Volume]) -> Outcome:
        if not left:
            return service.record([records.forget_session(session.id)], then)
        return Ask(left[0], ForgetSession(session.id), lambda _: forget(left[1:]))

    return forget(_volumes(service, session.client))


def expire(service: "Service", late_s: float) -> None:
    """Ends clients whose lease has run out (8.3). `late_s` is for how long nobody could be heard here: who could not be has not been silent."""
    limit = service.clock.boottime() - service.lease_s
    for client in tuple(service.clients.numbered.values()):
        client.renewed += late_s
        if client.renewed < limit and not client.waiting:
            if client.confirmed:
                log.info("nfs4.lease_expired", client=client.id, owner=client.owner)
            service.begin(service.perform(end_client(service, client, lambda: b"")), "expiry")
