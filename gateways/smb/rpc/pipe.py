"""A named pipe of IPC$, in message mode: what is written goes to an RPC endpoint, what is read are its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateways.smb.rpc.pdu import HEADER, Endpoint
from gateways.smb.status import Failure, Status
from sofs.errors import PeerError

if TYPE_CHECKING:
    from gateways.smb.handle import Session
    from gateways.smb.service import SmbService

_MAX_UNREAD = 4 << 20
_MAX_FRAGMENT = 16 << 10
_MAX_FRAGMENTS = 128
"""In one write. Each may be a request of a millisecond, and nobody else is served meanwhile; clients send one."""


class Pipe:
    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name = name
        self._endpoint = endpoint
        self._partial = bytearray()
        self._broken = False

    def write(self, data: memoryview) -> None:
        """Takes bytes; whole fragments are answered at once. Raises `Failure` once the pipe is broken."""
        if self._broken:
            raise Failure(Status.PIPE_DISCONNECTED)
        self._partial += data
        count = 0
        try:
            while len(self._partial) >= HEADER.size:
                length = HEADER.unpack_from(self._partial)[5]
                if length < HEADER.size or length > _MAX_FRAGMENT:
                    raise PeerError(f"an RPC fragment of {length} bytes")
                if len(self._partial) < length:
                    break
                count += 1
                if count > _MAX_FRAGMENTS:
                    raise PeerError(f"more than {_MAX_FRAGMENTS} RPC fragments in one write")
                fragment = bytes(self._partial[:length])
                del self._partial[:length]
                self._endpoint.received(fragment)
            if sum(map(len, self._endpoint.answers)) > _MAX_UNREAD:
                raise PeerError("RPC answers are not read")
        except PeerError:
            self._broken = True
            self._partial.clear()
            raise Failure(Status.PIPE_DISCONNECTED) from None

    def read(self, length: int) -> tuple[bytes, bool]:
        """Up to `length` bytes of the next message, and whether that has more. Raises `Failure`."""
        answers = self._endpoint.answers
        if not answers:
            raise Failure(Status.PIPE_DISCONNECTED if self._broken else Status.PIPE_EMPTY)
        data = answers[0][:length]
        if len(data) < len(answers[0]):
            answers[0] = answers[0][length:]
            return data, True
        del answers[0]
        return data, False


def open_pipe(service: SmbService, session: Session, name: str) -> Pipe:
    """The pipe called `name`. Raises `Failure`."""
    from gateways.smb.rpc import srvsvc, wkssvc

    plain = name.lstrip("\\").lower()
    if plain == "srvsvc":
        return Pipe(plain, Endpoint(plain, [srvsvc.interface(service, session)]))
    if plain == "wkssvc":
        return Pipe(plain, Endpoint(plain, [wkssvc.interface(service)]))
    raise Failure(Status.OBJECT_NAME_NOT_FOUND)
