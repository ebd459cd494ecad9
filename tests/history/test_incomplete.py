"""What a backfill says, and how it ends, if not all that was requested is in the store."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import mdstream
from mdstream.history.status import Status
from tests import warm
from tests.history.service import Query, Refusal, Service, bar, fill, serve, trade

DAY = "2026-01-05"
GOOD = [trade(f"{DAY}T15:00:0{number}Z", number) for number in range(2)]
BAD = [{**each, "p": "high"} for each in GOOD]


def answer_with(records: list[dict[str, Any]]) -> Any:
    return lambda path, query: {"trades": {query["symbols"]: list(records)}, "next_page_token": None}


@pytest.mark.cases("S2")
def test_a_refetch_that_brings_only_rejects_keeps_the_rows_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = list(GOOD)
    with serve(answer_with(records)) as service:
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY).complete
        records[:] = BAD
        done = fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, refetch="all")
    assert (done.rejected, done.empty) == (2, 0)
    assert (
        f"AAPL: 2 records of {DAY} were rejected, and no row is left; the stored ones stay" in caplog.text
    )
    assert "the service has no rows" not in caplog.text
    assert mdstream.scan("stocks.trades", tmp_path).collect().height == 2


@pytest.mark.cases("S2")
def test_a_day_of_rejects_alone_is_not_empty_and_is_asked_again(tmp_path: Path) -> None:
    records = list(BAD)
    with serve(answer_with(records)) as service:
        done = fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY)
        assert (done.rejected, done.empty) == (2, 0)
        records[:] = GOOD
        assert fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY).stored == 2


def test_rejects_that_come_again_are_rows_once_and_have_their_feed(tmp_path: Path) -> None:
    with serve(answer_with([*GOOD, *BAD])) as service:
        for _ in range(2):
            done = fill(service, tmp_path, "stocks.trades", "AAPL", DAY, DAY, feed="iex", refetch="all")
            assert done.rejected == 2
    assert mdstream.scan("stocks.rejects", tmp_path, feed="iex").collect().height == 2
    with pytest.raises(mdstream.UnknownNameError, match="feed: 'sip' has no row"):
        mdstream.scan("stocks.rejects", tmp_path, feed="sip")


# -- the end of the command


def run_command(service: Service, store: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    arguments = ["backfill", "stocks.trades", "--symbols", "AAPL,MSFT", "--start", DAY, "--end", DAY]
    place = ["--store", str(store), "--data-url", service.url, "--workers", "0"]
    return warm.run("mdstream", *arguments, *place, *flags)


def answer_some(path: str, query: Query) -> Any:
    """Answer with three trades of a symbol, one of them malformed; say that the day has four."""
    if path.endswith("bars"):
        rows = {"bars": {query["symbols"]: [bar(f"{DAY}T05:00:00Z", count=4)]}}
    else:
        rows = {"trades": {query["symbols"]: [*GOOD, BAD[0]]}}
    return {**rows, "next_page_token": None}


def answer_one(path: str, query: Query) -> Any:
    if query["symbols"] == "MSFT":
        raise Refusal(400, '{"message":"invalid symbol: MSFT"}')
    return answer_with(GOOD)(path, query)


@pytest.mark.parametrize(
    ("answer", "flags", "why"),
    [
        (answer_some, [], "2 records rejected"),
        (answer_one, [], "1 symbol failed"),
        (
            answer_some,
            ["--repair"],
            "2 records rejected, 2 days with fewer rows than the service's daily bars say",
        ),
    ],
)
def test_an_incomplete_backfill_ends_with_1_and_a_last_line_that_says_why(
    answer: Any, flags: list[str], why: str, tmp_path: Path
) -> None:
    with serve(answer) as service:
        done = run_command(service, tmp_path / "a", *flags)
        found = json.loads(run_command(service, tmp_path / "b", "--json", *flags).stdout)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == f"  incomplete (exit code 1): {why}"
    assert (found["complete"], found["incomplete"]) == (False, why)


def test_a_complete_backfill_ends_with_0_and_no_such_line(tmp_path: Path) -> None:
    with serve(answer_with(GOOD)) as service:
        done = run_command(service, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "incomplete" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (Status(shards=2, fetched=2), ""),
        (Status(shards=2, fetched=1), "1 shard not fetched"),
        (Status(shards=2, fetched=1, failed={"A": "x"}), "1 symbol failed"),
        (Status(short=1_000), "1,000 days with fewer rows than the service's daily bars say"),
    ],
)
def test_a_status_says_why_it_is_incomplete(status: Status, why: str) -> None:
    assert status.why_incomplete == why
    assert status.complete is (not why)


def test_the_last_line_names_the_exit_code_of_what_the_plan_excludes(tmp_path: Path) -> None:
    def answer(path: str, query: Query) -> Any:
        if query["symbols"] == "MSFT":
            raise Refusal(403, '{"message":"subscription does not permit querying OPRA data"}')
        return {"trades": {query["symbols"]: GOOD}, "next_page_token": None}

    with serve(answer) as service:
        done = run_command(service, tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "  incomplete (exit code 3): 1 symbol failed"
