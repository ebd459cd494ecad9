"""Settings of `mdstream backfill` and its function: flags override environment, which overrides file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mdstream
from mdstream.cli.app import app
from mdstream.cli.backfill_view import describe_progress, show_end
from mdstream.config import BackfillSettings
from mdstream.history.backfill import Backfill
from mdstream.history.request import make_request
from mdstream.history.status import Activity, Status
from mdstream.pool import ipc_names
from tests.history.service import Query, Refusal, serve
from tests.running import HANGING_S

START, END = "2026-01-05", "2026-01-05T06:00:00Z"
NOW = datetime(2026, 2, 1, tzinfo=UTC)
CLEAN = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s"}
FILE = "[backfill]\nconcurrency = 11\nworkers = 1\nbudget_per_minute = 3\n[fetch]\nbudget_per_minute = 9\n"


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[BackfillSettings]:
    """Collect the settings of each backfill instead of running it."""
    found: list[BackfillSettings] = []
    made: Any = Backfill.__init__

    def init(self: Backfill, request: Any, store: Path, config: BackfillSettings, *rest: Any) -> None:
        made(self, request, store, config, *rest)
        assert self._budget.share == config.budget_per_minute
        found.append(config)

    async def run(self: Backfill) -> Status:
        return Status()

    monkeypatch.setattr(Backfill, "__init__", init)
    monkeypatch.setattr(Backfill, "run", run)
    monkeypatch.setattr(ipc_names, "claim", lambda: None)  # the command runs in the process of the tests
    return found


def command(store: Path, *flags: str, start: str = START, end: str = END, **environ: str) -> Any:
    arguments = [
        "backfill",
        "stocks.trades",
        "--symbols",
        "AAPL,MSFT",
        "--start",
        start,
        "--end",
        end,
        "--store",
        str(store),
        *flags,
    ]
    return CliRunner().invoke(app, arguments, env={**CLEAN, **environ})


def test_file_yields_to_environment_and_environment_to_flags(
    configs: list[BackfillSettings], tmp_path: Path
) -> None:
    file = tmp_path / "m.toml"
    file.write_text(FILE)
    environ = {"MDSTREAM_BACKFILL__WORKERS": "0", "MDSTREAM_BACKFILL__CONCURRENCY": "12"}
    done = command(tmp_path, "--config", str(file), "--concurrency", "13", **environ)
    assert done.exit_code == 0, done.output
    [config] = configs
    assert (config.fetch.concurrency, config.workers, config.budget_per_minute) == (13, 0, 3)
    assert not config.learns_budget, "a budget from the settings is fixed"


def test_without_flags_the_environment_counts(configs: list[BackfillSettings], tmp_path: Path) -> None:
    environ = {"MDSTREAM_BACKFILL__WORKERS": "0", "MDSTREAM_FETCH__BUDGET_PER_MINUTE": "70"}
    assert command(tmp_path, **environ).exit_code == 0
    [config] = configs
    assert (config.fetch.concurrency, config.workers, config.budget_per_minute) == (128, 0, 70)
    assert config.learns_budget, "a budget that is not set is learned from the service"


def test_the_function_has_the_same_settings_as_the_command(
    configs: list[BackfillSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        **CLEAN,
        "MDSTREAM_BACKFILL__CONCURRENCY": "12",
        "MDSTREAM_BACKFILL__WORKERS": "0",
    }.items():
        monkeypatch.setenv(name, value)
    span = ("2026-01-05", "2026-01-05T06:00:00Z")
    mdstream.backfill("stocks.trades", "AAPL", *span, store=tmp_path)
    mdstream.backfill(
        "stocks.trades", "AAPL", *span, store=tmp_path, settings={"backfill": {"concurrency": 5}}
    )
    assert command(tmp_path).exit_code == 0
    assert [config.fetch.concurrency for config in configs] == [12, 5, 12]
    assert configs[0] == configs[2]


@pytest.mark.parametrize("name", ["BACKFILL", "FETCH"])
def test_an_estimate_is_made_at_the_budget_that_is_set(name: str, tmp_path: Path) -> None:
    environ = {f"MDSTREAM_{name}__BUDGET_PER_MINUTE": "5"}
    done = command(tmp_path, "--dry-run", end="2026-01-12", **environ)
    assert "12 shards to fetch: at least 12 requests, 84.0 s at 5 requests/min" in done.stdout
    assert (
        json.loads(command(tmp_path, "--dry-run", "--json", end="2026-01-12", **environ).stdout)["seconds"]
        == 84.0
    )


def test_a_limit_of_the_section_is_that_of_the_flag(tmp_path: Path) -> None:
    done = command(tmp_path, "--concurrency", "0")
    assert done.exit_code == 2
    assert "command line: backfill.concurrency: 0 is below the minimum of 1" in done.stderr


@pytest.mark.cases("S2", "S11")
def test_what_is_fetched_again_and_as_of_which_day_are_flags(tmp_path: Path) -> None:
    flags = ("--dry-run", "--refetch", "2026-01-05", "--repair", "--asof", "-", "--status", "all")
    done = command(tmp_path, *flags)
    assert done.exit_code == 0, done.output
    for flag, value in (("--refetch", "2025-01-05"), ("--asof", "soon"), ("--status", "dead")):
        done = command(tmp_path, "--dry-run", flag, value)
        assert done.exit_code == 2
        assert flag.removeprefix("--") in done.stderr


@pytest.mark.parametrize(
    ("flags", "environ", "feed"),
    [
        ([], {}, "iex"),
        (["--config", "m.toml"], {}, "otc"),
        (["--config", "m.toml"], {"MDSTREAM_STOCKS__FEED": "boats"}, "boats"),
        (["--feed", "sip"], {"MDSTREAM_STOCKS__FEED": "boats"}, "sip"),
    ],
)
def test_without_a_flag_the_data_feed_is_that_of_the_settings(
    flags: list[str], environ: dict[str, str], feed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.toml").write_text('[stocks]\nfeed = "otc"\n')
    symbols = ("--symbols", "AAPL", "--start", "2026-01-04", "--end", "2026-01-04")  # a Sunday
    arguments = ["backfill", "stocks.trades", *symbols, "--store", "s", "--dry-run", *flags]
    done = CliRunner().invoke(app, arguments, env={**CLEAN, **environ})
    assert f"{feed} has no session" in done.output


def test_a_closed_day_is_reported_as_such(tmp_path: Path) -> None:
    done = command(tmp_path, "--dry-run", start="2026-01-03", end="2026-01-04")
    assert "nothing to fetch, iex has no session in this range" in done.stdout


@pytest.mark.cases("I4")
@pytest.mark.parametrize(
    ("rows", "stored", "repeated", "line"),
    [
        (3, 2, 1, "2 rows stored in 1 file; 1 row left out that came again"),
        (3, 1, 2, "1 row stored in 1 file; 2 rows left out that came again"),
        (
            5,
            2,
            2,
            "2 rows stored in 1 file; 2 rows left out that came again; "
            "1 row fetched only, for the next run to store",
        ),
        (2, 2, 0, "2 rows stored in 1 file"),
        (0, 2, 1, "2 rows stored in 1 file; 1 row left out that came again"),
    ],
)
def test_rows_that_came_again_do_not_wait_for_the_next_run(
    capsys: pytest.CaptureFixture[str], rows: int, stored: int, repeated: int, line: str
) -> None:
    request = make_request("stocks.bars", ["AAPL"], "2026-01-05", "2026-01-05T15:02Z", now=NOW)
    status = Status(shards=1, rows=rows, stored=stored, repeated=repeated, files=1)
    show_end(request, status, False, None, as_json=False)
    assert capsys.readouterr().out.splitlines()[1].strip() == line


def test_while_requests_fail_the_progress_shows_tries_and_when_the_next_one_is(tmp_path: Path) -> None:
    tries = 0

    def answer(path: str, query: Query) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 4:
            raise Refusal(503, '{"message": "busy"}')
        return {"trades": {query["symbols"]: []}, "next_page_token": None}

    code = "import mdstream.cli.backfill_view as b; b._LINE_EVERY_S = 0.1\nfrom mdstream.cli import main; main()"
    arguments = [
        "backfill",
        "stocks.trades",
        "--symbols",
        "AAPL",
        "--start",
        START,
        "--end",
        END,
        "--store",
        str(tmp_path / "s"),
    ]
    with serve(answer) as service:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--data-url", service.url, "--workers", "0"],
            env={**os.environ, **CLEAN},
            capture_output=True,
            text=True,
            timeout=HANGING_S,
            check=False,
        )
    lines = [line for line in done.stderr.splitlines() if " shards, " in line]
    assert lines, done.stderr
    assert not [line for line in lines if " 0 requests" in line]
    assert [line for line in lines if re.search(r" [2-4] requests, 1 to be sent again in \d s$", line)]


def test_a_progress_bar_says_what_goes_on_between_two_pages() -> None:
    status, activity = Status(shards=4), Activity(7, 12.4, 3, 2.6)
    assert describe_progress(status, 5.0, activity) == (
        "0 rows, 0 rows/s, 7 requests, 3 to be sent again in 3 s, waiting 12 s for the request budget"
    )
    assert describe_progress(status, 5.0, Activity(1)) == "0 rows, 0 rows/s, 1 request"
