"""NFSv4's opens, lock states and slots as the volume keeps them, the end of clients, and the grace after a loss of records."""

import asyncio

import pytest
from msgspec.structs import replace

from sofs.errors import AccessDenied, Closed, Delayed, Grace, InvalidArgument, LockConflict, LocksHeld, NoGrace, NotFound, SharingViolation
from sofs.types import ROOT, Kind, Level, Lsn
from sofs.volume import api, keys
from sofs.volume.api import (
    Access,
    BeginGrace,
    Caller,
    Changes,
    Disposition,
    Downgrade,
    EndClient,
    EndGrace,
    EndUnclaimed,
    ForgetSession,
    Found,
    FreeState,
    Keep,
    KeepRecords,
    ListClient,
    ListClients,
    ListRecords,
    ListSlots,
    Make,
    MakeSnapshot,
    Remove,
    Slot,
    SlotToken,
    StateInfo,
    Written,
)
from tests.unit.volume.state_rig import NFS, RW, RWH, StateRig, run
from tests.unit.volume.volume_rig import SUPER

READ, WRITE = int(Access.READ_DATA), int(Access.WRITE_DATA)
SESSION = bytes(range(16))


def token(sequence: int, slot: int = 0, index: int = 1, note: bytes | None = b"note", session: bytes = SESSION) -> SlotToken:
    return SlotToken(session, slot, sequence, b"digest", index, note)


def test_an_owner_has_one_open_of_a_file_that_grows_and_shrinks() -> None:
    async def scenario(rig: StateRig) -> None:
        first = rig.nfs(access=READ)
        second = rig.nfs(access=WRITE, deny=2)
        assert (second.open, first.sequence, second.sequence) == (first.open, 1, 2)
        assert second.access & (READ | WRITE) == READ | WRITE
        assert rig.nfs(owner=b"other", access=READ).open != first.open
        with pytest.raises(SharingViolation):
            rig.nfs(owner=b"third", access=WRITE)
        with pytest.raises(InvalidArgument):
            rig.ask(Downgrade(first.open, READ | WRITE, 7 & ~1), NFS)  # never denied
        with pytest.raises(InvalidArgument):
            rig.ask(Downgrade(first.open, READ, 7 & ~2), NFS)  # denied only together with writing
        left = rig.ask(Downgrade(first.open, READ, 7), NFS)
        assert (left.id, left.sequence) == (first.open, 3)
        with pytest.raises(InvalidArgument):
            rig.ask(Downgrade(first.open, WRITE, 7), NFS)
        assert rig.nfs(owner=b"third", access=WRITE).open
        await rig.die()
        assert rig.nfs(access=READ).sequence == 4

    run(scenario)


def test_an_open_that_cannot_grow_stays_as_it_was() -> None:
    async def scenario(rig: StateRig) -> None:
        mine = rig.nfs(access=READ)
        rig.nfs(owner=b"other", access=READ, deny=2)
        with pytest.raises(SharingViolation):
            rig.nfs(access=WRITE)
        assert rig.nfs(access=READ).sequence == 2
        assert rig.volume.core.opens[mine.open].access & WRITE == 0

    run(scenario)


def test_an_open_of_the_same_owner_can_empty_the_file() -> None:
    async def scenario(rig: StateRig) -> None:
        first = rig.nfs()
        await rig.put(first.open, 0, b"data")
        again = rig.nfs(disposition=Disposition.OVERWRITE_IF)
        assert again.open == first.open and again.attributes.size == 0 and again.sequence == 2

    run(scenario)


def test_lock_states_have_numbers_and_sequences_of_their_own() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs()
        first = rig.lock(opened.open, 0, 10, owner=b"nfs one")
        again = rig.lock(opened.open, 20, 10, owner=b"nfs one")
        other = rig.lock(opened.open, 40, 10, owner=b"nfs two")
        assert first.id == again.id != other.id and (first.sequence, again.sequence, other.sequence) == (1, 2, 1)
        assert first.open == opened.open and first.id not in (opened.open, other.id)
        with pytest.raises(LockConflict):
            rig.lock(opened.open, 45, 1, owner=b"nfs one")
        blocker = rig.ask(api.TestLock(SUPER, opened.attributes.inode, 45, 1, False, b"nfs one"), NFS)
        assert (blocker.exists, blocker.offset, blocker.length, blocker.exclusive, blocker.owner) == (True, 40, 10, True, b"nfs two")
        assert not rig.ask(api.TestLock(SUPER, opened.attributes.inode, 0, 10, True, b"nfs one"), NFS).exists
        for held in (first.id, opened.open):
            with pytest.raises(LocksHeld):
                rig.ask(FreeState(held), NFS)
        assert rig.unlock(opened.open, 0, 100, owner=b"nfs one").sequence == 3
        rig.ask(FreeState(first.id), NFS)
        with pytest.raises(NotFound):
            rig.ask(FreeState(first.id), NFS)
        with pytest.raises(NotFound):
            rig.unlock(opened.open, 0, 1, owner=b"nfs one")
        states = rig.ask(ListClient(b"nfs"), NFS).states
        assert [(state.id, state.kind, state.sequence, state.owner, state.open) for state in states] == [
            (opened.open, 1, 1, b"nfso", opened.open),
            (other.id, 2, 1, b"nfs two", opened.open),
        ]

    run(scenario)


def test_all_of_a_client_is_listed_and_ends_with_it() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=RW)
        rig.lock(opened.open, 0, 10, owner=b"nfs one")
        rig.nfs(b"g", client=b"other", owner=b"x")
        rig.ask(Remove(SUPER, ROOT, b"g"), NFS)
        before = rig.ask(ListClient(b"nfs"), NFS).states
        await rig.die()
        states: list[StateInfo] = rig.ask(ListClient(b"nfs"), NFS).states
        assert sorted(states, key=lambda state: state.id) == sorted(before, key=lambda state: state.id)
        assert sorted(state.kind for state in states) == [1, 2, 3]
        rig.ask(EndClient(b"nfs"), NFS)
        rig.ask(EndClient(b"nfs"), NFS)
        assert rig.ask(ListClient(b"nfs"), NFS).states == []
        assert len(rig.volume.core.opens) == 1
        rig.smb(access=READ, share=0)
        rig.ask(EndClient(b"other"), NFS)
        assert rig.records(keys.ORPHAN) == []

    run(scenario)


def test_who_has_anything_here_is_listed() -> None:
    """So that a gateway that has lost its own records finds what nobody will ever ask for again."""

    async def scenario(rig: StateRig) -> None:
        rig.nfs(token=token(1))
        rig.nfs(b"g", token=token(1, slot=7))
        rig.nfs(b"g", client=b"other", owner=b"x", token=token(1, session=b"another session."))
        rig.smb(b"h", key=b"k")
        await rig.die()
        found = rig.ask(ListClients(), NFS)
        assert sorted(found.clients) == [b"nfs", b"other"] and sorted(found.sessions) == [SESSION, b"another session."]
        rig.ask(EndClient(b"nfs"), NFS)
        rig.ask(ForgetSession(SESSION), NFS)
        rig.ask(ForgetSession(b"another session."), NFS)
        found = rig.ask(ListClients(), NFS)
        assert (found.clients, found.sessions) == ([b"other"], [])

    run(scenario)


def test_a_grace_can_be_called_for() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.ask(BeginGrace(), NFS)
        with pytest.raises(Grace):
            rig.nfs()
        rig.nfs(reclaim=True)
        await asyncio.sleep(60)
        rig.ask(BeginGrace(), NFS)  # it is not made longer
        await asyncio.sleep(31)
        rig.nfs(b"g")

    run(scenario)


def test_an_ended_client_opens_nothing_any_more() -> None:
    """What it asked for before its end may arrive behind that."""

    async def scenario(rig: StateRig) -> None:
        rig.nfs()
        past = rig.volume.at(rig.ask(MakeSnapshot("s"), NFS).snapshots[0].number)
        rig.ask(EndClient(b"nfs"), NFS)
        with pytest.raises(Closed):
            rig.nfs(b"g")
        with pytest.raises(Closed):
            past.call(rig.nfs_request(access=READ, disposition=Disposition.OPEN), None, NFS)
        assert rig.ask(ListClient(b"nfs"), NFS).states == []
        rig.nfs(client=b"other")

    run(scenario)


def test_a_session_that_is_forgotten_leaves_no_tokens_behind_any_more() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.nfs(token=token(1))
        rig.ask(ForgetSession(SESSION), NFS)
        make = Make(SUPER, ROOT, b"d", Kind.FILE, Changes())
        rig.ask(make, NFS, token(2))
        other = b"another session."
        rig.ask(Remove(SUPER, ROOT, b"d"), NFS, token(1, session=other))
        assert rig.ask(ListSlots(SESSION), NFS).slots == []
        assert len(rig.ask(ListSlots(other), NFS).slots) == 1
        rig.ask(ForgetSession(other), NFS)

    run(scenario)


def test_gateways_keep_records_of_their_own() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.ask(KeepRecords(((b"client 1", b"a"), (b"client 2", b"b"), (b"session", b"c"))), NFS)
        reply = rig.ask(KeepRecords(((b"client 1", None), (b"client 3", b"d"))), NFS)
        assert reply.gate
        found = rig.ask(ListRecords(b"client "), NFS)
        assert found.records == [(b"client 2", b"b"), (b"client 3", b"d")] and found.gate == reply.gate
        await rig.die()
        assert [name for name, _ in rig.ask(ListRecords(b""), NFS).records] == [b"client 2", b"client 3", b"session"]
        for bad in ((b"", b"x"), (b"x" * 201, b"x"), (b"x", bytes(3073))):
            with pytest.raises(InvalidArgument):
                rig.ask(KeepRecords((bad,)), NFS)

    run(scenario)


def test_a_slots_token_is_in_the_batch_of_what_it_stands_for() -> None:
    async def scenario(rig: StateRig) -> None:
        made: Found = rig.ask(Make(SUPER, ROOT, b"d", Kind.DIRECTORY, Changes()), NFS, token(1))
        (slot,) = rig.ask(ListSlots(SESSION), NFS).slots
        assert slot == Slot(0, 1, b"digest", 1, b"note", slot.reply) and isinstance(slot.reply, Found)
        made.gate = slot.reply.gate = Lsn(0)
        assert slot.reply == made
        opened = rig.nfs(token=token(2, note=None))
        rig.ask(Make(SUPER, ROOT, b"e", Kind.DIRECTORY, Changes()), NFS, token(9, slot=3, index=4))
        done = rig.volume.write(opened.open, 0, memoryview(b"data"), token(3), Level.COMMITTED, NFS)
        assert isinstance(done, Written)
        await rig.die()
        slots = rig.ask(ListSlots(SESSION), NFS).slots
        assert [(slot.slot, slot.sequence, slot.index) for slot in slots] == [(0, 3, 1), (3, 9, 4)]
        assert isinstance(slots[0].reply, Written) and slots[0].reply.count == 4
        rig.ask(ForgetSession(SESSION), NFS)
        assert rig.ask(ListSlots(SESSION), NFS).slots == [] == rig.records(keys.SLOT)
        rig.ask(ForgetSession(SESSION), NFS)

    run(scenario)


def test_what_changes_nothing_leaves_no_token() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.mkdir(b"d")
        with pytest.raises(Exception, match="exists"):
            rig.ask(Make(SUPER, ROOT, b"d", Kind.DIRECTORY, Changes()), NFS, token(1))
        assert rig.ask(ListSlots(SESSION), NFS).slots == []

    run(scenario)


@pytest.mark.parametrize("what", ["open", "again", "close", "lock", "unlock", "downgrade", "return", "free", "remove", "records", "end"])
def test_every_kind_of_state_request_keeps_its_slots_token(what: str) -> None:
    async def scenario(rig: StateRig) -> None:
        from sofs.volume.api import Close, Lock, ReturnGrant, Unlock

        rig.make_name(b"f")
        if what != "open":
            opened = rig.nfs(delegate=RW)
            rig.nfs(access=READ)
            locks = rig.lock(opened.open, 0, 1, owner=b"nfs owner")
        if what == "free":
            rig.unlock(opened.open, 0, 1, owner=b"nfs owner")
        request = {
            "open": rig.nfs_request,
            "again": rig.nfs_request,
            "close": lambda: Close(opened.open),
            "lock": lambda: Lock(opened.open, 5, 1, True, owner=b"nfs owner"),
            "unlock": lambda: Unlock(opened.open, 5, 1, b"nfs owner"),
            "downgrade": lambda: Downgrade(opened.open, READ, 7),
            "return": lambda: ReturnGrant(opened.delegation),
            "free": lambda: FreeState(locks.id),
            "remove": lambda: Remove(SUPER, ROOT, b"g"),
            "records": lambda: KeepRecords(((b"x", b"y"),)),
            "end": lambda: EndClient(b"nfs"),
        }[what]()
        if what == "remove":
            rig.make_name(b"g")
        reply = rig.ask(request, NFS, token(5))
        (slot,) = rig.ask(ListSlots(SESSION), NFS).slots
        assert slot.sequence == 5 and type(slot.reply) is type(reply)
        slot.reply.gate = reply.gate
        assert slot.reply == reply

    run(scenario)


def test_a_delegation_that_is_reclaimed_though_it_was_not_lost_is_the_same_one() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=RW)
        await rig.store.log.sync()
        await rig.die(power=True)
        again = rig.nfs(reclaim=True, delegate=RW)
        assert (again.open, again.delegation, again.grant) == (opened.open, opened.delegation, RW)
        fresh = rig.nfs(b"lost", reclaim=True, delegate=RW)
        assert fresh.delegation not in (0, opened.delegation)
        rig.ask(EndGrace(), NFS)

    run(scenario)


def test_after_a_loss_of_records_only_those_who_had_them_get_opens_and_locks() -> None:
    async def scenario(rig: StateRig) -> None:
        with pytest.raises(NoGrace):
            rig.nfs(reclaim=True)
        opened = rig.nfs()
        await rig.store.log.sync()
        await rig.die(power=True)
        with pytest.raises(Grace):
            rig.nfs(b"g")
        with pytest.raises(Grace):
            rig.smb(b"g")
        assert rig.nfs(reclaim=True).open == opened.open
        assert rig.nfs(b"lost", reclaim=True, access=READ).open
        with pytest.raises(Grace):
            rig.lock(opened.open, 0, 1, owner=b"nfs owner")
        rig.lock(opened.open, 0, 1, owner=b"nfs owner", reclaim=True)
        assert rig.names() == {b"f", b"lost"}, "names and attributes are not held up"
        rig.ask(EndGrace(), NFS)
        with pytest.raises(NoGrace):
            rig.nfs(b"g", reclaim=True)
        rig.shut(rig.smb(b"g"))
        await rig.die(power=True)
        await asyncio.sleep(91)
        rig.smb(b"g")

    run(scenario)


@pytest.mark.parametrize("again", [False, True])
def test_what_was_brought_back_after_a_loss_of_power_and_is_not_reclaimed_ends(again: bool) -> None:
    """Also where the volume's process ends meanwhile."""

    async def scenario(rig: StateRig) -> None:
        kept, gone, others = rig.nfs(b"kept"), rig.nfs(b"gone", owner=b"p"), rig.nfs(b"others", client=b"other")
        windows = rig.smb(b"windows", rights=RWH, key=b"k", keep=Keep(60_000, persistent=True))
        for start in (0, 50):
            rig.lock(kept.open, start, 10, owner=b"nfs owner")
        await rig.store.log.sync()
        await rig.die(power=True)
        assert rig.nfs(b"kept", reclaim=True).open == kept.open
        rig.lock(kept.open, 0, 10, owner=b"nfs owner", reclaim=True)
        if again:
            await rig.die()
        left = rig.ask(EndUnclaimed(b"nfs"), NFS)
        assert {state.owner for state in left.states} == {b"nfs" + b"o", b"nfs owner"}
        assert set(rig.volume.core.opens) == {kept.open, others.open, windows.open} and gone.open
        assert [(held.start, held.end) for held in rig.volume.core.locks.state(kept.attributes.inode).ranges] == [(0, 10)]
        assert rig.ask(EndUnclaimed(b"nfs"), NFS).states == left.states, "asked again it does nothing"
        rig.ask(EndGrace(), NFS)

    run(scenario)


def test_an_owner_reclaims_what_the_mode_does_not_allow_him_any_more() -> None:
    """He may have opened the file before its mode changed, or made it with that mode."""

    async def scenario(rig: StateRig) -> None:
        owner, other = Caller(7, 7), Caller(8, 8)
        rig.ask(replace(rig.nfs_request(mode=0o400), caller=owner), NFS)
        await rig.store.log.sync()
        await rig.die(power=True)
        with pytest.raises(AccessDenied):
            rig.ask(replace(rig.nfs_request(reclaim=True, owner=b"p"), caller=other), NFS)
        assert rig.ask(replace(rig.nfs_request(reclaim=True, owner=b"q"), caller=owner), NFS).open
        rig.ask(EndGrace(), NFS)
        with pytest.raises(AccessDenied):
            rig.ask(replace(rig.nfs_request(owner=b"r"), caller=owner), NFS)

    run(scenario)


@pytest.mark.parametrize("orderly", [False, True])
def test_a_grace_goes_on_where_the_volume_goes(orderly: bool) -> None:
    """Else the next coordinator would refuse who reclaims, and give others what he has."""

    async def end(rig: StateRig) -> None:
        await (rig.reopen() if orderly else rig.die())

    async def scenario(rig: StateRig) -> None:
        rig.shut(rig.nfs(b"lost"))
        rig.nfs(b"known", client=b"other")
        await rig.store.log.sync()
        await rig.die(power=True)
        await end(rig)
        with pytest.raises(Grace):
            rig.smb(b"g")
        reclaimed = rig.nfs(b"lost", reclaim=True)
        rig.lock(reclaimed.open, 0, 1, owner=b"nfs owner", reclaim=True)
        rig.ask(EndGrace(), NFS)
        await end(rig)
        rig.shut(rig.smb(b"g"))
        with pytest.raises(NoGrace):
            rig.nfs(b"lost", reclaim=True)
        await rig.die(power=True)
        await end(rig)
        await asyncio.sleep(91)
        rig.shut(rig.smb(b"g"))
        await end(rig)
        rig.shut(rig.smb(b"g"))

    run(scenario)


@pytest.mark.parametrize("how", ["process", "no NFS", "orderly"])
def test_there_is_no_grace_where_nothing_can_have_been_lost(how: str) -> None:
    async def scenario(rig: StateRig) -> None:
        if how != "no NFS":
            rig.nfs()
        if how == "orderly":
            rig.shut(rig.nfs())
            await rig.reopen()
            await rig.die(power=True)
        else:
            await rig.die(power=how == "no NFS")
        rig.smb(b"g")
        rig.nfs(b"h")

    run(scenario)


def test_a_delegation_is_not_in_its_own_clients_way_after_a_restart_but_in_others() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=RW)
        await rig.die()
        rig.nfs(owner=b"another")
        with pytest.raises(Delayed):
            rig.nfs(client=b"other", access=READ)
        assert rig.told.recalls[0].delegation == opened.delegation
        await asyncio.sleep(91)
        with pytest.raises(Closed):
            await rig.content(opened.delegation)

    run(scenario)
