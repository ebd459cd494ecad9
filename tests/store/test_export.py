"""An export contains the rows that `scan` returns."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import mdstream
from tests import warm
from tests.simulator import test_replay

store = test_replay.store


def export(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run("mdstream", "export", *arguments)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("dataset", ["stocks.quotes", "news.articles", "crypto.bars"])
def test_a_file_has_the_rows(store: Path, tmp_path: Path, dataset: str, ending: str) -> None:
    to = tmp_path / f"out.{ending}"
    done = export(dataset, "--store", str(store), "--to", str(to))
    assert done.returncode == 0, done.stderr
    expected = mdstream.scan(dataset, store).collect()
    assert f"{expected.height:,} rows" in done.stdout
    found = pl.read_parquet(to) if ending == "parquet" else pl.read_csv(to)
    assert found.height == expected.height > 0
    assert found.columns == expected.columns
    time = "ts" if "ts" in found.columns else "created_at"
    if found[time].dtype == pl.String:
        found = found.with_columns(pl.col(time).str.to_datetime(time_unit="ns", time_zone="UTC"))
    times = found[time].dt.epoch("ns").sort()
    assert times.to_list() == expected[time].dt.epoch("ns").sort().to_list()


def test_symbols_and_times_are_chosen(store: Path, tmp_path: Path) -> None:
    to = tmp_path / "out.parquet"
    assert not export(
        "stocks.trades", "--store", str(store), "--to", str(to), "--symbols", "AAPL"
    ).returncode
    assert pl.read_parquet(to)["symbol"].unique().to_list() == ["AAPL"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.xls", "must end in"), ("there.csv", "--force"), ("no/x.csv", "does not exist")],
)
def test_what_cannot_be_written_is_reported(store: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "there.csv").write_text("mine")
    done = export("stocks.trades", "--store", str(store), "--to", str(tmp_path / name))
    assert done.returncode == 2
    assert message in done.stderr
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize("to", ["out.csv", "out.csv.gz", "out.parquet", "catalog"])
def test_a_disk_that_takes_no_more_is_reported_in_a_line(store: Path, tmp_path: Path, to: str) -> None:
    flags = ["--nautilus"] if to == "catalog" else []
    command = [sys.executable, "-m", "mdstream", "export", "stocks.quotes", "--store", str(store)]
    done = subprocess.run(
        [*command, "--to", str(tmp_path / to), *flags],
        capture_output=True,
        text=True,
        preexec_fn=_limit_file_size,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr
    assert not [path for path in tmp_path.glob("*") if path.is_file()]


@pytest.mark.parametrize("to", ["out.csv", "out.csv.gz", "out.parquet", "catalog"])
def test_a_replacement_that_fails_leaves_what_was_there(store: Path, tmp_path: Path, to: str) -> None:
    def find_files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    flags = ["--nautilus"] if to == "catalog" else []
    command = [sys.executable, "-m", "mdstream", "export", "stocks.quotes", "--store", str(store)]
    command += ["--to", str(tmp_path / to), *flags]
    subprocess.run(command, check=True, capture_output=True)
    before = find_files()
    done = subprocess.run([*command, "--force"], capture_output=True, preexec_fn=_limit_file_size)
    assert done.returncode == 1
    assert find_files() == before


def _limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
