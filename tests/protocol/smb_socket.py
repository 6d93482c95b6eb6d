"""The small SMB client over a real connection."""

from __future__ import annotations

import asyncio
import struct
from typing import cast

from gateways.smb.service import SmbService
from tests.protocol.smb_client import Client, MemoryLink, Reply

PENDING = 0x103


class _Remote:
    """Stands where the client expects the server's end of its connection: what it is given goes over the socket, and what comes back to the client's link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._link = MemoryLink()
        self.task: asyncio.Task[None] | None = None

    def accept(self, link: MemoryLink) -> _Remote:
        self._link = link
        self.task = asyncio.create_task(self._receive())
        return self

    def size(self, length: int) -> int:
        return length

    def received(self, length: int, message: memoryview) -> None:
        self._writer.write(struct.pack(">I", length) + message)

    def cut(self) -> None:
        """The connection is lost."""
        if self.task is not None:
            self.task.cancel()
        self._writer.transport.abort()

    async def _receive(self) -> None:
        try:
            while True:
                header = await self._reader.readexactly(4)
                self._link.sent += header + await self._reader.readexactly(int.from_bytes(header))
        except (EOFError, OSError):
            self._link.close("the server closed the connection")


class SocketClient(Client):
    """Any number of requests under way; `final`, `told` and `broken` leave each other's replies alone."""

    @classmethod
    async def reach(cls, port: int, guid: bytes = b"guid" * 4, share: str = "data", previous: int = 0) -> SocketClient:
        """A client that has its share; `previous` is the session that this one takes the place of."""
        remote = _Remote(*await asyncio.open_connection("127.0.0.1", port))
        client = cls(cast(SmbService, remote), guid)
        client.remote = remote
        assert (await client.negotiate()).status == 0
        assert (await client.logon(previous=previous)).status == 0
        assert (await client.connect(share)).status == 0
        return client

    remote: _Remote

    def cut(self) -> None:
        self.remote.cut()

    def replies(self) -> list[Reply]:
        found = super().replies()
        self._finals |= {reply.message_id: reply for reply in found if reply.status != PENDING}
        return found

    async def answered(self, number: int) -> bool:
        """Whether the request has its final reply; False as soon as it has been told PENDING."""
        async with asyncio.timeout(20):
            while number not in self._finals:
                self.replies()
                if number in self.pending and number not in self._finals:
                    return False
                assert not self.link.closed_for, self.link.closed_for
                await asyncio.sleep(0.001)
        return True
