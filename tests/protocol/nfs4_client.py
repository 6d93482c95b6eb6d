"""An NFSv4.1 and 4.2 client for tests: one connection, one session, as many slots as calls at once, and the callbacks that come back."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_ops import CALLBACK_PROGRAM, ChannelAttributes
from tests.protocol.nfs4_xdr import Op, Reader, Stateid, Writer, bitmap, stateid
from tests.protocol.nfs_client import RpcTransport
from tests.unit.gateways.nfs_link import sys_credential

NFS = 100003


class Result(NamedTuple):
    """A COMPOUND's status, and of each operation that was carried out its status and what followed it."""

    status: int
    operations: list[tuple[int, int, Any]]
    """(number, status, value)."""

    @property
    def last(self) -> Any:
        return self.operations[-1][2]

    def value(self, number: int) -> Any:
        """What the last operation of this number gave."""
        return [value for each, _, value in self.operations if each == number][-1]


class Callback(NamedTuple):
    """An operation of a CB_COMPOUND."""

    number: int
    stateid: Stateid | None
    handle: bytes


class Transport(RpcTransport):
    """One connection, and callbacks, which are answered with OK unless `refuse` says otherwise."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.callbacks: asyncio.Queue[Callback] = asyncio.Queue()
        self.refuse: Callable[[Callback], int] = lambda callback: 0
        self.called: dict[tuple[bytes, int], int] = {}
        """The sequence of the last callback of each session and slot; another connection of the same client goes on with it."""
        self.deaf: asyncio.Event | None = None
        """Callbacks are lost on the way; set when one was."""
        self.shown: bytes = b""
        """What CB_GETATTR is answered with: a fattr4."""
        self.silent = False
        """Callbacks are not answered at all."""

    def _called(self, xid: int, message: bytes) -> None:
        reader = Reader(message)
        _, _, version, program, _, procedure = (reader.u32() for _ in range(6))
        assert (version, program) == (2, CALLBACK_PROGRAM)
        for _ in range(2):  # credential and verifier
            reader.u32()
            reader.opaque()
        if self.deaf is not None:
            self.deaf.set()
            return
        results = self._compound(reader) if procedure == 1 else b""
        if not self.silent:
            reply = struct.pack(">6I", xid, 1, 0, 0, 0, 0) + results
            self.send_record(reply)

    def _compound(self, reader: Reader) -> bytes:
        """CB_COMPOUND: CB_SEQUENCE, whose numbers must follow each other, then what the server wants."""
        tag = reader.opaque()
        assert reader.u32() in (1, 2), "minor version"
        reader.u32()  # callback_ident
        out, status, done = Writer(), 0, 0
        operations = reader.u32()
        for _ in range(operations):
            number = reader.u32()
            if number == 11:
                session, sequence, slot, highest = reader.raw(16), reader.u32(), reader.u32(), reader.u32()
                reader.bool()
                reader.array(lambda r: (r.raw(16), r.array(lambda s: (s.u32(), s.u32()))))
                if sequence != self.called.get((session, slot), 0) + 1:
                    return bytes(Writer().u32(10063).opaque(tag).u32(1, number, 10063).data)  # SEQ_MISORDERED
                self.called[session, slot] = sequence
                out.u32(number, 0).raw(session).u32(sequence, slot, highest, slot)
            else:
                callback = self._callback(number, reader)
                self.callbacks.put_nowait(callback)
                status = self.refuse(callback)
                out.u32(number, status)
                if number == 3 and not status:
                    out.raw(self.shown)
            done += 1
            if status:
                break
        return bytes(Writer().u32(status).opaque(tag).u32(done).raw(bytes(out.data)).data)

    @staticmethod
    def _callback(number: int, reader: Reader) -> Callback:
        if number == 4:  # CB_RECALL
            state = stateid(reader)
            reader.bool()
            return Callback(number, state, reader.opaque())
        if number == 3:  # CB_GETATTR
            handle = reader.opaque()
            bitmap(reader)
            return Callback(number, None, handle)
        if number == 8:  # CB_RECALL_ANY
            reader.u32()
            bitmap(reader)
        elif number == 10:  # CB_RECALL_SLOT
            reader.u32()
        elif number == 13:  # CB_NOTIFY_LOCK
            handle = reader.opaque()
            reader.u64()
            reader.opaque()
            return Callback(number, None, handle)
        else:
            raise AssertionError(f"callback operation {number}")
        return Callback(number, None, b"")

    async def call(self, procedure: int, arguments: bytes, xid: int | None = None) -> bytes:
        """The results of a call that must be accepted."""
        return await self.results(NFS, 4, procedure, arguments, xid)

    async def compound(self, operations: Sequence[Op], minor: int = 2, tag: bytes = b"") -> Result:
        """Exactly these operations."""
        return read_result(await self.call(1, compound_bytes(operations, minor, tag)), operations, tag)


def compound_bytes(operations: Sequence[Op], minor: int = 2, tag: bytes = b"") -> bytes:
    out = Writer().opaque(tag).u32(minor, len(operations))
    for each in operations:
        out.u32(each.number).raw(each.arguments)
    return bytes(out.data)


def read_result(results: bytes, operations: Sequence[Op], tag: bytes | None = b"") -> Result:
    """COMPOUND4res, checked against what was asked."""
    result = read_results(results, lambda place, number: operations[place], tag)
    for asked, (number, status, _) in zip(operations, result.operations, strict=False):
        assert number == asked.number or (number == 10044 and status in (10044, 10036)), (number, asked.number)
    assert result.status or len(result.operations) == len(operations)
    return result


def read_results(results: bytes, asked: Callable[[int, int], Op], tag: bytes | None = None) -> Result:
    """COMPOUND4res, where `asked` says what operation stands at a place and has the number given there."""
    reader = Reader(results)
    status = reader.u32()
    answered = reader.opaque()
    assert tag is None or answered == tag
    done = []
    for place in range(reader.u32()):
        number, result = reader.u32(), reader.u32()
        operation = asked(place, number)
        done.append((number, result, operation.result(reader) if result == 0 else operation.failed(reader, result)))
    reader.end()
    assert (done[-1][1] if done else status) == status
    assert all(result == 0 for _, result, _ in done[:-1]), "what follows a failure is not carried out"
    return Result(status, done)


class Nfs4Client:
    """A client with one session."""

    def __init__(self, transport: Transport, owner: bytes, verifier: bytes, minor: int) -> None:
        self.transport = transport
        self.owner = owner
        self.verifier = verifier
        self.minor = minor
        self.clientid = 0
        self.session = b""
        self.sequence = 0
        """csa_sequence of the next CREATE_SESSION."""
        self._sequences: list[int] = []
        self._free: asyncio.Queue[int] = asyncio.Queue()

    @classmethod
    async def connect(
        cls,
        port: int,
        owner: bytes = b"",
        *,
        uid: int = 1000,
        gid: int = 1000,
        minor: int = 2,
        verifier: bytes = b"",
        callbacks: bool = False,
        slots: int = 16,
        persist: bool = False,
        reclaimed: bool = True,
    ) -> Nfs4Client:
        """A client that has its session; `reclaimed`: and has said that it has nothing to reclaim."""
        client = cls(await Transport.connect(port), owner or os.urandom(8).hex().encode(), verifier or os.urandom(8), minor)
        client.transport.auth = sys_credential(uid, gid)
        await client.introduce()
        await client.begin(callbacks, slots, persist)
        if reclaimed:
            assert (await client.compound(op.reclaim_complete())).status == 0
        return client

    async def __aenter__(self) -> Nfs4Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.transport.close()

    async def introduce(self) -> op.ExchangeDone:
        """EXCHANGE_ID."""
        result = await self.transport.compound([op.exchange_id(self.owner, self.verifier)], self.minor)
        assert result.status == 0, result
        done: op.ExchangeDone = result.last
        self.clientid, self.sequence = done.clientid, done.sequence
        return done

    async def begin(self, callbacks: bool = False, slots: int = 16, persist: bool = False) -> op.SessionDone:
        """CREATE_SESSION."""
        flags = (2 if callbacks else 0) | (1 if persist else 0)
        asked = op.create_session(self.clientid, self.sequence, flags, ChannelAttributes(max_requests=slots))
        result = await self.transport.compound([asked], self.minor)
        assert result.status == 0, result
        done: op.SessionDone = result.last
        self.sequence += 1
        self.session = done.session
        self._sequences = [0] * done.fore.max_requests
        self._free = asyncio.Queue()
        for slot in range(done.fore.max_requests):
            self._free.put_nowait(slot)
        return done

    def used(self, slot: int, number: int) -> None:
        """Somebody else has sent a request with this sequence."""
        self._sequences[slot] = number

    async def compound(self, *operations: Op, cache: bool = False) -> Result:
        """SEQUENCE and these; the result is without the SEQUENCE, which must succeed."""
        slot = await self._free.get()
        try:
            self._sequences[slot] += 1
            all_of_them = [op.sequence(self.session, self._sequences[slot], slot, len(self._sequences) - 1, cache), *operations]
            result = await self.transport.compound(all_of_them, self.minor)
        finally:
            self._free.put_nowait(slot)
        assert result.operations[0][1] == 0, result
        return Result(result.status, result.operations[1:])

    async def done(self, *operations: Op) -> Result:
        """As `compound`, but all must succeed."""
        result = await self.compound(*operations)
        assert result.status == 0, result
        return result

    async def root(self, export: str = "data") -> bytes:
        """The handle of an export's directory."""
        handle: bytes = (await self.done(op.putrootfh(), op.lookup(export), op.getfh())).last
        return handle
