"""Replies as they stand on the wire: an answer with its header, signed (MS-SMB2 3.3.4.1), and what is said instead when a request has failed (2.2.2)."""

from gateways.smb.crypto import Dialect
from gateways.smb.exchange import Answer, Exchange
from gateways.smb.header import FLAG_ASYNC, FLAG_RELATED, FLAG_REPLY, FLAG_SIGNED, HEADER, HEADER_SIZE, NO_SIGNATURE, PLAIN
from gateways.smb.status import Failure, Status, status_of
from gateways.smb.wire import U32, padding
from sofs.errors import SofsError

ERROR_BODY = b"\x09\0\0\0\0\0\0\0\0"


def failure(exchange: Exchange, error: SofsError) -> bytes:
    """The body of an error response, MS-SMB2 2.2.2; the exchange gets its status and gate."""
    exchange.status = status_of(error)
    if error.gate > exchange.gate:
        exchange.gate = error.gate
    if error.gate and exchange.volume is None and hasattr(exchange, "tree"):
        exchange.volume = exchange.tree.volume
    if isinstance(error, Failure) and error.data:
        data, contexts = error.data, 0
        if exchange.status == Status.STOPPED_ON_SYMLINK and exchange.connection.dialect is Dialect.SMB_3_1_1:
            data, contexts = U32.pack(len(data)) + bytes(4) + data, 1  # an error context, 2.2.2.1
        return b"\x09\0" + bytes([contexts, 0]) + U32.pack(len(data)) + data
    return ERROR_BODY


def assemble(exchange: Exchange, answer: Answer, last: bool = True, padded: bool = False) -> bytearray | memoryview:
    """The reply as a message, signed unless it will be encrypted; with the offset of the next one in a compound unless it is the `last`."""
    if type(answer) is bytes:
        message: bytearray | memoryview = bytearray(HEADER_SIZE + len(answer))
        message[HEADER_SIZE:] = answer
    else:
        message = answer  # type: ignore[assignment]
    next_command = 0
    if padded and len(message) & 7:
        message = bytearray(message) + padding(len(message))
    if not last:
        next_command = len(message)
    flags = FLAG_REPLY | (exchange.flags & FLAG_RELATED)
    low, high = 0xFEFF, exchange.tree_id
    if exchange.async_id:
        flags |= FLAG_ASYNC
        low, high = exchange.async_id & 0xFFFFFFFF, exchange.async_id >> 32
    # An interim response need not be signed (3.3.4.1.1); who signs it with the request's id would sign twice with one nonce.
    signer = exchange.signer if exchange.sealer is None and exchange.status != Status.PENDING else None
    if signer is not None:
        flags |= FLAG_SIGNED
    elif exchange.status == Status.USER_SESSION_DELETED:
        # There is no key any more. Like Windows we return the request's flag, with zeros for a signature: clients that insist on
        # signatures make an exception for exactly this, and otherwise would not learn that the session is gone.
        flags |= exchange.flags & FLAG_SIGNED
    connection = exchange.connection
    granted = connection.window.grant(exchange.credits, connection.authenticated) if exchange.credits >= 0 else 0
    HEADER.pack_into(
        message, 0, PLAIN, HEADER_SIZE, exchange.charge, exchange.status, exchange.command, granted, flags, next_command,
        exchange.message_id, low, high, exchange.session_id, NO_SIGNATURE,
    )  # fmt: skip
    if signer is not None:
        message[48:64] = signer.sign(message, exchange.message_id)
    return message
