"""Grants through the volume's requests: given with an open or wanted later, recalled, answered, given back, revoked; directory grants."""

import asyncio

import pytest

from sofs.errors import Closed, Delayed, InvalidArgument, NotFound, NotRecalled, SharingViolation
from sofs.locks import GrantKind
from sofs.types import ROOT, OpenId
from sofs.volume import keys
from sofs.volume.api import (
    HIDDEN,
    Access,
    Acknowledge,
    Changes,
    Close,
    Disposition,
    Remove,
    Rename,
    ReturnGrant,
    SetAttributes,
    SetDisposition,
    Stateless,
    Want,
    Wish,
)
from tests.unit.volume.state_rig import DELETE, NFS, RH, RW, RWH, R, StateRig, run
from tests.unit.volume.volume_rig import SUPER


def test_a_lease_comes_with_its_open_and_goes_with_the_last_one_of_its_key() -> None:
    async def scenario(rig: StateRig) -> None:
        first = rig.smb(rights=RWH, key=b"a", epoch=7)
        assert (first.grant, first.epoch, first.breaking, first.version, first.key) == (RWH, 8, False, 2, b"a")
        second = rig.smb(rights=0, key=b"a")
        assert (second.grant, second.epoch) == (RWH, 8)
        rig.shut(first)
        assert rig.told.take() == []
        waiting = rig.asking(rig.smb_request(rights=RWH, key=b"b", version=1))
        assert rig.told.recalls[0].opens == (second.open,) and rig.told.recalls[0].acknowledge and rig.told.recalls[0].epoch == 9
        third = rig.smb(rights=RWH, key=b"a")
        assert third.breaking and third.grant == RWH
        rig.shut(third)
        rig.shut(second)
        opened = await waiting
        assert (opened.grant, opened.version) == (RWH, 1), "nobody else is there by now"

    run(scenario)


def test_an_answered_recall_lets_the_other_go_on_with_what_is_left() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(rights=RWH, key=b"a")
        inode = held.attributes.inode
        waiting = rig.asking(rig.smb_request(rights=RWH, key=b"b"))
        assert rig.told.take() == [(b"a", RWH, RH)]
        with pytest.raises(InvalidArgument):
            rig.ask(Acknowledge(inode, b"a", RWH))
        with pytest.raises(NotFound):
            rig.ask(Acknowledge(inode, b"nobody", R))
        answered = rig.ask(Acknowledge(inode, b"a", RH))
        assert answered.rights == RH
        with pytest.raises(NotRecalled):
            rig.ask(Acknowledge(inode, b"a", RH))
        assert (await waiting).grant == RH

    run(scenario)


def test_a_recall_without_an_answer_ends_in_revocation() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.smb(rights=RWH, key=b"a")
        waiting = rig.asking(rig.smb_request(rights=R, key=b"b"))
        await asyncio.sleep(34)
        assert not waiting.done() and not rig.told.revocations
        assert (await waiting).grant == R
        assert rig.told.revocations == [(b"a", OpenId(0))]

    run(scenario)


def test_a_lease_key_stands_for_one_file() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(b"f", RWH, key=b"a")
        for name, stream in ((b"new", b""), (b"f", b"s")):
            with pytest.raises(InvalidArgument):
                rig.smb(name, R, key=b"a", stream=stream)
        assert rig.names() == {b"f"}, "nothing was made"
        rig.shut(held)
        assert rig.smb(b"new", R, key=b"a").grant == R

    run(scenario)


def test_oplocks_have_keys_of_the_volumes_making() -> None:
    async def scenario(rig: StateRig) -> None:
        first = rig.smb(rights=RWH, kind=GrantKind.OPLOCK)
        assert first.grant == RWH and first.key
        waiting = rig.asking(rig.smb_request(rights=RWH, kind=GrantKind.OPLOCK))
        assert rig.told.take() == [(first.key, RWH, R)]
        rig.ask(Acknowledge(first.attributes.inode, first.key, R))
        second = await waiting
        assert second.grant == R and second.key != first.key
        await rig.put(first.open, 0, b"x")
        assert rig.told.take() == [(second.key, R, 0), (first.key, R, 0)], "its own write ends a level II oplock, too"

    run(scenario)


def test_a_sharing_violation_asks_for_cached_handles_first() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(rights=RWH, key=b"a", share=0)
        waiting = rig.asking(rig.smb_request())
        assert rig.told.take() == [(b"a", RWH, RW)]
        rig.ask(Acknowledge(held.attributes.inode, b"a", RW))
        with pytest.raises(SharingViolation):
            await waiting
        with pytest.raises(SharingViolation):
            rig.smb()
        assert rig.told.take() == []

    run(scenario)


def test_a_rename_and_a_deletion_ask_others_to_close_what_they_cache() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(rights=RH, key=b"a")
        inode = held.attributes.inode
        other = rig.smb(rights=RH, key=b"b", access=DELETE | int(Access.READ_DATA))
        waiting = rig.asking(Rename(SUPER, ROOT, b"g", False, open=other.open, fold=True))
        assert rig.told.take() == [(b"a", RH, R)]
        rig.ask(Acknowledge(inode, b"a", R))
        await waiting
        assert rig.names() == {b"g"}
        held = rig.smb(b"g", RH, key=b"a")
        assert held.grant == RH
        waiting = rig.asking(SetDisposition(other.open, True))
        assert rig.told.take() == [(b"a", RH, R)]
        rig.ask(Acknowledge(inode, b"a", 0))
        await waiting
        rig.smb(b"h", RH, key=b"c")
        with pytest.raises(Delayed):
            rig.ask(Remove(SUPER, ROOT, b"h"), NFS)
        assert rig.told.take() == [(b"c", RH, R)]

    run(scenario)


def test_a_close_that_deletes_waits_until_cached_handles_are_closed() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(rights=RH, key=b"a")
        doomed = rig.smb(access=DELETE, delete_on_close=True)
        waiting = rig.asking(Close(doomed.open))
        assert rig.told.take() == [(b"a", RH, R)]
        rig.shut(held)
        await waiting
        assert rig.names() == set()

    run(scenario)


def test_the_answer_to_a_recall_says_what_was_kept_even_if_it_is_gone_by_then() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(rights=RWH, key=b"a")
        inode = held.attributes.inode
        waiting = [rig.asking(rig.smb_request()), rig.asking(rig.smb_request(disposition=Disposition.OVERWRITE))]
        answered = []
        for kept in (RH, R):
            answered.append(rig.ask(Acknowledge(inode, b"a", kept)).rights)
            await asyncio.sleep(0)
            assert not waiting[0].done() or kept == R
        assert answered == [RH, R] and rig.told.take() == [(b"a", RWH, RH), (b"a", RH, R), (b"a", R, 0)]
        await asyncio.gather(*waiting)

    run(scenario)


def test_wanted_later() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.smb(rights=R, key=b"a")
        assert rig.ask(Want(opened.open, Wish(b"a", GrantKind.LEASE, RWH))).rights == RWH
        with pytest.raises(InvalidArgument):
            rig.ask(Want(opened.open, Wish(b"other", GrantKind.LEASE, RWH)))
        rig.shut(opened)
        file = rig.nfs(access=int(Access.READ_DATA))
        given = rig.ask(Want(file.open, Wish(b"nfs", GrantKind.DELEGATION, RW)), NFS)
        assert given.rights == R and given.delegation

    run(scenario)


def test_a_delegation_is_read_and_written_through_and_outlives_its_open() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=RW)
        assert opened.grant == RW and opened.delegation not in (0, opened.open)
        rig.shut(opened)
        await rig.put(opened.delegation, 0, b"cached")
        assert await rig.content(opened.delegation) == b"cached"
        again = rig.nfs(owner=b"another")
        assert rig.told.take() == [], "its holder's own opens are in nobody's way"
        with pytest.raises(Delayed):
            rig.nfs(client=b"other", access=int(Access.READ_DATA))
        assert rig.told.recalls[0].delegation == opened.delegation
        assert set(rig.told.recalls[0].opens) == {opened.delegation, again.open}
        waiting = rig.asking(rig.smb_request(access=int(Access.READ_ATTRIBUTES | Access.READ_DATA)))
        rig.ask(ReturnGrant(opened.delegation), NFS)
        rig.shut(again)
        await waiting
        with pytest.raises(Closed):
            await rig.content(opened.delegation)

    run(scenario)


def test_a_delegation_that_is_not_returned_is_revoked_after_a_lease_period() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=R, access=int(Access.READ_DATA))
        rig.shut(opened)
        waiting = rig.asking(rig.smb_request())
        await asyncio.sleep(89)
        assert not waiting.done()
        await waiting
        assert rig.told.revocations == [(b"nfs", opened.delegation)] and opened.delegation not in rig.volume.core.opens
        with pytest.raises(Closed):
            rig.ask(ReturnGrant(opened.delegation), NFS)

    run(scenario)


def test_a_file_that_waits_for_a_delegation_to_be_deleted_goes_when_that_is_revoked() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=R, access=int(Access.READ_DATA))
        rig.shut(opened)
        waiting = rig.asking(rig.smb_request(access=DELETE, delete_on_close=True))
        await waiting
        assert rig.told.revocations == [(b"nfs", opened.delegation)] and not rig.told.drops
        assert rig.records(keys.OPEN) == []
        rig.shut(waiting.result())
        assert rig.names() == set()

    run(scenario)


def test_delegations_are_given_where_nobody_is_in_the_way_and_nobody_was_lately() -> None:
    async def scenario(rig: StateRig) -> None:
        reader = int(Access.READ_DATA)
        first = rig.nfs(client=b"a", delegate=RW, access=reader, must=False)
        second = rig.nfs(client=b"b", delegate=RW, access=reader, must=False)
        assert (first.grant, second.grant) == (R, R), "who reads gets a read delegation, beside others who do"
        assert not rig.nfs(client=b"a", owner=b"2", delegate=RW, access=reader).delegation, "one is enough"
        with pytest.raises(Delayed):
            rig.nfs(client=b"c")
        for delegation in (first.delegation, second.delegation):
            rig.ask(ReturnGrant(delegation), NFS)
        for number in list(rig.volume.core.opens):
            rig.shut(number)
        assert not rig.nfs(client=b"a", delegate=RW, must=False).delegation, "it was recalled just now"
        assert rig.nfs(client=b"a", delegate=RW, must=True).delegation
        writer = rig.nfs(b"g", client=b"a", delegate=RW, must=False)
        assert writer.grant == RW
        smb = rig.smb(b"h")
        assert not rig.nfs(b"h", client=b"a", delegate=RW).delegation
        rig.shut(smb)

    run(scenario)


def test_files_are_removed_only_after_their_delegations_are_back() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(delegate=RW)
        rig.shut(opened)
        with pytest.raises(Delayed):
            rig.ask(Remove(SUPER, ROOT, b"f"), NFS)
        rig.ask(ReturnGrant(opened.delegation), NFS)
        rig.ask(Remove(SUPER, ROOT, b"f"), NFS)
        assert rig.names() == set()

    run(scenario)


def test_a_directory_lease_is_broken_by_what_others_do_to_its_entries() -> None:
    async def scenario(rig: StateRig) -> None:
        rig.mkdir(b"d")
        at = rig.lookup(b"d").inode
        listing = int(Access.READ_DATA)

        def arm() -> None:
            held = rig.smb(b"d", RWH, key=b"dir", access=listing)
            assert held.grant == RH, "nobody writes to a directory through a cache"
            rig.told.take()

        def broken(keep: int = 0) -> bool:
            told = rig.told.take()
            assert told in ([], [(b"dir", RH, keep)])
            if told:
                rig.ask(Acknowledge(at, b"dir", keep))
                arm()
            return bool(told)

        first = rig.smb(b"d", RWH, key=b"dir", access=listing)
        assert first.grant == RH
        assert rig.smb(b"d", RH, key=b"old", access=listing, version=1).grant == 0, "version 1 has none"
        mine = rig.open_name(b"x", at=at, parent_key=b"dir")
        assert not broken()
        other = rig.open_name(b"y", at=at, parent_key=b"another key")
        assert broken()
        rig.ask(SetAttributes(mine.open, Changes(flags=HIDDEN)))
        assert not broken(), "its holder has changed it"
        rig.close_open(mine)
        assert not broken()
        await rig.put(other.open, 0, b"data")
        assert not broken(), "the size is told when the file is closed"
        rig.close_open(other)
        assert broken()
        rig.ask(SetAttributes(Stateless(rig.lookup(b"d", b"x").inode, SUPER), Changes(mode=0o600)))
        assert broken()
        rig.rename(b"x", b"z", at, at)
        assert broken()
        rig.remove(b"z", at)
        assert broken()
        rig.close_open(rig.open_name(b"y", at=at))
        rig.lookup(b"d", b"y")
        assert not broken(), "looking changes nothing"
        file = Stateless(rig.lookup(b"d", b"y").inode, SUPER)
        await rig.put(file, 100, b"more")
        assert broken(), "NFSv3 has no close"

    run(scenario)


def test_a_grant_is_asked_for_in_vain_while_others_have_locked_bytes() -> None:
    async def scenario(rig: StateRig) -> None:
        nfs = rig.nfs()
        rig.lock(nfs.open, 0, 10, owner=b"nfs owner")
        assert rig.smb(rights=RWH, key=b"a").grant == 0
        rig.ask(Close(nfs.open))
        assert rig.smb(rights=RWH, key=b"a").grant == RWH

    run(scenario)


def test_an_overwriting_open_takes_everything() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(rights=RWH, key=b"a")
        waiting = rig.asking(rig.smb_request(rights=RWH, key=b"b", disposition=Disposition.OVERWRITE))
        assert rig.told.take() == [(b"a", RWH, 0)]
        rig.ask(Acknowledge(held.attributes.inode, b"a", 0))
        assert (await waiting).grant == RH
        reply = rig.smb(rights=0, key=b"a")
        assert reply.grant == 0 and reply.epoch, "it is known as long as its opens are"

    run(scenario)
