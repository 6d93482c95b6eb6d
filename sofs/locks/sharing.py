"""Opens and share modes, MS-FSA 2.1.5.1.2.2.

NFSv4 share reservations are the same thing turned round: `deny` READ is a share mode without READ (RFC 8881 9.7). An
NFS open always shares DELETE.
"""

import msgspec

from sofs.types import OpenId

SHARE_READ, SHARE_WRITE, SHARE_DELETE, SHARE_ALL = 1, 2, 4, 7

READS = 0x1 | 0x20
"""Rights that share mode READ is about: FILE_READ_DATA, FILE_EXECUTE (MS-DTYP 2.4.3)."""
WRITES = 0x2 | 0x4
"""FILE_WRITE_DATA, FILE_APPEND_DATA."""
DELETE = 0x10000
USES = READS | WRITES | DELETE
"""An open with none of these neither suffers from share modes nor imposes its own."""


class Opening(msgspec.Struct, frozen=True, array_like=True):
    """An open, as far as others are concerned."""

    id: OpenId
    access: int
    """Granted rights, as in MS-DTYP 2.4.3."""
    share: int
    mandatory: bool
    """An SMB open: its byte ranges bind everybody's I/O, and others' ranges bind its own. False for NFS."""
    key: bytes = b""
    """Whose grant it shares: (ClientGuid, LeaseKey), or the open itself; empty for none."""
    delete_on_close: bool = False
    connected: bool = True
    """False for a durable or persistent handle whose connection is gone."""
    persistent: bool = False
    """Kept while disconnected, whatever stands behind it; another disconnected one gives way."""


def denied(opening: Opening) -> int:
    """The share modes that an open keeps from others."""
    return SHARE_ALL & ~opening.share if opening.access & USES else 0


def needed(access: int) -> int:
    """The share modes that others must have left free for these rights."""
    return (SHARE_READ if access & READS else 0) | (SHARE_WRITE if access & WRITES else 0) | (SHARE_DELETE if access & DELETE else 0)


def clashes(held: Opening, access: int, share: int) -> bool:
    """Whether an open of these rights and this share mode cannot stand beside `held`."""
    if not access & USES or not held.access & USES:
        return False
    return bool(needed(access) & ~held.share or needed(held.access) & ~share)
