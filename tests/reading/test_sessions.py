"""Readers keep the rows of some sessions of the market."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

import mdstream
from mdstream.errors import UnknownNameError
from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import RunDirectory, dictionary_path, frame_path
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.reading.attach import Attachment, attach
from mdstream.reading.filters import keep_sessions
from mdstream.streams.spec import PayloadKind
from tests.reading.test_reading import TRADES
from tests.store.test_catalogue import record

TIMES = {
    "2026-01-04T15:00:00+00:00": None,  # a Sunday
    "2026-01-05T08:00:00+00:00": "overnight",
    "2026-01-05T13:00:00+00:00": "pre",
    "2026-01-05T14:29:59+00:00": "pre",
    "2026-01-05T14:30:00+00:00": "regular",
    "2026-01-05T20:59:59+00:00": "regular",
    "2026-01-05T21:00:00+00:00": "post",
    "2026-07-06T13:30:00+00:00": "regular",  # an hour earlier in summer
    "2026-11-27T18:30:00+00:00": "post",  # of a half day
    "2026-12-25T15:00:00+00:00": None,
}
"""Times, and the session of each."""


def at(session: str) -> list[int]:
    return [number for number, name in enumerate(TIMES.values()) if name == session]


def make_run(directory: RunDirectory, stream: str, feed: str) -> Attachment:
    """Return a run with a trade at each time; its price is its number."""
    directory.describe(streams=[stream], feeds={stream: feed}, symbols={stream: ["A"]})
    DictionaryWriter(dictionary_path(directory.path, stream, "symbols")).add(["A"])
    writer = FrameWriter(
        frame_path(directory.path, f"{stream}.trades"), TRADES, Limits(64_000_000, 4_000_000)
    )
    times = np.array([int(datetime.fromisoformat(text).timestamp()) * 10**9 for text in TIMES])
    count = len(times)
    writer.append(
        [ColumnData(np.zeros(count, np.uint32)), ColumnData(times), ColumnData(np.arange(count) * 1.0)]
    )
    return attach(directory.run)


@pytest.fixture
def directory() -> Iterator[RunDirectory]:
    with RunDirectory() as run:
        yield run


@pytest.mark.parametrize("session", ["pre", "regular", "post"])
def test_rows_of_a_session(directory: RunDirectory, session: str) -> None:
    run = make_run(directory, "stocks", "sip")
    assert run.frame("stocks.trades", session=session)["price"].to_list() == at(session)


def test_rows_of_several_sessions_and_whatever_the_feed(directory: RunDirectory) -> None:
    run = make_run(directory, "stocks", "sip")
    both = run.frame("stocks.trades", session=["pre", "regular"], symbols="A")["price"].to_list()
    assert both == sorted(at("pre") + at("regular"))
    assert run.frame("stocks.trades", session="overnight")["price"].to_list() == at("overnight")
    assert run.lazy("stocks.trades", session="pre").collect()["price"].to_list() == at("pre")
    with pytest.raises(UnknownNameError, match="did you mean 'regular'"):
        run.frame("stocks.trades", session="regulär")


def test_a_market_that_never_closes_is_always_regular(directory: RunDirectory) -> None:
    run = make_run(directory, "crypto", "us")
    assert run.frame("crypto.trades", session="regular").height == len(TIMES)
    assert run.frame("crypto.trades", session="pre").height == 0


@pytest.mark.parametrize("feed", ["opra", "indicative", ""])
def test_the_session_of_a_row_follows_from_its_market_whatever_the_feed(
    directory: RunDirectory, feed: str
) -> None:
    run = make_run(directory, "options", feed)
    both = sorted([*at("regular"), 6])  # contracts on some funds trade until 16:15
    assert run.frame("options.trades", session="regular")["price"].to_list() == both
    assert run.frame("options.trades", session=["pre", "post", "overnight"]).is_empty()


def test_a_daily_bar_is_in_no_session() -> None:
    times = pl.Series("ts", [datetime(2026, 1, 5, 15, tzinfo=UTC)] * 2, pl.Datetime("ns", "UTC"))
    bars = pl.DataFrame({"ts": times, "kind": pl.Series(["minute", "daily"], dtype=pl.Categorical)})
    every = ["pre", "regular", "post", "overnight"]
    assert keep_sessions(bars, every, "stocks.bars")["kind"].to_list() == ["minute"]
    assert keep_sessions(bars, every, "crypto.bars").height == 2


def test_a_scan_of_a_session(tmp_path: Path) -> None:
    trade = {"T": "t", "S": "A", "x": "V", "p": 1.0, "s": 1, "c": ["@"], "z": "C"}
    messages = [{**trade, "i": number, "t": text} for number, text in enumerate(TIMES)]
    record(tmp_path, [(orjson.dumps(messages), PayloadKind.JSON, 1)], tmp_path / "rejects")
    for session in ("pre", "regular", "post", "overnight"):
        found = mdstream.scan("stocks.trades", tmp_path, session=session).collect()
        assert sorted(found["id"]) == at(session)
    some = mdstream.scan("stocks.trades", tmp_path, session=["pre", "post"], symbols="A")
    assert some.filter(pl.col("id") > 3).collect()["id"].sort().to_list() == at("post")
    with pytest.raises(UnknownNameError, match="session"):
        mdstream.scan("stocks.trades", tmp_path, session="night")
