"""The directory `.snapshot` over NFS version 3: snapshots as read-only trees, by handles that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateways.exports import Share
from gateways.nfs.status import Status
from gateways.nfs.v3 import messages as m
from gateways.nfs.v3.messages import DirectoryName, NewAttributes
from sofs.volume.api import Binding, DeleteSnapshot, Lookup, MakeSnapshot, Request
from tests.protocol import nfs3_results as r3
from tests.protocol.nfs_client import RpcClient
from tests.protocol.test_nfs3 import attributes, create, lookup, make_directory, read, served, write
from tests.served import OPEN, VOLUME, Served
from tests.unit.volume.volume_rig import SUPER


def ask(server: Served, request: Request) -> Any:
    return server.volume.call(request, None, Binding(0, 0))


async def at(client: RpcClient, directory: bytes, *names: str) -> bytes:
    for name in names:
        found = await lookup(client, directory, name)
        assert found.status == 0, (name, Status(found.status))
        directory = found.value.object
    return directory


async def names_in(client: RpcClient, directory: bytes, plus: bool = False) -> list[str]:
    if plus:
        result = await client.nfs("READDIRPLUS", m.ReadDirectoryPlusArgs(directory, 0, bytes(8), 4096, 4096))
    else:
        result = await client.nfs("READDIR", m.ReadDirectoryArgs(directory, 0, bytes(8), 4096))
    assert result.status == 0, Status(result.status)
    return sorted(entry.name.decode() for entry in result.value.entries)


def test_a_snapshot_shows_what_was_there_and_cannot_be_changed(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        folder = await make_directory(client, root, "folder")
        file = await create(client, folder, "file")
        await write(client, file, 0, b"before")
        ask(server, MakeSnapshot("monday"))
        await write(client, file, 0, b"AFTER!!")
        await create(client, folder, "newer")
        await client.nfs("REMOVE", m.RemoveArgs(DirectoryName(folder, b"file")))
        assert ".snapshot" not in await names_in(client, root)
        old = await at(client, root, ".snapshot", "monday", "folder", "file")
        got = await read(client, old, 0, 100)
        assert got.data == b"before" and got.eof
        old_folder = await at(client, root, ".snapshot", "monday", "folder")
        assert await names_in(client, old_folder) == [".", "..", "file"]
        assert await names_in(client, old_folder, plus=True) == [".", "..", "file"]
        written = await client.nfs("WRITE", r3.WriteArgs(old, 0, 1, m.Stable.FILE_SYNC, b"x"))
        assert written.status == Status.ROFS
        removed = await client.nfs("REMOVE", m.RemoveArgs(DirectoryName(old_folder, b"file")))
        assert removed.status == Status.ROFS
        rights = await client.nfs("ACCESS", m.AccessArgs(old_folder, 0x3F))
        assert rights.value.access & 0x1C == 0 and rights.value.access & 0x3 == 0x3

    served(tmp_path, scenario)


def test_the_list_of_snapshots_is_a_directory_of_its_own(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        assert await names_in(client, await at(client, root, ".snapshot")) == [".", ".."]
        for name in ("one", "two words", "drei"):
            ask(server, MakeSnapshot(name))
        listed = await at(client, root, ".snapshot")
        for plus in (False, True):
            assert await names_in(client, listed, plus) == [".", "..", "drei", "one", "two words"]
        assert (await lookup(client, listed, "four")).status == Status.NOENT
        made = await client.nfs("MKDIR", m.MakeDirectoryArgs(DirectoryName(listed, b"x"), NewAttributes(mode=0o755)))
        assert made.status == Status.ROFS
        made = await client.nfs("MKDIR", m.MakeDirectoryArgs(DirectoryName(root, b".snapshot"), NewAttributes(mode=0o755)))
        assert made.status == Status.EXIST
        folder = await make_directory(client, root, "folder")
        assert (await lookup(client, folder, ".snapshot")).status == Status.NOENT

    served(tmp_path, scenario)


def test_each_snapshot_is_a_file_system_of_its_own_and_two_dots_lead_back(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        await make_directory(client, root, "folder")
        ask(server, MakeSnapshot("one"))
        ask(server, MakeSnapshot("two"))
        listed = await at(client, root, ".snapshot")
        places = [root, listed, await at(client, listed, "one"), await at(client, listed, "two")]
        assert len({(await attributes(client, place)).fsid for place in places}) == 4
        assert (await attributes(client, places[2])).fileid == (await attributes(client, root)).fileid
        folder = await at(client, places[2], "folder")
        assert await at(client, folder, "..") == places[2]
        assert await at(client, folder, "..", "..") == listed
        assert await at(client, folder, "..", "..", "..") == root

    served(tmp_path, scenario)


def test_handles_into_a_deleted_snapshot_are_stale(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "file")
        await write(client, file, 0, b"data")
        number = ask(server, MakeSnapshot("one")).snapshots[0].number
        await write(client, file, 0, b"DATA")
        old = await at(client, root, ".snapshot", "one", "file")
        assert (await read(client, old, 0, 4)).data == b"data"
        ask(server, DeleteSnapshot(number))
        result = await client.nfs("GETATTR", m.GetAttributesArgs(old))
        assert result.status == Status.STALE
        assert (await lookup(client, await at(client, root, ".snapshot"), "one")).status == Status.NOENT
        await server.volume.run_once()
        assert (await client.nfs("READ", r3.ReadArgs(old, 0, 4))).status == Status.STALE
        assert (await read(client, file, 0, 4)).data == b"DATA"

    served(tmp_path, scenario)


def test_an_export_of_a_directory_shows_that_directory_in_snapshots(tmp_path: Path) -> None:
    shares: list[Share] = [Share("data", 1, VOLUME, nfs=OPEN)]

    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        ask(server, MakeSnapshot("early"))
        folder = await make_directory(client, root, "team")
        await create(client, folder, "inside")
        inode = ask(server, Lookup(SUPER, 1, (b"team",))).attributes.inode
        ask(server, MakeSnapshot("late"))
        server.shares.replace([*shares, Share("team", 2, VOLUME, inode, "/team", nfs=OPEN)])
        team = await client.mount("/team")
        late = await at(client, team, ".snapshot", "late")
        assert await names_in(client, late) == [".", "..", "inside"]
        assert (await lookup(client, await at(client, team, ".snapshot"), "early")).status == Status.NOENT

    served(tmp_path, scenario, shares)
