"""Leases and oplocks: what clients may cache, and how it is taken back (MS-SMB2 3.3.4.6, 3.3.4.7, 3.3.5.9.8, 3.3.5.9.11, 3.3.5.22).

Who may have what is the volume's to decide, for both protocols at once. Here are the protocol's two names for it. A lease belongs to a
client, by its ClientGuid and a key that it chose, and all its opens of one file with that key share it; an oplock belongs to one open. A `Holding`
is either, as this gateway knows it: which opens share it, and what the client has been asked to give back and has not answered yet.

A break is sent on one connection of the holder. If that ends before the client has answered, it is sent again on another (3.3.4.6).
"""

import struct
from typing import TYPE_CHECKING, NamedTuple

from gateways.smb.crypto import Dialect
from gateways.smb.handle import Handle
from gateways.smb.status import Failure, Status
from sofs.locks import HANDLE, READ, WRITE, GrantKind
from sofs.types import Inode, Level, Lsn, VolumeId
from sofs.volume.api import Opened, Recall, Volume, Wish

if TYPE_CHECKING:
    from gateways.smb.connection import Connection
    from gateways.smb.exchange import Exchange

LEVEL_NONE, LEVEL_II, LEVEL_EXCLUSIVE, LEVEL_BATCH, LEVEL_LEASE = 0, 1, 8, 9, 0xFF
"""OplockLevel, MS-SMB2 2.2.13. A lease's state has the same bits as the lock engine's rights (2.2.13.2.8)."""
RIGHTS_OF_LEVEL = {LEVEL_II: READ, LEVEL_EXCLUSIVE: READ | WRITE, LEVEL_BATCH: READ | WRITE | HANDLE}
_ALL = READ | WRITE | HANDLE

CONTEXT = b"RqLs"
_V1 = struct.Struct("<16sIIQ")  # key, state, flags, duration
_V2 = struct.Struct("<16sIIQ16sHH")  # the same, parent key, epoch, reserved
_BREAK_IN_PROGRESS, _PARENT_KEY_SET = 2, 4
_OPLOCK_BREAK = struct.Struct("<HBBIQQ")  # size, level, reserved, reserved, file id
_LEASE_BREAK = struct.Struct("<HHI16sIIIII")  # size, epoch, flags, key, state, new state, reason, access hint, share hint
_ACKNOWLEDGE = 1
_NO_KEY = bytes(16)


class Asked(NamedTuple):
    """A lease as a CREATE asks for it."""

    key: bytes
    rights: int
    version: int
    parent: bytes = b""
    epoch: int = 0


def level_of(rights: int) -> int:
    """The oplock that has these rights."""
    return LEVEL_BATCH if rights & HANDLE else LEVEL_EXCLUSIVE if rights & WRITE else LEVEL_II if rights & READ else LEVEL_NONE


def decode(data: bytes, dialect: Dialect) -> Asked | None:
    """The lease context of a CREATE; None for one that the dialect does not know or that has no key. Raises `Failure`."""
    if len(data) == _V1.size:
        key, rights, _, _ = _V1.unpack(data)
        return Asked(key, rights & _ALL, 1) if key != _NO_KEY and dialect > Dialect.SMB_2_0_2 else None
    if len(data) != _V2.size:
        raise Failure(Status.INVALID_PARAMETER)
    key, rights, flags, _, parent, epoch, _ = _V2.unpack(data)
    if key == _NO_KEY or dialect < Dialect.SMB_3_0:
        return None
    return Asked(key, rights & _ALL, 2, parent if flags & _PARENT_KEY_SET else b"", epoch)


def wish_for(client: bytes, level: int, asked: Asked | None) -> Wish | None:
    """What a CREATE with this oplock level and lease asks the volume for."""
    if asked is not None:
        return Wish(client + asked.key, GrantKind.LEASE, asked.rights, asked.version, epoch=asked.epoch)
    rights = RIGHTS_OF_LEVEL.get(level)
    return None if rights is None else Wish(b"", GrantKind.OPLOCK, rights)


class Holding:
    """One lease, or one oplock, of a client of this gateway."""

    __slots__ = ("epoch", "gate", "handles", "inode", "key", "lease", "level", "rights", "sent_on", "told", "version")

    def __init__(self, key: bytes, inode: Inode, lease: bytes, version: int) -> None:
        self.key = key
        """As the volume knows it."""
        self.inode = inode
        self.lease = lease
        """LeaseKey; empty for an oplock."""
        self.version = version
        self.rights = self.epoch = 0
        """What the client may cache, as far as it has agreed to give up the rest."""
        self.handles: list[Handle] = []
        """The opens that share it and are connected."""
        self.told: Recall | None = None
        """What the client was asked for last, until it has answered."""
        self.sent_on: Connection | None = None
        self.gate = Lsn(0)
        self.level = Level.COMMITTED
        """With `gate`: when the client may know of its newest open, before which it must not hear of a break."""

    def encode(self, parent: bytes) -> bytes:
        """The lease context of a reply."""
        flags = _BREAK_IN_PROGRESS if self.told is not None else 0
        if self.version == 1:
            return _V1.pack(self.lease, self.rights, flags, 0)
        flags |= _PARENT_KEY_SET if parent else 0
        return _V2.pack(self.lease, self.rights, flags, 0, parent or _NO_KEY, self.epoch, 0)


class Leases:
    """All holdings of the gateway's clients."""

    def __init__(self) -> None:
        self._held: dict[tuple[VolumeId, bytes], Holding] = {}
        self._unanswered: set[Holding] = set()
        self._clients: dict[bytes, list[Connection]] = {}
        """Connections by ClientGuid, oldest first."""

    def attach(self, exchange: "Exchange", handle: Handle, opened: Opened, asked: Asked | None) -> None:
        """The open shares a lease or has an oplock from now on."""
        if asked is None and not opened.grant:
            return
        place = (handle.volume.id, opened.key)
        holding = self._held.get(place)
        if holding is None:
            lease = b"" if asked is None else asked.key
            holding = self._held[place] = Holding(opened.key, opened.attributes.inode, lease, opened.version)
        holding.rights, holding.epoch = opened.grant, opened.epoch
        holding.handles.append(handle)
        holding.gate, holding.level = max(holding.gate, exchange.gate), max(holding.level, exchange.level)
        handle.holding = holding

    def detach(self, handle: Handle) -> None:
        """The open has ended, or lost its connection."""
        holding, handle.holding = handle.holding, None
        if holding is None:
            return
        holding.handles.remove(handle)
        if not holding.handles:
            del self._held[handle.volume.id, holding.key]
            self._unanswered.discard(holding)

    def find(self, volume: Volume, client: bytes, key: bytes) -> Holding | None:
        """A client's lease."""
        return self._held.get((volume.id, client + key))

    # Breaks

    def recall(self, volume: VolumeId, recall: Recall) -> None:
        """The volume wants (part of) a grant back: tells its client."""
        holding = self._held.get((volume, recall.key))
        if holding is None:
            return
        holding.epoch = recall.epoch
        if recall.acknowledge:
            holding.told = recall
            self._unanswered.add(holding)
        else:
            holding.rights = recall.keep
        self._send(holding, recall)

    def settled(self, holding: Holding, rights: int) -> None:
        """The client has agreed to have no more than these rights, or they have been taken from it."""
        holding.rights = rights
        holding.told = holding.sent_on = None
        self._unanswered.discard(holding)

    def revoked(self, volume: VolumeId, key: bytes) -> None:
        holding = self._held.get((volume, key))
        if holding is not None:
            self.settled(holding, 0)

    def left(self, connection: "Connection") -> None:
        """The connection has ended: breaks that may have gone down with it are sent again."""
        for holding in [each for each in self._unanswered if each.sent_on is connection]:
            if holding.told is not None:
                self._send(holding, holding.told)

    def _send(self, holding: Holding, recall: Recall) -> None:
        handle = holding.handles[0]
        session = handle.session
        sealer = session.sealer if session.encrypt or handle.tree.encrypt else None
        connection = self._way(holding, sealer is not None)
        if connection is None:
            return  # nobody is there; the volume's time-out decides
        holding.sent_on = connection
        if holding.lease:
            body = _LEASE_BREAK.pack(
                44, recall.epoch if holding.version > 1 else 0, _ACKNOWLEDGE if recall.acknowledge else 0, holding.lease, recall.held,
                recall.keep, 0, 0, 0,
            )  # fmt: skip
        else:
            body = _OPLOCK_BREAK.pack(24, level_of(recall.keep), 0, 0, handle.persistent, handle.number)
        told = None if holding.lease else session
        handle.volume.when(holding.gate, holding.level, lambda: connection.notify(body, told, sealer))

    def _way(self, holding: Holding, sealed: bool) -> "Connection | None":
        """The oldest connection on which the holder can be told: for an oplock, or what has to be encrypted, one of its session's; for a lease
        any of the client's, where its user is logged on."""
        session = holding.handles[0].session
        if not holding.lease or sealed:
            return next((channel.connection for channel in session.channels if channel.ready), None)
        for connection in self._clients.get(session.client, ()):
            if any(channel.ready and channel.session.user == session.user for channel in connection.channels.values()):
                return connection
        return None

    # Connections

    def came(self, connection: "Connection") -> None:
        """The connection has told whose it is."""
        self._clients.setdefault(connection.client_guid, []).append(connection)

    def went(self, connection: "Connection") -> None:
        known = self._clients.get(connection.client_guid, [])
        if connection in known:
            known.remove(connection)
            if not known:
                del self._clients[connection.client_guid]
