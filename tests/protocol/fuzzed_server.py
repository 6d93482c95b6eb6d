"""What fuzzing of whole calls goes to: an NFS gateway with a real volume under it, made with the first input and kept for all."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ClassVar, Self

from gateways.nfs.rpc import RpcConnection
from sofs.errors import PeerError
from sofs.runtime.later import Later, together
from sofs.runtime.system_files import SystemFile
from tests.served import Served, nfs_on
from tests.unit.gateways.nfs_link import CollectingLink

KEPT = 200


class FuzzedServer:
    """The server, and the file handles that it has given."""

    instance: ClassVar[Self | None] = None  # type: ignore[misc]

    def __init__(self) -> None:
        # Nothing here is about power loss, so no input waits for a disk.
        SystemFile.sync = _at_once  # type: ignore[method-assign]
        SystemFile.sync_now = lambda file: None  # type: ignore[method-assign]
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.stack = AsyncExitStack()
        self.server: Served = self.loop.run_until_complete(self.stack.enter_async_context(nfs_on(self.directory / "v")))
        self.handles: list[bytes] = [b""]
        atexit.register(self.close)

    @classmethod
    def get(cls) -> Self:
        if cls.instance is None:
            try:
                cls.instance = cls()
            except Exception as error:
                raise SystemExit(f"the fuzzed server cannot be started: {error}") from error
        return cls.instance

    def close(self) -> None:
        self.loop.run_until_complete(self.stack.aclose())
        shutil.rmtree(self.directory)

    async def answered(self, records: Iterable[bytes]) -> list[bytes]:
        """The answers to calls on one connection, when all are there; none follow a record that ends the connection."""
        link = CollectingLink("127.0.0.1")
        core = RpcConnection(link, self.server.gateway.programs("127.0.0.1"))
        for record in records:
            try:
                core.size(0x80000000 | len(record))
                core.received(0x80000000 | len(record), memoryview(bytearray(record)))
            except PeerError:
                break
        async with asyncio.timeout(15):
            while core.busy:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert not link.closed_for, link.closed_for
        core.closed("the input is done")
        return link.replies()

    def remember(self, handle: bytes) -> None:
        if handle not in self.handles:
            self.handles.append(handle)
            if len(self.handles) > KEPT:
                del self.handles[3]  # the first ones are the roots


def _at_once(file: SystemFile, quietly: bool = False) -> Later[None]:
    """In place of a sync."""
    return together([])
