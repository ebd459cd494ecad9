"""A store and a journal of version 0.2.0 are read and continued (`tests/data/0.2.0/README.md`)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import uvloop
from deltalake import DeltaTable

import mdstream
from mdstream.config import StoreConfig
from mdstream.reading.attach import Attachment
from mdstream.recording.recorder import Recorder
from mdstream.store.journal import read_entries
from mdstream.store.migration import migrate
from mdstream.streams import STREAMS as SPECS
from mdstream.streams.spec import PayloadKind
from tests.piping import Payload, rig
from tests.recording.test_recorder import mark_ended
from tests.running import simulator

DATA = Path(__file__).parents[1] / "data" / "0.2.0"
NOTED: dict[str, dict[str, Any]] = json.loads((DATA / "noted.json").read_bytes())
[JOURNAL] = (DATA / "journal").iterdir()
STREAMS = ("stocks", "options", "crypto", "news")
KEYS = {"key_id": "k", "secret_key": "s"}
T = "2026-11-30T20:00:00.000000007Z"
TRADE = {"T": "t", "S": "AAPL", "i": 7, "x": "D", "p": 100.5, "s": 10, "c": ["@"], "z": "C", "t": T}
LATER: dict[str, list[dict[str, Any]]] = {
    "stocks": [
        TRADE,
        {"T": "q", "S": "AAPL", "bx": "V", "bp": 1.5, "bs": 1, "ax": "V", "ap": 2.5, "as": 2, "c": ["R"]}
        | {"z": "C", "t": T},
        {
            "T": "c",
            "S": "AAPL",
            "x": "D",
            "oi": 7,
            "op": 100.5,
            "os": 10,
            "oc": ["@"],
            "ci": 8,
            "cp": 100.25,
        }
        | {"cs": 11, "cc": ["@"], "z": "C", "t": T},
        {"T": "x", "S": "AAPL", "i": 9, "x": "D", "p": 1.5, "s": 10, "a": "C", "z": "C", "t": T},
        {"T": "i", "S": "AAPL", "p": 100.5, "z": "C", "t": T},
    ],
    "crypto": [{"T": "t", "S": "BTC/USD", "p": 90000.5, "s": 0.25, "i": 7, "tks": "B", "t": T}],
    "options": [{"T": "t", "S": "AAPL261218C00230000", "p": 1.5, "s": 2, "x": "A", "c": "I", "t": T}],
    "news": [
        {"T": "n", "id": 1, "headline": "h", "summary": "", "author": "a", "content": "", "url": "u"}
        | {"source": "b", "symbols": ["AAPL"], "created_at": T, "updated_at": T}
    ],
}
"""Messages that a later version records into the same tables: one of each recorded channel."""
CHANNELS = {"t": "trades", "q": "quotes", "c": "corrections", "x": "cancels", "i": "imbalances"}


def digest(frame: pl.DataFrame, columns: dict[str, str]) -> str:
    """Return a digest of the rows, whatever their order, in the `columns` and types of 0.2.0."""
    values = [_plain(pl.col(name), kind) for name, kind in columns.items()]
    rows = frame.select(values).rows()
    return hashlib.sha256(json.dumps(sorted(rows, key=repr)).encode()).hexdigest()


def _plain(value: pl.Expr, kind: str) -> pl.Expr:
    if kind.startswith("Datetime"):
        return value.dt.epoch("ns")
    if kind.startswith("List"):
        return value.cast(pl.List(pl.String)).list.join("\0")
    return value.cast(pl.String if kind == "Date" else getattr(pl, kind))


def check_rows(frame: pl.DataFrame, name: str, table: str = "store") -> None:
    """Assert that `frame` has the rows that 0.2.0 returned."""
    noted = NOTED[table][name]
    assert frame.height == noted["rows"], name
    assert digest(frame, noted["columns"]) == noted["digest"], name


def scan_all(name: str, store: Path, **given: Any) -> pl.DataFrame:
    if name == "stocks.trades":  # cancelled ones too, which 0.2.0 did not leave out
        given["amended"] = True
    return mdstream.scan(name, store, **given).collect()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "store", tmp_path / "store"))


@pytest.mark.parametrize("name", sorted(NOTED["store"]))
def test_a_store_of_0_2_0_has_the_rows_that_it_had(store: Path, name: str) -> None:
    check_rows(scan_all(name, store), name)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_store_of_0_2_0_is_recorded_into(store: Path, tmp_path: Path, stream: str) -> None:
    messages = LATER[stream]
    recv_ns = int(pl.Series([T]).str.to_datetime(time_unit="ns", time_zone="UTC").dt.epoch("ns")[0])
    kind = PayloadKind.JSON

    async def go() -> None:
        async with rig(stream, 0, tmp_path) as r:
            await r.feed([(orjson.dumps([each]), kind, recv_ns + i) for i, each in enumerate(messages)])
            await r.drain()
            mark_ended(r.run)
            state = await Recorder(r.run, StoreConfig(str(store), workers=0)).run()
            assert (state.trouble, state.unstorable, state.missed) == ("", 0, 0)

    uvloop.run(go())
    for message in messages:
        name = f"{stream}.{CHANNELS.get(message['T'], 'articles')}"
        whole = scan_all(name, store)
        assert whole.height == NOTED["store"][name]["rows"] + 1
        # The time of an article is when it was received.
        check_rows(whole.filter(pl.col("recv_ts").dt.epoch("ns") < recv_ns), name)


def extend(
    store: Path, sim: Any, dataset: str, symbols: list[str], start: str, end: str
) -> tuple[int, pl.DataFrame]:
    """Fetch a range that is wider than the stored one; return the new rows' number, and its rows."""
    settings = {"data_url": sim.data_url, "credentials": KEYS, "backfill": {"workers": 0}}
    status = mdstream.backfill(dataset, symbols, start, end, store=store, settings=settings)
    assert status.complete
    return status.stored, scan_all(dataset, store, start=start, end=end)


EXTENDED = [
    ("stocks.trades", ["AAPL"], "2026-01-05T14:59:00Z", "2026-01-05T15:03:00Z"),
    ("stocks.quotes", ["AAPL"], "2026-01-05T14:59:00Z", "2026-01-05T15:03:00Z"),
    ("stocks.bars", ["AAPL"], "2026-01-05T14:59:00Z", "2026-01-05T16:00:00Z"),
    ("crypto.trades", ["BTC/USD"], "2026-01-05T14:59:00Z", "2026-01-05T15:03:00Z"),
    ("options.trades", ["AAPL261218C00230000"], "2026-01-05T14:59:00Z", "2026-01-05T15:03:00Z"),
    ("news.articles", ["AAPL"], "2026-01-05", "2026-01-06"),
]


@pytest.fixture(scope="module")
def sim() -> Iterator[Any]:
    with simulator("--seed", "29") as running:
        yield running


@pytest.mark.parametrize(("dataset", "symbols", "start", "end"), EXTENDED, ids=lambda each: str(each)[:14])
def test_a_backfill_of_0_2_0_is_extended(
    store: Path, tmp_path: Path, sim: Any, dataset: str, symbols: list[str], start: str, end: str
) -> None:
    before = scan_all(dataset, store, start=start, end=end)
    added, extended = extend(store, sim, dataset, symbols, start, end)
    fetched, fresh = extend(tmp_path / "fresh", sim, dataset, symbols, start, end)
    assert before.height
    assert added == fetched - before.height, "what was there is not fetched again"
    columns = {n: k for n, k in NOTED["store"][dataset]["columns"].items() if n != "recv_ts"}
    assert digest(extended, columns) == digest(fresh, columns)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_journal_of_0_2_0_becomes_the_same_rows(tmp_path: Path, stream: str) -> None:
    entries = list(read_entries(JOURNAL / stream))
    payloads: list[Payload] = [(e.payload, e.kind, e.recv_ns) for e in entries if e.kind.from_stream]

    async def go() -> None:
        async with rig(stream, 0, tmp_path) as r:
            await r.feed(payloads)
            await r.drain()
            assert r.state.read_committed()["rejected"] == 0
            run = Attachment(r.run)
            for name in NOTED["journal"]:
                if name.startswith(f"{stream}."):
                    check_rows(run.frame(name), name, "journal")

    uvloop.run(go())


@pytest.mark.cases("V2")
@pytest.mark.parametrize("name", ["live/stocks.quotes", "stocks.bars", "live/stocks.snapshots"])
def test_sizes_of_0_2_0_become_fractions_and_nothing_else_changes(store: Path, name: str) -> None:
    stream, _, rows = name.rpartition("/")[2].partition(".")
    channel, uri = SPECS[stream].row_channels[rows], str(store / name)
    before, state = pl.scan_delta(uri).collect(), DeltaTable(uri)
    assert migrate(state, channel)
    after = pl.scan_delta(uri).collect()
    changed = {n for n, kind in before.schema.items() if after.schema[n] != kind}
    assert {(before.schema[n], after.schema[n]) for n in changed} == {(pl.Int64, pl.Float64)}
    assert all(n.endswith(("size", "volume")) for n in changed)
    assert after.sort(before.columns).equals(before.cast(after.schema).sort(before.columns))
    assert (after.filter(symbol="AAPL").height, migrate(DeltaTable(uri), channel)) == (
        before.filter(symbol="AAPL").height,
        0,
    )


@pytest.mark.cases("V2")
def test_a_fraction_is_recorded_into_a_table_of_0_2_0(store: Path, tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            payload = orjson.dumps([{**TRADE, "s": 0.4213}])
            await r.feed([(payload, PayloadKind.JSON, 1_796_068_800_000_000_007)])
            await r.drain()
            mark_ended(r.run)
            await Recorder(r.run, StoreConfig(str(store), workers=0)).run()

    uvloop.run(go())
    sizes = scan_all("stocks.trades", store, symbols="AAPL", start="2026-11-30T20:00")["size"]
    assert sizes.to_list() == [0.4213]
