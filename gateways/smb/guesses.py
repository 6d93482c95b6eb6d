"""Wrong passwords: who has sent too many is refused for a while, before anything is computed for him.

Counted are failures of one user from one address, and of all users from one address. Failures from elsewhere count for nobody, so that no stranger can lock
a user out everywhere. Whether a user exists makes no difference.
"""

from gateways.server import origin_of

WINDOW_S = 60.0
OF_USER = 20
"""Failures of one user from one address within the window, beyond which he is refused there until its end."""
OF_ADDRESS = 200
"""The same, of all users together."""
_REMEMBERED = 20_000


class Guesses:
    """The failures of the last minute."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, str], tuple[float, int]] = {}
        """The window's end and how many, by address and user; the empty user stands for all."""

    def too_many(self, address: str, user: str, now: float) -> bool:
        origin = origin_of(address)
        return self._count(origin, _key(user), now) >= OF_USER or self._count(origin, "", now) >= OF_ADDRESS

    def failed(self, address: str, user: str, now: float) -> None:
        origin = origin_of(address)
        for key in {_key(user), ""}:
            count = self._count(origin, key, now)
            end = self._failed[origin, key][0] if count else now + WINDOW_S
            self._failed[origin, key] = end, count + 1
        if len(self._failed) > _REMEMBERED:
            self._failed = {key: each for key, each in self._failed.items() if each[0] > now}
            while len(self._failed) > _REMEMBERED:
                del self._failed[next(iter(self._failed))]

    def succeeded(self, address: str, user: str) -> None:
        self._failed.pop((origin_of(address), _key(user)), None)

    def _count(self, origin: str, key: str, now: float) -> int:
        end, count = self._failed.get((origin, key), (0.0, 0))
        return count if end > now else 0


def _key(user: str) -> str:
    return user.partition("@")[0][:256].casefold()
