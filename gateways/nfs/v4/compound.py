"""A COMPOUND while it is carried out: what its operations share, one operation after the other, and its reply (RFC 8881 2.3, 15.2).

On hits all of a COMPOUND is carried out in one call, without a task; only what has to wait gets one.

The reply is told when the gates of everything that was consulted are open.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import structlog

from gateways.nfs.auth import Credential
from gateways.nfs.handles import BadHandle, Place, Places
from gateways.nfs.rpc import REPLY_SIZE, Call, write_header
from gateways.nfs.v4.operation import (
    ABOVE,
    ANYWHERE,
    FIRST,
    SAVED_FH,
    Above,
    Ask,
    Operation,
    Outcome,
    Payload,
    Replayed,
    Resumed,
    Uncached,
    Unreadable,
    Wait,
)
from gateways.nfs.v4.status import Failure, Status, status_of
from gateways.nfs.v4.types import ANONYMOUS
from gateways.nfs.xdr import opaque, pad
from sofs.errors import Fenced, ReadOnly, SofsError
from sofs.runtime.ports import Buffer
from sofs.types import Kind, Level, Lsn
from sofs.volume.api import Found, GetAttributes, Reply, SlotToken, Volume

if TYPE_CHECKING:
    from gateways.nfs.v4.clients import Client
    from gateways.nfs.v4.service import Service
    from gateways.nfs.v4.slots import Session, Slot

log = structlog.get_logger("nfs")


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
        self._out[REPLY_SIZE + 4 : self._head - 4] = opaque(tag)
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
        """The reply is not told before `gate` is open at `level`. For the answer to an `Ask` or a `Wait` this is done already, at its table line's level."""
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
        """The token of the current operation, for a handler that calls `Volume.write` itself; `resumed` is to be looked at before. None where
        sessions are not kept."""
        session = self.session
        return None if session is None or self.service.system is None else session.token(self, volume)

    def renew(self, client: "Client") -> None:
        """The client has shown that it is alive (RFC 8881 8.3)."""
        client.renewed = self.service.clock.boottime()

    # For slots

    @property
    def rest_of_request(self) -> memoryview:
        """The operations behind the one being carried out, as they were sent."""
        return self.call.data[self._at :]

    def results(self) -> bytes:
        """What the operations before the current one have added to the reply."""
        return (b"".join(self._pieces) + self._out[: self._start])[self._head :]

    def resume_at(self, index: int, results: bytes, reply: Reply | None) -> None:
        """Goes on with operation `index`, which a volume has answered with `reply`, behind these results."""
        while self.index + 1 < index:
            self._read()
            self.index += 1
        self.index = index
        self._out[self._head :] = results
        self.resumed = reply

    # From operation to operation

    def proceed(self) -> None:
        """Carries out operations until one has to wait or the reply is complete."""
        while self.index < self.count:
            if not self._step(self._begin):
                return
        self._reply()

    def _step(self, begin: Callable[[], Outcome]) -> bool:
        """One operation, or the rest of it; false if it has to wait, or if there is nothing to go on with."""
        try:
            outcome = begin()
            if type(outcome) is not bytes:
                settled = self._settle(outcome)
                if settled is None:
                    return False
                self._finish(settled)
            else:
                self._finish(outcome)
        except Fenced:
            self.call.drop()
            return False
        except (SofsError, Failure, BadHandle) as error:
            looking = self._wrong_kind(error)
            if looking is not None:
                return self._step(lambda: looking)
            self._fail(error)
        except Replayed as replayed:
            self.call.reply(replayed.reply)
            return False
        except Resumed:
            pass
        except Uncached as uncached:
            self._refuse_retry(uncached.result)
        except Exception:
            # The slot must become free again, or the client would ask for ever.
            log.exception("operation_failed", peer=self.call.connection.peer, operation=self.number)
            self._fail(Failure(Status.SERVERFAULT))
        return True

    def _begin(self) -> Outcome:
        """Reads the next operation, checks what the table says of it, and calls its handler."""
        self._start = len(self._out)
        operation, arguments = self._read()
        self.operation = operation
        session = self.session
        if session is None or operation.first:
            self._check_position(operation)
        elif session.client.ended:
            raise _ended()
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
            assert isinstance(here, Place)
            if operation.modifies or operation.records:
                if operation.modifies and here.read_only:
                    raise Failure(Status.ROFS)
                assert self.session is not None
                client = self.session.client
                if here.volume.id not in client.volumes:
                    return self.service.note_volume(client, here.volume.id, lambda: operation.handler(self, arguments))
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
        while True:
            if type(outcome) is Ask:
                volume = outcome.volume
                reply: Reply | Awaitable[Reply] | None = None
                token = None
                if outcome.changes:
                    if self.session is not None and self.session.client.ended:
                        raise _ended()
                    reply = self.resumed
                    if reply is None:
                        token = self.token(volume)
                if reply is None:
                    try:
                        reply = volume.call(outcome.request, token, self.service.by)
                    except SofsError as error:
                        if outcome.refused is None or isinstance(error, Fenced):
                            raise
                        outcome = outcome.refused(error)
                        continue
                if not isinstance(reply, Reply):
                    self._later(outcome, reply)
                    return None
                self.rest(volume, reply.gate, self.operation.level)  # type: ignore[union-attr]
                outcome = outcome.answer(reply)
            elif type(outcome) is Wait:
                self._later(outcome, outcome.result)
                return None
            else:
                return cast("bytes | Payload", outcome)

    def _later(self, outcome: Ask | Wait, result: Awaitable[Any]) -> None:
        # Not with the connection's other work, which ends with it: the slot makes a repetition over another connection wait for this one's end.
        task = asyncio.get_running_loop().create_task(self._resume(outcome, result))
        self.service.under_way.follow(task, None if self.session is None or self.slot is None else (self.session.id, self.slot.number))

    async def _resume(self, outcome: Ask | Wait, result: Awaitable[Any]) -> None:
        try:
            answered = await result
        except Exception as error:
            if self.service.stopped:
                return
            refusal = error
            refused = outcome.refused if isinstance(outcome, Ask) and isinstance(error, SofsError) and not isinstance(error, Fenced) else None

            def give_up() -> Outcome:
                if refused is None:
                    raise refusal
                return refused(cast(SofsError, refusal))

            if self._step(give_up):
                self.proceed()
            return

        if self.service.stopped:
            return

        def go_on() -> Outcome:
            self.rest(outcome.volume, answered.gate, self.operation.level)  # type: ignore[union-attr]
            answer: Outcome = outcome.answer(answered)
            return answer

        if self._step(go_on):
            self.proceed()

    def _finish(self, result: bytes | Payload) -> None:
        """Adds an operation's result to the reply. Raises `Failure` if it is too large."""
        out = self._out
        if isinstance(result, Payload):
            head, data = result
            if self.session is not None:
                self.session.check_size(self, 8 + len(head) + len(data))
            out += _RESULT_OK[self.number]
            out += head
            self._pieces.append(out)
            self._pieces.append(data)
            self.sent += len(out) + len(data)
            self._out = bytearray(pad(len(data)))
            self._start = 0
        else:
            if self.session is not None:
                self.session.check_size(self, 8 + len(result))
            out += _RESULT_OK[self.number]
            out += result
        self.resumed = None
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
            status = self._status(error)
            if isinstance(error, SofsError) and error.gate and self.here is not None and isinstance(self.here, Place):
                self.rest(self.here.volume, error.gate, Level.COMMITTED)
        del self._out[self._start :]
        self._out += self.number.to_bytes(4) + status.to_bytes(4) + body
        self.status = status
        self.index += 1
        self.count = self.index

    def _status(self, error: SofsError | BadHandle) -> Status:
        operation = self.operation
        if operation is None or isinstance(error, BadHandle):
            return status_of(error)
        return operation.statuses.get(type(error)) or status_of(error)

    def _wrong_kind(self, error: SofsError | Failure | BadHandle) -> Ask | None:
        """A look at what the current filehandle stands for, if that may be what an operation stumbled over: its kind decides what is said (15.1.2.9,
        15.1.2.10)."""
        operation, here = self.operation, self.here
        if not isinstance(error, SofsError) or operation is None or operation.works_on is None or not isinstance(here, Place):
            return None
        status, wanted = self._status(error), operation.works_on
        if status not in (Status.NOTDIR, Status.ISDIR, Status.INVAL):
            return None
        if error.gate:
            self.rest(here.volume, error.gate, Level.COMMITTED)

        def answer(found: Found) -> Outcome:
            kind = found.attributes.kind
            if kind is wanted:
                raise Failure(status)
            if kind is Kind.SYMLINK:
                raise Failure(Status.SYMLINK)
            if wanted is Kind.DIRECTORY:
                raise Failure(Status.NOTDIR)
            raise Failure(Status.ISDIR if kind is Kind.DIRECTORY else Status.WRONG_TYPE)

        def refused(error: SofsError) -> Outcome:
            raise Failure(status)

        return Ask(here.volume, GetAttributes(here.target), answer, refused=refused)

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
        if self.service.stopped:
            return  # its slot is another service's by now, which goes by what the volumes know
        if self.slot is not None:
            assert self.session is not None
            self.session.answered(self, self._pieces)
        self.call.connection.answer(self.call, self._pieces)

    def _refuse_retry(self, result: bytes) -> None:
        self._finish(result)
        if self.index < self.count:
            self._start = len(self._out)
            self.operation = None
            self.number = int.from_bytes(self.call.data[self._at : self._at + 4])
            self._fail(Failure(Status.RETRY_UNCACHED_REP))


def _ended() -> Failure:
    """The client was ended while this COMPOUND had to wait: it may leave nothing behind any more."""
    return Failure(Status.DEADSESSION)


def _after(volume: Volume, committed: Lsn, stable: Lsn, then: Callable[[], None]) -> Callable[[], None]:
    """What waits for a volume's gates before it goes on."""
    if committed > stable and stable:
        return lambda: volume.when(stable, Level.STABLE, lambda: volume.when(committed, Level.COMMITTED, then))
    if stable:
        return lambda: volume.when(stable, Level.STABLE, then)
    return lambda: volume.when(committed, Level.COMMITTED, then)


_RESULT_OK: Sequence[bytes] = tuple(number.to_bytes(4) + bytes(4) for number in range(128))
