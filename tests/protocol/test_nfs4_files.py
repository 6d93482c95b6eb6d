"""NFSv4.1 and 4.2: filehandles, attributes, names, listings, ACLs, over real connections against a real volume."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest

from gateways.exports import Client, NfsOptions, Share, Squash
from gateways.nfs.mount import MountStatus
from gateways.nfs.v3.messages import MountPath
from gateways.nfs.v4.status import Status
from sofs.types import Inode
from sofs.volume import security
from sofs.volume.api import Binding, Caller, GetSecurity, MakeSnapshot, SetSecurity, Stateless, Text
from sofs.volume.security import Ace as NtAce
from sofs.volume.security import sid_bytes
from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_client import Nfs4Client
from tests.protocol.nfs4_scenes import FIFO, LINK, attribute, make_directory, make_file, names_in, only_directories_are_looked_into, served, status
from tests.protocol.nfs4_xdr import ANONYMOUS, CURRENT, Ace, Op, words
from tests.protocol.nfs_client import RpcClient
from tests.protocol.nfs_types import MOUNT
from tests.served import OPEN, VOLUME, Served

DIRECTORY, BLOCK, CHARACTER, SOCKET = 2, 3, 4, 6


# Filehandles


def test_the_way_down_and_up_again(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        inner = await make_directory(client, root, "inner")
        top = (await client.done(op.putrootfh(), op.getfh())).last
        assert top == (await client.done(op.putpubfh(), op.getfh())).last
        way = [op.putrootfh(), op.lookup("data"), op.lookup("inner"), op.getfh(), op.lookupp(), op.getfh(), op.lookupp(), op.getfh()]
        result = await client.done(*way)
        assert [value for number, _, value in result.operations if number == 10] == [inner, root, top]
        assert await status(client, op.putrootfh(), op.lookupp()) is Status.NOENT

    served(tmp_path, scenario)


def test_saved_and_current_filehandles(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        result = await client.done(op.putfh(root), op.savefh(), op.putrootfh(), op.restorefh(), op.getfh())
        assert result.last == root
        assert await status(client, op.getfh()) is Status.NOFILEHANDLE
        assert await status(client, op.savefh()) is Status.NOFILEHANDLE
        assert await status(client, op.putrootfh(), op.restorefh()) is Status.NOFILEHANDLE
        assert await status(client, op.putfh(root), op.link("x")) is Status.NOFILEHANDLE

    served(tmp_path, scenario)


def test_handles_that_are_none_and_handles_of_what_is_gone(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        assert await status(client, op.putfh(b"abc")) is Status.BADHANDLE
        assert await status(client, op.putfh(root[:-1] + bytes([root[-1] ^ 1]))) is Status.BADHANDLE
        gone = await make_directory(client, root, "gone")
        await client.done(op.putfh(root), op.remove("gone"))
        assert await status(client, op.putfh(gone), op.getattr_("type")) is Status.STALE

    served(tmp_path, scenario)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"", Status.INVAL),
        (b".", Status.BADNAME),
        (b"..", Status.BADNAME),
        (b"a/b", Status.BADNAME),
        (b"a\0b", Status.BADCHAR),
        (b"x" * 1500, Status.NAMETOOLONG),
        (b"nothing", Status.NOENT),
    ],
)
def test_names_that_lead_nowhere(tmp_path: Path, name: bytes, expected: Status) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        assert await status(client, op.putrootfh(), op.lookup(name)) is expected
        assert await status(client, op.putfh(root), op.lookup(name)) is expected
        assert await status(client, op.putfh(root), op.remove(name)) is expected
        assert await status(client, op.putfh(root), op.savefh(), op.rename(name, "to")) is expected
        if expected is not Status.NOENT:
            assert await status(client, op.putfh(root), op.create(DIRECTORY, name)) is expected

    served(tmp_path, scenario)


def test_only_directories_are_looked_into(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        await only_directories_are_looked_into(client, root)

    served(tmp_path, scenario)


def test_lookupp_does_not_lead_out_of_an_export_from_what_was_moved_out_of_it(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        part = await make_directory(client, root, "part", 0o777)
        await make_directory(client, root, "elsewhere", 0o777)
        inode = await attribute(client, part, "fileid")
        server.shares.replace([*server.shares.all(), Share("part", 2, VOLUME, Inode(inode), nfs=OPEN)])  # type: ignore[arg-type]
        inside = await client.root("part")
        deep = await make_directory(client, await make_directory(client, inside, "moved", 0o777), "deep")
        assert (await client.done(op.putfh(deep), op.lookupp(), op.lookupp(), op.getfh())).last == inside
        move = [op.putfh(root), op.lookup("part"), op.savefh(), op.putfh(root), op.lookup("elsewhere"), op.rename("moved", "moved")]
        await client.done(*move)
        assert await status(client, op.putfh(deep), op.lookupp()) is Status.STALE

    served(tmp_path, scenario)


# The directory above the exports


def test_the_pseudo_root_lists_the_exports_and_each_is_another_file_system(tmp_path: Path) -> None:
    shares = [Share("one", 1, VOLUME, nfs=OPEN), Share("two", 2, VOLUME, nfs=OPEN), Share("zero", 3, VOLUME, nfs=NfsOptions(clients=()))]

    async def scenario(server: Served, client: Nfs4Client, one: bytes) -> None:
        wanted = ("type", "fsid", "fileid", "mounted_on_fileid", "filehandle", "rdattr_error")
        entries, end, _ = (await client.done(op.putrootfh(), op.readdir(0, *wanted))).last
        assert [entry.name for entry in entries] == [b"one", b"two"] and end
        top = (await client.done(op.putrootfh(), op.getattr_("fsid", "fileid", "change_attr_type", "supported_attrs", "xattr_support"))).last
        assert top["change_attr_type"] == 4
        assert len({top["fsid"], *(entry.attributes["fsid"] for entry in entries)}) == 3
        assert entries[0].attributes["filehandle"] == one
        for entry in entries:
            inside = (await client.done(op.putrootfh(), op.lookup(entry.name), op.getattr_(*wanted[:-1]))).last
            assert inside == {name: entry.attributes[name] for name in wanted[:-1]}
            assert inside["fileid"] == 1 and inside["mounted_on_fileid"] not in (1, top["fileid"])
        first = (await client.done(op.putrootfh(), op.readdir(0, maxcount=60))).last
        assert [entry.name for entry in first[0]] == [b"one"] and not first[1]
        rest = (await client.done(op.putrootfh(), op.readdir(first[0][0].cookie))).last
        assert [entry.name for entry in rest[0]] == [b"two"] and rest[1]
        assert await status(client, op.putrootfh(), op.lookup("zero")) is Status.NOENT

    served(tmp_path, scenario, shares)


def test_nothing_is_changed_above_the_exports(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        changing = [op.create(DIRECTORY, "x"), op.remove("data"), op.setattr_(mode=0), op.open_("x", clientid=client.clientid, how="unchecked")]
        for each in changing:
            assert await status(client, op.putrootfh(), each) is Status.ROFS, each.number
        assert await status(client, op.putrootfh(), op.savefh(), op.rename("data", "other")) is Status.ROFS
        assert (await client.done(op.putrootfh(), op.access(0x3F))).last == (0x1F, 0x3)

    served(tmp_path, scenario)


def test_one_operation_does_not_reach_over_two_exports(tmp_path: Path) -> None:
    shares = [Share("one", 1, VOLUME, nfs=OPEN), Share("two", 2, VOLUME, nfs=OPEN)]

    async def scenario(server: Served, client: Nfs4Client, one: bytes) -> None:
        two = await client.root("two")
        file = await make_file(client, one, "f", b"x")
        assert await status(client, op.putfh(one), op.savefh(), op.putfh(two), op.rename("f", "g")) is Status.XDEV
        assert await status(client, op.putfh(file), op.savefh(), op.putfh(two), op.link("g")) is Status.XDEV
        other = (await client.done(op.putfh(two), op.lookup("f"), op.getfh())).last
        assert await status(client, op.putfh(file), op.savefh(), op.putfh(other), op.copy(ANONYMOUS, ANONYMOUS, 0, 0, 0)) is Status.XDEV

    served(tmp_path, scenario, shares)


def test_a_read_only_export_is_only_read(tmp_path: Path) -> None:
    read_only = NfsOptions(clients=(Client("127.0.0.0/8", read_only=True, squash=Squash.NONE),))
    shares = [Share("data", 1, VOLUME, nfs=OPEN), Share("fixed", 2, VOLUME, nfs=read_only)]

    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        await make_file(client, root, "f", b"x", 0o666)
        fixed = await client.root("fixed")
        file = (await client.done(op.putfh(fixed), op.lookup("f"), op.getfh())).last
        assert (await client.done(op.putfh(file), op.read(ANONYMOUS, 0, 1))).last == (True, b"x")
        assert (await client.done(op.putfh(file), op.access(0x1FF))).last == (0x1ED, 0x141)
        for each in (
            op.write(ANONYMOUS, 0, b"y"),
            op.setattr_(size=0),
            op.setxattr("a", b"b"),
            op.allocate(ANONYMOUS, 0, 1),
            op.deallocate(ANONYMOUS, 0, 1),
        ):
            assert await status(client, op.putfh(file), each) is Status.ROFS, each.number
        for each in (op.create(DIRECTORY, "d"), op.remove("f")):
            assert await status(client, op.putfh(fixed), each) is Status.ROFS, each.number
        assert await status(client, op.putfh(fixed), op.savefh(), op.rename("f", "g")) is Status.ROFS

    served(tmp_path, scenario, shares)


def test_an_export_for_privileged_ports_is_not_there_for_others(tmp_path: Path) -> None:
    guarded = NfsOptions(clients=OPEN.clients, require_privileged_port=True)
    shares = [Share("data", 1, VOLUME, nfs=OPEN), Share("guarded", 2, VOLUME, nfs=guarded)]

    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        assert await names_in(client, (await client.done(op.putrootfh(), op.getfh())).last) == [b"data"]
        assert await status(client, op.putrootfh(), op.lookup("guarded")) is Status.NOENT
        async with await RpcClient.connect(server.port) as old:
            assert (await old.call(MOUNT, 1, MountPath(b"/guarded"))).status == MountStatus.ACCES

    served(tmp_path, scenario, shares)


# Attributes


def test_attributes_are_set_and_read_back(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"0123456789")
        before = await attribute(client, file, "change")
        setting = op.setattr_(size=4, mode=0o640, time_access_set=(1000, 100), time_modify_set=(2000, 200), hidden=True, time_create=(5, 0))
        assert (await client.done(op.putfh(file), setting)).last == {4, 25, 33, 48, 50, 54}
        wanted = ("type", "size", "mode", "owner", "owner_group", "numlinks", "time_access", "hidden", "archive", "time_create", "change")
        got = (await client.done(op.putfh(file), op.getattr_(*wanted))).last
        assert got.pop("change") > before
        assert got.pop("time_create") == (5, 0)
        assert got == {
            "type": 1, "size": 4, "mode": 0o640, "owner": b"1000", "owner_group": b"1000", "numlinks": 1, "time_access": (1000, 100),
            "hidden": True, "archive": got["archive"],
        }  # fmt: skip
        assert (await client.done(op.putfh(file), op.read(ANONYMOUS, 0, 100))).last == (True, b"0123")
        await client.done(op.putfh(file), op.setattr_(time_modify_set=(2000, 200)))
        assert await attribute(client, file, "time_modify") == (2000, 200)
        await client.done(op.putfh(file), op.setattr_(hidden=False, mode_set_masked=(0o004, 0o007)))
        assert await attribute(client, file, "hidden") is False and await attribute(client, file, "mode") == 0o644
        assert (await client.done(op.putfh(file), op.setattr_())).last == set()

    served(tmp_path, scenario)


def test_attributes_that_cannot_be_set_or_are_none(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f")
        raw = words([20]) + (8).to_bytes(4) + bytes(8)
        assert await status(client, op.putfh(file), op.setattr_(raw=raw)) is Status.INVAL
        assert await status(client, op.putfh(file), op.setattr_(raw=words([24]) + bytes(4))) is Status.ATTRNOTSUPP
        assert await status(client, op.putfh(file), op.setattr_(raw=words([33]) + bytes(4))) is Status.BADXDR
        assert await status(client, op.putfh(file), op.setattr_(owner=b"stranger@nowhere")) is Status.BADOWNER
        assert await status(client, op.putfh(file), op.setattr_(owner=b"77")) is Status.PERM
        assert await status(client, op.putfh(file), op.getattr_("time_modify_set")) is Status.INVAL
        assert (await client.done(op.putfh(file), op.getattr_numbers([24, 40, 80, 200]))).last == {}
        assert await status(client, op.putfh(root), op.setattr_(size=1)) is Status.ISDIR

    served(tmp_path, scenario)


def test_what_a_filehandle_s_attributes_say_of_its_file_system(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        supported = await attribute(client, root, "supported_attrs")
        assert isinstance(supported, set)
        everything = (await client.done(op.putfh(root), op.getattr_numbers(sorted(supported - {48, 54, 74})))).last
        assert everything["space_total"] >= everything["space_avail"] > 0
        assert everything["filehandle"] == root and everything["lease_time"] >= 1
        assert everything["maxread"] == everything["maxwrite"] == 1 << 20
        assert everything["unique_handles"] and everything["xattr_support"] and everything["change_attr_type"] == 0

    served(tmp_path, scenario)


def test_minor_version_1_has_no_attributes_and_operations_of_2(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        supported = await attribute(client, root, "supported_attrs")
        assert isinstance(supported, set) and max(supported) <= 76
        assert await status(client, op.putfh(root), op.listxattrs()) is Status.OP_ILLEGAL

    served(tmp_path, scenario, minor=1)


def test_verify_and_nverify(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"12345")
        assert await status(client, op.putfh(file), op.verify(size=5, owner=b"1000")) is Status.OK
        assert await status(client, op.putfh(file), op.verify(size=6)) is Status.NOT_SAME
        assert await status(client, op.putfh(file), op.nverify(size=6)) is Status.OK
        assert await status(client, op.putfh(file), op.nverify(size=5)) is Status.SAME
        assert await status(client, op.putfh(file), op.verify(time_modify_set=(1, 1))) is Status.INVAL
        assert await status(client, op.putfh(file), op.verify(rdattr_error=0)) is Status.INVAL
        assert await status(client, op.putrootfh(), op.verify(type=2)) is Status.OK

    served(tmp_path, scenario)


def test_access_tells_what_this_user_may(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", mode=0o640)
        inner = await make_directory(client, root, "d", 0o750)
        async with await Nfs4Client.connect(server.port, uid=2000, gid=2000) as other:
            assert (await client.done(op.putfh(file), op.access(0x3F))).last == (0x2D, 0x0D)
            assert (await client.done(op.putfh(inner), op.access(0x3F))).last == (0x1F, 0x1F)
            assert (await other.done(op.putfh(file), op.access(0x3F))).last == (0x2D, 0)
            assert (await other.done(op.putfh(inner), op.access(0x1FF))).last == (0x1DF, 0)

    served(tmp_path, scenario)


# ACLs


def test_an_acl_decides_and_shows_in_the_mode_and_chmod_replaces_it(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"secret", 0o600)
        async with await Nfs4Client.connect(server.port, uid=2000, gid=2000) as other:
            assert await status(other, op.putfh(file), op.read(ANONYMOUS, 0, 6)) is Status.ACCESS
            acl = [Ace(0, 0, 0x1601BF, b"OWNER@"), Ace(0, 0, 0x120089, b"2000"), Ace(0, 0x40, 0x120088, b"GROUP@")]
            assert (await client.done(op.putfh(file), op.setattr_(acl=acl))).last == {12}
            assert (await other.done(op.putfh(file), op.read(ANONYMOUS, 0, 6))).last == (True, b"secret")
            assert await status(other, op.putfh(file), op.write(ANONYMOUS, 0, b"x")) is Status.ACCESS
            assert await attribute(client, file, "acl") == acl
            assert await attribute(client, file, "mode") == 0o700
            await client.done(op.putfh(file), op.setattr_(mode=0o604))
            assert (await other.done(op.putfh(file), op.read(ANONYMOUS, 0, 6))).last == (True, b"secret")
            await client.done(op.putfh(file), op.setattr_(mode=0o600))
            assert await status(other, op.putfh(file), op.read(ANONYMOUS, 0, 6)) is Status.ACCESS
            assert await status(other, op.putfh(file), op.setattr_(acl=acl)) is Status.ACCESS

    served(tmp_path, scenario)


def test_a_new_directory_may_have_an_acl_that_its_files_inherit(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        acl = [Ace(0, 0x3, 0x1F01FF, b"OWNER@"), Ace(0, 0x3, 0x1200A9, b"2000")]
        made = await client.done(op.putfh(root), op.create(DIRECTORY, "d", acl=acl), op.getfh())
        assert made.value(6)[1] == {12}
        opening = op.open_("f", clientid=client.clientid, how="unchecked")
        await client.done(op.putfh(made.last), opening, op.write(CURRENT, 0, b"data"), op.close(CURRENT))
        async with await Nfs4Client.connect(server.port, uid=2000, gid=2000) as other:
            got = await other.done(op.putfh(made.last), op.lookup("f"), op.read(ANONYMOUS, 0, 4))
            assert got.last == (True, b"data")
        shown = await attribute(client, made.last, "acl")
        assert shown == [Ace(0, 0, 0x1F01FF, b"OWNER@"), Ace(0, 0xB, 0x1F01FF, b"OWNER@"), Ace(0, 0x3, 0x1200A9, b"2000")]
        entries = (await client.done(op.putfh(root), op.readdir(0, "acl", "mode"))).last[0]
        assert [entry.attributes["acl"] for entry in entries] == [shown]

    served(tmp_path, scenario)


def test_nt_s_descriptor_and_the_acl_are_two_views_of_one_object(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        directory = await make_directory(client, root, "d")
        number = await attribute(client, directory, "fileid")
        target = Stateless(Inode(number), Caller(1000, 1000))  # type: ignore[arg-type]
        by = Binding(9, 9)
        # As Explorer writes them: inherited behind explicit, the creator's entry for what is made inside.
        sids = [sid_bytes(sid) for sid in ("S-1-22-1-2000", "S-1-5-21-7-8-9-1234", "S-1-3-0", "S-1-1-0")]
        dacl = (NtAce(1, 0, 0x2, sids[0]), NtAce(0, 0x3, 0x1200A9, sids[1]), NtAce(0, 0xB, 0x1F01FF, sids[2]), NtAce(0, 0x13, 0x1200A9, sids[3]))
        given = security.encode(security.Descriptor(0x1504, None, None, dacl, None))
        server.volume.call(SetSecurity(target, 4, given), None, by)
        assert await attribute(client, directory, "dacl") == (
            3,
            [
                Ace(1, 0, 0x2, b"2000"),
                Ace(0, 0x3, 0x1200A9, b"S-1-5-21-7-8-9-1234"),
                Ace(0, 0xB, 0x1F01FF, b"OWNER@"),
                Ace(0, 0x83, 0x1200A9, b"EVERYONE@"),
            ],
        )
        shown = await attribute(client, directory, "acl")
        await client.done(op.putfh(directory), op.setattr_(dacl=(3, shown)))
        text = server.volume.call(GetSecurity(target, 4), None, by)
        assert isinstance(text, Text)
        kept = security.decode(text.text)
        assert kept.dacl == dacl and kept.control & 0x1400 == 0x1400

    served(tmp_path, scenario)


# Names


def test_everything_but_regular_files_is_created(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        for kind, name in ((DIRECTORY, "d"), (SOCKET, "s"), (FIFO, "p")):
            change, _ = (await client.done(op.putfh(root), op.create(kind, name, mode=0o700))).last
            assert change.atomic and change.after > change.before
            assert (await client.done(op.putfh(root), op.lookup(name), op.getattr_("type", "mode"))).last == {"type": kind, "mode": 0o700}
        await client.done(op.putfh(root), op.create(LINK, "l", target=b"../some\xc3\xa4where"))
        assert (await client.done(op.putfh(root), op.lookup("l"), op.readlink())).last == b"../some\xc3\xa4where"
        assert await status(client, op.putfh(root), op.create(BLOCK, "b", device=(8, 1))) is Status.PERM
        assert await status(client, op.putfh(root), op.create(1, "r")) is Status.BADTYPE
        assert await status(client, op.putfh(root), op.create(9, "r")) is Status.BADTYPE
        assert await status(client, op.putfh(root), op.create(DIRECTORY, "d")) is Status.EXIST
        assert await status(client, op.putfh(root), op.create(DIRECTORY, "e", size=1)) is Status.INVAL
        async with await Nfs4Client.connect(server.port, uid=0, gid=0) as superuser:
            await superuser.done(op.putfh(root), op.create(CHARACTER, "c", device=(5, 1)))
            got = await superuser.done(op.putfh(root), op.lookup("c"), op.getattr_("type", "rawdev"))
            assert got.last == {"type": CHARACTER, "rawdev": (5, 1)}

    served(tmp_path, scenario)


def test_change_info_says_what_getattr_says(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        one, two = await make_directory(client, root, "one"), await make_directory(client, root, "two")
        before = await attribute(client, one, "change"), await attribute(client, two, "change")
        file = await make_file(client, one, "f")
        middle = await attribute(client, one, "change")
        source, target = (await client.done(op.putfh(one), op.savefh(), op.putfh(two), op.rename("f", "g"))).last
        assert (source.before, target.before) == (middle, before[1]) and middle > before[0]  # type: ignore[operator]
        assert (source.after, target.after) == (await attribute(client, one, "change"), await attribute(client, two, "change"))
        linked = (await client.done(op.putfh(file), op.savefh(), op.putfh(one), op.link("again"))).last
        assert linked.before == source.after and await attribute(client, file, "numlinks") == 2
        removed = (await client.done(op.putfh(one), op.remove("again"))).last
        assert removed == (True, linked.after, await attribute(client, one, "change"))

    served(tmp_path, scenario)


def test_remove_takes_files_and_empty_directories(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        inner = await make_directory(client, root, "d")
        await make_file(client, inner, "f")
        assert await status(client, op.putfh(root), op.remove("d")) is Status.NOTEMPTY
        await client.done(op.putfh(inner), op.remove("f"))
        await client.done(op.putfh(root), op.remove("d"))
        assert await names_in(client, root) == []

    served(tmp_path, scenario)


def test_rename_replaces_what_is_of_its_kind(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        await make_directory(client, root, "empty")
        full = await make_directory(client, root, "full")
        await make_file(client, full, "f")
        await make_file(client, root, "a", b"a")
        await make_file(client, root, "b", b"b")

        def move(old: str, new: str) -> tuple[Op, ...]:
            return op.putfh(root), op.savefh(), op.rename(old, new)

        assert await status(client, *move("a", "empty")) in (Status.ISDIR, Status.EXIST)
        assert await status(client, *move("empty", "a")) in (Status.NOTDIR, Status.EXIST)
        assert await status(client, *move("empty", "full")) in (Status.NOTEMPTY, Status.EXIST)
        assert await status(client, *move("full", "empty")) is Status.OK
        assert await status(client, *move("a", "b")) is Status.OK
        assert await status(client, *move("a", "b")) is Status.NOENT
        assert await names_in(client, root) == [b"b", b"empty"]
        assert (await client.done(op.putfh(root), op.lookup("b"), op.read(ANONYMOUS, 0, 9))).last == (True, b"a")

    served(tmp_path, scenario)


def test_a_listing_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        names = {f"file number {number}" for number in range(60)}
        for name in sorted(names):
            await client.done(op.putfh(root), op.create(FIFO, name))
        seen: list[str] = []
        cookie, end = 0, False
        while not end:
            entries, end, _ = (await client.done(op.putfh(root), op.readdir(cookie, "fileid", "type", maxcount=700))).last
            assert entries and all(entry.cookie > 2 for entry in entries)
            seen += [entry.name.decode() for entry in entries]
            cookie = entries[-1].cookie
        assert sorted(seen) == sorted(names)
        assert (await client.done(op.putfh(root), op.readdir(cookie))).last[:2] == ([], True)
        assert await status(client, op.putfh(root), op.readdir(0, maxcount=30)) is Status.TOOSMALL
        assert await status(client, op.putfh(root), op.readdir(1)) is Status.BAD_COOKIE
        assert await status(client, op.putfh(root), op.readdir(0, "time_access_set")) is Status.INVAL

    served(tmp_path, scenario)


def test_a_listing_has_the_attributes_and_handles_of_its_entries(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"12345")
        wanted = ("type", "size", "fileid", "filehandle", "owner", "mode", "space_total", "mounted_on_fileid", "time_modify", "numlinks")
        ((entry,), _, _) = (await client.done(op.putfh(root), op.readdir(0, *wanted))).last
        assert entry.attributes == (await client.done(op.putfh(file), op.getattr_(*wanted))).last
        assert entry.attributes["filehandle"] == file and entry.attributes["size"] == 5

    served(tmp_path, scenario)


# Snapshots


def test_snapshots_are_read_only_file_systems_below_dot_snapshot(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        inner = await make_directory(client, root, "inner")
        file = await make_file(client, inner, "f", b"then")
        for name in ("first", "second"):
            made = server.volume.call(MakeSnapshot(name), None, Binding(1, 1))
            if isinstance(made, Awaitable):
                await made
        await client.done(op.putfh(file), op.write(ANONYMOUS, 0, b"now!"))
        listing = await client.done(op.putfh(root), op.lookup(".snapshot"), op.getfh(), op.readdir(0, "fsid", "filehandle", "fileid", "type"))
        entries = listing.last[0]
        assert sorted(entry.name for entry in entries) == [b"first", b"second"]
        then = (await client.done(op.putfh(root), op.lookup(".snapshot"), op.lookup("first"), op.getfh(), op.getattr_("fsid", "type"))).operations
        handle, shown = then[-2][2], then[-1][2]
        (first,) = [entry for entry in entries if entry.name == b"first"]
        assert first.attributes["filehandle"] == handle and first.attributes["fsid"] == shown["fsid"] != await attribute(client, root, "fsid")
        got = await client.done(op.putfh(handle), op.lookup("inner"), op.lookup("f"), op.read(ANONYMOUS, 0, 9), op.getfh())
        assert got.value(25) == (True, b"then")
        assert await status(client, op.putfh(got.last), op.write(ANONYMOUS, 0, b"x")) is Status.ROFS
        assert await status(client, op.putfh(handle), op.remove("inner")) is Status.ROFS
        assert (await client.done(op.putfh(handle), op.lookupp(), op.getfh(), op.lookupp(), op.getfh())).last == root
        up = (await client.done(op.putfh(handle), op.lookup("inner"), op.lookupp(), op.getfh())).last
        assert up == handle
        assert await status(client, op.putfh(root), op.create(DIRECTORY, ".snapshot")) is Status.EXIST
        made = op.open_(".snapshot", clientid=client.clientid, how="unchecked")
        assert await status(client, op.putfh(root), made) is Status.EXIST
        assert await status(client, op.putfh(root), op.savefh(), op.rename("inner", ".snapshot")) is Status.EXIST
        assert await names_in(client, root) == [b"inner"], "it is not listed"

    served(tmp_path, scenario)


def test_a_snapshot_and_the_living_tree_are_different_file_systems(tmp_path: Path) -> None:
    """A copy, a link or a rename would otherwise take the living file of the same number for the one as of the snapshot."""

    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        file = await make_file(client, root, "f", b"then")
        other = await make_file(client, root, "g")
        made = server.volume.call(MakeSnapshot("first"), None, Binding(1, 1))
        if isinstance(made, Awaitable):
            await made
        await client.done(op.putfh(file), op.write(ANONYMOUS, 0, b"now!"))
        then = [op.putfh(root), op.lookup(".snapshot"), op.lookup("first")]
        from_then = [*then, op.lookup("f"), op.savefh(), op.putfh(other)]
        for operation in (op.copy(ANONYMOUS, ANONYMOUS, 0, 0, 4), op.clone(ANONYMOUS, ANONYMOUS, 0, 0, 0)):
            assert await status(client, *from_then, operation) is Status.XDEV
        assert await status(client, *then, op.lookup("f"), op.savefh(), op.putfh(root), op.link("h")) is Status.XDEV
        assert await status(client, *then, op.savefh(), op.putfh(root), op.rename("f", "i")) is Status.XDEV
        assert await names_in(client, root) == [b"f", b"g"]

    served(tmp_path, scenario)
