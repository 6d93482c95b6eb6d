"""One file, two protocols, through the gateways of one node: {locks, share modes, grants, rename, remove} x {live, disconnected, reclaiming}, both ways.

The tables stand for PROTOCOLS' "One file, two protocols" in the protocols' own words: nfsstat4, nfsstat3 and NTSTATUS over real connections. Each cell was
written before it was run, and is a test. `A > B` means that the asker is told A, then the holder gives way as it is asked to (it acknowledges the break,
or returns the delegation), then the asker is told B: an NFS client because it asks again, an SMB client because its request was pending.
`A lost`: the asker is told A, and the holder that comes back afterwards finds its open gone (OBJECT_NAME_NOT_FOUND).

Whoever comes back and has not lost its open is met as before: the asker, who asks once more, is told what the live column ends with.

NFSv3 has no state here, so it only asks. What waits for an answer waits for the holder's, never for a time; times are at the end of the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from gateways.nfs.v3 import messages as m
from gateways.nfs.v4.status import Status as Status4
from gateways.smb import contexts
from gateways.smb.header import Command
from gateways.smb.leases import LEVEL_LEASE
from gateways.smb.status import Status as NtStatus
from tests.protocol import nfs4_ops as op
from tests.protocol import smb_client as smb
from tests.protocol.nfs4_xdr import CURRENT, Op
from tests.protocol.smb_socket import SocketClient
from tests.protocol.two_protocols import DATA, RH, Asking, Cell, NfsAsker, NfsHolder, SmbAsker, SmbHolder
from tests.served_both import Node, Process, both_on

CB_RECALL = 4
ADDED, REMOVED, OLD_NAME, NEW_NAME = 1, 2, 4, 5
"""FILE_ACTION_*, MS-FSCC 2.7.1."""

SMB_HOLDS = """
holds                         | asks                      | live                 | durable         | persistent
shares nothing                | OPEN to read              | SHARE_DENIED         | OK lost         | DELAY
shares nothing                | OPEN to write             | SHARE_DENIED         | OK lost         | DELAY
shares nothing                | READ                      | LOCKED               | OK lost         | DELAY
shares nothing                | WRITE                     | LOCKED               | OK lost         | DELAY
shares nothing                | SETATTR size              | LOCKED               | OK lost         | DELAY
shares nothing                | GETATTR                   | OK                   | OK              | OK
shares nothing                | LOOKUP                    | OK                   | OK              | OK
shares nothing                | REMOVE                    | FILE_OPEN            | OK lost         | DELAY
shares nothing                | RENAME                    | FILE_OPEN            | OK lost         | DELAY
shares nothing                | RENAME over it            | FILE_OPEN            | OK lost         | DELAY
shares nothing                | LINK                      | OK                   | OK              | OK
shares nothing                | v3 READ                   | ACCES                | OK lost         | JUKEBOX
shares nothing                | v3 WRITE                  | ACCES                | OK lost         | JUKEBOX
shares nothing                | v3 SETATTR size           | ACCES                | OK lost         | JUKEBOX
shares nothing                | v3 GETATTR                | OK                   | OK              | OK
shares nothing                | v3 LOOKUP                 | OK                   | OK              | OK
shares nothing                | v3 REMOVE                 | ACCES                | OK lost         | JUKEBOX
shares nothing                | v3 RENAME                 | ACCES                | OK lost         | JUKEBOX
shares nothing                | v3 RENAME over it         | ACCES                | OK lost         | JUKEBOX
shares reads                  | OPEN to read              | OK                   | OK              | OK
shares reads                  | OPEN to write             | SHARE_DENIED         | OK lost         | DELAY
shares reads                  | READ                      | OK                   | OK              | OK
shares reads                  | WRITE                     | LOCKED               | OK lost         | DELAY
shares reads                  | REMOVE                    | FILE_OPEN            | OK lost         | DELAY
shares reads                  | v3 READ                   | OK                   | OK              | OK
shares reads                  | v3 WRITE                  | ACCES                | OK lost         | JUKEBOX
shares reads                  | v3 REMOVE                 | ACCES                | OK lost         | JUKEBOX
shares reads and writes       | OPEN to write             | OK                   | OK              | OK
shares reads and writes       | WRITE by an open          | OK                   | OK lost         | OK
shares reads and writes       | OPEN, deny writes         | SHARE_DENIED         | OK lost         | DELAY
shares reads and writes       | RENAME                    | FILE_OPEN            | OK lost         | DELAY
shares reads and writes       | v3 WRITE                  | OK                   | OK lost         | OK
shares reads and writes       | v3 RENAME                 | ACCES                | OK lost         | JUKEBOX
shares all                    | OPEN to write             | OK                   | OK              | OK
shares all                    | WRITE                     | OK                   | OK lost         | OK
shares all                    | REMOVE                    | OK                   | OK lost         | OK
shares all                    | RENAME                    | OK                   | OK lost         | OK
shares all                    | RENAME over it            | OK                   | OK lost         | OK
shares all                    | v3 WRITE                  | OK                   | OK lost         | OK
shares all                    | v3 REMOVE                 | OK                   | OK lost         | OK
shares all                    | v3 RENAME                 | OK                   | OK lost         | OK
shares all                    | v3 RENAME over it         | OK                   | OK lost         | OK
locks exclusively             | OPEN to write             | OK                   | OK              | OK
locks exclusively             | READ                      | LOCKED               | OK lost         | DELAY
locks exclusively             | WRITE                     | LOCKED               | OK lost         | DELAY
locks exclusively             | READ by an open           | LOCKED               | OK lost         | DELAY
locks exclusively             | WRITE by an open          | LOCKED               | OK lost         | DELAY
locks exclusively             | READ elsewhere by an open | OK                   | OK              | OK
locks exclusively             | SETATTR size              | LOCKED               | OK lost         | DELAY
locks exclusively             | LOCK                      | DENIED               | OK lost         | DELAY
locks exclusively             | LOCK to share             | DENIED               | OK lost         | DELAY
locks exclusively             | LOCKT                     | DENIED               | DENIED          | DENIED
locks exclusively             | RENAME                    | OK                   | OK lost         | OK
locks exclusively             | REMOVE                    | OK                   | OK lost         | OK
locks exclusively             | v3 READ                   | ACCES                | OK lost         | JUKEBOX
locks exclusively             | v3 WRITE                  | ACCES                | OK lost         | JUKEBOX
locks exclusively             | v3 SETATTR size           | ACCES                | OK lost         | JUKEBOX
locks to share                | READ by an open           | OK                   | OK              | OK
locks to share                | WRITE by an open          | LOCKED               | OK lost         | DELAY
locks to share                | LOCK                      | DENIED               | OK lost         | DELAY
locks to share                | LOCK to share             | OK                   | OK lost         | OK
locks to share                | v3 READ                   | OK                   | OK              | OK
locks to share                | v3 WRITE                  | ACCES                | OK lost         | JUKEBOX
caches all                    | OPEN to read              | DELAY > OK           | OK lost         | DELAY
caches all                    | OPEN to write             | DELAY > OK           | OK lost         | DELAY
caches all                    | READ                      | DELAY > OK           | OK lost         | DELAY
caches all                    | WRITE                     | DELAY > OK           | OK lost         | DELAY
caches all                    | SETATTR size              | DELAY > OK           | OK lost         | DELAY
caches all                    | GETATTR                   | OK                   | OK              | OK
caches all                    | REMOVE                    | DELAY > OK           | OK lost         | DELAY
caches all                    | RENAME                    | DELAY > OK           | OK lost         | DELAY
caches all                    | RENAME over it            | DELAY > OK           | OK lost         | DELAY
caches all                    | v3 READ                   | JUKEBOX > OK         | OK lost         | JUKEBOX
caches all                    | v3 WRITE                  | JUKEBOX > OK         | OK lost         | JUKEBOX
caches all                    | v3 SETATTR size           | JUKEBOX > OK         | OK lost         | JUKEBOX
caches all                    | v3 GETATTR                | OK                   | OK              | OK
caches all                    | v3 REMOVE                 | JUKEBOX > OK         | OK lost         | JUKEBOX
caches all                    | v3 RENAME                 | JUKEBOX > OK         | OK lost         | JUKEBOX
caches all                    | v3 RENAME over it         | JUKEBOX > OK         | OK lost         | JUKEBOX
caches all, shares no delete  | REMOVE                    | DELAY > FILE_OPEN    | OK lost         | DELAY
caches all, shares no delete  | v3 RENAME                 | JUKEBOX > ACCES      | OK lost         | JUKEBOX
caches reads and handles      | OPEN to write             | OK                   | OK              | OK
caches reads and handles      | READ                      | OK                   | OK              | OK
caches reads and handles      | REMOVE                    | DELAY > OK           | OK lost         | DELAY
caches reads and handles      | RENAME                    | DELAY > OK           | OK lost         | DELAY
caches reads and handles      | v3 READ                   | OK                   | OK              | OK
caches reads and handles      | v3 REMOVE                 | JUKEBOX > OK         | OK lost         | JUKEBOX
has a batch oplock            | OPEN to read              | DELAY > OK           | OK lost         | DELAY
has a batch oplock            | WRITE                     | DELAY > OK           | OK lost         | DELAY
has a batch oplock            | REMOVE                    | DELAY > OK           | OK lost         | DELAY
has a batch oplock            | v3 READ                   | JUKEBOX > OK         | OK lost         | JUKEBOX
has a batch oplock            | v3 RENAME                 | JUKEBOX > OK         | OK lost         | JUKEBOX
will delete it                | OPEN to read              | SHARE_DENIED         | SHARE_DENIED    | SHARE_DENIED
will delete it                | LOOKUP                    | OK                   | OK              | OK
will delete it                | GETATTR                   | OK                   | OK              | OK
will delete it                | v3 LOOKUP                 | OK                   | OK              | OK
"""
"""Disconnected is `durable` and `persistent`; reclaiming is the same after the node was killed (a kill makes no difference). A durable handle always caches
its handle (MS-SMB2 3.3.5.9.10), and whatever takes that right from an absent client ends it: a removal, but also a write or a lock (MS-FSA 2.1.4.12)."""

NFS_HOLDS = """
holds                    | asks                  | live                 | expired | grace
denies reads             | CREATE to read        | SHARING_VIOLATION    | OK      | FILE_NOT_AVAILABLE
denies reads             | CREATE to write       | OK                   | OK      | FILE_NOT_AVAILABLE
denies reads             | CREATE for attributes | OK                   | OK      | FILE_NOT_AVAILABLE
denies reads             | rename                | OK                   | OK      | FILE_NOT_AVAILABLE
denies writes            | CREATE to read        | OK                   | OK      | FILE_NOT_AVAILABLE
denies writes            | CREATE to write       | SHARING_VIOLATION    | OK      | FILE_NOT_AVAILABLE
denies writes            | CREATE to overwrite   | SHARING_VIOLATION    | OK      | FILE_NOT_AVAILABLE
denies writes            | delete                | OK                   | OK      | FILE_NOT_AVAILABLE
reads                    | CREATE alone          | SHARING_VIOLATION    | OK      | FILE_NOT_AVAILABLE
reads                    | CREATE, share reads   | OK                   | OK      | FILE_NOT_AVAILABLE
reads                    | CREATE to overwrite   | OK                   | OK      | FILE_NOT_AVAILABLE
reads                    | rename                | OK                   | OK      | FILE_NOT_AVAILABLE
reads                    | delete                | OK                   | OK      | FILE_NOT_AVAILABLE
reads                    | replace               | ACCESS_DENIED        | OK      | FILE_NOT_AVAILABLE
writes                   | CREATE, share reads   | SHARING_VIOLATION    | OK      | FILE_NOT_AVAILABLE
writes                   | CREATE to write       | OK                   | OK      | FILE_NOT_AVAILABLE
locks exclusively        | READ                  | FILE_LOCK_CONFLICT   | OK      | FILE_NOT_AVAILABLE
locks exclusively        | READ elsewhere        | OK                   | OK      | FILE_NOT_AVAILABLE
locks exclusively        | WRITE                 | FILE_LOCK_CONFLICT   | OK      | FILE_NOT_AVAILABLE
locks exclusively        | LOCK                  | LOCK_NOT_GRANTED     | OK      | FILE_NOT_AVAILABLE
locks exclusively        | LOCK to share         | LOCK_NOT_GRANTED     | OK      | FILE_NOT_AVAILABLE
locks exclusively        | rename                | OK                   | OK      | FILE_NOT_AVAILABLE
locks exclusively        | delete                | OK                   | OK      | FILE_NOT_AVAILABLE
locks to share           | READ                  | OK                   | OK      | FILE_NOT_AVAILABLE
locks to share           | WRITE                 | FILE_LOCK_CONFLICT   | OK      | FILE_NOT_AVAILABLE
locks to share           | LOCK                  | LOCK_NOT_GRANTED     | OK      | FILE_NOT_AVAILABLE
locks to share           | LOCK to share         | OK                   | OK      | FILE_NOT_AVAILABLE
a read delegation alone  | CREATE to read        | OK                   | OK      | FILE_NOT_AVAILABLE
a read delegation alone  | CREATE for attributes | OK                   | OK      | FILE_NOT_AVAILABLE
a read delegation alone  | CREATE to write       | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a read delegation alone  | CREATE to overwrite   | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a read delegation alone  | CREATE alone          | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a read delegation alone  | rename                | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a read delegation alone  | delete                | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a read delegation alone  | replace               | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a read delegation, open  | CREATE to write       | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a read delegation, open  | CREATE alone          | SHARING_VIOLATION    | OK      | FILE_NOT_AVAILABLE
a write delegation alone | CREATE to read        | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a write delegation alone | CREATE to write       | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a write delegation alone | CREATE for attributes | OK                   | OK      | FILE_NOT_AVAILABLE
a write delegation alone | READ                  | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a write delegation alone | set size              | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a write delegation alone | LOCK                  | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a write delegation alone | rename                | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a write delegation alone | delete                | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
a write delegation alone | replace               | PENDING > OK         | OK      | FILE_NOT_AVAILABLE
"""
"""Disconnected is `silent` (the connection is gone, the lease has not run out) and `expired`; reclaiming is `killed` (the session is resumed after the node was
killed) and `grace`. Whoever is silent, or resumes its session, is met like a live one. In the grace after a loss of power nobody new opens anything;
then the holder reclaims (CLAIM_PREVIOUS), the grace ends, and it is met like a live one."""

Table = Mapping[Cell, Mapping[str, str]]


def read_table(text: str) -> Table:
    head, *lines = [[word.strip() for word in line.split("|")] for line in text.strip().splitlines()]
    return {Cell(number, *words[:2]): dict(zip(head[2:], words[2:], strict=True)) for number, words in enumerate(lines)}


SMB_TABLE, NFS_TABLE = read_table(SMB_HOLDS), read_table(NFS_HOLDS)
SMB_STATES = {"live": "live", "durable": "durable", "persistent": "persistent", "durable, killed": "durable", "persistent, killed": "persistent"}
NFS_STATES = {"live": "live", "silent": "live", "killed": "live", "expired": "expired", "grace": "grace"}
"""The states, and the columns that tell of them."""


class Played:
    """What came of each cell in one state of the holder: what its asker was told, or what went wrong."""

    def __init__(self) -> None:
        self._found: dict[Cell, str | Exception] = {}

    def is_open(self, cell: Cell) -> bool:
        return not isinstance(self._found.get(cell), Exception)

    async def step(self, cell: Cell, does: Callable[[], Awaitable[str | None]]) -> None:
        """One step of a cell; after one that has gone wrong there is no other. What it gives is added to what was found."""
        if not self.is_open(cell):
            return
        try:
            word = await does()
        except Exception as error:
            self._found[cell] = error
        else:
            self._found[cell] = self[cell] + (word or "")

    def __getitem__(self, cell: Cell) -> str:
        found = self._found.get(cell, "")
        if isinstance(found, Exception):
            raise AssertionError(f"the cell could not be played: {found!r}") from found
        return found


# SMB holds, NFS asks


async def prepare_smb(node: Node, keep: str, played: Played, table: Table = SMB_TABLE, asks_at: Node | None = None) -> tuple[SmbHolder, NfsAsker]:
    holder, asker = await SmbHolder.connect(node, keep), await NfsAsker.connect(asks_at or node)
    for cell in table:
        await asker.make(cell)

        async def hold(cell: Cell = cell) -> None:
            await asker.prepare(cell)
            await holder.hold(cell)

        await played.step(cell, hold)
    return holder, asker


async def asked_of_a_live_one(cell: Cell, holder: SmbHolder, asker: NfsAsker) -> str:
    first = await asker.ask(cell)
    if first not in ("DELAY", "JUKEBOX"):
        return first
    await holder.gives_way(cell)
    return f"{first} > {await asker.ask(cell)}"


async def smb_live(path: Path) -> Played:
    played = Played()
    async with both_on(path / "volume") as node:
        holder, asker = await prepare_smb(node, "", played)
        for cell in SMB_TABLE:
            await played.step(cell, lambda cell=cell: asked_of_a_live_one(cell, holder, asker))  # type: ignore[misc]
        holder.goes()
        await asker.close()
    return played


async def after_coming_back(cell: Cell, told: str, holder: SmbHolder, asker: NfsAsker) -> str:
    """What is added to what the asker was told when the holder comes back and is met once more."""
    if await holder.takes_up(cell) == "lost":
        return " lost"
    met = await asked_of_a_live_one(cell, holder, asker) if told not in ("OK", "DENIED") else told
    expected = SMB_TABLE[cell]["live"] if told != "OK" else "OK"
    return "" if met.split(" > ")[-1] == expected.split(" > ")[-1] else f", then {met}"


async def smb_away(path: Path, keep: str) -> Played:
    played = Played()
    async with both_on(path / "volume") as node:
        holder, asker = await prepare_smb(node, keep, played)
        holder.goes()
        await node.settled()
        for cell in SMB_TABLE:
            await played.step(cell, lambda cell=cell: asker.ask(cell))  # type: ignore[misc]
        await holder.returns(node)
        for cell in SMB_TABLE:
            await played.step(cell, lambda cell=cell: after_coming_back(cell, played[cell], holder, asker))  # type: ignore[misc]
        holder.goes()
        await asker.close()
    return played


async def smb_killed(path: Path, keep: str) -> Played:
    played = Played()
    process = Process(path / "volume", 1)
    try:
        holder, asker = await prepare_smb(await process.ready(), keep, played)
        process.kill()
        process = Process(path / "volume", 2)
        node = await process.ready()
        await asker.returns(node)
        for cell in SMB_TABLE:
            await played.step(cell, lambda cell=cell: asker.ask(cell))  # type: ignore[misc]
        await holder.returns(node)
        for cell in SMB_TABLE:
            await played.step(cell, lambda cell=cell: after_coming_back(cell, played[cell], holder, asker))  # type: ignore[misc]
        holder.goes()
        await asker.close()
    finally:
        process.kill()
    return played


# NFS holds, SMB asks


async def prepare_nfs(node: Node, played: Played, made_at: Node | None = None) -> NfsHolder:
    holder, maker = await NfsHolder.connect(node), await NfsAsker.connect(made_at or node)
    for cell in NFS_TABLE:
        await maker.make(cell)
        await played.step(cell, lambda cell=cell: holder.hold(cell))  # type: ignore[misc]
    await maker.ends()
    return holder


def waited_for(cell: Cell) -> bool:
    """Whether the holder has to give way, so that the asker is told PENDING before anything else."""
    return NFS_TABLE[cell]["live"].startswith("PENDING")


async def meets_nfs(cell: Cell, holder: NfsHolder, asker: SmbAsker, far: bool = False) -> str:
    """Where the volume is `far`, PENDING is also told of what merely takes a while."""
    asking = asker.ask(cell)
    first = await asking.first() if waited_for(cell) or not far else await asking.last()
    if first != "PENDING":
        return first
    await holder.gives_way(cell)
    return f"{first} > {await asking.last()}"


async def nfs_live(path: Path) -> Played:
    played = Played()
    async with both_on(path / "volume") as node:
        holder, asker = await prepare_nfs(node, played), await SmbAsker.connect(node)
        for cell in NFS_TABLE:
            await played.step(cell, lambda cell=cell: meets_nfs(cell, holder, asker))  # type: ignore[misc]
            await played.step(cell, lambda cell=cell: still_there(cell, holder))  # type: ignore[misc]
        asker.client.cut()
        await holder.goes()
    return played


async def still_there(cell: Cell, holder: NfsHolder) -> str:
    """Whatever was done, what the holder has open or locked is its own still; a delegation that it returned is not."""
    if cell.number not in holder.opens and cell.number not in holder.delegations:
        return ""
    return await holder.takes_up(cell)


async def ask_and_come_back(node: Node, holder: NfsHolder, played: Played, far: bool = False) -> None:
    """The asker comes while the holder is silent; then the holder comes back, and gives way where that was waited for."""
    asker = await SmbAsker.connect(node)
    waiting = {}
    for cell in NFS_TABLE:
        asking = waiting[cell] = asker.ask(cell)
        await played.step(cell, asking.first if waited_for(cell) or not far else asking.last)
    await holder.returns(node)
    for cell, asking in waiting.items():

        async def finish(cell: Cell = cell, asking: Asking = asking) -> str:
            if played[cell] != "PENDING":
                return await still_there(cell, holder)
            await holder.gives_way(cell)
            return f" > {await asking.last()}"

        await played.step(cell, finish)
    asker.client.cut()
    await holder.goes()


async def nfs_silent(path: Path) -> Played:
    played = Played()
    async with both_on(path / "volume") as node:
        holder = await prepare_nfs(node, played)
        await holder.goes()
        await ask_and_come_back(node, holder, played)
    return played


async def nfs_killed(path: Path) -> Played:
    played = Played()
    process = Process(path / "volume", 1)
    try:
        holder = await prepare_nfs(await process.ready(), played)
        process.kill()
        process = Process(path / "volume", 2)
        await ask_and_come_back(await process.ready(), holder, played)
    finally:
        process.kill()
    return played


async def nfs_expired(path: Path) -> Played:
    played = Played()
    async with both_on(path / "volume", lease_s=2) as node:
        holder = await prepare_nfs(node, played)
        await holder.goes()
        asker = await SmbAsker.connect(node)
        await node.forgotten()
        for cell in NFS_TABLE:
            asking = asker.ask(cell)
            await played.step(cell, asking.first)
        asker.client.cut()
    return played


async def nfs_grace(path: Path) -> Played:
    """The power fails: the host's memory is gone and its next start is another one, so records may have been lost."""
    played = Played()
    process = Process(path / "volume", 1)
    try:
        holder = await prepare_nfs(await process.ready(), played)
        process.kill()
        process = Process(path / "volume", 2, boot=b"another")
        node = await process.ready()
        asker = await SmbAsker.connect(node)
        for cell in NFS_TABLE:
            await played.step(cell, asker.ask(cell).first)
        await holder.returns(node)
        for cell in NFS_TABLE:
            await played.step(cell, lambda cell=cell: holder.reclaims(cell))  # type: ignore[misc]
        await holder.reclaimed_all()
        for cell, columns in NFS_TABLE.items():

            async def once_more(cell: Cell = cell, live: str = columns["live"]) -> str:
                met = await meets_nfs(cell, holder, asker)
                return "" if met == live else f", then {met}"

            await played.step(cell, once_more)
        asker.client.cut()
        await holder.goes()
    finally:
        process.kill()
    return played


PLAYS: dict[tuple[str, str], Callable[[Path], Awaitable[Played]]] = {
    ("smb", "live"): smb_live,
    ("smb", "durable"): lambda path: smb_away(path, "durable"),
    ("smb", "persistent"): lambda path: smb_away(path, "persistent"),
    ("smb", "durable, killed"): lambda path: smb_killed(path, "durable"),
    ("smb", "persistent, killed"): lambda path: smb_killed(path, "persistent"),
    ("nfs", "live"): nfs_live,
    ("nfs", "silent"): nfs_silent,
    ("nfs", "killed"): nfs_killed,
    ("nfs", "expired"): nfs_expired,
    ("nfs", "grace"): nfs_grace,
}


class Stage:
    """Each state is played once, for all of its cells."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._played: dict[tuple[str, str], Played] = {}

    def played(self, holder: str, state: str) -> Played:
        if (holder, state) not in self._played:
            folder = self._folder()

            async def whole() -> Played:
                return await PLAYS[holder, state](folder)

            self._played[holder, state] = asyncio.run(whole())
        return self._played[holder, state]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(lambda: tmp_path_factory.mktemp("stage"))


def cells(table: Table, states: Mapping[str, str]) -> list[object]:
    return [
        pytest.param(state, cell, columns[column], id=f"{cell.holds} ({state}) - {cell.asks} - {columns[column]}")
        for state, column in states.items()
        for cell, columns in table.items()
    ]


@pytest.mark.parametrize(("state", "cell", "expected"), cells(SMB_TABLE, SMB_STATES))
def test_what_nfs_is_told_when_smb_holds(stage: Stage, state: str, cell: Cell, expected: str) -> None:
    assert stage.played("smb", state)[cell] == expected


@pytest.mark.parametrize(("state", "cell", "expected"), cells(NFS_TABLE, NFS_STATES))
def test_what_smb_is_told_when_nfs_holds(stage: Stage, state: str, cell: Cell, expected: str) -> None:
    assert stage.played("nfs", state)[cell] == expected


# Times: with a short lease, nobody who asks waits for ever


def test_a_delegation_that_is_not_returned_in_time_is_revoked_and_smb_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with both_on(tmp_path / "volume", lease_s=2) as node:
            cell = Cell(0, "a write delegation alone", "CREATE to read")
            maker, holder, asker = await NfsAsker.connect(node), await NfsHolder.connect(node), await SmbAsker.connect(node)
            await maker.make(cell)
            await holder.hold(cell)
            asking = asker.ask(cell)
            assert await asking.first() == "PENDING"
            callback = await holder.client.transport.callbacks.get()
            assert (callback.number, callback.stateid) == (CB_RECALL, holder.delegations[0])
            last = asyncio.create_task(asking.last())
            while not last.done():
                await holder.client.done(op.putrootfh())  # it is alive, and keeps what it was asked for
                await asyncio.sleep(0.2)
            assert last.result() == "OK"
            reading = await holder.client.compound(op.putfh(holder.files[0]), op.read(holder.delegations[0], 0, 5))
            assert reading.status == Status4.DELEG_REVOKED
            await holder.goes()
            await maker.close()
            asker.client.cut()

    asyncio.run(scenario())


@pytest.mark.parametrize("asks", ["OPEN to write", "READ", "REMOVE", "v3 WRITE", "v3 RENAME"])
def test_a_lease_whose_break_is_not_acknowledged_is_revoked_after_at_most_a_lease_period_and_nfs_goes_on(tmp_path: Path, asks: str) -> None:
    async def scenario() -> None:
        async with both_on(tmp_path / "volume", lease_s=1) as node:
            cell = Cell(0, "caches all", asks)
            asker, holder = await NfsAsker.connect(node), await SmbHolder.connect(node)
            await asker.make(cell)
            await holder.hold(cell)
            told = [await asker.ask(cell)]
            async with asyncio.timeout(20):
                while told[-1] in ("DELAY", "JUKEBOX"):
                    await asyncio.sleep(0.1)
                    told.append(await asker.ask(cell))
            assert told[0] in ("DELAY", "JUKEBOX") and told[-1] == "OK"
            (body,) = await holder.client.broken()
            late = await holder.client.ask(Command.OPLOCK_BREAK, smb.lease_break(cell.key, int.from_bytes(body[28:32], "little")))
            assert late.status == NtStatus.UNSUCCESSFUL, "it has nothing to give back any more"
            holder.goes()
            await asker.close()

    asyncio.run(scenario())


# The grace after a loss of power, met by NFS

SMB_HOLDS_IN_GRACE = """
holds             | asks          | grace
shares nothing    | OPEN to read  | GRACE
shares nothing    | READ          | GRACE
shares nothing    | WRITE         | GRACE
shares nothing    | REMOVE        | DELAY
shares nothing    | GETATTR       | OK
shares nothing    | v3 READ       | JUKEBOX
shares nothing    | v3 RENAME     | JUKEBOX
shares all        | OPEN to write | GRACE
shares all        | WRITE         | GRACE
locks exclusively | OPEN to write | GRACE
locks exclusively | READ          | GRACE
locks exclusively | v3 WRITE      | JUKEBOX
caches all        | OPEN to read  | GRACE
caches all        | v3 READ       | JUKEBOX
caches all        | REMOVE        | DELAY
"""
"""A persistent handle is on the disk before its client hears of it, so a loss of power leaves it; an NFSv4 client still has to reclaim, and until then
nobody opens, and nobody reads or writes without an open (RFC 8881 8.4.2.1; NFSv3 has no word for that, and is let through where nothing is known). When it
has, and the SMB client has come back, the asker meets what it meets of a live holder."""
GRACE_TABLE = read_table(SMB_HOLDS_IN_GRACE)


async def smb_grace(path: Path) -> Played:
    played = Played()
    process = Process(path / "volume", 1)
    try:
        node = await process.ready()
        lost, reclaiming = Cell(len(GRACE_TABLE), "reads", ""), await NfsHolder.connect(node)
        holder, asker = await prepare_smb(node, "persistent", played, GRACE_TABLE)
        await asker.make(lost)
        await reclaiming.hold(lost)
        await asker.ends()
        process.kill()
        process = Process(path / "volume", 2, boot=b"another")
        node = await process.ready()
        fresh = await NfsAsker.connect(node)
        fresh.files = asker.files
        for cell in GRACE_TABLE:
            await played.step(cell, lambda cell=cell: fresh.ask(cell))  # type: ignore[misc]
        await reclaiming.returns(node)
        await reclaiming.reclaims(lost)
        await reclaiming.reclaimed_all()
        await holder.returns(node)
        live = {(cell.holds, cell.asks): columns["live"] for cell, columns in SMB_TABLE.items()}
        for cell in GRACE_TABLE:

            async def once_more(cell: Cell = cell) -> str:
                assert await holder.takes_up(cell) == "", "a persistent handle waits"
                met = await asked_of_a_live_one(cell, holder, fresh)
                return "" if met.split(" > ")[-1] == live[cell.holds, cell.asks].split(" > ")[-1] else f", then {met}"

            await played.step(cell, once_more)
        holder.goes()
        await reclaiming.goes()
        await fresh.close()
    finally:
        process.kill()
    return played


PLAYS["smb", "grace"] = smb_grace


@pytest.mark.parametrize(("state", "cell", "expected"), cells(GRACE_TABLE, {"grace": "grace"}))
def test_what_nfs_is_told_in_the_grace_when_smb_holds(stage: Stage, state: str, cell: Cell, expected: str) -> None:
    assert stage.played("smb", state)[cell] == expected


# Directories


def changes_by_nfs(asker: NfsAsker) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
    """Changes in directory `d`, one after the other."""

    async def v4(*operations: Op) -> None:
        await asker.v4.done(op.putrootfh(), op.lookup("data"), op.lookup("d"), *operations)

    async def v3(name: str, arguments: object) -> None:
        assert (await asker.v3.nfs(name, arguments)).status == 0

    async def in_d(name: str) -> m.DirectoryName:
        looked_up = await asker.v3.nfs("LOOKUP", m.LookupArgs(m.DirectoryName(asker.root3, b"d")))
        return m.DirectoryName(looked_up.value.object, name.encode())

    async def v3_create() -> None:
        await v3("CREATE", m.CreateArgs(await in_d("b"), (m.CreateMode.GUARDED, m.NewAttributes(mode=0o666))))

    async def v3_remove() -> None:
        await v3("REMOVE", m.RemoveArgs(await in_d("b")))

    opening = op.open_("a", clientid=asker.v4.clientid, how="unchecked", mode=0o666)
    return [
        ("OPEN of a new file", lambda: v4(opening, op.close(CURRENT))),
        ("RENAME", lambda: v4(op.savefh(), op.rename("a", "c"))),
        ("CREATE of a directory", lambda: v4(op.create(2, "e", mode=0o777))),
        ("REMOVE", lambda: v4(op.remove("c"))),
        ("v3 CREATE", v3_create),
        ("v3 REMOVE", v3_remove),
    ]


def test_a_directory_lease_is_broken_by_what_nfs_does_in_the_directory_and_nfs_does_not_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with both_on(tmp_path / "volume") as node:
            asker, holder = await NfsAsker.connect(node), await SocketClient.reach(node.smb)
            await holder.open("d", disposition=2, options=1)
            for number, (what, change) in enumerate(changes_by_nfs(asker), 1):
                key = number.to_bytes(16)
                extras = contexts.encode([smb.lease(key, RH)])
                reply = await holder.ask(Command.CREATE, smb.create("d", 0x120089, 1, 1, extras=extras, level=LEVEL_LEASE))
                assert smb.granted(reply).lease == RH
                await change()
                (body,) = await holder.broken()
                assert body[8:24] == key, what
                await holder.ask(Command.OPLOCK_BREAK, smb.lease_break(key, int.from_bytes(body[28:32], "little")))
                await holder.ask(Command.CLOSE, smb.close(smb.file_id(reply)))
            holder.cut()
            await asker.close()

    asyncio.run(scenario())


def test_who_watches_a_tree_over_smb_is_told_what_nfs_changes_in_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with both_on(tmp_path / "volume") as node:
            asker, watcher = await NfsAsker.connect(node), await SocketClient.reach(node.smb)
            await watcher.open("d", disposition=2, options=1)
            root = await watcher.open("", access=1, options=1)
            told = []
            for _, change in changes_by_nfs(asker):
                number = watcher.request(Command.CHANGE_NOTIFY, smb.change_notify(root, what=3, tree=True))
                assert not await watcher.answered(number)
                await change()
                told.append(smb.changes(await watcher.final(number)))
            assert told == [
                [(ADDED, "d\\a")],
                [(OLD_NAME, "d\\a"), (NEW_NAME, "d\\c")],
                [(ADDED, "d\\e")],
                [(REMOVED, "d\\c")],
                [(ADDED, "d\\b")],
                [(REMOVED, "d\\b")],
            ]
            watcher.cut()
            await asker.close()

    asyncio.run(scenario())


# The end of a name


def test_what_nfs_removes_goes_at_once_and_lives_on_for_smb_until_its_close(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with both_on(tmp_path / "volume") as node:
            cell = Cell(0, "shares all", "REMOVE")
            asker, holder = await NfsAsker.connect(node), await SmbHolder.connect(node)
            await asker.make(cell)
            await holder.hold(cell)
            assert await asker.ask(cell) == "OK"
            assert await asker.ask(cell._replace(asks="LOOKUP")) == "NOENT"
            reply = await holder.client.ask(Command.READ, smb.read(holder.files[0], 0, 6))
            assert reply.status == 0 and reply.message[80:] == DATA[:6]
            assert await asker.ask(cell._replace(asks="v3 GETATTR")) == "OK"
            assert (await holder.client.ask(Command.CLOSE, smb.close(holder.files[0]))).status == 0
            assert await asker.ask(cell._replace(asks="v3 GETATTR")) == "STALE"
            holder.goes()
            await asker.close()

    asyncio.run(scenario())


def test_what_smb_deletes_stays_visible_and_shut_until_nfs_closes_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with both_on(tmp_path / "volume") as node:
            cell = Cell(0, "reads", "delete")
            other, holder, asker = await NfsAsker.connect(node), await NfsHolder.connect(node), await SmbAsker.connect(node)
            await other.make(cell)
            await holder.hold(cell)
            assert await asker.ask(cell).last() == "OK"
            assert await other.ask(cell._replace(asks="LOOKUP")) == "OK"
            assert await other.ask(cell._replace(asks="OPEN to read")) == "SHARE_DENIED"
            assert await asker.ask(cell._replace(asks="CREATE to read")).last() == "DELETE_PENDING"
            reading = await holder.client.done(op.putfh(holder.files[0]), op.read(holder.opens[0], 0, 6))
            assert reading.last[1] == DATA[:6]
            await holder.client.done(op.putfh(holder.files[0]), op.close(holder.opens[0]))
            assert await other.ask(cell._replace(asks="LOOKUP")) == "NOENT"
            asker.client.cut()
            await holder.goes()
            await other.close()

    asyncio.run(scenario())
