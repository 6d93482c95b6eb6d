"""SMB at several nodes: sessions that move, opens that are come back to elsewhere, gateways that are gone or only seem to be."""

from __future__ import annotations

import asyncio
import os
import struct
from functools import partial
from pathlib import Path

import pytest

from gateways.smb.crypto import SigningAlgorithm
from gateways.smb.header import FLAG_REPLAY, Command
from gateways.smb.leases import LEVEL_BATCH, LEVEL_LEASE, LEVEL_NONE
from gateways.smb.service import SmbService
from gateways.smb.status import Status
from sofs.cluster import NodeId
from sofs.errors import Fenced
from sofs.locks import HANDLE, READ, WRITE
from sofs.types import Level, OpenId
from sofs.volume.api import Access, Binding, Disposition, Keep, ListOpens, Open, Opened, OpenList, Reconnect, Reply
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client, FileId
from tests.protocol.smb_scenes import created
from tests.served_nodes import GatewayNode, Nodes, run

RH, RWH = READ | HANDLE, READ | WRITE | HANDLE
GUID, KEY, ME = b"create".ljust(16, b"\0"), b"key".ljust(16, b"\0"), b"one client".ljust(16, b"\0")
NOT_FOUND = Status.OBJECT_NAME_NOT_FOUND

made = partial(created, level=LEVEL_LEASE)
EXCLUSIVE_NOW = 0x12
NOTIFY_ENUM_DIR = 0x10C


async def at(node: GatewayNode, share: str = "safe", previous: int = 0, guid: bytes = ME, user: str = "alice", password: str = "secret") -> Client:
    """A client with a session at the node, which takes the place of its `previous` one."""
    client = Client(node.smb_gateway.service, guid)
    assert (await client.negotiate()).status == 0
    assert (await client.logon(user, password, previous)).status == 0
    if client.sealer is not None:
        client.sealer._session_id = client.session_id
    assert (await client.connect(share)).status == 0
    return client


def persistent() -> list[tuple[bytes, bytes]]:
    return [smb.lease(KEY, RWH), smb.durable(GUID, 60_000, persistent=True)]


def back_to(file: FileId) -> list[tuple[bytes, bytes]]:
    return [smb.lease(KEY, RWH), smb.comes_back(file, GUID, persistent=True)]


def service_of(node: GatewayNode) -> SmbService:
    return node.smb_gateway.service


def opens(nodes: Nodes) -> list[tuple[bytes, int]]:
    """Names and gateways."""
    found = nodes.volume.call(ListOpens(), None, Binding(9, 9))
    assert isinstance(found, OpenList)
    return sorted((each.name, each.gateway) for each in found.opens)


# Sessions


def test_a_session_id_says_which_gateway_has_it(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        for node in nodes.nodes:
            client = await at(node)
            assert client.session_id >> 32 == node.incarnation & 0xFFFFFFFF

    run(tmp_path, scenario)


def test_session_ids_begin_anew_after_sixteen_million_and_leave_out_those_in_use(tmp_path: Path) -> None:
    class Fixed:
        def number(self, bits: int) -> int:
            return 7

        def bytes(self, count: int) -> bytes:
            return os.urandom(count)

    async def scenario(nodes: Nodes) -> None:
        (node,) = nodes.nodes
        service = service_of(node)
        service.random, real = Fixed(), service.random  # type: ignore[assignment]
        first = [(await at(node)).session_id for _ in range(2)]
        service._next_session += (1 << 24) - 2
        again = [(await at(node)).session_id for _ in range(3)]
        service.random = real
        assert len({*first, *again}) == 5
        assert {number >> 32 for number in again} == {node.incarnation & 0xFFFFFFFF}

    run(tmp_path, scenario, count=1)


def test_a_new_logon_ends_the_clients_former_session_at_another_node_first(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one, "data")
        await client.open("f", share=0)
        await at(two, "data", previous=client.session_id, user="bob", password="hidden")
        assert service_of(one).sessions, "it is somebody else's"
        beside = await at(two, "data", guid=b"2" * 16)
        assert (await beside.ask(Command.CREATE, smb.create("f"))).status == Status.SHARING_VIOLATION
        moved = await at(two, "data", previous=client.session_id)
        assert not service_of(one).sessions
        await moved.open("f", share=0)
        late = await client.ask(Command.CREATE, smb.create("g"))
        assert late.status == Status.USER_SESSION_DELETED

    run(tmp_path, scenario)


def test_a_session_of_another_node_cannot_be_joined(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        channel = Client(service_of(two), ME)
        await channel.negotiate(signing=SigningAlgorithm.AES_GMAC)
        assert (await channel.bind(client)).status == Status.USER_SESSION_DELETED
        assert (await client.ask(Command.CREATE, smb.create("f"))).status == 0

    run(tmp_path, scenario)


def test_the_session_of_a_dead_node_ends_with_what_it_had(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one, "data")
        await client.open("f", share=0)
        await nodes.cut_off(one)
        moved = await at(two, "data", previous=client.session_id)
        await moved.open("f", share=0)
        assert [gateway for _, gateway in opens(nodes)] == [two.incarnation]
        await nodes.finds_out(one)  # it is not dead at all
        assert client.link.closed_for

    run(tmp_path, scenario)


# Opens


def test_a_persistent_open_is_come_back_to_at_another_node(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, told = await made(client, "x", *persistent())
        assert told.lease == RWH and told.contexts[b"DH2Q"] == struct.pack("<II", 60_000, 2)
        assert (await client.ask(Command.LOCK, smb.lock(file, (0, 10, EXCLUSIVE_NOW)))).status == 0
        assert (await client.ask(Command.WRITE, smb.write(file, 0, b"before"))).status == 0
        await nodes.kill(one)
        moved = await at(two, previous=client.session_id)
        again, told = await made(moved, "x", *back_to(file))
        assert again[0] == file[0] and told.lease == RWH, "the same open, with its lease"
        assert (await moved.ask(Command.WRITE, smb.write(again, 6, b" and after"))).status == 0
        reply = await moved.ask(Command.READ, smb.read(again, 0, 100))
        assert reply.message.endswith(b"before and after")
        other = await at(two, guid=b"2" * 16)
        number = other.request(Command.CREATE, smb.create("x"))
        await moved.broken()
        lease = await moved.ask(Command.OPLOCK_BREAK, smb.lease_break(KEY, RH))
        assert lease.status == 0
        second = smb.file_id(await other.final(number))
        locked = await other.ask(Command.LOCK, smb.lock(second, (5, 1, EXCLUSIVE_NOW)))
        assert locked.status == Status.LOCK_NOT_GRANTED, "its byte range came along"
        assert opens(nodes)[0][1] == two.incarnation

    run(tmp_path, scenario)


def test_what_is_still_under_way_at_the_former_gateway_has_no_effect(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent())
        assert (await client.ask(Command.WRITE, smb.write(file, 0, b"first "))).status == 0
        session = service_of(one).sessions[client.session_id]
        handle = next(iter(session.handles.values()))
        await nodes.cut_off(one)
        moved = await at(two, previous=client.session_id)
        again, _ = await made(moved, "x", *back_to(file))
        assert (await moved.ask(Command.WRITE, smb.write(again, 0, b"second"))).status == 0
        for binding in (session.binding, Binding(one.incarnation, 0)):
            try:
                nodes.volume.write(handle.id, 0, memoryview(b"LATE"), None, Level.STABLE, binding)
            except Fenced:
                continue
            raise AssertionError("the former gateway is shut out")
        assert (await moved.ask(Command.READ, smb.read(again, 0, 100))).message.endswith(b"second")

    run(tmp_path, scenario)


def test_an_open_whose_gateway_lives_is_not_taken_from_it(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent())
        thief = await at(two)
        await made(thief, "x", *back_to(file), status=NOT_FOUND)
        assert (await client.ask(Command.WRITE, smb.write(file, 0, b"still mine"))).status == 0
        assert nodes.fenced == []

    run(tmp_path, scenario)


def test_an_open_whose_gateway_is_gone_is_taken_over_though_nobody_has_noticed(tmp_path: Path) -> None:
    """Without a former session to end: the volume believes the open to be connected, and the gateway that has it is fenced first."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent())
        await nodes.cut_off(one)
        moved = await at(two)
        again, told = await made(moved, "x", *back_to(file))
        assert again[0] == file[0] and told.lease == RWH
        assert (await moved.ask(Command.WRITE, smb.write(again, 0, b"mine"))).status == 0

    run(tmp_path, scenario)


def test_an_open_whose_gateway_does_not_answer_is_taken_over_before_anybody_knows_whether_it_lives(tmp_path: Path) -> None:
    """As far as the store says its process runs."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent())
        nodes.hidden.add(one.number)
        assert NodeId(one.number) in two.membership.running
        moved = await at(two)
        again, _ = await made(moved, "x", *back_to(file))
        assert again[0] == file[0]
        await nodes.finds_out(one)

    run(tmp_path, scenario)


def test_a_create_whose_reply_was_lost_with_its_node_is_repeated_at_another(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent(), share=0)
        await nodes.kill(one)
        moved = await at(two, previous=client.session_id)
        again, told = await made(moved, "x", *persistent(), share=0, flags=FLAG_REPLAY)
        assert again[0] == file[0] and told.lease == RWH, "it is answered with the open that the first one made"
        assert len(opens(nodes)) == 1

    run(tmp_path, scenario)


def test_a_create_whose_reply_was_lost_is_repeated_at_another_node_though_its_own_one_lives(tmp_path: Path) -> None:
    """The session is gone, and its gateway had not heard yet that it has the open."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent(), share=0)
        session = service_of(one).sessions[client.session_id]
        session.handles.clear()
        moved = await at(two, previous=client.session_id)
        again, told = await made(moved, "x", *persistent(), share=0, flags=FLAG_REPLAY)
        assert again[0] == file[0] and told.lease == RWH
        assert len(opens(nodes)) == 1 and nodes.fenced == []

    run(tmp_path, scenario)


def test_locks_that_are_repeated_at_another_node_are_taken_once(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent())
        locking = bytearray(smb.lock(file, (0, 10, 0x11)))
        struct.pack_into("<I", locking, 4, 3 << 4 | 1)  # LockSequenceIndex 3, LockSequenceNumber 1
        assert (await client.ask(Command.LOCK, bytes(locking))).status == 0
        await nodes.kill(one)
        moved = await at(two, previous=client.session_id)
        again, _ = await made(moved, "x", *back_to(file))
        struct.pack_into("<QQ", locking, 8, *again)
        assert (await moved.ask(Command.LOCK, bytes(locking))).status == 0
        assert (await moved.ask(Command.LOCK, smb.lock(again, (0, 10, 4)))).status == 0
        assert (await moved.ask(Command.LOCK, smb.lock(again, (0, 10, 4)))).status == Status.RANGE_NOT_LOCKED, "a shared lock counts"

    run(tmp_path, scenario)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_open_is_given_to_its_client_though_the_answer_to_an_earlier_session_was_lost(tmp_path: Path, elsewhere: bool) -> None:
    """The volume has bound it to that session; nobody at that one's gateway has it. The client comes back there, or at yet another node."""

    async def scenario(nodes: Nodes) -> None:
        one, two, three = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent())
        await nodes.kill(one)
        impatient = await at(two, previous=client.session_id)
        session = service_of(two).sessions[impatient.session_id]
        owner = session.caller.sids[0].encode()
        asked = Reconnect(session.caller, OpenId(file[0]), GUID, ME, owner, ME + KEY)
        route = two.routes.get(nodes.volume.id)
        assert route is not None
        answer = route.call(asked, None, session.binding)
        assert isinstance(answer if isinstance(answer, Reply) else await answer, Opened)
        beside = await at(two)
        await made(beside, "x", *back_to(file), status=NOT_FOUND)  # its session is still there
        moved = await at(three if elsewhere else two, previous=impatient.session_id)
        again, told = await made(moved, "x", *back_to(file))
        assert again[0] == file[0] and told.lease == RWH
        assert (await moved.ask(Command.WRITE, smb.write(again, 0, b"mine"))).status == 0

    run(tmp_path, scenario, count=3)


def test_channel_sequences_go_on_where_the_client_has_them(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one)
        file, _ = await made(client, "x", *persistent())
        await nodes.kill(one)
        moved = await at(two, previous=client.session_id)
        moved.sequence = 0x9000
        again, _ = await made(moved, "x", *back_to(file))
        assert (await moved.ask(Command.WRITE, smb.write(again, 0, b"newer"))).status == 0
        moved.sequence = 0x8FFF
        assert (await moved.ask(Command.WRITE, smb.write(again, 0, b"older"))).status == Status.FILE_NOT_AVAILABLE

    run(tmp_path, scenario)


def test_a_gateway_forgets_the_absent_client_that_has_gone_elsewhere(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client = await at(one, "data")
        file, _ = await made(client, "x", smb.durable(GUID, 60_000), level=LEVEL_BATCH)
        client.core.closed("the test cut it")
        assert service_of(one).durables.away(nodes.volume.id, opens_of(nodes)) is not None
        moved = await at(two, "data")
        await made(moved, "x", smb.comes_back(file, GUID), level=LEVEL_BATCH)
        async with asyncio.timeout(10):
            while service_of(one).durables.away(nodes.volume.id, opens_of(nodes)) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    run(tmp_path, scenario)


def opens_of(nodes: Nodes) -> OpenId:
    found = nodes.volume.call(ListOpens(), None, Binding(9, 9))
    assert isinstance(found, OpenList) and len(found.opens) == 1
    return found.opens[0].open


def test_a_lease_is_broken_whose_holder_is_at_another_node(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        holder, other = await at(one), await at(two, guid=b"2" * 16)
        await made(holder, "x", *persistent())
        number = other.request(Command.CREATE, smb.create("x"))
        await other.told(number)
        (told,) = await holder.broken()
        assert KEY in told
        assert (await holder.ask(Command.OPLOCK_BREAK, smb.lease_break(KEY, RH))).status == 0
        assert (await other.final(number)).status == 0

    run(tmp_path, scenario)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_who_comes_back_is_told_of_the_break_that_it_has_not_answered(tmp_path: Path, elsewhere: bool) -> None:
    """It may have missed it, and would go on with what is taken from it when its time is over."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        holder, other = await at(one), await at(two, guid=b"2" * 16)
        file, _ = await made(holder, "x", *persistent())
        waiting = other.request(Command.CREATE, smb.create("x"))
        await holder.broken()
        if elsewhere:
            await nodes.kill(one)
        else:
            holder.core.closed("the test cut it")
        assert (await other.final(waiting)).status == Status.FILE_NOT_AVAILABLE
        moved = await at(two if elsewhere else one)
        _, told = await made(moved, "x", *back_to(file))
        assert told.lease == RWH
        (again,) = await moved.broken()
        assert KEY in again
        waiting = other.request(Command.CREATE, smb.create("x"))
        assert (await moved.ask(Command.OPLOCK_BREAK, smb.lease_break(KEY, RH))).status == 0
        assert (await other.final(waiting)).status == 0

    run(tmp_path, scenario)


# Volumes that move under a gateway


def test_opens_of_which_the_gateway_was_not_told_when_a_volume_failed_wait_for_their_owners(tmp_path: Path) -> None:
    """Their CREATE was carried out, and its answer is lost with the volume that gave it; or their CLOSE was lost that had been answered here."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        client, other = await at(one), await at(two, guid=b"2" * 16)
        session = service_of(one).sessions[client.session_id]
        tree = next(iter(session.trees.values()))
        assert tree.volume is not None
        for name, lasts in ((b"kept", True), (b"plain", False)):
            keep = Keep(60_000, True, session.caller.sids[0].encode()) if lasts else None
            await tree.volume.call(
                Open(session.caller, tree.root, (name,), int(Access.READ_DATA), 0, Disposition.OPEN_IF, keep=keep), None, session.binding
            )
        plain = smb.create("plain", disposition=1)
        assert (await other.ask(Command.CREATE, plain)).status == Status.SHARING_VIOLATION
        service_of(one).give_up(tree.volume)
        client.core.closed("its volume has failed")
        fresh = await at(one)
        await fresh.open("fresh")
        async with asyncio.timeout(10):
            while (await other.ask(Command.CREATE, plain)).status:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert sorted((each.name, nodes.volume.core.opens[each.id].connected) for each in nodes.volume.core.opens.values()) == [
            (b"fresh", True), (b"kept", False), (b"plain", True)
        ]  # fmt: skip

    run(tmp_path, scenario)


def test_a_watched_directory_is_to_be_looked_at_when_its_volume_has_moved(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, _ = nodes.nodes
        watcher = await at(one, "data")
        directory = await watcher.open("d", options=1, access=1)
        number = watcher.request(Command.CHANGE_NOTIFY, smb.change_notify(directory))
        await watcher.told(number)
        await nodes.fail_over()
        assert (await watcher.final(number)).status == NOTIFY_ENUM_DIR
        number = watcher.request(Command.CHANGE_NOTIFY, smb.change_notify(directory))
        await watcher.told(number)
        await watcher.open("d\\new", disposition=2)
        assert smb.changes(await watcher.final(number)) == [(1, "new")], "it is watched again"

    run(tmp_path, scenario)


def test_opens_leases_and_locks_stay_when_their_volume_gets_another_coordinator(tmp_path: Path) -> None:
    """Also of an open that is not kept: its connection has not ended."""

    async def scenario(nodes: Nodes) -> None:
        one, two = nodes.nodes
        holder, other = await at(one, "data"), await at(two, "data", guid=b"2" * 16)
        plain = await holder.open("plain", share=0)
        assert (await holder.ask(Command.WRITE, smb.write(plain, 0, b"before"))).status == 0
        file, told = await made(holder, "x", smb.lease(KEY, RWH))
        assert told.lease == RWH
        assert (await holder.ask(Command.LOCK, smb.lock(file, (0, 10, EXCLUSIVE_NOW)))).status == 0
        await nodes.fail_over()
        assert (await holder.ask(Command.READ, smb.read(plain, 0, 100))).message.endswith(b"before")
        assert (await holder.ask(Command.WRITE, smb.write(plain, 6, b" and after"))).status == 0
        assert (await other.ask(Command.CREATE, smb.create("plain"))).status == Status.SHARING_VIOLATION
        number = other.request(Command.CREATE, smb.create("x"))
        (told_of,) = await holder.broken()
        assert KEY in told_of
        assert (await holder.ask(Command.OPLOCK_BREAK, smb.lease_break(KEY, RH))).status == 0
        second = smb.file_id(await other.final(number))
        assert (await other.ask(Command.LOCK, smb.lock(second, (5, 1, EXCLUSIVE_NOW)))).status == Status.LOCK_NOT_GRANTED
        assert (await holder.ask(Command.CLOSE, smb.close(plain))).status == 0
        assert (await other.ask(Command.CREATE, smb.create("plain"))).status == 0

    run(tmp_path, scenario)


def test_requests_wait_while_nobody_serves_the_volume(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, _ = nodes.nodes
        client = await at(one)
        files = [await client.open(f"f{place}") for place in range(8)]
        going = [client.request(Command.WRITE, smb.write(file, 0, b"written once")) for file in files]
        making = client.request(Command.CREATE, smb.create("new", disposition=2))
        await nodes.fail_over()
        assert [(await client.final(number)).status for number in (*going, making)] == [0] * 9
        for file in files:
            assert (await client.ask(Command.READ, smb.read(file, 0, 100))).message.endswith(b"written once")

    run(tmp_path, scenario)


def test_a_scaleout_share_lets_clients_cache_reads_only(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        one, _ = nodes.nodes
        client = await at(one, "wide")
        reply = await client.connect("wide")
        (capabilities,) = struct.unpack_from("<I", reply.body, 8)
        assert capabilities == 0x10 | 0x20 | 0x40 | 0x80
        _, told = await made(client, "x", *persistent())
        assert told.lease == READ and told.contexts[b"DH2Q"] == struct.pack("<II", 60_000, 2), "persistent all the same"
        _, told = await made(client, "y", level=LEVEL_BATCH)
        assert told.level == 1
        _, told = await made(client, "z", level=LEVEL_NONE)
        assert told.level == LEVEL_NONE
        reply = await client.connect("safe")
        assert struct.unpack_from("<I", reply.body, 8) == (0x10 | 0x40 | 0x80,)

    run(tmp_path, scenario)


def test_opens_and_names_of_the_server_are_the_same_at_all_nodes_and_its_guid_is_not(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        guids = set()
        for node in nodes.nodes:
            client = Client(service_of(node), ME)
            reply = await client.negotiate()
            guids.add(bytes(reply.body[8:24]))
        assert len(guids) == len(nodes.nodes)
        assert {service_of(node).settings.name for node in nodes.nodes} == {"sofs"}
        await asyncio.sleep(0)

    run(tmp_path, scenario)
