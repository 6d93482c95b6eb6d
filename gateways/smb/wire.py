"""Reading structures out of a message, with one error for everything that does not fit."""

import struct
from typing import Any

from sofs.errors import PeerError

U16 = struct.Struct("<H")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


class DecodeError(PeerError):
    """The message ends early, points outside itself, or says something no correct client says."""


def unpack(layout: struct.Struct, data: memoryview | bytes, offset: int = 0) -> tuple[Any, ...]:
    """The fields of `layout` at `offset`. Raises `DecodeError`."""
    try:
        return layout.unpack_from(data, offset)
    except struct.error:
        raise DecodeError(f"{layout.size} bytes needed at {offset}, {len(data)} there") from None


def part(data: memoryview, offset: int, length: int, what: str) -> memoryview:
    """`length` bytes at `offset`, where a field called `what` says they are. Raises `DecodeError`. An empty part may lie anywhere."""
    if not length:
        return data[:0]
    if offset < 0 or offset + length > len(data):
        raise DecodeError(f"{what} at {offset} with {length} bytes lies outside the {len(data)} bytes of its message")
    return data[offset : offset + length]


def text(data: memoryview | bytes) -> str:
    """UTF-16LE as a string; lone surrogates stay. Raises `DecodeError` for half a unit."""
    if len(data) & 1:
        raise DecodeError("half a UTF-16 unit")
    return bytes(data).decode("utf-16-le", "surrogatepass")


def utf16(value: str) -> bytes:
    return value.encode("utf-16-le", "surrogatepass")


def padding(length: int, to: int = 8) -> bytes:
    """Zero bytes that bring `length` to a multiple of `to`."""
    return bytes(-length % to)
