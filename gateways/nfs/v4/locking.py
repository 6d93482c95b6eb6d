"""LOCK, LOCKT and LOCKU: byte ranges (RFC 8881 18.10 to 18.12).

A client that has to wait asks again: the LOCK of a waiting type is answered as any other (18.10.4).
"""

import struct
from typing import Annotated, NamedTuple

from gateways.nfs.v4 import stateids
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.opening import Owner
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.stateids import LOCKS, OPEN, READ, WRITE, Held, other_of
from gateways.nfs.v4.states import client_of, packed
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import Stateid
from gateways.nfs.xdr import U32, U64, Bool, Switch, pad
from sofs.errors import LockConflict, SofsError
from sofs.types import OpenId
from sofs.volume.api import Blocker, Lock, State, TestLock, Unlock

READ_LT, WRITE_LT, READW_LT, WRITEW_LT = range(1, 5)
"""nfs_lock_type4."""
TO_END = (1 << 64) - 1
_DENIED = struct.Struct(">QQI8sI")  # offset, length, type, client id, length of the owner


class NewLockOwner(NamedTuple):
    """open_to_lock_owner4."""

    open_sequence: U32
    open: Stateid
    sequence: U32
    owner: Owner


class KnownLockOwner(NamedTuple):
    """exist_lock_owner4."""

    lock: Stateid
    sequence: U32


class LockArgs(NamedTuple):
    """LOCK4args."""

    type: U32
    reclaim: Bool
    offset: U64
    length: U64
    locker: Annotated[tuple[int, NewLockOwner | KnownLockOwner], Switch({1: NewLockOwner, 0: KnownLockOwner})]


def _check_range(type: int, offset: int, length: int) -> None:
    """18.10.3. Raises `Failure`."""
    if not READ_LT <= type <= WRITEW_LT:
        raise Failure(Status.BADXDR)
    if not length or (length != TO_END and offset + length > 1 << 64):
        raise Failure(Status.INVAL)


def lock(c: Compound, args: LockArgs) -> Outcome:
    """A new lock owner comes with an open's stateid; its locks on the file get a stateid of their own."""
    _check_range(args.type, args.offset, args.length)
    client, volume, inode = client_of(c), c.place.volume, c.place.inode
    exclusive = args.type in (WRITE_LT, WRITEW_LT)
    through, owner = _through(c, args, exclusive)
    if through is not None and through.kind == OPEN:
        client.check_room()

    def answer(state: State) -> bytes:
        other = other_of(volume.id, state.id)
        held = client.states.get(other)
        if held is None:
            access, deny = (0, 0) if through is None else (through.access, through.deny)
            open = OpenId(0) if through is None else through.open
            held = client.states[other] = Held(LOCKS, volume.id, state.id, state.sequence, inode, owner, open, access, deny)
        held.came_to(state.sequence)
        c.stateid = held.stateid
        return packed(Stateid(state.sequence, other))

    def refused(error: SofsError) -> Outcome:
        if not isinstance(error, LockConflict):
            raise error
        return Ask(volume, TestLock(c.place.caller, inode, args.offset, args.length, exclusive, client.key + owner), _denied)

    request = Lock(
        OpenId(0) if through is None else through.open, args.offset, args.length, exclusive, owner=client.key + owner, reclaim=args.reclaim
    )
    return Ask(volume, request, answer, changes=True, refused=refused)


def _through(c: Compound, args: LockArgs, exclusive: bool) -> tuple[Held | None, bytes]:
    """The open to lock through, and the lock owner. Raises `Failure`."""
    client, locker = client_of(c), args.locker[1]
    if c.resumed is not None:
        owner = locker.owner.owner if isinstance(locker, NewLockOwner) else b""
        return None, owner
    if args.reclaim and client.reclaimed:
        raise Failure(Status.NO_GRACE)
    if not args.reclaim and not client.reclaimed:
        raise Failure(Status.GRACE)
    if isinstance(locker, NewLockOwner):
        held = stateids.find(c, locker.open, OPEN)
        owner = locker.owner.owner
    else:
        held = stateids.find(c, locker.lock, LOCKS)
        owner = held.owner
    if not held.access & (WRITE if exclusive else READ):
        raise Failure(Status.OPENMODE)
    return held, owner


def _denied(blocker: Blocker) -> Outcome:
    """The lock in the way. If it has gone meanwhile the client is to try again."""
    if not blocker.exists:
        raise Failure(Status.DELAY)
    raise Failure(Status.DENIED, _blocker(blocker))


def _blocker(blocker: Blocker) -> bytes:
    """LOCK4denied."""
    client, owner = blocker.owner[:8].ljust(8, b"\0"), blocker.owner[8:]
    type = WRITE_LT if blocker.exclusive else READ_LT
    length = min(blocker.length, TO_END)  # the volume's ranges may end behind the last byte that there can be
    return _DENIED.pack(blocker.offset, length, type, client, len(owner)) + owner + pad(len(owner))


class LockTestArgs(NamedTuple):
    """LOCKT4args."""

    type: U32
    offset: U64
    length: U64
    owner: Owner


def lockt(c: Compound, args: LockTestArgs) -> Outcome:
    _check_range(args.type, args.offset, args.length)
    place = c.place
    exclusive = args.type in (WRITE_LT, WRITEW_LT)

    def answer(blocker: Blocker) -> bytes:
        if blocker.exists:
            raise Failure(Status.DENIED, _blocker(blocker))
        return b""

    request = TestLock(place.caller, place.inode, args.offset, args.length, exclusive, client_of(c).key + args.owner.owner)
    return Ask(place.volume, request, answer)


class UnlockArgs(NamedTuple):
    """LOCKU4args."""

    type: U32
    sequence: U32
    stateid: Stateid
    offset: U64
    length: U64


def locku(c: Compound, args: UnlockArgs) -> Outcome:
    _check_range(args.type, args.offset, args.length)
    client, volume = client_of(c), c.place.volume
    held = None if c.resumed is not None else stateids.find(c, args.stateid, LOCKS)

    def answer(state: State) -> bytes:
        other = other_of(volume.id, state.id)
        known = client.states.get(other)
        if known is not None:
            known.came_to(state.sequence)
        c.stateid = Stateid(state.sequence, other)
        return packed(c.stateid)

    open, owner = (OpenId(0), b"") if held is None else (held.open, held.owner)
    return Ask(volume, Unlock(open, args.offset, args.length, client.key + owner), answer, changes=True)
