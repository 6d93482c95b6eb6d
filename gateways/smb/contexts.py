"""Create contexts, MS-SMB2 2.2.13.2: named extras of a CREATE and its reply. Unknown ones are ignored."""

import struct

from gateways.smb.status import Failure, Status
from gateways.smb.wire import padding

MAX_CONTEXTS = 32
_LAYOUT = struct.Struct("<IHHHHI")  # next, name at, name length, reserved, data at, data length

EXTENDED_ATTRIBUTES, SECURITY, ALLOCATION = b"ExtA", b"SecD", b"AlSi"
MAXIMAL_ACCESS, FILE_ID, TIMEWARP = b"MxAc", b"QFid", b"TWrp"


def decode(data: memoryview) -> dict[bytes, bytes]:
    """The contexts by name; of two with one name the first counts. Raises `Failure`, as Windows does where they are malformed."""
    found: dict[bytes, bytes] = {}
    at = 0
    for _ in range(MAX_CONTEXTS):
        if at + _LAYOUT.size > len(data):
            raise Failure(Status.INVALID_PARAMETER)
        following, name_at, name_length, _, data_at, data_length = _LAYOUT.unpack_from(data, at)
        end = at + following if following else len(data)
        if end > len(data) or name_at < _LAYOUT.size or name_length < 4:
            raise Failure(Status.INVALID_PARAMETER)
        if at + name_at + name_length > end or (data_length and (data_at < name_at + name_length or at + data_at + data_length > end)):
            raise Failure(Status.INVALID_PARAMETER)
        name = bytes(data[at + name_at : at + name_at + name_length])
        found.setdefault(name, bytes(data[at + data_at : at + data_at + data_length]) if data_length else b"")
        if not following:
            return found
        if following < _LAYOUT.size or following & 7:
            raise Failure(Status.INVALID_PARAMETER)
        at = end
    raise Failure(Status.INSUFFICIENT_RESOURCES)


def encode(contexts: list[tuple[bytes, bytes]]) -> bytes:
    """Contexts with names of four bytes, as a reply carries them."""
    parts = []
    for place, (name, data) in enumerate(contexts):
        body = name + bytes(4) + data
        rest = padding(len(body)) if place < len(contexts) - 1 else b""
        following = _LAYOUT.size + len(body) + len(rest) if place < len(contexts) - 1 else 0
        parts.append(_LAYOUT.pack(following, 16, 4, 0, 24 if data else 0, len(data)) + body + rest)
    return b"".join(parts)
