"""Opens that outlive their connection: records that follow them, disconnection and reconnection, restarts, fences."""

import asyncio
from typing import Any

import pytest

from sofs.errors import Closed, Delayed, DeletePending, Fenced, Grace, LockConflict, NoSpace, NotFound
from sofs.locks import GrantKind
from sofs.types import ROOT, OpenId, Time
from sofs.volume import keys
from sofs.volume.api import (
    Acknowledge,
    Binding,
    Bound,
    Changes,
    Disconnect,
    EndGrace,
    Keep,
    Lock,
    Reconnect,
    Remove,
    Rename,
    Retain,
    SetAttributes,
    SetDisposition,
    Unlock,
)
from tests.unit.volume.state_rig import DELETE, NFS, RH, RW, RWH, SMB, WRITES, R, StateRig, run
from tests.unit.volume.volume_rig import SUPER

DURABLE = Keep(60_000)
PERSISTENT = Keep(60_000, persistent=True)
LATER = Binding(2, 1)
RECORDS = (keys.OPEN, keys.RANGE, keys.LOCKS, keys.GRANT, keys.PENDING)


def test_an_open_that_is_not_kept_costs_no_record() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.make_name(b"f")
        before = rig.store.log.end
        opened = rig.smb(rights=RWH, key=b"a")
        rig.lock(opened.open, 0, 10)
        rig.unlock(opened.open, 0, 10)
        rig.lock(opened.open, 0, 10)
        assert rig.records(*RECORDS) == []
        rig.shut(opened)
        assert rig.store.log.end == before, "nor a byte of the log"

    run(scenario)


def test_an_nfs_open_costs_one_small_record_and_its_removal() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.make_name(b"f")
        rig.shut(rig.nfs())
        before = rig.store.log.end
        opened = rig.nfs()
        assert len(rig.records(*RECORDS)) == 1
        middle = rig.store.log.end
        rig.shut(opened)
        assert rig.records(*RECORDS) == []
        assert middle - before < 450 and rig.store.log.end - middle < 150

    run(scenario)


@pytest.mark.parametrize(
    ("keep", "rights", "kind", "kept"),
    [
        (DURABLE, RWH, GrantKind.LEASE, True),
        (DURABLE, RH, GrantKind.LEASE, True),
        (DURABLE, RW, GrantKind.LEASE, False),
        (DURABLE, RWH, GrantKind.OPLOCK, True),
        (DURABLE, RW, GrantKind.OPLOCK, False),
        (DURABLE, None, GrantKind.LEASE, False),
        (PERSISTENT, None, GrantKind.LEASE, True),
        (None, RWH, GrantKind.LEASE, False),
    ],
)
def test_durable_is_what_may_keep_its_handle_and_persistent_what_is_to_be(keep: Keep | None, rights: int | None, kind: GrantKind, kept: bool) -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=rights, kind=kind, keep=keep, key=b"a" if kind is GrantKind.LEASE else b"")
        assert opened.keep_ms == (60_000 if kept else 0)
        assert bool(rig.records(keys.OPEN)) == kept
        rig.disconnect(opened)
        assert (opened.open in rig.volume.core.opens) == kept

    run(scenario)


def test_its_owner_comes_back_to_all_it_had() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE, guid=b"guid", stream=b"")
        rig.lock(opened.open, 5, 10)
        await rig.put(opened.open, 0, b"abc")
        rig.disconnect(opened)
        await asyncio.sleep(59)
        back = rig.reconnect(opened, b"a", guid=b"guid", by=LATER)
        assert (back.open, back.grant, back.epoch, back.access, back.keep_ms) == (opened.open, RWH, opened.epoch, opened.access, 60_000)
        assert back.attributes.size == 3 and back.path == (b"f",)
        await asyncio.sleep(100)
        other = rig.asking(rig.smb_request(rights=R, key=b"b"))
        assert rig.told.take() == [(b"a", RWH, RH)]
        rig.ask(Acknowledge(opened.attributes.inode, b"a", RH), LATER)
        held = await other
        with pytest.raises(LockConflict):
            rig.lock(held.open, 0, 6)

    run(scenario)


@pytest.mark.parametrize("change", ["guid", "client", "key", "user", "no key", "connected", "unknown"])
def test_nobody_else_comes_back_to_it(change: str) -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=Keep(60_000, user=b"alice"), guid=b"guid")
        if change != "connected":
            rig.disconnect(opened)
        fields: dict[str, Any] = {"open": opened.open, "guid": b"guid", "client": b"client of a", "user": b"alice", "key": b"a"}
        wrong = {"guid": b"?", "client": b"?", "key": b"?", "user": b"bob"}
        if change in wrong:
            fields[change] = wrong[change]
        elif change == "no key":
            fields["key"] = None
        elif change == "unknown":
            fields["open"] = OpenId(1)
        with pytest.raises(NotFound):
            rig.ask(Reconnect(SUPER, **fields))
        if change == "connected":
            rig.disconnect(opened)
        if change != "unknown":
            fields |= {"guid": b"guid", "client": b"client of a", "user": b"alice", "key": b"a"}
            rig.ask(Reconnect(SUPER, **fields))

    run(scenario)


def test_of_two_who_take_an_open_from_a_session_that_is_gone_the_second_learns_who_has_it() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=PERSISTENT)
        former = rig.volume.core.opens[opened.open].by
        asked = Reconnect(SUPER, opened.open, b"", b"client of a", b"", b"a")
        other = Binding(3, 7)
        for by in (LATER, other):
            assert (rig.ask(asked, by).gateway, rig.ask(asked, by).session) == former
        asked.former = former
        assert rig.ask(asked, LATER).open == opened.open
        bound = rig.ask(asked, other)
        assert isinstance(bound, Bound) and (bound.gateway, bound.session) == LATER
        assert rig.volume.core.opens[opened.open].by == LATER
        asked.former = LATER
        assert rig.ask(asked, other).open == opened.open

    run(scenario)


def test_who_does_not_come_back_in_time_has_closed() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE)
        rig.disconnect(opened)
        await asyncio.sleep(61)
        assert rig.told.drops == [opened.open] and opened.open not in rig.volume.core.opens
        with pytest.raises(NotFound):
            rig.reconnect(opened, b"a")

    run(scenario)


def test_an_open_that_waits_already_is_not_disconnected_again() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE)
        rig.disconnect(opened)
        rig.disconnect(opened)
        rig.shut(rig.reconnect(opened, key=b"a"))

    run(scenario)


def test_an_open_that_is_resilient_stays_without_a_grant() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb()
        rig.ask(Retain(opened.open, PERSISTENT))
        assert rig.records(keys.OPEN)
        rig.disconnect(opened)
        rig.shut(rig.reconnect(opened))

    run(scenario)


def test_a_durable_handle_gives_way_and_a_persistent_one_makes_others_wait() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE, share=0)
        rig.disconnect(opened)
        other = rig.smb()
        assert rig.told.drops == [opened.open] and not rig.told.recalls
        rig.shut(other)
        opened = rig.smb(rights=RWH, key=b"a", keep=PERSISTENT, share=0)
        rig.disconnect(opened)
        with pytest.raises(Delayed):
            rig.smb()
        with pytest.raises(Delayed):
            rig.nfs()
        with pytest.raises(Delayed):
            rig.ask(Remove(SUPER, ROOT, b"f"), NFS)
        assert rig.reconnect(opened, b"a").grant == RWH

    run(scenario)


def test_a_durable_handle_whose_lease_is_being_broken_does_not_outlive_its_connection() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE)
        waiting = rig.asking(rig.smb_request(rights=R, key=b"b"))
        rig.disconnect(opened)
        assert opened.open not in rig.volume.core.opens
        await waiting

    run(scenario)


@pytest.mark.parametrize("power", [False, True])
def test_a_restart_brings_back_opens_ranges_grants_and_names(power: bool) -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RH, key=b"a", keep=DURABLE, guid=b"guid", access=WRITES | DELETE, share=3)
        inode = opened.attributes.inode
        rig.lock(opened.open, 5, 10)
        rig.lock(opened.open, 50, 10, exclusive=False)
        rig.lock(opened.open, 50, 10, exclusive=False)
        rig.ask(Rename(SUPER, ROOT, b"g", False, open=opened.open, fold=True))
        stream = rig.smb(b"g", keep=PERSISTENT, stream=b"s")
        nfs = rig.nfs(b"n", delegate=RW)
        locked = rig.lock(nfs.open, 0, 100, owner=b"nfs lock owner")
        rig.lock(nfs.open, 50, 10, owner=b"nfs lock owner", exclusive=False)
        before = dict(rig.volume.core.locks.files())
        sequence = rig.volume.core.register.locks[locked.id].sequence
        await rig.store.log.sync()
        await rig.die(power)
        after = dict(rig.volume.core.locks.files())
        assert after.keys() == before.keys()
        for number, state in after.items():
            assert state.ranges == before[number].ranges and state.grants == before[number].grants
            assert [(held.id, held.access, held.share, held.key) for held in state.opens] == [
                (held.id, held.access, held.share, held.key) for held in before[number].opens
            ]
        assert rig.volume.core.register.locks[locked.id].sequence == sequence == 2
        back = rig.reconnect(opened, b"a", guid=b"guid", by=LATER)
        assert back.grant == RH and back.attributes.inode == inode
        rig.reconnect(stream, by=LATER)
        if power:
            with pytest.raises(Grace):
                rig.nfs(b"g", deny=1)
            rig.ask(EndGrace())
        with pytest.raises(Delayed):
            rig.nfs(b"g", deny=1)
        assert rig.told.take() == [(b"a", RH, R)]
        await rig.put(nfs.delegation, 0, b"still mine")
        assert rig.lock(nfs.open, 0, 100, owner=b"nfs lock owner").sequence == 3

    run(scenario)


def test_after_a_restart_nobody_has_what_was_not_kept_and_timers_start_anew() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.smb(rights=RWH, key=b"b")
        kept = rig.smb(b"g", rights=RWH, key=b"a", keep=DURABLE)
        rig.disconnect(kept)
        await asyncio.sleep(50)
        await rig.die()
        assert list(rig.volume.core.opens) == [kept.open]
        await asyncio.sleep(50)
        assert kept.open in rig.volume.core.opens
        await asyncio.sleep(11)
        assert not rig.volume.core.opens and rig.told.drops == [kept.open]

    run(scenario)


def test_deletion_at_the_last_close_survives_a_restart() -> None:
    async def scenario(rig: StateRig) -> None:
        doomed = rig.smb(b"on close", rights=RH, key=b"a", keep=DURABLE, access=WRITES | DELETE, delete_on_close=True)
        marked = rig.smb(b"marked", rights=RH, key=b"b", keep=DURABLE)
        other = rig.smb(b"marked", access=DELETE)
        waiting = rig.asking(SetDisposition(other.open, True))
        rig.ask(Acknowledge(marked.attributes.inode, b"b", R))
        await waiting
        unnamed = rig.nfs(b"unnamed")
        rig.ask(Remove(SUPER, ROOT, b"unnamed"), NFS)
        await rig.put(unnamed.open, 0, b"orphan")
        await rig.die()
        await rig.volume.run_once()
        with pytest.raises(DeletePending):
            rig.smb(b"marked")
        assert await rig.content(unnamed.open) == b"orphan"
        rig.shut(unnamed)
        assert rig.names() == {b"on close", b"marked"}
        await rig.clean()
        rig.reconnect(doomed, b"a")
        rig.shut(doomed)
        assert rig.names() == {b"marked"}
        await asyncio.sleep(61)
        assert rig.names() == set()

    run(scenario)


def test_a_late_request_of_the_former_session_is_fenced() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE)
        rig.disconnect(opened)
        rig.reconnect(opened, b"a", by=LATER)
        from sofs.types import Level

        async def writes(by: Binding) -> None:
            done = rig.volume.write(opened.open, 0, memoryview(b"late"), None, Level.COMMITTED, by)
            if not hasattr(done, "count"):
                await done

        for _ in range(2):
            with pytest.raises(Fenced):
                await writes(SMB)
            with pytest.raises(Fenced):
                rig.volume.read(opened.open, 0, memoryview(bytearray(1)), SMB)
            with pytest.raises(Fenced):
                rig.ask(Lock(opened.open, 0, 1, True), SMB)
            with pytest.raises(Fenced):
                rig.ask(Disconnect(opened.open), SMB)
            await writes(LATER)
            await rig.die()
            rig.reconnect(opened, b"a", by=LATER)

    run(scenario)


def test_a_repeated_lock_is_taken_once() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE)
        first, second = b"\0\0\0\x05\x01", b"\0\0\0\x05\x02"
        elements = [(0, 10), (20, 10)]
        for element, (start, length) in enumerate(elements):
            rig.lock(opened.open, start, length, exclusive=False, number=first, element=element)
        await rig.die()
        rig.reconnect(opened, b"a")
        for element, (start, length) in enumerate(elements):
            rig.lock(opened.open, start, length, exclusive=False, number=first, element=element)
        ranges = rig.volume.core.locks.state(opened.attributes.inode).ranges
        assert [(held.start, held.end) for held in ranges] == [(0, 10), (20, 30)]
        rig.ask(Unlock(opened.open, 0, 10, number=second))
        rig.ask(Unlock(opened.open, 0, 10, number=second))
        assert len(rig.volume.core.locks.state(opened.attributes.inode).ranges) == 1
        assert rig.volume.core.repeated == {"reconnected": 1, "lock_sequence": 3}

    run(scenario)


def test_a_lock_that_could_not_be_recorded_is_taken_when_it_is_asked_for_again() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE)
        number, core = b"\0\0\0\x05\x01", rig.volume.core
        before = core.note_down

        def full(*arguments: Any, **options: Any) -> Any:
            raise NoSpace("the log is full")

        core.note_down = full  # type: ignore[method-assign]
        with pytest.raises(NoSpace):
            rig.lock(opened.open, 0, 10, number=number)
        core.note_down = before  # type: ignore[method-assign]
        rig.lock(opened.open, 0, 10, number=number)
        rig.unlock(opened.open, 0, 10)

    run(scenario)


def test_elements_of_a_lock_that_are_taken_back_are_taken_when_they_are_asked_for_again() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE)
        number = b"\0\0\0\x05\x01"
        for _ in range(2):
            for element in range(2):
                rig.lock(opened.open, element * 20, 10, number=number, element=element)
            for element in (1, 0):
                rig.ask(Unlock(opened.open, element * 20, 10, number=number, element=element, undoes=True))
            assert rig.volume.core.locks.state(opened.attributes.inode).ranges == ()

    run(scenario)


def test_an_open_with_a_guid_is_answered_again() -> None:
    async def scenario(rig: StateRig) -> None:
        request = rig.smb_request(rights=RWH, key=b"a", keep=DURABLE, guid=b"guid")
        first = rig.ask(request)
        assert rig.ask(request) == first and len(rig.volume.core.opens) == 1
        await rig.put(first.open, 0, b"x")

    run(scenario)


def test_a_disconnected_open_that_gives_way_deletes_what_it_was_to_delete() -> None:
    async def scenario(rig: StateRig) -> None:
        doomed = rig.smb(rights=RWH, key=b"a", keep=DURABLE, access=WRITES | DELETE, delete_on_close=True)
        rig.disconnect(doomed)
        opened = await rig.asking(rig.smb_request())
        assert opened.attributes.inode != doomed.attributes.inode, "it has made a file of its own"
        assert rig.told.drops == [doomed.open]

    run(scenario)


def test_what_was_set_through_an_open_stays_set_after_a_restart() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=RWH, key=b"a", keep=DURABLE, access=0x1F01FF)
        rig.ask(SetAttributes(opened.open, Changes(modified=Time(12345))))
        await rig.die()
        rig.reconnect(opened, b"a")
        await rig.put(opened.open, 0, b"x")
        assert rig.stat(opened.open, by_open=True).modified == 12345

    run(scenario)


def test_an_open_that_has_ended_stays_ended_after_a_restart() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=R, access=1)
        rig.shut(opened)
        await rig.die()
        with pytest.raises(Closed):
            await rig.content(opened.open)
        assert await rig.content(opened.delegation) == b""

    run(scenario)


def test_a_stream_that_could_not_be_opened_is_not_open() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.shut(rig.smb(stream=b"s"))
        rig.volume.core.keys.barred = NoSpace("full")
        with pytest.raises(NoSpace):
            rig.smb(stream=b"s", keep=PERSISTENT)
        rig.volume.core.keys.barred = None
        rig.shut(rig.smb(stream=b"s", share=0))
        rig.shut(rig.smb(access=DELETE, share=0))

    run(scenario)


def test_a_lock_that_could_not_be_recorded_leaves_its_owner_what_it_had() -> None:
    async def scenario(rig: StateRig) -> None:
        mine, other = rig.nfs(), rig.nfs(client=b"them")
        rig.lock(mine.open, 0, 100, exclusive=False, owner=b"me")
        rig.volume.core.keys.barred = NoSpace("full")
        with pytest.raises(NoSpace):
            rig.lock(mine.open, 20, 10, owner=b"me")
        with pytest.raises(NoSpace):
            rig.lock(mine.open, 200, 10, owner=b"me")
        rig.volume.core.keys.barred = None
        with pytest.raises(LockConflict):
            rig.lock(other.open, 25, 1, owner=b"them")
        rig.lock(other.open, 200, 10, owner=b"them")
        rig.lock(other.open, 20, 10, exclusive=False, owner=b"them")
        await rig.die()
        with pytest.raises(LockConflict):
            rig.lock(other.open, 15, 1, owner=b"them")

    run(scenario)


def test_a_reconnection_that_could_not_be_recorded_can_be_tried_again() -> None:
    async def scenario(rig: StateRig) -> None:
        kept = rig.smb(keep=PERSISTENT)
        rig.disconnect(kept)
        rig.volume.core.keys.barred = NoSpace("full")
        with pytest.raises(NoSpace):
            rig.reconnect(kept)
        rig.volume.core.keys.barred = None
        assert rig.reconnect(kept).open == kept.open
        rig.disconnect(kept)
        await asyncio.sleep(61)
        assert kept.open not in rig.volume.core.opens

    run(scenario)
