"""An open, and the byte-range locks of one NFSv4 lock owner, in the coordinator's memory.

What others must respect of them is in the lock engine; what outlives them is in the records (`sofs/volume/kept.py`).
"""

from enum import IntEnum

import msgspec

from sofs.runtime.ports import Timer
from sofs.types import Inode, OpenId
from sofs.volume.api import Binding, Caller, Keep, Opened


class StateKind(IntEnum):
    """`StateInfo.kind`."""

    OPEN = 1
    LOCKS = 2
    DELEGATION = 3


class OpenFile(msgspec.Struct):
    """An open."""

    id: OpenId
    inode: Inode
    base: Inode
    """The file; the same as `inode` unless that is a stream."""
    access: int
    share: int
    caller: Caller
    by: Binding
    owner: bytes
    guid: bytes
    parent: Inode
    name: bytes
    """The name through which it was opened, kept up when that is renamed."""
    stream: bytes
    kind: int
    mandatory: bool
    """An SMB open."""
    delete_on_close: bool = False
    keep_modified: bool = False
    """Its writes leave the time of modification alone."""
    keep_changed: bool = False
    """The time of change was set through it, and stays."""
    sheds: bool = False
    """Its first write takes the set-user-id and set-group-id bits away: the caller is not the superuser."""
    answer: Opened | None = None
    """What a retry of an open with a guid is answered."""
    state: StateKind = StateKind.OPEN
    key: bytes = b""
    """By which it shares a grant with others."""
    lease: bytes | None = None
    """The key of the lease that it was opened with, if there was one."""
    parent_key: bytes = b""
    client: bytes = b""
    keep: Keep | None = None
    """It outlives its connection."""
    connected: bool = True
    recorded: bool = False
    """It is a record: it outlives its connection, or its gateway is another node's."""
    former: tuple[Binding, ...] = ()
    """Through which it was reached before: their late requests are refused."""
    sequence: int = 1
    combinations: tuple[tuple[int, int], ...] = ()
    """Rights and share modes of each OPEN of an NFSv4 open, for OPEN_DOWNGRADE (RFC 8881 18.18.3)."""
    numbers: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    """SMB's LockSequence: the newest number, and how many of its elements are done, by index (MS-SMB2 3.3.5.14)."""
    path: tuple[bytes, ...] = ()
    """As it was answered when it was opened."""
    maximal: int = 0
    change: int = 0
    """The file's change counter when it was opened."""
    unclaimed: bool = False
    """An NFSv4 one that was brought back where records may have been lost, and that its client has not reclaimed: perhaps it has ended."""
    timer: Timer | None = None
    """Ends it if its owner does not come back."""


class LockState(msgspec.Struct):
    """All byte-range locks of one NFSv4 lock owner on one file: what a lock stateid stands for (RFC 8881 9.1.2)."""

    id: OpenId
    inode: Inode
    owner: bytes
    open: OpenId
    """The open through which they were made last; they end with it."""
    sequence: int = 0
