"""Previous versions over the wire: by context, by path, and the list of snapshots."""

from __future__ import annotations

import struct
from collections.abc import Awaitable
from pathlib import Path

from gateways.smb import contexts, previous
from gateways.smb.header import Command
from sofs.types import Time
from sofs.volume.api import Binding, MakeSnapshot
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client, Reply
from tests.protocol.smb_scenes import run_with_client as run
from tests.protocol.test_smb_offload import content, filled, output
from tests.served_smb import Served

ENUMERATE = 0x00144064
NOT_FOUND, WRITE_PROTECTED = 0xC0000034, 0xC00000A2


async def snapshot(served: Served, name: str) -> Time:
    reply = served.volume.call(MakeSnapshot(name), None, Binding(9, 9))
    made = await reply if isinstance(reply, Awaitable) else reply
    taken: Time = made.snapshots[0].taken  # type: ignore[attr-defined]
    return taken


def warp(taken: int) -> bytes:
    return contexts.encode([(b"TWrp", struct.pack("<Q", taken))])


async def open_past(client: Client, name: str, taken: int, disposition: int = 1, access: int = 0x81) -> Reply:
    return await client.ask(Command.CREATE, smb.create(name, access=access, disposition=disposition, extras=warp(taken)))


def test_a_file_is_shown_as_it_was_by_context_and_by_path(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        await client.open("d", options=1)
        file = await filled(client, "d\\f", b"old content")
        taken = await snapshot(served, "one")
        await client.ask(Command.WRITE, smb.write(file, 0, b"new"))
        await filled(client, "d\\later", b"x")

        reply = await open_past(client, "d\\f", taken)
        assert reply.status == 0
        assert await content(client, smb.file_id(reply), 11) == b"old content"
        told = await client.ask(Command.QUERY_INFO, smb.query_info(smb.file_id(reply), 1, 5))
        assert told.status == 0
        assert (await client.ask(Command.CLOSE, smb.close(smb.file_id(reply)))).status == 0

        for path in (f"{previous.token(taken)}\\d\\f", f"d\\{previous.token(taken)}\\f"):
            old = await client.open(path, disposition=1, access=0x81)
            assert await content(client, old, 11) == b"old content"
        assert await content(client, file, 11) == b"new content"
        assert (await open_past(client, "d\\later", taken)).status == NOT_FOUND
        assert (await open_past(client, "d\\f", taken + 10_000_000)).status == NOT_FOUND
        assert (await open_past(client, "d\\later", 0)).status == 0  # now

        directory = await client.open(f"{previous.token(taken)}\\d", disposition=1, access=0x81)
        listed = await client.ask(Command.QUERY_DIRECTORY, smb.query_directory(directory, "*", 12))
        assert "later".encode("utf-16-le") not in listed.message and listed.status == 0

    run(tmp_path, scene)


def test_nothing_of_the_past_is_changed(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        await filled(client, "f", b"old")
        taken = await snapshot(served, "one")
        assert (await open_past(client, "f", taken, disposition=4)).status == WRITE_PROTECTED
        assert (await open_past(client, "new", taken, disposition=3)).status == WRITE_PROTECTED
        assert (await open_past(client, "f", taken, disposition=3)).status == 0
        reply = await open_past(client, "f", taken, access=0x1F01FF)
        if reply.status == 0:
            file = smb.file_id(reply)
            assert (await client.ask(Command.WRITE, smb.write(file, 0, b"x"))).status == WRITE_PROTECTED
            assert (await client.ask(Command.SET_INFO, smb.set_info(file, 1, 13, b"\1"))).status == WRITE_PROTECTED
        else:
            assert reply.status == WRITE_PROTECTED

    run(tmp_path, scene)


def test_snapshots_are_listed_newest_first(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        root = await client.open("", options=1, access=0x81, disposition=1)
        assert output(await client.ask(Command.IOCTL, smb.ioctl(root, ENUMERATE))) == struct.pack("<III", 0, 0, 2) + bytes(4)
        times = [await snapshot(served, name) for name in ("one", "two", "three")]
        answer = output(await client.ask(Command.IOCTL, smb.ioctl(root, ENUMERATE)))
        assert struct.unpack_from("<III", answer) == (3, 3, len(answer) - 12)
        assert answer[12:].decode("utf-16-le").rstrip("\0").split("\0") == [previous.token(taken) for taken in reversed(times)]
        short = output(await client.ask(Command.IOCTL, smb.ioctl(root, ENUMERATE, room=16)))
        assert struct.unpack_from("<III", short) == (3, 0, len(answer) - 12)

    run(tmp_path, scene)


def test_a_time_is_named_as_windows_names_it() -> None:
    assert previous.token(Time(134_128_223_990_000_000)) == "@GMT-2026.01.13-23.59.59"
    assert previous._seconds(b"@GMT-2026.01.13-23.59.59") == 13_412_822_399
    for name in (b"@GMT-2026.13.14-07.19.59", b"@GMT-2026.1.14-07.19.59", b"x"):
        assert previous._seconds(name) is None
