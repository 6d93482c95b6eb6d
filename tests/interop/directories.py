"""A directory on a running node through each protocol, for verifying writers: smbprotocol for SMB, the tests' own RPC client for NFS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import smbclient
from smbprotocol.exceptions import SMBConnectionClosed, SMBException, SMBOSError

from gateways.nfs.v3 import messages as m
from tests.interop.ledger import ConnectionLost, Files
from tests.interop.running import PASSWORD, USER, Endpoint
from tests.protocol import nfs3_results as r3
from tests.protocol.nfs_client import RpcClient
from tests.unit.gateways.nfs_link import sys_credential

T = TypeVar("T")
OK = 0
LISTING = 64 << 10
READ = 128 << 10
NOBODY_KNOWS = bytes(8)


@contextlib.contextmanager
def lost_as_such() -> Any:
    """A broken connection is `ConnectionLost`; a status that was answered stays what it is."""
    try:
        yield
    except (SMBConnectionClosed, ConnectionError, EOFError, TimeoutError, BrokenPipeError) as error:
        raise ConnectionLost(str(error)) from None
    except SMBOSError:
        raise
    except (SMBException, ValueError, OSError) as error:
        # smbprotocol tells an end that it meets while connecting or sending in various ways.
        text = str(error)
        if any(word in text for word in ("closed", "Failed to connect", "Bad file descriptor", "Broken pipe", "reset")):
            raise ConnectionLost(text) from None
        raise


class SmbDirectory:
    """`\\\\node\\share\\NAME` in a connection of its own."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._base = rf"\\{endpoint.host}\{endpoint.share}\{name}"
        self._at: dict[str, Any] = {"port": endpoint.port, "username": USER, "password": PASSWORD, "connection_cache": {}}
        with lost_as_such():
            smbclient.makedirs(self._base, exist_ok=True, **self._at)

    def close(self) -> None:
        smbclient.reset_connection_cache(fail_on_error=False, connection_cache=self._at["connection_cache"])

    def _path(self, name: str) -> str:
        return rf"{self._base}\{name}"

    def create(self, name: str) -> None:
        with lost_as_such(), smbclient.open_file(self._path(name), mode="xb", buffering=0, **self._at):
            pass

    def write(self, name: str, offset: int, data: bytes) -> None:
        with lost_as_such(), smbclient.open_file(self._path(name), mode="r+b", buffering=0, **self._at) as file:
            file.seek(offset)
            assert file.write(data) == len(data)

    def truncate(self, name: str, size: int) -> None:
        with lost_as_such():
            smbclient.truncate(self._path(name), size, **self._at)

    def rename(self, old: str, new: str) -> None:
        with lost_as_such():
            smbclient.replace(self._path(old), self._path(new), **self._at)

    def remove(self, name: str) -> None:
        with lost_as_such():
            smbclient.remove(self._path(name), **self._at)

    def read_all(self) -> Files:
        with lost_as_such():
            files = {}
            for name in smbclient.listdir(self._base, **self._at):
                with smbclient.open_file(self._path(name), mode="rb", buffering=0, **self._at) as file:
                    files[name] = file.read()
            return files


class NfsDirectory:
    """A directory of the export, in a connection of its own. Writes are unstable, data-synced and file-synced in turn."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._runner = asyncio.Runner()
        self._stable = 0
        with lost_as_such():
            self._client = self._run(RpcClient.connect(endpoint.port, endpoint.host))
            self._client.auth = sys_credential(0, 0)
            root = self._run(self._client.mount(f"/{endpoint.share}"))
            self._directory = self._run(self._enter(root, name.encode()))

    def close(self) -> None:
        self._run(self._client.close())
        self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def _enter(self, root: bytes, name: bytes) -> bytes:
        arguments = m.MakeDirectoryArgs(m.DirectoryName(root, name), m.NewAttributes(mode=0o777))
        await self._client.nfs("MKDIR", arguments)  # may be there already
        return await self._handle(root, name)

    async def _handle(self, directory: bytes, name: bytes) -> bytes:
        handle: bytes = (await self._ask("LOOKUP", m.LookupArgs(m.DirectoryName(directory, name)))).object
        return handle

    async def _ask(self, procedure: str, arguments: Any) -> Any:
        status, value = await self._client.nfs(procedure, arguments)
        assert status == OK, f"{procedure} was answered {status}"
        return value

    def _do(self, procedure: str, arguments: Any) -> Any:
        with lost_as_such():
            return self._run(self._ask(procedure, arguments))

    def _place(self, name: str) -> m.DirectoryName:
        return m.DirectoryName(self._directory, name.encode())

    def _find(self, name: str) -> bytes:
        with lost_as_such():
            return self._run(self._handle(self._directory, name.encode()))

    def create(self, name: str) -> None:
        how = (m.CreateMode.GUARDED, m.NewAttributes(mode=0o666))
        self._do("CREATE", m.CreateArgs(self._place(name), how))

    def write(self, name: str, offset: int, data: bytes) -> None:
        handle = self._find(name)
        self._stable = (self._stable + 1) % 3
        written = self._do("WRITE", r3.WriteArgs(handle, offset, len(data), self._stable, data))
        assert written.length == len(data)

    def truncate(self, name: str, size: int) -> None:
        self._do("SETATTR", m.SetAttributesArgs(self._find(name), m.NewAttributes(size=size), None))

    def rename(self, old: str, new: str) -> None:
        self._do("RENAME", m.RenameArgs(self._place(old), self._place(new)))

    def remove(self, name: str) -> None:
        self._do("REMOVE", m.RemoveArgs(self._place(name)))

    def read_all(self) -> Files:
        with lost_as_such():
            return self._run(self._read_all())

    async def _read_all(self) -> Files:
        files: Files = {}
        cookie, verifier, end = 0, NOBODY_KNOWS, False
        while not end:
            arguments = m.ReadDirectoryArgs(self._directory, cookie, verifier, LISTING)
            listing = await self._ask("READDIR", arguments)
            for entry in listing.entries:
                cookie = entry.cookie
                if entry.name not in (b".", b".."):
                    handle = await self._handle(self._directory, entry.name)
                    files[entry.name.decode()] = await self._read(handle)
            end, verifier = listing.eof, listing.verifier
        return files

    async def _read(self, handle: bytes) -> bytes:
        content = b""
        while True:
            part = await self._ask("READ", r3.ReadArgs(handle, len(content), READ))
            content += part.data
            if part.eof:
                return content
