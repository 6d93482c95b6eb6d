"""Named pipes: what impacket's client code sends, the server's endpoint answers."""

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from impacket.dcerpc.v5 import srvs, wkst
from impacket.dcerpc.v5.dtypes import NULL

from gateways.exports import Share, Shares
from gateways.smb.rpc import pdu, srvsvc, wkssvc
from gateways.smb.rpc.pdu import Endpoint, Fault
from gateways.smb.rpc.pipe import Pipe
from gateways.smb.service import SmbSettings
from gateways.smb.status import Failure
from sofs.types import VolumeId

SYNTAX = bytes.fromhex("045d888aeb1cc9119fe808002b10486002000000")


def service(count: int = 2) -> Any:
    shares = Shares(lambda number: None)
    shares.replace([Share(f"share{number}", number, VolumeId(1), comment="a comment") for number in range(1, count + 1)])
    clock = SimpleNamespace(now=lambda: 133_444_736_000_000_000)
    return SimpleNamespace(shares=shares, settings=SmbSettings(name="SERVER"), clock=clock)


def fragment(kind: int, body: bytes, call: int = 1, flags: int = 3) -> bytes:
    return struct.pack("<BBBB4sHHI", 5, 0, kind, flags, b"\x10\0\0\0", 16 + len(body), 0, call) + body


def bind(uuid: bytes, version: int) -> bytes:
    return fragment(11, struct.pack("<HHIBxxx", 4280, 4280, 0, 1) + struct.pack("<HBx16sI", 0, 1, uuid, version) + SYNTAX)


def ask(pipe: Pipe, operation: int, stub: bytes) -> bytes:
    """The answer's stub data, put together from its fragments. Raises `Fault`."""
    pipe.write(memoryview(fragment(0, struct.pack("<IHH", len(stub), 0, operation) + stub)))
    whole = b""
    while True:
        message, more = pipe.read(100)
        while more:
            rest, more = pipe.read(100)
            message += rest
        if message[2] == pdu.FAULT:
            raise Fault(struct.unpack_from("<I", message, 24)[0])
        whole += message[24:]
        if message[3] & pdu.LAST:
            return whole


def test_one_write_carries_a_bounded_number_of_requests() -> None:
    pipe = opened()
    request = fragment(0, struct.pack("<IHHI", 4, 0, 28, 0))
    pipe.write(memoryview(request * 16))
    assert pipe.read(4096)[0][2] == pdu.RESPONSE
    many = memoryview(request * 100_000)
    with pytest.raises(Failure):
        pipe.write(many)
    assert len(pipe._endpoint.answers) < 200


def opened(count: int = 2) -> Pipe:
    pipe = Pipe("srvsvc", Endpoint("srvsvc", [srvsvc.interface(service(count), None)]))  # type: ignore[arg-type]
    pipe.write(memoryview(bind(srvsvc.UUID_SRVSVC, 3)))
    answer, _ = pipe.read(4096)
    assert answer[2] == pdu.BIND_ACK and b"\\PIPE\\srvsvc\0" in answer
    return pipe


def share_enum(level: int) -> bytes:
    request = srvs.NetrShareEnum()
    request["ServerName"] = "\\\\s\0"
    request["PreferedMaximumLength"] = 0xFFFFFFFF
    request["ResumeHandle"] = NULL
    request["InfoStruct"]["ShareInfo"]["tag"] = level
    request["InfoStruct"]["Level"] = level
    request["InfoStruct"]["ShareInfo"][f"Level{level}"]["Buffer"] = NULL
    encoded: bytes = request.getData()
    return encoded


@pytest.mark.parametrize("level", [0, 1, 2, 501, 502])
def test_shares_are_listed_at_every_level(level: int) -> None:
    answer = srvs.NetrShareEnumResponse(ask(opened(), 15, share_enum(level)))
    rows = answer["InfoStruct"]["ShareInfo"][f"Level{level}"]["Buffer"]
    assert [row[f"shi{level}_netname"] for row in rows] == ["share1\0", "share2\0", "IPC$\0"]
    assert answer["ErrorCode"] == 0


def test_a_long_list_comes_in_fragments() -> None:
    answer = srvs.NetrShareEnumResponse(ask(opened(300), 15, share_enum(1)))
    assert len(answer["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"]) == 301


def test_a_level_that_does_not_exist_is_an_error_and_not_the_end() -> None:
    pipe = opened()
    stub = share_enum(1).replace(struct.pack("<II", 1, 1), struct.pack("<II", 127, 127), 1)
    with pytest.raises(Fault):
        ask(pipe, 15, stub)
    stub = share_enum(1).replace(struct.pack("<II", 1, 1), struct.pack("<II", 127, 1), 1)
    assert srvs.NetrShareEnumResponse(ask(pipe, 15, stub))["ErrorCode"] == 124


def test_one_share_the_server_and_its_clock_are_told() -> None:
    pipe = opened()
    request = srvs.NetrShareGetInfo()
    request["ServerName"], request["NetName"], request["Level"] = "\\\\s\0", "SHARE2\0", 1
    answer = srvs.NetrShareGetInfoResponse(ask(pipe, 16, request.getData()))
    assert answer["InfoStruct"]["ShareInfo1"]["shi1_remark"] == "a comment\0"
    broken = request.getData().replace("SHARE2".encode("utf-16-le"), b"\x00\xdc" * 6)
    with pytest.raises(Fault):
        ask(pipe, 16, broken)
    request["NetName"] = "none\0"
    assert srvs.NetrShareGetInfoResponse(ask(pipe, 16, request.getData()))["ErrorCode"] == 2310
    info = srvs.NetrServerGetInfo()
    info["ServerName"], info["Level"] = "\\\\s\0", 101
    assert srvs.NetrServerGetInfoResponse(ask(pipe, 21, info.getData()))["InfoStruct"]["ServerInfo101"]["sv101_name"] == "SERVER\0"
    tod = srvs.NetrRemoteTOD()
    tod["ServerName"] = "\\\\s\0"
    when = srvs.NetrRemoteTODResponse(ask(pipe, 28, tod.getData()))["BufferPtr"]
    assert (when["tod_year"], when["tod_month"], when["tod_day"], when["tod_hours"]) == (2023, 11, 14, 22)


def test_the_workstation_is_told() -> None:
    pipe = Pipe("wkssvc", Endpoint("wkssvc", [wkssvc.interface(service())]))
    pipe.write(memoryview(bind(wkssvc.UUID_WKSSVC, 1)))
    pipe.read(4096)
    request = wkst.NetrWkstaGetInfo()
    request["ServerName"], request["Level"] = "\\\\s\0", 100
    answer = wkst.NetrWkstaGetInfoResponse(ask(pipe, 0, request.getData()))
    assert answer["WkstaInfo"]["WkstaInfo100"]["wki100_computername"] == "SERVER\0"


def test_unknown_interfaces_operations_and_garbage_are_told_apart() -> None:
    pipe = Pipe("srvsvc", Endpoint("srvsvc", [srvsvc.interface(service(), None)]))  # type: ignore[arg-type]
    pipe.write(memoryview(bind(bytes(16), 1)))
    answer, _ = pipe.read(4096)
    assert struct.unpack_from("<HH", answer, len(answer) - 24) == (2, 1)
    with pytest.raises(Fault) as fault:
        ask(pipe, 15, b"")
    assert fault.value.status == pdu.FAULT_CONTEXT_MISMATCH
    pipe = opened()
    with pytest.raises(Fault) as fault:
        ask(pipe, 99, b"")
    assert fault.value.status == pdu.FAULT_OPERATION_RANGE
    with pytest.raises(Fault) as fault:
        ask(pipe, 15, b"\1\2\3")
    assert fault.value.status == pdu.FAULT_BAD_STUB_DATA
    with pytest.raises(Failure):
        pipe.write(memoryview(b"GET / HTTP/1.0\r\n\r\n"))
    with pytest.raises(Failure):
        pipe.write(memoryview(bind(srvsvc.UUID_SRVSVC, 3)))
