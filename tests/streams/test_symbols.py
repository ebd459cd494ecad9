"""A name with a character that no symbol has is refused wherever people give symbols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mdstream
from mdstream.cli.app import app
from mdstream.errors import ConfigError, UnknownNameError
from mdstream.frames.rundir import RunDirectory
from mdstream.reading.attach import Attachment
from mdstream.settings import load
from mdstream.simulator.markets import MARKETS
from mdstream.streams.symbols import why_no_symbol

WRONG = [
    "AAPL;MSFT",
    "AAPL MSFT",
    "AAPL|MSFT",
    "A,B",
    "'AAPL'",
    "[AAPL]",
    "AAPL\n",
    "A\\B",
    "\u00c4B",
    "A\x00",
]
RIGHT = [
    "AAPL",
    "BRK.B",
    "BAC.PRE",
    "BTC/USD",
    "BTC-PERP",
    "BTCUSDT.P",
    "AAPL261218C00230000",
    "004ESC040",
    "X+",
]


@pytest.mark.parametrize("name", [*RIGHT, *(s for market in MARKETS.values() for s in market.universe)])
def test_what_streams_have_is_a_symbol(name: str) -> None:
    assert not why_no_symbol(name)


@pytest.mark.parametrize("name", [*WRONG, "", "aapl"])
def test_settings_refuse_what_cannot_be_a_symbol(name: str) -> None:
    with pytest.raises(ConfigError, match=r"stocks\.symbols: .*(is not a symbol|is empty)"):
        load(environ={}, flags={"stocks": {"symbols": [name]}})


@pytest.mark.parametrize("name", WRONG)
def test_functions_refuse_what_cannot_be_a_symbol(name: str, tmp_path: Path) -> None:
    given: Any = {"store": tmp_path / "s", "settings": {"data_url": "http://127.0.0.1:9"}}
    if "[" not in name:  # in a backfill that is a pattern
        with pytest.raises(ConfigError, match="is not a symbol: none has"):
            mdstream.backfill("stocks.trades", name, "2026-01-05", "2026-01-05", **given)
    with RunDirectory() as directory:
        directory.describe(streams=["stocks"], symbols={"stocks": ["*"]})
        run = Attachment(directory.path)
        for look in (run.frame, run.tail):
            with pytest.raises(UnknownNameError, match=r"is not a symbol: none has|is a pattern"):
                look("stocks.trades", symbols=name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--streams", "stocks", "--symbols", "stocks=AAPL;MSFT", "--duration", "1"],
        [
            *("backfill", "stocks.trades", "--symbols", "AAPL;MSFT", "--start", "2026-01-05"),
            *("--end", "2026-01-05", "--store", "s", "--dry-run"),
        ],
    ],
    ids=lambda each: each[0],
)
def test_commands_refuse_what_cannot_be_a_symbol(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "'AAPL;MSFT' is not a symbol: none has ';'" in done.stderr
