"""What a request must show before its handler runs: session, signature, tree and file, as its rule says.

MS-SMB2 3.3.5.2.4 (signature), 3.3.5.2.9 (session), 3.3.5.2.10 (channel sequence), 3.3.5.2.11 (tree), 3.3.5.2.7 (compounds).
"""

import structlog

from gateways.smb.crypto import Dialect, verify
from gateways.smb.exchange import BODY, Exchange
from gateways.smb.handle import Channel, Handle
from gateways.smb.header import ANY_FILE, FILE_ID, FLAG_RELATED, FLAG_REPLAY, FLAG_SIGNED, Command
from gateways.smb.status import Failure, Status, is_error
from gateways.smb.wire import U16, DecodeError
from sofs.errors import PeerError

log = structlog.get_logger("smb")

_WHILE_EXPIRED = frozenset({Command.SESSION_SETUP, Command.LOGOFF, Command.CLOSE, Command.LOCK, Command.ECHO, Command.OPLOCK_BREAK})
"""Also of a session whose user has to log on again: they give something back, or are the logon."""


def admit(exchange: Exchange) -> None:
    """Finds what the request refers to. Raises `Failure`."""
    rule = exchange.rule
    before = exchange.related
    if before is not None:
        exchange.session_id, exchange.tree_id = before.session_id, before.tree_id
    channel = exchange.connection.channels.get(exchange.session_id)
    if channel is not None:
        exchange.session = session = channel.session
        _authenticate(exchange, channel)
        if session.expires and exchange.connection.service.clock.monotonic() > session.expires:
            _expired(exchange)
    if exchange.flags & FLAG_RELATED:
        if before is None or channel is None or not channel.ready:
            raise Failure(Status.INVALID_PARAMETER)
        if before.rule.tree and not hasattr(before, "tree"):
            raise Failure(Status(before.status))  # it did not get as far as its share, so neither does this
    if rule.session and (channel is None or not channel.ready):
        raise Failure(Status.USER_SESSION_DELETED)
    if not rule.size:
        raise Failure(Status.INVALID_PARAMETER)
    if rule.waits and exchange.connection.crowded:
        raise Failure(Status.INSUFFICIENT_RESOURCES)
    message = exchange.message
    # The structure size tells the fixed part, and one byte of the variable part if there is one.
    if len(message) < rule.least or ((size := U16.unpack_from(message, BODY)[0]) != rule.size and size != rule.other):
        raise DecodeError(f"{len(message) - BODY} bytes, structure size {bytes(message[BODY : BODY + 2]).hex()}")
    if rule.tree:
        session = exchange.session
        tree = session.trees.get(exchange.tree_id)
        if tree is None:
            raise Failure(Status.NETWORK_NAME_DELETED)
        if tree.encrypt and exchange.sealed is None:
            raise Failure(Status.ACCESS_DENIED)
        exchange.tree = tree
        if tree.durable and rule.changes:
            exchange.stable()
        if rule.file_at:
            persistent, volatile = FILE_ID.unpack_from(message, rule.file_at)
            handle = session.handles.get(volatile)
            if handle is None or handle.persistent != persistent or handle.tree is not tree:
                handle = _handle_of(exchange, persistent, volatile)
            exchange.handle = handle
            if exchange.sequence != handle.sequence or exchange.flags & FLAG_REPLAY:
                _keep_order(exchange, handle)
            if rule.changes and tree.read_only:
                raise Failure(Status.MEDIA_WRITE_PROTECTED)


def take_handle(exchange: Exchange, persistent: int, volatile: int) -> Handle:
    """The open of a request whose rule cannot tell whether it has one. Raises `Failure`."""
    handle = exchange.handle = _handle_of(exchange, persistent, volatile)
    if exchange.sequence != handle.sequence or exchange.flags & FLAG_REPLAY:
        _keep_order(exchange, handle)
    return handle


def _authenticate(exchange: Exchange, channel: Channel) -> None:
    session = channel.session
    if exchange.sealed is not None:
        if exchange.sealed is not session:
            raise PeerError("a message of one session, encrypted under another's key")
        return
    signer = channel.signer
    if exchange.flags & FLAG_SIGNED:
        exchange.signer = signer
        if signer is not None and not verify(signer, exchange.message, exchange.message_id):
            raise Failure(Status.ACCESS_DENIED)
    elif session.signing:
        exchange.signer = signer
        if signer is not None:
            raise Failure(Status.ACCESS_DENIED)
    if session.encrypt and exchange.command != Command.SESSION_SETUP:
        exchange.sealer = session.sealer
        raise Failure(Status.ACCESS_DENIED)


def _expired(exchange: Exchange) -> None:
    if exchange.command not in _WHILE_EXPIRED:
        raise Failure(Status.NETWORK_SESSION_EXPIRED)


def _handle_of(exchange: Exchange, persistent: int, volatile: int) -> Handle:
    """The open that a FileId stands for; in a related compound, all ones stand for that of the request before. Raises `Failure`."""
    before = exchange.related
    if volatile == ANY_FILE and persistent == ANY_FILE and before is not None:
        if hasattr(before, "handle"):
            volatile, persistent = before.handle.number, before.handle.persistent
        elif is_error(before.status):
            raise Failure(Status(before.status))
    handle = exchange.session.handles.get(volatile)
    if handle is None or handle.persistent != persistent or handle.tree is not exchange.tree:
        if exchange.tree.durable:
            # Whose open outlives its connections has lost it, or uses it before it has come back to it.
            log.info("open_unknown", peer=exchange.connection.link.peer, command=Command(exchange.command).name, open=persistent)
        raise Failure(Status.FILE_CLOSED)
    return handle


def _keep_order(exchange: Exchange, handle: Handle) -> None:
    """Takes note of a new channel sequence. Raises `Failure` for a change that belongs to a channel which has failed since, and for a
    repeated one while its first sending may still be carried out, MS-SMB2 3.3.5.2.10.
    """
    dialect = exchange.connection.dialect
    assert dialect is not None
    if handle.sequence < 0:
        handle.sequence = handle.began
        exchange.connection.service.durables.seen(handle)
    if dialect < Dialect.SMB_3_0:
        return  # the field says nothing there
    sequence = exchange.sequence & 0xFFFF
    if (sequence - handle.sequence) & 0xFFFF > 0x7FFF:
        if exchange.rule.ordered:
            raise Failure(Status.FILE_NOT_AVAILABLE)
        return
    handle.sequence = sequence
    if exchange.flags & FLAG_REPLAY and exchange.rule.ordered:
        for channel in exchange.session.channels:
            if channel.connection.busy_before(handle, sequence):
                raise Failure(Status.FILE_NOT_AVAILABLE)
