"""Opens that outlive their connection, and creates that are sent twice (MS-SMB2 3.3.5.9.6, .7, .10, .12, 3.3.4.18, 3.3.7.1).

An open is durable when its client asked for that and may cache its handle; on a continuously available share a persistent one is so without that.
The volume keeps it. Here stands what a reply has to say again when its client repeats the CREATE, and what only this gateway knows of an open whose
client is away. Those who repeat a CREATE name it by the CreateGuid that they chose for it.
"""

import struct
from collections import Counter
from typing import NamedTuple

from gateways.smb.handle import Handle
from gateways.smb.status import Failure, Status
from sofs.types import OpenId, VolumeId
from sofs.volume.api import Action, Keep

REQUEST_V1, RECONNECT_V1, REQUEST_V2, RECONNECT_V2, APP_INSTANCE = (
    b"DHnQ", b"DHnC", b"DH2Q", b"DH2C", bytes.fromhex("45BCA66AEFA7F74A9008FA462E144D74"),
)  # fmt: skip
"""The names of the create contexts, MS-SMB2 2.2.13.2."""
_REQUEST_V2 = struct.Struct("<II8s16s")  # timeout, flags, reserved, CreateGuid
_RECONNECT_V2 = struct.Struct("<QQ16sI")  # file id, CreateGuid, flags
_REPLY_V2 = struct.Struct("<II")
_PERSISTENT = 2
_V1_MS = 960_000
"""As Windows has it: a client of version 1 names no time."""
_DEFAULT_MS, _LONGEST_MS = 60_000, 300_000
MAX_AWAY, AWAY_OF_USER = 65_536, 8192
"""Opens whose clients are away, over all sessions, and of one user."""
RECONNECTS = (RECONNECT_V1, RECONNECT_V2)
_NAMES = (REQUEST_V1, RECONNECT_V1, REQUEST_V2, RECONNECT_V2)


class Durable(NamedTuple):
    """How an open was asked to last."""

    version: int
    """0: not at all, but its CREATE can be repeated."""
    guid: bytes
    """CreateGuid; empty for version 1."""
    client: bytes
    """ClientGuid. Empty for version 1: any client of its user comes back to it, if it has the lease."""
    timeout_ms: int
    persistent: bool
    app: bytes = b""
    """AppInstanceId."""
    action: Action = Action.OPENED
    """CreateAction of its reply, and the rights that MxAc told."""
    maximal: int = 0
    granted_ms: int = 0
    resilient: bool = False
    """Asked for after the CREATE, by a control: it stays like a persistent one."""

    def keep(self, user: str) -> Keep:
        return Keep(self.timeout_ms, self.persistent or self.resilient, user.encode())


class Return(NamedTuple):
    """A client comes back to an open. An empty CreateGuid or ClientGuid is not compared: version 1 does not name the first, and as with Windows
    only the holder of a lease, whose key is his ClientGuid's, and of a persistent open has to come with the ClientGuid that he had.
    """

    open: OpenId
    guid: bytes
    client: bytes
    version: int
    persistent: bool = False


def asked(extras: dict[bytes, bytes], client: bytes, persistent: bool) -> Durable | None:
    """What a CREATE asks for; `persistent` says whether its share and client have persistent handles. Raises `Failure`."""
    app = extras.get(APP_INSTANCE, b"")
    app = app[4:20] if len(app) >= 20 else b""
    data = extras.get(REQUEST_V2)
    if data is not None:
        if len(data) != _REQUEST_V2.size or REQUEST_V1 in extras:
            raise Failure(Status.INVALID_PARAMETER)
        timeout, flags, _, guid = _REQUEST_V2.unpack(data)
        lasting = bool(flags & _PERSISTENT) and persistent
        return Durable(2, guid, client, min(timeout, _LONGEST_MS) or _DEFAULT_MS, lasting, app)
    data = extras.get(REQUEST_V1)
    if data is None:
        return None
    if len(data) != 16:
        raise Failure(Status.INVALID_PARAMETER)
    return Durable(1, b"", b"", _V1_MS, False, app)


def coming_back(extras: dict[bytes, bytes], client: bytes) -> Return | None:
    """The open that a CREATE wants back, if it wants one. Raises `Failure` for contexts that do not go together."""
    if RECONNECT_V1 not in extras and RECONNECT_V2 not in extras:
        return None
    if sum(name in extras for name in _NAMES) > 1 and not (len(extras.keys() & set(_NAMES)) == 2 and {REQUEST_V1, RECONNECT_V1} <= extras.keys()):
        raise Failure(Status.INVALID_PARAMETER)
    data = extras.get(RECONNECT_V2)
    if data is not None:
        if len(data) != _RECONNECT_V2.size:
            raise Failure(Status.INVALID_PARAMETER)
        persistent, _, guid, flags = _RECONNECT_V2.unpack(data)
        return Return(OpenId(persistent), guid, client if flags & _PERSISTENT else b"", 2, bool(flags & _PERSISTENT))
    data = extras[RECONNECT_V1]
    if len(data) != 16:
        raise Failure(Status.INVALID_PARAMETER)
    return Return(OpenId(struct.unpack_from("<Q", data)[0]), b"", b"", 1)


def encode(durable: Durable) -> tuple[bytes, bytes]:
    """The context of a reply that grants it."""
    if durable.version == 1:
        return REQUEST_V1, bytes(8)
    return REQUEST_V2, _REPLY_V2.pack(durable.granted_ms, _PERSISTENT if durable.persistent else 0)


class Durables:
    """The opens of this gateway that can be asked for again."""

    def __init__(self) -> None:
        self._by_guid: dict[tuple[bytes, bytes], Handle | None] = {}
        """By ClientGuid and CreateGuid; None while the first CREATE is being carried out."""
        self._away: dict[tuple[VolumeId, OpenId], Handle] = {}
        """Those whose client is away, as they were when it went."""
        self._owners: dict[tuple[VolumeId, OpenId], str] = {}
        self._of_user: Counter[str] = Counter()
        """Whose these are, and how many."""
        self._apps: dict[bytes, Handle] = {}
        self.repeated = 0
        """CREATEs that were answered as the first time."""

    def lookup(self, durable: Durable, replay: bool) -> Handle | None:
        """The open that an earlier CREATE with this CreateGuid has made. Raises `Failure` when it is still being made, or this one is no repetition."""
        place = (durable.client, durable.guid)
        if place not in self._by_guid:
            return None
        known = self._by_guid[place]
        if known is None:
            # Windows goes on and runs into the first one's share mode; a client that is told this asks again (MS-SMB2 3.3.5.9.10, SMB2_FLAGS_REPLAY).
            raise Failure(Status.FILE_NOT_AVAILABLE)
        if not replay:
            raise Failure(Status.DUPLICATE_OBJECTID)
        self.repeated += 1
        return known

    def begin(self, durable: Durable) -> None:
        """Its CREATE is being carried out: it ends with `made` or `failed`."""
        if durable.guid:
            self._by_guid[durable.client, durable.guid] = None

    def failed(self, durable: Durable) -> None:
        self._by_guid.pop((durable.client, durable.guid), None)

    def waits(self, handle: Handle, durable: Durable) -> None:
        """Nobody has come back to it, this time: it can be asked for again, unless it has ended meanwhile."""
        if handle.durable is None:
            self.failed(durable)
        else:
            self._by_guid[durable.client, durable.guid] = handle

    def made(self, handle: Handle, durable: Durable) -> None:
        handle.durable = durable
        if durable.guid:
            self._by_guid[durable.client, durable.guid] = handle
            handle.sequence = -1
        if durable.app:
            self._apps[durable.app] = handle

    def seen(self, handle: Handle) -> None:
        """The client has used the open, so it has the reply to its CREATE, and does not repeat it (Open.IsReplayEligible)."""
        durable = handle.durable
        if durable is not None and self._by_guid.get((durable.client, durable.guid)) is handle:
            del self._by_guid[durable.client, durable.guid]

    def instance(self, app: bytes) -> Handle | None:
        """The open of the same application, started elsewhere (MS-SMB2 3.3.5.9.13)."""
        return self._apps.get(app)

    def ended(self, handle: Handle) -> None:
        """The open is closed for good."""
        durable = handle.durable
        if durable is None:
            return
        handle.durable = None
        place = handle.volume.id, handle.id
        if self._away.pop(place, None) is not None:
            user = self._owners.pop(place)
            self._of_user[user] -= 1
            if not self._of_user[user]:
                del self._of_user[user]
        if self._by_guid.get((durable.client, durable.guid)) is handle:
            del self._by_guid[durable.client, durable.guid]
        if self._apps.get(durable.app) is handle:
            del self._apps[durable.app]

    def went(self, handle: Handle) -> bool:
        """The open's client is away. False if the open cannot wait for it."""
        user = handle.session.user
        if handle.durable is None or not handle.durable.granted_ms or len(self._away) >= MAX_AWAY or self._of_user[user] >= AWAY_OF_USER:
            return False
        place = handle.volume.id, handle.id
        if place not in self._away:
            self._owners[place] = user
            self._of_user[user] += 1
        self._away[place] = handle
        if handle.durable.guid:
            self._by_guid.setdefault((handle.durable.client, handle.durable.guid), handle)
        return True

    def away(self, volume: VolumeId, open: OpenId) -> Handle | None:
        return self._away.get((volume, open))

    def back(self, handle: Handle, to: Return, keep_ms: int) -> None:
        """A client has come back to its open, which `handle` stands for from now on."""
        before = self.away(handle.volume.id, handle.id)
        durable = Durable(to.version, to.guid, handle.session.client, keep_ms, to.persistent, granted_ms=keep_ms)  # known after a restart
        if before is not None and before.durable is not None:
            durable = before.durable
            self.ended(before)
            handle.mode, handle.write_through, handle.position = before.mode, before.write_through, before.position
        self.made(handle, durable)

    def dropped(self, volume: VolumeId, open: OpenId) -> None:
        """Nobody can come back to it any more."""
        handle = self._away.get((volume, open))
        if handle is not None:
            self.ended(handle)
