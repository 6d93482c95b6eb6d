"""A COMPOUND while it is carried out: what its operations share, one operation after the other, and its reply (RFC 8881 2.3, 15.2).

A handler is a function of the `Compound` and its arguments. It gives what follows the status OK in its result, or an `Ask`: a request for a
volume and what to make of the answer (a result, or the next `Ask`). What cannot be done it raises: any `SofsError`, or `Failure` for a status of the
protocol's own. On hits all of a COMPOUND is carried out in one call, without a task; only what has to wait gets one.

The reply is told when the gates of everything that was consulted are open.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from gateways.nfs.auth import Credential
from gateways.nfs.handles import BadHandle, Place, Places
from gateways.nfs.rpc import REPLY_SIZE, Call, write_header
from gateways.nfs.v4.status import Failure, Status, status_of
from gateways.nfs.v4.types import ANONYMOUS, Stateid
from gateways.nfs.xdr import pad
from sofs.errors import PeerError, ReadOnly, SofsError
from sofs.runtime.ports import Buffer
from sofs.types import Level, Lsn
from sofs.volume.api import Read, Reply, Request, SlotToken, Volume

if TYPE_CHECKING:
    from gateways.nfs.v4.service import Service
    from gateways.nfs.v4.slots import Session, Slot

__all__ = [
    "ABOVE",
    "ANYWHERE",
    "CURRENT_FH",
    "FIRST",
    "ONLY",
    "SAVED_FH",
    "Above",
    "Ask",
    "Compound",
    "Operation",
    "Outcome",
    "Payload",
    "Replayed",
    "Unreadable",
    "Wait",
]

log = structlog.get_logger("nfs")

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
    first: int = 0
    """`ONLY`, `FIRST` or `ANYWHERE` if it may be a COMPOUND's first; else a SEQUENCE must come before it."""


ONLY, FIRST, ANYWHERE = 1, 2, 3
"""Sent without SEQUENCE it is the COMPOUND's only operation (EXCHANGE_ID ...), and with one it is in its place; it is always the first (SEQUENCE);
it is always the only one (BIND_CONN_TO_SESSION)."""


class Unreadable(Failure):
    """An operation that cannot be read; its result has `number`."""

    def __init__(self, status: Status, number: int) -> None:
        super().__init__(status)
        self.number = number


class Replayed(Exception):
    """The request has been answered before: `reply` is what follows the RPC header."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


class Compound:
    """One COMPOUND, from its first operation to its reply."""

    __slots__ = (
        "_at", "_committed", "_gates", "_head", "_out", "_pieces", "_stable", "_start", "_volume", "cache", "call", "count", "credential", "here", "index",
        "minor", "number", "operation", "places", "resumed", "saved", "saved_stateid", "sent", "service", "session", "slot", "stateid", "status",
    )  # fmt: skip

    def __init__(self, service: "Service", places: Places, call: Call, tag: bytes, minor: int, count: int, at: int) -> None:
        self.service = service
        self.places = places
        self.call = call
        self.credential: Credential = call.credential
        self.minor = minor
        self.count = count
        """Operations that were sent."""
        self.index = 0
        """The one that is being carried out."""
        self.number = 0
        self.operation: Operation | None = None
        self.here: Place | Above | None = None
        """The current filehandle. Change it with `go`."""
        self.saved: Place | Above | None = None
        self.stateid = ANONYMOUS
        """The current stateid, 16.2.3.1.2. Set it after `go`."""
        self.saved_stateid = ANONYMOUS
        self.session: Session | None = None
        self.slot: Slot | None = None
        self.cache = False
        """The reply is to be kept (sa_cachethis)."""
        self.resumed: Reply | None = None
        """What the volume answered the operation `index` before a crash cut this COMPOUND in two."""
        self.status = Status.OK
        self._at = at
        self._head = REPLY_SIZE + 12 + (len(tag) + 3 & ~3)
        self._out = bytearray(self._head)
        self._out[REPLY_SIZE + 4 : self._head - 4] = len(tag).to_bytes(4) + tag + pad(len(tag))
        self._start = self._head
        self._pieces: list[Buffer] = []
        self.sent = 0
        """Bytes of the reply in `_pieces`."""
        self._volume: Volume | None = None
        self._committed = self._stable = Lsn(0)
        self._gates: list[tuple[Volume, Lsn, Lsn]] = []

    # What handlers use

    def go(self, to: Place | Above) -> None:
        """Makes `to` the current filehandle; the current stateid is then the anonymous one (RFC 8881 16.2.3.1.2)."""
        self.here = to
        self.stateid = ANONYMOUS

    @property
    def place(self) -> Place:
        """The current filehandle's file, where the table has refused the directory above the exports."""
        assert isinstance(self.here, Place)
        return self.here

    @property
    def saved_place(self) -> Place:
        """The saved filehandle's file. Raises `ReadOnly` for the directory above the exports."""
        if not isinstance(self.saved, Place):
            raise ReadOnly("the directory above the exports belongs to none of them")
        return self.saved

    def rest(self, volume: Volume, gate: Lsn, level: Level) -> None:
        """The reply is not told before `gate` is open at `level`. For an `Ask`'s or a `Wait`'s answer this is done already, at the level of the table's line."""
        if volume is not self._volume:
            if self._volume is not None:
                self._gates.append((self._volume, self._committed, self._stable))
                self._committed = self._stable = Lsn(0)
            self._volume = volume
        if level is Level.COMMITTED:
            if gate > self._committed:
                self._committed = gate
        elif gate > self._stable:
            self._stable = gate

    def token(self, volume: Volume) -> SlotToken | None:
        """The token of the current operation, for a handler that calls `Volume.write` itself; `resumed` is to be looked at before."""
        session = self.session
        return None if session is None else session.token(self, volume)

    # From operation to operation

    def proceed(self) -> None:
        """Carries out operations until one has to wait or the reply is complete."""
        while self.index < self.count:
            try:
                outcome = self._begin()
                if type(outcome) is not bytes:
                    outcome = self._settle(outcome)
                    if outcome is None:
                        return
                self._finish(outcome)
            except Replayed as replayed:
                self._replay(replayed.reply)
                return
            except (SofsError, Failure, BadHandle) as error:
                self._fail(error)
                break
        self._reply()

    def _begin(self) -> Outcome:
        """Reads the next operation, checks what the table says of it, and calls its handler."""
        self._start = len(self._out)
        operation, arguments = self._read()
        self.operation = operation
        if self.session is None or operation.first:
            self._check_position(operation)
        if operation.needs:
            here = self.here
            if here is None:
                raise Failure(Status.NOFILEHANDLE)
            if operation.needs & SAVED_FH and self.saved is None:
                raise Failure(Status.NOFILEHANDLE)
            if here is ABOVE:
                above = operation.above
                if isinstance(above, Status):
                    raise Failure(above)
                return above(self, arguments)
            if operation.modifies and here.read_only:  # type: ignore[union-attr]
                raise Failure(Status.ROFS)
        return operation.handler(self, arguments)

    def _read(self) -> tuple[Operation, Any]:
        try:
            self.number, operation, arguments, self._at = self.service.read(self.call.data, self._at, self.minor)
        except Unreadable as error:
            self.number, self.operation = error.number, None
            raise
        return operation, arguments

    def _check_position(self, operation: Operation) -> None:
        """Which operations may stand where: 2.10.6.1 and the operations' own sections."""
        if self.index == 0:
            if not operation.first:
                raise Failure(Status.OP_NOT_IN_SESSION)
            if operation.first != FIRST and self.count > 1:
                raise Failure(Status.NOT_ONLY_OP)
        elif operation.first == FIRST:
            raise Failure(Status.SEQUENCE_POS)
        elif operation.first == ANYWHERE:
            raise Failure(Status.NOT_ONLY_OP)

    def _settle(self, outcome: Outcome) -> bytes | Payload | None:
        """Takes an outcome to a result; None if that takes a while (then a task goes on)."""
        level = self.operation.level  # type: ignore[union-attr]
        while True:
            kind = type(outcome)
            if kind is Ask:
                volume = outcome.volume  # type: ignore[union-attr]
                token = None
                reply: Any = None
                if outcome.changes:  # type: ignore[union-attr]
                    reply = self.resumed
                    if reply is None:
                        token = self.token(volume)
                if reply is None:
                    reply = volume.call(outcome.request, token, self.service.by)  # type: ignore[union-attr]
                if not isinstance(reply, Reply):
                    self._later(outcome, reply)
                    return None
                self.rest(volume, reply.gate, level)
                outcome = outcome.answer(reply)  # type: ignore[union-attr]
            elif kind is Wait:
                self._later(outcome, outcome.result)  # type: ignore[union-attr]
                return None
            else:
                return outcome  # type: ignore[return-value]

    def _later(self, outcome: Any, result: Awaitable[Reply | Read]) -> None:
        # Not with the connection's other work, which ends with it: the slot makes a repetition over another connection wait for this one's end.
        task = asyncio.get_running_loop().create_task(self._resume(outcome, result))
        self.service.keep(task)

    async def _resume(self, outcome: Any, result: Awaitable[Reply | Read]) -> None:
        try:
            try:
                answered = await result
                level = self.operation.level  # type: ignore[union-attr]
                self.rest(outcome.volume, answered.gate, level)
                settled = self._settle(outcome.answer(answered))
                if settled is None:
                    return
                self._finish(settled)
            except (SofsError, Failure, BadHandle) as error:
                self._fail(error)
                self._reply()
                return
            self.proceed()
        except PeerError as error:
            self.call.connection.link.close(str(error))
        except Exception:
            log.exception("compound_failed", peer=self.call.connection.peer, operation=self.number)
            self.call.connection.link.close("a bug of ours, see the log")

    def _finish(self, result: bytes | Payload) -> None:
        """Adds an operation's result to the reply."""
        out = self._out
        out += _RESULT_OK[self.number]
        if type(result) is bytes:
            out += result
        else:
            head, data = result  # type: ignore[misc]
            out += head
            self._pieces.append(out)
            self._pieces.append(data)
            self.sent += len(out) + len(data)
            self._out = bytearray(pad(len(data)))
            self._start = 0
        self.resumed = None
        if self.session is not None:
            self.session.check_size(self)
        self.index += 1

    @property
    def size(self) -> int:
        """Bytes of the reply so far, without the RPC header."""
        return self.sent + len(self._out) - REPLY_SIZE

    def _fail(self, error: SofsError | Failure | BadHandle) -> None:
        """The operation's result is its status; no other operation follows."""
        body = b"" if self.operation is None else self.operation.failure
        if isinstance(error, Failure):
            status, body = error.status, error.body or body
        else:
            status = status_of(error)
            if isinstance(error, SofsError) and error.gate and self.here is not None and isinstance(self.here, Place):
                self.rest(self.here.volume, error.gate, Level.COMMITTED)
        del self._out[self._start :]
        self._out += self.number.to_bytes(4) + status.to_bytes(4) + body
        self.status = status
        self.index += 1

    # The reply

    def _reply(self) -> None:
        """Hands the reply to the gates."""
        first = self._pieces[0] if self._pieces else self._out
        assert isinstance(first, bytearray)
        first[REPLY_SIZE : REPLY_SIZE + 4] = self.status.to_bytes(4)
        first[self._head - 4 : self._head] = self.index.to_bytes(4)
        self._pieces.append(self._out)
        size = self.sent + len(self._out)
        write_header(first, size, self.call.xid)
        if self._volume is None:
            self._send()
            return
        send: Callable[[], None] = self._send
        for volume, committed, stable in self._gates:
            send = _after(volume, committed, stable, send)
        if self._stable > 0:
            _after(self._volume, self._committed, self._stable, send)()
        else:
            self._volume.when(self._committed, Level.COMMITTED, send)

    def _send(self) -> None:
        if self.slot is not None:
            assert self.session is not None
            self.session.answered(self, self._pieces)
        self.call.connection.answer(self.call, self._pieces)

    def _replay(self, reply: bytes) -> None:
        """Answers with a reply of before, whatever this COMPOUND has done."""
        self.call.reply(reply)


def _after(volume: Volume, committed: Lsn, stable: Lsn, then: Callable[[], None]) -> Callable[[], None]:
    """What waits for a volume's gates before it goes on."""
    if committed > stable and stable:
        return lambda: volume.when(stable, Level.STABLE, lambda: volume.when(committed, Level.COMMITTED, then))
    if stable:
        return lambda: volume.when(stable, Level.STABLE, then)
    return lambda: volume.when(committed, Level.COMMITTED, then)


_RESULT_OK: Sequence[bytes] = tuple(number.to_bytes(4) + bytes(4) for number in range(128))
