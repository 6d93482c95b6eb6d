"""What NFSv4 clients try on others and on the server's memory, over real connections against a real volume."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from gateways.exports import Client, NfsOptions, Share
from gateways.nfs.rpc import RpcConnection
from gateways.nfs.v4 import clients, delegated, sessions
from gateways.nfs.v4.status import Status
from tests.protocol import nfs4_ops as op
from tests.protocol.nfs4_client import Nfs4Client, Transport
from tests.protocol.nfs4_ops import ChannelAttributes
from tests.protocol.nfs4_scenes import open_file, served
from tests.protocol.nfs4_xdr import Op
from tests.served import VOLUME, Served, nfs_on
from tests.unit.gateways.nfs_link import sys_credential

WANT_WRITE = 0x200


async def alone(transport: Transport, operation: Op) -> tuple[Status, Any]:
    """An operation without a session: its status and result."""
    result = await transport.compound([operation])
    return Status(result.status), result.last


def test_whom_no_export_admits_is_no_client_either(tmp_path: Path) -> None:
    """He could otherwise end the state of a client whose name he knows, and use up what clients take."""

    async def scenario() -> None:
        shares = [Share("data", 1, VOLUME, nfs=NfsOptions(clients=(Client("10.0.0.0/8"),)))]
        async with nfs_on(tmp_path / "volume", lambda: shares) as server:
            stranger = await Transport.connect(server.port)
            stranger.auth = sys_credential(0, 0)
            assert (await alone(stranger, op.exchange_id(b"somebody's name", os.urandom(8))))[0] is Status.PERM
            await stranger.close()

    asyncio.run(scenario())


def cores(server: Served) -> list[RpcConnection]:
    return [connection._core for connection in server.gateway.server.connections if isinstance(connection._core, RpcConnection)]


def test_sessions_that_come_and_go_on_one_connection_leave_nothing_behind(tmp_path: Path) -> None:
    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        (core,) = cores(server)
        before = len(core.ended)
        for _ in range(20):
            status, made = await alone(client.transport, op.create_session(client.clientid, client.sequence, 2))
            assert status is Status.OK
            client.sequence += 1
            assert (await alone(client.transport, op.bind_conn_to_session(made.session)))[0] is Status.OK
            assert (await alone(client.transport, op.destroy_session(made.session)))[0] is Status.OK
        assert len(core.ended) <= before + 2

    served(tmp_path, scenario)


def test_the_slots_of_one_host_and_of_all_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slot may keep a reply: what a host gets becomes less as it takes more, and in the end nothing."""
    monkeypatch.setattr(sessions, "SLOTS_OF_ONE_HOST", 60)

    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        granted = []
        while True:
            asked = op.create_session(client.clientid, client.sequence, 0, ChannelAttributes(max_requests=100))
            status, made = await alone(client.transport, asked)
            if status is not Status.OK:
                break
            client.sequence += 1
            granted.append(made.fore.max_requests)
        assert status is Status.NOSPC
        assert granted == sorted(granted, reverse=True) and granted[-1] == 1 and len(granted) > 4
        assert sum(granted) == 60 - 15  # the client's own session has the first quarter

    served(tmp_path, scenario)


def test_the_clients_of_one_host_are_limited_and_do_not_keep_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "OF_ONE_HOST", 4)

    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        service = server.gateway.groups.only
        assert service is not None
        for _ in range(20):
            assert (await alone(client.transport, op.exchange_id(os.urandom(8), os.urandom(8))))[0] is Status.OK
        assert len(service.clients.numbered) == 4 and client.clientid in service.clients.numbered
        others = [await Nfs4Client.connect(server.port) for _ in range(3)]
        assert (await alone(client.transport, op.exchange_id(os.urandom(8), os.urandom(8))))[0] is Status.DELAY
        service.clients.exchange(b"another's", bytes(8), (1, 0), False, 0.0, "192.0.2.1")
        for other in others:
            await other.transport.close()

    served(tmp_path, scenario)


def test_the_states_of_one_client_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "STATES", 5)

    async def scenario(server: Served, client: Nfs4Client, root: bytes) -> None:
        handle, first = await open_file(client, root, "f")
        for number in range(4):
            result = await client.compound(op.putfh(handle), op.lock(2, 2 * number, 1, first, b"owner %d" % number, clientid=client.clientid))
            assert result.status == 0
        result = await client.compound(op.putfh(handle), op.lock(2, 100, 1, first, b"one more", clientid=client.clientid))
        assert result.status == Status.NOSPC
        result = await client.compound(op.putfh(root), op.open_("g", clientid=client.clientid, how="unchecked"))
        assert result.status == Status.NOSPC

    served(tmp_path, scenario)


def test_the_holder_of_a_delegation_that_says_nothing_holds_others_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives itself a way to be called back again after each silence, which would otherwise cost everybody its patience again."""
    monkeypatch.setattr(delegated, "PATIENCE_S", 0.1)

    async def scenario(server: Served, other: Nfs4Client, root: bytes) -> None:
        async with await Nfs4Client.connect(server.port, callbacks=True) as holder:
            asked = op.open_("f", op.BOTH | WANT_WRITE, clientid=holder.clientid, how="unchecked", mode=0o666)
            handle = (await holder.done(op.putfh(root), asked, op.getfh())).last
            holder.transport.silent = True
            for _ in range(3):
                found = await asyncio.gather(*(other.done(op.putfh(handle), op.getattr_("size")) for _ in range(8)))
                assert [each.last["size"] for each in found] == [0] * 8
                assert (await alone(holder.transport, op.bind_conn_to_session(holder.session)))[0] is Status.OK
            assert holder.transport.callbacks.qsize() <= 4, "no more than the backchannel has slots"

    served(tmp_path, scenario)
