"""How far replicas are on their disks: one sync at a time, for however many wait for one.

`Syncing` is a follower's, of its one replica; `GroupSync` a coordinator's, of all copies of a log on its node.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from sofs.errors import SofsError
from sofs.log.replica import Replica
from sofs.runtime.ports import Clock
from sofs.types import Lsn

Answer = Callable[[SofsError | None], None]


class Syncing:
    """The syncs of one replica."""

    def __init__(self, clock: Clock, replica: Replica, synced: Lsn, failed: Callable[[SofsError], object]) -> None:
        """Everything below `synced` is durable. `failed` is called once, when a sync has failed: the replica is lost."""
        self.synced = synced
        self._clock = clock
        self._replica = replica
        self._failed = failed
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
            sync = self._replica.sync()
        except SofsError as error:
            self._lost(error)
            return
        sync.then(lambda error: self._done(error, target, cuts))

    def _done(self, error: SofsError | None, target: Lsn, cuts: int) -> None:
        self._under_way = False
        if error is not None:
            self._lost(error)
            return
        if self._failure is not None:
            return
        if cuts == self._cuts:
            self.synced = max(self.synced, target)
        self._clock.hold()
        try:
            while self._waiting and self._waiting[0][0] <= self.synced:
                self._waiting.popleft()[1](None)
            if self._waiting:
                self._begin()
        finally:
            self._clock.settle()  # the answers leave now, not in the loop's next round

    def _lost(self, error: SofsError) -> None:
        self._under_way = False
        self.fail(error)
        self._failed(error)


class GroupSync:
    """The syncs of all copies here."""

    def __init__(self, synced: Lsn, lost: Callable[[Replica, SofsError], object], done: Callable[[], object]) -> None:
        """Everything below `synced` is durable on all of them. `lost`: a copy's sync has failed. `done`: a sync has ended."""
        self.synced = synced
        self.upto = synced
        """How far they will be when what is under way is done."""
        self.under_way = False
        self.quiet = False
        """What is under way tells nothing of itself before it is hurried."""
        self._lost = lost
        self._told = done
        self._copies: Sequence[Replica] = ()
        self._left = 0

    def begin(self, copies: Sequence[Replica], upto: Lsn, quietly: bool) -> None:
        """Syncs what they have, which is everything below `upto`. None is to be under way."""
        self.under_way, self.upto, self.quiet = True, upto, quietly
        self._copies, self._left = copies, len(copies)
        for copy in copies:
            try:
                sync = copy.sync(quietly)
            except SofsError as error:
                self._done(copy, error)
            else:
                sync.then(partial(self._done, copy))

    def hurry(self) -> None:
        """Whoever waits is told now if it is done, else as soon as it is."""
        self.quiet = False
        for copy in self._copies:
            copy.hurry()

    def _done(self, copy: Replica, error: SofsError | None) -> None:
        if error is not None:
            self._lost(copy, error)
        self._left -= 1
        if not self._left:
            self.under_way = self.quiet = False
            self.synced = self.upto
            self._told()
