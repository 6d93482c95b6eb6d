"""One file, two protocols: the matrix of {locks, share modes, grants, rename, remove} x {live, away, reclaiming} x both directions.

The tables stand for PROTOCOLS' "One file, two protocols". Each cell says what the second client meets, and was written before it was run: `done`, the
outcome's name, or `waits` for an SMB request that goes on when the first client has given way. Getting attributes disturbs nobody.

The first client is over SMB, in one of these states:
    live         connected
    durable      its connection is gone, its durable handle waits for it (with a lease that lets it: RH, or what the row says)
    persistent   the same with a persistent handle, which nobody else's request ends
    reclaiming   records may have been lost with the host: what is left of the durable handle waits, and the volume is in grace
or over NFSv4.1:
    live         as long as its lease has not run out, whether it is heard of or not
    restarted    the server's process has died and come back
    ended        its lease has run out, and the gateway has ended it
    reclaiming   records may have been lost, and the volume is in grace
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from sofs.errors import NoGrace, SofsError
from sofs.locks import GrantKind
from sofs.types import ROOT, Level
from sofs.volume.api import Access, Close, EndClient, EndGrace, GetAttributes, Keep, Lock, Opened, Remove, Rename, Reply, SetDisposition, Stateless
from tests.unit.volume.remote.far_rig import FarRig
from tests.unit.volume.state_rig import DELETE, NFS, RH, RW, RWH, R, StateRig, run
from tests.unit.volume.volume_rig import SUPER

READ, WRITE = int(Access.READ_DATA), int(Access.WRITE_DATA)
DURABLE, PERSISTENT = Keep(600_000), Keep(600_000, persistent=True)

Action = Callable[[StateRig, Opened | None], Any]


@pytest.fixture(params=["here", "from another node"])
def kind(request: pytest.FixtureRequest) -> Iterator[type[StateRig]]:
    """The volume as its coordinator's own gateways have it, and as those of another node do, over the interconnect."""
    yield StateRig if request.param == "here" else FarRig


def io(rig: StateRig, target: Any, write: bool, by: Any = NFS) -> Any:
    if write:
        return rig.volume.write(target, 0, memoryview(b"xx"), None, Level.COMMITTED, by)
    return rig.volume.read(target, 0, memoryview(bytearray(2)), by)


def stateless(rig: StateRig) -> Stateless:
    return Stateless(rig.lookup(b"f").inode, SUPER)


# What NFS does. The open, where one is needed, was there before the SMB client came.

NFS_DOES: dict[str, Action] = {
    "v4 open read": lambda rig, mine: rig.volume.call(rig.nfs_request(owner=b"second", access=READ), None, NFS),
    "v4 open write": lambda rig, mine: rig.volume.call(rig.nfs_request(owner=b"second", access=WRITE), None, NFS),
    "v4 read": lambda rig, mine: io(rig, mine.open, False),  # type: ignore[union-attr]
    "v4 write": lambda rig, mine: io(rig, mine.open, True),  # type: ignore[union-attr]
    "v4 lock": lambda rig, mine: rig.volume.call(Lock(mine.open, 0, 5, True, owner=b"nfs owner"), None, NFS),  # type: ignore[union-attr]
    "v3 read": lambda rig, mine: io(rig, stateless(rig), False),
    "v3 write": lambda rig, mine: io(rig, stateless(rig), True),
    "remove": lambda rig, mine: rig.volume.call(Remove(SUPER, ROOT, b"f"), None, NFS),
    "rename": lambda rig, mine: rig.volume.call(Rename(SUPER, ROOT, b"g", True, ROOT, b"f"), None, NFS),
    "replace": lambda rig, mine: rig.volume.call(Rename(SUPER, ROOT, b"f", True, ROOT, b"other"), None, NFS),
    "getattr": lambda rig, mine: rig.volume.call(GetAttributes(stateless(rig)), None, NFS),
}

SMB_FIRST = """
holds                 | NFS does      | live             | durable   | persistent | reclaiming
shares nothing        | v4 open read  | SharingViolation | done      | Delayed    | Grace
shares nothing        | v4 open write | SharingViolation | done      | Delayed    | Grace
shares nothing        | v3 read       | SharingViolation | done      | Delayed    | done
shares nothing        | v3 write      | SharingViolation | done      | Delayed    | done
shares nothing        | remove        | SharingViolation | done      | Delayed    | done
shares nothing        | rename        | SharingViolation | done      | Delayed    | done
shares nothing        | replace       | SharingViolation | done      | Delayed    | done
shares nothing        | getattr       | done             | done      | done       | done
shares reads          | v4 open read  | done             | done      | done       | Grace
shares reads          | v4 open write | SharingViolation | done      | Delayed    | Grace
shares reads          | v3 read       | done             | done      | done       | done
shares reads          | v3 write      | SharingViolation | done      | Delayed    | done
shares reads          | remove        | SharingViolation | done      | Delayed    | done
shares all            | v4 open write | done             | done      | done       | Grace
shares all            | v3 write      | done             | done      | done       | done
shares all            | remove        | done             | done      | done       | done
shares all            | rename        | done             | done      | done       | done
shares all            | replace       | done             | done      | done       | done
locks exclusively     | v4 read       | LockConflict     | done      | Delayed    | done
locks exclusively     | v4 write      | LockConflict     | done      | Delayed    | done
locks exclusively     | v4 lock       | LockConflict     | done      | Delayed    | Grace
locks exclusively     | v3 read       | LockConflict     | done      | Delayed    | done
locks exclusively     | v3 write      | LockConflict     | done      | Delayed    | done
locks exclusively     | v4 open write | done             | done      | done       | Grace
locks exclusively     | rename        | done             | done      | done       | done
locks to share        | v4 read       | done             | done      | done       | done
locks to share        | v4 write      | LockConflict     | done      | Delayed    | done
locks to share        | v4 lock       | LockConflict     | done      | Delayed    | Grace
locks to share        | v3 write      | LockConflict     | done      | Delayed    | done
caches all            | v4 open read  | Delayed          | done      | Delayed    | Grace
caches all            | v4 open write | Delayed          | done      | Delayed    | Grace
caches all            | v3 read       | Delayed          | done      | Delayed    | done
caches all            | v3 write      | Delayed          | done      | Delayed    | done
caches all            | remove        | Delayed          | done      | Delayed    | done
caches all            | rename        | Delayed          | done      | Delayed    | done
caches all            | replace       | Delayed          | done      | Delayed    | done
caches all            | getattr       | done             | done      | done       | done
caches reads, handles | v4 open write | done             | done      | done       | Grace
caches reads, handles | v3 read       | done             | done      | done       | done
caches reads, handles | v3 write      | done             | done      | done       | done
caches reads, handles | remove        | Delayed          | done      | Delayed    | done
caches reads, handles | rename        | Delayed          | done      | Delayed    | done
has a batch oplock    | v4 open read  | Delayed          | done      | Delayed    | Grace
has a batch oplock    | v3 write      | Delayed          | done      | Delayed    | done
has a batch oplock    | remove        | Delayed          | done      | Delayed    | done
will delete it        | v4 open read  | DeletePending    | DeletePending | DeletePending | Grace
will delete it        | v3 read       | done             | done      | done       | done
will delete it        | remove        | done             | Delayed   | done       | Delayed
"""
"""In the last row the durable handle gives way and takes the name along, so whoever wanted to remove it is to look again."""

# What SMB does, each time with an open of its own.

NFS_FIRST = """
holds                 | SMB does      | live             | restarted        | ended | reclaiming
denies reads          | open read     | SharingViolation | SharingViolation | done  | Grace
denies reads          | open write    | done             | done             | done  | Grace
denies reads          | delete        | done             | done             | done  | Grace
denies writes         | open read     | done             | done             | done  | Grace
denies writes         | open write    | SharingViolation | SharingViolation | done  | Grace
reads                 | open alone    | SharingViolation | SharingViolation | done  | Grace
reads                 | open read     | done             | done             | done  | Grace
reads                 | rename        | done             | done             | done  | Grace
reads                 | delete        | done             | done             | done  | Grace
reads                 | replace       | AccessDenied     | AccessDenied     | done  | Grace
locks exclusively     | read          | LockConflict     | LockConflict     | done  | Grace
locks exclusively     | write         | LockConflict     | LockConflict     | done  | Grace
locks exclusively     | lock          | LockConflict     | LockConflict     | done  | Grace
locks exclusively     | rename        | done             | done             | done  | Grace
locks to share        | read          | done             | done             | done  | Grace
locks to share        | write         | LockConflict     | LockConflict     | done  | Grace
locks to share        | lock          | LockConflict     | LockConflict     | done  | Grace
has a read delegation | open read     | done             | done             | done  | Grace
has a read delegation | open write    | waits            | waits            | done  | Grace
has a read delegation | open alone    | waits            | waits            | done  | Grace
has a read delegation | rename        | waits            | waits            | done  | Grace
has a read delegation | delete        | waits            | waits            | done  | Grace
has a read delegation | replace       | waits            | waits            | done  | Grace
has a write delegation| open read     | waits            | waits            | done  | Grace
has a write delegation| open write    | waits            | waits            | done  | Grace
has a write delegation| stat          | done             | done             | done  | Grace
has a write delegation| rename        | waits            | waits            | done  | Grace
has a write delegation| delete        | waits            | waits            | done  | Grace
"""


def rows(table: str) -> list[tuple[str, str, str, str]]:
    head, *lines = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return [(holds, does, state, cell) for holds, does, *cells in lines for state, cell in zip(head[2:], cells, strict=True)]


async def outcome(act: Callable[[], Any]) -> str:
    """What came of it: `waits` if it has not been answered within a second, in which nobody answers recalls."""
    try:
        result = act()
        if isinstance(result, Awaitable):
            task = asyncio.ensure_future(result)
            await asyncio.wait([task], timeout=1)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return "waits"
            task.result()
    except SofsError as error:
        return type(error).__name__
    return "done"


def smb_holder(rig: StateRig, holds: str, state: str) -> Opened:
    keep = {"live": None, "persistent": PERSISTENT}.get(state, DURABLE)
    rights = {"caches all": RWH, "caches reads, handles": RH, "has a batch oplock": RWH}.get(holds, RH if keep is DURABLE else None)
    share = {"shares nothing": 0, "shares reads": 1}.get(holds, 7)
    oplock = holds == "has a batch oplock"
    opened = rig.smb(
        rights=rights, key=b"" if oplock else b"k", kind=GrantKind.OPLOCK if oplock else GrantKind.LEASE, keep=keep, share=share,
        access=READ | WRITE | (DELETE if holds == "will delete it" else 0), client=b"client",
    )  # fmt: skip
    assert opened.grant == (rights or 0)
    if holds.startswith("locks"):
        rig.lock(opened.open, 0, 10, exclusive=holds == "locks exclusively")
    if holds == "will delete it":
        rig.ask(SetDisposition(opened.open, True))
    return opened


@pytest.mark.parametrize(("holds", "does", "state", "expected"), rows(SMB_FIRST))
def test_what_nfs_meets_of_smb(holds: str, does: str, state: str, expected: str, kind: type[StateRig]) -> None:
    async def scenario(rig: StateRig) -> None:
        rig.make_name(b"f", mode=0o666)
        rig.make_name(b"other", mode=0o666)
        mine = None
        if state == "reclaiming" or does in ("v4 read", "v4 write", "v4 lock"):
            # Whoever is to lose something in a crash has had it; for a row about grants its open must not be in the way.
            mine = rig.nfs(b"f" if does in ("v4 read", "v4 write", "v4 lock") else b"other")
        holder = smb_holder(rig, holds, "live" if state == "live" else state)
        if state != "live":
            rig.disconnect(holder)
        if state == "reclaiming":
            await rig.store.log.sync()
            await rig.die(power=True)
        if does == "replace" and mine is not None and state == "reclaiming":
            rig.shut(mine)
        assert await outcome(lambda: NFS_DOES[does](rig, mine)) == expected
        if state == "reclaiming":
            assert rig.volume.core.grace
            # Those who had something get it back: NFSv4 by reclaiming, SMB by reconnecting if it has not given way.
            assert await outcome(lambda: rig.volume.call(rig.nfs_request(b"lost", reclaim=True), None, NFS)) == "done"
            rig.ask(EndGrace())
            with pytest.raises(NoGrace):
                rig.nfs(b"lost", owner=b"late", reclaim=True)
        if holder.open in rig.volume.core.opens and state != "live":
            assert rig.reconnect(holder, key_of(holder), client=b"client").open == holder.open

    run(scenario, kind=kind)


def key_of(holder: Opened) -> bytes | None:
    return b"k" if holder.key == b"k" else None


def opening(rig: StateRig, access: int, share: int = 7, name: bytes = b"f") -> Any:
    return rig.volume.call(rig.smb_request(name, access=access, share=share), None, NFS)


async def then(opened: Any, act: Callable[[Opened], Any]) -> None:
    held: Opened = await opened if isinstance(opened, Awaitable) else opened
    result = act(held)
    if isinstance(result, Awaitable):
        await result


SMB_DOES: dict[str, Callable[[StateRig], Any]] = {
    "open read": lambda rig: opening(rig, READ),
    "open write": lambda rig: opening(rig, WRITE),
    "open alone": lambda rig: opening(rig, READ, 0),
    "stat": lambda rig: opening(rig, int(Access.READ_ATTRIBUTES)),
    "read": lambda rig: then(opening(rig, READ), lambda held: io(rig, held.open, False)),
    "write": lambda rig: then(opening(rig, WRITE), lambda held: io(rig, held.open, True)),
    "lock": lambda rig: then(opening(rig, READ), lambda held: rig.volume.call(Lock(held.open, 5, 1, True), None, NFS)),
    "delete": lambda rig: then(opening(rig, DELETE), lambda held: rig.volume.call(SetDisposition(held.open, True), None, NFS)),
    "rename": lambda rig: then(
        opening(rig, DELETE), lambda held: rig.volume.call(Rename(SUPER, ROOT, b"g", False, open=held.open, fold=True), None, NFS)
    ),
    "replace": lambda rig: then(
        opening(rig, DELETE, name=b"other"), lambda held: rig.volume.call(Rename(SUPER, ROOT, b"f", True, open=held.open, fold=True), None, NFS)
    ),
}


def nfs_holder(rig: StateRig, holds: str) -> None:
    deny = {"denies reads": 1, "denies writes": 2}.get(holds, 0)
    delegate = {"has a read delegation": R, "has a write delegation": RW}.get(holds, 0)
    access = READ if holds in ("reads", "has a read delegation") or deny else READ | WRITE
    if holds == "denies reads":
        access = WRITE
    opened = rig.nfs(access=access, deny=deny, delegate=delegate)
    assert opened.grant == delegate
    if delegate:
        rig.ask(Close(opened.open), NFS)  # the delegation alone
    if holds.startswith("locks"):
        rig.lock(opened.open, 0, 10, exclusive=holds == "locks exclusively", owner=b"nfs owner")


@pytest.mark.parametrize(("holds", "does", "state", "expected"), rows(NFS_FIRST))
def test_what_smb_meets_of_nfs(holds: str, does: str, state: str, expected: str, kind: type[StateRig]) -> None:
    async def scenario(rig: StateRig) -> None:
        rig.make_name(b"f", mode=0o666)
        rig.make_name(b"other", mode=0o666)
        nfs_holder(rig, holds)
        if state == "restarted":
            await rig.die()
        elif state == "ended":
            rig.ask(EndClient(b"nfs"), NFS)
        elif state == "reclaiming":
            await rig.store.log.sync()
            await rig.die(power=True)
        assert await outcome(lambda: SMB_DOES[does](rig)) == expected
        if state == "reclaiming":
            assert await outcome(lambda: rig.volume.call(rig.nfs_request(b"lost", reclaim=True), None, NFS)) == "done"
            rig.ask(EndGrace())
            meets = next(cell for held, did, column, cell in rows(NFS_FIRST) if (held, did, column) == (holds, does, "live"))
            assert await outcome(lambda: SMB_DOES[does](rig)) == meets, "after the grace it is as it was before the crash"

    run(scenario, kind=kind)


def test_a_request_that_waits_goes_on_when_the_other_protocol_has_given_way(kind: type[StateRig]) -> None:
    async def scenario(rig: StateRig) -> None:
        from sofs.volume.api import ReturnGrant

        opened = rig.nfs(delegate=RW)
        rig.ask(Close(opened.open), NFS)
        waiting = rig.asking(rig.smb_request(access=READ))
        rig.ask(ReturnGrant(opened.delegation), NFS)
        reply = await waiting
        assert isinstance(reply, Reply)

    run(scenario, kind=kind)
