"""The interface itself: reads, writes, tokens, what a volume tells its gateways."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import msgspec

from sofs.locks import GrantKind
from sofs.types import Inode, Level, Lsn, OpenId, Time, VolumeId
from sofs.volume.api.clients import CallToken, SlotToken, Token
from sofs.volume.api.values import Attributes, Binding, Reply, Request, Target


class Read(NamedTuple):
    """`count` bytes were put into the buffer; `end` says that the file's end was reached."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants of a Read
    end: bool
    gate: Lsn
    attributes: Attributes | None = None
    """Given for `Stateless` targets (NFSv3 returns them with every read)."""


class Written(Reply):
    count: int
    attributes: Attributes | None = None
    before: tuple[int, Time, Time, int] | None = None


AnyToken = Token | SlotToken | CallToken
"""What makes a request's retry harmless, in either protocol's way, or between nodes."""


class Recall(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A grant must be given back: only `keep` of it may be kept. The gateway that serves one of the holder's opens asks its client; all others ignore it."""

    inode: Inode
    key: bytes
    kind: GrantKind
    opens: tuple[OpenId, ...]
    """The opens that share it."""
    held: int
    keep: int
    acknowledge: bool
    """Whether the volume waits for `Acknowledge` or `ReturnGrant`."""
    epoch: int
    version: int
    """`Wish.version`."""
    delegation: OpenId
    """Its number, if it is one."""


class Revoked(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The holder did not answer in time: its grant is gone."""

    inode: Inode
    key: bytes
    kind: GrantKind
    opens: tuple[OpenId, ...]
    delegation: OpenId


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A disconnected open gave way to somebody else, or nobody came back to it in time."""

    open: OpenId


class Noticed(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Something that the open watches has changed: `name` (a path relative to its directory, with `/`) was added (1), removed (2), modified (3), renamed
    from (4) or to (5), or a stream of it was (6, 7, 8): MS-FSCC 2.7.1. Action 0: the watched directory itself was removed; 9: too much happened to tell."""

    open: OpenId
    action: int
    name: bytes


class FencedOff(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """That gateway incarnation has been superseded: its sessions are gone. A single node, which has no other gateway, never says so."""

    gateway: int


class Resumed(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Another node coordinates the volume now, or the one that does was out of reach for a while: opens, locks and grants are what they were, but
    upcalls may have been lost, what was watched (`Watch`) is not any more, and the verifier may be another."""


Upcall = Recall | Revoked | Dropped | Noticed | FencedOff | Resumed
"""What a volume tells its gateways."""
Upcalls = Callable[[VolumeId, Upcall], None]
"""How a gateway hears it. Called on the loop; must not raise."""


class Volume(Protocol):
    """A volume, local or forwarded. Every method answers at once, or with an awaitable only when it has to wait."""

    id: VolumeId
    name: str

    @property
    def verifier(self) -> int:
        """64 bits: changes exactly when an acknowledged unstable write may have been lost. 0 for one that is elsewhere and has not been reached yet."""

    def call(self, request: Request, token: AnyToken | None, by: Binding) -> Reply | Awaitable[Reply]: ...

    def read(self, target: Target, offset: int, into: memoryview, by: Binding) -> Read | Awaitable[Read]:
        """Fills `into`. Raises `LockConflict`, `AccessDenied`, `Damaged`, ..."""

    def write(self, target: Target, offset: int, data: memoryview, token: AnyToken | None, level: Level, by: Binding) -> Written | Awaitable[Written]:
        """`data` stays valid until the reply's gate opens. An `offset` of -1 appends."""

    def when(self, gate: Lsn, level: Level, send: Callable[[], None]) -> None:
        """Calls `send` at once if the gate is open and the lease valid; else later, in order, or never."""

    def subscribe(self, upcalls: Upcalls) -> None: ...

    def at(self, snapshot: int) -> "Volume":
        """The volume as it was, read-only: the same interface. Raises `NotFound`."""
