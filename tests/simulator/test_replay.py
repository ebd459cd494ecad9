"""Replays of recorded data: any client receives it, and the engine makes the same frames from it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import uvloop
import websockets.sync.client

import mdstream
from mdstream.config import StoreConfig
from mdstream.recording.recorder import Recorder
from mdstream.simulator.replay.stored_range import StoredRange
from mdstream.streams import STREAMS
from tests import traffic
from tests.feed.test_pipeline import payloads
from tests.piping import rig
from tests.recording.test_recorder import mark_ended
from tests.running import HANGING_S, RunningSimulator, engine, server, settings, until
from tests.simulator.test_alpaca_py import Listener

COUNT = 3_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record some seconds of made-up traffic of every stream; return the store."""
    folder = tmp_path_factory.mktemp("replay")

    async def record(stream: str) -> None:
        async with rig(stream, 0, folder) as r:
            await r.feed(payloads(stream, COUNT, 3))
            await r.drain()
            mark_ended(r.run)
            await Recorder(r.run, StoreConfig(str(folder / "store"), workers=0)).run()

    for stream in STREAMS:
        uvloop.run(record(stream))
    return folder / "store"


@pytest.fixture(scope="module")
def replay_server(store: Path) -> Any:
    with server("replay", str(store), "--speed", "0") as running:
        yield running


_LEFT_OUT = ("recv_ts", "kind", "feed", "date", "year", "timeframe", "adjustment", "images", "update")


def make_comparable(frame: pl.DataFrame) -> pl.DataFrame:
    """Return sorted rows without columns that a replay cannot restore, such as the receive time."""
    left = frame.drop(_LEFT_OUT, strict=False)
    plain = left.with_columns(pl.col(pl.Categorical).cast(pl.String), pl.col(pl.UInt64).cast(pl.Int64))
    plain = plain.with_columns(pl.col(pl.List(pl.String)).list.join("\0"))
    return plain.sort(plain.columns)


@pytest.mark.parametrize("stream", list(STREAMS))
def test_the_engine_makes_the_same_frames_of_a_replay(
    store: Path, replay_server: RunningSimulator, tmp_path: Path, stream: str
) -> None:
    names = [f"{stream}.{c.name}" for c in STREAMS[stream].channels if c.types]
    stored = {
        name: make_comparable(mdstream.scan(name, store, amended=True).collect())
        for name in names
        if (store / "live" / name).exists()
    }
    values = settings(
        replay_server,
        tmp_path,
        streams=[stream],
        workers=0,
        **{stream: {"symbols": traffic.SYMBOLS[stream]}},
    )
    with engine(values) as running:
        run = running.attachment
        until(
            lambda: all(
                name in run.frames and run.rows(name) >= rows.height for name, rows in stored.items()
            )
        )
        for name, rows in stored.items():
            assert make_comparable(run.frame(name)).equals(rows), name
    assert running.report is not None
    report = running.report["streams"][stream]
    assert report["rejected"] == 0
    assert report["state"] == "stopped"


def test_alpaca_py_gets_all_of_it(store: Path, replay_server: RunningSimulator) -> None:
    pytest.importorskip("alpaca", reason="needs alpaca-py")
    listener = Listener("stocks", replay_server, raw=True)
    wanted = sum(
        mdstream.scan(f"stocks.{name}", store, amended=True).select(pl.len()).collect().item()
        for name in ("trades", "quotes", "bars", "statuses", "corrections", "cancels")
        if (store / "live" / f"stocks.{name}").exists()
    )
    until(lambda: len(listener.got) >= wanted)
    listener.settle()
    listener.stop()
    listener.join()
    assert len(listener.got) == wanted


def test_a_range_and_symbols_are_served_and_no_more(store: Path) -> None:
    quotes = mdstream.scan("stocks.quotes", store).collect().sort("ts")
    start, past = (quotes["ts"][i] for i in (500, 900))
    source = StoredRange(str(store), ["stocks"], start, past)
    found = [m for part in source.slices("stocks", {"quotes": ["*"]}) for m in part]
    # These bounds have only microseconds, like a datetime.
    expected = quotes.filter(pl.col("ts").is_between(start, past, closed="left"))
    assert [at for at, _ in found] == expected["ts"].dt.epoch("ns").to_list()
    one = [m for part in source.slices("stocks", {"quotes": ["AAPL"]}) for _, m in part]
    assert {m["S"] for m in one} == {"AAPL"}
    assert not list(source.slices("stocks", {"trades": []}))


def test_time_goes_as_it_did_or_faster(store: Path) -> None:
    trades = mdstream.scan("stocks.trades", store, amended=True).collect()["ts"].sort()
    span = (trades[-1] - trades[0]).total_seconds()
    speed = span / 1.5
    with server("replay", str(store), "--streams", "stocks", "--speed", str(speed)) as running:
        url = running.stream_url + "/v2/iex"
        with websockets.sync.client.connect(url, max_size=None) as socket:
            socket.recv()
            socket.send(orjson.dumps({"action": "auth", "key": "k", "secret": "s"}).decode())
            socket.recv()
            socket.send(orjson.dumps({"action": "subscribe", "trades": ["*"]}).decode())
            socket.recv()
            began, got = time.monotonic(), 0
            while got < len(trades):
                messages = orjson.loads(socket.recv(timeout=HANGING_S))
                got += sum(m["T"] == "t" for m in messages)
            taken = time.monotonic() - began
    assert taken > 1.2


def test_nothing_to_replay_is_reported(tmp_path: Path) -> None:
    with pytest.raises(mdstream.ConfigError, match="nothing to replay"):
        StoredRange(str(tmp_path), ["stocks"])
