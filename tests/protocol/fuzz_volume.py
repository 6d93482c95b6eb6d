"""Inputs for what clients hand through to the volume undecoded: security descriptors, SIDs, names; and for records of snapshots and clients."""

from __future__ import annotations

from random import Random

import msgspec

from sofs.errors import Damaged, InvalidArgument, InvalidName, NameTooLong
from sofs.locks import Grant, GrantKind
from sofs.types import Inode, Lsn, OpenId, Time
from sofs.volume import gateways, kept_records, names, security, tokens
from sofs.volume.api import Binding, Caller, Keep, Written
from sofs.volume.gateways import GatewayRecord, decode_gateway
from sofs.volume.kept_records import Doom, KeptLocks, KeptOpen, decode_record
from sofs.volume.openfile import StateKind
from sofs.volume.security import Ace, Descriptor, decode, encode
from sofs.volume.snapshots import deadlists, history
from sofs.volume.snapshots.history import Snapshot
from sofs.volume.tokens import decode_forwarded, decode_slot
from tests.protocol.fuzz import Target, mutated

_SIDS = [b"\1\1\0\0\0\0\0\1" + bytes(4), security.EVERYONE, security.CREATOR_OWNER, security.sid_bytes("S-1-5-21-1-2-3-1104")]


def _aces(chance: Random, types: tuple[int, ...]) -> tuple[Ace, ...]:
    made = []
    for _ in range(chance.choice((0, 1, 2, 40))):
        kind, sid = chance.choice(types), chance.choice(_SIDS)
        mask = chance.choice((chance.getrandbits(32), 0x1F01FF, 0x80000000))
        body = (sid, b"" if chance.random() < 0.8 else b"rest") if kind < 2 else (b"", sid)
        made.append(Ace(kind, chance.getrandbits(5), mask, *body))
    return tuple(made)


def descriptors(chance: Random) -> None:
    made = Descriptor(
        chance.getrandbits(14) | security.DACL_PRESENT | security.SACL_PRESENT,
        chance.choice((None, *_SIDS)),
        chance.choice((None, *_SIDS)),
        chance.choice((None, _aces(chance, (0, 1)))),
        chance.choice((None, _aces(chance, (2, 0x11)))),
    )
    try:
        found = decode(mutated(encode(made), chance))
    except InvalidArgument:
        return
    assert decode(encode(found)) == found
    owner, group, directory = _SIDS[0], _SIDS[3], chance.random() < 0.5
    security.granted(found.dacl, frozenset(_SIDS[:2]))
    security.mode_of(found.dacl, owner, group)
    child = security.inherit(found, directory, owner, group)
    assert child is None or decode(encode(child)) == child
    changed = security.chmod(found, chance.getrandbits(9), directory, owner, group)
    assert changed is None or decode(encode(changed)) == changed
    merged = security.merge(found, made, chance.getrandbits(5))
    assert decode(encode(merged)) == merged


def sids(chance: Random) -> None:
    text = "-".join(
        chance.choice(("S", "1", "5", "0x5", "21", "-", "", "4294967295", "4294967296", "x", "99" * 9)) for _ in range(chance.randrange(20))
    )
    try:
        assert security.sid_bytes(security.sid_text(security.sid_bytes(text))) == security.sid_bytes(text)
    except InvalidArgument:
        pass


def file_names(chance: Random) -> None:
    name = mutated(chance.choice((b"name.txt", "Füße".encode(), b"\xed\xa0\x80", "𐐨".encode() * 70, b"x" * 255)), chance)
    folded = names.upcase(name)
    assert names.upcase(folded) == folded
    for check in (names.check, names.check_stream):
        try:
            check(name)
        except (InvalidName, NameTooLong):
            pass


def snapshot_records(chance: Random) -> None:
    """What lies on disks and in logs: whatever of it cannot be read is `Damaged`."""
    extents = tuple(chance.getrandbits(40) for _ in range(chance.randrange(4)))
    made = Snapshot(
        chance.getrandbits(55), Lsn(chance.getrandbits(62)), chance.getrandbits(40), chance.getrandbits(60), Time(chance.getrandbits(62)),
        chance.randrange(2), extents, chance.choice((b"a", "täglich".encode(), b"x" * 255)),
    )  # fmt: skip
    rows = b"".join(chance.randbytes(14) for _ in range(chance.randrange(5)))
    try:
        found = Snapshot.decode(made.key, mutated(made.encode(), chance))
        assert Snapshot.decode(found.key, found.encode()) == found
        assert all(grave.pages < 1 << 16 for grave in deadlists.graves(mutated(rows, chance)))
    except Damaged:
        pass


def client_records(chance: Random) -> None:
    """Kept opens, their grants, locks and marks, and slot tokens, as a disk may give them back."""
    binding, word = Binding(chance.getrandbits(40), chance.getrandbits(40)), chance.choice((b"", b"key", bytes(32)))
    made = KeptOpen(
        Inode(chance.getrandbits(40)), Inode(2), chance.getrandbits(25), chance.randrange(8), Caller(0, 0), binding, word, word, Inode(1), b"name",
        b"", 1, chance.random() < 0.5, False, False, False, False, chance.choice(list(StateKind)), word, chance.choice((None, word)), b"", word,
        Keep(chance.choice((-1, 60_000))), (binding,) * chance.randrange(3), chance.getrandbits(30), ((1, 7),) * chance.randrange(3),
        {b"\0\0\0\1": b"\1\0\2"}, (b"a", b"b"), chance.getrandbits(25), chance.getrandbits(40),
    )  # fmt: skip
    for record in (
        made,
        KeptLocks(Inode(7), word, OpenId(8), 9),
        Grant(word, GrantKind.LEASE, 7, 7, 7),
        Doom(OpenId(1), Inode(2), Inode(3), b"name", b""),
    ):
        try:
            found = decode_record(mutated(msgspec.msgpack.encode(record), chance), type(record))
            assert decode_record(msgspec.msgpack.encode(found), type(record)) == found
        except Damaged:
            pass
    value = msgspec.msgpack.encode((chance.getrandbits(32), word, 3, chance.choice((None, b"note")), msgspec.msgpack.encode(Written(Lsn(0), 5))))
    forwarded = msgspec.msgpack.encode((chance.getrandbits(60), chance.getrandbits(40), msgspec.msgpack.encode(Written(Lsn(0), 5))))
    for read in (
        lambda: decode_slot(bytes(21), mutated(value, chance)),
        lambda: decode_forwarded(mutated(forwarded, chance)),
        lambda: decode_gateway(mutated(msgspec.msgpack.encode(GatewayRecord(7, Time(8))), chance)),
    ):
        try:
            read()
        except Damaged:
            pass


TARGETS = (
    Target("client records", client_records, (kept_records.__name__, tokens.__name__, gateways.__name__)),
    Target("snapshot records", snapshot_records, (history.__name__, deadlists.__name__)),
    Target("security descriptors", descriptors, (security.__name__,)),
    Target("SIDs", sids, (security.__name__,)),
    Target("names", file_names, (names.__name__,)),
)
