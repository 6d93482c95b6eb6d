"""The nodes of a cluster: who they are, how they talk, and who is known to be dead.

Everything that one node asks of another goes through one framed protocol, the interconnect: mutual TLS, ordered messages, deadlines,
priorities. Volumes, logs and disks register the services that other nodes call; nothing here knows what they mean.

A node has an id, which it keeps, and an *incarnation*, which is new with every start of its process. Whoever refers to a process that may be
gone names its incarnation. That a node does not answer, or that its lease in the coordination store has run out, says nothing about whether it
still runs; only the record under `dead/` does, which its supervisor writes once it has reaped the process.

The interconnect:

- `frames`: what stands on the wire. `outcomes`: errors that keep their class.
- `link`: one connection. `stream`: the end that calls. `serving`, `handling`: the end that answers.
- `peers`, `interconnect`: all connections of a node.

Who takes part:

- `authority`, `renewal`: the certificates by which nodes know each other.
- `records`, `membership`: members, who of them runs, who is dead, and which features all know.
- `founding`: how a cluster begins, how nodes come and go. `own`: a node's identity on its own disk.
- `recovery`: every node's copy of the coordination store's records, for the day when that is lost.
- `store`: the coordination store, as the configuration names it. `guard`: what keeps a running node from believing an emptied one.
- `running`: the lock of a data directory, which says which incarnation runs there and proves that one has ended.
- `vips`: virtual addresses, each at one node at a time, wherever clients are to find it.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import NamedTuple, NewType, Protocol

from sofs.errors import SofsError
from sofs.runtime.later import Later
from sofs.runtime.ports import Buffer

__all__ = ["Answer", "Asked", "Handler", "Incarnation", "Interconnect", "NodeId", "Outcome", "Peer", "Priority", "Then"]

NodeId = NewType("NodeId", int)
"""A random 63-bit number, kept in the node's data directory."""

Incarnation = NewType("Incarnation", int)
"""A random number of one start of a node's process; also its gateways' (`sofs.volume.api.Binding.gateway`)."""


class Priority(IntEnum):
    """What goes first when a peer takes less than there is to send. Each has a stream of its own: order holds within it only."""

    REPLICATION = 0
    FOREGROUND = 1
    REBUILD = 2


class Asked(NamedTuple):
    """A call, as its handler gets it."""

    node: NodeId
    incarnation: Incarnation
    """Of the caller's process."""
    body: memoryview
    """Valid during the handler's synchronous part only: what is needed longer is copied."""
    payload: memoryview
    """The same, but one of 64 KiB or more may be kept: until the answer if it is this node's own call, else as long as one likes."""
    kept: bool = False
    """Body and payload may both be kept so."""


class Answer(NamedTuple):
    """Its buffers must not change any more. As it is received: body and payload are memoryviews, the payload one or none."""

    body: Buffer
    payload: Sequence[Buffer] = ()


Outcome = Answer | SofsError

Then = Callable[[Outcome], object]

Handler = Callable[[Asked], Answer | Later[Answer] | Awaitable[Answer]]
"""Answers at once, or when it has to wait with an awaitable (on the hot path: with a `Later`). A `SofsError` it raises reaches the caller as the same class,
with its message and gate; any other exception is logged here, and reaches the caller as `Unavailable`."""


class Peer(Protocol):
    """Another node, or this one (calls to oneself take the same way through the handlers, without a network)."""

    node: NodeId
    incarnation: Incarnation
    """Of its process as last heard of; 0 if never."""

    @property
    def connected(self) -> bool: ...

    @property
    def heard(self) -> float:
        """When anything came from it last over a connection made by this node, by the monotonic clock; 0 if nothing ever did. While it is connected,
        it is asked for a sign of life whenever it has said nothing for a second."""

    def call(
        self, service: str, body: Buffer, payload: Sequence[Buffer] = (), *, priority: Priority = Priority.FOREGROUND, deadline_s: float = 5.0
    ) -> Awaitable[Answer]:
        """Asks the service of this name there.

        Messages of one priority are handed to handlers there in the order of their calls here, each at most once; what was called before a
        connection broke never arrives after what is called later. Buffers must not change until the answer; after an `Unavailable`, never
        (they may still be on their way). The body has at most 1 MiB, the payload 16 MiB. Raises what the handler
        raised; `Unavailable` when the deadline passes, the peer cannot be reached, the connection breaks (the call may have been executed
        all the same) or too much waits to be sent already; `NotSupported` when no such service is there.
        """

    def ask(
        self, service: str, body: Buffer, payload: Sequence[Buffer], then: Then, *, priority: Priority = Priority.FOREGROUND, deadline_s: float = 5.0
    ) -> None:
        """`call` for the hot path, without a future: `then` is called exactly once, later, with the answer or the error, as soon as that arrives.

        The answer's views are valid during that call only, except for a payload of 64 KiB or more. Never raises: whatever is wrong is told to `then`.
        """

    def notify(self, service: str, body: Buffer, payload: Sequence[Buffer] = (), *, priority: Priority = Priority.FOREGROUND) -> None:
        """The same without an answer: it may be lost, with the connection."""

    def on_change(self, call: Callable[[bool], None]) -> Callable[[], None]:
        """Calls with whether there is a connection, whenever that changes. What it answers ends that."""


class Interconnect(Protocol):
    node: NodeId
    incarnation: Incarnation

    def serve(self, service: str, handler: Handler) -> None:
        """Offers a service from now on; a second one of the same name takes its place."""

    def peer(self, node: NodeId) -> Peer:
        """The node with this id, known or not yet: what is not a member cannot be reached."""
