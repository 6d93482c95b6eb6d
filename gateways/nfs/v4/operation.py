"""An operation of a COMPOUND: what its line of the table says, and what its handler may answer.

A handler is a function of the `Compound` and its arguments. It gives what follows the status OK in its result, or an `Ask`: a request for a
volume and what to make of the answer (a result, or the next `Ask`). What cannot be done it raises: any `SofsError`, or `Failure` for a status of the
protocol's own.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gateways.nfs.v4.status import Failure, Status
from sofs.errors import SofsError
from sofs.types import Kind, Level
from sofs.volume.api import Request, Volume

if TYPE_CHECKING:
    from gateways.nfs.v4.compound import Compound

CURRENT_FH, SAVED_FH = 1, 2
"""What an operation needs: a current filehandle; a saved one, too (3 for both)."""


class Above:
    """The directory above all exports, as a filehandle stands for it."""


ABOVE = Above()


class Ask(NamedTuple):
    """A request for a volume, and what to do with its answer."""

    volume: Volume
    request: Request
    answer: Callable[[Any], "Outcome"]
    """From the reply to the result, or to the next outcome."""
    changes: bool = False
    """The request that changes something: it carries the slot's token, so an operation has at most one, and what it asks before
    is the same each time."""
    refused: Callable[[SofsError], "Outcome"] | None = None
    """What to do if the volume refuses it; by default that is the operation's failure."""


class Wait(NamedTuple):
    """A `Volume.read` or `write` that the handler has begun and that did not answer at once."""

    volume: Volume
    result: Awaitable[Any]
    answer: Callable[[Any], "Outcome"]


class Payload(NamedTuple):
    """A result that ends with opaque data: sent from where it lies, with its padding. `head` includes the length."""

    head: bytes
    data: memoryview


Outcome = bytes | Payload | Ask | Wait
Handler = Callable[["Compound", Any], Outcome]


class Operation(NamedTuple):
    """One line of the table: an operation's name and form, and what must hold before its handler is called."""

    name: str
    arguments: Any
    """An XDR message, or a function from (data, offset) to the arguments and the offset behind them, for the hot ones. May raise `XdrError`
    and `struct.error`, which is BADXDR."""
    handler: Handler
    needs: int = 0
    """`CURRENT_FH`, `SAVED_FH`."""
    modifies: bool = False
    """Refused with ROFS in a read-only export."""
    level: Level = Level.COMMITTED
    """When its reply is told. Operations on data and names: STABLE (`Compound.rest` for what depends)."""
    above: Handler | Status = Status.ROFS
    """What is done if the current filehandle is the directory above the exports."""
    minor: int = 1
    """The first minor version that has it."""
    failure: bytes = b""
    """What follows any status but OK (SETATTR: an empty bitmap)."""
    records: bool = False
    """Its `Ask` with `changes` carries a token (`modifies` implies it)."""
    statuses: Mapping[type[SofsError], Status] = {}
    """Outcomes that mean something else here than everywhere."""
    works_on: Kind | None = None
    """The kind of file it works on; if it fails because of another one, the status says what that is (`Compound._wrong_kind`)."""
    first: int = 0
    """`ONLY`, `FIRST` or `ANYWHERE` if it may be a COMPOUND's first; else a SEQUENCE must come before it."""


ONLY, FIRST, ANYWHERE = 1, 2, 3
"""Sent without SEQUENCE it is the COMPOUND's only operation (EXCHANGE_ID ...), and with one it is in its place; it is always the first (SEQUENCE);
it is always the only one (BIND_CONN_TO_SESSION)."""


class Unreadable(Failure):
    """An operation that cannot be read; its result has `number`."""

    def __init__(self, status: Status, number: int, body: bytes = b"") -> None:
        super().__init__(status, body)
        self.number = number


class Replayed(Exception):
    """The request has been answered before: `reply` is what follows the RPC header."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


class Resumed(Exception):
    """The COMPOUND stands behind operations that were carried out before a crash."""


class Uncached(Exception):
    """The request has been answered before, and its reply was not kept: SEQUENCE has this `result`, and the operation behind it fails (2.10.6.1.3)."""

    def __init__(self, result: bytes) -> None:
        super().__init__()
        self.result = result
