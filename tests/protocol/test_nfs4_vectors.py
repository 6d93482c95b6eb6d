"""COMPOUNDs that the kernel's client (Linux 6.1, mounts of 4.1 and 4.2) sent, held against the table of operations.

`nfs4_vectors.jsonl` has one call per line, without its record header, as it was seen on the wire.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateways.nfs.rpc import read_call
from gateways.nfs.v4 import settable
from gateways.nfs.v4.attributes import mask_of, supported
from gateways.nfs.v4.operation import Unreadable
from gateways.nfs.v4.owners import Owners
from gateways.nfs.v4.settable import NewAttributes
from gateways.nfs.v4.status import Status
from gateways.nfs.v4.table import read_operation
from gateways.nfs.xdr import codec
from sofs.volume.security import UnixIdentities


class Nobody(UnixIdentities):
    """A cluster without users."""

    def uid_of_name(self, name: str) -> int | None:
        return None


class Vector(NamedTuple):
    minor: int
    names: list[str]
    operations: memoryview
    """From the number of the first one on."""


def vectors() -> Iterator[Vector]:
    for line in (Path(__file__).parent / "nfs4_vectors.jsonl").read_text().splitlines():
        row = json.loads(line)
        call = memoryview(bytes.fromhex(row["call"]))
        _, _, program, version, procedure, _, at = read_call(call)
        assert (program, version, procedure) == (100003, 4, 1)
        tag, minor, count = struct.unpack_from(">3I", call, at)
        assert (tag, minor, count) == (0, row["minor"], len(row["operations"]))
        yield Vector(minor, row["operations"], call[at + 12 :])


ALL = list(vectors())


def title(vector: Vector) -> str:
    return f"4.{vector.minor} " + " ".join(vector.names[1:] or vector.names)


def read(vector: Vector) -> list[tuple[int, Any, bytes]]:
    """Number, arguments and bytes of each operation."""
    found, at = [], 0
    for name in vector.names:
        number, operation, arguments, end = read_operation(vector.operations, at, vector.minor)
        assert operation.name == name
        found.append((number, arguments, bytes(vector.operations[at + 4 : end])))
        at = end
    assert at == len(vector.operations), "something is left"
    return found


def test_the_vectors_have_most_operations() -> None:
    assert len({name for vector in ALL for name in vector.names}) >= 40


@pytest.mark.parametrize("vector", ALL, ids=title)
def test_what_the_kernel_sends_is_read_and_means_the_same_when_written(vector: Vector) -> None:
    for _, arguments, data in read(vector):
        if hasattr(arguments, "_fields"):
            out = bytearray()
            codec(type(arguments)).pack(out, arguments)
            assert out == data


@pytest.mark.parametrize("vector", ALL, ids=title)
def test_every_prefix_of_an_operation_is_unreadable(vector: Vector) -> None:
    at = 0
    for _ in vector.names:
        end = read_operation(vector.operations, at, vector.minor)[3]
        for length in range(end - at):
            with pytest.raises(Unreadable) as unreadable:
                read_operation(vector.operations[at : at + length], 0, vector.minor)
            assert unreadable.value.status is Status.BADXDR
        at = end


def test_the_attributes_that_the_kernel_sets_are_understood() -> None:
    seen = 0
    owners = Owners(Nobody())

    def look(value: Any, minor: int) -> int:
        if isinstance(value, NewAttributes):
            new = settable.read(value, minor, owners)
            assert new.mask == mask_of(value.mask) and not new.mask & ~supported(minor)
            return 1
        return sum(look(part, minor) for part in value) if isinstance(value, tuple) else 0

    for vector in ALL:
        seen += sum(look(arguments, vector.minor) for _, arguments, _ in read(vector))
    assert seen >= 10
