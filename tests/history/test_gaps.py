"""What the service did not have, or refused, is requested again; what it changed can be fetched again."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mdstream
from mdstream.errors import ConfigError
from mdstream.history import plan
from mdstream.history.ledger import KnownShard, Ledger, LedgerView
from mdstream.history.request import DAY_NS, make_request
from mdstream.streams.datasets import datasets
from tests.history.service import Answer, Query, Refusal, bar, fill, serve, trade
from tests.store.test_amendments import record_messages

FORBIDDEN = '{"message":"subscription does not permit querying recent SIP data"}'
DAY = "2026-01-05"


def read(store: Path, dataset: str = "stocks.trades", **given: Any) -> pl.DataFrame:
    return mdstream.scan(dataset, store, **given).collect().sort("ts")


def answer_trades(days: dict[str, list[dict[str, Any]]]) -> Answer:
    """Return an answer with the trades of a day for each request of that day."""

    def answer(path: str, query: Query) -> Any:
        first, last = query["start"], query["end"]
        rows = [row for rows in days.values() for row in rows if first <= row["t"] <= last]
        return {"trades": {query["symbols"]: rows} if rows else {}, "next_page_token": None}

    return answer


# -- S1


def answer_old(make: Callable[[str, str], list[dict[str, Any]]], what: str) -> Answer:
    """Return an answer that refuses the last 15 minutes, as the free plan does."""

    def answer(path: str, query: Query) -> Any:
        if datetime.fromisoformat(query["end"]) > datetime.now(UTC) - timedelta(minutes=15):
            raise Refusal(403, FORBIDDEN)
        return {what: {query["symbols"]: make(query["start"], query["end"])}, "next_page_token": None}

    return answer


@pytest.mark.cases("S1")
def test_data_that_the_plan_does_not_have_yet_is_left_to_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make(start: str, end: str) -> list[dict[str, Any]]:
        return [trade(start, 1), trade(end, 2)]

    today = f"{datetime.now(UTC):%Y-%m-%d}"
    start = f"{datetime.now(UTC) - timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"
    symbols = ["AAPL", "MSFT", "NVDA"]
    with caplog.at_level(logging.WARNING), serve(answer_old(make, "trades")) as service:
        done = fill(service, tmp_path, "crypto.trades", symbols, start, today, feed="us")
        assert done.complete
        assert not done.failed
        assert caplog.text.count("the plan excludes the last") == 1
        assert done.until in caplog.text
        service.take()
        again = fill(service, tmp_path, "crypto.trades", symbols, start, today, feed="us")
    assert again.complete
    late = datetime.now(UTC) - read(tmp_path, "crypto.trades")["ts"].max()  # type: ignore[operator]
    assert timedelta(minutes=15) < late < timedelta(minutes=18)


@pytest.mark.cases("S1")
def test_a_year_of_daily_bars_is_not_lost_with_its_last_minutes(tmp_path: Path) -> None:
    def make(start: str, end: str) -> list[dict[str, Any]]:
        first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        return [bar(f"{day:%Y-%m-%d}T05:00:00Z") for day in days]

    today = f"{datetime.now(UTC):%Y-%m-%d}"
    with serve(answer_old(make, "bars")) as service:
        done = fill(
            service, tmp_path, "stocks.bars", "AAPL", "2025-06-01", today, feed="sip", timeframe="1Day"
        )
    assert done.complete
    assert not done.failed
    last = read(tmp_path, "stocks.bars")["ts"].max()
    assert datetime.now(UTC) - last < timedelta(days=3)  # type: ignore[operator]


@pytest.mark.cases("S1")
def test_a_plan_that_refuses_older_data_too_is_an_error_and_not_an_endless_loop(tmp_path: Path) -> None:
    def answer(path: str, query: Query) -> Any:
        raise Refusal(403, FORBIDDEN)

    with serve(answer) as service:
        done = fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, feed="sip")
        assert not done.complete
        assert "recent SIP data" in done.failed["AAPL"]
        assert len(service.requests) <= 2


# -- S2


@pytest.mark.cases("S2")
def test_an_empty_trading_day_is_asked_again_and_stored_when_the_service_has_it(tmp_path: Path) -> None:
    days: dict[str, list[dict[str, Any]]] = {DAY: []}
    with serve(answer_trades(days)) as service:
        first = fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY)
        assert (first.rows, first.empty, first.complete) == (0, 1, True)
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY).requests == 1
        days[DAY] = [trade("2026-01-05T15:00:00Z", 1)]
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY).stored == 1
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY).requests == 0
    assert read(tmp_path).height == 1


@pytest.mark.cases("S2")
def test_an_empty_trading_day_is_final_after_some_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(answer_trades({})) as service:
        fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY)
        later = time.time() + (plan.EMPTY_DAYS + 1) * 86_400
        monkeypatch.setattr("mdstream.history.backfill.time.time", lambda: later)
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY).requests == 0
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, repair=True).requests >= 1


@pytest.mark.cases("S2")
@pytest.mark.parametrize(
    ("dataset", "symbol", "asked_again"),
    [
        ("stocks.trades", "AAPL", True),
        ("crypto.trades", "BTC/USD", True),
        ("options.trades", "AAPL261218C00230000", False),  # most contracts do not trade on most days
    ],
)
def test_where_most_days_are_empty_an_old_one_is_final(
    tmp_path: Path, dataset: str, symbol: str, asked_again: bool
) -> None:
    with serve(answer_trades({})) as service:
        fill(service, tmp_path, dataset, symbol, DAY, DAY)
        assert bool(fill(service, tmp_path, dataset, symbol, DAY, DAY).requests) is asked_again


@pytest.mark.parametrize("dataset", datasets())
def test_closed_days_are_not_requested_and_open_ones_are(dataset: str, tmp_path: Path) -> None:
    symbol = {"options": "AAPL261218C00230000", "crypto": "BTC/USD", "perps": "BTC-PERP"}.get(
        dataset.partition(".")[0], "AAPL"
    )
    given = {"timeframe": "1Min"} if dataset.endswith("bars") else {}
    now = datetime(2026, 11, 30, tzinfo=UTC)
    weekend = make_request(dataset, symbol, "2026-11-21", "2026-11-22", now=now, **given)
    holiday = make_request(dataset, symbol, "2026-11-26", "2026-11-26", now=now, **given)
    friday = make_request(dataset, symbol, "2026-11-20", "2026-11-20", now=now, **given)
    closes = dataset.startswith(("stocks", "options"))
    assert bool([*weekend.shards(), *holiday.shards()]) is not closes
    assert list(friday.shards())


def test_bars_that_begin_on_a_closed_day_are_requested() -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    request = make_request(
        "stocks.bars", "AAPL", "2026-01-19", "2026-01-19", now=now, timeframe="1Week"
    )  # Martin Luther King's day is a Monday
    assert list(request.shards())


@pytest.mark.cases("S2")
def test_stored_history_that_the_service_has_repaired_is_fetched_again_on_request(tmp_path: Path) -> None:
    days = {
        "2026-01-05": [trade("2026-01-05T15:00:00Z", 1), trade("2026-01-05T16:00:00.000000001Z", 2)],
        "2026-01-06": [trade("2026-01-06T15:00:00Z", 3)],
        "2026-01-07": [trade("2026-01-07T15:00:00Z", 4)],
    }
    span = ("2026-01-05", "2026-01-07")
    with serve(answer_trades(days)) as service:
        fill(service, tmp_path, "stocks.trades", ["AAPL", "MSFT"], *span)
        days["2026-01-05"].append(trade("2026-01-05T17:00:00Z", 5))
        days["2026-01-06"] = [trade("2026-01-06T18:00:00Z", 6, 11.0)]
        service.take()
        again = fill(service, tmp_path, "stocks.trades", "AAPL", *span, refetch="2026-01-05..2026-01-06")
        assert (again.requests, again.stored) == (2, 4)
        assert fill(service, tmp_path, "stocks.trades", "AAPL", *span).requests == 0
    rows = read(tmp_path, symbols="AAPL")
    assert rows["id"].to_list() == [1, 2, 5, 6, 4]
    assert read(tmp_path, symbols="MSFT")["id"].to_list() == [1, 2, 3, 4]


@pytest.mark.cases("S2")
def test_stored_rows_stay_if_the_service_has_none_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    days = {DAY: [trade("2026-01-05T15:00:00Z", 1)]}
    with serve(answer_trades(days)) as service:
        fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY)
        days[DAY] = []
        fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, refetch="all")
        assert "the stored ones stay" in caplog.text
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY).requests == 0
    assert read(tmp_path).height == 1


@pytest.mark.cases("S2")
def test_a_refetch_whose_commit_fails_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdstream.store import table

    days = {DAY: [trade("2026-01-05T15:00:00Z", 1)]}
    with serve(answer_trades(days)) as service:
        fill(service, tmp_path, "stocks.trades", ["AAPL", "MSFT"], DAY, DAY)
        days[DAY].append(trade("2026-01-05T16:00:00Z", 2))

        def die(*_: object) -> None:
            raise mdstream.StoreError("the disk is gone")

        with monkeypatch.context() as patch:
            patch.setattr(table.StoreTable, "commit", die)
            with pytest.raises(mdstream.StoreError, match="the disk is gone"):
                fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, refetch="all")
        service.take()
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, refetch="all").complete
        assert service.take() == [], "what is fetched is not fetched again"
    assert read(tmp_path, symbols="AAPL")["id"].to_list() == [1, 2]
    assert read(tmp_path, symbols="MSFT")["id"].to_list() == [1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", (0, 3)),
        ("2026-01-06", (1, 2)),
        ("2026-01-06..2026-01-07", (1, 3)),
        ("2020-01-01..2026-01-05", (0, 1)),
        ("", None),
    ],
)
def test_a_range_to_fetch_again_is_a_part_of_the_request(
    text: str, expected: tuple[int, int] | None
) -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    request = make_request("stocks.trades", "AAPL", "2026-01-05", "2026-01-07", now=now, refetch=text)
    days = request.refetch and tuple((each - request.first) // DAY_NS for each in request.refetch)
    assert days == expected


@pytest.mark.parametrize("text", ["2026-02-01", "2026-01-07..2026-01-05", "soon", "2026-01-05.."])
def test_a_wrong_range_to_fetch_again_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="refetch"):
        make_request(
            "stocks.trades",
            "AAPL",
            "2026-01-05",
            "2026-01-07",
            now=datetime(2026, 11, 30, tzinfo=UTC),
            refetch=text,
        )


# -- repair


@pytest.mark.cases("S2")
def test_a_repair_fetches_days_with_fewer_trades_than_the_services_daily_bars_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = "2026-01-06T15:00:00Z"
    days = {
        "2026-01-05": [trade("2026-01-05T15:00:00Z", 1), trade("2026-01-05T16:00:00Z", 2)],
        "2026-01-06": [trade(late, 3)],
        "2026-01-07": [],
    }
    not_counted = {**trade("2026-01-05T21:00:00Z", 9), "c": ["M"]}  # the official close has no volume
    days["2026-01-05"].append(not_counted)
    trades = answer_trades(days)

    def answer(path: str, query: Query) -> Any:
        if path.endswith("/bars"):
            assert (query["timeframe"], query["adjustment"]) == ("1Day", "raw")
            counts = {5: 2, 6: 3, 7: 1}
            rows = [bar(f"2026-01-0{day}T05:00:00Z", count=count) for day, count in counts.items()]
            rows = [row for row in rows if query["start"] <= row["t"] <= query["end"]]
            return {"bars": {query["symbols"]: rows}, "next_page_token": None}
        return trades(path, query)

    span = ("2026-01-05", "2026-01-07")
    with serve(answer) as service:
        fill(service, tmp_path, "stocks.trades", "AAPL", *span)
        days["2026-01-06"].append(trade("2026-01-06T15:00:00Z", 4))
        days["2026-01-07"].append(trade("2026-01-07T15:00:00Z", 5))
        service.take()
        done = fill(service, tmp_path, "stocks.trades", "AAPL", *span, repair=True)
        starts = sorted(query["start"][:10] for path, query in service.take() if path.endswith("trades"))
    assert starts == ["2026-01-06", "2026-01-07"]
    assert (done.short, done.requests) == (1, 3)
    assert "AAPL 2026-01-06: 2 of 3 trades by the service's bars" in caplog.text
    assert sorted(read(tmp_path)["id"]) == [1, 2, 3, 4, 5, 9]


@pytest.mark.cases("S2", "V3")
@pytest.mark.parametrize("says_so", ["a mark", "a recorded cancel"])
def test_a_cancelled_trade_does_not_hide_from_a_repair_that_a_valid_one_is_missing(
    tmp_path: Path, says_so: str
) -> None:
    first, cancelled, late = (trade(f"{DAY}T15:00:0{second}Z", second) for second in (1, 2, 3))
    days = {DAY: [first, {**cancelled, "u": "canceled"} if says_so == "a mark" else cancelled]}
    trades = answer_trades(days)

    def answer(path: str, query: Query) -> Any:
        if path.endswith("/bars"):
            return {"bars": {query["symbols"]: [bar(f"{DAY}T05:00:00Z", count=2)]}, "next_page_token": None}
        return trades(path, query)

    with serve(answer) as service:
        fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY)
        if says_so == "a recorded cancel":
            cancel = {"T": "x", "S": "AAPL", "i": 2, "x": "V", "p": 10.0, "s": 100, "a": "C", "z": "C"}
            record_messages(tmp_path, tmp_path, {**cancel, "t": f"{DAY}T15:01:00Z"})
        days[DAY].append(late)
        done = fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, repair=True)
        assert (done.short, done.stored) == (0, 3)
        service.take()
        fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, repair=True)
        assert [path for path, _ in service.take() if path.endswith("trades")] == []
    assert read(tmp_path)["id"].to_list() == [1, 3]


@pytest.mark.cases("S2")
def test_a_day_of_which_a_part_is_requested_is_not_short_because_of_the_rest(tmp_path: Path) -> None:
    trades = answer_trades({DAY: [trade("2026-01-05T15:00:00Z", 1)]})

    def answer(path: str, query: Query) -> Any:
        if path.endswith("/bars"):
            hours = [
                bar("2026-01-05T14:00:00Z"),
                bar("2026-01-05T15:00:00Z"),
                bar("2026-01-05T16:00:00Z", 8),
            ]
            day = [bar("2026-01-05T05:00:00Z", count=9)]
            bars = hours if query["timeframe"] == "1Hour" else day
            return {"bars": {"AAPL": bars}, "next_page_token": None}
        return trades(path, query)

    part = ("2026-01-05T14:30:00Z", "2026-01-05T16:30:00Z")
    with serve(answer) as service:
        fill(service, tmp_path, "stocks.trades", "AAPL", *part)
        done = fill(service, tmp_path, "stocks.trades", "AAPL", *part, repair=True)
        assert (done.short, done.requests) == (0, 2)
        fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY)
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, repair=True).short == 1


def answer_crypto(trades: list[str], begins: int = 5) -> Answer:
    """Return an answer with trades at these times, and bars that count all of them.

    Days begin at the hour `begins` in UTC.
    """

    def answer(path: str, query: Query) -> Any:
        symbol, first, last = query["symbols"], query["start"], query["end"]
        rows = [trade(time, number) for number, time in enumerate(trades)]
        what = path.rpartition("/")[2]
        if what == "bars":
            starts = [_start_of_bar(time, query["timeframe"], begins) for time in trades]
            rows = [bar(start, count=starts.count(start)) for start in sorted(set(starts))]
        found = [row for row in rows if first <= row["t"] <= last]
        return {what: {symbol: found} if found else {}, "next_page_token": None}

    return answer


def _start_of_bar(time: str, timeframe: str, begins: int) -> str:
    at, shift = datetime.fromisoformat(time), timedelta(hours=begins)
    day = (at - shift).replace(hour=0, minute=0) + shift
    start = {"1Min": at, "1Hour": at.replace(minute=0), "1Day": day}[timeframe]
    return f"{start:%Y-%m-%dT%H:%M:%SZ}"


CRYPTO = [
    "2026-01-01T03:00:00Z",
    *(f"2026-01-01T06:{minute:02}:00Z" for minute in range(5)),
    *(f"2026-01-02T02:{minute:02}:00Z" for minute in range(20)),
    *(f"2026-01-02T12:{minute:02}:00Z" for minute in range(3)),
    "2026-01-03T04:00:00Z",
]


@pytest.mark.cases("S2")
@pytest.mark.parametrize("begins", [0, 4, 5])
@pytest.mark.parametrize("dataset", ["crypto.trades", "crypto.bars"])
def test_a_day_without_a_gap_is_not_short_wherever_the_services_day_begins(
    begins: int, dataset: str, tmp_path: Path
) -> None:
    span = ("2026-01-01", "2026-01-02")
    with serve(answer_crypto(CRYPTO, begins)) as service:
        fill(service, tmp_path, dataset, "BTC/USD", *span)
        done = fill(service, tmp_path, dataset, "BTC/USD", *span, repair=True)
    assert (done.short, done.complete, done.stored) == (0, True, 0)


@pytest.mark.cases("S2")
@pytest.mark.parametrize("missing", CRYPTO[:-1:4])
@pytest.mark.parametrize("begins", [0, 5])
def test_a_trade_that_is_missing_in_the_range_shows_in_the_services_day(
    missing: str, begins: int, tmp_path: Path
) -> None:
    span = ("2026-01-01", "2026-01-02")
    have = [time for time in CRYPTO if time != missing]
    with serve(answer_crypto(have)) as service:
        fill(service, tmp_path, "crypto.trades", "BTC/USD", *span)
    with serve(answer_crypto(CRYPTO, begins)) as service:
        done = fill(service, tmp_path, "crypto.trades", "BTC/USD", *span, repair=True)
    assert (done.short, done.complete) == (0, True)
    assert read(tmp_path, "crypto.trades").height == len(CRYPTO) - 1


@pytest.mark.cases("S2")
@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01"])
def test_a_day_on_which_the_clocks_change_ends_where_the_next_one_begins(day: str, tmp_path: Path) -> None:
    before, after = (4, 5) if day == "2026-11-01" else (5, 4)
    later = f"{datetime.fromisoformat(day) + timedelta(days=1):%Y-%m-%d}"
    times = [f"{day}T0{before}:30:00Z", f"{later}T0{min(before, after)}:30:00Z", f"{later}T06:00:00Z"]

    def answer(path: str, query: Query) -> Any:
        if path.endswith("/bars") and query["timeframe"] == "1Day":
            second = 1 if after < before else 2  # trades of the first day
            counts = {f"{day}T0{before}:00:00Z": second, f"{later}T0{after}:00:00Z": 3 - second}
            rows = [bar(start, count=count) for start, count in counts.items()]
            return {"bars": {"BTC/USD": rows}, "next_page_token": None}
        return hours(path, query)

    hours = answer_crypto(times)
    span = (f"{day}T00:00:00Z", f"{later}T12:00:00Z")
    with serve(answer) as service:
        fill(service, tmp_path, "crypto.trades", "BTC/USD", *span)
        done = fill(service, tmp_path, "crypto.trades", "BTC/USD", *span, repair=True)
    assert (done.short, done.complete) == (0, True)


@pytest.mark.cases("S2")
@pytest.mark.parametrize("malformed", [{"n": None}, {"t": None}, {"t": "x"}, {"n": "many"}, "missing"])
def test_a_daily_bar_that_cannot_be_read_costs_its_day_alone_and_shows_in_the_exit_code(
    tmp_path: Path, malformed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    days = {"2026-01-05": [], "2026-01-06": [trade("2026-01-06T15:00:00Z", 1)]}
    trades = answer_trades(days)

    def answer(path: str, query: Query) -> Any:
        if not path.endswith("/bars"):
            return trades(path, query)
        if malformed == "missing":
            raise Refusal(404, '{"message":"not found"}')
        rows = [{**bar("2026-01-05T05:00:00Z"), **malformed}, bar("2026-01-06T05:00:00Z", count=2)]
        return {"bars": {query["symbols"]: rows}, "next_page_token": None}

    span = ("2026-01-05", "2026-01-06")
    with serve(answer) as service:
        fill(service, tmp_path, "stocks.trades", "AAPL", *span)
        done = fill(service, tmp_path, "stocks.trades", "AAPL", *span, repair=True)
    assert (done.short, done.uncounted) == (int(malformed != "missing"), 1)
    assert not done.complete
    assert "1 symbol with days that a repair could not count" in done.why_incomplete
    assert "AAPL: some of its days cannot be counted: " in caplog.text


@pytest.mark.parametrize("dataset", ["stocks.bars", "stocks.quotes", "crypto.trades", "news"])
def test_every_dataset_can_be_repaired(dataset: str, tmp_path: Path) -> None:
    def answer(path: str, query: Query) -> Any:
        what = {"news": "news"}.get(path.rpartition("/")[2], path.rpartition("/")[2])
        return {what: [] if what == "news" else {}, "next_page_token": None}

    symbol = {"crypto.trades": "BTC/USD"}.get(dataset, "AAPL")
    with serve(answer) as service:
        fill(service, tmp_path, dataset, symbol, DAY, DAY)
        assert fill(service, tmp_path, dataset, symbol, DAY, DAY, repair=True).complete


# -- S3


@pytest.mark.cases("S3")
@pytest.mark.parametrize("days", [0, 1])
def test_an_adjusted_series_that_is_extended_has_one_scale(
    days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    price = 100.0

    def answer(path: str, query: Query) -> Any:
        dates = ["2025-12-30", "2025-12-31", *(f"2026-01-{day:02}" for day in range(5, 17))]
        rows = [bar(f"{day}T05:00:00Z", price) for day in dates]
        rows = [row for row in rows if query["start"] <= row["t"] <= query["end"]]
        return {"bars": {query["symbols"]: rows}, "next_page_token": None}

    given = {"timeframe": "1Day", "adjustment": "split"}
    start, later = "2025-12-30", time.time() + days * 86_400
    with serve(answer) as service:
        fill(service, tmp_path, "stocks.bars", "AAPL", start, "2026-01-09", **given)
        assert read(tmp_path, "stocks.bars")["close"].unique().to_list() == [100.0]
        assert fill(service, tmp_path, "stocks.bars", "AAPL", start, "2026-01-09", **given).requests == 0
        price = 10.0  # a split of 10 for 1
        monkeypatch.setattr("mdstream.history.backfill.time.time", lambda: later)
        assert fill(service, tmp_path, "stocks.bars", "AAPL", "2026-01-05", "2026-01-16", **given).complete
        assert "so that all adjusted bars have one scale" in caplog.text
        assert fill(service, tmp_path, "stocks.bars", "AAPL", start, "2026-01-16", **given).requests == 0
    bars = read(tmp_path, "stocks.bars")
    assert bars.height == 14
    assert bars["close"].unique().to_list() == [10.0]


@pytest.mark.cases("S3")
def test_an_adjusted_backfill_that_is_resumed_fetches_again_what_is_of_another_day(tmp_path: Path) -> None:
    request = make_request(
        "stocks.bars",
        "AAPL",
        "2024-01-01",
        "2026-01-16",
        now=datetime(2026, 11, 30, tzinfo=UTC),
        timeframe="1Day",
        adjustment="split",
    )
    now = 1_780_000_000
    shards = list(request.shards())
    known = [
        KnownShard(number, shard, "stored", 9, now - 86_400 * (number == 0), 0, 0)
        for number, shard in enumerate(shards)
    ]
    known[-1] = known[-1]._replace(state="open", rows=0)
    assert plan.find_work(request, {"AAPL": known}, now).again == [0]
    complete = [each._replace(state="stored", asked=now) for each in known]
    assert plan.find_work(request, {"AAPL": complete}, now).again == []


@pytest.mark.cases("S3")
@pytest.mark.parametrize("is_repair", [False, True])
@pytest.mark.parametrize("has_rows", [True, False])
def test_an_adjusted_series_whose_empty_part_has_rows_on_another_day_has_one_scale(
    tmp_path: Path,
    is_repair: bool,
    has_rows: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    price, filled = 100.0, [f"2026-01-{day:02}" for day in (5, 6, 7, 8, 9)]

    def answer(path: str, query: Query) -> Any:
        rows = [bar(f"{day}T15:00:00Z", price) for day in filled]
        rows = [row for row in rows if query["start"] <= row["t"] <= query["end"]]
        return {"bars": {query["symbols"]: rows} if rows else {}, "next_page_token": None}

    def run(**more: Any) -> Any:
        span = ("2026-01-05", "2026-01-16")
        return fill(service, tmp_path, "stocks.bars", "AAPL", *span, adjustment="split", **more)

    later = time.time() + 1.5 * 86_400
    with serve(answer) as service:
        assert run().empty == 1
        monkeypatch.setattr("mdstream.history.backfill.time.time", lambda: later)
        if has_rows:
            price = 50.0  # a split of 2 for 1
            filled += [f"2026-01-{day:02}" for day in (12, 13, 14, 15, 16)]
        done = run(repair=is_repair)
        assert done.complete
        assert ("so that all adjusted bars have one scale" in caplog.text) is has_rows
        if has_rows:
            assert run().requests == 0
    bars = read(tmp_path, "stocks.bars", timeframe="1Min")
    assert bars.height == (10 if has_rows else 5)
    assert bars["close"].unique().to_list() == [price]


@pytest.mark.cases("S3")
def test_a_raw_series_that_is_extended_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(path: str, query: Query) -> Any:
        return {"bars": {query["symbols"]: [bar(query["start"])]}, "next_page_token": None}

    with serve(answer) as service:
        fill(service, tmp_path, "stocks.bars", "AAPL", "2026-01-05", "2026-01-09", timeframe="1Day")
        now = time.time() + 86_400
        monkeypatch.setattr("mdstream.history.backfill.time.time", lambda: now)
        done = fill(service, tmp_path, "stocks.bars", "AAPL", "2026-01-05", "2026-01-16", timeframe="1Day")
    assert done.requests == 1


# -- S11


@pytest.mark.cases("S11")
@pytest.mark.parametrize("kind", ["trades", "quotes", "bars"])
def test_the_day_as_of_which_symbols_are_meant_is_sent(kind: str, tmp_path: Path) -> None:
    with serve(lambda path, query: {kind: {}, "next_page_token": None}) as service:
        fill(service, tmp_path, f"stocks.{kind}", "META", DAY, DAY, asof="2022-06-08")
        fill(service, tmp_path, f"stocks.{kind}", "META", DAY, DAY, asof="-")
        fill(service, tmp_path, f"stocks.{kind}", "META", DAY, DAY)
    assert [query.get("asof") for _, query in service.requests] == ["2022-06-08", "-", None]


@pytest.mark.cases("S11")
def test_rows_as_of_different_days_are_not_mixed(tmp_path: Path) -> None:
    with serve(answer_trades({DAY: [trade("2026-01-05T15:00:00Z", 1)]})) as service:
        fill(service, tmp_path, "stocks.trades", "META", DAY, DAY)
        with pytest.raises(ConfigError, match="use the same asof, or another store"):
            fill(service, tmp_path, "stocks.trades", "META", DAY, DAY, asof="-")
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, asof="-").stored == 1
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, asof="-").requests == 0


@pytest.mark.cases("S11")
@pytest.mark.parametrize(
    ("kind", "is_one"), [("trades", True), ("quotes", True), ("bars", False)], ids=lambda each: str(each)
)
def test_rows_as_of_different_days_are_mixed_by_no_data_feed_if_all_feeds_are_one_series(
    kind: str, is_one: bool, tmp_path: Path
) -> None:
    quote = {
        "t": f"{DAY}T15:00:00Z",
        "bp": 1.0,
        "bs": 1,
        "bx": "V",
        "ap": 2.0,
        "as": 1,
        "ax": "V",
        "z": "C",
    }
    rows = {"trades": trade(f"{DAY}T15:00:00Z", 1), "quotes": quote, "bars": bar(f"{DAY}T15:00:00Z")}
    body = {kind: {"META": [rows[kind]]}, "next_page_token": None}
    with serve(lambda path, query: body) as service:
        fill(service, tmp_path, f"stocks.{kind}", "META", DAY, DAY, feed="iex", asof="2021-06-08")
        if is_one:
            with pytest.raises(ConfigError, match=r"META as 'iex/asof=2021-06-08'.* use the same asof"):
                fill(service, tmp_path, f"stocks.{kind}", "META", DAY, DAY, feed="sip")
        else:
            assert fill(service, tmp_path, f"stocks.{kind}", "META", DAY, DAY, feed="sip").stored == 1
        same = fill(service, tmp_path, f"stocks.{kind}", "META", DAY, DAY, feed="otc", asof="2021-06-08")
        assert same.stored == 1


@pytest.mark.cases("S11")
@pytest.mark.parametrize("asof", ["yesterday", "2022-13-01"])
def test_a_wrong_day_is_refused(asof: str) -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    with pytest.raises(ConfigError, match=r"asof .* is not a date"):
        make_request("stocks.trades", "META", DAY, DAY, now=now, asof=asof)
    with pytest.raises(ConfigError, match="has no asof"):
        make_request("crypto.trades", "BTC/USD", DAY, DAY, now=now, asof="2022-06-08")


# -- stores of version 0.2


def make_old_ledger(folder: Path) -> None:
    """Write a ledger as version 0.2 did: one shard with rows, an empty one, and an open one."""
    folder.mkdir(parents=True)
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        database.executescript(
            "CREATE TABLE shard (id INTEGER PRIMARY KEY, dataset TEXT NOT NULL, variant TEXT NOT NULL, "
            "symbol TEXT NOT NULL, first INTEGER NOT NULL, past INTEGER NOT NULL, "
            "state TEXT NOT NULL DEFAULT 'open', token TEXT NOT NULL DEFAULT '', "
            "pages INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0, "
            "rejected INTEGER NOT NULL DEFAULT 0, file INTEGER);"
            "CREATE TABLE file (id INTEGER PRIMARY KEY, dataset TEXT NOT NULL, path TEXT NOT NULL, "
            "version INTEGER, done INTEGER NOT NULL DEFAULT 0);"
            "CREATE TABLE known (dataset TEXT PRIMARY KEY, id TEXT NOT NULL);"
        )
        for day, state, rows in ((5, "stored", 9), (6, "stored", 0), (7, "open", 0)):
            first = round(datetime(2026, 1, day, tzinfo=UTC).timestamp()) * 1_000_000_000
            database.execute(
                "INSERT INTO shard (dataset, variant, symbol, first, past, state, rows) "
                "VALUES ('stocks.trades', 'iex', 'AAPL', ?, ?, ?, ?)",
                (first, first + DAY_NS, state, rows),
            )
    database.close()


@pytest.mark.cases("S2")
def test_a_ledger_of_the_version_before_is_read_and_continued(tmp_path: Path) -> None:
    folder = tmp_path / "_mdstream"
    make_old_ledger(folder)
    request = make_request(
        "stocks.trades", "AAPL", "2026-01-05", "2026-01-07", now=datetime(2026, 11, 30, tzinfo=UTC)
    )
    with LedgerView(folder) as view:
        found = view.shards_of("stocks.trades", "iex", "AAPL")
        assert [(each.state, each.rows, each.asked) for each in found] == [
            ("stored", 9, 0),
            ("stored", 0, 0),
            ("open", 0, 0),
        ]
    assert plan.estimate(request, tmp_path, 200).shards == 1
    with Ledger(folder) as ledger:
        found = ledger.shards_of("stocks.trades", "iex", "AAPL")
        assert [each.state for each in found] == ["stored", "empty", "open"]
        assert found[0].rows == 9
        assert plan.find_work(request, {"AAPL": found}, time.time()) == plan.ShardWork([], [found[1].id])
    with Ledger(folder) as ledger:  # again: nothing more to change
        assert [each.state for each in ledger.shards_of("stocks.trades", "iex", "AAPL")] == [
            "stored",
            "empty",
            "open",
        ]
