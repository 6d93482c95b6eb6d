"""Message ids that a client may use, MS-SMB2 3.3.1.1 and 3.3.5.2.3.

A credit is one message id. The window begins at the lowest id not used yet; ids beyond it may have been used out of order. However long one
request takes, its id was used when it came, so the window never grows beyond `LIMIT`.
"""

LIMIT = 8192
STRANGER_LIMIT = 128
"""Before the first logon."""


class Window:
    def __init__(self) -> None:
        self._low = 0
        self._high = 1
        self._used: set[int] = set()

    def take(self, first: int, count: int) -> bool:
        """Uses `count` ids from `first` on. False if one of them was not granted or has been used: a broken or replaying client."""
        end = first + count
        if first < self._low or end > self._high:
            return False
        if first == self._low and not self._used:
            self._low = end
            return True
        wanted = range(first, end)
        if not self._used.isdisjoint(wanted):
            return False
        self._used.update(wanted)
        while self._low in self._used:
            self._used.remove(self._low)
            self._low += 1
        return True

    def grant(self, wanted: int, known: bool) -> int:
        """How many more credits the client gets for one request that asks for `wanted`.

        At least as many as keep it at one credit, at most what keeps the window within its limit.
        """
        limit = LIMIT if known else STRANGER_LIMIT
        span = self._high - self._low
        outstanding = span - len(self._used)
        if outstanding + wanted > limit or span + wanted > 2 * limit:
            wanted = max(min(limit - outstanding, 2 * limit - span), 0)
        if not wanted and outstanding < 1:
            wanted = 1
        self._high += wanted
        return wanted
