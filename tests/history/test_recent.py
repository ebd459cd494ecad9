"""The latest data, which the plan excludes: how much of it, and what is said of it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mdstream.cli.backfill_view import show_end
from mdstream.history.recent import RecentLimit
from mdstream.history.request import DAY_NS, make_request
from mdstream.venues.alpaca.limits import RECENT_NS
from tests.history.service import Query, Refusal, bar, fill, serve, trade
from tests.history.test_gaps import FORBIDDEN

NOW = 1_780_000_000 * 10**9
MINUTE_NS = 60 * 10**9


@pytest.mark.cases("S1")
def test_each_refusal_doubles_what_is_left_out_up_to_a_day() -> None:
    limit, end, margins = RecentLimit(), NOW, []
    while limit.widen(end, NOW):
        assert limit.until is not None
        assert limit.excludes(end)
        end = limit.until + 1
        assert not limit.excludes(end)
        margins.append((NOW - limit.until) / MINUTE_NS)
    assert margins == [16, 32, 64, 128, 256, 512, 1024, 1440]
    assert not limit.widen(end, NOW + MINUTE_NS), "a day is the most"


@pytest.mark.cases("S1")
def test_of_the_refusals_of_one_moment_one_counts() -> None:
    limit = RecentLimit()
    assert [limit.widen(NOW, NOW) for _ in range(9)] == [True] * 9
    assert limit.until == NOW - RECENT_NS


@pytest.mark.cases("S1")
@pytest.mark.parametrize(
    ("age_ns", "expected"), [(DAY_NS, None), (DAY_NS - 2, DAY_NS), (20 * MINUTE_NS, 2 * RECENT_NS)]
)
def test_the_first_margin_that_helps_is_taken(age_ns: int, expected: int | None) -> None:
    limit = RecentLimit()
    assert limit.widen(NOW - age_ns + 1, NOW) is (expected is not None)
    assert limit.until == (None if expected is None else NOW - expected)


DAY_END = datetime.max.time().replace(microsecond=0)


def excluding(minutes: float) -> Any:
    """Return an answer that refuses the last minutes, and otherwise has a trade at start and end."""

    def answer(path: str, query: Query) -> Any:
        if datetime.fromisoformat(query["end"]) > datetime.now(UTC) - timedelta(minutes=minutes):
            raise Refusal(403, FORBIDDEN)
        rows = [trade(query["start"], 1), trade(query["end"], 2)]
        return {"trades": {query["symbols"]: rows}, "next_page_token": None}

    return answer


@pytest.mark.cases("S1")
@pytest.mark.parametrize(("minutes", "margin"), [(10, 16), (25, 32), (40, 64), (300, 512)])
def test_what_the_end_says_is_fetched_is_fetched(
    minutes: float,
    margin: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also if the service excludes more than it documents, or this machine's clock is fast."""
    start, end = (datetime.now(UTC) - timedelta(hours=hours) for hours in (20, 0))
    symbols = ["BTC/USD", "ETH/USD", "SOL/USD"]
    with caplog.at_level(logging.WARNING), serve(excluding(minutes)) as service:
        done = fill(service, tmp_path, "crypto.trades", symbols, start, end)  # type: ignore[arg-type]
        asked = [datetime.fromisoformat(query["end"]) for _, query in service.requests]
    assert done.complete
    assert not done.failed
    until = datetime.fromisoformat(done.until)
    assert timedelta(0) <= end - timedelta(minutes=margin) - until + timedelta(seconds=20)
    # A day that ended before what the service excludes is fetched whole, before the margin grows.
    parts = [time for time in asked if time.time() < DAY_END]
    served = [time for time in parts if time < datetime.now(UTC) - timedelta(minutes=minutes, seconds=20)]
    if until.date() == end.date():
        assert max(served).replace(microsecond=0) == until
    assert len([time for time in parts if time.replace(microsecond=0) > until]) <= 3 * 6
    request = make_request("crypto.trades", symbols, start, end, now=end)
    show_end(request, done, False, None, as_json=False)
    assert f"data after {done.until} is not fetched: the plan excludes it" in capsys.readouterr().out


@pytest.mark.cases("S1")
def test_if_all_is_refused_nothing_is_said_to_be_fetched(tmp_path: Path) -> None:
    start, end = (datetime.now(UTC) - timedelta(hours=hours) for hours in (50, 0))
    with serve(excluding(1e6)) as service:
        done = fill(service, tmp_path, "crypto.trades", ["BTC/USD", "ETH/USD"], start, end)  # type: ignore[arg-type]
        assert len(service.requests) < 30
    assert set(done.failed) == {"BTC/USD", "ETH/USD"}
    assert done.until == ""


@pytest.mark.cases("S1", "S2")
def test_a_repair_compares_no_day_that_the_limit_has_cut(tmp_path: Path) -> None:
    """The day was over 20 minutes ago, and the service excludes 25: its last minutes are not there yet."""
    now = datetime.now(UTC)
    first = now - timedelta(days=1, minutes=20)
    trades = excluding(25)

    def answer(path: str, query: Query) -> Any:
        if "bars" in path:
            return {"bars": {query["symbols"]: [bar(first.isoformat(), count=9)]}, "next_page_token": None}
        return trades(path, query)

    with serve(answer) as service:
        start = first - timedelta(hours=6)
        done = fill(service, tmp_path, "crypto.trades", "BTC/USD", start, now, repair=True)  # type: ignore[arg-type]
    assert done.until, "the limit was found"
    assert (done.short, done.why_incomplete) == (0, "")


@pytest.mark.cases("S1")
def test_data_is_expected_before_the_documented_limit_and_the_one_that_was_found() -> None:
    limit = RecentLimit()
    assert limit.last_served(NOW) == NOW - RECENT_NS
    limit.widen(NOW - 20 * MINUTE_NS, NOW)
    assert limit.last_served(NOW) == limit.until == NOW - 2 * RECENT_NS
    later = NOW + 2 * DAY_NS
    assert limit.last_served(later) == limit.until, "the end of what was fetched"
