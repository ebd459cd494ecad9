"""What a backfill says, and how it ends, if not all that was requested is in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mdstream
from tests.history.service import fill, serve, trade

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
