"""The frames of the nodes' protocol: what stands in them, and how a byte stream is cut into them.

A frame is a header of 20 bytes, little-endian, and behind it the service's name, the body and the payload:

    u8   kind
    u8   length of the service's name
    u16  0
    u32  length of the body
    u32  length of the payload
    u64  number of the call

A connection belongs to one priority of one node's calls to another. Its first frame is HELLO, answered by WELCOME or REFUSED, all with a
body that is a msgpack map. Then come CALL and NOTIFY from the node that connected, ANSWER and ERROR from the other, and PING, answered by PONG. Bodies and
payloads of calls are the services' own business.

Who sends what is not a frame, or one that is too long, is disconnected (`PeerError`).
"""

import struct
from collections.abc import Callable

import msgspec

from sofs.errors import PeerError
from sofs.runtime.ports import Buffer

PROTOCOL = 1
"""Version of what stands here. What nodes of different releases say to each other in bodies is decided by feature levels."""

HELLO, WELCOME, REFUSED, CALL, NOTIFY, ANSWER, ERROR, PING, PONG = range(1, 10)

HEADER = struct.Struct("<BBHIIQ")
assert HEADER.size == 20
LARGEST_PAYLOAD = 16 << 20
LARGEST_BODY = 1 << 20
OWN = 64 << 10
"""A payload of so many bytes or more lies in a buffer of its own, which whoever gets it may keep."""
LARGEST_GREETING = 4 << 10
"""Bytes of a frame that a peer may send before it has said who it is."""


class Hello(msgspec.Struct, omit_defaults=True):
    """Who connects, to whom, and what for."""

    protocol: int
    node: int
    incarnation: int
    to: int
    """The node that is believed to be at this address."""
    priority: int
    number: int
    """Of this connection among the caller's of this priority: what comes over a lower one is out of date."""
    features: int
    cluster: str = ""


class Welcome(msgspec.Struct, omit_defaults=True):
    incarnation: int
    features: int


class Refusal(msgspec.Struct, omit_defaults=True):
    reason: str


def frame(kind: int, number: int, body: Buffer = b"", name: bytes = b"", payload: int = 0) -> bytes:
    """Everything of a frame but its payload, which has `payload` bytes."""
    return HEADER.pack(kind, len(name), 0, len(body), payload, number) + name + body


Taken = Callable[[int, int, memoryview, memoryview, memoryview, bool], bool]
"""Kind, number, the service's name, body, payload, and whether the views stay valid behind the call (else they end with it). Answers whether
to go on."""


class FrameReader:
    """Cuts a stream into frames. Small ones that came in one piece are handed on where they lie; others get a buffer of their size, once."""

    def __init__(self, taken: Taken, *, greeted: bool = False) -> None:
        self._taken = taken
        self.greeted = greeted
        """Until then frames are small."""
        self._buffer = bytearray()
        self._filled = 0
        self._held: bytearray | None = None

    def go_on(self) -> None:
        """What was held back since a frame's taker did not want to go on comes now. Raises `PeerError`."""
        held, self._held = self._held, None
        if held:
            self.feed(memoryview(held))

    def feed(self, data: memoryview) -> None:
        """The next bytes. Raises `PeerError`."""
        if self._held is not None:
            self._held += data
            return
        at, end = 0, len(data)
        while self._buffer:
            if at == end:
                return
            at += self._fill(data[at:])
            if self._filled == len(self._buffer) and not self._complete():
                self._held = bytearray(data[at:])
                return
        while end - at >= HEADER.size:
            size = self._size(data, at)
            if size > end - at:
                break
            own = size > OWN
            on = self._hand_on(memoryview(bytes(data[at : at + size])) if own else data[at : at + size], own)
            at += size
            if not on:
                self._held = bytearray(data[at:])
                return
        if at < end:
            size = self._size(data, at) if end - at >= HEADER.size else HEADER.size
            self._buffer = bytearray(size)
            self._filled = 0
            self._fill(data[at:])

    def _fill(self, data: memoryview) -> int:
        count = min(len(data), len(self._buffer) - self._filled)
        self._buffer[self._filled : self._filled + count] = data[:count]
        self._filled += count
        return count

    def _complete(self) -> bool:
        """The buffer has what was wanted: a header, or a frame."""
        buffer = self._buffer
        if len(buffer) == HEADER.size:
            size = self._size(memoryview(buffer), 0)
            if size > HEADER.size:
                self._buffer = bytearray(size)
                self._buffer[: HEADER.size] = buffer
                return True
        self._buffer = bytearray()
        return self._hand_on(memoryview(buffer), True)

    def _size(self, data: memoryview, at: int) -> int:
        kind, name, zero, body, payload, _ = HEADER.unpack_from(data, at)
        if not HELLO <= kind <= PONG or zero:
            raise PeerError(f"what it sent is no frame of this protocol: {bytes(data[at : at + HEADER.size]).hex()}")
        if body > LARGEST_BODY or payload > LARGEST_PAYLOAD:
            raise PeerError(f"a frame with {body} bytes of body and {payload} of payload is too long")
        size: int = HEADER.size + name + body + payload
        if not self.greeted and size > LARGEST_GREETING:
            raise PeerError(f"a first frame of {size} bytes is too long")
        return size

    def _hand_on(self, data: memoryview, kept: bool) -> bool:
        kind, name, _, body, _, number = HEADER.unpack_from(data)
        start = HEADER.size + name
        return self._taken(kind, number, data[HEADER.size : start], data[start : start + body], data[start + body :], kept)
