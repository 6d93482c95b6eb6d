"""Quotas as clients of both protocols meet them: what is refused, with which status, and how much room they are told of."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from gateways.nfs.status import Status as Nfs3Status
from gateways.nfs.v3 import messages as m
from gateways.nfs.v3.messages import CreateArgs, CreateMode, DirectoryName, NewAttributes, Stable
from gateways.nfs.v4.status import Status as Nfs4Status
from gateways.smb.header import Command
from gateways.smb.status import Status as SmbStatus
from sofs.types import ROOT, Kind
from sofs.volume.api import Binding, Caller, Changes, Found, Make, Quota, QuotaKind, QuotaList, SetQuota
from sofs.volume.volume import LocalVolume
from tests.protocol import nfs3_results as r3
from tests.protocol import nfs4_ops as op
from tests.protocol import nfs4_scenes as nfs4
from tests.protocol import smb_client as smb
from tests.protocol import test_nfs3 as nfs3
from tests.protocol.nfs4_client import Nfs4Client
from tests.protocol.nfs_client import RpcClient
from tests.protocol.smb_client import Client
from tests.served import Served
from tests.served_smb import smb_on

PAGE = 4096
BY = Binding(0, 0)
DUPLICATE_EXTENTS = 0x00098344
FILE_SYSTEM, FULL_SIZE = 2, 7


async def limit(volume: LocalVolume, kind: QuotaKind, subject: int, size: int = 0, files: int = 0) -> None:
    reply = volume.call(SetQuota(Quota(kind, subject, 0, size, files)), None, BY)
    assert isinstance(reply, QuotaList)
    await volume.run_once()


def make(volume: LocalVolume, name: bytes, kind: Kind, at: int = ROOT) -> int:
    made = volume.call(Make(Caller(1000, 1000), at, name, kind, Changes(mode=0o777)), None, BY)  # type: ignore[arg-type]
    assert isinstance(made, Found)
    return made.attributes.inode


def test_nfs3_is_answered_dquot_and_told_what_the_quota_leaves(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await nfs3.create(client, root, "f")
        await limit(server.volume, QuotaKind.USER, 1000, 4 * PAGE, 2)
        await nfs3.write(client, file, 0, bytes(3 * PAGE))
        refused = await client.nfs("WRITE", r3.WriteArgs(file, 3 * PAGE, 2 * PAGE, Stable.UNSTABLE, bytes(2 * PAGE)))
        assert refused.status == Nfs3Status.DQUOT
        assert (await nfs3.attributes(client, file)).size == 3 * PAGE
        space = (await client.nfs("FSSTAT", m.FileSystemArgs(root))).value
        assert (space.total_bytes, space.free_bytes) == (4 * PAGE, PAGE)
        await nfs3.create(client, root, "g")
        where = DirectoryName(root, b"h")
        more = await client.nfs("CREATE", CreateArgs(where, (CreateMode.GUARDED, NewAttributes(mode=0o644))))
        assert more.status == Nfs3Status.DQUOT
        assert (await nfs3.lookup(client, root, "h")).status == Nfs3Status.NOENT

    nfs3.served(tmp_path, scenario)


def test_nfs3_moves_nothing_that_is_full_between_directories_with_quotas(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        top = make(server.volume, b"top", Kind.DIRECTORY)
        full = make(server.volume, b"full", Kind.DIRECTORY)
        make(server.volume, b"in it", Kind.FILE, full)
        await limit(server.volume, QuotaKind.DIRECTORY, top, 8 * PAGE)
        to = (await nfs3.lookup(client, root, "top")).value.object
        result = await client.nfs("RENAME", m.RenameArgs(DirectoryName(root, b"full"), DirectoryName(to, b"full")))
        assert result.status == Nfs3Status.XDEV
        space = (await client.nfs("FSSTAT", m.FileSystemArgs(to))).value
        assert space.total_bytes == 8 * PAGE
        assert (await client.nfs("FSSTAT", m.FileSystemArgs(root))).value.total_bytes > 8 * PAGE

    nfs3.served(tmp_path, scenario)


def test_nfs4_is_answered_dquot_for_writes_allocations_and_clones(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await nfs4.open_file(client, root, "f")
        await client.done(op.putfh(file), op.write(state, 0, bytes(3 * PAGE)))
        await limit(server.volume, QuotaKind.USER, 1000, 5 * PAGE)
        other, onto = await nfs4.open_file(client, root, "g")
        assert await nfs4.status(client, op.putfh(file), op.write(state, 3 * PAGE, bytes(3 * PAGE))) == Nfs4Status.DQUOT
        assert await nfs4.status(client, op.putfh(file), op.allocate(state, 0, 6 * PAGE)) == Nfs4Status.DQUOT
        clone = (op.putfh(file), op.savefh(), op.putfh(other), op.clone(state, onto, 0, 0, 0))
        assert await nfs4.status(client, *clone) == Nfs4Status.DQUOT
        assert await nfs4.attribute(client, root, "space_avail") == 2 * PAGE
        await limit(server.volume, QuotaKind.USER, 1000, 6 * PAGE)
        await client.done(*clone)
        assert await nfs4.attribute(client, root, "space_avail") == 0

    nfs4.served(tmp_path, scenario)


def test_smb_is_answered_as_by_a_full_disk_and_told_the_callers_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with smb_on(tmp_path / "v") as served:
            client = Client(served.gateway.service)
            await client.start("data")
            file = await client.open("f")
            await limit(served.volume, QuotaKind.USER, 1000, 4 * PAGE, 1)
            assert (await client.ask(Command.WRITE, smb.write(file, 0, bytes(3 * PAGE)))).status == 0
            reply = await client.ask(Command.WRITE, smb.write(file, 3 * PAGE, bytes(2 * PAGE)))
            assert reply.status == SmbStatus.DISK_FULL
            assert (await client.ask(Command.CREATE, smb.create("g"))).status == SmbStatus.DISK_FULL
            reply = await client.ask(Command.QUERY_INFO, smb.query_info(file, FILE_SYSTEM, FULL_SIZE))
            total, available, free, sectors, size = struct.unpack_from("<QQQII", reply.body, 8)
            assert (total, available, sectors * size) == (4, 1, PAGE) and free > 4

    asyncio.run(main())


@pytest.mark.parametrize("pages", [3200])
def test_a_clone_of_a_whole_file_over_smb_and_nfs_reads_through_one_map(tmp_path: Path, pages: int) -> None:
    """As `cp --reflink` asks for it: cifs sets the end and clones all at once; nfs clones up to the end."""

    async def main() -> None:
        async with smb_on(tmp_path / "v") as served:
            client = Client(served.gateway.service)
            await client.start("data")
            source, target = await client.open("f"), await client.open("g")
            for at in range(0, pages, 16):
                await client.ask(Command.WRITE, smb.write(source, at * PAGE, bytes([at & 255]) * 16 * PAGE), charge=1)
            end = struct.pack("<Q", pages * PAGE)
            assert (await client.ask(Command.SET_INFO, smb.set_info(target, 1, 20, end))).status == 0
            asked = struct.pack("<QQQQQ", *source, 0, 0, pages * PAGE)
            assert (await client.ask(Command.IOCTL, smb.ioctl(target, DUPLICATE_EXTENTS, asked))).status == 0
            frozen = [key for key, _ in served.volume.core.keys.walk(b"B") if len(key) == 9]
            assert len(frozen) == 1
            reply = await client.ask(Command.READ, smb.read(target, 16 * PAGE, 100))
            assert reply.body[16:] == bytes([16]) * 100

    asyncio.run(main())

    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await nfs4.open_file(client, root, "f")
        other, onto = await nfs4.open_file(client, root, "g")
        for at in range(0, pages, 100):
            await client.done(op.putfh(file), op.write(state, at * PAGE, bytes([at & 255]) * 100 * PAGE, 0))
        await client.done(op.putfh(file), op.savefh(), op.putfh(other), op.clone(state, onto, 0, 0, 0))
        assert len([key for key, _ in server.volume.core.keys.walk(b"B") if len(key) == 9]) == 1
        assert (await client.done(op.putfh(other), op.read(onto, 100 * PAGE, 5))).last[1] == bytes([100]) * 5

    (tmp_path / "n").mkdir()
    nfs4.served(tmp_path / "n", scenario)
