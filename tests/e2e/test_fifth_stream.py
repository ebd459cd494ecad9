"""A fifth stream, of a declaration, a market and two lines, goes every way that the other four go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

import mdstream
from mdstream.config import Config
from mdstream.store.journal import read_entries
from tests import expected, traffic
from tests.history.truth import records
from tests.running import HANGING_S, RunningSimulator, as_rows, engine, server, settings, simulator, until

NAME = "perps"
SYMBOLS = list(traffic.SYMBOLS[NAME])
COUNT = 4_000
CHANNELS = ("trades", "quotes", "bars", "orderbooks", "pricing")
START, END = "2026-01-05T14:00:00Z", "2026-01-05T14:30:00Z"


class Recorded:
    """What a run on the simulator left: its store and journal, what it was sent, and what readers saw."""

    def __init__(self, folder: Path) -> None:
        self.store, self.journal, self.sent_log = folder / "store", folder / "journal", folder / "sent"
        flags = ("--streams", NAME, "--rate", "0", "--messages", str(COUNT), "--messages-per-payload", "3")
        with simulator(*flags, "--sent-log", str(self.sent_log)) as sim:
            values = settings(
                sim,
                folder,
                streams=[NAME],
                workers=1,
                record=True,
                store={"path": str(self.store), "every_s": 0.5},
                journal=str(self.journal),
                **{NAME: {"symbols": SYMBOLS}},
            )
            with engine(values) as running:
                run = running.attachment
                rows = traffic.row_count(NAME, COUNT)
                until(lambda: traffic.committed_rows(run, NAME) >= rows)
                until(lambda: run.rows(f"{NAME}.snapshots") == len(SYMBOLS))
                self.frames = {c: as_rows(run.frame(f"{NAME}.{c}")) for c in (*CHANNELS, "snapshots")}
                self.latest = run.latest(NAME)
                self.book = run.book("BTC-PERP")
            self.payloads = sim.stats()["streams"][NAME]["payloads"]
        assert running.exit_code == 0
        assert running.report is not None
        self.report: dict[str, Any] = running.report

        lines = [orjson.loads(line)["message"] for line in self.sent_log.read_bytes().splitlines()]
        times = ("t", "ft")
        self.sent = [{k: nanoseconds(v) if k in times else v for k, v in m.items()} for m in lines]


def nanoseconds(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp(NAME))


@pytest.fixture(scope="module")
def sim() -> Any:
    with simulator("--streams", NAME) as running:
        yield running


def test_a_run_without_settings_does_not_serve_it() -> None:
    assert NAME not in Config().streams


def test_every_message_is_a_row(recorded: Recorded) -> None:
    rows = expected.rows(NAME, recorded.sent)
    assert set(rows) == set(CHANNELS)
    assert len(recorded.sent) == COUNT
    for channel in CHANNELS:
        assert recorded.frames[channel] == rows[channel], channel


def test_latest_books_and_snapshots_show_what_was_last(recorded: Recorded) -> None:
    last = {(m["T"], m["S"]): m for m in recorded.sent}
    for row in recorded.latest.with_columns(pl.col("symbol").cast(pl.String)).to_dicts():
        assert row["trade_price"] == last["t", row["symbol"]]["p"]
        assert row["quote_bid_price"] == last["q", row["symbol"]]["bp"]
    assert {row["symbol"] for row in recorded.frames["snapshots"]} == set(SYMBOLS)
    assert all(row["mark_price"] > 0 and row["next_funding_ts"] for row in recorded.frames["snapshots"])
    assert recorded.book["bid_price"][0] < recorded.book["ask_price"][0]
    assert recorded.book["level"].to_list() == list(range(1, recorded.book.height + 1))


def test_bars_are_built_here_and_recorded_with_everything_else(recorded: Recorded) -> None:
    bars = mdstream.scan(f"{NAME}.bars_1m", recorded.store).collect()
    trades = Counter(m["S"] for m in recorded.sent if m["T"] == "t")
    assert dict(bars.group_by("symbol").agg(pl.col("trade_count").sum()).iter_rows()) == trades
    for channel in CHANNELS:
        live = pl.read_delta(str(recorded.store / "live" / f"{NAME}.{channel}"))
        assert live.height == len(recorded.frames[channel])


def test_the_report_counts_it(recorded: Recorded, tmp_path: Path) -> None:
    found = recorded.report["streams"][NAME]
    assert (found["messages"], found["committed"], found["rejected"]) == (COUNT, COUNT, 0)
    assert found["symbols_failed"] == {}
    assert recorded.report["recorded"]["whole"] is True
    path = tmp_path / "report.json"
    path.write_text(json.dumps(recorded.report))
    assert NAME in mdstream_cli("report", str(path))


def test_its_journal_holds_every_payload_and_is_replayed(recorded: Recorded, tmp_path: Path) -> None:
    [folder] = recorded.journal.glob(f"*/{NAME}")
    streamed = [entry for entry in read_entries(folder) if entry.kind.from_stream]
    data = [m for entry in streamed for m in orjson.loads(entry.payload) if m["T"] in "tqbudop"]
    assert len(data) == COUNT
    with server("replay", "--journal", str(recorded.journal), "--speed", "0") as replayed:
        assert pricing_of(replayed, tmp_path, recorded) == recorded.frames["pricing"]


def test_its_store_is_replayed(recorded: Recorded, tmp_path: Path) -> None:
    with server("replay", str(recorded.store), "--streams", NAME, "--speed", "0") as replayed:
        assert pricing_of(replayed, tmp_path, recorded) == recorded.frames["pricing"]


def pricing_of(sim: RunningSimulator, folder: Path, recorded: Recorded) -> list[dict[str, Any]]:
    """The rows of `pricing` that an engine makes of a replay; their times are all different."""
    values = settings(sim, folder, streams=[NAME], workers=0, **{NAME: {"symbols": SYMBOLS}})
    with engine(values) as running:
        run = running.attachment
        until(lambda: run.rows(f"{NAME}.pricing") >= len(recorded.frames["pricing"]))
        return as_rows(run.frame(f"{NAME}.pricing"))


@pytest.mark.parametrize("what", ["trades", "bars"])
def test_its_history_is_fetched(sim: RunningSimulator, tmp_path: Path, what: str) -> None:
    pattern = ["--symbols", "BTC-*"]  # which the account API's list of assets resolves
    mdstream_cli(
        "backfill",
        f"{NAME}.{what}",
        *pattern,
        *("--start", START, "--end", END, "--store", str(tmp_path), "--workers", "1"),
        *("--data-url", sim.data_url),
    )
    found = mdstream.scan(f"{NAME}.{what}", tmp_path).collect().sort("ts")
    first, past = nanoseconds(START), nanoseconds(END)
    truth = records(NAME, what, "BTC-PERP", first, past, "1Min" if what == "bars" else "")
    assert found["ts"].cast(pl.Int64).to_list() == [record["t"] for record in truth]
    name, key = ("vwap", "vw") if what == "bars" else ("price", "p")
    assert found[name].to_list() == [record[key] for record in truth]


def mdstream_cli(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mdstream", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGING_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
