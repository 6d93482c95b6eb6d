"""The broken variants of the production code that `mutations` hunts: what is replaced, by what, and in which clusters it ought to show.

Two that suggest themselves are missing, because the code is safe without what they break:

- A follower that takes messages of an older configuration, and answers truthfully. Its answers carry the version that it obeys, and a newer one than its own
  fences the coordinator; nothing that the follower has in common with the present coordinator is ever cut off; and the deposed one cannot commit anything
  without whoever took over from it, which follows nobody. "obey an older coordinator" is the variant that also answers as if the old version were in force.
- A follower that stands with any memory (`Follower.stand`). Whoever asks it to has decided that with `may_lead`, and says so; this is a second lock on the
  same door. "take over with any memory" breaks the first.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from sofs.coordination import Put, keys
from sofs.hosting import candidates
from sofs.locks import ranges
from sofs.locks.manager import LockManager
from sofs.locks.state import FileState
from sofs.log.configuration import Mark
from sofs.log.follower import Follower
from sofs.log.remotes import Remotes
from sofs.log.replicated import ReplicatedLog
from sofs.records import ConfigurationRecord, Registry
from sofs.types import Level, Lsn
from sofs.volume import recovery, standby
from sofs.volume.checkpoint import Checkpoints
from sofs.volume.extents import Extents
from sofs.volume.gateways import Gateways
from sofs.volume.tokens import Tokens
from tests.simulation.cluster.layers import ACROSS
from tests.simulation.cluster.scenario import Shape

__all__ = ["MUTATIONS", "Mutation"]

Make = Callable[[Any], Any]


class Mutation(NamedTuple):
    """One broken variant."""

    shape: Shape
    """Where it is looked for."""
    changes: Sequence[tuple[Any, str, Make]]
    """A class or module, the name in it, and what makes the broken one of the original."""
    slow: bool = False
    """It takes minutes to be caught, so the tests leave it to `make mutations`."""


def _always(value: Any) -> Make:
    return lambda original: lambda *arguments, **named: value


def _power(*workloads: str) -> Shape:
    return Shape(faults=("power-loss-of-all",), workloads=workloads)


def _kill(*workloads: str) -> Shape:
    return Shape(faults=("kill",), workloads=workloads)


def _stable_when_committed(original: Any) -> Any:
    def when(self: ReplicatedLog, lsn: Lsn, level: Level, then: Callable[[], None]) -> None:
        original(self, lsn, Level.COMMITTED, then)

    return when


def _trims_more(original: Any) -> Any:
    return lambda self, below: original(self, Lsn(min(below + 2 * self._size, self.end)))


class _Hasty:
    """A log that claims to be stable as far as anybody asks."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def reach(self, lsn: Lsn) -> None:
        pass


def _hasty_checkpoint(original: Any) -> Any:
    async def _checkpoint(self: Any) -> None:
        log = self._log
        self._log = _Hasty(log)
        try:
            await original(self)
        finally:
            self._log = log

    return _checkpoint


def _without_ranges(original: Any) -> Any:
    return lambda self, inode, state: original(self, inode, FileState(state.opens, (), state.grants, state.delete_pending))


def _grants_the_first(original: Any) -> Any:
    async def _grant(self: Extents) -> None:
        self._free_numbers.append(range(1, 1025))

    return _grant


def _kills(*workloads: str, more: tuple[str, ...] = ()) -> Shape:
    return Shape(nodes=(3, 3), policies=ACROSS, disks=1, faults=("kill", *more), workloads=workloads)


def _partitions(*workloads: str) -> Shape:
    faults = ("cut-off", "cut-pair", "kill", "one-way", "pause")
    return Shape(nodes=(3, 3), policies=ACROSS, disks=1, faults=faults, workloads=workloads)


def _powers(*workloads: str) -> Shape:
    return Shape(nodes=(3, 3), policies=ACROSS, disks=1, faults=("kill", "power-loss-of-all"), workloads=workloads)


def _late(*workloads: str, more: tuple[str, ...] = ()) -> Shape:
    return Shape(nodes=(3, 3), policies=ACROSS, disks=1, faults=("deposed", *more), workloads=workloads, duration=60.0 if not more else 20.0)


def _forgetful(*workloads: str) -> Shape:
    return Shape(nodes=(2, 3), policies=ACROSS, disks=1, faults=("forgetful",), workloads=workloads)


def _blackout(*workloads: str) -> Shape:
    return Shape(nodes=(2, 3), policies=ACROSS, disks=1, faults=("blackout",), workloads=workloads, duration=40.0)


def _obeys_an_older_one(original: Any) -> Any:
    """Takes what an older coordinator sends, and answers as if it still obeyed that."""

    def _refusal(self: Follower, version: int) -> Any:
        self.__dict__["obeyed"] = version
        return original(self, max(version, self.version))

    return _refusal


def _answers_whom_it_obeys(original: Any) -> Any:
    def _ack(self: Follower, outcome: int) -> Any:
        return replace(original(self, outcome), version=min(self.version, self.__dict__["obeyed"]))

    return _ack


def _says_all_is_synced(original: Any) -> Any:
    def _ack(self: Follower, outcome: int) -> Any:
        ack = original(self, outcome)
        return replace(ack, synced=ack.common)

    return _ack


def _serves_for_ever(original: Any) -> Any:
    return lambda self: self.failure is None


def _cuts_the_log_only(original: Any) -> Any:
    def _cut(self: Follower, to: Mark) -> None:
        applied, self._applied = self._applied, self.checkpoint
        original(self, to)
        self._applied = applied if applied.lsn <= to.lsn else to

    return _cut


def _needs_nothing(original: Any) -> Any:
    async def _lacks_nothing(self: ReplicatedLog, remote: Any, within_s: float = 0.0) -> None:
        pass

    return _lacks_nothing


def _unconditionally(original: Any) -> Any:
    async def change_configuration(self: Registry, volume: int, wanted: ConfigurationRecord) -> None:
        await self.store.transact([], [Put(keys.configuration(volume), wanted.encode())])

    return change_configuration


MUTATIONS: dict[str, Mutation] = {
    "acknowledge stable before it is synced": Mutation(_power("names", "trees"), [(ReplicatedLog, "when", _stable_when_committed)]),
    "believe that memory survived a power loss": Mutation(_power("slots", "appends"), [(recovery, "is_unbroken", _always(True))]),
    "checkpoint what is not stable": Mutation(_power("trees", "names"), [(Checkpoints, "_checkpoint", _hasty_checkpoint)]),
    "forget byte ranges with the process": Mutation(_kill("locks"), [(LockManager, "restore", _without_ranges)]),
    "give a lock that is held": Mutation(_kill("locks"), [(ranges, "blocker", _always(None))]),
    "use an extent's number again": Mutation(_kill("trees"), [(Extents, "_grant", _grants_the_first)]),
    "acknowledge before the last replica has it": Mutation(
        _kills("appends", "slots"), [(Remotes, "committed", lambda original: lambda self, local: local)]
    ),
    "acknowledge stable before the last replica has synced": Mutation(_blackout("names", "trees"), [(Follower, "_ack", _says_all_is_synced)]),
    "count a replica that lacks something": Mutation(_kills("appends", "trees"), [(ReplicatedLog, "_lacks_nothing", _needs_nothing)]),
    "count a replica whose memory is broken": Mutation(_powers("appends", "slots"), [(standby, "is_unbroken", _always(True))]),
    "skip the fence of configurations": Mutation(_late("appends", "names"), [(Registry, "change_configuration", _unconditionally)]),
    "forget the token of a forwarded request": Mutation(_kills("appends"), [(Tokens, "forwarded", _always(None))]),
    "skip the fence of gateways": Mutation(_partitions("slots", "appends"), [(Gateways, "check", _always(None))]),
    "promise nothing, and so take over without waiting": Mutation(
        _late("appends", "ring", more=("kill", "late-watch", "move")), [(Follower, "_promise", _always(None))]
    ),
    "serve after the promise": Mutation(_partitions("appends", "ring"), [(ReplicatedLog, "serving", _serves_for_ever)]),
    "take over with any memory": Mutation(_forgetful("appends", "names"), [(candidates, "may_lead", _always(True))]),
    "obey an older coordinator": Mutation(
        _late("appends", "ring"), [(Follower, "_refusal", _obeys_an_older_one), (Follower, "_ack", _answers_whom_it_obeys)]
    ),
    "truncate the log and not the machine": Mutation(_kills("appends", "names"), [(Follower, "_cut", _cuts_the_log_only)]),
    "change the verifier at every start": Mutation(
        _kill("slots"), [(recovery, "next_incarnation", lambda original: lambda former, boot, unbroken, random: original(None, boot, False, random))]
    ),
    "forget a token": Mutation(_kill("appends", "ring"), [(Tokens, "replay", _always(None))]),
    "trim what a checkpoint still needs": Mutation(_kill("trees"), [(ReplicatedLog, "trim", _trims_more)]),
}
