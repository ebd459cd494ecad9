"""A real day of IBM through simulator and engine: every event a row, and its bars equal a plain loop's."""

from __future__ import annotations

import csv
import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests import expected
from tests.running import HANGING_S, SHARED, engine, settings, simulator, until

DAY = SHARED / "data" / "ticks" / "ibm-2013-10-07.csv.gz"
pytestmark = pytest.mark.skipif(not DAY.is_file(), reason="needs ../shared/data/ticks")


def events() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trades and quotes of the file, read plainly."""
    trades, quotes = [], []
    with gzip.open(DAY, "rt", newline="") as file:
        for row in csv.DictReader(file):
            base = {"symbol": row["symbol"], "ts": int(row["ns"])}
            if row["kind"] == "t":
                base |= {
                    "price": float(row["price"]),
                    "size": int(row["size"]),
                    "exchange": row["exchange"],
                }
                trades.append(base)
                continue
            for side in ("bid", "ask"):
                price, size, exchange = (row[f"{side}_{what}"] for what in ("price", "size", "exchange"))
                absent = float(price) == 0
                base[f"{side}_price"] = None if absent else float(price)
                base[f"{side}_size"] = None if absent and int(size) == 0 else int(size)
                base[f"{side}_exchange"] = None if absent and not exchange.strip() else exchange
            quotes.append(base)
    return trades, quotes


def columns(frame: pl.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    coded = [pl.col(c).cast(pl.String) for c, t in frame.schema.items() if isinstance(t, pl.Categorical)]
    return frame.with_columns(pl.col("ts").to_physical(), *coded).select(names).to_dicts()


def check(rows: pl.DataFrame, plain: dict[tuple[str, int], dict[str, Any]]) -> None:
    assert len(rows) == len(plain)
    for row in rows.with_columns(pl.col("ts").to_physical()).iter_rows(named=True):
        b = plain[str(row["symbol"]), row["ts"]]
        prices = (row["open"], row["high"], row["low"], row["close"])
        assert prices == (b["open"], b["high"], b["low"], b["close"])
        assert (row["volume"], row["trade_count"]) == (b["volume"], b["n"])
        assert row["vwap"] == pytest.approx(float(b["pv"] / b["w"]), rel=1e-14)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_the_whole_day_arrives(tmp_path: Path, codec: str) -> None:
    trades, quotes = events()
    assert len(trades) + len(quotes) == 133_360
    flags = ("--ticks", str(DAY), "--speed", "0", "--messages-per-payload", "4")
    with simulator(*flags) as sim:
        stocks = {"symbols": ["IBM"], "codec": codec}
        with engine(settings(sim, tmp_path, streams=["stocks"], stocks=stocks)) as running:
            run = running.attachment
            until(lambda: run.rows("stocks.quotes") + run.rows("stocks.trades") >= 133_360)
            assert columns(run.frame("stocks.trades"), list(trades[0])) == trades
            assert columns(run.frame("stocks.quotes"), list(quotes[0])) == quotes
            # The server's own bars, made of the same trades by other code, are ours.
            beside = run.compare_bars("stocks")
            assert len(beside) > 380
            assert not beside.filter(pl.col("differing").list.len() > 0).height
            served = run.frame("stocks.bars")
            minutes, hours = run.frame("stocks.bars_1m"), run.bars("stocks", "1h")
            thousands = run.bars("stocks", "1000 trades")
            # The last bars come while the engine drains: follow them to the end.
            with ThreadPoolExecutor() as pool:
                bars = pool.submit(lambda: list(run.tail("stocks.bars_1m", from_start=True)))
                running.stop()
                rows = pl.concat(bars.result(HANGING_S))
    assert running.report is not None
    assert running.report["streams"]["stocks"]["committed"] == 133_360 + len(served)
    assert thousands["trade_count"].to_list() == [1000] * (len(trades) // 1000) + [len(trades) % 1000]
    until_then = [t for t in trades if t["ts"] < minutes["ts"].to_physical().max() + 60 * 10**9]
    check(hours, expected.bars(until_then, lambda trade: "all", 3600 * 10**9))
    plain = expected.bars(trades, lambda trade: "all")
    rows = rows.unique(["symbol", "ts"], keep="last")  # time alone may have ended one too early
    assert len(rows) > 390
    check(rows, plain)
