"""How long the addresses that a node holds may be kept, and what it has promised to the others.

Times are `Clock.boottime`: a host that slept has lost its addresses, too.
"""

from __future__ import annotations

from collections.abc import Collection

PROMISE_S = 5.0
"""What a node promises to others while the store is down."""
DRIFT = 0.01
"""By how much two clocks may differ in speed."""
KERNEL_LATE_S = 0.25
"""By so much later than it was told Linux may take an address away: it looks at whole wheels of its timer (check_lifetime in net/ipv4/devinet.c)."""


class Lasting:
    """The time until which what is held with one lease may be kept. Only ever told of what is certain."""

    def __init__(self) -> None:
        self.until = 0.0
        self._promised: dict[int, float] = {}
        """By member, when it was asked for the newest promise that it has given."""

    def kept(self, before: float, duration: float) -> None:
        """The lease was kept, by a request that was sent at `before` or later."""
        self.until = max(self.until, before + duration * (1 - DRIFT))

    def promised(self, before: float, member: int) -> None:
        """This one has promised, when asked at `before`."""
        self._promised[member] = max(before, self._promised.get(member, 0.0))

    def conclude(self, now: float, others: Collection[int]) -> None:
        """What follows from the promises of all `others` that could claim anything. Without others there is nobody."""
        if all(member in self._promised for member in others):
            self.kept(min((self._promised[member] for member in others), default=now), PROMISE_S)

    def left(self, now: float) -> float:
        """Seconds; 0: it must go."""
        return max(0.0, self.until - now)


def kernel_seconds(left: float) -> int:
    """For how many seconds the kernel may be told to keep what has so many left; 0: not any more."""
    return max(0, int(left - KERNEL_LATE_S))


class Promises:
    """What this node has promised: to claim nothing that has no holder, until it has run out."""

    def __init__(self) -> None:
        self._until = 0.0

    def give(self, now: float) -> None:
        self._until = now + PROMISE_S

    def bound(self, now: float) -> bool:
        return self._until > now
