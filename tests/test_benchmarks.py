"""The verdict on a soak, from made-up samples."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import soak_verdict

ACCOUNTS = {
    "sent": 9,
    "messages": 9,
    "committed": 8,
    "rejected": 1,
    "in_flight": 0,
    "reconnects": 0,
    "restarts": 0,
}


def make_sample(second: int, **what: int) -> dict[str, Any]:
    process = {"role": "feed", "rss": 10**9, "pss": 10**8, "anonymous": 10**8, "fds": 90, "threads": 9}
    return {
        "t_s": float(second),
        "retention_reached": second >= 60,
        "processes": [{**process, **what}],
        "shm": {"total": what.get("shm", 10**8), "supervisor": 0},
        "latency_ms": {"p50": 2.0, "p99": 5.0},
        "streams": {"stocks": {"messages": second * 100, "sent": second * 100}},
    }


def judge(samples: list[dict[str, Any]], **accounts: int) -> dict[str, Any]:
    end = {"title": "", "wanted_rate": 100.0, "streams": {"stocks": {**ACCOUNTS, **accounts}}}
    return soak_verdict.judge(samples, end)


def test_a_soak_with_connections_that_come_and_go_is_flat() -> None:
    found = judge([make_sample(t, fds=90 + 45 * (t % 60 < 15)) for t in range(1800)])
    assert found["flat"]
    assert found["complete"]
    assert found["rate"] == pytest.approx(100)
    assert found["warm_up_s"] == 90


def test_a_soak_whose_chunks_come_and_go_is_flat() -> None:
    assert judge([make_sample(t, shm=10**8 + t % 47 * 10**5) for t in range(1800)])["flat"]


@pytest.mark.parametrize(
    ("what", "start", "per_minute"), [("rss", 10**9, 10**6), ("shm", 10**8, 10**5), ("fds", 90, 0.2)]
)
def test_what_grows_all_the_time_is_not_flat(what: str, start: int, per_minute: float) -> None:
    found = judge([make_sample(t, **{what: int(start + t * per_minute / 60)}) for t in range(1800)])
    assert not found["flat"]
    assert not found["lines"][what]["flat"]
    assert "NOT FLAT" in soak_verdict.describe(found)


def test_what_grew_while_frames_filled_is_not_judged() -> None:
    assert judge([make_sample(t, shm=10**8 + min(t, 80) * 10**6) for t in range(1800)])["flat"]


def test_a_short_soak_is_not_judged() -> None:
    found = judge([make_sample(t) for t in range(100)])
    assert not found["flat"]
    assert "NOT JUDGED" in soak_verdict.describe(found)


@pytest.mark.parametrize("accounts", [{"committed": 7}, {"sent": 10}])
def test_a_message_that_is_missing_is_reported(accounts: dict[str, int]) -> None:
    found = judge([make_sample(t) for t in range(400)], **accounts)
    assert not found["complete"]
    assert "DOES NOT ADD UP" in soak_verdict.describe(found)


def test_what_was_sent_while_a_connection_was_lost_is_not_missing() -> None:
    assert judge([make_sample(t) for t in range(400)], sent=10, reconnects=1)["complete"]
