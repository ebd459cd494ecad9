"""A scan for symbols that a store knows nothing about is an error that names the nearest known ones."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

import mdstream
from mdstream.errors import ConfigError, NoStoreError, UnknownNameError
from mdstream.store.known_names import LEDGER
from mdstream.streams.spec import PayloadKind
from tests.running import simulator
from tests.store.test_catalogue import record

pytestmark = pytest.mark.cases("N10")
HOUR = ("2026-01-05T15:00:00Z", "2026-01-05T15:10:00Z")
TRADE = {"T": "t", "x": "V", "p": 1.5, "s": 1, "c": ["@"], "i": 1, "z": "C", "t": "2026-01-05T15:00:00Z"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetched trades of AAPL and MSFT, requested but absent ones of NONE, and recorded ones of others."""
    folder = tmp_path_factory.mktemp("store")
    settings = {"backfill": {"workers": 0}, "credentials": {"key_id": "k", "secret_key": "s"}}
    with simulator("--rate", "1") as sim:
        for dataset, symbols in (("stocks.trades", ["AAPL", "MSFT"]), ("news", ["*"])):
            mdstream.backfill(
                dataset, symbols, *HOUR, store=folder, settings=settings | {"data_url": sim.data_url}
            )
    with sqlite3.connect(folder / LEDGER) as ledger:
        ledger.execute(
            "INSERT INTO shard (dataset, variant, symbol, first, past, state) "
            "VALUES ('stocks.trades', 'iex', 'NONE', 0, 1, 'stored')"
        )
    ledger.close()
    payloads = [
        (orjson.dumps([TRADE | {"S": symbol}]), PayloadKind.JSON, 1) for symbol in ("A", "GME", "KO", "XOM")
    ]
    record(folder, payloads, folder / "rejects")
    return folder


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [("AAPLE", "AAPL"), (["AAPL", "MFST"], "MSFT"), ("gme", "GME"), ("KOO", "KO"), ("MSF", "MSFT")],
)
def test_an_unknown_symbol_is_an_error_that_names_the_nearest(
    store: Path, wanted: str | list[str], nearest: str
) -> None:
    with pytest.raises(UnknownNameError, match=f"{nearest!r}") as raised:
        mdstream.scan("stocks.trades", store, symbols=wanted)
    assert nearest in raised.value.nearest


def test_a_symbol_that_is_like_none_is_an_error_that_lists_some(store: Path) -> None:
    with pytest.raises(UnknownNameError, match="choose from A, AAPL, GME, KO, MSFT, XOM"):
        mdstream.scan("stocks.trades", store, symbols="ZZZ9")


@pytest.mark.parametrize("wanted", ["AAPL", "MSFT", "GME", "KO", "A", "XOM", ["A", "KO", "A*"]])
def test_a_symbol_with_rows_is_known(store: Path, wanted: str | list[str]) -> None:
    assert mdstream.scan("stocks.trades", store, symbols=wanted).collect().height > 0


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ("MSFTX*", "'MSFT'"),
        (["AAPL", "GM?"], ""),
        ("GMEE?", "'GME'"),
        ("AAPL[XY]", "'AAPL'"),
        ("*Q", "choose from A, AAPL, GME"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_nearest(
    store: Path, wanted: str | list[str], nearest: str
) -> None:
    if not nearest:
        assert mdstream.scan("stocks.trades", store, symbols=wanted).collect().height > 0
        return
    with pytest.raises(UnknownNameError, match=r"matches no symbol in stocks\.trades of ") as raised:
        mdstream.scan("stocks.trades", store, symbols=wanted)
    assert nearest in str(raised.value)
    assert mdstream.scan("stocks.trades", store, symbols=wanted, unknown="empty").collect().height == 0


@pytest.mark.parametrize("wanted", ["NONE", "NON*", ["AAPL", "N?NE"]])
def test_what_was_requested_without_rows_is_empty(store: Path, wanted: str | list[str]) -> None:
    found = mdstream.scan("stocks.trades", store, symbols=wanted).collect()
    assert set(found["symbol"]) <= {"AAPL"}


def test_articles_that_were_requested_for_all_symbols_may_name_none(store: Path) -> None:
    assert mdstream.scan("news", store, symbols=["ZZZZ", "ZZ*"]).collect().height == 0


def test_a_damaged_ledger_does_not_keep_a_scan_from_its_rows(tmp_path: Path) -> None:
    record(tmp_path, [(orjson.dumps([TRADE | {"S": "GME"}]), PayloadKind.JSON, 1)], tmp_path / "rejects")
    (tmp_path / LEDGER).parent.mkdir()
    (tmp_path / LEDGER).write_bytes(b"garbage" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / LEDGER).execute("SELECT 1 FROM shard")
    assert mdstream.scan("stocks.trades", tmp_path, symbols="GME").collect().height == 1
    with pytest.raises(UnknownNameError):
        mdstream.scan("stocks.trades", tmp_path, symbols="GMEE")


def test_an_unknown_dataset_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'stocks\.trades'"):
        mdstream.scan("stock.trades", tmp_path)
    with pytest.raises(UnknownNameError, match=r"did you mean 'stocks\.trades'"):
        mdstream.backfill("stocks.trade", "AAPL", *HOUR, store=tmp_path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with fetched bars of one feed, and recorded trades with corrections, of version 0.2."""
    source = Path(__file__).parents[1] / "data" / "0.2.0" / "store"
    return shutil.copytree(source, tmp_path_factory.mktemp("kept") / "store")


@pytest.mark.parametrize(
    ("kind", "nearest"),
    [
        ({"feed": "iexx"}, "iex"),
        ({"feed": "sipp"}, None),
        ({"timeframe": "1min"}, "1Min"),
        ({"timeframe": "1hour"}, None),
        ({"adjustment": "rw"}, "raw"),
        ({"adjustment": "spilt"}, None),
    ],
)
def test_a_feed_timeframe_or_adjustment_that_a_store_lacks_names_what_it_has(
    kept: Path, kind: dict[str, str], nearest: str | None
) -> None:
    (name,) = kind
    has = {"feed": "iex", "timeframe": "1Min", "adjustment": "raw"}[name]
    with pytest.raises(UnknownNameError, match=f"{name}: .*{has}") as raised:
        mdstream.scan("stocks.bars", kept, **kind)  # type: ignore[arg-type]
    assert nearest is None or nearest in raised.value.nearest
    assert mdstream.scan("stocks.bars", kept, **kind, unknown="empty").collect().height == 0  # type: ignore[arg-type]


def test_a_feed_that_is_only_recorded_or_was_requested_is_known(store: Path, kept: Path) -> None:
    with pytest.raises(UnknownNameError, match="sipp"):
        mdstream.scan("stocks.trades", store, feed="sipp")
    with sqlite3.connect(store / LEDGER) as ledger:
        ledger.execute(
            "INSERT INTO shard (dataset, variant, symbol, first, past, state) "
            "VALUES ('stocks.trades', 'otc', 'NONE', 0, 1, 'stored')"
        )
    ledger.close()
    assert mdstream.scan("stocks.trades", store, feed="otc").collect().height == 0
    assert mdstream.scan("stocks.trades", kept, feed="iex").collect().height


@pytest.mark.parametrize("dataset", ["stocks.trades", "stocks.bars"])
def test_a_start_later_than_the_end_is_an_error(kept: Path, dataset: str) -> None:
    with pytest.raises(ConfigError, match="start 2026-01-06 is not before end 2026-01-05"):
        mdstream.scan(dataset, kept, start="2026-01-06", end="2026-01-05")
    mdstream.scan(dataset, kept, start="2026-01-05", end="2026-01-05").collect()  # the whole day


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": None}, "dataset: None is not a name, such as 'stocks.trades'"),
        ({"start": 0}, "start: 0 is not a date or time"),
        ({"end": float("nan")}, "end: nan is not a date or time"),
        ({"symbols": [5]}, r"symbols: \[5\] is neither a symbol nor a list of symbols"),
        ({"symbols": 5}, "symbols: 5 is neither a symbol nor a list of symbols"),
        ({"symbols": b"AAPL"}, "symbols: b'AAPL' is neither a symbol"),
        ({"feed": ["iex"]}, r"feed: \['iex'\] is not a string"),
        ({"timeframe": {"1Min"}}, "timeframe: .* is not a string"),
        ({"timeframe": timedelta(seconds=1)}, "timeframe: no bars of the service have a length of 0:00:01"),
        ({"adjustment": 5}, "adjustment: 5 is not a string"),
        ({"amended": "no"}, "amended: 'no' is not True or False"),
        ({"unknown": "x"}, "unknown: 'x' is neither 'error' nor 'empty'"),
        ({"dataset": "stocks.reject"}, r"did you mean 'stocks\.rejects'"),
    ],
)
def test_an_argument_of_another_type_is_an_error_of_one_sentence(
    kept: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        mdstream.scan(**{"dataset": "stocks.bars", "store": kept, **arguments})


@pytest.mark.parametrize(
    ("dataset", "advice"),
    [
        ("options.rejects", "nothing that was fetched or recorded there was rejected$"),
        ("options.trades", "fetch some with mdstream backfill options.trades, or record some"),
        ("stocks.statuses", "no stocks.statuses in .*: record some with mdstream run --record$"),
    ],
)
def test_a_missing_dataset_is_an_error_that_says_how_to_get_it(
    tmp_path: Path, dataset: str, advice: str
) -> None:
    with pytest.raises(NoStoreError, match=advice):
        mdstream.scan(dataset, tmp_path)
