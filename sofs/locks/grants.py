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
"""

from enum import IntEnum

import msgspec

from sofs.errors import InvalidArgument

__all__ = ["HANDLE", "READ", "WRITE", "Grant", "GrantKind", "acknowledge", "must_wait", "recall", "target_of"]

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
    """Increases with every change, for MS-SMB2 2.2.23.2 NewEpoch."""

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
    if grant.rights == READ and grant.kind is not GrantKind.DELEGATION:
        return None, 0  # told, not asked
    return msgspec.structs.replace(grant, target=target, told=target, epoch=grant.epoch + 1), target


def must_wait(grant: Grant, take: int) -> bool:
    """Whether a request that needs these rights taken has to wait until the holder has answered."""
    if not grant.recalling or not grant.rights & take:
        return False
    if grant.kind is GrantKind.DELEGATION:
        return True
    # Of SMB holders: written data must come in, and handles must be closed, before others go on.
    return bool(grant.rights & take & (WRITE | HANDLE))


def acknowledge(grant: Grant, kept: int) -> tuple[Grant | None, int | None]:
    """The holder's answer: it keeps these rights. Gives what `recall` gives.

    Raises `InvalidArgument` if nothing was recalled, or more is kept than was told.
    """
    if not grant.recalling:
        raise InvalidArgument("this grant is not being recalled")
    if kept & ~grant.told:
        raise InvalidArgument("the acknowledgement keeps more than the recall left")
    if not kept & READ:
        return None, None
    settled = msgspec.structs.replace(grant, rights=kept, target=kept, told=kept, epoch=grant.epoch + 1)
    if kept & ~grant.target:
        return recall(settled, kept & ~grant.target)
    return settled, None
