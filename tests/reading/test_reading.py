"""What readers can request from a run: parts of frames, SQL, tables of other libraries, future rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mdstream.errors import ConfigError, LagError, NoRunError, UnknownNameError
from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import RunDirectory, dictionary_path, frame_path
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.reading.attach import Attachment, attach
from mdstream.streams.spec import Column, Kind
from tests.running import HANGING_S

TRADES = (
    Column("symbol", Kind.SYMBOL, "S", required=True, dictionary="symbols"),
    Column("ts", Kind.TIME, "t", required=True),
    Column("price", Kind.FLOAT, "p"),
)
ARTICLES = (
    Column("created_at", Kind.TIME, "created_at", required=True),
    Column("headline", Kind.TEXT, "headline"),
    Column("symbols", Kind.SYMBOLS, "symbols", dictionary="symbols"),
)
NAMES = ["AAPL", "MSFT", "IBM"]
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


class Market:
    """A frame of trades: one per second, for each symbol in turn. The price is the number of the second."""

    def __init__(self, run: RunDirectory, limits: Limits) -> None:
        DictionaryWriter(dictionary_path(run.path, "stocks", "symbols")).add(NAMES)
        self.writer = FrameWriter(frame_path(run.path, "stocks.trades"), TRADES, limits)
        self.run: Attachment = attach(run.run)

    def trade(self, count: int) -> None:
        at = np.arange(self.writer.rows, self.writer.rows + count)
        self.writer.append(
            [
                ColumnData((at % 3).astype(np.uint32)),
                ColumnData(START + at * SECOND),
                ColumnData(at.astype(np.float64)),
            ]
        )


@pytest.fixture
def directory() -> Iterator[RunDirectory]:
    with RunDirectory() as run:
        run.describe()
        yield run


@pytest.fixture
def market(directory: RunDirectory) -> Market:
    return Market(directory, Limits(64_000_000, 4_000_000))


def get_prices(frame: Any) -> list[float]:
    return frame["price"].to_list()  # type: ignore[no-any-return]


def test_rows_of_some_symbols(market: Market) -> None:
    market.trade(10)
    assert get_prices(market.run.frame("stocks.trades", symbols="MSFT")) == [1, 4, 7]
    some = market.run.frame("stocks.trades", symbols=["AAPL", "IBM", "NEVER"])
    assert get_prices(some) == [0, 2, 3, 5, 6, 8, 9]


@pytest.mark.parametrize(
    "since",
    [
        START + 7 * SECOND,
        datetime.fromtimestamp(START / 1e9 + 7, UTC),
        datetime.fromtimestamp(START / 1e9 + 7, UTC).astimezone(),
        datetime.fromtimestamp(START / 1e9 + 7, UTC).isoformat(),
    ],
)
def test_rows_since_a_moment(market: Market, since: Any) -> None:
    market.trade(10)
    assert get_prices(market.run.frame("stocks.trades", since=since)) == [7, 8, 9]
    assert get_prices(market.run.frame("stocks.trades", since=since, symbols="MSFT")) == [7]


@pytest.mark.parametrize("days", [0, 1])
def test_a_date_is_its_midnight_in_utc(market: Market, days: int) -> None:
    market.trade(10)
    day = datetime.fromtimestamp(START / 1e9, UTC).date() + timedelta(days=days)
    for since in (day, day.isoformat()):
        assert market.run.frame("stocks.trades", since=since).height == (0 if days else 10)


def test_rows_since_so_long_ago(market: Market) -> None:
    market.trade(10)
    assert market.run.frame("stocks.trades", since=timedelta(hours=1)).height == 0
    ago = datetime.now(UTC) - datetime.fromtimestamp(START / 1e9 + 6.5, UTC)
    assert get_prices(market.run.frame("stocks.trades", since=ago)) == [7, 8, 9]


@pytest.mark.parametrize(
    ("since", "said"),
    [
        (datetime(2024, 1, 1), "has no time zone"),
        ("2024-01-01T00:00:00", "has no time zone"),
        ("yesterday", "yesterday"),
        (1.5, "give a datetime, a timedelta or nanoseconds"),
        (5, "since: 5 as nanoseconds since 1970 is before 2000; .*timedelta or a string"),
        (1_764_460_800, "before 2000"),
    ],
)
def test_a_moment_that_could_be_another_is_refused(market: Market, since: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        market.run.frame("stocks.trades", since=since)


def test_articles_of_a_symbol(directory: RunDirectory) -> None:
    DictionaryWriter(dictionary_path(directory.path, "news", "symbols")).add(NAMES)
    writer = FrameWriter(
        frame_path(directory.path, "news.articles"), ARTICLES, Limits(64_000_000, 4_000_000)
    )
    text = np.frombuffer(b"onetwothree", np.uint8)
    writer.append(
        [
            ColumnData(START + np.arange(3) * SECOND),
            ColumnData(np.array([3, 6, 11]), None, text),
            ColumnData(np.array([2, 2, 3]), None, np.array([0, 1, 1], np.uint32)),
        ]
    )
    run = attach(directory.run)
    assert run.frame("news.articles", symbols="MSFT")["headline"].to_list() == ["one", "three"]
    assert run.frame("news.articles", symbols=["IBM"]).height == 0
    assert run.frame("news.articles", since=START + SECOND)["headline"].to_list() == ["two", "three"]


def test_sql_over_frames_by_their_names(market: Market) -> None:
    market.trade(10)
    query = "select symbol, sum(price) as total from stocks.trades group by symbol order by total"
    answer = market.run.sql(query).with_columns(pl.col("symbol").cast(pl.String))
    assert answer.rows() == [("MSFT", 12.0), ("IBM", 15.0), ("AAPL", 18.0)]
    with pytest.raises(UnknownNameError, match=r"no frame 'stocks\.trade' .*'stocks\.trades'") as raised:
        market.run.sql("select * from stocks.trade")
    assert raised.value.nearest[0] == "stocks.trades"
    with pytest.raises(pl.exceptions.PolarsError):
        market.run.sql("select nothing from stocks.trades")
    assert market.run.lazy("stocks.trades").select(pl.col("price").max()).collect().item() == 9


def test_sql_takes_symbols_for_texts(market: Market, directory: RunDirectory) -> None:
    DictionaryWriter(dictionary_path(directory.path, "crypto", "symbols")).add(["IBM", "AAPL"])
    other = FrameWriter(frame_path(directory.path, "crypto.trades"), TRADES, Limits(64_000_000, 4_000_000))
    other.append(
        [ColumnData(np.array([1], np.uint32)), ColumnData(np.array([START])), ColumnData(np.ones(1))]
    )
    market.trade(4)
    query = """select price from "stocks"."trades" where symbol like '%PL'"""
    assert get_prices(market.run.sql(query)) == [0, 3]
    query = (
        "select s.price from stocks.trades s join crypto.trades c on s.symbol = c.symbol order by s.price"
    )
    assert get_prices(market.run.sql(query)) == [0, 3]
    directory.close()
    assert get_prices(market.run.sql(query)) == [0, 3], "what was opened can still be looked at"


def test_threads_may_share_an_attachment(directory: RunDirectory) -> None:
    """Threads read while the writer adds chunks and symbols."""
    names = DictionaryWriter(dictionary_path(directory.path, "stocks", "symbols"))
    writer = FrameWriter(frame_path(directory.path, "stocks.trades"), TRADES, Limits(600_000, 64_000))
    run = attach(directory.run)
    stop = threading.Event()
    seen: list[int] = []
    failures: list[BaseException] = []

    def read(look: Any) -> None:
        try:
            while not stop.is_set():
                frame = look()
                if frame is None:
                    continue
                named = frame["symbol"].cast(pl.String).str.slice(1).cast(pl.Float64)
                assert (named == frame["price"]).all()
                seen.append(frame.height)
        except BaseException as error:
            failures.append(error)

    looks = [
        lambda: run.frame("stocks.trades"),
        lambda: run.frame("stocks.trades", since=START),
        run.tail("stocks.trades").poll,
    ]
    readers = [threading.Thread(target=read, args=(look,)) for look in looks * 2]
    for reader in readers:
        reader.start()
    start = 0
    while start < 40_000 or len(seen) <= 100:
        at = np.arange(start, start + 100)
        names.add([f"S{i}" for i in at])
        writer.append([ColumnData(at.astype(np.uint32)), ColumnData(START + at), ColumnData(at * 1.0)])
        time.sleep(0.001)
        start += 100
        assert not failures
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures


@pytest.mark.parametrize("name", ["../stocks.trades", "stocks", "stocks.*", "", "stocks.trades/"])
def test_what_is_not_a_name_of_a_frame_is_not_a_frame(market: Market, name: str) -> None:
    with pytest.raises(KeyError, match=r"stocks\.trades"):
        market.run.frame(name)


def test_other_libraries_get_their_own_tables(market: Market) -> None:
    market.trade(10)
    table = market.run.arrow("stocks.trades")
    assert isinstance(table, pa.Table)
    assert table.column("price").to_pylist() == list(range(10))
    frame = market.run.pandas("stocks.trades")
    assert isinstance(frame, pd.DataFrame)
    assert frame["symbol"].tolist()[:4] == ["AAPL", "MSFT", "IBM", "AAPL"]
    assert frame["ts"].dt.tz is not None
    with market.run.duckdb() as connection:
        assert isinstance(connection, duckdb.DuckDBPyConnection)
        query = "select symbol, max(price) from stocks.trades group by all order by all"
        assert connection.sql(query).fetchall() == [("AAPL", 9.0), ("IBM", 8.0), ("MSFT", 7.0)]


def test_a_tail_of_some_symbols_in_small_pieces(market: Market) -> None:
    tail = market.run.tail("stocks.trades", symbols="AAPL", max_rows=5)
    market.trade(12)
    pieces = [tail.poll() for _ in range(4)]
    assert [get_prices(p) if p is not None else None for p in pieces] == [[0, 3], [6, 9], None, None]
    assert tail.missed == 0


def test_a_tail_that_lags_drops_the_oldest_and_counts(market: Market) -> None:
    tail = market.run.tail("stocks.trades", max_lag=4)
    market.trade(4)
    assert get_prices(tail.poll()) == [0, 1, 2, 3]
    market.trade(10)
    assert get_prices(tail.poll()) == [10, 11, 12, 13]
    assert tail.missed == 6


def test_a_tail_that_lags_says_so_if_it_is_to(market: Market) -> None:
    tail = market.run.tail("stocks.trades", max_lag=4, on_lag="raise")
    market.trade(4)
    assert get_prices(tail.poll()) == [0, 1, 2, 3]
    market.trade(5)
    with pytest.raises(LagError, match=r"stocks.trades: 5 rows behind, and 4 allowed"):
        tail.poll()
    with pytest.raises(ConfigError, match="on_lag"):
        market.run.tail("stocks.trades", on_lag="block")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_rows", "max_lag", "poll_s"])
def test_a_tail_cannot_follow_by_less_than_nothing(market: Market, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: -1 is negative; give 0 or more"):
        market.run.tail("stocks.trades", **{name: -1})  # type: ignore[arg-type]


def test_a_tail_since_a_time_says_how_to_read_earlier_rows(market: Market) -> None:
    with pytest.raises(ConfigError, match=r"from_start.*frame\(\.\.\., since="):
        market.run.tail("stocks.trades", since="5m")  # type: ignore[arg-type]


def test_a_row_that_is_yet_to_come_can_be_waited_for(market: Market) -> None:
    market.trade(5)
    later = threading.Timer(0.2, market.trade, (10,))
    later.start()
    found = market.run.wait_for("stocks.trades", pl.col("price") > 7, symbols="MSFT", timeout=HANGING_S)
    later.join()
    assert get_prices(found) == [10, 13]


def test_rows_of_a_frame_that_is_yet_to_come_can_be_waited_for(directory: RunDirectory) -> None:
    later = threading.Timer(0.2, lambda: Market(directory, Limits(64_000_000, 4_000_000)).trade(3))
    later.start()
    found = attach(directory.run).wait_for("stocks.trades", timeout=HANGING_S)
    later.join()
    assert get_prices(found) == [0, 1, 2]


def test_a_frame_that_never_comes_is_reported(market: Market) -> None:
    with pytest.raises(KeyError, match=r"no frame 'stocks.trade'.*did you mean 'stocks.trades'"):
        market.run.wait_for("stocks.trade")


def test_waiting_ends_with_its_time_or_with_the_run(market: Market, directory: RunDirectory) -> None:
    market.trade(5)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"stocks.trades had no such row within 0.2 s"):
        market.run.wait_for("stocks.trades", timeout=0.2)
    with pytest.raises(TimeoutError, match=r"within 0.2 s"):
        market.run.wait_for("stocks.quotes", timeout="200ms")
    with pytest.raises(TimeoutError, match=r"within 0.2 s"):
        market.run.wait_for("stocks.quotes", timeout=timedelta(seconds=0.2))
    with pytest.raises(ConfigError, match=r"timeout: '5x' is not a duration; write 5m, 90s"):
        market.run.wait_for("stocks.quotes", timeout="5x")
    assert time.monotonic() - started < HANGING_S
    directory.close()
    with pytest.raises(NoRunError, match="ended"):
        market.run.wait_for("stocks.trades", timeout=HANGING_S)


def test_a_notebook_shows_the_run_and_its_frames(market: Market, directory: RunDirectory) -> None:
    market.trade(1234)
    page = market.run._repr_html_()
    assert "running" in page
    assert "stocks.trades" in page
    assert "1,234" in page
    assert "symbol, ts, price" in page
    directory.close()
    assert "ended" in market.run._repr_html_()


def test_chunks_open_without_any_code_of_ours(market: Market, directory: RunDirectory) -> None:
    for _ in range(40):
        market.trade(500)
    head = market.writer.head
    sealed, live = head.chunk_path(head.end - 2), head.chunk_path(head.end - 1)
    start = head.entry(head.end - 1).start_row
    rows = head.rows - start  # the head has the number of rows; otherwise a live chunk is an ordinary file
    first = head.entry(head.end - 2).start_row

    whole = pl.read_ipc(sealed)
    assert get_prices(whole) == list(range(first, start))
    assert whole["symbol"].to_list()[:3] == [(first + i) % 3 for i in range(3)]
    assert get_prices(pl.read_ipc(live, n_rows=rows)) == list(range(start, head.rows))

    batch = pa.ipc.open_file(pa.memory_map(str(sealed))).get_batch(0)
    assert batch.column("price").to_pylist() == list(range(first, start))
    batch = pa.ipc.open_file(pa.memory_map(str(live))).get_batch(0).slice(0, rows)
    assert batch.column("price").to_pylist() == list(range(start, head.rows))

    table = pa.ipc.open_file(pa.memory_map(str(sealed))).read_all()
    query = "select count(*), min(price), max(price), count(distinct symbol) from table"
    with duckdb.connect() as connection:
        connection.register("trades", table)
        [found] = connection.sql(query.replace("table", "trades")).fetchall()
    assert found == (start - first, first, start - 1, 3)
