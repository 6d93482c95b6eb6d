"""What happened in a simulated cluster, as lines to read and as a hash to compare.

The hash covers every line, written or not, so two runs of one seed that differ anywhere are told apart without keeping anything.
"""

import zlib
from collections import deque

__all__ = ["Trace"]

_KEPT = 400
"""Lines that a failure is shown with."""


class Trace:
    """Notes events. With `loud`, prints them as they come."""

    def __init__(self, loud: bool = False) -> None:
        self.loud = loud
        self.hash = 0
        self.last: deque[tuple[float, str, str, tuple[object, ...]]] = deque(maxlen=_KEPT)

    def note(self, time: float, who: str, what: str, *fields: object) -> None:
        event = (time, who, what, fields)
        self.hash = zlib.crc32(repr(event).encode(), self.hash)
        self.last.append(event)
        if self.loud:
            print(_line(event), flush=True)

    def text(self, lines: int = _KEPT) -> str:
        return "\n".join(_line(event) for event in list(self.last)[-lines:])


def _line(event: tuple[float, str, str, tuple[object, ...]]) -> str:
    time, who, what, fields = event
    return f"{time:12.6f} {who:8} {what} {' '.join(map(_brief, fields))}"


def _brief(field: object) -> str:
    if isinstance(field, bytes):
        return f"<{len(field)} bytes {zlib.crc32(field):08x}>" if len(field) > 40 else repr(field)
    return str(field)
