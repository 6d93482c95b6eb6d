"""The clients that one server instance, a group, knows (RFC 8881 2.4), and what EXCHANGE_ID does to them (18.35.5).

A client id begins with the number of its group, and a session id with its client's: so any node can tell whose they are.

A client calls itself by an owner string, and each of its starts by a verifier. It has at most one confirmed record (a CREATE_SESSION has confirmed it)
and one that waits for that. Nothing here does I/O: who changes a confirmed client keeps its record (`records`).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from gateways.nfs.auth import Credential
from gateways.nfs.v4.status import Failure, Status
from sofs.runtime.ports import Random
from sofs.types import VolumeId

if TYPE_CHECKING:
    from gateways.nfs.v4.slots import Session
    from gateways.nfs.v4.stateids import Held

LIMIT = 65536
"""Clients at a time; beyond it unconfirmed ones go first."""
OF_ONE_HOST = 1024
"""Clients that come from one address, likewise: no host keeps the others out."""
STATES = 100_000
"""Opens, lock owners and delegations of one client: each takes some 2 KiB here, and a record."""

FIRST_GROUP = 1
"""The number of the first group there is, and of the only one of a node that is alone."""
_GROUP_BITS = 48
"""Of a client id, the bits behind its group's number."""

Principal = tuple[int, int]
"""Flavor and uid of who made a client record."""


def group_of(id: bytes) -> int:
    """The number of the group that a client's key or a session id names. Those from before there were groups name any."""
    return int.from_bytes(id[:2])


def principal(who: Credential) -> Principal:
    return (0, 0) if who.anonymous else (1, who.uid)


class Client:
    """One start of a client."""

    def __init__(self, id: int, owner: bytes, verifier: bytes, principal: Principal, now: float, origin: str = "") -> None:
        self.id = id
        self.key = id.to_bytes(8)
        """What volumes know it by: `Open.client`, and the beginning of its owners' names."""
        self.owner = owner
        self.verifier = verifier
        self.principal = principal
        self.origin = origin
        """The address it first came from; empty for one from before the server's start."""
        self.confirmed = False
        self.sequence = 1
        """Of the next CREATE_SESSION."""
        self.created: bytes | None = None
        """The result of the last CREATE_SESSION, behind its status."""
        self.creating = False
        """That is not recorded yet."""
        self.sessions: dict[bytes, Session] = {}
        self.volumes: dict[VolumeId, int] = {}
        """Where it may have state or tokens, and the volume's verifier of that time: recorded."""
        self.noted: dict[VolumeId, int] = {}
        """The same, being recorded."""
        self.lost: set[VolumeId] = set()
        """Volumes that may have lost its state since: it is to reclaim what it had there."""
        self.states: dict[bytes, Held] = {}
        """Its opens, locks and delegations, by their stateids' `other`."""
        self.restored = True
        """`states` is complete: false after a restart, until the volumes have been asked."""
        self.wanted: set[bytes] = set()
        """Delegations, by their `other`, that were recalled before `states` was complete."""
        self.reclaimed = False
        """It has said RECLAIM_COMPLETE."""
        self.renewed = now
        self.called_back = False
        """It has had a backchannel: the loss of one is worth telling."""
        self.revoked = 0
        """States that were taken away and not yet freed (SEQ4_STATUS_RECALLABLE_STATE_REVOKED)."""
        self.ended = False
        """It is no more: what it has under way is not to leave anything behind."""
        self.waiting = 0
        """COMPOUNDs under way: its lease does not run out meanwhile."""

    def check_room(self) -> None:
        """Raises `Failure` where it must not have one more state."""
        if len(self.states) >= STATES:
            raise Failure(Status.NOSPC)

    @property
    def has_state(self) -> bool:
        return bool(self.states or self.sessions) or not self.restored

    @property
    def reachable(self) -> bool:
        """Whether some session of it has a live backchannel."""
        return any(session.back.live for session in self.sessions.values())

    @property
    def trusted(self) -> bool:
        """Whether it may be given delegations: it has answered, as far as it was called."""
        return any(session.back.live and not session.back.fault for session in self.sessions.values())


class Exchanged(NamedTuple):
    """What an EXCHANGE_ID comes to."""

    client: Client
    replaced: Client | None = None
    """A confirmed client that goes at once: another principal's, without state."""


class Clients:
    """All of a group's, by id and by owner."""

    def __init__(self, random: Random, group: int = FIRST_GROUP) -> None:
        self._random = random
        self._group = group
        self.numbered: dict[int, Client] = {}
        self._confirmed: dict[bytes, Client] = {}
        self._waiting: dict[bytes, Client] = {}
        self._from: dict[str, dict[int, Client]] = {}
        """By the address they came from."""

    def add(self, client: Client) -> None:
        """A confirmed client, from its record."""
        self.numbered[client.id] = client
        self._confirmed[client.owner] = client

    def exchange(self, owner: bytes, verifier: bytes, who: Principal, update: bool, now: float, origin: str = "") -> Exchanged:
        """The record that an EXCHANGE_ID makes, finds or updates; the numbers are the cases of 18.35.5. Raises `Failure`."""
        known = self._confirmed.get(owner)
        if update:
            if known is None:
                raise Failure(Status.NOENT)  # 7
            if known.verifier != verifier:
                raise Failure(Status.NOT_SAME)  # 8
            if known.principal != who:
                raise Failure(Status.PERM)  # 9
            return Exchanged(known)  # 6
        if known is None:
            return Exchanged(self._new(owner, verifier, who, now, origin))  # 1, 4
        if known.principal != who:
            if known.has_state:
                raise Failure(Status.CLID_INUSE)  # 3
            return Exchanged(self._new(owner, verifier, who, now, origin), known)
        if known.verifier == verifier:
            return Exchanged(known)  # 2
        return Exchanged(self._new(owner, verifier, who, now, origin))  # 5

    def _new(self, owner: bytes, verifier: bytes, who: Principal, now: float, origin: str) -> Client:
        if len(self.numbered) >= LIMIT:
            self._drop_waiting(self._waiting.values())
        if origin and len(self._from.get(origin, ())) >= OF_ONE_HOST:
            self._drop_waiting(self._from[origin].values())
        before = self._waiting.get(owner)
        if before is not None:
            self.remove(before)
        client = Client(self._fresh(), owner, verifier, who, now, origin)
        self.numbered[client.id] = client
        if origin:
            self._from.setdefault(origin, {})[client.id] = client
        self._waiting[owner] = client
        return client

    def _fresh(self) -> int:
        # Random, so that no start of the server gives out a number of an earlier one.
        while True:
            id = self._group << _GROUP_BITS | self._random.number(_GROUP_BITS)
            if id not in self.numbered:
                return id

    def _drop_waiting(self, among: Iterable[Client]) -> None:
        """Makes room: the oldest one that has not been confirmed goes. Raises `Failure` if there is none."""
        oldest = next((client for client in among if not client.confirmed), None)
        if oldest is None:
            raise Failure(Status.DELAY)
        self.remove(oldest)

    def confirm(self, client: Client) -> Client | None:
        """The first CREATE_SESSION has come: gives the record of the client's former start, which is to be ended."""
        if client.confirmed:
            return None
        before = self._confirmed.get(client.owner)
        self._waiting.pop(client.owner, None)
        client.confirmed = True
        self._confirmed[client.owner] = client
        return before

    def remove(self, client: Client) -> None:
        self.numbered.pop(client.id, None)
        others = self._from.get(client.origin)
        if others is not None:
            others.pop(client.id, None)
            if not others:
                del self._from[client.origin]
        for table in (self._confirmed, self._waiting):
            if table.get(client.owner) is client:
                del table[client.owner]
