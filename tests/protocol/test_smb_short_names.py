"""Short names over the wire."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from gateways.smb.header import Command
from gateways.smb.short_names import short_name
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client
from tests.served_smb import smb_on

NOT_FOUND = 0xC0000034


@pytest.mark.parametrize("name", ["a.txt", "README", "ABCDEFGH.IJK"])
def test_a_name_that_is_short_is_its_own(name: str) -> None:
    assert short_name(name) == name.upper()


@pytest.mark.parametrize("name", ["a long name.text", ".profile", "a.b.c", "Ärger", "x" * 255, "~", "\U0001f600"])
def test_a_long_name_gets_a_short_one_that_stays_in_any_case(name: str) -> None:
    short = short_name(name)
    assert len(short.encode()) <= 12 and short == short_name(name) and short == short_name(short)
    if name.swapcase().swapcase() == name and name != "~":
        assert short_name(name.swapcase()) == short


def test_a_file_is_told_and_opened_by_its_short_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with smb_on(tmp_path / "v") as served:
            client = Client(served.gateway.service)
            await client.start()
            await client.open("a long directory", options=1)
            for number in range(20):
                await client.open(f"a long directory\\some file number {number}.text")
            path = "a long directory\\some file number 7.text"
            told = await client.ask(Command.QUERY_INFO, smb.query_info(await client.open(path), 1, 21))
            (length,) = struct.unpack_from("<I", told.body, 8)
            short = told.body[12 : 12 + length].decode("utf-16-le")
            assert short == short_name("some file number 7.text")
            for parent in ("a long directory", short_name("a long directory").lower()):
                file = await client.open(f"{parent}\\{short}", disposition=1)
                reply = await client.ask(Command.QUERY_INFO, smb.query_info(file, 1, 18))
                assert "number 7".encode("utf-16-le") in reply.message
            missing = short_name("no such file.text")
            assert (await client.ask(Command.CREATE, smb.create(f"a long directory\\{missing}", disposition=1))).status == NOT_FOUND

    asyncio.run(main())
