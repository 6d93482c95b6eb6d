"""Records, call headers and refusals of ONC RPC."""

import struct
from collections.abc import Callable

import pytest

from gateways.nfs.rpc import CALLS, FRAGMENTS, MESSAGE_LIMIT, Call, Program, RpcConnection, Version
from gateways.nfs.xdr import XdrError
from sofs.errors import PeerError
from tests.unit.gateways.nfs_link import CollectingLink, call_bytes, sys_credential

LAST = 0x80000000
PROGRAM = 100003


def connection(handlers: dict[int, Callable[[Call], None]], versions: tuple[int, ...] = (3,)) -> tuple[RpcConnection, CollectingLink]:
    link = CollectingLink()
    program = Program({version: Version(handlers) for version in versions})
    return RpcConnection(link, {PROGRAM: program}), link


def give(core: RpcConnection, data: bytes, last: bool = True) -> None:
    header = len(data) | (LAST if last else 0)
    assert core.size(header) == len(data)
    core.received(header, memoryview(bytearray(data)))


def echo(call: Call) -> None:
    call.reply(bytes(call.data[call.at :]))


def test_a_call_is_answered_with_its_xid_and_results() -> None:
    core, link = connection({5: echo})
    give(core, call_bytes(PROGRAM, 3, 5, b"abcd", xid=0xDEADBEEF))
    assert link.replies() == [bytes.fromhex("deadbeef 00000001 00000000 00000000 00000000 00000000") + b"abcd"]
    assert not core.busy


def test_a_record_may_come_in_fragments() -> None:
    core, link = connection({5: echo})
    whole = call_bytes(PROGRAM, 3, 5, b"abcdefgh")
    give(core, whole[:3], last=False)
    give(core, b"", last=False)
    give(core, whole[3:50], last=False)
    give(core, whole[50:])
    assert link.replies()[0][24:] == b"abcdefgh"
    give(core, call_bytes(PROGRAM, 3, 5, b"next"))
    assert link.replies()[0][24:] == b"next"


def test_a_record_beyond_the_limit_ends_the_connection() -> None:
    core, _ = connection({})
    with pytest.raises(PeerError):
        core.size(LAST | MESSAGE_LIMIT + 1)
    give(core, bytes(MESSAGE_LIMIT), last=False)
    with pytest.raises(PeerError):
        core.size(1)


def test_endless_fragments_end_the_connection() -> None:
    core, _ = connection({})
    with pytest.raises(PeerError):
        for _ in range(FRAGMENTS):
            give(core, b"", last=False)


@pytest.mark.parametrize("length", range(40))
def test_a_header_cut_short_ends_the_connection(length: int) -> None:
    core, _ = connection({5: echo})
    with pytest.raises(PeerError):
        give(core, call_bytes(PROGRAM, 3, 5)[:length])


def test_a_reply_where_a_call_belongs_ends_the_connection() -> None:
    core, _ = connection({})
    with pytest.raises(PeerError):
        give(core, struct.pack(">6I", 1, 1, 0, 0, 0, 0) + bytes(16))


def test_a_credential_longer_than_the_specification_allows_ends_the_connection() -> None:
    core, _ = connection({})
    with pytest.raises(PeerError):
        give(core, struct.pack(">8I", 1, 0, 2, PROGRAM, 3, 5, 1, 404) + bytes(500))


def refusal(core: RpcConnection, link: CollectingLink, call: bytes) -> tuple[int, ...]:
    give(core, call)
    (reply,) = link.replies()
    return struct.unpack(f">{len(reply) // 4}I", reply)


def test_an_unknown_program_version_and_procedure_are_told_apart() -> None:
    core, link = connection({5: echo}, versions=(1, 3))
    assert refusal(core, link, call_bytes(100021, 4, 0)) == (1, 1, 0, 0, 0, 1)
    assert refusal(core, link, call_bytes(PROGRAM, 4, 0)) == (1, 1, 0, 0, 0, 2, 1, 3)
    assert refusal(core, link, call_bytes(PROGRAM, 3, 99)) == (1, 1, 0, 0, 0, 3)


def test_arguments_that_cannot_be_read_are_garbage() -> None:
    def handler(call: Call) -> None:
        raise XdrError("no")

    core, link = connection({5: handler})
    assert refusal(core, link, call_bytes(PROGRAM, 3, 5)) == (1, 1, 0, 0, 0, 4)
    assert not core.busy


def test_another_rpc_version_is_denied_with_ours() -> None:
    core, link = connection({})
    assert refusal(core, link, call_bytes(PROGRAM, 3, 5, rpc=3)) == (1, 1, 1, 0, 2, 2)


def test_a_credential_that_cannot_be_used_is_denied() -> None:
    core, link = connection({5: echo})
    kerberos = struct.pack(">2I", 6, 4) + bytes(4) + bytes(8)
    assert refusal(core, link, call_bytes(PROGRAM, 3, 5, auth=kerberos)) == (1, 1, 1, 1, 5)
    broken = struct.pack(">2I", 1, 4) + bytes(4) + bytes(8)
    assert refusal(core, link, call_bytes(PROGRAM, 3, 5, auth=broken)) == (1, 1, 1, 1, 1)


def test_a_credential_is_read() -> None:
    calls: list[Call] = []
    core, _ = connection({5: calls.append})
    give(core, call_bytes(PROGRAM, 3, 5, auth=sys_credential(7, 8, (9, 10))))
    who = calls[0].credential
    assert (who.anonymous, who.uid, who.gid, who.groups) == (False, 7, 8, (9, 10))
    assert core.busy


def test_a_client_with_too_many_calls_in_progress_is_not_read_from_until_half_are_answered() -> None:
    calls: list[Call] = []
    core, link = connection({5: calls.append})
    for xid in range(CALLS + 1):
        give(core, call_bytes(PROGRAM, 3, 5, xid=xid))
    assert link.paused
    while len(calls) > CALLS // 2 + 1:
        calls.pop().reply(b"")
        assert link.paused
    calls.pop().reply(b"")
    assert not link.paused


def test_calls_are_answered_in_any_order() -> None:
    calls: list[Call] = []
    core, link = connection({5: calls.append})
    for xid in (1, 2, 3):
        give(core, call_bytes(PROGRAM, 3, 5, xid=xid))
    for index in (1, 2, 0):
        calls[index].reply(b"")
    assert [int.from_bytes(reply[:4]) for reply in link.replies()] == [2, 3, 1]


def test_an_answer_after_the_end_of_the_connection_goes_nowhere() -> None:
    calls: list[Call] = []
    core, link = connection({5: calls.append})
    give(core, call_bytes(PROGRAM, 3, 5))
    core.closed("gone")
    calls[0].reply(b"")
    assert link.replies() == []
