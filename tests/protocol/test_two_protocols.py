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

from tests.protocol.two_protocols import Asking, Cell, NfsAsker, NfsHolder, SmbAsker, SmbHolder
from tests.served_both import Node, Process, both_on

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


async def prepare_smb(node: Node, keep: str, played: Played) -> tuple[SmbHolder, NfsAsker]:
    holder, asker = await SmbHolder.connect(node, keep), await NfsAsker.connect(node)
    for cell in SMB_TABLE:
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


async def prepare_nfs(node: Node, played: Played) -> NfsHolder:
    holder, maker = await NfsHolder.connect(node), await NfsAsker.connect(node)
    for cell in NFS_TABLE:
        await maker.make(cell)
        await played.step(cell, lambda cell=cell: holder.hold(cell))  # type: ignore[misc]
    await maker.ends()
    return holder


async def meets_nfs(cell: Cell, holder: NfsHolder, asker: SmbAsker) -> str:
    asking = asker.ask(cell)
    first = await asking.first()
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


async def ask_and_come_back(node: Node, holder: NfsHolder, played: Played) -> None:
    """The asker comes while the holder is silent; then the holder comes back, and gives way where that was waited for."""
    asker = await SmbAsker.connect(node)
    waiting = {}
    for cell in NFS_TABLE:
        asking = waiting[cell] = asker.ask(cell)
        await played.step(cell, asking.first)
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
