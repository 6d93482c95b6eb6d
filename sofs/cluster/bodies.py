"""Bodies of messages: msgpack, read with all the doubt that bytes from a network deserve."""

from typing import TypeVar

import msgspec

from sofs.errors import PeerError

__all__ = ["decoded", "encoded"]

T = TypeVar("T")

encoded = msgspec.msgpack.Encoder().encode


def decoded(body: bytes | memoryview, kind: type[T], what: str = "") -> T:
    """Raises `PeerError`; `what` names it there."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"{what or kind.__name__} that cannot be read: {error}") from None
