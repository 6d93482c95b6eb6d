"""What of a group's work waits for volumes, and what becomes of that when another service takes its place.

A volume that has been asked for something by a COMPOUND may carry it out whatever becomes of the group, and the slot's token is there only then. So a
service that takes another one's place in the same process (a volume has failed, the group's records are read anew) leaves a slot alone for as long as the
former service's call has no answer: its client is told to ask again, and then goes by the token.
"""

import asyncio
from typing import Any

from sofs.errors import Unavailable
from sofs.types import Level, Lsn
from sofs.volume.api import Volume

Place = tuple[bytes, int]
"""A session's id and one of its slots."""


class UnderWay:
    """Of one service; `former` is that of the one before it in this process."""

    def __init__(self, former: "UnderWay | None" = None) -> None:
        self._calls: dict[asyncio.Task[Any], Place | None] = {}
        """The rests of COMPOUNDs that have asked a volume for something."""
        self._left = {} if former is None else former._unanswered()
        self._futures: set[asyncio.Future[Any]] = set()
        self._dropped = False

    def follow(self, task: "asyncio.Task[Any]", place: Place | None) -> None:
        """`task` ends when a volume has answered a COMPOUND of this slot. It is kept until then."""
        self._calls[task] = place
        task.add_done_callback(self._calls.pop)

    def left_of(self, session: bytes) -> "list[tuple[int, asyncio.Task[Any]]]":
        """Slots of the session for which a service before this one has asked a volume something that is not answered."""
        return [(slot, task) for task, (id, slot) in self._left.items() if id == session and not task.done()]

    def _unanswered(self) -> "dict[asyncio.Task[Any], Place]":
        known = {task: place for task, place in self._calls.items() if place is not None}
        return {task: place for task, place in (self._left | known).items() if not task.done()}

    def until_dropped(self, future: "asyncio.Future[Any]") -> None:
        """`future` is cancelled when the service ends before it is done."""
        if self._dropped:
            future.cancel()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)

    async def opened(self, volume: Volume, gate: Lsn, level: Level) -> None:
        """Returns when a gate is open. Raises `Unavailable` when the service ends before: that may never be."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.until_dropped(waiting)
        volume.when(gate, level, lambda: None if waiting.done() else waiting.set_result(None))
        await asyncio.wait([waiting])
        if waiting.cancelled():
            raise Unavailable("another service has taken this one's place")

    def drop(self) -> None:
        """The service has ended: nobody is told anything any more."""
        self._dropped = True
        for future in tuple(self._futures):
            future.cancel()
