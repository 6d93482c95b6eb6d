"""A write that has to wait, for room or for a disk, while its client goes on elsewhere: what is written meanwhile is not overwritten by it."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from sofs.errors import Closed, Fenced, SofsError
from sofs.types import Level, OpenId
from sofs.volume.api import Binding, Copy, EndClient, Keep, ListClient, Read, Written
from tests.unit.volume.state_rig import NFS, RWH, SMB, StateRig, run

LATER = Binding(SMB.gateway, 77)
NEW_HOME = Binding(NFS.gateway + 1, 0)
LARGE = 1 << 20


def late(rig: StateRig, open: OpenId, by: Binding = SMB) -> "asyncio.Future[Any]":
    """A write of old data that goes into extents first."""
    done = rig.volume.write(open, 0, memoryview(b"old!" * (LARGE // 4)), None, Level.COMMITTED, by)
    assert isinstance(done, Awaitable)
    return asyncio.ensure_future(done)


def write(rig: StateRig, open: OpenId, by: Binding) -> None:
    done = rig.volume.write(open, 0, memoryview(b"new!" * 1024), None, Level.COMMITTED, by)
    assert isinstance(done, Written), "the small write does not have to wait"


async def refused(rig: StateRig, writing: "asyncio.Future[Any]", kind: type[SofsError], open: OpenId, by: Binding) -> None:
    with pytest.raises(kind):
        await writing
    found = bytearray(8)
    assert isinstance(rig.volume.read(open, 0, memoryview(found), by), Read)
    assert bytes(found) == b"new!new!"


def test_a_write_of_a_session_that_has_ended_does_not_come_behind_that_of_the_one_that_took_the_open_over() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(rights=RWH, key=b"k", keep=Keep(60_000))
        writing = late(rig, held.open)
        await asyncio.sleep(0)
        rig.disconnect(held)
        rig.reconnect(held, b"k", by=LATER)
        write(rig, held.open, LATER)
        await refused(rig, writing, Fenced, held.open, LATER)

    run(scenario)


def test_a_write_whose_open_has_ended_does_not_come_behind_that_of_who_has_the_file_now() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(share=0)
        writing = late(rig, held.open)
        await asyncio.sleep(0)
        rig.shut(held)
        other = rig.smb(share=0, by=LATER)
        write(rig, other.open, LATER)
        await refused(rig, writing, Closed, other.open, LATER)

    run(scenario)


def test_a_write_of_a_former_home_does_not_come_behind_that_of_the_new_one() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs()
        writing = late(rig, opened.open, NFS)
        await asyncio.sleep(0)
        rig.ask(ListClient(b"nfs"), NEW_HOME)
        write(rig, opened.open, NEW_HOME)
        await refused(rig, writing, Fenced, opened.open, NEW_HOME)

    run(scenario)


def test_a_write_of_a_client_that_has_ended_does_not_come_behind_that_of_who_has_the_file_now() -> None:
    async def scenario(rig: StateRig) -> None:
        opened = rig.nfs(deny=7)
        writing = late(rig, opened.open, NFS)
        await asyncio.sleep(0)
        rig.ask(EndClient(b"nfs"), NFS)
        other = rig.smb(share=0)
        write(rig, other.open, SMB)
        await refused(rig, writing, Closed, other.open, SMB)

    run(scenario)


def test_a_copy_does_not_come_late_either() -> None:
    async def scenario(rig: StateRig) -> None:
        held = rig.smb(rights=RWH, key=b"k", keep=Keep(60_000))
        await rig.put(held.open, 0, bytes(6000))
        source = rig.smb(b"source")
        await rig.put(source.open, 0, b"old!" * (LARGE // 4))
        copying = rig.asking(Copy(source.open, 0, held.open, 1, LARGE))
        await asyncio.sleep(0)
        rig.disconnect(held)
        rig.reconnect(held, b"k", by=LATER)
        write(rig, held.open, LATER)
        await refused(rig, copying, Fenced, held.open, LATER)

    run(scenario)
