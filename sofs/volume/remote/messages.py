"""What nodes say to each other about a volume, as bytes.

A question begins with a head that every question has, and which the answering side reads without decoding the rest:

    u8   kind
    u32  slot of the asking node that the question uses (3 bytes of padding before it)
    u64  era: how often the asking node has begun anew with what it has under way
    u64  volume
    u64  sequence: the number of the question in its slot

What follows is msgpack, by the kind (an array-like class below). Data to be written and data that was read are the message's payload, and are never
copied into a body. An answer is msgpack, of one of the classes in `AnyAnswer`. Errors are the interconnect's business.

All requests and replies of `sofs.volume.api` are found by their base classes, so none can be forgotten. Bytes that make no message are the
peer's fault: `PeerError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Union

import msgspec

from sofs.encoding import decoder, encode
from sofs.errors import PeerError
from sofs.runtime.ports import Buffer
from sofs.types import Level, Lsn
from sofs.volume.api import AnyToken, Attributes, Binding, CallToken, Reply, Request, Slot, Slots, SlotToken, Target, Token, Upcall

HEAD = struct.Struct("<B3xIQQQ")


class Kind(IntEnum):
    """What is asked."""

    CALL = 1
    READ = 2
    WRITE = 3
    WHEN = 4
    """Answered once everything up to a position is stable."""
    CANCEL = 5
    """Takes the question of this slot and sequence back: it is answered `Answered` if that has been carried out, else `Reached`, and it never will be."""
    SUBSCRIBE = 6
    """From now on the asking node is told what concerns its gateways; `sequence` is the subscription's number."""


Head = tuple[int, int, int, int, int]
"""Kind, slot, era, volume, sequence."""


# Questions


class Call(msgspec.Struct, array_like=True):
    snapshot: int
    by: Binding
    plain: Token | None
    slot_token: SlotToken | None
    request: Any


class ReadAsk(msgspec.Struct, array_like=True):
    snapshot: int
    by: Binding
    target: Target
    offset: int
    length: int


class WriteAsk(msgspec.Struct, array_like=True):
    by: Binding
    plain: Token | None
    slot_token: SlotToken | None
    target: Target
    offset: int
    level: Level


class When(msgspec.Struct, array_like=True):
    gate: Lsn


# Answers


class Answered(msgspec.Struct, array_like=True, tag=1):
    """The reply to a call or a write."""

    stable: Lsn
    verifier: int
    reply: Any


class ReadAnswer(msgspec.Struct, array_like=True, tag=2):
    """The data is the payload."""

    stable: Lsn
    verifier: int
    end: bool
    gate: Lsn
    attributes: Attributes | None


class Reached(msgspec.Struct, array_like=True, tag=3):
    """What was asked for is so."""

    stable: Lsn
    verifier: int


class Elsewhere(msgspec.Struct, array_like=True, tag=4):
    """This node does not serve the volume. Nothing that it is asked in this era from now on will be carried out."""


class Told(msgspec.Struct, array_like=True):
    """Upcalls to one node, in their order."""

    volume: int
    subscription: int
    """The number of the subscription that they belong to."""
    number: int
    """Of these upcalls in it: what has been heard already is sent again if the answer was lost."""
    upcalls: list[Upcall]


# All there is


def requests() -> list[type[Request]]:
    """Every request there is."""
    return _family(Request)


def replies() -> list[type[Reply]]:
    """Every reply there is, the plain one among them."""
    return [Reply, *_family(Reply)]


def _family(base: type[Any]) -> list[Any]:
    found: list[Any] = []
    for kind in base.__subclasses__():
        found += [kind, *_family(kind)]
    return sorted(found, key=lambda kind: kind.__name__)


def _taking_its_place(name: str, kind: type[Any], **fields: Any) -> type[Any]:
    """A message's class with the real types of those of its fields that can hold any request or reply."""
    config = kind.__struct_config__
    told = [(field, fields.get(field, _hint(kind, field))) for field in kind.__struct_fields__]
    return msgspec.defstruct(name, told, bases=(kind,), array_like=True, tag=config.tag)


def _hint(kind: type[Any], field: str) -> Any:
    return next(each.type for each in msgspec.structs.fields(kind) if each.name == field)


class _Slot(msgspec.Struct, array_like=True):
    """`Slot` with its reply still encoded: a type cannot hold itself and every other."""

    slot: int
    sequence: int
    digest: bytes
    index: int
    note: bytes | None
    reply: bytes | None


class _Slots(msgspec.Struct, array_like=True, tag="Slots"):
    gate: Lsn
    slots: list[_Slot]


_REPLIES = [kind for kind in replies() if kind is not Slots]
_AnyRequest: Any = Union[tuple(requests())]  # noqa: UP007
_AnyReply: Any = Union[(*_REPLIES, _Slots)]
_Call = _taking_its_place("_Call", Call, request=_AnyRequest)
_Answered = _taking_its_place("_Answered", Answered, reply=_AnyReply)

_RESTS: dict[int, Callable[[Buffer], Any]] = {
    Kind.CALL: decoder(_Call, "a call of a volume"),
    Kind.READ: decoder(ReadAsk, "a question for a volume's data"),
    Kind.WRITE: decoder(WriteAsk, "data for a volume"),
    Kind.WHEN: decoder(When, "a question about a volume's position"),
}
_answer = decoder(Union[_Answered, ReadAnswer, Reached, Elsewhere], "an answer about a volume")  # noqa: UP007
decode_told = decoder(Told, "upcalls of a volume")
_inner_reply = decoder(Union[tuple(_REPLIES)], "a reply within an answer about a volume")  # noqa: UP007


# Questions


def encode_head(kind: int, slot: int, era: int, volume: int, sequence: int) -> bytes:
    return HEAD.pack(kind, slot, era, volume, sequence)


def decode_head(body: Buffer) -> Head:
    """Raises `PeerError`."""
    if len(body) < HEAD.size:
        raise PeerError(f"a question about a volume of {len(body)} bytes")
    return HEAD.unpack_from(body)


def decode_rest(kind: int, body: Buffer) -> Any:
    """What follows the head; None for kinds of which nothing does. Raises `PeerError`."""
    read = _RESTS.get(kind)
    if read is None:
        if kind not in (Kind.CANCEL, Kind.SUBSCRIBE) or len(body) != HEAD.size:
            raise PeerError(f"a question about a volume of kind {kind} and {len(body)} bytes")
        return None
    return read(memoryview(body)[HEAD.size :])


def split(token: AnyToken | None) -> tuple[Token | None, SlotToken | None]:
    """A gateway's token as messages hold it."""
    assert not isinstance(token, CallToken), "only what a gateway gave is forwarded"
    if token is None:
        return None, None
    return (token, None) if isinstance(token, Token) else (None, token)


# Answers


def encode_answer(answer: Answered | ReadAnswer | Reached | Elsewhere) -> bytes:
    if type(answer) is Answered and type(answer.reply) is Slots:
        slots = answer.reply
        answer.reply = _Slots(slots.gate, [_closed(slot) for slot in slots.slots])
    return encode(answer)


def decode_answer(body: Buffer) -> Answered | ReadAnswer | Reached | Elsewhere:
    """Raises `PeerError`."""
    answer: Answered | ReadAnswer | Reached | Elsewhere = _answer(body)
    if isinstance(answer, Answered) and type(answer.reply) is _Slots:
        found = answer.reply
        answer.reply = Slots(found.gate, [_opened(slot) for slot in found.slots])
    return answer


def _closed(slot: Slot) -> _Slot:
    reply = None if slot.reply is None else encode(slot.reply)
    return _Slot(slot.slot, slot.sequence, slot.digest, slot.index, slot.note, reply)


def _opened(slot: _Slot) -> Slot:
    reply = None if slot.reply is None else _inner_reply(slot.reply)
    return Slot(slot.slot, slot.sequence, slot.digest, slot.index, slot.note, reply)
