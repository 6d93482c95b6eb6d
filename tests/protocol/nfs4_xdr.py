"""NFSv4's bytes as the tests' client writes and reads them: XDR, stateids, attributes (RFC 4506, RFC 8881 3 and 5).

It shares nothing with the gateway, whose mistakes it is to find.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Writer:
    """XDR, RFC 4506."""

    def __init__(self) -> None:
        self.data = bytearray()

    def u32(self, *numbers: int) -> Writer:
        self.data += struct.pack(f">{len(numbers)}I", *numbers)
        return self

    def u64(self, *numbers: int) -> Writer:
        self.data += struct.pack(f">{len(numbers)}Q", *numbers)
        return self

    def raw(self, data: bytes) -> Writer:
        self.data += data
        return self

    def opaque(self, data: bytes) -> Writer:
        return self.u32(len(data)).raw(data).raw(bytes(-len(data) % 4))


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def raw(self, length: int) -> bytes:
        piece = self.data[self.at : self.at + length]
        assert len(piece) == length, "the reply is cut short"
        self.at += length
        return piece

    def u32(self) -> int:
        return int.from_bytes(self.raw(4))

    def u64(self) -> int:
        return int.from_bytes(self.raw(8))

    def i64(self) -> int:
        return int.from_bytes(self.raw(8), signed=True)

    def bool(self) -> bool:
        number = self.u32()
        assert number < 2, f"{number} is no boolean"
        return number == 1

    def opaque(self) -> bytes:
        length = self.u32()
        data = self.raw(length)
        assert not any(self.raw(-length % 4)), "padding that is not zero"
        return data

    def array(self, element: Callable[[Reader], Any]) -> list[Any]:
        return [element(self) for _ in range(self.u32())]

    def end(self) -> None:
        assert self.at == len(self.data), f"{len(self.data) - self.at} bytes follow"


class Op(NamedTuple):
    """An operation with its arguments, and how to read what follows its status."""

    number: int
    arguments: bytes
    result: Callable[[Reader], Any] = lambda reader: None
    failed: Callable[[Reader, int], Any] = lambda reader, status: None


class Stateid(NamedTuple):
    sequence: int
    other: bytes

    def packed(self) -> bytes:
        return self.sequence.to_bytes(4) + self.other


ANONYMOUS = Stateid(0, bytes(12))
BYPASS = Stateid(0xFFFFFFFF, b"\xff" * 12)
CURRENT = Stateid(1, bytes(12))


def stateid(reader: Reader) -> Stateid:
    return Stateid(reader.u32(), reader.raw(12))


class ChangeInfo(NamedTuple):
    atomic: bool
    before: int
    after: int


def change_info(reader: Reader) -> ChangeInfo:
    return ChangeInfo(reader.bool(), reader.u64(), reader.u64())


# Attributes


def _u32(reader: Reader) -> Any:
    return reader.u32()


def _u64(reader: Reader) -> Any:
    return reader.u64()


def _bool(reader: Reader) -> Any:
    return reader.bool()


def _text(reader: Reader) -> Any:
    return reader.opaque()


def _time(reader: Reader) -> Any:
    return reader.i64(), reader.u32()


def bitmap(reader: Reader) -> set[int]:
    return {32 * place + bit for place, word in enumerate(reader.array(Reader.u32)) for bit in range(32) if word >> bit & 1}


class Ace(NamedTuple):
    type: int
    flags: int
    mask: int
    who: bytes


def ace(reader: Reader) -> Ace:
    return Ace(reader.u32(), reader.u32(), reader.u32(), reader.opaque())


def _pair32(reader: Reader) -> Any:
    return reader.u32(), reader.u32()


ATTRIBUTES: dict[str, tuple[int, Callable[[Reader], Any]]] = {
    "supported_attrs": (0, bitmap), "type": (1, _u32), "fh_expire_type": (2, _u32), "change": (3, _u64), "size": (4, _u64),
    "link_support": (5, _bool), "symlink_support": (6, _bool), "named_attr": (7, _bool), "fsid": (8, lambda r: (r.u64(), r.u64())),
    "unique_handles": (9, _bool), "lease_time": (10, _u32), "rdattr_error": (11, _u32), "acl": (12, lambda r: r.array(ace)),
    "aclsupport": (13, _u32), "archive": (14, _bool), "cansettime": (15, _bool), "case_insensitive": (16, _bool),
    "case_preserving": (17, _bool), "chown_restricted": (18, _bool), "filehandle": (19, _text), "fileid": (20, _u64),
    "files_avail": (21, _u64), "files_free": (22, _u64), "files_total": (23, _u64), "hidden": (25, _bool), "homogeneous": (26, _bool),
    "maxfilesize": (27, _u64), "maxlink": (28, _u32), "maxname": (29, _u32), "maxread": (30, _u64), "maxwrite": (31, _u64),
    "mode": (33, _u32), "no_trunc": (34, _bool), "numlinks": (35, _u32), "owner": (36, _text), "owner_group": (37, _text),
    "quota_avail_hard": (38, _u64), "quota_avail_soft": (39, _u64), "quota_used": (40, _u64), "rawdev": (41, _pair32),
    "space_avail": (42, _u64), "space_free": (43, _u64), "space_total": (44, _u64), "space_used": (45, _u64), "system": (46, _bool),
    "time_access": (47, _time), "time_access_set": (48, _time), "time_create": (50, _time), "time_delta": (51, _time),
    "time_metadata": (52, _time), "time_modify": (53, _time), "time_modify_set": (54, _time), "mounted_on_fileid": (55, _u64),
    "dacl": (58, lambda r: (r.u32(), r.array(ace))), "mode_set_masked": (74, _pair32), "suppattr_exclcreat": (75, bitmap),
    "fs_charset_cap": (76, _u32), "clone_blksize": (77, _u32), "change_attr_type": (79, _u32), "xattr_support": (82, _bool),
    "open_arguments": (86, lambda r: [bitmap(r) for _ in range(5)]),
}  # fmt: skip
_BY_NUMBER = {number: (name, read) for name, (number, read) in ATTRIBUTES.items()}


def mask(*names: str) -> bytes:
    """A bitmap4."""
    numbers = [ATTRIBUTES[name][0] for name in names]
    return words(numbers)


def words(numbers: Sequence[int]) -> bytes:
    count = max(numbers, default=-1) // 32 + 1
    parts = [sum(1 << number % 32 for number in numbers if number // 32 == place) for place in range(count)]
    return bytes(Writer().u32(count, *parts).data)


def fattr(reader: Reader) -> dict[str, Any]:
    """fattr4 by names."""
    numbers = sorted(bitmap(reader))
    values = Reader(reader.opaque())
    found = {_BY_NUMBER[number][0]: _BY_NUMBER[number][1](values) for number in numbers}
    values.end()
    return found


def _packed_value(name: str, value: Any) -> bytes:
    out = Writer()
    if name in ("size", "change"):
        out.u64(value)
    elif name in ("owner", "owner_group"):
        out.opaque(value)
    elif name in ("time_access_set", "time_modify_set"):
        if value is None:
            out.u32(0)
        else:
            out.u32(1).raw(struct.pack(">qI", *value))
    elif name == "time_create":
        out.raw(struct.pack(">qI", *value))
    elif name == "mode_set_masked":
        out.u32(*value)
    elif name in ("acl", "dacl"):
        if name == "dacl":
            out.u32(value[0])
            value = value[1]
        out.u32(len(value))
        for ace in value:
            out.u32(ace.type, ace.flags, ace.mask).opaque(ace.who)
    elif name == "type":
        out.u32(value)
    else:
        out.u32(int(value))
    return bytes(out.data)


def new_fattr(**values: Any) -> bytes:
    """fattr4 to be set; in the order of the attributes' numbers."""
    names = sorted(values, key=lambda name: ATTRIBUTES[name][0])
    body = b"".join(_packed_value(name, values[name]) for name in names)
    return mask(*names) + bytes(Writer().opaque(body).data)
