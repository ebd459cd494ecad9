"""A backfill stores exactly the simulator's records, through faults, kills and restarts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mdstream
from mdstream.errors import ConfigError, CredentialsError, NetworkError, StoreError
from mdstream.history.ledger import Ledger
from mdstream.history.plan import add_work
from mdstream.history.request import make_request
from mdstream.store.query import parse_time
from mdstream.streams import STREAMS
from tests import warm
from tests.history.truth import records
from tests.running import HANGING_S, RunningSimulator, simulator, until

KEYS = {"key_id": "k", "secret_key": "s"}
TRADE = {"ts": "t", "symbol": "S", "price": "p", "size": "s", "exchange": "x", "tape": "z", "id": "i"}


@pytest.fixture(scope="module")
def sim() -> Iterator[RunningSimulator]:
    with simulator("--rate", "1") as running:
        yield running


@pytest.fixture(autouse=True)
def clear_faults(sim: RunningSimulator) -> Iterator[None]:
    yield
    sim.faults()


def fill(
    sim: RunningSimulator,
    store: Path,
    dataset: str,
    symbols: list[str],
    start: str,
    end: str,
    **options: Any,
) -> Any:
    given = {"backfill": {"workers": 0}, **options.pop("settings", {})}
    values = {"data_url": sim.data_url, "credentials": KEYS, **given}
    return mdstream.backfill(dataset, symbols, start, end, store=store, settings=values, **options)


def expected_trades(symbols: list[str], start: str, end: str) -> pl.DataFrame:
    """Return the simulator's trades as `scan` should return them."""
    first, past = parse_time(start, ""), parse_time(end, "")
    rows = [
        {name: {"S": symbol, **record}[key] for name, key in TRADE.items()}
        | {"conditions": "".join(record["c"])}
        for symbol in sorted(symbols)
        for record in records("stocks", "trades", symbol, first, past)
    ]
    return pl.DataFrame(rows).with_columns(
        pl.col("ts").cast(pl.Datetime("ns", "UTC")), pl.col("size").cast(pl.Float64)
    )


def scan_store(store: Path, dataset: str = "stocks.trades", **given: Any) -> pl.DataFrame:
    return mdstream.scan(dataset, store, **given).collect()


def compare(store: Path, symbols: list[str], start: str, end: str) -> None:
    truth = expected_trades(symbols, start, end)
    found = scan_store(store).select(truth.columns).sort("symbol", "ts")
    assert_frame_equal(found, truth)


class _Stub(BaseHTTPRequestHandler):
    """A service that answers each request with the bars of two symbols, one of them twice."""

    def do_GET(self) -> None:
        bar = {"t": "2026-01-05T15:00:00Z", "o": 1, "h": 2, "l": 1, "c": 2, "v": 10, "n": 3, "vw": 1.5}
        later = {**bar, "t": "2026-01-05T15:01:00Z"}
        body = {"bars": {"MSFT": [bar, bar, later], "AAPL": [bar, later, later]}, "next_page_token": None}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@pytest.mark.cases("I4")
def test_repeated_rows_and_rows_of_other_symbols_are_stored_once(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Stub) as server:
        threading.Thread(target=server.serve_forever).start()
        values = {
            "data_url": f"http://127.0.0.1:{server.server_port}",
            "credentials": KEYS,
            "backfill": {"workers": 0},
        }
        for symbols in (["AAPL"], ["MSFT"]):
            status = mdstream.backfill(
                "stocks.bars",
                symbols,
                "2026-01-05T15:00Z",
                "2026-01-05T15:02Z",
                store=tmp_path,
                settings=values,
            )
            assert (status.complete, status.stored, status.repeated) == (True, 2, 1)
        server.shutdown()
    table = pl.read_delta(str(tmp_path / "stocks.bars"))
    assert sorted(table["symbol"]) == ["AAPL", "AAPL", "MSFT", "MSFT"]
    assert scan_store(tmp_path, "stocks.bars").height == 4


HOURS = ("2026-01-05T14:00:00Z", "2026-01-05T17:00:00Z")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_store_is_the_truth_across_days_and_pages(
    sim: RunningSimulator, tmp_path: Path, workers: int
) -> None:
    start, end = "2026-01-05T20:00:00.000000001Z", "2026-01-06T03:59:59.5Z"
    settings = {"backfill": {"workers": workers}}
    status = fill(sim, tmp_path, "stocks.trades", ["MSFT", "AAPL"], start, end, settings=settings)
    assert status.complete
    assert status.rows == status.stored == scan_store(tmp_path).height
    assert status.shards == pytest.approx(status.done) == 4
    assert status.pages == status.requests == 8  # four hours with one trade per second fill two pages
    compare(tmp_path, ["AAPL", "MSFT"], "2026-01-05T20:00:00Z", "2026-01-06T03:59:59.5Z")
    assert sorted(p.name for p in (tmp_path / "stocks.trades" / "feed=iex").iterdir()) == [
        "date=2026-01-05",
        "date=2026-01-06",
    ]


def test_what_is_there_is_not_fetched_again_and_a_wider_range_fetches_the_rest(
    sim: RunningSimulator, tmp_path: Path
) -> None:
    fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS)
    again = fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS)
    assert (again.requests, again.already, again.complete) == (0, 1, True)
    wider = fill(sim, tmp_path, "stocks.trades", ["AAPL"], "2026-01-05T13:30:00Z", "2026-01-05T17:30:00Z")
    assert wider.rows == 2 * 1800
    compare(tmp_path, ["AAPL"], "2026-01-05T13:30:00Z", "2026-01-05T17:30:00Z")


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_of_the_service_cost_time_and_no_row(
    sim: RunningSimulator, tmp_path: Path, workers: int
) -> None:
    sim.faults("rest=500*2", "rest=429*1", "cut*2", "slow=0.2*2")
    settings = {"backfill": {"workers": workers}}
    status = fill(sim, tmp_path, "stocks.trades", ["AAPL", "MSFT", "NVDA"], *HOURS, settings=settings)
    assert status.complete
    assert status.requests > status.pages
    compare(tmp_path, ["AAPL", "MSFT", "NVDA"], *HOURS)


def test_a_token_that_the_service_no_longer_knows_costs_its_shard_a_new_start(
    sim: RunningSimulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at = datetime(2026, 11, 30, tzinfo=UTC)
    request = make_request("stocks.trades", ["AAPL"], *HOURS, feed="sip", now=at)
    with Ledger(tmp_path / "_mdstream") as ledger:
        add_work(request, ledger, time.time())
        [progress] = ledger.find("stocks.trades", request.variant, "open")
        ledger.add_page(progress, 0, 0, "nonsense")
    assert fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS, feed="sip").complete
    assert "AAPL: the service no longer knows its page token" in caplog.text
    compare(tmp_path, ["AAPL"], *HOURS)


def test_a_symbol_that_is_refused_costs_no_other_one(sim: RunningSimulator, tmp_path: Path) -> None:
    sim.faults("symbol=NOPE")
    status = fill(sim, tmp_path, "stocks.trades", ["AAPL", "NOPE"], "2026-01-05", "2026-01-06")
    assert not status.complete
    assert "invalid symbol: NOPE" in status.failed["NOPE"]
    assert set(scan_store(tmp_path)["symbol"]) == {"AAPL"}


def test_a_key_that_is_refused_ends_it(tmp_path: Path) -> None:
    with simulator(env={"SIMULATOR_KEY_ID": "right", "SIMULATOR_SECRET_KEY": "right"}) as strict:
        with pytest.raises(CredentialsError):
            fill(strict, tmp_path, "stocks.trades", ["AAPL"], *HOURS)


@pytest.mark.parametrize(
    ("dataset", "symbol", "columns"),
    [
        ("stocks.quotes", "AAPL", {"bid_price": "bp", "ask_size": "as", "bid_exchange": "bx"}),
        ("crypto.trades", "BTC/USD", {"price": "p", "size": "s", "taker_side": "tks", "id": "i"}),
        ("crypto.quotes", "BTC/USD", {"bid_price": "bp", "ask_size": "as"}),
        ("options.trades", "AAPL261218C00230000", {"price": "p", "size": "s", "exchange": "x"}),
    ],
)
def test_every_stream_of_ticks(
    sim: RunningSimulator, tmp_path: Path, dataset: str, symbol: str, columns: dict[str, str]
) -> None:
    start, end = "2026-01-05T14:00:00Z", "2026-01-05T14:20:00Z"
    assert fill(sim, tmp_path, dataset, [symbol], start, end).complete
    stream, _, what = dataset.partition(".")
    truth = records(stream, what, symbol, parse_time(start, ""), parse_time(end, ""))
    found = scan_store(tmp_path, dataset)
    assert found["ts"].cast(pl.Int64).to_list() == [record["t"] for record in truth]
    for name, key in columns.items():
        assert found[name].to_list() == [record[key] for record in truth], name


@pytest.mark.parametrize("dataset", ["stocks.bars", "crypto.bars", "options.bars"])
def test_bars_of_two_years(sim: RunningSimulator, tmp_path: Path, dataset: str) -> None:
    symbol = {"stocks": "AAPL", "crypto": "ETH/USD", "options": "AAPL261218C00230000"}[
        dataset.partition(".")[0]
    ]
    start, end = "2024-12-01T00:00:00Z", "2025-02-01T00:00:00Z"
    assert fill(sim, tmp_path, dataset, [symbol], start, end, timeframe="15Min").complete
    assert fill(sim, tmp_path, dataset, [symbol], start, end, timeframe="1Hour").complete
    for timeframe in ("15Min", "1Hour"):
        truth = records(
            dataset.partition(".")[0], "bars", symbol, parse_time(start, ""), parse_time(end, ""), timeframe
        )
        found = scan_store(tmp_path, dataset, timeframe=timeframe).sort("ts")
        assert found["ts"].cast(pl.Int64).to_list() == [record["t"] for record in truth]
        for name, key in {"open": "o", "high": "h", "volume": "v", "vwap": "vw"}.items():
            assert found[name].to_list() == [record[key] for record in truth], name
        assert set(found["year"]) == {2024, 2025}


@pytest.mark.parametrize("timeframe", ["45Min", "23Hour", "1Week", "3Month"])
def test_bars_are_whole_wherever_a_range_is_cut(
    sim: RunningSimulator, tmp_path: Path, timeframe: str
) -> None:
    cuts = ["2023-11-07T11:11:11Z", "2023-12-15T07:07:07Z", "2024-02-01T01:00:00Z"]
    for start, end in itertools.pairwise(cuts):  # the simulator truncates the bar at the end of a request
        assert fill(sim, tmp_path, "crypto.bars", ["ETH/USD"], start, end, timeframe=timeframe)
    first, past = parse_time(cuts[0], ""), parse_time(cuts[-1], "")
    truth = records("crypto", "bars", "ETH/USD", first, past, timeframe)
    found = scan_store(tmp_path, "crypto.bars").sort("ts")
    assert found["ts"].cast(pl.Int64).to_list() == [record["t"] for record in truth]
    assert found["volume"].to_list() == [record["v"] for record in truth]
    assert found["trade_count"].to_list() == [record["n"] for record in truth]


def test_an_article_on_two_symbols_is_there_once(sim: RunningSimulator, tmp_path: Path) -> None:
    status = fill(sim, tmp_path, "news.articles", ["AAPL", "MSFT"], "2026-01-05", "2026-01-07")
    assert status.complete
    found = scan_store(tmp_path, "news.articles")
    assert found["id"].is_unique().all()
    assert found.height >= 2 * 3 * 24
    only = scan_store(tmp_path, "news.articles", symbols=["MSFT"])
    assert only["symbols"].list.contains("MSFT").all()
    assert 0 < only.height <= found.height


def test_all_news_is_fetched_at_once(sim: RunningSimulator, tmp_path: Path) -> None:
    status = fill(sim, tmp_path, "news", [], "2026-01-05", "2026-01-06")
    assert status.complete
    assert status.shards == 2  # one per day
    every = scan_store(tmp_path, "news")
    assert set(every["symbols"].explode()) >= set(STREAMS["news"].symbols)
    fill(sim, tmp_path, "news.articles", ["AAPL"], "2026-01-05", "2026-01-06")
    assert scan_store(tmp_path, "news").height == every.height  # all news includes the news of AAPL
    some = scan_store(tmp_path, "news", symbols=["GOOG?", "AMD"])
    assert (
        some.height
        == every.filter(pl.col("symbols").list.eval(pl.element().is_in(["GOOGL", "AMD"])).list.any()).height
        > 0
    )


def test_scan_reads_what_was_asked_for(sim: RunningSimulator, tmp_path: Path) -> None:
    fill(sim, tmp_path, "stocks.trades", ["AAPL", "MSFT"], "2026-01-05T22:00:00Z", "2026-01-06T02:00:00Z")
    some = scan_store(tmp_path, symbols=["AAPL"], start="2026-01-05T23:30:00Z", end="2026-01-06T00:30:00Z")
    assert set(some["symbol"]) == {"AAPL"}
    truth = expected_trades(["AAPL"], "2026-01-05T23:30:00Z", "2026-01-06T00:30:00Z")
    assert some["ts"].sort().to_list() == truth["ts"].to_list()
    for pattern in ("A*", "A??L", "[AX]APL"):
        assert set(scan_store(tmp_path, symbols=pattern)["symbol"]) == {"AAPL"}
    assert scan_store(tmp_path, symbols=["MSFT", "A*"]).height == scan_store(tmp_path).height
    exact = truth["ts"].cast(pl.Int64)[100]
    at = f"2026-01-05T{pl.Series([exact]).cast(pl.Datetime('ns'))[0]:%H:%M:%S}Z"
    assert scan_store(tmp_path, start=at, end="2026-01-06")["ts"].min() is not None
    plan = mdstream.scan("stocks.trades", tmp_path, start="2026-01-06").explain()
    assert plan.count(".parquet") <= 1 or "2026-01-05" not in plan


def test_other_programs_read_the_store(sim: RunningSimulator, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS)
    files = str(tmp_path / "stocks.trades" / "**" / "*.parquet")
    [(count, least)] = duckdb.sql(
        f"SELECT count(*), min(epoch_us(ts) * 1000 + ts_ns) FROM read_parquet('{files}', "
        "hive_partitioning = true) WHERE symbol = 'AAPL' AND date = '2026-01-05'"
    ).fetchall()
    truth = records("stocks", "trades", "AAPL", *(parse_time(t, "") for t in HOURS))
    assert (count, least) == (len(truth), truth[0]["t"])


def test_without_a_store_or_with_a_wrong_name_it_is_reported(tmp_path: Path) -> None:
    with pytest.raises(mdstream.NoStoreError, match=r"mdstream backfill stocks\.trades"):
        mdstream.scan("stocks.trades", tmp_path)
    with pytest.raises(ConfigError, match=r"'stocks\.foo'"):
        mdstream.scan("stocks.foo", tmp_path)


def test_a_commit_that_fails_is_reported_and_the_next_run_makes_it(
    sim: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdstream.history import filing
    from mdstream.store import table

    monkeypatch.setattr(filing, "ROWS_PER_FILE", 10_000)
    real, calls = table.StoreTable.commit, []

    def commit(self: table.StoreTable, files: Any, version: int, old: Any) -> None:
        calls.append(version)
        if len(calls) == 1:
            raise mdstream.StoreError("the disk is gone")
        real(self, files, version, old)

    monkeypatch.setattr(table.StoreTable, "commit", commit)
    with pytest.raises(mdstream.StoreError, match=r"the disk is gone|an earlier commit failed"):
        fill(sim, tmp_path, "stocks.trades", ["AAPL", "MSFT", "NVDA"], *HOURS)
    assert len(calls) == 1
    assert fill(sim, tmp_path, "stocks.trades", ["AAPL", "MSFT", "NVDA"], *HOURS).complete
    compare(tmp_path, ["AAPL", "MSFT", "NVDA"], *HOURS)


def test_a_script_needs_no_key_for_a_server_here_and_no_guard(
    sim: RunningSimulator, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import mdstream\n"
        "with open('ran', 'a') as file: file.write('x')\n"
        "done = mdstream.backfill('stocks.trades', ['AAPL'], '2026-01-05', '2026-01-05T01:00:00Z',\n"
        f"    store='store', settings={{'data_url': {sim.data_url!r}, 'backfill': {{'workers': 2}}}})\n"
        "print(done.stored, done.failed)\n"
    )
    keyless = {name: text for name, text in os.environ.items() if not name.startswith("APCA_")}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=keyless,
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        check=False,
    )
    assert done.stdout == "3600 {}\n", done.stderr
    assert (tmp_path / "ran").read_text() == "x", "workers must not run the script"
    assert not done.stderr


# -- kills of the command


def command(sim: RunningSimulator, store: Path, *flags: str) -> list[str]:
    return [
        "mdstream",
        "backfill",
        "stocks.trades",
        "--symbols",
        "AAPL,MSFT,NVDA",
        "--start",
        "2026-01-05",
        "--end",
        "2026-01-05T12:00:00Z",
        "--store",
        str(store),
        "--data-url",
        sim.data_url,
        "--workers",
        "1",
        "--json",
        *flags,
    ]


ENV = {**os.environ, "APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s"}


def kill_until_done(sim: RunningSimulator, store: Path, kills: int, seed: int) -> int:
    """Kill the backfill `kills` times at random moments, then let it end; return how many kills hit it."""
    chance, alive = random.Random(seed), 0
    for _ in range(kills):
        process = warm.start(
            *command(sim, store), env=ENV, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chance.uniform(0.3, 4.0))
        alive += process.poll() is None
        kill = chance.choice([os.kill, os.killpg])  # only the process, or also its children
        with contextlib.suppress(ProcessLookupError):
            kill(process.pid, signal.SIGKILL)
        process.wait()
    done = warm.run(*command(sim, store), env=ENV, timeout=HANGING_S)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"]
    return alive


def test_a_backfill_that_is_killed_again_and_again_stores_all_once(
    sim: RunningSimulator, tmp_path: Path
) -> None:
    assert kill_until_done(sim, tmp_path, kills=5, seed=1)
    compare(tmp_path, ["AAPL", "MSFT", "NVDA"], "2026-01-05T00:00:00Z", "2026-01-05T12:00:00Z")
    assert not list((tmp_path / "_mdstream" / "staging").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills(sim: RunningSimulator, tmp_path: Path) -> None:
    for seed in range(10):
        store = tmp_path / str(seed)
        kill_until_done(sim, store, kills=10, seed=seed)
        compare(store, ["AAPL", "MSFT", "NVDA"], "2026-01-05T00:00:00Z", "2026-01-05T12:00:00Z")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_millions_of_rows_are_the_truth_through_faults(sim: RunningSimulator, tmp_path: Path) -> None:
    symbols = [f"S{i}" for i in range(30)]
    start, end = "2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z"
    sim.faults("rest=500*20", "rest=429*5", "cut*20", "slow=1.5*20")
    settings = {"backfill": {"workers": 2}, "fetch": {"attempts": 10, "deadline_s": 300}}
    status = fill(sim, tmp_path, "stocks.trades", symbols, start, end, settings=settings)
    assert status.complete
    assert status.requests > status.pages, "faults must have caused more requests"
    assert status.stored == 30 * 86_400
    for symbol in symbols:
        truth = expected_trades([symbol], start, end)
        found = scan_store(tmp_path, symbols=[symbol]).select(truth.columns).sort("ts")
        assert_frame_equal(found, truth)


def test_ctrl_c_stops_it_and_the_next_run_goes_on(sim: RunningSimulator, tmp_path: Path) -> None:
    sim.faults("slow=1.5")
    process = warm.start(
        *command(sim, tmp_path), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: list((tmp_path / "_mdstream" / "staging").glob("*")))  # the first page is there
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=HANGING_S)
    assert process.returncode == 130
    first = json.loads(out)
    assert first["interrupted"]
    sim.faults()
    done = warm.run(*command(sim, tmp_path), env=ENV)
    second = json.loads(done.stdout)
    assert first["pages"] + second["pages"] <= 15 + 1
    compare(tmp_path, ["AAPL", "MSFT", "NVDA"], "2026-01-05T00:00:00Z", "2026-01-05T12:00:00Z")


def test_two_at_a_time_are_one_too_many(sim: RunningSimulator, tmp_path: Path) -> None:
    from mdstream.history.ledger import Ledger

    with Ledger(tmp_path / "_mdstream"):
        done = warm.run(*command(sim, tmp_path), env=ENV)
        dry = warm.run(*command(sim, tmp_path, "--dry-run"), env=ENV)
    assert done.returncode == 2
    assert f"process {os.getpid()} is already filling" in done.stderr
    answer = json.loads(done.stdout)
    assert not answer["complete"], "a refused backfill is not complete"
    assert "is already filling" in answer["error"]
    assert dry.returncode == 0, "a dry run is allowed"
    assert json.loads(dry.stdout)["shards"] == 3


def test_a_table_without_its_ledger_is_not_filled_twice(sim: RunningSimulator, tmp_path: Path) -> None:
    fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS)
    (tmp_path / "_mdstream" / "ledger.sqlite").unlink()
    with pytest.raises(StoreError, match=r"does not match .* \(commit 1 of .*, expected 0 of none"):
        fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS)
    compare(tmp_path, ["AAPL"], *HOURS)


def test_a_table_that_was_removed_is_fetched_again(sim: RunningSimulator, tmp_path: Path) -> None:
    fill(sim, tmp_path, "stocks.trades", ["AAPL", "MSFT"], *HOURS)
    shutil.rmtree(tmp_path / "stocks.trades")
    status = fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS)
    assert status.stored == 3 * 3600
    compare(tmp_path, ["AAPL"], *HOURS)
    assert fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS).already == 1


def test_commits_that_the_table_lost_are_fetched_again(sim: RunningSimulator, tmp_path: Path) -> None:
    store, table = tmp_path / "store", tmp_path / "store" / "stocks.trades"
    fill(sim, store, "stocks.trades", ["AAPL"], *HOURS)
    shutil.copytree(table, tmp_path / "before")
    fill(sim, store, "stocks.trades", ["MSFT"], *HOURS)
    shutil.rmtree(table)
    shutil.copytree(tmp_path / "before", table)
    status = fill(sim, store, "stocks.trades", ["AAPL", "MSFT"], *HOURS)
    assert (status.already, status.stored) == (1, 3 * 3600)
    compare(store, ["AAPL", "MSFT"], *HOURS)


def test_another_table_or_one_without_its_files_is_reported(sim: RunningSimulator, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    fill(sim, one, "stocks.trades", ["AAPL"], *HOURS)
    fill(sim, two, "stocks.trades", ["MSFT"], *HOURS)
    shutil.rmtree(one / "stocks.trades")
    shutil.copytree(two / "stocks.trades", one / "stocks.trades")
    with pytest.raises(StoreError, match=r"does not match .* \(commit 1 of .*, expected 1 of"):
        fill(sim, one, "stocks.trades", ["AAPL"], *HOURS)
    (file,) = (two / "stocks.trades").glob("feed=*/*/*.parquet")
    file.unlink()
    with pytest.raises(StoreError, match=r"1 files of .* are missing, such as .*parquet: restore them"):
        fill(sim, two, "stocks.trades", ["MSFT"], *HOURS)
    shutil.rmtree(two / "stocks.trades")
    assert fill(sim, two, "stocks.trades", ["MSFT"], *HOURS).complete
    compare(two, ["MSFT"], *HOURS)


def test_a_table_that_is_removed_while_it_is_filled_is_noticed(
    sim: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdstream.store import table

    real, begun, removed = table.StoreTable.commit, [], threading.Event()

    def commit(self: table.StoreTable, files: Any, version: int, old: Any) -> None:
        begun.append(version)
        assert len(begun) == 1 or removed.wait(HANGING_S)
        real(self, files, version, old)

    def remove(status: Any) -> None:
        if status.stored and not removed.is_set():
            shutil.rmtree(tmp_path / "stocks.trades")
            removed.set()

    monkeypatch.setattr(table.StoreTable, "commit", commit)

    span = ("2026-01-05T23:00:00Z", "2026-01-06T01:00:00Z")  # one commit per day
    message = r"stocks\.trades (was removed or replaced|cannot be read|cannot be written)"
    with pytest.raises(StoreError, match=message):
        fill(sim, tmp_path, "stocks.trades", ["AAPL"], *span, progress=remove)
    assert fill(sim, tmp_path, "stocks.trades", ["AAPL"], *span).complete
    compare(tmp_path, ["AAPL"], *span)


def test_a_wrong_flag_is_reported_in_json_too(sim: RunningSimulator, tmp_path: Path) -> None:
    done = warm.run(*command(sim, tmp_path, "--feed", "sap"), env=ENV)
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert not answer["complete"]
    assert "feed 'sap' is not one of" in answer["error"]


def test_what_is_not_a_ledger_is_reported(sim: RunningSimulator, tmp_path: Path) -> None:
    (tmp_path / "_mdstream").mkdir()
    (tmp_path / "_mdstream" / "ledger.sqlite").write_text("not a ledger, but a text " * 99)
    for flags in ([], ["--dry-run"]):
        done = warm.run(*command(sim, tmp_path, *flags), env=ENV)
        assert done.returncode == 1
        assert "file is not a database" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_ends_it_and_is_reported_once(
    sim: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdstream.history.backfill._FIRST_CONTACT_S", 0.5)
    monkeypatch.setattr("mdstream.session.budget.WINDOW_S", 10 * HANGING_S)
    symbols = [f"S{number}" for number in range(300)]  # the budget is 200 per minute
    nowhere = {"data_url": "http://127.0.0.1:9"}
    began = time.monotonic()
    with pytest.raises(NetworkError, match=r"cannot reach http://127\.0\.0\.1:9"):
        fill(sim, tmp_path, "stocks.trades", symbols, *HOURS, settings=nowhere)
    assert time.monotonic() - began < HANGING_S, "symbols must not wait for the budget"
    monkeypatch.undo()
    assert fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS).complete, "the next run continues"


def test_without_a_terminal_a_line_now_and_then_shows_how_far_it_is(
    sim: RunningSimulator, tmp_path: Path
) -> None:
    sim.faults("slow=3*3")
    code = "import mdstream.cli.backfill_view as b; b._LINE_EVERY_S = 0.5\nfrom mdstream.cli import main; main()"
    arguments = command(sim, tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments[arguments.index("backfill") :]],
        env=ENV,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if " shards, " in line]
    assert len(lines) >= 2
    assert lines[0].startswith("stocks.trades: 0.0 of 3 shards, 0 rows, ")


def test_a_dry_run_fetches_nothing(sim: RunningSimulator, tmp_path: Path) -> None:
    done = warm.run(*command(sim, tmp_path / "none", "--dry-run"), env=ENV)
    assert done.returncode == 0
    assert json.loads(done.stdout)["shards"] == 3
    assert not (tmp_path / "none").exists()


def test_several_symbols_in_one_text_are_refused(sim: RunningSimulator, tmp_path: Path) -> None:
    assert fill(sim, tmp_path, "stocks.trades", "AAPL", *HOURS).complete  # type: ignore[arg-type]
    assert scan_store(tmp_path, symbols="AAPL").height
    with pytest.raises(ConfigError, match="'AAPL,MSFT' is not a symbol"):
        scan_store(tmp_path, symbols="AAPL,MSFT")


def test_an_estimate_goes_by_what_the_store_has(sim: RunningSimulator, tmp_path: Path) -> None:
    assert fill(sim, tmp_path, "stocks.trades", ["AAPL"], *HOURS).complete
    done = warm.run(*command(sim, tmp_path, "--dry-run"), env=ENV)
    found = json.loads(done.stdout)
    assert found["rows"] == pytest.approx(3 * 12 * 3600, rel=0.02), "one trade per second"
    assert (found["shards"], found["requests"]) == (3, 15), "pages of 10,000 rows"


def test_an_object_store_is_refused_with_what_it_is_for(sim: RunningSimulator) -> None:
    with pytest.raises(
        ConfigError, match=r"is an address; name a file or folder of this machine \(only a recorder fills"
    ):
        fill(sim, Path("s3://bucket/x"), "stocks.trades", ["AAPL"], *HOURS)
    assert not Path("s3:").exists()
