"""NEGOTIATE, MS-SMB2 3.3.5.3 and 3.3.5.4: dialect, signing, encryption, pre-authentication integrity.

Dialects 2.0.2 to 3.1.1, from the lowest that the settings allow. A client that begins with SMB1's negotiation is led over to SMB2 (3.3.5.3.1).
Compression is not offered.
"""

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateways.smb.auth import Logon
from gateways.smb.crypto import CipherId, Dialect, SigningAlgorithm
from gateways.smb.exchange import Exchange
from gateways.smb.header import FLAG_REPLY, HEADER, HEADER_SIZE, NO_SIGNATURE, PLAIN, Command
from gateways.smb.status import Failure, Status
from gateways.smb.wire import U16, DecodeError, padding, part, unpack
from sofs.errors import PeerError

if TYPE_CHECKING:
    from gateways.smb.connection import Connection

MAX_TRANSFER = 8 << 20
_REQUEST = struct.Struct("<HHHHI16sIHH")  # size, dialect count, security mode, reserved, capabilities, guid, contexts at, count, reserved
_REPLY = struct.Struct("<HHHH16sIIIIQQHHI")
_CONTEXT = struct.Struct("<HHI")  # type, data length, reserved
_PREAUTH_INTEGRITY, _ENCRYPTION, _SIGNING = 1, 2, 8
_SHA512 = 1
_MAX_DIALECTS = 64
_MAX_CONTEXTS = 16

SIGNING_ENABLED, SIGNING_REQUIRED = 1, 2
CAP_LEASING, CAP_LARGE_MTU, CAP_MULTI_CHANNEL, CAP_PERSISTENT_HANDLES, CAP_DIRECTORY_LEASING, CAP_ENCRYPTION = 0x2, 0x4, 0x8, 0x10, 0x20, 0x40
_OF_CLIENTS = CAP_MULTI_CHANNEL | CAP_PERSISTENT_HANDLES | CAP_DIRECTORY_LEASING
"""Offered only to clients that say they have them."""
_WILDCARD = 0x02FF

# GCM first: several times quicker than CCM, and 128 bits protect a session well.
_CIPHERS = (CipherId.AES_128_GCM, CipherId.AES_256_GCM, CipherId.AES_128_CCM, CipherId.AES_256_CCM)
_SIGNING_ALGORITHMS = (SigningAlgorithm.AES_GMAC, SigningAlgorithm.AES_CMAC, SigningAlgorithm.HMAC_SHA256)
_SMB1_NAMES = {b"\x02SMB 2.???": _WILDCARD, b"\x02SMB 2.002": int(Dialect.SMB_2_0_2)}


def handle(exchange: Exchange) -> bytes:
    connection = exchange.connection
    message = exchange.message
    _, count, mode, _, capabilities, guid, contexts_at, context_count, _ = exchange.unpack(_REQUEST)
    if not count:
        raise Failure(Status.INVALID_PARAMETER)
    if count > _MAX_DIALECTS:
        raise DecodeError(f"NEGOTIATE with {count} dialects")
    dialects = unpack(struct.Struct(f"<{count}H"), message, HEADER_SIZE + _REQUEST.size)
    dialect = best_dialect(connection, dialects)
    if dialect is None:
        raise Failure(Status.NOT_SUPPORTED)
    contexts: list[tuple[int, bytes]] = []
    if dialect is Dialect.SMB_3_1_1:
        if context_count > _MAX_CONTEXTS:
            raise DecodeError(f"NEGOTIATE with {context_count} contexts")
        contexts = _choose(connection, _contexts(message, contexts_at, context_count))
        connection.preauth.add(message)
    elif dialect >= Dialect.SMB_3_0 and connection.service.settings.encryption != "off" and capabilities & CAP_ENCRYPTION:
        connection.cipher = CipherId.AES_128_CCM
    connection.speak(dialect)
    connection.client_guid = guid
    connection.service.leases.came(connection)
    connection.client_capabilities = capabilities
    connection.client_security_mode = mode
    return _answer(connection, dialect, contexts)


def best_dialect(connection: "Connection", offered: Sequence[int]) -> Dialect | None:
    """The newest of the client's dialects that we speak with it."""
    least = connection.service.settings.minimum_dialect
    return max((dialect for dialect in Dialect if dialect >= least and dialect in offered), default=None)


def server_capabilities(connection: "Connection") -> int:
    """What the NEGOTIATE reply says, and FSCTL_VALIDATE_NEGOTIATE_INFO confirms."""
    dialect = connection.dialect
    if dialect is None or dialect is Dialect.SMB_2_0_2:
        return 0
    if dialect is Dialect.SMB_2_1:
        return CAP_LEASING | CAP_LARGE_MTU
    sealing = dialect is not Dialect.SMB_3_1_1 and connection.cipher is not None
    return CAP_LEASING | CAP_LARGE_MTU | connection.client_capabilities & _OF_CLIENTS | (CAP_ENCRYPTION if sealing else 0)


def server_security_mode(connection: "Connection") -> int:
    return SIGNING_ENABLED | (SIGNING_REQUIRED if connection.service.settings.signing_required else 0)


def _contexts(message: memoryview, at: int, count: int) -> dict[int, memoryview]:
    """The negotiate contexts, MS-SMB2 2.2.3.1; of two of one kind, a client must not send any."""
    found: dict[int, memoryview] = {}
    for _ in range(count):
        kind, length, _ = unpack(_CONTEXT, message, at)
        data = part(message, at + _CONTEXT.size, length, "a negotiate context")
        if kind in found and kind in (_PREAUTH_INTEGRITY, _ENCRYPTION, _SIGNING):
            raise Failure(Status.INVALID_PARAMETER)
        found[kind] = data
        at += _CONTEXT.size + length + (-length & 7)
    return found


def _choose(connection: "Connection", offered: dict[int, memoryview]) -> list[tuple[int, bytes]]:
    """Picks from what the client offers; gives the contexts of the reply."""
    if _PREAUTH_INTEGRITY not in offered:
        raise Failure(Status.INVALID_PARAMETER)
    data = offered[_PREAUTH_INTEGRITY]
    (count, salt_length) = unpack(struct.Struct("<HH"), data)
    algorithms = unpack(struct.Struct(f"<{count}H"), data, 4)
    part(data, 4 + 2 * count, salt_length, "the salt")
    if _SHA512 not in algorithms:
        raise Failure(Status.NO_PREAUTH_INTEGRITY_HASH_OVERLAP if algorithms else Status.INVALID_PARAMETER)
    chosen = [(_PREAUTH_INTEGRITY, struct.pack("<HHH32s", 1, 32, _SHA512, connection.service.random.bytes(32)))]
    if _ENCRYPTION in offered and connection.service.settings.encryption != "off":
        ciphers = _numbers(offered[_ENCRYPTION])
        connection.cipher = next((cipher for cipher in _CIPHERS if cipher in ciphers), None)
        chosen.append((_ENCRYPTION, struct.pack("<HH", 1, connection.cipher or 0)))
    if _SIGNING in offered:
        algorithms = _numbers(offered[_SIGNING])
        common = [algorithm for algorithm in _SIGNING_ALGORITHMS if algorithm in algorithms]
        if common:
            connection.signing = common[0]
            chosen.append((_SIGNING, struct.pack("<HH", 1, common[0])))
    return chosen


def _numbers(data: memoryview) -> tuple[int, ...]:
    (count,) = unpack(U16, data)
    if not count:
        raise Failure(Status.INVALID_PARAMETER)
    return unpack(struct.Struct(f"<{count}H"), data, 2)


def _answer(connection: "Connection", dialect: int, contexts: list[tuple[int, bytes]]) -> bytes:
    service = connection.service
    blob = Logon.hint()
    at = HEADER_SIZE + _REPLY.size
    rest = [blob]
    contexts_at = 0
    if contexts:
        rest.append(padding(len(blob)))
        contexts_at = at + len(blob) + len(rest[-1])
        for place, (kind, data) in enumerate(contexts):
            rest.append(_CONTEXT.pack(kind, len(data), 0) + data)
            if place < len(contexts) - 1:
                rest.append(padding(len(data)))
    capabilities = server_capabilities(connection)
    largest = MAX_TRANSFER if capabilities & CAP_LARGE_MTU else 1 << 16
    head = _REPLY.pack(
        65, server_security_mode(connection), dialect, len(contexts), service.settings.guid, capabilities,
        largest, largest, largest, service.clock.now(), 0, at, len(blob), contexts_at,
    )  # fmt: skip
    return head + b"".join(rest)


def answer_smb1(connection: "Connection", message: memoryview) -> bytes:
    """The SMB2 reply to SMB1's NEGOTIATE, MS-SMB2 3.3.5.3.1: dialect 2.0.2, or 0x02FF, after which the client negotiates anew.

    Raises `PeerError` when the client has no dialect that we speak with it.
    """
    if len(message) < 35 or message[4] != 0x72:
        raise PeerError("an SMB1 message that is not NEGOTIATE")
    (length,) = U16.unpack_from(message, 33)
    names = bytes(part(message, 35, length, "SMB1's dialects")).split(b"\0")
    offered = [_SMB1_NAMES[name] for name in names if name in _SMB1_NAMES]
    if _WILDCARD not in offered and best_dialect(connection, offered) is None:
        raise PeerError("a client that speaks no dialect of SMB 2 or 3 that is allowed here")
    if _WILDCARD not in offered:
        connection.speak(Dialect.SMB_2_0_2)
    body = _answer(connection, max(offered), [])
    return HEADER.pack(PLAIN, HEADER_SIZE, 0, 0, Command.NEGOTIATE, connection.window.grant(1, False), FLAG_REPLY, 0, 0, 0, 0, 0, NO_SIGNATURE) + body
