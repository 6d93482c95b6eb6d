"""NFSv4.1 and 4.2: reading and writing, holes, copies, clones and xattrs, beside SMB's opens and locks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateways.nfs.v4.status import Status
from sofs.types import Inode
from sofs.volume.api import Access, Binding, Caller, Close, Disposition, GetExtended, Lock, Open, Opened, SetExtended, ShareMode, Stateless, Unlock
from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_client import Nfs4Client
from tests.protocol.nfs4_scenes import attribute, make_directory, make_file, open_file, served, status
from tests.protocol.nfs4_xdr import ANONYMOUS, BYPASS, CURRENT, Op
from tests.served import Served

UNSTABLE, DATA_SYNC, FILE_SYNC = 0, 1, 2
DATA, HOLE = 0, 1
PAGE = 4096
SMB = Binding(99, 1)


# Reading and writing


def test_what_is_written_is_read(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f")
        written = (await client.done(op.putfh(file), op.write(state, 5, b"hello", DATA_SYNC))).last
        assert written == (5, FILE_SYNC, server.volume.verifier.to_bytes(8))
        for how in (state, ANONYMOUS, BYPASS):
            assert (await client.done(op.putfh(file), op.read(how, 0, 100))).last == (True, bytes(5) + b"hello")
        assert (await client.done(op.putfh(file), op.read(state, 2, 4))).last == (False, bytes(3) + b"h")
        assert (await client.done(op.putfh(file), op.read(state, 1 << 40, 4))).last == (True, b"")
        assert (await client.done(op.putfh(file), op.read(state, 0, 0))).last[1] == b""
        await client.done(op.putfh(file), op.write(state, 0, b""), op.close(state))

    served(tmp_path, scenario)


@pytest.mark.parametrize("size", [1, 3, 4095, 4097, 65536, (1 << 20) - 1, 1 << 20])
def test_payloads_of_every_size_come_back(tmp_path: Path, size: int) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f")
        data = (bytes(range(251)) * (size // 251 + 1))[:size]
        assert (await client.done(op.putfh(file), op.write(state, 0, data, UNSTABLE))).last.count == size
        assert (await client.done(op.putfh(file), op.read(state, 0, 1 << 20))).last == (True, data)

    served(tmp_path, scenario)


def test_two_reads_and_what_stands_between_them_come_in_one_reply(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"0123456789")
        result = await client.done(op.putfh(file), op.read(ANONYMOUS, 0, 3), op.getattr_("size"), op.read(ANONYMOUS, 3, 100), op.getfh())
        assert [value for _, _, value in result.operations[1:]] == [(False, b"012"), {"size": 10}, (True, b"3456789"), file]

    served(tmp_path, scenario)


def test_unstable_writes_are_kept_by_commit(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f")
        written = (await client.done(op.putfh(file), op.write(state, 0, b"x" * 10000, UNSTABLE))).last
        assert written.committed == UNSTABLE
        assert (await client.done(op.putfh(file), op.commit())).last == written.verifier

    served(tmp_path, scenario)


def test_many_slots_work_side_by_side(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f")
        pieces = [bytes([number]) * 5000 for number in range(100)]
        await asyncio.gather(*(client.done(op.putfh(file), op.write(state, number * 5000, piece, number % 3)) for number, piece in enumerate(pieces)))
        got = await asyncio.gather(*(client.done(op.putfh(file), op.read(state, number * 5000, 5000)) for number in range(100)))
        assert [each.last[1] for each in got] == pieces

    served(tmp_path, scenario)


def test_open_write_and_close_in_one_compound(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        opening = op.open_("f", clientid=client.clientid, how="unchecked", mode=0o600)
        result = await client.done(op.putfh(root), opening, op.write(CURRENT, 0, b"data"), op.getfh(), op.close(CURRENT))
        assert (await client.done(op.putfh(result.value(10)), op.read(ANONYMOUS, 0, 9))).last == (True, b"data")

    served(tmp_path, scenario)


def test_an_open_for_reading_does_not_write(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        await make_file(client, root, "f", b"data")
        file, state = await open_file(client, root, "f", op.READ)
        assert await status(client, op.putfh(file), op.write(state, 0, b"x")) is Status.OPENMODE
        assert await status(client, op.putfh(file), op.setattr_(state, size=0)) is Status.OPENMODE
        assert await status(client, op.putfh(file), op.allocate(state, 0, 1)) is Status.OPENMODE

    served(tmp_path, scenario)


def test_a_program_that_may_only_be_executed_is_opened_for_reading(tmp_path: Path) -> None:
    """Clients read what they execute (RFC 1813 4.4); but it takes more than that to write, or to list a directory."""

    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"data", mode=0o711)
        await make_file(client, root, "closed", b"data", mode=0o700)
        async with await Nfs4Client.connect(server.port, uid=2000, gid=2000) as other:
            state = (await other.done(op.putfh(root), op.open_("f", op.READ, clientid=other.clientid))).last.stateid
            assert (await other.done(op.putfh(file), op.read(state, 0, 9))).last == (True, b"data")
            for name, access in (("f", op.BOTH), ("f", op.WRITE), ("closed", op.READ)):
                opening = op.open_(name, access, clientid=other.clientid)
                assert await status(other, op.putfh(root), opening) is Status.ACCESS
            await other.done(op.putfh(file), op.close(state))

    served(tmp_path, scenario)


def test_an_open_reads_on_after_the_mode_has_changed_and_the_name_is_gone(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f")
        await client.done(op.putfh(file), op.write(state, 0, b"data"), op.setattr_(mode=0))
        async with await Nfs4Client.connect(server.port, uid=2000, gid=2000) as other:
            assert await status(other, op.putfh(file), op.read(ANONYMOUS, 0, 4)) is Status.ACCESS
        assert (await client.done(op.putfh(file), op.read(state, 0, 4))).last == (True, b"data")
        await client.done(op.putfh(root), op.remove("f"))
        assert (await client.done(op.putfh(file), op.write(state, 4, b"more"), op.read(state, 0, 9))).last == (True, b"datamore")
        got = (await client.done(op.putfh(file), op.setattr_(mode=0o600), op.getattr_("size", "numlinks", "mode"), op.commit())).value(9)
        assert got == {"size": 8, "numlinks": 0, "mode": 0o600}
        await client.done(op.putfh(file), op.close(state))
        assert await status(client, op.putfh(file), op.getattr_("size")) is Status.STALE

    served(tmp_path, scenario)


def test_a_lock_to_the_end_of_every_file_is_told_to_whom_it_stands_in_the_way(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f", mode=0o666)
        await client.done(op.putfh(file), op.lock(op.WRITE_LT, 0, op.TO_END, state, b"mine"))
        async with await Nfs4Client.connect(server.port) as other:
            _, theirs = await open_file(other, root, "f")
            for asked in (op.lock(op.READ_LT, 5, op.TO_END, theirs, b"other"), op.lockt(op.READ_LT, 5, 1, b"other")):
                result = await other.compound(op.putfh(file), asked)
                assert result.status == Status.DENIED
                assert result.last == op.Denied(0, op.TO_END, op.WRITE_LT, client.clientid, b"mine")

    served(tmp_path, scenario)


# Beside SMB


def smb_open(server: Served, name: str, access: int, share: int = ShareMode.ALL) -> Opened:
    reply = server.volume.call(Open(Caller(1000, 1000), Inode(1), (name.encode(),), access, share, Disposition.OPEN), None, SMB)
    assert isinstance(reply, Opened)
    return reply


def test_smb_s_byte_ranges_bind_nfs_i_o(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"0123456789")
        opened = smb_open(server, "f", Access.READ_DATA | Access.WRITE_DATA)
        server.volume.call(Lock(opened.open, 4, 2, True), None, SMB)
        for how in (ANONYMOUS, BYPASS, (await open_file(client, root, "f"))[1]):
            assert await status(client, op.putfh(file), op.read(how, 0, 5)) is Status.LOCKED
            assert await status(client, op.putfh(file), op.write(how, 5, b"x")) is Status.LOCKED
            assert (await client.done(op.putfh(file), op.read(how, 0, 4))).last == (False, b"0123")
        assert await status(client, op.putfh(file), op.setattr_(size=5)) is Status.LOCKED
        server.volume.call(Unlock(opened.open, 4, 2), None, SMB)
        assert (await client.done(op.putfh(file), op.read(ANONYMOUS, 0, 5))).last == (False, b"01234")

    served(tmp_path, scenario)


def test_an_smb_open_that_shares_nothing_binds_nfs(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"data")
        opened = smb_open(server, "f", Access.READ_DATA | Access.WRITE_DATA, 0)
        assert await status(client, op.putfh(file), op.read(ANONYMOUS, 0, 4)) is Status.LOCKED
        assert await status(client, op.putfh(file), op.write(ANONYMOUS, 0, b"x")) is Status.LOCKED
        assert await status(client, op.putfh(root), op.open_("f", clientid=client.clientid)) is Status.SHARE_DENIED
        assert await status(client, op.putfh(root), op.remove("f")) is Status.FILE_OPEN
        assert await status(client, op.putfh(root), op.savefh(), op.rename("f", "g")) is Status.FILE_OPEN
        await make_file(client, root, "new")
        assert await status(client, op.putfh(root), op.savefh(), op.rename("new", "f")) is Status.FILE_OPEN
        assert (await client.done(op.putfh(file), op.getattr_("size"))).last == {"size": 4}
        server.volume.call(Close(opened.open), None, SMB)
        await client.done(op.putfh(root), op.remove("f"))

    served(tmp_path, scenario)


# Holes


def test_holes_are_made_found_and_filled(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f")
        await client.done(op.putfh(file), op.write(state, 0, b"a" * 4 * PAGE), op.setattr_(state, size=16 * PAGE))

        async def seek(offset: int, what: int) -> tuple[bool, int]:
            found: tuple[bool, int] = (await client.done(op.putfh(file), op.seek(state, offset, what))).last
            return found

        assert await seek(0, DATA) == (False, 0)
        assert await seek(0, HOLE) == (False, 4 * PAGE)
        assert await seek(5 * PAGE, HOLE) == (False, 5 * PAGE)
        assert (await seek(5 * PAGE, DATA))[0] is True
        await client.done(op.putfh(file), op.deallocate(state, PAGE, PAGE))
        assert await seek(0, HOLE) == (False, PAGE)
        assert await seek(PAGE, DATA) == (False, 2 * PAGE)
        assert (await client.done(op.putfh(file), op.read(state, PAGE, PAGE))).last == (False, bytes(PAGE))
        await client.done(op.putfh(file), op.write(state, 15 * PAGE, b"z" * PAGE))
        assert await seek(15 * PAGE, HOLE) == (True, 16 * PAGE)
        assert await status(client, op.putfh(file), op.seek(state, 16 * PAGE, DATA)) is Status.NXIO
        assert await status(client, op.putfh(file), op.seek(state, 0, 7)) is Status.UNION_NOTSUPP

    served(tmp_path, scenario)


def test_allocate_moves_the_end_and_reserves_space(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f")
        await client.done(op.putfh(file), op.allocate(state, 0, 5 * PAGE + 1))
        assert await attribute(client, file, "size") == 5 * PAGE + 1
        assert await attribute(client, file, "space_used") == 6 * PAGE
        assert (await client.done(op.putfh(file), op.read(state, 0, 10))).last == (False, bytes(10))
        assert await status(client, op.putfh(file), op.allocate(state, 0, 1 << 50)) in (Status.NOSPC, Status.FBIG)
        assert await status(client, op.putfh(file), op.allocate(state, 1 << 63, 1)) is Status.FBIG
        assert await status(client, op.putfh(file), op.allocate(state, 0, 0)) is Status.INVAL

    served(tmp_path, scenario)


def test_read_plus_tells_holes_from_data(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file, state = await open_file(client, root, "f")
        await client.done(op.putfh(file), op.write(state, 2 * PAGE, b"a" * PAGE), op.setattr_(state, size=5 * PAGE))

        async def read(offset: int, count: int) -> object:
            return (await client.done(op.putfh(file), op.read_plus(state, offset, count))).last

        assert await read(0, 10 * PAGE) == (False, [("hole", 0, 2 * PAGE)])
        assert await read(2 * PAGE, 10 * PAGE) == (False, [("data", 2 * PAGE, b"a" * PAGE)])
        assert await read(3 * PAGE, 10 * PAGE) == (True, [("hole", 3 * PAGE, 2 * PAGE)])
        assert await read(2 * PAGE + 1, 3) == (False, [("data", 2 * PAGE + 1, b"aaa")])
        assert await read(5 * PAGE, 1) == (True, [])

    served(tmp_path, scenario)


# Copies


async def two_files(client: Nfs4Client, root: bytes, data: bytes) -> tuple[bytes, bytes, tuple[Op, ...]]:
    source, target = await make_file(client, root, "source", data), await make_file(client, root, "target")
    return source, target, (op.putfh(source), op.savefh(), op.putfh(target))


def test_a_copy_is_made_at_the_server(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        data = bytes(range(256)) * 100
        _, target, way = await two_files(client, root, data)
        copied = (await client.done(*way, op.copy(ANONYMOUS, ANONYMOUS, 100, 7, 5000))).last
        assert copied == (5000, FILE_SYNC, server.volume.verifier.to_bytes(8), True, True)
        assert (await client.done(op.putfh(target), op.read(ANONYMOUS, 0, 1 << 20))).last == (True, bytes(7) + data[100:5100])
        assert (await client.done(*way, op.copy(ANONYMOUS, ANONYMOUS, 0, 0, 0))).last.length == len(data)
        assert (await client.done(op.putfh(target), op.read(ANONYMOUS, 0, 1 << 20))).last == (True, data)
        assert await status(client, *way, op.copy(ANONYMOUS, ANONYMOUS, 0, 0, len(data) + 1)) is Status.INVAL
        assert await status(client, *way, op.copy(ANONYMOUS, ANONYMOUS, 0, 0, 1, servers=1)) is Status.NOTSUPP
        assert await status(client, op.putfh(root), op.savefh(), op.putfh(target), op.copy(ANONYMOUS, ANONYMOUS, 0, 0, 1)) in (
            Status.ISDIR,
            Status.INVAL,
            Status.WRONG_TYPE,
        )

    served(tmp_path, scenario)


def test_a_clone_shares_space(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        data = b"x" * PAGE * 3 + b"end"
        _, target, way = await two_files(client, root, data)
        await client.done(*way, op.clone(ANONYMOUS, ANONYMOUS, 0, 0, 0))
        assert (await client.done(op.putfh(target), op.read(ANONYMOUS, 0, 1 << 20))).last == (True, data)
        await client.done(*way, op.clone(ANONYMOUS, ANONYMOUS, PAGE, 8 * PAGE, PAGE))
        assert await attribute(client, target, "size") == 9 * PAGE
        assert await status(client, *way, op.clone(ANONYMOUS, ANONYMOUS, 1, 0, PAGE)) is Status.INVAL
        assert await status(client, *way, op.clone(ANONYMOUS, ANONYMOUS, 0, 0, 9 * PAGE)) is Status.INVAL

    served(tmp_path, scenario)


def test_no_copy_goes_on_after_its_reply(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f")
        assert await status(client, op.putfh(file), op.offload_status(ANONYMOUS)) is Status.BAD_STATEID
        assert await status(client, op.putfh(file), op.offload_cancel(ANONYMOUS)) is Status.BAD_STATEID
        assert (await client.done(op.putfh(file), op.io_advise(ANONYMOUS, 0, 0, [1, 4]))).last == set()

    served(tmp_path, scenario)


# Extended attributes


def test_xattrs_are_set_listed_and_removed(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        for handle in (await make_file(client, root, "f"), await make_directory(client, root, "d")):
            at = op.putfh(handle)
            before = await attribute(client, handle, "change")
            changed = (await client.done(at, op.setxattr("one", b"1", 1))).last
            assert changed.before == before and changed.after == await attribute(client, handle, "change") != before
            assert await status(client, at, op.setxattr("one", b"2", 1)) is Status.EXIST
            assert await status(client, at, op.setxattr("two", b"2", 2)) is Status.NOXATTR
            await client.done(at, op.setxattr("two", b""))
            await client.done(at, op.setxattr("one", b"", 2))
            await client.done(at, op.setxattr("three", b"3" * 60_000))
            assert (await client.done(at, op.getxattr("one"))).last == b""
            assert (await client.done(at, op.getxattr("three"))).last == b"3" * 60_000
            assert (await client.done(at, op.listxattrs())).last == (3, [b"one", b"three", b"two"], True)
            first = (await client.done(at, op.listxattrs(0, 30))).last
            assert first == (1, [b"one"], False)
            assert (await client.done(at, op.listxattrs(first[0]))).last == (3, [b"three", b"two"], True)
            assert await status(client, at, op.listxattrs(0, 18)) is Status.TOOSMALL
            assert await status(client, at, op.listxattrs(9)) is Status.BAD_COOKIE
            await client.done(at, op.removexattr("two"))
            assert await status(client, at, op.removexattr("two")) is Status.NOXATTR
            assert await status(client, at, op.getxattr("two")) is Status.NOXATTR
            assert await status(client, at, op.setxattr("", b"x")) is Status.INVAL
            assert await status(client, at, op.setxattr("x" * 300, b"x")) is Status.NAMETOOLONG
            assert await status(client, at, op.setxattr("big", b"x" * 70_000)) is Status.XATTR2BIG

    served(tmp_path, scenario)


def test_xattrs_and_smb_s_extended_attributes_are_one_set(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f")
        inode = Inode(await attribute(client, file, "fileid"))  # type: ignore[arg-type]
        target = Stateless(inode, Caller(1000, 1000))
        await client.done(op.putfh(file), op.setxattr("author", b"somebody"))
        found = server.volume.call(GetExtended(target), None, SMB)
        assert found.attributes == [(b"author", b"somebody")]  # type: ignore[union-attr]
        server.volume.call(SetExtended(target, ((b"COLOUR", b"red"),)), None, SMB)
        assert (await client.done(op.putfh(file), op.getxattr("COLOUR"))).last == b"red"

    served(tmp_path, scenario)
