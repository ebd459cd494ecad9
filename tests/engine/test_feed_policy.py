from __future__ import annotations

from typing import Any

import pytest

from mdstream.engine.feed_policy import (
    Service,
    classify_exit,
    count_deaths,
    explain_exit,
    failure_at_end,
    failure_without_process,
    restart_pause,
)
from mdstream.engine.feed_state import FeedEvent, Stage
from mdstream.errors import Exit


@pytest.mark.parametrize(
    ("stage", "code", "event"),
    [
        (Stage.DRAINING, Exit.OK, FeedEvent.STOP),
        (Stage.FINISHING, Exit.OK, FeedEvent.STOP),
        (Stage.EXPIRED, Exit.OK, FeedEvent.STOP),
        (Stage.EXPIRED, -9, FeedEvent.FAIL),
        (Stage.STREAMING, Exit.OK, FeedEvent.DIED),
        (Stage.STREAMING, -11, FeedEvent.DIED),
        (Stage.STREAMING, None, FeedEvent.DIED),
        (Stage.STREAMING, Exit.STREAM_FAILED, FeedEvent.DIED),
        (Stage.STREAMING, Exit.CREDENTIALS, FeedEvent.FAIL),
        (Stage.STARTING, Exit.CONFIG, FeedEvent.FAIL),
        (Stage.DRAINING, Exit.SHARED_MEMORY, FeedEvent.FAIL),
        (Stage.DRAINING, -9, FeedEvent.DIED),
    ],
)
def test_what_the_end_of_a_process_means(stage: Stage, code: int | None, event: FeedEvent) -> None:
    assert classify_exit(stage, code) is event


def test_an_exit_code_has_words() -> None:
    assert explain_exit(-9) == "was killed by signal 9"
    assert explain_exit(1) == "ended with code 1"
    assert explain_exit(None) == "ended"


def test_pauses_grow_with_deaths_in_a_row_up_to_half_a_minute() -> None:
    for deaths, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (50, 30.0)):
        assert all(longest / 2 <= restart_pause(deaths) <= longest for _ in range(20))


def test_a_process_that_lived_long_ends_the_row_of_deaths() -> None:
    assert count_deaths(4, 10.0) == 5
    assert count_deaths(4, 61.0) == 1


def test_a_run_that_ends_between_two_processes() -> None:
    assert failure_without_process(0, "", False) == ""
    assert failure_without_process(1, "was killed by signal 9", True) == ""
    assert failure_without_process(1, "ended", False) == "feed process ended"
    assert failure_without_process(2, "ended", True) == "feed process ended (2 times in a row)"


def judge(**facts: Any) -> str:
    good = Service(was_connected=True, has_rows=True, trouble="", trouble_s=0.0, up_s=60.0, ok=2, failed={})
    return failure_at_end(good._replace(**facts))


@pytest.mark.parametrize(
    ("facts", "failure"),
    [
        ({}, ""),
        ({"was_connected": False, "up_s": None}, ""),
        ({"was_connected": False, "up_s": 2.0}, ""),
        ({"was_connected": False, "up_s": 4.0}, "never connected: no answer from the server"),
        ({"was_connected": False, "up_s": 1.0, "trouble": "refused"}, "never connected: refused"),
        ({"trouble": "mute", "trouble_s": 9.0}, ""),
        ({"trouble": "mute", "trouble_s": 11.0}, "no connection for the last 11 s: mute"),
        ({"failed": {"B": "bad"}}, ""),
        ({"ok": 0, "failed": {"B": "bad"}}, ""),
        (
            {"ok": 0, "has_rows": False, "failed": {"B": "bad", "A": "worse"}},
            "none of its symbols is served (A: worse)",
        ),
        (
            {"ok": 0, "has_rows": False, "failed": {"A": "no data"}, "refused": 2, "refusal": "no plan"},
            "none of its symbols is served (A: no data); subscriptions are refused: no plan",
        ),
        ({"ok": 0, "has_rows": False}, ""),
        # A plan that does not include all symbols is no failure, unless it did before.
        ({"subscribed": 30, "refused": 20, "refusal": "too many"}, ""),
        (
            {"subscribed": 28, "refused": 22, "lost": 2, "refusal": "too many"},
            "2 subscriptions that were served are refused: too many",
        ),
        ({"refused": 2, "refusal": "too many"}, "none of its subscriptions is served: too many"),
        ({"wanted": 2, "most": 30}, "none of its subscriptions is served any more; it served 30"),
        ({"wanted": 2, "most": 30, "subscribed": 1}, ""),
        ({"wanted": 2, "most": 0}, ""),
        # The user has unsubscribed from all.
        ({"wanted": 0, "most": 30}, ""),
    ],
)
def test_which_streams_have_failed_when_a_run_ends(facts: dict[str, Any], failure: str) -> None:
    assert judge(**facts) == failure
