"""Callbacks: what is sent, which answers are believed, and what happens to slots whose last callback may never have been sent."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateways.nfs.auth import SysCredential
from gateways.nfs.rpc import RpcConnection
from gateways.nfs.v4.backchannel import Backchannel, Callbacks, CallbackSecurity, Referring, credential_of
from gateways.nfs.v4.slots import Channel, Session
from gateways.nfs.v4.status import Status
from gateways.nfs.xdr import Void
from sofs.errors import Unavailable
from sofs.runtime.ports import Buffer

SESSION = bytes(range(16))
PROGRAM = 0x40000001
CB_RECALL = 4


class Client:
    """The other end of a connection: `answer` makes the CB_COMPOUND4res for a request's session sequence."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        self.answer = answer
        self.calls: list[tuple[int, ...]] = []
        """(program, procedure, minor version, sequence, slot, number of referring lists)"""
        self.peer, self.peer_port, self.local = "client", 1, "server"
        self.connection = RpcConnection(self, {})
        self.callbacks = Callbacks(self.connection)
        self.connection.back = self.callbacks

    def send(self, buffers: Sequence[Buffer]) -> None:
        message = b"".join(buffers)
        header, xid, kind, _, program, version, procedure = struct.unpack_from(">7I", message)
        assert (header & 0x7FFFFFFF, kind, version) == (len(message) - 4, 0, 1)
        at = 28 + 8 + struct.unpack_from(">I", message, 32)[0] + 8
        tag, minor, _, count, first = struct.unpack_from(">5I", message, at)
        session, sequence, slot, _, cached, referring = struct.unpack_from(">16s5I", message, at + 20)
        assert (tag, count, first, session, cached) == (0, 2, 11, SESSION, 0)
        self.calls.append((program, procedure, minor, sequence, slot, referring))
        results = self.answer(sequence)
        if results is not None:
            reply = struct.pack(">6I", xid, 1, 0, 0, 0, 0) + results
            asyncio.get_running_loop().call_soon(self.receive, reply)

    def receive(self, message: bytes) -> None:
        self.connection.received(0x80000000 | len(message), memoryview(bytearray(message)))

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self, reason: str) -> None: ...


def results(status: int, operations: int) -> bytes:
    return struct.pack(">3I", status, 0, operations)


async def no_record(session: Session) -> None:
    """There is no system volume."""


def recall(client: Client, back: Backchannel, referring: Referring | None = None) -> int:
    service = cast(Any, SimpleNamespace(keep_session=no_record))
    session = cast(Session, SimpleNamespace(id=SESSION, back=back))
    return asyncio.run(back.call(service, session, CB_RECALL, bytes(4), referring))


def channel(*clients: Client) -> Backchannel:
    back = Backchannel(Channel(4096, 4096, 0, 2, 1), PROGRAM, credential_of(()), 2)
    back.connections += [client.callbacks for client in clients]
    return back


def test_a_callback_has_its_session_program_and_minor_version() -> None:
    client = Client(lambda sequence: results(0, 2))
    back = channel(client)
    assert [recall(client, back), recall(client, back, Referring(SESSION, 7, 1))] == [0, 0]
    assert client.calls == [(PROGRAM, 1, 2, 1, 0, 0), (PROGRAM, 1, 2, 2, 0, 1)]


def test_the_answer_to_the_callback_is_told_apart_from_one_to_its_sequence() -> None:
    client = Client(lambda sequence: results(Status.DELAY, 2))
    assert recall(client, channel(client)) == Status.DELAY
    client = Client(lambda sequence: results(Status.BADSESSION, 1))
    with pytest.raises(Unavailable):
        recall(client, channel(client))


def test_after_a_restart_the_client_may_not_have_seen_the_last_number() -> None:
    client = Client(lambda sequence: results(0, 2) if sequence == 6 else results(Status.SEQ_MISORDERED, 1))
    back = channel(client)
    back.resume([6] * len(back.sequences))
    assert recall(client, back) == 0
    assert [call[3] for call in client.calls] == [7, 6]
    client.answer = lambda sequence: results(0, 2) if sequence == 7 else results(Status.SEQ_MISORDERED, 1)
    assert recall(client, back) == 0
    client.answer = lambda sequence: results(Status.SEQ_MISORDERED, 1)
    with pytest.raises(Unavailable):
        recall(client, back)
    assert [call[3] for call in client.calls] == [7, 6, 7, 8], "only once is there a doubt"


def test_a_callback_that_its_sequence_delays_has_used_no_number() -> None:
    client = Client(lambda sequence: results(Status.DELAY, 1))
    back = channel(client)
    assert [recall(client, back), recall(client, back)] == [Status.DELAY, Status.DELAY]
    client.answer = lambda sequence: results(0, 2) if sequence == 1 else results(Status.SEQ_MISORDERED, 1)
    assert recall(client, back) == 0
    assert [call[3] for call in client.calls][-3:] == [3, 2, 1]
    client.answer = lambda sequence: results(0, 2)
    assert recall(client, back) == 0
    assert client.calls[-1][3] == 2


@pytest.mark.parametrize("garbage", [b"", bytes(3), bytes(8), struct.pack(">2I", 0, 1 << 31), bytes(10)])
def test_an_answer_that_makes_no_sense_is_none(garbage: bytes) -> None:
    client = Client(lambda sequence: garbage)
    with pytest.raises(Unavailable):
        recall(client, channel(client))


def test_a_callback_fails_with_its_connection_and_without_one() -> None:
    def vanish(sequence: int) -> None:
        asyncio.get_running_loop().call_soon(client.connection.closed, "gone")

    client = Client(vanish)
    back = channel(client)
    with pytest.raises(Unavailable):
        recall(client, back)
    assert back.fault
    back.lost(client.callbacks)
    assert not back.live
    with pytest.raises(Unavailable):
        recall(client, back)


def test_replies_that_nobody_waits_for_are_left_alone() -> None:
    async def scenario() -> None:
        client = Client(lambda sequence: None)
        for message in (struct.pack(">2I", 1, 1), struct.pack(">6I", 99, 1, 0, 0, 0, 0), struct.pack(">3I", 1, 1, 1)):
            client.receive(message)
        assert not client.connection.busy

    asyncio.run(scenario())


def test_the_first_credential_that_can_be_made_is_used() -> None:
    none = CallbackSecurity((0, Void()))
    system = CallbackSecurity((1, SysCredential(5, b"host", 7, 8, (9,))))
    assert credential_of(()) == credential_of((none,)) == bytes(8)
    packed = credential_of((none, system))
    assert packed == struct.pack(">4I4s5I", 1, 28, 5, 4, b"host", 7, 8, 1, 9, 0)[:36]
