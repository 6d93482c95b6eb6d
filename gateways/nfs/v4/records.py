"""What outlives the server of its clients and sessions: records in the system volume (PROTOCOLS, "Sessions have a home").

All groups' lie in the cluster's one system volume; their keys begin with the group's number, as ids do. Only confirmed clients have one. A record is
stable before what it says is told to the client; callbacks wait for it, too.
"""

from typing import TYPE_CHECKING

import msgspec

from gateways.nfs.v4.clients import Client, Principal
from sofs.encoding import decoder, encode
from sofs.errors import ConfigError
from sofs.types import VolumeId

if TYPE_CHECKING:
    from gateways.nfs.v4.slots import Session

CLIENTS, SESSIONS = b"nfs4/client/", b"nfs4/session/"

Change = tuple[bytes, bytes | None]


class ClientRecord(msgspec.Struct, array_like=True):
    owner: bytes
    verifier: bytes
    principal: Principal
    sequence: int
    created: bytes | None
    reclaimed: bool
    volumes: list[tuple[int, int]]
    """Each with its verifier when the client came there: another one means that state may have been lost."""


class SessionRecord(msgspec.Struct, array_like=True):
    client: int
    flags: int
    fore: tuple[int, ...]
    back: tuple[int, ...]
    program: int
    security: bytes
    """The RPC credential of callbacks, flavor and body."""
    sequences: list[int]
    """Of the callback slots: as high as they may have been sent."""
    minor: int


_read_client = decoder(ClientRecord, "a client's record in the system volume", ConfigError)
read_session = decoder(SessionRecord, "a session's record in the system volume", ConfigError)


def client_change(client: Client) -> Change:
    record = ClientRecord(
        client.owner,
        client.verifier,
        client.principal,
        client.sequence,
        client.created,
        client.reclaimed,
        sorted({**client.noted, **client.volumes}.items()),
    )
    return CLIENTS + client.key, encode(record)


def session_change(session: "Session") -> Change:
    back = session.back
    record = SessionRecord(
        session.client.id, session.flags, tuple(session.fore), tuple(back.channel), back.program, back.security, list(back.sequences), back.minor
    )
    return SESSIONS + session.id, encode(record)


def forget_client(client: Client) -> list[Change]:
    """The client and its sessions."""
    return [(CLIENTS + client.key, None), *(forget_session(session) for session in client.sessions)]


def forget_session(id: bytes) -> Change:
    return SESSIONS + id, None


def read_client(key: bytes, value: bytes, now: float) -> Client:
    """Raises `ConfigError`."""
    record = _read_client(value)
    client = Client(int.from_bytes(key[len(CLIENTS) :]), record.owner, record.verifier, record.principal, now)
    client.confirmed = True
    client.sequence = record.sequence
    client.created = record.created
    client.reclaimed = record.reclaimed
    client.volumes = {VolumeId(volume): verifier for volume, verifier in record.volumes}
    client.restored = not client.volumes
    return client
