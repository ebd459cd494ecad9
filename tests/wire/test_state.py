from __future__ import annotations

import pytest

from mdstream.wire.state import TRANSITIONS, Event, State, follow


def test_an_illegal_step_says_which_state_and_which_event() -> None:
    with pytest.raises(ValueError, match="opening cannot take 'acknowledged'"):
        follow(State.OPENING, Event.ACKNOWLEDGED)


def test_every_state_can_be_reached_and_left() -> None:
    assert {State.OPENING, *TRANSITIONS.values()} == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State)


def test_every_event_leads_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)
