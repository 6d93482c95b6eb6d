"""The lock engine: who may do what to a file while others use it, for SMB and NFS at once.

Each file in use has one `FileState`, a value: its opens with access and share modes, its byte ranges, the grants
(rights to cache) that clients hold, and whether it is to be deleted. Transitions are pure functions from a state to a `Step`: the
next state, the upcalls to send, and whether the request has to wait; an outcome that is not success is raised and changes
nothing. `LockManager` owns the states of a volume's files, queues what must wait, recalls grants and
revokes those that are not given back in time.

In reading order: `sharing` (opens and share modes), `ranges` (byte ranges), `grants` (the life of a grant), `state` (all
of them together), `recalls` (what others must give up: the rules between two protocols), `transitions` (opens, data, ranges), `holding` (grants),
`manager`.

The engine knows no protocol messages, sessions or names. Owners are opaque: the id of an open, the key of a grant, the bytes
by which a protocol names a lock owner.
"""

from sofs.locks.grants import HANDLE, READ, WRITE, Grant, GrantKind
from sofs.locks.manager import LockManager
from sofs.locks.ranges import END, ByteLock
from sofs.locks.sharing import SHARE_ALL, SHARE_DELETE, SHARE_READ, SHARE_WRITE, Opening
from sofs.locks.state import Dropped, FileState, Recall, Revoked, Step, Upcall

__all__ = [
    "END",
    "HANDLE",
    "READ",
    "SHARE_ALL",
    "SHARE_DELETE",
    "SHARE_READ",
    "SHARE_WRITE",
    "WRITE",
    "ByteLock",
    "Dropped",
    "FileState",
    "Grant",
    "GrantKind",
    "LockManager",
    "Opening",
    "Recall",
    "Revoked",
    "Step",
    "Upcall",
]
