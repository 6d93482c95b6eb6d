"""Offloaded transfers and trim over the wire."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from gateways.smb.header import Command
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client, FileId, Reply
from tests.protocol.smb_scenes import run_with_client as run
from tests.served_smb import Served

READ, WRITE, TRIM = 0x00094264, 0x00098268, 0x00098208
INVALID_TOKEN, INVALID_PARAMETER, END_OF_FILE, ACCESS_DENIED = 0xC0000465, 0xC000000D, 0xC0000011, 0xC0000022


def output(reply: Reply) -> bytes:
    assert reply.status == 0, hex(reply.status)
    at, length = struct.unpack_from("<II", reply.body, 32)
    return reply.message[at : at + length]


async def filled(client: Client, name: str, data: bytes) -> FileId:
    file = await client.open(name)
    for at in range(0, len(data), 65536):
        assert (await client.ask(Command.WRITE, smb.write(file, at, data[at : at + 65536]))).status == 0
    return file


async def content(client: Client, file: FileId, length: int) -> bytes:
    parts = []
    for at in range(0, length, 65536):
        reply = await client.ask(Command.READ, smb.read(file, at, min(65536, length - at)))
        offset, size = reply.body[2], struct.unpack_from("<I", reply.body, 4)[0]
        parts.append(reply.message[offset : offset + size])
    return b"".join(parts)


def token_request(offset: int, length: int, live_ms: int = 0) -> bytes:
    return struct.pack("<IIIIQQ", 32, 0, live_ms, 0, offset, length)


async def token_of(client: Client, file: FileId, offset: int, length: int, live_ms: int = 0) -> tuple[int, bytes]:
    answer = output(await client.ask(Command.IOCTL, smb.ioctl(file, READ, token_request(offset, length, live_ms))))
    size, _, length = struct.unpack_from("<IIQ", answer)
    assert size == len(answer) == 528
    return length, answer[16:]


async def put(client: Client, file: FileId, token: bytes, offset: int, length: int, skipped: int = 0) -> Reply:
    return await client.ask(Command.IOCTL, smb.ioctl(file, WRITE, struct.pack("<IIQQQ", 544, 0, offset, length, skipped) + token))


DATA = bytes(range(256)) * 1024  # 256 KiB


def test_a_token_carries_data_to_another_file(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        source, target = await filled(client, "a", DATA), await filled(client, "b", bytes(len(DATA)))
        length, token = await token_of(client, source, 4096, 131072)
        assert length == 131072
        written = struct.unpack("<IIQ", output(await put(client, target, token, 8192, 65536, 512)))
        assert written == (16, 0, 65536)
        assert await content(client, target, len(DATA)) == bytes(8192) + DATA[4608 : 4608 + 65536] + bytes(len(DATA) - 8192 - 65536)

    run(tmp_path, scene)


def test_the_last_sector_goes_on_with_zeros(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        source, target = await filled(client, "a", DATA[:1000]), await filled(client, "b", b"x" * 4096)
        length, token = await token_of(client, source, 0, 65536)
        assert length == 1024
        output(await put(client, target, token, 0, 1024))
        assert await content(client, target, 4096) == DATA[:1000] + bytes(24) + b"x" * 3072

    run(tmp_path, scene)


def test_a_token_stands_for_what_was_read_and_nothing_else(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        source, target = await filled(client, "a", DATA), await filled(client, "b", bytes(len(DATA)))
        _, token = await token_of(client, source, 0, 4096)
        for place in (0, 8, 40, 70, 100):
            forged = bytearray(token)
            forged[place] ^= 1
            assert (await put(client, target, bytes(forged), 0, 4096)).status == INVALID_TOKEN
        other = Client(served.gateway.service)
        await other.start(user="bob", password="hidden")
        stolen = await filled(other, "mine", bytes(4096))
        assert (await put(other, stolen, token, 0, 4096)).status == INVALID_TOKEN
        await client.ask(Command.WRITE, smb.write(source, 0, b"changed"))
        assert (await put(client, target, token, 0, 4096)).status == INVALID_TOKEN
        _, token = await token_of(client, source, 0, 4096, live_ms=1)
        await asyncio.sleep(0.05)
        assert (await put(client, target, token, 0, 4096)).status == INVALID_TOKEN
        assert await content(client, target, 4096) == bytes(4096)

    run(tmp_path, scene)


def test_the_well_known_token_writes_zeros(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        target = await filled(client, "b", b"x" * 8192)
        zeros = struct.pack(">IHH", 0xFFFF0001, 0, 504) + bytes(504)
        output(await put(client, target, zeros, 4096, 4096))
        assert await content(client, target, 8192) == b"x" * 4096 + bytes(4096)

    run(tmp_path, scene)


def test_what_is_refused(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        source = await filled(client, "a", DATA)
        for offset, length, status in (
            (1, 512, INVALID_PARAMETER),
            (0, 100, INVALID_PARAMETER),
            (0, 0, INVALID_PARAMETER),
            (1 << 20, 512, END_OF_FILE),
        ):
            assert (await client.ask(Command.IOCTL, smb.ioctl(source, READ, token_request(offset, length)))).status == status
        blind = await client.open("a", access=0x80)
        assert (await client.ask(Command.IOCTL, smb.ioctl(blind, READ, token_request(0, 512)))).status == ACCESS_DENIED
        _, token = await token_of(client, source, 0, 4096)
        reader = await client.open("a", access=0x1)
        assert (await put(client, reader, token, 0, 4096)).status == ACCESS_DENIED
        assert (await put(client, source, token, 1 << 20, 4096)).status == END_OF_FILE
        assert (await put(client, source, token, 8192, 4096, 4096)).status == INVALID_PARAMETER

    run(tmp_path, scene)


def test_trim_gives_whole_pages_back(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        file = await filled(client, "a", b"x" * 32768)
        request = struct.pack("<IIQQQQ", 0, 2, 100, 8192, 20000, 100)
        assert output(await client.ask(Command.IOCTL, smb.ioctl(file, TRIM, request))) == struct.pack("<I", 2)
        assert await content(client, file, 32768) == b"x" * 4096 + bytes(4096) + b"x" * 24576
        assert (await client.ask(Command.IOCTL, smb.ioctl(file, TRIM, struct.pack("<II", 0, 5)))).status == INVALID_PARAMETER

    run(tmp_path, scene)
