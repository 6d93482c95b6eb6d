"""Who is connected to which address at which node: so that the next holder can have those asked whose connections have ended without a word.

A client that waits for an answer sends nothing. When the node that owes it is stopped, cut off or has lost its power, nobody tells the client, wherever the
address is by then: Linux's SMB client looks after 120 s, its NFS client after 60 s. Nor does anybody when an end waited in the kernel behind replies that
could not leave any more. So a holder tells all other nodes whom it serves there, in memory only; what they do not know, because it is half a second old or
a node is new, costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from sofs.cluster import Answer, Asked, Interconnect, NodeId
from sofs.cluster.vips.here import Peers
from sofs.encoding import decode, encode

CALLERS = "vips.callers"
REPEATED = 10
"""Told again after so many times that nothing has changed: a node may have begun anew meanwhile."""
MOST = 10_000
"""Connections that a node tells of: what fits into a message, whatever the addresses."""


class Callers:
    def __init__(self, interconnect: Interconnect, peers: Callable[[str], Peers]) -> None:
        """`peers` gives the connections to an address of this node."""
        self._interconnect, self._peers = interconnect, peers
        self._told: dict[str, Peers] = {}
        self._unchanged = 0
        self._heard: dict[int, dict[str, list[tuple[int, str, int]]]] = {}
        """By node and address."""

    def open(self) -> None:
        self._interconnect.serve(CALLERS, self._hear)

    def tell(self, addresses: Collection[str], nodes: Collection[int]) -> None:
        """To be called every half second with what this node has, and who else there is."""
        now: dict[str, Peers] = {}
        room = MOST
        for address in addresses:
            now[address] = self._peers(address)[:room]
            room -= len(now[address])
        self._unchanged = self._unchanged + 1 if now == self._told else 0
        if self._unchanged % REPEATED == 0 and (now or self._told):
            self._told = now
            for node in nodes:
                self._interconnect.peer(NodeId(node)).notify(CALLERS, encode(now))

    def left_behind(self, address: str) -> Peers:
        """The connections that the address has had at other nodes, as far as these have told."""
        return sorted({each for heard in self._heard.values() for each in heard.get(address, ())})

    def _hear(self, asked: Asked) -> Answer:
        self._heard[asked.node] = decode(asked.body, dict[str, list[tuple[int, str, int]]], "callers")
        return Answer(b"")
