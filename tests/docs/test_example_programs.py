"""The programs in examples/ run with a real engine that streams from the simulator."""

from __future__ import annotations

import ast
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import mdstream
from tests.docs.documents import ROOT
from tests.running import HANGING_S, until

PROGRAMS = sorted((ROOT / "examples").glob("*.py"))
MOST_LINES = 60


def find_program(name: str) -> Path:
    return ROOT / "examples" / f"{name}.py"


def run_until(name: str, *words: str, line: str, folder: Path) -> str:
    """Run a program until it shows `line` (a pattern), stop it with Ctrl-C, and return its output."""
    out = folder / "out"
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, find_program(name), *words], cwd=folder, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: re.search(line, out.read_text()) or process.poll() is not None, line)
        process.send_signal(signal.SIGINT)
        assert process.wait(HANGING_S) == 0, out.read_text()
    finally:
        process.kill()
        process.wait()
    text = out.read_text()
    assert re.search(line, text), text
    assert "Traceback" not in text
    return text


def run_to_end(name: str, *words: str, folder: Path) -> str:
    """Run a program that ends by itself, and return its output."""
    done = subprocess.run(
        [sys.executable, find_program(name), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANGING_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_is_short_and_says_what_it_shows_and_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < MOST_LINES
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert "It shows" in docstring
    assert "Run it" in docstring
    assert f"python examples/{path.name}" in docstring


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_an_error_of_the_user_is_one_clear_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise mdstream.NoRunError("no engine runs")

    for name in ("attach", "backfill"):
        monkeypatch.setattr(mdstream, name, fail, raising=False)
    monkeypatch.setattr(sys, "argv", [str(path), "2026-01-05", "2026-01-06", "bars.parquet", "AAPL"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(path), run_name="__main__")
    assert caught.value.code == f"{path.stem}: no engine runs"


def test_the_option_chain_of_an_unknown_underlying_says_what_to_do(
    running: mdstream.Engine, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, find_program("option_chain"), "NOPE"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search("no contracts of 'NOPE' .*; or add it to options.symbols$", done.stderr.strip())


def test_there_are_five_and_readers_find_them() -> None:
    assert len(PROGRAMS) == 5
    assert "](examples)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_spread_monitor_shows_spreads_of_stocks(running: mdstream.Engine, tmp_path: Path) -> None:
    text = run_until("spread_monitor", line=r"AAPL(.|\n)*MSFT|MSFT(.|\n)*AAPL", folder=tmp_path)
    assert "spread_bps" in text


def test_the_option_chain_has_calls_and_puts_with_greeks(running: mdstream.Engine, tmp_path: Path) -> None:
    until(lambda: running.attachment.chain("AAPL")["delta"].count(), "Greeks")
    text = run_to_end("option_chain", "AAPL", folder=tmp_path)
    assert "AAPL, expiry 20" in text
    assert all(name in text for name in ("call_mid", "call_delta", "put_delta", "put_vega"))


def test_the_imbalance_of_a_book_is_between_its_ends(running: mdstream.Engine, tmp_path: Path) -> None:
    text = run_until("book_imbalance", "BTC/USD", line=r"BTC/USD .* / .* [+-]\d\.\d\d", folder=tmp_path)
    values = [float(value) for value in re.findall(r" ([+-]\d\.\d\d) ", text)]
    assert values
    assert all(-1 <= value <= 1 for value in values)


def test_news_are_reported_with_prices(running: mdstream.Engine, tmp_path: Path) -> None:
    line = r"\d\d:\d\d:\d\d (new|updated) .*\[.*[A-Z]+ [\d,]+\.\d\d.*\]"
    run_until("news_alert", "AAPL", "MSFT", "NVDA", "SPY", line=line, folder=tmp_path)


def test_bars_of_a_universe_are_one_parquet_file(running: mdstream.Engine, tmp_path: Path) -> None:
    assert "MDSTREAM_DATA_URL" in os.environ
    words = ("2026-01-05", "2026-01-06", "bars.parquet", "AAPL", "MS*")
    assert "bars.parquet: bars of 1Hour" in run_to_end("bars_to_parquet", *words, folder=tmp_path)
    bars = pl.read_parquet(tmp_path / "bars.parquet")
    assert {"AAPL", "MSFT"} <= set(bars["symbol"])
    assert bars.select("symbol", "ts").equals(bars.select("symbol", "ts").sort("symbol", "ts"))
