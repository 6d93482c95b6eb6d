"""SESSION_SETUP, MS-SMB2 3.3.5.5: logging on, and logging on again in the same session.

Binding a session to another connection is not offered.
"""

import struct

from gateways.smb.auth import Logon, Principal
from gateways.smb.commands.negotiate import SIGNING_REQUIRED
from gateways.smb.crypto import CipherId, Dialect, Keys, Preauth, Sealer, signer
from gateways.smb.exchange import Exchange
from gateways.smb.handle import Session
from gateways.smb.header import HEADER_SIZE
from gateways.smb.status import Failure, Status
from gateways.smb.wire import part

_REQUEST = struct.Struct("<HBBIIHHQ")  # size, flags, security mode, capabilities, channel, token at, length, previous session
_REPLY = struct.Struct("<HHHH")
_BINDING = 1
MAX_LOGONS = 8
"""Logons of one connection in progress: strangers must not use up the sessions of all."""
_FLAG_NULL, _FLAG_ENCRYPT = 2, 4


def handle(exchange: Exchange) -> bytes:
    connection = exchange.connection
    _, flags, mode, _, _, at, length, previous = exchange.unpack(_REQUEST)
    token = bytes(part(exchange.message, at, length, "the token"))
    if flags & _BINDING:
        raise Failure(Status.REQUEST_NOT_ACCEPTED)
    session = _session(exchange)
    if session.logon is None:
        session.logon = Logon(connection.service.identities, connection.service.settings.name)
        if connection.dialect is Dialect.SMB_3_1_1 and not session.ready:
            session.preauth = Preauth(connection.preauth.value)
    if session.preauth is not None:
        session.preauth.add(exchange.message)
    try:
        answer = session.logon.step(token)
    except Failure:
        session.logon = None
        # A failed second logon ends the session too: its user is no longer proven.
        connection.service.end_session(session)
        raise
    principal = session.logon.principal
    if principal is None:
        exchange.status = Status.MORE_PROCESSING_REQUIRED
        return _body(0, answer)
    session.logon = None
    _complete(exchange, session, principal, mode, previous)
    return _body((_FLAG_NULL if session.anonymous else 0) | (_FLAG_ENCRYPT if session.encrypt else 0), answer)


def _session(exchange: Exchange) -> Session:
    connection = exchange.connection
    session = connection.sessions.get(exchange.session_id)
    if session is None:
        if exchange.session_id:
            raise Failure(Status.USER_SESSION_DELETED)
        from gateways.smb.connection import MAX_SESSIONS

        sessions = connection.sessions
        room = len(sessions) < MAX_SESSIONS and sum(not each.ready for each in sessions.values()) < MAX_LOGONS
        session = connection.service.new_session(connection) if room else None
        if session is None:
            raise Failure(Status.INSUFFICIENT_RESOURCES)
        exchange.session_id = session.number
    exchange.session = session
    return session


def _complete(exchange: Exchange, session: Session, principal: Principal, mode: int, previous: int) -> None:
    """The user is known: keys, signing and encryption are settled for the session's life."""
    connection = exchange.connection
    service = connection.service
    settings = service.settings
    if session.ready and session.signer is None and not principal.anonymous:
        # An anonymous session has no keys and gets none later: as a user's it would go unprotected.
        service.end_session(session)
        raise Failure(Status.ACCESS_DENIED)
    session.user, session.caller, session.anonymous = principal.name, principal.caller, principal.anonymous
    session.account = principal.account
    if session.ready:
        return  # a later logon changes the user, never the keys
    if principal.anonymous and not settings.anonymous:
        service.end_session(session)
        raise Failure(Status.ACCESS_DENIED)
    if not principal.anonymous:
        _derive(exchange, session, principal)
        required = mode | connection.client_security_mode
        session.signing = settings.signing_required or bool(required & SIGNING_REQUIRED)
        exchange.signer = session.signer
        if settings.encryption == "required":
            if session.sealer is None:
                service.end_session(session)
                raise Failure(Status.ACCESS_DENIED)
            session.encrypt = True
        connection.authenticated = True
    session.preauth = None
    session.ready = True
    if previous and previous != session.number:
        old = service.sessions.get(previous)
        if old is not None and old.ready and old.user == session.user and not old.anonymous:
            service.end_session(old)


def _derive(exchange: Exchange, session: Session, principal: Principal) -> None:
    connection = exchange.connection
    assert connection.dialect is not None
    context = session.preauth.value if session.preauth is not None else b""
    keys = Keys(connection.dialect, principal.session_key, context, connection.cipher or CipherId.AES_128_GCM)
    session.signer = signer(connection.signing, keys.signing)
    session.application_key = keys.application
    if connection.cipher is not None:
        session.sealer = Sealer(connection.cipher, keys.to_client, keys.to_server, session.number)


def _body(flags: int, token: bytes) -> bytes:
    return _REPLY.pack(9, flags, HEADER_SIZE + _REPLY.size, len(token)) + token
