"""CREATE_SESSION, DESTROY_SESSION, BIND_CONN_TO_SESSION and BACKCHANNEL_CTL (RFC 8881 18.33, 18.34, 18.36, 18.37).

Requests for the same sequence of CREATE_SESSION are answered alike; only a success counts as one.
"""

import struct
from typing import Annotated, NamedTuple

from gateways.nfs.v4 import departing, records
from gateways.nfs.v4.backchannel import Backchannel, CallbackSecurity, credential_of
from gateways.nfs.v4.clients import principal
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import Outcome
from gateways.nfs.v4.slots import Channel, Session
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import ClientId, SessionId
from gateways.nfs.xdr import U32, Array, Bool

PERSIST, CONN_BACK_CHAN, CONN_RDMA = 1, 2, 4
MAX_REQUEST = MAX_RESPONSE = (1 << 20) + (16 << 10)
"""1 MiB of payload and what stands around it."""
MAX_CACHED = 8 << 10
OPERATIONS = 128
SLOTS = 128
SMALLEST = 128
"""Bytes below which no request or reply makes sense."""
SESSIONS = 64
"""Of one client."""
ALL_SLOTS, SLOTS_OF_ONE_HOST = 65_536, 16_384
"""Of the server, and of all clients from one address: each slot may keep a reply of `MAX_CACHED` bytes."""
_CHANNEL = struct.Struct(">7I")


class ChannelArgs(NamedTuple):
    """channel_attrs4."""

    header_pad: U32
    max_request: U32
    max_response: U32
    max_cached: U32
    operations: U32
    requests: U32
    rdma: Annotated[tuple[int, ...], Array(U32, 1)]


class CreateSessionArgs(NamedTuple):
    """CREATE_SESSION4args."""

    client: ClientId
    sequence: U32
    flags: U32
    fore: ChannelArgs
    back: ChannelArgs
    program: U32
    security: Annotated[tuple[CallbackSecurity, ...], Array(CallbackSecurity, 16)]


def create_session(c: Compound, args: CreateSessionArgs) -> Outcome:
    """18.36.3, its phases in order: record, sequence, confirmation, session."""
    service = c.service
    client = service.clients.numbered.get(args.client)
    if client is None:
        raise Failure(Status.STALE_CLIENTID)
    if client.creating:
        raise Failure(Status.DELAY)
    if args.sequence != client.sequence:
        if client.created is not None and args.sequence == (client.sequence - 1 & 0xFFFFFFFF):
            return client.created
        raise Failure(Status.SEQ_MISORDERED)
    if not client.confirmed and principal(c.credential) != client.principal:
        raise Failure(Status.CLID_INUSE)
    if args.flags & ~(PERSIST | CONN_BACK_CHAN | CONN_RDMA):
        raise Failure(Status.INVAL)
    fore, back = _granted(args.fore, 1), _granted(args.back, 2)
    room = ALL_SLOTS - service.slots.total()
    if client.origin:  # clients from before the server's start share none
        room = min(room, SLOTS_OF_ONE_HOST - service.slots[client.origin])
    if len(client.sessions) >= SESSIONS or room < 1:
        raise Failure(Status.NOSPC)
    fore = fore._replace(requests=min(fore.requests, max(room // 4, 1)))
    flags = args.flags & CONN_BACK_CHAN if c.call.connection.calls_back else 0
    if service.system is not None:
        flags |= args.flags & PERSIST
    id = client.key + service.random.bytes(8)
    session = Session(id, client, flags, fore, Backchannel(back, args.program, credential_of(args.security), c.minor))
    result = struct.pack(">16s2I", id, args.sequence, flags) + _channel(fore) + _channel(back)
    before, former = service.clients.confirm(client), client.created
    client.creating = True
    client.sequence = client.sequence + 1 & 0xFFFFFFFF
    client.created = result
    c.renew(client)
    service.add(session)
    service.bind(session, c.call.connection)
    if flags & CONN_BACK_CHAN:
        service.bind_back(session, c.call.connection)

    def end_before() -> Outcome:
        client.creating = False
        return result if before is None else departing.end_client(service, before, lambda: result)

    def undo() -> None:
        client.creating = False
        client.sequence, client.created = args.sequence, former
        service.remove(session)

    return service.record([records.client_change(client), records.session_change(session)], end_before, undo)


def _granted(asked: ChannelArgs, operations: int) -> Channel:
    """What is granted of a channel. Raises `Failure` for one that could never carry anything."""
    if min(asked.max_request, asked.max_response) < SMALLEST or asked.operations < operations or not asked.requests:
        raise Failure(Status.TOOSMALL)
    return Channel(
        min(asked.max_request, MAX_REQUEST),
        min(asked.max_response, MAX_RESPONSE),
        min(asked.max_cached, MAX_CACHED),
        min(asked.operations, OPERATIONS),
        min(asked.requests, SLOTS),
    )


def _channel(channel: Channel) -> bytes:
    return _CHANNEL.pack(0, *channel, 0)


class DestroySessionArgs(NamedTuple):
    """DESTROY_SESSION4args."""

    session: SessionId


def destroy_session(c: Compound, args: DestroySessionArgs) -> Outcome:
    """18.37.3: in a COMPOUND of the session itself it must come last; the connection must be one of the session's."""
    session = c.service.sessions.get(args.session)
    if session is None:
        raise Failure(Status.BADSESSION)
    if session is c.session and c.index + 1 < c.count:
        raise Failure(Status.NOT_ONLY_OP)
    if c.call.connection not in session.connections:
        raise Failure(Status.CONN_NOT_BOUND_TO_SESSION)
    if any(slot.busy for slot in session.slots if slot is not c.slot):
        raise Failure(Status.DELAY)
    return departing.forget_session(c.service, session, lambda: b"")


class BindArgs(NamedTuple):
    """BIND_CONN_TO_SESSION4args."""

    session: SessionId
    direction: U32
    rdma: Bool


FORE, BACK, BOTH, FORE_OR_BOTH, BACK_OR_BOTH = 1, 2, 3, 3, 7
"""channel_dir_from_client4 and channel_dir_from_server4."""
_GRANTED = {FORE: FORE, BACK: BACK, FORE_OR_BOTH: BOTH, BACK_OR_BOTH: BOTH}


def bind_conn_to_session(c: Compound, args: BindArgs) -> Outcome:
    session = c.service.sessions.get(args.session)
    if session is None:
        raise Failure(Status.BADSESSION)
    granted = _GRANTED.get(args.direction)
    if not c.call.connection.calls_back and args.direction != BACK:
        granted = granted and FORE  # the session's callbacks go over connections to its home
    elif not c.call.connection.calls_back:
        granted = None
    if granted is None:
        raise Failure(Status.INVAL)
    c.renew(session.client)
    connection = c.call.connection
    if granted & FORE and connection not in session.connections:
        c.service.bind(session, connection)
    if granted & BACK:
        c.service.bind_back(session, connection)
    return struct.pack(">16s2I", session.id, granted, 0)


class BackchannelArgs(NamedTuple):
    """BACKCHANNEL_CTL4args."""

    program: U32
    security: Annotated[tuple[CallbackSecurity, ...], Array(CallbackSecurity, 16)]


def backchannel_ctl(c: Compound, args: BackchannelArgs) -> Outcome:
    assert c.session is not None
    session: Session = c.session
    session.back.program = args.program
    session.back.security = credential_of(args.security)
    return c.service.record([records.session_change(session)], lambda: b"")
