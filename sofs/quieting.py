"""What strangers can make a node write to its log is bounded: beyond so many lines of one kind within a while, they are counted instead."""

from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

MOST, WINDOW_S = 100, 10.0
"""Lines of one event within a window of so many seconds."""


class Quieting:
    """A processor of structlog's. The first line of an event after a window in which some were left out says how many, as `left_out`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._counts: dict[str, tuple[float, int]] = {}
        """The window's end, and the lines within it, by event: these are words of the program, not of its peers."""

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name, now = str(event.get("event")), self._monotonic()
        end, count = self._counts.get(name, (0.0, 0))
        if now < end:
            self._counts[name] = end, count + 1
            if count >= MOST:
                raise structlog.DropEvent
            return event
        self._counts[name] = now + WINDOW_S, 1
        if count > MOST:
            event["left_out"] = count - MOST
        return event
