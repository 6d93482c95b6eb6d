"""Inputs for what nodes say to each other about volumes, as a broken or hostile node may say it."""

from __future__ import annotations

from random import Random

from sofs.errors import PeerError
from sofs.locks import GrantKind
from sofs.types import ROOT, Inode, Kind, Level, Lsn, OpenId
from sofs.volume.api import (
    Binding,
    Caller,
    Changes,
    Disposition,
    Dropped,
    Keep,
    Lock,
    Lookup,
    Make,
    Noticed,
    Open,
    Recall,
    Revoked,
    Slot,
    Slots,
    SlotToken,
    State,
    Stateless,
    Token,
    Wish,
    Written,
)
from sofs.volume.remote import messages
from sofs.volume.remote.messages import Answered, Call, Reached, ReadAsk, Told, When, WriteAsk
from tests.protocol.fuzz import Target, mutated

_CALLER, _BY = Caller(1000, 1000, (1, 2), ("S-1-5-21-1-2-3-4",)), Binding(1 << 61, 7)
_REQUESTS = (
    Lookup(_CALLER, ROOT, (b"a", b"b"), True),
    Make(_CALLER, ROOT, b"name", Kind.FILE, Changes(mode=0o644)),
    Open(_CALLER, ROOT, (b"a",), 3, 7, Disposition.OPEN_IF, guid=bytes(16), keep=Keep(1, True), wish=Wish(b"k", GrantKind.LEASE, 7)),
    Lock(OpenId(1 << 40), 0, 1 << 63, True, True, number=b"12345"),
)


def questions(chance: Random) -> None:
    plain = chance.choice((None, Token(b"key")))
    slot = chance.choice((None, SlotToken(bytes(16), 3, 4, b"digest", 5, b"note")))
    target = chance.choice((OpenId(7), Stateless(Inode(9), _CALLER)))
    kind, rest = chance.choice(
        (
            (1, Call(chance.randrange(3), _BY, plain, slot, chance.choice(_REQUESTS))),
            (2, ReadAsk(0, _BY, target, 4096, 65536)),
            (3, WriteAsk(_BY, plain, slot, target, -1, Level.STABLE)),
            (4, When(Lsn(1 << 50))),
            (5, None),
            (6, None),
        )
    )
    body = messages.encode_head(kind, 1, 2, 3, 4) + (b"" if rest is None else messages.encode(rest))
    try:
        data = mutated(body, chance)
        found = messages.decode_head(data)
        again = messages.decode_rest(found[0], data)
        if again is not None:
            messages.encode(again)
    except PeerError:
        pass


def answers(chance: Random) -> None:
    slots = Slots(Lsn(1), [Slot(1, 2, b"d", 3, b"n", Written(Lsn(4), 5)), Slot(2, 2, b"d", 3, None, None)])
    made = chance.choice((Answered(Lsn(1), 2, slots), Answered(Lsn(1), 2, State(Lsn(3), OpenId(4), 5)), Reached(Lsn(1), 2)))
    try:
        messages.encode_answer(messages.decode_answer(mutated(messages.encode_answer(made), chance)))
    except PeerError:
        pass


def upcalls(chance: Random) -> None:
    recall = Recall(Inode(1), b"key", GrantKind.LEASE, (OpenId(1), OpenId(2)), 7, 3, True, 4, 2, OpenId(0))
    revoked = Revoked(Inode(1), b"k", GrantKind.OPLOCK, (OpenId(3),), OpenId(0))
    told = Told(1, 2, 3, [recall, revoked, Dropped(OpenId(4)), Noticed(OpenId(5), 1, b"n")])
    try:
        messages.encode(messages.decode_told(mutated(messages.encode(told), chance)))
    except PeerError:
        pass


TARGETS = (
    Target("questions about volumes", questions, (messages.__name__,)),
    Target("answers about volumes", answers, (messages.__name__,)),
    Target("upcalls", upcalls, (messages.__name__,)),
)
