"""One file, two protocols, at two gateways: the cross-protocol matrix with the holder at one node, the asker at another, the volume at a third.

The tables are those of one node (`test_two_protocols`): that there are several changes nothing about what anybody is told. Whoever comes back does so at the
asker's node, also where nothing has happened to his own. In some states the holder's node is killed in between, in others the volume's coordinator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.protocol.test_two_protocols import (
    NFS_TABLE,
    SMB_TABLE,
    Played,
    Table,
    after_coming_back,
    ask_and_come_back,
    asked_of_a_live_one,
    meets_nfs,
    prepare_nfs,
    prepare_smb,
    still_there,
)
from tests.protocol.two_protocols import SmbAsker
from tests.served_nodes import Nodes, nodes_on

Play = Callable[[Nodes, Played], Awaitable[None]]


def smb_live(failover: bool) -> Play:
    async def play(nodes: Nodes, played: Played) -> None:
        one, two = (node.place for node in nodes.nodes)
        holder, asker = await prepare_smb(one, "", played, asks_at=two)
        if failover:
            await nodes.fail_over()
        for cell in SMB_TABLE:
            await played.step(cell, lambda cell=cell: asked_of_a_live_one(cell, holder, asker))  # type: ignore[misc]
        holder.goes()
        await asker.close()

    return play


def smb_away(keep: str, killed: bool, failover: bool = False) -> Play:
    async def play(nodes: Nodes, played: Played) -> None:
        one, two = nodes.nodes
        holder, asker = await prepare_smb(one.place, keep, played, asks_at=two.place)
        if killed:
            await nodes.kill(one)
        else:
            holder.goes()
            await one.place.settled()
        if failover:
            await nodes.fail_over()
        for cell in SMB_TABLE:
            await played.step(cell, lambda cell=cell: asker.ask(cell))  # type: ignore[misc]
        await holder.returns(two.place)
        for cell in SMB_TABLE:
            await played.step(cell, lambda cell=cell: after_coming_back(cell, played[cell], holder, asker))  # type: ignore[misc]
        holder.goes()
        await asker.close()

    return play


def nfs_live(failover: bool) -> Play:
    async def play(nodes: Nodes, played: Played) -> None:
        one, two = (node.place for node in nodes.nodes)
        holder, asker = await prepare_nfs(one, played, made_at=two), await SmbAsker.connect(two)
        if failover:
            await nodes.fail_over()
        for cell in NFS_TABLE:
            await played.step(cell, lambda cell=cell: meets_nfs(cell, holder, asker, far=True))  # type: ignore[misc]
            await played.step(cell, lambda cell=cell: still_there(cell, holder))  # type: ignore[misc]
        asker.client.cut()
        await holder.goes()

    return play


def nfs_away(killed: bool) -> Play:
    async def play(nodes: Nodes, played: Played) -> None:
        one, two = nodes.nodes
        holder = await prepare_nfs(one.place, played, made_at=two.place)
        group = one.group
        await holder.goes()
        if killed:
            await nodes.kill(one)
        else:
            # A session has callbacks at its home only.
            await one.homes.hand_over(one.number, two.number)
        await two.home_of(group)
        await ask_and_come_back(two.place, holder, played, far=True)

    return play


def differences(table: Table, column: str, played: Played) -> list[str]:
    found = []
    for cell, columns in table.items():
        try:
            told = played[cell]
        except AssertionError as error:
            told = str(error)
        if told != columns[column]:
            found.append(f"{cell.holds} - {cell.asks}: {told}, not {columns[column]}")
    return found


STATES: list[tuple[str, Table, str, Play]] = [
    ("smb live", SMB_TABLE, "live", smb_live(failover=False)),
    ("smb live, coordinator killed", SMB_TABLE, "live", smb_live(failover=True)),
    ("smb durable, back at another node", SMB_TABLE, "durable", smb_away("durable", killed=False)),
    ("smb persistent, back at another node", SMB_TABLE, "persistent", smb_away("persistent", killed=False)),
    ("smb durable, node killed", SMB_TABLE, "durable", smb_away("durable", killed=True)),
    ("smb persistent, coordinator killed", SMB_TABLE, "persistent", smb_away("persistent", killed=False, failover=True)),
    ("smb persistent, node killed", SMB_TABLE, "persistent", smb_away("persistent", killed=True)),
    ("nfs live", NFS_TABLE, "live", nfs_live(failover=False)),
    ("nfs live, coordinator killed", NFS_TABLE, "live", nfs_live(failover=True)),
    ("nfs silent, back at another node", NFS_TABLE, "live", nfs_away(killed=False)),
    ("nfs node killed", NFS_TABLE, "live", nfs_away(killed=True)),
]


@pytest.mark.parametrize(("table", "column", "play"), [state[1:] for state in STATES], ids=[state[0] for state in STATES])
def test_each_cell_of_the_matrix_over_two_gateways(tmp_path: Path, table: Table, column: str, play: Play) -> None:
    async def scenario() -> Played:
        played = Played()
        async with nodes_on(tmp_path / "nodes") as nodes:
            await play(nodes, played)
        return played

    assert differences(table, column, asyncio.run(scenario())) == []
