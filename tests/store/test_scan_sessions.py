"""`scan`, frames and export agree on the session of a row."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import mdstream
from mdstream.cli.app import app
from mdstream.errors import ConfigError, UnknownNameError
from mdstream.handoff.rejects import RejectRow
from mdstream.reading.filters import keep_sessions
from mdstream.store.query import parse_time
from mdstream.store.rejects import RejectFile
from tests.history.service import bar, fill, serve

DAY = "2026-01-05"
CONTRACT = "SPY260116C00600000"
SESSIONS = ("pre", "regular", "post", "overnight")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with trades of a contract until 16:15 in New York, and with stock bars."""
    folder = tmp_path_factory.mktemp("store")
    times = ["14:00", "14:30", "21:05", "21:15"]
    trades = [{"t": f"{DAY}T{at}:00Z", "p": 1.0, "s": 1, "x": "A", "c": "I"} for at in times]
    starts = {"1Min": "15:00:00Z", "1Hour": "13:00:00Z", "1Day": "05:00:00Z", "1Week": "05:00:00Z"}

    def answer(path: str, query: dict[str, str]) -> object:
        if path.endswith("trades"):
            return {"trades": {CONTRACT: trades}, "next_page_token": None}
        found = [bar(f"{DAY}T{starts[query['timeframe']]}")]
        return {"bars": {query["symbols"]: found}, "next_page_token": None}

    with serve(answer) as service:
        fill(service, folder, "options.trades", CONTRACT, DAY, DAY)
        for timeframe in starts:
            fill(service, folder, "stocks.bars", "AAPL", DAY, DAY, timeframe=timeframe)
    return folder


@pytest.mark.parametrize("session", SESSIONS)
def test_a_scan_and_a_frame_of_the_same_rows_have_the_same_session(store: Path, session: str) -> None:
    expected = [f"{DAY} 14:30", f"{DAY} 21:05"] if session == "regular" else []
    rows = mdstream.scan("options.trades", store).collect()
    scanned = mdstream.scan("options.trades", store, session=session).collect()
    for found in (scanned, keep_sessions(rows, session, "options.trades")):
        assert found["ts"].dt.strftime("%Y-%m-%d %H:%M").to_list() == expected


def test_bars_of_a_day_or_longer_are_in_no_session(store: Path) -> None:
    found = mdstream.scan("stocks.bars", store, session=SESSIONS).collect()
    assert sorted(found["timeframe"]) == ["1Hour", "1Min"]
    for timeframe in ("1Day", "1Week"):
        with pytest.raises(ConfigError, match=f"session: a bar of {timeframe} is in no session"):
            mdstream.scan("stocks.bars", store, timeframe=timeframe, session="regular")
    live = pl.DataFrame({"ts": found["ts"], "kind": ["minute", "daily"]})
    assert keep_sessions(live, SESSIONS, "stocks.bars")["kind"].to_list() == ["minute"]


def test_rejects_have_sessions_too(tmp_path: Path) -> None:
    rejects = RejectFile(tmp_path / "_mdstream" / "rejects" / "stocks.trades.jsonl")
    rejects.keep([RejectRow("trades", "x", "y", b"", parse_time(f"{DAY}T15:00", "start"))])
    assert mdstream.scan("stocks.rejects", tmp_path, session="regular").collect().height == 1
    assert mdstream.scan("stocks.rejects", tmp_path, session="pre").collect().is_empty()
    with pytest.raises(UnknownNameError, match="'nope' is not a session"):
        mdstream.scan("stocks.rejects", tmp_path, session="nope")


def test_an_export_takes_sessions(store: Path, tmp_path: Path) -> None:
    flags = ["export", "options.trades", "--store", str(store), "--session", "regular,pre", "--to"]
    done = CliRunner().invoke(app, [*flags, str(tmp_path / "x.csv")])
    assert done.output.startswith("2 rows")
