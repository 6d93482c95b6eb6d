"""The state machine of a disk, walked pair by pair."""

import pytest

from sofs.errors import InvalidArgument
from sofs.pool.states import READABLE, TRANSITIONS, WRITABLE, Event, State, after

PAIRS = [(state, event) for state in State for event in Event]
WISHES = {Event.DRAIN, Event.UNDRAIN, Event.EMPTIED}


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=str)
def test_every_event_leads_somewhere_and_only_wishes_are_refused(state: State, event: Event) -> None:
    try:
        new = after(state, event)
    except InvalidArgument:
        assert event in WISHES
        return
    assert new in State
    if event is Event.WRITE_ERROR and state in WRITABLE:
        assert new is State.FAILED
    if event in (Event.READ_ERROR, Event.PROBE_FAILED, Event.WRITE_ERROR, Event.ABSENT):
        assert new not in WRITABLE or new is State.SUSPECT, "an error never makes a disk healthy"
    if state in (State.MISSING, State.FAILED) and event is not Event.OPENED:
        assert new not in READABLE, "only opening brings a disk back"
    if state is State.RETIRED:
        assert new in (State.RETIRED, State.HEALTHY) and (new is State.RETIRED or event is Event.UNDRAIN)


def test_the_table_has_a_row_for_every_state_and_every_state_is_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {new for row in TRANSITIONS.values() for new in row.values()} == set(State)


def test_a_wish_that_makes_no_sense_is_named() -> None:
    with pytest.raises(InvalidArgument, match="a missing disk cannot be changed by drain"):
        after(State.MISSING, Event.DRAIN)
