"""Which processes of the cluster's nodes run, as far as the coordination store and the interconnect tell.

Nobody can be sure that a process has ended that does not answer, unless its supervisor says so. `gone` is therefore a judgement: good enough to put another in
its place wherever the former one is shut out first (fenced), and for nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import structlog

from sofs.cluster import Incarnation, Interconnect, NodeId
from sofs.coordination import Seen, Store, keys
from sofs.errors import ConfigError, SofsError
from sofs.records import DeadRecord, NodeRecord

__all__ = ["Processes", "follow"]

log = structlog.get_logger("node")

AGAIN_S = 1.0


async def follow(store: Store, prefix: str, see: Callable[[Seen], Awaitable[None] | None]) -> None:
    """Has `see` look at all changes below a prefix, for ever. What it raises is logged."""
    async for seen in store.watch(prefix):
        try:
            done = see(seen)
            if done is not None:
                await done
        except SofsError as error:
            log.warning("store.change_not_taken_in", prefix=prefix, reason=str(error) or type(error).__name__)


class Processes:
    """Watches `nodes/` and `dead/`."""

    def __init__(self, store: Store, interconnect: Interconnect) -> None:
        self._store = store
        self._interconnect = interconnect
        self._running: dict[NodeId, Incarnation] = {}
        self._dead: dict[NodeId, Incarnation] = {}
        self._known: dict[Incarnation, NodeId] = {}
        """Also those that have ended, as long as this process remembers."""
        self._complete: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.on_change: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Reads what there is, and goes on watching. Raises `Unavailable`."""
        for prefix, see in ((keys.NODES, self._see_node), (keys.DEAD, self._see_dead)):
            listing = await self._store.range(prefix)
            see(Seen(listing.revision, listing.entries, complete=True))
            self._tasks.append(asyncio.get_running_loop().create_task(follow(self._store, prefix, see)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def me(self) -> tuple[NodeId, Incarnation]:
        return self._interconnect.node, self._interconnect.incarnation

    def running(self, node: NodeId) -> Incarnation | None:
        """The incarnation that runs there, as far as the store knows."""
        return self._interconnect.incarnation if node == self._interconnect.node else self._running.get(node)

    def nodes(self) -> list[NodeId]:
        """Those that run, this one among them."""
        return sorted({*self._running, self._interconnect.node})

    def node_of(self, tag: int) -> tuple[NodeId, Incarnation] | None:
        """Who has, or had, the incarnation that ends with these 32 bits."""
        for incarnation, node in self._incarnations():
            if incarnation & 0xFFFFFFFF == tag:
                return node, incarnation
        return None

    def where(self, gateway: int) -> NodeId | None:
        """The node whose process has, or had, this incarnation."""
        return next((node for incarnation, node in self._incarnations() if incarnation == gateway), None)

    def _incarnations(self) -> Iterator[tuple[Incarnation, NodeId]]:
        yield self._interconnect.incarnation, self._interconnect.node
        yield from self._known.items()

    def gone(self, node: NodeId, incarnation: int) -> bool:
        """Whether that process may be replaced: it is known to have ended, another one has taken its place, or it is neither in the store nor to be reached."""
        mine, current = self.me
        if node == mine:
            return incarnation != current
        if self._dead.get(node) == incarnation:
            return True
        running = self._running.get(node)
        if running is not None:
            return running != incarnation
        return keys.NODES in self._complete and not self._interconnect.peer(node).connected

    def _see_node(self, seen: Seen) -> None:
        if seen.complete:
            self._running.clear()
            self._complete.add(keys.NODES)
        for entry in seen.entries:
            try:
                record = NodeRecord.decode(entry.value)
            except ConfigError as error:
                log.warning("node_record_unreadable", key=entry.key, reason=str(error))
                continue
            self._running[NodeId(record.id)] = Incarnation(record.incarnation)
            self._known[Incarnation(record.incarnation)] = NodeId(record.id)
        for key in seen.removed:
            self._running.pop(NodeId(keys.id_of(key)), None)
        self._tell()

    def _see_dead(self, seen: Seen) -> None:
        for entry in seen.entries:
            node, record = NodeId(keys.id_of(entry.key)), DeadRecord.decode(entry.value)
            self._dead[node] = Incarnation(record.incarnation)
            self._known.setdefault(Incarnation(record.incarnation), node)
        self._tell()

    def _tell(self) -> None:
        for tell in self.on_change:
            tell()
