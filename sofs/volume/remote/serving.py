"""The answering side of a node: questions about volumes find the seat of the volume, or are refused.

A node that does not coordinate a volume says so, and from then on refuses everything of the same era of that asking node, even if it becomes the coordinator
in between: what was asked later must not be carried out before what was refused.
"""

from collections.abc import Awaitable
from functools import partial

from sofs.cluster import Answer, Asked, Interconnect
from sofs.runtime.ports import Clock
from sofs.volume.remote.messages import Elsewhere, Kind, decode_head, decode_rest, encode_answer
from sofs.volume.remote.seat import Seat
from sofs.volume.where import Whereabouts

SERVICE = "volume"
_LEAVE_S = 3.0
"""After a planned move: what has not been answered by then never is."""


class VolumeService:
    """One per node."""

    def __init__(self, interconnect: Interconnect, clock: Clock) -> None:
        self._interconnect = interconnect
        self._clock = clock
        self._seats: dict[int, Seat] = {}
        self._refused: dict[tuple[int, int], int] = {}
        """By volume and asking incarnation: the newest era of which something was refused."""
        interconnect.serve(SERVICE, self.handle)

    def add(self, where: Whereabouts) -> None:
        """The volume's questions are answered whenever this process serves it."""
        where.on_change(partial(self._changed, where))
        self._changed(where)

    def _changed(self, where: Whereabouts) -> None:
        former, local = self._seats.get(where.id), where.local
        if former is not None and former.local is not local:
            del self._seats[where.id]
            self._leave(former)
        if local is not None and where.id not in self._seats:
            self._seats[where.id] = Seat(local, self._interconnect, self._clock)

    def _leave(self, seat: Seat) -> None:
        if seat.local.failed:
            seat.stop(_refusal)
            return
        # A planned move: what is under way may still be answered until the volume is closed.
        seat.local.closing.append(partial(seat.stop, _refusal))
        self._clock.call_later(_LEAVE_S, partial(seat.stop, _refusal))

    def handle(self, asked: Asked) -> Answer | Awaitable[Answer]:
        """Raises `PeerError`."""
        kind, slot, era, volume, sequence = decode_head(asked.body)
        seat = self._seats.get(volume)
        place = (volume, asked.incarnation)
        if seat is None or era <= self._refused.get(place, 0):
            self._refused[place] = max(era, self._refused.get(place, 0))
            return _refusal()
        rest = decode_rest(kind, asked.body)
        if kind == Kind.READ:
            return seat.read(asked, slot, sequence, rest)
        if kind == Kind.WRITE:
            return seat.write(asked, slot, sequence, rest)
        if kind == Kind.CALL:
            return seat.call(asked, slot, sequence, rest)
        if kind == Kind.WHEN:
            return seat.when(rest)
        if kind == Kind.CANCEL:
            return seat.cancel(asked, slot, sequence)
        return seat.subscribe(asked, sequence)


def _refusal() -> Answer:
    return Answer(encode_answer(Elsewhere()))
