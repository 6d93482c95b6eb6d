"""A link that keeps what is sent, for driving RPC cores without sockets."""

import struct
from collections.abc import Sequence

from sofs.runtime.ports import Buffer


class CollectingLink:
    """A `Link` whose replies can be looked at."""

    def __init__(self, peer: str = "192.0.2.7") -> None:
        self.peer = peer
        self.peer_port = 777
        self.local = "192.0.2.1"
        self.sent = bytearray()
        self.paused = False
        self.closed_for = ""

    def send(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self.sent += buffer

    def pause(self) -> None:
        assert not self.paused
        self.paused = True

    def resume(self) -> None:
        assert self.paused
        self.paused = False

    def close(self, reason: str) -> None:
        self.closed_for = reason

    def replies(self) -> list[bytes]:
        """The records sent so far, without their headers; each must be one fragment."""
        found, at = [], 0
        while at < len(self.sent):
            (header,) = struct.unpack_from(">I", self.sent, at)
            assert header & 0x80000000
            length = header & 0x7FFFFFFF
            found.append(bytes(self.sent[at + 4 : at + 4 + length]))
            assert len(found[-1]) == length
            at += 4 + length
        self.sent.clear()
        return found


def sys_credential(uid: int = 0, gid: int = 0, groups: Sequence[int] = ()) -> bytes:
    """An AUTH_SYS credential with its verifier."""
    body = struct.pack(">I", 1) + struct.pack(">I", 4) + b"test" + struct.pack(">3I", uid, gid, len(groups))
    body += b"".join(group.to_bytes(4) for group in groups)
    return struct.pack(">2I", 1, len(body)) + body + bytes(8)


def call_bytes(program: int, version: int, procedure: int, arguments: bytes = b"", *, xid: int = 1, auth: bytes = bytes(16), rpc: int = 2) -> bytes:
    """A call without a record header."""
    return struct.pack(">6I", xid, 0, rpc, program, version, procedure) + auth + arguments
