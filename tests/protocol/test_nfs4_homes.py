"""NFSv4.1 at several nodes: groups of clients have a home, which moves with all they have, and a former home has no say any more."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from gateways.nfs.v3 import messages as m
from gateways.nfs.v4.clients import group_of
from gateways.nfs.v4.status import Status
from sofs.cluster import Answer, Asked
from sofs.cluster.peers import NetworkPeer
from sofs.coordination import OutcomeUnknown, Put, keys
from sofs.errors import Fenced, Unavailable
from sofs.homes import FORWARD, RELEASE
from sofs.records import GroupRecord
from sofs.volume.api import Binding, ListClients, MakeSnapshot, Reply, Resumed
from tests.protocol import nfs3_results as r3
from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_client import Nfs4Client, Result, Transport
from tests.protocol.nfs4_scenes import DIRECTORY, names_in, only_directories_are_looked_into, open_file, status
from tests.protocol.nfs4_xdr import ANONYMOUS, Op
from tests.protocol.nfs_client import RpcClient
from tests.served_nodes import SYSTEM, GatewayNode, Nodes, run
from tests.unit.gateways.nfs_link import sys_credential

CB_PATH_DOWN_SESSION = 0x200
WANT_READ, WANT_WRITE = 0x100, 0x200


async def goes_to(client: Nfs4Client, node: GatewayNode) -> None:
    """Another connection, to this node; the same session."""
    await client.transport.close()
    called = client.transport.called
    client.transport = await Transport.connect(node.nfs)
    client.transport.called = called
    client.transport.auth = sys_credential(1000, 1000)


def request(client: Nfs4Client, slot: int, number: int, *operations: Op, cache: bool = True) -> list[Op]:
    return [op.sequence(client.session, number, slot, 15, cache), *operations]


async def send(client: Nfs4Client, operations: list[Op]) -> Result:
    result = await client.transport.compound(operations, client.minor)
    if result.operations[0][1] == 0:
        number, slot = struct.unpack_from(">II", operations[0].arguments, 16)
        client.used(slot, number)
    return result


async def record(nodes: Nodes, node: int) -> GroupRecord:
    entry = await nodes.store.get(keys.group(node))
    assert entry is not None
    return GroupRecord.decode(entry.value)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def in_grace(nodes: Nodes) -> bool:
    return nodes.volume.core.grace


# Whose is whose


def test_each_node_has_a_group_whose_number_is_in_its_clients_ids(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        clients = [await Nfs4Client.connect(node.nfs) for node in nodes.nodes]
        groups = [group_of(client.session) for client in clients]
        assert groups == [group_of(client.clientid.to_bytes(8)) for client in clients] == [node.group for node in nodes.nodes]
        assert len(set(groups)) == 2
        first, second = [await client.introduce() for client in clients]
        assert first.scope == second.scope and first.owner[1] != second.owner[1], "one cluster, two server instances"
        for client in clients:
            await client.transport.close()

    run(tmp_path, scenario)


def test_file_handles_and_verifiers_are_the_same_at_all_nodes(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs) as a, await Nfs4Client.connect(two.nfs) as b:
            root = await a.root()
            assert await b.root() == root
            file, state = await open_file(a, root, "f")
            written = (await a.done(op.putfh(file), op.write(state, 0, b"seen elsewhere", 0))).last
            assert (await b.done(op.putfh(file), op.read(ANONYMOUS, 0, 100))).last[1] == b"seen elsewhere"
            other = (await b.done(op.putfh(file), op.commit())).last
            assert written.verifier == other
            cookies = [(await each.done(op.putfh(root), op.readdir(0))).last[0] for each in (a, b)]
            assert [entry.cookie for entry in cookies[0]] == [entry.cookie for entry in cookies[1]]

    run(tmp_path, scenario)


# Forwarding


def test_what_is_no_directory_is_told_apart_where_the_volume_is_elsewhere_too(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        async with await Nfs4Client.connect(nodes.nodes[0].nfs) as client:
            await only_directories_are_looked_into(client, await client.root())

    run(tmp_path, scenario)


@pytest.mark.parametrize("moves", [False, True])
def test_the_newest_stateid_stays_the_newest_though_an_older_one_is_answered_after_it(tmp_path: Path, moves: bool) -> None:
    """Also when that is answered once more, by another home."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            asked = [
                request(client, slot, 1, op.putfh(root), op.open_("f", op.BOTH, clientid=client.clientid, how="unchecked", mode=0o600), op.getfh())
                for slot in (14, 15)
            ]
            first, second = await asyncio.gather(*[send(client, each) for each in asked])
            states = [result.value(18).stateid for result in (first, second)]
            assert [state.sequence for state in states] == [1, 2]
            if moves:
                await nodes.kill(one)
                await goes_to(client, two)
                again = await send(client, asked[0])
                assert again.value(18).stateid == states[0]
            await client.done(op.putfh(second.last), op.write(states[1], 0, b"data"), op.close(states[1]))

    run(tmp_path, scenario)


def test_a_session_works_through_another_node_than_its_home(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs) as client:
            root = await client.root()
            file, state = await open_file(client, root, "f")
            await goes_to(client, two)
            payload = bytes(range(256)) * 4096
            await client.done(op.putfh(file), op.write(state, 0, payload, 2))
            assert (await client.done(op.putfh(file), op.read(state, 0, 1 << 20))).last[1] == payload
            await client.done(op.putfh(file), op.lock(op.WRITE_LT, 0, 10, state, b"owner", clientid=client.clientid))
            await goes_to(client, one)
            await client.done(op.putfh(file), op.close(state))
            assert await names_in(client, root) == [b"f"]

    run(tmp_path, scenario)


def test_a_retry_at_another_node_is_answered_with_the_first_reply(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs) as client:
            root = await client.root()
            asked = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755), op.getfh())
            first = await send(client, asked)
            assert first.status == 0
            await goes_to(client, two)
            assert await send(client, asked) == first
            assert await names_in(client, root) == [b"d"]

    run(tmp_path, scenario)


def test_clients_can_come_and_go_through_another_node(tmp_path: Path) -> None:
    """EXCHANGE_ID belongs to the node's own group; all that follows finds its home by the ids."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs)
        former = client.session
        await goes_to(client, two)
        await client.begin(callbacks=True)
        assert group_of(client.session) == one.group and client.session != former
        assert (await client.transport.compound([op.bind_conn_to_session(client.session, 3)], 2)).last[1] == 1
        for operation in (op.destroy_session(client.session), op.destroy_session(former)):
            result = await client.transport.compound([operation], 2)
            assert Status(result.status) in (Status.OK, Status.CONN_NOT_BOUND_TO_SESSION)
            if result.status:  # it has had no request over this connection yet
                assert (await client.transport.compound([op.sequence(former, 2, 0, 15, False)], 2)).status == 0
                assert (await client.transport.compound([operation], 2)).status == 0
        assert (await client.transport.compound([op.destroy_clientid(client.clientid)], 2)).status == 0
        await client.transport.close()

    run(tmp_path, scenario)


def test_what_names_no_group_is_refused_as_ever(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        transport = await Transport.connect(nodes.nodes[1].nfs)
        unknown = b"\xee" * 16
        assert (await transport.compound([op.sequence(unknown, 1, 0, 0, False)])).status == Status.BADSESSION
        assert (await transport.compound([op.destroy_session(unknown)])).status == Status.BADSESSION
        assert (await transport.compound([op.destroy_clientid(1 << 63)])).status == Status.STALE_CLIENTID
        assert (await transport.compound([op.putrootfh()])).status == Status.OP_NOT_IN_SESSION
        await transport.close()

    run(tmp_path, scenario)


def test_a_session_without_a_backchannel_is_told_so_only_where_it_can_get_one(tmp_path: Path) -> None:
    """Linux closes each connection over which BIND_CONN_TO_SESSION gets it none, and is at that again with the next SEQUENCE that asks for one."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs, callbacks=True) as client:
            number = 0

            async def flags() -> int:
                nonlocal number
                number += 1
                said: int = (await client.transport.compound([op.sequence(client.session, number, 14, 15, False)], 2)).last.flags
                return said

            session = one.nfs_gateway.groups.here[one.group].sessions[client.session]
            await goes_to(client, two)
            await until(lambda: not session.back.live)
            assert not await flags() & CB_PATH_DOWN_SESSION
            root = await client.root()
            opened = (await client.done(op.putfh(root), op.open_("f", op.READ | WANT_READ, clientid=client.clientid, how="unchecked"))).last
            assert opened.delegation[0] not in (1, 2), "no delegation without a backchannel"
            await goes_to(client, one)
            assert await flags() & CB_PATH_DOWN_SESSION
            assert (await client.transport.compound([op.bind_conn_to_session(client.session, 7)], 2)).status == 0
            assert not await flags() & CB_PATH_DOWN_SESSION

    run(tmp_path, scenario)


# Homes move


def test_a_group_is_handed_over_and_its_clients_notice_nothing(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        group = one.group
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            file, state = await open_file(client, root, "f")
            await client.done(op.putfh(file), op.lock(op.WRITE_LT, 0, 10, state, b"owner", clientid=client.clientid))
            asked = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755), op.getfh())
            first = await send(client, asked)
            await one.homes.hand_over(one.number, two.number)
            await two.home_of(group)
            assert not one.has(group) and (await record(nodes, one.number)).fences == ()
            # Through the former home, which forwards now, and at the new one.
            await client.done(op.putfh(file), op.write(state, 0, b"by way of one"))
            await goes_to(client, two)
            assert await send(client, asked) == first, "its token came along"
            await client.done(op.putfh(file), op.write(state, 0, b"and at two"))
            async with await Nfs4Client.connect(one.nfs) as other:
                _, second = await open_file(other, root, "f")
                locking = op.lock(op.WRITE_LT, 5, 1, second, b"other", clientid=other.clientid)
                assert await status(other, op.putfh(file), locking) is Status.DENIED, "its lock came along"
            assert nodes.fenced == []

    run(tmp_path, scenario)


@pytest.mark.parametrize("planned", [True, False])
def test_a_former_home_keeps_nothing_of_the_connections_of_other_nodes(tmp_path: Path, planned: bool) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two, three = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        await goes_to(client, three)
        root = await client.root()
        for home, other in ((one, two), (two, one)):
            assert home.nfs_gateway.groups._remote
            if planned:
                await home.homes.hand_over(one.number, other.number)
            else:
                nodes.hidden.add(home.number)
                await other.homes.adopt(one.number, lost=True)
                nodes.hidden.clear()
            await until(lambda home=home: not home.nfs_gateway.groups._remote)  # type: ignore[misc]
            assert await names_in(client, root) == []
            if not planned:
                break  # who was shut out is no home again
        await client.transport.close()

    run(tmp_path, scenario, count=3)


def test_requests_wait_while_a_group_moves(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        clients = [await Nfs4Client.connect(node.nfs if place % 2 else one.nfs) for place, node in enumerate([one] * 4)]
        root = await clients[0].root()
        going = True

        async def work(client: Nfs4Client, name: str) -> int:
            done = 0
            while going:
                await client.done(op.putfh(root), op.create(DIRECTORY, f"{name}{done}", mode=0o755))
                done += 1
            return done

        workers = [asyncio.create_task(work(client, f"c{place}-")) for place, client in enumerate(clients)]
        for turn in range(6):
            await asyncio.sleep(0.05)
            here, there = (one, two) if turn % 2 == 0 else (two, one)
            await here.homes.hand_over(one.number, there.number)
        going = False
        made = sum(await asyncio.gather(*workers))
        names: set[bytes] = set()
        cookie = 0
        while True:
            entries, end = (await clients[0].done(op.putfh(root), op.readdir(cookie, maxcount=60000))).last[:2]
            names |= {entry.name for entry in entries}
            if end or not entries:
                break
            cookie = entries[-1].cookie
        assert len(names) == made > 6
        for client in clients:
            await client.transport.close()

    run(tmp_path, scenario)


def test_the_group_of_a_dead_node_is_adopted_with_state_tokens_and_locks(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two, _ = nodes.nodes
        group = one.group
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            file, state = await open_file(client, root, "f", deny=op.WRITE)
            await client.done(op.putfh(file), op.lock(op.WRITE_LT, 0, 10, state, b"owner", clientid=client.clientid))
            asked = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755), op.getfh())
            first = await send(client, asked)
            await nodes.kill(one)
            await goes_to(client, two)
            assert await send(client, asked) == first
            assert (await send(client, request(client, 15, 2, op.putfh(root), op.create(DIRECTORY, "e", mode=0o755)))).status == 0
            await client.done(op.putfh(file), op.write(state, 0, b"the same stateid"))
            async with await Nfs4Client.connect(two.nfs) as other:
                opening = op.open_("f", op.WRITE, clientid=other.clientid, how="unchecked")
                assert await status(other, op.putfh(root), opening) is Status.SHARE_DENIED
            assert await names_in(client, root) == [b"d", b"e", b"f"]
            home = next(node for node in nodes.nodes if node.has(group))
            assert (await record(nodes, one.number)).node == home.number

    run(tmp_path, scenario, count=3)


def test_a_group_is_adopted_though_none_of_its_clients_comes_and_their_leases_run_out(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, _ = nodes.nodes
        client = await Nfs4Client.connect(one.nfs)
        root = await client.root()
        await open_file(client, root, "f", deny=op.WRITE)
        await client.transport.close()
        await nodes.kill(one)
        async with asyncio.timeout(20):
            while nodes.volume.core.register.by_client:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    run(tmp_path, scenario, lease_s=1.0)


def test_a_former_home_that_does_not_know_it_changes_nothing_any_more(tmp_path: Path) -> None:
    """The home is cut off and goes on for a client that still reaches it; meanwhile its group has another home."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        group = one.group
        late = await Nfs4Client.connect(one.nfs, persist=True)
        root = await late.root()
        file, state = await open_file(late, root, "f")
        await late.done(op.putfh(file), op.write(state, 0, b"first "))
        await nodes.cut_off(one)
        # The client has got through to the other node meanwhile, and has gone on there.
        moved = Nfs4Client(await Transport.connect(two.nfs), late.owner, late.verifier, late.minor)
        moved.transport.auth = sys_credential(1000, 1000)
        again = request(late, 0, 30, op.putfh(file), op.write(state, 0, b"second"))
        assert (await moved.transport.compound(again, 2)).status == 0
        assert two.has(group) and one.has(group)
        # What the former home is asked for now, by the state it has in its memory, does not happen; nor is it told to be tried again under another number.
        for slot, operations in enumerate(
            (
                [op.putfh(file), op.write(state, 0, b"LATE")],
                [op.putfh(root), op.create(DIRECTORY, "late", mode=0o755)],
                [op.putfh(root), op.remove("f")],
                [op.putfh(file), op.write(ANONYMOUS, 0, b"LATE")],
            ),
            8,
        ):
            with pytest.raises(ConnectionError):
                await late.transport.compound(request(late, slot, 1, *operations), 2)
            await goes_to(late, one)
        v3 = await RpcClient.connect(one.nfs)
        with pytest.raises(ConnectionError):
            await v3.nfs("WRITE", r3.WriteArgs(file, 0, 4, m.Stable.FILE_SYNC, b"LATE"))
        await v3.close()
        fresh = await late.transport.compound([op.exchange_id(b"a new one", b"verifier")], 2)
        creating = op.create_session(fresh.last.clientid, fresh.last.sequence, 0, op.ChannelAttributes(max_requests=1))
        with pytest.raises(ConnectionError):  # its record cannot be kept
            await late.transport.compound([creating], 2)
        shown = (await moved.transport.compound(request(late, 0, 31, op.putfh(file), op.read(state, 0, 100)), 2)).last
        assert shown[1] == b"second"
        await nodes.finds_out(one)
        assert set(nodes.fenced) == {one.number}
        await late.transport.close()
        await moved.transport.close()

    run(tmp_path, scenario)


def test_a_half_done_compound_goes_on_at_the_new_home(tmp_path: Path) -> None:
    """As after a restart: behind the last operation that a volume has recorded."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            makes = [op.create(DIRECTORY, "first", mode=0o755), op.putfh(root), op.create(DIRECTORY, "second", mode=0o755)]
            whole = request(client, 15, 1, op.putfh(root), *makes, op.getfh())
            calls = 0
            before = nodes.volume.call

            def breaks(asked: object, token: object, by: Binding) -> object:
                nonlocal calls
                if type(asked).__name__ == "Make":
                    calls += 1
                    if calls == 2:
                        return asyncio.get_running_loop().create_future()  # the node dies before this one
                return before(asked, token, by)  # type: ignore[arg-type]

            nodes.volume.call = breaks  # type: ignore[assignment,method-assign]
            sending = asyncio.create_task(client.transport.compound(whole, 2))
            async with asyncio.timeout(10):
                while calls < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            nodes.volume.call = before  # type: ignore[method-assign]
            sending.cancel()
            await nodes.kill(one)
            await goes_to(client, two)
            result = await send(client, whole)
            assert result.status == 0 and len(result.operations) == 6
            assert await names_in(client, root) == [b"first", b"second"]

    run(tmp_path, scenario)


@pytest.mark.parametrize("late", [False, True])
def test_a_freed_stateid_is_freed_once_though_its_home_dies_before_the_answer(tmp_path: Path, late: bool) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            file, state = await open_file(client, root, "f")
            locking = op.lock(op.WRITE_LT, 0, 10, state, b"owner", clientid=client.clientid)
            locks = (await client.done(op.putfh(file), locking)).last
            locks = (await client.done(op.putfh(file), op.locku(op.WRITE_LT, 0, 10, locks))).last
            freeing = request(client, 15, 1, op.putfh(file), op.free_stateid(locks), op.getfh(), cache=late)
            assert (await send(client, freeing)).status == 0
            await nodes.kill(one)
            await goes_to(client, two)
            again = await send(client, freeing)
            if late:
                assert again.status == 0 and again.last == file
            else:
                assert Status(again.status) is Status.RETRY_UNCACHED_REP
            assert await status(client, op.free_stateid(locks)) is Status.BAD_STATEID

    run(tmp_path, scenario)


@pytest.mark.parametrize("late", [False, True])
def test_a_delegation_is_recalled_by_the_new_home(tmp_path: Path, late: bool) -> None:
    """Also when the recall came before its holder did."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        group = one.group
        async with await Nfs4Client.connect(one.nfs, callbacks=True, persist=True) as holder, await Nfs4Client.connect(two.nfs) as other:
            root = await holder.root()
            await open_file(holder, root, "g")
            asked = op.open_("f", op.BOTH | WANT_WRITE, clientid=holder.clientid, how="unchecked")
            opened = await holder.done(op.putfh(root), asked, op.getfh())
            assert opened.value(18).delegation[0] == 2
            delegation = opened.value(18).delegation[1][0]
            await nodes.kill(one)
            opening = op.open_("f", op.BOTH, clientid=other.clientid)
            if late:
                assert await status(other, op.putfh(root), opening) is Status.DELAY
            await goes_to(holder, two)
            bound = await holder.transport.compound([op.bind_conn_to_session(holder.session, 7)], 2)
            assert bound.status == 0 and two.has(group)
            await holder.done(op.putrootfh())
            if not late:
                assert await status(other, op.putfh(root), opening) is Status.DELAY
            async with asyncio.timeout(20):
                callback = await holder.transport.callbacks.get()
            assert callback.stateid == delegation
            await holder.done(op.putfh(opened.last), op.delegreturn(delegation))
            await other.done(op.putfh(root), opening)

    run(tmp_path, scenario)


def test_a_node_that_starts_again_takes_its_group_back(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        group = one.group
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            _, state = await open_file(client, root, "f")
            await nodes.kill(one)
            await goes_to(client, two)
            await client.done(op.putfh(root), op.create(DIRECTORY, "d", mode=0o755))
            back = await nodes.start(1, incarnation=77)
            assert back.has(group) and not two.has(group)
            await client.done(op.putfh(root), op.create(DIRECTORY, "through two", mode=0o755))
            await goes_to(client, back)
            await client.done(op.putfh(root), op.lookup("f"), op.close(state))

    run(tmp_path, scenario)


def test_a_group_does_not_come_home_without_its_address(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        group = one.group
        await nodes.kill(one)
        await two.home_of(group)
        asked, away = [], [group]
        nodes.is_elsewhere = lambda id: asked.append(id) is None and bool(away)
        starting = asyncio.create_task(nodes.start(1, incarnation=77))
        await until(lambda: len(asked) > 1)
        assert two.has(group)
        away.clear()
        assert (await starting).has(group)

    run(tmp_path, scenario)


def test_an_orderly_stop_hands_all_groups_over(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        group = one.group
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            file, state = await open_file(client, root, "f")
            await nodes.stop(one)
            await two.home_of(group)
            await goes_to(client, two)
            await client.done(op.putfh(file), op.write(state, 0, b"still open"))
            assert (await record(nodes, 1)).fences == (), "nobody had to be shut out"

    run(tmp_path, scenario)


def test_fences_that_are_done_are_taken_out_of_the_record(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            await open_file(client, await client.root(), "f")
            group = one.group
            await nodes.kill(one)
            await two.homes.adopt(one.number)
            await two.home_of(group)
            async with asyncio.timeout(20):
                while (await record(nodes, 1)).fences:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            for volume in (nodes.volume, nodes.system):
                with pytest.raises(Fenced):
                    volume.call(ListClients(), None, Binding(one.incarnation, 0))

    run(tmp_path, scenario)


def test_grace_is_over_only_when_the_clients_of_all_groups_have_reclaimed(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        a, b = [await Nfs4Client.connect(node.nfs, persist=True) for node in (one, two)]
        root = await a.root()
        for client, name in ((a, "a"), (b, "b")):
            await open_file(client, root, name)
        nodes.volume.verifier += 1
        nodes.volume.core.begin_grace()
        for node in (one, two):
            route = node.routes.get(nodes.volume.id)
            assert route is not None
            route.verifier = nodes.volume.verifier  # as it learns of a new coordinator
            node.nfs_gateway.groups.tell(nodes.volume.id, Resumed())
        assert (await a.compound(op.reclaim_complete())).status == 0
        assert in_grace(nodes), "the other group's client has not"
        assert (await b.compound(op.reclaim_complete())).status == 0
        assert not in_grace(nodes)
        for client in (a, b):
            await client.transport.close()

    run(tmp_path, scenario)


def test_a_former_home_that_was_shut_out_does_not_get_its_group_back(tmp_path: Path) -> None:
    """Only a process that begins anew does; what this one remembers of its clients is of before."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        await open_file(client, await client.root(), "f")
        await nodes.cut_off(one)
        await two.homes.adopt(one.number, lost=True)
        await two.home_of(group_of(client.session))
        nodes.hidden.discard(one.number)
        with pytest.raises(Fenced):
            await two.homes._hand_over(one.number, one.number, one.incarnation)
        nodes.fenced.clear()
        with pytest.raises(Fenced):
            await one.homes.adopt(one.number)
        assert (await record(nodes, one.number)).node == two.number
        await nodes.finds_out(one)
        await client.transport.close()

    run(tmp_path, scenario)


def test_a_home_that_gets_its_group_back_forgets_what_it_knew_before(tmp_path: Path) -> None:
    """Though it has not heard that another node had the group in between."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            before = one.nfs_gateway.groups.here[one.group]
            deaf = {task for task in one.homes._tasks if "_follow" in repr(task)}
            for task in deaf:
                task.cancel()
            group, tenure = one.group, (await record(nodes, one.number)).tenure
            await one.homes.hand_over(one.number, two.number)
            await two.home_of(group)
            one.nfs_gateway.groups.keep(before)  # as if it did not know
            await goes_to(client, two)
            for number in range(1, 4):
                assert (await send(client, request(client, 15, number, op.putfh(root), op.create(DIRECTORY, f"d{number}", mode=0o755)))).status == 0
            await two.homes.hand_over(one.number, one.number)
            assert (await record(nodes, one.number)).tenure == tenure + 2
            one.homes._see(await one.homes._listing())
            async with asyncio.timeout(10):
                while one.nfs_gateway.groups.here.get(group) in (None, before):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            await goes_to(client, one)
            fourth = request(client, 15, 4, op.putfh(root), op.create(DIRECTORY, "d4", mode=0o755))
            assert (await send(client, fourth)).status == 0, "the slot goes on where it is"

    run(tmp_path, scenario)


def test_a_volumes_failover_shows_nowhere(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs, persist=True) as client, await Nfs4Client.connect(two.nfs) as other:
            root = await client.root()
            file, state = await open_file(client, root, "f", deny=op.WRITE)
            unstable = (await client.done(op.putfh(file), op.write(state, 0, b"not synced yet", 0))).last
            asked = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755), op.getfh())
            first = await send(client, asked)
            going = asyncio.create_task(client.done(op.putfh(root), op.create(DIRECTORY, "meanwhile", mode=0o755)))
            await nodes.fail_over()
            await going
            assert await send(client, asked) == first
            assert (await client.done(op.putfh(file), op.commit())).last == unstable.verifier, "nothing was lost"
            assert (await other.done(op.putfh(file), op.read(ANONYMOUS, 0, 100))).last[1] == b"not synced yet"
            assert await status(other, op.putfh(root), op.open_("f", op.WRITE, clientid=other.clientid)) is Status.SHARE_DENIED
            assert await names_in(other, root) == [b"d", b"f", b"meanwhile"]

    run(tmp_path, scenario)


def test_a_retransmission_of_version_3_at_another_node_is_answered_once(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        first, second = await RpcClient.connect(one.nfs), await RpcClient.connect(two.nfs)
        root = await first.mount("/data")
        making = m.MakeDirectoryArgs(m.DirectoryName(root, b"d"), m.NewAttributes(mode=0o755))
        made = await first.nfs("MKDIR", making, xid=77)
        assert made.status == 0
        await nodes.kill(one)
        again = await second.nfs("MKDIR", making, xid=77)
        assert (again.status, again.value.object) == (0, made.value.object)
        assert (await second.nfs("MKDIR", making, xid=78)).status == 17, "EXIST"
        for client in (first, second):
            await client.close()

    run(tmp_path, scenario)


class Uncertain:
    """A store that once loses the answer to a change of a group: before it is made (and it is made later, if it still can be), or after."""

    def __init__(self, store: Any, made: bool) -> None:
        self._store, self._made = store, made
        self.lost: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def transact(self, conditions: Any, changes: Any) -> Any:
        if not self.lost and changes and changes[0].key.startswith(keys.GROUPS):
            self.lost.append((conditions, changes))
            if self._made:
                await self._store.transact(conditions, changes)
            raise OutcomeUnknown("the connection broke")
        return await self._store.transact(conditions, changes)


@pytest.mark.parametrize("made", [False, True])
def test_a_change_of_home_whose_outcome_is_unknown_is_settled_before_anybody_goes_on(tmp_path: Path, made: bool) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root, group = await client.root(), one.group
            store = one.homes._registry.store = Uncertain(nodes.store, made)
            if made:
                await one.homes.hand_over(one.number, two.number)
                await two.home_of(group)
            else:
                with pytest.raises(Unavailable):
                    await one.homes.hand_over(one.number, two.number)
                await one.home_of(group)
                assert not (await nodes.store.transact(*store.lost[0])).done, "what was under way cannot be made any more"
            await client.done(op.putfh(root), op.create(DIRECTORY, "d", mode=0o755))
            assert (await record(nodes, one.number)).node == (two if made else one).number

    run(tmp_path, scenario)


@pytest.mark.parametrize("forwarded", [False, True])
def test_who_waits_at_a_home_that_has_lost_its_group_asks_the_new_one(tmp_path: Path, forwarded: bool) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        root, group = await client.root(), one.group
        if forwarded:
            await goes_to(client, two)
        route = one.routes.get(nodes.volume.id)
        assert route is not None
        before, stuck = route.call, asyncio.Event()

        def call(asked: Any, token: Any, by: Binding) -> Any:
            if type(asked).__name__ == "Make":
                stuck.set()
                return asyncio.get_running_loop().create_future()
            return before(asked, token, by)

        route.call = call  # type: ignore[assignment,method-assign]
        whole = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755))
        asking = asyncio.create_task(client.transport.compound(whole, 2))
        async with asyncio.timeout(10):
            await stuck.wait()
        found = await record(nodes, one.number)
        moved = structs.replace(found, node=two.number, incarnation=two.incarnation, fences=(one.incarnation,), tenure=found.tenure + 1)
        await nodes.store.transact([], [Put(keys.group(one.number), moved.encode())])
        if forwarded:
            assert (await asking).status == 0
        else:
            with pytest.raises(ConnectionError):
                await asking
            await goes_to(client, two)
            assert (await send(client, whole)).status == 0
        await two.home_of(group)
        assert await names_in(client, root) == [b"d"]
        await client.transport.close()

    run(tmp_path, scenario)


@pytest.mark.parametrize("forwarded", [False, True])
def test_what_a_failed_volume_never_answers_is_asked_again(tmp_path: Path, forwarded: bool) -> None:
    """The process lives on, and so does the group; the COMPOUND had been carried out, and waits for a gate that never opens."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        root = await client.root()
        file, state = await open_file(client, root, "f")
        if forwarded:
            await goes_to(client, two)
        route = one.routes.get(nodes.volume.id)
        assert route is not None
        before, stuck = route.when, asyncio.Event()
        route.when = lambda gate, level, send: stuck.set()  # type: ignore[method-assign]
        whole = request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755), op.getfh())
        asking = asyncio.create_task(client.transport.compound(whole, 2))
        async with asyncio.timeout(10):
            await stuck.wait()
        route.when = before  # type: ignore[method-assign]
        one.nfs_gateway.give_up(route)
        if forwarded:
            assert (await asking).status == 0
            client.used(15, 1)
        else:
            with pytest.raises(ConnectionError):
                await asking
            await goes_to(client, one)
            assert (await send(client, whole)).status == 0
        await client.done(op.putfh(file), op.write(state, 0, b"its stateid is good"))
        assert await names_in(client, root) == [b"d", b"f"]
        await client.transport.close()

    run(tmp_path, scenario)


def test_a_request_that_comes_late_to_a_new_home_keeps_nobody_out(tmp_path: Path) -> None:
    """What leaves no token is known to nobody after a change of home. A late request is then the first that the slot has, though its client is further on."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        root = await client.root()
        reads = [request(client, 15, number, op.putfh(root), op.getattr_("size")) for number in range(8)]
        for whole in reads[1:6]:
            assert (await send(client, whole)).status == 0
        await one.homes.hand_over(one.number, two.number)
        await goes_to(client, two)
        assert (await client.transport.compound(reads[2], 2)).status == 0, "nobody can know that it is late"
        assert (await send(client, reads[6])).status == 0
        assert (await client.transport.compound(reads[3], 2)).status == Status.SEQ_MISORDERED
        assert (await client.transport.compound(reads[6], 2)).status == 0
        assert (await send(client, reads[7])).status == 0
        await client.transport.close()

    run(tmp_path, scenario)


def test_a_forwarded_request_is_not_repeated_once_its_client_has_gone(tmp_path: Path) -> None:
    """Its client has given the node up that cannot reach the home, and goes on elsewhere."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        root = await client.root()
        nodes.hidden.add(one.number)
        await goes_to(client, two)
        groups = two.nfs_gateway.groups
        asking = asyncio.create_task(client.transport.compound(request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "late", mode=0o755)), 2))
        await until(lambda: groups._numbers)  # it waits for its home
        asking.cancel()
        await goes_to(client, one)
        await until(lambda: not groups._numbers)
        nodes.hidden.discard(one.number)
        await until(lambda: not groups._tasks)
        assert await names_in(client, root) == []
        await client.transport.close()

    run(tmp_path, scenario)


def test_a_forwarded_request_whose_client_has_gone_is_not_begun_by_the_new_home(tmp_path: Path) -> None:
    """It waited there for the group to come."""

    async def scenario(nodes: Nodes) -> None:
        one, two, three = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        root = await client.root()
        groups, go_on = two.nfs_gateway.groups, asyncio.Event()
        make = groups._make

        def slow(*arguments: Any) -> Any:
            service = make(*arguments)
            load = service.load

            async def later() -> None:
                await go_on.wait()
                await load()

            service.load = later  # type: ignore[method-assign]
            return service

        groups._make = slow
        await one.homes.hand_over(one.number, two.number)
        await goes_to(client, three)
        asking = asyncio.create_task(client.transport.compound(request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "late", mode=0o755)), 2))
        await until(lambda: groups._remote)
        asking.cancel()
        await goes_to(client, two)
        await until(lambda: not groups._remote)
        go_on.set()
        assert await names_in(client, root) == []
        await client.transport.close()

    run(tmp_path, scenario, count=3)


@pytest.mark.parametrize("forwarded", [False, True])
def test_what_another_volume_than_the_failed_one_still_carries_out_is_not_carried_out_beside_it(tmp_path: Path, forwarded: bool) -> None:
    """The COMPOUND was dropped with all others, and its REMOVE is under way at a volume that is well."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        root = await client.root()
        await client.done(op.putfh(root), op.create(DIRECTORY, "d", mode=0o755))
        if forwarded:
            await goes_to(client, two)
        route = one.routes.get(nodes.volume.id)
        assert route is not None
        before, stuck, go_on, removed = route.call, asyncio.Event(), asyncio.Event(), []

        async def late(*asked: Any) -> Any:
            stuck.set()
            await go_on.wait()
            return await before(*asked)  # type: ignore[misc]

        def call(asked: Any, token: Any, by: Binding) -> Any:
            if type(asked).__name__ != "Remove":
                return before(asked, token, by)
            removed.append(asked)
            return late(asked, token, by)

        route.call = call  # type: ignore[assignment,method-assign]
        whole = request(client, 15, 1, op.putfh(root), op.remove("d"))
        asking = asyncio.create_task(client.transport.compound(whole, 2))
        async with asyncio.timeout(10):
            await stuck.wait()
        for _ in range(2):  # two volumes fail
            one.nfs_gateway.give_up(route)
            await one.home_of(one.group)
        if forwarded:
            assert (await asking).status == Status.DELAY
        else:
            with pytest.raises(ConnectionError):
                await asking
            await goes_to(client, one)
        assert (await client.transport.compound(whole, 2)).status == Status.DELAY
        assert await names_in(client, root) == [b"d"], "the session's other slots are not held up"
        go_on.set()
        async with asyncio.timeout(10):
            while (again := await client.transport.compound(whole, 2)).status == Status.DELAY:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert again.status == 0 and len(removed) == 1
        client.used(15, 1)
        assert await names_in(client, root) == []
        await client.transport.close()

    run(tmp_path, scenario)


def test_a_group_that_comes_while_the_volume_with_its_records_fails_is_read_once_more(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        root, group = await client.root(), one.group
        route = two.routes.get(SYSTEM)
        assert route is not None
        before, stuck = route.when, asyncio.Event()
        route.when = lambda gate, level, send: stuck.set()  # type: ignore[method-assign]
        await one.homes.hand_over(one.number, two.number)
        async with asyncio.timeout(10):
            await stuck.wait()
        route.when = before  # type: ignore[method-assign]
        two.nfs_gateway.give_up(route)
        await two.home_of(group)
        await goes_to(client, two)
        assert await names_in(client, root) == []
        await client.transport.close()

    run(tmp_path, scenario)


def test_a_group_whose_address_and_home_are_lost_is_adopted_though_the_connection_to_it_has_not_ended_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes

        async def never(asked: Asked) -> Answer:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        one.interconnect.serve(RELEASE, never)
        with pytest.raises(Unavailable):  # it lives: what it says comes in time
            await two.homes.adopt(one.number, lost=True)
        assert two.interconnect.peer(one.number).connected
        monkeypatch.setattr(NetworkPeer, "heard", property(lambda peer: 1e-9))
        await two.homes.adopt(one.number, lost=True)
        await two.home_of(one.group)

    run(tmp_path, scenario)


def test_a_request_that_waits_at_a_silent_home_is_carried_out_as_soon_as_its_group_is_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came to the new home a moment before that was one. The interconnect gives a silent node up only seconds later."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await Nfs4Client.connect(one.nfs, persist=True)
        root, there = await client.root(), asyncio.Event()

        async def never(asked: Asked) -> Answer:
            there.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        for service in (FORWARD, RELEASE):
            one.interconnect.serve(service, never)
        await goes_to(client, two)
        asking = asyncio.create_task(client.transport.compound(request(client, 15, 1, op.putfh(root), op.create(DIRECTORY, "d", mode=0o755)), 2))
        async with asyncio.timeout(10):
            await there.wait()
        monkeypatch.setattr(NetworkPeer, "heard", property(lambda peer: 1e-9))
        await two.homes.adopt(one.number, lost=True)
        async with asyncio.timeout(3):
            assert (await asking).status == 0
        client.used(15, 1)
        assert await names_in(client, root) == [b"d"]
        await client.transport.close()

    run(tmp_path, scenario)


def test_snapshots_are_seen_at_gateways_elsewhere(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one = nodes.nodes[0]
        client = await Nfs4Client.connect(one.nfs)
        root = await client.root()
        file, state = await open_file(client, root, "f")
        await client.done(op.putfh(file), op.write(state, 0, b"before"))
        made = nodes.volume.call(MakeSnapshot("monday"), None, Binding(0, 0))
        assert isinstance(made, Reply)
        await client.done(op.putfh(file), op.write(state, 0, b"after!"))
        listed = (await client.done(op.putfh(root), op.lookup(".snapshot"), op.readdir(0, "fsid", "fileid"))).last
        assert [entry.name for entry in listed[0]] == [b"monday"]
        found = await client.done(op.putfh(root), op.lookup(".snapshot"), op.lookup("monday"), op.lookup("f"), op.read(ANONYMOUS, 0, 100))
        assert found.last[1] == b"before"
        above = await client.done(op.putfh(root), op.lookup(".snapshot"), op.lookup("monday"), op.lookupp(), op.lookupp(), op.getfh())
        assert above.last == root
        assert await status(client, op.putfh(root), op.lookup(".snapshot"), op.lookup("sunday")) is Status.NOENT
        v3 = await RpcClient.connect(one.nfs)
        old = root
        for name in (b".snapshot", b"monday", b"f"):
            looked = await v3.nfs("LOOKUP", m.LookupArgs(m.DirectoryName(old, name)))
            assert looked.status == 0, name
            old = looked.value.object
        assert (await v3.nfs("READ", r3.ReadArgs(old, 0, 100))).value.data == b"before"
        snapshots = (await v3.nfs("LOOKUP", m.LookupArgs(m.DirectoryName(root, b".snapshot")))).value.object
        plus = await v3.nfs("READDIRPLUS", m.ReadDirectoryPlusArgs(snapshots, 0, bytes(8), 4096, 4096))
        assert b"monday" in [entry.name for entry in plus.value.entries]
        gone = await v3.nfs("LOOKUP", m.LookupArgs(m.DirectoryName(snapshots, b"sunday")))
        assert gone.status == 2
        await v3.close()
        await client.transport.close()

    run(tmp_path, scenario, count=1)


def test_groups_have_homes_also_when_the_store_was_lost_and_its_records_put_back(tmp_path: Path) -> None:
    """Another store counts its revisions from the start."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        group = one.group
        async with await Nfs4Client.connect(one.nfs, persist=True) as client:
            root = await client.root()
            for node in nodes.nodes:
                homes = node.homes
                homes._revisions = {number: revision + 10**6 for number, revision in homes._revisions.items()}  # as the one that was lost counted
                await homes._seen(await homes._listing())  # its watch begins anew
            await nodes.kill(one)
            await two.home_of(group)
            await goes_to(client, two)
            await open_file(client, root, "f")

    run(tmp_path, scenario)
