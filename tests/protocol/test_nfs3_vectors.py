"""Messages that libnfs 4.0 and NFS-Ganesha 4.3 exchanged, held against the declarations.

`nfs3_vectors.jsonl` has one call with its reply per line, record headers included, as they were seen on the wire.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateways.nfs.rpc import read_call
from gateways.nfs.v3 import data, layout
from gateways.nfs.v3 import messages as m
from gateways.nfs.xdr import XdrError, decode, encode, unpack
from sofs.types import Inode, Kind, from_unix_ns
from sofs.volume.api import Attributes
from tests.protocol import nfs3_results as r3
from tests.protocol.nfs_types import NFS, TYPES, Types


class Vector(NamedTuple):
    types: Types
    program: int
    procedure: int
    call: bytes
    """From the arguments on."""
    reply: bytes
    """From the results on."""


def vectors() -> Iterator[Vector]:
    for line in (Path(__file__).parent / "nfs3_vectors.jsonl").read_text().splitlines():
        row = json.loads(line)
        call = bytes.fromhex(row["call"])[4:]
        _, _, program, _, procedure, _, at = read_call(memoryview(call))
        assert (program, procedure) == (row["program"], row["procedure"])
        reply = bytes.fromhex(row["reply"])[28:]
        yield Vector(TYPES[program, procedure], program, procedure, call[at:], reply)


ALL = list(vectors())


def results(vector: Vector) -> tuple[Any, bytes]:
    """The type of a vector's results and their bytes, behind the status."""
    if not vector.types.status:
        return vector.types.success, vector.reply
    (status,) = struct.unpack_from(">I", vector.reply)
    return (vector.types.failure if status else vector.types.success), vector.reply[4:]


def title(vector: Vector) -> str:
    return vector.types.name


def test_every_procedure_has_a_vector() -> None:
    assert {vector.procedure for vector in ALL if vector.program == NFS} == set(range(22))


@pytest.mark.parametrize("vector", ALL, ids=title)
def test_arguments_on_the_wire_decode_and_encode_to_the_same_bytes(vector: Vector) -> None:
    value, end = unpack(vector.types.arguments, memoryview(vector.call), 0)
    assert end == len(vector.call)
    assert encode(value) == vector.call


@pytest.mark.parametrize("vector", ALL, ids=title)
def test_results_on_the_wire_decode_and_encode_to_the_same_bytes(vector: Vector) -> None:
    kind, body = results(vector)
    value, end = unpack(kind, memoryview(body), 0)
    assert end == len(body)
    assert encode(value) == body


@pytest.mark.parametrize("vector", ALL, ids=title)
def test_every_prefix_raises_the_one_decode_error(vector: Vector) -> None:
    kind, body = results(vector)
    for wanted, whole in ((vector.types.arguments, vector.call), (kind, body)):
        for length in range(len(whole)):
            with pytest.raises(XdrError):
                decode(wanted, whole[:length])


def one(name: str, skip: int = 0) -> Vector:
    return [vector for vector in ALL if vector.types.name == name][skip]


def test_what_the_vectors_say_is_what_was_asked_for() -> None:
    assert decode(m.LookupArgs, one("LOOKUP").call).what.name == b"hello"
    write = decode(r3.WriteArgs, one("WRITE").call)
    assert (write.offset, write.length, write.stable, write.data) == (0, 6, m.Stable.UNSTABLE, b"hello\n")
    read = decode(r3.ReadData, one("READ").reply, 4)
    assert (read.length, read.eof, read.data) == (6, True, b"hello\n")
    assert decode(m.SymlinkArgs, one("SYMLINK").call).target == b"hello"
    limits = decode(r3.PathLimits, one("PATHCONF").reply, 4)
    assert (limits.name_max, limits.case_preserving) == (1024, True)


def test_the_hot_path_reads_and_writes_what_the_declarations_do() -> None:
    vector = one("WRITE")
    declared = decode(r3.WriteArgs, vector.call)
    direct = data.write_arguments(memoryview(vector.call), 0)
    assert direct == (declared.file, declared.offset, declared.stable, declared.length, declared.data)
    assert data.read_arguments(memoryview(one("READ").call), 0) == decode(r3.ReadArgs, one("READ").call)


def test_the_hot_path_refuses_every_prefix() -> None:
    for read, name in ((data.read_arguments, "READ"), (data.write_arguments, "WRITE")):
        whole = one(name).call.rstrip(b"\0") if name == "WRITE" else one(name).call
        for length in range(len(whole)):
            with pytest.raises(XdrError):
                read(memoryview(whole[:length]), 0)


def test_attributes_by_struct_are_those_of_the_declaration() -> None:
    times = [from_unix_ns(second * 10**9 + 700) for second in (1, 2, 3, 4)]
    of = Attributes(Inode(9), 3, Kind.BLOCK_DEVICE, 0o640, 2, 7, 8, 4097, 8192, *times, 5, 0, (8, 1), Inode(1))
    expected = r3.FileAttributes(
        m.Type.BLK, 0o640, 2, 7, 8, 4097, 8192, m.Device(8, 1), 77, 9,
        m.Moment(2, 700), m.Moment(3, 700), m.Moment(4, 700),
    )  # fmt: skip
    assert decode(r3.FileAttributes, layout.attributes(of, 77)) == expected
    assert decode(r3.PostOp, layout.post_op(of, 77)) == r3.PostOp(expected)
    before = (4096, times[2], times[3], 4)
    assert decode(r3.WccData, layout.wcc(before, of, 77)) == r3.WccData(r3.WccAttributes(4096, m.Moment(3, 700), m.Moment(4, 700)), expected)
    assert decode(r3.WccData, layout.wcc(None, of, 77)) == r3.WccData(None, expected)
    assert decode(r3.WccData, layout.wcc(before, None, 77)) == r3.WccData(None, None)
