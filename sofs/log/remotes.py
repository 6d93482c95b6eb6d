"""The copies of a log on other nodes, taken together: how far all of them are, and until when all have promised to take nothing over.

Whose promise is needed is a matter of its own. A copy that is being added, or removed, may be part of the configuration in force or not while the
outcome of the compare-and-set is not known, so its promise is needed before the first may have happened and until the second certainly has.
"""

import math
from collections.abc import Iterator, Sequence

from sofs.log.remote import RemoteReplica
from sofs.types import Lsn


class Hold:
    """Keeps what a log has now: see `ReplicatedLog.hold`."""

    def __init__(self, holds: "list[Hold]", at: Lsn) -> None:
        self.at = at
        self.broken = False
        """It would have held up the log for too long: what was held may be gone."""
        self._holds = holds
        holds.append(self)

    def release(self) -> None:
        if self in self._holds:
            self._holds.remove(self)


class Remotes:
    """All of them."""

    def __init__(self) -> None:
        self.counted: list[RemoteReplica] = []
        self.learning: list[RemoteReplica] = []
        self.leaving: list[RemoteReplica] = []
        """Left out, without that being recorded yet: they may count, and are waited for."""
        self.holds: list[Hold] = []
        self.lease_until = math.inf
        """By CLOCK_BOOTTIME: no other node serves before. For ever without remote copies."""
        self._leasing: dict[int, RemoteReplica] = {}
        self._closed = False

    def __iter__(self) -> Iterator[RemoteReplica]:
        yield from self.counted
        yield from self.learning
        yield from self.leaving

    def committed(self, local: Lsn) -> Lsn:
        for remote in self.counted:
            if remote.acknowledged < local:
                local = remote.acknowledged
        for remote in self.leaving:
            if remote.acknowledged < local:
                local = remote.acknowledged
        return local

    def synced(self, local: Lsn) -> Lsn:
        for remote in (*self.counted, *self.leaving):
            if remote.synced < local:
                local = remote.synced
        return local

    def leave(self, remote: RemoteReplica) -> None:
        self.counted.remove(remote)
        self.leaving.append(remote)

    def need(self, remote: RemoteReplica) -> None:
        """From now on this one's promise is needed."""
        self._leasing[remote.id] = remote
        self.renew()

    def recorded(self, replicas: Sequence[int]) -> None:
        """The configuration in force is known: nobody else is waited for, and nobody else's promises are needed."""
        for remote in [remote for remote in self.leaving if remote.id not in replicas]:
            self.leaving.remove(remote)
            remote.detach()
        self._leasing = {id: remote for id, remote in self._leasing.items() if id in replicas}
        self.renew()

    def close(self) -> None:
        """Nothing is served any more, whatever anybody promises."""
        self._closed = True
        self.lease_until = -math.inf

    def renew(self) -> None:
        """Somebody has promised something."""
        if self._closed:
            return
        until = math.inf
        for remote in self._leasing.values():
            if remote.promised_until < until:
                until = remote.promised_until
        self.lease_until = until

    def keep(self, below: Lsn, most: int) -> tuple[Lsn, list[RemoteReplica]]:
        """From where on the log is to be kept if it could be trimmed below a position, and who holds up more than `most` bytes for that."""
        greedy = [remote for remote in self if below - remote.needs > most]
        for hold in [hold for hold in self.holds if below - hold.at > most]:
            hold.broken = True
            hold.release()
        needed = [remote.needs for remote in self if remote not in greedy]
        return Lsn(min([below, *needed, *(hold.at for hold in self.holds)])), greedy
