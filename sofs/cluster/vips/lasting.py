"""How long the addresses that a node holds may be kept, and what it has promised to the others.

Times are `Clock.boottime`: a host that slept has lost its addresses, too.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["DRIFT", "PROMISE_S", "Lasting", "Promises"]

PROMISE_S = 5.0
"""What a node promises to others while the store is down."""
DRIFT = 0.01
"""By how much two clocks may differ in speed."""


class Lasting:
    """The time until which this node may keep its addresses. Only ever told of what is certain."""

    def __init__(self) -> None:
        self.until = 0.0
        self._asked: float | None = None
        self._missing: set[int] = set()

    def kept(self, before: float, duration: float) -> None:
        """The lease was kept, by a request that was sent at `before` or later."""
        self.until = max(self.until, before + duration * (1 - DRIFT))

    def ask(self, before: float, members: Collection[int]) -> None:
        """The store does not answer: these are being asked for their promises. Alone there is nobody who could claim anything."""
        self._asked, self._missing = before, set(members)
        self._conclude()

    def promised(self, before: float, member: int) -> None:
        """This one has promised, when asked at `before`."""
        if before == self._asked:
            self._missing.discard(member)
            self._conclude()

    def _conclude(self) -> None:
        if self._asked is not None and not self._missing:
            self.kept(self._asked, PROMISE_S)
            self._asked = None

    def left(self, now: float) -> int:
        """Whole seconds for which the kernel may be told to keep an address; 0: it must go."""
        return max(0, int(self.until - now))


class Promises:
    """What this node has promised: to claim nothing that has no holder, until it has run out."""

    def __init__(self) -> None:
        self._until = 0.0

    def give(self, now: float) -> None:
        self._until = now + PROMISE_S

    def bound(self, now: float) -> bool:
        return self._until > now
