"""Broken variants of the log's replication. Each breaks one rule of the chapter in `sofs.log`; the simulation must find it out."""

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sofs.log.configuration import LeaseSettings, Mark
from sofs.log.copies import Copies
from sofs.log.follower import Follower
from sofs.log.messages import Ack, Append, Result
from sofs.log.reading import Found
from sofs.log.remote import RemoteReplica
from sofs.log.remotes import Remotes
from sofs.log.replicated import ReplicatedLog
from sofs.log.syncing import Syncing
from sofs.types import Lsn

__all__ = ["MUTATIONS"]


@contextmanager
def _patched(where: type, name: str, value: Any) -> Iterator[None]:
    former = where.__dict__[name]
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, former)


def skip_the_version_check() -> AbstractContextManager[None]:
    """A follower takes what an older coordinator sends."""
    former = Follower._refusal

    def refusal(self: Follower, version: int) -> Ack | None:
        return former(self, max(version, self.version))

    return _patched(Follower, "_refusal", refusal)


def serve_after_the_promise() -> AbstractContextManager[None]:
    """A coordinator counts on promises for ever."""
    former = Remotes.renew

    def renew(self: Remotes) -> None:
        former(self)
        if self.lease_until not in (0.0, -math.inf):
            self.lease_until = math.inf

    return _patched(Remotes, "renew", renew)


def count_promises_from_their_arrival() -> AbstractContextManager[None]:
    """A coordinator counts a promise from when its answer came."""
    former = RemoteReplica._heard

    def heard(self: RemoteReplica, ack: Ack, at: float, stable: Lsn) -> None:
        former(self, ack, self._clock.boottime(), stable)

    return _patched(RemoteReplica, "_heard", heard)


def acknowledge_before_the_last_replica() -> AbstractContextManager[None]:
    """Committed is what any copy elsewhere has."""

    def committed(self: Remotes, local: Lsn) -> Lsn:
        return min(local, max((remote.acknowledged for remote in self.counted), default=local))

    return _patched(Remotes, "committed", committed)


def acknowledge_on_this_disk_alone() -> AbstractContextManager[None]:
    """Stable is what this node has synced."""
    return _patched(Remotes, "synced", lambda self, local: local)


def acknowledge_syncs_before_they_are_done() -> AbstractContextManager[None]:
    """A follower answers that what it is asked to sync is on its disk."""

    def reach(self: Syncing, upto: Lsn, end: Lsn, answer: Callable[[None], None]) -> None:
        self.synced = max(self.synced, upto)
        answer(None)

    return _patched(Syncing, "reach", reach)


def go_on_while_a_lost_copy_still_counts() -> AbstractContextManager[None]:
    """What a copy that does not answer lacks is acknowledged before its removal is recorded."""
    former = Copies._leave_out

    def leave_out(self: Copies) -> None:
        former(self)
        self._frozen = False
        self.remotes.recorded(self.replica_ids)
        self._commit()

    return _patched(Copies, "_leave_out", leave_out)


def promote_what_lacks_something() -> AbstractContextManager[None]:
    """A learner counts once it has joined."""

    async def lacks_nothing(self: Copies, remote: RemoteReplica, within_s: float = math.inf) -> None:
        while not self._promised(remote):
            await self._clock.sleep(0.005)
            self._check_joining(remote)

    return _patched(Copies, "_lacks_nothing", lacks_nothing)


def promote_without_a_last_look() -> AbstractContextManager[None]:
    """A learner that had everything when it was looked at counts, whatever has been acknowledged since."""
    former = Copies._lacks_nothing

    async def lacks_nothing(self: Copies, remote: RemoteReplica, within_s: float = math.inf) -> None:
        if not self._changing:
            await former(self, remote, within_s)
            await self._clock.sleep(0.3)

    return _patched(Copies, "_lacks_nothing", lacks_nothing)


def truncate_what_is_common() -> AbstractContextManager[None]:
    """A follower that is sent what it has cuts its log off there first."""
    former = Follower._compare

    def compare(self: Follower, after: Mark, records: Sequence[Found]) -> int | None:
        at = self._place(after)
        if at is not None and records and after != self.end:
            self._common = min(self._common, after.lsn)
            self._cut(after)
            return 0
        return former(self, after, records)

    return _patched(Follower, "_compare", compare)


def keep_what_differs() -> AbstractContextManager[None]:
    """A follower takes a record to be the same if it begins at the same place."""
    former = Follower._compare

    def compare(self: Follower, after: Mark, records: Sequence[Found]) -> int | None:
        tail = dict(self._tail)
        if records and all(record.header.lsn in tail for record in records):
            self._common = self.end.lsn
            return len(records)
        return former(self, after, records)

    return _patched(Follower, "_compare", compare)


def take_over_without_memory() -> AbstractContextManager[None]:
    """A replica counts as whole after a loss of power."""
    former = Follower.__init__

    def init(self: Follower, *arguments: Any, **options: Any) -> None:
        former(self, *arguments, **{**options, "whole": True})

    return _patched(Follower, "__init__", init)


def forget_a_promise_at_a_restart() -> AbstractContextManager[None]:
    """A replica that has been restarted takes over at once."""
    former = Follower.__init__

    def init(self: Follower, *arguments: Any, **options: Any) -> None:
        former(self, *arguments, **{**options, "promised": False})

    return _patched(Follower, "__init__", init)


def promise_while_standing() -> AbstractContextManager[None]:
    """A follower that is about to take over goes on taking messages."""
    former = Follower._refusal

    def refusal(self: Follower, version: int) -> Ack | None:
        standing, self.standing = self.standing, False
        try:
            return former(self, version)
        finally:
            self.standing = standing

    return _patched(Follower, "_refusal", refusal)


def promise_shorter_than_is_counted_on() -> AbstractContextManager[None]:
    """A coordinator counts on L although the clocks drift, and the follower on its clock alone."""
    return _patched(LeaseSettings, "counted_s", property(lambda self: self.promise_s * 1.02))


def serve_without_establishing() -> AbstractContextManager[None]:
    """A new coordinator writes no first record of its configuration: what the others have is not compared."""

    def establish(self: ReplicatedLog) -> Awaitable[None]:
        return self.reach(Lsn(0))

    former = RemoteReplica._turned_down

    def turned_down(self: RemoteReplica, ack: Ack) -> None:
        if ack.outcome == Result.ELSEWHERE and ack.end is not None and self._log is not None and ack.end.lsn >= self._log.written.lsn:
            self._log.moved(self)
            self.acknowledged = self.synced = self._log.written.lsn
            self._begin(self._log.written)
        else:
            former(self, ack)

    @contextmanager
    def both() -> Iterator[None]:
        with _patched(ReplicatedLog, "establish", establish), _patched(RemoteReplica, "_turned_down", turned_down):
            yield

    return both()


def stable_beyond_what_is_common() -> AbstractContextManager[None]:
    """A follower believes that whatever it has below the coordinator's stable position is what the coordinator has."""
    former = Follower._settle

    def settle(self: Follower, message: Append) -> None:
        common, self._common = self._common, self.end.lsn
        former(self, message)
        self._common = common

    return _patched(Follower, "_settle", settle)


MUTATIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    mutation.__name__.replace("_", "-"): mutation
    for mutation in (
        acknowledge_before_the_last_replica,
        acknowledge_on_this_disk_alone,
        acknowledge_syncs_before_they_are_done,
        count_promises_from_their_arrival,
        forget_a_promise_at_a_restart,
        go_on_while_a_lost_copy_still_counts,
        keep_what_differs,
        promise_shorter_than_is_counted_on,
        promise_while_standing,
        promote_what_lacks_something,
        promote_without_a_last_look,
        serve_after_the_promise,
        serve_without_establishing,
        skip_the_version_check,
        stable_beyond_what_is_common,
        take_over_without_memory,
        truncate_what_is_common,
    )
}
