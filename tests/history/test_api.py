"""`mdstream.backfill` in programs with and without an event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import mdstream
from mdstream.errors import ConfigError, UnknownNameError
from mdstream.history.status import Status
from mdstream.settings import from_mapping
from tests.history.service import Query, fill, serve
from tests.running import HANGING_S, simulator

INTERRUPTED = """
import asyncio, os, signal, threading
from mdstream.history.own_loop import run_blocking
cancelled = []
async def work():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        cancelled.append(True)
        raise
async def cell():
    run_blocking(work)
try:
    asyncio.new_event_loop().run_until_complete(cell())  # as a notebook does
except KeyboardInterrupt:
    print("interrupted", cancelled)
"""


@pytest.mark.cases("M9", "N2")
def test_a_backfill_runs_in_a_cell_of_a_notebook(tmp_path: Path) -> None:
    seen: set[str] = set()

    async def cell(data_url: str) -> Status:
        return mdstream.backfill(
            "stocks.bars",
            ["AAPL"],
            "2026-01-05",
            "2026-01-06",
            store=tmp_path,
            settings={"data_url": data_url, "backfill": {"workers": 1}},
            progress=lambda status: seen.add(threading.current_thread().name),
        )

    with simulator("--rate", "1") as sim:
        status = asyncio.run(cell(sim.data_url))
    assert status.complete
    assert status.stored > 0
    assert len(seen) == 1


@pytest.mark.cases("M9", "N2")
def test_an_error_of_a_backfill_reaches_the_cell(tmp_path: Path) -> None:
    async def cell() -> None:
        mdstream.backfill("stocks.nonsense", ["AAPL"], "2026-01-05", "2026-01-06", store=tmp_path)

    with pytest.raises(ConfigError):
        asyncio.run(cell())


@pytest.mark.cases("M9", "N2")
def test_an_interrupted_cell_ends_its_backfill() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=HANGING_S, check=False
    )
    assert done.stdout == "interrupted [True]\n", done.stderr


@pytest.mark.parametrize(
    ("name", "nearest"), [("adjustmnt", "adjustment"), ("fed", "feed"), ("setting", "settings")]
)
def test_an_unknown_option_of_a_backfill_is_an_error_that_names_the_nearest(
    name: str, nearest: str, tmp_path: Path
) -> None:
    given: Any = {"store": tmp_path / "store", name: "split"}
    message = f"backfill: '{name}' is not an option; did you mean '{nearest}'"
    with pytest.raises(UnknownNameError, match=message):
        mdstream.backfill("stocks.bars", "AAPL", "2026-01-05", "2026-01-05", **given)
    with pytest.raises(UnknownNameError, match=message):
        asyncio.run(mdstream.backfill_async("stocks.bars", "AAPL", "2026-01-05", "2026-01-05", **given))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"store": None}, "store: None is not a path"),
        ({"store": 5}, "store: 5 is not a path"),
        ({"settings": 5}, "settings: 5 is neither settings"),
        ({"settings": {"backfill": 5}}, "backfill is a section"),
        ({"progress": 5}, "progress: 5 is not a function"),
        ({"repair": "no"}, "repair: 'no' is neither true nor false"),
        ({"symbols": None}, "symbols: None is neither a symbol nor a list"),
        ({"symbols": 5}, "symbols: 5 is neither a symbol nor a list"),
        ({"start": None}, "start: None is not a date or time"),
        ({"dataset": None}, "dataset: None is not a name"),
        ({"dataset": "foo.bars", "symbols": "A*"}, "no history of 'foo.bars'"),
    ],
)
def test_a_wrong_argument_of_a_backfill_is_an_error_of_one_sentence(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    call: Any = {
        "dataset": "stocks.bars",
        "symbols": "AAPL",
        "start": "2026-01-05",
        "end": "2026-01-05",
        "store": tmp_path / "store",
        "settings": {"data_url": "http://127.0.0.1:9"},
    }
    with pytest.raises(ConfigError, match=message):
        mdstream.backfill(**call | given)
    assert not (tmp_path / "store").exists()


def test_a_backfill_without_a_store_is_an_error_of_one_sentence() -> None:
    with pytest.raises(ConfigError, match="store: the path is empty"):
        mdstream.backfill("stocks.bars", "AAPL", "2026-01-05", "2026-01-05")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "feed"),
    [({}, "sip"), ({"feed": None}, "sip"), ({"feed": ""}, "sip"), ({"feed": "iex"}, "iex")],
)
def test_a_backfill_takes_the_data_feed_of_the_settings_unless_one_is_given(
    given: dict[str, Any], feed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDSTREAM_STOCKS__FEED", "sip")
    monkeypatch.setenv("MDSTREAM_CRYPTO__FEED", "eu-1")

    def answer(path: str, query: Query) -> Any:
        return {"trades": {}, "next_page_token": None}

    with serve(answer) as service:
        fill(service, tmp_path, "stocks.trades", "AAPL", "2026-01-05", "2026-01-05", **given)
        fill(service, tmp_path, "crypto.trades", "BTC/USD", "2026-01-05", "2026-01-05")
    (_, stocks), (crypto, _) = service.requests
    assert stocks["feed"] == feed
    assert "/eu-1/" in crypto


def test_settings_of_a_backfill_are_those_of_an_engine(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"

    def answer(path: str, query: Query) -> Any:
        return {"trades": {}, "next_page_token": None}

    with serve(answer) as service:
        plain = {"data_url": service.url, "stocks": {"feed": "sip"}, "backfill": {"workers": 0}}
        file.write_text(f'data_url = "{service.url}"\n[stocks]\nfeed = "sip"\n[backfill]\nworkers = 0\n')
        for number, settings in enumerate((plain, file, from_mapping(plain))):
            mdstream.backfill(
                "stocks.trades",
                "AAPL",
                "2026-01-05",
                "2026-01-05",
                store=tmp_path / str(number),
                settings=settings,
                progress=None,
            )
    assert [query["feed"] for _, query in service.requests] == ["sip"] * 3
