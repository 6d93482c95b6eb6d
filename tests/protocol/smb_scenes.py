"""What scenes of SMB begin with: a served volume, clients with a session, opens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateways.smb import contexts
from gateways.smb.header import Command
from gateways.smb.service import SmbService, SmbSettings
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client, FileId
from tests.served_smb import Served, smb_on

__all__ = ["created", "run", "run_with_client", "started"]


def run(path: Path, test: Callable[[SmbService], Awaitable[None]], settings: SmbSettings = SmbSettings()) -> None:
    """Runs a test with the service of a gateway."""

    async def main() -> None:
        async with smb_on(path / "v", settings) as served:
            await test(served.gateway.service)

    asyncio.run(main())


def run_with_client(path: Path, scene: Callable[[Served, Client], Awaitable[None]], **options: object) -> None:
    """Runs a scene with all that is served, and a client at its first share."""

    async def main() -> None:
        async with smb_on(path / "v") as served:
            await scene(served, await started(served.gateway.service, **options))

    asyncio.run(main())


async def started(service: SmbService, guid: bytes = b"guid" * 4, share: str = "data", **options: object) -> Client:
    """A client that has logged on and connected to the share."""
    client = Client(service, guid)
    await client.start(share, **options)  # type: ignore[arg-type]
    return client


async def created(
    client: Client, name: str, *extras: tuple[bytes, bytes], level: int, flags: int = 0, status: int = 0, share: int = 7
) -> tuple[FileId, smb.Granted]:
    """What a CREATE with these contexts gives; it must be answered with this status."""
    reply = await client.ask(Command.CREATE, smb.create(name, extras=contexts.encode(list(extras)), level=level, share=share), flags)
    assert reply.status == status, hex(reply.status)
    return (smb.file_id(reply), smb.granted(reply)) if not status else ((0, 0), smb.Granted(0, {}))
