"""Reparse points over the wire, and that NFS sees the same links and special files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from gateways.smb.header import Command
from sofs.types import ROOT, Kind
from sofs.volume.api import Binding, Changes, Lookup, Make, ReadLink
from sofs.volume.api import Caller as Somebody
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client, Reply
from tests.protocol.smb_scenes import run_with_client as run
from tests.served_smb import Served

SET, GET, DELETE = 0x000900A4, 0x000900A8, 0x000900AC
SYMLINK, NFS = 0xA000000C, 0x80000014
OPEN_REPARSE_POINT, DIRECTORY = 0x200000, 1
STOPPED_ON_SYMLINK, NOT_HANDLED, NO_REPARSE_POINT, MISMATCH = 0x8000002D, 0xC0000279, 0xC0000275, 0xC0000277
INVALID = 0xC0000278
NOBODY, BY = Somebody(0, 0), Binding(9, 9)


def buffer(tag: int, data: bytes) -> bytes:
    return struct.pack("<IHH", tag, len(data) - (0 if tag & 0x80000000 else 16), 0) + data


def link(target: str, relative: bool = True) -> bytes:
    name = target.encode("utf-16-le")
    return buffer(SYMLINK, struct.pack("<HHHHI", 0, len(name), len(name), len(name), relative) + name + name)


def output(reply: Reply) -> bytes:
    at, length = struct.unpack_from("<II", reply.body, 32)
    return reply.message[at : at + length]


def target_of(reply: Reply) -> tuple[str, int]:
    data = output(reply)
    tag, _, _, at, length, _, _, flags = struct.unpack_from("<IHHHHHHI", data)
    assert tag == SYMLINK
    return data[20 + at : 20 + at + length].decode("utf-16-le"), flags


def test_a_link_made_over_smb_is_one_over_nfs_and_the_converse(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        call = served.volume.call
        made = await client.open("windows", options=OPEN_REPARSE_POINT)
        assert (await client.ask(Command.IOCTL, smb.ioctl(made, SET, link("a\\..\\b c")))).status == 0
        found = call(Lookup(NOBODY, ROOT, (b"windows",)), None, BY).attributes  # type: ignore[union-attr]
        assert found.kind is Kind.SYMLINK
        assert call(ReadLink(NOBODY, found.inode), None, BY).text == b"a/../b c"  # type: ignore[union-attr]

        for text, shown, flags in ((b"x/y", "x\\y", 1), (b"/etc/hosts", "\\etc\\hosts", 0)):
            name = shown.rpartition("\\")[2]
            call(Make(NOBODY, ROOT, name.encode(), Kind.SYMLINK, Changes(), target=text), None, BY)
            file = await client.open(name, options=OPEN_REPARSE_POINT, disposition=1, access=0x80)
            assert target_of(await client.ask(Command.IOCTL, smb.ioctl(file, GET))) == (shown, flags)

    run(tmp_path, scene)


def test_a_windows_path_comes_back_as_it_was_set(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        made = await client.open("l", options=OPEN_REPARSE_POINT | DIRECTORY)
        assert (await client.ask(Command.IOCTL, smb.ioctl(made, SET, link("\\??\\C:\\Users", False)))).status == 0
        assert target_of(await client.ask(Command.IOCTL, smb.ioctl(made, GET))) == ("\\??\\C:\\Users", 0)

    run(tmp_path, scene)


def test_a_link_in_the_way_stops_the_open_and_says_where_it_leads(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        made = await client.open("l", options=OPEN_REPARSE_POINT)
        await client.ask(Command.IOCTL, smb.ioctl(made, SET, link("there")))
        for path, unparsed in (("l", 0), ("l\\below", 12)):
            reply = await client.ask(Command.CREATE, smb.create(path, disposition=1))
            assert reply.status == STOPPED_ON_SYMLINK
            contexts, size, length, identity = struct.unpack_from("<xxBxIII", reply.body)
            assert (contexts, identity) == (1, 0) and length == size - 8
            _, magic, tag, _, rest = struct.unpack_from("<IIIHH", reply.body, 16)
            assert (magic, tag, rest) == (0x4C4D5953, SYMLINK, unparsed)
            assert reply.body[-10:].decode("utf-16-le") == "there"

    run(tmp_path, scene)


@pytest.mark.parametrize(("kind", "data"), [(Kind.FIFO, struct.pack("<Q", 0x4F464946)), (Kind.CHARACTER_DEVICE, struct.pack("<QII", 0x524843, 5, 1))])
def test_special_files_are_nfs_reparse_points(tmp_path: Path, kind: Kind, data: bytes) -> None:
    async def scene(served: Served, client: Client) -> None:
        made = await client.open("s", options=OPEN_REPARSE_POINT)
        assert (await client.ask(Command.IOCTL, smb.ioctl(made, SET, buffer(NFS, data)))).status == 0
        found = served.volume.call(Lookup(NOBODY, ROOT, (b"s",)), None, BY).attributes  # type: ignore[union-attr]
        assert found.kind is kind
        assert found.device == ((5, 1) if kind is Kind.CHARACTER_DEVICE else (0, 0))
        assert output(await client.ask(Command.IOCTL, smb.ioctl(made, GET))) == buffer(NFS, data)

    run(tmp_path, scene, user="root", password="wheel")


def test_other_reparse_points_are_kept_for_those_who_know_them(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        file = await client.open("f")
        for tag, data in ((0xA000001D, b"\2\0\0\0/wsl"), (0x00000042, bytes(16) + b"third party")):
            point = buffer(tag, data)
            assert (await client.ask(Command.IOCTL, smb.ioctl(file, GET))).status == NO_REPARSE_POINT
            assert (await client.ask(Command.IOCTL, smb.ioctl(file, SET, point))).status == 0
            assert output(await client.ask(Command.IOCTL, smb.ioctl(file, GET))) == point
            assert (await client.ask(Command.CREATE, smb.create("f", disposition=1))).status == NOT_HANDLED
            again = await client.open("f", options=OPEN_REPARSE_POINT, disposition=1, access=0x80)
            told = await client.ask(Command.QUERY_INFO, smb.query_info(again, 1, 35))
            attributes, shown = struct.unpack_from("<II", told.body, 8)
            assert attributes & 0x400 and shown == tag
            assert (await client.ask(Command.IOCTL, smb.ioctl(file, SET, buffer(0x80000099, b"")))).status == MISMATCH
            assert (await client.ask(Command.IOCTL, smb.ioctl(file, DELETE, struct.pack("<IHH", tag ^ 1, 0, 0)))).status == MISMATCH
            assert (await client.ask(Command.IOCTL, smb.ioctl(file, DELETE, struct.pack("<IHH", tag, 0, 0)))).status == 0
        await client.open("f", disposition=1)

    run(tmp_path, scene)


def test_buffers_whose_lengths_are_wrong_are_refused(tmp_path: Path) -> None:
    async def scene(served: Served, client: Client) -> None:
        file = await client.open("f", options=OPEN_REPARSE_POINT)
        whole = link("target")
        for cut in range(len(whole)):
            assert (await client.ask(Command.IOCTL, smb.ioctl(file, SET, whole[:cut]))).status == INVALID
        beyond = bytearray(whole)
        struct.pack_into("<HH", beyond, 8, 4, 200)
        assert (await client.ask(Command.IOCTL, smb.ioctl(file, SET, bytes(beyond)))).status == INVALID

    run(tmp_path, scene)
