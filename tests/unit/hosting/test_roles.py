"""What a node is to do about a volume, decided from what it knows."""

from itertools import product

import pytest

from sofs.hosting.roles import Candidate, Decision, Facts, Role, Step, decide, may_lead
from sofs.records import ConfigurationRecord

ME, OTHER = 1, 2
NOW, FORMER, OTHERS = 10, 11, 20
"""Incarnations: of this process, of the one before, of the other node's."""


def facts(**changes: object) -> Facts:
    configuration = ConfigurationRecord(version=5, replicas=(100, 200), coordinator=OTHER, incarnation=OTHERS)
    usual = Facts(ME, NOW, configuration, mine=(100,), promised_until=50.0, dead=0, serving=0, now=40.0)
    return usual._replace(**changes)  # type: ignore[arg-type]


def named(coordinator: int, incarnation: int, replicas: tuple[int, ...] = (100, 200), version: int = 5) -> ConfigurationRecord:
    return ConfigurationRecord(version=version, replicas=replicas, coordinator=coordinator, incarnation=incarnation)


def test_a_standby_keeps_its_promise_and_then_takes_over() -> None:
    assert decide(facts()) == Decision(Role.STANDBY, Step.FOLLOW, 50.0)
    assert decide(facts(now=50.0)).step is Step.TAKE_OVER


def test_the_recorded_death_of_just_that_incarnation_ends_the_promise() -> None:
    assert decide(facts(dead=OTHERS)).step is Step.TAKE_OVER
    assert decide(facts(dead=OTHERS + 1)).step is Step.FOLLOW, "an earlier process of that node, long gone"


def test_what_this_node_coordinated_in_a_former_life_it_takes_over_at_once() -> None:
    assert decide(facts(configuration=named(ME, FORMER))).step is Step.TAKE_OVER
    assert decide(facts(configuration=named(ME, NOW))).step is Step.TAKE_OVER, "handed over to it"


def test_an_office_that_was_laid_down_is_taken_at_once() -> None:
    assert decide(facts(configuration=named(0, 0))).step is Step.TAKE_OVER


def test_a_replica_that_the_configuration_does_not_name_only_learns() -> None:
    for coordinator, now in product((ME, OTHER, 0), (40.0, 60.0)):
        decision = decide(facts(configuration=named(coordinator, OTHERS, (200,)), now=now))
        assert decision == Decision(Role.LEARNER, Step.LEARN)


def test_without_a_replica_or_a_configuration_there_is_nothing_to_do() -> None:
    assert decide(facts(mine=())) == Decision(Role.NONE, Step.NOTHING)
    assert decide(facts(configuration=None)) == Decision(Role.NONE, Step.NOTHING)


def test_a_coordinator_leaves_when_a_newer_configuration_names_another() -> None:
    assert decide(facts(serving=5, configuration=named(ME, NOW))).step is Step.NOTHING
    assert decide(facts(serving=4, configuration=named(ME, NOW))).step is Step.NOTHING, "its own next one"
    assert decide(facts(serving=4)).step is Step.LEAVE
    assert decide(facts(serving=4, configuration=named(ME, FORMER))).step is Step.LEAVE
    assert decide(facts(serving=6)).step is Step.NOTHING, "what the watch says late is no news"


BROKEN = Candidate(100, False, 5, 1000)


@pytest.mark.parametrize(
    ("others", "silent", "leads"),
    [
        ([], 0, True),
        ([], 1, False),
        ([Candidate(200, True, 5, 900)], 0, False),
        ([Candidate(200, False, 5, 900)], 0, True),
        ([Candidate(200, False, 5, 1100)], 0, False),
        ([Candidate(200, False, 6, 900)], 0, False),
        ([Candidate(200, False, 5, 1000)], 0, False),
        ([Candidate(50, False, 5, 1000)], 0, True),
    ],
)
def test_a_replica_with_broken_memory_leads_only_if_none_is_better(others: list[Candidate], silent: int, leads: bool) -> None:
    assert may_lead(BROKEN, others, silent) == leads


def test_one_with_unbroken_memory_waits_for_nobody() -> None:
    assert may_lead(BROKEN._replace(unbroken=True), [Candidate(200, True, 9, 9000)], 3)
