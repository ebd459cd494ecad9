"""An adjusted series has one scale at every moment: it is replaced as a whole or not at all."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

import mdstream
from mdstream.errors import Exit
from mdstream.history.ledger import Ledger
from mdstream.history.staging import Staging
from mdstream.store import table
from tests.forking import get_fork_context
from tests.history.service import Query, Refusal, Service, bar, fill, serve
from tests.running import HANGING_S

GIVEN = {"timeframe": "1Day", "adjustment": "split"}
SYMBOLS = ["AAPL", "MSFT"]
START = date(2022, 1, 1)
YEARS = (2022, 2023, 2024, 2025)
DAYS = [START + timedelta(7 * week) for week in range(240)]


class Market:
    """A service with a bar a week of each symbol, at the scale of the moment, and with faults."""

    def __init__(self) -> None:
        self.scale = 100.0
        self.fault: Callable[[str, int, list[dict[str, Any]]], Any] = lambda symbol, year, rows: None

    def __call__(self, path: str, query: Query) -> Any:
        first, last = datetime.fromisoformat(query["start"]), datetime.fromisoformat(query["end"])
        rows = [
            bar(f"{day}T05:00:00Z", self.scale)
            for day in DAYS
            if first <= datetime(day.year, day.month, day.day, 5, tzinfo=UTC) <= last
        ]
        answer = {"bars": {query["symbols"]: rows}, "next_page_token": None}
        return self.fault(query["symbols"], first.year, rows) or answer


def refuse(symbol: str, year: int, rows: Any) -> Any:
    raise Refusal(400, '{"message":"internal: cannot read this range"}')


def be_empty(symbol: str, year: int, rows: Any) -> Any:
    return {"bars": {}, "next_page_token": None}


def reject(symbol: str, year: int, rows: list[dict[str, Any]]) -> Any:
    return {"bars": {symbol: [{**row, "o": "much"} for row in rows]}, "next_page_token": None}


def be_endless(symbol: str, year: int, rows: list[dict[str, Any]]) -> Any:
    return {"bars": {symbol: rows}, "next_page_token": "a" * 100_000}


FAULTS = {
    refuse: "HTTP 400: internal: cannot read this range",
    be_empty: "the service has no rows of {year}-",
    reject: " were rejected, and no row is left",
    be_endless: "page token of 100,000 characters",
}


def fetch(service: Service, store: Path, end: str, start: str = f"{START}", **more: Any) -> Any:
    return fill(service, store, "stocks.bars", SYMBOLS, start, end, **GIVEN, **more)


def read_scales(store: Path) -> dict[str, list[float]]:
    rows = mdstream.scan("stocks.bars", store).collect()
    return dict(rows.group_by("symbol").agg(pl.col("close").unique().sort()).rows())


def count(store: Path, symbol: str) -> int:
    return mdstream.scan("stocks.bars", store, symbols=symbol).collect().height


def check_every_version(store: Path) -> None:
    """Check that no version of the table has a series with two scales."""
    folder = str(store / "stocks.bars")
    for version in range(DeltaTable(folder).version() + 1):
        rows = pl.scan_delta(folder, version=version).collect()
        if rows.height:
            assert rows.group_by("symbol").agg(pl.col("close").n_unique())["close"].max() == 1, version


@pytest.mark.parametrize("year", [YEARS[1], YEARS[3]])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("days", [0, 1])
def test_a_series_of_which_a_shard_fails_stays_as_it_is_until_all_of_it_is_fetched(
    days: int, fault: Any, year: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market()
    later = time.time() + days * 86_400

    def fail(symbol: str, of: int, rows: Any) -> Any:
        return fault(symbol, of, rows) if (symbol, of) == ("AAPL", year) else None

    with serve(market) as service:
        assert fetch(service, tmp_path, "2025-06-30").complete
        assert read_scales(tmp_path) == {"AAPL": [100.0], "MSFT": [100.0]}
        have = count(tmp_path, "AAPL")
        market.scale, market.fault = 10.0, fail
        done = fetch(service, tmp_path, "2025-12-31")
        assert done.exit_code == Exit.STREAM_FAILED
        assert list(done.failed) == ["AAPL"]
        assert FAULTS[fault].format(year=year) in done.failed["AAPL"]
        assert done.failed["AAPL"].endswith("; its stored series is unchanged")
        assert read_scales(tmp_path) == {"AAPL": [100.0], "MSFT": [10.0]}
        assert count(tmp_path, "AAPL") == have
        if days:
            market.scale = 1.0
            monkeypatch.setattr("mdstream.history.backfill.time.time", lambda: later)
        market.fault = lambda symbol, year, rows: None
        assert fetch(service, tmp_path, "2025-12-31").complete
        assert read_scales(tmp_path)["AAPL"] == [market.scale]
        assert count(tmp_path, "AAPL") == len([day for day in DAYS if day.year <= YEARS[-1]])
        assert fetch(service, tmp_path, "2025-12-31").requests == 0
    check_every_version(tmp_path)


@pytest.mark.parametrize("days", [0, 1])
def test_of_a_new_series_what_can_be_fetched_is_stored(
    days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market()
    market.fault = lambda symbol, year, rows: refuse(symbol, year, rows) if year == 2023 else None
    later = time.time() + days * 86_400
    with serve(market) as service:
        done = fetch(service, tmp_path, "2025-12-31")
        assert sorted(done.failed) == SYMBOLS
        assert "unchanged" not in str(done.failed)
        assert read_scales(tmp_path) == {"AAPL": [100.0], "MSFT": [100.0]}
        if days:
            monkeypatch.setattr("mdstream.history.backfill.time.time", lambda: later)
            market.scale = 10.0
        fetch(service, tmp_path, "2025-12-31")
        assert read_scales(tmp_path) == {"AAPL": [100.0], "MSFT": [100.0]}
        market.fault = lambda symbol, year, rows: None
        assert fetch(service, tmp_path, "2025-12-31").complete
        assert read_scales(tmp_path) == {"AAPL": [market.scale], "MSFT": [market.scale]}
    check_every_version(tmp_path)


def test_a_series_that_takes_days_to_fetch_is_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, real = Market(), time.time()
    with serve(market) as service:
        fetch(service, tmp_path, "2025-06-30")
        market.scale = 10.0
        with monkeypatch.context() as patch:
            ticks = itertools.count(1)
            patch.setattr("mdstream.history.backfill.time.time", lambda: real + 40_000 * next(ticks))
            done = fetch(service, tmp_path, "2025-12-31")
        assert sorted(done.failed) == SYMBOLS
        assert "parts requested on two days; run the same again" in done.failed["AAPL"]
        assert read_scales(tmp_path) == {"AAPL": [100.0], "MSFT": [100.0]}
        assert fetch(service, tmp_path, "2025-12-31").complete
    assert read_scales(tmp_path) == {"AAPL": [10.0], "MSFT": [10.0]}


PLACES: dict[str, Any] = {
    "add_page": Ledger,
    "reopen": Ledger,
    "add_files": Ledger,
    "begin_commit": Ledger,
    "replace_rows": table,
    "create_write_transaction": DeltaTable,
    "finish_commit": Ledger,
    "drop": Staging,
}
"""Functions that replace a series, and where they are."""


def die_at(url: str, store: Path, place: str, call: int) -> None:
    """Extend series, and die behind a call of a function."""
    real, calls = getattr(PLACES[place], place), []

    def die(*given: Any, **named: Any) -> Any:
        calls.append(place)
        if len(calls) > call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    setattr(PLACES[place], place, die)
    fetch(Service(url), store, "2025-12-31")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("call", [0, 3])
@pytest.mark.parametrize("place", PLACES)
def test_a_kill_while_a_series_is_extended_leaves_one_scale(
    place: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market()
    later = time.time() + 86_400
    with serve(market) as service:
        fetch(service, tmp_path, "2025-06-30")
        have = count(tmp_path, "MSFT")
        market.scale = 10.0
        child = get_fork_context().Process(target=die_at, args=(service.url, tmp_path, place, call))
        child.start()
        child.join(HANGING_S)
        assert child.exitcode == -signal.SIGKILL
        assert read_scales(tmp_path)["AAPL"] in ([100.0], [10.0])
        fill(service, tmp_path, "stocks.bars", "TSLA", "2025-01-01", "2025-06-30", **GIVEN)
        assert all(len(scales) == 1 for scales in read_scales(tmp_path).values())
        assert count(tmp_path, "MSFT") >= have
        market.scale = 1.0
        monkeypatch.setattr("mdstream.history.backfill.time.time", lambda: later)
        fetch(service, tmp_path, "2026-01-31")
        scales = read_scales(tmp_path)
        assert (scales["AAPL"], scales["MSFT"]) == ([1.0], [1.0])
    check_every_version(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_runs_and_fails_a_series_has_one_scale(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, market = random.Random(seed), Market()
    now = [time.time()]
    monkeypatch.setattr("mdstream.history.backfill.time.time", lambda: now[0])

    def fail(symbol: str, year: int, rows: Any) -> Any:
        fault = broken.get((symbol, year))
        return fault(symbol, year, rows) if fault else None

    market.fault = fail
    with serve(market) as service:
        for _ in range(6):
            if chance.random() < 0.6:  # a split, on another day
                now[0] += 86_400
                market.scale /= 2
            places = [(symbol, year) for symbol in SYMBOLS for year in YEARS]
            broken = {
                place: chance.choice([*FAULTS])
                for place in chance.sample(places, chance.choice([0, 0, 1, 3]))
            }
            start = chance.choice([2022, 2023])
            more = chance.choice([{}, {}, {"refetch": "all"}, {"refetch": f"{start}-03-01"}])
            fetch(service, tmp_path, f"{chance.choice(YEARS[1:])}-06-30", f"{start}-01-01", **more)
            if (tmp_path / "stocks.bars").exists():
                assert all(len(scales) == 1 for scales in read_scales(tmp_path).values())
        broken = {}
        fetch(service, tmp_path, "2025-12-31", refetch="all")
        assert fetch(service, tmp_path, "2025-12-31").complete
        assert read_scales(tmp_path) == {"AAPL": [market.scale], "MSFT": [market.scale]}
    check_every_version(tmp_path)
