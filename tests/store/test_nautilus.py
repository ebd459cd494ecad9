"""Exports to NautilusTrader's catalogue: they have the same bytes that its own library writes.

`make test-nautilus` also reads an export with that library.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import mdstream
from mdstream.cli.app import app
from mdstream.errors import ConfigError
from mdstream.store import nautilus
from mdstream.store.query import parse_time
from mdstream.streams import STREAMS
from tests.history.test_backfill import fill
from tests.history.truth import records
from tests.running import simulator
from tests.store.test_sources import Source, make_rows

NS = 1_767_600_000_000_000_001
PYTHON = os.environ.get("NAUTILUS_PYTHON", "")


def make_trades(**columns: Any) -> pl.LazyFrame:
    """Return rows as `scan` returns them, with usual values for missing columns."""
    count = max(len(values) for values in columns.values())
    usual = {
        "feed": ["iex"] * count,
        "symbol": ["AAPL"] * count,
        "ts": [NS + i for i in range(count)],
        "price": [187.25] * count,
        "size": [100] * count,
        "id": [52_983_525_029_461] * count,
    }
    times = pl.col("ts").cast(pl.Datetime("ns", "UTC"))
    return pl.LazyFrame({**usual, **columns}).with_columns(times, times.dt.date().alias("date"))


def read_tables(catalog: Path, kind: str) -> dict[str, pa.Table]:
    """Return the files of a kind, by name."""
    return {
        f"{path.parent.name}/{path.name}": pq.ParquetFile(path).read()
        for path in sorted((catalog / "data" / kind).rglob("*.parquet"))
    }


def decode_numbers(column: pa.ChunkedArray) -> list[Decimal]:
    """Return the numbers that fixed-size integers represent."""
    return [Decimal(int.from_bytes(raw, "little", signed=True)).scaleb(-16) for raw in column.to_pylist()]


def test_a_trade_is_stored_as_the_library_stores_it(tmp_path: Path) -> None:
    found = nautilus.export("stocks.trades", make_trades(size=[100]), tmp_path, venue="XNAS")
    assert found == (1, 1, 1, 0)
    [(name, table)] = read_tables(tmp_path, "trade_tick").items()
    stamp = "2026-01-05T08-00-00-000000001Z"
    assert name == f"AAPL.XNAS/{stamp}_{stamp}.parquet"
    assert [(f.name, f.type, f.nullable) for f in table.schema] == [
        ("price", pa.binary(16), False),
        ("size", pa.binary(16), False),
        ("aggressor_side", pa.uint8(), False),
        ("trade_id", pa.string(), False),
        ("ts_event", pa.uint64(), False),
        ("ts_init", pa.uint64(), False),
    ]
    assert table.schema.metadata == {
        b"instrument_id": b"AAPL.XNAS",
        b"price_precision": b"4",
        b"size_precision": b"0",
    }
    # ParquetDataCatalog of NautilusTrader 1.221 wrote these bytes for the same trade.
    assert table.to_pylist() == [
        {
            "price": b"\x00@\xeb=\xd4t\xfc\x19\x00\x00\x00\x00\x00\x00\x00\x00",
            "size": b"\x00\x00d\xa7\xb3\xb6\xe0\r\x00\x00\x00\x00\x00\x00\x00\x00",
            "aggressor_side": 0,
            "trade_id": "52983525029461",
            "ts_event": NS,
            "ts_init": NS,
        }
    ]


@given(st.lists(st.decimals(0, 10**9, places=9), min_size=1, max_size=20), st.integers(0, 9))
def test_numbers_are_exact_to_their_decimals(values: list[Decimal], decimals: int) -> None:
    rounded = [round(v, decimals) for v in values]
    floats = [float(v) for v in rounded]
    step = Decimal(1).scaleb(-decimals)
    found = decode_numbers(pa.chunked_array([nautilus._to_integers(pl.Series(floats), decimals)]))
    for value, number in zip(floats, found, strict=True):
        assert number % step == 0
        assert abs(number - Decimal(value)) <= step / 2 + Decimal(abs(value)) * Decimal("2.3e-16")


def test_sizes_beyond_64_bits_are_exact() -> None:
    found = decode_numbers(pa.chunked_array([nautilus._to_integers(pl.Series([1.5e12, 2.0]), 9)]))
    assert found == [Decimal("1.5e12"), Decimal(2)]


def test_what_the_library_has_no_place_for_is_counted(tmp_path: Path) -> None:
    rows = make_trades(size=[100, 0, None, 5], price=[1.0, 2.0, 3.0, None])
    assert nautilus.export("stocks.trades", rows, tmp_path) == (1, 1, 1, 3)


def test_prices_that_need_more_decimals_have_them_and_the_instrument_too(tmp_path: Path) -> None:
    nautilus.export("stocks.trades", make_trades(price=[187.25]), tmp_path)
    finer = make_trades(price=[187.25, 187.123456])
    nautilus.export("stocks.trades", finer, tmp_path, force=True)
    [table] = read_tables(tmp_path, "trade_tick").values()
    assert table.schema.metadata[b"price_precision"] == b"6"
    assert decode_numbers(table["price"]) == [Decimal("187.25"), Decimal("187.123456")]
    [[equity]] = [t.to_pylist() for t in read_tables(tmp_path, "equity").values()]
    assert (equity["price_precision"], equity["price_increment"]) == (6, "0.000001")


def test_what_is_there_is_replaced_only_when_requested(tmp_path: Path) -> None:
    nautilus.export("stocks.trades", make_trades(size=[1, 2]), tmp_path)
    with pytest.raises(ConfigError, match=r"trade_tick/AAPL\.ALPACA exists; use --force"):
        nautilus.export("stocks.trades", make_trades(size=[3]), tmp_path)
    nautilus.export("stocks.trades", make_trades(size=[3]), tmp_path, force=True)
    [table] = read_tables(tmp_path, "trade_tick").values()
    assert decode_numbers(table["size"]) == [3]


@pytest.mark.parametrize("failing", ["write", "write_instrument"])
def test_what_is_there_stays_until_the_new_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def find_files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(*_: object) -> None:
        raise OSError("the disk is full")

    nautilus.export("stocks.trades", make_trades(size=[1, 2]), tmp_path)
    before = find_files()
    with monkeypatch.context() as patch:
        patch.setattr(nautilus, failing, refuse)
        with pytest.raises(OSError, match="full"):
            nautilus.export("stocks.trades", make_trades(size=[3]), tmp_path, force=True)
    assert find_files() == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    nautilus.export("stocks.trades", make_trades(size=[3]), tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_negative_sizes_of_quotes_and_bars_are_left_out(tmp_path: Path) -> None:
    sides = {"bid_price": [1.0] * 2, "ask_price": [2.0] * 2, "bid_size": [1, -1], "ask_size": [1, 1]}
    assert nautilus.export("stocks.quotes", make_trades(**sides), tmp_path) == (1, 1, 1, 1)
    prices = {name: [1.0] * 2 for name in ("open", "high", "low", "close")}
    kinds = {"timeframe": ["1Min"] * 2, "adjustment": ["raw"] * 2}
    assert nautilus.export("stocks.bars", make_trades(**prices, **kinds, volume=[-5, 5]), tmp_path) == (
        (1, 1, 1, 1)
    )


def test_rows_that_would_be_there_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"more than one feed \(iex, sip\): choose one, for example --feed"
    ):
        nautilus.export("stocks.trades", make_trades(feed=["sip", "iex"]), tmp_path)
    with pytest.raises(ConfigError, match="the store has no rows of"):
        nautilus.export("stocks.trades", make_trades(size=[1]).filter(False), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dataset", ["news", "news.articles", "crypto.orderbooks", "stocks.status"])
def test_what_has_no_class_there_is_reported(dataset: str) -> None:
    with pytest.raises(ConfigError, match="reads trades, quotes and bars"):
        nautilus.check(dataset)


# -- a store, through the command line


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    store, found = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("catalog")
    wanted = {
        "stocks.trades": ["AAPL", "MSFT"],
        "stocks.quotes": ["AAPL"],
        "stocks.bars": ["AAPL"],
        "crypto.trades": ["BTC/USD"],
        "crypto.quotes": ["BTC/USD"],
        "options.trades": ["AAPL261218C00230000"],
        "options.bars": ["AAPL261218C00230000"],
    }
    with simulator("--rate", "1") as sim:
        for dataset, symbols in wanted.items():
            assert fill(sim, store, dataset, symbols, *SPAN).complete
            done = CliRunner().invoke(
                app, ["export", dataset, "--store", str(store), "--to", str(found), "--nautilus"]
            )
            assert done.exit_code == 0, done.output
        yield found
    assert mdstream.scan("stocks.trades", store).collect().height


SPAN = ("2026-01-05T23:30:00Z", "2026-01-06T00:30:00Z")


def test_a_store_becomes_files_by_symbol_and_day(catalog: Path) -> None:
    names = list(read_tables(catalog, "trade_tick"))
    assert [name for name in names if name.startswith("AAPL.ALPACA/")] == [
        name
        for name in names
        if "AAPL.ALPACA/2026-01-05T23-30" in name or "AAPL.ALPACA/2026-01-06T00-00" in name
    ]
    assert len(names) == 2 * 4
    assert list(read_tables(catalog, "bar")) == [
        "AAPL.ALPACA-1-MINUTE-LAST-EXTERNAL/2026-01-05T23-31-00-000000000Z_2026-01-06T00-30-00-000000000Z.parquet",
        "AAPL261218C00230000.ALPACA-1-MINUTE-LAST-EXTERNAL/2026-01-05T23-31-00-000000000Z_2026-01-06T00-30-00-000000000Z.parquet",
    ]


def test_every_trade_is_there_as_the_service_said_it(catalog: Path) -> None:
    first, past = (parse_time(each, "") for each in SPAN)
    truth = list(records("stocks", "trades", "AAPL", first, past))
    found = pa.concat_tables(
        t for name, t in read_tables(catalog, "trade_tick").items() if name.startswith("AAPL.ALPACA/")
    )
    assert decode_numbers(found["price"]) == [Decimal(str(r["p"])) for r in truth]
    assert decode_numbers(found["size"]) == [Decimal(str(r["s"])) for r in truth]
    assert found["trade_id"].to_pylist() == [str(r["i"]) for r in truth]


@pytest.mark.skipif(not PYTHON, reason="needs NautilusTrader: make test-nautilus")
def test_nautilustrader_reads_all_of_it_and_runs_a_backtest(catalog: Path) -> None:
    script = Path(__file__).with_name("read_nautilus.py")
    done = subprocess.run(
        [PYTHON, "-P", str(script), str(catalog)], stdout=subprocess.PIPE, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    kinds = {
        kind: [line[1:] for line in lines if line[0] == kind]
        for kind in ("instrument", "trade", "quote", "bar", "backtest")
    }
    assert {(name, kind) for name, _, kind in kinds["instrument"]} == {
        ("AAPL.ALPACA", "Equity"),
        ("MSFT.ALPACA", "Equity"),
        ("BTC/USD.ALPACA", "CurrencyPair"),
        ("AAPL261218C00230000.ALPACA", "OptionContract"),
    }
    first, past = (parse_time(each, "") for each in SPAN)
    for stream, symbol in (
        ("stocks", "AAPL"),
        ("stocks", "MSFT"),
        ("crypto", "BTC/USD"),
        ("options", "AAPL261218C00230000"),
    ):
        truth = records(stream, "trades", symbol, first, past)
        read = [line for line in kinds["trade"] if line[0] == f"{symbol}.ALPACA"]
        assert [(Decimal(r[2]), Decimal(r[3])) for r in read] == [
            (Decimal(str(t["p"])), Decimal(str(t["s"]))) for t in truth
        ]
    for stream, symbol in (("stocks", "AAPL"), ("crypto", "BTC/USD")):
        truth = records(stream, "quotes", symbol, first, past)
        read = [line[2:] for line in kinds["quote"] if line[0] == f"{symbol}.ALPACA"]
        assert [[Decimal(text) for text in line] for line in read] == [
            [Decimal(str(q[key])) for key in ("bp", "bs", "ap", "as")] for q in truth
        ]
    for stream, symbol in (("stocks", "AAPL"), ("options", "AAPL261218C00230000")):
        truth = records(stream, "bars", symbol, first, past, "1Min")
        label = f"{symbol}.ALPACA-1-MINUTE-LAST-EXTERNAL"
        read = [line[1:] for line in kinds["bar"] if line[0] == label]
        assert [line[0] for line in read] == [bar["t"] + 60 * 1_000_000_000 for bar in truth]
        assert [[Decimal(text) for text in line[1:]] for line in read] == [
            [Decimal(str(bar[key])) for key in "ohlcv"] for bar in truth
        ]
    assert kinds["backtest"] == [[len(kinds["trade"]) + len(kinds["quote"])]]


UNFIT = [
    ({"ts": [-1, NS]}, "a time before 1970"),
    ({"ts": [-(2**63) + 1, NS]}, "a time before 1970"),
    ({"symbol": ["A\0B", "AAPL"]}, "a symbol that names no instrument"),
    ({"symbol": ["", "AAPL"]}, "a symbol that names no instrument"),
    ({"symbol": ["A B", "AAPL"]}, "a symbol that names no instrument"),
    ({"symbol": ["É", "AAPL"]}, "a symbol that names no instrument"),
    ({"symbol": ["A\\B", "AAPL"]}, "a symbol that names no instrument"),
    ({"symbol": ["A" * 300, "AAPL"]}, "a symbol that names no instrument"),
    ({"price": [1e-17, 187.25]}, "a price or size with too many decimals"),
    ({"price": [1e25, 187.25]}, "a number that is too large"),
    ({"price": [float("nan"), 187.25]}, "a number that is not finite"),
    ({"size": [10**18, 100]}, "a number that is too large"),
    ({"size": [0.4213, 100.0]}, "a fractional size (NautilusTrader's Equity has whole shares only)"),
    ({"size": [0, 100]}, "no size"),
    ({"size": [-1, 100]}, "a negative size (NautilusTrader has none)"),
    ({"price": [None, 187.25]}, "no price or no size"),
]


@pytest.mark.cases("V8")
@pytest.mark.parametrize(("columns", "reason"), UNFIT)
def test_a_row_that_the_library_cannot_represent_is_left_out_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, columns: dict[str, list[Any]], reason: str
) -> None:
    found = nautilus.export("stocks.trades", make_trades(**columns), tmp_path)
    assert found == (1, 1, 1, 1)
    assert f"stocks.trades: 1 rows are left out: {reason}" in caplog.text
    [table] = read_tables(tmp_path, "trade_tick").values()
    assert (decode_numbers(table["price"]), decode_numbers(table["size"])) == ([Decimal("187.25")], [100])


@pytest.mark.cases("V8")
def test_an_export_of_which_nothing_is_left_is_no_success(tmp_path: Path) -> None:
    rows = make_rows(STREAMS["stocks"].by_name["trades"], Source(False, "sip", None, [(5, 1)]))
    rows = rows.with_columns(pl.lit(0.5).alias("size"))
    store, catalog = tmp_path / "store", tmp_path / "catalog"
    write_deltalake(store / "stocks.trades", rows.to_arrow(), partition_by=["feed", "date"])
    flags = ["export", "stocks.trades", "--store", str(store), "--to", str(catalog), "--nautilus"]
    done = CliRunner().invoke(app, flags)
    assert (done.exit_code, "left out: 1 row that" in done.output) == (1, True)


@pytest.mark.cases("V8")
@pytest.mark.parametrize(
    ("dataset", "symbol", "price", "size"),
    [
        ("crypto.trades", "SHIB/USD", "4.12351E-10", "1"),
        ("crypto.trades", "SHIB/USD", "1E-16", "0.0000000000000001"),
        ("crypto.trades", "BTC/USD", "98312.123456789", "0.00000000012"),
        ("crypto.trades", "BTC/USD", "98312.1234567891", "1E-9"),
        ("stocks.trades", "AAPL", "187.123456789", "100"),
        ("stocks.trades", "AAPL", "1E-9", "100"),
        ("stocks.trades", "BRK.A", "731234.0001", "1"),
    ],
)
def test_small_and_long_numbers_are_exact(
    tmp_path: Path, dataset: str, symbol: str, price: str, size: str
) -> None:
    prices, sizes = [Decimal(price), Decimal("187.25")], [Decimal(size), Decimal(100)]
    rows = make_trades(symbol=[symbol] * 2, price=list(map(float, prices)), size=list(map(float, sizes)))
    assert nautilus.export(dataset, rows, tmp_path).left_out == 0
    [table] = read_tables(tmp_path, "trade_tick").values()
    assert decode_numbers(table["price"]) == prices
    assert decode_numbers(table["size"]) == sizes


@pytest.mark.cases("V8")
def test_an_option_without_a_contract_in_its_name_is_left_out(tmp_path: Path) -> None:
    rows = make_trades(symbol=["AAPL260231C00230000", "AAPL", "AAPL261218C00230000"])
    assert nautilus.export("options.trades", rows, tmp_path) == (1, 1, 1, 2)


@pytest.mark.cases("V8")
def test_symbols_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="A/B and AB have the same folder"):
        nautilus.export("stocks.trades", make_trades(symbol=["A/B", "AB"]), tmp_path)
    assert not list(tmp_path.iterdir())
