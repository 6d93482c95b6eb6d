"""Attributes, extended attributes, tokens and grants over a real volume."""

import asyncio

import pytest

from sofs.errors import AccessDenied, Changed, DeletePending, Exists, InvalidName, NameTooLong, NoData, NoSpace
from sofs.locks import HANDLE, READ, WRITE, GrantKind
from sofs.types import ROOT, Kind, Level, Time
from sofs.volume.api import (
    ARCHIVE,
    HIDDEN,
    SPARSE_FILE,
    Access,
    Allocate,
    Changes,
    CheckAccess,
    Clone,
    Copy,
    Disposition,
    Flush,
    GetExtended,
    Make,
    Open,
    Punch,
    Ranges,
    Reply,
    SetAttributes,
    SetExtended,
    Stateless,
    Token,
    Written,
)
from tests.unit.volume.volume_rig import ALICE, BOB, BY, SUPER, VolumeRig, run


def test_times_are_set_apart_and_everything_counts_as_a_change() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x")
        first = rig.stat(file)
        await rig.clock.sleep(1)
        rig.set_attributes(file, created=5, accessed=6, modified=7)
        found = rig.stat(file)
        assert (found.created, found.accessed, found.modified) == (5, 6, 7)
        assert found.changed > first.changed and found.change > first.change
        rig.set_attributes(file, changed=8, flags=HIDDEN | SPARSE_FILE)
        found = rig.stat(file)
        assert (found.changed, found.flags) == (8, HIDDEN)
        rig.set_attributes(file, sparse=True, flags=ARCHIVE)
        assert rig.stat(file).flags == ARCHIVE | SPARSE_FILE

    run(scenario)


def test_a_size_and_the_rest_are_set_at_once() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x")
        await rig.put(Stateless(file, SUPER), 0, b"x" * 10_000)
        reply = await rig.later(SetAttributes(Stateless(file, SUPER), Changes(size=5000, mode=0o600, modified=77)))
        found = rig.stat(file)
        assert (found.size, found.mode, found.modified) == (5000, 0o600, 77)
        assert reply.attributes == found and reply.before[0] == 10_000
        assert await rig.content(Stateless(file, SUPER)) == b"x" * 5000

    run(scenario)


def test_a_guard_keeps_what_others_have_changed() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x")
        seen = rig.stat(file).changed
        await rig.clock.sleep(1)
        rig.set_attributes(file, mode=0o600)
        with pytest.raises(Changed):
            rig.call(SetAttributes(Stateless(file, SUPER), Changes(mode=0o777), guard=seen))

    run(scenario)


def test_an_open_can_keep_its_writes_from_showing() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x")
        rig.call(SetAttributes(opened.open, Changes(modified=9, keep_times=True)))
        await rig.put(opened.open, 0, b"data")
        assert rig.stat(opened.attributes.inode).modified == 9

    run(scenario)


def test_a_time_that_was_set_through_an_open_stays() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x")
        rig.call(SetAttributes(opened.open, Changes(modified=5, changed=6)))
        rig.call(SetAttributes(opened.open, Changes(flags=HIDDEN)))
        found = rig.stat(opened.open, by_open=True)
        assert (found.modified, found.changed, found.flags) == (5, 6, HIDDEN)
        await rig.put(opened.open, 0, b"data")
        assert rig.stat(opened.open, by_open=True).modified == 5
        rig.call(SetAttributes(opened.open, Changes(keep_times=False)))
        await rig.put(opened.open, 0, b"data")
        assert rig.stat(opened.open, by_open=True).modified > 5

    run(scenario)


def test_what_an_open_may_not_set() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x", access=int(Access.READ_DATA))
        for changes in (Changes(size=0), Changes(modified=5), Changes(flags=HIDDEN), Changes(mode=0o777), Changes(uid=7)):
            with pytest.raises(AccessDenied):
                rig.call(SetAttributes(opened.open, changes))

    run(scenario)


def test_a_write_by_another_takes_set_id_bits_away() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o6777, caller=ALICE)
        rig.set_attributes(file, mode=0o6777)
        await rig.put(Stateless(file, BOB), 0, b"x")
        assert rig.stat(file).mode == 0o777
        rig.set_attributes(file, mode=0o4777)
        opened = rig.open_name(b"x", access=int(Access.WRITE_DATA), caller=BOB)
        assert rig.stat(file).mode == 0o4777
        await rig.put(opened.open, 0, b"y")
        assert rig.stat(file).mode == 0o777

    run(scenario)


def test_access_is_told_as_nfs_means_it() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o644, caller=ALICE)
        tool = rig.make_name(b"tool", mode=0o755, caller=ALICE)
        wanted = int(Access.READ_DATA | Access.WRITE_DATA | Access.EXECUTE)
        expected = [
            (file, ALICE, Access.READ_DATA | Access.WRITE_DATA),
            (file, BOB, int(Access.READ_DATA)),
            (file, SUPER, Access.READ_DATA | Access.WRITE_DATA),
            (tool, BOB, Access.READ_DATA | Access.EXECUTE),
            (tool, SUPER, wanted),
        ]
        for inode, caller, rights in expected:
            assert rig.call(CheckAccess(caller, inode, wanted)).granted == rights

    run(scenario)


def test_extended_attributes_are_kept_listed_replaced_and_removed() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x")
        target = Stateless(file, SUPER)
        rig.call(SetExtended(target, ((b"a", b"1"), (b"b", b"22"))))
        assert rig.call(GetExtended(target)).attributes == [(b"a", b"1"), (b"b", b"22")]
        assert rig.stat(file).ea_size == 8 + 1 + 1 + 8 + 1 + 2
        rig.call(SetExtended(target, ((b"a", b""), (b"b", b"3"))))
        assert rig.call(GetExtended(target, (b"b",))).attributes == [(b"b", b"3")]
        with pytest.raises(NoData):
            rig.call(GetExtended(target, (b"a",)))
        with pytest.raises(Exists):
            rig.call(SetExtended(target, ((b"b", b"4"),), create=True))
        with pytest.raises(NoData):
            rig.call(SetExtended(target, ((b"a", b"4"),), replace=True))
        rig.call(SetExtended(target, ((b"b", b""),), replace=True))
        assert rig.call(GetExtended(target)).attributes == [(b"b", b"")]
        for name, error in ((b"", InvalidName), (b"x" * 256, NameTooLong)):
            with pytest.raises(error):
                rig.call(SetExtended(target, ((name, b"1"),)))
        with pytest.raises(NoSpace):
            rig.call(SetExtended(target, ((b"big", b"x" * 70_000),)))
        with pytest.raises(AccessDenied):
            rig.call(SetExtended(Stateless(file, ALICE), ((b"a", b"1"),)))
        opened = rig.open_name(b"new", attributes=((b"EA", b"value"),))
        assert rig.call(GetExtended(opened.open)).attributes == [(b"EA", b"value")]
        rig.remove(b"x")

    run(scenario)


def test_ranges_clones_and_copies_go_by_rights() -> None:
    async def scenario(rig: VolumeRig) -> None:
        source = rig.open_name(b"source", access=int(Access.READ_DATA | Access.WRITE_DATA))
        await rig.put(source.open, 0, b"0123" * 4096)
        target = rig.open_name(b"target", access=int(Access.ALL))
        await rig.later(Clone(source.open, 0, target.open, 0, 16_384))
        assert await rig.content(target.open) == b"0123" * 4096
        await rig.later(Punch(target.open, 4096, 4096))
        assert rig.call(Ranges(target.open, 0, 1 << 20)).ranges == [(0, 4096), (8192, 8192)]
        assert (await rig.later(Copy(source.open, 1, target.open, 3, 100))).length == 100
        assert await rig.content(target.open, 3, 4) == b"1230"
        await rig.later(Allocate(target.open, 16_384, 8192, extend=True))
        assert rig.stat(target.attributes.inode).size == 24_576
        reader = rig.open_name(b"target", access=int(Access.READ_DATA))
        for request in (Clone(source.open, 0, reader.open, 0, 4096), Punch(reader.open, 0, 1), Flush(reader.open)):
            with pytest.raises(AccessDenied):
                await rig.later(request)
        assert rig.call(Flush(target.open)).gate >= 0

    run(scenario)


def test_a_file_that_cannot_fit_is_refused_before_it_is_made() -> None:
    async def scenario(rig: VolumeRig) -> None:
        with pytest.raises(NoSpace):
            rig.open_name(b"x", allocation=1 << 50)
        assert rig.names() == set()

    run(scenario)


def test_a_retried_write_is_answered_and_not_repeated() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x")
        target, token = Stateless(file, SUPER), Token(b"write 1")

        async def write(data: bytes) -> Written:
            done = rig.volume.write(target, 100, memoryview(data), token, Level.COMMITTED, BY)
            return done if isinstance(done, Written) else await done

        first = await write(b"first")
        second = await write(b"other")
        assert first.count == second.count == 5
        assert await rig.content(target, 100, 5) == b"first"

    run(scenario)


def test_retries_of_what_is_under_way_wait_for_the_same_reply() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x")
        target, token = Stateless(file, SUPER), Token(b"write 2")
        await rig.put(target, 0, b"x" * 10_000)
        await rig.settle()
        data = memoryview(b"y" * (1 << 20))
        one = rig.volume.write(target, 0, data, token, Level.STABLE, BY)
        two = rig.volume.write(target, 0, data, token, Level.STABLE, BY)
        if isinstance(one, Written):
            assert isinstance(two, Written)
            return
        assert not isinstance(two, Written)
        before = rig.stat(file).change
        replies = await asyncio.gather(one, two)
        assert replies[0] == replies[1] and rig.stat(file).change == before + 1

    run(scenario)


def test_an_smb_open_waits_for_a_grant_and_an_nfs_one_is_delayed() -> None:
    async def scenario(rig: VolumeRig) -> None:
        from sofs.errors import Delayed

        holder = rig.open_name(b"x", owner=b"lease")
        inode, locks = holder.attributes.inode, rig.volume.core.locks
        given = locks.request(inode, b"lease", GrantKind.LEASE, READ | WRITE | HANDLE)
        assert given is not None and given.rights == READ | WRITE | HANDLE
        access = int(Access.READ_DATA)
        with pytest.raises(Delayed):
            rig.call(Open(SUPER, ROOT, (b"x",), access, 7, Disposition.OPEN, mandatory=False))
        waiting = rig.volume.call(Open(SUPER, ROOT, (b"x",), access, 7, Disposition.OPEN, owner=b"other"), None, BY)
        waiting = asyncio.ensure_future(waiting)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert not waiting.done()
        locks.acknowledge(inode, b"lease", READ | HANDLE)
        opened = await waiting
        assert await rig.content(opened.open) == b""  # type: ignore[attr-defined]
        assert len(locks.state(inode).opens) == 2

    run(scenario)


def test_an_open_that_is_taken_back_while_it_waits_leaves_nothing() -> None:
    async def scenario(rig: VolumeRig) -> None:
        holder = rig.open_name(b"x", owner=b"lease")
        inode, locks = holder.attributes.inode, rig.volume.core.locks
        locks.request(inode, b"lease", GrantKind.LEASE, READ | WRITE | HANDLE)
        request = Open(SUPER, ROOT, (b"x",), int(Access.READ_DATA), 7, Disposition.OPEN, owner=b"other")
        waiting = asyncio.ensure_future(rig.volume.call(request, None, BY))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        locks.acknowledge(inode, b"lease", READ)
        await asyncio.sleep(0.1)
        assert len(locks.state(inode).opens) == 1

    run(scenario)


def test_what_happens_to_names_is_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: VolumeRig) -> None:
        seen: list[tuple[bytes, int]] = []
        monkeypatch.setattr(rig.volume.core, "changed", lambda parent, name, action, inode, kind: seen.append((name, action)))
        rig.make_name(b"a")
        rig.open_name(b"b")
        rig.rename(b"a", b"c")
        rig.remove(b"c")
        assert seen == [(b"a", 1), (b"b", 1), (b"a", 4), (b"c", 5), (b"c", 2)]

    run(scenario)


def test_an_exclusive_make_sees_a_file_that_is_about_to_go() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.open_name(b"x", delete_on_close=True)
        doomed = rig.open_name(b"x")
        [first, _] = list(rig.volume.core.opens)
        rig.close_open(first)
        with pytest.raises(DeletePending):
            rig.call(Make(SUPER, ROOT, b"x", Kind.FILE, Changes(), guarded=False))
        rig.close_open(doomed)

    run(scenario)


def test_what_is_set_while_a_change_of_size_waits_stays_set() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"f", mode=0o666)
        await rig.put(Stateless(file, SUPER), 0, b"x" * 8192)
        rig.set_attributes(file, flags=HIDDEN)
        await rig.settle()
        found = rig.stat(file)
        for size, changes in ((5000, Changes(uid=1002)), (100, Changes(mode=0o640, accessed=Time(5)))):
            await rig.settle()
            rig.files.miss = 1.0  # so that the page which the new end cuts takes time to read
            changes.size = size
            waiting = rig.volume.call(SetAttributes(Stateless(file, SUPER), changes), None, BY)
            assert not isinstance(waiting, Reply)
            rig.set_attributes(file, mode=0o600, flags=ARCHIVE, created=Time(7), gid=3000)
            await waiting
            found = rig.stat(file)
            assert (found.size, found.uid, found.gid, found.flags & 0xFF, found.created) == (size, 1002, 3000, ARCHIVE, 7)
            assert found.mode == (0o600 if changes.mode is None else 0o640)
        assert found.accessed == 5

    run(scenario)


def test_a_stream_can_go_while_a_change_of_owner_waits() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"f", mode=0o666)
        await rig.put(Stateless(file, SUPER), 0, b"x" * 8192)
        stream = rig.open_name(b"f", stream=b"s", delete_on_close=True)
        await rig.settle()
        rig.files.miss = 1.0
        waiting = rig.volume.call(SetAttributes(Stateless(file, SUPER), Changes(uid=1002, size=5000)), None, BY)
        assert not isinstance(waiting, Reply)
        rig.close_open(stream)
        await waiting
        assert (rig.stat(file).size, rig.stat(file).uid) == (5000, 1002)
        rig.make_name(b"g")

    run(scenario)


def test_a_mode_set_while_a_strangers_write_waits_stays_set_but_for_the_set_id_bits() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"f", mode=0o777)
        await rig.put(Stateless(file, SUPER), 0, b"x" * 8192)
        rig.set_attributes(file, mode=0o6777)
        await rig.settle()
        rig.files.miss = 1.0
        waiting = rig.volume.call(SetAttributes(Stateless(file, ALICE), Changes(size=100)), None, BY)
        assert not isinstance(waiting, Reply)
        rig.set_attributes(file, mode=0o6711)
        await waiting
        assert rig.stat(file).mode == 0o711

    run(scenario)
