"""What a pool knows of other nodes' disks: asked of these nodes again and again, at once when a connection is there again.

A node that does not answer has its disks missing here, and nothing more is concluded from that. A disk that could not be reached hears first of all
which ids have been revoked meanwhile; only then is it read and written again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from sofs.cluster import Interconnect, NodeId
from sofs.encoding import encode
from sofs.errors import PeerError, SofsError, Unavailable
from sofs.pool.extent import Usage
from sofs.pool.members import Member, Members
from sofs.pool.messages import SERVICE, Hear, Heard, Told, decode_answer
from sofs.pool.remote_disk import RemoteDisk
from sofs.pool.states import READABLE
from sofs.types import DiskId

HEAR_S = 2.0


class Neighbours:
    """The other nodes of one pool."""

    def __init__(self, members: Members, interconnect: Interconnect, begin: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """`begin` runs something in the background."""
        self._members = members
        self._interconnect = interconnect
        self._begin = begin
        self._watched: set[int] = set()
        self._breaks: dict[int, int] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._claims: dict[int, int] = {}
        self._closed = False

    @property
    def claimed(self) -> int:
        """What the volumes of the nodes that answer have claimed."""
        return sum(self._claims.values())

    def hears(self, node: int) -> bool:
        """Whether a node has answered when it was last asked, and is connected still."""
        return node in self._claims

    def _nodes(self) -> list[int]:
        return sorted({member.spec.node for member in self._members if not self._members.owns(member.spec) and not member.spec.lost})

    async def run_once(self) -> None:
        """Asks every node that has disks of the pool."""
        await asyncio.gather(*[self.hear(node) for node in self._nodes()])

    async def hear(self, node: int) -> None:
        """Asks one node; whoever comes while it is being asked waits for the same answer."""
        if node not in self._watched:
            self._watched.add(node)
            self._interconnect.peer(NodeId(node)).on_change(partial(self._changed, node))
        asking = self._asking.get(node)
        if asking is None:
            asking = self._asking[node] = self._begin(self._hear(node))
            asking.add_done_callback(lambda _: self._asking.pop(node, None))
        await asyncio.shield(asking)

    def close(self) -> None:
        """Asks nobody any more."""
        self._closed = True

    async def _hear(self, node: int) -> None:
        breaks = self._breaks.get(node, 0)
        peer = self._interconnect.peer(NodeId(node))
        try:
            answer = await peer.call(SERVICE, encode(Hear(self._members.pool)), deadline_s=HEAR_S)
            said = decode_answer(answer.body, Heard)
            heard = {told.disk: told for told in said.disks}
        except (SofsError, PeerError) as error:
            self._lost(node, f"its node does not answer: {error}")
            return
        self._claims[node] = said.claimed
        for member in self._members.of_node(node):
            told = heard.get(member.spec.id)
            if told is None:
                self._lost_one(member, "its node does not have it")
            elif await self._knows_revoked(member, told) and self._breaks.get(node, 0) == breaks:
                self._members.told(member, told.state, told.reason, Usage(told.total, told.free))

    async def _knows_revoked(self, member: Member, told: Told) -> bool:
        """Tells a disk that comes back what has been revoked; whether it knows all of it then."""
        members, disk = self._members, member.disk
        assert isinstance(disk, RemoteDisk)
        if told.state not in READABLE or member.state in READABLE:
            return True
        ranges = None
        # More may be revoked while it is being told: it is not among those that hear of that.
        while ranges != (ranges := list(members.revoked)):
            try:
                if ranges:
                    await disk.revoke_all(ranges)
            except SofsError as error:
                self._lost_one(member, f"it could not be told what has been revoked: {error}")
                return False
        return True

    def _changed(self, node: int, connected: bool) -> None:
        if self._closed:
            return
        if connected:
            self._begin(self.hear(node))
        else:
            self._breaks[node] = self._breaks.get(node, 0) + 1
            self._lost(node, "there is no connection to its node")

    def _lost(self, node: int, reason: str) -> None:
        # Its volumes will be served elsewhere, and claim there.
        self._claims.pop(node, None)
        for member in self._members.of_node(node):
            self._lost_one(member, reason)

    def _lost_one(self, member: Member, reason: str) -> None:
        if member.disk is not None:
            self._members.away(member.disk, Unavailable(reason))

    def ask_soon(self, id: DiskId) -> None:
        """A disk has not answered: how is it?"""
        member = self._members.get(id)
        if member.spec.node not in self._asking and not self._closed:
            self._begin(self.hear(member.spec.node))
