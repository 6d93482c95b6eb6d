"""Which processes of the cluster's nodes run, as gateways need to know it.

Nobody can be sure that a process has ended that does not answer, unless its supervisor says so. `gone` is therefore a judgement: good enough to put another in
its place wherever the former one is shut out first (fenced), and for nothing else.
"""

from collections.abc import Callable, Iterator

from sofs.cluster import Incarnation, Interconnect, NodeId
from sofs.cluster.membership import Membership


class Processes:
    """The membership's and the interconnect's views, taken together."""

    def __init__(self, membership: Membership, interconnect: Interconnect) -> None:
        self._membership = membership
        self._interconnect = interconnect
        self._known: dict[Incarnation, NodeId] = {}
        """Also those that have ended, as long as this process remembers."""
        membership.on_change(self._remember)
        self._remember()

    def on_dead(self, call: Callable[[NodeId, Incarnation], None]) -> None:
        """Calls with every process that becomes known to have ended."""
        self._membership.on_dead(call)

    @property
    def me(self) -> tuple[NodeId, Incarnation]:
        return self._interconnect.node, self._interconnect.incarnation

    def running(self, node: NodeId) -> Incarnation | None:
        """The incarnation that runs there, as far as the store knows."""
        if node == self._interconnect.node:
            return self._interconnect.incarnation
        record = self._membership.running.get(node)
        return None if record is None else Incarnation(record.incarnation)

    def candidates(self) -> list[NodeId]:
        """Those that run and are not about to stop or drained; this one among them if so."""
        members = self._membership.members
        return sorted(node for node in self._membership.alive if node in members and members[node].state == "active")

    def node_of(self, tag: int) -> tuple[NodeId, Incarnation] | None:
        """Who has, or had, the incarnation that ends with these 32 bits."""
        return next(((node, incarnation) for incarnation, node in self._incarnations() if incarnation & 0xFFFFFFFF == tag), None)

    def where(self, gateway: int) -> NodeId | None:
        """The node whose process has, or had, this incarnation."""
        return next((node for incarnation, node in self._incarnations() if incarnation == gateway), None)

    def connected(self, node: NodeId) -> bool:
        return node == self._interconnect.node or self._interconnect.peer(node).connected

    def ended(self, node: NodeId, incarnation: int) -> bool:
        """Whether that process is known to have ended, or another one has taken its place."""
        mine, current = self.me
        if node == mine:
            return incarnation != current
        if self._membership.is_dead(node, Incarnation(incarnation)):
            return True
        running = self._membership.running.get(node)
        return running is not None and running.incarnation != incarnation

    def gone(self, node: NodeId, incarnation: int) -> bool:
        """Whether that process may be replaced: it has ended, or is neither in the store any more nor to be reached."""
        return self.ended(node, incarnation) or not (node in self._membership.running or self.connected(node))

    def _incarnations(self) -> Iterator[tuple[Incarnation, NodeId]]:
        yield self._interconnect.incarnation, self._interconnect.node
        yield from self._known.items()

    def _remember(self) -> None:
        for node, record in self._membership.running.items():
            self._known[Incarnation(record.incarnation)] = node
        for node, incarnation in self._membership.dead.items():
            self._known.setdefault(incarnation, node)
