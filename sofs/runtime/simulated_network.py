"""Byte streams between simulated hosts.

The fault model is TCP's, as programs see it. Each piece of data takes a random delay, yet bytes arrive in order and
each once, in pieces cut anywhere. A partition holds them back until it heals (as retransmission would),
and makes new connections time out. A connection can be lost at any moment: then both ends are told, sooner or later, and
what was under way is gone. A host that crashes says nothing; its peers learn of it after a delay.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from sofs.errors import Unavailable
from sofs.runtime.ports import Buffer, Connection, Receiver
from sofs.runtime.simulated_loop import SimulatedRandom

__all__ = ["SimulatedHost", "SimulatedNetwork"]


class SimulatedNetwork:
    """The wires between all hosts of a simulation, and their faults."""

    def __init__(self, random: SimulatedRandom, delay: float = 200e-6, connect_timeout: float = 5.0) -> None:
        """`delay` is the average in seconds; each piece takes between half and one and a half of it."""
        self.random = random
        self.connect_timeout = connect_timeout
        self._delay = delay
        self._listeners: dict[tuple[str, int], _Listener] = {}
        self._ends: list[_End] = []
        self._partitions: set[frozenset[str]] = set()

    def host(self, address: str) -> "SimulatedHost":
        """The network as the host with this address has it."""
        return SimulatedHost(self, address)

    def partition(self, one: str, other: str) -> None:
        """Nothing passes between the two until `heal`."""
        self._partitions.add(frozenset((one, other)))

    def heal(self, one: str, other: str) -> None:
        self._partitions.discard(frozenset((one, other)))
        for end in list(self._ends):
            if {end.address, end.peer[0]} == {one, other}:
                end.retransmit()

    def lose(self, one: str, other: str) -> None:
        """Every connection between the two breaks."""
        for end in list(self._ends):
            if {end.address, end.peer[0]} == {one, other}:
                end.lose("the connection was lost")

    def crash(self, address: str) -> None:
        """The host is gone: it hears nothing more, its listeners are closed and its peers' connections break."""
        for key in [key for key in self._listeners if key[0] == address]:
            del self._listeners[key]
        for end in list(self._ends):
            if end.address == address:
                end.forget()
            elif end.peer[0] == address:
                end.lose("the connection was lost")

    def delay(self) -> float:
        return self._delay * (0.5 + self.random.fraction())

    def parted(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._partitions

    def listen(self, listener: "_Listener") -> None:
        if listener.port == 0:
            listener.port = next(p for p in range(49152, 65536) if (listener.address, p) not in self._listeners)
        key = (listener.address, listener.port)
        if key in self._listeners:
            raise Unavailable(f"cannot listen on {key[0]} port {key[1]}: it is taken")
        self._listeners[key] = listener

    def unlisten(self, listener: "_Listener") -> None:
        key = (listener.address, listener.port)
        if self._listeners.get(key) is listener:
            del self._listeners[key]

    def join(self, source: str, target: tuple[str, int], receiver: Receiver) -> "_End":
        """A new connection between a host and a listener. Raises `Unavailable` if nobody listens."""
        listener = self._listeners.get(target)
        if listener is None:
            raise Unavailable(f"cannot connect to {target[0]} port {target[1]}: refused")
        near = _End(self, source, target)
        far = _End(self, target[0], (source, 32768 + self.random.below(16384)))
        near.other, far.other = far, near
        near.receiver = receiver
        far.receiver = listener.accept(far)
        self._ends += [near, far]
        return near

    def gone(self, end: "_End") -> None:
        if end in self._ends:
            self._ends.remove(end)


class SimulatedHost:
    """`Network` of one host."""

    def __init__(self, network: SimulatedNetwork, address: str) -> None:
        self._network = network
        self._address = address

    def listen(self, address: str, port: int, accept: Callable[[Connection], Receiver]) -> Awaitable["_Listener"]:
        return self._listen(address, port, accept)

    async def _listen(self, address: str, port: int, accept: Callable[[Connection], Receiver]) -> "_Listener":
        assert address in (self._address, "0.0.0.0", "::"), f"{address} is not an address of this host"
        listener = _Listener(self._network, self._address, port, accept)
        self._network.listen(listener)
        return listener

    def connect(self, address: str, port: int, receiver: Receiver) -> Awaitable[Connection]:
        return self._connect(address, port, receiver)

    async def _connect(self, address: str, port: int, receiver: Receiver) -> Connection:
        network = self._network
        await asyncio.sleep(network.delay())
        if network.parted(self._address, address):
            await asyncio.sleep(network.connect_timeout)
            raise Unavailable(f"{address} port {port} does not answer")
        end = network.join(self._address, (address, port), receiver)
        await asyncio.sleep(network.delay())
        return end


class _Listener:
    def __init__(
        self, network: SimulatedNetwork, address: str, port: int, accept: Callable[[Connection], Receiver]
    ) -> None:
        self._network = network
        self.address = address
        self.port = port
        self.accept = accept

    def close(self) -> None:
        self._network.unlisten(self)


class _End:
    """One end of a connection, with what is on its way to it."""

    other: "_End"
    receiver: Receiver

    def __init__(self, network: SimulatedNetwork, address: str, peer: tuple[str, int]) -> None:
        self.address = address
        self.peer = peer
        self._network = network
        self._coming: deque[bytes | None] = deque()  # None: the other end closed
        self._open = True

    def send(self, data: Sequence[Buffer]) -> None:
        gathered = b"".join(data)
        if not self._open or not gathered:
            return
        if len(gathered) > 1:
            # Receivers must not rely on pieces arriving as they were sent.
            cut = self._network.random.below(len(gathered))
            if cut:
                self.other.take(gathered[:cut])
            gathered = gathered[cut:]
        self.other.take(gathered)

    def close(self) -> None:
        if self._open:
            self.other.take(None)
            asyncio.get_running_loop().call_soon(self._end("closed here"))

    def take(self, piece: bytes | None) -> None:
        """Puts a piece on its way to this end."""
        if self._open:
            self._coming.append(piece)
            asyncio.get_running_loop().call_later(self._network.delay(), self._deliver)

    def retransmit(self) -> None:
        for _ in self._coming:
            asyncio.get_running_loop().call_later(self._network.delay(), self._deliver)

    def lose(self, reason: str) -> None:
        if self._open:
            asyncio.get_running_loop().call_later(self._network.delay(), self._end(reason))

    def forget(self) -> None:
        """Ends without telling anybody: the host is no more."""
        self._open = False
        self._coming.clear()
        self._network.gone(self)

    def _deliver(self) -> None:
        # Each timer delivers the oldest piece, whichever it was set for: so pieces cannot overtake each other.
        if not self._coming or self._network.parted(self.address, self.peer[0]):
            return
        piece = self._coming.popleft()
        if piece is None:
            self._end("the peer closed the connection")()
        else:
            self.receiver.received(memoryview(piece))

    def _end(self, reason: str) -> Callable[[], None]:
        """Closes this end now; the call that is returned tells its receiver."""
        was_open, self._open = self._open, False
        self._coming.clear()
        self._network.gone(self)

        def tell() -> None:
            if was_open:
                self.receiver.closed(reason)

        return tell
