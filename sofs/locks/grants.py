"""The life of a grant: a client's right to cache, until others need it back.

A grant is an SMB lease or oplock, or an NFS delegation. Its rights are those of an SMB lease (MS-SMB2 2.2.13.2.8): READ, to
cache what was read; HANDLE, to keep the open after the application closed it; WRITE, to cache writes and locks. HANDLE and WRITE
never stand without READ. A read delegation is READ, a write delegation READ | WRITE.

    held --- recall ---> recalling --- acknowledge ---> held (with less), or gone
                             |  (a stronger recall lowers the target)
                             '------- expire --------> gone, revoked

Theory of operation: a request that another client's grant stands in the way of recalls the rights it cannot live with. If the holder must
acknowledge, the grant is `recalling` until it does, and the request waits if its own correctness depends on that (`must_wait`). A holder
of READ alone through SMB is only told (MS-SMB2 3.3.4.7): what it has cached is stale but harmless, since SMB promises no more. A delegation
is always given back whole, and always waited for (RFC 8881 10.4).

A lease without any rights is still known as long as opens share its key: its epoch goes on, and the next CREATE may raise it again. An oplock
or delegation without rights is gone.
"""

from enum import IntEnum

import msgspec

from sofs.errors import InvalidArgument, NotRecalled
from sofs.types import OpenId

READ, HANDLE, WRITE = 1, 2, 4


class GrantKind(IntEnum):
    """What the holder calls it."""

    LEASE = 1
    """An SMB lease: recalled step by step."""
    OPLOCK = 2
    """An SMB oplock, always one open's: level II is READ, exclusive READ | WRITE, batch all three."""
    DELEGATION = 3
    """NFS: given back whole."""


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """A grant that is held (`target` equals `rights`) or being recalled (`target` is what may be kept)."""

    key: bytes
    kind: GrantKind
    rights: int
    target: int
    told: int
    """The target that the holder was last told; it may be above `target`, then the next recall follows the acknowledgement."""
    epoch: int = 1
    """Increases when rights are granted and when a recall begins, MS-SMB2 2.2.23.2 NewEpoch."""
    version: int = 2
    """Of a lease: what it was asked for with."""
    delegation: OpenId = OpenId(0)
    """The open that stands for a delegation."""

    @property
    def recalling(self) -> bool:
        return self.target != self.rights


def target_of(grant: Grant, take: int) -> int:
    """What the holder may keep of `rights` when these are taken."""
    if not grant.target & take:
        return grant.target
    left = grant.target & ~take
    if grant.kind is GrantKind.DELEGATION or not left & READ:
        return 0
    if grant.kind is GrantKind.OPLOCK:
        return READ  # an oplock breaks to level II or to nothing
    return left


def recall(grant: Grant, take: int) -> tuple[Grant | None, int | None]:
    """Takes rights away. Gives the grant (None: gone at once) and what to tell the holder to keep (None: nothing new to tell)."""
    target = target_of(grant, take)
    if target == grant.target:
        return grant, None
    if grant.recalling:
        # The holder has one recall to answer already; it hears of the rest after that.
        return msgspec.structs.replace(grant, target=target), None
    epoch = _next(grant.epoch)
    if grant.rights == READ and grant.kind is not GrantKind.DELEGATION:
        return _with(grant, 0, epoch), 0  # told, not asked
    return msgspec.structs.replace(grant, target=target, told=target, epoch=epoch), target


def must_wait(grant: Grant, need: int) -> bool:
    """Whether a request that cannot go on beside these rights has to wait until the holder has answered.

    Written data must come in before others read or write, and a cached handle must be closed before what it forbids is done; nobody waits for a
    holder of handles or reads to forget what it has cached (MS-FSA 2.1.4.12), but for a delegation's return always.
    """
    return grant.recalling and bool(grant.rights & need)


def acknowledge(grant: Grant, kept: int) -> tuple[Grant | None, int | None]:
    """The holder's answer: it keeps these rights. Gives what `recall` gives.

    Raises `NotRecalled` if nothing was recalled, `InvalidArgument` if more is kept than was told.
    """
    if not grant.recalling:
        raise NotRecalled("this grant is not being recalled")
    if kept & ~grant.told:
        raise InvalidArgument("the acknowledgement keeps more than the recall left")
    if not kept & READ:
        return _with(grant, 0), None
    if not kept & ~grant.target:
        return _with(grant, kept), None
    if kept == READ and grant.kind is not GrantKind.DELEGATION:
        return _with(grant, 0), 0
    # More was asked for meanwhile. What is left goes step by step, as Windows does it: handles and writes first, reads last
    # (MS-SMB2 3.3.5.22.2; smbtorture smb2.lease.breaking3).
    told = grant.target & kept | READ
    return msgspec.structs.replace(grant, rights=kept, told=told, target=grant.target & kept), told


def revoke(grant: Grant) -> Grant | None:
    """What is left of a grant whose holder did not answer."""
    return _with(grant, 0)


def settle(grant: Grant, rights: int) -> Grant | None:
    """The grant with no more than these rights from now on, without asking."""
    return _with(grant, rights, _next(grant.epoch))


def _next(epoch: int) -> int:
    return epoch + 1 & 0xFFFF


def _with(grant: Grant, rights: int, epoch: int | None = None) -> Grant | None:
    """The grant with these rights, none of them being recalled."""
    if not rights and grant.kind is not GrantKind.LEASE:
        return None
    return msgspec.structs.replace(grant, rights=rights, target=rights, told=rights, epoch=grant.epoch if epoch is None else epoch)
