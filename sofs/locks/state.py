"""All that restrains one file's users, as a value.

A `FileState` is never changed: `transitions` (opens, data, byte ranges) and `holding` (grants) are functions from one to the next. Their
answer is a `Step`. A step with `wait` set has not done what was asked: it only made the recalls that must be answered first,
and is to be tried again whenever the state has changed. What cannot be done is raised, and leaves the state as it was.

The rules between the protocols (ARCHITECTURE.md, "Two protocols, one file"): SMB's share modes and byte ranges bind NFS; NFS
ranges bind SMB's I/O and not NFS's; a grant in the way is recalled, and the other waits or is told `Delayed`; so it is with a disconnected
persistent handle, while another disconnected handle gives way at once. Reading attributes restrains nobody and asks nothing here.
"""

from typing import NamedTuple

import msgspec

from sofs.errors import Closed
from sofs.locks.grants import Grant, GrantKind
from sofs.locks.ranges import Ranges
from sofs.locks.sharing import Opening
from sofs.types import OpenId

STATELESS = OpenId(0)
"""Access without an open: NFSv3, and NFSv4's special stateids."""


class FileState(msgspec.Struct, frozen=True, array_like=True):
    """Who uses one file, and how. Files nobody uses have none."""

    opens: tuple[Opening, ...] = ()
    ranges: Ranges = ()
    grants: tuple[Grant, ...] = ()
    delete_pending: bool = False

    def opening(self, id: OpenId) -> Opening:
        """Raises `Closed`."""
        for held in self.opens:
            if held.id == id:
                return held
        raise Closed(f"there is no open {id}")

    def grant(self, key: bytes) -> Grant | None:
        return next((held for held in self.grants if held.key == key), None)

    def sharers(self, key: bytes) -> tuple[Opening, ...]:
        """The opens that share a grant."""
        return tuple(held for held in self.opens if held.key == key)


FREE = FileState()


class Recall(NamedTuple):
    """To a grant's holder: `keep` is all that may be kept from now on."""

    key: bytes
    kind: GrantKind
    opens: tuple[OpenId, ...]
    """The opens that share the grant, the one that stands for a delegation among them."""
    held: int
    keep: int
    acknowledge: bool
    """Whether an answer is awaited."""
    epoch: int
    version: int = 2
    delegation: OpenId = OpenId(0)


class Revoked(NamedTuple):
    """The holder did not answer in time: its grant is gone."""

    key: bytes
    kind: GrantKind
    opens: tuple[OpenId, ...]
    delegation: OpenId = OpenId(0)


class Dropped(NamedTuple):
    """A disconnected handle stood in the way and is closed, and can no longer be reconnected; or a delegation's open has ended with its revocation."""

    open: OpenId
    delete: bool
    """It was the last one of a file that is to be deleted."""


Upcall = Recall | Revoked | Dropped


class Step(NamedTuple):
    state: FileState
    upcalls: tuple[Upcall, ...] = ()
    wait: bool = False


def replace_grant(state: FileState, key: bytes, new: Grant | None) -> FileState:
    kept = tuple(replaced for held in state.grants if (replaced := new if held.key == key else held) is not None)
    return msgspec.structs.replace(state, grants=kept)


def replace_open(state: FileState, new: Opening) -> FileState:
    return msgspec.structs.replace(state, opens=tuple(new if held.id == new.id else held for held in state.opens))
