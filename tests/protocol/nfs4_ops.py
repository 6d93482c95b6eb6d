"""Operations of NFSv4.1 and 4.2 as the tests' client asks them, every one written out by hand (RFC 8881, RFC 7862, RFC 8276)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.protocol.nfs4_xdr import (
    ANONYMOUS,
    ChangeInfo,
    Op,
    Reader,
    Stateid,
    Writer,
    ace,
    bitmap,
    change_info,
    fattr,
    mask,
    new_fattr,
    stateid,
    words,
)

FH = bytes


# Operations: filehandles


def putrootfh() -> Op:
    return Op(24, b"")


def putpubfh() -> Op:
    return Op(23, b"")


def putfh(handle: FH) -> Op:
    return Op(22, bytes(Writer().opaque(handle).data))


def getfh() -> Op:
    return Op(10, b"", Reader.opaque)


def savefh() -> Op:
    return Op(32, b"")


def restorefh() -> Op:
    return Op(31, b"")


def _name(name: str | bytes) -> bytes:
    return bytes(Writer().opaque(name.encode() if isinstance(name, str) else name).data)


def lookup(name: str | bytes) -> Op:
    return Op(15, _name(name))


def lookupp() -> Op:
    return Op(16, b"")


# Attributes


def getattr_(*names: str) -> Op:
    return Op(9, mask(*names), fattr)


def getattr_numbers(numbers: Sequence[int]) -> Op:
    return Op(9, words(numbers), fattr)


def setattr_(state: Stateid = ANONYMOUS, raw: bytes | None = None, **values: Any) -> Op:
    return Op(34, state.packed() + (new_fattr(**values) if raw is None else raw), bitmap, lambda reader, status: bitmap(reader))


def verify(**values: Any) -> Op:
    return Op(37, new_fattr(**values))


def nverify(**values: Any) -> Op:
    return Op(17, new_fattr(**values))


def access(wanted: int) -> Op:
    return Op(3, wanted.to_bytes(4), lambda reader: (reader.u32(), reader.u32()))


# Names


class DirectoryEntry(NamedTuple):
    cookie: int
    name: bytes
    attributes: dict[str, Any]


def _entries(reader: Reader) -> tuple[list[DirectoryEntry], bool, bytes]:
    verifier = reader.raw(8)
    entries = []
    while reader.bool():
        entries.append(DirectoryEntry(reader.u64(), reader.opaque(), fattr(reader)))
    return entries, reader.bool(), verifier


def readdir(cookie: int, *names: str, verifier: bytes = bytes(8), dircount: int = 65536, maxcount: int = 65536) -> Op:
    """Gives the entries, whether these are all, and the verifier."""
    return Op(26, cookie.to_bytes(8) + verifier + bytes(Writer().u32(dircount, maxcount).data) + mask(*names), _entries)


def readlink() -> Op:
    return Op(27, b"", Reader.opaque)


def create(kind: int, name: str | bytes, *, target: bytes = b"", device: tuple[int, int] = (0, 0), **values: Any) -> Op:
    out = Writer().u32(kind)
    if kind == 5:
        out.opaque(target)
    elif kind in (3, 4):
        out.u32(*device)
    return Op(6, bytes(out.data) + _name(name) + new_fattr(**values), lambda reader: (change_info(reader), bitmap(reader)))


def link(name: str | bytes) -> Op:
    return Op(11, _name(name), change_info)


def remove(name: str | bytes) -> Op:
    return Op(28, _name(name), change_info)


def rename(old: str | bytes, new: str | bytes) -> Op:
    return Op(29, _name(old) + _name(new), lambda reader: (change_info(reader), change_info(reader)))


# Data


def read(state: Stateid, offset: int, count: int) -> Op:
    """Gives (eof, data)."""
    return Op(25, state.packed() + struct.pack(">QI", offset, count), lambda reader: (reader.bool(), reader.opaque()))


class Written(NamedTuple):
    count: int  # type: ignore[assignment]
    committed: int
    verifier: bytes


def write(state: Stateid, offset: int, data: bytes, stable: int = 2) -> Op:
    arguments = state.packed() + bytes(Writer().u64(offset).u32(stable).opaque(data).data)
    return Op(38, arguments, lambda reader: Written(reader.u32(), reader.u32(), reader.raw(8)))


def commit(offset: int = 0, count: int = 0) -> Op:
    return Op(5, struct.pack(">QI", offset, count), lambda reader: reader.raw(8))


# RFC 7862


def seek(state: Stateid, offset: int, what: int) -> Op:
    """0: the next data; 1: the next hole. Gives (eof, offset)."""
    return Op(69, state.packed() + struct.pack(">QI", offset, what), lambda reader: (reader.bool(), reader.u64()))


def allocate(state: Stateid, offset: int, length: int) -> Op:
    return Op(59, state.packed() + struct.pack(">QQ", offset, length))


def deallocate(state: Stateid, offset: int, length: int) -> Op:
    return Op(62, state.packed() + struct.pack(">QQ", offset, length))


class CopyDone(NamedTuple):
    length: int
    committed: int
    verifier: bytes
    consecutive: bool
    synchronous: bool


def _copied(reader: Reader) -> CopyDone:
    assert reader.array(stateid) == [], "a copy that goes on after its reply"
    return CopyDone(reader.u64(), reader.u32(), reader.raw(8), reader.bool(), reader.bool())


def copy(source: Stateid, target: Stateid, source_offset: int, offset: int, length: int, servers: int = 0) -> Op:
    numbers = struct.pack(">QQQIII", source_offset, offset, length, 1, 1, servers)
    numbers += b"".join(bytes(Writer().u32(1).opaque(b"elsewhere").data) for _ in range(servers))
    return Op(60, source.packed() + target.packed() + numbers, _copied, lambda r, status: (r.bool(), r.bool()) if status == 10094 else None)


def clone(source: Stateid, target: Stateid, source_offset: int, offset: int, length: int) -> Op:
    return Op(71, source.packed() + target.packed() + struct.pack(">QQQ", source_offset, offset, length))


def _content(reader: Reader) -> tuple[str, int, Any]:
    if reader.u32() == 0:
        return "data", reader.u64(), reader.opaque()
    return "hole", reader.u64(), reader.u64()


def read_plus(state: Stateid, offset: int, count: int) -> Op:
    """Gives (eof, pieces)."""
    return Op(68, state.packed() + struct.pack(">QI", offset, count), lambda reader: (reader.bool(), reader.array(_content)))


def io_advise(state: Stateid, offset: int, count: int, hints: Sequence[int]) -> Op:
    return Op(63, state.packed() + struct.pack(">QQ", offset, count) + words(hints), bitmap)


def offload_status(state: Stateid) -> Op:
    return Op(67, state.packed(), lambda reader: (reader.u64(), reader.array(Reader.u32)))


def offload_cancel(state: Stateid) -> Op:
    return Op(66, state.packed())


# RFC 8276


def getxattr(name: str) -> Op:
    return Op(72, _name(name), Reader.opaque)


def setxattr(name: str, value: bytes, how: int = 0) -> Op:
    """0: either, 1: only a new one, 2: only one that is there."""
    return Op(73, bytes(Writer().u32(how).data) + _name(name) + bytes(Writer().opaque(value).data), change_info)


def listxattrs(cookie: int = 0, limit: int = 65536) -> Op:
    """Gives (cookie, names, eof)."""
    return Op(74, struct.pack(">QI", cookie, limit), lambda r: (r.u64(), r.array(Reader.opaque), r.bool()))


def removexattr(name: str) -> Op:
    return Op(75, _name(name), change_info)


# Opens and locks

READ, WRITE, BOTH = 1, 2, 3


class OpenDone(NamedTuple):
    stateid: Stateid
    change: ChangeInfo
    flags: int
    attributes: set[int]
    delegation: tuple[int, Any]
    """Its kind (0 none, 1 read, 2 write, 3 none and why), and its stateid."""


def _delegation(reader: Reader) -> tuple[int, Any]:
    kind = reader.u32()
    if kind == 0:
        return kind, None
    if kind == 1:
        state, recall = stateid(reader), reader.bool()
        return kind, (state, recall, ace(reader))
    if kind == 2:
        state, recall = stateid(reader), reader.bool()
        limit = reader.u32()
        space = reader.u64() if limit == 1 else (reader.u32(), reader.u32())
        return kind, (state, recall, space, ace(reader))
    why = reader.u32()
    return kind, (why, reader.bool() if why in (1, 2) else None)


def _opened(reader: Reader) -> OpenDone:
    return OpenDone(stateid(reader), change_info(reader), reader.u32(), bitmap(reader), _delegation(reader))


def open_(
    name: str | bytes,
    share: int = BOTH,
    deny: int = 0,
    *,
    owner: bytes = b"owner",
    clientid: int = 0,
    how: str = "open",
    verifier: bytes = bytes(8),
    claim: bytes | None = None,
    values: dict[str, Any] | None = None,
    **more: Any,
) -> Op:
    """`how`: "open", "unchecked", "guarded", "exclusive" or "exclusive_41"; `values` and `more` are a new file's attributes; `claim` an open_claim4 in place of
    CLAIM_NULL."""
    out = Writer().u32(0, share, deny).u64(clientid).opaque(owner)
    if how == "open":
        out.u32(0)
    else:
        mode = ("unchecked", "guarded", "exclusive", "exclusive_41").index(how)
        out.u32(1, mode)
        if mode >= 2:
            out.raw(verifier)
        if mode != 2:
            out.raw(new_fattr(**(values or {}), **more))
    out.raw(bytes(4) + _name(name) if claim is None else claim)
    return Op(18, bytes(out.data), _opened)


CLAIM_FH = (4).to_bytes(4)


def claim_previous(delegation: int = 0) -> bytes:
    return bytes(Writer().u32(1, delegation).data)


def close(state: Stateid) -> Op:
    return Op(4, bytes(4) + state.packed(), stateid)


def open_downgrade(state: Stateid, share: int, deny: int = 0) -> Op:
    return Op(21, state.packed() + bytes(4) + bytes(Writer().u32(share, deny).data), stateid)


class Denied(NamedTuple):
    offset: int
    length: int
    kind: int
    clientid: int
    owner: bytes


def _denied(reader: Reader, status: int) -> Denied | None:
    return Denied(reader.u64(), reader.u64(), reader.u32(), reader.u64(), reader.opaque()) if status == 10010 else None


READ_LT, WRITE_LT, READW_LT, WRITEW_LT = 1, 2, 3, 4
TO_END = (1 << 64) - 1


def lock(kind: int, offset: int, length: int, state: Stateid, owner: bytes | None = None, reclaim: bool = False, clientid: int = 0) -> Op:
    """With `owner`, `state` is the open's, and the owner is new; without, it is the lock owner's stateid."""
    out = Writer().u32(kind, int(reclaim)).u64(offset, length)
    if owner is None:
        out.u32(0).raw(state.packed()).u32(0)
    else:
        out.u32(1, 0).raw(state.packed()).u32(0).u64(clientid).opaque(owner)
    return Op(12, bytes(out.data), stateid, _denied)


def lockt(kind: int, offset: int, length: int, owner: bytes, clientid: int = 0) -> Op:
    return Op(13, bytes(Writer().u32(kind).u64(offset, length).u64(clientid).opaque(owner).data), failed=_denied)


def locku(kind: int, offset: int, length: int, state: Stateid) -> Op:
    return Op(14, bytes(Writer().u32(kind, 0).raw(state.packed()).u64(offset, length).data), stateid)


def delegreturn(state: Stateid) -> Op:
    return Op(8, state.packed())


def test_stateid(*states: Stateid) -> Op:
    return Op(55, len(states).to_bytes(4) + b"".join(state.packed() for state in states), lambda reader: reader.array(Reader.u32))


def free_stateid(state: Stateid) -> Op:
    return Op(45, state.packed())


# Clients and sessions


class ExchangeDone(NamedTuple):
    clientid: int
    sequence: int
    flags: int
    owner: tuple[int, bytes]
    scope: bytes


def _exchanged(reader: Reader) -> ExchangeDone:
    clientid, sequence, flags = reader.u64(), reader.u32(), reader.u32()
    assert reader.u32() == 0, "state protection that was not asked for"
    owner = reader.u64(), reader.opaque()
    scope = reader.opaque()
    reader.array(lambda r: (r.opaque(), r.opaque(), r.i64(), r.u32()))
    return ExchangeDone(clientid, sequence, flags, owner, scope)


def exchange_id(owner: bytes, verifier: bytes, flags: int = 0) -> Op:
    return Op(42, verifier + bytes(Writer().opaque(owner).u32(flags, 0, 0).data), _exchanged)


class ChannelAttributes(NamedTuple):
    header_pad: int = 0
    max_request: int = (1 << 20) + 65536
    max_response: int = (1 << 20) + 65536
    max_cached: int = 65536
    max_operations: int = 64
    max_requests: int = 16

    def packed(self) -> bytes:
        return bytes(Writer().u32(*self, 0).data)


def _channel(reader: Reader) -> ChannelAttributes:
    channel = ChannelAttributes(*(reader.u32() for _ in range(6)))
    reader.array(Reader.u32)
    return channel


class SessionDone(NamedTuple):
    session: bytes
    sequence: int
    flags: int
    fore: ChannelAttributes
    back: ChannelAttributes


CALLBACK_PROGRAM = 0x40000000


FORE, BACK = ChannelAttributes(), ChannelAttributes(0, 4096, 4096, 0, 2, 1)


def create_session(clientid: int, sequence: int, flags: int = 0, fore: ChannelAttributes = FORE, back: ChannelAttributes = BACK) -> Op:
    """Callbacks come with AUTH_NONE. Flags: 1 persist, 2 callbacks over this connection."""
    arguments = Writer().u64(clientid).u32(sequence, flags).raw(fore.packed()).raw(back.packed()).u32(CALLBACK_PROGRAM, 1, 0)
    return Op(43, bytes(arguments.data), lambda r: SessionDone(r.raw(16), r.u32(), r.u32(), _channel(r), _channel(r)))


class SequenceDone(NamedTuple):
    session: bytes
    sequence: int
    slot: int
    highest: int
    target: int
    flags: int


def sequence(session: bytes, number: int, slot: int, highest: int, cache: bool) -> Op:
    arguments = session + bytes(Writer().u32(number, slot, highest, int(cache)).data)
    return Op(53, arguments, lambda r: SequenceDone(r.raw(16), r.u32(), r.u32(), r.u32(), r.u32(), r.u32()))


def destroy_session(session: bytes) -> Op:
    return Op(44, session)


def destroy_clientid(clientid: int) -> Op:
    return Op(57, clientid.to_bytes(8))


def bind_conn_to_session(session: bytes, direction: int = 3) -> Op:
    return Op(41, session + bytes(Writer().u32(direction, 0).data), lambda r: (r.raw(16), r.u32(), r.bool()))


def reclaim_complete(one_fs: bool = False) -> Op:
    return Op(58, int(one_fs).to_bytes(4))


def secinfo(name: str | bytes) -> Op:
    return Op(33, _name(name), lambda r: r.array(_flavor))


def secinfo_no_name(style: int = 0) -> Op:
    return Op(52, style.to_bytes(4), lambda r: r.array(_flavor))


def _flavor(reader: Reader) -> int:
    flavor = reader.u32()
    if flavor == 6:
        reader.opaque(), reader.u32(), reader.u32()
    return flavor
