from __future__ import annotations

import itertools

import pytest

from mdstream.session.retry import backoff, requested_pause


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
