"""The interconnect of one node: its services, its peers, and the connections others have made to it."""

import asyncio
from collections.abc import Callable

from sofs.cluster import Handler, Incarnation, NodeId
from sofs.cluster.frames import Hello, Welcome
from sofs.cluster.handling import Services
from sofs.cluster.peers import NetworkPeer, OwnPeer
from sofs.cluster.serving import ServingLink
from sofs.cluster.stream import Addresses, Identify, Identity
from sofs.errors import PeerError, Unavailable
from sofs.runtime.ports import Clock, Connection, Listener, Network, Random

LOOK_S = 10.0
SILENT_S = 30.0
"""After this a connection that another node has made, which would ping, is thrown away."""


class NetworkInterconnect:
    """`Interconnect` over a `Network`."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        network: Network,
        me: tuple[NodeId, Incarnation],
        addresses: Addresses,
        *,
        features: int = 1,
        cluster: str = "",
        identify: Identify | None = None,
        admit: Callable[[Hello], str] = lambda hello: "",
    ) -> None:
        """`addresses` says where a member is, best first; nothing for what is no member. `identify` says whose certificate the other end of a connection
        has shown; without it everybody is believed. `admit` answers why a node that connects is refused, or nothing."""
        self.node, self.incarnation = me
        self._clock = clock
        self._random = random
        self._network = network
        self._me = Identity(self.node, self.incarnation, features, cluster)
        self._identify = identify
        self._addresses = addresses
        self._admit = admit
        self._services = Services()
        self._peers: dict[NodeId, NetworkPeer | OwnPeer] = {}
        self._links: dict[ServingLink, Connection] = {}
        self._callers: dict[tuple[int, int], ServingLink] = {}
        self._listeners: list[Listener] = []
        self._looked = clock.monotonic()
        self._timer = clock.call_later(LOOK_S, self._look)
        self._closed = False

    async def listen(self, address: str, port: int) -> int:
        """Lets peers in at this address from now on; answers the port. Raises `Unavailable`."""
        listener = await self._network.listen(address, port, self._accept)
        self._listeners.append(listener)
        return listener.port

    async def close(self) -> None:
        """Ends all calls under way, both ways, with `Unavailable`."""
        self._closed = True
        self._timer.cancel()
        for listener in self._listeners:
            listener.close()
        for peer in list(self._peers.values()):
            peer.close()
        for link in list(self._links):
            link.stop()
            link.end("the node is stopping")
        await asyncio.sleep(0)

    @property
    def complete(self) -> bool:
        """Every service is there; until then who asks for another is told `Unavailable` instead of `NotSupported`."""
        return self._services.complete

    @complete.setter
    def complete(self, complete: bool) -> None:
        self._services.complete = complete

    def serve(self, service: str, handler: Handler) -> None:
        name = service.encode()
        assert 0 < len(name) < 256
        self._services[name] = handler

    def peer(self, node: NodeId) -> "NetworkPeer | OwnPeer":
        found = self._peers.get(node)
        if found is None:
            if node == self.node:
                found = OwnPeer(self._clock, self._me, self._services)
            else:
                found = NetworkPeer(self._clock, self._random, self._network, self._me, node, self._addresses, self._identify)
            self._peers[node] = found
        return found

    def review(self) -> None:
        """Members have changed: connections with nodes and processes that would be refused now are closed."""
        for link in list(self._links):
            reason = self._admit(link.hello) if link.hello is not None else ""
            if reason:
                link.end(reason)
        for peer in list(self._peers.values()):
            if isinstance(peer, NetworkPeer) and peer.connected and not self._addresses(peer.node):
                peer.disconnect("it is no member of the cluster any more")

    # Those who connect

    def _accept(self, connection: Connection) -> ServingLink:
        link = ServingLink(self._clock, self._services, self._greet, self._forget)
        self._links[link] = connection
        link.begin(connection)
        if self._closed:
            link.end("the node is stopping")
        return link

    def _greet(self, link: ServingLink, hello: Hello) -> Welcome:
        """Raises `Unavailable` with the reason of a refusal."""
        me = self._me
        if hello.to != me.node:
            raise Unavailable(f"this is node {me.node:016x}, not {hello.to:016x}; correct the address in its members record")
        if hello.cluster != me.cluster:
            raise Unavailable(f"node {hello.node:016x} belongs to another cluster ({hello.cluster or 'none'}, here {me.cluster or 'none'})")
        if self._identify is not None and self._identify(self._links[link]) != hello.node:
            raise PeerError(f"it says that it is node {hello.node:016x}, and shows another's certificate: {self._links[link].names}")
        reason = self._admit(hello)
        if reason:
            raise Unavailable(reason)
        key = (hello.node, hello.priority)
        former = self._callers.get(key)
        if former is not None and former.hello is not None:
            if former.hello.incarnation == hello.incarnation and former.hello.number >= hello.number:
                raise Unavailable("a newer connection of the same node is here already")
            # What it still holds unread was sent before what comes now, and must not be heard after it.
            former.end("the node has connected anew")
        peer = self.peer(NodeId(hello.node))
        if isinstance(peer, OwnPeer):
            raise Unavailable(f"node {me.node:016x} is this one; two nodes must not have the same data")
        self._callers[key] = link
        peer.heard_of(Incarnation(hello.incarnation))
        return Welcome(me.incarnation, me.features)

    def _forget(self, link: ServingLink) -> None:
        self._links.pop(link, None)
        if link.hello is not None and self._callers.get((link.hello.node, link.hello.priority)) is link:
            del self._callers[(link.hello.node, link.hello.priority)]

    def _look(self) -> None:
        now = self._clock.monotonic()
        paused = now - self._looked > 2 * LOOK_S  # then what came meanwhile is still to be read
        self._looked = now
        for link in list(self._links):
            if now - link.heard > SILENT_S and not paused:
                link.end("nothing was heard for long")
        self._timer = self._clock.call_later(LOOK_S, self._look)
