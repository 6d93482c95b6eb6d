"""NFS version 3 and MOUNT over real connections, against a real volume."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateways.exports import Client, NfsOptions, Share, Squash
from gateways.nfs.mount import MountStatus
from gateways.nfs.status import Status
from gateways.nfs.v3 import messages as m
from gateways.nfs.v3.messages import CreateArgs, CreateMode, DirectoryName, ExclusiveVerifier, Moment, NewAttributes, SetTime, Stable
from gateways.nfs.xdr import Void, encode
from sofs.errors import DiskFailed
from sofs.types import Inode
from sofs.volume.api import Access, Binding, Caller, Close, Disposition, Open, Opened, ShareMode
from tests.protocol import nfs3_results as r3
from tests.protocol.nfs_client import RpcClient
from tests.protocol.nfs_types import MOUNT
from tests.served import OPEN, VOLUME, Served, nfs_on
from tests.unit.gateways.nfs_link import call_bytes, sys_credential

Scenario = Callable[[Served, RpcClient, bytes], Awaitable[None]]
ROOT = sys_credential(0, 0)


def served(path: Path, scenario: Scenario, shares: list[Share] | None = None) -> None:
    """Runs a scenario with a server, a client (uid 1000) and the root handle of the first export."""

    async def whole() -> None:
        async with nfs_on(path / "volume", (lambda: shares) if shares else None) as server, await RpcClient.connect(server.port) as client:
            await scenario(server, client, await client.mount("/" + server.shares.all()[0].name))

    asyncio.run(whole())


async def create(client: RpcClient, directory: bytes, name: str, mode: int = 0o644) -> bytes:
    where = DirectoryName(directory, name.encode())
    result = await client.nfs("CREATE", CreateArgs(where, (CreateMode.GUARDED, NewAttributes(mode=mode))))
    assert result.status == 0, Status(result.status)
    assert result.value.object is not None
    return bytes(result.value.object)


async def make_directory(client: RpcClient, directory: bytes, name: str, mode: int = 0o755) -> bytes:
    args = m.MakeDirectoryArgs(DirectoryName(directory, name.encode()), NewAttributes(mode=mode))
    result = await client.nfs("MKDIR", args)
    assert result.status == 0, Status(result.status)
    return bytes(result.value.object)


async def write(client: RpcClient, file: bytes, offset: int, data: bytes, stable: Stable = Stable.FILE_SYNC) -> r3.Written:
    result = await client.nfs("WRITE", r3.WriteArgs(file, offset, len(data), stable, data))
    assert result.status == 0, Status(result.status)
    assert isinstance(result.value, r3.Written)
    return result.value


async def read(client: RpcClient, file: bytes, offset: int, length: int) -> r3.ReadData:
    result = await client.nfs("READ", r3.ReadArgs(file, offset, length))
    assert result.status == 0, Status(result.status)
    assert isinstance(result.value, r3.ReadData)
    return result.value


async def attributes(client: RpcClient, handle: bytes) -> r3.FileAttributes:
    result = await client.nfs("GETATTR", m.GetAttributesArgs(handle))
    assert result.status == 0, Status(result.status)
    found: r3.FileAttributes = result.value.attributes
    return found


async def lookup(client: RpcClient, directory: bytes, name: str) -> Any:
    return await client.nfs("LOOKUP", m.LookupArgs(DirectoryName(directory, name.encode())))


# Data


def test_what_is_written_is_read(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        written = await write(client, file, 5, b"hello")
        assert (written.length, written.committed) == (5, Stable.FILE_SYNC)
        assert written.verifier == server.volume.verifier.to_bytes(8)
        assert written.wcc.before is not None and written.wcc.before.size == 0
        assert written.wcc.after is not None and written.wcc.after.size == 10
        got = await read(client, file, 0, 100)
        assert (got.data, got.length, got.eof) == (bytes(5) + b"hello", 10, True)
        assert got.attributes is not None and got.attributes.size == 10
        assert (await read(client, file, 2, 4))[1:] == (4, False, bytes(3) + b"h")
        assert (await read(client, file, 10, 4))[1:] == (0, True, b"")
        assert (await read(client, file, 1 << 40, 4))[1:] == (0, True, b"")

    served(tmp_path, scenario)


@pytest.mark.parametrize("size", [0, 1, 3, 4095, 4096, 4097, 65536, (1 << 20) - 1, 1 << 20])
def test_payloads_of_every_size_come_back(tmp_path: Path, size: int) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        data = bytes(range(251)) * (size // 251 + 1)
        await write(client, file, 0, data[:size], Stable.UNSTABLE)
        got = await read(client, file, 0, 1 << 20)
        assert got.data == data[:size]
        assert got.eof

    served(tmp_path, scenario)


def test_unstable_writes_are_kept_by_commit(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        written = await write(client, file, 0, b"x" * 10000, Stable.UNSTABLE)
        assert written.committed == Stable.UNSTABLE
        result = await client.nfs("COMMIT", m.CommitArgs(file, 0, 0))
        assert result.status == 0
        assert result.value.verifier == written.verifier

    served(tmp_path, scenario)


def test_many_calls_of_one_connection_are_served_side_by_side(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        pieces = [bytes([number]) * 5000 for number in range(200)]
        await asyncio.gather(*(write(client, file, number * 5000, piece, Stable(number % 3)) for number, piece in enumerate(pieces)))
        got = await asyncio.gather(*(read(client, file, number * 5000, 5000) for number in range(200)))
        assert [each.data for each in got] == pieces

    served(tmp_path, scenario)


def test_count_and_data_of_a_write_must_agree(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        result = await client.nfs("WRITE", r3.WriteArgs(file, 0, 6, Stable.UNSTABLE, b"hello"))
        assert result.status == Status.INVAL

    served(tmp_path, scenario)


def test_directories_are_neither_read_nor_written_as_files(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        assert (await client.nfs("READ", r3.ReadArgs(root, 0, 5))).status in (Status.ISDIR, Status.INVAL)
        result = await client.nfs("WRITE", r3.WriteArgs(root, 0, 1, Stable.UNSTABLE, b"x"))
        assert result.status in (Status.ISDIR, Status.INVAL)

    served(tmp_path, scenario)


# Attributes


def test_attributes_are_set_and_read_back(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        await write(client, file, 0, b"0123456789")
        new = NewAttributes(mode=0o640, size=4, accessed=(SetTime.CLIENT, Moment(1000, 100)), modified=(SetTime.CLIENT, Moment(2000, 200)))
        result = await client.nfs("SETATTR", m.SetAttributesArgs(file, new, None))
        assert result.status == 0
        assert result.value.wcc.before.size == 10
        now = await attributes(client, file)
        assert result.value.wcc.after == now
        assert (now.type, now.mode, now.size, now.uid, now.gid, now.links) == (m.Type.REG, 0o640, 4, 1000, 1000, 1)
        assert (now.accessed, now.modified) == (Moment(1000, 100), Moment(2000, 200))
        assert (await read(client, file, 0, 100)).data == b"0123"

    served(tmp_path, scenario)


def test_a_guard_that_does_not_match_changes_nothing(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        before = await attributes(client, file)
        wrong = m.SetAttributesArgs(file, NewAttributes(mode=0o600), Moment(1, 0))
        assert (await client.nfs("SETATTR", wrong)).status == Status.NOT_SYNC
        assert await attributes(client, file) == before
        right = m.SetAttributesArgs(file, NewAttributes(mode=0o600), before.changed)
        assert (await client.nfs("SETATTR", right)).status == 0
        assert (await attributes(client, file)).mode == 0o600

    served(tmp_path, scenario)


def test_only_the_owner_changes_the_mode(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        client.auth = sys_credential(1001, 1001)
        result = await client.nfs("SETATTR", m.SetAttributesArgs(file, NewAttributes(mode=0o777), None))
        assert result.status in (Status.PERM, Status.ACCES)
        assert result.value.wcc.after is not None and result.value.wcc.after.mode == 0o644

    served(tmp_path, scenario)


async def granted(client: RpcClient, handle: bytes, wanted: int = 0x3F) -> int:
    result = await client.nfs("ACCESS", m.AccessArgs(handle, wanted))
    assert result.status == 0
    return int(result.value.access)


READ, LOOKUP, MODIFY, EXTEND, DELETE, EXECUTE = 1, 2, 4, 8, 16, 32


def test_access_follows_the_mode(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f", 0o754)
        directory = await make_directory(client, root, "d", 0o754)
        assert await granted(client, file) == READ | MODIFY | EXTEND | EXECUTE
        assert await granted(client, directory) == READ | LOOKUP | MODIFY | EXTEND | DELETE
        assert await granted(client, directory, READ | EXECUTE) == READ
        client.auth = sys_credential(1001, 1001, (1000,))
        assert await granted(client, file) == READ | EXECUTE
        assert await granted(client, directory) == READ | LOOKUP
        client.auth = sys_credential(1001, 1001)
        assert await granted(client, file) == READ
        assert await granted(client, directory) == READ

    served(tmp_path, scenario)


def test_the_mode_is_enforced(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f", 0o600)
        inner = await make_directory(client, root, "d", 0o700)
        await create(client, inner, "g")
        client.auth = sys_credential(1001, 1001)
        assert (await client.nfs("READ", r3.ReadArgs(file, 0, 5))).status == Status.ACCES
        result = await client.nfs("WRITE", r3.WriteArgs(file, 0, 1, Stable.UNSTABLE, b"x"))
        assert result.status == Status.ACCES
        assert (await lookup(client, inner, "g")).status == Status.ACCES
        assert (await client.nfs("READDIR", m.ReadDirectoryArgs(inner, 0, bytes(8), 4096))).status == Status.ACCES
        result = await client.nfs("REMOVE", m.RemoveArgs(DirectoryName(root, b"f")))
        assert result.status in (Status.ACCES, Status.PERM), "the root directory is sticky"

    served(tmp_path, scenario)


def test_an_owner_reads_and_writes_whatever_the_mode_says(tmp_path: Path) -> None:
    # A file is opened once and then written through the handle: with a mode that forbids it (tar, cp -p) too.
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f", 0o000)
        await write(client, file, 0, b"x")
        assert (await read(client, file, 0, 1)).data == b"x"

    served(tmp_path, scenario)


def test_fsinfo_fsstat_and_pathconf_tell_the_limits(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        info = (await client.nfs("FSINFO", m.FileSystemArgs(root))).value
        assert info.read_max == info.write_max == 1 << 20
        assert info.properties == 0x1B
        assert info.time_delta == Moment(0, 100)
        before = (await client.nfs("FSSTAT", m.FileSystemArgs(root))).value
        assert 0 < before.free_bytes <= before.total_bytes
        limits = (await client.nfs("PATHCONF", m.FileSystemArgs(root))).value
        assert (limits.name_max, limits.no_truncation, limits.case_insensitive) == (255, True, False)

    served(tmp_path, scenario)


# Names


def test_names_are_made_found_and_removed(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "Datei")
        found = await lookup(client, root, "Datei")
        assert found.value.object == file
        assert found.value.attributes == await attributes(client, file)
        assert found.value.directory == await attributes(client, root)
        missing = await lookup(client, root, "DATEI")
        assert missing.status == Status.NOENT
        assert missing.value.attributes == await attributes(client, root), "names are exact, and the directory is told"
        removed = await client.nfs("REMOVE", m.RemoveArgs(DirectoryName(root, b"Datei")))
        assert removed.status == 0
        assert removed.value.wcc.before.size == 1 and removed.value.wcc.after.size == 0
        assert (await client.nfs("REMOVE", m.RemoveArgs(DirectoryName(root, b"Datei")))).status == Status.NOENT
        assert (await client.nfs("GETATTR", m.GetAttributesArgs(file))).status == Status.STALE
        assert (await client.nfs("READ", r3.ReadArgs(file, 0, 1))).status == Status.STALE

    served(tmp_path, scenario)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (b"", Status.INVAL),
        (b"a/b", Status.INVAL),
        (b"a\0b", Status.INVAL),
        (b".", Status.EXIST),
        (b"..", Status.EXIST),
        (b"x" * 256, Status.NAMETOOLONG),
        (b"x" * 4000, Status.NAMETOOLONG),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: bytes, status: Status) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        where = DirectoryName(root, name)
        result = await client.nfs("CREATE", CreateArgs(where, (CreateMode.UNCHECKED, NewAttributes())))
        assert result.status == status
        result = await client.nfs("MKDIR", m.MakeDirectoryArgs(where, NewAttributes()))
        assert result.status == status

    served(tmp_path, scenario)


def test_dot_and_dot_dot_are_found_but_not_above_the_export(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        inner = await make_directory(client, root, "d")
        deeper = await make_directory(client, inner, "e")
        assert (await lookup(client, inner, ".")).value.object == inner
        assert (await lookup(client, deeper, "..")).value.object == inner
        assert (await lookup(client, inner, "..")).value.object == root
        assert (await lookup(client, root, "..")).value.object == root

    served(tmp_path, scenario)


def test_create_in_its_three_modes(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        where = DirectoryName(root, b"f")
        first = await create(client, root, "f")
        await write(client, first, 0, b"data")
        guarded = await client.nfs("CREATE", CreateArgs(where, (CreateMode.GUARDED, NewAttributes())))
        assert guarded.status == Status.EXIST
        unchecked = CreateArgs(where, (CreateMode.UNCHECKED, NewAttributes()))
        assert (await client.nfs("CREATE", unchecked)).value.object == first
        assert (await attributes(client, first)).size == 4
        truncating = CreateArgs(where, (CreateMode.UNCHECKED, NewAttributes(size=0)))
        assert (await client.nfs("CREATE", truncating)).value.object == first
        assert (await attributes(client, first)).size == 0

        def exclusive(verifier: bytes) -> CreateArgs:
            return CreateArgs(DirectoryName(root, b"g"), (CreateMode.EXCLUSIVE, ExclusiveVerifier(verifier)))

        made = await client.nfs("CREATE", exclusive(b"12345678"))
        assert made.status == 0
        again = await client.nfs("CREATE", exclusive(b"12345678"))
        assert again.value.object == made.value.object
        assert (await client.nfs("CREATE", exclusive(b"87654321"))).status == Status.EXIST

    served(tmp_path, scenario)


def test_symbolic_links_hold_their_text(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        text = b"../somewhere/\xc3\xa4 else"
        made = await client.nfs("SYMLINK", m.SymlinkArgs(DirectoryName(root, b"s"), NewAttributes(), text))
        assert made.status == 0
        assert made.value.attributes.type == m.Type.LNK
        assert (await client.nfs("READLINK", m.ReadLinkArgs(made.value.object))).value.target == text
        assert (await client.nfs("READLINK", m.ReadLinkArgs(root))).status == Status.INVAL
        assert (await lookup(client, made.value.object, "x")).status == Status.NOTDIR

    served(tmp_path, scenario)


def test_special_files_are_made(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        client.auth = ROOT

        async def make(name: str, what: tuple[int, Any]) -> Any:
            return await client.nfs("MKNOD", m.MakeNodeArgs(DirectoryName(root, name.encode()), what))

        new = NewAttributes(mode=0o600)
        assert (await make("p", (m.Type.FIFO, new))).value.attributes.type == m.Type.FIFO
        assert (await make("s", (m.Type.SOCK, new))).value.attributes.type == m.Type.SOCK
        device = (await make("c", (m.Type.CHR, m.DeviceData(new, m.Device(1, 5))))).value.attributes
        assert (device.type, device.device) == (m.Type.CHR, m.Device(1, 5))
        assert (await make("b", (m.Type.BLK, m.DeviceData(new, m.Device(8, 300))))).value.attributes.device.minor == 300
        assert (await make("r", (m.Type.REG, Void()))).status == Status.BADTYPE

    served(tmp_path, scenario)


def test_a_file_can_have_several_names(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "one")
        linked = await client.nfs("LINK", m.LinkArgs(file, DirectoryName(root, b"two")))
        assert linked.status == 0
        assert linked.value.attributes.links == 2
        assert (await client.nfs("LINK", m.LinkArgs(file, DirectoryName(root, b"two")))).status == Status.EXIST
        assert (await client.nfs("LINK", m.LinkArgs(root, DirectoryName(root, b"d")))).status in (Status.ISDIR, Status.PERM, Status.INVAL)
        assert (await client.nfs("REMOVE", m.RemoveArgs(DirectoryName(root, b"one")))).status == 0
        assert (await attributes(client, file)).links == 1

    served(tmp_path, scenario)


def test_directories_are_removed_when_empty_and_by_rmdir_only(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        inner = await make_directory(client, root, "d")
        await create(client, inner, "f")

        async def remove(procedure: str, directory: bytes, name: bytes) -> int:
            return (await client.nfs(procedure, m.RemoveArgs(DirectoryName(directory, name)))).status

        assert await remove("RMDIR", root, b"d") == Status.NOTEMPTY
        assert await remove("REMOVE", root, b"d") == Status.ISDIR
        assert await remove("RMDIR", inner, b"f") == Status.NOTDIR
        assert await remove("RMDIR", inner, b".") == Status.INVAL
        assert await remove("RMDIR", inner, b"..") == Status.EXIST
        assert await remove("REMOVE", inner, b"f") == 0
        assert await remove("RMDIR", root, b"d") == 0
        assert (await client.nfs("GETATTR", m.GetAttributesArgs(inner))).status == Status.STALE

    served(tmp_path, scenario)


def test_rename_moves_and_replaces(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        inner = await make_directory(client, root, "d")
        moved, replaced = await create(client, root, "a"), await create(client, inner, "b")

        async def rename(source: tuple[bytes, bytes], target: tuple[bytes, bytes]) -> Any:
            return await client.nfs("RENAME", m.RenameArgs(DirectoryName(*source), DirectoryName(*target)))

        result = await rename((root, b"a"), (inner, b"b"))
        assert result.status == 0
        assert result.value.source.before.size == 2 and result.value.source.after.size == 1
        assert result.value.target.after.fileid == (await attributes(client, inner)).fileid
        assert (await lookup(client, inner, "b")).value.object == moved
        assert (await client.nfs("GETATTR", m.GetAttributesArgs(replaced))).status == Status.STALE
        missing = await rename((root, b"a"), (root, b"c"))
        assert missing.status == Status.NOENT
        assert missing.value.source.after == await attributes(client, root)
        assert (await rename((root, b"d"), (inner, b"x"))).status == Status.INVAL, "not into itself"
        assert (await rename((inner, b"b"), (inner, b"b"))).status == 0
        assert (await rename((root, b"."), (root, b"x"))).status == Status.INVAL

    served(tmp_path, scenario)


# Directories


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("room", [700, 4096, 1 << 20])
def test_a_listing_in_pieces_shows_every_name_once(tmp_path: Path, plus: bool, room: int) -> None:
    names = {f"file number {number}" for number in range(150)}

    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        for name in names:
            await create(client, root, name)
        seen, cookie = [], 0
        while True:
            if plus:
                result = await client.nfs("READDIRPLUS", m.ReadDirectoryPlusArgs(root, cookie, bytes(8), room, room))
            else:
                result = await client.nfs("READDIR", m.ReadDirectoryArgs(root, cookie, bytes(8), room))
            assert result.status == 0
            if plus:
                for entry in result.value.entries:
                    if entry.name not in (b".", b".."):
                        assert (await lookup(client, root, entry.name.decode())).value.object == entry.handle
                        assert entry.attributes.fileid == entry.fileid
            assert len(encode(result.value)) <= room
            seen += [entry.name.decode() for entry in result.value.entries]
            if result.value.eof:
                break
            cookie = result.value.entries[-1].cookie
        assert sorted(seen) == sorted(names | {".", ".."})

    served(tmp_path, scenario)


def test_a_buffer_too_small_for_one_entry_is_told(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        await create(client, root, "f")
        args = m.ReadDirectoryArgs(root, 2, bytes(8), 110)
        assert (await client.nfs("READDIR", args)).status == Status.TOOSMALL
        plus = m.ReadDirectoryPlusArgs(root, 2, bytes(8), 4096, 200)
        assert (await client.nfs("READDIRPLUS", plus)).status == Status.TOOSMALL

    served(tmp_path, scenario)


def test_files_are_not_listed(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        assert (await client.nfs("READDIR", m.ReadDirectoryArgs(file, 0, bytes(8), 4096))).status == Status.NOTDIR

    served(tmp_path, scenario)


# Exports


def test_the_root_shows_the_exports_of_this_client(tmp_path: Path) -> None:
    shares = [
        Share("one", 4, VOLUME, nfs=OPEN),
        Share("two", 9, VOLUME, nfs=OPEN),
        Share("x-elsewhere", 5, VOLUME, nfs=NfsOptions(clients=(Client("192.0.2.0/24"),))),
        Share("smb-only", 6, VOLUME, nfs=NfsOptions(enabled=False)),
    ]

    async def scenario(server: Served, client: RpcClient, first: bytes) -> None:
        top = await client.mount("/")
        listing = (await client.nfs("READDIRPLUS", m.ReadDirectoryPlusArgs(top, 0, bytes(8), 4096, 4096))).value
        assert [entry.name for entry in listing.entries] == [b".", b"..", b"one", b"two"]
        assert listing.eof
        after = (await client.nfs("READDIR", m.ReadDirectoryArgs(top, listing.entries[2].cookie, bytes(8), 4096))).value
        assert [entry.name for entry in after.entries] == [b"two"]
        own = await attributes(client, top)
        assert (own.type, own.mode) == (m.Type.DIR, 0o555)
        one, two = (await lookup(client, top, "one")).value, (await lookup(client, top, "two")).value
        assert one.object == await client.mount("/one") and one.attributes.fsid != two.attributes.fsid != own.fsid
        assert (await lookup(client, top, "x-elsewhere")).status == Status.NOENT
        assert (await lookup(client, top, "..")).value.object == top
        assert await granted(client, top) == READ | LOOKUP | EXECUTE
        where = DirectoryName(top, b"x")
        assert (await client.nfs("MKDIR", m.MakeDirectoryArgs(where, NewAttributes()))).status == Status.ROFS
        assert (await client.nfs("WRITE", r3.WriteArgs(top, 0, 1, 0, b"x"))).status == Status.ROFS
        assert (await client.nfs("READ", r3.ReadArgs(top, 0, 1))).status == Status.ISDIR
        for name in ("FSINFO", "FSSTAT", "PATHCONF"):
            assert (await client.nfs(name, m.FileSystemArgs(top))).status == 0

    served(tmp_path, scenario, shares)


def test_mount_paths(tmp_path: Path) -> None:
    shares = [Share("data", 1, VOLUME, nfs=OPEN), Share("far", 2, VOLUME, nfs=NfsOptions(clients=(Client("192.0.2.1"),)))]

    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        inner = await make_directory(client, root, "d", 0o700)
        deep = await make_directory(client, inner, "e")
        await create(client, root, "f")
        for path, expected in (("/data", root), ("/data/", root), ("//data//d/e/", deep), ("data/d", inner)):
            assert await client.mount(path) == expected
        for path, status in (
            ("/nowhere", MountStatus.NOENT),
            ("/data/nowhere", MountStatus.NOENT),
            ("/data/../data", MountStatus.NOENT),
            ("/data/f", MountStatus.NOTDIR),
            ("/far", MountStatus.ACCES),
        ):
            assert (await client.call(MOUNT, 1, m.MountPath(path.encode()))).status == status
        result = await client.results(MOUNT, 3, 1, struct.pack(">I5s3x", 5, b"/data"))
        assert result[-12:] == struct.pack(">3I", 2, 1, 0), "AUTH_SYS first, then AUTH_NONE"

    served(tmp_path, scenario, shares)


def test_the_rest_of_mount(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        exports = (await client.call(MOUNT, 5)).value.exports
        assert exports == (m.Exported(b"/data", (m.Groups(b"*"),)),)
        path = struct.pack(">I5s3x", 5, b"/data")
        for version in (1, 2, 3):
            assert await client.results(MOUNT, version, 0, b"") == b""
            assert await client.results(MOUNT, version, 3, path) == b""
            assert await client.results(MOUNT, version, 4, b"") == b""
            assert await client.results(MOUNT, version, 2, b"") == bytes(4)

    served(tmp_path, scenario)


def test_versions_programs_and_procedures_that_are_not_there_are_told(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        async def status(program: int, version: int, procedure: int, arguments: bytes = b"") -> tuple[int, ...]:
            record = call_bytes(program, version, procedure, arguments, xid=99, auth=client.auth)
            reply = await client.raw(record)
            return struct.unpack(f">{len(reply) // 4 - 5}I", reply[20:])

        assert await status(100003, 2, 0) == (2, 3, 4)
        assert await status(100003, 5, 0) == (2, 3, 4)
        assert await status(100005, 4, 0) == (2, 1, 3)
        assert await status(100021, 4, 0) == (1,)
        assert await status(100003, 3, 22) == (3,)
        assert await status(100003, 3, 1, b"\0\0\0\1") == (4,)
        assert await status(100003, 3, 7, b"\0\0\0\1") == (4,)

    served(tmp_path, scenario)


def test_bytes_that_are_no_rpc_end_that_connection_only(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        for junk in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 0x80000004) + b"abcd", struct.pack(">I", 0xFFFFFFFF)):
            async with await RpcClient.connect(server.port) as other:
                other.send(junk)
                async with asyncio.timeout(10):
                    await other.lost.wait()
        assert (await attributes(client, root)).type == m.Type.DIR

    served(tmp_path, scenario)


def test_forged_foreign_and_stale_handles_are_refused(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        forged = bytearray(root)
        forged[30] ^= 1
        for handle in (bytes(forged), b"", b"x" * 64):
            for name, args in (
                ("GETATTR", m.GetAttributesArgs(handle)),
                ("READ", r3.ReadArgs(handle, 0, 1)),
                ("WRITE", r3.WriteArgs(handle, 0, 1, 0, b"x")),
                ("LOOKUP", m.LookupArgs(DirectoryName(handle, b"x"))),
                ("RENAME", m.RenameArgs(DirectoryName(root, b"x"), DirectoryName(handle, b"y"))),
            ):
                assert (await client.nfs(name, args)).status == Status.BADHANDLE
        server.shares.replace([Share("other", 2, VOLUME, nfs=OPEN)])
        assert (await client.nfs("GETATTR", m.GetAttributesArgs(root))).status == Status.STALE

    served(tmp_path, scenario)


def test_dot_dot_does_not_lead_out_of_an_export_from_what_was_moved_out_of_it(tmp_path: Path) -> None:
    async def whole() -> None:
        async with nfs_on(tmp_path / "volume") as server, await RpcClient.connect(server.port) as client:
            top = await client.mount("/data")
            part = await make_directory(client, top, "part")
            inode = server.gateway._handles.read(part).inode
            server.shares.replace([*server.shares.all(), Share("part", 2, VOLUME, inode, nfs=OPEN)])
            inside = await client.mount("/part")
            moved = await make_directory(client, inside, "moved", 0o777)
            deep = await make_directory(client, moved, "deep", 0o777)
            elsewhere = await make_directory(client, top, "elsewhere", 0o777)
            assert (await lookup(client, deep, "..")).value.object == moved
            assert (await lookup(client, moved, "..")).value.object == inside
            names = DirectoryName(part, b"moved"), DirectoryName(elsewhere, b"moved")
            assert (await client.nfs("RENAME", m.RenameArgs(*names))).status == 0
            assert (await lookup(client, moved, "..")).status == Status.STALE
            assert (await lookup(client, deep, "..")).status == Status.STALE

    asyncio.run(whole())


def test_dot_dot_of_a_file_is_refused(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        assert (await lookup(client, file, "..")).status == Status.NOTDIR

    served(tmp_path, scenario)


def test_one_call_does_not_reach_over_two_exports(tmp_path: Path) -> None:
    shares = [Share("one", 1, VOLUME, nfs=OPEN), Share("two", 2, VOLUME, nfs=OPEN)]

    async def scenario(server: Served, client: RpcClient, one: bytes) -> None:
        two = await client.mount("/two")
        file = await create(client, one, "f")
        result = await client.nfs("RENAME", m.RenameArgs(DirectoryName(one, b"f"), DirectoryName(two, b"g")))
        assert result.status == Status.XDEV
        assert (await client.nfs("LINK", m.LinkArgs(file, DirectoryName(two, b"g")))).status == Status.XDEV

    served(tmp_path, scenario, shares)


def test_a_read_only_export_is_only_read(tmp_path: Path) -> None:
    read_only = NfsOptions(clients=(Client("127.0.0.0/8", read_only=True, squash=Squash.NONE),))
    shares = [Share("data", 1, VOLUME, nfs=OPEN), Share("fixed", 2, VOLUME, nfs=read_only)]

    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        await write(client, await create(client, root, "f", 0o666), 0, b"x")
        fixed = await client.mount("/fixed")
        file = (await lookup(client, fixed, "f")).value.object
        assert (await read(client, file, 0, 1)).data == b"x"
        assert await granted(client, file) == READ
        where = DirectoryName(fixed, b"g")
        for name, args in (
            ("WRITE", r3.WriteArgs(file, 0, 1, 0, b"y")),
            ("SETATTR", m.SetAttributesArgs(file, NewAttributes(size=0), None)),
            ("CREATE", CreateArgs(where, (CreateMode.UNCHECKED, NewAttributes()))),
            ("REMOVE", m.RemoveArgs(DirectoryName(fixed, b"f"))),
            ("RENAME", m.RenameArgs(DirectoryName(fixed, b"f"), where)),
            ("LINK", m.LinkArgs(file, where)),
        ):
            assert (await client.nfs(name, args)).status == Status.ROFS

    served(tmp_path, scenario, shares)


def test_root_is_squashed_unless_the_client_list_says_otherwise(tmp_path: Path) -> None:
    def with_squash(number: int, squash: Squash) -> Share:
        return Share(f"s{number}", number, VOLUME, nfs=NfsOptions(clients=(Client(squash=squash, anonymous_uid=77, anonymous_gid=78),)))

    shares = [with_squash(1, Squash.NONE), with_squash(2, Squash.ROOT), with_squash(3, Squash.ALL)]

    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        async def owner(share: str, uid: int) -> tuple[int, int]:
            client.auth = sys_credential(uid, uid)
            file = await create(client, await client.mount(share), f"{share[1:]}-{uid}")
            found = await attributes(client, file)
            return found.uid, found.gid

        assert await owner("/s1", 0) == (0, 0)
        assert await owner("/s2", 0) == (77, 78)
        assert await owner("/s2", 500) == (500, 500)
        assert await owner("/s3", 500) == (77, 78)
        client.auth = bytes(16)
        assert (await attributes(client, await create(client, await client.mount("/s2"), "nobody's"))).uid == 77

    served(tmp_path, scenario, shares)


# Retransmissions and restarts


def test_a_retransmission_is_answered_from_the_first_time(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        where = DirectoryName(root, b"f")
        args = CreateArgs(where, (CreateMode.GUARDED, NewAttributes(mode=0o600)))
        first = await client.nfs("CREATE", args, xid=5)
        assert first.status == 0
        async with await RpcClient.connect(server.port) as again:  # another port, as after a reconnect
            assert await again.nfs("CREATE", args, xid=5) == first
            assert (await again.nfs("CREATE", args, xid=6)).status == Status.EXIST
            remove = m.RemoveArgs(where)
            removed = await client.nfs("REMOVE", remove, xid=7)
            assert removed.status == 0
            assert await again.nfs("REMOVE", remove, xid=7) == removed
            rename = m.RenameArgs(where, DirectoryName(root, b"g"))
            assert (await again.nfs("RENAME", rename, xid=7)).status == Status.NOENT, "another call of the same xid"

    served(tmp_path, scenario)


def test_what_looks_like_a_retransmission_but_is_another_users_call_is_judged_by_itself(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        inner = await make_directory(client, root, "d", 0o700)
        args = CreateArgs(DirectoryName(inner, b"f"), (CreateMode.GUARDED, NewAttributes(mode=0o600)))
        assert (await client.nfs("CREATE", args, xid=5)).status == 0
        async with await RpcClient.connect(server.port) as other:
            other.auth = sys_credential(1001, 1001)
            assert (await other.nfs("CREATE", args, xid=5)).status == Status.ACCES
            other.auth = sys_credential(1001, 1001, (1000,))
            assert (await other.nfs("CREATE", args, xid=5)).status == Status.ACCES

    served(tmp_path, scenario)


def test_retransmissions_that_overtake_each_other_take_effect_once(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        args = m.MakeDirectoryArgs(DirectoryName(root, b"d"), NewAttributes(mode=0o700))
        others = [await RpcClient.connect(server.port) for _ in range(4)]
        results = await asyncio.gather(*(other.nfs("MKDIR", args, xid=9) for other in others))
        assert results == [results[0]] * 4
        assert results[0].status == 0
        for other in others:
            await other.close()

    served(tmp_path, scenario)


def test_handles_cookies_tokens_and_data_survive_a_restart(tmp_path: Path) -> None:
    async def whole() -> None:
        remove = m.RemoveArgs(DirectoryName(b"", b"gone"))
        async with nfs_on(tmp_path / "v") as server, await RpcClient.connect(server.port) as client:
            root = await client.mount("/data")
            file = await create(client, root, "f")
            await write(client, file, 0, b"kept", Stable.UNSTABLE)
            for number in range(40):
                await create(client, root, f"n{number}")
            await create(client, root, "gone")
            remove = m.RemoveArgs(DirectoryName(root, b"gone"))
            removed = await client.nfs("REMOVE", remove, xid=1)
            part = (await client.nfs("READDIR", m.ReadDirectoryArgs(root, 0, bytes(8), 800))).value
            verifier = server.volume.verifier
        async with nfs_on(tmp_path / "v", incarnation=2) as server, await RpcClient.connect(server.port) as client:
            assert await client.mount("/data") == root
            assert (await read(client, file, 0, 10)).data == b"kept"
            assert server.volume.verifier == verifier, "nothing was lost"
            assert await client.nfs("REMOVE", remove, xid=1) == removed
            args = m.ReadDirectoryArgs(root, part.entries[-1].cookie, part.verifier, 1 << 20)
            rest = (await client.nfs("READDIR", args)).value
            names = [entry.name for entry in part.entries + rest.entries]
            assert sorted(names) == sorted([b".", b"..", b"f", *(b"n%d" % number for number in range(40))])

    asyncio.run(whole())


# The other protocol's opens


BY = Binding(1, 1)


async def open_like_smb(server: Served, name: bytes, access: int, share: int) -> Opened:
    request = Open(Caller(0, 0, privileged=True), Inode(1), (name,), access, share, Disposition.OPEN)
    opened = server.volume.call(request, None, BY)
    reply = opened if isinstance(opened, Opened) else await opened  # type: ignore[misc]
    assert isinstance(reply, Opened)
    return reply


def test_share_modes_and_ranges_of_smb_bind_version_3(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f", 0o666)
        await write(client, file, 0, b"data")
        opened = await open_like_smb(server, b"f", Access.READ_DATA | Access.SYNCHRONIZE, ShareMode.READ)
        assert (await read(client, file, 0, 4)).data == b"data"
        result = await client.nfs("WRITE", r3.WriteArgs(file, 0, 1, 0, b"x"))
        assert result.status == Status.ACCES
        removed = await client.nfs("REMOVE", m.RemoveArgs(DirectoryName(root, b"f")))
        assert removed.status == Status.ACCES
        renamed = await client.nfs("RENAME", m.RenameArgs(DirectoryName(root, b"f"), DirectoryName(root, b"g")))
        assert renamed.status == Status.ACCES
        closed = server.volume.call(Close(opened.open), None, BY)
        if asyncio.iscoroutine(closed):
            await closed
        assert (await client.nfs("REMOVE", m.RemoveArgs(DirectoryName(root, b"f")))).status == 0

    served(tmp_path, scenario)


def test_a_write_that_waits_is_taken_back_when_its_connection_ends(tmp_path: Path) -> None:
    # The client repeats it on its next connection. Were the first one to land later, it would do so over newer data.
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        real, waited, room = server.volume.write, asyncio.Event(), asyncio.Event()

        async def wait_and_write(*arguments: Any) -> Any:
            waited.set()
            await room.wait()
            return real(*arguments)

        server.volume.write = wait_and_write  # type: ignore[method-assign, assignment]
        async with await RpcClient.connect(server.port) as lost:
            lost.auth = client.auth
            asyncio.ensure_future(lost.nfs("WRITE", r3.WriteArgs(file, 0, 3, 0, b"old"))).add_done_callback(lambda _: _.exception())
            await waited.wait()
        server.volume.write = real  # type: ignore[method-assign]
        await write(client, file, 0, b"new")
        room.set()
        await asyncio.sleep(0.05)
        assert (await read(client, file, 0, 3)).data == b"new"

    served(tmp_path, scenario)


def test_a_call_that_a_failed_log_cannot_answer_ends_its_connection_and_the_next_is_told(tmp_path: Path) -> None:
    async def scenario(server: Served, client: RpcClient, root: bytes) -> None:
        file = await create(client, root, "f")
        log = server.volume._log
        end = log.end
        async with await RpcClient.connect(server.port) as idle:
            asked = asyncio.create_task(write(client, file, 0, b"x"))
            while log.end == end:  # noqa: ASYNC110
                await asyncio.sleep(0)
            log.lose(1, DiskFailed("disk0: input/output error"))
            server.gateway.give_up(server.volume)
            async with asyncio.timeout(10):
                await client.lost.wait()
            asked.cancel()
            assert (await idle.nfs("GETATTR", m.GetAttributesArgs(file))).status == Status.IO
            new = m.MakeDirectoryArgs(DirectoryName(root, b"d"), NewAttributes(mode=0o755))
            assert (await idle.nfs("MKDIR", new)).status == Status.IO

    served(tmp_path, scenario)
