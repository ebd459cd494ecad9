"""A request is cut into shards that cover it once. Wrong requests are refused with a clear error."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.errors import ConfigError
from mdstream.history.ledger import find_missing
from mdstream.history.request import DAY_NS, BackfillRequest, Shard, check_options, make_request
from mdstream.store.query import parse_time
from mdstream.streams.datasets import datasets
from mdstream.venues.alpaca.parameters import format_time
from mdstream.venues.alpaca.timeframes import minutes_of, name_timeframe

NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)


def make_test_request(dataset: str = "stocks.trades", **given: object) -> BackfillRequest:
    what = {"symbols": ["AAPL", "MSFT"], "start": "2026-01-05", "end": "2026-01-07", "now": NOW, **given}
    if dataset.startswith("options"):
        what["symbols"] = ["AAPL261218C00230000"]
    return make_request(dataset, **what)  # type: ignore[arg-type]


@pytest.mark.parametrize("dataset", datasets())
@given(start=st.datetimes(datetime(2019, 12, 30), datetime(2021, 1, 3)), hours=st.floats(0.001, 5_000))
def test_shards_cover_the_open_days_once_and_cross_no_partition(
    dataset: str, start: datetime, hours: float
) -> None:
    first = parse_time(start, "start")
    past = first + int(hours * 3600e9)
    asked_for = make_test_request(dataset, start=start, end=datetime.fromtimestamp(past // 10**9 + 1, UTC))
    for symbol in asked_for.symbols:
        mine = [shard for shard in asked_for.shards() if shard.symbol == symbol]
        ends = [asked_for.first, *(shard.past for shard in mine)]
        starts = [*(shard.first for shard in mine), asked_for.past]
        for end, start in zip(ends, starts, strict=True):
            assert end == start or (end < start and asked_for.is_closed(end, start))
        for shard in mine:
            assert shard.first < shard.past
            assert asked_for.partition(shard.first) == asked_for.partition(shard.past - 1)


@pytest.mark.parametrize(
    ("timeframe", "last"),
    [("1Min", "2026-11-24T17:58:00Z"), ("1Hour", "2026-11-24T16:59:00Z"), ("1Day", "2026-11-23T16:59:00Z")],
)
def test_bars_that_are_not_over_are_left_out_until_they_are(timeframe: str, last: str) -> None:
    asked_for = make_test_request("stocks.bars", timeframe=timeframe, end="2026-11-30")
    assert asked_for.past - 1 == parse_time(last, "")
    with pytest.raises(ConfigError, match="the first 1Day bar has not closed yet"):
        make_test_request("stocks.bars", timeframe="1Day", start="2026-11-24", end="2026-11-30")


@pytest.mark.parametrize(
    ("timeframe", "past", "until"),
    [
        ("1Min", "2026-01-05T14:31:00Z", "2026-01-05T14:31:00Z"),
        ("15Min", "2026-01-05T14:31:00Z", "2026-01-05T14:45:00Z"),
        ("1Hour", "2026-01-06", "2026-01-06"),
        ("7Min", "2026-01-06", "2026-01-06T00:07:00Z"),  # an hour is not a multiple of seven minutes
        ("1Day", "2026-01-06", "2026-01-07T01:00:00Z"),  # days begin at New York's midnight
    ],
)
def test_of_the_last_bar_the_whole_is_asked_for(timeframe: str, past: str, until: str) -> None:
    asked_for = make_test_request("stocks.bars", timeframe=timeframe)
    assert asked_for.query_end(parse_time(past, "")) == parse_time(until, "")
    assert make_test_request("stocks.trades").query_end(7) == 7


def test_a_text_alone_is_one_symbol() -> None:
    assert make_test_request(symbols="AAPL").symbols == ("AAPL",)
    assert make_test_request(priority="MSFT").urgent == {"MSFT"}


def test_urgent_symbols_come_first_and_the_rest_by_day() -> None:
    found = [(s.symbol, s.first // DAY_NS % 10) for s in make_test_request(priority=["MSFT"]).shards()]
    days = [parse_time(f"2026-01-0{d}", "") // DAY_NS % 10 for d in (5, 6, 7)]
    assert found == [*(("MSFT", d) for d in days), *(("AAPL", d) for d in days)]


def test_a_date_as_end_includes_that_day_and_what_is_not_over_is_left_out() -> None:
    found = make_test_request(start=date(2026, 1, 5), end="2026-01-05")
    assert found.past - found.first == DAY_NS
    assert make_test_request(end="2030-01-01").past == parse_time(NOW, "") - 60 * 10**9


def test_a_date_is_a_whole_day_in_any_form_and_one_that_is_far_away_is_now() -> None:
    days = {parse_time(text, "", whole_day=True) for text in ("2026-01-05", "20260105", "2026-W02-1")}
    assert days == {parse_time("2026-01-06T00:00:00Z", "")}
    assert make_test_request(end="9999-12-31").past == make_test_request(end="2030-01-01").past
    assert parse_time("9999-12-31", "") == parse_time("2262-01-01", "") < 2**63


@given(st.integers(0, 2**62))
def test_times_are_formatted_to_the_nanosecond(ns: int) -> None:
    text = format_time(ns)
    assert parse_time(text[:19] + "Z", "") + int(text[20:29]) == ns


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "stocks.bananas"}, "no history of 'stocks.bananas'; did you mean 'stocks.bars'"),
        ({"start": "yesterday"}, "'yesterday' is not a date or time; write 2026-01-05"),
        ({"start": "2026-02-01"}, "is not before end"),
        ({"start": "1500-01-05"}, "start: 1500-01-05 is before 1970"),
        ({"start": "2027-02-01", "end": "2027-02-02"}, ": not in the past"),
        ({"symbols": []}, "no symbol"),
        ({"symbols": ["A,B"]}, "'A,B' is not a symbol"),
        ({"symbols": ["aapl"]}, "symbols are in capitals, as AAPL"),
        ({"symbols": ["AAPL;MSFT"]}, "'AAPL;MSFT' is not a symbol: none has ';'"),
        ({"symbols": ["AAPL", ""]}, "the symbol is empty"),
        ({"feed": "sap"}, "is not one of iex, sip"),
        ({"timeframe": "1Min"}, "has no timeframe"),
        ({"dataset": "stocks.bars", "timeframe": "61Min"}, "'61Min' is not a timeframe; write 1Min"),
        ({"dataset": "stocks.bars", "timeframe": "7Month"}, "or Month after 1, 2, 3, 4, 6 or 12"),
        ({"dataset": "crypto.bars", "adjustment": "raw"}, "has no adjustment"),
        ({"priority": ["TSLA"]}, "priority 'TSLA' is not among the symbols"),
    ],
)
def test_what_is_wrong_is_reported(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_test_request(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adjustment": "some"}, "adjustment: 'some' is not one of raw, split"),
        ({"status": "al"}, "status: 'al' is not one of active, inactive, all"),
        ({"repair": "no"}, "repair: 'no' is neither true nor false"),
        ({"repair": 2}, "repair: 2 is neither true nor false"),
        ({"refetch": True}, "refetch: True is not a string such as 2026-01-05..2026-01-09"),
        ({"refetch": ["2026-01-05"]}, "refetch: .* is not a string"),
        ({"asof": 20220608}, "asof: 20220608 is not a string such as 2022-06-08"),
        ({"asof": timedelta(days=1)}, "asof: .* is not a string"),
        ({"feed": date(2026, 1, 5)}, "feed: .* is not a string"),
        ({"feed": ["sip"]}, "feed: .* is not a string"),
        ({"timeframe": 5}, "timeframe: 5 is not a string such as 1Hour"),
        (
            {"timeframe": timedelta(seconds=90)},
            "timeframe: no bars of the service have a length of 0:01:30",
        ),
        ({"timeframe": timedelta(minutes=-1)}, "timeframe: no bars of the service have a length of -1 day"),
        ({"priority": 5}, "priority: 5 is not a list of strings"),
        ({"priority": [5]}, "priority: .* is not a list of strings"),
    ],
)
def test_each_option_is_checked_by_its_declaration(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(given)


def test_options_have_the_types_that_python_has_for_them() -> None:
    given = {
        "timeframe": timedelta(hours=1),
        "asof": date(2022, 6, 8),
        "refetch": date(2026, 1, 5),
        "priority": "A,B",
        "adjustment": "Split",
        "repair": "true",
        "feed": None,
        "status": "",
    }
    assert check_options(given) == {
        "timeframe": "1Hour",
        "asof": "2022-06-08",
        "refetch": "2026-01-05",
        "priority": ["A", "B"],
        "adjustment": "split",
        "repair": True,
    }


@pytest.mark.parametrize("name", ["1Min", "59Min", "1Hour", "23Hour", "1Day", "1Week"])
def test_a_timeframe_is_named_by_its_length(name: str) -> None:
    assert name_timeframe(timedelta(minutes=minutes_of(name))) == name


def test_options_are_asked_for_by_contract() -> None:
    with pytest.raises(ConfigError, match="looks like AAPL261218C00230000"):
        make_request("options.trades", ["AAPL"], "2026-01-05", "2026-01-06", now=NOW)


STRETCH = st.tuples(st.integers(0, 40), st.integers(1, 12)).map(
    lambda pair: Shard("A", pair[0], pair[0] + pair[1])
)


@given(STRETCH, st.lists(STRETCH, max_size=6))
def test_what_is_missing_is_what_nobody_covers(wanted: Shard, have: list[Shard]) -> None:
    left = find_missing(wanted, have)
    covered = {t for shard in have for t in range(shard.first, shard.past)}
    got = [t for shard in left for t in range(shard.first, shard.past)]
    assert got == [t for t in range(wanted.first, wanted.past) if t not in covered]
