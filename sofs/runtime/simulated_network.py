"""Byte streams between simulated hosts.

The fault model is TCP's, as programs see it. Each piece of data takes a random delay, yet bytes arrive in order and
each once, in pieces cut anywhere. A partition, which may be of one direction only, holds them back until it heals (as retransmission would),
and makes new connections time out. A connection can be lost at any moment: then both ends are told, sooner or later, and
what was under way is gone. When a process dies its kernel closes its connections: peers learn of it after a delay, after having got all
that was sent, or some of it. A host that loses power says nothing: what peers send goes nowhere, until it is up again and refuses it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from sofs.errors import Unavailable
from sofs.runtime.ports import CONGESTED, Buffer, Connection, Receiver
from sofs.runtime.simulated_loop import SimulatedRandom
from sofs.runtime.simulated_process import CURRENT, SimulatedProcess, context_of

_USED = b"\xa5"


class SimulatedNetwork:
    """The wires between all hosts of a simulation, and their faults."""

    def __init__(self, random: SimulatedRandom, delay: float = 200e-6, connect_timeout: float = 5.0, cut: float = 1.0) -> None:
        """`delay` is the average in seconds; each piece takes between half and one and a half of it. `cut` is how probably what is sent arrives
        in two pieces.
        """
        self.random = random
        self.connect_timeout = connect_timeout
        self.cut = cut
        self.on_delivery: Callable[[str, str, int], None] | None = None
        """Called with source, target and the count of bytes."""
        self._delay = delay
        self._slow: dict[tuple[str, str], float] = {}
        self._listeners: dict[tuple[str, int], _Listener] = {}
        self._ends: list[_End] = []
        self._blocked: set[tuple[str, str]] = set()
        self._down: set[str] = set()

    def host(self, address: str) -> "SimulatedHost":
        """The network as the host with this address has it."""
        return SimulatedHost(self, address)

    def partition(self, one: str, other: str) -> None:
        """Nothing passes between the two until `heal`."""
        self.block(one, other)
        self.block(other, one)

    def block(self, source: str, target: str) -> None:
        """Nothing passes in this direction until `heal`."""
        self._blocked.add((source, target))

    def heal(self, one: str, other: str) -> None:
        self._blocked -= {(one, other), (other, one)}
        for end in list(self._ends):
            if {end.address, end.peer[0]} == {one, other}:
                end.retransmit()

    def slow(self, one: str, other: str, factor: float) -> None:
        """What passes between the two takes `factor` times as long from now on."""
        self._slow[one, other] = self._slow[other, one] = factor

    def lose(self, one: str, other: str) -> None:
        """Every connection between the two breaks."""
        for end in list(self._ends):
            if {end.address, end.peer[0]} == {one, other}:
                end.lose("the connection was lost")

    def crash(self, address: str) -> None:
        """The host's process is gone: it hears nothing more, its listeners are closed and its peers' connections break."""
        lost = self.random.chance(0.5)
        for end in self._forget(address):
            if lost:
                end.reset()
            else:
                end.take(None)

    def power_loss(self, address: str) -> None:
        """The host is gone without a word, until `power_up`."""
        self._down.add(address)
        self._forget(address)

    def power_up(self, address: str) -> None:
        self._down.discard(address)

    def _forget(self, address: str) -> list["_End"]:
        """Ends the host's own side; gives the ends of its peers."""
        for key in [key for key in self._listeners if key[0] == address]:
            del self._listeners[key]
        for end in [end for end in self._ends if end.address == address]:
            end.forget()
        return [end for end in self._ends if end.peer[0] == address]

    def is_down(self, address: str) -> bool:
        return address in self._down

    def delay(self, source: str = "", target: str = "") -> float:
        return self._delay * (0.5 + self.random.fraction()) * self._slow.get((source, target), 1.0)

    def blocked(self, source: str, target: str) -> bool:
        return (source, target) in self._blocked

    def parted(self, one: str, other: str) -> bool:
        """Nothing that needs an answer passes."""
        return (one, other) in self._blocked or (other, one) in self._blocked

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
        near = _End(self, source, target, CURRENT.get())
        far = _End(self, target[0], (source, 32768 + self.random.below(16384)), listener.process)
        near.other, far.other = far, near
        near.receiver = receiver
        self._ends += [near, far]
        if listener.process is None:
            far.receiver = listener.accept(far)
        else:
            # The kernel accepts at once, the process when it runs.
            asyncio.get_running_loop().call_soon(far.accept, listener.accept, context=context_of(listener.process))
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
        await asyncio.sleep(network.delay(self._address, address))
        if network.parted(self._address, address) or network.is_down(address):
            await asyncio.sleep(network.connect_timeout)
            raise Unavailable(f"{address} port {port} does not answer")
        end = network.join(self._address, (address, port), receiver)
        await asyncio.sleep(network.delay(self._address, address))
        return end


class _Listener:
    def __init__(self, network: SimulatedNetwork, address: str, port: int, accept: Callable[[Connection], Receiver]) -> None:
        self._network = network
        self.address = address
        self.port = port
        self.accept = accept
        self.process = CURRENT.get()

    def close(self) -> None:
        self._network.unlisten(self)


class _End:
    """One end of a connection, with what is on its way to it."""

    other: "_End"
    receiver: Receiver
    names: tuple[str, ...] = ()

    def __init__(self, network: SimulatedNetwork, address: str, peer: tuple[str, int], process: SimulatedProcess | None) -> None:
        self.address = address
        self.peer = peer
        self._network = network
        self._context = context_of(process)
        self._coming: deque[bytes | None] = deque()  # None: the other end closed
        self._open = True
        self._paused = False
        self._unsent = 0
        self._relief: Callable[[], None] = lambda: None
        self.congested = False

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.retransmit()

    def on_relief(self, call: Callable[[], None]) -> None:
        self._relief = call

    def accept(self, accept: Callable[[Connection], Receiver]) -> None:
        self.receiver = accept(self)

    def send(self, data: Sequence[Buffer]) -> None:
        gathered = b"".join(data)
        if not self._open or not gathered:
            return
        self._unsent += len(gathered)
        self.congested = self.congested or self._unsent > CONGESTED
        if not self.other._open and not self._network.is_down(self.peer[0]) and not self._network.parted(self.address, self.peer[0]):
            # Nobody there knows of this connection.
            self.reset()
            return
        if len(gathered) > 1 and self._network.random.chance(self._network.cut):
            # Receivers must not rely on pieces arriving as they were sent.
            at = self._network.random.below(len(gathered))
            if at:
                self.other.take(gathered[:at])
            gathered = gathered[at:]
        self.other.take(gathered)

    def close(self) -> None:
        if self._open:
            self.other.take(None)
            asyncio.get_running_loop().call_soon(self._end("closed here"))

    def take(self, piece: bytes | None) -> None:
        """Puts a piece on its way to this end."""
        if self._open:
            self._coming.append(piece)
            self._later(self._deliver)

    def retransmit(self) -> None:
        for _ in self._coming:
            self._later(self._deliver)

    def lose(self, reason: str) -> None:
        if self._open:
            self._later(self._end(reason))

    def reset(self) -> None:
        """The other side refuses whatever comes: this one will know, if it can be told, and may have got part of what was on its way."""
        if self._open and not self._network.blocked(self.peer[0], self.address):
            for _ in range(self._network.random.below(len(self._coming) + 1)):
                self._coming.pop()
            self._coming.append(None)
            self._later(self._deliver)
            self.retransmit()

    def forget(self) -> None:
        """Ends without telling anybody: the process is no more."""
        self._open = False
        self._coming.clear()
        self._network.gone(self)

    def _later(self, call: Callable[[], None]) -> None:
        delay = self._network.delay(self.peer[0], self.address)
        asyncio.get_running_loop().call_later(delay, call, context=self._context)

    def _deliver(self) -> None:
        # Each timer delivers the oldest piece, whichever it was set for: so pieces cannot overtake each other.
        if self._paused or not self._coming or self._network.blocked(self.peer[0], self.address):
            return
        piece = self._coming.popleft()
        if piece is None:
            self._end("the peer closed the connection")()
            return
        if self._network.on_delivery is not None:
            self._network.on_delivery(self.peer[0], self.address, len(piece))
        self.other.arrived(len(piece))
        data = bytearray(piece)
        self.receiver.received(memoryview(data))
        data[:] = _USED * len(data)  # who has kept a view of it shall find out

    def arrived(self, count: int) -> None:
        """So much of what this end has sent is not unsent any more."""
        self._unsent -= count
        if self.congested and self._unsent <= CONGESTED // 16:
            self.congested = False
            asyncio.get_running_loop().call_soon(self._relief, context=self._context)

    def _end(self, reason: str) -> Callable[[], None]:
        """Closes this end now; the call that is returned tells its receiver."""
        was_open, self._open = self._open, False
        self._coming.clear()
        self._network.gone(self)

        def tell() -> None:
            if was_open:
                self.receiver.closed(reason)

        return tell
