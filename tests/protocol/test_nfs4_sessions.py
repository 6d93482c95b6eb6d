"""NFSv4.1: clients, sessions and what is carried out once, over connections, retries and restarts of the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateways.nfs.v4 import recalls, records
from gateways.nfs.v4.status import Status
from sofs.errors import NoSpace
from sofs.volume.api import Binding, ClientList, GetAttributes, KeepRecords, ListClients, ListRecords, Make, Records, Request
from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_client import Nfs4Client, Result, Transport
from tests.protocol.nfs4_scenes import DIRECTORY, names_in, open_file, status
from tests.protocol.nfs4_xdr import ANONYMOUS, CURRENT, Op, new_fattr
from tests.served import Served, nfs_on
from tests.unit.gateways.nfs_link import sys_credential

CB_PATH_DOWN, RECLAIM_NEEDED, CB_PATH_DOWN_SESSION = 0x1, 0x100, 0x200
READ_DELEGATION, WRITE_DELEGATION = 1, 2
WANT_READ, WANT_WRITE = 0x100, 0x200


@asynccontextmanager
async def server_with(path: Path, **client: Any) -> AsyncIterator[tuple[Served, Nfs4Client, bytes]]:
    """A server, a client, and the root of its export."""
    async with nfs_on(path / "volume") as server, await Nfs4Client.connect(server.port, **client) as found:
        yield server, found, await found.root()


async def again(client: Nfs4Client, port: int) -> None:
    """The client has found the server again: another connection, the same session."""
    await client.transport.close()
    called = client.transport.called
    client.transport = await Transport.connect(port)
    client.transport.called = called
    client.transport.auth = sys_credential(1000, 1000)


def request(client: Nfs4Client, slot: int, number: int, *operations: Op, cache: bool = True) -> list[Op]:
    return [op.sequence(client.session, number, slot, 15, cache), *operations]


async def send(client: Nfs4Client, operations: list[Op]) -> Result:
    result = await client.transport.compound(operations, client.minor)
    if result.operations[0][1] == 0:  # so that the client's own requests go on from here
        number, slot = struct.unpack_from(">II", operations[0].arguments, 16)
        client.used(slot, number)
    return result


def failed(result: Result) -> tuple[int, Status]:
    """Where a COMPOUND failed, and how."""
    return len(result.operations) - 1, Status(result.status)


# Slots


def test_a_retry_is_answered_with_the_first_reply(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (_, client, root):
            asked = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755), op.getfh())
            first = await send(client, asked)
            assert first.status == 0
            assert await send(client, asked) == first
            assert await names_in(client, root) == [b"d"]

    asyncio.run(scenario())


def test_a_retry_whose_reply_was_not_to_be_kept_is_told_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (_, client, root):
            asked = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755), cache=False)
            assert (await send(client, asked)).status == 0
            assert failed(await send(client, asked)) == (1, Status.RETRY_UNCACHED_REP)
            assert (await send(client, request(client, 15, 2, op.putfh(root)))).status == 0

    asyncio.run(scenario())


def test_another_request_under_a_used_sequence_is_a_false_retry(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (_, client, root):
            assert (await send(client, request(client, 15, 1, op.putfh(root)))).status == 0
            other = await send(client, request(client, 15, 1, op.putfh(root), op.getfh()))
            assert failed(other) == (0, Status.SEQ_FALSE_RETRY)

    asyncio.run(scenario())


def test_a_retry_of_what_is_under_way_has_to_come_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (server, client, root):
            hold, _ = stall(server, after=0)
            asked = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755))
            first = asyncio.create_task(send(client, asked))
            await asyncio.sleep(0.05)
            assert failed(await send(client, asked)) == (0, Status.DELAY)
            assert failed(await send(client, request(client, 15, 2, op.putfh(root)))) == (0, Status.SEQ_MISORDERED)
            hold.set()
            assert (await first).status == 0
            assert await send(client, asked) == await first

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("number", "slot", "highest", "expected"),
    [(3, 0, 15, Status.SEQ_MISORDERED), (0, 0, 15, Status.SEQ_MISORDERED), (1, 16, 16, Status.BADSLOT), (1, 1, 16, Status.BAD_HIGH_SLOT)],
)
def test_a_sequence_out_of_order_is_refused(tmp_path: Path, number: int, slot: int, highest: int, expected: Status) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, reclaimed=False) as (_, client, root):
            assert (await send(client, request(client, 5, 1, op.putfh(root)))).status == 0
            result = await send(client, [op.sequence(client.session, number, slot, highest, False), op.putfh(root)])
            assert failed(result) == (0, expected)

    asyncio.run(scenario())


def test_other_minor_versions_are_told_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nfs_on(tmp_path / "volume") as server:
            transport = await Transport.connect(server.port)
            for minor in (0, 3):
                results = await transport.call(1, struct.pack(">I4sII", 3, b"tag\0", minor, 1) + struct.pack(">I", 24))
                assert results == struct.pack(">II4sI", Status.MINOR_VERS_MISMATCH, 3, b"tag\0", 0)
            await transport.close()

    asyncio.run(scenario())


def test_operations_that_cannot_be_read_end_their_compound(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (_, client, root):
            cut = Op(15, struct.pack(">I", 1 << 30), lambda r: None)
            illegal = Op(77, b"", lambda r: None)
            result = await client.compound(op.putfh(root), cut)
            assert (result.status, len(result.operations)) == (Status.BADXDR, 2)
            result = await client.compound(op.putfh(root), illegal)
            assert (result.status, result.operations[-1][0]) == (Status.OP_ILLEGAL, 10044)
            assert await names_in(client, root) == []

    asyncio.run(scenario())


# Over a restart


def recorded(server: Served, kind: bytes) -> list[bytes]:
    """Keys of the records that are kept of clients or sessions."""
    kept = server.volume.call(ListRecords(kind), None, Binding(1, 0))
    assert isinstance(kept, Records)
    return [key.removeprefix(kind) for key, _ in kept.records]


def stall(server: Served, after: int, what: type[Request] = Make) -> tuple[asyncio.Event, asyncio.Event]:
    """Lets such requests wait for the first event, but the first `after` of them; the second event says that one waits."""
    release, waiting = asyncio.Event(), asyncio.Event()
    call, seen = server.volume.call, 0

    def slow(request: Any, token: Any, by: Any) -> Any:
        nonlocal seen
        if not isinstance(request, what):
            return call(request, token, by)
        seen += 1
        if seen <= after:
            return call(request, token, by)

        async def later() -> Any:
            waiting.set()
            await release.wait()
            return call(request, token, by)

        return later()

    server.volume.call = slow  # type: ignore[method-assign]
    return release, waiting


def test_a_session_goes_on_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, persist=True) as (_, client, root):
            done = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755), op.getfh())
            first = await send(client, done)
            uncached = request(client, 14, 1, op.putfh(root), op.create(DIRECTORY, "e", mode=0o755), cache=False)
            assert (await send(client, uncached)).status == 0
        async with nfs_on(tmp_path / "volume", incarnation=2) as server:
            await again(client, server.port)
            other = [done[0], op.putfh(root), op.remove("d")]
            assert failed(await send(client, other)) == (0, Status.SEQ_FALSE_RETRY)
            assert await send(client, done) == first, "a retry is a retry"
            assert failed(await send(client, uncached)) == (1, Status.RETRY_UNCACHED_REP)
            for slot in (15, 14, 13):  # the next request, and the first of a slot that was never used
                asked = request(client, slot, 2, op.putfh(root), op.create(DIRECTORY, f"f{slot}", mode=0o755))
                assert (await send(client, asked)).status == 0
                asked = request(client, slot, 4, op.putfh(root))
                assert failed(await send(client, asked)) == (0, Status.SEQ_MISORDERED)
            assert await names_in(client, root) == [b"d", b"e", b"f13", b"f14", b"f15"]
            await client.transport.close()

    asyncio.run(scenario())


def test_the_first_request_of_a_slot_after_a_restart_may_be_ahead_and_not_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, persist=True) as (_, client, root):
            for number in (1, 2):
                asked = request(client, 15, number, op.putfh(root), op.create(DIRECTORY, f"d{number}", mode=0o755))
                assert (await send(client, asked)).status == 0
            for number in (3, 4):  # leave no trace
                assert (await send(client, request(client, 15, number, op.putfh(root)))).status == 0
        async with nfs_on(tmp_path / "volume", incarnation=2) as server:
            await again(client, server.port)
            assert failed(await send(client, request(client, 15, 1, op.putfh(root)))) == (0, Status.SEQ_MISORDERED)
            assert (await send(client, request(client, 15, 5, op.putfh(root)))).status == 0
            assert failed(await send(client, request(client, 15, 4, op.putfh(root)))) == (0, Status.SEQ_MISORDERED)
            await client.transport.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("done", range(3))
def test_a_compound_that_a_crash_cut_in_two_goes_on_where_it_stood(tmp_path: Path, done: int) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, persist=True) as (server, client, root):
            asked = request(
                client, 15, 1,
                op.putfh(root), op.savefh(), op.create(DIRECTORY, "one", mode=0o755), op.getfh(), op.restorefh(),
                op.create(DIRECTORY, "two", mode=0o755), op.create(DIRECTORY, "in two", mode=0o755), op.getattr_("fileid"),
            )  # fmt: skip
            _, waiting = stall(server, after=done)
            cut = asyncio.create_task(send(client, asked))
            await waiting.wait()
            assert await names_in(client, root) == [b"one", b"two"][:done]
            shutil.copytree(tmp_path / "volume", tmp_path / "after")  # what a killed process leaves
            cut.cancel()
        async with nfs_on(tmp_path / "after", incarnation=2) as server:
            await again(client, server.port)
            result = await send(client, asked)
            assert result.status == 0, result
            one = result.operations[4][2]
            assert await names_in(client, root) == [b"one", b"two"]
            assert (await client.done(op.putfh(root), op.lookup("one"), op.getfh())).last == one
            assert await names_in(client, (await client.done(op.putfh(root), op.lookup("two"), op.getfh())).last) == [b"in two"]
            assert await send(client, asked) == result
            await client.transport.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["exclusive", "exclusive_41", "unchecked"])
def test_an_open_is_not_made_again_because_its_name_has_gone_meanwhile(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, persist=True) as (_, client, root):
            opening = op.open_("f", clientid=client.clientid, how=how, verifier=b"verifier")
            asked = request(client, 15, 1, op.putfh(root), opening, op.getfh())
            first = await send(client, asked)
            await client.done(op.putfh(root), op.savefh(), op.rename("f", "g"))
        async with nfs_on(tmp_path / "volume", incarnation=2) as server:
            await again(client, server.port)
            repeated = await send(client, asked)
            assert (repeated.status, repeated.last, repeated.value(18).stateid) == (0, first.last, first.value(18).stateid)
            assert await names_in(client, root) == [b"g"]
            await client.transport.close()

    asyncio.run(scenario())


def test_a_fault_of_the_server_s_own_does_not_hold_up_the_slot(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (server, client, root):
            call = server.volume.call

            async def broken() -> Any:
                raise RuntimeError("a bug")

            server.volume.call = lambda request, token, by: broken() if isinstance(request, Make) else call(request, token, by)  # type: ignore
            asked = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755))
            async with asyncio.timeout(5):
                result = await send(client, asked)
            assert failed(result) == (2, Status.SERVERFAULT)
            assert await send(client, asked) == result
            assert (await send(client, request(client, 15, 2, op.putfh(root)))).status == 0

    asyncio.run(scenario())


def test_a_session_is_told_of_when_it_is_recorded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (server, client, _):
            asked = op.create_session(client.clientid, client.sequence)
            call, full = server.volume.call, NoSpace("full")

            def refuse(request: Any, token: Any, by: Any) -> Any:
                if isinstance(request, KeepRecords):
                    raise full
                return call(request, token, by)

            server.volume.call = refuse  # type: ignore[method-assign]
            assert (await client.transport.compound([asked])).status == Status.NOSPC
            server.volume.call = call  # type: ignore[method-assign]
            release, waiting = stall(server, after=0, what=KeepRecords)
            first = asyncio.create_task(client.transport.compound([asked]))
            await waiting.wait()
            assert (await client.transport.compound([asked])).status == Status.DELAY
            release.set()
            made = await first
            assert made.status == 0
            assert await client.transport.compound([asked]) == made
            assert sorted(recorded(server, records.SESSIONS)) == sorted([client.session, made.last.session])

    asyncio.run(scenario())


def test_opens_and_locks_outlive_the_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, persist=True) as (_, client, root):
            handle, state = await open_file(client, root, "f", deny=op.WRITE)
            asked = op.lock(op.WRITE_LT, 10, 20, state, b"locker", clientid=client.clientid)
            locked = (await client.done(op.putfh(handle), op.write(state, 0, b"before"), asked)).last
            gone, orphan = await open_file(client, root, "gone")
            await client.done(op.putfh(gone), op.write(orphan, 0, b"still here"), op.putfh(root), op.remove("gone"))
            assert (await client.done(op.putfh(gone), op.getattr_("size"))).last == {"size": 10}
        async with nfs_on(tmp_path / "volume", incarnation=2) as server:
            await again(client, server.port)
            async with await Nfs4Client.connect(server.port) as other:
                opening = op.open_("f", op.WRITE, clientid=other.clientid)
                assert await status(other, op.putfh(root), opening) == Status.SHARE_DENIED
                test = await other.compound(op.putfh(handle), op.lockt(op.READ_LT, 0, 100, b"me", other.clientid))
                assert (test.status, test.last[:2]) == (Status.DENIED, (10, 20))
                assert test.last[4] == b"locker"
            assert (await client.done(op.putfh(handle), op.read(state, 0, 10))).last[1] == b"before"
            # Whatever the slot says, the states' sequences go on.
            unlocked = (await client.done(op.putfh(handle), op.locku(op.WRITE_LT, 10, 20, locked))).last
            assert unlocked.sequence == locked.sequence + 1
            await client.done(op.free_stateid(unlocked), op.putfh(handle), op.close(state))
            assert (await client.done(op.putfh(gone), op.getattr_("size"))).last == {"size": 10}
            assert (await client.done(op.putfh(gone), op.read(orphan, 0, 100))).last[1] == b"still here"
            await client.done(op.putfh(gone), op.close(orphan))
            assert await status(client, op.putfh(gone), op.getattr_("size")) == Status.STALE
            await client.transport.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("cut", ["lock", "open", "close", "downgrade", "unlock"])
def test_state_operations_are_carried_out_once_over_a_restart(tmp_path: Path, cut: str) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, persist=True) as (_, client, root):
            handle, state = await open_file(client, root, "f")
            locked = (await client.done(op.putfh(handle), op.lock(op.WRITE_LT, 0, 5, state, b"o", clientid=client.clientid))).last
            operation = {
                "lock": op.lock(op.WRITE_LT, 10, 20, locked),
                "open": op.open_("f", op.BOTH, clientid=client.clientid),
                "close": op.close(state),
                "downgrade": op.open_downgrade(state, op.BOTH),
                "unlock": op.locku(op.WRITE_LT, 0, 5, locked),
            }[cut]
            asked = request(client, 15, 1, op.putfh(root if cut == "open" else handle), operation)
            first = await send(client, asked)
            assert first.status == 0, first
        async with nfs_on(tmp_path / "volume", incarnation=2) as server:
            await again(client, server.port)
            assert (await send(client, asked)).operations[2] == first.operations[2]
            await client.transport.close()

    asyncio.run(scenario())


def test_after_a_loss_of_power_clients_reclaim_before_others_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, persist=True) as (server, client, root):
            handle, _ = await open_file(client, root, "f", deny=op.WRITE)
            await client.done(op.putfh(handle), op.setattr_(mode=0o600))  # so that all is stable
            shutil.copytree(tmp_path / "volume", tmp_path / "after")  # as it lies on the disk just now
        async with nfs_on(tmp_path / "after", incarnation=2, boot=b"another") as server:
            await again(client, server.port)
            flags = (await send(client, request(client, 15, 1, op.putfh(root)))).operations[0][2].flags
            assert flags & RECLAIM_NEEDED
            async with await Nfs4Client.connect(server.port) as other:
                opening = op.open_("f", op.WRITE, clientid=other.clientid)
                assert await status(other, op.putfh(root), opening) == Status.GRACE
                reclaim = op.open_("", op.BOTH, op.WRITE, clientid=client.clientid, claim=op.claim_previous())
                state = (await client.done(op.putfh(handle), reclaim)).last.stateid
                await client.done(op.putfh(handle), op.lock(op.WRITE_LT, 0, 9, state, b"o", True, client.clientid), op.reclaim_complete())
                assert await status(other, op.putfh(root), opening) == Status.SHARE_DENIED
                flags = (await send(client, request(client, 15, 2, op.putfh(root)))).operations[0][2].flags
                assert not flags & RECLAIM_NEEDED
                await client.done(op.putfh(handle), op.close(state))
                assert await status(other, op.putfh(root), opening) == Status.OK
            await client.transport.close()

    asyncio.run(scenario())


def test_what_a_client_does_not_reclaim_after_a_loss_of_power_ends_when_it_has_reclaimed_the_rest(tmp_path: Path) -> None:
    """Its CLOSE, LOCKU and DELEGRETURN may have been lost, when its OPENs were not."""

    async def scenario() -> None:
        async with server_with(tmp_path, callbacks=True, persist=True) as (_, client, root):
            kept, state = await open_file(client, root, "kept")
            locks = (await client.done(op.putfh(kept), op.lock(op.WRITE_LT, 0, 10, state, b"o", clientid=client.clientid))).last
            locks = (await client.done(op.putfh(kept), op.lock(op.WRITE_LT, 50, 10, locks))).last
            closed, closed_state = await open_file(client, root, "closed", deny=op.WRITE)
            returned, open_state, delegation = await delegated(client, root, "returned", WANT_WRITE)
            await client.done(op.putfh(kept), op.setattr_(mode=0o644))
            shutil.copytree(tmp_path / "volume", tmp_path / "after")
            await client.done(op.putfh(kept), op.locku(op.WRITE_LT, 50, 10, locks))
            await client.done(op.putfh(closed), op.close(closed_state))
            await client.done(op.putfh(returned), op.close(open_state), op.delegreturn(delegation))
        async with nfs_on(tmp_path / "after", incarnation=2, boot=b"another") as server:
            await again(client, server.port)
            reclaim = op.open_("", op.BOTH, clientid=client.clientid, claim=op.claim_previous())
            state = (await client.done(op.putfh(kept), reclaim)).last.stateid
            await client.done(op.putfh(kept), op.lock(op.WRITE_LT, 0, 10, state, b"o", True, client.clientid))
            async with await Nfs4Client.connect(server.port) as other:
                assert await status(other, op.putfh(root), op.open_("closed", op.WRITE, clientid=other.clientid)) == Status.GRACE
                await client.done(op.reclaim_complete())
                for name in ("closed", "returned"):
                    assert await status(other, op.putfh(root), op.open_(name, op.WRITE, clientid=other.clientid)) == Status.OK
                for at, expected in ((50, Status.OK), (0, Status.DENIED)):
                    assert await status(other, op.putfh(kept), op.lockt(op.WRITE_LT, at, 10, b"p", other.clientid)) == expected
                assert await status(client, op.putfh(closed), op.close(closed_state)) == Status.BAD_STATEID
                await client.done(op.putfh(kept), op.close(state))
            await client.transport.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("unclean", [False, True])
def test_state_of_clients_that_nobody_knows_any_more_may_be_reclaimed_and_ends(tmp_path: Path, unclean: bool) -> None:
    """The records of clients are lost, those of their opens are not."""

    async def scenario() -> None:
        async with server_with(tmp_path, persist=True) as (server, client, root):
            handle, _ = await open_file(client, root, "f", deny=op.WRITE)
            forgotten = [(key + each, None) for key in (records.CLIENTS, records.SESSIONS) for each in recorded(server, key)]
            await client.done(op.putfh(handle), op.setattr_(mode=0o600))
            server.volume.call(KeepRecords(tuple(forgotten)), None, Binding(1, 0))
            if unclean:
                await client.done(op.putfh(handle), op.setattr_(mode=0o600))
                shutil.copytree(tmp_path / "volume", tmp_path / "after")
            session = client.session
        path = tmp_path / ("after" if unclean else "volume")
        async with nfs_on(path, incarnation=2, boot=b"another" if unclean else b"b") as server:
            known = server.volume.call(ListClients(), None, Binding(1, 0))
            assert isinstance(known, ClientList) and (known.clients, known.sessions) == ([], [])
            await again(client, server.port)
            assert failed(await send(client, request(client, 15, 1, op.putfh(root)))) == (0, Status.BADSESSION)
            await client.introduce()
            await client.begin()
            assert client.session != session
            async with await Nfs4Client.connect(server.port) as other:
                opening = op.open_("f", op.WRITE, clientid=other.clientid)
                assert await status(other, op.putfh(root), opening) == Status.GRACE
                reclaim = op.open_("", op.BOTH, op.WRITE, clientid=client.clientid, claim=op.claim_previous())
                state = (await client.done(op.putfh(handle), reclaim)).last.stateid
                await client.done(op.putfh(handle), op.reclaim_complete())
                assert await status(other, op.putfh(root), opening) == Status.GRACE, "there may be others"
                await client.done(op.putfh(handle), op.close(state))
            await client.transport.close()

    asyncio.run(scenario())


# The end of clients


def test_a_client_that_is_silent_loses_everything(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nfs_on(tmp_path / "volume", lease_s=0.6) as server:
            silent = await Nfs4Client.connect(server.port)
            root = await silent.root()
            handle, _ = await open_file(silent, root, "f", deny=op.BOTH)
            async with await Nfs4Client.connect(server.port) as other:
                opening = op.open_("f", op.WRITE, clientid=other.clientid)
                outcomes = [await status(other, op.putfh(root), opening)]
                while outcomes[-1] != Status.OK:
                    assert outcomes[-1] == Status.SHARE_DENIED
                    await asyncio.sleep(0.1)
                    outcomes.append(await status(other, op.putfh(root), opening))
                assert len(outcomes) > 3
            late = await send(silent, request(silent, 15, 1, op.putfh(handle)))
            assert failed(late) == (0, Status.BADSESSION)
            done = await silent.introduce()
            assert not done.flags & 0x80000000, "it is not confirmed any more"
            await silent.transport.close()

    asyncio.run(scenario())


def test_a_client_that_has_started_again_has_nothing_of_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, owner=b"me") as (server, client, root):
            await open_file(client, root, "f", deny=op.BOTH)
            fresh = await Nfs4Client.connect(server.port, b"me", reclaimed=False)
            assert failed(await send(client, request(client, 15, 1, op.putfh(root)))) == (0, Status.BADSESSION)
            await fresh.done(op.reclaim_complete())
            await open_file(fresh, root, "f", deny=op.BOTH)
            await fresh.transport.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("exclusive", [False, True])
def test_what_an_ended_client_still_has_under_way_leaves_nothing_behind(tmp_path: Path, exclusive: bool) -> None:
    """In an operation before its OPEN, or in the OPEN itself."""

    async def scenario() -> None:
        async with server_with(tmp_path, owner=b"me") as (server, client, root):
            release, waiting = stall(server, after=0)
            how = "exclusive" if exclusive else "unchecked"
            opening = op.open_("f", op.BOTH, op.BOTH, clientid=client.clientid, how=how)
            before = [] if exclusive else [op.create(DIRECTORY, "d", mode=0o755), op.putfh(root)]
            late = asyncio.create_task(send(client, request(client, 15, 1, op.putfh(root), *before, opening)))
            await waiting.wait()
            fresh = await Nfs4Client.connect(server.port, b"me")
            release.set()
            assert failed(await late) == (2 if exclusive else 3, Status.DEADSESSION)
            await open_file(fresh, root, "f", deny=op.BOTH)
            known = server.volume.core.register.by_client
            assert list(known) == [fresh.clientid.to_bytes(8)]
            await fresh.transport.close()

    asyncio.run(scenario())


def test_the_record_of_an_ended_client_does_not_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, owner=b"me") as (server, client, root):
            release, waiting = stall(server, after=0, what=GetAttributes)
            asked = op.create(DIRECTORY, "d", mode=0o755)  # the first thing that it changes in this volume
            late = asyncio.create_task(send(client, request(client, 15, 1, op.putfh(root), op.getattr_("size"), asked)))
            await waiting.wait()
            fresh = await Nfs4Client.connect(server.port, b"me")
            release.set()
            assert failed(await late) == (3, Status.DEADSESSION)
            assert recorded(server, records.CLIENTS) == [fresh.clientid.to_bytes(8)]
            assert recorded(server, records.SESSIONS) == [fresh.session]
            await fresh.transport.close()

    asyncio.run(scenario())


def test_sessions_and_clients_are_destroyed_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (server, client, root):
            one = client.transport
            handle, state = await open_file(client, root, "f")
            assert (await one.compound([op.destroy_clientid(client.clientid)])).status == Status.CLIENTID_BUSY
            await client.done(op.putfh(handle), op.close(state))
            stranger = await Transport.connect(server.port)
            refused = await stranger.compound([op.destroy_session(client.session)])
            assert refused.status == Status.CONN_NOT_BOUND_TO_SESSION
            await stranger.close()
            assert (await one.compound([op.destroy_session(client.session)])).status == 0
            assert (await one.compound([op.destroy_session(client.session)])).status == Status.BADSESSION
            assert (await one.compound([op.destroy_clientid(client.clientid)])).status == 0
            assert (await one.compound([op.destroy_clientid(client.clientid)])).status == Status.STALE_CLIENTID
        async with nfs_on(tmp_path / "volume", incarnation=2) as server:
            await again(client, server.port)
            assert failed(await send(client, request(client, 0, 1, op.putfh(root)))) == (0, Status.BADSESSION)
            await client.transport.close()

    asyncio.run(scenario())


def test_nothing_is_opened_before_reclaiming_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, reclaimed=False) as (_, client, root):
            opening = op.open_("f", clientid=client.clientid, how="unchecked", mode=0o644)
            assert await status(client, op.putfh(root), opening) == Status.GRACE
            await client.done(op.reclaim_complete())
            assert await status(client, op.reclaim_complete()) == Status.COMPLETE_ALREADY
            assert await status(client, op.putfh(root), opening) == Status.OK
            handle = (await client.done(op.putfh(root), op.lookup("f"), op.getfh())).last
            reclaim = op.open_("", clientid=client.clientid, claim=op.claim_previous())
            assert await status(client, op.putfh(handle), reclaim) == Status.NO_GRACE

    asyncio.run(scenario())


# The current stateid


def test_the_current_stateid_stands_for_what_was_opened(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (_, client, root):
            opening = op.open_("f", clientid=client.clientid, how="unchecked", mode=0o644)
            result = await client.done(op.putfh(root), opening, op.write(CURRENT, 0, b"x"), op.read(CURRENT, 0, 5), op.close(CURRENT))
            assert result.value(25) == (True, b"x")
            assert await status(client, op.putfh(root), op.lookup("f"), op.read(CURRENT, 0, 5)) == Status.BAD_STATEID

    asyncio.run(scenario())


# Callbacks


async def delegated(client: Nfs4Client, root: bytes, name: str, want: int) -> tuple[bytes, Any, Any]:
    """A file that the client has open with a delegation: its handle, the open's stateid and the delegation's."""
    share = (op.READ if want == WANT_READ else op.BOTH) | want
    asked = op.open_(name, share, clientid=client.clientid, how="unchecked", mode=0o644)
    result = await client.done(op.putfh(root), asked, op.getfh())
    kind, given = result.value(18).delegation
    assert kind == (READ_DELEGATION if want == WANT_READ else WRITE_DELEGATION), kind
    return result.last, result.value(18).stateid, given[0]


def test_a_delegation_is_called_back_when_another_client_writes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, callbacks=True) as (server, client, root), await Nfs4Client.connect(server.port) as other:
            handle, _, delegation = await delegated(client, root, "f", WANT_READ)
            assert await status(other, op.putfh(handle), op.read(ANONYMOUS, 0, 5)) == Status.OK, "reading is in nobody's way"
            writing = op.open_("f", op.WRITE, clientid=other.clientid)
            assert await status(other, op.putfh(root), writing) == Status.DELAY
            async with asyncio.timeout(5):
                callback = await client.transport.callbacks.get()
            assert (callback.number, callback.stateid, callback.handle) == (4, delegation, handle)
            await client.done(op.putfh(handle), op.delegreturn(delegation))
            assert await status(other, op.putfh(root), writing) == Status.OK

    asyncio.run(scenario())


@pytest.mark.parametrize("answer", [Status.DELAY, Status.BADHANDLE, Status.BAD_STATEID])
def test_a_client_that_does_not_know_its_delegation_yet_is_called_again(tmp_path: Path, answer: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply to its OPEN may be long on its way, when that has to come from another node."""
    monkeypatch.setattr(recalls, "AGAIN_S", 0.01)

    async def scenario() -> None:
        async with server_with(tmp_path, callbacks=True) as (server, client, root), await Nfs4Client.connect(server.port) as other:
            handle, _, delegation = await delegated(client, root, "f", WANT_READ)
            answers = iter([answer] * 10)
            client.transport.refuse = lambda callback: int(next(answers, Status.OK))
            writing = op.open_("f", op.WRITE, clientid=other.clientid)
            assert await status(other, op.putfh(root), writing) == Status.DELAY
            async with asyncio.timeout(5):
                for _ in range(11):
                    callback = await client.transport.callbacks.get()
                    assert (callback.number, callback.stateid, callback.handle) == (4, delegation, handle)
            await client.done(op.putfh(handle), op.delegreturn(delegation))
            assert await status(other, op.putfh(root), writing) == Status.OK
            assert client.transport.callbacks.empty()

    asyncio.run(scenario())


def test_the_holder_of_a_write_delegation_is_asked_for_the_attributes_that_it_may_have_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, callbacks=True) as (server, client, root), await Nfs4Client.connect(server.port) as other:
            handle, _, delegation = await delegated(client, root, "f", WANT_WRITE)
            wanted = ("change", "size", "time_modify")

            async def ask(asking: Nfs4Client) -> dict[str, Any]:
                found: dict[str, Any] = (await asking.done(op.putfh(handle), op.getattr_(*wanted))).last
                return found

            before = await ask(client)
            assert client.transport.callbacks.empty(), "its own questions need no callback"
            client.transport.shown = new_fattr(change=before["change"], size=before["size"])
            assert await ask(other) == before
            callback = client.transport.callbacks.get_nowait()
            assert (callback.number, callback.handle) == (3, handle)
            client.transport.shown = new_fattr(change=before["change"] + 1, size=5000)
            after = await ask(other)
            assert after["size"] == 5000 and after["change"] > before["change"] and after["time_modify"] > before["time_modify"]
            assert (await ask(other))["change"] > after["change"], "it may have changed again"
            # Nonsense, a refusal, and what does not concern the holder
            for shown in (b"", new_fattr(size=1), bytes(8)):
                client.transport.shown = shown
                assert (await ask(other))["size"] == before["size"]
            client.transport.refuse = lambda callback: 10008
            assert (await ask(other))["size"] == before["size"]
            while not client.transport.callbacks.empty():
                client.transport.callbacks.get_nowait()
            await other.done(op.putfh(handle), op.getattr_("mode", "owner"))
            await client.done(op.putfh(handle), op.delegreturn(delegation))
            await ask(other)
            assert client.transport.callbacks.empty()

    asyncio.run(scenario())


def test_a_delegation_serves_reading_and_writing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, callbacks=True) as (_, client, root):
            handle, state, delegation = await delegated(client, root, "f", WANT_WRITE)
            await client.done(op.putfh(handle), op.write(delegation, 0, b"cached"), op.close(state))
            assert (await client.done(op.putfh(handle), op.read(delegation, 0, 9))).last[1] == b"cached"
            current = op.open_("f", op.BOTH, clientid=client.clientid, claim=bytes((0, 0, 0, 5)) + delegation.packed())
            opened = (await client.done(op.putfh(handle), current)).last
            await client.done(op.putfh(handle), op.close(opened.stateid), op.delegreturn(delegation))
            assert await status(client, op.putfh(handle), op.read(delegation, 0, 9)) == Status.BAD_STATEID

    asyncio.run(scenario())


def test_without_a_backchannel_there_is_no_delegation(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (_, client, root):
            asked = op.open_("f", op.READ | WANT_READ, clientid=client.clientid, how="unchecked", mode=0o644)
            kind, why = (await client.done(op.putfh(root), asked)).last.delegation
            assert (kind, why) == (3, (2, False))

    asyncio.run(scenario())


def test_a_resumed_session_has_its_callbacks_once_it_is_bound(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, callbacks=True, persist=True) as (_, client, root):
            handle, _, delegation = await delegated(client, root, "f", WANT_READ)
        async with nfs_on(tmp_path / "volume", incarnation=2) as server:
            await again(client, server.port)
            flags = (await send(client, request(client, 15, 1, op.putfh(root)))).operations[0][2].flags
            assert flags == CB_PATH_DOWN | CB_PATH_DOWN_SESSION
            async with await Nfs4Client.connect(server.port) as other:
                writing = op.open_("f", op.WRITE, clientid=other.clientid)
                assert await status(other, op.putfh(root), writing) == Status.DELAY
                assert client.transport.callbacks.empty()
                bound = await client.transport.compound([op.bind_conn_to_session(client.session, 7)])
                assert bound.last[1] == 3
                async with asyncio.timeout(5):
                    callback = await client.transport.callbacks.get()
                assert (callback.stateid, callback.handle) == (delegation, handle)
                flags = (await send(client, request(client, 15, 2, op.putfh(root)))).operations[0][2].flags
                assert flags == 0
                await client.done(op.putfh(handle), op.delegreturn(delegation))
                assert await status(other, op.putfh(root), writing) == Status.OK
            await client.transport.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", [1, 3])
def test_callbacks_go_on_after_some_were_lost_with_their_connection(tmp_path: Path, lost: int) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path, callbacks=True) as (server, client, root), await Nfs4Client.connect(server.port) as other:
            handle, _, delegation = await delegated(client, root, "f", WANT_READ)
            writing = op.open_("f", op.WRITE, clientid=other.clientid)
            client.transport.deaf = asyncio.Event()
            assert await status(other, op.putfh(root), writing) == Status.DELAY
            for number in range(lost):
                async with asyncio.timeout(5):
                    await client.transport.deaf.wait()
                await again(client, server.port)
                client.transport.deaf = asyncio.Event() if number + 1 < lost else None
                await client.transport.compound([op.bind_conn_to_session(client.session, 7)])
            async with asyncio.timeout(5):
                callback = await client.transport.callbacks.get()
            assert (callback.stateid, callback.handle) == (delegation, handle)
            await client.done(op.putfh(handle), op.delegreturn(delegation))
            assert await status(other, op.putfh(root), writing) == Status.OK

    asyncio.run(scenario())


# Clients, by the cases of RFC 8881 18.35.5


def test_exchange_id_knows_its_cases(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nfs_on(tmp_path / "volume") as server:
            transport = await Transport.connect(server.port)

            async def exchange(owner: bytes, verifier: bytes, flags: int = 0, uid: int = 1000) -> Result:
                transport.auth = sys_credential(uid, uid)
                return await transport.compound([op.exchange_id(owner, verifier, flags)])

            update, confirmed = 0x40000000, 0x80000000
            first, second = os.urandom(8), os.urandom(8)
            assert (await exchange(b"a", first, update)).status == Status.NOENT
            new = (await exchange(b"a", first)).last
            assert not new.flags & confirmed
            assert (await exchange(b"a", first)).last.clientid != new.clientid, "an unconfirmed record is replaced"
            client = await Nfs4Client.connect(server.port, b"b", verifier=first)
            known = (await exchange(b"b", first)).last
            assert known.clientid == client.clientid and known.flags & confirmed
            assert (await exchange(b"b", first, update)).last.clientid == client.clientid
            assert (await exchange(b"b", second, update)).status == Status.NOT_SAME
            assert (await exchange(b"b", first, update, 7)).status == Status.PERM
            assert (await exchange(b"b", first, uid=7)).status == Status.CLID_INUSE
            restarted = (await exchange(b"b", second)).last
            assert restarted.clientid != client.clientid and not restarted.flags & confirmed
            assert await status(client, op.putrootfh()) == Status.OK, "until the new one is confirmed"
            assert (await exchange(b"c", first, 0x8)).status == Status.INVAL
            await client.transport.close()
            await transport.close()

    asyncio.run(scenario())


def test_nobodys_lease_runs_out_while_the_server_itself_stood_still(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_with(tmp_path) as (server, client, root):
            await open_file(client, root, "f")
            service = server.gateway.groups.only
            assert service is not None
            known = service.clients.numbered[client.clientid]
            known.renewed -= 300
            service._due -= 300  # it should have looked long ago
            service._look()
            assert client.clientid in service.clients.numbered
            known.renewed -= 300
            service._look()
            assert client.clientid not in service.clients.numbered

    asyncio.run(scenario())
