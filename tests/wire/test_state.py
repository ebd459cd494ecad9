from __future__ import annotations

import pytest

from mdstream.wire.state import TRANSITIONS, Event, State, follow


def test_an_illegal_step_says_which_state_and_which_event() -> None:
    with pytest.raises(ValueError, match="opening cannot take 'acknowledged'"):
        follow(State.OPENING, Event.ACKNOWLEDGED)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.OPENING, *TRANSITIONS.values()}
    assert reached == set(State)
    assert all((state, Event.LOST) in TRANSITIONS for state in State)
