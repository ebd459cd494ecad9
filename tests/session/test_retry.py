from __future__ import annotations

import itertools

import pytest

from mdstream.session.retry import AT_ONCE_S, RECONNECT_CAP_S, backoff, reconnect_pauses, requested_pause


def test_pauses_double_up_to_the_cap_with_jitter_that_only_shortens() -> None:
    for _ in range(50):
        pauses = list(itertools.islice(backoff(0.5, 30.0), 10))
        for i, pause in enumerate(pauses):
            full = min(0.5 * 2**i, 30.0)
            assert full / 2 <= pause <= full


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (429, {}, None),
        (503, {"Retry-After": "7"}, 7.0),
        (429, {"Retry-After": "tomorrow"}, None),
        (429, {"X-RateLimit-Reset": "1030"}, 30.0),
        (429, {"X-RateLimit-Reset": "900"}, 0.0),
        (503, {"X-RateLimit-Reset": "1030"}, None),
        (429, {"Retry-After": "2", "X-RateLimit-Reset": "1030"}, 2.0),
        (503, {"Retry-After": "86400"}, 61.0),
        (503, {"Retry-After": "9" * 400}, 61.0),
        (429, {"X-RateLimit-Reset": "1795492487000"}, 61.0),
        (429, {"Retry-After": "\u00b2"}, None),
        (429, {"X-RateLimit-Reset": "\u0663"}, None),
    ],
)
def test_the_pause_a_response_asks_for(
    status: int, headers: dict[str, str], expected: float | None
) -> None:
    assert requested_pause(status, headers, 1000.0) == expected


@pytest.mark.cases("S14")
def test_a_server_that_is_back_is_found_before_it_was_away_for_half_as_long_again() -> None:
    for _ in range(200):
        tries = list(itertools.accumulate(itertools.islice(reconnect_pauses(), 40)))
        assert tries[0] <= AT_ONCE_S
        for away in (0.2, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0):
            found = next(at for at in tries if at >= away)
            assert found - away <= min(RECONNECT_CAP_S, 0.25 + 0.5 * away)
