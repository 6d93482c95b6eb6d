"""Snapshots by requests: taken, read, refused, deleted, restored; and what the check says of records that do not agree."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sofs.errors import Busy, Closed, Delayed, Exists, InvalidName, NoSpace, NotFound, ReadOnly, SofsError, Stale
from sofs.runtime.simulated_files import SimulatedFiles
from sofs.runtime.simulated_loop import SimulatedClock, SimulatedLoop, SimulatedRandom
from sofs.types import PAGE, ROOT, Inode, Kind, Lsn, OpenId
from sofs.volume import keys
from sofs.volume.api import (
    Access,
    Changes,
    Close,
    DeleteSnapshot,
    Disposition,
    EndClient,
    GetAttributes,
    Keep,
    ListSnapshots,
    Lock,
    Make,
    MakeSnapshot,
    Open,
    Opened,
    Request,
    RestoreSnapshot,
    SetAttributes,
    SnapshotInfo,
    Stateless,
    Unlock,
)
from sofs.volume.batch import Batch
from tests.unit.volume.rig import done
from tests.unit.volume.volume_rig import ALICE, BY, SUPER, VolumeRig

READ = int(Access.READ_DATA)


def on_volume(scenario: Callable[[VolumeRig], Awaitable[None]]) -> None:
    loop, random = SimulatedLoop(), SimulatedRandom(1)
    rig = VolumeRig(SimulatedFiles(random), SimulatedClock(loop), random)

    async def whole() -> None:
        await rig.make()
        await scenario(rig)
        await rig.clean()
        await rig.close()

    loop.run_until_complete(whole())
    assert not loop.failures


def take(rig: VolumeRig, name: str) -> SnapshotInfo:
    (made,) = rig.call(MakeSnapshot(name)).snapshots
    assert isinstance(made, SnapshotInfo)
    return made


def listed(rig: VolumeRig) -> list[SnapshotInfo]:
    snapshots: list[SnapshotInfo] = rig.call(ListSnapshots()).snapshots
    return snapshots


def past(rig: VolumeRig, number: int, request: Request) -> object:
    return rig.volume.at(number).call(request, None, BY)


def test_snapshots_have_numbers_and_seconds_of_their_own() -> None:
    async def scenario(rig: VolumeRig) -> None:
        made = [take(rig, name) for name in ("a", "b", "c")]
        assert [each.number for each in made] == [1, 2, 3]
        assert len({each.taken // 10_000_000 for each in made}) == 3
        assert all(each.taken % 10_000_000 == 0 for each in made)
        rig.call(DeleteSnapshot(3))
        await rig.volume.run_once()
        assert take(rig, "c").number == 4, "a number is never used twice"
        assert [each.name for each in listed(rig)] == ["a", "b", "c"]

    on_volume(scenario)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "new\nline", "x" * 256, "\ud800"])
def test_a_name_that_cannot_be_a_directory_is_refused(name: str) -> None:
    async def scenario(rig: VolumeRig) -> None:
        with pytest.raises(InvalidName):
            take(rig, name)

    on_volume(scenario)


def test_two_snapshots_have_no_name_in_common_and_a_deleted_one_frees_its() -> None:
    async def scenario(rig: VolumeRig) -> None:
        number = take(rig, "daily").number
        with pytest.raises(Exists):
            take(rig, "daily")
        rig.call(DeleteSnapshot(number))
        take(rig, "daily")
        with pytest.raises(NotFound):
            rig.call(DeleteSnapshot(number))
        with pytest.raises(NotFound):
            rig.volume.at(number)

    on_volume(scenario)


def test_nothing_in_a_snapshot_can_be_changed() -> None:
    async def scenario(rig: VolumeRig) -> None:
        inode = rig.make_name(b"f")
        number = take(rig, "s").number
        view = rig.volume.at(number)
        target = Stateless(inode, SUPER)
        requests: list[Request] = [
            Make(SUPER, ROOT, b"g", Kind.FILE, Changes()),
            SetAttributes(target, Changes(mode=0)),
            Open(SUPER, ROOT, (b"g",), READ, 7, Disposition.OPEN_IF),
            Open(SUPER, ROOT, (b"f",), READ, 7, Disposition.OVERWRITE),
            Open(SUPER, ROOT, (b"f",), int(Access.WRITE_DATA), 7, Disposition.OPEN),
            Open(SUPER, ROOT, (b"f",), READ | int(Access.DELETE), 7, Disposition.OPEN, delete_on_close=True),
            MakeSnapshot("inner"),
            RestoreSnapshot(number),
        ]
        for request in requests:
            with pytest.raises(ReadOnly):
                view.call(request, None, BY)
        with pytest.raises(ReadOnly):
            view.write(target, 0, memoryview(b"x"), None, 0, BY)  # type: ignore[arg-type]
        with pytest.raises(ReadOnly):
            view.at(number)
        opened = past(rig, number, Open(SUPER, ROOT, (b"f",), int(Access.MAXIMUM_ALLOWED), 7, Disposition.OPEN))
        assert isinstance(opened, Opened)
        assert not opened.access & (Access.WRITE_DATA | Access.DELETE) and opened.access & Access.READ_DATA

    on_volume(scenario)


def test_rights_in_a_snapshot_are_those_of_then() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"f", mode=0o644)
        number = take(rig, "s").number
        rig.set_attributes(rig.lookup(b"f").inode, mode=0o600)
        with pytest.raises(SofsError):
            rig.open_name(b"f", access=READ, disposition=Disposition.OPEN, caller=ALICE)
        assert isinstance(past(rig, number, Open(ALICE, ROOT, (b"f",), READ, 7, Disposition.OPEN)), Opened)

    on_volume(scenario)


def test_opens_in_snapshots_share_numbers_with_no_other_and_end_with_their_client() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"f")
        numbers = [take(rig, name).number for name in ("a", "b")]
        seen: set[OpenId] = {rig.open_name(b"f").open}
        for number in numbers:
            request = Open(SUPER, ROOT, (b"f",), READ, 7, Disposition.OPEN, client=b"c", owner=b"o", mandatory=False, keep=Keep(-1))
            opened = past(rig, number, request)
            assert isinstance(opened, Opened)
            seen.add(opened.open)
            past(rig, number, Lock(opened.open, 0, 10, False))
            past(rig, number, Unlock(opened.open, 0, 10))
        assert len(seen) == 3
        end = rig.store.log.end
        rig.call(EndClient(b"c"))
        for number in numbers:
            assert not rig.volume.at(number).core.opens  # type: ignore[attr-defined]
        assert rig.store.log.end == end, "opens in snapshots are in no record"

    on_volume(scenario)


def test_files_can_be_open_in_many_snapshots_at_once() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"f")
        numbers = [take(rig, f"s{index}").number for index in range(20)]
        opens: dict[int, OpenId] = {}
        for number in numbers:
            opened = past(rig, number, Open(SUPER, ROOT, (b"f",), READ, 7, Disposition.OPEN))
            assert isinstance(opened, Opened)
            opens[number] = opened.open
        for number, open in opens.items():
            past(rig, number, Close(open))

    on_volume(scenario)


def test_a_view_is_stale_once_its_snapshot_is_deleted() -> None:
    async def scenario(rig: VolumeRig) -> None:
        inode = rig.make_name(b"f")
        await rig.put(Stateless(inode, SUPER), 0, b"x" * 3 * PAGE)
        number = take(rig, "s").number
        view = rig.volume.at(number)
        opened = view.call(Open(SUPER, ROOT, (b"f",), READ, 7, Disposition.OPEN), None, BY)
        assert isinstance(opened, Opened)
        await rig.put(Stateless(inode, SUPER), 0, b"y" * 3 * PAGE)
        assert listed(rig)[0].held == 3 * PAGE
        rig.call(DeleteSnapshot(number))
        for _ in range(2):
            with pytest.raises(Stale):
                view.call(GetAttributes(Stateless(inode, SUPER)), None, BY)
            with pytest.raises(Stale):
                view.read(opened.open, 0, memoryview(bytearray(PAGE)), BY)
            await rig.volume.run_once()

    on_volume(scenario)


def test_a_snapshot_taken_while_an_extent_is_written_does_not_hold_it() -> None:
    async def scenario(rig: VolumeRig) -> None:
        inode = rig.make_name(b"f")
        target = Stateless(inode, SUPER)
        large = memoryview(b"L" * (4 << 20))
        writing = asyncio.ensure_future(done(rig.volume.write(target, 0, large, None, 0, BY)))  # type: ignore[arg-type]
        numbers: list[int] = []
        while not writing.done():
            await asyncio.sleep(0.0001)
            if rig.data.extents._in_use and len(numbers) < 3:
                numbers.append(take(rig, f"s{len(numbers)}").number)
        await writing
        assert numbers, "the write went the way that this is about"
        for number in numbers:
            found = past(rig, number, GetAttributes(Stateless(inode, SUPER)))
            assert found.attributes.size == 0  # type: ignore[attr-defined]
        await done(rig.set_attributes(inode, size=0))
        assert all(each.held == 0 for each in listed(rig))
        assert next(rig.store.keyspace.walk(keys.DEAD), None) is None, "what was written later is freed at once"

    on_volume(scenario)


# Restoring


def test_a_restored_volume_has_what_the_snapshot_had_and_keeps_what_it_was() -> None:
    async def scenario(rig: VolumeRig) -> None:
        kept, gone = rig.make_name(b"kept"), rig.make_name(b"gone")
        await rig.put(Stateless(kept, SUPER), 0, b"one")
        number = take(rig, "s").number
        change = rig.stat(kept).change
        await rig.put(Stateless(kept, SUPER), 0, b"two")
        rig.remove(b"gone")
        rig.make_name(b"later")
        await rig.later(RestoreSnapshot(number))
        assert rig.names() == {b"kept", b"gone"}
        assert await rig.content(Stateless(kept, SUPER)) == b"one"
        assert rig.stat(kept).change > change + 1, "no client may take it for what it was meanwhile"
        assert rig.stat(gone).kind is Kind.FILE
        assert [each.name for each in listed(rig)] == ["s", "before-restore-1"]
        await rig.later(RestoreSnapshot(listed(rig)[1].number))
        assert rig.names() == {b"kept", b"later"}
        assert await rig.content(Stateless(kept, SUPER)) == b"two"

    on_volume(scenario)


def test_open_files_are_in_the_way_of_a_restoration_unless_it_is_forced() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"f")
        number = take(rig, "s").number
        opened = rig.open_name(b"f")
        doomed = rig.open_name(b"doomed", delete_on_close=True)
        with pytest.raises(Busy):
            rig.call(RestoreSnapshot(number))
        assert len(listed(rig)) == 1, "nothing has been done"
        await rig.later(RestoreSnapshot(number, force=True))
        for each in (opened, doomed):
            with pytest.raises(Closed):
                rig.call(Close(each.open))
        assert rig.names() == {b"f"}

    on_volume(scenario)


def test_nothing_is_answered_while_a_snapshot_is_restored_also_over_a_restart() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"before")
        take(rig, "s")
        rig.make_name(b"after")
        rig.data.snapshots.begin_restoration(1, rig.volume.core.next_number, rig.clock.now())
        with pytest.raises(Delayed):
            rig.names()
        with pytest.raises(Delayed):
            rig.store.keyspace.commit(Batch())
        await rig.reopen()
        with pytest.raises(Delayed):
            rig.names()
        (finding,) = (await rig.check()).findings
        assert "being restored" in finding.what
        await rig.volume.run_once()
        assert rig.names() == {b"before"}

    on_volume(scenario)


# Checking


def plant(rig: VolumeRig, key: bytes, value: bytes) -> None:
    batch = Batch()
    batch.put(key, value)
    rig.store.keyspace.commit(batch)


@pytest.mark.parametrize(
    ("tag", "what"),
    [
        (keys.SAVED_INDEX, "its index lacks"),
        (keys.DEAD, "its index names"),
        (keys.DEAD_COUNT, "dead pages are recorded"),
        (keys.LEAF.lower(), "no saved leaf of that names it"),
    ],
)
def test_a_lost_record_of_a_snapshot_is_found(tag: bytes, what: str) -> None:
    async def scenario(rig: VolumeRig) -> None:
        target = Stateless(rig.make_name(b"f"), SUPER)
        await rig.put(target, 0, b"x" * 2 * PAGE)
        take(rig, "s")
        await rig.put(target, 0, b"y" * 2 * PAGE)
        await rig.clean()
        found = list(rig.store.keyspace.walk(tag))
        assert found
        lost = Batch()
        for key, _ in found:
            lost.delete(key)
        rig.store.keyspace.commit(lost)
        findings = (await rig.check()).findings
        assert any(what in finding.what for finding in findings), findings
        back = Batch()
        for key, value in found:
            back.put(key, value)
        rig.store.keyspace.commit(back)

    on_volume(scenario)


def test_a_page_in_two_dead_lists_and_one_that_lives_there_are_found() -> None:
    async def scenario(rig: VolumeRig) -> None:
        target = Stateless(rig.make_name(b"f"), SUPER)
        await rig.put(target, 0, b"x" * 2 * PAGE)
        take(rig, "s")
        ((leaf, value),) = rig.store.keyspace.walk(keys.LEAF)
        await rig.put(target, 0, b"y" * PAGE)
        (now,) = (value for key, value in rig.store.keyspace.walk(keys.LEAF) if key == leaf)
        plant(rig, leaf, value)
        findings = [finding.what for finding in (await rig.check()).findings]
        assert any("lives" in what for what in findings), findings
        plant(rig, leaf, now)

    on_volume(scenario)


def test_gates_of_answers_from_a_snapshot_wait_for_the_snapshot() -> None:
    async def scenario(rig: VolumeRig) -> None:
        inode = rig.make_name(b"f")
        await rig.store.log.sync()
        number = take(rig, "s").number
        found = past(rig, number, GetAttributes(Stateless(Inode(inode), SUPER)))
        assert found.gate == rig.data.snapshots.get(number).lsn  # type: ignore[attr-defined]
        await rig.store.log.sync()
        found = past(rig, number, GetAttributes(Stateless(Inode(inode), SUPER)))
        assert found.gate == Lsn(0)  # type: ignore[attr-defined]

    on_volume(scenario)


def test_the_background_removes_a_deleted_snapshot_and_ends_a_restoration_by_itself() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.volume.start()
        target = Stateless(rig.make_name(b"f"), SUPER)
        await rig.put(target, 0, b"x" * PAGE)
        first, second = take(rig, "a").number, take(rig, "b").number
        await rig.put(target, 0, b"y" * PAGE)
        rig.call(DeleteSnapshot(first))
        await asyncio.sleep(1)
        assert [int.from_bytes(key[9:]) for key, _ in rig.store.keyspace.walk(keys.SNAPSHOT)] == [second]
        rig.data.snapshots.begin_restoration(second, rig.volume.core.next_number, rig.clock.now())
        await rig.reopen()
        rig.volume.start()
        await asyncio.sleep(1)
        assert await rig.content(Stateless(rig.lookup(b"f").inode, SUPER)) == b"x" * PAGE

    on_volume(scenario)


def test_numbers_that_failed_requests_used_up_are_not_taken_for_files_of_a_snapshot() -> None:
    async def scenario(rig: VolumeRig) -> None:
        # The last number that is reserved, and one more that nobody recorded: its request fails.
        rig.volume.core._next_number = rig.volume.core._reserved_numbers()
        commit = rig.store.keyspace.commit

        def full(*args: object, **named: object) -> Lsn:
            raise NoSpace("the log is full")

        rig.store.keyspace.commit = full  # type: ignore[method-assign, assignment]
        with pytest.raises(NoSpace):
            rig.make_name(b"never")
        rig.store.keyspace.commit = commit  # type: ignore[method-assign]
        first = take(rig, "first")
        await rig.reopen()
        take(rig, "second")
        made = rig.make_name(b"made behind both")
        await rig.clean()
        await rig.later(RestoreSnapshot(first.number))
        with pytest.raises(Stale):
            rig.stat(made)

    on_volume(scenario)
