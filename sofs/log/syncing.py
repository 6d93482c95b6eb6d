"""How far a replica is on its disk: one sync at a time, for however many wait for one."""

import asyncio
from collections import deque
from collections.abc import Callable

from sofs.errors import SofsError
from sofs.log.replica import Replica
from sofs.types import Lsn

__all__ = ["Syncing"]

Answer = Callable[[SofsError | None], None]


class Syncing:
    """The syncs of one replica."""

    def __init__(self, replica: Replica, synced: Lsn, failed: Callable[[SofsError], object], told: Callable[[], object]) -> None:
        """Everything below `synced` is durable. `failed` is called once, when a sync has failed: the replica is lost. `told`: whoever waited for
        a sync that has ended has been told."""
        self.synced = synced
        self._replica = replica
        self._failed = failed
        self._told = told
        self._end = synced
        self._waiting: deque[tuple[Lsn, Answer]] = deque()
        self._under_way = False
        self._cuts = 0
        self._failure: SofsError | None = None

    def reach(self, upto: Lsn, end: Lsn, answer: Answer) -> None:
        """Calls `answer` when everything below `upto` is durable; the replica's pages hold everything below `end` now."""
        if self._failure is not None or self.synced >= upto:
            answer(self._failure)
            return
        self._end = end
        self._waiting.append((upto, answer))
        if not self._under_way:
            self._begin()

    def cut(self, to: Lsn) -> None:
        """Everything from here on is gone, and what will be written there is not what a sync under way is about."""
        self._cuts += 1
        self.synced = min(self.synced, to)
        self._end = min(self._end, to)
        answers = [answer for upto, answer in self._waiting if upto > to]
        self._waiting = deque((upto, answer) for upto, answer in self._waiting if upto <= to)
        for answer in answers:
            answer(None)

    def fail(self, error: SofsError) -> None:
        """Nothing more becomes durable."""
        self._failure = self._failure or error
        waiting, self._waiting = self._waiting, deque()
        for _, answer in waiting:
            answer(self._failure)

    def _begin(self) -> None:
        target, cuts = self._end, self._cuts
        self._under_way = True
        try:
            sync = asyncio.ensure_future(self._replica.sync())
        except SofsError as error:
            self._lost(error)
            return
        sync.add_done_callback(lambda done: self._done(done, target, cuts))

    def _done(self, sync: "asyncio.Future[None]", target: Lsn, cuts: int) -> None:
        self._under_way = False
        if sync.cancelled():
            return
        error = sync.exception()
        if error is not None:
            if not isinstance(error, SofsError):
                raise error
            self._lost(error)
            return
        if self._failure is not None:
            return
        if cuts == self._cuts:
            self.synced = max(self.synced, target)
        while self._waiting and self._waiting[0][0] <= self.synced:
            self._waiting.popleft()[1](None)
        if self._waiting:
            self._begin()
        self._told()

    def _lost(self, error: SofsError) -> None:
        self._under_way = False
        self.fail(error)
        self._failed(error)
