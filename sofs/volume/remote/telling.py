"""Upcalls on their way to one gateway of another node.

They are sent in order, as many at once as there are, and kept until the other node has said that it heard them. While it is out of reach they gather, no more
of them than there are opens and grants: of what was noticed in a watched directory only the fact remains then. When the gateway subscribes again, what
was not heard is told again. It knows a repetition by its number.
"""

from sofs.cluster import Answer, Interconnect, NodeId
from sofs.encoding import encode
from sofs.errors import SofsError
from sofs.runtime.ports import Clock, Timer
from sofs.types import OpenId, VolumeId
from sofs.volume.api import Noticed, Upcall
from sofs.volume.remote.messages import Told

SERVICE = "volume.told"
_DEADLINE_S = 30.0
_AGAIN_S = 0.2
_MOST_NOTICED = 4096
"""Upcalls that gather before what was noticed becomes one `TOO_MUCH` for each open."""
_AT_ONCE = 512
_TOO_MUCH = 9


class Subscriber:
    """One gateway incarnation elsewhere, as a volume's coordinator sees it."""

    def __init__(self, interconnect: Interconnect, clock: Clock, volume: VolumeId) -> None:
        self._interconnect = interconnect
        self._clock = clock
        self._volume = volume
        self._queue: list[Upcall] = []
        self._sent: list[Upcall] = []
        """On their way, and not heard of since."""
        self._number = 0
        self._subscription = 0
        self._node = NodeId(0)
        """0: it has not subscribed."""
        self._scheduled = False
        self._again: Timer | None = None
        self._closed = False

    def attach(self, node: NodeId, subscription: int) -> None:
        """The gateway subscribes: it hears everything that it may have missed, and what comes."""
        self._node, self._subscription = node, subscription
        self._queue[:0] = self._sent
        self._sent = []
        self._number = 0
        self._soon()

    def tell(self, upcall: Upcall) -> None:
        if self._closed:
            return
        self._queue.append(upcall)
        if len(self._queue) > _MOST_NOTICED and isinstance(upcall, Noticed):
            self._compress()
        self._soon()

    def close(self) -> None:
        """Nothing more is told."""
        self._closed = True
        self._node = NodeId(0)
        self._queue.clear()
        if self._again is not None:
            self._again.cancel()

    def _compress(self) -> None:
        watched: dict[OpenId, None] = {}
        left: list[Upcall] = []
        for upcall in self._queue:
            if isinstance(upcall, Noticed) and upcall.action:
                watched[upcall.open] = None
            else:
                left.append(upcall)
        self._queue = left + [Noticed(open, _TOO_MUCH, b"") for open in watched]

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._clock.call_soon(self._tick)

    def _tick(self) -> None:
        self._scheduled = False
        if self._sent or not self._queue or not self._node:
            return
        self._sent, self._queue = self._queue[:_AT_ONCE], self._queue[_AT_ONCE:]
        self._number += 1
        self._send(self._subscription, encode(Told(self._volume, self._subscription, self._number, self._sent)))

    def _send(self, subscription: int, body: bytes) -> None:
        if subscription == self._subscription and self._node:
            peer = self._interconnect.peer(self._node)
            peer.ask(SERVICE, body, (), lambda outcome: self._heard(subscription, body, outcome), deadline_s=_DEADLINE_S)

    def _heard(self, subscription: int, body: bytes, outcome: Answer | SofsError) -> None:
        if subscription != self._subscription:
            return  # it has subscribed anew since
        if isinstance(outcome, SofsError):
            self._again = self._clock.call_later(_AGAIN_S, lambda: self._send(subscription, body))
            return
        self._sent = []
        if self._queue:
            self._soon()
