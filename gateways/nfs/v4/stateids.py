"""What a stateid stands for (RFC 8881 8.2).

`other` is 4 bytes that name the volume and the 8 bytes of an `OpenId`: opens, lock owners' locks and delegations share its numbers. A delegation is backed
by an open of its own, so that data is read and written through an `OpenId` whatever the stateid is. A stateid is good only for the client whose session
presents it.
"""

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from gateways.nfs.v4 import grace
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Stateid
from sofs import locks
from sofs.types import Inode, OpenId, VolumeId
from sofs.volume.api import Access, ShareMode, StateInfo, Target, Volume

if TYPE_CHECKING:
    from gateways.nfs.handles import Place
    from gateways.nfs.v4.backchannel import Referring
    from gateways.nfs.v4.clients import Client
    from gateways.nfs.v4.compound import Compound

OPEN, LOCKS, DELEGATION = 1, 2, 3
"""Kinds of state, as `StateInfo.kind`."""
READ, WRITE = 1, 2
"""OPEN4_SHARE_ACCESS_*, also of denials."""
GRANT_READ, GRANT_WRITE = locks.READ, locks.READ | locks.WRITE
"""What a delegation lets its holder cache."""
_WRITES = int(Access.WRITE_DATA | Access.APPEND_DATA)
_ZERO, _ONES = bytes(12), b"\xff" * 12


class Held:
    """One state of a client."""

    __slots__ = (
        "access", "asking", "change", "deny", "granted", "handle", "id", "inode", "kind", "open", "other", "owner", "recalled", "revoked", "sequence",
        "silent", "volume",
    )  # fmt: skip

    def __init__(
        self, kind: int, volume: VolumeId, id: OpenId, sequence: int, inode: Inode, owner: bytes, open: OpenId, access: int, deny: int
    ) -> None:
        self.kind = kind
        self.volume = volume
        self.id = id
        self.sequence = sequence
        self.inode = inode
        self.owner = owner
        """The open- or lock-owner, behind the client id."""
        self.open = open
        """Through which data is read and written."""
        self.access = access
        self.deny = deny
        self.other = other_of(volume, id)
        self.revoked = False
        """A delegation that was taken away; stays until FREE_STATEID."""
        self.recalled = False
        self.asking = False
        """A callback about it is under way, or waits for its turn."""
        self.silent = False
        """Its holder was asked about the file (CB_GETATTR), and did not answer in time."""
        self.handle = b""
        """A delegation's file, as it is recalled by; empty after a restart."""
        self.change = 0
        """A write delegation's: the file's change attribute when it was given."""
        self.granted: Referring | None = None
        """The request that was answered with the delegation."""

    def came_to(self, sequence: int) -> None:
        """A volume has answered with this sequence: perhaps behind a newer one, or once more."""
        self.sequence = max(self.sequence, sequence)

    @property
    def stateid(self) -> Stateid:
        return Stateid(self.sequence, self.other)


@lru_cache(4096)
def _prefix(volume: VolumeId) -> bytes:
    return hashlib.blake2b(volume.to_bytes(8), digest_size=4).digest()


def other_of(volume: VolumeId, id: OpenId) -> bytes:
    return _prefix(volume) + id.to_bytes(8)


def volume_of(c: "Compound", other: bytes) -> Volume:
    """The volume that a stateid of the client's is of. Raises `Failure`, `Unavailable`."""
    assert c.session is not None
    for id in c.session.client.volumes:
        if _prefix(id) == other[:4]:
            return c.service.volume(id)
    raise Failure(Status.BAD_STATEID)


def share_bits(access: int) -> int:
    """OPEN4_SHARE_ACCESS_* of an access mask."""
    return (READ if access & Access.READ_DATA else 0) | (WRITE if access & _WRITES else 0)


def find(c: "Compound", stateid: Stateid, kind: int = 0, place: "Place | None" = None) -> Held:
    """The state behind a stateid of `place` (the current filehandle's file). `kind`, if given, is the only one that will do. Raises `Failure`."""
    stateid = resolve(c, stateid)
    assert c.session is not None
    held = c.session.client.states.get(stateid.other)
    if held is None or (kind and held.kind != kind):
        raise Failure(Status.BAD_STATEID)
    if held.revoked:
        raise Failure(Status.DELEG_REVOKED)
    check_sequence(held, stateid.sequence)
    place = place or c.place
    if held.inode != place.inode or held.volume != place.volume.id:
        raise Failure(Status.BAD_STATEID)
    return held


def check_sequence(held: Held, sequence: int) -> None:
    """8.2.2: 0 stands for the newest. Raises `Failure`."""
    if sequence and sequence != held.sequence:
        raise Failure(Status.OLD_STATEID if sequence < held.sequence else Status.BAD_STATEID)


def resolve(c: "Compound", stateid: Stateid) -> Stateid:
    """The stateid itself, or the current one where that is meant (8.2.3). Raises `Failure`."""
    if stateid.other != _ZERO:
        return stateid
    if stateid.sequence != 1 or c.stateid.other in (_ZERO, _ONES):
        raise Failure(Status.BAD_STATEID)
    return c.stateid


def target(c: "Compound", stateid: Stateid, access: int, place: "Place | None" = None) -> Target:
    """What `access` (READ_DATA, WRITE_DATA, 0 for any) to `place` (the current filehandle's file) goes through. Raises `Failure`."""
    other = stateid.other
    if other == _ZERO:
        if not stateid.sequence:
            place = place or c.place
            if access and grace.awaits_reclaim(c.service, place.volume.id):
                raise Failure(Status.GRACE)  # what it may conflict with is not known yet (8.4.2.1)
            return place.target
        stateid = resolve(c, stateid)
    elif other == _ONES:
        if stateid.sequence != 0xFFFFFFFF:
            raise Failure(Status.BAD_STATEID)
        return (place or c.place).target
    held = find(c, stateid, 0, place)
    if access & _WRITES:
        if not held.access & WRITE:
            raise Failure(Status.OPENMODE)
    elif access and not held.access & READ:
        raise Failure(Status.OPENMODE)
    return held.open


def restore(client: "Client", volume: VolumeId, states: list[StateInfo]) -> None:
    """Stateids from what a volume knows."""
    opens = {state.id: state for state in states}
    for state in states:
        through = opens.get(state.open, state)
        deny = ~through.share & (ShareMode.READ | ShareMode.WRITE)
        held = Held(state.kind, volume, state.id, state.sequence, state.inode, state.owner[8:], state.open, share_bits(through.access), deny)
        client.states.setdefault(held.other, held)
