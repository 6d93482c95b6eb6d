"""The broken variants of the production code that `mutations` hunts: what is replaced, by what, and in which clusters it ought to show."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sofs.locks import ranges
from sofs.locks.manager import LockManager
from sofs.log.replicated import ReplicatedLog
from sofs.types import Level, Lsn
from sofs.volume import recovery
from sofs.volume.checkpoint import Checkpoints
from sofs.volume.extents import Extents
from sofs.volume.tokens import Tokens
from tests.simulation.cluster.scenario import Shape

__all__ = ["MUTATIONS", "Mutation"]

Make = Callable[[Any], Any]


class Mutation(NamedTuple):
    """One broken variant."""

    shape: Shape
    """Where it is looked for."""
    changes: Sequence[tuple[Any, str, Make]]
    """A class or module, the name in it, and what makes the broken one of the original."""


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


def _committed_at_once(original: Any) -> Any:
    def when(self: ReplicatedLog, lsn: Lsn, level: Level, then: Callable[[], None]) -> None:
        if level is Level.COMMITTED:
            then()
        else:
            original(self, lsn, level, then)

    return when


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
    return lambda self, inode, state: original(self, inode, state._replace(ranges=()))


def _grants_the_first(original: Any) -> Any:
    async def _grant(self: Extents) -> None:
        self._free_numbers.append(range(1, 1025))

    return _grant


MUTATIONS: dict[str, Mutation] = {
    "acknowledge stable before it is synced": Mutation(_power("names", "trees"), [(ReplicatedLog, "when", _stable_when_committed)]),
    "believe that memory survived a power loss": Mutation(_power("slots", "appends"), [(recovery, "is_unbroken", _always(True))]),
    "checkpoint what is not stable": Mutation(_power("trees", "names"), [(Checkpoints, "_checkpoint", _hasty_checkpoint)]),
    "acknowledge before it is written": Mutation(
        Shape(faults=("kill-at-step",), workloads=("appends", "slots")), [(ReplicatedLog, "when", _committed_at_once)]
    ),
    "forget byte ranges with the process": Mutation(_kill("locks"), [(LockManager, "restore", _without_ranges)]),
    "give a lock that is held": Mutation(_kill("locks"), [(ranges, "blocker", _always(None))]),
    "use an extent's number again": Mutation(_kill("trees"), [(Extents, "_grant", _grants_the_first)]),
    "change the verifier at every start": Mutation(
        _kill("slots"), [(recovery, "next_incarnation", lambda original: lambda former, boot, unbroken, random: original(None, boot, False, random))]
    ),
    "forget a token": Mutation(_kill("appends", "ring"), [(Tokens, "replay", _always(None))]),
    "trim what a checkpoint still needs": Mutation(_kill("trees"), [(ReplicatedLog, "trim", _trims_more)]),
}
