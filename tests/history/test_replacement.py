"""Stored rows that are fetched again are replaced in one commit: a reader or a kill sees the old or the new."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from mdstream.errors import StoreError
from mdstream.history.backfill import Backfill
from mdstream.history.executor import PagePool
from mdstream.history.ledger import Ledger
from mdstream.history.request import make_request
from mdstream.history.staging import Staging
from mdstream.settings import from_mapping
from mdstream.store.replacement import OldRows, replace_rows
from mdstream.store.table import StoreTable
from mdstream.streams import STREAMS
from tests.forking import get_fork_context
from tests.history.service import Answer, Query, Service, bar, fill, serve, trade
from tests.history.test_gaps import read
from tests.running import HANGING_S

DAYS = ("2026-01-05", "2026-01-06")
SYMBOLS = ["AAPL", "BRK.B", "MSFT"]
ROWS = 3

PLACES: dict[str, Any] = {
    "add_files": Ledger,
    "begin_commit": Ledger,
    "add_new_columns": "mdstream.store.table",
    "replace_rows": "mdstream.store.table",
    "_write": "mdstream.store.replacement",
    "create_write_transaction": DeltaTable,
    "finish_commit": Ledger,
    "drop": Staging,
}
"""Functions that replace rows, and where they are."""


def answer_at(price: list[float]) -> Answer:
    """Return an answer with some trades of each day, at the price of the moment."""

    def answer(path: str, query: Query) -> Any:
        day, symbol = query["start"][:10], query["symbols"]
        if path.endswith("/bars"):
            rows = [bar(f"{each}T05:00:00Z", count=ROWS + 1) for each in DAYS]
            rows = [row for row in rows if query["start"] <= row["t"] <= query["end"]]
            return {"bars": {symbol: rows}, "next_page_token": None}
        rows = [trade(f"{day}T15:00:0{second}Z", second, price[0]) for second in range(ROWS)]
        return {"trades": {symbol: rows}, "next_page_token": None}

    return answer


def check_whole(rows: pl.DataFrame, prices: set[float]) -> None:
    """Check that each shard has all its rows, and they are of one time."""
    found = rows.group_by("symbol", "date").agg(pl.len(), pl.col("price").unique())
    assert found.height == len(SYMBOLS) * len(DAYS)
    assert found["len"].unique().to_list() == [ROWS]
    assert {price for [price] in found["price"].to_list()} <= prices


def die_at(url: str, store: Path, place: str, is_after: bool, more: dict[str, Any]) -> None:
    """Fetch rows again, and die at the first call of a function, or behind it."""
    module, name = PLACES[place], place
    holder = module if isinstance(module, type) else importlib.import_module(module)
    real = getattr(holder, name)

    def die(*given: Any, **named: Any) -> None:
        if is_after:
            real(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(holder, name, die)
    fill(Service(url), store, "stocks.trades", SYMBOLS[:2], *DAYS, **more)  # files have other rows, too


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("more", [{"refetch": "all"}, {"repair": True}], ids=["refetch", "repair"])
def test_a_kill_while_rows_are_replaced_leaves_the_old_ones_or_the_new_ones(
    more: dict[str, Any], place: str, is_after: bool, tmp_path: Path
) -> None:
    price = [1.0]
    with serve(answer_at(price)) as service:
        fill(service, tmp_path, "stocks.trades", SYMBOLS, *DAYS)
        price[0] = 2.0
        child = get_fork_context().Process(
            target=die_at, args=(service.url, tmp_path, place, is_after, more)
        )
        child.start()
        child.join(HANGING_S)
        assert child.exitcode == -signal.SIGKILL
        check_whole(read(tmp_path), {1.0, 2.0})
        fill(service, tmp_path, "stocks.trades", "TSLA", *DAYS)
        check_whole(read(tmp_path, symbols=SYMBOLS), {1.0, 2.0})
        fill(service, tmp_path, "stocks.trades", SYMBOLS[:2], *DAYS, **more)
        rows = read(tmp_path, symbols=SYMBOLS)
        check_whole(rows, {1.0, 2.0})
        assert set(rows.filter(pl.col("price") == 1)["symbol"]) == {"MSFT"}
    last = DeltaTable(tmp_path / "stocks.trades")
    removed = {each["remove"]["path"] for each in read_log(tmp_path) if "remove" in each}
    files = {Path(each).name for each in last.file_uris()} | {Path(each).name for each in removed}
    assert {each.name for each in tmp_path.rglob("*.parquet")} <= files, "nothing is left behind"


def read_log(store: Path) -> list[dict[str, Any]]:
    logs = sorted((store / "stocks.trades" / "_delta_log").glob("*.json"))
    return [orjson.loads(line) for each in logs for line in each.read_bytes().splitlines()]


def test_every_version_of_a_table_has_all_rows_while_they_are_replaced(tmp_path: Path) -> None:
    price, done, seen = [1.0], threading.Event(), []

    def follow() -> None:
        while not done.is_set():
            seen.append(read(tmp_path))

    with serve(answer_at(price)) as service:
        fill(service, tmp_path, "stocks.trades", SYMBOLS, *DAYS)
        folder = tmp_path / "stocks.trades"
        first = DeltaTable(folder).version()
        reader = threading.Thread(target=follow)
        reader.start()
        try:
            for price[0] in (2.0, 3.0):
                fill(service, tmp_path, "stocks.trades", SYMBOLS[:2], *DAYS, refetch="all")
        finally:
            done.set()
            reader.join()
    last = DeltaTable(folder).version()
    assert last >= first + 2 * len(DAYS)
    seen += [pl.scan_delta(folder, version=version).collect() for version in range(first, last + 1)]
    for rows in seen:
        check_whole(rows, {1.0, 2.0, 3.0})


def test_a_commit_that_is_under_way_ends_before_the_store_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun, ended = StoreTable.commit, threading.Event(), threading.Event()

    def commit(*given: Any) -> None:
        begun.set()
        time.sleep(0.3)
        real(*given)
        ended.set()

    async def cancel() -> None:
        config = from_mapping({"data_url": service.url}).backfill_settings
        request = make_request("stocks.trades", "AAPL", *DAYS, now=datetime.now(UTC), refetch="all")
        running = asyncio.ensure_future(Backfill(request, tmp_path, config, PagePool(0)).run())
        assert await asyncio.to_thread(begun.wait, HANGING_S)
        for _ in range(2):  # Ctrl-C twice
            running.cancel()
            await asyncio.sleep(0.05)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended.is_set()

    price = [1.0]
    with serve(answer_at(price)) as service:
        fill(service, tmp_path, "stocks.trades", "AAPL", *DAYS)
        price[0] = 2.0
        with monkeypatch.context() as patch:
            patch.setattr(StoreTable, "commit", commit)
            asyncio.run(cancel())
        assert read(tmp_path).height == ROWS * len(DAYS)
        fill(service, tmp_path, "stocks.trades", "AAPL", *DAYS, refetch="all")
    assert read(tmp_path)["price"].to_list() == [2.0] * ROWS * len(DAYS)


# -- which rows go


def make_table(folder: Path, rows: list[tuple[str, str, int]], groups: int) -> DeltaTable:
    """Write rows of (day, symbol, ns since 1970) to a table with several files and row groups."""
    frame = pl.DataFrame(rows, schema=["date", "symbol", "ns"], orient="row").with_columns(
        pl.col("date").str.to_date(),
        pl.from_epoch(pl.col("ns") // 1000, "us").dt.replace_time_zone("UTC").alias("ts"),
        (pl.col("ns") % 1000).cast(pl.Int16).alias("ts_ns"),
        pl.lit("sip").alias("feed"),
    )
    for part in range(groups):
        piece = frame.gather_every(groups, part)
        if piece.height:
            write_deltalake(folder, piece.to_arrow(), partition_by=["feed", "date"], mode="append")
    return DeltaTable(folder)


@pytest.mark.parametrize("seed", range(8))
def test_the_rows_of_replaced_shards_go_and_no_others(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    days, names = ("2026-01-05", "2026-01-06"), ["A", "AB", "B", "O'C", "*B", "Ä"]
    begin = 1_767_571_200_000_000_000
    times = [begin + chance.choice([0, 1, 999, 1000, 1001, 2000, 1_000_000_007]) + n for n in range(20)]
    rows = sorted(
        {(chance.choice(days), chance.choice(names), chance.choice(times)) for _ in range(60)},
        key=lambda row: row[1:],
    )
    old = []
    for _ in range(chance.randint(0, 5)):
        first, past = sorted(chance.sample(times, 2))
        partition = {"feed": "sip", "date": chance.choice(days)}
        old.append(OldRows(partition, chance.choice([*names, "C", "*"]), first, past))
    found = make_table(tmp_path, rows, 3)
    actions = replace_rows(found, tmp_path, "ts", old, "kept-1-")
    assert DeltaTable(tmp_path).version() == found.version(), "nothing changes before the commit"
    if actions:
        found.create_write_transaction(actions, "append", found.schema(), ["feed", "date"])
    left = pl.read_delta(str(tmp_path)).select(pl.col("date").cast(pl.String), "symbol", "ns").rows()
    gone = [
        row
        for row in rows
        if any(
            each.partition["date"] == row[0]
            and each.symbol in ("*", row[1])
            and each.first <= row[2] < each.past
            for each in old
        )
    ]
    assert sorted(left) == sorted(set(rows) - set(gone))
    files = pa.table(DeltaTable(tmp_path).get_add_actions()).to_pylist()
    for file in [each for each in files if "kept-1-" in each["path"]]:
        inside = pl.read_parquet(tmp_path / file["path"])
        assert file["num_records"] == inside.height > 0
        assert file["min"]["symbol"] <= inside["symbol"].min()  # type: ignore[operator]
        assert inside["symbol"].max() <= file["max"]["symbol"]  # type: ignore[operator]
        assert file["min"]["ts"] <= inside["ts"].min()  # type: ignore[operator]
        assert inside["ts"].max() <= file["max"]["ts"]  # type: ignore[operator]


def test_a_table_whose_file_is_gone_or_damaged_is_reported_and_keeps_its_rows(tmp_path: Path) -> None:
    channel = STREAMS["stocks"].by_name["trades"]
    with serve(answer_at([1.0])) as service:
        fill(service, tmp_path, "stocks.trades", SYMBOLS, DAYS[0], DAYS[0])
    folder = tmp_path / "stocks.trades"
    [file] = folder.glob("feed=*/*/*.parquet")
    [feed] = read(tmp_path)["feed"].unique()
    old = [OldRows({"feed": feed, "date": DAYS[0]}, "AAPL", 0, 1 << 62)]
    whole, version = file.read_bytes(), DeltaTable(folder).version()
    for damage in (lambda: file.write_bytes(whole[:100]), file.unlink):
        damage()
        with pytest.raises(StoreError, match=r"stocks\.trades cannot be written"):
            StoreTable(folder, channel, ["feed", "date"]).commit([], 2, old)
        assert DeltaTable(folder).version() == version
