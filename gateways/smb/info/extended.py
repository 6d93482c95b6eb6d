"""Extended attributes, MS-FSCC 2.4.15 FileFullEaInformation."""

import struct
from itertools import pairwise

from gateways.smb.status import Failure, Status
from gateways.smb.wire import padding

_ENTRY = struct.Struct("<IBBH")  # next, flags, name length, value length
_GET = struct.Struct("<IB")  # next, name length
MAX_ENTRIES = 512
Pairs = list[tuple[bytes, bytes]]


def decode(data: memoryview) -> Pairs:
    """The list of names and values. Raises `Failure`."""
    pairs: Pairs = []
    at = 0
    while len(pairs) < MAX_ENTRIES:
        if at + _ENTRY.size > len(data):
            raise Failure(Status.EA_LIST_INCONSISTENT)
        following, _, name_length, value_length = _ENTRY.unpack_from(data, at)
        name_at = at + _ENTRY.size
        value_at = name_at + name_length + 1
        if not name_length or value_at + value_length > len(data):
            raise Failure(Status.EA_LIST_INCONSISTENT)
        pairs.append((bytes(data[name_at : name_at + name_length]), bytes(data[value_at : value_at + value_length])))
        if not following:
            return pairs
        if following & 3 or at + following < value_at + value_length:
            raise Failure(Status.EA_LIST_INCONSISTENT)
        at += following
    raise Failure(Status.EA_TOO_LARGE)


def decode_names(data: memoryview) -> tuple[bytes, ...]:
    """FileGetEaInformation, MS-FSCC 2.4.15.1: the names asked for. Raises `Failure`."""
    names: list[bytes] = []
    at = 0
    while len(names) < MAX_ENTRIES:
        if at + _GET.size > len(data):
            raise Failure(Status.EA_LIST_INCONSISTENT)
        following, length = _GET.unpack_from(data, at)
        start = at + _GET.size
        if not length or start + length > len(data):
            raise Failure(Status.EA_LIST_INCONSISTENT)
        names.append(bytes(data[start : start + length]))
        if not following:
            return tuple(names)
        if following < _GET.size + length:
            raise Failure(Status.EA_LIST_INCONSISTENT)
        at += following
    raise Failure(Status.EA_TOO_LARGE)


def encode(pairs: Pairs, limit: int) -> tuple[bytes, bool]:
    """As many entries as fit into `limit` bytes, and whether all did."""
    parts: list[bytes] = []
    used = 0
    starts: list[int] = []
    for name, value in pairs:
        pad = padding(used, 4)
        size = _ENTRY.size + len(name) + 1 + len(value)
        if used + len(pad) + size > limit:
            break
        used += len(pad)
        starts.append(used)
        parts.append(pad + _ENTRY.pack(0, 0, len(name), len(value)) + name + b"\0" + value)
        used += size
    encoded = bytearray(b"".join(parts))
    for start, following in pairwise(starts):
        struct.pack_into("<I", encoded, start, following - start)
    return bytes(encoded), len(starts) == len(pairs)
