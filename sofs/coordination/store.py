"""The port to the coordination store, modelled on what etcd promises (etcd.io, "KV API guarantees").

Each transaction that changes something gets the next *revision*, one number for the whole store. Reads and transactions are
linearizable. Keys are ASCII paths such as `shares/home`, values are bytes.

Every call ends in bounded time: with its answer, with `Unavailable` (the store could not be reached; nothing was changed), or, for
a change, with `OutcomeUnknown`: then a read (`get` of the key) tells, before anything is built on it.
"""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from sofs.errors import SofsError


class OutcomeUnknown(SofsError):
    """The connection broke or the time ran out after a change had been sent: it may have been made, or may yet be."""


class Entry(NamedTuple):
    """A key with its value."""

    key: str
    value: bytes
    revision: int
    """Of the transaction that put this value."""
    lease: int = 0
    """The lease it goes with; 0 for none."""


class Listing(NamedTuple):
    """All entries below a prefix, in key order, as of a revision."""

    revision: int
    entries: tuple[Entry, ...]


class Condition(NamedTuple):
    """The key was last put at this revision; 0: it does not exist."""

    key: str
    revision: int


class Put(NamedTuple):
    key: str
    value: bytes
    lease: int = 0
    """Remove the key when this lease ends."""


class Delete(NamedTuple):
    """Removing a key that does not exist is no error."""

    key: str


Change = Put | Delete


class Transacted(NamedTuple):
    """`done` says whether the conditions held and the changes were made; `revision` is the store's then."""

    done: bool
    revision: int


class Seen(NamedTuple):
    """What a watch saw: the changes of one revision; or, with `complete`, all there is: what is not in `entries` is gone."""

    revision: int
    entries: tuple[Entry, ...]
    removed: tuple[str, ...] = ()
    complete: bool = False


class Health(NamedTuple):
    """How a member of the store's cluster is."""

    endpoint: str
    state: str
    """leader, follower, or what is the matter."""
    size: int = 0
    """Bytes of its database."""
    well: bool = False


class Watch(Protocol):
    """The changes below a prefix, in order, from a complete listing on (or from a revision the caller already knows).

    Nothing is ever missed: if the store no longer has the changes in between, a complete listing takes their place. While the store
    is down the watch waits.
    """

    def __aiter__(self) -> AsyncIterator[Seen]: ...

    async def __anext__(self) -> Seen: ...

    async def close(self) -> None: ...


class Lease(Protocol):
    """Keys put with a lease go when it ends: when it was not kept for its time, or is revoked."""

    id: int
    duration: float
    """Seconds, as granted; may be more than was asked for."""

    async def keep(self) -> bool:
        """Starts its time anew. False: it has ended, with its keys. Raises `Unavailable`: then it may be running out."""

    async def revoke(self) -> None:
        """Ends it now. Raises `Unavailable`, `OutcomeUnknown`."""


class Store(Protocol):
    """The store. All errors of an adapter's own transport stay within it."""

    async def get(self, key: str) -> Entry | None:
        """Raises `Unavailable`."""

    async def range(self, prefix: str) -> Listing:
        """Everything whose key begins with `prefix`. Raises `Unavailable`."""

    async def transact(self, conditions: Sequence[Condition], changes: Sequence[Change]) -> Transacted:
        """Makes all changes if all conditions hold, else none; each key is changed at most once.

        Raises `Unavailable`, `OutcomeUnknown`, `NoSpace`, `NotFound` (a lease that has ended).
        """

    async def lease(self, duration: float) -> Lease:
        """A new lease of at least `duration` seconds. Raises `Unavailable`."""

    def watch(self, prefix: str, after: int = 0) -> Watch:
        """What changes below `prefix` after revision `after`; 0 begins with a complete listing."""

    async def close(self) -> None: ...
