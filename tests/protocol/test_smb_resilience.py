"""Resilient opens over the wire: they wait for their client without a lease."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from gateways.smb import contexts
from gateways.smb.crypto import Dialect
from gateways.smb.header import Command
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client
from tests.served_smb import smb_on

REQUEST = 0x001401D4
INVALID_PARAMETER, INVALID_DEVICE_REQUEST, NOT_FOUND = 0xC000000D, 0xC0000010, 0xC0000034


@pytest.mark.parametrize("dialect", [Dialect.SMB_2_1, Dialect.SMB_3_1_1])
def test_an_open_made_resilient_is_there_after_its_connection_is_gone(tmp_path: Path, dialect: Dialect) -> None:
    async def main() -> None:
        async with smb_on(tmp_path / "v") as served:
            client = Client(served.gateway.service)
            await client.start(dialect=dialect)
            plain, resilient = await client.open("plain"), await client.open("resilient")
            for data, status in ((b"\0" * 4, INVALID_PARAMETER), (struct.pack("<II", 1 << 31, 0), INVALID_PARAMETER)):
                assert (await client.ask(Command.IOCTL, smb.ioctl(resilient, REQUEST, data))).status == status
            assert (await client.ask(Command.IOCTL, smb.ioctl(resilient, REQUEST, struct.pack("<II", 60_000, 0)))).status == 0
            client.core.closed("the cable was pulled")

            again = Client(served.gateway.service)
            await again.start(dialect=dialect)
            for file, status in ((plain, NOT_FOUND), (resilient, 0)):
                back = contexts.encode([(b"DHnC", struct.pack("<QQ", *file))])
                name = "plain" if file is plain else "resilient"
                assert (await again.ask(Command.CREATE, smb.create(name, disposition=1, extras=back))).status == status
            assert (await again.ask(Command.WRITE, smb.write(resilient, 0, b"still there"))).status == 0

    asyncio.run(main())


def test_dialect_2_0_2_has_no_resilient_opens(tmp_path: Path) -> None:
    async def main() -> None:
        async with smb_on(tmp_path / "v") as served:
            client = Client(served.gateway.service)
            await client.start(dialect=Dialect.SMB_2_0_2)
            file = await client.open("f")
            assert (await client.ask(Command.IOCTL, smb.ioctl(file, REQUEST, bytes(8)))).status == INVALID_DEVICE_REQUEST

    asyncio.run(main())
