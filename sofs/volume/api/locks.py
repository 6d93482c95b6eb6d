"""Requests about byte-range locks, and about grants: a client's right to cache."""

import msgspec

from sofs.locks import GrantKind
from sofs.types import Inode, OpenId
from sofs.volume.api.values import Caller, Reply, Request


class Lock(Request):
    """Takes a lock; `wait` queues behind the lock in its way (then the answer is an awaitable, cancellable), else `LockConflict`."""

    open: OpenId
    offset: int
    length: int
    """2**64 - 1 with an `owner`: to the end of every file (RFC 8881 18.10.3)."""
    exclusive: bool
    wait: bool = False
    owner: bytes = b""
    """Empty: the open itself (SMB). NFSv4: client id and lock owner; the answer is then `State`, the number and sequence of that owner's locks on the file."""
    number: bytes = b""
    """SMB's LockSequenceIndex, and as its last byte the -Number (MS-SMB2 3.3.5.14): a repeated one has been carried out already."""
    reclaim: bool = False
    """As in `Open`."""
    element: int = 0
    """Its place among the elements of its SMB request, all of which come with the same `number`."""


class TestLock(Request):
    """Whether a lock could be had now (LOCKT). Raises nothing for one that is in the way: answers `Blocker`, empty if there is none."""

    caller: Caller
    inode: Inode
    offset: int
    length: int
    exclusive: bool
    owner: bytes


class Blocker(Reply):
    exists: bool
    offset: int = 0
    length: int = 0
    exclusive: bool = False
    owner: bytes = b""
    """Client id and lock owner; empty for an SMB lock."""


class FreeState(Request):
    """Forgets the number of a lock owner that holds nothing any more (FREE_STATEID). Raises `LocksHeld`."""

    id: OpenId


class Unlock(Request):
    """Releases exactly that lock (SMB) or that range (NFS; answers `State`). Raises `LockNotHeld`."""

    open: OpenId
    offset: int
    length: int
    owner: bytes = b""
    number: bytes = b""
    """As in `Lock`."""
    element: int = 0
    undoes: bool = False
    """It takes back the `Lock` with this `number` and `element`, which then counts as never carried out."""


# Grants: leases, oplocks, delegations


class Wish(msgspec.Struct, frozen=True, array_like=True):
    """A grant that a client would like to have with its open."""

    key: bytes
    """Who shares it. SMB lease: ClientGuid and LeaseKey. Oplock: empty, the open alone. NFS: the client id, whose own opens break nothing of its own."""
    kind: GrantKind
    rights: int
    """READ, HANDLE and WRITE of `sofs.locks`."""
    version: int = 2
    """Of an SMB lease: version 1 has no epoch."""
    must: bool = True
    """NFSv4: False takes a delegation only where it is useful (the volume decides); True whenever it is possible (OPEN4_SHARE_ACCESS_WANT_*)."""
    epoch: int = 0
    """The client's, of a lease version 2 that is new here (MS-SMB2 3.3.5.9.11)."""


class Want(Request):
    """Asks for a grant for an open that exists (a lease that its next CREATE names is asked for with that; WANT_DELEGATION). Answers `Granted`."""

    open: OpenId
    wish: Wish


class Granted(Reply):
    rights: int
    epoch: int
    delegation: OpenId = OpenId(0)


class Acknowledge(Request):
    """The holder's answer to a recall (MS-SMB2 3.3.5.22): it keeps these rights. Raises `NotFound` without a grant, `NotRecalled` when nothing is asked,
    `InvalidArgument` when it keeps more than it may. Answers `Granted`."""

    inode: Inode
    key: bytes
    rights: int


class ReturnGrant(Request):
    """A delegation is given back, asked or not (DELEGRETURN)."""

    delegation: OpenId
