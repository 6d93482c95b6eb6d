"""SESSION_SETUP, MS-SMB2 3.3.5.5: logging on, logging on again in the same session, and binding the session to another connection."""

import struct
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from gateways.smb.auth import Logon, Principal
from gateways.smb.commands.negotiate import SIGNING_REQUIRED
from gateways.smb.crypto import CipherId, Dialect, Keys, Preauth, Sealer, SigningAlgorithm, signer, verify
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.handle import Channel, Session
from gateways.smb.header import FLAG_SIGNED, HEADER_SIZE
from gateways.smb.status import Failure, Status
from gateways.smb.wire import part
from sofs.errors import PeerError

if TYPE_CHECKING:
    from gateways.smb.connection import Connection

_REQUEST = struct.Struct("<HBBIIHHQ")  # size, flags, security mode, capabilities, channel, token at, length, previous session
_REPLY = struct.Struct("<HHHH")
_BINDING = 1
MAX_LOGONS = 8
"""Logons of one connection in progress: strangers must not use up the sessions of all."""
MAX_CHANNELS = 32
"""Of one session, as Windows has it."""
SESSIONS_OF_USER = 1024
_FLAG_NULL, _FLAG_ENCRYPT = 2, 4


def handle(exchange: Exchange) -> bytes | Coroutine[Any, Any, Answer]:
    connection = exchange.connection
    _, flags, mode, _, _, at, length, previous = exchange.unpack(_REQUEST)
    token = bytes(part(exchange.message, at, length, "the token"))
    channel = _bind(exchange) if flags & _BINDING else _channel(exchange)
    session = channel.session
    exchange.session, exchange.channel = session, channel
    if channel.logon is None:
        channel.logon = _logon(connection)
    if channel.preauth is not None and not flags & _BINDING:
        channel.preauth.add(exchange.message)
    try:
        answer = channel.logon.step(token)
    except Failure:
        channel.logon = None
        _give_up(exchange, channel)
        raise
    principal = channel.logon.principal
    if principal is None:
        exchange.status = Status.MORE_PROCESSING_REQUIRED
        return _body(0, answer)
    channel.logon = None
    if session.ready and not channel.ready:
        _join(exchange, channel, principal)
    else:
        begins = not session.ready
        _complete(exchange, channel, principal, mode)
        if begins and previous and previous != session.number and not connection.service.end_previous(previous, session.user):
            return _end_elsewhere(exchange, previous, _done(session, answer))
    return _done(session, answer)


def _done(session: Session, token: bytes) -> bytes:
    return _body((_FLAG_NULL if session.anonymous else 0) | (_FLAG_ENCRYPT if session.encrypt else 0), token)


async def _end_elsewhere(exchange: Exchange, previous: int, body: bytes) -> Answer:
    """The client's former session was another node's: it is told of the new one when that has ended."""
    service, session = exchange.connection.service, exchange.session
    if not session.anonymous:
        await service.neighbours.end_session(previous, session.user, service.volumes(), session.binding)
    return body


def _logon(connection: "Connection") -> Logon:
    service, peer = connection.service, connection.client
    return Logon(
        service.identities,
        service.settings.name,
        lambda user: service.guesses.too_many(peer, user, service.clock.monotonic()),
        lambda user: service.guesses.failed(peer, user, service.clock.monotonic()),
    )


def _give_up(exchange: Exchange, channel: Channel) -> None:
    """A failed logon ends the session, also a second one: its user is no longer proven. A failed binding ends nothing but itself."""
    service = exchange.connection.service
    if channel.session.ready and not channel.ready:
        service.end_channel(channel)
    else:
        service.end_session(channel.session)


def _channel(exchange: Exchange) -> Channel:
    """The session's channel here; a session of its own for a new logon."""
    connection = exchange.connection
    channel = connection.channels.get(exchange.session_id)
    if channel is not None and (channel.ready or not channel.session.ready):
        return channel
    if exchange.session_id:
        raise Failure(Status.USER_SESSION_DELETED)
    from gateways.smb.connection import MAX_SESSIONS

    known = connection.channels
    room = len(known) < MAX_SESSIONS and sum(not each.ready for each in known.values()) < MAX_LOGONS
    channel = connection.service.new_session(connection) if room else None
    if channel is None:
        raise Failure(Status.INSUFFICIENT_RESOURCES)
    exchange.session_id = channel.session.number
    _hash_from_here(channel)
    return channel


def _hash_from_here(channel: Channel) -> None:
    if channel.connection.dialect is Dialect.SMB_3_1_1:
        channel.preauth = Preauth(channel.connection.preauth.value)


# Binding a session to one more connection


def _bind(exchange: Exchange) -> Channel:
    """The channel that is being made. Raises `Failure` where session and connection do not go together, MS-SMB2 3.3.5.5.2."""
    connection = exchange.connection
    service = connection.service
    session = service.sessions.get(exchange.session_id)
    if not exchange.session_id:
        raise Failure(Status.INVALID_PARAMETER)
    if session is None or not session.ready:
        raise Failure(Status.USER_SESSION_DELETED if session is None else Status.REQUEST_NOT_ACCEPTED)
    if exchange.sealed is not None and exchange.sealed is not session:
        raise PeerError("a session is to be bound by a message that is encrypted under another's key")
    channel = connection.channels.get(session.number)
    if channel is not None and channel.preauth is not None:
        channel.preauth.add(exchange.message)  # as it came: `verify` takes the signature out
    first = None
    if channel is None and connection.dialect is Dialect.SMB_3_1_1:
        first = Preauth(connection.preauth.value)
        first.add(exchange.message)
    signed = bool(exchange.flags & FLAG_SIGNED)
    if signed and exchange.sealed is None and (channel is None or not channel.ready):
        exchange.signer = session.signer
        if session.signer is not None and not verify(session.signer, exchange.message, exchange.message_id):
            raise Failure(Status.ACCESS_DENIED)
    _compatible(exchange, session, signed)
    if channel is None:
        if len(session.channels) >= MAX_CHANNELS:
            raise Failure(Status.INSUFFICIENT_RESOURCES)
        channel = service.add_channel(session, connection)
        channel.preauth = first
    elif channel.ready:
        raise Failure(Status.REQUEST_NOT_ACCEPTED)
    return channel


def _compatible(exchange: Exchange, session: Session, signed: bool) -> None:
    connection = exchange.connection
    assert connection.dialect is not None and session.dialect is not None
    if session.signing_algorithm != connection.signing and SigningAlgorithm.AES_GMAC in (session.signing_algorithm, connection.signing):
        # Like Windows: GMAC on all channels of a session, or on none.
        raise Failure(Status.REQUEST_OUT_OF_SEQUENCE if session.signing_algorithm is SigningAlgorithm.AES_GMAC else Status.NOT_SUPPORTED)
    if connection.dialect < Dialect.SMB_3_0:
        raise Failure(Status.REQUEST_NOT_ACCEPTED)
    if not signed or session.dialect is not connection.dialect or session.cipher != connection.cipher:
        raise Failure(Status.INVALID_PARAMETER)
    if session.anonymous:
        raise Failure(Status.NOT_SUPPORTED)
    if session.expires and connection.service.clock.monotonic() > session.expires:
        raise Failure(Status.NETWORK_SESSION_EXPIRED)


def _join(exchange: Exchange, channel: Channel, principal: Principal) -> None:
    """The same user has logged on at another connection of the session: it gets a signing key of its own."""
    session = channel.session
    if principal.anonymous or principal.name != session.user:
        exchange.connection.service.end_channel(channel)
        raise Failure(Status.ACCESS_DENIED)
    channel.signer = exchange.signer = signer(channel.connection.signing, _keys(channel, principal).signing)
    channel.preauth = None
    channel.ready = True
    channel.connection.authenticated = True


# Completing a logon


def _complete(exchange: Exchange, channel: Channel, principal: Principal, mode: int) -> None:
    """The user is known: keys, signing and encryption are settled for the session's life."""
    connection = exchange.connection
    service = connection.service
    settings = service.settings
    session = channel.session
    if session.ready and session.signer is None and not principal.anonymous:
        # An anonymous session has no keys and gets none later: as a user's it would go unprotected.
        service.end_session(session)
        raise Failure(Status.ACCESS_DENIED)
    session.user, session.caller, session.anonymous = principal.name, principal.caller, principal.anonymous
    if principal.account is not None:
        session.accounts[principal.name] = principal.account
        service.guesses.succeeded(connection.client, principal.name)
    if settings.session_lifetime_s:
        session.expires = service.clock.monotonic() + settings.session_lifetime_s
    if session.ready:
        return  # a later logon changes the user, never the keys
    session.dialect, session.signing_algorithm, session.cipher = connection.dialect, connection.signing, connection.cipher
    if not principal.anonymous and len(service.sessions_of(principal.name)) >= SESSIONS_OF_USER:
        service.end_session(session)
        raise Failure(Status.TOO_MANY_SESSIONS)
    if principal.anonymous and (not settings.anonymous or settings.encryption == "required"):
        service.end_session(session)
        raise Failure(Status.ACCESS_DENIED)
    if not principal.anonymous:
        _protect(channel, principal)
        required = mode | connection.client_security_mode
        session.signing = settings.signing_required or bool(required & SIGNING_REQUIRED)
        exchange.signer = channel.signer
        if settings.encryption == "required":
            if session.sealer is None:
                service.end_session(session)
                raise Failure(Status.ACCESS_DENIED)
            session.encrypt = True
        connection.authenticated = True
    channel.preauth = None
    session.ready = channel.ready = True


def _protect(channel: Channel, principal: Principal) -> None:
    session, connection = channel.session, channel.connection
    keys = _keys(channel, principal)
    session.signer = channel.signer = signer(connection.signing, keys.signing)
    if connection.cipher is not None:
        session.sealer = Sealer(connection.cipher, keys.to_client, keys.to_server, session.number)


def _keys(channel: Channel, principal: Principal) -> Keys:
    connection = channel.connection
    assert connection.dialect is not None
    context = channel.preauth.value if channel.preauth is not None else b""
    return Keys(connection.dialect, principal.session_key, context, connection.cipher or CipherId.AES_128_GCM)


def _body(flags: int, token: bytes) -> bytes:
    return _REPLY.pack(9, flags, HEADER_SIZE + _REPLY.size, len(token)) + token
