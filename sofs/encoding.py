"""Structures as bytes: msgpack between nodes and in volumes, JSON in the coordination store.

What is decoded has been written by somebody else, or by another release, or lay on a disk: whatever is wrong with it is raised as one failure,
which the caller names (`PeerError` by default).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar, overload

import msgspec

from sofs.errors import ConfigError, InvalidName, PeerError
from sofs.runtime.ports import Buffer

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises for bytes that are not what was asked for."""

encode = msgspec.msgpack.Encoder().encode


@overload
def decoder(kind: type[T], what: str, failure: type[Exception] = PeerError) -> Callable[[Buffer], T]: ...


@overload
def decoder(kind: object, what: str, failure: type[Exception] = PeerError) -> Callable[[Buffer], Any]: ...  # a union of types


def decoder(kind: Any, what: str, failure: type[Exception] = PeerError) -> Callable[[Buffer], Any]:
    """Reads one kind of msgpack body, for paths where it is prepared once; raises `failure`, which says `what` it was."""
    prepared = msgspec.msgpack.Decoder(kind).decode

    def read(data: Buffer) -> Any:
        try:
            return prepared(data)
        except UNREADABLE as error:
            raise failure(f"{what} of {len(data)} bytes: {error}") from None

    return read


def decode(data: Buffer, kind: type[T], what: str = "", failure: type[Exception] = PeerError) -> T:
    """A msgpack body. Raises `failure`; `what` names it there."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except UNREADABLE as error:
        raise failure(f"{what or kind.__name__} of {len(data)} bytes: {error}") from None


class Record(msgspec.Struct, frozen=True):
    """Base of what the coordination store holds, JSON under a key. Fields that a release does not know are ignored, so that a newer one may add some."""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Raises `ConfigError`."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (*UNREADABLE, InvalidName) as error:
            raise ConfigError(f"{cls.__name__} in the coordination store: {error}") from None
