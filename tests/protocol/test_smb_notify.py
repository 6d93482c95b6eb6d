"""CHANGE_NOTIFY over the wire: what clients are told, when, and how a watch ends."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateways.smb import connection
from gateways.smb.header import Command
from sofs.types import ROOT, Kind, Level
from sofs.volume.api import Binding, Changes, Lookup, Make, Stateless
from sofs.volume.api import Caller as Somebody
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client
from tests.served_smb import Served, smb_on

ADDED, REMOVED, MODIFIED, OLD, NEW = 1, 2, 3, 4, 5
DIRECTORY = 1
CANCELLED, NOTIFY_CLEANUP, NOTIFY_ENUM_DIR, DELETE_PENDING = 0xC0000120, 0x10B, 0x10C, 0xC0000056
INVALID_PARAMETER, ACCESS_DENIED, INSUFFICIENT_RESOURCES = 0xC000000D, 0xC0000022, 0xC000009A

Scene = Callable[[Served, Client, Client], Awaitable[None]]


def run(path: Path, scene: Scene) -> None:
    async def main() -> None:
        async with smb_on(path / "v") as served:
            watcher, other = Client(served.gateway.service), Client(served.gateway.service, b"2" * 16)
            await watcher.start()
            await other.start()
            await scene(served, watcher, other)

    asyncio.run(main())


async def waits(client: Client, body: bytes) -> int:
    """Sends a CHANGE_NOTIFY, and sees that it waits."""
    number = client.request(Command.CHANGE_NOTIFY, body)
    await client.told(number)
    return number


async def touch(client: Client, name: str, **options: int) -> None:
    await client.ask(Command.CLOSE, smb.close(await client.open(name, **options)))


def test_a_change_made_by_another_client_answers_the_one_who_waits(tmp_path: Path) -> None:
    async def scene(served: Served, watcher: Client, other: Client) -> None:
        d = await watcher.open("d", options=DIRECTORY, access=1)
        number = await waits(watcher, smb.change_notify(d))
        await touch(other, "d\\new")
        reply = await watcher.final(number)
        assert reply.status == 0 and smb.changes(reply) == [(ADDED, "new")]

    run(tmp_path, scene)


def test_changes_between_two_requests_are_kept_in_order(tmp_path: Path) -> None:
    async def scene(served: Served, watcher: Client, other: Client) -> None:
        d = await watcher.open("d", options=DIRECTORY, access=1)
        number = await waits(watcher, smb.change_notify(d, what=3))
        watcher.cancel(number)
        assert (await watcher.final(number)).status == CANCELLED
        file = await other.open("d\\a")
        name = "d\\b".encode("utf-16-le")
        await other.ask(Command.SET_INFO, smb.set_info(file, 1, 10, struct.pack("<QQI", 0, 0, len(name)) + name))
        await other.ask(Command.CLOSE, smb.close(file))
        reply = await watcher.ask(Command.CHANGE_NOTIFY, smb.change_notify(d, what=3))
        assert smb.changes(reply) == [(ADDED, "a"), (OLD, "a"), (NEW, "b")]

    run(tmp_path, scene)


def test_a_request_cancelled_at_once_takes_no_change_from_the_next(tmp_path: Path) -> None:
    async def scene(served: Served, watcher: Client, other: Client) -> None:
        d = await watcher.open("d", options=DIRECTORY, access=1)
        number = watcher.request(Command.CHANGE_NOTIFY, smb.change_notify(d))
        watcher.cancel(number)
        assert (await watcher.final(number)).status == CANCELLED
        number = await waits(watcher, smb.change_notify(d))
        await touch(other, "d\\new")
        assert smb.changes(await watcher.final(number)) == [(ADDED, "new")]

    run(tmp_path, scene)


def test_both_names_of_a_rename_come_in_one_reply(tmp_path: Path) -> None:
    async def scene(served: Served, watcher: Client, other: Client) -> None:
        await touch(other, "d", options=DIRECTORY)
        file = await other.open("d\\a")
        d = await watcher.open("d", options=DIRECTORY, access=1)
        number = await waits(watcher, smb.change_notify(d, what=1))
        name = "d\\b".encode("utf-16-le")
        await other.ask(Command.SET_INFO, smb.set_info(file, 1, 10, struct.pack("<QQI", 0, 0, len(name)) + name))
        assert smb.changes(await watcher.final(number)) == [(OLD, "a"), (NEW, "b")]

    run(tmp_path, scene)


def test_changes_over_nfs_are_told_too_and_a_tree_tells_whole_paths(tmp_path: Path) -> None:
    async def scene(served: Served, watcher: Client, other: Client) -> None:
        d = await watcher.open("d", options=DIRECTORY, access=1)
        await touch(other, "d\\s", options=DIRECTORY)
        number = await waits(watcher, smb.change_notify(d, what=0x13, tree=True))
        caller, by = Somebody(0, 0), Binding(9, 9)
        below = served.volume.call(Lookup(caller, ROOT, (b"d", b"s")), None, by)
        made = served.volume.call(Make(caller, below.attributes.inode, b"a:b", Kind.FILE, Changes()), None, by)  # type: ignore[union-attr]
        assert smb.changes(await watcher.final(number)) == [(ADDED, "s\\a\uf022b")]
        number = await waits(watcher, smb.change_notify(d))
        await asyncio.sleep(0)
        file = Stateless(made.attributes.inode, caller)  # type: ignore[union-attr]
        served.volume.write(file, 0, memoryview(b"x"), None, Level.COMMITTED, by)
        assert smb.changes(await watcher.final(number)) == [(MODIFIED, "s\\a\uf022b")]

    run(tmp_path, scene)


def test_more_than_there_is_room_for_makes_the_client_look_itself(tmp_path: Path) -> None:
    async def scene(served: Served, watcher: Client, other: Client) -> None:
        d = await watcher.open("d", options=DIRECTORY, access=1)
        number = await waits(watcher, smb.change_notify(d, room=48))
        watcher.cancel(number)
        await watcher.final(number)
        for name in ("d\\one", "d\\two", "d\\three"):
            await touch(other, name)
        reply = await watcher.ask(Command.CHANGE_NOTIFY, smb.change_notify(d, room=4096))
        assert reply.status == NOTIFY_ENUM_DIR and smb.changes(reply) == []
        number = await waits(watcher, smb.change_notify(d, room=4096))
        await touch(other, "d\\four")
        assert smb.changes(await watcher.final(number)) == [(ADDED, "four")]

    run(tmp_path, scene)


def test_the_ways_a_watch_ends(tmp_path: Path) -> None:
    async def scene(served: Served, watcher: Client, other: Client) -> None:
        d = await watcher.open("d", options=DIRECTORY, access=1)
        number = await waits(watcher, smb.change_notify(d))
        assert (await watcher.ask(Command.CLOSE, smb.close(d))).status == 0
        assert (await watcher.final(number)).status == NOTIFY_CLEANUP

        d = await watcher.open("d", options=DIRECTORY, access=1)
        number = await waits(watcher, smb.change_notify(d))
        doomed = await other.open("d", options=DIRECTORY | 0x1000)
        await other.ask(Command.CLOSE, smb.close(doomed))
        assert (await watcher.final(number)).status == DELETE_PENDING
        assert (await watcher.ask(Command.CHANGE_NOTIFY, smb.change_notify(d))).status == DELETE_PENDING
        await watcher.ask(Command.CLOSE, smb.close(d))

        e = await watcher.open("e", options=DIRECTORY)
        number = await waits(watcher, smb.change_notify(e))
        watcher.request(Command.TREE_DISCONNECT, b"\x04\0\0\0")
        assert (await watcher.final(number)).status == NOTIFY_CLEANUP
        assert not served.gateway.service.notices._notices
        assert not served.volume.core.watching.any

    run(tmp_path, scene)


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    async def scene(served: Served, watcher: Client, other: Client) -> None:
        file = await watcher.open("f")
        assert (await watcher.ask(Command.CHANGE_NOTIFY, smb.change_notify(file))).status == INVALID_PARAMETER
        blind = await watcher.open("d", options=DIRECTORY, access=0x80)
        assert (await watcher.ask(Command.CHANGE_NOTIFY, smb.change_notify(blind))).status == ACCESS_DENIED
        d = await watcher.open("d", options=DIRECTORY, access=1)
        too_much = smb.change_notify(d, room=(8 << 20) + 1)
        assert (await watcher.ask(Command.CHANGE_NOTIFY, too_much)).status == INVALID_PARAMETER

    run(tmp_path, scene)


def test_requests_that_wait_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_WAITING", 20)

    async def scene(served: Served, watcher: Client, other: Client) -> None:
        d = await watcher.open("d", options=DIRECTORY, access=1)
        numbers = [await waits(watcher, smb.change_notify(d)) for _ in range(20)]
        assert (await watcher.ask(Command.CHANGE_NOTIFY, smb.change_notify(d))).status == INSUFFICIENT_RESOURCES
        watcher.cancel(numbers[0])
        assert (await watcher.final(numbers[0])).status == CANCELLED
        await waits(watcher, smb.change_notify(d))

    run(tmp_path, scene)
