"""What this node is to do about one volume: decided from what it knows, without doing it (DESIGN section 7, points 5 to 7).

    none         no replica of the volume lies here
    learner      a replica lies here, and the configuration in force does not name it: it waits to be brought up to date
    standby      it is named, and follows the coordinator that the configuration names
    coordinator  the configuration names this node and this start of its process, and it serves

A replica takes over when nobody else can be serving: when it has kept its promise (`promised_until`, by this host's CLOCK_BOOTTIME), or when the
incarnation that the configuration names is recorded dead. After a restart promises are forgotten, so the caller counts every one as made at
the start; a node that the configuration names as coordinator has promised nobody anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from sofs.records import ConfigurationRecord


class Role(Enum):
    NONE = "none"
    LEARNER = "learner"
    STANDBY = "standby"
    COORDINATOR = "coordinator"


class Step(Enum):
    """What to do now."""

    NOTHING = "nothing"
    """There is no replica here; or the volume is served here, as it should be."""
    LEARN = "learn"
    """Have the replicas here ready for the coordinator to bring up to date."""
    FOLLOW = "follow"
    """Stand by, and look again at `until`."""
    TAKE_OVER = "take over"
    LEAVE = "leave"
    """Stop serving at once, without writing: another configuration is in force."""


class Facts(NamedTuple):
    """All that the decision rests on."""

    node: int
    incarnation: int
    configuration: ConfigurationRecord | None
    mine: tuple[int, ...]
    """Ids of the replicas that lie here, whether they can be opened or not."""
    promised_until: float
    """No replica here takes over before that, by `now`'s clock, unless nobody can be serving."""
    dead: int
    """The incarnation recorded dead of the node that the configuration names; 0 if none is."""
    serving: int
    """The version under which the volume is served here; 0 if it is not."""
    now: float


class Decision(NamedTuple):
    role: Role
    step: Step
    until: float = 0.0
    """When to decide again though nothing has changed; 0: never."""


def decide(facts: Facts) -> Decision:
    configuration = facts.configuration
    if configuration is None:
        return Decision(Role.NONE, Step.NOTHING)
    here = configuration.coordinator == facts.node
    current = here and configuration.incarnation == facts.incarnation
    if facts.serving:
        # Its own changes are known here before the watch tells of them; only what is newer and names another is news.
        if configuration.version > facts.serving and not current:
            return Decision(Role.LEARNER, Step.LEAVE)
        return Decision(Role.COORDINATOR, Step.NOTHING)
    if not facts.mine:
        return Decision(Role.NONE, Step.NOTHING)
    if not set(facts.mine) & set(configuration.replicas):
        return Decision(Role.LEARNER, Step.LEARN)
    if configuration.coordinator == 0 or here or (facts.dead and facts.dead == configuration.incarnation):
        # Nobody (it laid the office down), a former start of this very process, or one that has certainly ended: whatever was promised, it was
        # promised to that.
        return Decision(Role.STANDBY, Step.TAKE_OVER)
    if facts.now >= facts.promised_until:
        return Decision(Role.STANDBY, Step.TAKE_OVER)
    return Decision(Role.STANDBY, Step.FOLLOW, facts.promised_until)


class Candidate(NamedTuple):
    """A replica of the configuration in force, as the node that has it describes it."""

    replica: int
    unbroken: bool
    """All that was ever written to it is there: its host has been running since, without an error of the disk."""
    version: int
    """The configuration of its last record."""
    end: int


def may_lead(best: Candidate, others: Sequence[Candidate], silent: int) -> bool:
    """Whether the best replica of a node may take over, as far as `others` go, those on other nodes that answer; `silent` have not.

    With unbroken memory it has everything that was acknowledged. With broken memory it has only what was stable for certain: whoever may have more goes
    first, and those who are silent are waited for (the caller counts them as gone once it has waited long enough).
    """
    if best.unbroken:
        return True
    if silent or any(other.unbroken for other in others):
        return False
    return all((best.version, best.end, best.replica) > (other.version, other.end, other.replica) for other in others)
