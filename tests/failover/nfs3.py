"""NFSv3: a request keeps its xid however often it is sent, so the server can tell it from a new one (PROTOCOLS: tokens of v3)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from gateways.nfs.v3 import messages as m
from gateways.nfs.xdr import decode, encode
from tests.failover import COMMIT_AFTER_S, CONNECT_S, REPLY_S
from tests.failover.retrying import LOST, Diary, Patience, Trouble, Turns
from tests.interop.ledger import Files
from tests.protocol import nfs3_results as r3
from tests.protocol.nfs_client import RpcClient
from tests.protocol.nfs_types import MOUNT, NFS, PROCEDURES, TYPES
from tests.unit.gateways.nfs_link import call_bytes, sys_credential

OK, NO_ENTRY, EXISTS, JUKEBOX = 0, 2, 17, 10008
READ = 128 << 10
FILE_SYNC = 2
ROOT = sys_credential(0, 0)


class Nfs3Directory:
    def __init__(self, addresses: Sequence[str], port: int, share: str, name: str, number: int) -> None:
        self._turns = Turns(addresses)
        self._port, self._share, self._name = port, share, name
        self._xids = count((number << 24) + 1)
        """All clients here have the same address: their xids must differ."""
        self._client: RpcClient | None = None
        self._directory = b""
        self._stable = 0
        self.diary = Diary()
        self.resent = 0
        self.cautious = False
        self.rewritten = 0

    async def open(self) -> None:
        status, mounted = await self._call(MOUNT, 1, m.MountPath(f"/{self._share}".encode()), "MOUNT")
        if status != OK:
            raise Trouble(f"MOUNT was answered {status}")
        arguments = m.MakeDirectoryArgs(m.DirectoryName(mounted.handle, self._name.encode()), m.NewAttributes(mode=0o777))
        status, _ = await self._nfs("MKDIR", arguments)
        if status not in (OK, EXISTS):
            raise Trouble(f"MKDIR was answered {status}")
        self._directory = await self._handle(mounted.handle, self._name.encode())

    async def leave(self) -> None:
        await self.close()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _call(self, program: int, procedure: int, arguments: Any, what: str) -> tuple[int, Any]:
        types = TYPES[program, procedure]
        patience = Patience(what)
        record = b""
        while True:
            record = record or call_bytes(program, 3, procedure, encode(arguments), xid=next(self._xids) & 0xFFFFFFFF, auth=ROOT)
            try:
                if self._client is not None and self._client.lost.is_set():
                    await self.close()  # an idle client sees that, too
                self.diary.asks(f"{self._turns.address} {'connecting, then ' if self._client is None else ''}{what}")
                if self._client is None:
                    async with asyncio.timeout(CONNECT_S):
                        self._client = await RpcClient.connect(self._port, self._turns.address)
                async with asyncio.timeout(REPLY_S):
                    reply = await self._client.raw(record)
            except LOST as error:
                self.diary.told(repr(error))
                self.resent += 1
                await self.close()
                self._turns.turn()
                await patience.wait(0.05, error)
                continue
            if reply[4:24] != struct.pack(">5I", 1, 0, 0, 0, 0):
                raise Trouble(f"{what}: not accepted: {reply.hex()}")
            results = reply[24:]
            (status,) = struct.unpack_from(">I", results)
            self.diary.told(str(status))
            if status == JUKEBOX:
                record = b""  # certainly not done: asked anew, as Linux does
                await patience.wait(0.2, "JUKEBOX")
                continue
            return status, decode(types.failure if status else types.success, results, 4)

    async def _nfs(self, name: str, arguments: Any) -> tuple[int, Any]:
        return await self._call(NFS, PROCEDURES[name], arguments, name)

    async def _do(self, name: str, arguments: Any) -> Any:
        status, value = await self._nfs(name, arguments)
        if status != OK:
            raise Trouble(f"{name} was answered {status}")
        return value

    async def _handle(self, directory: bytes, name: bytes) -> bytes:
        handle: bytes = (await self._do("LOOKUP", m.LookupArgs(m.DirectoryName(directory, name)))).object
        return handle

    def _place(self, name: str) -> m.DirectoryName:
        return m.DirectoryName(self._directory, name.encode())

    async def create(self, name: str) -> None:
        await self._do("CREATE", m.CreateArgs(self._place(name), (m.CreateMode.GUARDED, m.NewAttributes(mode=0o666))))

    async def write(self, name: str, offset: int, data: bytes) -> None:
        handle = await self._handle(self._directory, name.encode())
        self._stable = (self._stable + 1) % 3
        asked = r3.WriteArgs(handle, offset, len(data), self._stable, data)
        while True:
            written = await self._do("WRITE", asked)
            if written.length != len(data):
                raise Trouble(f"WRITE of {len(data)} wrote {written.length}")
            if not self.cautious or written.committed == FILE_SYNC:
                return
            await asyncio.sleep(COMMIT_AFTER_S)
            if (await self._do("COMMIT", m.CommitArgs(handle, 0, 0))).verifier == written.verifier:
                return
            self.rewritten += 1

    async def settle(self, names: Iterable[str]) -> None:
        for name in names:
            await self._do("COMMIT", m.CommitArgs(await self._handle(self._directory, name.encode()), 0, 0))

    async def truncate(self, name: str, size: int) -> None:
        handle = await self._handle(self._directory, name.encode())
        await self._do("SETATTR", m.SetAttributesArgs(handle, m.NewAttributes(size=size), None))

    async def rename(self, old: str, new: str) -> None:
        await self._do("RENAME", m.RenameArgs(self._place(old), self._place(new)))

    async def remove(self, name: str) -> None:
        await self._do("REMOVE", m.RemoveArgs(self._place(name)))

    async def hold(self, name: str) -> None:
        """NLM is not served."""

    async def touch(self) -> None:
        pass

    async def read_all(self) -> Files:
        files: Files = {}
        cookie, verifier, end = 0, bytes(8), False
        while not end:
            listing = await self._do("READDIR", m.ReadDirectoryArgs(self._directory, cookie, verifier, 64 << 10))
            for entry in listing.entries:
                cookie = entry.cookie
                if entry.name not in (b".", b".."):
                    files[entry.name.decode()] = await self._read(await self._handle(self._directory, entry.name))
            end, verifier = listing.eof, listing.verifier
        return files

    async def _read(self, handle: bytes) -> bytes:
        content: bytes = b""
        while True:
            part = await self._do("READ", r3.ReadArgs(handle, len(content), READ))
            content += part.data
            if part.eof:
                return content
