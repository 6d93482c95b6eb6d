"""A small RPC client for tests: asyncio streams, the declared types, many calls at once."""

from __future__ import annotations

import asyncio
import struct
from itertools import count
from typing import Any, NamedTuple, Self

from gateways.nfs.v3.messages import Mounted
from gateways.nfs.xdr import decode, encode
from tests.protocol.nfs_types import MOUNT, NFS, PROCEDURES, TYPES
from tests.unit.gateways.nfs_link import call_bytes, sys_credential

XIDS = count(0x10000000)


class Result(NamedTuple):
    """A procedure's status and what followed it."""

    status: int
    value: Any


class RpcTransport:
    """One connection: calls with any number of replies under way, which may come in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._task = asyncio.create_task(self._receive())
        self.auth = sys_credential(1000, 1000)
        self.lost = asyncio.Event()
        """Set when the server has closed the connection."""

    @classmethod
    async def connect(cls, port: int, host: str = "127.0.0.1") -> Self:
        return cls(*await asyncio.open_connection(host, port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._task.cancel()
        self._writer.close()
        await asyncio.gather(self._task, self._writer.wait_closed(), return_exceptions=True)

    async def _receive(self) -> None:
        try:
            while True:
                (header,) = struct.unpack(">I", await self._reader.readexactly(4))
                assert header & 0x80000000, "the server sends whole records"
                message = await self._reader.readexactly(header & 0x7FFFFFFF)
                xid, kind = struct.unpack_from(">II", message)
                if kind == 0:
                    self._called(xid, message)
                    continue
                waiting = self._waiting.pop(xid, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
        except (EOFError, OSError):
            self.lost.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError("the server closed the connection"))

    def _called(self, xid: int, message: bytes) -> None:
        raise AssertionError("a server that calls this client")

    def send(self, data: bytes) -> None:
        """Raw bytes, record headers included."""
        self._writer.write(data)

    def send_record(self, record: bytes) -> None:
        self.send(struct.pack(">I", 0x80000000 | len(record)) + record)

    async def raw(self, record: bytes) -> bytes:
        """One call as it is; its whole reply."""
        reply = asyncio.get_running_loop().create_future()
        self._waiting[int.from_bytes(record[:4])] = reply
        self.send_record(record)
        async with asyncio.timeout(20):
            return await reply

    async def results(self, program: int, version: int, procedure: int, arguments: bytes, xid: int | None = None) -> bytes:
        """The results of a call that must be accepted."""
        number = next(XIDS) if xid is None else xid
        reply = await self.raw(call_bytes(program, version, procedure, arguments, xid=number, auth=self.auth))
        assert reply[4:24] == struct.pack(">5I", 1, 0, 0, 0, 0), reply.hex()
        return reply[24:]


class RpcClient(RpcTransport):
    """Version 3 and MOUNT, by their declared types."""

    async def call(self, program: int, procedure: int, arguments: Any = None, xid: int | None = None) -> Result:
        """A call by its declared types."""
        types = TYPES[program, procedure]
        data = b"" if arguments is None else encode(arguments)
        results = await self.results(program, 3, procedure, data, xid)
        if not types.status:
            return Result(0, decode(types.success, results))
        (status,) = struct.unpack_from(">I", results)
        kind = types.failure if status else types.success
        value = decode(kind, results, 4)
        assert len(encode(value)) + 4 == len(results), "nothing may follow the results"
        return Result(status, value)

    async def nfs(self, name: str, arguments: Any, xid: int | None = None) -> Result:
        """A procedure of NFSv3 by its name."""
        return await self.call(NFS, PROCEDURES[name], arguments, xid)

    async def mount(self, path: str) -> bytes:
        """The handle of an export's directory; the mount must succeed."""
        from gateways.nfs.v3.messages import MountPath

        status, value = await self.call(MOUNT, 1, MountPath(path.encode()))
        assert status == 0, status
        assert isinstance(value, Mounted)
        return value.handle
