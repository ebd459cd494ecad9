from __future__ import annotations

import itertools

import pytest

from mdstream.engine.feed_state import TRANSITIONS, FeedEvent, Stage, follow

ROWS = """
new        start     starting
new        drain     halted
starting   up        connecting
starting   died      restarting
starting   drain     draining
starting   fail      failed
connecting connected streaming
connecting lost      connecting
connecting died      restarting
connecting drain     draining
connecting fail      failed
streaming  connected streaming
streaming  lost      connecting
streaming  died      restarting
streaming  drain     draining
streaming  fail      failed
restarting start     starting
restarting drain     halted
draining   up        draining
draining   connected draining
draining   lost      draining
draining   died      halted
draining   expire    expired
draining   stop      stopped
draining   fail      failed
halted     start     finishing
halted     stop      stopped
halted     fail      failed
finishing  up        finishing
finishing  connected finishing
finishing  lost      finishing
finishing  expire    expired
finishing  stop      stopped
finishing  fail      failed
expired    up        expired
expired    connected expired
expired    lost      expired
expired    expire    expired
expired    stop      stopped
expired    fail      failed
stopped    fail      failed
"""
EXPECTED = {(a, b): c for a, b, c in (line.split() for line in ROWS.strip().splitlines())}


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("event", FeedEvent)
def test_each_event_leads_where_it_should_and_nowhere_else(stage: Stage, event: FeedEvent) -> None:
    after = EXPECTED.get((stage.value, event.value))
    if after is not None:
        assert follow(stage, event) is Stage(after)
    else:
        with pytest.raises(
            ValueError, match=f"a feed in stage {stage.value} cannot handle the event '{event.value}'"
        ):
            follow(stage, event)


def test_every_stage_is_reached_and_ends_as_stopped_or_failed() -> None:
    reached = {Stage.NEW}
    for _ in Stage:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(Stage)
    for stage in reached - {Stage.FAILED}:
        follows = {after for (before, _), after in TRANSITIONS.items() if before is stage}
        assert follows - {stage}, f"no stage follows {stage}"


def test_people_read_seven_words() -> None:
    words = "starting connecting streaming restarting draining stopped failed"
    assert {stage.label for stage in Stage} == set(words.split())


def test_a_feed_that_serves_comes_back_after_any_number_of_deaths() -> None:
    up = [FeedEvent.START, FeedEvent.UP, FeedEvent.CONNECTED]
    stage = Stage.NEW
    for event in itertools.chain(up, *[[FeedEvent.DIED, *up]] * 3):
        stage = follow(stage, event)
    assert stage is Stage.STREAMING
